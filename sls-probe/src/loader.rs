//! Brings the BPF object into the kernel.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use libbpf_rs::{
    ErrorKind, Iter, Link, MapCore, MapFlags, MapHandle, Object, ObjectBuilder, OpenObject, PrintLevel, ProgramMut,
    TracepointCategory, set_print,
};

use crate::builder::ProbeBuilder;
use crate::cgroup;
use crate::container::Legacy;
use crate::error::{MAX_LOG_BYTES, ProbeError};
use crate::group::{Attach, GROUPS, Group, Hook, Wanted};
use crate::kernel::{self, Kernel};
use crate::points::Points;
use crate::probe::Probe;
use crate::protection::Protector;
use crate::tier;
use crate::tracefs;

/// A compiled object. libelf reads it where it is, and wants it aligned.
#[derive(Debug)]
#[repr(C, align(8))]
pub(crate) struct Aligned<T: ?Sized>(pub(crate) T);

/// How often programs are loaded again when the kernel was interrupted.
const LOAD_RETRIES: usize = 16;

/// The oldest kernel that the programs work on.
const OLDEST_KERNEL: (u32, u32) = (5, 10);

const TYPE_INFORMATION: &str = "/sys/kernel/btf/vmlinux";

/// The rings, in the order of `enum lane`.
pub(crate) const RINGS: [&str; 2] = ["process_ring", "activity_ring"];
pub(crate) const SHED: &str = "shed_kinds";
const BUDGETS: &str = "budgets";
pub(crate) const LOST: &str = "lost_records";
pub(crate) const DOZING: &str = "dozing";
const CONFIG: &str = ".rodata.config";

/// The maps that all objects have together.
#[derive(Debug, Default)]
pub(crate) struct SharedMaps(Vec<(&'static str, MapHandle)>);

impl SharedMaps {
    /// Those of the object that was loaded first, which made them.
    fn of(object: &Object, kernel_tier: bool) -> Result<Self, ProbeError> {
        let of_tier = tier::MAPS.into_iter().filter(|_| kernel_tier);
        let maps = RINGS
            .into_iter()
            .chain([LOST, DOZING, SHED, BUDGETS])
            .chain(of_tier)
            .map(|name| Ok((name, map_of(object, name)?)));
        maps.collect::<Result<_, _>>().map(Self)
    }

    /// Another handle of a map.
    pub(crate) fn get(&self, name: &'static str) -> Result<MapHandle, ProbeError> {
        let map = self.0.iter().find(|(shared, _)| *shared == name);
        let (_, map) = map.ok_or(ProbeError::Object { what: "map", name })?;
        MapHandle::try_from(map).map_err(|source| ProbeError::Map { map: name, source })
    }
}

/// The programs are in the kernel and verified; nothing is watched yet.
#[derive(Debug)]
pub struct LoadedProbe {
    pub(crate) settings: ProbeBuilder,
    pub(crate) objects: Vec<LoadedObject>,
    pub(crate) shared: SharedMaps,
    pub(crate) points: Points,
    pub(crate) protector: Option<Protector>,
}

impl LoadedProbe {
    pub(crate) fn load(settings: ProbeBuilder) -> Result<Self, ProbeError> {
        check_kernel()?;
        let wanted = Wanted { settings: &settings, family: settings.family };
        let (mut objects, mut shared) = (Vec::new(), SharedMaps::default());
        for group in GROUPS {
            let hooks = (group.hooks)(&wanted);
            if objects.is_empty() || !hooks.is_empty() {
                let object = LoadedObject::load(group, &hooks, &wanted, &shared)?;
                if objects.is_empty() {
                    shared = SharedMaps::of(&object.object, settings.kernel_tier)?;
                }
                objects.push(object);
            }
        }
        let mut points = Points::default();
        let prepared = points.prepare(&settings, &shared)?;
        points.replace(prepared, &settings);
        let wanted = Wanted { settings: &settings, family: settings.family };
        let protection = settings.self_protection.as_ref();
        let protector = protection.map(|protection| Protector::load(protection, &wanted, &shared)).transpose()?;
        Ok(Self { settings, objects, shared, points, protector })
    }

    /// Attaches the programs: from now on events are recorded, and wait in the ring until they are polled. The
    /// snapshot of running processes is taken after that, so no process falls between the two.
    ///
    /// # Errors
    /// When the kernel refuses to attach a program or to map the ring.
    pub fn attach(self) -> Result<Probe, ProbeError> {
        Probe::new(self)
    }
}

/// An object in the kernel. Dropping it detaches its programs.
#[derive(Debug)]
pub(crate) struct LoadedObject {
    links: Vec<(Hook, Link)>,
    pub(crate) group: &'static Group,
    pub(crate) object: Object,
    /// The programs that are in the kernel.
    pub(crate) loaded: Vec<Hook>,
}

impl LoadedObject {
    /// Loads the programs of `hooks` and sets their filters. Nothing is attached.
    pub(crate) fn load(
        group: &'static Group,
        hooks: &[Hook],
        wanted: &Wanted<'_>,
        shared: &SharedMaps,
    ) -> Result<Self, ProbeError> {
        let load = || {
            let mut open = ObjectBuilder::default().open_memory(&group.object.0)?;
            for mut program in open.progs_mut() {
                let name = program.name().to_owned();
                program.set_autoload(hooks.iter().any(|hook| name == hook.program));
            }
            configure(&mut open, wanted.settings, shared)?;
            (group.configure)(&mut open, wanted)?;
            open.load()
        };
        let object = match loaded(load) {
            Ok(object) => object,
            Err((source, _)) if source.kind() == ErrorKind::PermissionDenied => {
                return Err(ProbeError::NotPermitted { source });
            }
            Err((source, log)) => return Err(ProbeError::Load { object: group.name, source, log }),
        };
        (group.filter)(&object, wanted)?;
        Ok(Self { links: Vec::new(), group, object, loaded: hooks.to_vec() })
    }

    /// What attaches its programs.
    pub(crate) fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.iter().map(|(_, link)| link)
    }

    /// Whether all these are in the kernel.
    pub(crate) fn has(&self, hooks: &[Hook]) -> bool {
        hooks.iter().all(|hook| self.loaded.contains(hook))
    }

    /// Attaches the programs of `hooks` that are not attached, and detaches all others. The object comes back in any case.
    pub(crate) fn attach(mut self, hooks: Vec<Hook>) -> (Self, Result<(), ProbeError>) {
        tracefs::visible(move || {
            let mut result = Ok(());
            let scans = hooks.iter().filter(|hook| hook.attach == Attach::Scan);
            let others = hooks.iter().filter(|hook| !hook.is_iterator());
            for hook in others.chain(scans) {
                let offered = match hook.attach {
                    Attach::SystemCall(name) => tracefs::has_system_call(name),
                    _ => true,
                };
                if offered && result.is_ok() && !self.links.iter().any(|(linked, _)| linked == hook) {
                    result = self.link(*hook).map(|link| self.links.push((*hook, link)));
                }
            }
            if result.is_ok() {
                self.links.retain(|(linked, _)| hooks.contains(linked));
            }
            (self, result)
        })
    }

    /// Attaches one program.
    pub(crate) fn link(&self, hook: Hook) -> Result<Link, ProbeError> {
        let name = hook.program;
        let program = self.object.progs_mut().find(|program| program.name() == name);
        let program = program.ok_or(ProbeError::Object { what: "program", name })?;
        let link = match hook.attach {
            Attach::Section | Attach::Iterator => program.attach(),
            Attach::Scan => program.attach().and_then(|link| scan(&link).map(|()| link)),
            Attach::Cgroup => attach_to_root_cgroup(&program),
            Attach::SystemCall(name) => program.attach_tracepoint(TracepointCategory::Syscalls, name),
        };
        link.map_err(|source| ProbeError::Attach { program: name, source })
    }
}

/// A map of an object.
pub(crate) fn map_of(object: &Object, name: &'static str) -> Result<MapHandle, ProbeError> {
    let map = object.maps().find(|map| map.name() == OsStr::new(name));
    let map = map.ok_or(ProbeError::Object { what: "map", name })?;
    MapHandle::try_from(&map).map_err(|source| ProbeError::Map { map: name, source })
}

/// Sets an entry of a map.
pub(crate) fn set_entry(map: &MapHandle, name: &'static str, key: &[u8], value: &[u8]) -> Result<(), ProbeError> {
    map.update(key, value, MapFlags::ANY).map_err(|source| ProbeError::Map { map: name, source })
}

/// Sets what programs take for constant. An object without it does not ask.
pub(crate) fn set_constant(open: &mut OpenObject, name: &str, value: &[u8]) -> libbpf_rs::Result<()> {
    match open.maps_mut().find(|map| map.name() == name) {
        Some(mut map) => map.set_initial_value(value),
        None => Ok(()),
    }
}

/// Sets what all objects are told, and gives them the shared maps.
pub(crate) fn configure(open: &mut OpenObject, settings: &ProbeBuilder, shared: &SharedMaps) -> libbpf_rs::Result<()> {
    for mut map in open.maps_mut() {
        if let Some(lane) = RINGS.iter().position(|ring| map.name() == *ring) {
            map.set_max_entries(settings.lanes[lane].bytes)?;
        } else if map.name() == CONFIG {
            // `struct config` of bpf/record.h.
            let mut config = Vec::with_capacity(56);
            for lane in &settings.lanes {
                config.extend(lane.numbers().into_iter().flat_map(u64::to_le_bytes));
            }
            config.extend(u32::from(Kernel::running().exit_says_group_dead).to_le_bytes());
            config.extend(legacy_controller(settings).to_le_bytes());
            map.set_initial_value(&config)?;
        }
        if let Some((_, handle)) = shared.0.iter().find(|(name, _)| map.name() == *name) {
            map.reuse_fd(handle.as_fd())?;
        }
    }
    Ok(())
}

/// One more than the kernel's number of the controller whose hierarchy of version 1 is looked at; zero if there is none.
fn legacy_controller(settings: &ProbeBuilder) -> u32 {
    let legacy = Legacy::of_host().filter(|_| settings.containers);
    legacy.and_then(|legacy| Kernel::running().controller(legacy.controller)).map_or(0, |number| number + 1)
}

fn attach_to_root_cgroup(program: &ProgramMut<'_>) -> libbpf_rs::Result<Link> {
    let root = cgroup::root()?;
    program.attach_cgroup(root.as_raw_fd())
}

/// Has the kernel go through all that the iterator is about. It writes nothing.
fn scan(link: &Link) -> libbpf_rs::Result<()> {
    let mut iter = Iter::new(link)?;
    loop {
        match iter.read(&mut [0; 4096]) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            // The kernel wants to be asked again after a million tasks.
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The two commonest reasons to fail, which the kernel itself does not name.
pub(crate) fn check_kernel() -> Result<(), ProbeError> {
    let (release, version) = kernel::release();
    if version.is_some_and(|version| version < OLDEST_KERNEL) {
        return Err(ProbeError::KernelTooOld { release });
    }
    match fs::metadata(TYPE_INFORMATION) {
        Ok(_) => Ok(()),
        Err(source) => Err(ProbeError::NoTypeInformation { path: PathBuf::from(TYPE_INFORMATION), source }),
    }
}

/// What libbpf prints while the one loading thread holds [`LOADING`].
static LOG: Mutex<String> = Mutex::new(String::new());

/// libbpf has one printing function for the whole process.
static LOADING: Mutex<()> = Mutex::new(());

/// Loads an object as `load` does, again if the kernel was interrupted: the verifier gives up when a signal is pending, and
/// libbpf tries again a few times only.
pub(crate) fn loaded<T>(load: impl Fn() -> libbpf_rs::Result<T>) -> Result<T, (libbpf_rs::Error, String)> {
    let mut result = with_log(&load);
    for _ in 0..LOAD_RETRIES {
        match result {
            Err((ref error, _)) if error.kind() == ErrorKind::WouldBlock => result = with_log(&load),
            _ => break,
        }
    }
    result
}

/// Runs `load` and returns what libbpf printed along with an error, instead of having it on standard error.
pub(crate) fn with_log<T>(load: impl FnOnce() -> libbpf_rs::Result<T>) -> Result<T, (libbpf_rs::Error, String)> {
    let _guard = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    let previous = set_print(Some((PrintLevel::Info, keep)));
    let result = load();
    set_print(previous);
    let mut log = std::mem::take(&mut *LOG.lock().unwrap_or_else(PoisonError::into_inner));
    trim(&mut log);
    result.map_err(|error| (error, log))
}

fn keep(_level: PrintLevel, text: String) {
    let mut log = LOG.lock().unwrap_or_else(PoisonError::into_inner);
    log.push_str(&text);
    if log.len() > 4 * MAX_LOG_BYTES {
        trim(&mut log);
    }
}

fn trim(log: &mut String) {
    let mut from = log.len().saturating_sub(MAX_LOG_BYTES);
    while !log.is_char_boundary(from) {
        from += 1;
    }
    log.drain(..from);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_keeps_its_end() {
        let mut log = "é".repeat(MAX_LOG_BYTES) + "end";
        trim(&mut log);
        assert!(log.len() <= MAX_LOG_BYTES && log.ends_with("éend"));
    }
}

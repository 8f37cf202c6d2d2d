//! Brings the BPF object into the kernel.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use libbpf_rs::btf::types::{FuncProto, Typedef};
use libbpf_rs::{
    Btf, ErrorKind, Link, MapHandle, Object, ObjectBuilder, OpenObject, PrintLevel, ProgramMut, set_print,
};
use sls_core::EventKind;

use crate::builder::ProbeBuilder;
use crate::error::{MAX_LOG_BYTES, ProbeError};
use crate::probe::Probe;

/// The compiled programs. libelf reads them where they are, and wants them aligned.
static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!("../bpf/process.bpf.o"));

#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

/// The oldest kernel that the programs work on.
const OLDEST_KERNEL: (u32, u32) = (5, 10);

const TYPE_INFORMATION: &str = "/sys/kernel/btf/vmlinux";

pub(crate) const RING: &str = "ring";
pub(crate) const LOST: &str = "lost_records";
pub(crate) const DOZING: &str = "dozing";
const CONFIG: &str = ".rodata.config";
const ON_TASK: &str = "on_task";

/// The program that reports events of `kind` as they happen.
pub(crate) fn program_of(kind: EventKind) -> Option<&'static str> {
    match kind {
        EventKind::Exec => Some("on_exec"),
        EventKind::Fork => Some("on_fork"),
        EventKind::Exit => Some("on_exit"),
        _ => None,
    }
}

/// The programs are in the kernel and verified; nothing is watched yet.
#[derive(Debug)]
pub struct LoadedProbe {
    pub(crate) settings: ProbeBuilder,
    pub(crate) object: Object,
    /// Whether a process ends in one record for sure.
    pub(crate) exact_exits: bool,
}

impl LoadedProbe {
    pub(crate) fn load(settings: ProbeBuilder) -> Result<Self, ProbeError> {
        check_kernel()?;
        let exact_exits = settings.exit && exit_says_group_dead();
        let object = with_log(|| {
            let mut open = ObjectBuilder::default().open_memory(&OBJECT.0)?;
            configure(&mut open, &settings, exact_exits)?;
            open.load()
        });
        match object {
            Ok(object) => Ok(Self { settings, object, exact_exits }),
            Err((source, _)) if source.kind() == ErrorKind::PermissionDenied => {
                Err(ProbeError::NotPermitted { source })
            }
            Err((source, log)) => Err(ProbeError::Load { source, log }),
        }
    }

    /// Attaches the programs: from now on events are recorded, and wait in the ring until they are polled. The
    /// snapshot of running processes is taken after that, so no process falls between the two.
    ///
    /// # Errors
    /// When the kernel refuses to attach a program or to map the ring.
    pub fn attach(self) -> Result<Probe, ProbeError> {
        Probe::new(self)
    }

    pub(crate) fn map(&self, name: &'static str) -> Result<MapHandle, ProbeError> {
        let map = self.object.maps().find(|map| libbpf_rs::MapCore::name(map) == OsStr::new(name));
        let map = map.ok_or(ProbeError::Object { what: "map", name })?;
        MapHandle::try_from(&map).map_err(|source| ProbeError::Map { map: name, source })
    }

    /// A link for each program that is switched on; the iterator's is of its own.
    pub(crate) fn links(&self) -> Result<(Vec<Link>, Option<Link>), ProbeError> {
        let mut links = Vec::new();
        for kind in [EventKind::Exec, EventKind::Fork, EventKind::Exit] {
            let Some(name) = program_of(kind).filter(|_| watches(&self.settings, kind)) else { continue };
            links.push(self.program(name)?.attach().map_err(|source| ProbeError::Attach { program: name, source })?);
        }
        let snapshot = self
            .settings
            .snapshot
            .then(|| self.program(ON_TASK)?.attach().map_err(|source| ProbeError::Attach { program: ON_TASK, source }));
        Ok((links, snapshot.transpose()?))
    }

    fn program(&self, name: &'static str) -> Result<ProgramMut<'_>, ProbeError> {
        let mut programs = self.object.progs_mut();
        programs.find(|program| program.name() == name).ok_or(ProbeError::Object { what: "program", name })
    }
}

/// Whether events of `kind` are reported as they happen.
pub(crate) fn watches(settings: &ProbeBuilder, kind: EventKind) -> bool {
    match kind {
        EventKind::Exec => settings.exec,
        EventKind::Fork => settings.fork,
        EventKind::Exit => settings.exit,
        _ => false,
    }
}

/// The two commonest reasons to fail, which the kernel itself does not name.
fn check_kernel() -> Result<(), ProbeError> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
    let mut numbers = release.split(|byte: char| !byte.is_ascii_digit()).map(|number| number.parse::<u32>().ok());
    if let (Some(Some(major)), Some(Some(minor))) = (numbers.next(), numbers.next())
        && (major, minor) < OLDEST_KERNEL
    {
        return Err(ProbeError::KernelTooOld { release });
    }
    match fs::metadata(TYPE_INFORMATION) {
        Ok(_) => Ok(()),
        Err(source) => Err(ProbeError::NoTypeInformation { path: PathBuf::from(TYPE_INFORMATION), source }),
    }
}

fn configure(open: &mut OpenObject, settings: &ProbeBuilder, exact_exits: bool) -> libbpf_rs::Result<()> {
    for mut program in open.progs_mut() {
        let name = program.name().to_owned();
        let kinds = [EventKind::Exec, EventKind::Fork, EventKind::Exit];
        let watched = kinds
            .iter()
            .any(|kind| watches(settings, *kind) && program_of(*kind).is_some_and(|program| program == name));
        program.set_autoload(watched || name == ON_TASK && settings.snapshot);
    }
    for mut map in open.maps_mut() {
        if map.name() == RING {
            map.set_max_entries(settings.ring_bytes)?;
        } else if map.name() == CONFIG {
            // `struct config` of bpf/record.h.
            let mut config = [0; 16];
            config[..8].copy_from_slice(&u64::from(settings.ring_bytes / 8).to_le_bytes());
            config[8..12].copy_from_slice(&u32::from(exact_exits).to_le_bytes());
            map.set_initial_value(&config)?;
        }
    }
    Ok(())
}

/// Whether the tracepoint says that the last thread of a process ends (Linux 6.16). Before, the program has to look
/// at the count of live threads, which several threads that end at once can all see at zero.
fn exit_says_group_dead() -> bool {
    let Ok(btf) = Btf::from_vmlinux() else { return false };
    let Some(tracepoint) = btf.type_by_name::<Typedef<'_>>("btf_trace_sched_process_exit") else { return false };
    // A pointer to a function of (void *, struct task_struct *, bool).
    let function = tracepoint.next_type().and_then(|pointer| pointer.next_type());
    function.and_then(|function| FuncProto::try_from(function).ok()).is_some_and(|function| function.len() == 3)
}

/// What libbpf prints while the one loading thread holds [`LOADING`].
static LOG: Mutex<String> = Mutex::new(String::new());

/// libbpf has one printing function for the whole process.
static LOADING: Mutex<()> = Mutex::new(());

/// Runs `load` and returns what libbpf printed along with an error, instead of having it on standard error.
fn with_log<T>(load: impl FnOnce() -> libbpf_rs::Result<T>) -> Result<T, (libbpf_rs::Error, String)> {
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

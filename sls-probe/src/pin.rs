//! The kernel tier outlives its process: its links and what a later one has to know are files in bpffs.
//!
//! Each probe that pins has a directory of its own, `vLAYOUT-PID-START-TIME`, so that the programs of two can be in force side by
//! side while one takes over from the other.

mod error;
mod inherit;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use libbpf_rs::MapHandle;
use rustix::fs::statfs;

use crate::clock::BootTime;
use crate::loader::{LoadedObject, RINGS, SharedMaps, set_entry};
use crate::record;
use crate::tier::{self, KernelTier};

pub use error::PinError;
pub(crate) use inherit::{Inheritance, take_over};

/// Where the pins of a sensor usually are.
pub const DEFAULT_PIN_PATH: &str = "/sys/fs/bpf/sls";

/// The most decisions of a kernel tier that was alone that become events; others are counted only.
pub const MAX_INHERITED_EVENTS: usize = 4096;

/// What is pinned, and how it is laid out: what has another number is replaced, but not read.
const LAYOUT: u32 = 100 * record::VERSION as u32 + 1;

/// `BPF_FS_MAGIC` of the kernel's magic.h.
const BPFFS: i64 = 0xcafe_4a11;

const EXEC_PROGRAM: &str = "on_exec_decided";
const RING: &str = RINGS[0];
const REFUSALS: &str = "refuse";
const PINNED_MAPS: [&str; 3] = [RING, tier::NAMES, tier::AWAY];

/// A kernel tier that is pinned.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PinnedTier {
    /// Where.
    pub path: PathBuf,
    /// The process that pinned it, in the PID namespace of the pins' reader; none if its name does not say.
    pub pid: Option<u32>,
    /// Whether that process still runs.
    pub running: bool,
    /// Whether this version can tell what it did meanwhile.
    pub readable: bool,
    /// The programs that are pinned, and so in force.
    pub programs: Vec<String>,
}

/// What a process found that [took over](crate::Probe::take_over).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TakenOver {
    /// Kernel tiers that were pinned and are removed now.
    pub tiers: usize,
    /// What they did while they were alone, as far as it comes as events.
    pub told: u64,
    /// What they did that does not come as an event: by policies that are not loaded any more in that form, or more than
    /// [`MAX_INHERITED_EVENTS`].
    pub untold: u64,
    /// Matches on which they did not act: the allowance was used up, or a guard may protect the process.
    pub left_alone: u64,
    /// Decisions of which nothing is known, as their ring was full.
    pub lost: u64,
    /// Tiers of another version, of which nothing can be read.
    pub unreadable: usize,
}

impl KernelTier {
    /// The kernel tiers that are pinned below `path`.
    ///
    /// # Errors
    /// When it cannot be read, or is no directory of a BPF file system.
    pub fn pinned(path: impl AsRef<Path>) -> Result<Vec<PinnedTier>, PinError> {
        directories(path.as_ref())?.into_iter().map(PinnedTier::read).collect()
    }

    /// Removes everything that is pinned below `path`, whoever pinned it, and gives what that was. Programs that no process
    /// holds are out of force then. Where nothing is pinned there is nothing to do.
    ///
    /// # Errors
    /// When it cannot be removed, or is no directory of a BPF file system.
    pub fn unpin(path: impl AsRef<Path>) -> Result<Vec<PinnedTier>, PinError> {
        let path = path.as_ref();
        let pinned = Self::pinned(path)?;
        for tier in &pinned {
            tier.remove()?;
        }
        remove_base(path)?;
        Ok(pinned)
    }

    /// The same of those whose process has ended.
    ///
    /// # Errors
    /// As [`KernelTier::unpin`].
    pub fn unpin_left(path: impl AsRef<Path>) -> Result<Vec<PinnedTier>, PinError> {
        let mut pinned = Self::pinned(&path)?;
        pinned.retain(|tier| !tier.running);
        for tier in &pinned {
            tier.remove()?;
        }
        remove_base(path.as_ref())?;
        Ok(pinned)
    }
}

impl PinnedTier {
    fn read(path: PathBuf) -> Result<Self, PinError> {
        let mut programs = Vec::new();
        for entry in fs::read_dir(&path).map_err(PinError::io("read", &path))? {
            let entry = entry.map_err(PinError::io("read", &path))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !PINNED_MAPS.contains(&&*name) {
                programs.push(name);
            }
        }
        programs.sort();
        let owner = path.file_name().and_then(|name| name.to_str()).and_then(owner);
        let (layout, pid, start) = owner.map_or((None, None, None), |(l, p, s)| (Some(l), Some(p), Some(s)));
        let running = match pid {
            Some(pid) if pid == std::process::id() && start == start_of("self") => own().contains(&path),
            Some(pid) => start.is_some() && start == start_of(&pid.to_string()),
            None => false,
        };
        Ok(Self { path, pid, running, readable: layout == Some(LAYOUT), programs })
    }

    fn remove(&self) -> Result<(), PinError> {
        // Links first: what is left of a removal that is interrupted does nothing.
        let maps = PINNED_MAPS.iter().map(|name| (*name).to_owned());
        for name in self.programs.iter().cloned().chain(maps) {
            let file = self.path.join(name);
            match fs::remove_file(&file) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(PinError::io("remove", &file)(source));
                }
                _ => {}
            }
        }
        match fs::remove_dir(&self.path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(PinError::io("remove", &self.path)(source)),
            _ => Ok(()),
        }
    }
}

/// What this process has pinned. It stays when the process ends, whatever the end.
#[derive(Debug)]
pub(crate) struct Pins {
    directory: PathBuf,
    /// The ids of links, by program.
    links: BTreeMap<&'static str, u32>,
    away: MapHandle,
}

impl Pins {
    /// Pins what a later process has to know. The links come with [`Pins::update`].
    pub(crate) fn new(base: &Path, shared: &SharedMaps) -> Result<Self, PinError> {
        let parent = base.parent().unwrap_or(base);
        check_bpffs(parent)?;
        let start = start_of("self")
            .ok_or_else(|| PinError::io("read", Path::new("/proc/self/stat"))(io::ErrorKind::NotFound.into()))?;
        // A dot in a name is reserved there.
        let directory = base.join(format!("v{LAYOUT}-{}-{start}-{}", std::process::id(), BootTime::now()));
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&directory).map_err(PinError::io("make", &directory))?;
        own().insert(directory.clone());
        let pins = Self { directory, links: BTreeMap::new(), away: shared.get(tier::AWAY)? };
        for name in PINNED_MAPS {
            let path = pins.directory.join(name);
            let mut map = shared.get(name)?;
            map.pin(&path).map_err(|source| PinError::Pin { path, source })?;
        }
        Ok(pins)
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Pins the links that there are now, in place of those before. What was attached before and is not pinned any more goes
    /// out of force only now.
    pub(crate) fn update(&mut self, objects: &mut [LoadedObject]) -> Result<(), PinError> {
        let mut wanted = BTreeMap::new();
        for object in objects {
            let refusals = object.group.name == REFUSALS;
            for (hook, link) in object.links_mut().filter(|(hook, _)| refusals || hook.program == EXEC_PROGRAM) {
                let path = self.directory.join(hook.program);
                let id = link.info().map_err(|source| PinError::Pin { path: path.clone(), source })?.id;
                wanted.insert(hook.program, id);
                if self.links.get(hook.program) == Some(&id) {
                    continue;
                }
                if self.links.remove(hook.program).is_some() {
                    fs::remove_file(&path).map_err(PinError::io("remove", &path))?;
                }
                link.pin(&path).map_err(|source| PinError::Pin { path, source })?;
                self.links.insert(hook.program, id);
            }
        }
        for program in self.links.keys().filter(|program| !wanted.contains_key(*program)) {
            let path = self.directory.join(program);
            fs::remove_file(&path).map_err(PinError::io("remove", &path))?;
        }
        self.links = wanted;
        Ok(())
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        // `struct sensor_away`. If this process is killed, the program at its exit says it.
        let away = [1_u32, 0].map(u32::to_ne_bytes).concat();
        if let Err(error) = set_entry(&self.away, tier::AWAY, &0_u32.to_ne_bytes(), &away) {
            tracing::warn!(%error, "the kernel tier does not know that it is alone");
        }
        own().remove(&self.directory);
    }
}

/// The directories of the probes of this process that are there.
fn own() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    static OWN: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    OWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The directories of the pins; none if `base` is not there.
fn directories(base: &Path) -> Result<Vec<PathBuf>, PinError> {
    let entries = match fs::read_dir(base) {
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(PinError::io("read", base))?,
    };
    // Whoever names another directory by mistake shall not lose what is in it.
    check_bpffs(base)?;
    let mut paths = Vec::new();
    for entry in entries {
        let entry = entry.map_err(PinError::io("read", base))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// Others may have pinned something there in the same moment.
fn remove_base(base: &Path) -> Result<(), PinError> {
    match fs::remove_dir(base) {
        Err(source) if !matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
            Err(PinError::io("remove", base)(source))
        }
        _ => Ok(()),
    }
}

fn check_bpffs(path: &Path) -> Result<(), PinError> {
    let found = statfs(path).map_err(|errno| PinError::io("look at", path)(errno.into()))?;
    #[allow(clippy::useless_conversion)]
    if i64::try_from(found.f_type).ok().map(|magic| magic & 0xffff_ffff) == Some(BPFFS) {
        return Ok(());
    }
    Err(PinError::NoBpffs { path: path.to_owned() })
}

/// Layout, pid and start of the process that made a directory of this name.
fn owner(name: &str) -> Option<(u32, u32, u64)> {
    let numbers: Vec<u64> = name.strip_prefix('v')?.split('-').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let [layout, pid, start, _] = numbers[..] else { return None };
    Some((layout.try_into().ok()?, pid.try_into().ok()?, start))
}

/// When a process started, in the clock ticks of `/proc/PID/stat`; none if it has ended, or is about to.
fn start_of(pid: &str) -> Option<u64> {
    // `PF_EXITING` of the kernel's sched.h.
    const EXITING: u64 = 4;
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let behind_name = stat.iter().rposition(|byte| *byte == b')')? + 2;
    let fields: Vec<_> = std::str::from_utf8(stat.get(behind_name..)?).ok()?.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let ended = matches!(*fields.first()?, "Z" | "X") || number(6)? & EXITING != 0;
    if ended { None } else { number(19) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_who_pinned() {
        assert_eq!(owner("v501-77-123456-1"), Some((501, 77, 123_456)));
        for other in ["501-77-1-1", "v501-77-1", "v501-x-1-1", "v501-77-1-2-3", ""] {
            assert_eq!(owner(other), None, "{other}");
        }
    }

    #[test]
    fn a_process_that_ended_is_not_taken_for_running() {
        assert!(start_of("self").is_some());
        let mut child = std::process::Command::new("true").spawn().unwrap();
        while start_of(&child.id().to_string()).is_some() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert_eq!(start_of(&child.id().to_string()), None);
    }

    #[test]
    fn nothing_is_removed_from_another_file_system() {
        let directory = tempfile::tempdir().unwrap();
        let precious = directory.path().join("v501-1-1");
        fs::create_dir(&precious).unwrap();
        assert!(matches!(KernelTier::unpin(directory.path()), Err(PinError::NoBpffs { .. })));
        assert!(precious.exists());
        assert_eq!(KernelTier::unpin(directory.path().join("none")).unwrap(), []);
    }
}

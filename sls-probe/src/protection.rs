//! The sensor protects itself: what others would do to its process and its BPF objects is refused.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use libbpf_rs::query::LinkInfo;
use libbpf_rs::{Link, MapCore, MapFlags, MapHandle, MapInfo, Object, OpenObject, Program};
use sls_core::{EventKind, FieldSet, TamperingAttempt};

use crate::error::ProbeError;
use crate::group::{Group, Hook, Wanted, no_filter};
use crate::kernel;
use crate::loader::{Aligned, LoadedObject, SharedMaps, map_of, set_constant, set_entry};
use crate::tier;

/// The most programs that are exempt from the protection.
pub const MAX_EXEMPT_PROGRAMS: usize = 64;

/// The most attempts that are remembered until [`Probe::tampering`](crate::Probe::tampering) is called; more are counted.
pub const MAX_TAMPER_ATTEMPTS: usize = 64;

const OBJECTS: &str = "protect_objects";
const PROGRAMS: &str = "protect_programs";
const COUNTS: &str = "protect_counts";
const ATTEMPTS: &str = "protect_attempts";
const CONFIG: &str = ".rodata.protect";

/// `struct attempt` of `bpf/protect.bpf.c`.
const ATTEMPT_BYTES: usize = 40;

// `enum operation` of `bpf/protect.bpf.c`.
const MAP: u32 = 2;
const PROGRAM: u32 = 3;
const LINK: u32 = 4;
const OPERATIONS: u32 = 7;

const HOOKS: [&str; 7] = [
    "protect_signal",
    "protect_file_signal",
    "protect_memory",
    "protect_limits",
    "protect_map",
    "protect_program",
    "protect_link",
];

/// Not among the groups that policies need.
static GROUP: Group = Group {
    name: "protect",
    object: &Aligned(*include_bytes!("../bpf/protect.bpf.o")),
    hooks: |_| hooks(),
    configure,
    filter: no_filter,
    fields: |_, _| FieldSet::EMPTY,
};

/// How a sensor protects itself: [`ProbeBuilder::self_protection`](crate::ProbeBuilder::self_protection).
///
/// Other processes, root's too, are refused, with `EPERM` (and `EACCES` for `/proc/PID/mem`):
///
/// - signals to the process that has the probe, whichever way they are sent by a process, and also those that a file's owner
///   (`F_SETOWN`) would get;
/// - to trace it, to read or write its memory (`/proc/PID/mem`, `process_vm_writev`), to take its descriptors (`pidfd_getfd`),
///   and to change its resource limits;
/// - descriptors of the probe's BPF maps (but to read only), programs and links, by their ids.
///
/// Exempt are the process itself, the host's pid 1, which is how a service manager stops it, and what is allowed here. Signals
/// that the kernel itself makes (of a fault, of a lack of memory, of a timer) always arrive. It ends with the probe.
///
/// It is a hurdle for who is root and does not expect it, and makes the attempt known. It is no defence against code in
/// the kernel, nor against root who can have pid 1 or an exempt program act for him, write to the cgroup of the sensor
/// (`cgroup.kill`, `cgroup.freeze`), load BPF programs or boot another kernel.
///
/// ```no_run
/// use sls_probe::{Probe, SelfProtection};
///
/// let protection = SelfProtection::new().allow_program("/usr/bin/runc");
/// let probe = Probe::builder().self_protection(protection).load()?.attach()?;
/// # Ok::<(), sls_probe::ProbeError>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct SelfProtection {
    programs: Vec<PathBuf>,
    signals: u64,
}

impl SelfProtection {
    /// Nobody but the process itself and pid 1 is exempt.
    pub fn new() -> Self {
        Self::default()
    }

    /// Exempts the processes that execute a file, such as a container runtime. The file is known by device and inode, and looked
    /// up when the probe is loaded and whenever its policies change ([`Probe::set_policies`](crate::Probe::set_policies)). At most
    /// [`MAX_EXEMPT_PROGRAMS`].
    pub fn allow_program(mut self, path: impl Into<PathBuf>) -> Self {
        self.programs.push(path.into());
        self
    }

    /// Lets everybody send a signal (from 1 to 64) who could without the protection: one that the process handles, such as to
    /// load its policies again. Other numbers change nothing.
    pub fn allow_signal(mut self, signal: i32) -> Self {
        if let Some(bit) = u32::try_from(signal).ok().and_then(|signal| signal.checked_sub(1)) {
            self.signals |= 1_u64.checked_shl(bit).unwrap_or(0);
        }
        self
    }

    /// What the running kernel lacks for it, if something is missing.
    #[must_use]
    pub fn missing() -> Option<String> {
        tier::bpf_lsm().err()
    }
}

/// What was tried with the sensor, and refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tampering {
    /// To send it this signal.
    Signal(u32),
    /// To trace it, to reach its memory or to take its descriptors.
    Ptrace,
    /// To write to the BPF map with this id.
    BpfMap(u32),
    /// To get the BPF program with this id.
    BpfProgram(u32),
    /// To get the BPF link with this id.
    BpfLink(u32),
    /// To change the limit of this resource (`RLIMIT_…`).
    ResourceLimit(u32),
    /// To have it get this signal when something happens to a file; 0 is the file's default, `SIGIO`.
    FileSignal(u32),
}

impl Tampering {
    fn of(operation: u32, argument: u32) -> Option<Self> {
        Some(match operation {
            0 => Self::Signal(argument),
            1 => Self::Ptrace,
            MAP => Self::BpfMap(argument),
            PROGRAM => Self::BpfProgram(argument),
            LINK => Self::BpfLink(argument),
            5 => Self::ResourceLimit(argument),
            6 => Self::FileSignal(argument),
            _ => return None,
        })
    }
}

impl fmt::Display for Tampering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Ptrace => f.write_str("ptrace"),
            Self::BpfMap(id) => write!(f, "BPF map {id}"),
            Self::BpfProgram(id) => write!(f, "BPF program {id}"),
            Self::BpfLink(id) => write!(f, "BPF link {id}"),
            Self::ResourceLimit(resource) => write!(f, "limit of resource {resource}"),
            Self::FileSignal(signal) => write!(f, "signal {signal} of a file"),
        }
    }
}

/// One attempt that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TamperAttempt {
    /// What was tried.
    pub tampering: Tampering,
    /// Who tried it. None: it is not known.
    pub pid: Option<u32>,
    /// When that process started, in nanoseconds of `CLOCK_BOOTTIME`; 0 if it is not known.
    pub start: u64,
    /// Its real user id.
    pub uid: u32,
    /// The name of its thread, which it can choose.
    pub name: Vec<u8>,
}

impl From<&TamperAttempt> for TamperingAttempt {
    fn from(attempt: &TamperAttempt) -> Self {
        Self::new(attempt.tampering.to_string(), attempt.pid, attempt.uid, &attempt.name)
    }
}

impl TamperAttempt {
    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; ATTEMPT_BYTES] = bytes.try_into().ok()?;
        let number = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let name = bytes[24..].split(|byte| *byte == 0).next().unwrap_or_default();
        Some(Self {
            tampering: Tampering::of(number(8), number(12))?,
            pid: Some(number(16)).filter(|pid| *pid != 0),
            start: u64::from(number(0)) | u64::from(number(4)) << 32,
            uid: number(20),
            name: name.to_vec(),
        })
    }
}

/// What was refused since the last time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TamperReport {
    /// The first attempts, at most [`MAX_TAMPER_ATTEMPTS`].
    pub attempts: Vec<TamperAttempt>,
    /// How many there were, those included that are not in `attempts`.
    pub refused: u64,
}

/// The programs that protect, and what they are told.
#[derive(Debug)]
pub(crate) struct Protector {
    settings: SelfProtection,
    object: LoadedObject,
    /// The operations on them, and their ids.
    objects: BTreeSet<(u32, u32)>,
    /// Held open, so that their inodes are nobody else's.
    exempt: Vec<(File, [u8; 16])>,
    told: u64,
}

impl Protector {
    /// Loads what protects; nothing is refused yet.
    pub(crate) fn load(
        settings: &SelfProtection,
        wanted: &Wanted<'_>,
        shared: &SharedMaps,
    ) -> Result<Self, ProbeError> {
        if let Some(reason) = SelfProtection::missing() {
            return Err(ProbeError::NoSelfProtection { reason });
        }
        let object = LoadedObject::load(&GROUP, &hooks(), wanted, shared)?;
        let settings = settings.clone();
        let mut protector = Self { settings, object, objects: BTreeSet::new(), exempt: Vec::new(), told: 0 };
        protector.resolve()?;
        Ok(protector)
    }

    pub(crate) fn attach(self) -> Result<Self, ProbeError> {
        let Self { settings, object, objects, exempt, told } = self;
        let (object, result) = object.attach(hooks());
        result.map(|()| Self { settings, object, objects, exempt, told })
    }

    /// Looks up the exempt programs.
    pub(crate) fn resolve(&mut self) -> Result<(), ProbeError> {
        let paths = &self.settings.programs;
        if let Some(path) = paths.get(MAX_EXEMPT_PROGRAMS) {
            let source = io::Error::other(format!("the limit is {MAX_EXEMPT_PROGRAMS} programs"));
            return Err(ProbeError::ExemptProgram { path: path.clone(), source });
        }
        let identified =
            |path: &PathBuf| identify(path).map_err(|source| ProbeError::ExemptProgram { path: path.clone(), source });
        let exempt: Vec<_> = paths.iter().map(identified).collect::<Result<_, _>>()?;
        let map = self.map(PROGRAMS)?;
        for (_, key) in self.exempt.iter().filter(|(_, key)| !exempt.iter().any(|(_, other)| other == key)) {
            // What is not there need not go.
            let _ = map.delete(key);
        }
        for (_, key) in &exempt {
            set_entry(&map, PROGRAMS, key, &1_u32.to_ne_bytes())?;
        }
        self.exempt = exempt;
        Ok(())
    }

    /// Protects these objects and links, and its own, in place of those before.
    pub(crate) fn cover<'o>(
        &mut self,
        objects: impl Iterator<Item = &'o Object>,
        links: impl Iterator<Item = &'o Link>,
    ) -> Result<(), ProbeError> {
        let mut now = BTreeSet::new();
        objects.for_each(|object| add_object(object, &mut now));
        links.for_each(|link| add_link(link, &mut now));
        add_object(&self.object.object, &mut now);
        self.object.links().for_each(|link| add_link(link, &mut now));
        let map = self.map(OBJECTS)?;
        for entry in now.difference(&self.objects) {
            set_entry(&map, OBJECTS, &object_key(*entry), &1_u32.to_ne_bytes())?;
        }
        for entry in self.objects.difference(&now) {
            let _ = map.delete(&object_key(*entry));
        }
        self.objects = now;
        Ok(())
    }

    /// What was refused since the last time.
    pub(crate) fn report(&mut self) -> Result<TamperReport, ProbeError> {
        let (attempts, counts) = (self.map(ATTEMPTS)?, self.map(COUNTS)?);
        let mut report = TamperReport::default();
        while report.attempts.len() < MAX_TAMPER_ATTEMPTS {
            let next = attempts.lookup_and_delete(&[]);
            let Some(bytes) = next.map_err(|source| ProbeError::Map { map: ATTEMPTS, source })? else { break };
            report.attempts.extend(TamperAttempt::decode(&bytes));
        }
        let mut total = 0;
        for operation in 0..OPERATIONS {
            let value = counts.lookup(&operation.to_ne_bytes(), MapFlags::ANY);
            let value = value.map_err(|source| ProbeError::Map { map: COUNTS, source })?;
            total += value.and_then(|value| value.try_into().ok()).map_or(0, u64::from_ne_bytes);
        }
        report.refused = total.saturating_sub(self.told);
        self.told = total;
        Ok(report)
    }

    fn map(&self, name: &'static str) -> Result<MapHandle, ProbeError> {
        map_of(&self.object.object, name)
    }
}

fn hooks() -> Vec<Hook> {
    HOOKS.iter().map(|program| Hook::new(program, EventKind::Ptrace)).collect()
}

fn configure(open: &mut OpenObject, wanted: &Wanted<'_>) -> libbpf_rs::Result<()> {
    let signals = wanted.settings.self_protection.as_ref().map_or(0, |protection| protection.signals);
    set_constant(open, CONFIG, &signals.to_ne_bytes())?;
    kernel::set_self(open)
}

/// What cannot be asked for its id has none, such as a program that was not loaded and a link of a perf event in old kernels.
fn add_object(object: &Object, ids: &mut BTreeSet<(u32, u32)>) {
    ids.extend(object.maps().filter_map(|map| Some((MAP, MapInfo::new(map.as_fd()).ok()?.info.id))));
    let loaded = object.progs().filter(|program| program.as_fd().as_raw_fd() >= 0);
    ids.extend(loaded.filter_map(|program| Some((PROGRAM, Program::id_from_fd(program.as_fd()).ok()?))));
}

fn add_link(link: &Link, ids: &mut BTreeSet<(u32, u32)>) {
    ids.extend(LinkInfo::from_fd(link.as_fd()).ok().map(|info| (LINK, info.id)));
}

/// `struct object`.
fn object_key((operation, id): (u32, u32)) -> [u8; 8] {
    let mut key = [0; 8];
    key[..4].copy_from_slice(&operation.to_ne_bytes());
    key[4..].copy_from_slice(&id.to_ne_bytes());
    key
}

/// `struct program` of a file, with the numbers that the kernel uses itself: those of stat(2) differ on Btrfs and overlayfs.
fn identify(path: &Path) -> io::Result<(File, [u8; 16])> {
    let file = File::open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    let value = |name| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    // Since Linux 5.14.
    let inode = value("ino:").and_then(|inode| inode.parse().ok()).unwrap_or(meta.ino());
    // Users name the places of their mounts: not every name is text.
    let mounts = String::from_utf8_lossy(&fs::read("/proc/self/mountinfo")?).into_owned();
    let of_mount = value("mnt_id:").and_then(|mount| device_of_mount(&mounts, mount));
    let (major, minor) =
        of_mount.unwrap_or_else(|| (nix::sys::stat::major(meta.dev()), nix::sys::stat::minor(meta.dev())));
    let mut key = [0; 16];
    key[..8].copy_from_slice(&u64::to_ne_bytes(inode));
    key[8..12].copy_from_slice(&((major << 20 | minor) as u32).to_ne_bytes());
    Ok((file, key))
}

fn device_of_mount(mounts: &str, id: &str) -> Option<(u64, u64)> {
    let mut columns = mounts.lines().map(|line| line.split(' ')).find(|line| line.clone().next() == Some(id))?;
    let (major, minor) = columns.nth(2)?.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_read_back() {
        let mut bytes = vec![7, 0, 0, 0, 1, 0, 0, 0];
        for number in [0_u32, 9, 42, 1000] {
            bytes.extend(number.to_ne_bytes());
        }
        bytes.extend(b"kill\0\0\0\0\0\0\0\0\0\0\0\0");
        let attempt = TamperAttempt::decode(&bytes).unwrap();
        assert_eq!(attempt.tampering, Tampering::Signal(9));
        assert_eq!((attempt.pid, attempt.uid, attempt.start), (Some(42), 1000, 1 << 32 | 7));
        assert_eq!(attempt.name, b"kill");
        assert_eq!(TamperAttempt::decode(&bytes[1..]), None);
    }

    #[test]
    fn signals_are_bits() {
        let bits = |signal| SelfProtection::new().allow_signal(signal).signals;
        assert_eq!((bits(1), bits(10), bits(64)), (1, 1 << 9, 1 << 63));
        assert_eq!((bits(0), bits(-1), bits(65)), (0, 0, 0));
    }

    #[test]
    fn a_mount_is_found_by_its_number() {
        let mounts = "21 1 254:0 / / rw - ext4 /dev/vda rw\n122 21 0:5 / /proc rw - proc proc rw\n";
        assert_eq!(device_of_mount(mounts, "122"), Some((0, 5)));
        assert_eq!(device_of_mount(mounts, "22"), None);
    }

    #[test]
    fn directories_are_no_programs() {
        assert!(identify(Path::new("/usr")).is_err());
        assert!(identify(Path::new("/proc/self/exe")).is_ok());
    }
}

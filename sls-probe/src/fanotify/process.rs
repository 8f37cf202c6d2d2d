//! What `/proc` tells of a process that waits.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxFlags, open, openat2, statx};
use sls_core::{CONTAINER_FIELDS, Event, EventKind, Field, ProcessKey};

use crate::cgroup;

/// Ticks of `/proc/PID/stat` in nanoseconds: `USER_HZ` is 100 wherever the probe works.
pub(super) const TICK_NANOS: u64 = 10_000_000;

/// How far up the ancestry of a process this one is looked for.
const MAX_OWN_DEPTH: usize = 8;

/// Threads of one process that are looked through.
const MAX_THREADS: usize = 64;

/// How often, and after which pauses, a thread is looked at that does not sleep yet.
const SLEEP_ATTEMPTS: usize = 20;
const SLEEP_INTERVAL: Duration = Duration::from_micros(100);

/// Bytes read of a file in `/proc`.
const FILE_BYTES: u64 = 16 * 1024;

/// loginuid of a process that nobody logged in for.
const NO_LOGIN: u64 = u32::MAX as u64;

/// Fields of `/proc/PID/stat` that count here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) parent: u32,
    terminal: u32,
    pub(super) start_ticks: u64,
}

impl Stat {
    /// The name in field 2 may hold anything, so what counts is behind its last `)`.
    fn parse(stat: &[u8]) -> Option<Self> {
        let after = stat.iter().rposition(|byte| *byte == b')')?;
        let mut words = stat[after + 1..].split(|byte| byte.is_ascii_whitespace()).filter(|word| !word.is_empty());
        let parent = number(words.nth(1)?)?.try_into().ok()?;
        let terminal = std::str::from_utf8(words.nth(2)?).ok()?.parse::<i32>().ok()? as u32;
        let start_ticks = number(words.nth(14)?)?;
        Some(Self { parent, terminal, start_ticks })
    }

    pub(super) fn of(pid: u32, buffer: &mut Vec<u8>) -> Option<Self> {
        Self::parse(read(pid, "stat", buffer)?)
    }
}

/// Parent and start time of a line of `/proc/PID/stat`.
#[cfg(fuzzing)]
pub(crate) fn process_stat(line: &[u8]) -> Option<(u32, u64)> {
    Stat::parse(line).map(|stat| (stat.parent, stat.start_ticks))
}

/// Whether a line of `/proc/PID/task/TID/syscall` is of a call that opens or may.
#[cfg(fuzzing)]
pub(crate) fn may_open(line: &[u8]) -> bool {
    matches!(Call::parse(line), Call::Open(_) | Call::OpenUnknown)
}

/// Reads about processes. Made to be used again.
#[derive(Debug)]
pub(super) struct Processes {
    own: u32,
    has_loginuid: bool,
    buffer: Vec<u8>,
    cgroups: Option<PathBuf>,
}

impl Processes {
    pub(super) fn new() -> Self {
        let has_loginuid = Path::new("/proc/self/loginuid").exists();
        Self { own: std::process::id(), has_loginuid, buffer: Vec::new(), cgroups: cgroup::mount_point() }
    }

    /// Whether the process is a child of this one, or a child's child. What waits cannot end and be another meanwhile,
    /// except by a SIGKILL, and then nobody waits for the answer.
    pub(super) fn is_own(&mut self, stat: Stat) -> bool {
        let mut pid = stat.parent;
        for _ in 0..MAX_OWN_DEPTH {
            match pid {
                0 | 1 => return false,
                own if own == self.own => return true,
                _ => {}
            }
            let Some(stat) = Stat::of(pid, &mut self.buffer) else { return false };
            pid = stat.parent;
        }
        false
    }

    pub(super) fn stat(&mut self, pid: u32) -> Option<Stat> {
        Stat::of(pid, &mut self.buffer)
    }

    /// Sets what the kernel tells of the process. What cannot be read is unknown.
    pub(super) fn describe(&mut self, pid: u32, stat: Stat, event: &mut Event) {
        event.parent = ProcessKey { pid: stat.parent, start: 0 };
        self.credentials(pid, event);
        self.terminal(stat, event);
        let link = |name: &str| fs::metadata(format!("/proc/{pid}/ns/{name}")).ok()?.ino().try_into().ok();
        (event.mount_namespace, event.pid_namespace) = (link("mnt"), link("pid"));
        match fs::read_link(format!("/proc/{pid}/cwd")) {
            Ok(path) => event.set_text(Field::ProgramDirectory, path.as_os_str().as_bytes()),
            Err(_) => event.mark_unknown(Field::ProgramDirectory),
        };
        event.cgroup_id = self.cgroup(pid);
    }

    fn credentials(&mut self, pid: u32, event: &mut Event) {
        let status = read(pid, "status", &mut self.buffer).unwrap_or_default();
        for (line, fields) in [(&b"Uid:"[..], [Field::Uid, Field::Euid]), (b"Gid:", [Field::Gid, Field::Egid])] {
            let numbers = status.split(|byte| *byte == b'\n').find_map(|text| text.strip_prefix(line));
            let mut numbers = numbers.unwrap_or_default().split(|byte| *byte == b'\t').filter(|word| !word.is_empty());
            for field in fields {
                match numbers.next().and_then(number) {
                    Some(id) => event.set_number(field, id),
                    None => event.mark_unknown(field),
                };
            }
        }
        match read(pid, "loginuid", &mut self.buffer).and_then(number) {
            Some(NO_LOGIN) => {}
            Some(uid) => {
                event.set_number(Field::LoginUid, uid);
            }
            // A kernel without audit has no such file, and no such value.
            None if !self.has_loginuid => {}
            None => {
                event.mark_unknown(Field::LoginUid);
            }
        }
    }

    /// The name below `/dev`, of pseudo terminals and virtual consoles.
    fn terminal(&self, stat: Stat, event: &mut Event) {
        let device = u64::from(stat.terminal);
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        match major {
            _ if device == 0 => {}
            136..=143 => {
                event.set_text(Field::Terminal, format!("pts/{}", (major - 136) << 20 | minor).as_bytes());
            }
            4 if minor < 64 => {
                event.set_text(Field::Terminal, format!("tty{minor}").as_bytes());
            }
            4 => {
                event.set_text(Field::Terminal, format!("ttyS{}", minor - 64).as_bytes());
            }
            _ => {
                event.mark_unknown(Field::Terminal);
            }
        }
    }

    /// Id of the cgroup of version 2.
    fn cgroup(&mut self, pid: u32) -> Option<u64> {
        let root = self.cgroups.as_ref()?;
        let table = read(pid, "cgroup", &mut self.buffer)?;
        let path = table.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"0::/"))?;
        let path = root.join(std::ffi::OsStr::from_bytes(path));
        Some(fs::symlink_metadata(path).ok()?.ino())
    }

    /// What the process opens the file for: `OPEN_WRITE` or `OPEN_READ`, if it can be told. The kernel does not say. So it is
    /// looked for in the registers of the threads that are in a call that opens; with several, it is only known if they all
    /// want the same.
    pub(super) fn purpose(&mut self, pid: u32) -> Option<&'static [u8]> {
        for _ in 0..SLEEP_ATTEMPTS {
            let (purpose, all_sleep) = self.purpose_now(pid)?;
            if all_sleep {
                return purpose;
            }
            // The one that waits may not have got to sleep yet.
            thread::sleep(SLEEP_INTERVAL);
        }
        // By now it has: those that run are others.
        self.purpose_now(pid)?.0
    }

    /// The purpose, if one is found, and whether no thread runs. None if there are several, or it cannot be told.
    fn purpose_now(&mut self, pid: u32) -> Option<(Option<&'static [u8]>, bool)> {
        let (mut purpose, mut all_sleep) = (None, true);
        for (index, thread) in fs::read_dir(format!("/proc/{pid}/task")).ok()?.enumerate() {
            if index == MAX_THREADS {
                return None;
            }
            let thread: u32 = thread.ok()?.file_name().to_str()?.parse().ok()?;
            // One that has ended meanwhile is not the one that waits.
            let Some(call) = read(pid, &format!("task/{thread}/syscall"), &mut self.buffer) else { continue };
            match Call::parse(call) {
                Call::Open(flags) => {
                    let writes = flags & (WRITE_ACCESS | TRUNCATES) != 0;
                    let this = if writes { &b"OPEN_WRITE"[..] } else { b"OPEN_READ" };
                    if purpose.is_some_and(|other| other != this) {
                        return None;
                    }
                    purpose = Some(this);
                }
                Call::OpenUnknown => return None,
                Call::Running => all_sleep = false,
                Call::Other => {}
            }
        }
        Some((purpose, all_sleep))
    }

    /// Whether `name` is the file `identity` for the process. It was just opened, so it is in the kernel's memory.
    pub(super) fn has(&self, pid: u32, name: &[u8], identity: (u64, u64)) -> bool {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let found = open(format!("/proc/{pid}/root"), flags | OFlags::DIRECTORY, Mode::empty()).and_then(|root| {
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::CACHED;
            let file = openat2(&root, name, flags, Mode::empty(), resolve)?;
            statx(&file, "", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, StatxFlags::INO)
        });
        found.is_ok_and(|stat| (rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino) == identity)
    }
}

/// Whether a process is a loader that was started as a program of its own, and loads another.
pub(super) fn is_loader(pid: u32) -> bool {
    let Ok(program) = fs::read_link(format!("/proc/{pid}/exe")) else { return false };
    let name = program.file_name().map_or(&[][..], OsStrExt::as_bytes);
    let is_library = name.windows(3).any(|part| part == b".so");
    is_library && [&b"ld-"[..], b"ld.so", b"ld64.so"].iter().any(|start| name.starts_with(start))
}

/// The system call that a thread is in.
#[derive(Debug, PartialEq, Eq)]
enum Call {
    /// One that opens, with these flags.
    Open(u64),
    /// One that opens, for which its memory would have to be looked at, or that does anything.
    OpenUnknown,
    /// None that can be looked at: it runs.
    Running,
    Other,
}

/// `O_WRONLY`, `O_RDWR`.
const WRITE_ACCESS: u64 = 0o3;
const TRUNCATES: u64 = 0o1000;

impl Call {
    /// From `number arg0 arg1 …` in `/proc/PID/task/TID/syscall`.
    fn parse(text: &[u8]) -> Self {
        let mut words = text.split(|byte| byte.is_ascii_whitespace());
        let call = match words.next() {
            // In the kernel, but in no call of its own: such as a worker of io_uring, which may open anything.
            Some(b"-1") => return Self::OpenUnknown,
            Some(b"running") => return Self::Running,
            word => word.and_then(number),
        };
        let Some(call) = call else { return Self::Other };
        let mut argument = |index: usize| {
            let word = std::str::from_utf8(words.nth(index)?).ok()?;
            u64::from_str_radix(word.strip_prefix("0x")?, 16).ok()
        };
        let flags = match Opening::of(call) {
            Opening::Flags(index) => argument(index),
            Opening::Writes => Some(1),
            Opening::Unknown => None,
            Opening::Not => return Self::Other,
        };
        flags.map_or(Self::OpenUnknown, Self::Open)
    }
}

/// How a system call opens files.
enum Opening {
    /// This argument has the flags.
    Flags(usize),
    Writes,
    Unknown,
    Not,
}

impl Opening {
    #[cfg(target_arch = "x86_64")]
    fn of(call: u64) -> Self {
        match call {
            2 => Self::Flags(1),   // open
            257 => Self::Flags(2), // openat
            85 => Self::Writes,    // creat
            76 => Self::Writes,    // truncate
            // openat2, io_uring_enter, open_by_handle_at
            437 | 426 => Self::Unknown,
            304 => Self::Flags(2),
            _ => Self::Not,
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn of(call: u64) -> Self {
        // The numbers that all younger architectures share.
        match call {
            56 => Self::Flags(2),
            45 => Self::Writes,
            437 | 426 => Self::Unknown,
            265 => Self::Flags(2),
            _ => Self::Not,
        }
    }
}

/// The start of a file in the directory of a process.
fn read<'b>(pid: u32, name: &str, buffer: &'b mut Vec<u8>) -> Option<&'b [u8]> {
    buffer.clear();
    File::open(format!("/proc/{pid}/{name}")).ok()?.take(FILE_BYTES).read_to_end(buffer).ok()?;
    Some(buffer)
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.trim().parse().ok()
}

/// Marks what cannot be known of an execution before it happens.
pub(super) fn mark_unknowable(event: &mut Event) {
    for field in [Field::InvokedName, Field::ProgramArguments, Field::ProcessName, Field::StandardInput] {
        event.mark_unknown(field);
    }
}

/// Marks everything unknown that only `/proc`, the process table or the registry of containers know.
pub(super) fn mark_undescribed(event: &mut Event) {
    const LATER: [Field; 16] = [
        Field::ParentPid,
        Field::ParentProgramName,
        Field::ParentProgramArguments,
        Field::AncestorProgramName,
        Field::Lineage,
        Field::ProgramDirectory,
        Field::Uid,
        Field::Gid,
        Field::Euid,
        Field::Egid,
        Field::LoginUid,
        Field::UserName,
        Field::GroupName,
        Field::Terminal,
        Field::FileAge,
        Field::HostFilePath,
    ];
    for field in LATER.into_iter().chain(CONTAINER_FIELDS) {
        event.mark_unknown(field);
    }
    if event.kind == EventKind::File {
        for field in [Field::ProgramName, Field::FileOperation, Field::ProgramInode, Field::ProgramDevice]
            .into_iter()
            .chain([Field::ProgramIsMemfd, Field::ProgramIsDeleted, Field::ScriptName])
        {
            event.mark_unknown(field);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_stat_agrees_with_other_sources() {
        let mut buffer = Vec::new();
        let stat = Stat::of(std::process::id(), &mut buffer).unwrap();
        assert_eq!(stat.parent, std::os::unix::process::parent_id());
        let odd = b"7 (a) b) ) S 42 7 7 34816 7 4194304 1 2 3 4 5 6 7 8 20 0 1 0 98765 9 9";
        let stat = Stat::parse(odd).unwrap();
        assert_eq!((stat.parent, stat.terminal, stat.start_ticks), (42, 34816, 98765));
    }

    #[test]
    fn a_process_is_described() {
        let mut event = Event::new(EventKind::Exec);
        let mut processes = Processes::new();
        let pid = std::process::id();
        let stat = processes.stat(pid).unwrap();
        processes.describe(pid, stat, &mut event);
        let euid = rustix::process::geteuid().as_raw();
        assert_eq!(event.number(Field::Euid), Some(euid.into()));
        let cwd = std::env::current_dir().unwrap();
        assert_eq!(event.text(Field::ProgramDirectory), cwd.as_os_str().as_bytes());
        assert!(event.mount_namespace.is_some() && !processes.is_own(stat));
    }

    #[test]
    fn flags_are_those_of_the_call() {
        let call = |text: &str| Call::parse(text.as_bytes());
        #[cfg(target_arch = "x86_64")]
        assert_eq!(call("257 0xffffff9c 0x7f00 0x241 0x1b6 0x0 0x0 0x7ffc 0x7f1e"), Call::Open(0x241));
        assert_eq!(call("437 0xffffff9c 0x7f00 0x0"), Call::OpenUnknown);
        assert_eq!(call("-1 0x7ffc 0x7f1e"), Call::OpenUnknown);
        assert_eq!(call("running\n"), Call::Running);
        assert_eq!(call("0 0x3 0x7f 0x1"), Call::Other);
        assert_eq!(call(""), Call::Other);
    }
}

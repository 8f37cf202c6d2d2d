//! `/proc/PID/stat`, read and parsed without an allocation.

use std::ffi::CStr;
use std::io::{self, Write};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Room for one line: 51 numbers of at most 20 digits and a command name of at most 64 bytes, escaped fourfold.
const MAX_STAT_LEN: usize = 2048;

/// Room for the longest path, `/proc/4294967295/task/4294967295/stat`, and its NUL.
const MAX_PATH_LEN: usize = 48;

/// Places of the session and of the flags among the same fields (fields 6 and 9).
const SESSION_INDEX: usize = 6 - 3;
const FLAGS_INDEX: usize = 9 - 3;

/// Among the flags: a thread of the kernel (`PF_KTHREAD`).
const KERNEL_THREAD: u64 = 0x0020_0000;

/// Place of the start time among the fields behind the command name (field 22 in proc(5), the state being field 3).
const START_INDEX: usize = 22 - 3;

/// The fields that identity and confirmation need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) state: u8,
    pub(crate) parent: u32,
    /// The process that leads the session, by its pid; 0 if that is in another PID namespace.
    pub(crate) session: u32,
    pub(crate) kernel_thread: bool,
    /// Start time in clock ticks since boot.
    pub(crate) start_ticks: u64,
}

impl Stat {
    /// Of the process that has `pid` now; `SRCH` if there is none.
    pub(crate) fn of_process(pid: u32) -> Result<Self, Errno> {
        read(format_args!("/proc/{pid}/stat\0"))
    }

    /// Of one thread of the process that has `pid` now; `SRCH` if there is none.
    pub(crate) fn of_thread(pid: u32, tid: u32) -> Result<Self, Errno> {
        read(format_args!("/proc/{pid}/task/{tid}/stat\0"))
    }

    /// Whether the thread runs no instruction until it is continued, or never will again. One that is in its tracer's hand
    /// (`t`) may run on whenever the tracer wants, as if no signal had come.
    pub(crate) fn is_halted(self) -> bool {
        matches!(self.state, b'T' | b'Z' | b'X' | b'x')
    }

    /// Whether the thread is stopped, by a signal or by its tracer.
    pub(crate) fn is_stopped(self) -> bool {
        matches!(self.state, b'T' | b't')
    }
}

/// The ids of the threads of the process that has `pid` now.
pub(crate) fn threads(pid: u32) -> io::Result<impl Iterator<Item = u32>> {
    numbers(format!("/proc/{pid}/task"))
}

/// The pids of all processes.
pub(crate) fn pids() -> io::Result<impl Iterator<Item = u32>> {
    numbers("/proc")
}

fn numbers(directory: impl AsRef<Path>) -> io::Result<impl Iterator<Item = u32>> {
    let entries = std::fs::read_dir(directory)?.collect::<io::Result<Vec<_>>>()?;
    Ok(entries.into_iter().filter_map(|entry| entry.file_name().to_str()?.parse().ok()))
}

/// The tracer of a thread of the process that has `pid` now, if it has one.
pub(crate) fn tracer(pid: u32, tid: u32) -> Option<u32> {
    // The name in the first line is escaped, so that no line is its making.
    let status = std::fs::read(format!("/proc/{pid}/task/{tid}/status")).ok()?;
    let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"TracerPid:"))?;
    let tracer = std::str::from_utf8(line).ok()?.trim().parse().ok()?;
    (tracer != 0).then_some(tracer)
}

fn read(path: std::fmt::Arguments<'_>) -> Result<Stat, Errno> {
    let mut path_bytes = [0; MAX_PATH_LEN];
    (&mut path_bytes[..]).write_fmt(path).map_err(|_| Errno::NAMETOOLONG)?;
    let path = CStr::from_bytes_until_nul(&path_bytes).map_err(|_| Errno::NAMETOOLONG)?;
    let file = match rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        Err(Errno::NOENT) => return Err(Errno::SRCH),
        file => file?,
    };
    let mut line = [0; MAX_STAT_LEN];
    // The kernel makes the whole line at once: one read has it all, or the line is longer than any that it can make.
    let len = rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut line))?;
    line[..len].strip_suffix(b"\n").and_then(parse).ok_or(Errno::BADMSG)
}

/// Parses a line. The command name is chosen by the process and may hold anything, `)` included; what follows it may
/// not, so the last `)` ends it.
pub(crate) fn parse(line: &[u8]) -> Option<Stat> {
    let name_end = line.iter().rposition(|byte| *byte == b')')?;
    let mut fields = line[name_end + 1..].split(|byte| *byte == b' ').filter(|field| !field.is_empty()).enumerate();
    let (_, &[state]) = fields.next()? else { return None };
    let parent = number(fields.next()?.1)?.try_into().ok()?;
    let (_, session) = fields.find(|(index, _)| *index == SESSION_INDEX)?;
    // Not of this namespace, it may be given as a negative number.
    let session = number(session).and_then(|session| session.try_into().ok()).unwrap_or(0);
    let (_, flags) = fields.find(|(index, _)| *index == FLAGS_INDEX)?;
    let kernel_thread = number(flags)? & KERNEL_THREAD != 0;
    let (_, start) = fields.find(|(index, _)| *index == START_INDEX)?;
    Some(Stat { state, parent, session, kernel_thread, start_ticks: number(start)? })
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(comm: &[u8], state: u8, parent: u32, start: u64) -> Vec<u8> {
        let mut line = b"4242 (".to_vec();
        line.extend_from_slice(comm);
        line.extend_from_slice(format!(") {} {parent} 1 2 3 -1 2097152", char::from(state)).as_bytes());
        // Fields 10 to 21, then 22, then what newer kernels add.
        line.extend_from_slice(" 7".repeat(12).as_bytes());
        line.extend_from_slice(format!(" {start} 18446744073709551615 0 -1 17").as_bytes());
        line
    }

    fn hostile_comm() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b") Z 1 1 1 1".to_vec()),
            Just(b")".to_vec()),
            Just(b"(".to_vec()),
            Just(b" ".to_vec()),
            Just(b"\n".to_vec()),
            Just(b"\\n".to_vec()),
            prop::collection::vec(any::<u8>(), 0..16),
        ];
        prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn command_names_cannot_lie(comm in hostile_comm(), state in prop::sample::select(b"RSDTtZX".to_vec()),
                                    parent in any::<u32>(), start in any::<u64>()) {
            let expected = Stat { state, parent, session: 2, kernel_thread: true, start_ticks: start };
            prop_assert_eq!(parse(&line(&comm, state, parent, start)), Some(expected));
        }

        #[test]
        fn cut_lines_are_never_misread(comm in hostile_comm(), start in 1_000_000..u64::MAX, cut in 0_usize..400) {
            let whole = line(&comm, b'S', 1, start);
            let before_start = whole.len() - format!(" {start} 18446744073709551615 0 -1 17").len();
            // A line that ends before the start time has none, whatever the name pretends to be. (A `)` in the name
            // cannot stand in, unless the true one is cut off: reading takes whole lines only.)
            let true_end = before_start - 12 * 2 - ") S 1 1 2 3 -1 2097152".len();
            let end = (true_end + 1 + cut).min(before_start);
            prop_assert_eq!(parse(&whole[..end]), None);
        }

        #[test]
        fn garbage_does_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }
    }

    #[test]
    fn reads_the_real_thing() {
        let own = Stat::of_process(std::process::id()).unwrap();
        assert_eq!(own.parent, std::os::unix::process::parent_id());
        assert!(own.start_ticks > 0 && !own.kernel_thread);
        assert_eq!(threads(std::process::id()).unwrap().min(), Some(std::process::id()));
        assert!(pids().unwrap().any(|pid| pid == std::process::id()));
        let of_the_kernel = |pid| Stat::of_process(pid).is_ok_and(|stat| stat.kernel_thread);
        assert!(pids().unwrap().any(of_the_kernel) || !crate::in_host_pid_namespace().unwrap());
        assert_eq!(Stat::of_thread(std::process::id(), std::process::id()).unwrap().start_ticks, own.start_ticks);
        assert_eq!(Stat::of_process(u32::MAX), Err(Errno::SRCH));
        assert_eq!(Stat::of_thread(u32::MAX, u32::MAX), Err(Errno::SRCH));
    }
}

//! A fanotify group: what the kernel asks, and how it is answered.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::fanotify::{EventFFlags, Fanotify as Listener, InitFlags, MarkFlags, MaskFlags};
use nix::unistd::{close, read, write};

/// Bytes read at once: of at most 16 questions. Each takes up to two descriptors.
pub(super) const BUFFER_BYTES: usize = 512;

const METADATA_BYTES: usize = 24;
const METADATA_VERSION: u8 = 3;
const INFO_TYPE_PIDFD: u8 = 4;
const FAN_ALLOW: u32 = 1;
const FAN_DENY: u32 = 2;

/// The file is opened to be executed.
pub(super) const OPEN_EXEC: MaskFlags = MaskFlags::FAN_OPEN_EXEC_PERM;
/// The file is opened, for whatever it be.
pub(super) const OPEN: MaskFlags = MaskFlags::FAN_OPEN_PERM;

/// What is answered.
// Exhaustive: the kernel knows these two answers.
#[allow(clippy::exhaustive_enums)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The operation goes on.
    Allow,
    /// The operation fails with `EPERM`.
    Deny,
}

/// A descriptor that came with a question. It is the number of one of this process's files, and is closed with it.
#[derive(Debug)]
pub(super) struct Received(RawFd);

impl Received {
    pub(super) fn number(&self) -> RawFd {
        self.0
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        let _ = close(self.0);
    }
}

/// A question of the kernel: may this go on?
#[derive(Debug)]
pub(super) struct Question {
    pub(super) mask: MaskFlags,
    pub(super) file: Received,
    pub(super) pidfd: Option<Received>,
    /// The process that waits; 0 if it is not in this process's PID namespace.
    pub(super) pid: u32,
}

#[derive(Debug)]
pub(super) struct Group {
    listener: Listener,
    reports_pidfd: bool,
}

impl Group {
    /// Asks for nothing yet. Needs `CAP_SYS_ADMIN`.
    pub(super) fn open() -> nix::Result<Self> {
        // A full queue would let operations pass. Each place in it is a thread that waits, so that there is a limit anyway.
        let flags = InitFlags::FAN_CLASS_CONTENT
            | InitFlags::FAN_CLOEXEC
            | InitFlags::FAN_NONBLOCK
            | InitFlags::FAN_UNLIMITED_QUEUE
            | InitFlags::FAN_UNLIMITED_MARKS;
        // Nothing is waited for when the file of a question turns out to be a pipe.
        let files = EventFFlags::O_RDONLY | EventFFlags::O_LARGEFILE | EventFFlags::O_CLOEXEC | EventFFlags::O_NONBLOCK;
        match Listener::init(flags | InitFlags::FAN_REPORT_PIDFD, files) {
            // Before Linux 5.15.
            Err(Errno::EINVAL) => Ok(Self { listener: Listener::init(flags, files)?, reports_pidfd: false }),
            listener => Ok(Self { listener: listener?, reports_pidfd: true }),
        }
    }

    pub(super) fn reports_pidfd(&self) -> bool {
        self.reports_pidfd
    }

    pub(super) fn mark(&self, flags: MarkFlags, mask: MaskFlags, path: &Path) -> nix::Result<()> {
        self.listener.mark(flags, mask, nix::fcntl::AT_FDCWD, Some(path))
    }

    /// Takes no more questions; those that were not read yet are answered by the kernel once the group is closed.
    pub(super) fn forget_marks(&self) {
        for scope in [MarkFlags::empty(), MarkFlags::FAN_MARK_MOUNT, MarkFlags::FAN_MARK_FILESYSTEM] {
            let _ = self.listener.mark(
                MarkFlags::FAN_MARK_FLUSH | scope,
                MaskFlags::empty(),
                nix::fcntl::AT_FDCWD,
                Some("/"),
            );
        }
    }

    /// Reads what is asked now; nothing if there is no question.
    pub(super) fn read<'b>(&self, buffer: &'b mut [u8; BUFFER_BYTES]) -> nix::Result<Questions<'b>> {
        let len = match read(&self.listener, buffer) {
            Err(Errno::EAGAIN) => 0,
            len => len?,
        };
        Ok(Questions { rest: &buffer[..len] })
    }

    /// Answers. `ENOENT` if that was answered before.
    pub(super) fn answer(&self, file: &Received, verdict: Verdict) -> nix::Result<()> {
        let response = match verdict {
            Verdict::Allow => FAN_ALLOW,
            Verdict::Deny => FAN_DENY,
        };
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&file.number().to_ne_bytes());
        bytes[4..].copy_from_slice(&response.to_ne_bytes());
        write(&self.listener, &bytes).map(drop)
    }
}

impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// The questions of one read. What is not taken out is not closed: take them all.
pub(super) struct Questions<'b> {
    rest: &'b [u8],
}

impl Iterator for Questions<'_> {
    type Item = io::Result<Question>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let Some((question, len)) = parse(self.rest) else {
            self.rest = &[];
            return Some(Err(io::ErrorKind::InvalidData.into()));
        };
        self.rest = &self.rest[len..];
        // Without a file it is no question: the queue was full, which it never is.
        question.map_or_else(|| self.next(), |question| Some(Ok(question)))
    }
}

/// `struct fanotify_event_metadata`, and what follows it.
fn parse(bytes: &[u8]) -> Option<(Option<Question>, usize)> {
    let metadata = bytes.get(..METADATA_BYTES)?;
    let number = |at: usize| metadata.get(at..at + 4)?.try_into().ok().map(i32::from_ne_bytes);
    let len = usize::try_from(number(0)?).ok().filter(|len| (METADATA_BYTES..=bytes.len()).contains(len))?;
    let header = usize::from(u16::from_ne_bytes([metadata[6], metadata[7]]));
    if metadata[4] != METADATA_VERSION {
        return None;
    }
    let mask = MaskFlags::from_bits_truncate(u64::from_ne_bytes(metadata.get(8..16)?.try_into().ok()?));
    let (file, pid) = (number(16)?, number(20)?);
    let pidfd = pidfd(bytes.get(header..len)?);
    let question = (file >= 0).then(|| Question {
        mask,
        file: Received(file),
        pidfd: pidfd.filter(|number| *number >= 0).map(Received),
        pid: u32::try_from(pid).unwrap_or(0),
    });
    Some((question, len))
}

/// From the `struct fanotify_event_info_pidfd` among what follows.
fn pidfd(mut infos: &[u8]) -> Option<RawFd> {
    loop {
        let (kind, len) = (*infos.first()?, usize::from(u16::from_ne_bytes([*infos.get(2)?, *infos.get(3)?])));
        if kind == INFO_TYPE_PIDFD {
            return infos.get(4..8)?.try_into().ok().map(RawFd::from_ne_bytes);
        }
        infos = infos.get(len.max(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(len: u32, mask: u64, file: i32, pid: i32) -> Vec<u8> {
        let mut bytes = len.to_ne_bytes().to_vec();
        bytes.extend([METADATA_VERSION, 0]);
        bytes.extend((METADATA_BYTES as u16).to_ne_bytes());
        bytes.extend(mask.to_ne_bytes());
        bytes.extend(file.to_ne_bytes());
        bytes.extend(pid.to_ne_bytes());
        bytes
    }

    #[test]
    fn questions_follow_each_other() {
        // Numbers that no file of this process has, as they are closed.
        let mut bytes = metadata(32, OPEN_EXEC.bits(), 1_000_001, 42);
        bytes.extend([INFO_TYPE_PIDFD, 0, 8, 0]);
        bytes.extend(1_000_002_i32.to_ne_bytes());
        bytes.extend(metadata(24, OPEN.bits(), 1_000_003, -1));
        let questions: Vec<_> = Questions { rest: &bytes }.map(Result::unwrap).collect();
        assert_eq!(questions[0].mask, OPEN_EXEC);
        assert_eq!((questions[0].file.0, questions[0].pid), (1_000_001, 42));
        assert_eq!(questions[0].pidfd.as_ref().map(Received::number), Some(1_000_002));
        assert_eq!((questions[1].pid, questions[1].pidfd.is_none()), (0, true));
    }

    #[test]
    fn what_is_cut_is_an_error_and_an_end() {
        let whole = metadata(24, OPEN.bits(), 1_000_004, 1);
        for len in 1..whole.len() {
            let mut questions = Questions { rest: &whole[..len] };
            assert!(questions.next().unwrap().is_err() && questions.next().is_none());
        }
        let longer = metadata(25, OPEN.bits(), 1_000_004, 1);
        assert!(Questions { rest: &longer }.next().unwrap().is_err());
        // A full queue.
        assert!(Questions { rest: &metadata(24, 0x4000, -1, 0) }.next().is_none());
    }
}

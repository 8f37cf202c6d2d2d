//! A handle on one process that stays that process when its pid is used again.

use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Magic number of `pidfs`, on which pidfds have an inode each that is never used twice in one boot (Linux 6.9).
const PIDFS_MAGIC: u64 = 0x5049_4446;

#[derive(Debug)]
pub(crate) struct ProcessFd(OwnedFd);

impl ProcessFd {
    /// The process that has `pid` now; `SRCH` if there is none.
    pub(crate) fn open(pid: u32) -> Result<Self, Errno> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => Ok(Self(fd)),
            // The number is now that of a thread which does not lead its process: the kernel has said so with the one
            // or the other error, depending on its version.
            Err(Errno::INVAL | Errno::NOENT) => Err(Errno::SRCH),
            Err(errno) => Err(errno),
        }
    }

    /// Whether this kernel's pidfds live on `pidfs`.
    pub(crate) fn is_on_pidfs(&self) -> Result<bool, Errno> {
        // The type of the field differs between architectures.
        #[allow(clippy::unnecessary_cast)]
        Ok(rustix::fs::fstatfs(&self.0)?.f_type as u64 == PIDFS_MAGIC)
    }

    /// The inode; it identifies the process only on `pidfs`.
    pub(crate) fn inode(&self) -> Result<u64, Errno> {
        Ok(rustix::fs::fstat(&self.0)?.st_ino)
    }

    /// Whether every thread of the process is dead, reaped or not. As long as this is false the pid is still its own.
    pub(crate) fn has_exited(&self) -> Result<bool, Errno> {
        self.poll(Timespec { tv_sec: 0, tv_nsec: 0 })
    }

    /// Waits for the end of the process until `deadline`; a deadline that is over still looks once.
    pub(crate) fn wait_exit(&self, deadline: Instant) -> Result<bool, Errno> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // A time that does not fit is some hundred years: the loop comes round.
            let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: i32::MAX.into(), tv_nsec: 0 });
            match self.poll(timeout) {
                Ok(false) if left.is_zero() => return Ok(false),
                Ok(false) | Err(Errno::INTR) => {}
                done => return done,
            }
        }
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Errno> {
        pidfd_send_signal(&self.0, signal)
    }

    fn poll(&self, timeout: Timespec) -> Result<bool, Errno> {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        Ok(poll(&mut fds, Some(&timeout))? > 0)
    }
}

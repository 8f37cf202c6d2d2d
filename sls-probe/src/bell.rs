//! What ends the sleep of a reader besides the ring.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use libbpf_rs::RingBuffer;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

/// A file that can be read when its owner wants the reader's attention.
#[derive(Debug)]
pub(crate) struct Bell {
    /// Can be read when there is something in the ring.
    ring: OwnedFd,
    bell: OwnedFd,
}

impl Bell {
    pub(crate) fn new(ring: &RingBuffer<'_>, bell: impl AsFd) -> io::Result<Self> {
        // libbpf only tells the number.
        let own = pidfd_open(getpid(), PidfdFlags::empty())?;
        let ring = pidfd_getfd(&own, ring.epoll_fd(), PidfdGetfdFlags::empty())?;
        Ok(Self { ring, bell: bell.as_fd().try_clone_to_owned()? })
    }

    /// Waits for the ring or the bell. Returns whether a signal came.
    pub(crate) fn wait(&self, timeout: Duration) -> bool {
        let mut fds = [PollFd::new(&self.ring, PollFlags::IN), PollFd::new(&self.bell, PollFlags::IN)];
        poll(&mut fds, timespec(timeout).as_ref()) == Err(Errno::INTR)
    }

    /// Waits for the bell alone.
    pub(crate) fn nap(&self, timeout: Duration) {
        let _ = poll(&mut [PollFd::new(&self.bell, PollFlags::IN)], timespec(timeout).as_ref());
    }

    pub(crate) fn rings(&self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(&self.bell, PollFlags::IN)], Some(&now)).is_ok_and(|count| count > 0)
    }
}

/// A time that does not fit is for ever.
fn timespec(timeout: Duration) -> Option<Timespec> {
    Timespec::try_from(timeout).ok()
}

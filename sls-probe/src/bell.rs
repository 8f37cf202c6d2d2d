//! What ends the sleep of a reader.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use libbpf_rs::MapHandle;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::io::Errno;

const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// What a reader can wait for: its rings, and a file that can be read when its owner wants the reader's attention.
#[derive(Debug)]
pub(crate) struct Bell {
    rings: [MapHandle; 2],
    /// Can be read when the kernel has rung at the first ring since it was looked at, and not because something is there.
    rung: OwnedFd,
    bell: Option<OwnedFd>,
}

impl Bell {
    /// The first of the rings is the one at which the kernel rings of its own accord.
    pub(crate) fn new(rings: [MapHandle; 2]) -> io::Result<Self> {
        let rung = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&rung, &rings[0], epoll::EventData::new_u64(0), flags)?;
        Ok(Self { rings, rung, bell: None })
    }

    /// Waits for `bell` as well.
    pub(crate) fn listen_to(&mut self, bell: impl AsFd) -> io::Result<()> {
        self.bell = Some(bell.as_fd().try_clone_to_owned()?);
        Ok(())
    }

    /// Waits for the rings or the bell. Returns whether a signal came.
    pub(crate) fn wait(&self, timeout: Duration) -> bool {
        let [first, second] = self.rings.each_ref().map(|ring| PollFd::new(ring, PollFlags::IN));
        let interrupted = match &self.bell {
            Some(bell) => poll(&mut [first, second, PollFd::new(bell, PollFlags::IN)], timespec(timeout).as_ref()),
            None => poll(&mut [first, second], timespec(timeout).as_ref()),
        };
        interrupted == Err(Errno::INTR)
    }

    /// Waits for the bell, or for the kernel to ring of its own accord, whatever is in the rings.
    pub(crate) fn nap(&self, timeout: Duration) {
        let rung = PollFd::new(&self.rung, PollFlags::IN);
        let ready = match &self.bell {
            Some(bell) => poll(&mut [rung, PollFd::new(bell, PollFlags::IN)], timespec(timeout).as_ref()),
            None => poll(&mut [rung], timespec(timeout).as_ref()),
        };
        if ready.is_ok_and(|count| count > 0) {
            // It has been heard.
            let mut events = [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }];
            let _ = epoll::wait(&self.rung, &mut events, Some(&NOW));
        }
    }

    pub(crate) fn rings(&self) -> bool {
        let Some(bell) = &self.bell else { return false };
        poll(&mut [PollFd::new(bell, PollFlags::IN)], Some(&NOW)).is_ok_and(|count| count > 0)
    }
}

/// A time that does not fit is for ever.
fn timespec(timeout: Duration) -> Option<Timespec> {
    Timespec::try_from(timeout).ok()
}

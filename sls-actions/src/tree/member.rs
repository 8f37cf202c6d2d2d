//! One process of a tree, by identity.

use rustix::io::Errno;
use rustix::process::Signal;

use crate::pidfd::ProcessFd;
use crate::stat::{self, Stat};

/// Where in the tree a process was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edge {
    /// It is the root, or known to descend from it whoever its parent is now.
    Known,
    /// Its parent is the member with this pid.
    Parent(u32),
    /// The member with this pid leads its session. Only descendants of a session's leader can be in it.
    Session(u32),
}

/// A process that is to die.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) pid: u32,
    pub(super) start_ticks: u64,
    pub(super) leads_session: bool,
    /// Seen dead.
    pub(super) dead: bool,
    /// What the kernel said to the last signal, if it said no.
    pub(super) denied: Option<Errno>,
    /// Identifies the process where pidfds have inodes of their own.
    inode: Option<u64>,
    /// Held as long as there are few of them.
    process: Option<ProcessFd>,
}

impl Member {
    /// The process that has `pid` now, if it began at `start_ticks`, is reached by `edge`, and lives.
    pub(super) fn open(pid: u32, start_ticks: u64, edge: Edge, has_pidfs: bool) -> Result<Option<Self>, Errno> {
        let process = match ProcessFd::open(pid) {
            Err(Errno::SRCH) => return Ok(None),
            process => process?,
        };
        Self::of(process, pid, start_ticks, edge, has_pidfs)
    }

    /// The process behind `process`, which had `pid` when that was opened.
    pub(super) fn of(
        process: ProcessFd,
        pid: u32,
        start_ticks: u64,
        edge: Edge,
        has_pidfs: bool,
    ) -> Result<Option<Self>, Errno> {
        let stat = match Stat::of_process(pid) {
            Err(Errno::SRCH) => return Ok(None),
            stat => stat?,
        };
        let as_found = match edge {
            Edge::Known => true,
            Edge::Parent(parent) => stat.parent == parent,
            Edge::Session(leader) => stat.session == leader,
        };
        // Asked last: while the process is not gone, what was read under its pid is its own.
        if stat.start_ticks != start_ticks || !as_found || process.has_exited()? {
            return Ok(None);
        }
        let inode = if has_pidfs { Some(process.inode()?) } else { None };
        let leads_session = stat.session == pid;
        Ok(Some(Self { pid, start_ticks, leads_session, dead: false, denied: None, inode, process: Some(process) }))
    }

    /// Gives its file descriptor back. From now on it is opened, and its identity checked, each time.
    pub(super) fn release(&mut self) {
        self.process = None;
    }

    /// Whether it is seen to live now; so its pid is its own. A failure to look is no death.
    pub(super) fn lives(&mut self) -> bool {
        if !self.dead {
            self.dead = matches!(self.reach(ProcessFd::has_exited), Ok(Some(true) | None));
        }
        !self.dead
    }

    /// Sends `signal`. That it is gone is no failure.
    pub(super) fn signal(&mut self, signal: Signal) {
        match self.reach(|process| process.signal(signal)) {
            Ok(Some(())) => self.denied = None,
            Ok(None) | Err(Errno::SRCH) => self.dead = true,
            Err(errno) => self.denied = Some(errno),
        }
    }

    /// Whether no thread of it runs, as far as one look can tell.
    pub(super) fn is_halted(&self) -> bool {
        stat::threads(self.pid).is_ok_and(|mut threads| {
            threads.all(|tid| Stat::of_thread(self.pid, tid).map_or_else(|e| e == Errno::SRCH, Stat::is_halted))
        })
    }

    /// Acts on the process; none if it is gone.
    fn reach<T>(&self, act: impl FnOnce(&ProcessFd) -> Result<T, Errno>) -> Result<Option<T>, Errno> {
        match &self.process {
            Some(process) => act(process).map(Some),
            None => self.reopen()?.as_ref().map(act).transpose(),
        }
    }

    fn reopen(&self) -> Result<Option<ProcessFd>, Errno> {
        let process = match ProcessFd::open(self.pid) {
            Err(Errno::SRCH) => return Ok(None),
            process => process?,
        };
        let is_same = match self.inode {
            Some(inode) => process.inode()? == inode,
            None => match Stat::of_process(self.pid) {
                Err(Errno::SRCH) => false,
                stat => stat?.start_ticks == self.start_ticks,
            },
        };
        Ok((is_same && !process.has_exited()?).then_some(process))
    }
}

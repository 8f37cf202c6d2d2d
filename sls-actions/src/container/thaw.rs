//! Containers that are to go on after a time.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::cgroup::{Cgroup, is_gone};
use crate::confirm::deadline;

/// The most containers that wait to be thawed. While so many do, no other is paused: it would stay paused.
pub const MAX_PENDING_THAWS: usize = 256;

/// Counts of the containers that were to go on after a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ThawStats {
    /// Containers that were thawed.
    pub thawed: u64,
    /// Containers that could not be thawed. Those that had ended are not counted.
    pub failed: u64,
    /// Pauses that were not begun, because [`MAX_PENDING_THAWS`] waited.
    pub refused: u64,
}

/// A thread that thaws. When the queue is dropped, those that still wait are thawed at once: nobody else would.
#[derive(Debug)]
pub(super) struct ThawQueue {
    state: Arc<State>,
    after: Duration,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    thawed: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    cgroups: Vec<(Instant, Cgroup)>,
    closed: bool,
}

impl ThawQueue {
    pub(super) fn start(after: Duration) -> io::Result<Self> {
        let state = Arc::<State>::default();
        let worker = Arc::clone(&state);
        let thread = thread::Builder::new().name("sls-thaw".to_owned()).spawn(move || worker.run())?;
        Ok(Self { state, after, thread: Some(thread) })
    }

    /// Notes that `cgroup` is to be thawed; false if too many are.
    pub(super) fn push(&self, cgroup: Cgroup) -> bool {
        let mut waiting = self.state.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.cgroups.len() >= MAX_PENDING_THAWS {
            self.state.refused.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        waiting.cgroups.push((deadline(Instant::now(), self.after), cgroup));
        self.state.changed.notify_one();
        true
    }

    /// Forgets a container that was not paused after all, or that was thawed or ended.
    pub(super) fn forget(&self, id: u64) {
        let mut waiting = self.state.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.cgroups.retain(|(_, cgroup)| cgroup.id != id);
    }

    pub(super) fn stats(&self) -> ThawStats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let State { thawed, failed, refused, .. } = &*self.state;
        ThawStats { thawed: count(thawed), failed: count(failed), refused: count(refused) }
    }
}

impl Drop for ThawQueue {
    fn drop(&mut self) {
        self.state.waiting.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.state.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // It does not panic; if it did, there would be nothing to do about it here.
            let _ = thread.join();
        }
    }
}

impl State {
    fn run(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let now = Instant::now();
            let closed = waiting.closed;
            let due: Vec<_> = waiting.cgroups.extract_if(.., |(when, _)| closed || *when <= now).collect();
            if !due.is_empty() {
                drop(waiting);
                due.iter().for_each(|(_, cgroup)| self.thaw(cgroup));
                waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            if closed {
                return;
            }
            let next = waiting.cgroups.iter().map(|(when, _)| *when).min();
            waiting = match next {
                None => self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner),
                Some(next) => {
                    let pause = next.saturating_duration_since(now);
                    self.changed.wait_timeout(waiting, pause).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn thaw(&self, cgroup: &Cgroup) {
        match cgroup.write(super::FREEZE, "0") {
            Ok(()) => self.thawed.fetch_add(1, Ordering::Relaxed),
            Err(error) if is_gone(&error) => return,
            Err(_) => self.failed.fetch_add(1, Ordering::Relaxed),
        };
    }
}

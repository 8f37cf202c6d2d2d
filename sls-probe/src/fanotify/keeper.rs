//! The thread that keeps the time, and that nothing waits for ever.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::group::{BUFFER_BYTES, Verdict};
use super::held::Waiting;
use super::process::Processes;
use super::stats::count;

/// How long the keeper waits for questions while the reader is stuck, before it looks whether it still is.
const TAKEOVER_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };

/// Rouses the keeper when there is something to keep the time of.
#[derive(Clone, Debug)]
pub(super) struct Keeper {
    thread: Thread,
    active: Arc<AtomicBool>,
}

impl Keeper {
    /// It takes a second system call to wake the keeper, so that is done only after a pause.
    pub(super) fn rouse(&self) {
        if !self.active.swap(true, Ordering::AcqRel) {
            self.thread.unpark();
        }
    }

    pub(super) fn wake(&self) {
        self.thread.unpark();
    }
}

/// Starts the keeper. It ends when `stopped` is set.
pub(super) fn start(waiting: Arc<Waiting>, stopped: Arc<AtomicBool>) -> std::io::Result<(Keeper, JoinHandle<()>)> {
    let active = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&active);
    let thread = thread::Builder::new().name("sls-keeper".to_owned()).spawn(move || keep(&waiting, &stopped, &seen))?;
    Ok((Keeper { thread: thread.thread().clone(), active }, thread))
}

fn keep(waiting: &Waiting, stopped: &AtomicBool, active: &AtomicBool) {
    let mut processes = Processes::new();
    let mut questions = 0;
    while !stopped.load(Ordering::Acquire) {
        let now = Instant::now();
        let expiry = waiting.expire(now);
        if expiry.reader_is_stuck {
            stand_in(waiting, &mut processes);
            continue;
        }
        let asked = waiting.counters.questions.load(Ordering::Relaxed);
        let pause = match expiry.next {
            Some(next) => next.saturating_duration_since(now),
            // Whatever comes now has at least that long.
            None if asked != questions => waiting.deadline(),
            None => {
                active.store(false, Ordering::Release);
                // What came before that was seen or else comes with a call.
                if waiting.expire(now).next.is_none() && !active.load(Ordering::Acquire) {
                    thread::park();
                }
                Duration::ZERO
            }
        };
        questions = asked;
        if !pause.is_zero() {
            thread::park_timeout(pause);
        }
    }
}

/// Answers for the reader, which may be waiting for the answer to a question of its own.
fn stand_in(waiting: &Waiting, processes: &mut Processes) {
    let own = std::process::id();
    let mut buffer = [0; BUFFER_BYTES];
    let mut fds = [PollFd::from_borrowed_fd(waiting.group.as_fd(), PollFlags::IN)];
    if poll(&mut fds, Some(&TAKEOVER_WAIT)).unwrap_or(0) == 0 {
        return;
    }
    let Ok(questions) = waiting.group.read(&mut buffer) else { return };
    count(&waiting.counters.takeovers);
    for question in questions.flatten() {
        count(&waiting.counters.questions);
        let mut is_child = |pid| processes.stat(pid).is_some_and(|stat| processes.is_own(stat));
        if question.pid == own || is_child(question.pid) {
            count(&waiting.counters.own);
            waiting.answer(&question, Verdict::Allow);
        } else {
            count(&waiting.counters.late);
            waiting.answer(&question, waiting.default_mode().verdict());
        }
    }
}

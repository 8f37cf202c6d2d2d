//! The observation of a signal's effect.

use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::io::Errno;
use sls_core::{ActionOutcome, ActionResult, Confirmation, PlannedAction, Tier};

use crate::errno;
use crate::pidfd::ProcessFd;
use crate::stat::{self, Stat};

/// How long the effect of an action is waited for, unless the builder says otherwise. Death and stop are seen within a
/// fraction of a millisecond; a process that takes longer hangs in the kernel or is held by a tracer.
pub const DEFAULT_CONFIRM_TIMEOUT: Duration = Duration::from_secs(1);

/// Pause before the second look at a process's threads; it doubles from look to look.
const FIRST_PAUSE: Duration = Duration::from_micros(50);

/// The longest pause between two looks.
const LONGEST_PAUSE: Duration = Duration::from_millis(5);

/// The end of a wait for `timeout` from `since` on. A time that cannot be told is further away than anyone will wait.
pub(crate) fn deadline(since: Instant, timeout: Duration) -> Instant {
    since.checked_add(timeout).unwrap_or(since + Duration::from_secs(u32::MAX.into()))
}

/// What a signal is to bring about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Every thread of the process is dead.
    Ended,
    /// No thread runs.
    Stopped,
    /// No thread is stopped.
    Continued,
}

impl Effect {
    fn missing(self, timeout: Duration) -> String {
        match self {
            Self::Ended => format!("the process did not end within {timeout:?}"),
            Self::Stopped => format!("not every thread of the process stopped within {timeout:?}"),
            Self::Continued => format!("not every thread of the process continued within {timeout:?}"),
        }
    }
}

/// A signal that was sent, and how to see its effect. It holds the process, so its pid cannot mislead.
#[derive(Debug)]
pub(crate) struct SentSignal {
    process: ProcessFd,
    pid: u32,
    effect: Effect,
    timeout: Duration,
    sent: Instant,
}

impl SentSignal {
    /// For a signal sent to `process`, whose pid is `pid`, just now.
    pub(crate) fn new(process: ProcessFd, pid: u32, effect: Effect, timeout: Duration) -> Self {
        Self { process, pid, effect, timeout, sent: Instant::now() }
    }

    /// The process, for who goes on with it.
    pub(crate) fn into_process(self) -> ProcessFd {
        self.process
    }

    /// Waits until the effect is seen, or for the time-out from the sending of the signal.
    pub(crate) fn observe(&self) -> ActionResult {
        let deadline = deadline(self.sent, self.timeout);
        let seen = match self.effect {
            Effect::Ended => self.process.wait_exit(deadline).map_err(io::Error::from),
            Effect::Stopped | Effect::Continued => self.wait_threads(deadline),
        };
        match seen {
            Ok(true) => ActionResult::Successful,
            Ok(false) => ActionResult::NotSuccessful { details: self.missing() },
            Err(error) => ActionResult::NotSuccessful { details: errno::io_text(&error) },
        }
    }

    /// Why the effect was not seen.
    fn missing(&self) -> String {
        let tracer = if self.effect == Effect::Stopped { self.tracer() } else { None };
        tracer.map_or_else(|| self.effect.missing(self.timeout), |tracer| format!("traced by pid {tracer}"))
    }

    /// The tracer of a thread that did not stop: it holds the thread, or has let it run on without the signal.
    fn tracer(&self) -> Option<u32> {
        stat::threads(self.pid).ok()?.find_map(|tid| {
            let runs = Stat::of_thread(self.pid, tid).is_ok_and(|stat| !stat.is_halted());
            if runs { stat::tracer(self.pid, tid) } else { None }
        })
    }

    /// Looks at the threads until they are as wanted twice in a row. Once is not enough: a thread that was made after
    /// the list of threads was read is not in it. When all of the first list have been seen stopped, the stop has
    /// reached the whole process and no thread can be made any more, so the second list is complete.
    fn wait_threads(&self, deadline: Instant) -> io::Result<bool> {
        let mut pause = FIRST_PAUSE;
        let mut looks_in_a_row = 0;
        loop {
            let as_wanted = self.look_at_threads();
            // While the process is there, its pid, under which the threads were looked up, is its own.
            if self.process.has_exited()? {
                return Ok(true);
            }
            looks_in_a_row = if matches!(as_wanted, Ok(true)) { looks_in_a_row + 1 } else { 0 };
            if looks_in_a_row == 2 {
                return Ok(true);
            }
            let now = Instant::now();
            if now >= deadline {
                return as_wanted.map(|_| false);
            }
            if looks_in_a_row == 0 {
                // Waiting on the process itself, so that its end cuts the pause short.
                self.process.wait_exit(deadline.min(now + pause))?;
                pause = LONGEST_PAUSE.min(pause * 2);
            }
        }
    }

    fn look_at_threads(&self) -> io::Result<bool> {
        let mut any = false;
        for tid in stat::threads(self.pid)? {
            let stat = match Stat::of_thread(self.pid, tid) {
                Err(Errno::SRCH) => continue,
                stat => stat?,
            };
            let as_wanted = match self.effect {
                Effect::Continued => !stat.is_stopped(),
                Effect::Stopped | Effect::Ended => stat.is_halted(),
            };
            if !as_wanted {
                return Ok(false);
            }
            any = true;
        }
        Ok(any)
    }
}

/// [`SentSignal`] for an action of a plan.
#[derive(Debug)]
pub(crate) struct SignalConfirmation {
    pub(crate) planned: PlannedAction,
    pub(crate) sent: SentSignal,
}

impl Confirmation for SignalConfirmation {
    fn wait(self: Box<Self>) -> ActionOutcome {
        let mut outcome = outcome_now(&self.planned, self.sent.observe());
        outcome.tier = Some(Tier::Process);
        outcome
    }
}

/// The outcome of `planned`, known at this moment.
pub(crate) fn outcome_now(planned: &PlannedAction, result: ActionResult) -> ActionOutcome {
    let mut outcome = ActionOutcome::new(planned, result);
    // A clock before 1970 is no time to report; one beyond 2554 does not fit.
    outcome.time =
        SystemTime::now().duration_since(UNIX_EPOCH).ok().and_then(|time| u64::try_from(time.as_nanos()).ok());
    outcome
}

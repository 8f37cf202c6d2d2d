//! The executor of `kill`, `kill-tree` and `stop`.

use std::io;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::Signal;
use sls_core::{
    Action, ActionContext, ActionResult, ActionSet, Execution, PlannedAction, Refusal, Responder, Target, Tier,
};
use thiserror::Error;

use crate::confirm::{DEFAULT_CONFIRM_TIMEOUT, Effect, SentSignal, SignalConfirmation, outcome_now};
use crate::errno::{self, NO_SUCH_PROCESS};
use crate::identity::{CLOCK_TICK_NS, own_ancestry, started_in_same_tick};
use crate::namespace::in_host_pid_namespace;
use crate::pidfd::ProcessFd;
use crate::stat::Stat;
use crate::tree::{MAX_TREE_PROCESSES, TreeConfirmation, TreeJob, TreeWorker};

/// Details of every action that is asked for outside the host's PID namespace.
pub const NOT_IN_HOST_PID_NAMESPACE: &str = "the sensor is not in the host's PID namespace";

/// The guard that keeps an action from a process which was given the target's pid.
const ANOTHER_PROCESS: &str = "process-identity";

pub(crate) const NOT_SUPPORTED: &str = "not supported";

/// Why a [`ProcessResponder`] cannot be built.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ResponderError {
    /// The sensor's PID namespace could not be told.
    #[error("cannot read the PID namespace of the sensor from /proc")]
    Namespace {
        /// What reading it gave.
        source: io::Error,
    },
    /// The kernel has no pidfds, or keeps the sensor from using them.
    #[error("cannot open a pidfd, which needs Linux 5.3")]
    Pidfd {
        /// What opening one gave.
        source: io::Error,
    },
    /// The sensor's own processes, which are never killed, could not be told.
    #[error("cannot tell the ancestors of the sensor")]
    Ancestry {
        /// What looking for them gave.
        source: io::Error,
    },
    /// `/proc` counts in other units than this crate does.
    #[error("the kernel counts {ticks_per_second} clock ticks a second in /proc, which is not supported")]
    ClockTick {
        /// What the kernel says.
        ticks_per_second: u64,
    },
}

/// Settings of a [`ProcessResponder`].
#[derive(Clone, Debug)]
#[must_use]
pub struct ProcessResponderBuilder {
    confirm_timeout: Duration,
}

impl ProcessResponderBuilder {
    /// How long the effect of an action is waited for, from the sending of the signal. The default is
    /// [`DEFAULT_CONFIRM_TIMEOUT`], one second.
    pub fn confirm_timeout(mut self, timeout: Duration) -> Self {
        self.confirm_timeout = timeout;
        self
    }

    /// The responder. Outside the host's PID namespace it can be built, but each of its actions fails.
    ///
    /// # Errors
    /// When the kernel or `/proc` lacks what every action needs.
    pub fn build(self) -> Result<ProcessResponder, ResponderError> {
        let ticks_per_second = rustix::param::clock_ticks_per_second();
        if ticks_per_second.checked_mul(CLOCK_TICK_NS) != Some(1_000_000_000) {
            return Err(ResponderError::ClockTick { ticks_per_second });
        }
        let in_host_pid_namespace = in_host_pid_namespace().map_err(|source| ResponderError::Namespace { source })?;
        let has_pidfs = ProcessFd::open(std::process::id())
            .and_then(|own| own.is_on_pidfs())
            .map_err(|errno| ResponderError::Pidfd { source: errno.into() })?;
        let ancestry = own_ancestry().map_err(|source| ResponderError::Ancestry { source })?;
        let worker = TreeWorker::new(self.confirm_timeout, ancestry, has_pidfs);
        Ok(ProcessResponder { confirm_timeout: self.confirm_timeout, in_host_pid_namespace, has_pidfs, worker })
    }
}

/// Carries out `kill`, `kill-tree` and `stop` on processes. The [crate documentation](crate) says how, and what it promises.
///
/// From the call of [`Responder::execute`] to the signal it takes no lock and allocates nothing, unless to put a failure
/// into words; then it allocates once, for the confirmation. With `kill-tree` that first signal stops the root of the tree,
/// and a thread of the responder does the rest; it is started when it is needed first.
#[derive(Debug)]
pub struct ProcessResponder {
    confirm_timeout: Duration,
    in_host_pid_namespace: bool,
    has_pidfs: bool,
    worker: TreeWorker,
}

impl ProcessResponder {
    /// The actions that it can carry out.
    pub const ACTIONS: &'static [Action] = &[Action::Stop, Action::Kill, Action::KillTree];

    /// Default settings.
    pub fn builder() -> ProcessResponderBuilder {
        ProcessResponderBuilder { confirm_timeout: DEFAULT_CONFIRM_TIMEOUT }
    }

    /// Whether actions can be taken, which needs the host's PID namespace: what
    /// [`in_host_pid_namespace`] said when the responder was built.
    #[must_use]
    pub fn can_act(&self) -> bool {
        self.in_host_pid_namespace
    }

    /// Undoes `stop`: continues the process (SIGCONT) after the same checks, and waits until no thread is stopped.
    #[must_use]
    pub fn resume(&self, target: &Target) -> ActionResult {
        match self.send(target, Signal::CONT, Effect::Continued) {
            Ok(sent) => sent.observe(),
            Err(result) => result,
        }
    }

    fn start(&self, planned: &PlannedAction) -> Result<SentSignal, ActionResult> {
        if let Some(withheld) = ActionResult::withheld(&planned.permission) {
            return Err(withheld);
        }
        match planned.action {
            Action::Kill => self.send(&planned.target, Signal::KILL, Effect::Ended),
            Action::Stop => self.send(&planned.target, Signal::STOP, Effect::Stopped),
            _ => Err(ActionResult::not_successful(NOT_SUPPORTED)),
        }
    }

    /// Stops the root of the tree at once, and leaves the rest to the worker.
    fn start_tree(
        &mut self,
        planned: &PlannedAction,
        context: &ActionContext<'_>,
    ) -> Result<TreeConfirmation, ActionResult> {
        if let Some(withheld) = ActionResult::withheld(&planned.permission) {
            return Err(withheld);
        }
        let pid = match planned.target {
            Target::Process { key, .. } if self.worker.is_ancestor(key) => {
                return Err(refused(&Refusal::new("sensor", "the sensor and its ancestors are never acted upon")));
            }
            Target::Process { key, .. } => key.pid,
            _ => return Err(ActionResult::not_successful(NOT_SUPPORTED)),
        };
        let stopped = self.send(&planned.target, Signal::STOP, Effect::Stopped);
        let known: Vec<_> = context.descents().take(MAX_TREE_PROCESSES).collect();
        let root = match stopped {
            Ok(sent) => Some((sent.into_process(), pid)),
            // What it has left behind does not go with it.
            Err(gone) if !known.is_empty() && is_gone(&gone) => None,
            Err(result) => return Err(result),
        };
        self.worker.start(planned, TreeJob { root, known, protection: context.protection() })
    }

    fn send(&self, target: &Target, signal: Signal, effect: Effect) -> Result<SentSignal, ActionResult> {
        if !self.in_host_pid_namespace {
            return Err(ActionResult::not_successful(NOT_IN_HOST_PID_NAMESPACE));
        }
        let Target::Process { key, pidfd_inode } = *target else {
            return Err(ActionResult::not_successful(NOT_SUPPORTED));
        };
        // The planner has guards of its own; these hold for whoever plans.
        if key.pid <= 1 {
            return Err(refused(&Refusal::new("pid-1", "the first process is never signalled")));
        }
        if key.pid == std::process::id() {
            return Err(refused(&Refusal::new("self", "the sensor does not signal itself")));
        }
        let process = ProcessFd::open(key.pid).map_err(failed)?;
        if !self.is_same(&process, key.pid, key.start, pidfd_inode).map_err(failed)? {
            let pid = key.pid;
            let details = format!("{ANOTHER_PROCESS}: pid {pid} now belongs to another process");
            return Err(ActionResult::Refused { details });
        }
        // Asked after the identity, for it proves that of start times: while the process is not gone, its pid is its own.
        if process.has_exited().map_err(failed)? {
            return Err(ActionResult::not_successful(NO_SUCH_PROCESS));
        }
        process.signal(signal).map_err(failed)?;
        Ok(SentSignal::new(process, key.pid, effect, self.confirm_timeout))
    }

    /// The effect of what the kernel did to the target, still to be seen; none if the target is gone, which is seen.
    fn effect_on(&self, target: &Target, effect: Effect) -> Result<Option<SentSignal>, ActionResult> {
        if !self.in_host_pid_namespace {
            return Err(ActionResult::not_successful(NOT_IN_HOST_PID_NAMESPACE));
        }
        let Target::Process { key, pidfd_inode } = *target else {
            return Err(ActionResult::not_successful(NOT_SUPPORTED));
        };
        let opened = ProcessFd::open(key.pid)
            .and_then(|process| Ok((self.is_same(&process, key.pid, key.start, pidfd_inode)?, process)));
        match opened {
            Ok((true, process)) => Ok(Some(SentSignal::new(process, key.pid, effect, self.confirm_timeout))),
            // The pid is another's: its process is no more.
            Ok((false, _)) | Err(Errno::SRCH) => Ok(None),
            Err(errno) => Err(failed(errno)),
        }
    }

    /// Whether `process`, which had `pid` when it was opened, is the one that is meant. Compared by start time, the
    /// answer holds if the process has not ended after it was given.
    fn is_same(&self, process: &ProcessFd, pid: u32, start: u64, inode: Option<u64>) -> Result<bool, Errno> {
        match inode {
            Some(inode) if self.has_pidfs => Ok(process.inode()? == inode),
            _ => {
                let ticks = Stat::of_process(pid)?.start_ticks;
                Ok(ticks.checked_mul(CLOCK_TICK_NS).is_some_and(|found| started_in_same_tick(found, start)))
            }
        }
    }
}

impl Responder for ProcessResponder {
    fn supports(&self) -> ActionSet {
        Self::ACTIONS.iter().copied().collect()
    }

    fn execute(&mut self, planned: &PlannedAction, context: &ActionContext<'_>) -> Execution {
        if planned.action == Action::KillTree {
            return match self.start_tree(planned, context) {
                Ok(confirmation) => Execution::Pending(Box::new(confirmation)),
                Err(result) => Execution::Done(outcome_now(planned, result)),
            };
        }
        match self.start(planned) {
            Ok(sent) => Execution::Pending(Box::new(SignalConfirmation { planned: planned.clone(), sent })),
            Err(result) => Execution::Done(outcome_now(planned, result)),
        }
    }

    fn confirm(&mut self, planned: &PlannedAction, context: &ActionContext<'_>) -> Execution {
        let effect = match planned.action {
            Action::Kill => Effect::Ended,
            Action::Stop => Effect::Stopped,
            _ => return self.execute(planned, context),
        };
        match self.effect_on(&planned.target, effect) {
            Ok(Some(sent)) => Execution::Pending(Box::new(SignalConfirmation { planned: planned.clone(), sent })),
            Ok(None) => {
                let mut outcome = outcome_now(planned, ActionResult::Successful);
                outcome.tier = Some(Tier::Process);
                Execution::Done(outcome)
            }
            Err(result) => Execution::Done(outcome_now(planned, result)),
        }
    }
}

/// Whether the process that was meant is no more.
fn is_gone(result: &ActionResult) -> bool {
    match result {
        ActionResult::NotSuccessful { details } => details == NO_SUCH_PROCESS,
        ActionResult::Refused { details } => details.starts_with(ANOTHER_PROCESS),
        _ => false,
    }
}

fn failed(errno: Errno) -> ActionResult {
    ActionResult::NotSuccessful { details: errno::text(errno) }
}

fn refused(refusal: &Refusal) -> ActionResult {
    ActionResult::Refused { details: refusal.to_string() }
}

#[cfg(test)]
mod tests {
    use sls_core::{Event, EventKind, Permission, ProcessKey};

    use super::*;

    fn plan(action: Action, permission: Permission, pid: u32) -> PlannedAction {
        let key = ProcessKey { pid, start: crate::process_start(pid).unwrap_or(0) };
        PlannedAction::new(action, Target::Process { key, pidfd_inode: None }, permission)
    }

    fn result(planned: &PlannedAction) -> (&'static str, String) {
        let mut responder = ProcessResponder::builder().build().unwrap();
        let event = Event::new(EventKind::Exec);
        let outcome = responder.execute(planned, &ActionContext::new(&event)).finish();
        assert_eq!((outcome.action, outcome.target, outcome.tier), (planned.action, planned.target, None));
        assert!(outcome.time.is_some());
        (outcome.result.name(), outcome.result.details().to_owned())
    }

    #[test]
    fn documented_default_holds() {
        assert_eq!(ProcessResponder::builder().confirm_timeout, Duration::from_secs(1));
    }

    #[test]
    fn supports_what_it_executes() {
        let supported = ProcessResponder::builder().build().unwrap().supports();
        for action in Action::ALL {
            let (name, details) = result(&plan(*action, Permission::Granted, std::process::id()));
            if *action == Action::KillTree {
                let refusal = "sensor: the sensor and its ancestors are never acted upon";
                assert_eq!((name, &*details), ("refused", refusal));
            } else if supported.contains(*action) {
                assert_eq!((name, &*details), ("refused", "self: the sensor does not signal itself"));
            } else {
                assert_eq!((name, &*details), ("not successful", NOT_SUPPORTED));
            }
        }
    }

    #[test]
    fn acts_only_with_permission() {
        let no = Refusal::new("container-runtime", "it is protected");
        for action in [Action::Kill, Action::Stop, Action::KillTree] {
            assert_eq!(result(&plan(action, Permission::DryRun, std::process::id())), ("dry run", String::new()));
            assert_eq!(
                result(&plan(action, Permission::Refused(no.clone()), std::process::id())),
                ("refused", "container-runtime: it is protected".to_owned())
            );
        }
    }

    #[test]
    fn never_the_first_process() {
        for pid in [0, 1] {
            let (name, details) = result(&plan(Action::Kill, Permission::Granted, pid));
            assert_eq!((name, &*details), ("refused", "pid-1: the first process is never signalled"));
        }
    }

    #[test]
    fn what_the_kernel_did_is_observed_and_not_done_again() {
        let mut responder = ProcessResponder::builder().confirm_timeout(Duration::from_millis(20)).build().unwrap();
        let event = Event::new(EventKind::Exec);
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let planned = plan(Action::Kill, Permission::Granted, child.id());
        let mut confirm = || responder.confirm(&planned, &ActionContext::new(&event)).finish();
        assert_eq!(confirm().result.details(), "the process did not end within 20ms");
        child.kill().unwrap();
        let ended = confirm();
        assert_eq!((ended.result, ended.tier), (ActionResult::Successful, Some(Tier::Process)));
        child.wait().unwrap();
        assert_eq!(confirm().result, ActionResult::Successful, "it is gone");
    }

    #[test]
    fn numbers_that_are_no_pids_are_no_process() {
        for pid in [i32::MAX as u32, i32::MAX as u32 + 1, u32::MAX] {
            let (name, details) = result(&plan(Action::Kill, Permission::Granted, pid));
            assert_eq!((name, &*details), ("not successful", NO_SUCH_PROCESS));
        }
    }

    #[test]
    fn can_be_moved_to_the_thread_that_reads_events() {
        fn is_send_and_sync<T: Send + Sync>() {}
        is_send_and_sync::<ProcessResponder>();
        is_send_and_sync::<SignalConfirmation>();
    }
}

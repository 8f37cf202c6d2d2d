//! The executor of `kill-container` and `pause-container`.

pub(crate) mod cgroup;
mod effect;
mod freezer;
mod guard;
mod thaw;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sls_core::{
    Action, ActionContext, ActionOutcome, ActionResult, ActionSet, Confirmation, Execution, PlannedAction, Protection,
    Responder, Target, Tier,
};
use thiserror::Error;

#[cfg(fuzzing)]
pub(crate) use cgroup::unified_mount_point_in;
pub use cgroup::{MAX_CONTAINER_CGROUP_DEPTH, MAX_CONTAINER_CGROUPS, MAX_CONTAINER_PROCESSES};
pub use thaw::{MAX_PENDING_THAWS, ThawStats};

use crate::confirm::{deadline, outcome_now};
use crate::errno;
use crate::namespace::in_host_pid_namespace;
use crate::responder::{NOT_IN_HOST_PID_NAMESPACE, NOT_SUPPORTED};
use cgroup::{Cgroup, Hierarchy, Limits};
use effect::Observed;
use thaw::ThawQueue;

/// How long the end or the pause of a container is waited for, unless the builder says otherwise. It takes longer than
/// that of a process: a container can have thousands.
pub const DEFAULT_CONTAINER_TIMEOUT: Duration = Duration::from_secs(5);

/// The most processes and cgroups for which the guards are asked on the thread that reads events. What more of them take,
/// some ten microseconds each, is left to the confirmation.
const IMMEDIATE: Limits = Limits { processes: 64, cgroups: 16 };

/// The file that freezes a cgroup.
const FREEZE: &str = "cgroup.freeze";

/// Details of an action on a container that has ended.
pub const CONTAINER_IS_GONE: &str = "the container is gone";

/// Details of [`ContainerResponder::thaw`] for a container that is not paused.
pub const CONTAINER_NOT_PAUSED: &str = "the container is not paused";

/// Why a [`ContainerResponder`] cannot be built.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ContainerResponderError {
    /// The sensor's PID namespace could not be told.
    #[error("cannot read the PID namespace of the sensor from /proc")]
    Namespace {
        /// What reading it gave.
        source: io::Error,
    },
    /// The thread that thaws containers could not be started.
    #[error("cannot start the thread that thaws containers")]
    Thread {
        /// What starting it gave.
        source: io::Error,
    },
}

/// Settings of a [`ContainerResponder`].
#[derive(Clone, Debug)]
#[must_use]
pub struct ContainerResponderBuilder {
    confirm_timeout: Duration,
    thaw_after: Option<Duration>,
    cgroup_kill: bool,
}

impl ContainerResponderBuilder {
    /// How long the effect of an action is waited for. The default is [`DEFAULT_CONTAINER_TIMEOUT`], five seconds.
    pub fn confirm_timeout(mut self, timeout: Duration) -> Self {
        self.confirm_timeout = timeout;
        self
    }

    /// Thaws what `pause-container` paused, after this time or when the responder is dropped. Without it, which is the
    /// default, containers stay paused until someone thaws them. At most [`MAX_PENDING_THAWS`] wait at a time.
    pub fn thaw_after(mut self, time: Duration) -> Self {
        self.thaw_after = Some(time);
        self
    }

    /// Whether `cgroup.kill` is used where the kernel has it (Linux 5.14), which is the default. Without it the processes
    /// are signalled one by one, as on older kernels.
    pub fn cgroup_kill(mut self, on: bool) -> Self {
        self.cgroup_kill = on;
        self
    }

    /// The responder. Where actions cannot be taken it can be built, but each of them fails and says why.
    ///
    /// # Errors
    /// When `/proc` cannot be read or no thread can be started.
    pub fn build(self) -> Result<ContainerResponder, ContainerResponderError> {
        let in_host_pid_namespace =
            in_host_pid_namespace().map_err(|source| ContainerResponderError::Namespace { source })?;
        let thaws = self.thaw_after.map(ThawQueue::start).transpose();
        let shared = Shared {
            hierarchy: Hierarchy::unified()
                .map_err(|error| format!("cgroup version 2 cannot be used: {}", errno::io_text(&error))),
            freezer: Hierarchy::freezer().ok(),
            in_host_pid_namespace,
            confirm_timeout: self.confirm_timeout,
            cgroup_kill: self.cgroup_kill,
            thaws: thaws.map_err(|source| ContainerResponderError::Thread { source })?,
        };
        Ok(ContainerResponder { shared: Arc::new(shared) })
    }
}

/// Carries out `kill-container` and `pause-container`, on the cgroup of version 2 that a container has. The
/// [crate documentation](crate) says how, and what it promises.
///
/// [`Responder::execute`] finds the cgroup, asks the guards and acts, if the container has no more than some dozens of
/// processes. What takes longer is left to the confirmation.
#[derive(Debug)]
pub struct ContainerResponder {
    shared: Arc<Shared>,
}

/// What actions under way need too.
#[derive(Debug)]
struct Shared {
    hierarchy: Result<Hierarchy, String>,
    freezer: Option<Hierarchy>,
    in_host_pid_namespace: bool,
    confirm_timeout: Duration,
    cgroup_kill: bool,
    thaws: Option<ThawQueue>,
}

impl ContainerResponder {
    /// The actions that it can carry out.
    pub const ACTIONS: &'static [Action] = &[Action::PauseContainer, Action::KillContainer];

    /// Default settings.
    pub fn builder() -> ContainerResponderBuilder {
        ContainerResponderBuilder { confirm_timeout: DEFAULT_CONTAINER_TIMEOUT, thaw_after: None, cgroup_kill: true }
    }

    /// Whether actions can be taken: the sensor is in the host's PID namespace, and cgroup version 2 is mounted. Whether it
    /// may be written to is seen when it is.
    #[must_use]
    pub fn can_act(&self) -> bool {
        self.shared.in_host_pid_namespace && self.shared.hierarchy.is_ok()
    }

    /// What became of containers that were to go on after a time.
    #[must_use]
    pub fn thaw_stats(&self) -> ThawStats {
        self.shared.thaws.as_ref().map(ThawQueue::stats).unwrap_or_default()
    }

    /// Undoes `pause-container`: lets the container whose cgroup has this id go on, and waits until it does. The container
    /// may also have been paused by another. It is `not successful` for one that is not paused.
    #[must_use]
    pub fn thaw(&self, cgroup_id: u64) -> ActionResult {
        let hierarchy = match &self.shared.hierarchy {
            Ok(hierarchy) => hierarchy,
            Err(why) => return ActionResult::not_successful(why),
        };
        match find(hierarchy, cgroup_id) {
            Ok(cgroup) => {
                let result = effect::thaw(&cgroup, self.shared.confirm_timeout);
                if let (Some(thaws), ActionResult::Successful) = (&self.shared.thaws, &result) {
                    thaws.forget(cgroup_id);
                }
                result
            }
            Err(result) => result,
        }
    }

    fn start(&self, planned: &PlannedAction, context: &ActionContext<'_>) -> Result<Work, ActionResult> {
        if let Some(withheld) = ActionResult::withheld(&planned.permission) {
            return Err(withheld);
        }
        let Target::Container { cgroup_id } = planned.target else {
            return Err(ActionResult::not_successful(NOT_SUPPORTED));
        };
        if !Self::ACTIONS.contains(&planned.action) {
            return Err(ActionResult::not_successful(NOT_SUPPORTED));
        }
        if !self.shared.in_host_pid_namespace {
            return Err(ActionResult::not_successful(NOT_IN_HOST_PID_NAMESPACE));
        }
        let hierarchy = self.shared.hierarchy.as_ref().map_err(ActionResult::not_successful)?;
        guard::refuse_own(hierarchy, cgroup_id)?;
        // Where the process is now, if it still is: a hint, for the id decides.
        let path = cgroup::path_of(context.event().process.pid, <[u8]>::is_empty);
        let cgroup = path.and_then(|path| hierarchy.find_at(&path, cgroup_id));
        let mut work = Work {
            shared: Arc::clone(&self.shared),
            planned: planned.clone(),
            cgroup_id,
            protection: context.protection(),
            cgroup,
            struck: false,
        };
        work.strike(IMMEDIATE)?;
        Ok(work)
    }
}

impl Responder for ContainerResponder {
    fn supports(&self) -> ActionSet {
        Self::ACTIONS.iter().copied().collect()
    }

    fn execute(&mut self, planned: &PlannedAction, context: &ActionContext<'_>) -> Execution {
        match self.start(planned, context) {
            Ok(work) => Execution::Pending(Box::new(work)),
            Err(result) => Execution::Done(outcome_now(planned, result)),
        }
    }
}

/// An action under way.
#[derive(Debug)]
struct Work {
    shared: Arc<Shared>,
    planned: PlannedAction,
    cgroup_id: u64,
    protection: Protection,
    /// None if it was not found where the process is, and has to be searched for.
    cgroup: Option<Cgroup>,
    /// Whether the container was acted upon.
    struck: bool,
}

impl Work {
    /// Asks the guards and acts, if the container is known and not larger than `limits`.
    fn strike(&mut self, limits: Limits) -> Result<(), ActionResult> {
        let Some(cgroup) = &self.cgroup else { return Ok(()) };
        if effect::is_empty(cgroup).map_err(|error| effect::failed(&error, "cannot look at the container"))? {
            return Err(ActionResult::not_successful(CONTAINER_IS_GONE));
        }
        let Some(members) = guard::members(cgroup, &self.protection, limits)? else { return Ok(()) };
        match self.planned.action {
            Action::KillContainer => effect::kill(cgroup, &members, self.shared.cgroup_kill)?,
            _ => effect::freeze(cgroup, self.shared.thaws.as_ref())?,
        }
        self.struck = true;
        Ok(())
    }

    fn finish(&mut self) -> Result<(), ActionResult> {
        let end = deadline(Instant::now(), self.shared.confirm_timeout);
        if self.cgroup.is_none() {
            let hierarchy = self.shared.hierarchy.as_ref().map_err(ActionResult::not_successful)?;
            self.cgroup = Some(find(hierarchy, self.cgroup_id)?);
        }
        if !self.struck {
            self.strike(Limits::MAX)?;
        }
        let Some(cgroup) = &self.cgroup else { return Err(ActionResult::not_successful(CONTAINER_IS_GONE)) };
        if self.planned.action == Action::PauseContainer {
            return effect::wait_frozen(cgroup, end, self.shared.confirm_timeout);
        }
        let mut why = String::new();
        loop {
            match effect::wait_empty(cgroup, end)? {
                Observed::Seen => {
                    if let Some(thaws) = &self.shared.thaws {
                        thaws.forget(cgroup.id);
                    }
                    return Ok(());
                }
                Observed::TimedOut => {
                    return Err(effect::survivors(cgroup, self.shared.confirm_timeout, &why));
                }
                Observed::NotYet => {}
            }
            // Someone has joined the container, or the freezer of version 1 holds its processes.
            let Some(members) = guard::members(cgroup, &self.protection, Limits::MAX)? else { continue };
            // First the signal and then the thaw: what is thawed runs no instruction of its own any more.
            effect::kill(cgroup, &members, self.shared.cgroup_kill)?;
            if let Some(freezer) = &self.shared.freezer {
                why = freezer::thaw(freezer, &members.0).err().unwrap_or_default();
            }
        }
    }
}

impl Confirmation for Work {
    fn wait(mut self: Box<Self>) -> ActionOutcome {
        let result = self.finish().err().unwrap_or(ActionResult::Successful);
        let mut outcome = outcome_now(&self.planned, result);
        outcome.tier = self.struck.then_some(Tier::Process);
        outcome
    }
}

/// The cgroup with this id, wherever it is.
fn find(hierarchy: &Hierarchy, id: u64) -> Result<Cgroup, ActionResult> {
    match hierarchy.search(id) {
        Ok(Some(cgroup)) => Ok(cgroup),
        Ok(None) => Err(ActionResult::not_successful(CONTAINER_IS_GONE)),
        Err(error) => Err(effect::failed(&error, "cannot search for the container's cgroup")),
    }
}

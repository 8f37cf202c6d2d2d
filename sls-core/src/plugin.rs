//! The traits that connect the engine to the world. The engine calls [`Responder`] and, later, its [`Confirmation`]; a
//! host polls an [`EventSource`], hands what it gives to the engine, and the alerts to an [`AlertSink`]. `sls-probe`,
//! `sls-actions` and embedders implement them.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::action::{ActionOutcome, ActionSet, PlannedAction, Refusal};
use crate::alert::Alert;
use crate::event::{Event, EventKind, ProcessKey};
use crate::hook::{Hook, Mechanism};
use crate::loss::{Loss, Shedding};
use crate::planner::ActionPlanner;
use crate::policy::{Policy, PolicyType};
use crate::process_table::ProcessTable;
use crate::schema::FieldSet;

/// An error from outside the engine.
pub type BoxError = Box<dyn Error + Send + Sync + 'static>;

/// Whether a source can give more events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SourceStatus {
    /// More may come.
    Open,
    /// The source has ended; polling it again gives nothing.
    Ended,
}

/// Where events come from.
pub trait EventSource: fmt::Debug + Send {
    /// Waits up to `timeout` for events and hands each to `handle`, in the order in which they happened as far as the
    /// source can tell. The event is lent: its memory is used again for the next one. The handler may add to it.
    ///
    /// # Errors
    /// When the source is broken; events before that were handled.
    fn poll(&mut self, timeout: Duration, handle: &mut dyn FnMut(&mut Event)) -> Result<SourceStatus, BoxError>;

    /// Which fields the source can fill in events of `kind`; a policy that needs another cannot work on it.
    fn provides(&self, kind: EventKind) -> FieldSet;

    /// Why the source cannot give what raises policies of a type: the hook that is missing, and the kernel option that
    /// would bring it. None if it can, or if there is no more to say than [`EventSource::provides`] does.
    fn unavailable(&self, _policy_type: PolicyType) -> Option<String> {
        None
    }

    /// Gives what was lost since the last call, as far as it was not told yet. To be called about every second, and what it
    /// gives handed to [`Engine::report_losses`](crate::Engine::report_losses). By default a source loses nothing.
    ///
    /// # Errors
    /// When the source cannot tell.
    fn losses(&mut self, _handle: &mut dyn FnMut(Loss)) -> Result<(), BoxError> {
        Ok(())
    }

    /// Begins to go through all processes that run, and gives a `baseline` event for each in the polls to come, beside the
    /// other events. False if it cannot, which is the default. What it began before and has not finished begins anew.
    ///
    /// Every process that runs from this call until the end of the pass has to have its event in it: processes of which none
    /// comes are taken to have ended. See [`Engine::repair`](crate::Engine::repair), which calls it.
    ///
    /// # Errors
    /// When it could not begin.
    fn reread_processes(&mut self) -> Result<bool, BoxError> {
        Ok(false)
    }

    /// Whether every event of the pass that was begun last has been given.
    ///
    /// # Errors
    /// When the pass could not be finished. What it gave is true, but processes may be missing.
    fn reread_done(&mut self) -> Result<bool, BoxError> {
        Ok(true)
    }

    /// Leaves out what `shedding` says from now on, and counts it ([`LossCause::Shed`](crate::LossCause::Shed)). By default a
    /// source sheds nothing.
    ///
    /// # Errors
    /// When the source cannot; it goes on as before.
    fn shed(&mut self, _shedding: Shedding) -> Result<(), BoxError> {
        Ok(())
    }

    /// Where the source can have operations decided before they happen, as [`PolicySet::tiers`](crate::PolicySet::tiers) says of each policy. By
    /// default nowhere.
    fn hooks(&self) -> Vec<Hook> {
        Vec::new()
    }

    /// Why a mechanism offers no hook: what the kernel lacks, and which option would bring it.
    fn no_mechanism(&self, _mechanism: Mechanism) -> Option<String> {
        None
    }
}

/// Carries planned actions out.
///
/// The engine calls [`Responder::execute`] only with a granted permission, from the thread that reads events, before
/// anything else is done about the detection: an implementation acts at once and leaves slow confirmation to the
/// returned [`Execution`].
pub trait Responder: fmt::Debug + Send {
    /// Which actions it can carry out; a policy that asks for another cannot work with it.
    fn supports(&self) -> ActionSet;

    /// Starts `action`.
    fn execute(&mut self, action: &PlannedAction, context: &ActionContext<'_>) -> Execution;

    /// Observes the effect of `action`, which the kernel has already taken on that target ([`Event::enforced`]). Without an
    /// answer of its own a responder takes it once more.
    fn confirm(&mut self, action: &PlannedAction, context: &ActionContext<'_>) -> Execution {
        self.execute(action, context)
    }
}

/// What a responder may want to know besides the target: of what the action is the answer, and whom it must spare.
#[derive(Clone, Copy)]
pub struct ActionContext<'a> {
    event: &'a Event,
    policy: Option<&'a Policy>,
    planner: Option<&'a Arc<dyn ActionPlanner>>,
    processes: Option<&'a ProcessTable>,
    alert_id: &'a dyn Fn() -> Uuid,
}

impl<'a> ActionContext<'a> {
    /// For an action that answers `event`, without guards and known processes: an engine gives a whole one.
    #[must_use]
    pub fn new(event: &'a Event) -> Self {
        Self { event, policy: None, planner: None, processes: None, alert_id: &Uuid::nil }
    }

    /// With the policy that asks for the action.
    #[must_use]
    pub fn policy(self, policy: &'a Policy) -> Self {
        Self { policy: Some(policy), ..self }
    }

    /// With the planner whose guards the action must respect.
    #[must_use]
    pub fn planner(self, planner: &'a Arc<dyn ActionPlanner>) -> Self {
        Self { planner: Some(planner), ..self }
    }

    /// With the processes that are known.
    #[must_use]
    pub fn processes(self, processes: &'a ProcessTable) -> Self {
        Self { processes: Some(processes), ..self }
    }

    /// With what gives the uuid of the alert. It is asked only by those who need it, for making one takes time.
    #[must_use]
    pub fn alert_id(self, alert_id: &'a dyn Fn() -> Uuid) -> Self {
        Self { alert_id, ..self }
    }

    /// The event.
    #[must_use]
    pub fn event(&self) -> &'a Event {
        self.event
    }

    /// Name of the policy that asks for the action; empty if it is not known.
    #[must_use]
    pub fn policy_name(&self) -> &'a str {
        self.policy.map_or("", |policy| &policy.name)
    }

    /// The uuid of the alert that will report the action.
    #[must_use]
    pub fn alert_uuid(&self) -> Uuid {
        (self.alert_id)()
    }

    /// The living processes that are known to descend from the process of the event, also where their parents are gone.
    pub fn descendants(&self) -> impl Iterator<Item = ProcessKey> {
        self.processes.into_iter().flat_map(|table| table.descendants(self.event.process))
    }

    /// [`ActionContext::descendants`], each after the nearest of its ancestors that lives as far as is known. That need not
    /// be its parent, which may have ended.
    pub fn descents(&self) -> impl Iterator<Item = (ProcessKey, ProcessKey)> {
        self.processes.into_iter().flat_map(|table| {
            let origin = |key| table.lineage(key).find(|ancestor| !ancestor.exited()).map(|ancestor| ancestor.key());
            let root = self.event.process;
            table.descendants(root).map(move |key| (origin(key).unwrap_or(root), key))
        })
    }

    /// Who is to be spared, to be asked on any thread.
    #[must_use]
    pub fn protection(&self) -> Protection {
        Protection(self.planner.cloned())
    }
}

impl fmt::Debug for ActionContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActionContext")
            .field("event", self.event)
            .field("planner", &self.planner)
            .finish_non_exhaustive()
    }
}

/// The guards of the planner that made a plan.
#[derive(Clone, Debug, Default)]
pub struct Protection(Option<Arc<dyn ActionPlanner>>);

impl Protection {
    /// The guard, if any, that protects the acting process of `event`, which tells what is known about that process: its
    /// identity, program, cgroup and namespaces, and whether it is a kernel thread.
    #[must_use]
    pub fn refusal(&self, event: &Event) -> Option<Refusal> {
        self.0.as_ref()?.protects(event)
    }

    /// The guard, if any, that protects the file with this resolved path on the host.
    #[must_use]
    pub fn refusal_of_path(&self, path: &[u8]) -> Option<Refusal> {
        self.0.as_ref()?.protects_path(path)
    }
}

/// An action under way.
#[derive(Debug)]
#[non_exhaustive]
pub enum Execution {
    /// The result is known.
    Done(ActionOutcome),
    /// It was started; its effect is still to be seen.
    Pending(Box<dyn Confirmation>),
}

impl Execution {
    /// Waits until the result is known.
    #[must_use]
    pub fn finish(self) -> ActionOutcome {
        match self {
            Self::Done(outcome) => outcome,
            Self::Pending(confirmation) => confirmation.wait(),
        }
    }
}

/// Observes the effect of an action.
pub trait Confirmation: fmt::Debug + Send {
    /// Waits, for a bounded time, until the effect is seen, and says what came of the action.
    fn wait(self: Box<Self>) -> ActionOutcome;
}

/// Where alerts go. A host gives it those whose `message_type` is not none: the others are of policies that act in
/// silence.
pub trait AlertSink: fmt::Debug + Send {
    /// Takes one alert.
    ///
    /// # Errors
    /// When the alert could not be delivered.
    fn emit(&mut self, alert: &Alert) -> Result<(), BoxError>;
}

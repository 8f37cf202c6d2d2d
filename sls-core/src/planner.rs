//! From a decision to a plan: pure, so that a dry run and a real run plan the same.

use std::cell::LazyCell;
use std::fmt;

use crate::action::{Action, MAX_CUSTOM_ACTIONS, Permission, PlannedAction, Refusal, Target, TargetType};
use crate::evaluate::Decision;
use crate::event::{Event, Value};
use crate::guard::Guards;
use crate::policy::OnUnknown;
use crate::schema::Field;

/// The most actions that one plan holds.
pub const MAX_ACTIONS: usize = Action::ALL.len() + MAX_CUSTOM_ACTIONS;

/// Under which message type an alert is emitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MessageType {
    /// A detection.
    Alert,
    /// Context of a detection.
    SmartPolicy,
    /// A record.
    Audit,
}

impl MessageType {
    /// Every message type.
    pub const ALL: &'static [Self] = &[Self::Alert, Self::SmartPolicy, Self::Audit];

    /// What an output takes unless told otherwise.
    pub const DEFAULT: &'static [Self] = &[Self::Alert, Self::SmartPolicy];

    /// The name in the configuration of outputs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Alert => "alert",
            Self::SmartPolicy => "smart_policy",
            Self::Audit => "audit",
        }
    }

    /// The message type called `name`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|message_type| message_type.name() == name)
    }
}

/// What a planner knows.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct PlanContext<'a> {
    /// The event.
    pub event: &'a Event,
    /// What a policy made of it.
    pub decision: Decision<'a>,
    /// Whether the sensor as a whole is in dry run.
    pub dry_run: bool,
    /// The guard that holds the policy in dry run, if one does; it is [`Permission::Held`] then.
    pub held: Option<&'a Refusal>,
}

impl<'a> PlanContext<'a> {
    /// What a planner is to know about a decision.
    #[must_use]
    pub fn new(event: &'a Event, decision: Decision<'a>, dry_run: bool) -> Self {
        Self { event, decision, dry_run, held: None }
    }
}

/// What is to be done about a decision. It lives on the stack: planning allocates nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Plan {
    /// The message type to report under; none reports nothing.
    pub report: Option<MessageType>,
    actions: [Option<PlannedAction>; MAX_ACTIONS],
    len: usize,
}

impl Plan {
    /// A plan that reports, and does nothing else.
    #[must_use]
    pub fn report(report: Option<MessageType>) -> Self {
        Self { report, ..Self::default() }
    }

    /// Adds an action after those that the plan has. Beyond [`MAX_ACTIONS`] the plan stays as it is.
    pub fn push(&mut self, action: PlannedAction) {
        if let Some(slot) = self.actions.get_mut(self.len) {
            *slot = Some(action);
            self.len += 1;
        }
    }

    /// The actions in the order in which they are carried out.
    pub fn actions(&self) -> impl Iterator<Item = &PlannedAction> {
        self.actions[..self.len].iter().flatten()
    }

    /// Whether an action is to be carried out.
    pub(crate) fn acts(&self) -> bool {
        self.actions().any(|planned| planned.permission == Permission::Granted)
    }

    /// Makes sure that no action is carried out, whatever the planner made of the guard.
    pub(crate) fn hold(&mut self, guard: &Refusal) {
        for planned in self.actions[..self.len].iter_mut().flatten() {
            if planned.permission == Permission::Granted {
                planned.permission = Permission::Held(guard.clone());
            }
        }
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.report.is_none() && self.len == 0
    }
}

/// Makes plans. It must be pure: the same context gives the same plan.
pub trait ActionPlanner: fmt::Debug + Send + Sync {
    /// The plan for one decision.
    fn plan(&self, context: &PlanContext<'_>) -> Plan;

    /// The guard, if any, that protects the acting process of `event`. Whoever carries out an action that reaches more than
    /// the process of its event asks for each: it makes an event of what it knows about that process.
    fn protects(&self, event: &Event) -> Option<Refusal>;

    /// The guard, if any, that protects the file with this resolved path on the host. Whoever acts on a file under another
    /// name than those of its event asks for it. Without guards of files there is none.
    fn protects_path(&self, _path: &[u8]) -> Option<Refusal> {
        None
    }
}

/// The planner that does what policies say, within guards.
#[derive(Clone, Debug, Default)]
pub struct GuardedPlanner {
    guards: Guards,
}

impl GuardedPlanner {
    /// A planner with these guards.
    #[must_use]
    pub fn new(guards: Guards) -> Self {
        Self { guards }
    }

    /// Its guards.
    #[must_use]
    pub fn guards(&self) -> &Guards {
        &self.guards
    }
}

impl ActionPlanner for GuardedPlanner {
    fn plan(&self, context: &PlanContext<'_>) -> Plan {
        let PlanContext { event, decision, dry_run, held } = context;
        let policy = decision.policy;
        let report = if policy.actions.contains(Action::Alert) {
            Some(MessageType::Alert)
        } else if policy.actions.contains(Action::Audit) {
            Some(MessageType::Audit)
        } else {
            None
        };
        match policy.on_unknown {
            _ if decision.certain => {}
            OnUnknown::Act => {}
            OnUnknown::Ignore => return Plan::default(),
            // Doubt is worth an alert even where the policy acts in silence.
            OnUnknown::Alert => return Plan::report(report.or(Some(MessageType::Alert))),
        }
        // The guards are asked once, and only if something is to be done.
        let guarded = LazyCell::new(|| self.guards.refusal(event));
        let mut plan = Plan::report(report);
        for action in policy.actions.iter() {
            let Some(target_type) = action.target_type() else { continue };
            let file_guard = || self.guards.file_refusal(event);
            let (target, refusal) = target(target_type, event, || LazyCell::force(&guarded).clone(), file_guard);
            let permission = match self.guards.action_refusal(action).or(refusal) {
                Some(refusal) => Permission::Refused(refusal),
                None if *dry_run || policy.dry_run => Permission::DryRun,
                None => held.map_or(Permission::Granted, |guard| Permission::Held(guard.clone())),
            };
            plan.push(PlannedAction::new(action, target, permission));
        }
        plan
    }

    fn protects(&self, event: &Event) -> Option<Refusal> {
        self.guards.refusal(event)
    }

    fn protects_path(&self, path: &[u8]) -> Option<Refusal> {
        self.guards.path_refusal(path)
    }
}

/// What an action acts on, and why it may not; `guarded` tells whether the guards protect the process, `file_guard` whether
/// they protect the file.
fn target(
    target_type: TargetType,
    event: &Event,
    guarded: impl Fn() -> Option<Refusal>,
    file_guard: impl Fn() -> Option<Refusal>,
) -> (Target, Option<Refusal>) {
    let refused = |guard: &'static str, reason: &'static str| (Target::Unidentified, Some(Refusal::new(guard, reason)));
    match target_type {
        TargetType::Process => (Target::Process { key: event.process, pidfd_inode: event.pidfd_inode }, guarded()),
        TargetType::Operation => (Target::Operation, guarded()),
        TargetType::Host => (Target::Host, None),
        TargetType::Container if event.value(Field::ContainerId) == Value::Absent => {
            refused("container", "the process runs outside a container")
        }
        // Not that of the process: it may be one below, or, where the container is not known for sure, one of the host.
        TargetType::Container => match event.container_cgroup_id {
            Some(cgroup_id) => (Target::Container { cgroup_id }, guarded()),
            None => refused("container-identity", "the event does not identify the container's cgroup"),
        },
        TargetType::File => match (event.number(Field::FileDevice), event.number(Field::FileInode)) {
            (Some(device), Some(inode)) => (Target::File { device, inode }, file_guard()),
            _ => refused("file-identity", "the event does not identify the file by device and inode"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Refusal;
    use crate::evaluate::{Matcher, TreeMatcher};
    use crate::event::{EventKind, ProcessKey};
    use crate::policy::PolicySet;
    use crate::schema::Field;

    fn plan(policy: &str, event: &Event, dry_run: bool) -> Option<Plan> {
        let set = PolicySet::from_yaml("p.yaml", policy).unwrap();
        let matcher = TreeMatcher::new(set.into());
        let planner = GuardedPlanner::default();
        let mut plan = None;
        matcher.decide(event, &mut |decision| plan = Some(planner.plan(&PlanContext::new(event, decision, dry_run))));
        plan
    }

    fn wget() -> Event {
        let mut event = Event::new(EventKind::Exec);
        event.process = ProcessKey { pid: 300, start: 5 };
        event.set_text(Field::ProgramName, b"/usr/bin/wget");
        event
    }

    const KILL: &str = "P:\n  policy: program\n  responseActions: [kill, stop, alert]\n  rules:\n  - match programName == '/usr/bin/wget'\n  - default ignore\n";

    fn kill(extra: &str) -> String {
        format!("{}{extra}", KILL.replace('\'', "\""))
    }

    #[test]
    fn actions_come_in_the_safe_order() {
        let plan = plan(&kill(""), &wget(), false).unwrap();
        assert_eq!(plan.report, Some(MessageType::Alert));
        let actions: Vec<_> = plan.actions().map(|action| (action.action, action.permission.clone())).collect();
        assert_eq!(actions, [(Action::Stop, Permission::Granted), (Action::Kill, Permission::Granted)]);
    }

    #[test]
    fn dry_run_of_the_policy_or_of_the_sensor() {
        for (extra, sensor) in [("  dryRun: true\n", false), ("", true)] {
            let plan = plan(&kill(extra), &wget(), sensor).unwrap();
            assert!(plan.actions().all(|action| action.permission == Permission::DryRun));
        }
    }

    #[test]
    fn guards_refuse_in_dry_run_too() {
        let mut event = wget();
        event.process.pid = 1;
        for dry_run in [false, true] {
            let plan = plan(&kill(""), &event, dry_run).unwrap();
            let refusal = Refusal::new("pid-1", "init is never acted upon");
            assert!(plan.actions().all(|action| action.permission == Permission::Refused(refusal.clone())));
        }
    }

    #[test]
    fn doubt_alerts_unless_told_otherwise() {
        let mut event = wget();
        event.clear(Field::ProgramName).mark_unknown(Field::ProgramName);
        let doubt = plan(&kill(""), &event, false).unwrap();
        assert_eq!((doubt.report, doubt.actions().count()), (Some(MessageType::Alert), 0));
        assert!(plan(&kill("  onUnknown: ignore\n"), &event, false).unwrap().is_empty());
        assert_eq!(plan(&kill("  onUnknown: act\n"), &event, false).unwrap().actions().count(), 2);
    }
}

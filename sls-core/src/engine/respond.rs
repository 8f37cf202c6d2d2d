//! From a decision to actions under way.

use std::sync::Arc;

use crate::action::{Action, ActionOutcome, ActionResult, Permission, PlannedAction, Tier};
use crate::alert::AlertContext;
use crate::enforcement::{Effect, Enforced, HeldDecision, HeldResponse};
use crate::evaluate::Decision;
use crate::event::{Event, EventKind};
use crate::planner::{ActionPlanner, Plan, PlanContext};
use crate::plugin::{ActionContext, Execution, Responder};
use crate::policy::Policy;
use crate::process_table::ProcessTable;
use crate::restraint::Restraints;
use crate::schema::{Field, FieldSet};

/// An action that was started, and the tier in which, where that is not for its responder to say.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) execution: Execution,
    pub(super) tier: Option<Tier>,
}

impl Started {
    pub(super) fn finish(self) -> ActionOutcome {
        let mut outcome = self.execution.finish();
        // Where nothing was done it was done nowhere.
        outcome.tier = outcome.tier.map(|tier| self.tier.unwrap_or(tier));
        outcome
    }
}

impl Started {
    /// Whether nothing was done, for a dry run or a guard withheld it.
    pub(super) fn withheld(&self) -> bool {
        let Execution::Done(outcome) = &self.execution else { return false };
        matches!(outcome.result, ActionResult::DryRun { .. } | ActionResult::Refused { .. })
    }
}

/// A decision that was acted upon, and of which the alert is still to be made.
pub(super) struct Detection {
    pub(super) policy: Arc<Policy>,
    pub(super) rule: Arc<str>,
    pub(super) certain: bool,
    pub(super) uncertain: FieldSet,
    /// Whether a renamed or linked file was looked at under its new name.
    pub(super) new_name: bool,
    pub(super) plan: Plan,
    pub(super) executions: Vec<Started>,
    /// Number of its alert.
    pub(super) sequence: u64,
}

impl Detection {
    /// A decision that nothing is done about.
    pub(super) fn silent(event: &Event, decision: Decision<'_>) -> Self {
        Self {
            policy: decision.policy.clone(),
            rule: decision.rule.text.clone(),
            certain: decision.certain,
            uncertain: decision.uncertain,
            new_name: event.is_under_new_name(),
            plan: Plan::default(),
            executions: Vec::new(),
            sequence: 0,
        }
    }

    /// Takes the place of the decision that was acted upon by one for certain.
    pub(super) fn settle(&mut self, event: &Event, decision: Decision<'_>) {
        self.rule = decision.rule.text.clone();
        self.certain = decision.certain;
        self.uncertain = decision.uncertain;
        self.new_name = event.is_under_new_name();
    }
}

/// What it takes to plan and act.
pub(super) struct Responding<'a> {
    pub(super) planner: &'a Arc<dyn ActionPlanner>,
    pub(super) context: &'a mut AlertContext,
    pub(super) processes: &'a ProcessTable,
    pub(super) restraints: &'a mut Restraints,
    pub(super) dry_run: bool,
    pub(super) responder: &'a mut dyn Responder,
    /// The answer, if the operation waits for one.
    pub(super) held: Option<&'a mut HeldDecision>,
}

impl Responding<'_> {
    /// Plans and acts at once.
    pub(super) fn respond<'e>(&mut self, event: &'e Event, mut decision: Decision<'e>) -> Option<Detection> {
        // The kernel knew what is in doubt here.
        if let Some(Enforced { policy, rule, .. }) = &event.enforced
            && policy.name == decision.policy.name
            && let Some(rule) = policy.rules.get(*rule).filter(|_| !decision.certain)
        {
            decision = Decision::certain(decision.policy, rule);
        }
        let mut context = PlanContext::new(event, decision, self.dry_run);
        let mut plan = self.planner.plan(&context);
        if let Some(guard) = self.restraints.hold(decision.policy, &decision.rule.text, &plan, event) {
            context.held = Some(&guard);
            plan = self.planner.plan(&context);
            plan.hold(&guard);
        }
        if plan.is_empty() {
            return None;
        }
        let sequence = self.context.next_sequence();
        let alert_id = || self.context.alert_uuid(sequence, event, decision.policy);
        let context = ActionContext::new(event)
            .policy(decision.policy)
            .planner(self.planner)
            .processes(self.processes)
            .alert_id(&alert_id);
        let held = &mut self.held;
        let executions =
            plan.actions().map(|planned| start(planned, &context, decision.policy, self.responder, held)).collect();
        Some(Detection {
            policy: decision.policy.clone(),
            rule: decision.rule.text.clone(),
            certain: decision.certain,
            uncertain: decision.uncertain,
            new_name: event.is_under_new_name(),
            plan,
            executions,
            sequence,
        })
    }
}

/// Starts an action; or sees to the effect of what the kernel has done already.
fn start(
    planned: &PlannedAction,
    context: &ActionContext<'_>,
    policy: &Policy,
    responder: &mut dyn Responder,
    held: &mut Option<&mut HeldDecision>,
) -> Started {
    let event = context.event();
    let enforced = event.enforced.as_ref().filter(|enforced| {
        enforced.effect.covers(planned.action)
            && (planned.permission == Permission::Granted || enforced.policy.name == policy.name)
    });
    if let Some(enforced) = enforced {
        // It is done, whatever came between that and the plan.
        let done = PlannedAction::new(planned.action, planned.target, Permission::Granted);
        let execution = match enforced.effect {
            Effect::Refused => blocked(&done, enforced, event),
            _ => responder.confirm(&done, context),
        };
        return Started { execution, tier: Some(enforced.mechanism.tier()) };
    }
    if let Some(result) = ActionResult::withheld(&planned.permission) {
        return Started { execution: Execution::Done(ActionOutcome::new(planned, result)), tier: None };
    }
    match (planned.action, held) {
        (Action::Block, Some(held)) => {
            Started { execution: Execution::Pending(Box::new(held.block(planned))), tier: None }
        }
        // Who holds operations in a way of one's own has a responder that answers them.
        (Action::Block, None) if !responder.supports().contains(Action::Block) => {
            let result = ActionResult::not_successful(NOT_HELD);
            Started { execution: Execution::Done(ActionOutcome::new(planned, result)), tier: None }
        }
        (action, Some(held)) => {
            // The signal is sent here; everything after this can wait.
            let execution = responder.execute(planned, context);
            // A process that ends does nothing more.
            if action.kills() {
                held.deny();
            }
            Started { execution, tier: Some(Tier::Fanotify) }
        }
        (_, None) => Started { execution: responder.execute(planned, context), tier: None },
    }
}

/// Why an operation could not be blocked.
const NOT_HELD: &str = "nothing held the operation, and it has happened";

/// What the kernel refuses has not happened, from the time of the event on.
fn blocked(planned: &PlannedAction, enforced: &Enforced, event: &Event) -> Execution {
    let mut outcome = ActionOutcome::new(planned, ActionResult::Successful);
    (outcome.tier, outcome.time) = (Some(enforced.mechanism.tier()), Some(event.time));
    Execution::Done(outcome)
}

/// By what the event of an operation that has waited is known again.
pub(super) fn held_response(event: &Event, policy: usize, generation: u64) -> HeldResponse {
    let fields = match event.kind {
        EventKind::Exec => [Field::ProgramDevice, Field::ProgramInode],
        _ => [Field::FileDevice, Field::FileInode],
    };
    let [device, inode] = fields.map(|field| event.number(field).unwrap_or_default());
    HeldResponse { process: event.process, kind: event.kind, file: (device, inode), policy, generation }
}

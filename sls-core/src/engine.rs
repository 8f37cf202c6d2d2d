//! The engine: events in, signals and alerts out.

mod builder;
mod economy;
mod losses;
mod pending;
mod repair;
mod respond;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

use crate::action::{Action, ActionOutcome, ActionResult, ActionSet, PlannedAction};
use crate::alert::{Alert, AlertContext, Finding, build_alert, condition_alert};
use crate::condition::SensorCondition;
use crate::enforcement::{Enforced, HeldDecision, HeldResponses, HeldVerdict};
use crate::evaluate::{Decision, Matcher};
use crate::event::Event;
use crate::explain::{Explanation, explain};
use crate::history::{History, Verdict};
use crate::loss::Loss;
use crate::planner::{ActionPlanner, MessageType, Plan};
use crate::plugin::{ActionContext, BoxError, Confirmation, EventSource, Execution, Responder};
use crate::policy::{Policy, PolicySet};
use crate::process_table::{ProcessRepair, ProcessTable};
use crate::pursuit::Pursuits;
use crate::restraint::{Restraints, Trip};
use crate::schema::{Field, FieldSet};
use crate::suppression::{Admission, Suppression};
pub use builder::{EngineBuilder, MatcherFactory};
use losses::LossLedger;
pub use pending::PendingAlert;
use repair::Repairs;
use respond::{Detection, Responding, Started, held_response};

pub use losses::LOSS_REPORT_INTERVAL;
pub use repair::REPAIR_INTERVAL;

/// What an engine knows of the host and the sensor that it works in. Everything is optional: it goes into alerts.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Host {
    /// The host's name, for `location.node_name`.
    pub node_name: Option<String>,
    /// The sensor's id.
    pub sensor_id: Option<String>,
    /// An id of this run of the sensor. Alerts of runs with different ids never share a uuid.
    pub session: Uuid,
    /// The id of this boot of the host. Process uuids are the same as long as it is.
    pub boot_id: String,
    /// When the host booted, in nanoseconds since the epoch.
    pub boot_time: Option<u64>,
    /// Offset of local time from UTC, in seconds.
    pub utc_offset: i32,
    /// The alerts' `metadata`; the engine adds what it knows itself.
    pub metadata: BTreeMap<String, String>,
}

/// What an engine has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EngineStats {
    /// Events processed.
    pub events: u64,
    /// Events that their source lost, as [`Event::lost`] and [`Engine::report_losses`] tell; what both tell of counts once.
    pub lost: u64,
    /// Passes over all processes that put the process table right after losses.
    pub repairs: u64,
    /// Processes that these found to have ended, to have begun, or to run another program, unseen.
    pub repaired_processes: u64,
    /// Times that a policy responded.
    pub detections: u64,
    /// Actions handed to the responder.
    pub actions: u64,
    /// Times that a policy matched and did not respond for what happened before: crashes that it tolerates, files that
    /// were just reported.
    pub held: u64,
    /// Changed files, reported files and crashing programs that were forgotten while they still counted, for want of room
    /// ([`DEFAULT_CHANGED_FILE_LIMIT`](crate::DEFAULT_CHANGED_FILE_LIMIT),
    /// [`MAX_REPORTED_FILES`](crate::MAX_REPORTED_FILES), [`MAX_CRASHING_PROGRAMS`](crate::MAX_CRASHING_PROGRAMS)).
    pub forgotten: u64,
    /// Processes that had to leave the process table for want of room
    /// ([`DEFAULT_PROCESS_LIMIT`](crate::DEFAULT_PROCESS_LIMIT)).
    pub processes_evicted: u64,
    /// Ended processes that did not stay for late events as long as they should, for want of room
    /// ([`MAX_LINGERING`](crate::MAX_LINGERING)).
    pub left_early: u64,
    /// Texts about processes that were cut for want of room ([`MAX_STORED_BYTES`](crate::MAX_STORED_BYTES)).
    pub texts_cut: u64,
    /// Responses to operations that waited which were forgotten before their event came, for want of room
    /// ([`MAX_HELD_RESPONSES`](crate::MAX_HELD_RESPONSES)).
    pub held_responses_forgotten: u64,
    /// Times that a circuit breaker tripped, each of which has an alert.
    pub breaker_trips: u64,
    /// Responses that were dry run because a circuit breaker had tripped.
    pub breaker_held: u64,
    /// Responses that were dry run because their policy was new.
    pub warm_up_held: u64,
    /// Operations that waited for a decision.
    pub operations_held: u64,
    /// Of those, such as were denied.
    pub operations_denied: u64,
    /// Trees that were killed, and of which the remains were pursued. A host that reads events without a pause for some 100 ms
    /// after this or `pursued` rises catches what lives shorter than its pauses.
    pub pursuits: u64,
    /// Processes that had escaped from a tree while it was killed, and that the responder was told to kill after it.
    pub pursued: u64,
    /// Trees whose escaped processes were no longer looked for before the time was over, for want of room
    /// ([`MAX_PURSUITS`](crate::MAX_PURSUITS)).
    pub pursuits_cut: u64,
    /// Alerts that were counted instead of sent ([`EngineBuilder::suppress_duplicates`]).
    pub suppressed: u64,
    /// Times that this ended early for want of room ([`MAX_SUPPRESSION_WINDOWS`](crate::MAX_SUPPRESSION_WINDOWS)).
    pub suppressions_cut: u64,
}

/// Takes events, decides, acts, and makes alerts. One thread owns it; nothing in it locks.
///
/// ```
/// use std::sync::Arc;
/// use sls_core::{DryRunResponder, Engine, Event, EventKind, Field, PolicySet, ProcessKey};
///
/// let policies = PolicySet::from_yaml("p.yaml", r#"
/// No wget:
///   policy: program
///   responseActions: [alert, kill]
///   rules: ['match programName == "*/wget"', default ignore]
/// "#)?;
/// let mut engine = Engine::builder(policies).dry_run(true).build();
///
/// let mut event = Event::new(EventKind::Exec);
/// event.process = ProcessKey { pid: 4242, start: 77_000_000_000 };
/// event.set_text(Field::ProgramName, b"/usr/bin/wget");
/// let mut alerts = Vec::new();
/// engine.process(&mut event, &mut DryRunResponder, &mut |pending| alerts.push(pending.complete()));
/// assert_eq!(alerts[0].notifications[1].message, "Would have taken responseAction: kill");
/// # Ok::<(), sls_core::Diagnostics>(())
/// ```
pub struct Engine {
    context: AlertContext,
    policies: Arc<PolicySet>,
    planner: Arc<dyn ActionPlanner>,
    factory: MatcherFactory,
    matcher: Box<dyn Matcher>,
    processes: ProcessTable,
    history: History,
    restraints: Restraints,
    held_responses: HeldResponses,
    pursuits: Pursuits,
    suppression: Suppression,
    dry_run: bool,
    losses: LossLedger,
    repairs: Repairs,
    /// Kept for its memory.
    detections: Vec<Detection>,
    stats: EngineStats,
}

impl Engine {
    /// A builder of an engine for these policies.
    #[must_use]
    pub fn builder(policies: impl Into<Arc<PolicySet>>) -> EngineBuilder {
        EngineBuilder::new(policies.into())
    }

    /// Processes one event: enriches it, decides, and calls `responder` for every action that is granted, before
    /// anything else is done. Then it remembers the event and gives `alert` what came of it, also of policies that act in
    /// silence: [`PendingAlert::message_type`] tells what is to be reported.
    ///
    /// An event that no policy responds to allocates nothing here, but for what the process table has to remember.
    pub fn process(&mut self, event: &mut Event, responder: &mut dyn Responder, alert: &mut dyn FnMut(PendingAlert)) {
        self.stats.events += 1;
        if event.lost > 0 {
            self.losses.count(event);
            self.repairs.note(event.kind);
        }
        self.enrich(event);
        self.restraints.advance(event);
        self.detect(event, responder, None);
        // What was refused has changed nothing.
        if !event.enforced.as_ref().is_some_and(Enforced::refused) {
            self.observe(event);
        }
        if !self.pursuits.is_empty() && self.pursuits.pursue(event, &self.processes, &self.planner, responder) {
            self.stats.pursued += 1;
        }
        self.report(event, alert);
    }

    /// Decides about an operation that waits: `event` tells of it as if it had happened. Only policies respond for which it
    /// is held ([`Tiers::holds`](crate::Tiers::holds)), on the same way as in [`Engine::process`], guards, circuit breaker and
    /// dry run included. Their actions are taken at once, but for `block`, which is the answer: give it to the kernel, and
    /// then to [`HeldDecision::answered`].
    ///
    /// The event is not remembered, for it has not happened yet. If it happens, its own event comes to `process`, where
    /// policies that responded here do not respond once more.
    ///
    /// ```
    /// use sls_core::{
    ///     DryRunResponder, Engine, Event, EventKind, Field, HeldVerdict, PolicySet, ProcessKey,
    /// };
    ///
    /// let policies = PolicySet::from_yaml("p.yaml", r#"
    /// Only root mounts:
    ///   policy: program
    ///   responseActions: [block, alert]
    ///   rules: ['match programName == "/usr/bin/mount" and userName != "root"', default ignore]
    /// "#)?;
    /// let mut engine = Engine::builder(policies).build();
    ///
    /// let mut event = Event::new(EventKind::Exec);
    /// (event.process, event.time) = (ProcessKey { pid: 4242, start: 77 }, 1_000_000);
    /// event.set_text(Field::ProgramName, b"/usr/bin/mount").set_text(Field::UserName, b"eve");
    /// let mut alerts = Vec::new();
    /// let decision = engine.decide_held(&mut event, &mut DryRunResponder, &mut |pending| alerts.push(pending));
    /// assert_eq!(decision.verdict(), HeldVerdict::Deny);
    /// decision.answered(Ok(1_250_000));
    /// let alert = alerts.remove(0).complete();
    /// let fields = &alert.notifications[1].message_fields;
    /// assert_eq!((fields.action_type, fields.action_result), (Some("block"), Some("successful")));
    /// assert_eq!((fields.action_tier, fields.action_latency_us), (Some("fanotify"), Some(250)));
    /// # Ok::<(), sls_core::Diagnostics>(())
    /// ```
    pub fn decide_held(
        &mut self,
        event: &mut Event,
        responder: &mut dyn Responder,
        alert: &mut dyn FnMut(PendingAlert),
    ) -> HeldDecision {
        self.stats.operations_held += 1;
        self.enrich(event);
        self.restraints.advance(event);
        let mut decision = HeldDecision::new(HeldVerdict::Allow);
        self.detect(event, responder, Some(&mut decision));
        match decision.verdict() {
            HeldVerdict::Deny => self.stats.operations_denied += 1,
            HeldVerdict::Allow => {
                for detection in &self.detections {
                    let response = held_response(event, detection.policy.index, self.context.generation);
                    self.held_responses.add(response);
                }
            }
        }
        self.report(event, alert);
        decision
    }

    /// Decides and acts; what came of it is in `self.detections`.
    fn detect(&mut self, event: &mut Event, responder: &mut dyn Responder, held: Option<&mut HeldDecision>) {
        let Self {
            policies,
            matcher,
            planner,
            detections,
            dry_run,
            stats,
            history,
            context,
            processes,
            restraints,
            held_responses,
            ..
        } = self;
        let generation = context.generation;
        let waits = held.is_some();
        let mut responding = Responding { planner, context, processes, restraints, dry_run: *dry_run, responder, held };
        event.each_name(|event| {
            // Those under a file's other name; none at the first look.
            let earlier = detections.len();
            matcher.decide(event, &mut |decision| {
                let policy = decision.policy.index;
                if waits {
                    if !policies.tiers().is_held(policy, event.kind, event.text(Field::FileOperation)) {
                        return;
                    }
                } else if !held_responses.is_empty() && held_responses.take(&held_response(event, policy, generation)) {
                    return;
                }
                // What was found there stands, unless this is certain and that was not.
                let before = detections[..earlier].iter().position(|done| Arc::ptr_eq(&done.policy, decision.policy));
                if before.is_some_and(|at| detections[at].certain || !decision.certain) {
                    return;
                }
                if history.admit(event, &decision) != Verdict::Responds {
                    stats.held += 1;
                    return;
                }
                match before {
                    // It acted in doubt, and need not act again.
                    Some(at) if !detections[at].executions.is_empty() => detections[at].settle(event, decision),
                    Some(at) => match responding.respond(event, decision) {
                        Some(detection) => detections[at] = detection,
                        // For certain, the policy keeps silent.
                        None => detections[at].plan = Plan::default(),
                    },
                    None => {
                        let before = detections.len();
                        // Certainty that is silent has to stand under the other name, too.
                        let silent = || {
                            (decision.certain && event.is_under_new_name()).then(|| Detection::silent(event, decision))
                        };
                        detections.extend(responding.respond(event, decision).or_else(silent));
                        stats.detections += (detections.len() - before) as u64;
                    }
                }
            });
        });
        // What the kernel has done is told, also where it does not follow from what is known here.
        if let Some(Enforced { policy, rule, .. }) = &event.enforced
            && !detections.iter().any(|detection| detection.policy.name == policy.name && !detection.plan.is_empty())
            && let Some(rule) = policy.rules.get(*rule)
        {
            let before = detections.len();
            detections.extend(responding.respond(event, Decision::certain(policy, rule)));
            stats.detections += (detections.len() - before) as u64;
        }
        let responded = detections.len();
        detections.retain(|detection| !detection.plan.is_empty());
        stats.detections -= (responded - detections.len()) as u64;
        // Under its two names a file's policies respond out of order.
        detections.sort_unstable_by_key(|detection| detection.policy.index);
    }

    /// Makes the alerts of what was detected.
    fn report(&mut self, event: &Event, alert: &mut dyn FnMut(PendingAlert)) {
        self.suppression.observe(event);
        for detection in self.detections.drain(..) {
            self.pursuits.begin(event, &detection.plan);
            self.stats.actions += detection.executions.len() as u64;
            let Detection { policy, rule, uncertain, new_name, plan, executions, sequence, .. } = detection;
            let admission = match plan.report {
                Some(_) if executions.iter().all(Started::withheld) => self.suppression.admit(event, policy.index),
                _ => Admission::Sent,
            };
            if admission == Admission::Counted {
                continue;
            }
            let finding = Finding {
                event,
                policy: &policy,
                rule: &rule,
                uncertain,
                new_name,
                message_type: plan.report,
                sequence,
                // Losses are told once, in an alert that somebody gets to see.
                lost_events: plan.report.map_or(0, |_| self.losses.since_alert(event.kind)),
            };
            let made = build_alert(&mut self.context, &mut self.processes, &finding);
            let pending = PendingAlert { alert: made, executions, utc_offset: self.context.host.utc_offset };
            match admission {
                // Nothing was done, so there is nothing to wait for.
                Admission::Kept => self.suppression.keep(event.process, policy.index, pending.complete()),
                _ => alert(pending),
            }
        }
        for trip in self.restraints.trips.drain(..) {
            let made = trip_alert(&mut self.context, &mut self.processes, event, &trip);
            alert(PendingAlert { alert: made, executions: Vec::new(), utc_offset: self.context.host.utc_offset });
        }
        self.flush_repeated(alert);
    }

    /// Gives `alert` what was counted instead of sent until `time`, in nanoseconds since the epoch, or until the policies were
    /// loaded anew ([`EngineBuilder::suppress_duplicates`]). To be called about every second where there may be no events.
    pub fn tick(&mut self, time: u64, alert: &mut dyn FnMut(PendingAlert)) {
        self.suppression.advance(time);
        self.flush_repeated(alert);
    }

    /// Gives `alert` all that was counted instead of sent: the engine gets no more events.
    pub fn finish(&mut self, alert: &mut dyn FnMut(PendingAlert)) {
        self.suppression.end_all();
        self.flush_repeated(alert);
    }

    fn flush_repeated(&mut self, alert: &mut dyn FnMut(PendingAlert)) {
        while let Some(repeated) = self.suppression.due.pop_front() {
            let utc_offset = self.context.host.utc_offset;
            alert(PendingAlert { alert: *repeated, executions: Vec::new(), utc_offset });
        }
    }

    /// Makes the alert of something that the operator has to know of the sensor itself, found at `time`, in nanoseconds since
    /// the epoch. [`SensorCondition::message_type`] says under which type.
    #[must_use]
    pub fn report_condition(&mut self, condition: SensorCondition, time: u64) -> PendingAlert {
        let alert = condition_alert(&mut self.context, condition, time);
        PendingAlert { alert, executions: Vec::new(), utc_offset: self.context.host.utc_offset }
    }

    /// Takes in what a source lost ([`EventSource::losses`](crate::EventSource::losses)), and makes the alert of it if it is
    /// time to at `time`, in nanoseconds since the epoch. The alert is of message type `audit`; its `sensor_info` has how many
    /// events were lost, by lane, kind and cause, between when and when, and which policies may have missed something
    /// ([`Policy::depends_on`]), those included that were in force when it was lost and are not any more.
    ///
    /// The first loss has its alert at once. What is lost within [`LOSS_REPORT_INTERVAL`] of an alert is in the next. So call
    /// it about every second, also if nothing was lost, and [`Engine::flush_losses`] at the end.
    ///
    /// ```
    /// use sls_core::{Engine, EventKind, Lane, Loss, LossCause, MessageType, PolicySet};
    ///
    /// let policies = PolicySet::from_yaml("p.yaml", r#"
    /// No wget: {policy: program, rules: ['match programName == "*/wget"', default ignore]}
    /// Cron: {policy: file, rules: ['match filePath == "/etc/cron*"', default ignore]}
    /// "#)?;
    /// let mut engine = Engine::builder(policies).build();
    /// let lost = Loss::new(Lane::Process, EventKind::Exec, LossCause::LaneFull, 12, 1_000_000_000, 2_000_000_000);
    /// let alert = engine.report_losses(&[lost], 2_000_000_000).expect("the first is told at once").complete();
    /// assert_eq!(alert.message_type, Some(MessageType::Audit));
    /// assert_eq!(alert.description, "12 events were lost (exec); 1 policy may have missed something");
    /// let json = serde_json::to_value(&alert.sensor_info).unwrap();
    /// assert_eq!(json["condition"], "events_lost");
    /// assert_eq!(json["policies"], serde_json::json!([{"name": "No wget", "kinds": ["exec"]}]));
    ///
    /// assert!(engine.report_losses(&[lost], 3_000_000_000).is_none());
    /// assert!(engine.flush_losses(4_000_000_000).is_some());
    /// assert_eq!(engine.stats().lost, 24);
    /// # Ok::<(), sls_core::Diagnostics>(())
    /// ```
    #[must_use]
    pub fn report_losses(&mut self, losses: &[Loss], time: u64) -> Option<PendingAlert> {
        self.losses.note(losses);
        losses.iter().filter(|loss| loss.count > 0).for_each(|loss| self.repairs.note(loss.kind));
        let condition = self.losses.due(time)?;
        Some(self.report_condition(condition, time))
    }

    /// Makes the alert of what was lost and is not told yet, however short a time after the last.
    #[must_use]
    pub fn flush_losses(&mut self, time: u64) -> Option<PendingAlert> {
        let condition = self.losses.take(time)?;
        Some(self.report_condition(condition, time))
    }

    /// Keeps the process table right after events that keep it were lost: has `source` go through all processes that run
    /// ([`EventSource::reread_processes`](crate::EventSource::reread_processes)), whose `baseline` events come by its polls and
    /// raise no policy, and corrects the table once that is done ([`ProcessTable::finish_repair`]), which it says then. A pass
    /// begins at most every [`REPAIR_INTERVAL`] as long as events are lost, and once more after the last. To be called about every
    /// second, after [`Engine::report_losses`]; it does nothing if nothing was lost. `time` is in nanoseconds since the epoch.
    ///
    /// # Errors
    /// When the source fails to. Then the table stays as it is, and it is tried again.
    pub fn repair(&mut self, source: &mut dyn EventSource, time: u64) -> Result<Option<ProcessRepair>, BoxError> {
        let repair = self.repairs.step(&mut self.processes, source, time)?;
        if let Some(ProcessRepair { ended, found, corrected }) = repair {
            self.stats.repairs += 1;
            self.stats.repaired_processes += (ended + found + corrected) as u64;
        }
        Ok(repair)
    }

    /// What [`Engine::process`] would decide about the event, and why: one explanation for each enabled policy whose type
    /// the event raises, whether it matches or not. It enriches and remembers the event as `process` does, but acts on
    /// nothing, makes no alert and counts nothing. So an event is given to either of both, not to one after the other.
    ///
    /// ```
    /// use sls_core::{Engine, Event, EventKind, Field, PolicySet};
    ///
    /// let policies = PolicySet::from_yaml("p.yaml",
    ///     "No wget:\n  policy: program\n  rules: ['match programName == \"*/wget\" and uid == 0', default ignore]\n")?;
    /// let mut event = Event::new(EventKind::Exec);
    /// event.set_text(Field::ProgramName, b"/usr/bin/wget").set_number(Field::Uid, 1000);
    /// let explanation = Engine::builder(policies).build().explain(&mut event).remove(0);
    /// assert_eq!(explanation.outcome, "ignore");
    /// assert_eq!(explanation.rules[0].tests[0].value, "true");
    /// assert_eq!(explanation.rules[0].tests[1].found, "1000");
    /// # Ok::<(), sls_core::Diagnostics>(())
    /// ```
    pub fn explain(&mut self, event: &mut Event) -> Vec<Explanation> {
        self.enrich(event);
        let explanations = explain(&self.policies, event, &*self.planner, self.dry_run, &mut self.history);
        self.observe(event);
        explanations
    }

    /// Replaces the policies, for the next event on. The processes and their alert groups stay known, and so does what
    /// policies of the same name have counted, their circuit breakers included, and what domain names resolved to.
    pub fn reload(&mut self, policies: impl Into<Arc<PolicySet>>) {
        let policies = policies.into();
        policies.adopt_addresses(&self.policies);
        self.history.reload(&self.policies, &policies);
        self.restraints.reload(&self.policies, &policies);
        // What was counted is told with the next event or tick.
        self.suppression.end_all();
        self.losses.reload(&policies);
        self.policies = policies;
        self.matcher = (self.factory)(self.policies.clone());
        self.context.next_generation(self.policies.hash());
    }

    /// Closes every circuit breaker that has tripped, so that policies act again. What they acted on before no longer counts.
    pub fn rearm(&mut self) {
        self.restraints.rearm();
    }

    /// The policies in force.
    #[must_use]
    pub fn policies(&self) -> &Arc<PolicySet> {
        &self.policies
    }

    /// How often the policies were loaded: 1 for those that the engine was built with. Alerts carry it.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.context.generation
    }

    /// On how many more targets the policy may act just now: none if the sensor or the policy is in dry run, is new, or has
    /// a circuit breaker that tripped; and before it trips, so many. What acts for the policy in the kernel counts down from
    /// that, and asks again from time to time. `usize::MAX` where there is no limit.
    #[must_use]
    pub fn allowance(&mut self, policy: &Policy) -> usize {
        if self.dry_run || policy.dry_run { 0 } else { self.restraints.allowance(policy) }
    }

    /// The planner.
    #[must_use]
    pub fn planner(&self) -> &dyn ActionPlanner {
        &*self.planner
    }

    /// The processes that it knows.
    #[must_use]
    pub fn processes(&self) -> &ProcessTable {
        &self.processes
    }

    /// What it has done so far.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        let held = self.restraints.stats;
        EngineStats {
            lost: self.losses.total(),
            forgotten: self.history.forgotten(),
            processes_evicted: self.processes.evicted(),
            left_early: self.processes.left_early(),
            texts_cut: self.processes.texts_cut(),
            held_responses_forgotten: self.held_responses.forgotten(),
            breaker_trips: held.breaker_trips,
            breaker_held: held.breaker_held,
            warm_up_held: held.warm_up_held,
            pursuits: self.pursuits.begun(),
            pursuits_cut: self.pursuits.cut(),
            suppressed: self.suppression.suppressed,
            suppressions_cut: self.suppression.evicted,
            ..self.stats
        }
    }

    fn enrich(&self, event: &mut Event) {
        self.processes.enrich(event);
        self.history.enrich(event);
    }

    fn observe(&mut self, event: &Event) {
        self.processes.observe(event);
        self.history.observe(event);
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("matcher", &self.matcher)
            .field("planner", &self.planner)
            .field("dry_run", &self.dry_run)
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

/// The alert of a circuit breaker that tripped. It is reported even where the policy acts in silence.
fn trip_alert(context: &mut AlertContext, processes: &mut ProcessTable, event: &Event, trip: &Trip) -> Alert {
    let finding = Finding {
        event,
        policy: &trip.policy,
        rule: &trip.rule,
        uncertain: FieldSet::EMPTY,
        new_name: event.is_under_new_name(),
        message_type: Some(MessageType::Alert),
        sequence: context.next_sequence(),
        lost_events: 0,
    };
    let mut alert = build_alert(context, processes, &finding);
    alert.take_trip(trip.message());
    alert
}

/// A responder that carries nothing out: for replays, and for engines in dry run. It supports every action.
#[derive(Clone, Copy, Debug, Default)]
// Exhaustive: it has nothing in it.
#[allow(clippy::exhaustive_structs)]
pub struct DryRunResponder;

impl Responder for DryRunResponder {
    fn supports(&self) -> ActionSet {
        Action::ALL.iter().copied().collect()
    }

    fn execute(&mut self, action: &PlannedAction, _: &ActionContext<'_>) -> Execution {
        Execution::Done(ActionOutcome::new(action, ActionResult::DryRun { details: String::new() }))
    }
}

// An alert under way crosses threads.
const _: () = {
    const fn is_send<T: Send>() {}
    is_send::<PendingAlert>();
    is_send::<Box<dyn Confirmation>>();
    is_send::<Engine>();
};

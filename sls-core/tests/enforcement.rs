//! What was done in the kernel is told and not done again; what waits is answered.

// A helper of a test fails like the test.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use sls_core::{
    Action, ActionContext, ActionOutcome, ActionResult, ActionSet, Alert, BreakerLimits, Capabilities, Effect,
    Enforced, Engine, Event, EventKind, Execution, Field, GuardedPlanner, Guards, HeldVerdict, Hook, Mechanism,
    PlannedAction, PolicyLoader, PolicySet, ProcessKey, Responder, Tier,
};

/// Says that it did what it was asked for, and remembers whether that was to act or to look.
#[derive(Debug, Default)]
struct Recorder {
    executed: Vec<Action>,
    confirmed: Vec<Action>,
}

impl Recorder {
    fn done(planned: &PlannedAction, context: &ActionContext<'_>) -> Execution {
        let mut outcome = ActionOutcome::new(planned, ActionResult::Successful);
        (outcome.tier, outcome.time) = (Some(Tier::Process), Some(context.event().time + 30_000));
        Execution::Done(outcome)
    }
}

impl Responder for Recorder {
    fn supports(&self) -> ActionSet {
        Action::ALL.iter().copied().filter(|action| *action != Action::Block).collect()
    }

    fn execute(&mut self, action: &PlannedAction, context: &ActionContext<'_>) -> Execution {
        self.executed.push(action.action);
        Self::done(action, context)
    }

    fn confirm(&mut self, action: &PlannedAction, context: &ActionContext<'_>) -> Execution {
        self.confirmed.push(action.action);
        Self::done(action, context)
    }
}

fn load(text: &str) -> Arc<PolicySet> {
    Arc::new(PolicySet::from_yaml("p.yaml", text).unwrap())
}

/// On a host that has nothing but permission events.
fn load_for_fanotify(text: &str) -> Arc<PolicySet> {
    let hooks = [Hook::fanotify_exec(), Hook::fanotify_open()];
    let host = hooks.into_iter().fold(Capabilities::default().without_hooks(), Capabilities::hook);
    Arc::new(PolicyLoader::new().capabilities(host).document("p.yaml", text).load().unwrap())
}

fn wget() -> Event {
    let mut event = Event::new(EventKind::Exec);
    (event.process, event.time) = (ProcessKey { pid: 300, start: 5 }, 1_000_000_000);
    event.set_text(Field::ProgramName, b"/usr/bin/wget").set_text(Field::UserName, b"eve");
    event.set_number(Field::ProgramDevice, 8).set_number(Field::ProgramInode, 77);
    event
}

fn process(engine: &mut Engine, mut event: Event, recorder: &mut Recorder) -> Vec<Alert> {
    let mut alerts = Vec::new();
    engine.process(&mut event, recorder, &mut |pending| alerts.push(pending.complete()));
    alerts
}

/// The verdict, and the alerts once it was answered 40 µs after the event.
fn hold(engine: &mut Engine, mut event: Event, recorder: &mut Recorder) -> (HeldVerdict, Vec<Alert>) {
    let mut pending = Vec::new();
    let decision = engine.decide_held(&mut event, recorder, &mut |alert| pending.push(alert));
    let verdict = decision.verdict();
    decision.answered(Ok(event.time + 40_000));
    (verdict, pending.into_iter().map(|alert| alert.complete()).collect())
}

/// Action, result, tier and latency of each action of an alert.
fn actions(alert: &Alert) -> Vec<(&str, &str, Option<&str>, Option<u64>)> {
    let fields = alert.notifications[1..].iter().map(|notification| &notification.message_fields);
    fields
        .map(|of| (of.action_type.unwrap(), of.action_result.unwrap(), of.action_tier, of.action_latency_us))
        .collect()
}

fn enforced(policies: &PolicySet, policy: &str, mechanism: Mechanism, effect: Effect) -> Option<Enforced> {
    Some(Enforced::new(policies.policy(policy).unwrap().clone(), 0, mechanism, effect))
}

const KILLS: &str = "
A: {policy: program, responseActions: [kill, alert], rules: ['match programName == \"/usr/bin/wget\"', default ignore]}
B: {policy: program, responseActions: [kill-tree, kill, alert], rules: ['match uid == 9', default ignore]}
C: {policy: program, dryRun: true, responseActions: [kill, alert], rules: ['match uid == 9', default ignore]}
";

#[test]
fn what_the_kernel_killed_is_confirmed_and_not_killed_again() {
    let policies = load(KILLS);
    let mut engine = Engine::builder(policies.clone()).build();
    let mut recorder = Recorder::default();
    let mut event = wget();
    event.set_number(Field::Uid, 9);
    event.enforced = enforced(&policies, "A", Mechanism::ExecSignal, Effect::Killed);
    let alerts = process(&mut engine, event, &mut recorder);
    assert_eq!(actions(&alerts[0]), [("kill", "successful", Some("kernel"), Some(30))]);
    // It is the same process, of which the tree is still there.
    let tree = ("kill-tree", "successful", Some("process"), Some(30));
    assert_eq!(actions(&alerts[1]), [("kill", "successful", Some("kernel"), Some(30)), tree]);
    assert_eq!(actions(&alerts[2]), [("kill", "dry run", None, None)]);
    assert_eq!((recorder.executed, recorder.confirmed), (vec![Action::KillTree], vec![Action::Kill, Action::Kill]));
}

#[test]
fn what_the_kernel_did_is_told_whatever_is_known_here() {
    let policies = load(KILLS);
    // A hard link: another path. Or it cannot be told here.
    for prepare in [
        |event: &mut Event| {
            event.set_text(Field::ProgramName, b"/tmp/w");
        },
        |event: &mut Event| {
            event.clear(Field::ProgramName).mark_unknown(Field::ProgramName);
        },
    ] {
        let mut engine = Engine::builder(policies.clone()).build();
        let mut recorder = Recorder::default();
        let mut event = wget();
        prepare(&mut event);
        event.enforced = enforced(&policies, "A", Mechanism::ExecSignal, Effect::Killed);
        let [alert] = &process(&mut engine, event, &mut recorder)[..] else { panic!("one alert") };
        assert_eq!((&*alert.strategy_name, &*alert.matched_rule), ("A", "match programName == \"/usr/bin/wget\""));
        assert_eq!(actions(alert), [("kill", "successful", Some("kernel"), Some(30))]);
        assert!(alert.uncertain.is_empty());
        assert_eq!((recorder.executed.len(), engine.stats().detections), (0, 1));
    }
}

#[test]
fn a_decision_of_an_older_generation_is_told_once() {
    let before = load(KILLS);
    let mut engine = Engine::builder(before.clone()).build();
    engine.reload(load(KILLS));
    let mut event = wget();
    event.enforced = enforced(&before, "A", Mechanism::ExecSignal, Effect::Killed);
    let alerts = process(&mut engine, event, &mut Recorder::default());
    assert_eq!(alerts.len(), 1);
    assert_eq!(actions(&alerts[0]), [("kill", "successful", Some("kernel"), Some(30))]);
}

const BLOCK: &str = "
A: {policy: program, responseActions: [block, alert], rules: ['match programName == \"/usr/bin/wget\" and userName == \"eve\"', default ignore]}
";

#[test]
fn what_was_refused_has_not_happened() {
    let policies = load(BLOCK);
    let mut engine = Engine::builder(policies.clone()).build();
    let mut shell = wget();
    shell.set_text(Field::ProgramName, b"/bin/sh");
    let key = shell.process;
    process(&mut engine, shell, &mut Recorder::default());
    let mut event = wget();
    event.enforced = enforced(&policies, "A", Mechanism::Lsm, Effect::Refused);
    let alerts = process(&mut engine, event, &mut Recorder::default());
    assert_eq!(actions(&alerts[0]), [("block", "successful", Some("kernel"), Some(0))]);
    let program = engine.processes().process(key).unwrap().value(Field::ProgramName);
    assert_eq!(program, sls_core::Value::Text { bytes: b"/bin/sh", truncated: false });
}

#[test]
fn what_nothing_held_was_not_blocked() {
    let mut engine = Engine::builder(load(BLOCK)).build();
    let mut recorder = Recorder::default();
    let alerts = process(&mut engine, wget(), &mut recorder);
    let fields = &alerts[0].notifications[1].message_fields;
    assert_eq!(fields.action_result, Some("not successful"));
    assert_eq!(fields.action_result_details.as_deref(), Some("nothing held the operation, and it has happened"));
    assert!(recorder.executed.is_empty());
}

#[test]
fn what_waits_is_denied_and_told() {
    let mut engine = Engine::builder(load_for_fanotify(BLOCK)).build();
    let (verdict, alerts) = hold(&mut engine, wget(), &mut Recorder::default());
    assert_eq!(verdict, HeldVerdict::Deny);
    assert_eq!(actions(&alerts[0]), [("block", "successful", Some("fanotify"), Some(40))]);
    let mut other = wget();
    other.set_text(Field::UserName, b"bob");
    let (verdict, alerts) = hold(&mut engine, other, &mut Recorder::default());
    assert_eq!((verdict, alerts.len()), (HeldVerdict::Allow, 0));
    let stats = engine.stats();
    assert_eq!((stats.operations_held, stats.operations_denied, stats.events), (2, 1, 0));
    assert!(engine.processes().is_empty(), "it has not happened");
}

#[test]
fn an_answer_that_was_not_given_is_no_success() {
    let mut engine = Engine::builder(load_for_fanotify(BLOCK)).build();
    let mut told = Vec::new();
    for late in [true, false] {
        let mut pending = Vec::new();
        let decision = engine.decide_held(&mut wget(), &mut Recorder::default(), &mut |alert| pending.push(alert));
        if late {
            decision.answered(Err("the deadline of 50 ms had passed".to_owned()));
        } else {
            drop(decision);
        }
        let alert = pending.remove(0).complete();
        told.push(alert.notifications[1].message.clone());
    }
    assert_eq!(
        told,
        [
            "unable to take responseAction block: the deadline of 50 ms had passed",
            "unable to take responseAction block: the operation was not answered",
        ]
    );
}

#[test]
fn guards_dry_run_and_restraints_let_it_go_on() {
    let dry = BLOCK.replace("{policy", "{dryRun: true, policy");
    let planner = || GuardedPlanner::new(Guards::none().protect_program("/usr/bin/wget"));
    let engines = [
        ("refused", Engine::builder(load_for_fanotify(BLOCK)).planner(planner()).build()),
        ("dry run", Engine::builder(load_for_fanotify(&dry)).build()),
        ("dry run", Engine::builder(load_for_fanotify(BLOCK)).dry_run(true).build()),
        ("dry run", Engine::builder(load_for_fanotify(BLOCK)).warm_up(Duration::from_secs(60)).build()),
    ];
    for (result, mut engine) in engines {
        let mut recorder = Recorder::default();
        let (verdict, alerts) = hold(&mut engine, wget(), &mut recorder);
        assert_eq!((verdict, actions(&alerts[0])), (HeldVerdict::Allow, vec![("block", result, None, None)]));
        // It went on, and so its event comes, about which all was said.
        assert_eq!(process(&mut engine, wget(), &mut recorder).len(), 0);
        // Until it is executed once more, without having waited.
        assert_eq!(process(&mut engine, wget(), &mut recorder).len(), 1);
    }
}

#[test]
fn a_process_can_be_killed_while_it_waits() {
    let text = "
A: {policy: program, tier: fanotify, responseActions: [kill, alert], rules: ['match programName == \"/usr/bin/wget\" and userName == \"eve\"', default ignore]}
B: {policy: program, responseActions: [kill, alert], rules: ['match programArguments == \"*\"', default ignore]}
";
    let mut engine = Engine::builder(load_for_fanotify(text)).build();
    let mut recorder = Recorder::default();
    let (verdict, alerts) = hold(&mut engine, wget(), &mut recorder);
    assert_eq!(verdict, HeldVerdict::Deny);
    // B has nothing to say yet.
    assert_eq!(alerts.len(), 1);
    assert_eq!(actions(&alerts[0]), [("kill", "successful", Some("fanotify"), Some(30))]);
    assert_eq!((recorder.executed, recorder.confirmed.len()), (vec![Action::Kill], 0));
}

#[test]
fn the_kernel_may_act_as_often_as_the_breaker_lets_it() {
    let policies = load(KILLS);
    let limits = BreakerLimits::default().policy_targets(3).sensor_targets(4);
    let mut engine = Engine::builder(policies.clone()).breaker(limits).build();
    let allowance =
        |engine: &mut Engine, name: &str| engine.allowance(&engine.policies().policy(name).unwrap().clone());
    assert_eq!(["A", "B", "C"].map(|name| allowance(&mut engine, name)), [3, 3, 0]);
    for pid in 300..302 {
        let mut event = wget();
        event.process.pid = pid;
        process(&mut engine, event, &mut Recorder::default());
    }
    assert_eq!(["A", "B", "C"].map(|name| allowance(&mut engine, name)), [1, 2, 0]);
    for pid in 302..304 {
        let mut event = wget();
        event.process.pid = pid;
        process(&mut engine, event, &mut Recorder::default());
    }
    assert_eq!(allowance(&mut engine, "A"), 0, "its breaker tripped");
    let unlimited = BreakerLimits::default().policy_targets(0).sensor_targets(0);
    let mut engine = Engine::builder(policies.clone()).breaker(unlimited).build();
    assert_eq!(allowance(&mut engine, "A"), usize::MAX);
    let mut engine = Engine::builder(policies.clone()).warm_up(Duration::from_secs(9)).build();
    assert_eq!(allowance(&mut engine, "A"), 0);
    let mut engine = Engine::builder(policies).dry_run(true).build();
    assert_eq!(allowance(&mut engine, "A"), 0);
}

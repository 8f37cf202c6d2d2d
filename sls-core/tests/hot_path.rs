//! From the event to the signal nothing is allocated; an event that nobody responds to costs what the process table has
//! to remember, and no more.

mod support;

use sls_core::{
    Action, ActionContext, ActionSet, DryRunResponder, Engine, Event, EventKind, Execution, Field, HeldVerdict,
    MAX_ALERT_LINEAGE, MAX_ANCESTOR_TEXT, MAX_PROCESS_TEXT, PlannedAction, PolicySet, ProcessKey, Responder,
};

use support::{ALLOCATIONS, BYTES};

const POLICIES: &str = r#"
Kill:
  policy: program
  responseActions: [alert, stop, kill]
  rules:
    - ignore uid == 0 and parentProgramName in $Allowed
    - match programName == "*/wget" and programArguments like ".*https?://.*" and ancestorProgramName == "*/bash"
    - default ignore
Lists: {policy: program, rules: ['match programName in $Allowed and lineage in $Chains', default ignore]}
Allowed: {type: paths, list: ["/usr/bin/apt*", "/usr/lib/*/helper"]}
Chains: {type: lineage, list: [[sshd, bash], [cron, sh]]}
"#;

/// Remembers how many allocations had been made when each action was handed over.
#[derive(Debug, Default)]
struct Watching {
    allocations: Vec<usize>,
}

impl Responder for Watching {
    fn supports(&self) -> ActionSet {
        Action::ALL.iter().copied().collect()
    }

    fn execute(&mut self, action: &PlannedAction, context: &ActionContext<'_>) -> Execution {
        self.allocations.push(ALLOCATIONS.get());
        DryRunResponder.execute(action, context)
    }
}

fn exec(event: &mut Event, pid: u32, program: &str) {
    event.reset(EventKind::Exec);
    event.process = ProcessKey { pid, start: u64::from(pid) };
    event.parent = ProcessKey { pid: 20, start: 20 };
    event.set_text(Field::ProgramName, program.as_bytes()).set_number(Field::Uid, 1000);
    event.set_arguments([program.as_bytes(), b"https://198.51.100.7/x"]);
}

#[test]
fn nothing_is_allocated_before_the_signal() {
    let mut engine = Engine::builder(PolicySet::from_yaml("p.yaml", POLICIES).unwrap()).build();
    let mut responder = Watching { allocations: Vec::with_capacity(64) };
    let mut event = Event::new(EventKind::Exec);
    exec(&mut event, 20, "/usr/bin/bash");
    engine.process(&mut event, &mut responder, &mut |_| {});
    for round in 0..3 {
        exec(&mut event, 100 + round, "/usr/bin/wget");
        let before = ALLOCATIONS.get();
        responder.allocations.clear();
        let mut alerts = 0;
        engine.process(&mut event, &mut responder, &mut |_| alerts += 1);
        assert_eq!((alerts, responder.allocations.len()), (1, 2));
        // The first round makes room in buffers that stay.
        if round > 0 {
            assert_eq!(responder.allocations[0] - before, 0, "round {round}");
        }
    }
}

#[test]
fn a_miss_allocates_only_what_is_remembered() {
    let mut engine = Engine::builder(PolicySet::from_yaml("p.yaml", POLICIES).unwrap()).build();
    let mut event = Event::new(EventKind::Exec);
    for program in ["/usr/bin/bash", "/usr/bin/true"] {
        exec(&mut event, 20, program);
        engine.process(&mut event, &mut DryRunResponder, &mut |_| {});
    }
    let (allocations, bytes) = (ALLOCATIONS.get(), BYTES.get());
    for _ in 0..100 {
        exec(&mut event, 20, "/usr/bin/true");
        engine.process(&mut event, &mut DryRunResponder, &mut |_| panic!("nothing matches"));
    }
    // The image of the program: its texts, the ends of its arguments, what holds them, and two that shrink to fit.
    assert!(ALLOCATIONS.get() - allocations <= 600, "{} allocations", ALLOCATIONS.get() - allocations);
    assert_eq!(BYTES.get(), bytes, "memory grows");
}

#[test]
fn an_operation_that_waits_and_may_go_on_allocates_nothing() {
    let policies = "
Held: {policy: program, tier: fanotify, responseActions: [kill, block], rules: ['match programName == \"/opt/*\" and ancestorProgramName == \"*/bash\" and userName == \"eve\"', default ignore]}";
    let mut engine = Engine::builder(PolicySet::from_yaml("p.yaml", policies).unwrap()).build();
    assert_eq!(engine.policies().tiers().holds().len(), 1);
    let mut event = Event::new(EventKind::Exec);
    exec(&mut event, 20, "/usr/bin/bash");
    engine.process(&mut event, &mut DryRunResponder, &mut |_| {});
    for round in 0..3 {
        exec(&mut event, 100, "/opt/x");
        event.set_text(Field::UserName, b"bob");
        let before = ALLOCATIONS.get();
        let decision = engine.decide_held(&mut event, &mut DryRunResponder, &mut |_| panic!("nothing matches"));
        assert_eq!(decision.verdict(), HeldVerdict::Allow);
        decision.answered(Ok(0));
        // The first round makes room in buffers that stay.
        assert!(round == 0 || ALLOCATIONS.get() == before, "{} allocations", ALLOCATIONS.get() - before);
    }
}

/// An attacker who makes everything long makes no alert that fills the memory.
#[test]
fn alerts_are_bounded() {
    let policies = "All: {policy: program, rules: [default match]}";
    let mut engine = Engine::builder(PolicySet::from_yaml("p.yaml", policies).unwrap()).build();
    let mut event = Event::new(EventKind::Exec);
    let mut last = None;
    for pid in 2..100 {
        exec(&mut event, pid, "/bin/x");
        event.parent = ProcessKey { pid: pid - 1, start: u64::from(pid - 1) };
        let long = [0xff; 8192];
        event.set_arguments(std::iter::repeat_n(&long[..80], 100));
        for field in [Field::ProgramName, Field::InvokedName, Field::ProgramDirectory] {
            event.set_text(field, &long[..4000]);
        }
        engine.process(&mut event, &mut DryRunResponder, &mut |pending| last = Some(pending.complete()));
    }
    let alert = last.unwrap();
    assert_eq!(alert.lineage.len(), MAX_ALERT_LINEAGE);
    assert!(alert.process_info.as_ref().is_some_and(|process| process.truncated.contains(&"args")));
    let bound = MAX_PROCESS_TEXT + MAX_ALERT_LINEAGE * MAX_ANCESTOR_TEXT;
    // Backslashes are doubled in JSON, and there are keys.
    assert!(alert.to_json().len() < 2 * bound + 64 * 1024, "{} bytes", alert.to_json().len());
}

//! Repeated alerts are counted, and no first and no count is ever hidden.

// A test may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;
use sls_core::{
    Alert, DryRunResponder, Engine, Event, EventKind, Field, MAX_SUPPRESSION_WINDOWS, PolicySet, ProcessKey,
};

/// Pids that no guard protects.
const OTHERS: u32 = 4000;

const SECOND: u64 = 1_000_000_000;
const START: u64 = 1_700_000_000 * SECOND;

const POLICIES: &str = r#"
A: {policy: file, responseActions: [alert], rules: ['match filePath == "/etc/a*"', default ignore]}
B: {policy: file, responseActions: [alert, kill], rules: ['match filePath == "/etc/*"', default ignore]}
C: {policy: program, responseActions: [alert], rules: ['match programName == "*/c"', default ignore]}
"#;

fn engine(window: Duration) -> Engine {
    let policies = PolicySet::from_yaml("p.yaml", POLICIES).unwrap();
    Engine::builder(policies).dry_run(true).suppress_duplicates(window).build()
}

fn write(pid: u32, path: &str, seconds: u64) -> Event {
    let mut event = Event::new(EventKind::File);
    (event.process, event.time) = (ProcessKey { pid: OTHERS + pid, start: 7 }, START + seconds * SECOND);
    event.set_text(Field::ProgramName, b"/bin/x").set_text(Field::FileOperation, b"CREATE");
    event.set_text(Field::FilePath, path.as_bytes());
    event
}

fn exec(pid: u32, seconds: u64) -> Event {
    let mut event = Event::new(EventKind::Exec);
    (event.process, event.time) = (ProcessKey { pid: OTHERS + pid, start: 7 }, START + seconds * SECOND);
    event.set_text(Field::ProgramName, b"/bin/c");
    event
}

fn alerts(engine: &mut Engine, mut event: Event) -> Vec<Alert> {
    let mut alerts = Vec::new();
    engine.process(&mut event, &mut DryRunResponder, &mut |pending| alerts.push(pending.complete()));
    alerts
}

/// Policy, pid, and for how many alerts each stands.
fn shown(alerts: &[Alert]) -> Vec<(&str, u32, u64)> {
    let pid = |alert: &Alert| alert.process_info.as_ref().unwrap().pid - OTHERS;
    alerts.iter().map(|alert| (alert.strategy_name.as_str(), pid(alert), alert.repeated)).collect()
}

#[test]
fn repetitions_come_as_one_alert_with_their_number() {
    let mut engine = engine(Duration::from_secs(10));
    assert_eq!(shown(&alerts(&mut engine, write(1, "/etc/a1", 0))), [("A", 1, 0), ("B", 1, 0)]);
    for seconds in 1..=9 {
        assert_eq!(shown(&alerts(&mut engine, write(1, "/etc/a2", seconds))), []);
    }
    assert_eq!(shown(&alerts(&mut engine, write(2, "/etc/b", 9))), [("B", 2, 0)], "another process");
    // The window is over: this is a first again.
    let ended = alerts(&mut engine, write(1, "/etc/a3", 10));
    assert_eq!(shown(&ended), [("A", 1, 0), ("B", 1, 0), ("A", 1, 9), ("B", 1, 9)]);
    let repeated = &ended[2];
    assert_eq!((repeated.timestamp, repeated.last_timestamp), (START + SECOND, START + 9 * SECOND));
    assert_eq!(repeated.file_info.as_ref().unwrap().path, "/etc/a2");
    assert_eq!(ended[3].notifications[1].message, "Would have taken responseAction: kill");
    assert_ne!(repeated.uuid, ended[0].uuid);
    assert!(repeated.to_json().contains(r#""repeated":9"#), "{}", repeated.to_json());
    assert!(!ended[0].to_json().contains("repeated"));
    assert_eq!(engine.stats().suppressed, 18);
}

#[test]
fn every_end_tells_the_count() {
    let begin = || {
        let mut engine = engine(Duration::from_secs(10));
        alerts(&mut engine, write(1, "/etc/b", 0));
        assert_eq!(shown(&alerts(&mut engine, write(1, "/etc/b", 1))), []);
        engine
    };
    let counted = [("B", 1, 1)];
    // Another program in the same process is another execution.
    assert_eq!(shown(&alerts(&mut begin(), exec(1, 2)))[1..], counted);
    let mut exit = Event::new(EventKind::Exit);
    (exit.process, exit.time) = (ProcessKey { pid: OTHERS + 1, start: 7 }, START);
    assert_eq!(shown(&alerts(&mut begin(), exit)), counted);

    let mut found = Vec::new();
    let mut engine = begin();
    engine.tick(START + 9 * SECOND, &mut |pending| found.push(pending.complete()));
    assert_eq!(shown(&found), []);
    engine.tick(START + 10 * SECOND, &mut |pending| found.push(pending.complete()));
    begin().finish(&mut |pending| found.push(pending.complete()));
    let mut engine = begin();
    engine.reload(PolicySet::from_yaml("p.yaml", POLICIES).unwrap());
    engine.tick(START + SECOND, &mut |pending| found.push(pending.complete()));
    assert_eq!(shown(&found), [counted; 3].concat());
    assert_eq!(shown(&alerts(&mut engine, write(1, "/etc/b", 2))), [("B", 1, 0)], "first under the new policies");
}

#[test]
fn what_was_carried_out_is_always_told() {
    let policies = PolicySet::from_yaml("p.yaml", POLICIES).unwrap();
    let mut engine = Engine::builder(policies).suppress_duplicates(Duration::from_secs(10)).build();
    for seconds in 0..5 {
        let found = alerts(&mut engine, write(1, "/etc/b", seconds));
        // This responder says dry run, which counts; that of a real one does not.
        assert_eq!(found.len(), usize::from(seconds == 0));
    }
    let mut engine = Engine::builder(PolicySet::from_yaml("p.yaml", POLICIES).unwrap())
        .suppress_duplicates(Duration::from_secs(10))
        .build();
    for seconds in 0..5 {
        let mut found = Vec::new();
        let mut event = write(1, "/etc/b", seconds);
        engine.process(&mut event, &mut Acting, &mut |pending| found.push(pending.complete()));
        assert_eq!(shown(&found), [("B", 1, 0)]);
    }
}

/// Does what it is told, as far as anyone can see.
#[derive(Debug)]
struct Acting;

impl sls_core::Responder for Acting {
    fn supports(&self) -> sls_core::ActionSet {
        sls_core::Action::ALL.iter().copied().collect()
    }

    fn execute(&mut self, action: &sls_core::PlannedAction, _: &sls_core::ActionContext<'_>) -> sls_core::Execution {
        sls_core::Execution::Done(sls_core::ActionOutcome::new(action, sls_core::ActionResult::Successful))
    }
}

proptest! {
    #[test]
    fn no_first_is_hidden_and_the_counts_add_up(
        steps in prop::collection::vec((1_u32..6, prop::bool::weighted(0.2), 0_u64..4), 1..200),
    ) {
        let mut engine = engine(Duration::from_secs(5));
        let (mut time, mut detections) = (0, HashMap::<(String, u32), u64>::new());
        let mut execution = HashMap::<u32, u64>::new();
        let mut seen = std::collections::HashSet::new();
        let mut found = Vec::new();
        for (pid, execs, wait) in steps {
            time += wait;
            let event = if execs { exec(pid, time) } else { write(pid, "/etc/a", time) };
            *execution.entry(pid).or_default() += u64::from(execs);
            let given = alerts(&mut engine, event);
            for policy in if execs { &["C"][..] } else { &["A", "B"] } {
                *detections.entry((policy.to_string(), pid)).or_default() += 1;
                if seen.insert((*policy, pid, execution[&pid])) {
                    prop_assert!(shown(&given).contains(&(policy, pid, 0)), "a first is hidden");
                }
            }
            found.extend(given);
        }
        engine.finish(&mut |pending| found.push(pending.complete()));
        let mut told = HashMap::new();
        for (policy, pid, repeated) in shown(&found) {
            *told.entry((policy.to_owned(), pid)).or_default() += repeated.max(1);
        }
        prop_assert_eq!(told, detections);
    }
}

#[test]
fn there_is_an_end_to_what_it_remembers() {
    let mut engine = engine(Duration::from_secs(3600));
    let count = u32::try_from(MAX_SUPPRESSION_WINDOWS).unwrap() + 50;
    let mut found = Vec::new();
    for pid in 1..=count {
        for _ in 0..3 {
            found.extend(alerts(&mut engine, write(pid, "/etc/b", 1)));
        }
    }
    let (firsts, counts): (Vec<_>, Vec<_>) = shown(&found).into_iter().partition(|(.., repeated)| *repeated == 0);
    assert_eq!((firsts.len(), counts.len()), (count as usize, 50));
    assert!(counts.iter().all(|(.., repeated)| *repeated == 2));
    assert_eq!(engine.stats().suppressions_cut, 50);
}

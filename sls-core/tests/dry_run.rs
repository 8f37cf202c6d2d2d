//! A dry run tells what a real run would do: the same alerts, but for what came of the actions.

// A test may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code)]
mod cases;
mod generators;

use proptest::prelude::*;
use serde_json::Value;
use sls_core::{Action, Engine, Event, EventKind, Field, PolicySet, ProcessKey};

use cases::{Case, case, process};

/// The keys of an action's entry in which a dry run may differ.
const MAY_DIFFER: [&str; 4] = ["action_result", "action_result_details", "action_tier", "action_latency_us"];

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    /// Policies of every type with every action that fits, on events of which most raise them.
    #[test]
    fn a_dry_run_differs_only_in_what_came_of_it(case in case()) {
        let Case { events, .. } = &case;
        let runs = [false, true].map(|dry_run| run(case.load(), events, dry_run));
        let [real, dry] = &runs;
        prop_assert_eq!(real.len(), dry.len());
        for (real, dry) in real.iter().zip(dry) {
            prop_assert_eq!(without_results(real), without_results(dry));
            for (real, dry) in actions(real).iter().zip(actions(dry)) {
                let results = [real, dry].map(|action| action["message_fields"]["action_result"].as_str().unwrap());
                match results {
                    // By a guard, or by the policy's own `dryRun`.
                    [real_result, dry_result] if real_result == dry_result => prop_assert_eq!(real, dry),
                    results => prop_assert_eq!(results, ["successful", "dry run"]),
                }
            }
        }
    }
}

#[test]
fn every_action_is_planned_by_a_dry_run() {
    let tokens: Vec<_> = Action::ALL.iter().map(|action| action.token()).collect();
    let rules = r#"rules: ['match filePath == "/etc/pwn"', default ignore]"#;
    let text = format!("P: {{policy: file, responseActions: [{}], {rules}}}", tokens.join(", "));
    let mut event = Event::new(EventKind::File);
    event.process = ProcessKey { pid: 27, start: 5 };
    event
        .set_text(Field::FileOperation, b"CREATE")
        .set_text(Field::FilePath, b"/etc/pwn")
        .set_number(Field::FileDevice, 8)
        .set_number(Field::FileInode, 77)
        .set_text(Field::ContainerId, b"c0ffee");
    event.container_cgroup_id = Some(99);
    for (dry_run, result) in [(false, "successful"), (true, "dry run")] {
        let alerts = run(PolicySet::from_yaml("p.yaml", &*text).unwrap(), std::slice::from_ref(&event), dry_run);
        let found: Vec<_> = actions(&alerts[0])
            .iter()
            .map(|action| {
                assert_eq!(action["message_fields"]["action_result"], result);
                action["message_fields"]["action_type"].as_str().unwrap()
            })
            .collect();
        assert_eq!(found, tokens[2..], "all but those that only report");
    }
}

fn run(policies: PolicySet, events: &[Event], dry_run: bool) -> Vec<Value> {
    let mut engine = Engine::builder(policies).dry_run(dry_run).build();
    let alerts = events.iter().flat_map(|event| process(&mut engine, event.clone()));
    alerts.map(|alert| serde_json::from_str(&alert.to_json()).unwrap()).collect()
}

fn actions(alert: &Value) -> &[Value] {
    &alert["notifications"].as_array().unwrap()[1..]
}

/// The alert without what a dry run may say otherwise.
fn without_results(alert: &Value) -> Value {
    let mut alert = alert.clone();
    for action in &mut alert["notifications"].as_array_mut().unwrap()[1..] {
        for key in ["message", "timestamp"] {
            action[key].take();
        }
        let fields = action["message_fields"].as_object_mut().unwrap();
        fields.retain(|key, _| !MAY_DIFFER.contains(&key.as_str()));
    }
    alert
}

//! Whatever the policies and the events: what the engine does, what it explains, what a replay of the recorded events does,
//! and what the written-out document does is the same.

// A helper of a test fails like the test.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod cases;
mod generators;

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use sls_core::{Alert, Engine, Event, Explanation, Field, PolicySet, PolicyType, UnknownKeys};

use cases::{Case, case, process};

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn engine_explanation_replay_and_written_document_agree(case in case()) {
        check(&case, &mut BTreeSet::new());
    }
}

/// The property means something only if the cases do.
#[test]
fn generated_cases_meet_every_policy_type_and_outcome() {
    let mut runner = TestRunner::deterministic();
    let mut seen = BTreeSet::new();
    for _ in 0..400 {
        check(&case().new_tree(&mut runner).unwrap().current(), &mut seen);
    }
    let types = PolicyType::ALL.iter().map(|policy_type| policy_type.name());
    let outcomes = ["match", "undecided", "ignore", "held", "not raised"];
    let rest = ["granted", "dry run", "refused", "silent", "new name", "not wanted"];
    let missing: Vec<_> = types.chain(outcomes).chain(rest).filter(|wanted| !seen.contains(*wanted)).collect();
    assert!(missing.is_empty(), "never generated: {missing:?}");
}

/// The new name matches for certain, and the policy has nothing to do; the old name is in doubt, which would alert.
#[test]
fn silence_under_the_new_name_stands_under_the_old_one() {
    let policies = PolicySet::from_yaml(
        "p.yaml",
        "P: {policy: filemonitor, responseActions: [], rules: ['match programName == \"/tmp/*\" or filePath == \"*sh\"', default ignore]}",
    )
    .unwrap();
    let line = r#"{"kind":"file","processPid":5,"processStart":7,"filePath":"/x","newFilePath":"/usr/bin/bash","fileOperation":"RENAME","unknown":["programName"]}"#;
    let (event, _) = Event::from_json(line, UnknownKeys::Reject).unwrap();
    let mut engine = Engine::builder(policies).build();
    assert_eq!(process(&mut engine, event), []);
    assert_eq!(engine.stats().detections, 0);
}

fn check(case: &Case, seen: &mut BTreeSet<String>) {
    let policies = Arc::new(case.load());
    let written = PolicySet::from_yaml("effective.yaml", policies.effective_document())
        .unwrap_or_else(|error| panic!("{error}\n{case:#?}"));
    assert_eq!(written.hash(), policies.hash(), "{case:#?}");
    assert_eq!(written.effective_document(), policies.effective_document(), "{case:#?}");

    let interest = policies.interest();
    let mut live = Engine::builder(policies.clone()).build();
    let mut explaining = Engine::builder(policies.clone()).build();
    let mut replaying = Engine::builder(policies.clone()).build();
    let mut rewritten = Engine::builder(written).build();
    for (index, event) in case.events.iter().enumerate() {
        let line = event.to_json();
        let alerts = process(&mut live, event.clone());
        let explanations = explaining.explain(&mut event.clone());
        let about = || format!("event {index}: {line}\n{explanations:#?}\n{case:#?}");

        let responses: Vec<_> = explanations.iter().filter(|explanation| explanation.is_response()).collect();
        let explained: Vec<_> = responses.iter().map(|explanation| explained_response(explanation)).collect();
        let responded: Vec<_> = alerts.iter().map(response).collect();
        assert_eq!(responded, explained, "engine and explanation, {}", about());
        // By decision, a write through an open file is looked at only by policies that name it.
        if !interest.wants(event) && event.text(Field::FileOperation) != b"WRITE" {
            assert!(responses.is_empty(), "a response to what is not wanted, {interest:#?} {}", about());
            seen.insert("not wanted".to_owned());
        }

        let (recorded, _) = Event::from_json(&line, UnknownKeys::Reject).unwrap();
        let whole =
            |alerts: &[Alert]| alerts.iter().map(|alert| serde_json::to_value(alert).unwrap()).collect::<Vec<_>>();
        let alerts = whole(&alerts);
        assert_eq!(alerts, whole(&process(&mut replaying, recorded)), "engine and replay, {}", about());
        assert_eq!(alerts, whole(&process(&mut rewritten, event.clone())), "both documents, {}", about());

        note(&policies, &explanations, seen);
    }
    let stats = live.stats();
    assert_eq!(stats, replaying.stats(), "{case:#?}");
    assert_eq!(stats, rewritten.stats(), "{case:#?}");
}

/// What of one response has to be the same: policy, rule, doubts, report, and each action with its permission.
fn response(alert: &Alert) -> Value {
    let actions = alert.notifications[1..].iter().map(|notification| {
        let fields = &notification.message_fields;
        let permission = match fields.action_result.unwrap() {
            "successful" => "granted",
            other => other,
        };
        json!([fields.action_type, permission, fields.action_result_details])
    });
    json!({
        "policy": alert.strategy_name,
        "rule": alert.matched_rule,
        "uncertain": alert.uncertain,
        "report": alert.message_type.map(|message_type| message_type.name()),
        "actions": actions.collect::<Vec<_>>(),
    })
}

fn explained_response(explanation: &Explanation) -> Value {
    let actions = explanation.plan.iter().map(|action| json!([action.action, action.permission, action.guard]));
    json!({
        "policy": explanation.policy,
        "rule": explanation.rule,
        "uncertain": explanation.uncertain,
        "report": explanation.report,
        "actions": actions.collect::<Vec<_>>(),
    })
}

fn note(policies: &PolicySet, explanations: &[Explanation], seen: &mut BTreeSet<String>) {
    for explanation in explanations {
        seen.insert(explanation.outcome.to_owned());
        seen.extend(explanation.plan.iter().map(|action| action.permission.to_owned()));
        if explanation.is_response() {
            seen.insert(policies.policy(&explanation.policy).unwrap().policy_type.name().to_owned());
            seen.extend(explanation.report.is_none().then(|| "silent".to_owned()));
            seen.extend(explanation.note.as_ref().map(|_| "new name".to_owned()));
        }
    }
}

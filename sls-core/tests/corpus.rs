//! The corpus: files of policies, events and what must come of them, run through every engine. Each file has
//! `documents` (layers) and `tests`; a test feeds the events `before`, then `event`, and names the responses to that
//! one: either just the policies that match for certain (`matches`), or one by one (`expect`), where only what is
//! written is compared. `only` leaves all other policies out of the comparison.

// A helper of a test fails like the test.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde::Deserialize;
use serde_json::Value;
use sls_core::{
    Action, ActionSet, Engine, Event, Execution, Matcher, PlannedAction, PolicyLoader, PolicySet, Responder,
    TreeMatcher, UnknownKeys, explain,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[allow(dead_code)]
    about: String,
    documents: Vec<String>,
    tests: Vec<Test>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Test {
    name: String,
    #[serde(default)]
    before: Vec<Value>,
    event: Value,
    #[serde(default)]
    matches: Option<Vec<String>>,
    #[serde(default)]
    expect: Option<Vec<Expected>>,
    #[serde(default)]
    only: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    policy: String,
    rule: Option<String>,
    /// `match` if left out.
    outcome: Option<String>,
    uncertain: Option<Vec<String>>,
    #[serde(default, deserialize_with = "given")]
    report: Option<Option<String>>,
    plan: Option<BTreeMap<String, String>>,
    alert: Option<Value>,
}

/// Tells `report: null` from no `report`.
fn given<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

type Factory = fn(Arc<PolicySet>) -> Box<dyn Matcher>;

/// Every matcher that there is: they must all agree.
const MATCHERS: &[(&str, Factory)] = &[("tree", |policies| Box::new(TreeMatcher::new(policies)))];

#[test]
fn every_engine_agrees_with_the_corpus() {
    let mut files = 0;
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")).unwrap() {
        let path = entry.unwrap().path();
        let file: File = serde_yaml::from_str(&fs::read_to_string(&path).unwrap())
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let documents = file.documents.iter().enumerate();
        let loader = documents.fold(PolicyLoader::new(), |loader, (index, text)| {
            loader.document(format!("{}#{index}", path.display()), text.as_str())
        });
        let policies = Arc::new(loader.load().unwrap_or_else(|error| panic!("{error}")));
        for (matcher, factory) in MATCHERS {
            for test in &file.tests {
                let place = format!("{}: {} ({matcher})", path.file_name().unwrap().display(), test.name);
                run(&place, &policies, *factory, test);
            }
        }
        files += 1;
    }
    assert!(files >= 8, "the corpus is gone");
}

fn run(place: &str, policies: &Arc<PolicySet>, factory: Factory, test: &Test) {
    let mut engine = Engine::builder(policies.clone()).matcher(Box::new(factory)).build();
    let mut responder = Recorder::default();
    let mut alerts = Vec::new();
    let event = |value: &Value| {
        let line = value.to_string();
        Event::from_json(&line, UnknownKeys::Reject).unwrap_or_else(|error| panic!("{place}: {error}: {line}")).0
    };
    for earlier in &test.before {
        engine.process(&mut event(earlier), &mut responder, &mut |_| {});
    }
    let mut last = event(&test.event);
    responder.0.lock().unwrap().clear();
    engine.process(&mut last, &mut responder, &mut |pending| alerts.push(pending.complete()));

    // The explanation, which walks the rules on its own, is the other witness. The event is enriched by now.
    let explanations: Vec<_> = explain(policies, &last, engine.planner(), false)
        .into_iter()
        .filter(|explanation| explanation.report.is_some() || !explanation.plan.is_empty())
        .filter(|explanation| test.only.as_ref().is_none_or(|only| *only == explanation.policy))
        .collect();
    alerts.retain(|alert| test.only.as_ref().is_none_or(|only| *only == alert.strategy_name));
    let explained: Vec<_> = explanations.iter().map(|explanation| (&explanation.policy, &explanation.rule)).collect();
    let alerted: Vec<_> = alerts.iter().map(|alert| (&alert.strategy_name, &alert.matched_rule)).collect();
    assert_eq!(alerted, explained, "{place}: the engine and its explanation differ");

    if let Some(matches) = &test.matches {
        let certain: Vec<_> = explanations.iter().filter(|e| e.outcome == "match").map(|e| &e.policy).collect();
        assert_eq!(certain, matches.iter().collect::<Vec<_>>(), "{place}");
    }
    let Some(expected) = &test.expect else {
        assert!(test.matches.is_some(), "{place}: nothing is expected");
        return;
    };
    let found: Vec<_> = explanations.iter().map(|explanation| &explanation.policy).collect();
    assert_eq!(found, expected.iter().map(|expected| &expected.policy).collect::<Vec<_>>(), "{place}");
    let mut executed = Vec::new();
    for ((expected, explanation), alert) in expected.iter().zip(&explanations).zip(&alerts) {
        let place = format!("{place}: {}", expected.policy);
        assert_eq!(explanation.outcome, expected.outcome.as_deref().unwrap_or("match"), "{place}");
        if let Some(rule) = &expected.rule {
            assert_eq!(&explanation.rule, rule, "{place}");
        }
        if let Some(uncertain) = &expected.uncertain {
            assert_eq!(&explanation.uncertain, uncertain, "{place}");
            assert_eq!(&alert.uncertain, uncertain, "{place}");
        }
        if let Some(report) = &expected.report {
            assert_eq!(explanation.report, report.as_deref(), "{place}");
            assert_eq!(alert.message_type.map(|message_type| message_type.name()), report.as_deref(), "{place}");
        }
        if let Some(plan) = &expected.plan {
            let found: BTreeMap<_, _> =
                explanation.plan.iter().map(|a| (a.action.to_owned(), a.permission.to_owned())).collect();
            assert_eq!(&found, plan, "{place}");
        }
        let granted = explanation.plan.iter().filter(|action| action.permission == "granted");
        executed.extend(granted.map(|action| action.action.to_owned()));
        if let Some(wanted) = &expected.alert {
            let found = serde_json::to_value(alert).unwrap();
            contains(&place, &found, wanted);
        }
    }
    if test.only.is_none() {
        let done: Vec<_> = responder.0.lock().unwrap().iter().map(|action| action.token().to_owned()).collect();
        assert_eq!(done, executed, "{place}: what was carried out is not what was granted");
    }
}

/// Whether `found` has everything that `wanted` says.
fn contains(place: &str, found: &Value, wanted: &Value) {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) if !wanted.is_empty() => {
            for (key, wanted) in wanted {
                let found = found.get(key).unwrap_or_else(|| panic!("{place}: no `{key}` in the alert"));
                contains(&format!("{place}.{key}"), found, wanted);
            }
        }
        (Value::Array(found), Value::Array(wanted)) => {
            assert_eq!(found.len(), wanted.len(), "{place}: {found:?}");
            for (index, (found, wanted)) in found.iter().zip(wanted).enumerate() {
                contains(&format!("{place}[{index}]"), found, wanted);
            }
        }
        _ => assert_eq!(found, wanted, "{place}"),
    }
}

/// Carries nothing out and remembers what it was told to.
#[derive(Clone, Debug, Default)]
struct Recorder(Arc<Mutex<Vec<Action>>>);

impl Responder for Recorder {
    fn supports(&self) -> ActionSet {
        Action::ALL.iter().copied().collect()
    }

    fn execute(&mut self, action: &PlannedAction) -> Execution {
        self.0.lock().unwrap().push(action.action);
        sls_core::DryRunResponder.execute(action)
    }
}

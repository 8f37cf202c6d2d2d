//! The corpus: files of policies, events and what must come of them, run through every engine. Each file has
//! `documents` (layers) and `tests`; a test feeds the events `before`, then `event`, and names the responses to that
//! one: either just the policies that match for certain (`matches`), or one by one (`expect`), where only what is
//! written is compared. `only` leaves all other policies out of the comparison.

// A helper of a test fails like the test.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde::Deserialize;
use serde_json::Value;
use sls_core::{
    Action, ActionContext, ActionExplanation, ActionSet, CompiledMatcher, Decision, Engine, Event, Execution, Expr,
    Field, LIST_KEYS, ListType, Matcher, Operand, Operator, POLICY_KEYS, PlannedAction, PolicyLoader, PolicySet,
    PolicyType, ProfilingMatcher, Responder, TreeMatcher, UnknownKeys, parse_rule,
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
const MATCHERS: &[(&str, Factory)] = &[
    ("tree", |policies| Box::new(TreeMatcher::new(policies))),
    ("compiled", |policies| Box::new(CompiledMatcher::new(policies))),
    ("profiling", |policies| Box::new(ProfilingMatcher::new(policies, || 0))),
];

#[test]
fn every_engine_agrees_with_the_corpus() {
    for (name, file, policies) in corpus() {
        for (matcher, factory) in MATCHERS {
            for test in &file.tests {
                run(&format!("{name}: {} ({matcher})", test.name), &policies, *factory, test);
            }
        }
    }
}

/// The policies of one file and the events of another: these have values that nobody thought of, those that come with SLS
/// are many.
#[test]
fn every_matcher_agrees_on_all_policies_and_events() {
    let files = corpus();
    let mut sets: Vec<_> = files.iter().map(|(name, _, policies)| (name.clone(), policies.clone())).collect();
    sets.push(("policies".to_owned(), content()));
    let events =
        || files.iter().flat_map(|(_, file, _)| &file.tests).flat_map(|test| test.before.iter().chain([&test.event]));
    let mut responses = 0;
    for (name, policies) in &sets {
        let matchers: Vec<_> = MATCHERS.iter().map(|(name, factory)| (name, factory(policies.clone()))).collect();
        for event in events() {
            read(event).each_name(|seen| {
                let decisions = |matcher: &dyn Matcher| {
                    let mut decisions = Vec::new();
                    let owned = |decision: Decision<'_>| {
                        (decision.policy.name.clone(), decision.rule.text.clone(), decision.certain, decision.uncertain)
                    };
                    matcher.decide(seen, &mut |decision| decisions.push(owned(decision)));
                    decisions
                };
                let expected = decisions(&*matchers[0].1);
                responses += expected.len();
                for (matcher, other) in &matchers[1..] {
                    assert_eq!(decisions(&**other), expected, "{matcher}: policies of {name}, {event}");
                }
            });
        }
    }
    assert!(responses > 1000, "{responses} responses");
}

/// The policies that come with SLS.
fn content() -> Arc<PolicySet> {
    let mut paths: Vec<_> = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    paths.sort();
    let loader = paths.iter().fold(PolicyLoader::new(), |loader, path| {
        loader.content(path.display().to_string(), fs::read_to_string(path).unwrap())
    });
    Arc::new(loader.load().unwrap_or_else(|error| panic!("{error}")))
}

/// Of types, fields, operators and lists counts what made a policy match for certain: those of the rule that decided. Of
/// actions counts what was reported or granted, of keys what a document has.
#[test]
fn the_corpus_covers_the_whole_language() {
    let mut used = BTreeSet::new();
    for (_, file, policies) in corpus() {
        for document in &file.documents {
            let objects: BTreeMap<String, serde_yaml::Value> = serde_yaml::from_str(document).unwrap();
            for object in objects.values().filter_map(serde_yaml::Value::as_mapping) {
                let kind = if object.contains_key("list") { "key of lists" } else { "key of policies" };
                used.extend(object.keys().map(|key| (kind, key.as_str().unwrap().to_owned())));
            }
        }
        for test in &file.tests {
            let mut engine = Engine::builder(policies.clone()).build();
            let events = test.before.iter().chain([&test.event]);
            let explanations = events.map(|event| engine.explain(&mut read(event))).last().unwrap();
            for explanation in explanations.iter().filter(|explanation| explanation.outcome == "match") {
                let policy = policies.policy(&explanation.policy).unwrap();
                used.insert(("policy type", policy.policy_type.name().to_owned()));
                used.extend(explanation.report.map(|report| ("action", report.to_owned())));
                let granted = explanation.plan.iter().filter(|action| action.permission == "granted");
                used.extend(granted.map(|action| ("action", action.action.to_owned())));
                if let Some(condition) = parse_rule(&explanation.rule, 64).unwrap().condition {
                    tests(&condition, &policies, &mut used);
                }
            }
        }
    }
    let names = |kind, names: Vec<&str>| names.into_iter().map(|name| (kind, name.to_owned())).collect::<Vec<_>>();
    let missing: Vec<_> = [
        names("policy type", PolicyType::ALL.iter().map(|value| value.name()).collect()),
        names("field", Field::all().map(Field::name).collect()),
        names("operator", Operator::ALL.iter().map(|operator| operator.text()).collect()),
        names("list type", ListType::ALL.iter().map(|value| value.name()).collect()),
        names("action", Action::ALL.iter().map(|action| action.token()).collect()),
        names("key of policies", POLICY_KEYS.iter().map(|key| key.name).collect()),
        names("key of lists", LIST_KEYS.iter().map(|key| key.name).collect()),
    ]
    .into_iter()
    .flatten()
    .filter(|wanted| !used.contains(wanted))
    .collect();
    assert!(missing.is_empty(), "no test of the corpus has {missing:?}");
}

/// The fields, operators and types of lists of an expression.
fn tests(expression: &Expr, policies: &PolicySet, used: &mut BTreeSet<(&str, String)>) {
    match expression {
        Expr::And(terms) | Expr::Or(terms) => terms.iter().for_each(|term| tests(term, policies, used)),
        Expr::Not(inner, _) => tests(inner, policies, used),
        Expr::Test(test) => {
            used.insert(("field", test.field.name.clone()));
            used.insert(("operator", test.operator.text().to_owned()));
            if let Operand::List(list) = &test.operand {
                used.insert(("list type", policies.lists()[&*list.name].list_type.name().to_owned()));
            }
        }
        _ => panic!("an expression of a new kind"),
    }
}

/// Every file of the corpus: its name, what it says, and its policies.
fn corpus() -> Vec<(String, File, Arc<PolicySet>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().display().to_string();
        let file: File =
            serde_yaml::from_str(&fs::read_to_string(&path).unwrap()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let documents = file.documents.iter().enumerate();
        let loader = documents.fold(PolicyLoader::new(), |loader, (index, text)| {
            loader.document(format!("{name}#{index}"), text.as_str())
        });
        let policies = Arc::new(loader.load().unwrap_or_else(|error| panic!("{error}")));
        files.push((name, file, policies));
    }
    files
}

fn read(event: &Value) -> Event {
    let line = event.to_string();
    Event::from_json(&line, UnknownKeys::Reject).unwrap_or_else(|error| panic!("{error}: {line}")).0
}

fn run(place: &str, policies: &Arc<PolicySet>, factory: Factory, test: &Test) {
    let mut engine = Engine::builder(policies.clone()).matcher(Box::new(factory)).build();
    // The explanation, which walks the rules on its own, is the other witness.
    let mut witness = Engine::builder(policies.clone()).build();
    let mut responder = Recorder::default();
    let mut alerts = Vec::new();
    for earlier in &test.before {
        engine.process(&mut read(earlier), &mut responder, &mut |_| {});
        witness.explain(&mut read(earlier));
    }
    let mut last = read(&test.event);
    responder.0.lock().unwrap().clear();
    engine.process(&mut last, &mut responder, &mut |pending| alerts.push(pending.complete()));

    let explanations: Vec<_> = witness
        .explain(&mut read(&test.event))
        .into_iter()
        .filter(|explanation| explanation.is_response())
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
                explanation.plan.iter().map(|action| (action.action.to_owned(), permission(action))).collect();
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

/// `granted`, `dry run`, or which guard refused.
fn permission(action: &ActionExplanation) -> String {
    match &action.guard {
        Some(guard) => format!("{} by {}", action.permission, guard.split(':').next().unwrap()),
        None => action.permission.to_owned(),
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

    fn execute(&mut self, action: &PlannedAction, context: &ActionContext<'_>) -> Execution {
        self.0.lock().unwrap().push(action.action);
        sls_core::DryRunResponder.execute(action, context)
    }
}

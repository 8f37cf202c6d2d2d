//! Whatever the policies and the events: the compiled matcher decides as the plain evaluator does, in the same order. And
//! matchers that are wrong in a way that such a matcher can be wrong are found out.

// A helper of a test fails like the test.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod broken_matchers;
mod generators;
mod matcher_cases;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Barrier};
use std::thread;

use proptest::prelude::*;
use serde_json::{Map, Value};
use sls_core::{
    CompiledMatcher, Event, EventKind, Expr, Field, FieldKind, Matcher, Operand, PolicySet, PolicyType,
    ReloadableMatcher, TestSyntax, TreeMatcher, Truth, Value as FieldValue, parse_rule, raises,
};

use broken_matchers::BROKEN;
use matcher_cases::{Answer, Case, Choices, Step, answers, case, check};

fn compiled(_: &Map<String, Value>, policies: Arc<PolicySet>) -> Box<dyn Matcher> {
    Box::new(CompiledMatcher::new(policies))
}

fn seeded(seed: u64) -> Case {
    case(&mut Choices::Seed(seed), 200)
}

fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    // The comparison makes a case small; seeds cannot be.
    ProptestConfig {
        cases: cases.unwrap_or(256),
        max_shrink_iters: 0,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn compiled_and_plain_agree(seed in any::<u64>()) {
        check(&seeded(seed), &compiled, &mut |_, _| ()).unwrap();
    }
}

/// The property means something only if the cases do.
#[test]
fn generated_cases_reach_what_matters() {
    let mut missing = what_matters();
    for seed in 0..400 {
        let case = seeded(seed);
        let policies = matcher_cases::load(&case.document);
        let mut seen = BTreeSet::new();
        let mut exact = false;
        let mut look = |step: &Step, answers: &[Answer]| {
            note(&policies, step, answers, &mut seen);
            let responds = answers.iter().any(|answer| answer.policy == step.target && answer.certain);
            match step.change {
                None => exact = responds,
                // A change or two are between a response and none.
                Some(change) if exact && !responds => {
                    seen.insert(format!("near miss: {change}"));
                }
                Some(_) => {}
            }
        };
        check(&case, &compiled, &mut look).unwrap();
        missing.retain(|wanted| !seen.contains(wanted));
        if missing.is_empty() {
            return;
        }
    }
    panic!("never generated: {missing:#?}");
}

fn what_matters() -> BTreeSet<String> {
    let named = |kind: &str, names: &str| names.split(", ").map(|name| format!("{kind} {name}")).collect::<Vec<_>>();
    let tests = Field::all().flat_map(|field| {
        let kind = field.kind();
        kind.operators().iter().map(move |operator| format!("test {kind} {operator}"))
    });
    let types = PolicyType::ALL.iter().map(|policy_type| format!("type {policy_type}"));
    let mut wanted: BTreeSet<_> =
        tests.chain(types).chain(Field::all().map(|field| format!("field {field}"))).collect();
    for (kind, names) in [
        ("operand", "literal, list, set"),
        ("value", "absent, long, of 64, of a name"),
        ("unknown", "path, name, string, number, bool, host, enum, lineage, items"),
        ("truncated", "path, name, string, enum, lineage, items"),
        (
            "near miss:",
            "cut, extended, other case, one byte changed, another value, another number, another host, another bool",
        ),
        ("near miss:", "absent, unknown, truncated, truncated to nothing, no items, trigger unknown"),
        ("outcome", "silence, match, undecided, default, under a new name"),
        ("in doubt:", "match, ignore, trigger"),
        // The matcher goes about each in another way.
        ("policies", "few, many"),
        ("responses", "few, many"),
    ] {
        wanted.extend(named(kind, names));
    }
    wanted
}

fn note(policies: &PolicySet, step: &Step, answers: &[Answer], seen: &mut BTreeSet<String>) {
    let mut note = |what: &str| {
        seen.insert(what.to_owned());
    };
    let event = &step.event;
    match answers.len() {
        0 => note("outcome silence"),
        1..=32 => note("responses few"),
        _ => note("responses many"),
    }
    if !answers.is_empty() {
        match policies.active().filter(|policy| raises(policy.policy_type, event.kind)).count() {
            ..=8 => note("policies few"),
            _ => note("policies many"),
        }
        if event.value(Field::NewFilePath) != FieldValue::Absent {
            note("outcome under a new name");
        }
    }
    for answer in answers {
        let policy = policies.policy(&answer.policy).unwrap();
        note(&format!("type {}", policy.policy_type));
        note(if answer.certain { "outcome match" } else { "outcome undecided" });
        let rule = parse_rule(&answer.rule, 64).unwrap();
        match &rule.condition {
            None => note("outcome default"),
            Some(_) if !answer.certain => note(&format!("in doubt: {}", rule.verdict)),
            Some(condition) => tests(condition, &mut |test| note_test(test, step, &mut note)),
        }
        for field in answer.uncertain.iter() {
            // Both are one value.
            let stored = if field == Field::Lineage { Field::AncestorProgramName } else { field };
            let unknown = event.unknown().contains(stored) || !event.truncated().contains(stored);
            let doubt = if unknown { "unknown" } else { "truncated" };
            note(&format!("{doubt} {}", field.kind()));
            if field.spec().many {
                note(&format!("{doubt} items"));
            }
        }
        if !answer.certain && policy.is_raised_by(event) == Truth::Unknown {
            note("in doubt: trigger");
        }
    }
}

fn note_test(test: &TestSyntax, step: &Step, note: &mut dyn FnMut(&str)) {
    let field = Field::from_name(&test.field.name).unwrap();
    note(&format!("field {field}"));
    note(&format!("test {} {}", field.kind(), test.operator));
    match &test.operand {
        Operand::List(_) => note("operand list"),
        Operand::Set(_) => note("operand set"),
        _ => note("operand literal"),
    }
    match step.event.value(field) {
        FieldValue::Absent if field.kind() != FieldKind::Number => note("value absent"),
        FieldValue::Text { bytes, .. } if bytes.len() > 256 => note("value long"),
        FieldValue::Many { items, .. } if items.iter().count() == 64 => note("value of 64"),
        FieldValue::Host(host) if step.addresses.iter().flatten().any(|address| *address == host) => {
            note("value of a name")
        }
        _ => {}
    }
}

fn tests(expression: &Expr, look: &mut dyn FnMut(&TestSyntax)) {
    match expression {
        Expr::And(terms) | Expr::Or(terms) => terms.iter().for_each(|term| tests(term, look)),
        Expr::Not(inner, _) => tests(inner, look),
        Expr::Test(test) => look(test),
        _ => panic!("an expression of a new kind"),
    }
}

/// What is worth looking up for one field may not be for another, and both share the list.
#[test]
fn a_list_of_several_fields() {
    // Enough others that nothing is asked one after the other.
    let others = (0..20).map(|index| (format!("Z{index}"), policy(&format!("programName == \"*/tool{index}\""))));
    let one = |entries: &[&str], first: &str, then: &str| {
        let mut document: Map<_, _> = others.clone().collect();
        let list_type = if first.ends_with("ProgramName") || first == "programName" { "paths" } else { "names" };
        document.insert("Shared".to_owned(), serde_json::json!({"type": list_type, "list": entries}));
        document.insert("A".to_owned(), policy(&format!("{first} in $Shared")));
        document.insert("B".to_owned(), policy(&format!("{then} in $Shared")));
        document
    };
    let mut event = Event::new(EventKind::Exec);
    event
        .set_text(Field::ProgramName, b"/x")
        .set_text(Field::UserName, b"PIPE")
        .set_text(Field::StandardInput, b"PIPE");
    event.set_ancestors([&b"/x"[..]]);
    for entries in
        [&["/*"][..], &["*x"], &["*", "/x"], &["PIPE", "/X"], &["PIPE", "SOCKET", "FILE", "DEVICE", "TERMINAL", "/x"]]
    {
        for fields in [["programName", "ancestorProgramName"], ["userName", "standardInput"]] {
            for [first, then] in [fields, [fields[1], fields[0]]] {
                let document = one(entries, first, then);
                let step = Step { event: event.clone(), addresses: Vec::new(), target: "A".to_owned(), change: None };
                check(&Case { document, steps: vec![step] }, &compiled, &mut |_, _| ()).unwrap();
            }
        }
    }
}

fn policy(condition: &str) -> Value {
    serde_json::json!({"policy": "program", "rules": [format!("match {condition}"), "default ignore"]})
}

// One matcher in many hands.

/// A matcher, and what it has to answer to each event.
struct Answered {
    matcher: CompiledMatcher,
    events: Vec<(Event, Vec<Vec<Answer>>)>,
}

fn answered(seeds: std::ops::Range<u64>) -> Vec<Answered> {
    let cases = seeds.map(seeded).map(|case| {
        let policies = matcher_cases::load(&case.document);
        let tree = TreeMatcher::new(policies.clone());
        let events = case.steps.into_iter().map(|step| {
            let expected = answers(&tree, &step.event);
            (step.event, expected)
        });
        Answered { events: events.collect(), matcher: CompiledMatcher::new(policies) }
    });
    cases.collect()
}

#[test]
fn threads_share_a_matcher() {
    let cases = answered(2000..2024);
    let start = Barrier::new(8);
    thread::scope(|scope| {
        for thread in 0..8 {
            let (cases, start) = (&cases, &start);
            scope.spawn(move || {
                start.wait();
                // Sets of all sizes in turn, each thread at another place.
                for round in 0..2 * cases.len() {
                    let Answered { matcher, events } = &cases[(round + 3 * thread) % cases.len()];
                    for (event, expected) in events {
                        assert!(answers(matcher, event) == *expected, "{}", event.to_json());
                    }
                }
            });
        }
    });
}

/// Whoever loads a matcher gets the answers of the old policies or of the new ones, and never of both.
#[test]
fn a_matcher_is_replaced_under_its_readers() {
    let document = |name: &str| {
        let policy = |index| (format!("{name}{index}"), policy("programName == \"*/sh\""));
        (0..50).map(policy).collect::<Map<_, _>>()
    };
    let policies = ["old", "new"].map(|name| matcher_cases::load(&document(name)));
    let current = ReloadableMatcher::new(policies[0].clone());
    let mut event = Event::new(EventKind::Exec);
    event.set_text(Field::ProgramName, b"/bin/sh");
    let expected = policies.each_ref().map(|policies| answers(&CompiledMatcher::new(policies.clone()), &event));
    assert_eq!(expected.each_ref().map(|names| names[0].len()), [50, 50]);
    thread::scope(|scope| {
        let reader = || {
            scope.spawn(|| {
                let mut seen = [false; 2];
                while seen != [true; 2] {
                    let found = answers(&current, &event);
                    let of = expected.iter().position(|expected| *expected == found);
                    seen[of.unwrap_or_else(|| panic!("of neither: {found:?}"))] = true;
                }
            })
        };
        let readers = [(); 4].map(|()| reader());
        while !readers.iter().all(|reader| reader.is_finished()) {
            policies.iter().for_each(|policies| current.reload(policies.clone()));
            thread::yield_now();
        }
    });
}

/// Whoever is told of a decision may ask again, of the same matcher or another; or panic, and the matcher still works.
#[test]
fn callbacks_may_ask_again_or_panic() {
    let cases = answered(3000..3012);
    let mut interrupted = 0;
    for (number, Answered { matcher, events }) in cases.iter().enumerate() {
        let Answered { matcher: other, events: other_events } = &cases[(number + 1) % cases.len()];
        for ((event, expected), (other_event, other_expected)) in events.iter().zip(other_events) {
            let mut inner = 0;
            let mut outer = Vec::new();
            matcher.decide(event, &mut |decision| {
                outer.push(decision.policy.name.to_string());
                if inner < 3 {
                    inner += 1;
                    assert!(answers(matcher, event) == *expected, "{}", event.to_json());
                    assert!(answers(other, other_event) == *other_expected, "{}", other_event.to_json());
                }
            });
            assert!(expected.last().unwrap().iter().map(|answer| &answer.policy).eq(&outer));
            if !outer.is_empty() {
                interrupted += 1;
                let panicking = AssertUnwindSafe(|| matcher.decide(event, &mut |_| resume_unwind(Box::new(()))));
                assert!(catch_unwind(panicking).is_err());
                assert!(answers(matcher, event) == *expected, "{}", event.to_json());
            }
        }
    }
    assert!(interrupted > 50, "{interrupted} decisions");
}

/// Tests that cannot fail are worthless: each of these mistakes is found, and shown with one policy or with the two that it
/// takes.
#[test]
fn every_broken_matcher_is_found_out() {
    const CASES: u64 = 60;
    // Small ones, which are quickly made smaller.
    let cases: Vec<_> = (1000..1000 + CASES).map(|seed| case(&mut Choices::Seed(seed), 24)).collect();
    for (mistake, factory) in BROKEN {
        let found = cases.iter().find_map(|case| check(case, factory, &mut |_, _| ()).err());
        let found = found.unwrap_or_else(|| panic!("nobody notices in {CASES} cases: {mistake}"));
        let policies = found.document.values().filter(|object| object.get("policy").is_some()).count();
        assert!(policies <= 2, "{mistake}: not made small: {found:?}");
    }
}

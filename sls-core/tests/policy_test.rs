//! Files of policy tests, as embedders run them.

// A test may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use sls_core::{Code, Diagnostics, Field, Limits, PolicySet, PolicyTests, TestOutcome, Value};

const POLICIES: &str = r#"
Killed:
  policy: program
  responseActions: [kill, alert]
  rules: ['match programName == "/k"', default ignore]
Dry:
  policy: program
  dryRun: true
  responseActions: [kill, audit]
  rules: ['match programName == "/d"', default ignore]
Silent:
  policy: program
  onUnknown: ignore
  responseActions: [stop]
  rules: ['match programName == "/s"', default ignore]
Child:
  policy: program
  rules: ['match parentProgramName == "/parent"', default ignore]
Disabled:
  policy: program
  enabled: false
  rules: [default match]
"#;

fn run(tests: &str) -> Vec<TestOutcome> {
    let tests = PolicyTests::from_yaml("t.yaml", tests).unwrap_or_else(|error| panic!("{error}"));
    tests.run(PolicySet::from_yaml("p.yaml", POLICIES).unwrap()).unwrap_or_else(|error| panic!("{error}"))
}

/// The mismatches of the only test: policy, key, expected, found.
fn mismatches(event: &str, expect: &str) -> Vec<String> {
    let outcome = run(&format!("tests: [{{name: t, event: {event}, expect: {expect}}}]")).remove(0);
    assert_eq!(outcome.passed(), outcome.mismatches.is_empty());
    let lines = outcome.mismatches.iter().flat_map(|mismatch| {
        let line = |d: &sls_core::Difference| format!("{} {}: {} / {}", mismatch.policy, d.key, d.expected, d.found);
        mismatch.differences.iter().map(line).collect::<Vec<_>>()
    });
    lines.collect()
}

fn errors(tests: &str) -> Vec<(Code, usize)> {
    list(&PolicyTests::from_yaml("t.yaml", tests).unwrap_err())
}

fn list(diagnostics: &Diagnostics) -> Vec<(Code, usize)> {
    diagnostics.as_slice().iter().map(|diagnostic| (diagnostic.code, diagnostic.position().0)).collect()
}

#[test]
fn responses_are_compared_by_the_keys_given() {
    let killed = "{kind: exec, programName: /k}";
    let passing = [
        (killed, "[{policy: Killed}]"),
        (killed, "[{policy: Killed, outcome: match, actions: [alert, kill], uncertain: []}]"),
        ("{kind: exec, programName: /d}", "[{policy: Dry, actions: [audit, kill]}]"),
        ("{kind: exec, programName: /s}", "[{policy: Silent, actions: [stop]}]"),
        ("{kind: exec, programName: /s}", "[{policy: Silent, actions: [suspend]}]"),
        ("{kind: exec, processPid: 1, programName: /k}", "[{policy: Killed, actions: [alert, kill: refused]}]"),
        ("{kind: exec, unknown: [parentProgramName]}", "[{policy: Child, uncertain: [parentProgramName]}]"),
        ("{kind: exec, unknown: [parentProgramName]}", "[{policy: Child, outcome: undecided}]"),
    ];
    for (event, expect) in passing {
        assert_eq!(mismatches(event, expect), [""; 0], "{event} {expect}");
    }
    let failing = [
        (killed, "[]", "Killed outcome: no response / match"),
        (killed, "[{policy: Killed, actions: [alert]}]", "Killed actions: [alert] / [alert, kill]"),
        (
            killed,
            "[{policy: Killed, actions: [alert, kill: refused]}]",
            "Killed actions: [alert, kill: refused] / [alert, kill]",
        ),
        (killed, "[{policy: Killed, matchedRule: x}]", "Killed matchedRule: x / match programName == \"/k\""),
        (
            "{kind: exec, processPid: 1, programName: /k}",
            "[{policy: Killed, actions: [kill, alert]}]",
            "Killed actions: [alert, kill] / [alert, kill: refused]",
        ),
        ("{kind: exec}", "[{policy: Dry}]", "Dry outcome: match / ignore"),
        ("{kind: exec}", "[{policy: Disabled}]", "Disabled outcome: match / not asked: the policy is disabled"),
        (
            "{kind: fork}",
            "[{policy: Dry}]",
            "Dry outcome: match / not asked: `fork` events do not raise `program` policies",
        ),
        ("{kind: exec, unknown: [parentProgramName]}", "[{policy: Child}]", "Child outcome: match / undecided"),
    ];
    for (event, expect, difference) in failing {
        assert_eq!(mismatches(event, expect), [difference], "{event} {expect}");
    }
    let undecided = "{kind: exec, unknown: [programName]}";
    let expect = "[{policy: Killed, uncertain: [programName]}, {policy: Dry, uncertain: [programName]}, {policy: Silent, outcome: undecided}]";
    assert_eq!(mismatches(undecided, expect), ["Silent outcome: undecided / undecided, without a response"]);
}

#[test]
fn events_before_are_remembered_by_pid_alone() {
    let outcomes = run("tests:\n\
        - name: child\n  before: [{kind: baseline, processPid: 50, programName: /parent}, {kind: fork, processPid: 51, parentPid: 50}]\n  \
          event: {kind: exec, processPid: 51, programName: /x}\n  expect: [{policy: Child}]\n\
        - name: alone\n  event: {kind: exec, processPid: 51, programName: /x}\n  expect: []\n");
    assert!(outcomes.iter().all(TestOutcome::passed), "{outcomes:#?}");
    assert_eq!(outcomes[0].event.value(Field::ParentPid), Value::Number(50));
    assert_eq!(outcomes[0].event.time - outcomes[1].event.time, 2_000_000);
    assert!(outcomes[1].event.process.start > 0);
}

#[test]
fn what_is_given_goes_before_defaults_and_both_before_what_is_made_up() {
    let outcomes = run("defaults: {kind: exec, uid: 5, time: 7, processStart: 9, programArguments: [a]}\ntests:\n\
        - {name: a, event: {uid: 6, programArguments: [x, 1, true, ~, '']}, expect: []}\n\
        - {name: b, event: {processPid: 70000}, before: [{}], expect: []}\n");
    let (first, second) = (&outcomes[0].event, &outcomes[1].event);
    assert_eq!((first.number(Field::Uid), first.time, first.process.start), (Some(6), 7, 9));
    assert_eq!(first.text(Field::ProgramArguments), b"x 1 true ~ ");
    assert_eq!((second.number(Field::Uid), second.process.pid), (Some(5), 70_000));
    assert!(first.process.pid >= 1000);
}

#[test]
fn only_restricts_the_comparison_and_the_coverage() {
    let tests = PolicyTests::from_yaml(
        "t.yaml",
        "only: Dry\ntests:\n- {name: a, event: {kind: exec, programName: /k}, expect: []}\n\
         - {name: b, only: [Killed], event: {kind: exec, programName: /k}, expect: [{policy: Killed}]}\n",
    )
    .unwrap();
    let outcomes = tests.run(PolicySet::from_yaml("p.yaml", POLICIES).unwrap()).unwrap();
    assert!(outcomes.iter().all(TestOutcome::passed), "{outcomes:#?}");
    assert_eq!(outcomes[1].responses, ["Killed"]);
    assert!(tests.covers("Dry") && tests.covers("Killed") && !tests.covers("Child"));
}

#[test]
fn names_of_policies_are_checked_against_the_set() {
    let text = "tests:\n- {name: a, only: [Kiled, Child],\n   event: {kind: exec},\n   expect: [{policy: Chld}]}\n";
    let text = text.replace("Child]", "Chld]");
    let set = Arc::new(PolicySet::from_yaml("p.yaml", POLICIES).unwrap());
    let diagnostics = PolicyTests::from_yaml("t.yaml", text).unwrap().run(set).unwrap_err();
    let suggested: Vec<_> =
        diagnostics.as_slice().iter().map(|d| &*d.suggestion.as_ref().unwrap().replacement).collect();
    assert_eq!(suggested, ["Killed", "Child", "Child"]);
    assert_eq!(list(&diagnostics), [(Code::UnknownName, 2), (Code::UnknownName, 2), (Code::UnknownName, 4)]);
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    for (text, wanted) in [
        ("[]", vec![(Code::WrongType, 1)]),
        ("policies: [a]", vec![(Code::MissingKey, 1)]),
        ("tests: {}", vec![(Code::WrongType, 1)]),
        ("policies: a\ntests: []", vec![(Code::WrongType, 1)]),
        ("tests: []\ntests: []", vec![(Code::DuplicateKey, 2)]),
        ("defaults: {pid: 4}\ntests: []", vec![(Code::UnknownKey, 1)]),
        ("tests:\n- {}", vec![(Code::MissingKey, 2); 3]),
        ("tests:\n- {name: a, event: {}, expect: []}", vec![(Code::MissingKey, 2)]),
        ("tests:\n- {name: a, event: {kind: exec, uid: -1}, expect: []}", vec![(Code::WrongType, 2)]),
        ("tests:\n- {name: a, event: {kind: exec, uid: 99999999999999999999}, expect: []}", vec![(Code::WrongType, 2)]),
        ("tests:\n- {name: a, event: {kind: exec, eventType: BASELINE_TASK}, expect: []}", vec![(Code::Conflict, 2)]),
        ("tests:\n- {name: a, event: {kind: exec, [a]: 1}, expect: []}", vec![(Code::WrongType, 2)]),
        ("tests:\n- {name: a, event: {kind: exec}, expect: [P]}", vec![(Code::WrongType, 2)]),
        (
            "tests:\n- {name: a, event: {kind: exec}, expect: []}\n- {name: a, event: {kind: exec}, expect: []}",
            vec![(Code::DuplicateKey, 3)],
        ),
        (
            "only: A\ntests:\n- {name: a, event: {kind: exec}, expect: [{policy: B}, {policy: A}, {policy: A}]}",
            vec![(Code::Conflict, 3), (Code::DuplicateKey, 3)],
        ),
        (
            "tests:\n- name: a\n  event: {kind: exec}\n  expect: [{policy: A, actions: [kill: done, 7, [kill]]}]",
            vec![(Code::UnknownName, 4), (Code::WrongType, 4), (Code::WrongType, 4)],
        ),
    ] {
        assert_eq!(errors(text), wanted, "{text}");
    }
}

#[test]
fn a_file_is_held_to_the_limits() {
    let test = "tests:\n- {name: a, before: [{}, {}], event: {}, expect: []}\n- {name: b, event: {}, expect: []}\n";
    let text = format!("defaults: {{kind: exec, programArguments: [{}]}}\n{test}", "a".repeat(1000));
    let refused = |limits: &Limits| list(&PolicyTests::with_limits("t.yaml", text.as_str(), limits).unwrap_err());
    let limits = Limits::default();
    assert!(PolicyTests::with_limits("t.yaml", text.as_str(), &limits).is_ok());
    assert_eq!(refused(&Limits { test_events: 3, ..limits.clone() }), [(Code::Limit, 4)]);
    // The defaults count in each event.
    assert_eq!(refused(&Limits { document_bytes: text.len() + 1500, ..limits.clone() }), [(Code::Limit, 3)]);
    assert_eq!(refused(&Limits { nodes: 10, ..limits }).first().map(|(code, _)| *code), Some(Code::Limit));
}

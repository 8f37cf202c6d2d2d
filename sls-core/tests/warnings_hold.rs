//! What the analyser says of rules holds: no event makes true what is never true, none makes false what is always true, and
//! none is decided by a rule that is never reached.

// A helper of a test fails like the test.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod expressions;

use proptest::prelude::*;
use sls_core::{Code, Event, EventKind, Field, PolicySet, Truth};

use expressions::expressions;

/// Tests over few values, so that they contradict and imply each other often.
fn test() -> BoxedStrategy<String> {
    let number = prop_oneof![Just("uid"), Just("gid"), Just("loginUid")];
    let order = prop_oneof![Just("=="), Just("!="), Just("<"), Just("<="), Just(">"), Just(">=")];
    let text =
        prop_oneof![Just("programName"), Just("terminal"), Just("programArguments"), Just("ancestorProgramName")];
    let equal = prop_oneof![Just("=="), Just("!="), Just("=~"), Just("!~")];
    let literal =
        || prop_oneof![Just("/a"), Just("/b"), Just("/A"), Just(""), Just("*"), Just("*a"), Just("/*"), Just("/ab")];
    let regex = prop_oneof![Just("/a"), Just("/[ab]"), Just(".*"), Just(".*b"), Just("/.*"), Just("")];
    let inside = || prop_oneof![Just("in"), Just("not in")];
    prop_oneof![
        (number.clone(), order, -1i64..4).prop_map(|(field, order, value)| format!("{field} {order} {value}")),
        (number, inside(), prop::collection::vec(-1i64..4, 1..3))
            .prop_map(|(field, inside, values)| format!("{field} {inside} {values:?}")),
        (text.clone(), equal, literal()).prop_map(|(field, equal, value)| format!("{field} {equal} \"{value}\"")),
        (text.clone(), inside(), prop::collection::vec(literal(), 1..3))
            .prop_map(|(field, inside, values)| format!("{field} {inside} {values:?}")),
        (text.clone(), any::<bool>(), regex)
            .prop_map(|(field, not, regex)| format!("{field}{} like \"{regex}\"", if not { " not" } else { "" })),
        (
            prop_oneof![Just("programName"), Just("ancestorProgramName")],
            inside(),
            prop_oneof![Just("Empty"), Just("Full")]
        )
            .prop_map(|(field, inside, list)| format!("{field} {inside} ${list}")),
        (inside(), prop_oneof![Just("None"), Just("Some")]).prop_map(|(inside, list)| format!("uid {inside} ${list}")),
        (any::<bool>(), any::<bool>())
            .prop_map(|(equal, value)| format!("programIsMemfd {} {value}", if equal { "==" } else { "!=" })),
        Just("eventType == \"BASELINE_TASK\"".to_owned()),
        Just("eventType == \"PROCESS_EVENT_TYPE_EXEC\"".to_owned()),
    ]
    .boxed()
}

/// A field has a value or none, or its value is cut or unknown.
fn event() -> BoxedStrategy<Event> {
    let bytes = || prop_oneof![Just(""), Just("/a"), Just("/b"), Just("/A"), Just("/ab"), Just("a"), Just("x b")];
    let texts = prop::array::uniform3((0..5u8, bytes()));
    let numbers = prop::array::uniform3((0..4u8, 0..5u64));
    let ancestors = (0..4u8, prop::collection::vec(bytes(), 0..3));
    (texts, numbers, ancestors, (0..4u8, any::<bool>()), any::<bool>())
        .prop_map(|(texts, numbers, (how, ancestors), (memfd_how, memfd), baseline)| {
            let mut event = Event::new(if baseline { EventKind::Baseline } else { EventKind::Exec });
            for (field, (how, text)) in
                [Field::ProgramName, Field::Terminal, Field::ProgramArguments].into_iter().zip(texts)
            {
                if how > 0 {
                    event.set_text(field, text.as_bytes());
                }
                mark(&mut event, field, how);
            }
            for (field, (how, number)) in [Field::Uid, Field::Gid, Field::LoginUid].into_iter().zip(numbers) {
                if how > 0 {
                    event.set_number(field, if number == 4 { u64::MAX } else { number });
                }
                mark(&mut event, field, if how == 2 { 0 } else { how });
            }
            if how > 0 {
                event.set_ancestors(ancestors.iter().map(|text| text.as_bytes()));
            }
            mark(&mut event, Field::AncestorProgramName, how);
            if memfd_how > 0 {
                event.set_bool(Field::ProgramIsMemfd, memfd);
            }
            mark(&mut event, Field::ProgramIsMemfd, if memfd_how == 2 { 0 } else { memfd_how });
            event
        })
        .boxed()
}

fn mark(event: &mut Event, field: Field, how: u8) {
    match how {
        2 => event.mark_truncated(field),
        3 => event.mark_unknown(field),
        _ => event,
    };
}

fn load(rules: &[String]) -> (PolicySet, String) {
    let mut document = String::from(
        "Empty: {type: paths, list: []}\nFull: {type: paths, list: [/a, '*b']}\nNone: {type: numbers, list: []}\n\
         Some: {type: numbers, list: [1, 2-3]}\nP:\n  policy: program\n  rules:\n",
    );
    for rule in rules {
        document += &format!("  - {}\n", serde_json::to_string(rule).unwrap());
    }
    document += "  - default ignore\n";
    (PolicySet::from_yaml("p.yaml", &*document).unwrap_or_else(|error| panic!("{error}")), document)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn what_is_said_of_rules_holds_for_every_event(
        conditions in prop::collection::vec(expressions(test(), 12), 1..4),
        events in prop::collection::vec(event(), 60),
    ) {
        let rules: Vec<_> = conditions.iter().map(|condition| format!("match {condition}")).collect();
        let (set, document) = load(&rules);
        let first_line = document.lines().position(|line| line == "  rules:").unwrap() + 2;
        let conditions: Vec<_> = set.policies()[0].rules.iter().filter_map(|rule| rule.condition.as_ref()).collect();
        for warning in set.warnings().as_slice() {
            let Some(rule) = warning.position().0.checked_sub(first_line) else { continue };
            for event in &events {
                let value = conditions[rule].evaluate(event);
                match warning.code {
                    Code::NeverTrue if warning.message.starts_with("this rule") => {
                        prop_assert_ne!(value, Truth::True, "{}\n{:?}", warning, event);
                    }
                    Code::AlwaysTrue if warning.message.starts_with("this rule") => {
                        prop_assert_ne!(value, Truth::False, "{}\n{:?}", warning, event);
                    }
                    Code::EmptyList => prop_assert_ne!(value, Truth::True, "{}\n{:?}", warning, event),
                    Code::UnreachableRule if value == Truth::True => {
                        let earlier = conditions[..rule].iter().any(|other| other.evaluate(event) == Truth::True);
                        prop_assert!(earlier, "{}\n{:?}", warning, event);
                    }
                    _ => {}
                }
            }
        }
    }

    /// Two tests of one field, where most is said.
    #[test]
    fn what_is_said_of_two_tests_holds_for_every_event(
        (first, second, third) in (test(), test(), test()),
        events in prop::collection::vec(event(), 60),
    ) {
        let rules = [
            format!("match {first} and {second}"),
            format!("match {third}"),
            format!("match {first} and {third}"),
            format!("match not {second} and not {third}"),
            format!("match {first}"),
            format!("match {second} or not {second}"),
        ];
        let (set, document) = load(&rules);
        let first_line = document.lines().position(|line| line == "  rules:").unwrap() + 2;
        let conditions: Vec<_> = set.policies()[0].rules.iter().filter_map(|rule| rule.condition.as_ref()).collect();
        for warning in set.warnings().as_slice() {
            let Some(rule) = warning.position().0.checked_sub(first_line) else { continue };
            for event in &events {
                match (warning.code, conditions[rule].evaluate(event)) {
                    (Code::NeverTrue | Code::EmptyList, Truth::True) if !warning.message.starts_with("this part") => {
                        prop_assert!(false, "{}\n{:?}", warning, event);
                    }
                    (Code::AlwaysTrue, Truth::False) if warning.message.starts_with("this rule") => {
                        prop_assert!(false, "{}\n{:?}", warning, event);
                    }
                    (Code::UnreachableRule, Truth::True) => {
                        let earlier = conditions[..rule].iter().any(|other| other.evaluate(event) == Truth::True);
                        prop_assert!(earlier, "{}\n{:?}", warning, event);
                    }
                    _ => {}
                }
            }
        }
    }
}

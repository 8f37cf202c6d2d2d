//! Properties of the rule language: what is printed parses to the same, and the evaluator agrees with a second one
//! that is written here from the grammar and Kleene's tables alone.

// A helper of a test fails like the test.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::sync::Arc;

use proptest::prelude::*;
use sls_core::{Engine, Event, EventKind, Field, Matcher, PolicySet, ProcessKey, Truth, parse_rule};

/// An expression over four tests whose values are known.
#[derive(Clone, Debug)]
enum Node {
    Test(usize),
    Not(Box<Node>),
    And(Vec<Node>),
    Or(Vec<Node>),
}

/// The tests, and the value of each in [`event`].
const TESTS: &[(&str, Truth)] = &[
    ("uid == 1000", Truth::True),
    ("gid != 7", Truth::False),
    (r#"programArguments like "x+""#, Truth::Unknown),
    (r#"programName in ["*/a", "*/b"]"#, Truth::True),
    (r#"userName == "root""#, Truth::Unknown),
];

fn event() -> Event {
    let mut event = Event::new(EventKind::Exec);
    event.process = ProcessKey { pid: 40, start: 4 };
    event.set_number(Field::Uid, 1000).set_number(Field::Gid, 7).set_text(Field::ProgramName, b"/bin/b");
    event.set_arguments([&b"xx"[..]]).mark_truncated(Field::ProgramArguments).mark_unknown(Field::UserName);
    event
}

fn node() -> impl Strategy<Value = Node> {
    let leaf = (0..TESTS.len()).prop_map(Node::Test);
    leaf.prop_recursive(5, 40, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|node| Node::Not(Box::new(node))),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Node::And),
            prop::collection::vec(inner, 2..4).prop_map(Node::Or),
        ]
    })
}

impl Node {
    /// Written with every parenthesis, and white space that means nothing.
    fn text(&self) -> String {
        let join = |nodes: &[Self], word| {
            let texts: Vec<_> = nodes.iter().map(|node| format!("( {})", node.text())).collect();
            texts.join(word)
        };
        match self {
            Self::Test(index) => TESTS[*index].0.to_owned(),
            Self::Not(inner) => format!("NOT ({})", inner.text()),
            Self::And(nodes) => join(nodes, " and\n "),
            Self::Or(nodes) => join(nodes, "  Or "),
        }
    }

    /// Kleene's strong logic by its definition: what holds for all, or for some, ways in which the unknown may be known.
    fn value(&self) -> Truth {
        match self {
            Self::Test(index) => TESTS[*index].1,
            Self::Not(inner) => match inner.value() {
                Truth::True => Truth::False,
                Truth::False => Truth::True,
                Truth::Unknown => Truth::Unknown,
            },
            Self::And(nodes) => {
                let values: Vec<_> = nodes.iter().map(Self::value).collect();
                if values.contains(&Truth::False) {
                    Truth::False
                } else if values.contains(&Truth::Unknown) {
                    Truth::Unknown
                } else {
                    Truth::True
                }
            }
            Self::Or(nodes) => {
                let values: Vec<_> = nodes.iter().map(Self::value).collect();
                if values.contains(&Truth::True) {
                    Truth::True
                } else if values.contains(&Truth::Unknown) {
                    Truth::Unknown
                } else {
                    Truth::False
                }
            }
        }
    }
}

fn policies(rules: &[String]) -> Arc<PolicySet> {
    let rules: Vec<_> = rules.iter().map(|rule| serde_json::to_string(rule).unwrap()).collect();
    let document = format!("P: {{policy: program, rules: [{}]}}", rules.join(", "));
    Arc::new(PolicySet::from_yaml("p.yaml", document).unwrap_or_else(|error| panic!("{error}")))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_printed_parses_to_the_same(node in node()) {
        let parsed = parse_rule(&format!("match {}", node.text()), 64).unwrap();
        let printed = parsed.to_string();
        let again = parse_rule(&printed, 64).unwrap();
        prop_assert_eq!(&again.to_string(), &printed);
    }

    #[test]
    fn any_text_parses_or_is_refused_within_itself(text in "(match|ignore|default)?[ a-z()=!~<>\"\\\\$\\[\\],0-9é*-]{0,60}") {
        if let Err(error) = parse_rule(&text, 8) {
            prop_assert!(error.span.start <= error.span.end && error.span.end <= text.len());
            prop_assert!(text.is_char_boundary(error.span.start) && text.is_char_boundary(error.span.end));
        }
    }

    #[test]
    fn the_evaluator_follows_kleene(node in node()) {
        let mut event = event();
        for text in [node.text(), parse_rule(&format!("match {}", node.text()), 64).unwrap().to_string()[6..].to_owned()] {
            let policies = policies(&[format!("match {text}"), "default ignore".to_owned()]);
            let explained = Engine::builder(policies).build().explain(&mut event).remove(0);
            prop_assert_eq!(explained.rules[0].value, node.value().name());
        }
    }

    /// The outcome of a list of rules is certain exactly if every way to settle the unknown rules gives the same.
    #[test]
    fn rules_are_decided_when_no_doubt_can_change_the_outcome(
        rules in prop::collection::vec((any::<bool>(), node()), 0..4),
        default in any::<bool>(),
    ) {
        let word = |matches| if matches { "match" } else { "ignore" };
        let mut texts: Vec<_> = rules.iter().map(|(matches, node)| format!("{} {}", word(*matches), node.text())).collect();
        texts.push(format!("default {}", word(default)));
        let policies = policies(&texts);

        let unknown: Vec<_> = (0..rules.len()).filter(|index| rules[*index].1.value() == Truth::Unknown).collect();
        let mut outcomes = Vec::new();
        for choice in 0..1u32 << unknown.len() {
            let holds = |index: usize| match unknown.iter().position(|other| *other == index) {
                Some(bit) => choice & (1 << bit) != 0,
                None => rules[index].1.value() == Truth::True,
            };
            outcomes.push((0..rules.len()).find(|index| holds(*index)).map_or(default, |index| rules[index].0));
        }
        let certain = outcomes.iter().all(|outcome| *outcome == outcomes[0]);

        let mut found = None;
        let matcher = sls_core::TreeMatcher::new(policies.clone());
        matcher.decide(&event(), &mut |decision| found = Some(decision.certain));
        let wanted = match (certain, outcomes[0]) {
            (true, true) => Some(true),
            (true, false) => None,
            (false, _) => Some(false),
        };
        prop_assert_eq!(found, wanted, "{:?}", texts);

        // The engine alerts on both, and says so where it is in doubt.
        let mut engine = Engine::builder(policies).build();
        let mut alerts = Vec::new();
        engine.process(&mut event(), &mut sls_core::DryRunResponder, &mut |pending| alerts.push(pending.complete()));
        prop_assert_eq!(alerts.len(), usize::from(wanted.is_some()));
        prop_assert!(alerts.iter().all(|alert| alert.uncertain.is_empty() == certain));
    }
}

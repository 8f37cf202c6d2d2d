//! What is said of the cost of rules holds: a policy with the warning is asked about whatever it does not match, and one
//! without it is not asked about an ordinary event.

// A helper of a test fails like the test.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod expressions;

use std::fmt::Write;
use std::sync::Arc;

use proptest::prelude::*;
use sls_core::{Code, CostSnapshot, Event, EventKind, Field, Matcher, PolicySet, ProfilingMatcher, TreeMatcher};

use expressions::expressions;

const NAME: &str = "In question";

/// Others of the type: with so many, policies are looked up and not asked one after the other.
const OTHERS: usize = 20;

fn test() -> BoxedStrategy<String> {
    let number = || prop_oneof![Just("uid"), Just("gid"), Just("euid"), Just("loginUid")];
    let order = prop_oneof![Just("=="), Just("!="), Just("<"), Just("<="), Just(">="), Just(">")];
    let text =
        || prop_oneof![Just("programName"), Just("terminal"), Just("programArguments"), Just("ancestorProgramName")];
    let equal = prop_oneof![Just("=="), Just("!="), Just("=~"), Just("!~")];
    let literal = prop_oneof![
        Just("/usr/bin/nc"),
        Just("*/nc"),
        Just("/opt/*"),
        Just("*--listen*"),
        Just("*.sh"),
        Just("/*"),
        Just("*"),
        Just(""),
    ];
    let regex = prop_oneof![
        Just(".*"),
        Just("[0-9]+"),
        Just("[^/]*(:[^/]+)+"),
        Just("/opt/.*"),
        Just(".*--listen.*"),
        Just("(a|b)[0-9]{3}"),
        Just(""),
    ];
    let inside = || prop_oneof![Just("in"), Just("not in")];
    prop_oneof![
        (number(), order, 0u64..4).prop_map(|(field, order, value)| format!("{field} {order} {value}")),
        (number(), inside(), prop::collection::vec(0u64..4, 1..3))
            .prop_map(|(field, inside, values)| format!("{field} {inside} {values:?}")),
        (text(), equal, literal).prop_map(|(field, equal, value)| format!("{field} {equal} \"{value}\"")),
        (text(), any::<bool>(), regex)
            .prop_map(|(field, not, regex)| format!("{field}{} like \"{regex}\"", if not { " not" } else { "" })),
        (prop_oneof![Just("programName"), Just("ancestorProgramName")], inside())
            .prop_map(|(field, inside)| format!("{field} {inside} $Programs")),
        any::<bool>().prop_map(|value| format!("programIsMemfd == {value}")),
    ]
    .boxed()
}

fn event() -> BoxedStrategy<Event> {
    let text = || prop_oneof![Just(""), Just("/usr/bin/nc"), Just("/opt/x.sh"), Just("12"), Just("nc --listen 1")];
    (prop::array::uniform3(text()), prop::array::uniform4(0..5u64), any::<bool>(), prop::collection::vec(text(), 0..3))
        .prop_map(|(texts, numbers, memfd, ancestors)| {
            let mut event = Event::new(EventKind::Exec);
            for (field, text) in [Field::ProgramName, Field::Terminal, Field::ProgramArguments].into_iter().zip(texts) {
                event.set_text(field, text.as_bytes());
            }
            for (field, number) in [Field::Uid, Field::Gid, Field::Euid, Field::LoginUid].into_iter().zip(numbers) {
                event.set_number(field, number);
            }
            event.set_bool(Field::ProgramIsMemfd, memfd).set_ancestors(ancestors.iter().map(|text| text.as_bytes()));
            event
        })
        .boxed()
}

/// `/usr/bin/true` as a user's script runs it.
fn plain() -> Event {
    let mut event = Event::new(EventKind::Exec);
    event.set_text(Field::ProgramName, b"/usr/bin/true").set_text(Field::ProgramArguments, b"true");
    for field in [Field::Uid, Field::Gid, Field::Euid, Field::LoginUid] {
        event.set_number(field, 1000);
    }
    event.set_bool(Field::ProgramIsMemfd, false).set_ancestors([&b"/usr/bin/python3"[..], b"/usr/lib/systemd/systemd"]);
    event
}

fn load(rules: &[String], others: usize) -> Arc<PolicySet> {
    let mut document =
        format!("Programs: {{type: paths, list: [/usr/bin/nc, '*/socat']}}\n{NAME}:\n  policy: program\n");
    document += "  rules:\n";
    for rule in rules {
        writeln!(document, "  - {}", serde_json::to_string(&format!("match {rule}")).unwrap()).unwrap();
    }
    document += "  - default ignore\n";
    for other in 0..others {
        writeln!(
            document,
            "O{other}: {{policy: program, rules: [match programName == \"/bin/tool{other}\", default ignore]}}"
        )
        .unwrap();
    }
    Arc::new(PolicySet::from_yaml("p.yaml", document).unwrap_or_else(|error| panic!("{error}")))
}

/// Whether the policy in question is asked about the event.
fn is_asked(matcher: &ProfilingMatcher, event: &Event) -> bool {
    let asked = |snapshot: CostSnapshot| snapshot.policies.iter().find(|cost| &*cost.policy == NAME).unwrap().asked;
    let before = asked(matcher.costs().snapshot());
    matcher.decide(event, &mut |_| ());
    asked(matcher.costs().snapshot()) > before
}

fn responds(set: &Arc<PolicySet>, event: &Event) -> bool {
    let mut responds = false;
    TreeMatcher::new(set.clone()).decide(event, &mut |decision| responds |= &*decision.policy.name == NAME);
    responds
}

fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig { cases: cases.unwrap_or(400), failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_is_said_to_be_expensive_is_asked_whatever_the_event(
        conditions in prop::collection::vec(expressions(test(), 8), 1..4),
        events in prop::collection::vec(event(), 20),
    ) {
        for others in [0, OTHERS] {
            let set = load(&conditions, others);
            let warning = set.warnings().as_slice().iter().find(|warning| warning.code == Code::ExpensiveRule);
            let Some(warning) = warning else { continue };
            // Many expressions run as one, before anybody is asked.
            if others > 0 && warning.message.starts_with("this expression") {
                continue;
            }
            let matcher = ProfilingMatcher::new(set.clone(), || 0);
            for event in events.iter().chain([&plain()]).filter(|event| !responds(&set, event)) {
                prop_assert!(is_asked(&matcher, event), "{}\n{:?}", warning, event);
            }
        }
    }

    #[test]
    fn what_is_not_is_not_asked_about_a_plain_execution(conditions in prop::collection::vec(expressions(test(), 8), 1..4)) {
        let set = load(&conditions, OTHERS);
        // Wrong rules are told what is wrong with them.
        if set.warnings().is_empty() && !responds(&set, &plain()) {
            let matcher = ProfilingMatcher::new(set.clone(), || 0);
            prop_assert!(!is_asked(&matcher, &plain()), "{:?}", conditions);
        }
    }
}

/// The properties mean something only if there are both.
#[test]
fn both_occur() {
    let warned =
        |rule: &str| load(&[rule.to_owned()], 0).warnings().as_slice().iter().any(|w| w.code == Code::ExpensiveRule);
    assert!(warned("uid != 1") && warned("programArguments like \"[0-9]+\""));
    assert!(!warned("uid == 1") && !warned("programArguments like \"[0-9]+ --listen\""));
}

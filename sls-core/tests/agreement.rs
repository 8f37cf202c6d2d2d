//! Whatever the documents and the events: what the engine does, what it explains, what a replay of the recorded events
//! gives, and what the effective document gives when it is loaded again, is the same.

// A helper of a test fails like the test.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::sync::Arc;

use proptest::prelude::*;
use sls_core::{
    Action, Alert, DryRunResponder, Engine, Event, EventKind, Explanation, Field, FieldKind, OnUnknown, POLICY_KEYS,
    PolicyLoader, PolicySet, PolicyType, Priority, ProcessKey, UnknownKeys, raises,
};

/// An endless row of choices, made of the numbers that proptest varies and shrinks.
struct Choices<'a> {
    numbers: &'a [u16],
    next: usize,
}

impl Choices<'_> {
    fn below(&mut self, limit: usize) -> usize {
        let number = self.numbers[self.next % self.numbers.len()];
        // The second time round they are others.
        let number = usize::from(number) + self.next / self.numbers.len() * 7;
        self.next += 1;
        number % limit
    }

    fn of<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }

    fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }
}

const TEXTS: &[&str] = &["", "/bin/sh", "/tmp/a", "/tmp/ab", "sh", "a"];
const PATTERNS: &[&str] = &["*", "/tmp/*", "*/sh", "/bin/sh", "a", ""];
const REGEXES: &[&str] = &[".*a", "/tmp/.*", "(sh|a)", ""];
const HOSTS: &[&str] = &["10.0.0.1", "10.0.0.2", "2001:db8::1"];
const NETWORKS: &[&str] = &["10.0.0.0/31", "10.0.0.2", "2001:db8::/32"];
const NUMBERS: &[u64] = &[0, 1, 7, 30, 2541];
const NAMES: &[&str] = &["First", "Second", "Third", "Fourth"];

const LISTS: &str = r#"
N: {type: names, list: ["a*", sh]}
P: {type: paths, list: ["/tmp/*", /bin/sh]}
H: {type: hosts, list: [10.0.0.0/31, a.example]}
Z: {type: numbers, list: [0, 7-40]}
L: {type: lineage, list: [[sh], ["/tmp/*", sh]]}
"#;

fn test(choices: &mut Choices<'_>, policy_type: PolicyType) -> String {
    let fields: Vec<_> = Field::all().filter(|field| field.spec().offered_to(policy_type)).collect();
    let field = choices.of(&fields);
    let operator = choices.of(field.kind().operators());
    let list = match field.kind() {
        FieldKind::Path => "$P",
        FieldKind::Number => "$Z",
        FieldKind::Host => "$H",
        FieldKind::Lineage => "$L",
        _ => "$N",
    };
    let short = |text: &'static str| if field.spec().max_len.is_some() { "a" } else { text };
    let literal = |choices: &mut Choices<'_>, regex: bool| match field.kind() {
        FieldKind::Number => choices.of(NUMBERS).to_string(),
        FieldKind::Bool => choices.of(&["true", "false"]).to_owned(),
        FieldKind::Host => format!("{:?}", choices.of(NETWORKS)),
        FieldKind::Enum(names) => format!("{:?}", choices.of(names)),
        _ if regex => format!("{:?}", choices.of(REGEXES)),
        _ => format!("{:?}", short(choices.of(PATTERNS))),
    };
    let operand = match operator {
        _ if operator.contains("in") && (field.kind() == FieldKind::Lineage || choices.chance(2)) => list.to_owned(),
        _ if operator.contains("in") => format!("[{}, {}]", literal(choices, false), literal(choices, false)),
        _ => literal(choices, operator.contains("like")),
    };
    format!("{field} {operator} {operand}")
}

fn expression(choices: &mut Choices<'_>, policy_type: PolicyType, depth: usize) -> String {
    let inner = |choices: &mut Choices<'_>| expression(choices, policy_type, depth + 1);
    match choices.below(6) {
        0 if depth < 3 => format!("({}) and ({})", inner(choices), inner(choices)),
        1 if depth < 3 => format!("({}) or ({})", inner(choices), inner(choices)),
        2 if depth < 3 => format!("not ({})", inner(choices)),
        _ => test(choices, policy_type),
    }
}

fn rules(choices: &mut Choices<'_>, policy_type: PolicyType) -> String {
    let mut rules: Vec<_> = (0..choices.below(3))
        .map(|_| format!("{} {}", choices.of(&["match", "ignore"]), expression(choices, policy_type, 0)))
        .collect();
    rules.push(choices.of(&["default match", "default ignore"]).to_owned());
    serde_json::to_string(&rules).unwrap()
}

fn policy(choices: &mut Choices<'_>, policy_type: PolicyType) -> String {
    let mut text = format!("{{policy: {policy_type}, rules: {}", rules(choices, policy_type));
    let own = POLICY_KEYS.iter().filter(|key| key.name != "policy" && key.name != "rules");
    for key in own.filter(|key| key.offered_to(policy_type) && matches!(key.offered, sls_core::Offered::To(_))) {
        let value = match key.name {
            "symbol" | "executable" => choices.of(&["a", "/bin/sh"]).to_owned(),
            "arguments" => "{x: y}".to_owned(),
            "alertOnIncompleteData" => continue,
            "duration" | "timeout" | "fileTimeout" | "tolerance" => choices.of(&["1", "2"]).to_owned(),
            _ => choices.of(&["true", "false"]).to_owned(),
        };
        text += &format!(", {}: {value}", key.name);
    }
    let actions: Vec<_> = Action::ALL.iter().filter(|action| action.fits(policy_type)).collect();
    let actions: Vec<_> = (0..choices.below(4)).map(|_| choices.of(&actions).token()).collect();
    text += &format!(", responseActions: [{}], onUnknown: {}", actions.join(", "), choices.of(OnUnknown::ALL));
    text + "}"
}

fn documents(choices: &mut Choices<'_>) -> Vec<String> {
    let mut types = Vec::new();
    let mut first = LISTS.to_owned();
    for name in NAMES {
        let policy_type = choices.of(PolicyType::ALL);
        types.push(policy_type);
        first += &format!("{name}: {}\n", policy(choices, policy_type));
    }
    let at = choices.below(NAMES.len());
    let second = match choices.below(4) {
        0 => format!("{}: {{rules: {}}}\n", NAMES[at], rules(choices, types[at])),
        1 => {
            let rule = serde_json::to_string(&format!("match {}", test(choices, types[at]))).unwrap();
            format!("{}: {{rulesBefore: [{rule}], priority: {}}}\n", NAMES[at], Priority::Low)
        }
        2 => "N: {listAdd: [/tmp/a], listRemove: [sh]}\nL: {listRemove: [[sh]]}\n".to_owned(),
        _ => format!("{}: {{enabled: false, dryRun: true}}\n", NAMES[at]),
    };
    vec![first, second]
}

fn event(choices: &mut Choices<'_>, set: &PolicySet, time: &mut u64) -> Event {
    let types: Vec<_> = set.policies().iter().map(|policy| policy.policy_type).collect();
    let wanted = choices.of(&types);
    let kinds: Vec<_> = EventKind::ALL.iter().copied().filter(|kind| raises(wanted, *kind)).collect();
    let mut event = Event::new(if choices.chance(4) { choices.of(EventKind::ALL) } else { choices.of(&kinds) });
    *time = if choices.chance(9) { time.saturating_sub(3_000_000_000) } else { *time + 700_000_000 };
    event.time = *time;
    event.process = ProcessKey { pid: choices.below(4) as u32, start: choices.below(3) as u64 };
    event.parent = ProcessKey { pid: choices.below(4) as u32, start: choices.below(2) as u64 };
    event.cgroup_id = choices.chance(2).then_some(9);
    for field in Field::all() {
        if matches!(field, Field::ProcessPid | Field::ParentPid | Field::EventType | Field::Lineage)
            || choices.chance(4)
        {
            continue;
        }
        match field.kind() {
            FieldKind::Number => event.set_number(field, choices.of(NUMBERS)),
            FieldKind::Bool => event.set_bool(field, choices.chance(2)),
            FieldKind::Host => event.set_host(field, choices.of(HOSTS).parse().unwrap()),
            FieldKind::Enum(names) => event.set_text(field, choices.of(names).as_bytes()),
            FieldKind::Path if field.spec().many => event.set_texts(field, [choices.of(TEXTS).as_bytes(), b"/bin/sh"]),
            _ => event.set_text(field, choices.of(TEXTS).as_bytes()),
        };
        match choices.below(12) {
            0 => event.mark_unknown(field),
            1 => event.mark_truncated(field),
            _ => &mut event,
        };
    }
    event
}

fn process(engine: &mut Engine, mut event: Event) -> Vec<Alert> {
    let mut alerts = Vec::new();
    engine.process(&mut event, &mut DryRunResponder, &mut |pending| alerts.push(pending.complete()));
    alerts
}

/// What a person would compare.
fn of_alert(alert: &Alert) -> String {
    let actions: Vec<_> = alert
        .notifications
        .iter()
        .skip(1)
        .map(|notification| {
            let fields = &notification.message_fields;
            (fields.action_type.unwrap(), fields.action_result == Some("refused"))
        })
        .collect();
    let report = alert.message_type.map(|message_type| message_type.name());
    format!("{} {} {:?} {report:?} {actions:?}", alert.strategy_name, alert.matched_rule, alert.uncertain)
}

fn of_explanation(explanation: &Explanation) -> String {
    let actions: Vec<_> =
        explanation.plan.iter().map(|action| (action.action, action.permission == "refused")).collect();
    let Explanation { policy, rule, uncertain, report, .. } = explanation;
    format!("{policy} {rule} {uncertain:?} {report:?} {actions:?}")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn engine_explanation_replay_and_effective_document_agree(numbers in prop::collection::vec(any::<u16>(), 50..900)) {
        let mut choices = Choices { numbers: &numbers, next: 0 };
        let documents = documents(&mut choices);
        let load = || documents.iter().fold(PolicyLoader::new(), |loader, text| loader.document("p.yaml", text.as_str())).load();
        let set = Arc::new(load().unwrap_or_else(|error| panic!("{error}\n{}", documents.join("\n"))));
        let again = Arc::new(PolicySet::from_yaml("effective.yaml", set.effective_document()).unwrap());
        prop_assert_eq!(again.hash(), set.hash());
        let [mut acting, mut explaining, mut replaying] = [(); 3].map(|()| Engine::builder(set.clone()).build());
        let mut reloaded = Engine::builder(again).build();
        let mut time = 10_000_000_000;
        for _ in 0..12 {
            let event = event(&mut choices, &set, &mut time);
            let line = event.to_json();
            let alerts = process(&mut acting, event.clone());
            let explanations = explaining.explain(&mut event.clone());
            let mut found: Vec<_> = alerts.iter().map(of_alert).collect();
            let mut explained: Vec<_> =
                explanations.iter().filter(|explanation| explanation.is_response()).map(of_explanation).collect();
            // A policy in doubt about a file's one name may be sure of the other: that is two alerts and one explanation.
            if event.kind == EventKind::File {
                let sure = |text: &String| explained.contains(text);
                found.retain(sure);
                found.sort();
                explained.sort();
            }
            prop_assert_eq!(&found, &explained, "{}\n{}", documents.join("\n"), line);
            let (recorded, _) = Event::from_json(&line, UnknownKeys::Reject).unwrap();
            prop_assert_eq!(&process(&mut replaying, recorded), &alerts, "{}", &line);
            let of_reloaded: Vec<_> = process(&mut reloaded, event).iter().map(of_alert).collect();
            prop_assert_eq!(of_reloaded, alerts.iter().map(of_alert).collect::<Vec<_>>(), "{}", &line);
        }
    }
}

//! Policies of every type with events of which most raise them, generated.

use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};
use sls_core::{
    Action, ActionContext, ActionOutcome, ActionResult, ActionSet, Alert, Engine, Event, EventKind, Execution, Field,
    FieldKind, Offered, PlannedAction, PolicyLoader, PolicySet, PolicyType, ProcessKey, Responder, raises,
};

use crate::generators::{Setting, is_derived};

/// Documents as layers, and events in the order in which they happen.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) documents: Vec<String>,
    pub(crate) events: Vec<Event>,
}

impl Case {
    /// The policies of its documents.
    pub(crate) fn load(&self) -> PolicySet {
        let documents = self.documents.iter().enumerate();
        let loader = documents
            .fold(PolicyLoader::new(), |loader, (index, text)| loader.document(format!("{index}.yaml"), text.as_str()));
        loader.load().unwrap_or_else(|error| panic!("{error}\n{self:#?}"))
    }
}

/// The alerts of one event.
pub(crate) fn process(engine: &mut Engine, mut event: Event) -> Vec<Alert> {
    let mut alerts = Vec::new();
    engine.process(&mut event, &mut Succeeding, &mut |pending| alerts.push(pending.complete()));
    alerts
}

/// Carries nothing out, and says that it did: so what was granted differs from a dry run.
#[derive(Debug)]
struct Succeeding;

impl Responder for Succeeding {
    fn supports(&self) -> ActionSet {
        Action::ALL.iter().copied().collect()
    }

    fn execute(&mut self, action: &PlannedAction, _: &ActionContext<'_>) -> Execution {
        Execution::Done(ActionOutcome::new(action, ActionResult::Successful))
    }
}

// Documents.

/// Few words, which events and rules share, so that they often meet.
const PATHS: &[&str] = &["/tmp/x", "/tmp/y", "/etc/x", "/bin/sh", "/usr/bin/bash", "/usr/bin/containerd"];
const WORDS: &[&str] = &["a", "b", "sh -c x", "bash", ""];
const PATTERNS: &[&str] = &["/tmp/*", "*x", "*sh", "/ETC/x", "a", "*", ""];
const EXPRESSIONS: &[&str] = &["/tmp/.*", ".*sh", "a|b", "(?i)/ETC/.*", ""];
const NUMBERS: &[u64] = &[0, 1, 2, 5, 1000, 2048, 2541];
const HOSTS: &[&str] = &["10.0.0.1", "192.0.2.1", "::1"];
const NETWORKS: &[&str] = &["10.0.0.0/8", "192.0.2.1", "::/0"];
/// Tests of where a connection goes.
const PORTS: &[&str] = &["remotePort == 1000", "remotePort != 5", "remotePort in [1, 2]", "remotePort in $numbers"];
/// Tests of where a file is.
const PLACES: &[&str] = &[
    r#"filePath == "/tmp/*""#,
    r#"filePath != "/etc/*""#,
    r#"filePath in ["/tmp/*", "/etc/x"]"#,
    r#"filePath like "/(tmp|usr/bin)/.*""#,
    r#"newFilePath == "/etc/x""#,
];
const SYMBOLS: &[&str] = &["a", "b"];

pub(crate) fn case() -> impl Strategy<Value = Case> {
    case_of(PolicyType::ALL, 1..6)
}

/// The same with so many policies of these types only.
pub(crate) fn case_of(types: &'static [PolicyType], policies: std::ops::Range<usize>) -> impl Strategy<Value = Case> {
    prop::collection::vec(select(types), policies).prop_flat_map(|types| {
        let kinds: Vec<_> =
            EventKind::ALL.iter().copied().filter(|kind| types.iter().any(|of| raises(*of, *kind))).collect();
        let base = (types.iter().map(|of| policy(*of)).collect::<Vec<_>>(), lists());
        let layers = prop::collection::vec(layer(types), 0..3);
        (base, layers, events(kinds)).prop_map(|((policies, lists), layers, events)| {
            let mut base = lists;
            let named = policies.into_iter().enumerate().map(|(index, policy)| (format!("P{index}"), policy));
            base.as_object_mut().unwrap().extend(named);
            let documents = std::iter::once(base).chain(layers).map(|document| document.to_string()).collect();
            Case { documents, events }
        })
    })
}

/// A list of each type.
fn lists() -> impl Strategy<Value = Value> {
    let texts = |texts: &'static [&'static str]| prop::collection::vec(select(texts), 0..3);
    let numbers = prop::collection::vec(select(&["0", "1-5", "1000"][..]), 0..3);
    let lineages = prop::collection::vec(prop::collection::vec(select(&["sh", "bash", "/tmp/*"][..]), 1..3), 0..3);
    (texts(PATTERNS), texts(PATTERNS), texts(NETWORKS), numbers, lineages).prop_map(
        |(paths, names, hosts, numbers, lineages)| {
            json!({
                "paths": {"type": "paths", "list": paths},
                "names": {"type": "names", "description": "some", "list": names},
                "hosts": {"type": "hosts", "list": hosts},
                "numbers": {"type": "numbers", "list": numbers},
                "lineage": {"type": "lineage", "list": lineages},
            })
        },
    )
}

fn policy(policy_type: PolicyType) -> impl Strategy<Value = Value> {
    (rules(policy_type), own_keys(policy_type), common_keys(policy_type)).prop_map(move |(rules, own, common)| {
        let mut policy = json!({"policy": policy_type.name(), "rules": rules});
        let attributes = policy.as_object_mut().unwrap();
        for keys in [own, common] {
            attributes.extend(keys.as_object().unwrap().clone());
        }
        policy
    })
}

/// What a later document changes: some of the policies, a list, the content groups.
fn layer(types: Vec<PolicyType>) -> impl Strategy<Value = Value> {
    let changes = types.into_iter().map(|of| prop::option::weighted(0.4, change(of))).collect::<Vec<_>>();
    let list = prop::option::of(prop::collection::vec(select(PATTERNS), 0..3));
    let groups = prop::option::weighted(0.2, prop::collection::vec(select(&["Audit", "Other"][..]), 1..3));
    (changes, list, groups).prop_map(|(changes, list, groups)| {
        let mut layer = serde_json::Map::new();
        let changes = changes.into_iter().enumerate();
        layer.extend(changes.filter_map(|(index, change)| Some((format!("P{index}"), change?))));
        layer.extend(list.map(|list| ("paths".to_owned(), json!({"list": list}))));
        layer.extend(groups.map(|groups| ("enabled_content_groups".to_owned(), json!(groups))));
        layer.into()
    })
}

fn change(policy_type: PolicyType) -> BoxedStrategy<Value> {
    prop_oneof![
        rules(policy_type).prop_map(|rules| json!({ "rules": rules })),
        own_keys(policy_type),
        common_keys(policy_type),
        prop::bool::weighted(0.8).prop_map(|enabled| json!({ "enabled": enabled })),
    ]
    .boxed()
}

fn common_keys(policy_type: PolicyType) -> impl Strategy<Value = Value> {
    let fitting: Vec<_> =
        Action::ALL.iter().filter(|action| action.fits(policy_type)).map(|action| action.token()).collect();
    let on_unknown = match policy_type {
        // It may say so in its own way.
        PolicyType::InteractiveShell => Just(None).boxed(),
        _ => prop::option::of(select(&["alert", "ignore", "act"][..])).boxed(),
    };
    let most = fitting.len().min(3);
    let actions = prop::option::of(subsequence(fitting, 0..=most));
    let group = prop::option::weighted(0.2, select(&["Audit.Files", "Auditing"][..]));
    (actions, any::<Option<bool>>(), on_unknown, group).prop_map(|(actions, dry_run, on_unknown, group)| {
        let keys = [
            ("responseActions", actions.map(|actions| json!(actions))),
            ("dryRun", dry_run.map(Value::from)),
            ("onUnknown", on_unknown.map(Value::from)),
            ("group", group.map(Value::from)),
        ];
        keys.into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value?)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    })
}

/// The keys that only this type has.
fn own_keys(policy_type: PolicyType) -> BoxedStrategy<Value> {
    match policy_type {
        PolicyType::File => (0..200_u32).prop_map(|tenths| json!({"timeout": f64::from(tenths) / 10.0})).boxed(),
        PolicyType::NewFileExec => (1..3_u64).prop_map(|minutes| json!({ "fileTimeout": minutes })).boxed(),
        PolicyType::Chmod => (any::<[bool; 4]>())
            .prop_map(|[suid, sgid, xusr, xoth]| {
                json!({"suid": suid, "sgid": sgid, "xusr": xusr, "xoth": xoth, "roth": true})
            })
            .boxed(),
        PolicyType::InteractiveShell => any::<bool>().prop_map(|alert| json!({ "alertOnIncompleteData": alert })).boxed(),
        PolicyType::Segfault => (0..3_u64, 1..600_u32)
            .prop_map(|(tolerance, tenths)| json!({"tolerance": tolerance, "duration": f64::from(tenths) / 10.0}))
            .boxed(),
        PolicyType::Selinux => any::<bool>().prop_map(|default| json!({ "default": default })).boxed(),
        PolicyType::KernelPayload => any::<bool>().prop_map(|large| json!({ "extraLargeMemorySystems": large })).boxed(),
        PolicyType::Kprobe => select(SYMBOLS).prop_map(|symbol| json!({ "symbol": symbol })).boxed(),
        PolicyType::Uprobe => (select(SYMBOLS), select(PATHS))
            .prop_map(|(symbol, path)| json!({"symbol": symbol, "executable": path, "arguments": {"n": "%di"}}))
            .boxed(),
        _ => Just(json!({})).boxed(),
    }
}

fn rules(policy_type: PolicyType) -> impl Strategy<Value = Vec<String>> {
    let verdict = || select(&["match", "ignore"][..]);
    let rule = (verdict(), expression(policy_type)).prop_map(|(verdict, expression)| format!("{verdict} {expression}"));
    (prop::collection::vec(rule, 0..3), verdict()).prop_map(|(mut rules, default)| {
        rules.push(format!("default {default}"));
        rules
    })
}

fn expression(policy_type: PolicyType) -> impl Strategy<Value = String> {
    // The type's own fields are those that its events are sure to have.
    let (everywhere, own): (Vec<_>, Vec<_>) = Field::all()
        .filter(|field| field.spec().offered_to(policy_type))
        .partition(|field| field.spec().offered == Offered::Everywhere);
    let everywhere = select(everywhere).prop_flat_map(test);
    let leaf = match &*own {
        [] => everywhere.boxed(),
        _ if own.contains(&Field::NewFilePath) => {
            prop_oneof![everywhere, select(own).prop_flat_map(test), select(PLACES).prop_map(str::to_owned)].boxed()
        }
        _ if own.contains(&Field::RemotePort) => {
            prop_oneof![everywhere, select(own).prop_flat_map(test), select(PORTS).prop_map(str::to_owned)].boxed()
        }
        _ => prop_oneof![everywhere, select(own).prop_flat_map(test)].boxed(),
    };
    leaf.prop_recursive(3, 6, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(left, right)| format!("({left}) and ({right})")),
            (inner.clone(), inner.clone()).prop_map(|(left, right)| format!("({left}) or ({right})")),
            inner.prop_map(|inner| format!("not ({inner})")),
        ]
    })
}

/// A test that the field allows.
fn test(field: Field) -> impl Strategy<Value = String> {
    let kind = field.kind();
    (select(kind.operators()), any::<bool>()).prop_flat_map(move |(operator, named)| {
        let quoted = |texts: &'static [&'static str]| select(texts).prop_map(|text| format!("\"{text}\"")).boxed();
        let literal = match kind {
            FieldKind::Number => select(NUMBERS).prop_map(|number| number.to_string()).boxed(),
            FieldKind::Bool => any::<bool>().prop_map(|value| value.to_string()).boxed(),
            FieldKind::Host => quoted(NETWORKS),
            FieldKind::Enum(names) => quoted(names),
            _ if operator.ends_with("like") => quoted(EXPRESSIONS),
            _ => quoted(PATTERNS),
        };
        let list = match kind {
            FieldKind::Path => "paths",
            FieldKind::Number => "numbers",
            FieldKind::Host => "hosts",
            FieldKind::Lineage => "lineage",
            _ => "names",
        };
        let operand = match operator.contains("in") {
            false => literal,
            true if named || kind == FieldKind::Lineage => Just(format!("${list}")).boxed(),
            true => prop::collection::vec(literal, 1..3).prop_map(|all| format!("[{}]", all.join(", "))).boxed(),
        };
        operand.prop_map(move |operand| format!("{field} {operator} {operand}"))
    })
}

// Events.

/// Events of which most raise the policies, some feed the engine's memory.
fn events(kinds: Vec<EventKind>) -> impl Strategy<Value = Vec<Event>> {
    let memory = [EventKind::Fork, EventKind::Exec, EventKind::Exit, EventKind::Baseline, EventKind::File];
    let kind = prop_oneof![3 => select(kinds), 1 => select(memory.to_vec())];
    // Milliseconds since the one before. Clocks step back at times.
    let step = prop_oneof![8 => 0..15_000_i64, 1 => -30_000..0_i64, 1 => 60_000..200_000_i64];
    prop::collection::vec((kind.prop_flat_map(event), step), 1..24).prop_map(|events| {
        let mut time = 1_000_000_i64;
        let timed = events.into_iter().map(|(mut event, step)| {
            time += step;
            event.time = time as u64 * 1_000_000;
            event
        });
        timed.collect()
    })
}

/// What is known of a value.
#[derive(Clone, Copy, Debug)]
enum Knowledge {
    Known,
    Untrusted,
    Truncated,
    Unknown,
}

fn event(kind: EventKind) -> impl Strategy<Value = Event> {
    let types: Vec<_> = PolicyType::ALL.iter().filter(|policy_type| raises(**policy_type, kind)).collect();
    let fields: Vec<_> = Field::all()
        .filter(|field| !is_derived(*field))
        .map(|field| {
            let spec = field.spec();
            let own = spec.offered != Offered::Everywhere && types.iter().any(|of| spec.offered_to(**of));
            let probability = match spec.offered {
                // What decides whether the policy is raised.
                _ if [Field::ProgramName, Field::StandardInput].contains(&field) && kind == EventKind::Exec => 0.9,
                // Mostly the engine's own to find out.
                _ if field == Field::FileAge => 0.1,
                _ if [Field::NewFilePath, Field::ProbeExecutable].contains(&field) && own => 0.4,
                _ if own => 0.85,
                Offered::Everywhere => 0.15,
                // Sources may say more than policies ask for.
                _ => 0.01,
            };
            let knowledge = prop_oneof![
                12 => Just(Knowledge::Known),
                1 => Just(Knowledge::Untrusted),
                1 => Just(Knowledge::Truncated),
                1 => Just(Knowledge::Unknown),
            ];
            prop::option::weighted(probability, (setting(field), knowledge)).prop_map(move |value| (field, value))
        })
        .collect();
    let process = (0..6_u32, 0..3_u64);
    let head = (process.clone(), process, any::<bool>(), prop::option::of(0..2_u64), 0..3_u64, any::<bool>());
    (head, fields).prop_map(move |((process, parent, namespaced, cgroup, lost, kernel), fields)| {
        let key = |(pid, start)| ProcessKey { pid, start };
        let mut event = Event::new(kind);
        (event.process, event.parent) = (key(process), key(parent));
        event.mount_namespace = namespaced.then_some(7);
        (event.cgroup_id, event.lost) = (cgroup, lost);
        event.kernel_thread = kernel && event.process.pid == 2;
        for (field, value) in fields {
            let Some((setting, knowledge)) = value else { continue };
            setting.apply(&mut event, field);
            match knowledge {
                Knowledge::Known => {}
                Knowledge::Untrusted => drop(event.mark_untrusted(field)),
                Knowledge::Truncated => drop(event.mark_truncated(field)),
                Knowledge::Unknown => drop(event.clear(field).mark_unknown(field)),
            }
        }
        event
    })
}

fn setting(field: Field) -> BoxedStrategy<Setting> {
    let texts = |texts: &'static [&'static str], count: std::ops::Range<usize>| {
        let text = select(texts).prop_map(|text| text.as_bytes().to_vec());
        prop::collection::vec(text, count).prop_map(Setting::Texts).boxed()
    };
    match field.kind() {
        _ if field == Field::ProgramArguments => texts(&["sh", "-c", "-i", "a", "/tmp/x"], 0..3),
        _ if field == Field::ProbeSymbol => texts(SYMBOLS, 1..2),
        _ if field.spec().many => texts(PATHS, 0..3),
        FieldKind::Path => texts(PATHS, 1..2),
        FieldKind::Number => select(NUMBERS).prop_map(Setting::Number).boxed(),
        FieldKind::Bool => any::<bool>().prop_map(Setting::Bool).boxed(),
        FieldKind::Host => select(HOSTS).prop_map(|host| Setting::Host(host.parse().unwrap())).boxed(),
        FieldKind::Enum(names) => texts(names, 1..2),
        _ => texts(WORDS, 1..2),
    }
}

//! Policies and lists from their attributes.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::object::{Attributes, unique_keys};
use super::yaml::{Entry, Node, Place, Yaml};
use crate::action::{Action, ActionSet, MAX_CUSTOM_ACTIONS, Tier};
use crate::capabilities::Capabilities;
use crate::check::{Checker, parse_network};
use crate::diagnostic::{Code, Diagnostics, Severity, Span};
use crate::keys::{
    DECISION_DEADLINE, DURATION, FILE_TIMEOUT, LIST_KEY_NAMES, MODE_BITS, POLICY_KEY_NAMES, POLICY_KEYS, RESOLVE_EVERY,
    TIMEOUT, TOLERANCE,
};
use crate::limits::Limits;
use crate::list::{Entries, HostName, Hosts, Lineage, List, ListType, is_domain_name};
use crate::pattern::Pattern;
use crate::policy::{Confidence, OnDeadline, OnUnknown, Policy, PolicyType, Priority};
use crate::probe_argument::{MAX_PROBE_ARGUMENTS, ProbeArgument, ProbePlace};
use crate::rule::Rule;
use crate::schema::{FieldSet, Offered};
use crate::syntax::parse_rule;
use crate::trigger::TypeOptions;

type Lists = BTreeMap<Arc<str>, Arc<List>>;

/// What a policy is decoded with.
pub(super) struct PolicyContext<'a> {
    pub(super) name: &'a str,
    pub(super) key: &'a Node,
    pub(super) lists: &'a Lists,
    pub(super) limits: &'a Limits,
    pub(super) capabilities: &'a Capabilities,
    /// What is left of the limit `regex_total_bytes`.
    pub(super) regex_bytes: &'a Cell<usize>,
}

pub(super) fn decode_policy(
    context: &PolicyContext<'_>,
    entries: &[Entry],
    diagnostics: &mut Diagnostics,
) -> Option<Policy> {
    let name = context.name;
    let mut attributes = Attributes::new(entries, POLICY_KEY_NAMES, diagnostics);
    let policy_type = policy_type(&mut attributes, context)?;
    keys_fit(&mut attributes, policy_type, &context.key.place);
    check_silenced(&mut attributes);
    let options = options(&mut attributes, policy_type);
    let on_unknown = on_unknown(&mut attributes, policy_type);
    let actions = actions(&mut attributes, policy_type, context.capabilities);
    let rules = rules(&mut attributes, policy_type, context);
    let fields = rules
        .iter()
        .filter_map(|rule| rule.condition.as_ref())
        .fold(FieldSet::EMPTY, |fields, condition| fields.union(condition.fields()));
    Some(Policy {
        name: name.into(),
        policy_type,
        options,
        enabled: attributes.bool("enabled").unwrap_or(true),
        alert_message: attributes.string("alertMessage").unwrap_or(name).to_owned(),
        comments: attributes.string("comments").unwrap_or_default().to_owned(),
        priority: attributes
            .name("priority", Priority::ALL.iter().map(|value| value.name()), Priority::from_name)
            .unwrap_or(Priority::Medium),
        confidence: attributes
            .name("confidence", Confidence::ALL.iter().map(|value| value.name()), Confidence::from_name)
            .unwrap_or(Confidence::Medium),
        categories: attributes.strings("categories").into_iter().map(|(text, _)| text.to_owned()).collect(),
        alert_labels: string_map(&mut attributes, "alertLabels"),
        group: attributes.string("group").map(str::to_owned),
        rules,
        actions,
        dry_run: attributes.bool("dryRun").unwrap_or(false),
        on_unknown,
        tier: attributes.name("tier", Tier::NAMES.iter().copied(), Tier::from_name),
        decision_deadline: Duration::from_millis(attributes.integer(&DECISION_DEADLINE)),
        on_deadline: attributes
            .name("onDeadline", OnDeadline::NAMES.iter().copied(), OnDeadline::from_name)
            .unwrap_or(OnDeadline::Allow),
        fields,
        // Its place is known when it is put there.
        index: 0,
    })
}

/// Reports keys that policies of the type do not have, and keys of its own that they must have.
fn keys_fit(attributes: &mut Attributes<'_, '_>, policy_type: PolicyType, object: &Place) {
    for spec in POLICY_KEYS.iter().filter(|spec| spec.offered != Offered::Everywhere) {
        match attributes.get(spec.name) {
            Some(entry) if !spec.offered_to(policy_type) => {
                let types = PolicyType::ALL.iter().filter(|other| spec.offered_to(**other));
                let types: Vec<_> = types.map(|other| format!("`{other}`")).collect();
                let message = format!("policies of type `{policy_type}` have no key `{}`", spec.name);
                let diagnostic = entry.key.place.error(Code::KeyNotOffered, message);
                attributes.diagnostics.push(diagnostic.help(format!("policies of type {} have it", types.join(", "))));
            }
            None if spec.required && spec.offered_to(policy_type) => {
                attributes.required(spec.name, object);
            }
            _ => {}
        }
    }
}

/// Only warnings can be silenced. The analyser reads which itself.
fn check_silenced(attributes: &mut Attributes<'_, '_>) {
    let warnings = Code::ALL.iter().filter(|code| code.severity() == Severity::Warning).map(|code| code.id());
    for (text, node) in attributes.strings("silence") {
        match Code::from_id(text).map(Code::severity) {
            Some(Severity::Warning) => {}
            Some(_) => {
                let message = format!("`{text}` is an error, which cannot be silenced");
                attributes.diagnostics.push(node.place.error(Code::UnknownName, message));
            }
            None => attributes.unknown_name(&format!("`{text}` is no warning"), text, node, warnings.clone()),
        }
    }
}

/// The keys that only policies of this type have.
fn options(attributes: &mut Attributes<'_, '_>, policy_type: PolicyType) -> TypeOptions {
    match policy_type {
        PolicyType::File => TypeOptions::File { timeout: attributes.seconds(&TIMEOUT) },
        PolicyType::NewFileExec => {
            TypeOptions::NewFileExec { file_timeout: Duration::from_secs(attributes.integer(&FILE_TIMEOUT) * 60) }
        }
        PolicyType::Chmod => {
            let chosen = MODE_BITS.iter().filter(|(name, _)| attributes.bool(name) == Some(true));
            TypeOptions::Chmod { bits: chosen.fold(0, |bits, (_, bit)| bits | bit) }
        }
        PolicyType::Segfault => TypeOptions::Segfault {
            // In range, so it fits.
            tolerance: attributes.integer(&TOLERANCE) as u32,
            duration: attributes.seconds(&DURATION),
        },
        PolicyType::Selinux => TypeOptions::Selinux { default: attributes.bool("default").unwrap_or(false) },
        PolicyType::KernelPayload => TypeOptions::KernelPayload {
            extra_large_memory_systems: attributes.bool("extraLargeMemorySystems").unwrap_or(false),
        },
        PolicyType::Kprobe | PolicyType::Uprobe => TypeOptions::Probe {
            symbol: attributes.string("symbol").unwrap_or_default().to_owned(),
            executable: attributes.string("executable").map(str::to_owned),
            arguments: probe_arguments(attributes),
        },
        _ => TypeOptions::None,
    }
}

fn on_unknown(attributes: &mut Attributes<'_, '_>, policy_type: PolicyType) -> OnUnknown {
    let names = OnUnknown::NAMES.iter().copied();
    let on_unknown = attributes.name("onUnknown", names, OnUnknown::from_name);
    if policy_type != PolicyType::InteractiveShell {
        return on_unknown.unwrap_or(OnUnknown::Alert);
    }
    if let (Some(old), Some(_)) = (attributes.get("alertOnIncompleteData"), attributes.get("onUnknown")) {
        let message = "`alertOnIncompleteData` cannot stand beside `onUnknown`";
        let help = "`alertOnIncompleteData: true` means `onUnknown: alert`, `false` means `ignore`; keep one of them";
        attributes.diagnostics.push(old.key.place.error(Code::Conflict, message).help(help));
    }
    let older = |alert| if alert { OnUnknown::Alert } else { OnUnknown::Ignore };
    on_unknown.or(attributes.bool("alertOnIncompleteData").map(older)).unwrap_or(OnUnknown::Alert)
}

fn policy_type(attributes: &mut Attributes<'_, '_>, context: &PolicyContext<'_>) -> Option<PolicyType> {
    let PolicyContext { name, capabilities, .. } = *context;
    let names = PolicyType::ALL.iter().map(|value| value.name());
    let policy_type = attributes.name("policy", names, PolicyType::from_name)?;
    let place = &attributes.get("policy")?.value.place;
    let diagnostic = if !capabilities.allows_type(policy_type) {
        let what = "put probes of their own into the kernel or into programs, which this sensor does not allow";
        place.error(Code::Unsupported, format!("policies of type `{policy_type}` {what}"))
    } else if !capabilities.offers_type(policy_type) {
        let raises = format!("what raises policies of type `{policy_type}`: {}", policy_type.meaning());
        let message = format!("nothing would raise `{name}`: this sensor does not see {raises}");
        place.error(Code::Unsupported, message).label(capabilities.why_unavailable(policy_type).unwrap_or_default())
    } else {
        return Some(policy_type);
    };
    attributes.diagnostics.push(diagnostic);
    None
}

fn actions(attributes: &mut Attributes<'_, '_>, policy_type: PolicyType, capabilities: &Capabilities) -> ActionSet {
    if let (Some(old), Some(_)) = (attributes.get("responseAction"), attributes.get("responseActions")) {
        let diagnostic = old
            .key
            .place
            .error(Code::Conflict, "`responseAction` cannot stand beside `responseActions`")
            .help("`responseAction: X` means `responseActions: [alert, X]`; keep one of them");
        attributes.diagnostics.push(diagnostic);
    }
    let mut set = ActionSet::EMPTY;
    let mut add =
        |attributes: &mut Attributes<'_, '_>, text: &str, node: &Node| match capabilities.actions().named(text) {
            Some(action) if action.fits(policy_type) => {
                // Whether something can refuse the operation is asked when the rules are known.
                if action != Action::Block && !capabilities.offers_action(action) {
                    let message = format!("this sensor cannot carry out the action `{action}`");
                    attributes.diagnostics.push(node.place.error(Code::Unsupported, message));
                }
                if !set.insert(action) {
                    let message =
                        format!("a policy can have {MAX_CUSTOM_ACTIONS} actions that SLS does not have itself");
                    attributes.diagnostics.push(node.place.error(Code::Unsupported, message));
                }
            }
            Some(action) => {
                let message = format!("policies of type `{policy_type}` cannot have the action `{action}`");
                let fitting: Vec<_> = fitting(policy_type, capabilities).map(|action| format!("`{action}`")).collect();
                let help = format!("they can have {}", fitting.join(", "));
                attributes.diagnostics.push(node.place.error(Code::WrongAction, message).help(help));
            }
            None => {
                let fitting = fitting(policy_type, capabilities).map(Action::token);
                attributes.unknown_name(&format!("unknown action `{text}`"), text, node, fitting);
            }
        };
    if attributes.get("responseActions").is_some() {
        for (text, node) in attributes.strings("responseActions") {
            add(attributes, text, node);
        }
    } else if let Some(entry) = attributes.get("responseAction") {
        if let Some(text) = attributes.string("responseAction") {
            add(attributes, text, &entry.value);
        }
        set.insert(Action::Alert);
    } else {
        set.insert(Action::Alert);
    }
    set
}

/// The actions that policies of the type can have.
fn fitting(policy_type: PolicyType, capabilities: &Capabilities) -> impl Iterator<Item = Action> + Clone {
    let custom = capabilities.actions().iter().filter(|action| matches!(action, Action::Custom(_)));
    Action::ALL.iter().copied().chain(custom).filter(move |action| action.fits(policy_type))
}

/// `arguments`: each is something that can be fetched, and all at the same place.
fn probe_arguments(attributes: &mut Attributes<'_, '_>) -> BTreeMap<String, String> {
    let texts = string_map(attributes, "arguments");
    let Some(entry) = attributes.get("arguments") else { return texts };
    if texts.len() > MAX_PROBE_ARGUMENTS {
        let message = format!("too many arguments: a probe can have {MAX_PROBE_ARGUMENTS}");
        attributes.diagnostics.push(entry.key.place.error(Code::Limit, message));
    }
    let Yaml::Mapping(entries) = &entry.value.value else { return texts };
    let (mut at_entry, mut at_return) = (false, false);
    for Entry { key, value } in entries {
        let (Yaml::Scalar { text: name, .. }, Yaml::Scalar { text, .. }) = (&key.value, &value.value) else { continue };
        match text.parse::<ProbeArgument>() {
            Ok(argument) if argument.place == ProbePlace::Return => at_return = true,
            Ok(_) => at_entry = true,
            Err(error) => {
                let message = format!("the argument `{name}` cannot be fetched: {error}");
                attributes.diagnostics.push(value.place.error(Code::WrongType, message));
            }
        }
    }
    if at_entry && at_return {
        let message = "what a function returns cannot be had together with its arguments, which are gone by then";
        attributes.diagnostics.push(entry.key.place.error(Code::Conflict, message));
    }
    texts
}

fn string_map(attributes: &mut Attributes<'_, '_>, name: &str) -> BTreeMap<String, String> {
    let Some(entry) = attributes.get(name) else { return BTreeMap::new() };
    let Yaml::Mapping(entries) = &entry.value.value else {
        attributes.wrong_type(name, "a mapping of strings to strings", &entry.value);
        return BTreeMap::new();
    };
    let entries = unique_keys(entries.clone(), attributes.diagnostics);
    let mut labels = BTreeMap::new();
    for Entry { key, value } in &entries {
        match (&key.value, &value.value) {
            (Yaml::Scalar { text: key, .. }, Yaml::Scalar { text: value, .. }) => {
                labels.insert(key.to_string(), value.to_string());
            }
            _ => {
                let message = format!("`{name}` takes a mapping of strings to strings, not to {}", value.describe());
                attributes.diagnostics.push(value.place.error(Code::WrongType, message));
            }
        }
    }
    labels
}

fn rules(attributes: &mut Attributes<'_, '_>, policy_type: PolicyType, context: &PolicyContext<'_>) -> Vec<Rule> {
    let PolicyContext { key, lists, limits, capabilities, regex_bytes, .. } = *context;
    let Some(entry) = attributes.required("rules", &key.place) else { return Vec::new() };
    let before = attributes.diagnostics.as_slice().len();
    let texts = attributes.strings("rules");
    if texts.len() > limits.rules {
        let message = format!("too many rules in a policy: the limit `rules` is {}", limits.rules);
        attributes.diagnostics.push(entry.key.place.error(Code::Limit, message));
        return Vec::new();
    }
    let checker = Checker { policy_type, lists, limits, capabilities, regex_bytes };
    let mut rules = Vec::with_capacity(texts.len());
    let mut defaults = Vec::new();
    for (index, (text, node)) in texts.iter().enumerate() {
        if attributes.diagnostics.is_full() {
            break;
        }
        if let Some(rule) = rule(text, node, &checker, attributes.diagnostics) {
            if rule.condition.is_none() {
                defaults.push(index);
            }
            rules.push(rule);
        }
    }
    // A rule that could not be read may be the default.
    if attributes.diagnostics.as_slice().len() > before {
        return rules;
    }
    match &*defaults {
        [] => attributes.diagnostics.push(
            entry.key.place.error(Code::MissingDefault, "the policy has no default rule").help(
                "add `default ignore`, or `default match` to respond to all that is not ignored, as the last rule",
            ),
        ),
        [only] if *only + 1 == texts.len() => {}
        [only] => attributes.diagnostics.push(
            texts[*only]
                .1
                .place
                .error(Code::MisplacedDefault, "the default rule is not the last one")
                .label("rules after it would never be tried"),
        ),
        [_, second, ..] => attributes
            .diagnostics
            .push(texts[*second].1.place.error(Code::MisplacedDefault, "the policy has a second default rule")),
    }
    rules
}

fn rule(text: &str, node: &Node, checker: &Checker<'_>, diagnostics: &mut Diagnostics) -> Option<Rule> {
    if text.len() > checker.limits.rule_bytes {
        let message = format!("the rule is too long: the limit `rule_bytes` is {}", checker.limits.rule_bytes);
        diagnostics.push(node.part(Span::new(0, 0)).error(Code::Limit, message));
        return None;
    }
    let syntax = match parse_rule(text, checker.limits.rule_nesting) {
        Ok(syntax) => syntax,
        Err(error) => {
            let code = if error.over_limit { Code::Limit } else { Code::RuleSyntax };
            diagnostics.push(node.part(error.span).error(code, error.message));
            return None;
        }
    };
    match checker.check(text, &syntax) {
        Ok(rule) => Some(rule),
        Err(errors) => {
            for error in errors {
                let place = node.part(error.span);
                let mut diagnostic = place.error(error.code, error.message);
                diagnostic.help = error.help;
                // Only where the place is exact can something be put there.
                if let (Some(replacement), true) = (error.replacement, place.span != node.place.span) {
                    diagnostic = diagnostic.suggest(place.span, replacement);
                }
                diagnostics.push(diagnostic);
            }
            None
        }
    }
}

pub(super) fn decode_list(
    name: &str,
    key: &Node,
    entries: &[Entry],
    limits: &Limits,
    diagnostics: &mut Diagnostics,
) -> Option<List> {
    let mut attributes = Attributes::new(entries, LIST_KEY_NAMES, diagnostics);
    check_silenced(&mut attributes);
    let description = attributes.string("description").unwrap_or_default().to_owned();
    attributes.required("type", &key.place)?;
    let names = ListType::ALL.iter().map(|value| value.name());
    let list_type = attributes.name("type", names, ListType::from_name)?;
    if let Some(entry) = attributes.get("resolveEvery").filter(|_| list_type != ListType::Hosts) {
        let message = format!("lists of type `{list_type}` have no key `resolveEvery`");
        attributes.diagnostics.push(entry.key.place.error(Code::KeyNotOffered, message));
    }
    // A list whose entries are wrong is still the list that rules name.
    let mut items: &[Node] = &[];
    if let Some(entry) = attributes.required("list", &key.place) {
        match &entry.value.value {
            Yaml::Sequence(found) if found.len() <= limits.list_entries => items = found,
            Yaml::Sequence(_) => {
                let message =
                    format!("too many entries in a list: the limit `list_entries` is {}", limits.list_entries);
                attributes.diagnostics.push(entry.key.place.error(Code::Limit, message));
            }
            _ => attributes.wrong_type("list", "a sequence", &entry.value),
        }
    }
    let entries = match list_type {
        ListType::Names | ListType::Paths => {
            Entries::Patterns(each(items, attributes.diagnostics, "a string", |node| text(node).map(Pattern::new)))
        }
        ListType::Hosts => {
            let resolve_every = Duration::from_secs(attributes.integer(&RESOLVE_EVERY));
            let wanted = "an address, a CIDR block or a domain name";
            let mut hosts = Hosts::default();
            each(items, attributes.diagnostics, wanted, |node| {
                let text = text(node)?;
                if let Some(network) = parse_network(text) {
                    hosts.networks.push(network);
                } else if is_domain_name(text) {
                    hosts.names.push(Arc::new(HostName::new(text.to_ascii_lowercase(), resolve_every)));
                } else {
                    return None;
                }
                Some(())
            });
            Entries::Hosts(hosts)
        }
        ListType::Numbers => {
            let wanted = "an integer from 0, or a range such as `1-9`";
            Entries::Numbers(each(items, attributes.diagnostics, wanted, |node| text(node).and_then(range)))
        }
        ListType::Lineage => {
            let wanted = "a sequence of program names, nearest ancestor last, such as `[sshd, bash]`";
            Entries::Lineages(each(items, attributes.diagnostics, wanted, lineage))
        }
    };
    Some(List { name: name.into(), list_type, description, entries, index: OnceLock::new() })
}

/// The strings of a sequence; anything else is reported.
pub(super) fn strings(node: &Node, key: &str, diagnostics: &mut Diagnostics) -> Vec<String> {
    let Yaml::Sequence(items) = &node.value else {
        let message = format!("`{key}` takes a sequence of strings, not {}", node.describe());
        diagnostics.push(node.place.error(Code::WrongType, message));
        return Vec::new();
    };
    each(items, diagnostics, "a string", |node| text(node).map(str::to_owned))
}

fn each<T>(
    items: &[Node],
    diagnostics: &mut Diagnostics,
    wanted: &str,
    mut parse: impl FnMut(&Node) -> Option<T>,
) -> Vec<T> {
    let mut entries = Vec::with_capacity(items.len());
    for item in items {
        if diagnostics.is_full() {
            break;
        }
        match parse(item) {
            Some(entry) => entries.push(entry),
            None => {
                diagnostics.push(item.place.error(Code::BadEntry, format!("an entry here is {wanted}")));
            }
        }
    }
    entries
}

/// The text of any scalar but null: `- 7` is a fine name.
fn text(node: &Node) -> Option<&str> {
    match &node.value {
        Yaml::Scalar { text, .. } if node.describe() != "nothing" => Some(text),
        _ => None,
    }
}

fn range(text: &str) -> Option<(u64, u64)> {
    match text.split_once('-') {
        None => text.parse().ok().map(|number| (number, number)),
        Some((from, to)) => {
            let (from, to) = (from.trim().parse().ok()?, to.trim().parse().ok()?);
            (from <= to).then_some((from, to))
        }
    }
}

fn lineage(node: &Node) -> Option<Lineage> {
    match &node.value {
        Yaml::Sequence(items) if !items.is_empty() => {
            items.iter().map(|item| text(item).map(Pattern::new)).collect::<Option<_>>().map(Lineage)
        }
        _ => None,
    }
}

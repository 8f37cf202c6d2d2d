//! Files of tests in, checked tests or diagnostics out. What stands in an event is read as a recorded event is.

use std::collections::{BTreeSet, HashMap};

use saphyr_parser::ScalarStyle;
use serde_json::{Map, Value};

use super::{Expected, Names, PolicyTests, Test, refused};
use crate::action::{Action, ActionSet};
use crate::diagnostic::{Code, Diagnostic, Diagnostics, nearest};
use crate::event::Event;
use crate::event_json::{EventError, UnknownKeys};
use crate::limits::Limits;
use crate::loader;
use crate::loader::object::{Attributes, plain_bool, unique_keys};
use crate::loader::yaml::{Entry, Node, Yaml};
use crate::schema::{Field, SCHEMA};

const FILE_KEYS: &[&str] = &["policies", "defaults", "only", "tests"];
const TEST_KEYS: &[&str] = &["name", "before", "event", "only", "expect"];
const EXPECTED_KEYS: &[&str] = &["policy", "outcome", "matchedRule", "actions", "uncertain"];
const OUTCOMES: &[&str] = &["match", "undecided"];

/// The pid of the first event of a test, if it names none; the next has the next.
const FIRST_PID: u64 = 100_000;

/// When the first event of a test happens if it does not say: at the beginning of 2026, in nanoseconds since the epoch.
const FIRST_TIME: u64 = 1_767_225_600_000_000_000;

/// Nanoseconds from one event of a test to the next.
const STEP: u64 = 1_000_000;

/// When a process started of which only the pid is given: the same for the same pid, and never 0.
fn start_of(pid: u64) -> u64 {
    pid.saturating_add(1).saturating_mul(STEP)
}

pub(super) fn read(
    name: &str,
    bytes: Vec<u8>,
    limits: &Limits,
    actions: ActionSet,
) -> Result<PolicyTests, Diagnostics> {
    let root = loader::read(name, bytes, limits)?;
    let mut diagnostics = Diagnostics::limited(limits.diagnostics);
    let entries = mapping("a file of tests", &root, &mut diagnostics).unwrap_or_default();
    let mut file = Attributes::new(&entries, FILE_KEYS, &mut diagnostics);
    let policies = file.strings("policies").into_iter().map(|(path, _)| path.to_owned()).collect();
    let only = only(&mut file);
    if root.describe() == "a mapping" {
        file.required("tests", &root.place.first_line());
    }
    let nodes = file.sequence("tests", "a sequence of tests");
    let mut reader = Reader { limits, actions, events: 0, bytes: 0, defaults: Map::new(), default_bytes: 0 };
    if let Some(entry) = file.get("defaults") {
        reader.set_defaults(&entry.value, file.diagnostics);
    }
    let mut tests = Vec::new();
    let mut lines = HashMap::new();
    for node in nodes {
        if file.diagnostics.is_full() {
            break;
        }
        let Some(test) = reader.test(node, only.as_ref(), file.diagnostics) else { continue };
        if let Some(first) = lines.insert(test.name.clone(), test.line) {
            let message = format!("a test called `{}` is there already", test.name);
            let diagnostic = node.place.first_line().error(Code::DuplicateKey, message);
            file.diagnostics.push(diagnostic.label(format!("first on line {first}")));
        }
        tests.push(test);
    }
    diagnostics.sort(&[]);
    if diagnostics.has_errors() {
        return Err(diagnostics);
    }
    Ok(PolicyTests { policies, only, tests, diagnostics_limit: limits.diagnostics })
}

/// The entries of a node that has to be a mapping; `what` it is.
fn mapping(what: &str, node: &Node, diagnostics: &mut Diagnostics) -> Option<Vec<Entry>> {
    match &node.value {
        Yaml::Mapping(entries) => Some(unique_keys(entries.clone(), diagnostics)),
        _ => {
            let message = format!("{what} is a mapping, not {}", node.describe());
            diagnostics.push(node.place.first_line().error(Code::WrongType, message));
            None
        }
    }
}

/// The value of `only`: a name, or several.
fn only(attributes: &mut Attributes<'_, '_>) -> Option<Names> {
    let entry = attributes.get("only")?;
    let names = match &entry.value.value {
        Yaml::Scalar { .. } => attributes.string("only").map(|name| (name, &entry.value)).into_iter().collect(),
        _ => attributes.strings("only"),
    };
    Some(names.into_iter().map(|(name, node)| (name.to_owned(), node.place.clone())).collect())
}

struct Reader<'l> {
    limits: &'l Limits,
    /// What policies may have beside SLS's own actions.
    actions: ActionSet,
    /// Events so far.
    events: usize,
    /// Bytes of the defaults, counted for each event that has them.
    bytes: usize,
    /// What events have that do not say otherwise.
    defaults: Map<String, Value>,
    default_bytes: usize,
}

impl Reader<'_> {
    fn set_defaults(&mut self, node: &Node, diagnostics: &mut Diagnostics) {
        let entries = mapping("`defaults`", node, diagnostics).unwrap_or_default();
        if let Some(values) = values(&entries, diagnostics) {
            self.default_bytes = Value::Object(values.clone()).to_string().len();
            self.defaults = values;
        }
    }

    fn test(&mut self, node: &Node, file_only: Option<&Names>, diagnostics: &mut Diagnostics) -> Option<Test> {
        let entries = mapping("a test", node, diagnostics)?;
        let place = node.place.first_line();
        let mut attributes = Attributes::new(&entries, TEST_KEYS, diagnostics);
        for key in ["name", "event", "expect"] {
            attributes.required(key, &place);
        }
        let name = attributes.string("name").map(str::to_owned);
        let only = only(&mut attributes);
        let earlier = attributes.sequence("before", "a sequence of events");
        let expected = attributes.sequence("expect", "a sequence of responses");
        let event = attributes.get("event").map(|entry| &entry.value);
        let mut events = Vec::new();
        for node in earlier.iter().chain(event) {
            let previous = events.last().map(|event: &Event| event.time);
            events.extend(self.event(node, events.len() as u64, previous, diagnostics));
        }
        let mut places = HashMap::new();
        let mut expect = Vec::new();
        for node in expected {
            let Some(expected) = expectation(node, self.actions, diagnostics) else { continue };
            let name = &expected.policy;
            if let Some(first) = places.insert(name.clone(), expected.place.line()) {
                let message = format!("the response of `{name}` is given twice");
                let diagnostic = expected.place.error(Code::DuplicateKey, message);
                diagnostics.push(diagnostic.label(format!("first on line {first}")));
            }
            if let Some(only) = only.as_ref().or(file_only).filter(|only| !only.contains_key(name)) {
                let message = format!("a response of `{name}` is expected, but `only` leaves it out");
                let diagnostic = expected.place.error(Code::Conflict, message);
                diagnostics.push(match nearest(name, only.keys().map(String::as_str)) {
                    Some(near) => diagnostic.suggest(expected.place.span, near),
                    None => diagnostic,
                });
            }
            expect.push(expected);
        }
        event.and(events.pop()).map(|event| Test {
            name: name.unwrap_or_default(),
            line: node.place.line(),
            before: events,
            event,
            only,
            expect,
        })
    }

    /// An event of a test, the `index`-th, after one at the time `previous`.
    fn event(
        &mut self,
        node: &Node,
        index: u64,
        previous: Option<u64>,
        diagnostics: &mut Diagnostics,
    ) -> Option<Event> {
        let place = node.place.first_line();
        self.events += 1;
        self.bytes = self.bytes.saturating_add(self.default_bytes);
        let Limits { test_events, document_bytes, .. } = *self.limits;
        if self.events > test_events {
            if self.events == test_events + 1 {
                let message = format!("too many events in a file of tests: the limit `test_events` is {test_events}");
                diagnostics.push(place.error(Code::Limit, message));
            }
            return None;
        }
        if self.bytes > document_bytes {
            if self.bytes - self.default_bytes <= document_bytes {
                let message = format!(
                    "the file is too large with its `defaults` in every event: the limit `document_bytes` is {document_bytes}"
                );
                diagnostics.push(place.error(Code::Limit, message));
            }
            return None;
        }
        let entries = mapping("an event", node, diagnostics)?;
        let own = values(&entries, diagnostics)?;
        let mut values = self.defaults.clone();
        values.extend(own);
        identify(&mut values, index, previous);
        match read_event(values) {
            Ok(event) => Some(event),
            Err(EventError::MissingKey { key }) => {
                diagnostics.push(place.error(Code::MissingKey, format!("the key `{key}` is missing")));
                None
            }
            Err(error) => {
                diagnostics.push(place.error(Code::Conflict, error.to_string()));
                None
            }
        }
    }
}

/// Gives an event the identity and the time that its author left out, so that guards do not refuse for want of them.
fn identify(values: &mut Map<String, Value>, index: u64, previous: Option<u64>) {
    let time = previous.map_or(FIRST_TIME, |time| time.saturating_add(STEP));
    values.entry("time").or_insert_with(|| time.into());
    values.entry(Field::ProcessPid.name()).or_insert_with(|| (FIRST_PID + index).into());
    for (pid, start) in [
        (Field::ProcessPid.name(), "processStart"),
        (Field::ParentPid.name(), "parentStart"),
        ("creatorPid", "creatorStart"),
    ] {
        if let Some(pid) = values.get(pid).and_then(Value::as_u64) {
            values.entry(start).or_insert_with(|| start_of(pid).into());
        }
    }
}

fn read_event(values: Map<String, Value>) -> Result<Event, EventError> {
    Event::from_json(Value::Object(values).to_string(), UnknownKeys::Reject).map(|(event, _)| event)
}

/// The values of an event's own keys; none if one of them is wrong, which is reported where it stands.
fn values(entries: &[Entry], diagnostics: &mut Diagnostics) -> Option<Map<String, Value>> {
    let mut values = Map::new();
    let mut sound = true;
    for Entry { key, value } in entries {
        if diagnostics.is_full() {
            return None;
        }
        let Yaml::Scalar { text: name, .. } = &key.value else {
            let message = format!("a key is a string, not {}", key.describe());
            diagnostics.push(key.place.error(Code::WrongType, message));
            sound = false;
            continue;
        };
        let json = to_json(value);
        // Each key on its own, so that whatever is wrong has its place.
        let mut alone = Map::from_iter([("kind".to_owned(), Value::from("exec"))]);
        alone.insert(name.to_string(), json.clone());
        match read_event(alone) {
            // Whether the type is that of the kind is seen when both are there.
            Ok(_) | Err(EventError::Contradiction { .. }) => {
                values.insert(name.to_string(), json);
            }
            Err(error) => {
                diagnostics.push(wrong_value(error, key, value));
                sound = false;
            }
        }
    }
    sound.then_some(values)
}

fn wrong_value(error: EventError, key: &Node, value: &Node) -> Diagnostic {
    let (diagnostic, suggestion) = match error {
        EventError::UnknownKey { key: name, suggestion } => {
            let diagnostic = key.place.error(Code::UnknownKey, format!("unknown key `{name}`"));
            (
                diagnostic.help("an event has the keys of recorded events: the fields, `kind`, `time` and others"),
                suggestion,
            )
        }
        EventError::UnknownName { key, name, suggestion } => {
            let items = if let Yaml::Sequence(items) = &value.value { &**items } else { &[] };
            let item = items.iter().find(|item| item.scalar() == Some(&name));
            let place = &item.unwrap_or(value).place;
            (place.error(Code::UnknownName, format!("`{key}` cannot be `{name}`")), suggestion)
        }
        error => (value.place.first_line().error(Code::WrongType, error.to_string()), None),
    };
    match suggestion {
        Some(near) => {
            let span = diagnostic.span;
            diagnostic.suggest(span, near)
        }
        None => diagnostic,
    }
}

/// A value as recorded events have it. In a list every entry is text, as written: arguments are.
fn to_json(node: &Node) -> Value {
    match &node.value {
        Yaml::Scalar { text, style: ScalarStyle::Plain } => match node.describe() {
            "nothing" => Value::Null,
            "a bool" => plain_bool(text).into(),
            "an integer" => {
                text.parse::<u64>().map(Value::from).or_else(|_| text.parse::<i64>().map(Value::from)).unwrap_or_else(
                    // Out of the range of any key, which is then said.
                    |_| f64::MAX.into(),
                )
            }
            _ => (&**text).into(),
        },
        Yaml::Scalar { text, .. } => (&**text).into(),
        Yaml::Sequence(items) => items
            .iter()
            .map(|item| match &item.value {
                Yaml::Scalar { text, .. } if item.place.span.start < item.place.span.end => (&**text).into(),
                _ => to_json(item),
            })
            .collect(),
        Yaml::Mapping(entries) => Value::Object(
            entries
                .iter()
                .map(|entry| match &entry.key.value {
                    Yaml::Scalar { text, .. } => (text.to_string(), to_json(&entry.value)),
                    _ => (String::new(), Value::Null),
                })
                .collect(),
        ),
    }
}

/// One entry of `expect`.
fn expectation(node: &Node, known: ActionSet, diagnostics: &mut Diagnostics) -> Option<Expected> {
    let entries = mapping("an expected response", node, diagnostics)?;
    let mut attributes = Attributes::new(&entries, EXPECTED_KEYS, diagnostics);
    let policy = attributes.required("policy", &node.place.first_line());
    let matched_rule = attributes.string("matchedRule").map(|rule| rule.trim().to_owned());
    let actions = attributes.get("actions").map(|_| actions(&mut attributes, known));
    let uncertain = attributes.get("uncertain").map(|_| uncertain(&mut attributes));
    let names = OUTCOMES.iter().copied();
    let outcome = attributes.name("outcome", names, |text| OUTCOMES.iter().copied().find(|name| *name == text));
    // Who names the fields in doubt expects doubt.
    let implied = if uncertain.as_ref().is_some_and(|fields| !fields.is_empty()) { "undecided" } else { "match" };
    let place = policy?.value.place.clone();
    let policy = attributes.string("policy")?.to_owned();
    Some(Expected { policy, place, outcome: outcome.unwrap_or(implied), matched_rule, actions, uncertain })
}

fn uncertain(attributes: &mut Attributes<'_, '_>) -> BTreeSet<&'static str> {
    let mut fields = BTreeSet::new();
    for (text, node) in attributes.strings("uncertain") {
        match Field::from_name(text) {
            Some(field) => {
                fields.insert(field.name());
            }
            None => attributes.unknown_name(
                &format!("unknown field `{text}`"),
                text,
                node,
                SCHEMA.iter().map(|spec| spec.name),
            ),
        }
    }
    fields
}

/// The actions as [`super::actions`] names them: `kill`, or `kill: refused`.
fn actions(attributes: &mut Attributes<'_, '_>, known: ActionSet) -> BTreeSet<String> {
    let mut actions = BTreeSet::new();
    for item in attributes.sequence("actions", "a sequence of actions") {
        let (token, refusal) = match &item.value {
            Yaml::Mapping(entries) if entries.len() == 1 => (&entries[0].key, Some(&entries[0].value)),
            _ => (item, None),
        };
        let Some(text) = attributes.string_in("actions", token) else { continue };
        let Some(action) = known.named(text) else {
            let custom = known.iter().filter(|action| matches!(action, Action::Custom(_)));
            let names = Action::ALL.iter().copied().chain(custom).map(Action::token);
            attributes.unknown_name(&format!("unknown action `{text}`"), text, token, names);
            continue;
        };
        match refusal.map(|node| (node, attributes.string_in("actions", node))) {
            None => actions.insert(action.token().to_owned()),
            Some((_, Some("refused"))) => actions.insert(refused(action.token())),
            Some((node, Some(text))) => {
                let message = format!("an action can be `refused`, not `{text}`");
                attributes.unknown_name(&message, text, node, ["refused"].into_iter());
                continue;
            }
            Some((_, None)) => continue,
        };
    }
    actions
}

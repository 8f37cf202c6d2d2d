//! The JSON Schema of policy documents, made from the key tables. It knows one document at a time, and neither rules nor
//! lists by name, so the loader finds more. An object with `policy` has to be a whole policy: the loader lets an override
//! say it again.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema, schema_for};
use serde_json::{Map, Value, json};

use crate::action::{Action, ActionSet};
use crate::keys::{KeyKind, KeySpec, LIST_KEYS, OVERRIDE_KEYS, POLICY_KEYS};
use crate::list::ListType;
use crate::loader::CONTENT_GROUPS;
use crate::policy::{Confidence, OnUnknown, PolicySet, PolicyType, Priority};

/// The schema of the documents that a set is loaded from, draft 2020-12: for editors, and for programs that let people
/// write policies. Definitions are added under `$defs`, one for each key, policy type and kind of object.
///
/// ```
/// let schema = schemars::schema_for!(sls_core::PolicySet);
/// assert!(schema.pointer("/$defs/fileTimeout/default").is_some_and(|minutes| minutes == 30));
/// ```
impl JsonSchema for PolicySet {
    fn schema_name() -> Cow<'static, str> {
        "PolicyDocument".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        generator.definitions_mut().extend(definitions(ActionSet::EMPTY));
        json_schema!({
            "description": "A layer of policies and lists for SLS: each key is a display name.",
            "type": "object",
            "properties": {
                CONTENT_GROUPS: {
                    "description": "Dotted selectors: a policy with a group runs only if one is its group or a prefix of it.",
                    "type": "array",
                    "items": scalar(),
                },
            },
            "additionalProperties": reference("Object"),
        })
    }
}

/// The schema of documents for a sensor that has these actions of an embedder as well: what its
/// [`Responder`](crate::Responder) supports. Of SLS's own actions all are in it.
///
/// ```
/// use sls_core::{Action, CustomAction, TargetType, document_schema};
///
/// static ISOLATE: CustomAction = CustomAction::new("isolate-host", TargetType::Host);
/// let schema = document_schema([Action::Custom(&ISOLATE)].into_iter().collect());
/// let tokens = schema.pointer("/$defs/responseAction/enum").and_then(|tokens| tokens.as_array());
/// assert!(tokens.is_some_and(|tokens| tokens.contains(&"isolate-host".into())));
/// ```
#[must_use]
pub fn document_schema(actions: ActionSet) -> Schema {
    let mut schema = schema_for!(PolicySet);
    schema.insert("$defs".to_owned(), Value::Object(definitions(actions)));
    schema
}

fn definitions(actions: ActionSet) -> Map<String, Value> {
    let mut definitions = Map::new();
    let mut define = |name: &str, schema: Value| {
        definitions.insert(name.to_owned(), schema);
    };
    for key in POLICY_KEYS.iter().chain(LIST_KEYS).chain(OVERRIDE_KEYS) {
        define(key.name, described(key, actions));
    }
    for policy_type in PolicyType::ALL {
        define(&definition(*policy_type), policy(*policy_type, actions));
    }
    define("Object", object());
    define("Policy", any_policy());
    define("List", list());
    define("Override", overriding());
    definitions
}

/// A policy, a list, or an override of one that an earlier document defines.
fn object() -> Value {
    json!({
        "type": "object",
        "if": {"required": ["policy"]},
        "then": reference("Policy"),
        "else": {
            "if": {"required": ["type", "list"]},
            "then": reference("List"),
            "else": reference("Override"),
        },
    })
}

fn any_policy() -> Value {
    let types = PolicyType::ALL.iter().map(|policy_type| {
        json!({
            "if": {"properties": {"policy": {"const": policy_type.name()}}},
            "then": reference(&definition(*policy_type)),
        })
    });
    json!({"properties": {"policy": reference("policy")}, "allOf": types.collect::<Vec<_>>()})
}

/// A policy of one type: the keys that it has, and the actions that fit it.
fn policy(policy_type: PolicyType, actions: ActionSet) -> Value {
    let keys = POLICY_KEYS.iter().filter(|key| key.offered_to(policy_type));
    let actions = one_of_actions(actions, |action| action.fits(policy_type));
    let mut schema = closed(keys, |key| match key.kind {
        KeyKind::Action => described_as(key, actions.clone()),
        KeyKind::Actions => described_as(key, sequence(actions.clone())),
        _ => reference(key.name),
    });
    schema["description"] = format!("Raised when: {}.", policy_type.meaning()).into();
    schema
}

fn list() -> Value {
    let mut schema = closed(LIST_KEYS.iter(), |key| reference(key.name));
    let types = ListType::ALL.iter().map(|list_type| {
        let entries = sequence(entry(*list_type));
        json!({
            "if": {"properties": {"type": {"const": list_type.name()}}},
            "then": {"properties": {"list": entries}},
        })
    });
    schema["allOf"] = types.collect();
    schema
}

/// What changes; which type it is, only the earlier document tells.
fn overriding() -> Value {
    let mut schema = closed(POLICY_KEYS.iter().chain(LIST_KEYS).chain(OVERRIDE_KEYS), |key| reference(key.name));
    let what = "An override of the policy or list of this name in an earlier document: only the keys that change.";
    schema["description"] = what.into();
    // None is missing that the earlier document has.
    schema["required"] = json!([]);
    schema
}

/// An object of these keys and no others.
fn closed<'k>(keys: impl Iterator<Item = &'k KeySpec>, schema: impl Fn(&KeySpec) -> Value) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for key in keys {
        properties.insert(key.name.to_owned(), schema(key));
        if key.required {
            required.push(key.name);
        }
    }
    json!({"properties": properties, "required": required, "additionalProperties": false})
}

fn described(key: &KeySpec, actions: ActionSet) -> Value {
    described_as(key, value(key, actions))
}

/// `schema` with what the table says about the key.
fn described_as(key: &KeySpec, mut schema: Value) -> Value {
    schema["description"] = match key.kind {
        KeyKind::Rules => format!("{}, which a schema cannot check; `sls check` can", key.meaning).into(),
        _ => key.meaning.into(),
    };
    if let Some(default) = key.default_value() {
        schema["default"] = default;
    }
    schema
}

/// What a key takes in any policy or list.
fn value(key: &KeySpec, actions: ActionSet) -> Value {
    match key.kind {
        KeyKind::Text => json!({"type": "string"}),
        KeyKind::Bool => json!({"type": "boolean"}),
        KeyKind::Integer { min, max } => json!({"type": "integer", "minimum": min, "maximum": max}),
        KeyKind::Seconds { max } => json!({"type": "number", "minimum": 0, "maximum": max}),
        KeyKind::OneOf(values) => json!({"enum": values, "enumDescriptions": meanings(key)}),
        KeyKind::Texts => sequence(json!({"type": "string"})),
        KeyKind::TextMap => {
            json!({"type": "object", "additionalProperties": {"type": ["string", "number", "boolean", "null"]}})
        }
        KeyKind::Rules => rules(),
        KeyKind::Action => one_of_actions(actions, |_| true),
        KeyKind::Actions => sequence(one_of_actions(actions, |_| true)),
        KeyKind::Entries => json!({"type": "array"}),
    }
}

/// A schema has no words for the rest of a rule, nor for a default rule at the end.
fn rules() -> Value {
    let words = ["match", "ignore", "default"].map(|word| {
        // There is no flag for this in a schema's pattern.
        word.chars().map(|letter| format!("[{}{letter}]", letter.to_ascii_uppercase())).collect::<String>()
    });
    let mut rules = sequence(json!({"type": "string", "pattern": format!(r"^\s*({})\b", words.join("|"))}));
    rules["minItems"] = 1.into();
    rules
}

/// SLS's own actions, and `others` of an embedder.
fn one_of_actions(others: ActionSet, fits: impl Fn(Action) -> bool) -> Value {
    let others = others.iter().filter(|action| matches!(action, Action::Custom(_)));
    let actions = Action::ALL.iter().copied().chain(others).filter(|action| fits(*action));
    json!({"enum": actions.flat_map(|action| action.tokens()).collect::<Vec<_>>()})
}

/// What each value of the key means, which editors show beside it.
fn meanings(key: &KeySpec) -> Vec<&'static str> {
    match key.name {
        "policy" => PolicyType::ALL.iter().map(|value| value.meaning()).collect(),
        "priority" => Priority::ALL.iter().map(|value| value.meaning()).collect(),
        "confidence" => Confidence::ALL.iter().map(|value| value.meaning()).collect(),
        "onUnknown" => OnUnknown::ALL.iter().map(|value| value.meaning()).collect(),
        "type" => ListType::ALL.iter().map(|value| value.meaning()).collect(),
        _ => Vec::new(),
    }
}

fn entry(list_type: ListType) -> Value {
    let mut schema = match list_type {
        ListType::Names | ListType::Paths => scalar(),
        ListType::Hosts => json!({"type": "string"}),
        ListType::Numbers => {
            json!({"type": ["integer", "string"], "minimum": 0, "pattern": r"^\s*[0-9]+(\s*-\s*[0-9]+)?\s*$"})
        }
        ListType::Lineage => json!({"type": "array", "items": scalar(), "minItems": 1}),
    };
    schema["description"] = list_type.meaning().into();
    schema
}

/// A text that needs no quotes: of `- 7` the text counts.
fn scalar() -> Value {
    json!({"type": ["string", "number", "boolean"]})
}

fn sequence(items: Value) -> Value {
    json!({"type": "array", "items": items})
}

fn definition(policy_type: PolicyType) -> String {
    format!("Policy.{policy_type}")
}

fn reference(definition: &str) -> Value {
    json!({"$ref": format!("#/$defs/{definition}")})
}

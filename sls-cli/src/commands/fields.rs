//! `sls fields`: what policies can use, from the schema.

use std::io::Write;

use serde_json::{Value, json};
use sls_core::{
    Action, FieldKind, FieldSpec, KeyKind, KeySpec, LIST_KEYS, ListType, Offered, POLICY_KEYS, PolicyType, SCHEMA,
};

use super::check::default_format;
use crate::args::{FieldsArgs, Format};
use crate::exit::Answer;

pub(crate) fn run(args: &FieldsArgs, format: Option<Format>) -> anyhow::Result<Answer> {
    let wanted = args.policy_type;
    let table = Table {
        fields: SCHEMA.iter().filter(|spec| wanted.is_none_or(|wanted| spec.offered_to(wanted))).collect(),
        types: PolicyType::ALL.iter().copied().filter(|t| wanted.is_none_or(|wanted| wanted == *t)).collect(),
        policy_keys: POLICY_KEYS.iter().filter(|key| wanted.is_none_or(|wanted| key.offered_to(wanted))).collect(),
        // Lists are of no policy type.
        lists: wanted.is_none(),
    };
    let mut out = anstream::stdout();
    match format.unwrap_or(default_format()) {
        Format::Json => writeln!(out, "{}", table.to_json())?,
        Format::Human => write!(out, "{}", table.to_text())?,
    }
    Ok(Answer::Yes)
}

/// The part of the schema that was asked for.
struct Table {
    fields: Vec<&'static FieldSpec>,
    types: Vec<PolicyType>,
    policy_keys: Vec<&'static KeySpec>,
    lists: bool,
}

impl Table {
    fn to_json(&self) -> Value {
        let fields = self.fields.iter().map(|spec| {
            json!({
                "name": spec.name,
                "type": spec.kind.name(),
                "many": spec.many,
                "values": values(spec.kind),
                "operators": spec.kind.operators(),
                "maxBytes": spec.max_len,
                "policyTypes": type_names(|policy_type| spec.offered_to(policy_type)),
                "meaning": spec.meaning,
            })
        });
        let types = self.types.iter().map(|policy_type| {
            json!({"name": policy_type.name(), "raisedBy": policy_type.meaning(), "actions": actions(*policy_type)})
        });
        let policy_keys = self.policy_keys.iter().map(|key| {
            let mut json = key_as_json(key);
            json["policyTypes"] = type_names(|policy_type| key.offered_to(policy_type)).into();
            json
        });
        let mut json = json!({
            "fields": fields.collect::<Vec<_>>(),
            "policyTypes": types.collect::<Vec<_>>(),
            "policyKeys": policy_keys.collect::<Vec<_>>(),
        });
        if self.lists {
            let types = ListType::ALL.iter().map(|t| json!({"name": t.name(), "entries": t.meaning()}));
            json["listKeys"] = LIST_KEYS.iter().map(key_as_json).collect();
            json["listTypes"] = types.collect();
        }
        json
    }

    fn to_text(&self) -> String {
        let mut text = String::from("FIELDS\n");
        for spec in &self.fields {
            let many = if spec.many { ", many" } else { "" };
            text += &format!("  {:<24} {:<14} {}\n", spec.name, format!("{}{many}", spec.kind.name()), spec.meaning);
            if let Some(values) = values(spec.kind) {
                text += &format!("  {:<39} one of {}\n", "", values.join(" "));
            }
            text += &types_as_text(spec.offered, 39);
        }
        text += "\nOPERATORS\n";
        let mut kinds: Vec<FieldKind> = Vec::new();
        for kind in self.fields.iter().map(|spec| spec.kind) {
            if !kinds.iter().any(|seen| seen.name() == kind.name()) {
                kinds.push(kind);
            }
        }
        for kind in kinds {
            text += &format!("  {:<24} {}\n", kind.name(), kind.operators().join("  "));
        }
        text += "\nPOLICY TYPES AND THEIR ACTIONS\n";
        for policy_type in &self.types {
            text += &format!("  {:<24} {}\n", policy_type.name(), policy_type.meaning());
            text += &format!("  {:<24} {}\n", "", actions(*policy_type).join(" "));
        }
        text += "\nKEYS OF POLICIES\n";
        for key in &self.policy_keys {
            text += &key_as_text(key);
            text += &types_as_text(key.offered, 24);
        }
        if self.lists {
            text += "\nKEYS OF LISTS\n";
            text.extend(LIST_KEYS.iter().map(key_as_text));
            text += "\nLIST TYPES\n";
            text.extend(ListType::ALL.iter().map(|t| format!("  {:<24} {}\n", t.name(), t.meaning())));
        }
        text
    }
}

fn key_as_text(key: &KeySpec) -> String {
    let default = match key.default {
        Some(default) => format!(", default {default}"),
        None if key.required => ", required".to_owned(),
        None => String::new(),
    };
    format!("  {:<24} {}\n  {:<24} {}{default}\n", key.name, key.meaning, "", key.kind)
}

fn key_as_json(key: &KeySpec) -> Value {
    let values = match key.kind {
        KeyKind::OneOf(values) => Some(values),
        _ => None,
    };
    let (minimum, maximum) = match key.kind {
        KeyKind::Integer { min, max } => (Some(min), Some(max)),
        KeyKind::Seconds { max } => (Some(0), Some(max)),
        _ => (None, None),
    };
    json!({
        "name": key.name,
        "type": key.kind.name(),
        "values": values,
        "minimum": minimum,
        "maximum": maximum,
        "required": key.required,
        "default": key.default_value(),
        "meaning": key.meaning,
    })
}

fn types_as_text(offered: Offered, indent: usize) -> String {
    match offered {
        Offered::To(types) => {
            let types: Vec<_> = types.iter().map(|policy_type| policy_type.name()).collect();
            format!("  {:<indent$} in {}\n", "", types.join(", "))
        }
        _ => String::new(),
    }
}

fn values(kind: FieldKind) -> Option<&'static [&'static str]> {
    match kind {
        FieldKind::Enum(values) => Some(values),
        _ => None,
    }
}

fn type_names(offered: impl Fn(PolicyType) -> bool) -> Vec<&'static str> {
    PolicyType::ALL.iter().filter(|policy_type| offered(**policy_type)).map(|t| t.name()).collect()
}

fn actions(policy_type: PolicyType) -> Vec<&'static str> {
    Action::ALL.iter().filter(|action| action.fits(policy_type)).map(|action| action.token()).collect()
}

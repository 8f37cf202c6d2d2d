//! `sls fields`: what policies can use, from the schema.

use std::io::Write;

use serde_json::json;
use sls_core::{Action, FieldKind, FieldSpec, Offered, PolicyType, SCHEMA};

use super::check::default_format;
use crate::args::{FieldsArgs, Format};
use crate::exit::Answer;

pub(crate) fn run(args: &FieldsArgs, format: Option<Format>) -> anyhow::Result<Answer> {
    let fields: Vec<_> =
        SCHEMA.iter().filter(|spec| args.policy_type.is_none_or(|wanted| spec.offered_to(wanted))).collect();
    let types: Vec<_> =
        PolicyType::ALL.iter().copied().filter(|t| args.policy_type.is_none_or(|wanted| wanted == *t)).collect();
    let mut out = anstream::stdout();
    match format.unwrap_or(default_format()) {
        Format::Json => writeln!(out, "{}", as_json(&fields, &types))?,
        Format::Human => write!(out, "{}", as_text(&fields, &types))?,
    }
    Ok(Answer::Yes)
}

fn as_json(fields: &[&FieldSpec], types: &[PolicyType]) -> serde_json::Value {
    let fields: Vec<_> = fields
        .iter()
        .map(|spec| {
            json!({
                "name": spec.name,
                "type": spec.kind.name(),
                "many": spec.many,
                "values": values(spec.kind),
                "operators": spec.kind.operators(),
                "maxBytes": spec.max_len,
                "policyTypes": offered(spec),
                "meaning": spec.meaning,
            })
        })
        .collect();
    let types: Vec<_> = types
        .iter()
        .map(|policy_type| json!({"name": policy_type.name(), "raisedBy": policy_type.meaning(), "actions": actions(*policy_type)}))
        .collect();
    json!({"fields": fields, "policyTypes": types})
}

fn as_text(fields: &[&FieldSpec], types: &[PolicyType]) -> String {
    let mut text = String::from("FIELDS\n");
    for spec in fields {
        let many = if spec.many { ", many" } else { "" };
        text += &format!("  {:<24} {:<14} {}\n", spec.name, format!("{}{many}", spec.kind.name()), spec.meaning);
        if let Some(values) = values(spec.kind) {
            text += &format!("  {:<39} one of {}\n", "", values.join(" "));
        }
        if let Offered::To(types) = spec.offered {
            let types: Vec<_> = types.iter().map(|policy_type| policy_type.name()).collect();
            text += &format!("  {:<39} in {}\n", "", types.join(", "));
        }
    }
    text += "\nOPERATORS\n";
    let mut kinds: Vec<FieldKind> = Vec::new();
    for kind in fields.iter().map(|spec| spec.kind) {
        if !kinds.iter().any(|seen| seen.name() == kind.name()) {
            kinds.push(kind);
        }
    }
    for kind in kinds {
        text += &format!("  {:<24} {}\n", kind.name(), kind.operators().join("  "));
    }
    text += "\nPOLICY TYPES AND THEIR ACTIONS\n";
    for policy_type in types {
        text += &format!("  {:<24} {}\n", policy_type.name(), policy_type.meaning());
        text += &format!("  {:<24} {}\n", "", actions(*policy_type).join(" "));
    }
    text
}

fn values(kind: FieldKind) -> Option<&'static [&'static str]> {
    match kind {
        FieldKind::Enum(values) => Some(values),
        _ => None,
    }
}

fn offered(spec: &FieldSpec) -> Vec<&'static str> {
    PolicyType::ALL.iter().filter(|policy_type| spec.offered_to(**policy_type)).map(|t| t.name()).collect()
}

fn actions(policy_type: PolicyType) -> Vec<&'static str> {
    Action::ALL.iter().filter(|action| action.fits(policy_type)).map(|action| action.token()).collect()
}

//! `docs/fields.md` is made from the schema. `SLS_BLESS=1 cargo test -p sls-core --test field_reference` writes it anew.

// A helper of a test fails like the test.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod golden;

use std::fmt::Write;
use std::path::Path;

use sls_core::{Action, FieldKind, KeySpec, LIST_KEYS, ListType, Offered, POLICY_KEYS, PolicyType, SCHEMA};

#[test]
fn the_field_reference_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/fields.md");
    golden::check(&path, &reference(), "what the schema says");
}

fn reference() -> String {
    let mut text = String::from(
        "# Fields, operators, actions and keys\n\nMade from the schema in `sls-core`; `sls fields` prints the same.\n\n\
         ## Fields\n\n| field | type | in policies of type | meaning |\n|---|---|---|---|\n",
    );
    for spec in SCHEMA {
        let types = types(spec.offered);
        let many = if spec.many { ", many" } else { "" };
        let values = match spec.kind {
            FieldKind::Enum(values) => format!(": `{}`", values.join("` `")),
            _ => String::new(),
        };
        writeln!(text, "| `{}` | {}{many} | {types} | {}{values} |", spec.name, spec.kind, spec.meaning).unwrap();
    }
    text += "\n## Operators\n\n| type | operators |\n|---|---|\n";
    let kinds = [
        FieldKind::Path,
        FieldKind::Name,
        FieldKind::Text,
        FieldKind::Number,
        FieldKind::Bool,
        FieldKind::Host,
        FieldKind::Enum(&[]),
        FieldKind::Lineage,
    ];
    for kind in kinds {
        writeln!(text, "| {kind} | `{}` |", kind.operators().join("` `")).unwrap();
    }
    text += "\n## Policy types\n\n| type | raised when | actions |\n|---|---|---|\n";
    for policy_type in PolicyType::ALL {
        let actions: Vec<_> = Action::ALL.iter().filter(|a| a.fits(*policy_type)).map(|a| format!("`{a}`")).collect();
        writeln!(text, "| `{policy_type}` | {} | {} |", policy_type.meaning(), actions.join(" ")).unwrap();
    }
    text +=
        "\n## Keys of policies\n\n| key | type | in policies of type | default | meaning |\n|---|---|---|---|---|\n";
    for key in POLICY_KEYS {
        let types = types(key.offered);
        writeln!(text, "| `{}` | {} | {types} | {} | {} |", key.name, key.kind, default(key), key.meaning).unwrap();
    }
    text += "\n## Keys of lists\n\n| key | type | default | meaning |\n|---|---|---|---|\n";
    for key in LIST_KEYS {
        writeln!(text, "| `{}` | {} | {} | {} |", key.name, key.kind, default(key), key.meaning).unwrap();
    }
    text += "\n## List types\n\n| type | entries |\n|---|---|\n";
    for list_type in ListType::ALL {
        writeln!(text, "| `{list_type}` | {} |", list_type.meaning().replace('*', "`*`")).unwrap();
    }
    text
}

fn types(offered: Offered) -> String {
    match offered {
        Offered::To(types) => types.iter().map(|t| format!("`{t}`")).collect::<Vec<_>>().join(" "),
        _ => "all".to_owned(),
    }
}

fn default(key: &KeySpec) -> String {
    match key.default {
        Some(default) => format!("`{default}`"),
        None if key.required => "required".to_owned(),
        None => String::new(),
    }
}

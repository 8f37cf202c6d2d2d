//! `sls schema` agrees with the loader. `SLS_BLESS=1 cargo test -p sls-cli --test schema` writes `docs/policy.schema.json`
//! anew.

// A test may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use jsonschema::Validator;
use serde_json::{Value, json};
use sls_core::{Action, KeyKind, KeySpec, LIST_KEYS, POLICY_KEYS, PolicySet, PolicyType};

use support::{run, sls, text};

#[test]
fn the_shipped_schema_is_current() {
    let path = repository().join("docs/policy.schema.json");
    let wanted = printed();
    if std::env::var_os("SLS_BLESS").is_some() {
        fs::write(&path, &wanted).unwrap();
    }
    assert!(
        fs::read_to_string(&path).unwrap() == wanted,
        "{} is not what `sls schema` prints; bless it",
        path.display()
    );
}

#[test]
fn it_is_a_schema_of_its_draft() {
    let schema: Value = serde_json::from_str(&printed()).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    jsonschema::meta::validate(&schema).unwrap();
}

#[test]
fn it_accepts_every_document_that_loads() {
    let validator = validator();
    let mut documents = 0;
    let mut check = |name: &str, document: &Value| {
        let errors: Vec<_> = validator.iter_errors(document).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert!(errors.is_empty(), "{name}:\n{}", errors.join("\n"));
        documents += 1;
    };
    for path in yaml_files("policies") {
        check(&path.display().to_string(), &yaml(&fs::read_to_string(&path).unwrap()));
    }
    for path in yaml_files("sls-core/tests/corpus") {
        let file = yaml(&fs::read_to_string(&path).unwrap());
        for (index, document) in file["documents"].as_array().unwrap().iter().enumerate() {
            check(&format!("{}#{index}", path.display()), &yaml(document.as_str().unwrap()));
        }
    }
    assert!(documents >= 10, "the documents are gone");
}

/// What is wrong with a document is known to both, and the same document without it is right for both.
#[test]
fn it_refuses_what_the_loader_refuses() {
    let validator = validator();
    let agree = |document: &str, valid: bool| {
        assert_eq!(PolicySet::from_yaml("t.yaml", document).is_ok(), valid, "the loader on {document}");
        assert_eq!(validator.is_valid(&yaml(document)), valid, "the schema on {document}");
    };
    let policy = |attributes: &str| format!("P: {{{attributes}, rules: [default match]}}");
    for right in [
        "policy: file, timeout: 0.5, responseAction: delete-file",
        "policy: segfault, tolerance: 0, duration: 86400",
        "policy: chmod, suid: true, responseActions: [suspend, alert, quarantine]",
        "policy: uprobe, symbol: readline, executable: /bin/bash, arguments: {a: arg0}",
        "policy: program, priority: Info, alertLabels: {team: blue, floor: 3}, categories: [a], onUnknown: act",
    ] {
        agree(&policy(right), true);
    }
    for wrong in [
        "policy: program, timout: 1",
        "policy: program, timeout: 1",
        "policy: file, suid: true",
        "policy: program, list: [a]",
        "policy: programm",
        "policy: program, priority: high",
        "policy: program, confidence: Info",
        "policy: program, onUnknown: alarm",
        "policy: program, responseActions: [explode]",
        "policy: program, responseActions: [delete-file]",
        "policy: program, responseAction: quarantine",
        "policy: program, responseActions: kill",
        "policy: container, responseActions: [kill]",
        "policy: program, enabled: 'true'",
        "policy: program, comments: 7",
        "policy: program, categories: a",
        "policy: program, alertLabels: [a]",
        "policy: program, alertLabels: {a: [b]}",
        "policy: file, timeout: -1",
        "policy: file, timeout: 86401",
        "policy: newFileExec, fileTimeout: 0",
        "policy: newFileExec, fileTimeout: 1.5",
        "policy: segfault, tolerance: 1001",
        "policy: uprobe, symbol: readline",
        "policy: kprobe, symbol: do_exit, executable: /bin/x",
    ] {
        agree(&policy(wrong), false);
    }
    for (document, valid) in [
        ("{}", true),
        ("[]", false),
        ("P: 1", false),
        ("enabled_content_groups: [a.b]", true),
        ("enabled_content_groups: a.b", false),
        ("P: {policy: program}", false),
        ("P: {policy: program, rules: []}", false),
        ("P: {policy: program, rules: default match}", false),
        ("P: {policy: program, rules: ['MATCH uid == 0', ' ignore(uid == 1)', 'DEFAULT Ignore']}", true),
        ("P: {policy: program, rules: [when uid == 0, default match]}", false),
        ("P: {policy: program, rules: [matching uid == 0, default match]}", false),
        ("L: {type: names, list: [a, 7, true]}", true),
        ("L: {type: names, list: [a, [b]]}", false),
        ("L: {type: name, list: [a]}", false),
        ("L: {type: names, list: [a], comments: b}", false),
        ("L: {type: numbers, list: [80, '443', 1 - 9]}", true),
        ("L: {type: numbers, list: [a]}", false),
        ("L: {type: numbers, list: [-1]}", false),
        ("L: {type: hosts, list: ['10.0.0.0/8', '::1']}", true),
        ("L: {type: hosts, list: [10]}", false),
        ("L: {type: lineage, list: [[sshd, bash]]}", true),
        ("L: {type: lineage, list: [sshd]}", false),
        ("L: {type: lineage, list: [[]]}", false),
    ] {
        agree(document, valid);
    }
}

/// An override says only what changes, and of which type its object is, only the earlier document tells.
#[test]
fn overrides_are_partial() {
    let validator = validator();
    for (document, valid) in [
        ("P: {priority: High}", true),
        ("P: {timeout: 5, responseActions: [alert, quarantine]}", true),
        ("L: {list: [a, [b]]}", true),
        ("L: {description: a}", true),
        ("P: {}", true),
        ("P: {priority: high}", false),
        ("P: {timout: 5}", false),
        ("P: {rules: [when uid == 0]}", false),
    ] {
        assert_eq!(validator.is_valid(&yaml(document)), valid, "{document}");
    }
}

/// Each key of the table, in each policy type: that it is there, that its default fits and that something else does not.
#[test]
fn every_key_and_action_is_known_to_it() {
    let validator = validator();
    for policy_type in PolicyType::ALL {
        let with = |key: &str, value: Value| {
            let mut policy = json!({"policy": policy_type.name(), "rules": ["default match"]});
            for key in POLICY_KEYS.iter().filter(|key| key.required && key.offered_to(*policy_type)) {
                policy.as_object_mut().unwrap().entry(key.name).or_insert_with(|| example(key));
            }
            policy[key] = value;
            validator.is_valid(&json!({"P": policy}))
        };
        for key in POLICY_KEYS.iter().filter(|key| key.name != "policy") {
            assert_eq!(with(key.name, example(key)), key.offered_to(*policy_type), "{policy_type}: {}", key.name);
            assert!(!with(key.name, json!({"a": {}})), "{policy_type}: {}", key.name);
        }
        for action in Action::ALL {
            for token in action.tokens() {
                assert_eq!(
                    with("responseActions", json!([token])),
                    action.fits(*policy_type),
                    "{policy_type}: {token}"
                );
                assert_eq!(with("responseAction", json!(token)), action.fits(*policy_type), "{policy_type}: {token}");
            }
        }
    }
    let schema: Value = serde_json::from_str(&printed()).unwrap();
    for key in POLICY_KEYS.iter().chain(LIST_KEYS) {
        let shown = &schema["$defs"][key.name];
        assert!(shown["description"].as_str().unwrap().starts_with(key.meaning), "{}", key.name);
        assert_eq!(shown.get("default"), key.default_value().as_ref(), "{}", key.name);
    }
}

/// The default, or else a value that fits.
fn example(key: &KeySpec) -> Value {
    key.default_value().unwrap_or_else(|| match key.kind {
        KeyKind::Text => json!("text"),
        KeyKind::Bool => json!(true),
        KeyKind::Rules => json!(["default match"]),
        KeyKind::Action => json!("alert"),
        KeyKind::OneOf(values) => json!(values[0]),
        other => panic!("no example of {other}"),
    })
}

fn printed() -> String {
    text(&run(sls(&["schema"])).stdout).to_owned()
}

fn validator() -> Validator {
    jsonschema::draft202012::new(&serde_json::from_str(&printed()).unwrap()).unwrap()
}

fn yaml(document: &str) -> Value {
    serde_yaml::from_str(document).unwrap_or_else(|error| panic!("{error}: {document}"))
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn yaml_files(directory: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(repository().join(directory)).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "yaml")).collect()
}

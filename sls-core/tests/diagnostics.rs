//! Bad policy documents and the diagnostics that they get. `SLS_BLESS=1 cargo test -p sls-core --test diagnostics`
//! writes the golden files anew; read the difference before it is committed.

// A helper of a test fails like the test.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod golden;

use std::fs;
use std::path::{Path, PathBuf};

use sls_core::{
    ActionSet, Capabilities, Code, Diagnostics, EventKind, Field, FieldSet, Limits, PolicyLoader, PolicyType,
};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/diagnostics")
}

fn refusal(name: &str, bytes: impl Into<Vec<u8>>, limits: Limits) -> Diagnostics {
    match PolicyLoader::new().limits(limits).document(format!("{name}.yaml"), bytes).load() {
        Ok(_) => panic!("{name}: the document was accepted"),
        Err(diagnostics) => diagnostics,
    }
}

fn compare(name: &str, diagnostics: &Diagnostics) {
    let json: Vec<_> =
        diagnostics.as_slice().iter().map(|diagnostic| serde_json::to_string(diagnostic).unwrap()).collect();
    let found = format!("{diagnostics}\n\n{}\n", json.join("\n"));
    golden::check(&directory().join(format!("{name}.txt")), &found, name);
}

#[test]
fn documents_get_their_golden_diagnostics() {
    let mut names: Vec<_> = fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    names.sort();
    assert!(names.len() >= 30, "the documents are gone");
    for path in names {
        let name = path.file_stem().unwrap().to_str().unwrap();
        compare(name, &refusal(name, fs::read(&path).unwrap(), Limits::default()));
    }
}

/// Documents that are better made than kept.
#[test]
fn hostile_documents_get_their_golden_diagnostics() {
    let policy = |rule: &str| format!("P:\n  policy: program\n  rules:\n    - {rule}\n    - default ignore\n");
    let default = Limits::default;

    compare("huge-file", &refusal("huge-file", vec![b'#'; default().document_bytes + 1], default()));
    compare("nul-byte", &refusal("nul-byte", b"P:\n  policy: pro\0gram\n".to_vec(), default()));
    compare("not-utf-8", &refusal("not-utf-8", b"P:\n  policy: pro\xffgram\n".to_vec(), default()));
    compare("deep-nesting", &refusal("deep-nesting", format!("P: {}", "[".repeat(100_000)), default()));

    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..20 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb += &format!("a{level}: &a{level} [{aliases}]\n");
    }
    compare("alias-bomb", &refusal("alias-bomb", bomb, default()));

    let nested = format!("match {}uid == 0{}", "(".repeat(65), ")".repeat(65));
    compare("deep-rule", &refusal("deep-rule", policy(&nested), default()));
    let long = format!("match uid == {}", "0".repeat(default().rule_bytes));
    compare("long-rule", &refusal("long-rule", policy(&long), default()));
    let limits = Limits { rules: 3, list_entries: 2, policies: 1, ..default() };
    let many = format!(
        "{}Q:\n  policy: program\n  rules: [default ignore]\nL: {{type: names, list: [a, b, c]}}\nR:\n  policy: program\n  \
         rules: [match uid == 0, match uid == 1, match uid == 2, default ignore]\n",
        policy("match uid == 0")
    );
    compare("too-many", &refusal("too-many", many, limits));
}

#[test]
fn every_bad_document_is_refused_in_bounded_time() {
    let start = std::time::Instant::now();
    refusal("quotes", "\"".repeat(100_000), Limits::default());
    refusal("braces", "{".repeat(1_000_000), Limits::default());
    refusal("keys", "? ".repeat(100_000), Limits::default());
    refusal("dashes", "- ".repeat(100_000), Limits::default());
    assert!(start.elapsed().as_secs() < 20, "took {:?}", start.elapsed());
}

/// What the running kernel lacks is named, with the policy.
#[test]
fn what_the_sensor_cannot_see_gets_its_golden_diagnostics() {
    let provides = |kind| match kind {
        EventKind::Exec | EventKind::Security => Field::all().collect(),
        _ => FieldSet::EMPTY,
    };
    let sensor = Capabilities::new(provides, ActionSet::EMPTY).unavailable(|policy_type| {
        let reason = match policy_type {
            PolicyType::Selinux => {
                "the kernel has no SELinux to be seen at `sel_write_enforce` (CONFIG_SECURITY_SELINUX)"
            }
            PolicyType::KernelModule => "the kernel loads no modules (CONFIG_MODULES)",
            _ => return None,
        };
        Some(reason.to_owned())
    });
    let names = ["selinux", "smepSmap", "kernelModule", "newFileExec", "connect"];
    let document: String =
        names.iter().map(|name| format!("My {name}:\n  policy: {name}\n  rules: [default ignore]\n")).collect();
    let loaded = PolicyLoader::new().capabilities(sensor.clone()).document("unavailable.yaml", &*document).load();
    compare("unavailable", &loaded.unwrap_err());
    let content = PolicyLoader::new().capabilities(sensor).content("unavailable.yaml", document).load().unwrap();
    assert_eq!(content.left_out().as_slice().len(), names.len() - 1);
    assert_eq!(content.policies().len(), 1, "smepSmap shares its kind of events with selinux, and is seen");
}

/// Layers: a finding names the file that it is in.
#[test]
fn a_finding_in_a_layer_names_its_file() {
    let error = PolicyLoader::new()
        .document("content.yaml", "P: {policy: program, rules: [default ignore]}")
        .document("local.yaml", "P: {priority: Urgent}")
        .load()
        .unwrap_err();
    let [diagnostic] = error.as_slice() else { panic!("{error}") };
    assert_eq!((diagnostic.file(), diagnostic.code), ("local.yaml", Code::UnknownName));
}

#[test]
fn codes_are_unique() {
    let mut ids: Vec<_> = Code::ALL.iter().map(|code| code.id()).collect();
    ids.dedup();
    assert_eq!(ids.len(), Code::ALL.len());
}

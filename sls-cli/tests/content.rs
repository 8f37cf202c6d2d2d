//! The built-in content against its tests, `policies/tests/*.yaml`, as `sls test --require-coverage` runs them.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sls_core::{Action, PolicyLoader, PolicyTests};

#[test]
fn the_built_in_content_does_what_its_tests_say() {
    let content = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
    let directory = content.join("tests");
    let (mut policies, mut covered, mut documents) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut failed = Vec::new();
    for file in yaml_files(&directory) {
        let name = file.display().to_string();
        let tests = PolicyTests::from_yaml(&name, fs::read(&file).unwrap()).unwrap_or_else(|error| panic!("{error}"));
        let layers: Vec<_> = tests.policies().map(|path| fs::canonicalize(directory.join(path)).unwrap()).collect();
        let loader = layers.iter().fold(PolicyLoader::new(), |loader, path| {
            loader.document(path.display().to_string(), fs::read(path).unwrap())
        });
        let set = Arc::new(loader.load().unwrap_or_else(|error| panic!("{error}")));
        for policy in set.active() {
            assert!(!policy.categories.is_empty(), "`{}` has no category", policy.name);
            assert!(policy.actions.iter().eq([Action::Alert]), "`{}` does more than alert", policy.name);
            policies.insert(policy.name.clone());
        }
        documents.extend(layers);
        for outcome in tests.run(set).unwrap_or_else(|error| panic!("{error}")) {
            if !outcome.passed() {
                failed.push(format!("{name}:{}: {}: {:#?}", outcome.line, outcome.name, outcome.mismatches));
            }
            covered.extend(outcome.responses);
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    let uncovered: Vec<_> = policies.iter().filter(|name| !covered.contains(&***name)).collect();
    assert!(uncovered.is_empty(), "no test makes these policies respond: {uncovered:?}");
    for document in yaml_files(&content) {
        assert!(documents.contains(&fs::canonicalize(&document).unwrap()), "no test is about {}", document.display());
    }
}

fn yaml_files(directory: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "yaml")).collect()
}

/// `docs/detections.md`, whose table is made from the content; `SLS_BLESS=1` writes it anew.
#[test]
fn the_table_of_detections_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = yaml_files(&root.join("policies"));
    files.sort();
    let loader = files
        .iter()
        .fold(PolicyLoader::new(), |loader, path| loader.document(path.display().to_string(), fs::read(path).unwrap()));
    let set = loader.load().unwrap_or_else(|error| panic!("{error}"));
    let mut table = String::from("| detection | type | priority | confidence | categories |\n|---|---|---|---|---|\n");
    for policy in set.policies() {
        let off = if policy.enabled { "" } else { " (off)" };
        let (priority, confidence) = (policy.priority, policy.confidence);
        let categories = policy.categories.join("<br>");
        table += &format!(
            "| {}{off} | `{}` | {priority} | {confidence} | {categories} |\n",
            policy.name, policy.policy_type
        );
    }
    let path = root.join("../docs/detections.md");
    let found = fs::read_to_string(&path).unwrap();
    let (text, _) = found.split_once("| detection |").unwrap();
    let wanted = format!("{text}{table}");
    if std::env::var_os("SLS_BLESS").is_some() {
        fs::write(&path, &wanted).unwrap();
    } else {
        assert_eq!(found, wanted, "docs/detections.md is not current: run with SLS_BLESS=1");
    }
    assert!(set.policies().len() >= 40, "the content is gone");
}

//! The policies in the documentation load, and its policy tests pass.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use sls_core::{
    LOSS_REPORT_INTERVAL, Lane, LossCause, MAX_CONDITION_POLICIES, PolicySet, PolicyTests, REPAIR_INTERVAL,
};

#[test]
fn documented_policies_load_and_their_tests_pass() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut loaded: Vec<PolicySet> = Vec::new();
    let mut tests = 0;
    for file in ["README.md", "docs/policies.md"] {
        let text = fs::read_to_string(root.join(file)).unwrap();
        let blocks = text.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
        for block in blocks.filter(|block| block.contains("policy:") || block.contains("type:")) {
            if block.contains("tests:") {
                // About the first example.
                let file = PolicyTests::from_yaml(file, block).unwrap_or_else(|error| panic!("{error}"));
                let outcomes = file.run(loaded[0].clone()).unwrap_or_else(|error| panic!("{error}"));
                assert!(outcomes.iter().all(|outcome| outcome.passed()), "{outcomes:#?}");
                tests += outcomes.len();
            } else {
                loaded.push(PolicySet::from_yaml(file, block).unwrap_or_else(|error| panic!("{error}")));
            }
        }
    }
    assert!(loaded.len() >= 3 && tests >= 3, "the examples are gone");
}

#[test]
fn losses_are_documented_with_their_names_and_limits() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/events.md")).unwrap();
    let lanes = Lane::ALL.iter().map(|lane| lane.name());
    for name in lanes.chain(LossCause::ALL.iter().map(|cause| cause.name())) {
        assert!(text.contains(&format!("`{name}`")), "no `{name}`");
    }
    let text = text.replace('\n', " ");
    for limit in [
        format!("at most {MAX_CONDITION_POLICIES};"),
        format!("within {} seconds of an alert", LOSS_REPORT_INTERVAL / 1_000_000_000),
        format!("at most every {} seconds", REPAIR_INTERVAL / 1_000_000_000),
    ] {
        assert!(text.contains(&limit), "no {limit:?}");
    }
}

//! The policies in the documentation load, and its policy tests pass.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use sls_core::{PolicySet, PolicyTests};

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

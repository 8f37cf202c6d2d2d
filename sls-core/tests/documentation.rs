//! The policies in the documentation load.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use sls_core::PolicySet;

#[test]
fn documented_policies_load() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut loaded = 0;
    for file in ["README.md", "docs/policies.md"] {
        let text = fs::read_to_string(root.join(file)).unwrap();
        let blocks = text.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
        for block in blocks.filter(|block| block.contains("policy:") || block.contains("type:")) {
            PolicySet::from_yaml(file, block).unwrap_or_else(|error| panic!("{error}"));
            loaded += 1;
        }
    }
    assert!(loaded >= 3, "the examples are gone");
}

//! The compiled matcher against the plain evaluator. An input is a document and recorded events, one a line, after a line
//! `===`; any other is what the generator of the tests makes its decisions by.

#![no_main]

#[allow(dead_code)]
#[path = "../../sls-core/tests/generators/mod.rs"]
mod generators;
#[allow(dead_code, unused_imports)]
#[path = "../../sls-core/tests/matcher_cases/mod.rs"]
mod matcher_cases;

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use sls_core::{CompiledMatcher, Event, EventKind, Limits, Matcher, PolicyLoader, PolicySet, TreeMatcher, UnknownKeys};

use matcher_cases::{Choices, answers, case, check};

const SEPARATOR: &[u8] = b"\n===\n";
/// More than the matcher looks at one by one, and no more than that: an input takes as long as there are policies.
const MOST_POLICIES: usize = 12;

fuzz_target!(|input: &[u8]| {
    match input.windows(SEPARATOR.len()).position(|window| window == SEPARATOR) {
        Some(at) => written(&input[..=at], &input[at + SEPARATOR.len()..]),
        None => {
            let case = case(&mut Choices::Bytes(input), MOST_POLICIES);
            check(&case, &|_, policies| compiled(policies), &mut |_, _| ()).unwrap();
        }
    }
});

fn compiled(policies: Arc<PolicySet>) -> Box<dyn Matcher> {
    Box::new(CompiledMatcher::new(policies))
}

fn written(document: &[u8], lines: &[u8]) {
    // libFuzzer's inputs are small.
    let limits = Limits { document_bytes: 64 << 10, nodes: 10_000, regex_bytes: 64 << 10, ..Limits::default() };
    let Ok(policies) = PolicyLoader::new().limits(limits).document("case.yaml", document).load() else { return };
    let policies = Arc::new(policies);
    let (tree, compiled) = (TreeMatcher::new(policies.clone()), compiled(policies));
    let mut event = Event::new(EventKind::Exec);
    for line in lines.split(|byte| *byte == b'\n') {
        if event.read_json(line, UnknownKeys::Skip).is_ok() {
            let (expected, found) = (answers(&tree, &event), answers(&*compiled, &event));
            assert_eq!(found, expected, "{}\n{}", String::from_utf8_lossy(document), event.to_json());
        }
    }
}

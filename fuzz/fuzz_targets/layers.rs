//! Two documents, of which the second overrides the first. The separator is a line `===`.

#![no_main]

mod common;

use libfuzzer_sys::fuzz_target;

const SEPARATOR: &[u8] = b"\n===\n";

fuzz_target!(|documents: &[u8]| {
    let Some(at) = documents.windows(SEPARATOR.len()).position(|window| window == SEPARATOR) else { return };
    // The first document keeps its last line end.
    let (content, local) = (&documents[..=at], &documents[at + SEPARATOR.len()..]);
    let Some(both) = common::load(&[content, local]) else { return };
    // An empty layer on top changes nothing.
    let effective = both.effective_document().as_bytes();
    let Some(again) = common::load(&[effective, b"{}"]) else { return };
    assert_eq!(again.hash(), both.hash());
});

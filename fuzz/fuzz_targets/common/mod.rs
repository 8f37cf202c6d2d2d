//! What holds of every load of policy documents, whatever they are.

use sls_core::{Diagnostic, Diagnostics, Limits, PolicyLoader, PolicySet};

/// The names of the layers in diagnostics.
const NAMES: [&str; 2] = ["content.yaml", "local.yaml"];

/// More than any finding with its lines may take as text. Long lines and long spans are cut to their neighbourhood.
const MAX_RENDERED: usize = 64 << 10;

/// The default limits, but for what only costs time: libFuzzer's inputs are small.
fn limits() -> Limits {
    Limits { document_bytes: 256 << 10, nodes: 10_000, regex_bytes: 64 << 10, ..Limits::default() }
}

/// Loads the layers. What loads is reproduced by its effective document; what does not is explained.
pub fn load(layers: &[&[u8]]) -> Option<PolicySet> {
    let mut loader = PolicyLoader::new().limits(limits());
    for (name, layer) in NAMES.iter().zip(layers) {
        loader = loader.document(*name, *layer);
    }
    match loader.load() {
        Ok(set) => {
            same_again(&set);
            Some(set)
        }
        Err(diagnostics) => {
            explained(layers, &diagnostics);
            None
        }
    }
}

fn same_again(set: &PolicySet) {
    // Indentation and quotes may make the effective document larger than its sources.
    let limits = Limits { document_bytes: 64 << 20, nodes: 1_000_000, ..limits() };
    let effective = set.effective_document();
    let again = PolicyLoader::new().limits(limits).document("effective.yaml", effective).load();
    let again = again.unwrap_or_else(|error| panic!("the effective document does not load:\n{error}\n{effective}"));
    assert_eq!(again.effective_document(), effective);
    assert_eq!(again.hash(), set.hash());
    assert_eq!(format!("{:?}", again.policies()), format!("{:?}", set.policies()));
    assert_eq!(format!("{:?}", again.lists()), format!("{:?}", set.lists()));
}

fn explained(layers: &[&[u8]], diagnostics: &Diagnostics) {
    assert!(diagnostics.has_errors());
    assert!(diagnostics.as_slice().len() <= limits().diagnostics + 1);
    for diagnostic in diagnostics.as_slice() {
        let layer = NAMES.iter().position(|name| *name == diagnostic.file()).expect("a diagnostic names its document");
        placed(layers[layer], diagnostic);
    }
}

fn placed(document: &[u8], diagnostic: &Diagnostic) {
    let document = document.strip_prefix("\u{feff}".as_bytes()).unwrap_or(document);
    let known = document.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    let span = diagnostic.span;
    assert!(known.get(span.start..span.end).is_some(), "{span:?} is no part of the document");
    if let Some(suggestion) = &diagnostic.suggestion {
        let span = suggestion.span;
        assert!(known.get(span.start..span.end).is_some(), "{span:?} is no part of the document");
    }

    let (line, column) = diagnostic.position();
    let before = &known[..span.start];
    assert_eq!(line, before.matches('\n').count() + 1);
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    assert_eq!(column, before[start..].chars().count() + 1);

    let plain = diagnostic.render(false);
    assert!(plain.contains(diagnostic.code.id()));
    assert!(plain.contains(diagnostic.file()));
    assert!(plain.len() <= MAX_RENDERED, "{} bytes of text", plain.len());
    assert!(
        !plain.contains(|char: char| char.is_control() && char != '\n'),
        "control characters of the document reach the terminal"
    );
    assert!(diagnostic.render(true).len() <= 2 * MAX_RENDERED);

    let json = serde_json::to_value(diagnostic).expect("a diagnostic is serializable");
    assert_eq!(json["line"], line);
    assert_eq!(json["column"], column);
}

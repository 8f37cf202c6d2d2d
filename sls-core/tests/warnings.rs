//! Policies that load but are probably not meant, and the warnings that they get. `SLS_BLESS=1 cargo test -p sls-core --test
//! warnings` writes the golden files anew; read the difference before it is committed.

// A helper of a test fails like the test.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod golden;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use sls_core::{Code, Diagnostic, Diagnostics, Limits, PolicyLoader, PolicySet, Severity};

/// A host on which `/bin` and `/lib` are links into `/usr`, and `sh` is one to `dash`.
fn resolve(path: &str) -> Option<String> {
    match path {
        "/bin/sh" => Some("/usr/bin/dash".to_owned()),
        path if path.starts_with("/bin/") || path.starts_with("/lib/") => Some(format!("/usr{path}")),
        path => Some(path.to_owned()),
    }
}

fn load(name: &str, text: impl Into<Vec<u8>>) -> PolicySet {
    let loader = PolicyLoader::new().resolve_links(resolve).document(name, text);
    loader.load().unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn documents_get_their_golden_warnings() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/warnings");
    let mut seen = BTreeSet::new();
    let mut names: Vec<_> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    names.sort();
    for path in names {
        let name = path.file_name().unwrap().to_str().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let set = load(name, &*text);
        // Rules that are as short as most here are expensive, too.
        let about = |warning: &Diagnostic| warning.code != Code::ExpensiveRule || name == "expenses.yaml";
        let warnings: Diagnostics = set.warnings().clone().into_iter().filter(about).collect();
        // No good neighbour gets one.
        let neighbours = ["Good neighbour", "Audits ", "Kills but "].map(|title| text.find(&format!("\n{title}")));
        for start in neighbours.into_iter().flatten() {
            let end = text[start + 1..].find("\n  rules:").unwrap() + start;
            let end = text[end..].find("\n  rules:").unwrap() + end + "\n  rules:".len();
            let end = text[end..]
                .split_inclusive('\n')
                .take_while(|line| line.starts_with(' ') || *line == "\n")
                .map(str::len)
                .sum::<usize>()
                + end;
            let warned = warnings.as_slice().iter().find(|warning| (start..end).contains(&warning.span.start));
            assert!(warned.is_none(), "{name}: {}", warned.unwrap());
        }
        seen.extend(warnings.as_slice().iter().map(|warning| warning.code));
        assert!(warnings.as_slice().iter().all(|warning| warning.severity == Severity::Warning));
        let found = format!("{warnings}\n");
        golden::check(&path.with_extension("txt"), &found, name);
    }
    for code in Code::ALL.iter().filter(|code| code.severity() == Severity::Warning) {
        assert!(seen.contains(code), "no document has the warning {code}");
    }
}

/// What a suggestion says can be put in its place, and is right then.
#[test]
fn suggestions_are_right() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/warnings");
    let mut applied = 0;
    for name in ["paths", "regexes", "links"] {
        let text = fs::read_to_string(directory.join(format!("{name}.yaml"))).unwrap();
        for warning in load(name, &*text).warnings().as_slice() {
            let Some(suggestion) = &warning.suggestion else { continue };
            let mut better = text.clone();
            better.replace_range(suggestion.span.start..suggestion.span.end, &suggestion.replacement);
            let set = load(name, &*better);
            let again = set.warnings().as_slice().iter().filter(|other| other.position() == warning.position()).count();
            assert_eq!(again, 0, "{warning}\n{}", set.warnings());
            applied += 1;
        }
    }
    assert!(applied > 15, "only {applied} suggestions");
}

#[test]
fn a_warning_changes_nothing_that_is_loaded() {
    let text = "P: {policy: program, rules: ['match programName == \"curl\"', default match], responseActions: []}";
    let set = load("p.yaml", text);
    let one = PolicyLoader::new().limits(Limits { diagnostics: 1, ..Limits::default() }).document("p.yaml", text);
    let one = one.load().unwrap();
    assert_eq!((set.warnings().as_slice().len(), one.warnings().as_slice().len()), (2, 2));
    assert!(!set.warnings().has_errors() && !one.warnings().has_errors());
    assert_eq!((set.hash(), set.policies().len()), (one.hash(), one.policies().len()));
}

/// However many warnings there are, everything is loaded.
#[test]
fn the_limit_on_findings_stops_no_load() {
    let policies: String = (0..500)
        .map(|index| {
            format!("P{index}: {{policy: program, rules: ['match programName == \"curl\"', default ignore]}}\n")
        })
        .collect();
    let set = load("p.yaml", policies);
    assert_eq!(set.policies().len(), 500);
    assert_eq!(set.warnings().as_slice().len(), Limits::default().diagnostics + 1);
}

#[test]
fn lists_of_earlier_documents_may_wait_for_their_use() {
    let content = "L: {type: paths, list: [/a]}\nP: {policy: program, rules: [match uid == 0, default ignore]}";
    let loader = PolicyLoader::new().document("content.yaml", content).document("local.yaml", "L: {list: [/b]}");
    assert!(loader.load().unwrap().warnings().is_empty());
    assert!(load("lists.yaml", "L: {type: paths, list: [/a]}").warnings().is_empty());
}

#[test]
fn a_long_path_is_no_path() {
    let rule = |length| {
        format!("P: {{policy: program, rules: ['match programName == \"/{}\"', default ignore]}}", "x".repeat(length))
    };
    assert!(load("p.yaml", rule(4000)).warnings().is_empty());
    assert_eq!(load("p.yaml", rule(4096)).warnings().as_slice()[0].code, Code::ImpossiblePath);
}

#[test]
fn the_built_in_content_has_no_warnings() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
    let mut paths: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    paths.sort();
    let loader = paths
        .iter()
        .fold(PolicyLoader::new(), |loader, path| loader.document(path.to_str().unwrap(), fs::read(path).unwrap()));
    let set = loader.load().unwrap_or_else(|diagnostics| panic!("{diagnostics}"));
    assert!(set.warnings().is_empty(), "{}", set.warnings());
}

/// As the documentation of `resolve_links` says.
#[test]
fn links_are_asked_for_a_thousand_times() {
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = asked.clone();
    let entries: Vec<_> = (0..1500).map(|index| format!("/bin/{index}")).collect();
    let text = format!("L: {{type: paths, list: [{}]}}", entries.join(", "));
    let loader = PolicyLoader::new().document("l.yaml", text).resolve_links(move |_| {
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        None
    });
    assert!(loader.load().unwrap().warnings().is_empty());
    assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 1000);
}

//! `docs/limits.md` says what there is.

// A test may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;

const DOCUMENT: &str = include_str!("../../docs/limits.md");
const COUNTERS: &str = include_str!("../src/commands/run/counters.rs");

fn sources() -> String {
    let mut sources = String::new();
    for crate_name in ["sls-core", "sls-probe", "sls-actions", "sls-cli"] {
        collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(crate_name).join("src"), &mut sources);
    }
    sources
}

fn collect(directory: &Path, sources: &mut String) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

/// The cells of the rows of the last table.
fn rows() -> Vec<Vec<&'static str>> {
    let (_, table) = DOCUMENT.split_once("| limit | default |").unwrap();
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

fn quoted(cell: &str) -> Option<&str> {
    cell.strip_prefix('`')?.strip_suffix('`')
}

/// The value of a constant such as `64 << 20` or `16 * 1024`.
fn value(expression: &str) -> u64 {
    let number = |text: &str| text.trim().replace('_', "").parse::<u64>().unwrap();
    match expression.split_once("<<") {
        Some((number_part, shift)) => number(number_part) << number(shift),
        None => expression.split('*').map(number).product(),
    }
}

#[test]
fn limits_and_their_defaults_exist() {
    let sources = sources();
    let rows = rows();
    assert!(rows.len() >= 25, "the table is gone");
    for row in &rows {
        let [limit, default, _, _, counter] = row[..] else { panic!("{row:?}") };
        let name = quoted(limit).unwrap();
        let constant = format!("const {name}: ");
        let (_, definition) = sources.split_once(&constant).unwrap_or_else(|| panic!("there is no {name}"));
        let expression = definition.split_once(" = ").unwrap().1.split_once(';').unwrap().0;
        assert_eq!(value(expression), value(&default.replace(',', "")), "{name}");
        let Some(counter) = quoted(counter) else {
            assert!(counter.starts_with("in the "), "{counter}");
            continue;
        };
        let forms = [
            format!("pub {counter}: u"),
            format!("fn {counter}(&self)"),
            format!("    {counter}: usize,"),
            format!("    {counter} \""),
        ];
        assert!(forms.iter().any(|form| sources.contains(form)), "there is no counter {counter}");
    }
}

/// Every cache that counts is in the table.
#[test]
fn what_is_logged_is_documented() {
    let rows = rows();
    let counters: Vec<_> = rows.iter().filter_map(|row| quoted(row[4])).collect();
    let logged: Vec<_> = COUNTERS
        .lines()
        .filter_map(|line| line.trim().split_once(" = "))
        .map(|(name, _)| name)
        .filter(|name| name.contains('_') && !name.contains(' '))
        .collect();
    assert!(logged.len() >= 14, "{logged:?}");
    for name in logged {
        let documented = counters.iter().any(|counter| name.contains(counter));
        assert!(documented, "{name} is not in docs/limits.md");
    }
}

#[test]
fn the_documented_limits_are_the_defaults() {
    let limits = sls_core::GovernorLimits::default();
    assert!(DOCUMENT.contains("limits: {cpu: 5%, memory: 256MB, window: 10s}"));
    assert_eq!((limits.cpu_ppm, limits.memory_bytes), (Some(50_000), Some(256 << 20)));
    assert_eq!(limits.window.as_secs(), 10);
    assert_eq!((sls_core::CALM_WINDOWS, sls_core::MAX_CALM_WINDOWS), (3, 48));
    assert_eq!((sls_core::SPARE_STORED_TEXT, sls_core::MIN_PROCESS_LIMIT), (256, 4096));
}

//! What policies are said to need: an event outside it changes nothing, and of the built-in content it is what one would
//! expect. `SLS_BLESS=1 cargo test -p sls-core --test interest` writes the golden file anew.

// A helper of a test fails like the test.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod cases;
mod generators;
mod golden;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use sls_core::{Alert, Engine, Event, EventKind, Field, Interest, PathInterest, PolicyLoader, PolicyType, ProcessKey};

use cases::{Case, case, case_of, process};

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_not_wanted_changes_nothing(case in prop_oneof![case(), narrow_case()]) {
        check(&case, &mut BTreeSet::new());
    }
}

/// The property means something only if much is not wanted, for every reason, and the rest is responded to.
#[test]
fn generated_cases_have_events_that_are_not_wanted_for_every_reason() {
    let mut runner = TestRunner::deterministic();
    let mut seen = BTreeSet::new();
    for _ in 0..300 {
        check(&case().new_tree(&mut runner).unwrap().current(), &mut seen);
        check(&narrow_case().new_tree(&mut runner).unwrap().current(), &mut seen);
    }
    let reasons = ["kind", "value", "path", "mode", "port", "memory", "UNIX"];
    let types = PolicyType::ALL.iter().map(|policy_type| policy_type.name());
    let missing: Vec<_> = reasons.into_iter().chain(types).filter(|wanted| !seen.contains(*wanted)).collect();
    assert!(missing.is_empty(), "never generated: {missing:?}");
}

/// Few policies, whose rules leave much out.
fn narrow_case() -> impl Strategy<Value = Case> {
    const TYPES: &[PolicyType] = &[
        PolicyType::File,
        PolicyType::FileMonitor,
        PolicyType::Chmod,
        PolicyType::Connect,
        PolicyType::MemoryProtection,
        PolicyType::NewFileExec,
    ];
    case_of(TYPES, 1..3)
}

/// Two engines: one gets all events, the other what is wanted.
fn check(case: &Case, seen: &mut BTreeSet<String>) {
    let policies = Arc::new(case.load());
    let interest = policies.interest();
    let mut all = Engine::builder(policies.clone()).build();
    let mut wanted = Engine::builder(policies.clone()).build();
    for (index, event) in case.events.iter().enumerate() {
        let Some(mut event) = as_sources_give_it(event, &interest) else { continue };
        let about = |event: &Event| format!("event {index}: {}\n{interest:#?}\n{case:#?}", event.to_json());
        let keeps_processes = matches!(event.kind, EventKind::Exec | EventKind::Fork | EventKind::Baseline);
        if interest.wants(&event) || keeps_processes {
            let alerts = process(&mut all, event.clone());
            assert_eq!(whole(&alerts), whole(&process(&mut wanted, event.clone())), "{}", about(&event));
            if interest.wants(&event) {
                let types = alerts.iter().map(|alert| policies.policy(&alert.strategy_name).unwrap().policy_type);
                seen.extend(types.map(|policy_type| policy_type.name().to_owned()));
            } else {
                assert!(alerts.is_empty(), "{}", about(&event));
            }
        } else {
            seen.insert(reason(&interest, &event).to_owned());
            // What it tells of its process would be told by others.
            event.process = ProcessKey { pid: 1000 + index as u32, start: 1 };
            let before = all.stats();
            assert!(process(&mut all, event.clone()).is_empty(), "{}", about(&event));
            assert_eq!(all.stats().held, before.held, "{}", about(&event));
        }
    }
    let counted = |engine: &Engine| {
        let stats = engine.stats();
        (stats.detections, stats.actions, stats.held, stats.forgotten)
    };
    assert_eq!(counted(&all), counted(&wanted), "{case:#?}");
}

/// The event without what is beside the point: losses, and what the process table would make of it. None if it is left out
/// by decision, or ends a process.
fn as_sources_give_it(event: &Event, interest: &Interest) -> Option<Event> {
    let mut event = event.clone();
    (event.parent, event.creator, event.lost) = (ProcessKey::default(), ProcessKey::default(), 0);
    let writes = event.text(Field::FileOperation) == b"WRITE" && !interest.wants_value(EventKind::File, "WRITE");
    if event.kind == EventKind::Exit || writes {
        return None;
    }
    let elsewhere: &[Field] = match event.text(Field::Protocol) {
        b"UNIX" => &[
            Field::RemoteHost,
            Field::RemotePort,
            Field::LocalHost,
            Field::LocalPort,
            Field::InboundHost,
            Field::InboundPort,
        ],
        _ => &[Field::SocketPath],
    };
    for field in elsewhere {
        event.clear(*field);
    }
    Some(event)
}

/// Why it is not wanted.
fn reason(interest: &Interest, event: &Event) -> &'static str {
    if !interest.wants_kind(event.kind) {
        return "kind";
    }
    let value = |field| std::str::from_utf8(event.text(field)).unwrap();
    match event.kind {
        EventKind::Connect if value(Field::Protocol) == "UNIX" => "UNIX",
        EventKind::Connect if interest.wants_value(event.kind, value(Field::Protocol)) => "port",
        EventKind::Memory if interest.wants_value(event.kind, value(Field::MemoryRegion)) => "memory",
        EventKind::File if interest.wants_value(event.kind, value(Field::FileOperation)) => {
            let included = |field| interest.paths(value(Field::FileOperation)).includes(event.text(field));
            if included(Field::FilePath) || included(Field::NewFilePath) { "mode" } else { "path" }
        }
        _ => "value",
    }
}

fn whole(alerts: &[Alert]) -> Vec<serde_json::Value> {
    alerts.iter().map(|alert| serde_json::to_value(alert).unwrap()).collect()
}

#[test]
fn the_built_in_content_needs_what_the_golden_file_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<_> = fs::read_dir(root.join("../policies"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    let mut text = String::new();
    for file in &files {
        let name = file.file_name().unwrap().to_string_lossy();
        let loader = files.iter().filter(|other| *other == file || other.ends_with("lists.yaml"));
        let loader = loader.fold(PolicyLoader::new(), |loader, path| {
            loader.document(path.display().to_string(), fs::read(path).unwrap())
        });
        writeln!(text, "{name}\n{}", described(&loader.load().unwrap().interest())).unwrap();
    }
    let all = files
        .iter()
        .fold(PolicyLoader::new(), |loader, path| loader.document(path.display().to_string(), fs::read(path).unwrap()));
    let interest = all.load().unwrap().interest();
    writeln!(text, "all together\n{}", described(&interest)).unwrap();
    golden::check(&root.join("tests/golden/content_interest.txt"), &text, "what the content needs");
    // What happens most often would cost most.
    assert!(!interest.wants_value(EventKind::File, "WRITE") && !interest.wants_value(EventKind::File, "OPEN_READ"));
}

fn described(interest: &Interest) -> String {
    let mut text = String::new();
    for kind in interest.kinds() {
        writeln!(text, "  {kind}").unwrap();
        let fields = [
            Field::FileOperation,
            Field::Protocol,
            Field::PtraceRequest,
            Field::MemoryRegion,
            Field::CrashSignal,
            Field::ModuleOperation,
            Field::ContainerOperation,
            Field::SecurityChange,
        ];
        let names = fields.iter().flat_map(|field| match field.kind() {
            sls_core::FieldKind::Enum(names) => names,
            _ => &[],
        });
        for name in names.filter(|name| interest.wants_value(kind, name)) {
            write!(text, "    {name}").unwrap();
            if kind == EventKind::File {
                match interest.paths(name) {
                    PathInterest::Under(paths) => {
                        paths.iter().for_each(|path| write!(text, " {}", path.escape_ascii()).unwrap());
                    }
                    _ => text.push_str(" anywhere"),
                }
                if let (&"CHMOD", Some(bits)) = (name, interest.mode_bits()) {
                    write!(text, " mode {bits:o}").unwrap();
                }
            }
            text.push('\n');
        }
        match (kind, interest.ports()) {
            (EventKind::Connect, Some(ports)) => writeln!(text, "    ports {ports:?}").unwrap(),
            (EventKind::Memory, _) if !interest.wants_read_only_memory() => text.push_str("    writable only\n"),
            _ => {}
        }
    }
    text
}

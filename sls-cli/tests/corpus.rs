//! The corpus of `sls-core` through the command line: `sls replay` gives what the engine gives, and `sls explain` what
//! `explain` gives.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;
use serde_json::Value;
use sls_core::{DryRunResponder, Engine, Event, MessageType, PolicyLoader, UnknownKeys};

#[derive(Deserialize)]
struct File {
    documents: Vec<String>,
    tests: Vec<Test>,
}

#[derive(Deserialize)]
struct Test {
    name: String,
    #[serde(default)]
    before: Vec<Value>,
    event: Value,
}

#[test]
fn replay_and_explain_give_what_the_engine_gives() {
    let directory = tempfile::tempdir().unwrap();
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sls-core/tests/corpus");
    let mut tests = 0;
    for entry in fs::read_dir(corpus).unwrap() {
        let path = entry.unwrap().path();
        let file: File = serde_yaml::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let mut loader = PolicyLoader::new();
        let mut policies = Vec::new();
        for (index, document) in file.documents.iter().enumerate() {
            loader = loader.document(index.to_string(), document.as_str());
            let path = directory.path().join(format!("{index}.yaml"));
            fs::write(&path, document).unwrap();
            policies.extend([PathBuf::from("--policy"), path]);
        }
        let set = std::sync::Arc::new(loader.load().unwrap());
        for test in &file.tests {
            let place = format!("{}: {}", path.display(), test.name);
            let events: Vec<_> = test.before.iter().chain([&test.event]).map(Value::to_string).collect();
            let input = events.join("\n");

            let mut engine = Engine::builder(set.clone()).dry_run(true).build();
            let mut wanted = Vec::new();
            for line in &events {
                let (mut event, _) = Event::from_json(line, UnknownKeys::Reject).unwrap();
                engine.process(&mut event, &mut DryRunResponder, &mut |pending| {
                    let reported = pending.message_type().is_some_and(|t| MessageType::ALL.contains(&t));
                    let alert = pending.complete();
                    if reported {
                        wanted.push(serde_json::to_value(&alert).unwrap());
                    }
                });
            }
            assert_eq!(sls("replay", &policies, &input), wanted, "{place}");

            let explained = sls("explain", &policies, &input);
            let last = explained.iter().rfind(|line| line["line"] == events.len());
            let responses: Vec<_> = last
                .into_iter()
                .flat_map(|line| line["explanations"].as_array().unwrap())
                .filter(|explanation| !explanation["report"].is_null())
                .map(|explanation| &explanation["policy"])
                .collect();
            let alerts = wanted.iter().filter(|alert| alert["timestamp"] == test.event["time"].as_u64().unwrap_or(0));
            let alerted: Vec<_> = alerts.map(|alert| &alert["strategy_name"]).collect();
            assert!(responses.iter().all(|policy| alerted.contains(policy)), "{place}: {responses:?}, {alerted:?}");
            tests += 1;
        }
    }
    assert!(tests >= 25, "the corpus is gone");
}

/// The JSON lines that a command answers with.
fn sls(command: &str, policies: &[PathBuf], input: &str) -> Vec<Value> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sls"))
        .args([command, "--format", "json"])
        .args(policies)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command}: {}", output.status);
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

//! That an action does not work is known before it is needed.

// A test may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use support::{Sensor, directory, in_clean_environment, policy, replace, run, sls, sls_run, text, write};

const SLS: &str = env!("CARGO_BIN_EXE_sls");

#[test]
fn every_action_works_here() {
    let output = run(sls(&["doctor", "--format", "json"]));
    let report = report(&output);
    assert_eq!(report["inHostPidNamespace"], true);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    for action in report["actions"].as_array().unwrap() {
        assert_eq!(report["actionsTested"][action.as_str().unwrap()]["works"], true, "{report}");
    }
    let output = run(sls(&["doctor", "--format", "human"]));
    let lines: Vec<_> = text(&output.stdout).lines().collect();
    let action = |name: &str| lines.iter().any(|line| line.split_whitespace().eq([name, "yes"]));
    assert!(action("kill") && action("stop"), "{lines:?}");
}

#[test]
fn without_the_right_to_signal_others_kill_is_inert() {
    let directory = directory();
    let policy = killing(&directory);
    let without = |arguments: &[&str]| {
        let mut command = in_clean_environment(Command::new("setpriv"), &["--bounding-set=-kill", SLS]);
        command.args(arguments);
        command
    };
    let reason = "processes of other users may not be signalled: CAP_KILL is missing";
    let output = run(without(&["doctor", "--format", "json"]));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report = report(&output);
    assert_eq!(report["actionsTested"]["kill"]["works"], false);
    assert_eq!(report["actionsTested"]["kill"]["reason"], reason);
    assert_eq!(report["actionsTested"]["stop"]["reason"], reason);

    let arguments = ["run", "--no-content", "--policy", policy.to_str().unwrap()];
    let refused = run(without(&[&arguments[..], &["--require-actions"]].concat()));
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    let said = text(&refused.stderr);
    assert!(said.contains(&format!("these actions do not work here (--require-actions): kill: {reason}")), "{said}");
    assert!(!said.contains("watching"), "{said}");

    // It watches all the same if it need not act, and says that it does not.
    let sensor = Sensor::start(without(&arguments));
    assert!(sensor.log().contains(reason), "{}", sensor.log());
    sensor.stop().assert_clean();
    // In dry run nothing is missing.
    let sensor = Sensor::start(without(&[&arguments[..], &["--dry-run", "--require-actions"]].concat()));
    assert!(!sensor.log().contains(reason), "{}", sensor.log());
    sensor.stop().assert_clean();
}

#[test]
fn what_a_reload_brings_is_tried_as_well() {
    let directory = directory();
    let file =
        write(directory.path().join("policy.yaml"), &policy("Quiet", "programName == \"/nonexistent\"", "[alert]"));
    let mut command = in_clean_environment(Command::new("setpriv"), &["--bounding-set=-kill", SLS, "run"]);
    command.args(["--no-content", "--require-actions", "--policy"]).arg(&file);
    let sensor = Sensor::start(command);
    assert!(!sensor.log().contains("CAP_KILL"), "nothing asked for it: {}", sensor.log());
    replace(&file, policy("Loud", "programName == \"/nonexistent\"", "[kill, alert]"));
    let warned = sensor.wait_for_log("policies ask for an action that does not work here");
    assert!(warned.contains("action=kill") && warned.contains("CAP_KILL is missing"), "{warned}");
    sensor.wait_for_log("policies reloaded");
    sensor.stop().assert_clean();
}

#[test]
fn outside_the_hosts_pids_nothing_works() {
    let unshare = ["--pid", "--fork", "--kill-child", "--mount-proc", SLS, "doctor", "--format", "json"];
    let output = run(in_clean_environment(Command::new("unshare"), &unshare));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report = report(&output);
    assert_eq!(report["inHostPidNamespace"], false);
    for action in report["actions"].as_array().unwrap() {
        let tested = &report["actionsTested"][action.as_str().unwrap()];
        assert_eq!(tested["reason"], "the sensor is not in the host's PID namespace", "{action}");
    }
}

#[test]
fn policies_whose_actions_work_start() {
    let directory = directory();
    let mut command = sls_run(&killing(&directory));
    command.arg("--require-actions");
    let sensor = Sensor::start(command);
    assert!(!sensor.log().contains("does not work here"), "{}", sensor.log());
    sensor.stop().assert_clean();
}

#[test]
fn a_sensor_that_protects_itself_says_what_it_refused() {
    let directory = directory();
    let report = report(&run(sls(&["doctor", "--format", "json"])));
    let configuration = |exempt: &str| {
        let text = format!(
            "content: false\nselfProtection: true\nselfProtectionExempt: [{exempt}]\npolicies: [policy.yaml]\n"
        );
        let file = write(directory.path().join("sls.yaml"), &text);
        let mut command = sls(&["run", "--dry-run", "--config"]);
        command.arg(file);
        command
    };
    killing(&directory);
    if report["selfProtection"]["works"] == false {
        let reason = report["selfProtection"]["reason"].as_str().unwrap();
        let refused = run(configuration(""));
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        let said = text(&refused.stderr);
        assert!(said.contains(&format!("the sensor cannot protect itself: {reason}")), "{said}");
        return;
    }
    // This test has to be able to stop it.
    let exempt = std::env::current_exe().unwrap();
    let sensor = Sensor::start(configuration(exempt.to_str().unwrap()));
    let pid = sensor.pid.to_string();
    let mut kill = Command::new("kill");
    assert!(!kill.args(["-TERM", &pid]).stderr(std::process::Stdio::null()).status().unwrap().success());
    let line = sensor.wait_for_log("tampering with the sensor was refused");
    assert!(line.contains("tampering=signal 15") && line.contains("name=kill"), "{line}");
    // A reload and `sls rearm` are for all.
    assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    sensor.wait_for_log("policies reloaded");
    assert!(run(sls(&["rearm", &pid])).status.success());
    sensor.wait_for_log("the circuit breakers are closed");
    let ended = sensor.stop();
    ended.assert_clean();
    assert!(ended.log.contains("tampering_refused=1"), "{}", ended.log);
}

/// A policy that would kill what nobody runs.
fn killing(directory: &TempDir) -> PathBuf {
    let text = policy("Killing", "programName == \"/nonexistent\"", "[kill, alert]");
    write(directory.path().join("policy.yaml"), &text)
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

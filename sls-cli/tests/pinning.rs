//! The kernel tier without its sensor, and the sensor that takes over.

// A test may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

use support::{Sensor, copy_of, directory, policy, run, signal, sls, text, wait_for, write};

/// A place for pins of a test's own. What is left there when the test ends goes.
struct Pins(PathBuf);

impl Pins {
    fn new(name: &str) -> Self {
        Self(PathBuf::from(format!("/sys/fs/bpf/sls-test-{name}-{}", std::process::id())))
    }

    fn unpin(&self) -> Vec<Value> {
        let mut command = sls(&["unpin", "--format", "json", "--path"]);
        command.arg(&self.0);
        let output = run(command);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = sls(&["unpin", "--path"]).arg(&self.0).output();
    }
}

/// Runs it, and says whether it was killed.
fn dies(program: &Path) -> (u32, bool) {
    let mut child = Command::new(program).spawn().unwrap();
    (child.id(), child.wait().unwrap().signal() == Some(Signal::KILL.as_raw()))
}

fn wait_until_alone(sensor: Sensor) -> Vec<support::Alert> {
    signal(sensor.pid, Signal::KILL);
    sensor.wait().alerts
}

#[test]
fn a_killed_sensor_leaves_its_policies_in_force_and_the_next_one_tells_what_they_did() {
    let directory = directory();
    let pins = Pins::new("killed");
    let victim = copy_of("/usr/bin/true", directory.path().join("victim"));
    let condition = format!("programName == \"{}\"", victim.display());
    write(directory.path().join("policy.yaml"), &policy("Killing", &condition, "[kill, alert]"));
    let config = |extra: &str| {
        let text = format!(
            "policies: [policy.yaml]\ncontent: false\npinDirectory: {}\nmessageTypes: [alert, smart_policy, audit]\n{extra}",
            pins.0.display()
        );
        write(directory.path().join("config.yaml"), &text)
    };
    let start = |config: &Path| {
        let mut command = sls(&["run", "--config"]);
        command.arg(config);
        Sensor::start(command)
    };
    let sensor = start(&config("pin: true\n"));
    let (first, killed) = dies(&victim);
    assert!(killed);
    let alert = sensor.alert(first);
    let raised = wait_until_alone(sensor);
    assert_eq!(raised.len(), 1, "{raised:?}");

    let alone: Vec<_> = (0..3).map(|_| dies(&victim)).collect();
    assert!(alone.iter().all(|(_, killed)| *killed), "{alone:?}");
    let doctor = run(sls(&["doctor", "--format", "json", "--config", config("pin: true\n").to_str().unwrap()]));
    let doctor: Value = serde_json::from_slice(&doctor.stdout).unwrap();
    assert_eq!(
        (&doctor["pinned"][0]["running"], &doctor["pinned"][0]["programs"][0]),
        (&false.into(), &"on_exec_decided".into())
    );

    let next = start(&config("pin: true\n"));
    for (pid, _) in &alone {
        let told = next.alert(*pid);
        assert_eq!(told.policy(), "Killing");
        assert_eq!(told.outcome()[..2], ["kill", "successful"], "{}", told.text);
        assert_ne!(told.json["uuid"], alert.json["uuid"]);
    }
    let audit = wait_for("the alert about the time between", || {
        next.alerts_now().into_iter().find(|alert| alert.json["strategy_name"] == "kernel_tier_unattended")
    });
    assert_eq!(
        (&audit.json["sensor_info"]["told"], &audit.json["sensor_info"]["lost"]),
        (&3.into(), &0.into()),
        "{audit:?}"
    );
    let (last, killed) = dies(&victim);
    assert!(killed);
    next.alert(last);
    let ended = next.stop();
    ended.assert_clean();
    assert_eq!(ended.alerts.len(), 5, "one for each, and the audit");
    assert!(dies(&victim).1, "a sensor that was stopped leaves them, too");

    let removed = pins.unpin();
    assert_eq!(removed.len(), 1, "{removed:?}");
    assert_eq!(removed[0]["running"], false);
    assert_eq!(pins.unpin(), Vec::<Value>::new());
    assert!(!pins.0.exists());
    wait_for("the victim to live", || (!dies(&victim).1).then_some(()));
}

/// As many times as the circuit breaker would let it.
#[test]
fn alone_a_policy_acts_no_more_often_than_the_breaker_allows() {
    let directory = directory();
    let pins = Pins::new("breaker");
    let victim = copy_of("/usr/bin/true", directory.path().join("victim"));
    let condition = format!("programName == \"{}\"", victim.display());
    write(directory.path().join("policy.yaml"), &policy("Killing", &condition, "[kill, alert]"));
    let text = format!("policies: [policy.yaml]\ncontent: false\npin: true\npinDirectory: {}\n", pins.0.display());
    let config = write(directory.path().join("config.yaml"), &text);
    let mut command = sls(&["run", "--config"]);
    command.arg(&config);
    wait_until_alone(Sensor::start(command));
    let died = (0..15).filter(|_| dies(&victim).1).count();
    assert_eq!(died, 10, "that is the documented default");
    pins.unpin();
}

#[test]
fn a_sensor_that_does_not_pin_removes_what_one_before_it_left() {
    let directory = directory();
    let pins = Pins::new("removed");
    let victim = copy_of("/usr/bin/true", directory.path().join("victim"));
    let file = |name: &str, condition: &str| {
        write(directory.path().join(name), &policy("Killing", condition, "[kill, alert]"))
    };
    file("policy.yaml", &format!("programName == \"{}\"", victim.display()));
    let text = format!("policies: [policy.yaml]\ncontent: false\npinDirectory: {}\n", pins.0.display());
    let config = write(directory.path().join("config.yaml"), &text);
    let start = |arguments: &[&str]| {
        let mut command = sls(&["run", "--config"]);
        command.arg(&config).args(arguments);
        Sensor::start(command)
    };
    wait_until_alone(start(&["--pin"]));
    assert!(dies(&victim).1);
    file("policy.yaml", "programName == \"/nowhere\"");
    let sensor = start(&[]);
    sensor.wait_for_log("removed the pins of a sensor that has ended");
    wait_for("the victim to live", || (!dies(&victim).1).then_some(()));
    assert!(!pins.0.exists());
    sensor.stop().assert_clean();
}

#[test]
fn only_a_bpf_file_system_takes_pins_or_loses_any() {
    let directory = directory();
    let policies = write(directory.path().join("policy.yaml"), &policy("P", "programName == \"/nowhere\"", "[kill]"));
    let settings = "policies: [policy.yaml]\ncontent: false\npin: true\npinDirectory: pins\n";
    let config = write(directory.path().join("config.yaml"), settings);
    let refused = run(sls(&["run", "--config", config.to_str().unwrap()]));
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(text(&refused.stderr).contains("is not in a BPF file system"), "{refused:?}");
    let refused = run(sls(&["unpin", "--path", directory.path().to_str().unwrap()]));
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(fs::exists(policies).unwrap());
}

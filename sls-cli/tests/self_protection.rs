//! The running sensor, and somebody who wants it gone.

// A test may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::process::Command;

use serde_json::json;
use sls_probe::SelfProtection;

use support::{Sensor, Victim, alerting, directory, not_offered, sls, write};

#[test]
fn who_signals_the_sensor_is_refused_and_told_of_in_an_alert() {
    if SelfProtection::missing().is_some() {
        return not_offered("lsm", "CONFIG_BPF_LSM, lsm=…,bpf");
    }
    let directory = directory();
    let nothing = directory.path().join("nothing");
    let policies = alerting("Nothing", &directory, &nothing);
    // The test has to stop it in the end.
    let this = std::env::current_exe().unwrap();
    let config = format!(
        "policies: [{}]\ncontent: false\nselfProtection: true\nselfProtectionExempt: [{}]\n",
        policies.display(),
        this.display()
    );
    let mut command = sls(&["run", "--config"]);
    command.arg(write(directory.path().join("config.yaml"), &config));
    let sensor = Sensor::start(command);

    let kill = format!("kill -TERM {0}; kill -KILL {0}; true", sensor.pid);
    let attacker = Victim::spawn(Command::new("sh").args(["-c", &kill]));
    let pid = attacker.pid();
    assert!(attacker.reap().success());

    // Both in one alert, or in two.
    let told = |operation: &str| {
        let expected = json!({"operation": operation, "pid": pid, "uid": 0, "name": "sh"});
        let what = format!("an alert of {operation}");
        sensor.alert_where(&what, |alert| {
            let attempts = alert.json["sensor_info"]["attempts"].as_array();
            attempts.is_some_and(|attempts| attempts.contains(&expected))
        })
    };
    let alert = told("signal 15");
    assert_eq!((alert.policy(), &alert.json["policy_type"]), ("tampering", &json!("sensor")), "{}", alert.text);
    assert_eq!(alert.json["priority"], "High");
    told("signal 9");
    assert!(sensor.stop().log.contains("tampering_refused=2"));
}

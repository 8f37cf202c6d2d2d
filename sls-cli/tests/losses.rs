//! What `sls run` says of events that did not arrive.

// A test may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::process::Command;
use std::time::SystemTime;

use serde_json::Value;

use support::{Alert, Sensor, Victim, copy_of, directory, sls, text_against, wait_for, write};

/// So many executions that the smallest buffer cannot hold them.
const FLOOD: usize = 600;

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64
}

fn losses_of(alert: &Alert) -> &Vec<Value> {
    alert.json["sensor_info"]["losses"].as_array().unwrap()
}

#[test]
fn a_loss_is_told_with_the_policies_that_may_have_missed_something() {
    let directory = directory();
    let victim = copy_of("/usr/bin/true", directory.path().join("victim"));
    let quick = text_against("Quick", &victim);
    let never = "match eventType == \"FILE_EVENT\" and programName == \"/x\"";
    let cannot = format!("Cannot: {{policy: program, rules: ['{never}', default ignore]}}\n");
    let crashes = "Crashes: {policy: segfault, rules: ['match programName == \"/x\"', default ignore]}\n";
    let children = "Children: {policy: userfaultfd, rules: ['match parentProgramName == \"/x\"', default ignore]}\n";
    let policies = write(directory.path().join("policies.yaml"), &format!("{quick}{cannot}{crashes}{children}"));
    let config =
        format!("content: false\npolicies: [{}]\nringBytes: 65536\nmessageTypes: [alert, audit]\n", policies.display());
    let config = write(directory.path().join("config.yaml"), &config);
    let mut command = sls(&["run", "--config"]);
    command.arg(&config);
    let sensor = Sensor::start(command);
    let before = Victim::run(&mut Command::new(&victim));
    sensor.alert(before);

    let begun = now();
    sensor.suspend();
    let flood = format!("i=0; while [ $i -lt {FLOOD} ]; do {}; i=$((i+1)); done", victim.display());
    Victim::run(Command::new("sh").args(["-c", &flood]));
    let ended = now();
    sensor.resume();

    let is_loss = |alert: &&Alert| alert.json["sensor_info"]["condition"] == "events_lost";
    let alert = wait_for("the loss", || sensor.alerts_now().iter().find(is_loss).cloned());
    assert_eq!((alert.policy(), alert.json["policy_type"].as_str()), ("events_lost", Some("sensor")));
    for kind in ["exec", "fork", "exit"] {
        let of_kind = |loss: &&Value| loss["kind"] == kind && loss["cause"] == "lane_full";
        let loss = losses_of(&alert).iter().find(of_kind).unwrap_or_else(|| panic!("no {kind}: {}", alert.text));
        assert_eq!(loss["lane"], "process");
        assert!(loss["count"].as_u64().unwrap() <= 4 * FLOOD as u64, "{}", alert.text);
        // Seen within about a second, and what was seen before is not meant.
        let [since, until] = ["since", "until"].map(|key| loss[key].as_u64().unwrap());
        assert!(since < ended && until > begun && since > begun - 3_000_000_000, "{begun} {ended} {}", alert.text);
    }
    let policies: Vec<_> = alert.json["sensor_info"]["policies"].as_array().unwrap().iter().collect();
    let names: Vec<_> = policies.iter().map(|policy| policy["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["Quick", "Crashes", "Children"], "{}", alert.text);
    assert_eq!(alert.json["sensor_info"]["policy_count"], 3);
    let kinds: Vec<_> = policies.iter().map(|policy| policy["kinds"].to_string()).collect();
    assert_eq!(kinds, [r#"["exec"]"#, r#"["exec","fork","exit"]"#, r#"["exec","fork"]"#], "{}", alert.text);

    // Then all processes are gone through again, and the sensor goes on.
    sensor.wait_for_log("all processes were gone through again");
    let after = Victim::run(&mut Command::new(&victim));
    let seen = sensor.alert(after);
    let ended = sensor.stop();
    // Each is told once: with the next alert of its kind, and by itself.
    let by_itself: u64 =
        ended.alerts.iter().filter(is_loss).flat_map(losses_of).map(|loss| loss["count"].as_u64().unwrap()).sum();
    let stopped = ended.log.lines().last().unwrap();
    assert!(stopped.contains(&format!(" lost={by_itself} ")), "{by_itself} {stopped}");
    let with_alerts: u64 = ended.alerts.iter().filter_map(|alert| alert.json["lost_events"].as_u64()).sum();
    let executions = losses_of(&alert).iter().find(|loss| loss["kind"] == "exec").unwrap()["count"].as_u64().unwrap();
    assert!(with_alerts >= executions, "{with_alerts} of {executions}: {}", seen.text);
}

//! What the sensor takes of the machine, and what it gives up at its limits.

// A test may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

use serde_json::Value;

use support::{Ended, Sensor, Victim, copy_of, directory, policy, sls, write};

/// Changes files in a directory as fast as it goes, until it is dropped.
struct Flood {
    ended: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Flood {
    fn start(directory: &Path) -> Self {
        let ended = Arc::<AtomicBool>::default();
        let flood = |number: usize| {
            let (ended, file) = (ended.clone(), directory.join(format!("flood-{number}")));
            std::thread::spawn(move || {
                while !ended.load(Ordering::Relaxed) {
                    fs::write(&file, "x").unwrap();
                    fs::remove_file(&file).unwrap();
                }
            })
        };
        let threads = (0..2).map(flood).collect();
        Self { ended, threads }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A sensor with these limits, which looks at the files of the directory and kills a program there.
fn sensor(directory: &tempfile::TempDir, limits: &str) -> (Sensor, PathBuf) {
    let path = directory.path();
    let victim = copy_of("/usr/bin/sleep", path.join("victim"));
    let kill = policy("Kill", &format!("programName == \"{}\"", victim.display()), "[alert, kill]");
    let files = format!(
        "Files:\n  policy: file\n  responseActions: [alert]\n  rules:\n  - match filePath == \"{}/*\" and \
         programName == \"/nowhere\"\n  - default ignore\n",
        path.display()
    );
    let policies = write(path.join("policies.yaml"), &format!("{kill}\n{files}"));
    let config =
        format!("policies: [{}]\ncontent: false\nmessageTypes: [alert, audit]\nlimits: {limits}\n", policies.display());
    let config = write(path.join("config.yaml"), &config);
    let mut command = sls(&["run", "--config"]);
    command.arg(config);
    (Sensor::start(command), victim)
}

fn load<'a>(alert: &'a Value, key: &str) -> Option<&'a str> {
    let info = &alert["sensor_info"];
    if info["condition"] == "load_shed" { info[key].as_str() } else { None }
}

fn assert_killed(sensor: &Sensor, victim: &Path) {
    let victim = Victim::as_nobody(Command::new(victim).arg("1000"));
    let alert = sensor.alert(victim.pid());
    assert_eq!((alert.policy(), alert.outcome()[1]), ("Kill", "successful"), "{}", alert.text);
    assert!(!victim.reap().success());
}

/// The number behind the last `name=` in the log.
fn stopped_with(ended: &Ended, name: &str) -> u64 {
    let (_, value) =
        ended.log.rsplit_once(&format!(" {name}=")).unwrap_or_else(|| panic!("no {name} in {}", ended.log));
    value.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn a_flood_costs_the_flooder_its_events_and_nobody_a_kill() {
    let directory = directory();
    let flooded = directory.path().join("flooded");
    fs::create_dir(&flooded).unwrap();
    let (sensor, victim) = sensor(&directory, "{cpu: 4%, window: 1s}");
    let flood = Flood::start(&flooded);
    for shedding in ["telemetry", "activity"] {
        let alert = sensor.alert_where(shedding, |alert| load(&alert.json, "shedding") == Some(shedding));
        let info = &alert.json["sensor_info"];
        assert_eq!(alert.policy(), "load_shed");
        assert_eq!((&info["cpu_limit_ppm"], &info["retention"]), (&40_000.into(), &"full".into()), "{}", alert.text);
        assert!(info["cpu_ppm"].as_u64().unwrap() > 40_000, "{}", alert.text);
        let concerned = if shedding == "activity" {
            serde_json::json!([{"name": "Files", "kinds": ["file"]}])
        } else {
            serde_json::json!([])
        };
        assert_eq!(info["policies"], concerned, "{}", alert.text);
    }
    assert_killed(&sensor, &victim);
    drop(flood);
    let told = |alert: &support::Alert| load(&alert.json, "shedding") == Some("nothing");
    sensor.alert_where("everything is watched again", told);
    sensor.wait_for_log("within the limits again");
    let is_shed = |loss: &Value| loss["cause"] == "shed" && loss["kind"] == "file" && loss["count"].as_u64() > Some(0);
    sensor.alert_where("what was left out is told", |alert| {
        alert.json["sensor_info"]["losses"].as_array().is_some_and(|losses| losses.iter().any(is_shed))
    });
    assert_killed(&sensor, &victim);
    let ended = sensor.stop();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    let changes = ended.alerts.iter().filter(|alert| load(&alert.json, "shedding").is_some()).count();
    assert_eq!(stopped_with(&ended, "load_changes"), changes as u64, "{}", ended.log);
}

/// Less memory than any sensor takes: the caches give up what they can, and it goes on.
#[test]
fn caches_shrink_and_kills_go_on() {
    let directory = directory();
    let (sensor, victim) = sensor(&directory, "{cpu: off, memory: 16MB, window: 500ms}");
    for retention in ["short_texts", "few_processes", "little_history"] {
        sensor.alert_where(retention, |alert| load(&alert.json, "retention") == Some(retention));
    }
    let over = |alert: &support::Alert| alert.json["sensor_info"]["over_limit"] == true;
    let alert = sensor.alert_where("it says that it is not enough", over);
    assert!(alert.json["description"].as_str().unwrap().ends_with("nothing is left out"), "{}", alert.text);
    sensor.wait_for_log("over the limits");
    // Somebody fills the process table.
    let lives: Vec<_> = (0..50)
        .map(|_| Victim::spawn(Command::new("/usr/bin/env").args(["sleep", "100"]).arg("0".repeat(3000))))
        .collect();
    assert_killed(&sensor, &victim);
    drop(lives);
    let ended = sensor.stop();
    ended.assert_clean();
    assert!(stopped_with(&ended, "texts_cut") >= 50, "{}", ended.log);
}

/// With the default limits, a sensor that has little to do gives nothing up in two windows.
#[test]
fn a_quiet_sensor_gives_nothing_up() {
    let directory = directory();
    let (sensor, victim) = sensor(&directory, "{}");
    for _ in 0..22 {
        sleep(Duration::from_secs(1));
    }
    assert_killed(&sensor, &victim);
    let ended = sensor.stop();
    ended.assert_clean();
    assert_eq!(stopped_with(&ended, "load_changes"), 0, "{}", ended.log);
}

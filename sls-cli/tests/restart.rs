//! A sensor that is killed, and the one after it.

// A test may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use support::{
    Sensor, Victim, copy_of, directory, policy, runs, signal, sls, sls_run, text, text_against, wait_for, write,
};

/// A shell that is told what to run, one line at a time.
struct Shell {
    child: Child,
    orders: ChildStdin,
}

impl Shell {
    fn start(program: &Path) -> Self {
        let mut child = Command::new(program).stdin(Stdio::piped()).spawn().unwrap();
        let orders = child.stdin.take().unwrap();
        Self { child, orders }
    }

    fn run(&mut self, program: &Path) {
        writeln!(self.orders, "{}", program.display()).unwrap();
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Kills it, and waits until it does nothing any more. Its links may take the kernel some seconds more.
fn crash(sensor: Sensor) -> Vec<support::Alert> {
    signal(sensor.pid, Signal::KILL);
    sensor.wait().alerts
}

#[test]
fn what_ran_before_a_crash_is_known_after_it_and_raises_nothing_twice() {
    let directory = directory();
    let path = |name: &str| directory.path().join(name);
    let shell = copy_of("/bin/dash", path("shell"));
    let victim = copy_of("/usr/bin/sleep", path("victim"));
    let quick = copy_of("/usr/bin/true", path("quick"));
    let policies = text_against("Shell", &shell) + &text_against("Victim", &victim) + &text_against("Quick", &quick);
    let policies = write(path("policies.yaml"), &policies);

    let before = Sensor::start(sls_run(&policies));
    let mut shell = Shell::start(&shell);
    let running = Victim::as_nobody(Command::new(&victim).arg("600"));
    assert_eq!(before.alert(shell.child.id()).policy(), "Shell");
    assert_eq!(before.alert(running.pid()).policy(), "Victim");
    let raised = crash(before);

    let after = Sensor::start(sls_run(&policies));
    shell.run(&quick);
    let by_shell = wait_for("the alert about a child of the shell", || {
        after.alerts_now().into_iter().find(|alert| alert.policy() == "Quick")
    });
    let parent = &by_shell.json["lineage"][0];
    assert_eq!(
        (&parent["pid"], parent["name"].as_str()),
        (&shell.child.id().into(), path("shell").to_str()),
        "{parent}"
    );
    let known = raised.iter().find(|alert| alert.policy() == "Shell").unwrap();
    assert_eq!(parent["process_uuid"], known.json["process_info"]["process_uuid"]);
    let ended = after.stop();
    ended.assert_clean();
    assert_eq!(ended.alerts.len(), 1, "what the sensor before has told is told again");
    let uuid = |alert: &support::Alert| alert.json["uuid"].clone();
    assert!(!raised.iter().any(|alert| uuid(alert) == uuid(&by_shell)));
}

/// Policies that act do not act on what has been running since before: it was dealt with, or there was no such policy.
#[test]
fn what_ran_before_is_not_killed_by_a_restart() {
    let directory = directory();
    let victim = copy_of("/usr/bin/sleep", directory.path().join("victim"));
    let condition = format!("programName == \"{}\"", victim.display());
    let policies = write(directory.path().join("policy.yaml"), &policy("Killing", &condition, "[kill, alert]"));
    let spared = Victim::as_nobody(Command::new(&victim).arg("600"));
    for _ in 0..2 {
        let sensor = Sensor::start(sls_run(&policies));
        let killed = Victim::as_nobody(Command::new(&victim).arg("600"));
        assert_eq!(sensor.alert(killed.pid()).policy(), "Killing");
        killed.reap();
        assert!(runs(spared.pid()));
        assert!(crash(sensor).iter().all(|alert| alert.json["process_info"]["pid"] != spared.pid()));
    }
}

/// The links of the killed one may still be there.
#[test]
fn a_restart_after_a_crash_is_as_quick_as_a_start() {
    let start = || {
        let from = Instant::now();
        let sensor = Sensor::start(sls(&["run"]));
        (sensor, from.elapsed())
    };
    let (sensor, first) = start();
    signal(sensor.pid, Signal::KILL);
    let (again, restart) = start();
    let limit = 3 * first + Duration::from_secs(1);
    assert!(restart < limit, "{restart:?} after {first:?}");
    signal(again.pid, Signal::KILL);
    sensor.wait();
    again.wait();
}

#[test]
fn a_quarantine_that_was_interrupted_is_undone_or_finished_by_the_next_sensor() {
    // Long enough to be interrupted. It is copied, as it is on another file system than the store.
    const LENGTH: u64 = 64 << 20;
    let (directory, elsewhere) = (directory(), tempfile::tempdir_in("/dev/shm").unwrap());
    let (store, big) = (directory.path().join("store"), elsewhere.path().join("big"));
    File::create(&big).unwrap().set_len(LENGTH).unwrap();
    let condition = format!("fileOperation == \"CHMOD\" and filePath == \"{}\"", big.display());
    let document =
        policy("Taking", &condition, "[quarantine, alert]").replace("policy: program", "policy: filemonitor");
    write(directory.path().join("policy.yaml"), &document);
    let config = "policies: [policy.yaml]\ncontent: false\nquarantineDirectory: store\n";
    let config = write(directory.path().join("config.yaml"), config);
    let command = || {
        let mut command = sls(&["run", "--config"]);
        command.arg(&config);
        command
    };
    let names = || fs::read_dir(&store).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());

    let before = Sensor::start(command());
    assert!(Command::new("chmod").arg("600").arg(&big).status().unwrap().success());
    wait_for("a copy that is under way", || names().find(|name| name.ends_with(".partial")));
    crash(before);
    assert!(names().any(|name| name.ends_with(".partial")), "it was quicker than the signal");
    assert_eq!(fs::metadata(&big).unwrap().len(), LENGTH);

    let after = Sensor::start(command());
    assert_eq!(names().collect::<Vec<_>>(), Vec::<String>::new());
    assert_eq!(fs::metadata(&big).unwrap().len(), LENGTH, "it is neither here nor there");
    // The next sensor takes it when it is touched again, and whole.
    assert!(Command::new("chmod").arg("640").arg(&big).status().unwrap().success());
    wait_for("the file to go", || (!big.exists()).then_some(()));
    let alert = wait_for("its alert", || after.alerts_now().pop());
    assert_eq!(alert.outcome()[1], "successful", "{}", alert.text);
    after.stop().assert_clean();
    let listed = sls(&["quarantine", "list", "--format", "json", "--config"]).arg(&config).output().unwrap();
    let entry: Value = serde_json::from_str(text(&listed.stdout)).unwrap();
    assert_eq!((&entry["state"], &entry["size"]), (&"complete".into(), &LENGTH.into()), "{entry}");
}

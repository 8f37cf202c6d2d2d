//! A policy that is wrong: how far it gets, and who is told. The worst that a sensor can do to a host is to end it by itself.

// A test may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;

use support::{
    NOBODY, Sensor, Victim, copy_of, directory, patience, policy, run, runs, sls, sls_run, state, text, wait_for, write,
};

const TRIPPED: &str = "circuit-breaker: the policy acted on too many targets";

/// A sensor that kills a program under this configuration.
struct Killing {
    sensor: Sensor,
    program: PathBuf,
    _directory: TempDir,
}

impl Killing {
    fn start(config: &str) -> Self {
        let directory = directory();
        let program = copy_of("/usr/bin/sleep", directory.path().join("victim"));
        let condition = format!("programName == \"{}\"", program.display());
        let policy = write(directory.path().join("policy.yaml"), &policy("Wrong", &condition, "[kill, alert]"));
        let mut command = sls_run(&policy);
        command.arg("--config").arg(write(directory.path().join("config.yaml"), config));
        Self { sensor: Sensor::start(command), program, _directory: directory }
    }

    fn victim(&self) -> Victim {
        Victim::as_nobody(Command::new(&self.program).arg("120"))
    }

    /// The victim is killed, and the alert says so.
    fn assert_kills(&self, victim: Victim) {
        let alert = self.sensor.alert(victim.pid());
        assert_eq!(alert.outcome(), ["kill", "successful", ""], "{}", alert.text);
        assert_eq!(victim.reap().signal(), Some(9));
    }

    /// The victim lives on, and the alert says why.
    fn assert_spares(&self, victim: &Victim, why: &str) {
        let alert = self.sensor.alert(victim.pid());
        assert_eq!(alert.outcome(), ["kill", "dry run", why], "{}", alert.text);
        assert!(runs(victim.pid()), "it was acted upon: {:?}", state(victim.pid()));
    }

    /// The alerts of breakers that tripped.
    fn trips(&self) -> Vec<Value> {
        let alerts = self.sensor.alerts_now().into_iter().map(|alert| alert.json);
        alerts.filter(|alert| alert["notifications"][0]["message_fields"]["guard"] == "circuit-breaker").collect()
    }
}

#[test]
fn a_wrong_policy_is_stopped_after_a_few_targets_and_acts_again_when_told() {
    let killing = Killing::start("breaker: {policyTargets: 3, window: 10m, coolDown: 1h}\n");
    for _ in 0..3 {
        killing.assert_kills(killing.victim());
    }
    let spared: Vec<_> = (0..3).map(|_| killing.victim()).collect();
    for victim in &spared {
        killing.assert_spares(victim, TRIPPED);
    }
    let [trip] = &*wait_for("the alert of the breaker", || Some(killing.trips()).filter(|trips| !trips.is_empty()))
    else {
        panic!("it tripped more than once");
    };
    assert_eq!(trip["strategy_name"], "Wrong");
    assert_eq!(trip["priority"], "High");
    assert_eq!(trip["process_info"]["pid"], spared[0].pid());
    let message = "The circuit breaker of the policy \"Wrong\" tripped: it acted on 3 targets within 600 s; \
                   its actions are dry run for 3600 s";
    assert_eq!(trip["notifications"][0]["message"], message);
    assert_eq!(trip["notifications"].as_array().unwrap().len(), 1, "{trip}");

    let told = run(sls(&["rearm", &killing.sensor.pid.to_string()]));
    assert_eq!(told.status.code(), Some(0), "{told:?}");
    killing.sensor.wait_for_log("the circuit breakers are closed");
    killing.assert_kills(killing.victim());
    // Only what is new is looked at.
    assert!(spared.iter().all(|victim| runs(victim.pid())));
    assert_eq!(killing.trips().len(), 1);
    let ended = killing.sensor.stop();
    ended.assert_clean();
    assert!(ended.log.contains("breaker_trips=1 breaker_held=3"), "{}", ended.log);
}

#[test]
fn rearm_reaches_sensors_only() {
    let directory = directory();
    let program = copy_of("/usr/bin/sleep", directory.path().join("bystander"));
    let bystander = Victim::as_nobody(Command::new(&program).arg("120"));
    // Another command of the same program, which the signal would end: it waits for somebody to write.
    let fifo = directory.path().join("events");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let mut replay = sls(&["replay"]);
    let replay = Victim::spawn(replay.arg(&fifo));
    let waits = || fs::read_to_string(format!("/proc/{}/wchan", replay.pid())).is_ok_and(|at| at.contains("fifo"));
    let start = Instant::now();
    // Where the kernel hides what it waits for, it has had the time.
    while !waits() && start.elapsed().as_secs() < 2 {
        std::thread::yield_now();
    }
    for (pid, why) in [
        (bystander.pid(), "does not run this very file of `sls`"),
        (replay.pid(), "is no sensor that is running"),
        (std::process::id(), "does not run this very file of `sls`"),
    ] {
        let refused = run(sls(&["rearm", &pid.to_string()]));
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        assert!(text(&refused.stderr).contains(why), "{refused:?}");
    }
    assert!(runs(bystander.pid()) && runs(replay.pid()), "the signal was sent");
    let nobody = run(sls(&["rearm", "4194304"]));
    assert_eq!(nobody.status.code(), Some(2), "{nobody:?}");
}

#[test]
fn a_new_policy_shows_first_what_it_would_do() {
    let killing = Killing::start("warmUp: 10s\n");
    let first = killing.victim();
    killing.assert_spares(&first, "warm-up: the policy is new");
    let start = Instant::now();
    loop {
        assert!(start.elapsed() < patience(), "it never acts");
        let victim = killing.victim();
        let alert = killing.sensor.alert(victim.pid());
        match alert.outcome() {
            ["kill", "dry run", "warm-up: the policy is new"] => assert!(runs(victim.pid())),
            outcome => {
                assert_eq!(outcome, ["kill", "successful", ""]);
                assert_eq!(victim.reap().signal(), Some(9));
                break;
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    assert!(runs(first.pid()));
    killing.sensor.stop().assert_clean();
}

/// A cgroup that goes away again.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The kernel takes a moment to let go of who was in it.
        let start = Instant::now();
        while fs::remove_dir(&self.0).is_err() && start.elapsed() < patience() {
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_protected_cgroup_and_those_below_are_never_acted_upon() {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let root = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2")).expect("no cgroup v2 here");
    let root = Path::new(root.split(' ').nth(1).unwrap());
    let name = format!("sls-test-{}", std::process::id());
    let outer = Cgroup::new(root.join(&name));
    let inner = Cgroup::new(outer.0.join("inner"));

    let killing = Killing::start(&format!("protectedCgroups: [/{name}]\n"));
    let mut victims = Vec::new();
    for cgroup in [&outer.0, &inner.0] {
        let script = format!("echo $$ > {}/cgroup.procs && exec setpriv --reuid {NOBODY} \"$0\" 120", cgroup.display());
        let mut command = Command::new("sh");
        let victim = Victim::spawn(command.args(["-c", &script]).arg(&killing.program));
        let alert = killing.sensor.alert(victim.pid());
        assert_eq!(alert.outcome(), ["kill", "refused", "protected-cgroup: the operator protects this cgroup"]);
        assert!(runs(victim.pid()), "it was acted upon");
        victims.push(victim);
    }
    killing.assert_kills(killing.victim());
    killing.sensor.stop().assert_clean();
}

#[test]
fn a_cgroup_that_is_not_there_is_an_error() {
    let directory = directory();
    let config = write(directory.path().join("config.yaml"), "protectedCgroups: [/no-such-cgroup]\n");
    for command in ["run", "guards"] {
        let output = run({
            let mut command = sls(&[command, "--config"]);
            command.arg(&config);
            command
        });
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(text(&output.stderr).contains("cannot protect the cgroup /no-such-cgroup"), "{output:?}");
    }
}

#[test]
fn the_guards_can_be_printed() {
    let directory = directory();
    let path = directory.path().canonicalize().unwrap();
    let policy = write(path.join("policy.yaml"), "P: {policy: program, rules: [default match]}\n");
    let config = write(
        path.join("config.yaml"),
        "policies: [policy.yaml]\nprotectedPaths: ['/srv/*']\nguards: [{name: db, reason: it is the database, program: /opt/db}]\n",
    );
    let json = run({
        let mut command = sls(&["guards", "--format", "json", "--config"]);
        command.arg(&config).stdin(Stdio::null());
        command
    });
    assert_eq!(json.status.code(), Some(0), "{json:?}");
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    let guards: Vec<[&str; 2]> = json["guards"]
        .as_array()
        .unwrap()
        .iter()
        .map(|guard| ["name", "protects"].map(|key| guard[key].as_str().unwrap()))
        .collect();
    let own = [&config, &policy].map(|file| format!("file {}", file.display()));
    for wanted in [
        ["pid-1", "pid 1"],
        ["container-runtime", "program /usr/bin/containerd"],
        ["system-file", "file /etc/passwd"],
        ["sensor-file", &*own[0]],
        ["sensor-file", &*own[1]],
        ["protected-path", "file /srv/*"],
        ["db", "program /opt/db"],
    ] {
        assert!(guards.contains(&wanted), "{wanted:?} is not in {guards:?}");
    }
    assert_eq!(json["breaker"]["policyTargets"], 10);
    let human = run({
        let mut command = sls(&["guards", "--format", "human", "--config"]);
        command.arg(&config);
        command
    });
    assert!(text(&human.stdout).contains("db: it is the database\n  program /opt/db\n"), "{human:?}");
}

//! Attacks on the acting itself: on what it runs, on who may tell it what, on its outputs, and on its timing.

// A test may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use serde_json::Value;
use sls_core::BreakerLimits;

use support::{
    Ended, NOBODY, Sensor, Victim, alerting, copy_of, directory, emulated, policy, rounds, run, runs, sls_run,
    text_against, wait_for, write,
};

/// What a flood makes happen: more than fits into all queues and a pipe.
fn flood() -> usize {
    if emulated() { 1_000 } else { 3_000 }
}

/// Alerts that wait for the outputs.
const QUEUE: usize = 512;

/// Everything that an attacker names reaches the sensor, and no shell.
#[test]
fn injection() {
    const HOSTILE: &[u8] =
        b"a $(touch pwned) `touch pwned`; touch pwned; | & > pwned \n\"}\n{'\\\"%s%n\r\t\x1b[2J\xff\xfe";
    let directory = directory();
    // What a shell would create.
    let empty = directory.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let programs = directory.path().join("programs");
    fs::create_dir(&programs).unwrap();
    let program = copy_of("/usr/bin/tail", programs.join(OsStr::from_bytes(HOSTILE)));

    let name = "P $(touch pwned) `touch pwned`; touch pwned\n\"}{'";
    let policies = [
        policy(
            &serde_json::to_string(name).unwrap(),
            &format!("programName == \"{}/*\"", programs.display()),
            "[kill, alert]",
        ),
        // No program but itself, which it makes to test its actions, is its child; a shell least of all.
        policy(
            "Spawned",
            &format!("parentProgramName == \"{0}\" and programName != \"{0}\"", env!("CARGO_BIN_EXE_sls")),
            "[alert]",
        ),
    ];
    let mut command = sls_run(&write(directory.path().join("policy.yaml"), &policies.concat()));
    command.current_dir(&empty);
    let sensor = Sensor::start(command);
    // What it cannot open, `tail` goes on without.
    let arguments: [&[u8]; 5] = [b"-f", b"/dev/null", b"$(touch pwned)", b"\n{\"message\":\"forged\"}\n", HOSTILE];
    let victim = Victim::as_nobody(Command::new(&program).args(arguments.map(OsStr::from_bytes)).current_dir(&empty));
    let pid = victim.pid();
    assert_eq!(victim.reap().signal(), Some(9));
    let alert = sensor.alert(pid);
    assert_eq!(alert.outcome(), ["kill", "successful", ""], "{}", alert.text);
    let ended = sensor.stop();
    ended.assert_clean();

    assert_eq!(ended.about(pid).len(), 1, "not one line for one alert");
    for line in &ended.alerts {
        assert!(line.json.is_object(), "{:?}", line.text);
        assert_eq!(line.policy(), name);
        assert_eq!(line.text.matches(char::is_control).count(), 0, "{:?}", line.text);
    }
    let shown = alert.json["process_info"]["args"][5].as_str().unwrap();
    assert!(shown.starts_with("a $(touch pwned) `touch pwned`") && shown.ends_with("\\xff\\xfe"), "{shown:?}");
    assert_eq!(fs::read_dir(&empty).unwrap().count(), 0, "something was executed");
    assert_eq!(fs::read_dir(&programs).unwrap().count(), 1);
}

/// Nobody talks to the sensor: it has no door, and ordinary users' signals do not reach it.
#[test]
fn spoofing() {
    let directory = directory();
    let victim = copy_of("/usr/bin/true", directory.path().join("victim"));
    let sensor = Sensor::start(sls_run(&alerting("P", &directory, &victim)));
    sensor.alert(Victim::run(&mut Command::new(&victim)));
    assert_eq!(open_to_others(sensor.pid), Vec::<String>::new(), "others can reach it");
    // Doors are seen where there are some.
    let _doors =
        (TcpListener::bind("127.0.0.1:0").unwrap(), UnixListener::bind(directory.path().join("socket")).unwrap());
    let own = open_to_others(std::process::id());
    assert!(["tcp", "unix"].iter().all(|door| own.iter().any(|line| line.starts_with(door))), "{own:?}");

    let script = "for signal in TERM INT HUP QUIT USR1 STOP KILL; do kill -$signal $0 && exit 1; done
        for file in mem fd/0 environ; do (: <>/proc/$0/$file) && exit 2; done; exit 0";
    let mut attacker = Command::new("sh");
    attacker.args(["-c", script, &sensor.pid.to_string()]).uid(NOBODY).gid(NOBODY);
    let output = run(attacker);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let alert = sensor.alert(Victim::run(&mut Command::new(&victim)));
    assert_eq!(alert.json["metadata"]["policy_generation"], "1", "it was made to reload");
    let ended = sensor.stop();
    ended.assert_clean();
    assert!(!ended.log.contains("reloaded"), "{}", ended.log);
}

/// Whoever makes thousands of alerts hides nothing: what is to be killed is killed, and each alert comes or is counted.
#[test]
fn alert_flooding() {
    let directory = directory();
    let program = copy_of("/usr/bin/sleep", directory.path().join("flood"));
    let flooded = Flooded::start(
        &directory,
        &policy("Kill", &format!("programName == \"{}\"", program.display()), "[kill, alert]"),
    );
    for _ in 0..flood() / 100 {
        let victims: Vec<_> = (0..100).map(|_| Victim::as_nobody(Command::new(&program).arg("60"))).collect();
        for victim in victims {
            let pid = victim.pid();
            assert_eq!(victim.reap().signal(), Some(9), "{pid} was not killed");
        }
    }
    flooded.sensor.wait_for_log("the outputs are too slow: alerts were lost, their actions were not");
    let (alerts, ended) = flooded.read_and_stop();
    assert_eq!(at_the_end(&ended, "actions="), flood());
    assert_accounted(&alerts, &ended, flood());
    for alert in &alerts {
        assert_eq!(alert["notifications"][1]["message_fields"]["action_result"], "successful", "{alert}");
    }
}

/// The noise of one policy neither delays the acting of another, nor silences it once there is room again.
#[test]
fn throttle_abuse() {
    let directory = directory();
    let noise = copy_of("/usr/bin/true", directory.path().join("noise"));
    let program = copy_of("/usr/bin/sleep", directory.path().join("quiet"));
    let quiet = policy("Quiet", &format!("programName == \"{}\"", program.display()), "[kill, alert]");
    let flooded = Flooded::start(&directory, &(text_against("Noise", &noise) + &quiet));
    let script = format!("i=0; while [ $i -lt {} ]; do \"$0\"; i=$((i+1)); done", flood());
    let noisy = Victim::as_nobody(Command::new("sh").args(["-c", &script]).arg(&noise));
    flooded.sensor.wait_for_log("the outputs are too slow: alerts were lost, their actions were not");
    // In the midst of it.
    let hidden = Victim::as_nobody(Command::new(&program).arg("60"));
    assert_eq!(hidden.reap().signal(), Some(9));
    assert!(noisy.reap().success());

    let mut flooded = flooded;
    flooded.read();
    wait_for("the queues to run empty", || (flooded.delivered() >= QUEUE).then_some(()));
    let after = Victim::as_nobody(Command::new(&program).arg("60"));
    let pid = after.pid();
    assert_eq!(after.reap().signal(), Some(9));
    let (alerts, ended) = flooded.read_and_stop();
    assert_accounted(&alerts, &ended, flood() + 2);
    let alert = alerts.iter().find(|alert| alert["process_info"]["pid"] == pid).expect("it is still silent");
    assert_eq!(alert["strategy_name"], "Quiet");
    assert_eq!(alert["notifications"][1]["message_fields"]["action_result"], "successful");
}

/// Whoever trips the circuit breaker of one policy with decoys is heard, and does not stop the others.
#[test]
fn throttle_abuse_of_the_circuit_breaker() {
    let directory = directory();
    let [decoy, program] = ["decoy", "quiet"].map(|name| copy_of("/usr/bin/sleep", directory.path().join(name)));
    let against =
        |name, program: &Path| policy(name, &format!("programName == \"{}\"", program.display()), "[kill, alert]");
    let policies = against("Decoys", &decoy) + &against("Quiet", &program);
    let sensor = Sensor::start(sls_run(&write(directory.path().join("policy.yaml"), &policies)));
    let run = |program: &Path| Victim::as_nobody(Command::new(program).arg("60"));
    let limit = BreakerLimits::default().policy_targets;
    for _ in 0..limit {
        assert_eq!(run(&decoy).reap().signal(), Some(9));
    }
    let spared = run(&decoy);
    let reason = "circuit-breaker: the policy acted on too many targets";
    assert_eq!(outcome(&sensor, spared.pid()), ["kill", "dry run", reason]);
    assert!(runs(spared.pid()));
    let told = || sensor.alerts_now().iter().any(|alert| alert.text.contains("circuit breaker"));
    wait_for("the alert of the circuit breaker", || told().then_some(()));

    let hidden = run(&program);
    let pid = hidden.pid();
    assert_eq!(hidden.reap().signal(), Some(9));
    assert_eq!(outcome(&sensor, pid), ["kill", "successful", ""]);
    sensor.stop().assert_clean();
}

/// Whoever is gone before the signal comes is not said to be killed, and nobody is in its place.
#[test]
fn kill_race() {
    let victims = rounds(200);
    let directory = directory();
    let program = copy_of("/usr/bin/true", directory.path().join("short"));
    // The kernel, which would not lose the race, compares no names of processes.
    let condition = format!("programName == \"{}\" and processName == \"short\"", program.display());
    let text = policy("Race", &condition, "[kill, alert]");
    let mut command = sls_run(&write(directory.path().join("policy.yaml"), &text));
    without_breaker(&directory, &mut command);
    let sensor = Sensor::start(command);
    let bystander = Victim::as_nobody(Command::new("sleep").arg("60"));
    let one = || {
        let victim = Victim::as_nobody(&mut Command::new(&program));
        let pid = victim.pid();
        (pid, victim.reap())
    };
    let racing: Vec<_> = (0..victims).map(|_| one()).collect();
    // Those are gone for sure.
    sensor.suspend();
    let late: Vec<_> = (0..victims / 4).map(|_| one()).collect();
    sensor.resume();

    let gone = |pid| ["kill", "not successful", "no such process"].map(str::to_owned) == outcome(&sensor, pid);
    for (pid, status) in &racing {
        match status.signal() {
            Some(9) => assert_eq!(outcome(&sensor, *pid), ["kill", "successful", ""]),
            None => assert!(gone(*pid) || outcome(&sensor, *pid) == ["kill", "successful", ""]),
            other => panic!("{other:?}"),
        }
    }
    for (pid, status) in &late {
        assert!(status.success());
        assert!(gone(*pid), "{:?}", outcome(&sensor, *pid));
        assert_eq!(sensor.alert(*pid).message(), format!("unable to kill process {pid}: no such process"));
    }
    assert!(runs(bystander.pid()));
    let ended = sensor.stop();
    ended.assert_clean();
    assert_eq!(ended.alerts.len(), racing.len() + late.len(), "not one alert for each");
}

/// What the kernel decides does not wait for the sensor, which sees to it when it comes to it.
#[test]
fn the_kernel_kills_while_the_sensor_sleeps() {
    const VICTIMS: usize = 50;
    let directory = directory();
    let program = copy_of("/usr/bin/true", directory.path().join("short"));
    let text = policy("Kernel", &format!("programName == \"{}\"", program.display()), "[kill, alert]");
    let mut command = sls_run(&write(directory.path().join("policy.yaml"), &text));
    without_breaker(&directory, &mut command);
    let sensor = Sensor::start(command);
    sensor.suspend();
    let victims: Vec<_> = (0..VICTIMS)
        .map(|_| {
            let victim = Victim::as_nobody(&mut Command::new(&program));
            (victim.pid(), victim.reap())
        })
        .collect();
    sensor.resume();
    for (pid, status) in &victims {
        assert_eq!(status.signal(), Some(9));
        assert_eq!(outcome(&sensor, *pid), ["kill", "successful", ""]);
        assert!(sensor.alert(*pid).text.contains("\"action_tier\":\"kernel\""));
    }
    let ended = sensor.stop();
    ended.assert_clean();
    assert_eq!(ended.alerts.len(), victims.len(), "not one alert for each");
}

/// Two sensors see the same victim, one of them in dry run.
#[test]
fn a_dry_run_says_the_same_but_for_the_results() {
    let directory = directory();
    let program = copy_of("/usr/bin/sleep", directory.path().join("victim"));
    let condition = format!("programName == \"{}\"", program.display());
    let file = write(directory.path().join("policy.yaml"), &policy("Both", &condition, "[stop, kill, alert]"));
    let mut dry = sls_run(&file);
    dry.arg("--dry-run");
    let sensors = [Sensor::start(dry), Sensor::start(sls_run(&file))];
    let victim = Victim::as_nobody(Command::new(&program).args(["60", "0"]));
    let pid = victim.pid();
    assert_eq!(victim.reap().signal(), Some(9));
    let [dry, real] = sensors.map(|sensor| {
        let alert = sensor.alert(pid);
        sensor.stop().assert_clean();
        alert.json
    });
    let results = |alert: &Value| -> Vec<_> {
        let actions = &alert["notifications"].as_array().unwrap()[1..];
        actions.iter().map(|action| action["message_fields"]["action_result"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(results(&real), ["successful", "successful"]);
    assert_eq!(results(&dry), ["dry run", "dry run"]);
    for action in &dry["notifications"].as_array().unwrap()[1..] {
        let token = action["message_fields"]["action_type"].as_str().unwrap();
        assert_eq!(action["message"], format!("Would have taken responseAction: {token}"));
    }
    assert_eq!(comparable(&dry), comparable(&real));
}

/// However many targets there are.
fn without_breaker(directory: &tempfile::TempDir, command: &mut Command) {
    let config = write(directory.path().join("config.yaml"), "breaker: {policyTargets: 0, sensorTargets: 0}\n");
    command.arg("--config").arg(config);
}

/// An alert without what differs from run to run, nor what a dry run may say otherwise.
fn comparable(alert: &Value) -> Value {
    let mut alert = alert.clone();
    // Each sensor sees the same event at a moment of its own.
    for key in ["uuid", "alert_group_id", "timestamp"] {
        assert!(alert.as_object_mut().unwrap().remove(key).is_some(), "{key}");
    }
    // The moment of the boot, which start times are counted from, each finds out for itself.
    assert!(alert["metadata"]["node_boot_time"].take().is_string());
    let [process, lineage] = ["process_info", "lineage"].map(|key| alert[key].take());
    let mut processes = vec![process];
    processes.extend(lineage.as_array().unwrap().iter().cloned());
    processes.iter_mut().for_each(|process| _ = process["start_time"].take());
    alert["processes"] = processes.into();
    for (index, entry) in alert["notifications"].as_array_mut().unwrap().iter_mut().enumerate() {
        for key in ["uuid", "timestamp"] {
            entry.as_object_mut().unwrap().remove(key);
        }
        if index > 0 {
            entry.as_object_mut().unwrap().remove("message");
            let may_differ = ["action_result", "action_result_details", "action_tier", "action_latency_us"];
            entry["message_fields"].as_object_mut().unwrap().retain(|key, _| !may_differ.contains(&key.as_str()));
        }
    }
    alert
}

fn outcome(sensor: &Sensor, pid: u32) -> [String; 3] {
    sensor.alert(pid).outcome().map(str::to_owned)
}

/// The sockets of a process that somebody else can send to, as the kernel lists them.
fn open_to_others(pid: u32) -> Vec<String> {
    let sockets: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| {
            let link = fs::read_link(entry.unwrap().path()).ok()?;
            Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
        })
        .collect();
    let mut found = Vec::new();
    for (table, inode_column) in
        [("tcp", 9), ("tcp6", 9), ("udp", 9), ("udp6", 9), ("raw", 9), ("raw6", 9), ("unix", 6), ("packet", 8)]
    {
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/net/{table}")) else { continue };
        for line in text.lines().skip(1) {
            let columns: Vec<_> = line.split_whitespace().collect();
            if !columns.get(inode_column).is_some_and(|inode| sockets.iter().any(|own| own == inode)) {
                continue;
            }
            // A connection of its own to an engine of containers has no name, and takes nothing from others.
            const ACCEPTS: u32 = 1 << 16;
            let named = columns.len() > inode_column + 1;
            let accepts = table != "unix" || u32::from_str_radix(columns[3], 16).unwrap() & ACCEPTS != 0;
            if named || accepts {
                found.push(format!("{table} {line}"));
            }
        }
    }
    found
}

/// A sensor whose only output is a pipe that nobody reads for now.
struct Flooded {
    sensor: Sensor,
    fifo: PathBuf,
    /// Keeps the pipe open, so that the sensor need not wait for a reader.
    held: Option<File>,
    reader: Option<JoinHandle<Vec<Value>>>,
    delivered: Arc<AtomicUsize>,
}

impl Flooded {
    fn start(directory: &tempfile::TempDir, policies: &str) -> Self {
        let fifo = directory.path().join("alerts");
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let held = OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
        let mut command = sls_run(&write(directory.path().join("policy.yaml"), policies));
        without_breaker(directory, &mut command);
        command.arg("--output").arg(format!("file:{}", fifo.display()));
        let sensor = Sensor::start_with(command, Stdio::null());
        Self { sensor, fifo, held: Some(held), reader: None, delivered: Arc::default() }
    }

    /// Reads from now on.
    fn read(&mut self) {
        let Some(held) = self.held.take() else { return };
        let reader = BufReader::new(File::open(&self.fifo).unwrap());
        drop(held);
        let delivered = self.delivered.clone();
        self.reader = Some(std::thread::spawn(move || {
            let alerts = reader.lines().map(|line| {
                delivered.fetch_add(1, Ordering::Relaxed);
                serde_json::from_str(&line.unwrap()).expect("a line that is no alert")
            });
            alerts.collect()
        }));
    }

    fn delivered(&self) -> usize {
        self.delivered.load(Ordering::Relaxed)
    }

    fn read_and_stop(mut self) -> (Vec<Value>, Ended) {
        self.read();
        // It has only seconds to end in.
        wait_for("the queues to run empty", || (self.delivered() >= QUEUE).then_some(()));
        let ended = self.sensor.stop();
        ended.assert_clean();
        (self.reader.unwrap().join().unwrap(), ended)
    }
}

/// Each detection has its alert, or is among those that the sensor says were lost.
fn assert_accounted(alerts: &[Value], ended: &Ended, detections: usize) {
    assert_eq!(at_the_end(ended, "detections="), detections, "{}", ended.log);
    let told = ended.log.lines().rev().find(|line| line.contains("alerts were lost")).expect("no loss was told");
    let lost = number(told, "total=");
    assert!(lost > 0);
    assert_eq!(alerts.len() + lost, detections, "{}", ended.log);
}

/// A number in the last line of the log.
fn at_the_end(ended: &Ended, key: &str) -> usize {
    number(ended.log.lines().last().unwrap(), key)
}

fn number(line: &str, key: &str) -> usize {
    let (_, rest) = line.split_once(key).unwrap_or_else(|| panic!("no {key} in {line}"));
    rest.split(|char: char| !char.is_ascii_digit()).next().unwrap().parse().unwrap()
}

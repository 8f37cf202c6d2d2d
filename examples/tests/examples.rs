//! The examples do what they show, and stay short enough to be read.

// A test may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longer than any wait of a test that passes.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn they_are_short() {
    for (name, text) in [
        ("own_events", include_str!("../own_events.rs")),
        ("embedded_sensor", include_str!("../embedded_sensor.rs")),
        ("isolate_host", include_str!("../isolate_host.rs")),
        ("spooled_delivery", include_str!("../spooled_delivery.rs")),
    ] {
        assert!(text.lines().count() < 60, "{name} has {} lines", text.lines().count());
    }
}

#[test]
fn spooled_delivery_delivers_later_what_it_cannot_deliver_now() {
    let directory = tempfile::tempdir_in(std::env::temp_dir().canonicalize().unwrap()).unwrap();
    let run = |rest: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_spooled-delivery"));
        let output = command.arg(directory.path().join("spool")).args(rest).env_clear().output().unwrap();
        assert!(output.status.success(), "{output:?}");
        [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap())
    };
    let [alerts, said] = run(&["away"]);
    assert!(alerts.is_empty() && said.ends_with("0 delivered, 1 wait in the spool\n"), "{alerts}{said}");
    let safe = said.split_once("safe: ").unwrap().1[..36].to_owned();
    let [alerts, said] = run(&[]);
    let uuids: Vec<_> = alerts
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["uuid"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!((uuids.len(), &uuids[0]), (2, &safe));
    assert!(said.ends_with("2 delivered, 0 wait in the spool\n"), "{said}");
}

#[test]
fn own_events_prints_its_one_alert() {
    // As an ordinary user would: the engine needs nothing of the system.
    let output = Command::new(env!("CARGO_BIN_EXE_own-events")).env_clear().output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let lines = String::from_utf8(output.stdout).unwrap();
    let [line] = lines.lines().collect::<Vec<_>>()[..] else { panic!("not one alert:\n{lines}") };
    let alert: Value = serde_json::from_str(line).unwrap();
    assert_eq!(alert["strategy_name"], "Shell under a web server");
    assert_eq!(alert["priority"], "High");
    assert_eq!(alert["process_info"]["name"], "/bin/sh");
    assert_eq!(alert["process_info"]["args"], serde_json::json!(["/bin/sh", "-c", "id"]));
    let ancestors: Vec<_> = alert["lineage"].as_array().unwrap().iter().map(|process| &process["name"]).collect();
    assert_eq!(ancestors[..2], ["/usr/bin/php", "/usr/sbin/nginx"]);
    assert_eq!(alert["notifications"][1]["message"], "Would have taken responseAction: kill");
    assert_eq!(alert["notifications"][1]["message_fields"]["action_result"], "dry run");
}

#[test]
fn isolate_host_acts_through_its_own_transport() {
    for (arguments, result, message, sent) in [
        (&[][..], "successful", "Took responseAction: isolate-host", "sent: isolate this host: Beacon\n"),
        (&["--dry-run"][..], "dry run", "Would have taken responseAction: isolate-host", ""),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_isolate-host")).args(arguments).env_clear().output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), sent);
        let alert: Value = serde_json::from_slice(&output.stdout).unwrap();
        let [_, isolate, kill] = &alert["notifications"].as_array().unwrap()[..] else { panic!("{alert}") };
        assert_eq!(isolate["message"], message);
        let fields = &isolate["message_fields"];
        assert_eq!(fields["action_type"], "isolate-host");
        assert_eq!(fields["action_target_type"], "host");
        assert_eq!(fields["action_result"], result);
        assert_eq!(kill["message_fields"]["action_type"], "kill", "what kills comes last");
    }
}

#[test]
fn embedded_sensor_sees_and_kills() {
    let directory = tempfile::Builder::new().prefix("sls-test-").tempdir().unwrap();
    fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let program = directory.path().join("victim");
    // Copied by another process: were it open for writing in this one, a fork meanwhile could keep it so.
    assert!(Command::new("cp").arg("/usr/bin/sleep").arg(&program).status().unwrap().success());
    let policy = directory.path().join("policy.yaml");
    let rules = format!("  - match programName == \"{}\"\n  - default ignore\n", program.display());
    fs::write(&policy, format!("Kill:\n  policy: program\n  responseActions: [kill, alert]\n  rules:\n{rules}"))
        .unwrap();

    let seconds = 5;
    let mut command = Command::new(env!("CARGO_BIN_EXE_embedded-sensor"));
    command.arg(&policy).arg(seconds.to_string()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let started = Instant::now();
    let mut sensor = Owned(command.spawn().unwrap());
    let alerts = alerts(sensor.0.stdout.take().unwrap());

    let (pid, status) = killed_victim(&program);
    assert_eq!(status.signal(), Some(9), "{status}");
    let alert = alerts.recv_timeout(PATIENCE).expect("no alert");
    assert_eq!(alert["process_info"]["pid"], pid);
    assert_eq!(alert["process_info"]["name"], program.to_str().unwrap());
    assert_eq!(alert["process_info"]["uid"], 65534);
    assert_eq!(alert["notifications"][1]["message"], "Took responseAction: kill");
    assert_eq!(alert["notifications"][1]["message_fields"]["action_result"], "successful");

    let status = sensor.wait();
    let said = std::io::read_to_string(sensor.0.stderr.take().unwrap()).unwrap();
    assert!(status.success(), "{status}: {said}");
    assert!(started.elapsed() >= Duration::from_secs(seconds));
    assert!(said.contains("lost: 0") && said.contains("0 alerts dropped"), "{said}");
    let more: Vec<_> = alerts.iter().filter(|alert| alert["process_info"]["pid"] == pid).collect();
    assert!(more.is_empty(), "more than one alert: {more:?}");
}

#[test]
fn embedded_sensor_refuses_what_it_cannot_do() {
    let policy = tempfile::Builder::new().prefix("sls-test-").tempfile().unwrap();
    let rules = "  rules:\n  - match programName == \"/nonexistent\"\n  - default ignore\n";
    fs::write(policy.path(), format!("P:\n  policy: program\n  responseActions: [block]\n{rules}")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_embedded-sensor")).arg(policy.path()).arg("1").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("error[SLS") && said.contains("3 |   responseActions: [block]"), "{said}");
    assert!(!Command::new(env!("CARGO_BIN_EXE_embedded-sensor")).stderr(Stdio::null()).status().unwrap().success());
}

/// Runs victims until one is killed by somebody else: those before the sensor watches are not.
fn killed_victim(program: &Path) -> (u32, ExitStatus) {
    let started = Instant::now();
    loop {
        assert!(started.elapsed() < PATIENCE, "no victim was killed");
        let mut command = Command::new(program);
        let mut victim = Owned(command.arg("60").uid(65534).gid(65534).spawn().unwrap());
        let pid = victim.0.id();
        let deadline = Instant::now() + Duration::from_millis(500);
        while Instant::now() < deadline {
            if let Some(status) = victim.0.try_wait().unwrap() {
                return (pid, status);
            }
            sleep(Duration::from_millis(1));
        }
    }
}

/// The alerts as they come.
fn alerts(pipe: ChildStdout) -> Receiver<Value> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines() {
            if sender.send(serde_json::from_str(&line.unwrap()).unwrap()).is_err() {
                return;
            }
        }
    });
    receiver
}

/// A child that does not outlive the test.
struct Owned(Child);

impl Owned {
    fn wait(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "the child does not end");
            sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // Does nothing to a child that was reaped.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

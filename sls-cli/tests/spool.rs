//! Alerts that `sls run` has spooled are delivered, whatever kills it and whatever the output does meanwhile.

// A test may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use support::{Sensor, Victim, copy_of, directory, policy, runs, signal, sls_run, wait_for, write};

/// Everything that a run needs, in a directory that goes away.
struct Room {
    directory: tempfile::TempDir,
    policy: PathBuf,
    victim: PathBuf,
}

impl Room {
    fn new(program: &str, actions: &str) -> Self {
        let directory = directory();
        let victim = copy_of(program, directory.path().join("victim"));
        let text = policy("P", &format!("programName == \"{}\"", victim.display()), actions);
        let policy = write(directory.path().join("policy.yaml"), &text);
        write(
            directory.path().join("config.yaml"),
            "spool: {directory: spool}\nbreaker: {policyTargets: 0, sensorTargets: 0}\n",
        );
        Self { directory, policy, victim }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A sensor with a spool, and with this output besides standard output.
    fn sensor(&self, output: &str) -> Sensor {
        let mut command = sls_run(&self.policy);
        command.arg("--config").arg(self.path("config.yaml")).args(["--output", output, "--output", "stdout:json"]);
        command.env("SLS_LOG", "debug");
        Sensor::start(command)
    }
}

/// The uuids that the log reports as spooled.
fn reported(log: &str) -> Vec<String> {
    let spooled = log.lines().filter(|line| line.contains(" spooled ") && line.contains("uuid="));
    spooled.map(|line| line.split_once("uuid=").unwrap().1[..36].to_owned()).collect()
}

/// What comes to a socket, of all who connect.
fn receive(listener: UnixListener) -> Arc<Mutex<Vec<Value>>> {
    let received = Arc::<Mutex<Vec<Value>>>::default();
    let theirs = received.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            for line in BufReader::new(stream.unwrap()).lines() {
                theirs.lock().unwrap().push(serde_json::from_str(&line.unwrap()).unwrap());
            }
        }
    });
    received
}

fn uuids(alerts: &[Value]) -> HashSet<String> {
    alerts.iter().map(|alert| alert["uuid"].as_str().unwrap().to_owned()).collect()
}

/// `SLS_KILLS` says how often.
#[test]
fn kills_of_the_sensor_lose_nothing_that_was_spooled() {
    let kills: u64 = std::env::var("SLS_KILLS").map_or(20, |kills| kills.parse().unwrap());
    let room = Room::new("/usr/bin/true", "[alert]");
    let socket = room.path("socket");
    let output = format!("unix:{}", socket.display());
    let mut wanted = HashSet::new();
    for round in 0..kills {
        let sensor = room.sensor(&output);
        let script = "i=0; while [ $i -lt 40 ]; do \"$0\"; i=$((i+1)); done";
        let noisy = Victim::spawn(Command::new("sh").args(["-c", script]).arg(&room.victim));
        sensor.wait_for_log(" spooled ");
        std::thread::sleep(Duration::from_millis(round * 37 % 90));
        signal(sensor.pid, Signal::KILL);
        let ended = sensor.wait();
        noisy.reap();
        let reported = reported(&ended.log);
        assert!(!reported.is_empty(), "{}", ended.log);
        wanted.extend(reported);
    }
    let received = receive(UnixListener::bind(&socket).unwrap());
    let sensor = room.sensor(&output);
    let found = || uuids(&received.lock().unwrap());
    let start = Instant::now();
    while !wanted.is_subset(&found()) {
        let lost = wanted.len() - wanted.intersection(&found()).count();
        assert!(start.elapsed() < support::patience(), "{lost} of {} are lost", wanted.len());
        std::thread::sleep(Duration::from_millis(20));
    }
    let ended = sensor.stop();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    assert!(ended.log.contains("the spool has alerts that go first"), "{}", ended.log);
    // What was delivered is not kept.
    let again = room.sensor(&output);
    let ended = again.stop();
    assert!(!ended.log.contains("the spool has alerts"), "{}", ended.log);
    eprintln!("{kills} kills, {} alerts reported as spooled, none lost", wanted.len());
}

#[test]
fn an_output_that_is_away_gets_its_alerts_when_it_comes_back() {
    let room = Room::new("/usr/bin/true", "[alert]");
    // No directory, and nobody at the socket.
    let file = room.path("later/alerts.json");
    let sensor = room.sensor(&format!("file:{}", file.display()));
    sensor.wait_for_log("cannot open the output");
    let run = || Victim::run(&mut Command::new(&room.victim));
    let first: Vec<_> = (0..3).map(|_| run()).collect();
    sensor.wait_for_log("the output takes no alerts: they wait");
    fs::create_dir(file.parent().unwrap()).unwrap();
    let pids = || -> Vec<u64> {
        let text = fs::read_to_string(&file).unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["process_info"]["pid"].as_u64().unwrap())
            .collect()
    };
    let first: Vec<u64> = first.into_iter().map(u64::from).collect();
    wait_for("the alerts", || (pids() == first).then_some(()));
    sensor.wait_for_log("the output takes alerts again");
    fs::rename(file.parent().unwrap(), room.path("away")).unwrap();
    let last = u64::from(run());
    sensor.alert(last as u32);
    let ended = sensor.stop();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    assert!(ended.log.contains("alerts stay in the spool until the next start"), "{}", ended.log);
    fs::rename(room.path("away"), file.parent().unwrap()).unwrap();
    room.sensor(&format!("file:{}", file.display())).stop().assert_clean();
    assert_eq!(pids(), [first, vec![last]].concat());
}

/// How long a real kill takes, as the sensor's own alerts on standard output tell, in microseconds.
fn kill_times(room: &Room, sensor: &Sensor, count: usize) -> Vec<u64> {
    let mut times: Vec<_> = (0..count)
        .map(|_| {
            let victim = Victim::as_nobody(Command::new(&room.victim).arg("60"));
            let pid = victim.pid();
            assert_eq!(std::os::unix::process::ExitStatusExt::signal(&victim.reap()), Some(9));
            let alert = sensor.alert(pid);
            alert.json["notifications"][1]["message_fields"]["action_latency_us"].as_u64().unwrap()
        })
        .collect();
    times.sort_unstable();
    times
}

#[test]
fn an_output_that_hangs_delays_no_kill_and_no_other_output() {
    const KILLS: usize = 60;
    let room = Room::new("/usr/bin/sleep", "[kill, alert]");
    let free = room.path("free.json");
    let sensor = room.sensor(&format!("file:{}", free.display()));
    let without = kill_times(&room, &sensor, KILLS);
    sensor.stop().assert_clean();

    // One that accepts and never reads, with a buffer that a few alerts fill, and a FIFO without a reader.
    let socket = room.path("stuck");
    let listener = UnixListener::bind(&socket).unwrap();
    rustix::net::sockopt::set_socket_recv_buffer_size(&listener, 1).unwrap();
    let fifo = room.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let mut command = sls_run(&room.policy);
    command.arg("--config").arg(room.path("config.yaml"));
    for output in [format!("unix:{}", socket.display()), format!("file:{}", fifo.display()), "stdout:json".into()] {
        command.args(["--output", &output]);
    }
    let sensor = Sensor::start_with(command, Stdio::piped());
    let with = kill_times(&room, &sensor, KILLS);
    let accepted: UnixStream = listener.accept().unwrap().0;
    let ended = sensor.stop();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    assert!(ended.log.contains("alerts stay in the spool"), "{}", ended.log);
    drop(accepted);
    eprintln!("median {} µs without, {} µs with outputs that hang", without[KILLS / 2], with[KILLS / 2]);
    // A machine that does much else makes single ones late; an output that one waits for would make all of them.
    assert!(with[KILLS / 2] < without[KILLS / 2] * 10 + 20_000, "{without:?} {with:?}");
}

#[test]
fn a_spool_that_others_can_enter_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let room = Room::new("/usr/bin/true", "[alert]");
    let output = format!("file:{}", room.path("alerts.json").display());
    room.sensor(&output).stop().assert_clean();
    let [spool] = &fs::read_dir(room.path("spool")).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>()[..]
    else {
        panic!("not one spool")
    };
    assert!(is_private(spool));
    fs::set_permissions(spool, PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = sls_run(&room.policy);
    command.arg("--config").arg(room.path("config.yaml")).args(["--output", &output]);
    let output = support::run(command);
    assert_eq!(output.status.code(), Some(2));
    assert!(support::text(&output.stderr).contains("is not safe: its mode lets others in"));
}

fn is_private(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).unwrap().permissions().mode() & 0o077 == 0
}

/// A file policy that one process meets again and again.
#[test]
fn repetitions_are_counted_and_told_when_it_stops() {
    let room = Room::new("/usr/bin/true", "[alert]");
    let marked = room.path("marked");
    let text = format!(
        "P:\n  policy: file\n  responseActions: [alert]\n  rules:\n  - match filePath == \"{}\" and fileOperation == \"CREATE\"\n  - default ignore\n",
        marked.display()
    );
    let policy = write(room.path("file.yaml"), &text);
    let config = write(room.path("suppress.yaml"), "suppressDuplicates: 1h\n");
    let mut command = sls_run(&policy);
    command.arg("--config").arg(config).args(["--output", "stdout:json"]);
    let sensor = Sensor::start(command);
    let script = "i=0; while [ $i -lt 30 ]; do : > \"$0\"; rm \"$0\"; i=$((i+1)); done; sleep 60; :";
    let victim = Victim::spawn(Command::new("bash").args(["-c", script]).arg(&marked));
    let pid = victim.pid();
    let first = sensor.alert(pid);
    assert!(first.json.get("repeated").is_none());
    wait_for("the end of the loop", || {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let sleeping =
            |child: &str| fs::read_to_string(format!("/proc/{child}/comm")).is_ok_and(|comm| comm == "sleep\n");
        children.split_whitespace().any(sleeping).then_some(())
    });
    assert!(runs(pid));
    // What happened before this was seen.
    std::thread::sleep(Duration::from_secs(1));
    let ended = sensor.stop();
    drop(victim);
    ended.assert_clean();
    let shown: Vec<_> = ended.about(pid).iter().map(|alert| alert.json["repeated"].as_u64().unwrap_or(0)).collect();
    assert_eq!(shown, [0, 29], "{}", ended.log);
}

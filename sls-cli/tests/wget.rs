//! The main job, from the policy file to the alert: a policy against wget and the real `/usr/bin/wget`.
//!
//! Other tests on this machine may run wget too, so every policy that acts also asks for a marker in the arguments, and
//! only alerts about this test's own processes are looked at.

// A test may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use support::{Alert, NOBODY, Sensor, Victim, directory, policy, sls_run, without, write};

/// As statfs(2) gives it.
const OVERLAYFS: rustix::fs::FsWord = 0x794c_7630;

const WGET: &str = "/usr/bin/wget";
const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/enforced-wget-blocklist.yaml");
const NOTIFICATIONS: &str = include_str!("fixtures/dry-run-notifications.json");

#[test]
fn every_way_to_wget_gives_one_alert_of_the_documented_shape() {
    let directory = directory();
    let link = directory.path().join("not-wget");
    symlink(WGET, &link).unwrap();
    let sensor = Sensor::start(sls_run(Path::new(FIXTURE)));
    let version = |program: &str, from: &str| {
        (program.to_owned(), Victim::run(Command::new(program).arg("--version").current_dir(from)))
    };
    let victims = [
        version(WGET, "/"),
        version("./wget", "/usr/bin"),
        version("../bin/wget", "/usr/lib"),
        version("wget", "/tmp"),
        version(link.to_str().unwrap(), "/"),
        version("/proc/self/root/usr/bin/wget", "/"),
    ];
    let ended = sensor.stop();
    ended.assert_clean();
    for (program, pid) in victims {
        let alerts = ended.about(pid);
        let [alert] = alerts[..] else { panic!("{program}: {} alerts\n{}", alerts.len(), ended.log) };
        let process = &alert.json["process_info"];
        assert_eq!(process["name"], WGET, "{program}");
        assert_eq!(process["args"], json!([program, "--version"]));
        assert_eq!(process["invoked_name"], if program == "wget" { WGET } else { &program });
        assert_eq!(process["uid"], NOBODY);
        assert_eq!(alert.json["scope"], "Process");
        assert_eq!(alert.json["description"], "Unauthorized execution of wget");
        assert_eq!(alert.json["priority"], "High");
        assert_eq!(alert.json["matched_rule"], r#"match programName == "/usr/bin/wget""#);
        assert_like_the_fixture(alert);
    }
}

/// A link or a mount elsewhere is another path, so a rule on the path does not see it. A rule on the inode does.
#[test]
fn hard_links_and_bind_mounts_have_a_path_of_their_own_and_the_same_inode() {
    let directory = directory();
    // On the file system that wget is on, as a hard link must be.
    let beside = tempfile::Builder::new()
        .prefix(".sls-test-")
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir_in("/usr")
        .unwrap();
    let hard_link = beside.path().join("not-wget");
    fs::hard_link(WGET, &hard_link).unwrap();
    let mount_point = write(directory.path().join("mounted"), "");
    let wget = fs::metadata(WGET).unwrap();
    let by_inode =
        policy("By inode", &format!("programInode == {} and programDevice == {}", wget.ino(), wget.dev()), "[alert]");
    let by_inode = write(directory.path().join("inode.yaml"), &by_inode);
    let mut command = sls_run(Path::new(FIXTURE));
    command.arg("--policy").arg(by_inode);
    let sensor = Sensor::start(command);

    let direct = Victim::run(Command::new(WGET).arg("--version"));
    let linked = Victim::run(Command::new(&hard_link).arg("--version"));
    // The mount is in a namespace that ends with the victim.
    let mounted = Victim::spawn(
        Command::new("unshare")
            .args(["--mount", "sh", "-c", r#"mount --bind "$0" "$1" && exec "$1" --version"#, WGET])
            .arg(&mount_point),
    );
    let mounted = (mounted.pid(), mounted.reap());
    assert!(mounted.1.success(), "cannot mount: {}", mounted.1);

    let ended = sensor.stop();
    ended.assert_clean();
    let policies = |pid| {
        let mut found: Vec<_> = ended.about(pid).iter().map(|alert| (alert.policy().to_owned(), name(alert))).collect();
        found.sort();
        found
    };
    let found = |policy: &str, path: &Path| (policy.to_owned(), path.to_str().unwrap().to_owned());
    let by_path = found("Enforced Wget Blocklist", WGET.as_ref());
    // What stat(2) says of a file on an overlay is not what the kernel knows it by.
    if rustix::fs::statfs(WGET).unwrap().f_type == OVERLAYFS {
        without("plain-root", "a policy on the inode of a program");
        assert_eq!(policies(direct), [by_path]);
        assert!(policies(linked).is_empty() && policies(mounted.0).is_empty());
        return;
    }
    assert_eq!(policies(direct), [found("By inode", WGET.as_ref()), by_path]);
    assert_eq!(policies(linked), [found("By inode", &hard_link)]);
    assert_eq!(policies(mounted.0), [found("By inode", &mount_point)]);
}

#[test]
fn wget_is_dead_before_the_alert_says_so() {
    // It connects, and is never answered: it would wait for minutes.
    let silence = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/{}", silence.local_addr().unwrap(), marker("kill"));
    let directory = directory();
    let mut command = sls_run(&write(directory.path().join("kill.yaml"), &against_wget("kill", "kill")));
    // More of them than the circuit breaker lets one policy act upon.
    let breaker = "breaker: {policyTargets: 100, sensorTargets: 100}\n";
    command.arg("--config").arg(write(directory.path().join("config.yaml"), breaker));
    let sensor = Sensor::start(command);

    let bystander = Victim::as_nobody(Command::new("/usr/bin/sleep").arg("60"));
    let mut pids = Vec::new();
    for _ in 0..20 {
        let wget = Victim::as_nobody(Command::new(WGET).args(["-q", "-O", "/dev/null", &url]));
        let pid = wget.pid();
        let alert = sensor.alert(pid);
        assert_eq!(alert.state, Some('Z'), "the alert came before the death of {pid}: {}", alert.text);
        assert_eq!(alert.outcome(), ["kill", "successful", ""], "{}", alert.text);
        assert_eq!(alert.message(), "Took responseAction: kill");
        let fields = &alert.actions()[0]["message_fields"];
        assert_eq!(fields["action_tier"], "process");
        assert_eq!(fields["action_target_type"], "process");
        let latency = fields["action_latency_us"].as_u64().unwrap_or_else(|| panic!("no latency: {}", alert.text));
        assert!((1..30_000_000).contains(&latency), "{latency} µs");
        let status = wget.reap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{status}");
        pids.push(pid);
    }
    assert_ne!(support::state(bystander.pid()), Some('Z'), "another process was hit");
    let ended = sensor.stop();
    ended.assert_clean();
    for pid in pids {
        assert_eq!(ended.about(pid).len(), 1);
    }
}

#[test]
fn a_process_that_is_gone_is_reported_as_such() {
    let directory = directory();
    let sensor = Sensor::start(sls_run(&write(directory.path().join("kill.yaml"), &against_wget("kill", "gone"))));
    // While the sensor sleeps, both victims end; one of them even disappears.
    sensor.suspend();
    let marker = marker("gone");
    let gone = Victim::run(Command::new(WGET).args(["--version", &marker]));
    let zombie = Victim::as_nobody(Command::new(WGET).args(["--version", &marker]));
    zombie.wait_until_dead();
    sensor.resume();
    for pid in [gone, zombie.pid()] {
        let alert = sensor.alert(pid);
        assert_eq!(alert.outcome(), ["kill", "not successful", "no such process"], "{}", alert.text);
        assert_eq!(alert.message(), format!("unable to kill process {pid}: no such process"));
    }
    assert!(zombie.reap().success());
    sensor.stop().assert_clean();
}

/// The path of the program.
fn name(alert: &Alert) -> String {
    alert.json["process_info"]["name"].as_str().unwrap().to_owned()
}

/// An argument that only this run of this test uses.
fn marker(test: &str) -> String {
    format!("sls-{test}-{}", std::process::id())
}

fn against_wget(action: &str, test: &str) -> String {
    let condition = format!(r#"programName == "{WGET}" and programArguments like ".*{}""#, marker(test));
    policy("No wget", &condition, &format!("[{action}, alert]"))
}

/// The same keys in the same order, the same types, the same words: all but names, ids and times is compared as text.
fn assert_like_the_fixture(alert: &Alert) {
    let fixture: Value = serde_json::from_str(NOTIFICATIONS).unwrap();
    let wanted = without_particulars(&compact(NOTIFICATIONS), &fixture);
    let wanted = wanted.trim_start_matches('{').trim_end_matches('}');
    let found = without_particulars(&alert.text, &alert.json);
    assert!(found.contains(&format!(",{wanted},")), "\nwanted {wanted}\nin {found}");
}

fn without_particulars(text: &str, json: &Value) -> String {
    let mut text = text.to_owned();
    for notification in json["notifications"].as_array().unwrap() {
        for (key, placeholder) in [("uuid", "UUID"), ("name", "NAME"), ("timestamp", "TIME")] {
            let value = notification[key].as_str().unwrap();
            let form: String = value.chars().map(|char| if char.is_ascii_digit() { '0' } else { char }).collect();
            match key {
                "timestamp" => assert_eq!(form, "0000-00-00T00:00:00.000000000-00:00", "{value}"),
                "uuid" => assert_eq!(value, json["notifications"][0]["uuid"], "more than one uuid"),
                _ => {}
            }
            text = text.replace(value, placeholder);
        }
    }
    text
}

/// JSON without the white space between its tokens, in the order in which it was.
fn compact(json: &str) -> String {
    let (mut in_string, mut escaped) = (false, false);
    json.chars()
        .filter(|char| {
            let keep = in_string || !char.is_whitespace();
            if *char == '"' && !escaped {
                in_string = !in_string;
            }
            escaped = *char == '\\' && !escaped;
            keep
        })
        .collect()
}

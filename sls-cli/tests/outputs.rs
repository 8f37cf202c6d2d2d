//! Where `sls run` writes to, and what happens when nobody reads it.

// A test may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;
use std::io::pipe;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use support::{Sensor, Victim, alerting, copy_of, directory, replace, sls_run, text, text_against, wait_for, write};

#[test]
fn a_file_gets_one_line_for_each_alert_behind_what_it_had() {
    let directory = directory();
    let victim = copy_of("/usr/bin/true", directory.path().join("victim"));
    let file = write(directory.path().join("alerts.json"), "{\"old\":true}\n");
    let mut command = sls_run(&alerting("P", &directory, &victim));
    command.arg("--output").arg(format!("file:{}", file.display())).args(["--output", "stdout:json"]);
    let sensor = Sensor::start(command);
    let pids: Vec<_> = (0..3).map(|_| Victim::run(&mut Command::new(&victim))).collect();
    let ended = sensor.stop();
    ended.assert_clean();
    let written = fs::read_to_string(&file).unwrap();
    let (old, new) = written.split_once('\n').unwrap();
    assert_eq!(old, "{\"old\":true}");
    let printed: String = ended.alerts.iter().map(|alert| format!("{}\n", alert.text)).collect();
    assert_eq!(new, printed, "the outputs differ");
    let found: Vec<_> = new
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["process_info"]["pid"].as_u64().unwrap() as u32)
        .collect();
    assert_eq!(found, pids);
}

#[test]
fn nobody_paints_the_terminal_or_hides_in_the_json() {
    let hostile: [&[u8]; 6] = [
        b"\x1b[2J\x1b]0;owned\x07",
        b"de\x7flete",
        "\u{9b}31m".as_bytes(),
        b"two\nlines\r",
        "\u{202e}txt".as_bytes(),
        b"\xff\xfe",
    ];
    let arguments = hostile.map(std::ffi::OsStr::from_bytes);
    let directory = directory();
    let victim = copy_of("/usr/bin/true", directory.path().join("victim"));
    let policy = alerting("P", &directory, &victim);
    let file = directory.path().join("alerts.json");
    for format in ["human", "json"] {
        let mut command = sls_run(&policy);
        command.args(["--output", &format!("stdout:{format}"), "--output", &format!("file:{}", file.display())]);
        // As on a terminal, where colours are kept.
        command.env("CLICOLOR_FORCE", "1").env("TERM", "xterm-256color");
        let sensor = Sensor::start(command);
        let pid = Victim::run(Command::new(&victim).args(arguments));
        let ended = sensor.stop();
        ended.assert_clean();
        let shown: Vec<_> = ended.alerts.iter().map(|line| line.text.as_str()).collect();
        let shown = shown.join("\n");
        assert!(shown.contains(&pid.to_string()), "{shown}");
        let colours = ["\u{1b}[0m", "\u{1b}[1m", "\u{1b}[2m", "\u{1b}[33m"];
        let plain = colours.iter().fold(shown.clone(), |text, colour| text.replace(colour, ""));
        assert_ne!(
            plain == shown,
            format == "human",
            "colours should be in what people read, and only there: {shown:?}"
        );
        let bad: Vec<_> = plain.chars().filter(|c| *c != '\n' && (c.is_control() || *c == '\u{202e}')).collect();
        assert_eq!(bad, [], "{shown:?}");
        assert!(shown.contains("lete"), "{shown:?}");
    }
    // Nothing is lost by it: every byte can be had back.
    for line in fs::read_to_string(&file).unwrap().lines() {
        let alert: Value = serde_json::from_str(line).unwrap();
        let found: Vec<_> = alert["process_info"]["args"].as_array().unwrap()[1..].to_vec();
        let mut wanted: Vec<_> = hostile[..5].iter().map(|argument| json!(text(argument))).collect();
        wanted.push(json!("\\xff\\xfe"));
        assert_eq!(found, wanted);
    }
}

#[test]
fn a_dry_run_ends_when_nobody_reads_its_alerts() {
    let directory = directory();
    let victim = copy_of("/usr/bin/true", directory.path().join("victim"));
    let (reader, writer) = pipe().unwrap();
    let mut command = sls_run(&alerting("P", &directory, &victim));
    command.arg("--dry-run");
    let sensor = Sensor::start_with(command, writer.into());
    drop(reader);
    Victim::run(&mut Command::new(&victim));
    let ended = sensor.wait();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
}

/// What acts goes on acting: a reader of alerts that died must not end the protection.
#[test]
fn a_real_run_goes_on_when_nobody_reads_its_alerts() {
    let directory = directory();
    let victim = copy_of("/usr/bin/true", directory.path().join("victim"));
    let (reader, writer) = pipe().unwrap();
    let sensor = Sensor::start_with(sls_run(&alerting("P", &directory, &victim)), writer.into());
    drop(reader);
    for _ in 0..3 {
        Victim::run(&mut Command::new(&victim));
    }
    wait_for("the log", || sensor.log().contains("nobody reads alerts any more").then_some(()));
    sensor.stop().assert_clean();
}

#[test]
fn it_goes_on_for_its_other_outputs_when_nobody_reads_one() {
    let directory = directory();
    let victim = copy_of("/usr/bin/true", directory.path().join("victim"));
    let file = directory.path().join("alerts.json");
    let (reader, writer) = pipe().unwrap();
    let mut command = sls_run(&alerting("P", &directory, &victim));
    command.args(["--output", "stdout", "--output", &format!("file:{}", file.display())]);
    let sensor = Sensor::start_with(command, writer.into());
    drop(reader);
    for count in 1..=3 {
        Victim::run(&mut Command::new(&victim));
        wait_for("the alert", || (fs::read_to_string(&file).unwrap().lines().count() == count).then_some(()));
    }
    sensor.stop().assert_clean();
}

#[test]
fn it_goes_on_when_nobody_reads_its_log() {
    let directory = directory();
    let victim = copy_of("/usr/bin/true", directory.path().join("victim"));
    let file = alerting("First", &directory, &victim);
    let mut sensor = Sensor::start(sls_run(&file));
    sensor.close_log();
    // The first of these is still read, the others meet a closed pipe.
    for _ in 0..3 {
        replace(&file, "Broken:\n  policy: nonsense\n");
        std::thread::sleep(Duration::from_millis(1200));
    }
    replace(&file, text_against("Second", &victim));
    let start = Instant::now();
    while sensor.alert(Victim::run(&mut Command::new(&victim))).policy() != "Second" {
        assert!(start.elapsed() < support::patience(), "it does not reload any more");
        std::thread::sleep(Duration::from_millis(100));
    }
    let ended = sensor.stop();
    assert_eq!(ended.status.code(), Some(0));
}

//! Policies that decide before a program runs, from the document to the alert, in the running sensor.

// A test may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::Command;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::Signal;

use support::{Sensor, Victim, copy_of, directory, in_clean_environment, replace, signal, sls_run, wait_for, write};

/// A file system of the test's own: nothing else on the machine waits.
struct Room(tempfile::TempDir);

impl Room {
    fn new() -> Self {
        let room = directory();
        mount("tmpfs", room.path(), "tmpfs", MountFlags::empty(), None).unwrap();
        Self(room)
    }

    fn path(&self) -> PathBuf {
        self.0.path().canonicalize().unwrap()
    }

    fn program(&self, name: &str) -> PathBuf {
        copy_of("/bin/true", self.path().join(name))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

/// Whether the program was not allowed to run.
fn is_blocked(program: &PathBuf) -> bool {
    match Command::new(program).status() {
        Ok(status) => {
            assert!(status.success());
            false
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
            true
        }
    }
}

/// A rule that only user space can decide.
fn blocking(room: &Room, name: &str) -> String {
    let path = room.path();
    format!(
        "No {name}:\n  policy: program\n  tier: fanotify\n  responseActions: [alert, block]\n  rules:\n  - 'match programName like \"{}/(x/)*{name}[0-9]*\" and userName == \"root\"'\n  - default ignore\n",
        path.display()
    )
}

#[test]
fn what_a_policy_blocks_does_not_run_and_is_told() {
    let (room, documents) = (Room::new(), directory());
    let (one, other) = (room.program("one1"), room.program("other2"));
    let document = write(documents.path().join("policy.yaml"), &blocking(&room, "one"));
    let sensor = Sensor::start(sls_run(&document));
    assert!(is_blocked(&one) && !is_blocked(&other));
    let alert = wait_for("the alert", || sensor.alerts_now().into_iter().find(|alert| alert.policy() == "No one"));
    assert_eq!(alert.outcome()[..2], ["block", "successful"]);
    assert_eq!(alert.actions()[0]["message_fields"]["action_tier"], "fanotify");
    assert_eq!(alert.json["process_info"]["name"], one.to_str().unwrap());

    // What is held follows the policies.
    replace(&document, blocking(&room, "other"));
    sensor.wait_for_log("policies reloaded");
    wait_for("the new policy", || (is_blocked(&other) && !is_blocked(&one)).then_some(()));

    // The kernel lets go of a sensor that dies.
    signal(sensor.pid, Signal::KILL);
    wait_for("the end", || (!is_blocked(&other)).then_some(()));
}

#[test]
fn a_sensor_that_holds_keeps_the_capability_for_it() {
    const SYS_ADMIN: u64 = 1 << 21;
    let (room, documents) = (Room::new(), directory());
    let document = write(documents.path().join("policy.yaml"), &blocking(&room, "one"));
    let sensor = Sensor::start(sls_run(&document));
    let status = fs::read_to_string(format!("/proc/{}/status", sensor.pid)).unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    assert_ne!(u64::from_str_radix(effective, 16).unwrap() & SYS_ADMIN, 0);
    sensor.stop().assert_clean();
}

#[test]
fn in_another_pid_namespace_nothing_waits() {
    let (room, documents) = (Room::new(), directory());
    let one = room.program("one1");
    let document = write(documents.path().join("policy.yaml"), &blocking(&room, "one"));
    let unshare = ["--pid", "--fork", "--kill-child", env!("CARGO_BIN_EXE_sls"), "run", "--no-content", "--policy"];
    let mut command = in_clean_environment(Command::new("unshare"), &unshare);
    command.arg(document);
    let sensor = Sensor::start(command);
    assert!(!sensor.log().contains("holding operations"), "{}", sensor.log());
    let victim = Victim::spawn(&mut Command::new(&one));
    let pid = victim.pid();
    assert!(victim.reap().success());
    let alert = sensor.alert(pid);
    assert_eq!(alert.outcome()[..2], ["block", "not successful"], "{}", alert.text);
}

//! What the running sensor may still do.

// A test may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use rustix::thread::CapabilitySet;
use tempfile::TempDir;

use support::{Sensor, directory, policy, sls_run, wait_for, write};

#[test]
fn every_thread_has_only_what_the_sensor_needs() {
    let directory = directory();
    let sensor = Sensor::start(sls_run(&killing(&directory)));
    let mut may_keep = [
        CapabilitySet::BPF,
        CapabilitySet::PERFMON,
        CapabilitySet::NET_ADMIN,
        CapabilitySet::SYS_RESOURCE,
        CapabilitySet::SYS_PTRACE,
        CapabilitySet::KILL,
        CapabilitySet::CHOWN,
        CapabilitySet::DAC_OVERRIDE,
        CapabilitySet::FOWNER,
    ]
    .into_iter()
    .fold(CapabilitySet::empty(), |all, one| all | one);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    if !fs::exists("/sys/kernel/tracing/events").unwrap() || !mounts.contains(" - cgroup2 ") {
        // The probe has to mount them for itself.
        may_keep |= CapabilitySet::SYS_ADMIN;
    }
    // The last of them start after it watches.
    let threads = wait_for("all threads to start", || Some(threads(sensor.pid)).filter(|threads| threads.len() >= 5));
    for status in &threads {
        for set in ["CapEff", "CapPrm", "CapBnd"] {
            let held = CapabilitySet::from_bits_retain(u64::from_str_radix(&status[set], 16).unwrap());
            assert!(may_keep.contains(held), "{set}: {:?}", held - may_keep);
            assert!(held.contains(CapabilitySet::KILL) || !is_root_with_all(), "{set}: {held:?}");
        }
        assert_eq!((&*status["CapInh"], &*status["CapAmb"]), ("0000000000000000", "0000000000000000"));
        assert_eq!(status["NoNewPrivs"], "1");
    }
    sensor.stop().assert_clean();
}

#[test]
fn who_wants_to_keeps_all() {
    let directory = directory();
    let mut command = sls_run(&killing(&directory));
    command.arg("--keep-capabilities");
    let sensor = Sensor::start(command);
    let own = &status_of(PathBuf::from("/proc/self/status")).unwrap()["CapBnd"];
    for status in threads(sensor.pid) {
        assert_eq!(&status["CapBnd"], own);
        assert_eq!(&status["CapEff"], own);
    }
    sensor.stop().assert_clean();
}

fn threads(pid: u32) -> Vec<BTreeMap<String, String>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    // One that ends meanwhile has no file.
    tasks.filter_map(|task| status_of(task.unwrap().path().join("status"))).collect()
}

fn status_of(path: PathBuf) -> Option<BTreeMap<String, String>> {
    let status = fs::read_to_string(path).ok()?;
    let lines = status.lines().filter_map(|line| line.split_once(':'));
    Some(lines.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect())
}

fn is_root_with_all() -> bool {
    let held = rustix::thread::capabilities(None).unwrap();
    held.effective.contains(CapabilitySet::KILL)
}

/// A policy that would kill what nobody runs.
fn killing(directory: &TempDir) -> PathBuf {
    let text = policy("Killing", "programName == \"/nonexistent\"", "[kill, alert]");
    write(directory.path().join("policy.yaml"), &text)
}

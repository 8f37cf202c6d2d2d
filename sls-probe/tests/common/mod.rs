//! What the tests share. All of them watch real processes on the running kernel, and need root.
//!
//! # Tests that a kernel cannot pass
//!
//! The same tests run under many kernels (`.ci/lab/README.md`). What a kernel does not have is no failure, and no success
//! either: the test says so with [`not_offered`] and returns.
//!
//! ```ignore
//! #[test]
//! fn what_io_uring_opens_is_seen() {
//!     if !offers(HookFamily::Trampoline) {
//!         return;
//!     }
//!     let Some(ring) = io_uring() else {
//!         return not_offered("io_uring", "CONFIG_IO_URING, kernel.io_uring_disabled=0");
//!     };
//! ```
//!
//! The lab shows such a test with its reason, and fails if the kernel should have what the test misses: everything that a
//! kernel of the matrix does not offer is listed in `.ci/lab/not-offered`. So a test looks for what it needs itself
//! (is there the file, does the call answer `ENOSYS`?) and never asks for a version of the kernel. A test that can show
//! something, but not all, says so with [`without`] and goes on.
#![allow(dead_code, unused_imports, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../../.ci/lab/for_tests.rs"]
mod for_tests;

use std::collections::HashSet;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use sls_core::{Event, EventKind, EventSource, Field, ProcessKey, Value};
use sls_probe::{HookFamily, Probe, ProbeBuilder};

pub(crate) use for_tests::{emulated, not_offered, patience, without};

/// Names the part that a test binary plays when a test runs it as a child.
const ROLE: &str = "SLS_PROBE_TEST_ROLE";

/// A kernel module that fits the running kernel and that nothing uses, to be loaded and removed again.
pub(crate) fn spare_module() -> Option<PathBuf> {
    let module = std::env::var_os("SLS_LAB_MODULE").map(PathBuf::from);
    if module.is_none() {
        not_offered("module", "a spare module, $SLS_LAB_MODULE");
    }
    module
}

/// Whether the running kernel has hooks of `family`. Says that it does not if so.
pub(crate) fn offers(family: HookFamily) -> bool {
    let offered = family.works();
    if !offered {
        let option = match family {
            HookFamily::Trampoline => "CONFIG_FUNCTION_TRACER, CONFIG_BPF_JIT, BPF trampolines",
            HookFamily::Kprobe => "CONFIG_KPROBES, CONFIG_KPROBE_EVENTS",
            _ => "BPF tracepoints",
        };
        not_offered(family.name(), option);
    }
    offered
}

/// The family of hooks to test: the one that is named in the environment, else the best.
pub(crate) fn family() -> HookFamily {
    match std::env::var("SLS_PROBE_HOOKS") {
        Ok(name) => HookFamily::from_name(&name).unwrap_or_else(|| panic!("no hooks are called {name}")),
        Err(_) => HookFamily::detect(),
    }
}

/// A probe and everything that it said.
pub(crate) struct Watch {
    pub(crate) probe: Probe,
    pub(crate) events: Vec<Event>,
}

impl Watch {
    /// Live events only.
    pub(crate) fn start() -> Self {
        Self::with(Probe::builder().snapshot(false))
    }

    pub(crate) fn with(builder: ProbeBuilder) -> Self {
        let owner = fs::metadata("/proc/self").map(|meta| std::os::unix::fs::MetadataExt::uid(&meta));
        assert_eq!(owner.unwrap(), 0, "these tests load BPF programs: run them as root");
        let probe = builder.load().expect("load").attach().expect("attach");
        Self { probe, events: Vec::new() }
    }

    /// Polls until `done`, or panics.
    pub(crate) fn until(&mut self, what: &str, mut done: impl FnMut(&[Event]) -> bool) {
        let deadline = Instant::now() + patience();
        while !done(&self.events) {
            assert!(Instant::now() < deadline, "waited in vain for {what}; saw {} events", self.events.len());
            self.poll(Duration::from_millis(100));
        }
    }

    pub(crate) fn poll(&mut self, timeout: Duration) {
        let events = &mut self.events;
        self.probe.poll(timeout, &mut |event| events.push(event.clone())).expect("poll");
    }

    /// What was said about one process so far.
    pub(crate) fn of(&self, pid: u32) -> Vec<&Event> {
        self.events.iter().filter(|event| event.process.pid == pid).collect()
    }

    /// Runs `command` to its end and returns the last exec event of its process.
    pub(crate) fn exec_of(&mut self, command: &mut Command) -> Event {
        let mut child = command.spawn().expect("spawn");
        let pid = child.id();
        // Reaped at the end only: until then the pid is nobody else's.
        self.until("the end of the child", |events| has(events, pid, EventKind::Exit));
        assert!(child.wait().unwrap().success(), "{command:?} failed");
        self.last(pid, EventKind::Exec)
    }

    /// Starts `command` and waits for its exec.
    pub(crate) fn started(&mut self, command: &mut Command) -> (Running, Event) {
        let child = Running(command.spawn().expect("spawn"));
        let pid = child.0.id();
        self.until("the exec of the child", |events| has(events, pid, EventKind::Exec));
        (child, self.last(pid, EventKind::Exec))
    }

    pub(crate) fn last(&self, pid: u32, kind: EventKind) -> Event {
        let mut found = self.events.iter().rev().filter(|event| event.process.pid == pid && event.kind == kind);
        found.next().expect("an event of the kind").clone()
    }
}

pub(crate) fn has(events: &[Event], pid: u32, kind: EventKind) -> bool {
    events.iter().rev().any(|event| event.process.pid == pid && event.kind == kind)
}

/// A process and all that it and its own have made, as far as `events` tell.
pub(crate) fn descendants(events: &[Event], root: u32) -> HashSet<ProcessKey> {
    let mut family = HashSet::new();
    for event in events.iter().filter(|event| event.kind == EventKind::Fork) {
        let creator = if event.creator == ProcessKey::default() { event.parent } else { event.creator };
        if event.process.pid == root || family.contains(&creator) {
            family.insert(event.process);
        }
    }
    family
}

/// A child that does not survive its test.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// This test binary, in which the test `name` plays `role` instead of testing.
pub(crate) fn actor(name: &str, role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture", "--quiet"]).env(ROLE, role);
    command.stdout(std::process::Stdio::null());
    command
}

pub(crate) fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// Becomes `program`; a role ends with it.
pub(crate) fn become_program(program: impl AsRef<Path>) -> ! {
    let error = Command::new(program.as_ref()).exec();
    panic!("cannot execute {}: {error}", program.as_ref().display());
}

pub(crate) fn text(event: &Event, field: Field) -> String {
    match event.value(field) {
        Value::Text { bytes, truncated: false } => String::from_utf8_lossy(bytes).into_owned(),
        other => panic!("{field} is {other:?} in {event:?}"),
    }
}

/// A directory that everybody can enter, under its real name.
pub(crate) fn open_dir() -> (tempfile::TempDir, PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = dir.path().canonicalize().unwrap();
    (dir, path)
}

/// The field of `/proc/PID/stat` with this number, as proc(5) counts.
pub(crate) fn stat_field(pid: u32, number: usize) -> Option<String> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat).into_owned();
    let after = &stat[stat.rfind(')')? + 2..];
    Some(after.split(' ').nth(number - 3)?.trim().to_owned())
}

pub(crate) fn start_ticks(pid: u32) -> Option<u64> {
    stat_field(pid, 22)?.parse().ok()
}

/// The same unit as [`start_ticks`].
pub(crate) fn ticks(event_start: u64) -> u64 {
    event_start / 10_000_000
}

/// Whether stat(2) gives the device of the file system itself. On overlayfs it is that of the layer below, and on
/// Btrfs each subvolume has its own.
pub(crate) fn device_is_plain(path: impl AsRef<Path>) -> bool {
    let kind = nix::sys::statfs::statfs(path.as_ref()).unwrap().filesystem_type();
    kind != nix::sys::statfs::OVERLAYFS_SUPER_MAGIC && kind != nix::sys::statfs::BTRFS_SUPER_MAGIC
}

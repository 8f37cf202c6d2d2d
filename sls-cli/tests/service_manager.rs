//! What a service manager hears of the sensor, through a socket as systemd gives one.

// A test may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use rustix::process::Signal;
use tempfile::TempDir;

use support::{Sensor, alerting, directory, patience, replace, signal, sls_run, text, text_against};

/// The place of systemd.
struct Manager {
    socket: UnixDatagram,
    directory: TempDir,
}

impl Manager {
    fn new() -> Self {
        let directory = directory();
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        Self { socket, directory }
    }

    /// The command as a service of this manager.
    fn with(&self, mut command: Command) -> Command {
        command.env("NOTIFY_SOCKET", self.directory.path().join("notify"));
        command
    }

    /// The next message, if one comes within that time.
    fn hear(&self, within: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(within)).unwrap();
        let mut message = [0; 4096];
        let length = self.socket.recv(&mut message).ok()?;
        Some(text(&message[..length]).to_owned())
    }

    /// The next one that is no sign of life.
    fn next(&self) -> String {
        let start = Instant::now();
        loop {
            assert!(start.elapsed() < patience(), "nothing but signs of life");
            match self.hear(patience()).expect("the sensor says nothing") {
                sign if sign.starts_with("WATCHDOG=1\n") => {}
                other => return other,
            }
        }
    }
}

fn value<'m>(message: &'m str, key: &str) -> &'m str {
    let found = message.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no {key} in {message:?}"))
}

#[test]
fn it_hears_of_start_reload_and_stop_in_order() {
    let manager = Manager::new();
    let file = alerting("P", &manager.directory, Path::new("/nowhere"));
    let sensor = Sensor::start(manager.with(sls_run(&file)));
    let ready = manager.next();
    assert!(ready.starts_with("READY=1\n"), "{ready:?}");
    assert!(value(&ready, "STATUS").starts_with("watching for 1 policies; "), "{ready:?}");
    let before = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let reloaded = || {
        let reloading = manager.next();
        assert!(reloading.starts_with("RELOADING=1\n"), "{reloading:?}");
        let since: i64 = value(&reloading, "MONOTONIC_USEC").parse().unwrap();
        assert!(since >= before.tv_sec * 1_000_000 + before.tv_nsec / 1000, "it began before it was asked for");
        let done = manager.next();
        assert!(done.starts_with("READY=1\n"), "{done:?}");
        done
    };
    signal(sensor.pid, Signal::HUP);
    assert!(value(&reloaded(), "STATUS").starts_with("watching for 1 policies; "));
    // A manager must not wait for a reload that fails.
    replace(&file, text_against("P", Path::new("/nowhere")).replace("programName", "programname"));
    signal(sensor.pid, Signal::HUP);
    let failed = reloaded();
    assert_eq!(value(&failed, "STATUS"), "the policies are invalid: those loaded before stay in force");
    sensor.stop().assert_clean();
    let stopping = manager.next();
    assert!(stopping.starts_with("STOPPING=1\n"), "{stopping:?}");
    assert_eq!(manager.hear(Duration::from_millis(100)), None);
}

#[test]
fn it_hears_nothing_before_policies_are_in_force() {
    let manager = Manager::new();
    let file = alerting("P", &manager.directory, Path::new("/nowhere"));
    replace(&file, "P: {policy: none}\n");
    let refused = support::run(manager.with(sls_run(&file)));
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert_eq!(manager.hear(Duration::from_millis(100)), None);
}

/// One thread is held as a debugger does it, and all others go on.
#[test]
fn signs_of_life_are_of_the_loop_of_events_alone() {
    const INTERVAL: Duration = Duration::from_secs(1);
    let manager = Manager::new();
    let file = alerting("P", &manager.directory, Path::new("/nowhere"));
    let mut command = manager.with(sls_run(&file));
    command.env("WATCHDOG_USEC", INTERVAL.as_micros().to_string());
    let sensor = Sensor::start(command);
    let alive = || {
        let sign = manager.hear(patience()).expect("no sign of life");
        assert!(sign.starts_with("WATCHDOG=1\n"), "{sign:?}");
        assert!(value(&sign, "STATUS").starts_with("watching"), "{sign:?}");
    };
    assert!(manager.hear(patience()).unwrap().starts_with("READY=1\n"));
    (0..3).for_each(|_| alive());

    let main = Pid::from_raw(sensor.pid.try_into().unwrap());
    ptrace::seize(main, ptrace::Options::empty()).unwrap();
    ptrace::interrupt(main).unwrap();
    waitpid(main, None).unwrap();
    while manager.hear(Duration::from_millis(1)).is_some() {}
    // Another thread loads policies, up to where they are handed over: it runs. But nobody stands in for the loop. The
    // signal has to find a thread that is not held.
    signal(sensor.pid, Signal::HUP);
    let heard = manager.hear(3 * INTERVAL).expect("the thread that reloads does not run");
    assert!(heard.starts_with("RELOADING=1\n"), "{heard:?}");
    assert_eq!(manager.hear(3 * INTERVAL), None, "a sensor that hangs says that it does not");

    ptrace::detach(main, None).unwrap();
    assert!(manager.next().starts_with("READY=1\n"));
    alive();
    sensor.stop().assert_clean();
}

/// A watchdog that another process was given is not this one's.
#[test]
fn a_watchdog_of_someone_else_is_left_alone() {
    let manager = Manager::new();
    let file = alerting("P", &manager.directory, Path::new("/nowhere"));
    let mut command = manager.with(sls_run(&file));
    command.env("WATCHDOG_USEC", "200000").env("WATCHDOG_PID", "1");
    let sensor = Sensor::start(command);
    assert!(manager.hear(patience()).unwrap().starts_with("READY=1\n"));
    assert_eq!(manager.hear(Duration::from_secs(1)), None);
    sensor.stop().assert_clean();
}

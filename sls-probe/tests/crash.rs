//! Crashes of real programs. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::process::Command;

use sls_core::{Event, EventKind, Field, Interest};
use sls_probe::Probe;

use common::{Watch, has, text};

fn watch(exits: bool) -> Watch {
    let mut interest = Interest::default();
    interest.add_kind(EventKind::Crash);
    Watch::with(Probe::builder().snapshot(false).exit(exits).interest(interest))
}

/// A shell that ends by `signal`, and dumps no core.
fn ends_by(signal: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -c 0; kill -{signal} $$")]);
    command
}

fn run(command: &mut Command) -> u32 {
    let mut child = command.spawn().unwrap();
    let pid = child.id();
    child.wait().unwrap();
    pid
}

#[test]
fn each_signal_of_a_crash_gives_one_event_before_the_exit() {
    let mut watch = watch(true);
    for signal in ["SEGV", "ABRT", "ILL", "BUS", "FPE"] {
        let pid = run(&mut ends_by(signal));
        watch.until("the exit", |events| has(events, pid, EventKind::Exit));
        let kinds: Vec<EventKind> = watch.of(pid).iter().map(|event| event.kind).collect();
        assert_eq!(kinds, [EventKind::Fork, EventKind::Exec, EventKind::Crash, EventKind::Exit], "{signal}");
        let crash = watch.last(pid, EventKind::Crash);
        assert_eq!(text(&crash, Field::CrashSignal), format!("SIG{signal}"));
        assert_eq!(text(&crash, Field::ProcessName), "sh");
        assert_eq!(text(&crash, Field::UserName), "root");
        let exit = watch.last(pid, EventKind::Exit);
        assert_eq!((crash.process, crash.time, crash.exit_status), (exit.process, exit.time, None));
        assert!(exit.exit_status.is_some() && exit.text(Field::CrashSignal).is_empty());
    }
}

#[test]
fn ends_that_are_no_crash_give_none() {
    let mut watch = watch(true);
    let statuses =
        ["kill -KILL $$", "kill -TERM $$", "exit 139", "exit 11", "sh -c 'ulimit -c 0; kill -SEGV $$' || exit 0"];
    let pids = statuses.map(|script| run(Command::new("sh").args(["-c", script])));
    watch.until("the exits", |events| pids.iter().all(|pid| has(events, *pid, EventKind::Exit)));
    let crashes: Vec<&Event> = watch.events.iter().filter(|event| event.kind == EventKind::Crash).collect();
    assert!(crashes.iter().all(|crash| !pids.contains(&crash.process.pid)), "{crashes:?}");
}

#[test]
fn crashes_come_without_exits_and_only_those_that_are_wanted() {
    let yaml = "A:\n  policy: segfault\n  rules:\n    - match crashSignal == \"SIGBUS\"\n    - default ignore\n";
    let interest = sls_core::PolicySet::from_yaml("policy.yaml", yaml).unwrap().interest();
    let mut watch = Watch::with(Probe::builder().snapshot(false).exit(false).interest(interest));
    let other = run(&mut ends_by("ABRT"));
    let wanted = run(&mut ends_by("BUS"));
    watch.until("the crash", |events| has(events, wanted, EventKind::Crash));
    assert!(!has(&watch.events, other, EventKind::Crash));
    assert!(!watch.events.iter().any(|event| event.kind == EventKind::Exit));
}

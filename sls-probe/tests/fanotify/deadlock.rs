//! The sensor does not wait for itself: not for what it opens and executes, not for what its children do.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use sls_core::Event;
use sls_probe::{
    DEFAULT_DECISION_DEADLINE, Decider, FailMode, Fanotify, FanotifyWatch, HeldOperation, Screening, Verdict,
    WatchScope,
};

use crate::common::{emulated, patience};
use crate::support::{BLOCKED, FINE, Launcher, Room, ask_soon, deny_if, offered, patient};

fn everything(room: &Room) -> [FanotifyWatch; 1] {
    let mut watch = FanotifyWatch::open(WatchScope::Under(room.path()));
    watch.exec = true;
    [watch]
}

/// Waits until the keeper has read for the reader so often.
fn takes_over(fanotify: &Fanotify, times: u64) {
    let deadline = Instant::now() + patience();
    while fanotify.stats().takeovers < times {
        assert!(Instant::now() < deadline, "{:?}", fanotify.stats());
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn own_files_and_children_are_never_held() {
    if !offered() {
        return;
    }
    let room = Room::new();
    let program = room.program("busybox");
    // The store and the outputs of a sensor are such files.
    let store = room.join("store");
    fs::create_dir(&store).unwrap();
    let fanotify = patient().start(deny_if(|_| true)).unwrap();
    fanotify.watch(&everything(&room));
    for number in 0..100 {
        let path = store.join(number.to_string());
        fs::write(&path, "kept").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "kept");
        fs::rename(&path, store.join("moved")).unwrap();
        fs::remove_file(store.join("moved")).unwrap();
    }
    // A child, what the child starts, and what that opens.
    let script =
        format!("{0} cat {0} > {1}; {0} sh -c '{0} true && {0} true'", program.display(), room.join("copy").display());
    assert!(Command::new(&program).args(["sh", "-c", &script]).status().unwrap().success());
    assert!(room.join("copy").exists());
    let stats = fanotify.stats();
    assert_eq!((stats.denied, stats.late), (0, 0), "{stats:?}");
    assert!(stats.own >= 205, "{stats:?}");
    // Others are.
    assert_eq!(Launcher::start().run(&program, &["true"]), BLOCKED);
}

/// A child that was executed is waited for by the thread that starts it. So the verdict must not need that thread.
#[test]
fn the_thread_that_decides_may_start_programs() {
    if !offered() {
        return;
    }
    struct Starts(PathBuf);
    impl Decider for Starts {
        fn screen(&mut self, _: &Event) -> Screening {
            ask_soon(FailMode::Open)
        }

        fn decide(&mut self, held: HeldOperation) {
            // As a helper of a container runtime would be, on the very thread that reads what the kernel asks.
            let started = Command::new(&self.0).arg("true").status().is_ok_and(|status| status.success());
            held.answer(if started { Verdict::Allow } else { Verdict::Deny });
        }
    }
    let (room, launcher) = (Room::new(), Launcher::start());
    let (program, helper) = (room.program("true"), room.program("busybox"));
    let fanotify = Fanotify::builder().fail_mode(FailMode::Closed).start(Starts(helper)).unwrap();
    fanotify.watch(&room.watch());
    let started = Instant::now();
    let ran = launcher.run(&program, &[]);
    let took = started.elapsed();
    // The keeper answers for the reader once the deadline is over.
    assert!(took >= DEFAULT_DECISION_DEADLINE && (emulated() || took < Duration::from_secs(5)), "{took:?}");
    // By the mode that it was given, or by the verdict, if the helper was that quick as soon as the keeper let it go.
    assert_eq!(ran, FINE, "{:?}", fanotify.stats());
    takes_over(&fanotify, 1);
    assert!(fanotify.is_running());
}

/// What a decider opens on the thread that reads is a question that nobody reads, until the keeper does.
#[test]
fn a_decider_that_opens_files_delays_only_itself() {
    if !offered() {
        return;
    }
    struct Opens(PathBuf);
    impl Decider for Opens {
        fn screen(&mut self, _: &Event) -> Screening {
            ask_soon(FailMode::Closed)
        }

        fn decide(&mut self, held: HeldOperation) {
            let _ = fs::read(&self.0);
            held.answer(Verdict::Allow);
        }
    }
    let (room, launcher) = (Room::new(), Launcher::start());
    let (program, file) = (room.program("true"), room.script("file", "text"));
    let fanotify = Fanotify::builder().start(Opens(file)).unwrap();
    fanotify.watch(&everything(&room));
    for _ in 0..3 {
        let started = Instant::now();
        // Whether the keeper was first to answer this or the other question.
        assert!([FINE, BLOCKED].contains(&launcher.run(&program, &[])));
        assert!(started.elapsed() >= DEFAULT_DECISION_DEADLINE);
        assert!(emulated() || started.elapsed() < Duration::from_secs(5));
    }
    takes_over(&fanotify, 3);
    assert!(fanotify.is_running());
}

#[test]
fn own_executable_and_libraries_may_be_watched() {
    if !offered() {
        return;
    }
    let own = std::env::current_exe().unwrap();
    let fanotify = patient().start(deny_if(|_| true)).unwrap();
    let mut watch = FanotifyWatch::exec(WatchScope::File(own.clone()));
    watch.open = true;
    fanotify.watch(&[watch]);
    assert!(!fs::read(&own).unwrap().is_empty());
    assert!(Command::new(&own).arg("--list").output().unwrap().status.success());
    assert!(fanotify.stats().own > 0);
}

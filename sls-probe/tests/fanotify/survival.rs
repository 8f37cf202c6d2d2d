//! What becomes of those that wait when the sensor dies.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use sls_core::Event;
use sls_probe::{Decider, FailMode, FanotifyWatch, HeldOperation, Screening, WatchScope};

use crate::common::{emulated, patience};
use crate::support::{FINE, Killed, Launcher, Room, ask, offered, part, patient};

/// Executions that wait when the sensor is killed.
const WAITING: usize = 100;

/// Keeps everything.
struct Keep(Sender<HeldOperation>);

impl Decider for Keep {
    fn screen(&mut self, _: &Event) -> Screening {
        // Not even then does anybody stay refused.
        ask(FailMode::Closed)
    }

    fn decide(&mut self, held: HeldOperation) {
        let _ = self.0.send(held);
        let mut out = std::io::stdout();
        let _ = writeln!(out, "held").and_then(|()| out.flush());
    }
}

/// A sensor that answers nothing, in a process of its own.
pub(crate) fn hold(directory: &str) -> ! {
    let (send, held) = channel();
    let fanotify = patient().held_limit(WAITING).start(Keep(send)).unwrap();
    fanotify.watch(&[FanotifyWatch::exec(WatchScope::Under(PathBuf::from(directory)))]);
    let mut out = std::io::stdout();
    writeln!(out, "\nwatching").and_then(|()| out.flush()).unwrap();
    let kept: Vec<HeldOperation> = held.iter().collect();
    std::process::exit(kept.len() as i32);
}

#[test]
fn killing_the_sensor_leaves_nobody_stuck() {
    if !offered() {
        return;
    }
    let room = Room::new();
    let program = room.program("true");
    let mut command = part(&format!("hold {}", room.path().display()));
    let mut sensor = Killed(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut said = BufReader::new(sensor.0.stdout.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap() == "watching"));
    // No descendants of the sensor, but of this test. Each is asked for by a thread, which waits for its execution.
    let runs: Vec<_> = (0..WAITING)
        .map(|_| {
            let program = program.clone();
            std::thread::spawn(move || Command::new(program).status())
        })
        .collect();
    assert_eq!(
        said.by_ref().take(WAITING).filter(|line| line.as_ref().is_ok_and(|line| line == "held")).count(),
        WAITING
    );
    assert!(runs.iter().all(|run| !run.is_finished()), "they wait");

    let killed = Instant::now();
    sensor.0.kill().unwrap();
    let deadline = Instant::now() + patience();
    while runs.iter().any(|run| !run.is_finished()) {
        assert!(Instant::now() < deadline, "somebody is stuck");
        std::thread::sleep(Duration::from_millis(1));
    }
    let took = killed.elapsed();
    assert!(emulated() || took < Duration::from_secs(5), "{took:?}");
    // The kernel has let all of them go on.
    for run in runs {
        assert!(run.join().unwrap().unwrap().success());
    }
}

#[test]
fn ending_the_sensor_leaves_nobody_stuck() {
    if !offered() {
        return;
    }
    let (room, launcher) = (Room::new(), Launcher::start());
    let program = room.program("true");
    let (send, held) = channel();
    struct Send(Sender<HeldOperation>);
    impl Decider for Send {
        fn screen(&mut self, _: &Event) -> Screening {
            ask(FailMode::Open)
        }

        fn decide(&mut self, held: HeldOperation) {
            let _ = self.0.send(held);
        }
    }
    let fanotify = patient().start(Send(send)).unwrap();
    fanotify.watch(&room.watch());
    std::thread::scope(|scope| {
        let run = scope.spawn(|| launcher.run(&program, &[]));
        let kept: HeldOperation = held.recv().unwrap();
        drop(fanotify);
        assert_eq!(run.join().unwrap(), FINE);
        // What is answered afterwards hurts nobody.
        assert_eq!(kept.answer(sls_probe::Verdict::Deny), sls_probe::Answered::TooLate);
    });
}

#[test]
fn a_decider_that_panics_holds_nobody_up() {
    if !offered() {
        return;
    }
    struct Panics;
    impl Decider for Panics {
        fn decide(&mut self, _: HeldOperation) {
            // Quietly: a message would be taken for a failure.
            std::panic::resume_unwind(Box::new("a decider's mistake"));
        }
    }
    let (room, launcher) = (Room::new(), Launcher::start());
    let program = room.program("true");
    let fanotify = patient().start(Panics).unwrap();
    fanotify.watch(&room.watch());
    assert_eq!(launcher.run(&program, &[]), FINE);
    let deadline = Instant::now() + patience();
    while fanotify.is_running() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(launcher.run(&program, &[]), FINE);
}

//! What is blocked does not run; what is told of it is right.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use sls_core::{Event, EventKind, Field, Value};
use sls_probe::{Decider, FailMode, Fanotify, FanotifyWatch, HeldOperation, Screening, Verdict, WatchScope};

use crate::common::{emulated, text};
use crate::support::{BLOCKED, FINE, Launcher, Room, Rule, ask, ask_soon, deny_if, offered, patient};

/// Runs of a program that is blocked.
const RUNS: usize = 10_000;

fn named(event: &Event, end: &str) -> bool {
    event.text(Field::ProgramName).ends_with(end.as_bytes())
}

#[test]
fn blocked_program_never_runs() {
    if !offered() {
        return;
    }
    let (room, launcher) = (Room::new(), Launcher::start());
    // It would leave a file behind.
    let (program, trace) = (room.program("touch"), room.join("trace"));
    let arguments = [trace.to_str().unwrap()];
    let fanotify = patient().start(deny_if(|event| named(event, "/touch"))).unwrap();
    fanotify.watch(&room.watch());
    let runs = if emulated() { RUNS / 50 } else { RUNS };
    assert_eq!(launcher.run_often(runs, &program, &arguments), runs);
    assert!(!trace.exists());
    let stats = fanotify.stats();
    assert_eq!((stats.denied, stats.late, stats.overflowed, stats.unreadable), (runs as u64, 0, 0, 0), "{stats:?}");
    // The same program leaves its trace when nobody looks.
    fanotify.watch(&[]);
    assert_eq!(launcher.run(&program, &arguments), FINE);
    assert!(trace.exists());
    assert_eq!(fanotify.stats().questions, stats.questions);
}

#[test]
fn what_is_not_objected_to_runs() {
    if !offered() {
        return;
    }
    let (room, launcher) = (Room::new(), Launcher::start());
    let (allowed, denied) = (room.program("true"), room.program("sub/false"));
    let fanotify = patient().start(deny_if(|event| named(event, "/sub/false"))).unwrap();
    fanotify.watch(&room.watch());
    assert_eq!(launcher.run(&allowed, &[]), FINE);
    assert_eq!(launcher.run(&denied, &[]), BLOCKED);
    // What the policies do not look at is not asked about.
    let questions = fanotify.stats().questions;
    assert_eq!(launcher.run("/bin/true", &[]), FINE);
    assert_eq!(fanotify.stats().questions, questions);
    drop(fanotify);
    assert_eq!(launcher.run(&denied, &[]), crate::support::Ran::Exited(1));
}

#[test]
fn event_tells_who_executes_what() {
    if !offered() {
        return;
    }
    let (room, launcher) = (Room::new(), Launcher::start());
    let program = room.program("true");
    let (send, events) = channel();
    let reporter = Rule(move |event: &Event| {
        send.send(event.clone()).unwrap();
        Verdict::Allow
    });
    let fanotify = patient().start(reporter).unwrap();
    fanotify.watch(&room.watch());
    let script = format!("cd {}; ./true & echo $! > pid; wait", room.path().display());
    assert_eq!(launcher.shell(&script), FINE);
    let event = events.recv().unwrap();
    let pid: u32 = fs::read_to_string(room.join("pid")).unwrap().trim().parse().unwrap();
    assert_eq!((event.kind, event.process.pid), (EventKind::Exec, pid));
    assert_eq!(text(&event, Field::ProgramName), program.to_str().unwrap());
    assert_eq!(text(&event, Field::ProgramDirectory), room.path().to_str().unwrap());
    let meta = fs::metadata(&program).unwrap();
    assert_eq!(event.number(Field::ProgramInode), Some(meta.ino()));
    assert_eq!(event.number(Field::ProgramDevice), Some(meta.dev()));
    assert_eq!(event.value(Field::ProgramIsMemfd), Value::Bool(false));
    for field in [Field::Uid, Field::Gid, Field::Euid, Field::Egid] {
        assert_eq!(event.number(field), Some(0), "{field}");
    }
    assert!(event.parent.pid > 1 && event.mount_namespace.is_some() && event.pid_namespace.is_some());
    assert!(event.cgroup_id.is_some());
    if fanotify.reports_pidfd() && nix::sys::utsname::uname().unwrap().release().to_str().unwrap() >= "6.9" {
        assert!(event.pidfd_inode.is_some());
    }
    for field in [Field::ProgramArguments, Field::InvokedName, Field::ProcessName, Field::StandardInput] {
        assert_eq!(event.value(field), Value::Unknown, "{field}");
    }

    // Whose ids the program takes is not known before it has them.
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
    assert_eq!(launcher.run(&program, &[]), FINE);
    let event = events.recv().unwrap();
    assert_eq!((event.value(Field::Euid), event.number(Field::Uid)), (Value::Unknown, Some(0)));
}

#[test]
fn script_and_its_interpreter_are_told_apart() {
    if !offered() {
        return;
    }
    let (room, launcher) = (Room::new(), Launcher::start());
    let shell = room.program("sh");
    let script = room.script("script", &format!("#!{}\nexit 0\n", shell.display()));
    let (send, events) = channel();
    let reporter = Rule(move |event: &Event| {
        send.send(event.clone()).unwrap();
        Verdict::Allow
    });
    let fanotify = patient().start(reporter).unwrap();
    fanotify.watch(&room.watch());
    assert_eq!(launcher.run(&script, &[]), FINE);
    let (first, second) = (events.recv().unwrap(), events.recv().unwrap());
    assert_eq!(text(&first, Field::ScriptName), script.to_str().unwrap());
    assert_eq!(first.value(Field::ProgramName), Value::Unknown);
    assert_eq!(text(&second, Field::ScriptName), script.to_str().unwrap());
    assert_eq!(text(&second, Field::ProgramName), shell.to_str().unwrap());
    // The next execution of the shell is not the script's.
    assert_eq!(launcher.run(&shell, &["-c", "exit 0"]), FINE);
    assert_eq!(events.recv().unwrap().value(Field::ScriptName), Value::Unknown);
}

#[test]
fn what_loads_a_program_is_a_part_of_it() {
    if !offered() {
        return;
    }
    let (room, launcher) = (Room::new(), Launcher::start());
    // A program whose loader is watched, too.
    let loader = room.join("ld-own.so");
    let program = room.linked_program("true");
    let mut bytes = fs::read(&program).unwrap();
    let name = b"/lib64/ld-linux-x86-64.so.2\0";
    let Some(at) = bytes.windows(name.len()).position(|part| part == name) else {
        return crate::common::not_offered("ld-linux-x86-64", "x86-64");
    };
    fs::copy("/lib64/ld-linux-x86-64.so.2", &loader).unwrap();
    let link = std::path::PathBuf::from(format!("/tmp/.sls{}", std::process::id()));
    std::os::unix::fs::symlink(&loader, &link).unwrap();
    let own = link.as_os_str().as_encoded_bytes();
    bytes[at..at + name.len()].fill(0);
    bytes[at..at + own.len()].copy_from_slice(own);
    fs::write(&program, bytes).unwrap();

    // Only the program may run.
    let fanotify = patient().start(deny_if(|event| !named(event, "/true"))).unwrap();
    fanotify.watch(&room.watch());
    let ran = launcher.run(&program, &[]);
    let alone = launcher.run(&loader, &["--version"]);
    fs::remove_file(&link).unwrap();
    assert_eq!(ran, FINE);
    assert_eq!(fanotify.stats().questions, 3);
    assert_eq!(alone, BLOCKED);
}

/// Sends what it gets elsewhere.
struct Elsewhere(std::sync::mpsc::Sender<HeldOperation>, Screening);

impl Decider for Elsewhere {
    fn screen(&mut self, _: &Event) -> Screening {
        self.1
    }

    fn decide(&mut self, held: HeldOperation) {
        let _ = self.0.send(held);
    }
}

#[test]
fn verdict_may_come_from_another_thread() {
    if !offered() {
        return;
    }
    let (room, launcher) = (Room::new(), Launcher::start());
    let program = room.program("true");
    let (send, held) = channel::<HeldOperation>();
    let fanotify = patient().start(Elsewhere(send, ask(FailMode::Open))).unwrap();
    fanotify.watch(&room.watch());
    let verdicts = std::thread::spawn(move || {
        for verdict in [Verdict::Deny, Verdict::Allow] {
            let held = held.recv().unwrap();
            assert_eq!(held.answer(verdict), sls_probe::Answered::InTime);
        }
        // Dropped, it goes by its mode.
        drop(held.recv().unwrap());
    });
    assert_eq!(launcher.run(&program, &[]), BLOCKED);
    assert_eq!(launcher.run(&program, &[]), FINE);
    assert_eq!(launcher.run(&program, &[]), FINE);
    verdicts.join().unwrap();
}

#[test]
fn nobody_waits_longer_than_the_deadline() {
    if !offered() {
        return;
    }
    for (mode, expected) in [(FailMode::Open, FINE), (FailMode::Closed, BLOCKED)] {
        let (room, launcher) = (Room::new(), Launcher::start());
        let program = room.program("true");
        let (send, held) = channel::<HeldOperation>();
        let fanotify = Fanotify::builder().start(Elsewhere(send, ask_soon(mode))).unwrap();
        fanotify.watch(&room.watch());
        let started = Instant::now();
        assert_eq!(launcher.run(&program, &[]), expected);
        let took = started.elapsed();
        assert!(took >= sls_probe::DEFAULT_DECISION_DEADLINE, "{took:?}");
        assert!(emulated() || took < Duration::from_secs(2), "{took:?}");
        assert_eq!(fanotify.stats().late, 1);
        assert_eq!(held.recv().unwrap().answer(Verdict::Deny), sls_probe::Answered::TooLate);
        // Its place is free again.
        assert_eq!(fanotify.stats().held, 0);
    }
}

#[test]
fn what_finds_no_room_goes_by_the_mode_of_the_whole() {
    if !offered() {
        return;
    }
    let (room, launcher, other) = (Room::new(), Launcher::start(), Launcher::start());
    let program = room.program("true");
    let (send, held) = channel::<HeldOperation>();
    let fanotify =
        patient().held_limit(1).fail_mode(FailMode::Closed).start(Elsewhere(send, ask(FailMode::Open))).unwrap();
    fanotify.watch(&room.watch());
    std::thread::scope(|scope| {
        let first = scope.spawn(|| launcher.run(&program, &[]));
        let first_held = held.recv().unwrap();
        assert_eq!(other.run(&program, &[]), BLOCKED);
        assert_eq!(fanotify.stats().overflowed, 1);
        first_held.answer(Verdict::Allow);
        assert_eq!(first.join().unwrap(), FINE);
    });
}

#[test]
fn process_can_be_killed_while_it_waits() {
    if !offered() {
        return;
    }
    let (room, launcher) = (Room::new(), Launcher::start());
    let program = room.program("true");
    let (send, held) = channel::<HeldOperation>();
    let fanotify = patient().start(Elsewhere(send, ask(FailMode::Open))).unwrap();
    fanotify.watch(&room.watch());
    std::thread::scope(|scope| {
        let script = format!("{} & wait $!", program.display());
        let run = scope.spawn({
            let launcher = &launcher;
            move || launcher.shell(&script)
        });
        let held = held.recv().unwrap();
        let pid = rustix::process::Pid::from_raw(held.event().process.pid as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        // The shell tells of the signal.
        assert_eq!(run.join().unwrap(), crate::support::Ran::Exited(128 + 9));
        drop(held);
        assert_eq!(fanotify.stats().held, 0);
    });
}

#[test]
fn openings_are_held_and_their_purpose_told() {
    if !offered() {
        return;
    }
    let (room, launcher) = (Room::new(), Launcher::start());
    let file = room.script("file", "old\n");
    let fanotify = patient()
        .start(deny_if(|event| event.kind == EventKind::File && event.text(Field::FileOperation) == b"OPEN_WRITE"))
        .unwrap();
    fanotify.watch(&[FanotifyWatch::open(WatchScope::Under(room.path()))]);
    assert_eq!(launcher.run("/bin/cat", &[file.to_str().unwrap()]), FINE);
    assert_eq!(launcher.shell(&format!("echo new > {}", file.display())), crate::support::Ran::Exited(2));
    assert_eq!(launcher.shell(&format!("echo new >> {}", file.display())), crate::support::Ran::Exited(2));
    assert_eq!(fs::read_to_string(&file).unwrap(), "old\n");
}

#[test]
fn settings_have_limits() {
    if !offered() {
        return;
    }
    let deny = || deny_if(|_| true);
    for settings in [
        Fanotify::builder().deadline(Duration::ZERO),
        Fanotify::builder().deadline(Duration::from_secs(11)),
        Fanotify::builder().held_limit(0),
    ] {
        let error = settings.start(deny()).unwrap_err();
        assert!(error.to_string().contains("is not possible"), "{error}");
    }
}

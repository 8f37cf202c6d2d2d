//! Kill and stop on real processes. These tests need the host's PID namespace, but no privilege.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sls_actions::{CLOCK_TICK_NS, ProcessResponder, process_key, process_start};
use sls_core::{Action, ActionResult, Execution, ProcessKey, Target, Tier};
use support::{
    Child, Signal, Status, execute, exit_thread, granted, hang_uninterruptibly, has_inode, outlive_parent, patience,
    responder, rounds, said, sleep_forever, start, this_thread, thread_states, wait_until, without, without_inode,
};

const REUSED: &str = "now belongs to another process";

#[test]
fn kills_a_process_by_either_identity() {
    for identity in [|target| target, without_inode] {
        let child = Child::sleeping();
        let before = realtime();
        let outcome = execute(Action::Kill, identity(child.target()));
        assert_eq!(said(&outcome), ("successful", ""));
        assert_eq!(outcome.tier, Some(Tier::Process));
        assert!((before..=realtime()).contains(&outcome.time.unwrap()));
        assert_eq!(child.reap(), Status::Killed(libc::SIGKILL));
    }
}

#[test]
fn kill_leaves_children_alive() {
    let (question, answer) = (Signal::new(), Signal::new());
    let parent = Child::running(|| {
        std::mem::forget(Child::running(|| {
            outlive_parent();
            answer.send();
            question.receive();
            answer.send();
        }));
        sleep_forever();
    });
    answer.receive();
    assert_eq!(said(&execute(Action::Kill, parent.target())), ("successful", ""));
    assert_eq!(parent.reap(), Status::Killed(libc::SIGKILL));
    question.send();
    answer.receive();
    question.close();
    answer.close();
}

#[test]
fn success_is_said_only_after_the_death_was_seen() {
    let child = Child::sleeping();
    child.trace(libc::PTRACE_O_TRACEEXIT);
    let mut responder = responder();
    let execution = start(&mut responder, &granted(Action::Kill, child.target()));
    assert!(matches!(execution, Execution::Pending(_)), "{execution:?}");
    // It has been hit and is on its way out, where its tracer holds it.
    assert_eq!(child.wait_for_trace_event(), libc::PTRACE_EVENT_EXIT);

    let (send, receive) = mpsc::channel();
    let waiter = std::thread::spawn(move || send.send(execution.finish()).unwrap());
    assert!(receive.recv_timeout(Duration::from_millis(200)).is_err(), "said before the death");
    let let_go = realtime();
    child.trace_continue();
    let outcome = receive.recv_timeout(patience()).unwrap();
    assert_eq!(said(&outcome), ("successful", ""));
    assert!(outcome.time.unwrap() >= let_go);
    waiter.join().unwrap();
    assert_eq!(child.reap(), Status::Killed(libc::SIGKILL));
}

#[test]
fn a_death_that_is_not_seen_in_time_is_no_success() {
    let child = Child::sleeping();
    child.trace(libc::PTRACE_O_TRACEEXIT);
    let mut responder = ProcessResponder::builder().confirm_timeout(Duration::from_millis(100)).build().unwrap();
    let outcome = start(&mut responder, &granted(Action::Kill, child.target())).finish();
    assert_eq!(said(&outcome), ("not successful", "the process did not end within 100ms"));
    assert_eq!(child.wait_for_trace_event(), libc::PTRACE_EVENT_EXIT);
    child.trace_continue();
    assert_eq!(child.reap(), Status::Killed(libc::SIGKILL));
}

#[test]
fn a_process_whose_first_thread_has_ended_is_killed_whole() {
    let child = Child::running(|| {
        std::thread::spawn(|| sleep_forever());
        exit_thread();
    });
    wait_until("the first thread has ended", || {
        let states = thread_states(child.pid);
        states.len() == 2 && states.contains('Z')
    });
    assert_eq!(said(&execute(Action::Stop, child.target())), ("successful", ""));
    assert_eq!(said(&execute(Action::Kill, child.target())), ("successful", ""));
    assert_eq!(child.reap(), Status::Killed(libc::SIGKILL));
}

#[test]
fn stops_every_thread_and_resumes() {
    const THREADS: usize = 8;
    let child = Child::running(|| {
        for _ in 1..THREADS {
            std::thread::spawn(|| {
                loop {
                    std::hint::spin_loop();
                }
            });
        }
        sleep_forever();
    });
    wait_until("all threads run", || thread_states(child.pid).len() == THREADS);
    let outcome = execute(Action::Stop, child.target());
    assert_eq!(thread_states(child.pid), "T".repeat(THREADS));
    assert_eq!(said(&outcome), ("successful", ""));
    assert_eq!(outcome.tier, Some(Tier::Process));

    assert_eq!(responder().resume(&child.target()), ActionResult::Successful);
    assert!(!thread_states(child.pid).contains('T'));
    assert_eq!(thread_states(child.pid).len(), THREADS);
}

#[test]
fn stops_a_process_that_makes_threads_all_the_time() {
    fn breed() {
        loop {
            let _ = std::thread::spawn(|| {}).join();
        }
    }
    let child = Child::running(|| {
        std::thread::spawn(breed);
        std::thread::spawn(breed);
        breed();
    });
    wait_until("it makes threads", || thread_states(child.pid).len() >= 3);
    let target = child.target();
    for _ in 0..rounds(100) {
        assert_eq!(said(&execute(Action::Stop, target)), ("successful", ""));
        let states = thread_states(child.pid);
        assert!(states.chars().all(|state| matches!(state, 'T' | 'Z' | 'X')), "{states}");
        assert_eq!(responder().resume(&target), ActionResult::Successful);
    }
}

#[test]
fn a_stop_that_is_not_seen_in_time_is_no_success() {
    let child = Child::running(hang_uninterruptibly);
    wait_until("it hangs", || thread_states(child.pid) == "D");
    let mut responder = ProcessResponder::builder().confirm_timeout(Duration::from_millis(100)).build().unwrap();
    let outcome = start(&mut responder, &granted(Action::Stop, child.target())).finish();
    assert_eq!(said(&outcome), ("not successful", "not every thread of the process stopped within 100ms"));
    assert_eq!(thread_states(child.pid), "D");
    assert_eq!(said(&execute(Action::Kill, child.target())), ("successful", ""));
}

#[test]
fn a_tracer_can_swallow_a_stop_so_it_is_no_success() {
    let child = Child::sleeping();
    child.trace(0);
    let mut responder = ProcessResponder::builder().confirm_timeout(Duration::from_millis(100)).build().unwrap();
    let traced = format!("traced by pid {}", this_thread());
    let execution = start(&mut responder, &granted(Action::Stop, child.target()));
    wait_until("the signal has reached it", || thread_states(child.pid) == "t");
    assert_eq!(said(&execution.finish()), ("not successful", &*traced));
    // It goes on as if nothing had happened.
    child.wait_for_stop_signal();
    child.trace_continue();
    wait_until("it sleeps", || thread_states(child.pid) == "S");

    // The same while the confirmation is under way.
    let execution = start(&mut responder, &granted(Action::Stop, child.target()));
    child.wait_for_stop_signal();
    child.trace_continue();
    assert_eq!(said(&execution.finish()), ("not successful", &*traced));
    assert_eq!(thread_states(child.pid), "S");

    // A tracer that lets the signal pass and does not hold the stopped process is no hindrance.
    let execution = start(&mut responder, &granted(Action::Stop, child.target()));
    child.wait_for_stop_signal();
    child.trace_detach(libc::SIGSTOP);
    assert_eq!(said(&execution.finish()), ("successful", ""));
    assert_eq!(thread_states(child.pid), "T");
}

#[test]
fn a_process_that_is_gone_is_no_such_process() {
    let child = Child::sleeping();
    let target = child.target();
    child.signal(libc::SIGKILL);
    child.reap();
    for (action, target) in [(Action::Kill, target), (Action::Stop, target), (Action::Kill, without_inode(target))] {
        assert_eq!(said(&execute(action, target)), ("not successful", "no such process"));
    }
    assert_eq!(responder().resume(&target).details(), "no such process");
}

#[test]
fn a_process_that_is_dead_but_not_reaped_is_no_such_process() {
    let child = Child::sleeping();
    let target = child.target();
    child.signal(libc::SIGKILL);
    child.wait_until_zombie();
    for (action, target) in [(Action::Kill, target), (Action::Stop, target), (Action::Kill, without_inode(target))] {
        assert_eq!(said(&execute(action, target)), ("not successful", "no such process"));
    }
}

#[test]
fn a_thread_is_no_process() {
    let child = Child::running(|| {
        std::thread::spawn(|| sleep_forever());
        sleep_forever();
    });
    wait_until("it has two threads", || thread_states(child.pid).len() == 2);
    let tids = std::fs::read_dir(format!("/proc/{}/task", child.pid)).unwrap();
    let tid = tids
        .map(|task| task.unwrap().file_name().into_string().unwrap().parse().unwrap())
        .find(|tid| *tid != child.pid as u32)
        .unwrap();
    // kill(2) would take the number, and end the process that the thread belongs to.
    let target = Target::Process { key: process_key(tid).unwrap(), pidfd_inode: None };
    assert_eq!(said(&execute(Action::Kill, target)), ("not successful", "no such process"));
    assert!(child.is_untouched());
}

#[test]
fn another_identity_is_refused() {
    let child = Child::sleeping();
    let Target::Process { key, pidfd_inode } = child.target() else { panic!("not a process") };
    let mut others = vec![
        Target::Process { key: ProcessKey { start: key.start - CLOCK_TICK_NS, ..key }, pidfd_inode: None },
        Target::Process { key: ProcessKey { start: key.start + CLOCK_TICK_NS, ..key }, pidfd_inode: None },
        Target::Process { key: ProcessKey { start: 0, ..key }, pidfd_inode: None },
    ];
    if has_inode(child.target()) {
        others.push(Target::Process { key, pidfd_inode: pidfd_inode.map(|inode| inode + 1) });
    } else {
        without("pidfs", "another process with the same start time");
    }
    for other in others {
        for action in [Action::Kill, Action::Stop] {
            let outcome = execute(action, other);
            assert_eq!(outcome.result.name(), "refused");
            assert_eq!(outcome.result.details(), format!("process-identity: pid {} {REUSED}", child.pid));
            assert_eq!(outcome.tier, None);
        }
        assert_eq!(responder().resume(&other).name(), "refused");
    }
    assert!(child.is_untouched());
    // An exact start time, as kernel events have it, is the same process.
    let exact = Target::Process { key: ProcessKey { start: key.start + CLOCK_TICK_NS - 1, ..key }, pidfd_inode: None };
    assert_eq!(said(&execute(Action::Kill, exact)), ("successful", ""));
}

#[test]
fn a_command_name_cannot_forge_a_start_time() {
    let directory = tempfile::tempdir().unwrap();
    let honest = Child::sleeping();
    for name in [") Z 0 0 0 0 (", ")\n1 (x) T 1 1", "a) S 1 1 1 1 1", "((((", "))))", " \n\t\\ )"] {
        let program = directory.path().join(name);
        symlink("/bin/sleep", &program).unwrap();
        let mut child = Command::new(&program).arg("1000").spawn().unwrap();
        let start = process_start(child.id());
        let outcome =
            sls_actions::process_target(child.id()).map(|target| execute(Action::Kill, without_inode(target)));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(start.unwrap() >= process_start(honest.pid as u32).unwrap(), "{name:?}");
        assert_eq!(said(&outcome.unwrap()), ("successful", ""), "{name:?}");
    }
}

fn realtime() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64
}

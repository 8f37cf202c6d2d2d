//! Tests that need root: they choose pids, change credentials and make namespaces.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::process::Command;
use std::time::Duration;

use sls_actions::{CLOCK_TICK_NS, NOT_IN_HOST_PID_NAMESPACE, in_host_pid_namespace};
use sls_core::{Action, Target};
use support::{
    Child, Random, Signal, Status, become_nobody, emulated, execute, exit_now, granted, has_inode, is_root,
    not_offered, race, responder, rounds, said, sleep_forever, start, start_of, stop_self, without, without_inode,
};

/// How often a test tries again when another process of the machine has taken a pid that it wanted.
const MAX_TRIES: usize = 200;

/// Rounds of the race between a process's end and its killing.
const RACES: usize = 1000;

/// What a responder in a process of its own exits with.
const SUCCESSFUL: i32 = 10;
const GONE: i32 = 11;
const REFUSED: i32 = 12;

#[test]
fn a_pid_used_again_in_the_same_tick_is_refused() {
    assert!(is_root(), "needs root");
    if !has_inode(Child::sleeping().target()) {
        // Nothing tells the two apart: the documented limit.
        return not_offered("pidfs", "Linux 6.9");
    }
    let (old, new) = reuse_pid(Duration::ZERO, |old, new| start_of(old) == start_of(new));
    assert_refused(old, new);
}

#[test]
fn a_pid_used_again_later_is_refused_by_start_time() {
    assert!(is_root(), "needs root");
    let (old, new) = reuse_pid(Duration::from_nanos(CLOCK_TICK_NS), |old, new| start_of(old) != start_of(new));
    assert_refused(without_inode(old), new);
}

#[test]
fn a_process_that_may_not_be_signalled_gives_the_kernels_words() {
    assert!(is_root(), "needs root");
    let child = Child::sleeping();
    let target = child.target();
    let outcomes = std::thread::spawn(move || {
        become_nobody();
        [execute(Action::Kill, target), execute(Action::Stop, without_inode(target))]
    });
    for outcome in outcomes.join().unwrap() {
        assert_eq!(said(&outcome), ("not successful", "operation not permitted"));
    }
    assert!(child.is_untouched());
}

#[test]
fn nothing_is_done_in_another_pid_namespace() {
    assert!(is_root(), "needs root");
    let output = Command::new("unshare")
        .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "inside_another_pid_namespace"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
#[ignore = "another test runs it in a PID namespace of its own"]
fn inside_another_pid_namespace() {
    assert!(!in_host_pid_namespace().unwrap());
    assert!(!responder().can_act());
    let child = Child::sleeping();
    for action in [Action::Kill, Action::Stop, Action::KillTree] {
        let outcome = execute(action, child.target());
        assert_eq!(said(&outcome), ("not successful", NOT_IN_HOST_PID_NAMESPACE));
    }
    assert_eq!(responder().resume(&child.target()).details(), NOT_IN_HOST_PID_NAMESPACE);
    assert!(child.is_untouched());
}

/// The process ends and its pid is used again between any two system calls of the responder: the new process is not
/// touched. The responder runs in a process of its own, which is held at each system call in turn.
#[test]
fn no_moment_is_open_to_another_process() {
    assert!(is_root(), "needs root");
    let by_inode = has_inode(Child::sleeping().target());
    if !by_inode {
        without("pidfs", "processes that are known by the inodes of their pidfds");
    }
    for action in [Action::Kill, Action::Stop] {
        for forget_inode in [false, true] {
            if !forget_inode && !by_inode {
                continue;
            }
            let mut moments = 0;
            while swap_at(moments, action, forget_inode) {
                moments += 1;
            }
            // Opening, identity, state and signal have two ends each.
            assert!(moments > 8, "{moments}");
        }
    }
}

/// Swaps the target for another process at one moment; false if the responder was done before it.
fn swap_at(moment: usize, action: Action, forget_inode: bool) -> bool {
    for _ in 0..MAX_TRIES {
        let victim = Child::sleeping();
        let (pid, mut target) = (victim.pid, victim.target());
        if forget_inode {
            target = without_inode(target);
            std::thread::sleep(Duration::from_nanos(CLOCK_TICK_NS));
        }
        let mut responder = responder();
        let go = Signal::new();
        let executor = Child::running(|| {
            go.receive();
            stop_self();
            let outcome = start(&mut responder, &granted(action, target)).finish();
            exit_now(match outcome.result.name() {
                "successful" => SUCCESSFUL,
                "not successful" if outcome.result.details() == "no such process" => GONE,
                "refused" => REFUSED,
                _ => 1,
            });
        });
        executor.trace(libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL);
        go.send();
        let held = executor.run_to_system_call(moment);
        go.close();
        if let Some(status) = held {
            executor.forget_reaped();
            assert_eq!(status, Status::Exited(SUCCESSFUL), "without a swap");
            return false;
        }
        drop(victim);
        let Some(new) = Child::with_pid(pid, || sleep_forever()) else { continue };
        executor.trace_continue();
        let status = executor.reap();
        assert!(new.is_untouched(), "signalled after a swap at moment {moment} of {action}: {status:?}");
        assert!(matches!(status, Status::Exited(SUCCESSFUL | GONE | REFUSED)), "moment {moment}: {status:?}");
        return true;
    }
    panic!("no pid could be used again");
}

/// A process ends by itself and its pid is used again at once, while it is being killed or stopped: whatever wins, the
/// new process is not touched.
#[test]
fn races_never_reach_another_process() {
    assert!(is_root(), "needs root");
    assert!(in_host_pid_namespace().unwrap());
    let by_inode = has_inode(Child::sleeping().target());
    let mut random = Random(0x5EED);
    let mut tally = Tally::default();
    let mut responder = responder();
    let (mut taken, races) = (0, rounds(RACES));
    while tally.rounds() < races {
        let action = if tally.rounds() % 4 == 3 { Action::Stop } else { Action::Kill };
        match race(&mut responder, action, by_inode, &mut random) {
            Some(result) => tally.count(&result),
            None => taken += 1,
        }
        assert!(taken < RACES, "pids are taken all the time");
    }
    println!("{tally:?}, {taken} rounds lost to other processes of the machine");
    // Each way to win was seen, or the race was none.
    let each = tally.successful > 0 && tally.gone > 0 && tally.refused > 0;
    assert!(each || emulated(), "{tally:?}");
}

/// The identity of a process that is gone, and a process that was given the same pid after `pause`; a pair that
/// `suits`.
fn reuse_pid(pause: Duration, suits: impl Fn(Target, Target) -> bool) -> (Target, Child) {
    for _ in 0..MAX_TRIES {
        let old = Child::sleeping();
        let (pid, target) = (old.pid, old.target());
        drop(old);
        std::thread::sleep(pause);
        match Child::with_pid(pid, || sleep_forever()) {
            Some(new) if suits(target, new.target()) => return (target, new),
            _ => {}
        }
    }
    panic!("no pid could be used again as wanted");
}

fn assert_refused(old: Target, new: Child) {
    let details = format!("process-identity: pid {} now belongs to another process", new.pid);
    for action in [Action::Kill, Action::Stop] {
        assert_eq!(said(&execute(action, old)), ("refused", &*details));
    }
    assert!(new.is_untouched());
    // It is the identity that was refused: the new process can be killed by its own.
    assert_eq!(said(&execute(Action::Kill, new.target())), ("successful", ""));
    assert_eq!(new.reap(), Status::Killed(libc::SIGKILL));
}

/// How the races ended.
#[derive(Debug, Default)]
struct Tally {
    successful: usize,
    gone: usize,
    refused: usize,
}

impl Tally {
    fn count(&mut self, result: &str) {
        match result {
            "successful " => self.successful += 1,
            "not successful no such process" => self.gone += 1,
            _ if result.starts_with("refused process-identity: ") => self.refused += 1,
            other => panic!("unexpected result: {other}"),
        }
    }

    fn rounds(&self) -> usize {
        self.successful + self.gone + self.refused
    }
}

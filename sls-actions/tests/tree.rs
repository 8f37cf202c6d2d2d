//! `kill-tree` on real processes, and the races of all actions with processes that end, execute and come and go. Needs
//! root, for it chooses pids, and the host's PID namespace.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use sls_actions::{ProcessResponder, process_key, process_target};
use sls_core::{
    Action, ActionContext, ActionOutcome, ActionPlanner, ActionResult, Event, EventKind, GuardedPlanner, Guards,
    Permission, PlannedAction, ProcessKey, ProcessTable, Responder, Target,
};
use support::{
    Child, Lifeline, Random, Shared, Signal, Status, chain, emulated, execute, exit_now, fork_into, granted, has_inode,
    hop, is_root, lead_session, outlive_parent, patience, race, responder, rounds, said, sleep_forever, sleep_micros,
    spin, start, storm, thread_states, wait_until, without_inode,
};

/// How often the storm is killed.
const STORMS: usize = 100;

/// Races in which the target ends by itself or executes another program, and those in which its pid is used again.
const RACES: usize = 7000;
const REUSES: usize = 3000;

/// Children that one test makes would hold the pipes of another.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|failed| failed.into_inner())
}

#[test]
fn fork_storm_evading_kill() {
    let _alone = alone();
    let mut responder = responder();
    for round in 0..rounds(STORMS) {
        let mut lifeline = Lifeline::new();
        let root = Child::running(|| storm(3, 3, round as u64));
        lifeline.leave();
        // Sometimes it has just begun, sometimes it rages.
        sleep_micros(round as u32 % 10 * 1000);
        let outcome = start(&mut responder, &granted(Action::KillTree, root.target())).finish();
        assert_eq!(said(&outcome), ("successful", ""), "round {round}");
        assert_eq!(root.reap(), Status::Killed(libc::SIGKILL));
        assert!(lifeline.is_cut(patience()), "survivors in round {round}");
    }
}

/// Each process of the tree ends as soon as it has made the next. Where nothing leads to the last one, that is said.
#[test]
fn fork_storm_evading_kill_by_leaving_orphans() {
    let _alone = alone();
    let mut lifeline = Lifeline::new();
    // A death can be late where a processor is emulated, but not as late as an end by itself.
    let (lifetime, late) = if emulated() { (60, 20_000) } else { (5, 500) };
    let root = Child::running(|| {
        lead_session();
        fork_into(|| hop(Instant::now() + Duration::from_secs(lifetime)));
        sleep_forever();
    });
    lifeline.leave();
    sleep_micros(10_000);
    let outcome = execute(Action::KillTree, root.target());
    println!("{outcome:?}");
    assert_eq!(root.reap(), Status::Killed(libc::SIGKILL));
    let dead = lifeline.is_cut(Duration::from_millis(late));
    assert!(dead || outcome.result.name() == "not successful", "{outcome:?}");
    assert!(lifeline.is_cut(patience()));
}

#[test]
fn orphans_of_a_session_die_with_its_leader() {
    let _alone = alone();
    let (mut lifeline, orphan) = (Lifeline::new(), Shared::new());
    let root = Child::running(|| {
        lead_session();
        fork_into(|| {
            fork_into(|| {
                outlive_parent();
                orphan.set_own_pid();
                sleep_forever();
            });
            exit_now(0);
        });
        sleep_forever();
    });
    lifeline.leave();
    wait_until_orphaned(orphan.wait());
    assert_eq!(said(&execute(Action::KillTree, root.target())), ("successful", ""));
    assert!(lifeline.is_cut(patience()));
}

/// A daemon has another parent and another session. The process table still knows where it came from.
#[test]
fn a_daemonised_grandchild_is_known_by_the_table() {
    let _alone = alone();
    for root_ends_first in [false, true] {
        let (mut lifeline, daemon) = (Lifeline::new(), Shared::new());
        let (middle, go) = (Shared::new(), Signal::new());
        let root = Child::running(|| {
            fork_into(|| {
                middle.set_own_pid();
                go.receive();
                lead_session();
                fork_into(|| {
                    outlive_parent();
                    daemon.set_own_pid();
                    sleep_forever();
                });
                exit_now(0);
            });
            sleep_forever();
        });
        lifeline.leave();
        let mut table = ProcessTable::default();
        let (root_target, root_key) = (root.target(), process_key(root.pid as u32).unwrap());
        let middle_key = process_key(middle.wait() as u32).unwrap();
        observe(&mut table, EventKind::Fork, middle_key, root_key);
        go.send();
        let daemon_key = process_key(daemon.wait() as u32).unwrap();
        observe(&mut table, EventKind::Fork, daemon_key, middle_key);
        wait_until_orphaned(daemon_key.pid as i32);
        observe(&mut table, EventKind::Exit, middle_key, root_key);
        if root_ends_first {
            drop(root);
        }
        let outcome = answer(root_target, root_key, Some(&table), None, Permission::Granted);
        assert_eq!(said(&outcome), ("successful", ""), "{root_ends_first}");
        assert!(lifeline.is_cut(patience()));
        // There is nothing left to kill.
        let outcome = answer(root_target, root_key, Some(&table), None, Permission::Granted);
        assert_eq!(said(&outcome), ("not successful", "no such process"));
        go.close();
    }
}

#[test]
fn a_deep_chain_dies_to_its_end() {
    let _alone = alone();
    let (mut lifeline, ready) = (Lifeline::new(), Signal::new());
    // More than file descriptors are held for.
    let root = Child::running(|| chain(300, ready));
    lifeline.leave();
    ready.receive();
    assert_eq!(said(&execute(Action::KillTree, root.target())), ("successful", ""));
    assert!(lifeline.is_cut(patience()));
    ready.close();
}

#[test]
fn a_stopped_tree_that_somebody_continues_dies_all_the_same() {
    let _alone = alone();
    let mut lifeline = Lifeline::new();
    let (first, second) = (Shared::new(), Shared::new());
    // Two that continue each other and the root.
    let war = |own: Shared, other: Shared, root: i32| {
        own.set_own_pid();
        let other = other.wait();
        loop {
            // SAFETY: no memory is involved.
            unsafe { (libc::kill(other, libc::SIGCONT), libc::kill(root, libc::SIGCONT)) };
        }
    };
    let root = Child::running(|| {
        // SAFETY: no memory is involved.
        let pid = unsafe { libc::getpid() };
        fork_into(|| war(first, second, pid));
        fork_into(|| war(second, first, pid));
        sleep_forever();
    });
    lifeline.leave();
    first.wait();
    second.wait();
    assert_eq!(said(&execute(Action::KillTree, root.target())), ("successful", ""));
    assert!(lifeline.is_cut(patience()));
}

#[test]
fn a_protected_process_is_left_alone_with_its_children() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let guarded = directory.path().join("guarded");
    std::fs::copy("/bin/sh", &guarded).unwrap();
    std::fs::set_permissions(&guarded, std::fs::Permissions::from_mode(0o755)).unwrap();
    let pids = directory.path().join("pids");
    let inner = format!("sleep 1000 & echo $$ $! > {0}.new; mv {0}.new {0}; wait", pids.display());
    let script = format!("{} -c '{inner}' & sleep 1000 & wait", guarded.display());
    let mut root = Command::new("/bin/sh").arg("-c").arg(script).process_group(0).spawn().unwrap();
    wait_until("the protected process runs", || pids.exists());
    let protected = pids_in(&pids);

    let planner: Arc<dyn ActionPlanner> =
        Arc::new(GuardedPlanner::new(Guards::none().protect_program(guarded.to_str().unwrap())));
    let (target, key) = (process_target(root.id()).unwrap(), process_key(root.id()).unwrap());
    let outcome = answer(target, key, None, Some(&planner), Permission::Granted);
    let states: Vec<_> = protected.iter().map(|pid| thread_states(*pid)).collect();
    let others = std::fs::read_to_string(format!("/proc/{}/stat", root.id())).unwrap();
    for pid in &protected {
        let _ = process_target(*pid as u32).map(|target| execute(Action::Kill, target));
    }
    root.wait().unwrap();
    let details = "left alive: 2 processes, protected by protected-program";
    assert_eq!(said(&outcome), ("not successful", details));
    assert!(states.iter().all(|state| state == "S"), "{states:?}");
    assert!(others.contains(") Z "), "{others}");
}

#[test]
fn nobody_is_signalled_in_dry_run() {
    let _alone = alone();
    let ready = Signal::new();
    let lifeline = Lifeline::new();
    let root = Child::running(|| chain(3, ready));
    ready.receive();
    let key = process_key(root.pid as u32).unwrap();
    let outcome = answer(root.target(), key, None, None, Permission::DryRun);
    assert_eq!(said(&outcome), ("dry run", ""));
    assert!(root.is_untouched());
    assert!(!lifeline.is_cut(Duration::ZERO));
    // What follows ends them.
    assert_eq!(said(&execute(Action::KillTree, root.target())), ("successful", ""));
    ready.close();
}

#[test]
fn the_tree_that_the_sensor_is_in_is_refused() {
    let _alone = alone();
    let done = Signal::new();
    let root = Child::running(|| {
        fork_into(|| {
            outlive_parent();
            // SAFETY: no memory is involved.
            let target = process_target(unsafe { libc::getppid() } as u32).unwrap();
            let outcome = execute(Action::KillTree, target);
            if said(&outcome) == ("refused", "sensor: the sensor and its ancestors are never acted upon") {
                done.send();
            }
            exit_now(0);
        });
        sleep_forever();
    });
    done.receive();
    assert!(root.is_untouched());
    done.close();
}

/// A sensor that was daemonised is no child of what started it, which the table does not forget.
#[test]
fn the_sensor_is_spared_where_only_the_table_leads_to_it() {
    let _alone = alone();
    let root = Child::sleeping();
    let (root_key, own) = (process_key(root.pid as u32).unwrap(), process_key(std::process::id()).unwrap());
    let mut table = ProcessTable::default();
    observe(&mut table, EventKind::Fork, own, root_key);
    let outcome = answer(root.target(), root_key, Some(&table), None, Permission::Granted);
    assert_eq!(outcome.result.name(), "not successful");
    assert!(outcome.result.details().ends_with("protected by sensor"), "{outcome:?}");
    assert_eq!(root.reap(), Status::Killed(libc::SIGKILL));
}

/// The target ends, or executes another program, while it is acted upon.
#[test]
fn kill_race() {
    let _alone = alone();
    let mut random = Random(0xACE);
    let mut responder = responder();
    let bystander = Child::sleeping();
    let mut seen = [[0; 2]; 3];
    for round in 0..rounds(RACES) {
        // A tree costs some walks through all processes.
        let which = if round % 16 == 0 { 2 } else { random.below(2) as usize };
        let action = [Action::Kill, Action::Stop, Action::KillTree][which];
        let executes = round % 32 == 1 || round % 64 == 0;
        let (go, life) = (Signal::new(), random.below(100) as u32);
        let victim = Child::running(|| {
            go.receive();
            sleep_micros(life);
            if executes {
                let _ = Command::new("/bin/sleep").arg("1000").exec();
            }
        });
        let target = if round % 2 == 0 { victim.target() } else { without_inode(victim.target()) };
        go.send();
        spin(Duration::from_micros(random.below(400)));
        let result = start(&mut responder, &granted(action, target)).finish().result;
        let gone = ActionResult::NotSuccessful { details: "no such process".to_owned() };
        if executes {
            assert_eq!(result, ActionResult::Successful, "{action}");
        } else {
            assert!(result == ActionResult::Successful || result == gone, "{action}: {result:?}");
        }
        seen[which][usize::from(result == gone)] += 1;
        if action == Action::Stop {
            let _ = start(&mut responder, &granted(Action::Kill, target)).finish();
        }
        let status = victim.reap();
        assert!(matches!(status, Status::Killed(libc::SIGKILL) | Status::Exited(0)), "{status:?}");
        assert!(bystander.is_untouched());
        go.close();
    }
    println!("successful and gone of kill, stop, kill-tree: {seen:?}");
    assert!(seen.iter().flatten().all(|count| *count > 0) || emulated(), "{seen:?}");
}

/// The target ends, and its pid is used again, while it is acted upon.
#[test]
fn pid_reuse() {
    let _alone = alone();
    assert!(is_root(), "needs root");
    let by_inode = has_inode(Child::sleeping().target());
    let mut random = Random(0x9E_05E);
    let mut responder = responder();
    let mut results = std::collections::BTreeMap::new();
    let (mut done, mut taken) = (0, 0);
    while done < rounds(REUSES) {
        let action = [Action::Kill, Action::Stop, Action::KillTree, Action::Kill][done % 4];
        // It panics if the new process was signalled.
        match race(&mut responder, action, by_inode, &mut random) {
            Some(result) => {
                done += 1;
                let result = result.split(": ").next().unwrap().to_owned();
                *results.entry(result).or_insert(0) += 1;
            }
            None => taken += 1,
        }
        assert!(taken < REUSES, "pids are taken all the time");
    }
    println!("{results:?}");
    let known = ["successful ", "not successful no such process", "refused process-identity"];
    assert!(results.keys().all(|result| known.contains(&&**result)), "{results:?}");
}

fn answer(
    target: Target,
    key: ProcessKey,
    table: Option<&ProcessTable>,
    planner: Option<&Arc<dyn ActionPlanner>>,
    permission: Permission,
) -> ActionOutcome {
    let mut event = Event::new(EventKind::Exec);
    event.process = key;
    let mut context = ActionContext::new(&event);
    if let Some(table) = table {
        context = context.processes(table);
    }
    if let Some(planner) = planner {
        context = context.planner(planner);
    }
    let mut responder: ProcessResponder = responder();
    responder.execute(&PlannedAction::new(Action::KillTree, target, permission), &context).finish()
}

fn observe(table: &mut ProcessTable, kind: EventKind, process: ProcessKey, parent: ProcessKey) {
    let mut event = Event::new(kind);
    (event.process, event.parent) = (process, parent);
    table.observe(&event);
}

fn wait_until_orphaned(pid: i32) {
    wait_until("it is an orphan", || {
        let parent = |pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            stat.rsplit(") ").next().unwrap().split(' ').nth(1).unwrap().parse::<u32>().unwrap()
        };
        // Adopted by init, or by whoever above this process adopts.
        let parent = parent(pid);
        parent == 1 || ancestors().contains(&parent)
    });
}

fn ancestors() -> Vec<u32> {
    sls_actions::own_ancestry().unwrap().into_iter().skip(1).map(|key| key.pid).collect()
}

fn pids_in(file: &Path) -> Vec<i32> {
    std::fs::read_to_string(file).unwrap().split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

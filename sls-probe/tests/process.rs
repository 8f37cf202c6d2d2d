//! Forks, exits, and the processes that were there before. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Running, Watch, actor, device_is_plain, has, role, start_ticks, stat_field, text, ticks};
use sls_core::{Event, EventKind, Field, ProcessKey, ProcessTable, Value};
use sls_probe::{HostInfo, Probe};

/// Threads of a process of which all end at once.
const THREADS: usize = 16;

/// The parts that children of these tests play.
#[test]
fn process_actor() {
    match role().as_deref() {
        // All threads try to be the last.
        Some("race to the end") => {
            let barrier = Barrier::new(THREADS);
            std::thread::scope(|scope| {
                for _ in 0..THREADS {
                    scope.spawn(|| {
                        barrier.wait();
                        end_thread()
                    });
                }
                end_process();
            });
        }
        Some("sibling") => clone_sibling(),
        Some(other) => panic!("no part is called {other}"),
        None => {}
    }
}

/// Ends the calling thread only, without going back to the harness.
fn end_thread() -> ! {
    // SAFETY: exit(2) touches no memory of the process; nothing of this thread is used after it.
    unsafe { libc::syscall(libc::SYS_exit, 7) };
    unreachable!("exit returned");
}

/// Ends the process while its threads do the same; the harness's main thread would wait for ever for this one.
fn end_process() -> ! {
    std::thread::sleep(Duration::from_millis(20));
    // SAFETY: exit_group(2) touches no memory of the process.
    unsafe { libc::syscall(libc::SYS_exit_group, 3) };
    unreachable!("exit_group returned");
}

/// Makes a process that is not a child of this one but of its parent.
fn clone_sibling() {
    let flags = libc::CLONE_PARENT | libc::SIGCHLD;
    // SAFETY: without CLONE_VM this is fork(2). The child makes one system call and is gone.
    unsafe {
        if libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) == 0 {
            libc::syscall(libc::SYS_exit_group, 0);
        }
    }
}

fn pidfd_inode(pid: u32) -> u64 {
    // SAFETY: pidfd_open(2) takes no pointers, and the descriptor that it returns is nobody else's.
    let fd = unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        assert!(fd >= 0, "pidfd_open: {}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd as i32)
    };
    fs::File::from(fd).metadata().unwrap().ino()
}

/// Whether this kernel gives pidfds inodes of their own (6.9).
fn has_pidfs() -> bool {
    let release = HostInfo::read().kernel_release;
    let mut numbers = release.split(['.', '-']).map(|number| number.parse::<u32>().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap()) >= (6, 9)
}

fn keys(events: &[Event], kind: EventKind) -> Vec<ProcessKey> {
    events.iter().filter(|event| event.kind == kind).map(|event| event.process).collect()
}

#[test]
fn each_fork_has_one_exit() {
    let mut watch = Watch::start();
    let lines = "for i in 1 2 3 4 5 6 7 8 9 10; do (exit $i) & done; wait; /bin/true";
    let shell = watch.exec_of(Command::new("sh").args(["-c", lines]));
    let family: Vec<Event> = watch.events.iter().filter(|event| event.parent == shell.process).cloned().collect();
    let (forks, exits) = (keys(&family, EventKind::Fork), keys(&family, EventKind::Exit));
    assert_eq!(forks.len(), 11);
    assert_eq!(exits.len(), 11);
    assert_eq!(forks.iter().collect::<HashSet<_>>(), exits.iter().collect::<HashSet<_>>());
    let statuses: HashSet<u32> = family.iter().filter_map(|event| event.exit_status).collect();
    assert_eq!(statuses, (0..=10).map(|code| code << 8).collect());
    for event in &family {
        assert_eq!(event.cgroup_id, shell.cgroup_id);
        assert_eq!(event.pid_namespace, shell.pid_namespace);
        assert!(event.mount_namespace.is_some() && event.mount_namespace == shell.mount_namespace);
        assert_eq!(event.number(Field::Uid), Some(0));
        assert_eq!(text(event, Field::UserName), "root");
        assert!(event.time >= shell.time);
    }
    assert_eq!(text(&family[0], Field::ProcessName), "sh");
}

#[test]
fn exit_status_is_that_of_wait() {
    let mut watch = Watch::start();
    let mut ends = HashMap::new();
    for (lines, status) in [("exit 7", 7 << 8), ("kill -KILL $$", 9), ("ulimit -c 0; kill -SEGV $$", 11)] {
        let mut child = Command::new("sh").args(["-c", lines]).spawn().unwrap();
        watch.until("the end", |events| has(events, child.id(), EventKind::Exit));
        ends.insert(watch.last(child.id(), EventKind::Exit).exit_status.unwrap(), status);
        child.wait().unwrap();
    }
    assert!(ends.iter().all(|(found, expected)| found == expected), "{ends:?}");
    assert_eq!(ends.len(), 3);
}

#[test]
fn process_of_threads_ends_once() {
    let mut watch = Watch::start();
    for _ in 0..20 {
        let mut child = actor("process_actor", "race to the end").spawn().unwrap();
        watch.until("the end", |events| has(events, child.id(), EventKind::Exit));
        child.wait().unwrap();
        watch.poll(Duration::from_millis(1));
        let kinds: Vec<&str> = watch.of(child.id()).iter().map(|event| event.kind.name()).collect();
        assert_eq!(kinds, ["fork", "exec", "exit"]);
        watch.events.clear();
    }
}

#[test]
fn sibling_has_the_parent_of_its_maker() {
    let mut watch = Watch::start();
    // The shell is the parent of the actor, and so becomes that of the sibling.
    let mut command = Command::new("sh");
    let actor = actor("process_actor", "sibling");
    command.args(["-c", "\"$@\"; true", "sh"]).arg(actor.get_program()).args(actor.get_args());
    command.envs(actor.get_envs().filter_map(|(key, value)| Some((key, value?)))).stdout(std::process::Stdio::null());
    let shell = watch.exec_of(&mut command);
    let forks: Vec<&Event> =
        watch.events.iter().filter(|event| event.kind == EventKind::Fork && event.parent == shell.process).collect();
    assert_eq!(forks.len(), 2, "the actor and its sibling: {forks:#?}");
    // The actor's own fork has nothing to add; its sibling's names the actor.
    assert_eq!(forks[0].creator, ProcessKey::default());
    assert_eq!(forks[1].creator, forks[0].process);
    let mut table = ProcessTable::default();
    let born = watch.events.iter().position(|event| event.process == forks[1].process).unwrap();
    watch.events[..=born].iter().for_each(|event| table.observe(event));
    let lineage: Vec<ProcessKey> = table.lineage(forks[1].process).map(|record| record.key()).collect();
    assert_eq!(lineage[..2], [forks[0].process, shell.process]);
    assert_eq!(table.process(forks[1].process).unwrap().parent(), shell.process);
}

#[test]
fn vfork_is_a_fork() {
    let mut watch = Watch::start();
    // Without anything to do between fork and exec, the standard library has libc vfork.
    let event = watch.exec_of(&mut Command::new("/bin/true"));
    let events = watch.of(event.process.pid);
    let kinds: Vec<&str> = events.iter().map(|event| event.kind.name()).collect();
    assert_eq!(kinds, ["fork", "exec", "exit"]);
    assert!(events.iter().all(|other| other.process == event.process && other.parent == event.parent));
    assert_eq!(event.parent.pid, std::process::id());
}

#[test]
fn pidfd_inode_is_that_of_the_pidfd() {
    let mut watch = Watch::with(Probe::builder());
    let (child, exec) = watch.started(Command::new("sleep").arg("60"));
    let pid = child.0.id();
    let expected = has_pidfs().then(|| pidfd_inode(pid));
    assert_eq!(exec.pidfd_inode, expected);
    assert_eq!(watch.last(pid, EventKind::Fork).pidfd_inode, expected);
    let own = watch.last(std::process::id(), EventKind::Baseline);
    assert_eq!(own.pidfd_inode, has_pidfs().then(|| pidfd_inode(std::process::id())));
}

#[test]
fn snapshot_is_complete() {
    let mut command = Command::new("sleep");
    let sleeper = Running(command.args(["60", "0.25"]).current_dir("/usr").spawn().unwrap());
    let before = processes();
    let mut watch = Watch::with(Probe::builder());
    // Started between the tracepoints and the snapshot, which the first poll takes.
    let mut quick = Command::new("/bin/true").spawn().unwrap();
    quick.wait().unwrap();
    let late = Running(Command::new("sleep").arg("61").spawn().unwrap());
    watch.until("the late process", |events| has(events, late.0.id(), EventKind::Exec));
    let after = processes();

    let live = watch.events.iter().position(|event| event.kind != EventKind::Baseline).unwrap();
    let (baseline, events) = watch.events.split_at(live);
    assert!(
        events.iter().all(|event| event.kind != EventKind::Baseline),
        "live events before the last of the snapshot"
    );
    assert!(has(events, quick.id(), EventKind::Fork) && has(events, quick.id(), EventKind::Exit));
    let seen: HashMap<u32, &Event> = baseline.iter().map(|event| (event.process.pid, event)).collect();
    assert_eq!(seen.len(), baseline.len(), "a process is there twice");
    let mut compared = 0;
    for (pid, ticks_before) in &before {
        if after.get(pid) == Some(ticks_before) {
            let event = seen.get(pid).unwrap_or_else(|| panic!("process {pid} is missing"));
            assert_eq!(ticks(event.process.start), *ticks_before, "start of {pid}");
            compared += 1;
        }
    }
    assert!(compared > 5);

    let event = seen[&sleeper.0.id()];
    let sleep = fs::read_link(format!("/proc/{}/exe", sleeper.0.id())).unwrap();
    assert_eq!(text(event, Field::ProgramName), sleep.to_str().unwrap());
    assert_eq!(event.arguments().collect::<Vec<_>>(), [&b"sleep"[..], b"60", b"0.25"]);
    assert_eq!(text(event, Field::ProgramDirectory), "/usr");
    assert_eq!(text(event, Field::ProcessName), "sleep");
    assert_eq!(event.number(Field::ProgramInode), Some(fs::metadata(&sleep).unwrap().ino()));
    let device = Some(fs::metadata(&sleep).unwrap().dev());
    assert!(event.number(Field::ProgramDevice) == device || !device_is_plain(&sleep));
    assert_eq!(event.parent, seen[&std::process::id()].process);
    assert_eq!(event.number(Field::Uid), Some(0));
    assert_eq!(text(event, Field::UserName), "root");
    assert_eq!(event.value(Field::InvokedName), Value::Absent);
    assert!(event.cgroup_id.is_some() && !event.kernel_thread);
    let last = watch.last(late.0.id(), EventKind::Exec);
    assert_eq!(last.cgroup_id, event.cgroup_id);
    assert_eq!(last.pid_namespace, event.pid_namespace);
    assert!(event.mount_namespace.is_some() && last.mount_namespace == event.mount_namespace);

    let kthreadd = seen[&2];
    assert!(kthreadd.kernel_thread);
    assert_eq!(text(kthreadd, Field::ProcessName), "kthreadd");
    assert_eq!(kthreadd.value(Field::ProgramName), Value::Absent);
    assert_eq!(kthreadd.parent, ProcessKey::default());
}

/// Running processes and their start, without zombies. A hosting platform may keep processes of its own in the guest,
/// which its kernel hides from root and from iterators alike: those are left out.
fn processes() -> HashMap<u32, u64> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let hidden = |pid: u32| {
        let namespace = fs::read_link(format!("/proc/{pid}/ns/pid"));
        namespace.is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
    };
    pids.filter(|pid| !hidden(*pid))
        .filter(|pid| stat_field(*pid, 3).is_some_and(|state| state != "Z" && state != "X"))
        .filter_map(|pid| Some((pid, start_ticks(pid)?)))
        .collect()
}

#[test]
fn long_argv_in_the_snapshot_is_cut() {
    let long = "x".repeat(20_000);
    let sleeper = Running(Command::new("sh").args(["-c", "sleep 60; true", &long]).spawn().unwrap());
    // Until then it is still this program.
    let exe = fs::canonicalize("/bin/sh").unwrap();
    while fs::read_link(format!("/proc/{}/exe", sleeper.0.id())).unwrap() != exe {
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut watch = Watch::with(Probe::builder().exec(false).fork(false).exit(false));
    let pid = sleeper.0.id();
    watch.until("the baseline", |events| has(events, pid, EventKind::Baseline));
    let event = watch.last(pid, EventKind::Baseline);
    let Value::Text { bytes, truncated: true } = event.value(Field::ProgramArguments) else { panic!("{event:?}") };
    assert_eq!(bytes.len(), sls_probe::MAX_ARGV_BYTES);
    // sleep is the shell's child; without this it would outlive the test.
    kill_children(pid);
}

fn kill_children(pid: u32) {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    for child in children.split_whitespace() {
        Command::new("kill").arg(child).status().unwrap();
    }
}

/// The end of each child is a signal, and the kernel stops verifying a program when one is pending.
#[test]
fn loads_while_children_end_all_the_time() {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    Command::new("/bin/true").status().unwrap();
                }
            });
        }
        let loaded: Vec<_> =
            (0..4).map(|_| Probe::builder().snapshot(false).kernel_tier(true).load().map(drop)).collect();
        done.store(true, Ordering::Relaxed);
        for result in loaded {
            result.unwrap();
        }
    });
}

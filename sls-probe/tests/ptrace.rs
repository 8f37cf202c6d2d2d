//! Real processes that reach into others. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::sys::ptrace;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use sls_core::{Event, EventKind, Field, Interest, PolicySet, Value};
use sls_probe::Probe;

use common::{Running, Watch, actor, family, role, text};

fn watch_for(interest: Interest) -> Watch {
    Watch::with(Probe::builder().snapshot(false).interest(interest).hooks(family()))
}

fn watch() -> Watch {
    let mut interest = Interest::default();
    interest.add_kind(EventKind::Ptrace);
    watch_for(interest)
}

/// The process acted upon. Its name is that of the executable, wherever that is.
fn sleeper() -> Running {
    Running(Command::new("/bin/sleep").arg("60").stdout(Stdio::null()).spawn().unwrap())
}

fn target_of(role: &str) -> (String, Pid) {
    let (part, pid) = role.split_once(' ').unwrap();
    (part.to_owned(), Pid::from_raw(pid.parse().unwrap()))
}

/// Plays `part` on a new sleeper in a child, and returns what is told of the child.
fn act(watch: &mut Watch, part: &str) -> (u32, Vec<Event>) {
    let target = sleeper();
    let pid = target.0.id();
    let mut command = actor("ptrace_actor", &format!("{part} {pid}"));
    let events = run(watch, &mut command);
    (pid, events)
}

fn run(watch: &mut Watch, command: &mut Command) -> Vec<Event> {
    let mut child = command.spawn().unwrap();
    let actor = child.id();
    watch.until("the end of the actor", |events| common::has(events, actor, EventKind::Exit));
    assert!(child.wait().unwrap().success());
    watch.of(actor).into_iter().filter(|event| event.kind == EventKind::Ptrace).cloned().collect()
}

fn requests(events: &[Event]) -> Vec<String> {
    events.iter().map(|event| text(event, Field::PtraceRequest)).collect()
}

#[test]
fn ptrace_actor() {
    let Some(role) = role() else { return };
    let (part, target) = target_of(&role);
    match &*part {
        "attach" => {
            ptrace::attach(target).unwrap();
            waitpid(target, None).unwrap();
            ptrace::detach(target, None).unwrap();
        }
        "seize" => ptrace::seize(target, ptrace::Options::empty()).unwrap(),
        "poke" => {
            ptrace::attach(target).unwrap();
            waitpid(target, None).unwrap();
            let registers = ptrace::getregs(target).unwrap();
            let at = registers.rsp as ptrace::AddressType;
            let word = ptrace::read(target, at).unwrap();
            for _ in 0..5 {
                ptrace::write(target, at, word).unwrap();
                ptrace::setregs(target, registers).unwrap();
            }
            ptrace::detach(target, None).unwrap();
        }
        "look" => {
            ptrace::attach(target).unwrap();
            waitpid(target, None).unwrap();
            let registers = ptrace::getregs(target).unwrap();
            ptrace::read(target, registers.rsp as ptrace::AddressType).unwrap();
            ptrace::detach(target, None).unwrap();
        }
        "vm-write" => {
            let at = stack_of(target);
            let mut byte = [0_u8];
            vm_copy(target, at, &mut byte, false);
            for _ in 0..3 {
                vm_copy(target, at, &mut byte, true);
            }
        }
        "vm-read" => vm_copy(target, stack_of(target), &mut [0], false),
        "vm-write-self" => {
            let mut target = [0_u8];
            vm_copy(Pid::this(), target.as_mut_ptr() as usize, &mut [1], true);
        }
        "fail" => {
            let init = Pid::from_raw(1);
            nix::unistd::setresuid(65534.into(), 65534.into(), 65534.into()).unwrap();
            assert!(ptrace::attach(init).is_err() && ptrace::attach(target).is_err());
            assert!(ptrace::write(target, std::ptr::null_mut(), 0).is_err());
        }
        "thread" => {
            // Of the target's other threads, of which it has one.
            let thread = std::thread::spawn(move || ptrace::seize(target, ptrace::Options::empty()).unwrap());
            thread.join().unwrap();
        }
        "trace-child" => {
            let mut command = Command::new("/bin/true");
            // SAFETY: the call is a system call and nothing else.
            unsafe { command.pre_exec(|| Ok(ptrace::traceme()?)) };
            let mut child = command.spawn().unwrap();
            let traced = Pid::from_raw(child.id() as i32);
            waitpid(traced, None).unwrap();
            ptrace::cont(traced, None).unwrap();
            assert!(child.wait().unwrap().success());
        }
        other => panic!("no part is called {other}"),
    }
}

/// An address that the process can write.
fn stack_of(pid: Pid) -> usize {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let stack = maps.lines().find(|line| line.ends_with("[stack]")).unwrap();
    let end = stack.split(['-', ' ']).nth(1).unwrap();
    usize::from_str_radix(end, 16).unwrap() - 64
}

fn vm_copy(pid: Pid, at: usize, byte: &mut [u8; 1], write: bool) {
    let local = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    let remote = libc::iovec { iov_base: at as *mut _, iov_len: 1 };
    // SAFETY: the local part is one byte that is ours; the remote one is the other process's, which does not look at it.
    let copied = unsafe {
        if write {
            libc::process_vm_writev(pid.as_raw(), &local, 1, &remote, 1, 0)
        } else {
            libc::process_vm_readv(pid.as_raw(), &local, 1, &remote, 1, 0)
        }
    };
    assert_eq!(copied, 1, "{}", std::io::Error::last_os_error());
}

#[test]
fn attaching_is_told_with_its_target() {
    let mut watch = watch();
    for (part, request) in [("attach", "ATTACH"), ("seize", "SEIZE"), ("thread", "SEIZE")] {
        let (target, events) = act(&mut watch, part);
        assert_eq!(requests(&events), [request], "{part}");
        assert_eq!(events[0].number(Field::TargetPid), Some(target.into()));
        let sleep = std::fs::canonicalize("/bin/sleep").unwrap();
        assert_eq!(text(&events[0], Field::TargetProgramName), sleep.to_str().unwrap());
        assert!(events[0].unknown().is_empty());
    }
    assert_eq!(watch.probe.lost(EventKind::Ptrace).unwrap(), 0);
}

#[test]
fn writing_is_told_once_in_a_while() {
    let mut watch = watch();
    let (target, events) = act(&mut watch, "poke");
    assert_eq!(requests(&events), ["ATTACH", "POKE"], "ten writes");
    assert_eq!(events[1].number(Field::TargetPid), Some(target.into()));
    let (target, events) = act(&mut watch, "vm-write");
    assert_eq!(requests(&events), ["VM_WRITE"], "three writes");
    assert_eq!(events[0].number(Field::TargetPid), Some(target.into()));
    let (_, events) = act(&mut watch, "vm-write");
    assert_eq!(requests(&events), ["VM_WRITE"], "another pair");
}

#[test]
fn reading_and_failing_and_oneself_are_nothing() {
    let mut watch = watch();
    for (part, expected) in [("look", &["ATTACH"][..]), ("vm-read", &[]), ("vm-write-self", &[]), ("fail", &[])] {
        let (_, events) = act(&mut watch, part);
        assert_eq!(requests(&events), expected, "{part}");
    }
}

#[test]
fn only_what_is_wanted_is_told() {
    let yaml = "A:\n  policy: ptrace\n  rules:\n    - match ptraceRequest == \"POKE\"\n    - default ignore\n";
    let mut watch = watch_for(PolicySet::from_yaml("policy.yaml", yaml).unwrap().interest());
    assert_eq!(requests(&act(&mut watch, "seize").1), [""; 0]);
    assert_eq!(requests(&act(&mut watch, "poke").1), ["POKE"]);
}

#[test]
fn who_asks_to_be_traced_reaches_into_nobody() {
    let mut watch = watch();
    let target = sleeper();
    let mut child = actor("ptrace_actor", &format!("trace-child {}", target.0.id())).spawn().unwrap();
    let pid = child.id();
    watch.until("the end of the actor", |events| common::has(events, pid, EventKind::Exit));
    assert!(child.wait().unwrap().success());
    let traced = of_family(&watch, pid);
    assert!(traced.is_empty(), "{traced:?}");
}

/// What is told of a process and all that it made.
fn of_family(watch: &Watch, root: u32) -> Vec<&Event> {
    let family = common::descendants(&watch.events, root);
    assert!(!family.is_empty());
    let all = watch.events.iter().filter(|event| event.kind == EventKind::Ptrace);
    all.filter(|event| family.contains(&event.process)).collect()
}

#[test]
fn target_in_a_pid_namespace_has_its_own_number_outside() {
    let mut watch = watch();
    // The first process of the namespace is the shell, and the second a copy of it until it executes sleep.
    let script = r#"
        sleep 60 &
        until read -r _ name state _ < /proc/$!/stat && [ "$name $state" = "(sleep) S" ]; do :; done
        exec "$@""#;
    let inner = actor("ptrace_actor", "seize 2");
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script, "sh"]);
    command.arg(inner.get_program()).args(inner.get_args()).stdout(Stdio::null());
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut child = command.spawn().unwrap();
    let pid = child.id();
    watch.until("the end of the namespace", |events| common::has(events, pid, EventKind::Exit));
    assert!(child.wait().unwrap().success());
    let [event] = of_family(&watch, pid)[..] else { panic!("{:?}", of_family(&watch, pid)) };
    assert!(event.text(Field::TargetProgramName).ends_with(b"/sleep"));
    let Value::Number(target) = event.value(Field::TargetPid) else { panic!("{event:?}") };
    assert!(target > 2, "{target} is the number inside");
    let of_target = watch.of(target as u32);
    let exec = of_target.iter().find(|event| event.kind == EventKind::Exec).unwrap();
    assert!(exec.text(Field::ProgramName).ends_with(b"/sleep"));
}

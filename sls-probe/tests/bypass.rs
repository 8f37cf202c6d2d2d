//! Ways to hide what a process runs, tried on the real kernel. Those that concern the name of a file are in `exec.rs`, those that
//! concern memory in `memory.rs`. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};

use sls_core::{EventKind, Field, ProcessKey, Value};
use sls_probe::Probe;

use common::{Running, Watch, actor, become_program, descendants, has, open_dir, role, text};

/// Processes of a storm.
const STORM: usize = 1000;

/// Processes that are gone at once.
const SHORT_LIVED: usize = 200;

#[test]
fn bypass_actor() {
    let Some(part) = role() else { return };
    let (part, path) = part.split_once(' ').unwrap();
    match part {
        // As servers do to show what they are at, and others to show what they are not.
        "rewrite-argv" => {
            let stat = fs::read_to_string("/proc/self/stat").unwrap();
            let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
            let (start, end): (usize, usize) = (fields[45].parse().unwrap(), fields[46].parse().unwrap());
            // SAFETY: the arguments of this process, which nothing looks at any more.
            unsafe { std::ptr::write_bytes(start as *mut u8, b'x', end - start) };
            println!("done");
            std::io::stdin().read_line(&mut String::new()).unwrap();
        }
        "execveat" => {
            let dir = File::open(path).unwrap();
            let (name, argument) = (c"true", c"true");
            let argv = [argument.as_ptr(), std::ptr::null()];
            let envp: [*const libc::c_char; 1] = [std::ptr::null()];
            // SAFETY: all strings and arrays end as they must, and outlive the call.
            unsafe {
                libc::syscall(libc::SYS_execveat, dir.as_raw_fd(), name.as_ptr(), argv.as_ptr(), envp.as_ptr(), 0)
            };
            panic!("execveat: {}", std::io::Error::last_os_error());
        }
        "chroot" => {
            nix::unistd::chroot(path).unwrap();
            std::env::set_current_dir("/").unwrap();
            become_program("/true");
        }
        other => panic!("no part is called {other}"),
    }
}

/// A program that needs no other files.
fn static_true(dir: &std::path::Path) {
    // busybox is linked statically and does what it is called.
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| fs::metadata(path).is_ok());
    fs::copy(busybox.expect("busybox"), dir.join("true")).unwrap();
}

#[test]
fn argv_that_is_rewritten_after_exec_is_that_of_the_exec() {
    let mut watch = Watch::start();
    let mut command = actor("bypass_actor", "rewrite-argv -");
    let (program, arguments) = (command.get_program().to_owned(), command.get_args().count());
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut child = Running(child);
    let pid = child.0.id();
    let mut line = Vec::new();
    std::io::Read::read_exact(child.0.stdout.as_mut().unwrap(), {
        line.resize(1, 0);
        &mut line
    })
    .unwrap();
    while !fs::read(format!("/proc/{pid}/cmdline")).unwrap().starts_with(b"xxxx") {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    watch.until("the exec", |events| has(events, pid, EventKind::Exec));
    let event = watch.last(pid, EventKind::Exec);
    assert_eq!(event.arguments().next().unwrap(), program.as_encoded_bytes());
    assert_eq!(event.arguments().count(), 1 + arguments);
    assert!(!event.untrusted().contains(Field::ProgramArguments));

    // Who comes later sees what is there by then, and says so.
    let mut late = Watch::with(Probe::builder().exec(false).fork(false).exit(false));
    late.until("the baseline", |events| has(events, pid, EventKind::Baseline));
    let event = late.last(pid, EventKind::Baseline);
    assert!(event.text(Field::ProgramArguments).starts_with(b"xxxx"));
    assert!(event.untrusted().contains(Field::ProgramArguments));
    assert_eq!(text(&event, Field::ProgramName), fs::canonicalize(program).unwrap().to_str().unwrap());
}

#[test]
fn execveat_in_a_directory_is_told_as_any_other() {
    let (_dir, dir) = open_dir();
    static_true(&dir);
    let mut command = actor("bypass_actor", &format!("execveat {}", dir.display()));
    let event = Watch::start().exec_of(&mut command);
    assert_eq!(text(&event, Field::ProgramName), dir.join("true").to_str().unwrap());
    assert!(text(&event, Field::InvokedName).starts_with("/dev/fd/"));
    assert_eq!(event.arguments().collect::<Vec<_>>(), [b"true"]);
}

#[test]
fn program_in_a_chroot_has_its_name_outside() {
    let (_dir, dir) = open_dir();
    static_true(&dir);
    let mut command = actor("bypass_actor", &format!("chroot {}", dir.display()));
    let event = Watch::start().exec_of(&mut command);
    assert_eq!(text(&event, Field::InvokedName), "/true");
    assert_eq!(text(&event, Field::ProgramName), dir.join("true").to_str().unwrap());
    assert_eq!(text(&event, Field::ProgramDirectory), dir.to_str().unwrap());
}

#[test]
fn fork_storm_hides_no_process() {
    let mut watch = Watch::start();
    // In waves, with grandchildren whose parents do not wait for them.
    let script = format!("i=0; while [ $i -lt {} ]; do ( ( : ) & ) & i=$((i+1)); done; wait", STORM / 2);
    let mut child = Command::new("sh").args(["-c", &script]).spawn().unwrap();
    let root = child.id();
    watch.until("the end of the storm", |events| has(events, root, EventKind::Exit));
    assert!(child.wait().unwrap().success());
    let mut family: HashSet<ProcessKey> = HashSet::new();
    watch.until("the ends of all", |events| {
        family = descendants(events, root);
        let ended = events.iter().filter(|event| event.kind == EventKind::Exit && family.contains(&event.process));
        ended.count() == family.len()
    });
    // The shell itself and its descendants.
    assert_eq!(family.len(), 1 + STORM);
    for kind in [EventKind::Fork, EventKind::Exec, EventKind::Exit] {
        assert_eq!(watch.probe.lost(kind).unwrap(), 0);
    }
}

#[test]
fn process_that_is_gone_at_once_is_told_whole() {
    let (_dir, dir) = open_dir();
    static_true(&dir);
    let program = dir.join("true");
    let mut watch = Watch::start();
    let pids: Vec<u32> = (0..SHORT_LIVED)
        .map(|_| {
            let mut child = Command::new(&program).arg("argument").current_dir("/usr").spawn().unwrap();
            child.wait().unwrap();
            child.id()
        })
        .collect();
    watch.until("the ends", |events| pids.iter().all(|pid| has(events, *pid, EventKind::Exit)));
    for pid in pids {
        // Only now are they looked at: nothing is left of them.
        let event = watch.last(pid, EventKind::Exec);
        assert_eq!(text(&event, Field::ProgramName), program.to_str().unwrap());
        assert_eq!(text(&event, Field::ProgramDirectory), "/usr");
        assert_eq!(event.arguments().last(), Some(&b"argument"[..]));
        assert!(
            event.unknown().is_empty() && event.cgroup_id.is_some() && event.value(Field::UserName) != Value::Absent
        );
    }
}

//! Ids that change, honestly and otherwise. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use libbpf_rs::query::MapInfoIter;
use libbpf_rs::{MapCore, MapFlags, MapHandle};
use sls_core::{Event, EventKind, Field, Interest};
use sls_probe::{HookFamily, Probe};

use common::{Watch, actor, become_program, descendants, family, has, not_offered, open_dir, role, without};

/// The map of what threads came by honestly.
const KNOWN: &str = "known_ids";

const NOBODY: u32 = 65534;

fn wanted() -> Interest {
    let mut interest = Interest::default();
    interest.add_kind(EventKind::Credentials);
    interest
}

fn watch() -> Watch {
    Watch::with(Probe::builder().snapshot(false).interest(wanted()).hooks(family()))
}

/// What is told of a process and all that it made. Others do such things at the same time.
fn changes(watch: &Watch, root: u32) -> Vec<&Event> {
    let family = descendants(&watch.events, root);
    assert!(!family.is_empty());
    let all = watch.events.iter().filter(|event| event.kind == EventKind::Credentials);
    all.filter(|event| family.contains(&event.process)).collect()
}

/// `previousUid`, `previousEuid`, `uid`, `euid`.
fn ids(event: &Event) -> [u64; 4] {
    [Field::PreviousUid, Field::PreviousEuid, Field::Uid, Field::Euid].map(|field| event.number(field).unwrap())
}

/// Runs it to its end.
fn run(watch: &mut Watch, command: &mut Command) -> u32 {
    let mut child = command.spawn().unwrap();
    let pid = child.id();
    watch.until("the exit", |events| has(events, pid, EventKind::Exit));
    assert!(child.wait().unwrap().success(), "{command:?}");
    pid
}

fn exists(program: &str) -> bool {
    ["/bin", "/sbin", "/usr/bin", "/usr/sbin"].iter().any(|dir| Path::new(dir).join(program).exists())
}

#[test]
fn credentials_actor() {
    let Some(part) = role() else { return };
    match &*part {
        "threads" => {
            // The system call itself: the library would tell the other threads.
            // SAFETY: the call touches no memory.
            let set = || unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, 0) };
            // SAFETY: the same.
            let back = || unsafe { libc::syscall(libc::SYS_setresuid, 0, 0, 0) };
            let thread = std::thread::spawn(move || {
                assert_eq!(set(), 0);
                assert!(Command::new("/bin/true").status().unwrap().success());
                assert_eq!(back(), 0);
                assert!(Command::new("/bin/true").status().unwrap().success());
            });
            assert!(Command::new("/bin/true").status().unwrap().success());
            thread.join().unwrap();
            std::thread::spawn(move || {
                assert_eq!(set(), 0);
                // With ids of its own, it becomes the process.
                become_program("/bin/true");
            })
            .join()
            .unwrap();
        }
        #[cfg(target_arch = "x86_64")]
        "hidden-call" => {
            // SAFETY: as setresuid(2).
            assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, 0) }, 0);
            assert_eq!(setresuid_of_32_bits(0, 0, 0), 0);
            become_program("/bin/true");
        }
        #[cfg(target_arch = "x86_64")]
        "hidden-call-then-call" => {
            // SAFETY: as setresuid(2).
            assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, 0) }, 0);
            assert_eq!(setresuid_of_32_bits(0, 0, 0), 0);
            // SAFETY: as setuid(2).
            assert_eq!(unsafe { libc::syscall(libc::SYS_setuid, 0) }, 0);
            become_program("/bin/true");
        }
        #[cfg(target_arch = "x86_64")]
        "hidden-call-then-suid" => {
            // SAFETY: as setresuid(2).
            assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, 0) }, 0);
            assert_eq!(setresuid_of_32_bits(0, 0, 0), 0);
            become_program(std::env::var_os("SUID_PROGRAM").unwrap());
        }
        "hold" => {
            std::io::stdin().read_line(&mut String::new()).unwrap();
            become_program("/bin/true");
        }
        other => panic!("no part is called {other}"),
    }
}

/// As a 32-bit program makes it, which no tracepoint tells of.
#[cfg(target_arch = "x86_64")]
fn setresuid_of_32_bits(uid: u32, euid: u32, suid: u32) -> i64 {
    const SETRESUID32: i64 = 208;
    let result: i64;
    // SAFETY: the call takes three numbers and touches no memory; the register that the compiler keeps for itself is
    // put back.
    unsafe {
        std::arch::asm!(
            "xchg {first}, rbx", "int 0x80", "xchg {first}, rbx",
            first = inout(reg) u64::from(uid) => _,
            inlateout("rax") SETRESUID32 => result,
            in("rcx") u64::from(euid), in("rdx") u64::from(suid),
            lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _,
        );
    }
    result
}

#[test]
fn programs_that_change_ids_honestly_are_nothing() {
    let mut watch = watch();
    let (_dir, dir) = open_dir();
    let suid = dir.join("suid");
    fs::copy("/usr/bin/id", &suid).unwrap();
    fs::set_permissions(&suid, fs::Permissions::from_mode(0o6755)).unwrap();
    let suid = suid.to_str().unwrap();
    let nobody = |command: &mut Command| {
        command.uid(NOBODY).gid(NOBODY);
    };
    let shell = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-ec", script]).stdout(Stdio::null()).stdin(Stdio::null());
        command
    };
    let mut roots = Vec::new();
    let mut run = |command: &mut Command| roots.push(run(&mut watch, command));
    // From root to others and back.
    run(&mut shell("su -s /bin/sh nobody -c id; su root -c id"));
    if exists("setpriv") {
        run(&mut shell("setpriv --reuid=65534 --regid=65534 --clear-groups id; setpriv --ruid=65534 id"));
    }
    if exists("sudo") {
        run(&mut shell("sudo -n true; sudo -n -u nobody id"));
    }
    if exists("newgrp") {
        run(shell("echo id | newgrp root").stderr(Stdio::null()));
    }
    // From others to root.
    let mut command = shell(&format!("{suid}; {suid} -u; ( {suid} )"));
    nobody(&mut command);
    run(&mut command);
    if exists("unshare") {
        let mut command = shell("unshare --user --map-root-user sh -c 'id; id' || true");
        nobody(&mut command);
        run(&mut command);
    }
    if exists("setcap") && exists("python3") {
        let python = dir.join("python");
        fs::copy(fs::canonicalize("/usr/bin/python3").unwrap(), &python).unwrap();
        assert!(Command::new("setcap").arg("cap_setuid+ep").arg(&python).status().unwrap().success());
        let script = format!("{} -c 'import os; os.setresuid(0, 0, 0); os.system(\"id\")'", python.display());
        let mut command = shell(&script);
        nobody(&mut command);
        run(&mut command);
    }
    run(&mut actor("credentials_actor", "threads"));
    for root in roots {
        assert!(changes(&watch, root).is_empty(), "{:?}", changes(&watch, root));
    }
    assert_eq!(watch.probe.lost(EventKind::Credentials).unwrap(), 0);
}

#[test]
fn containers_are_nothing() {
    if !exists("runc") || !exists("busybox") {
        return not_offered("runc", "runc and busybox-static of Debian");
    }
    let (_dir, dir) = open_dir();
    fs::create_dir_all(dir.join("rootfs/bin")).unwrap();
    fs::create_dir_all(dir.join("rootfs/proc")).unwrap();
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists()).unwrap();
    fs::copy(busybox, dir.join("rootfs/bin/sh")).unwrap();
    assert!(Command::new("runc").args(["spec"]).current_dir(&dir).status().unwrap().success());
    let spec = fs::read_to_string(dir.join("config.json")).unwrap();
    let spec = spec.replace("\"terminal\": true", "\"terminal\": false").replace("\"uid\": 0", "\"uid\": 1000");
    let name = format!("sls-credentials-{}", std::process::id());
    fs::write(dir.join("config.json"), spec).unwrap();
    let mut watch = watch();
    let mut command = Command::new("runc");
    command.args(["run", &name]).current_dir(&dir).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let pid = child.id();
    watch.until("the end of the container", |events| has(events, pid, EventKind::Exit));
    let status = child.wait().unwrap();
    drop(Command::new("runc").args(["delete", "--force", &name]).stderr(Stdio::null()).status());
    if !status.success() {
        return without("runc", "containers: runc does not run here");
    }
    let inside = |event: &Event| event.kind == EventKind::Exec && event.number(Field::Uid) == Some(1000);
    assert!(watch.events.iter().any(inside), "the container's program is another user's");
    assert!(changes(&watch, pid).is_empty(), "{:?}", changes(&watch, pid));
}

/// The kernel does change the ids. The tracepoints of system calls do not see how, as with an exploit.
#[cfg(target_arch = "x86_64")]
#[test]
fn rise_by_a_call_that_is_not_seen_is_told_once() {
    let (_dir, dir) = open_dir();
    let suid = dir.join("suid");
    fs::copy("/bin/true", &suid).unwrap();
    fs::set_permissions(&suid, fs::Permissions::from_mode(0o4755)).unwrap();
    let mut watch = watch();
    // Neither a call of its own nor a set-id program hides it afterwards.
    for part in ["hidden-call", "hidden-call-then-call", "hidden-call-then-suid"] {
        watch.events.clear();
        let pid = run(&mut watch, actor("credentials_actor", part).env("SUID_PROGRAM", &suid));
        let seen: Vec<_> = watch.of(pid).into_iter().filter(|event| event.kind == EventKind::Credentials).collect();
        if family() == HookFamily::Trampoline {
            assert!(seen.is_empty(), "the kernel checked the call: {seen:?}");
        } else {
            assert_eq!(seen.iter().map(|event| ids(event)).collect::<Vec<_>>(), [[NOBODY.into(), NOBODY.into(), 0, 0]]);
        }
        assert_eq!(changes(&watch, pid).len(), seen.len());
    }
}

fn known_maps() -> Vec<MapHandle> {
    let maps = MapInfoIter::default().filter(|map| map.name == KNOWN);
    maps.filter_map(|map| MapHandle::from_map_id(map.id).ok()).collect()
}

fn is_known(pid: u32) -> bool {
    known_maps().iter().any(|map| map.lookup(&pid.to_ne_bytes(), MapFlags::ANY).unwrap().is_some())
}

/// Has the sensor believe that a thread came by these ids only.
fn believe(pid: u32, uid: u32, euid: u32) {
    let mut found = false;
    for map in known_maps() {
        let Some(mut ids) = map.lookup(&pid.to_ne_bytes(), MapFlags::ANY).unwrap() else { continue };
        // `struct ids`.
        ids[8..12].copy_from_slice(&uid.to_ne_bytes());
        ids[12..16].copy_from_slice(&euid.to_ne_bytes());
        map.update(&pid.to_ne_bytes(), &ids, MapFlags::EXIST).unwrap();
        found = true;
    }
    assert!(found, "{pid} is not known");
}

fn shell_that_waits(script: &str) -> Child {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("read line; {script}")]).stdin(Stdio::piped()).stdout(Stdio::null());
    command.spawn().unwrap()
}

/// Nothing here can change ids without a call, so what is remembered is changed: the comparison is real, the exploit is not.
#[test]
fn with_what_is_remembered_changed_each_place_of_comparison_tells_once() {
    let mut watch = watch();
    let uid = NOBODY;
    for (script, before, place) in [
        ("exec /bin/true", [uid, uid], "exec"),
        ("exec /bin/true", [0, uid], "exec, the effective id alone"),
        ("/bin/true; /bin/true; exit 0", [uid, uid], "fork"),
        ("exit 0", [uid, 0], "exit"),
    ] {
        watch.events.clear();
        let mut child = shell_that_waits(script);
        let pid = child.id();
        watch.until("the exec", |events| has(events, pid, EventKind::Exec));
        believe(pid, before[0], before[1]);
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        watch.until("the exit", |events| has(events, pid, EventKind::Exit));
        assert!(child.wait().unwrap().success());
        let seen = changes(&watch, pid);
        let told: Vec<_> = seen.iter().filter(|event| event.process.pid == pid).map(|event| ids(event)).collect();
        assert_eq!(told, [[before[0].into(), before[1].into(), 0, 0]], "{place}");
        assert_eq!(seen.len(), 1, "{place}: children inherit no suspicion: {seen:?}");
    }
}

#[test]
fn with_what_is_remembered_changed_giving_up_ids_is_nothing() {
    let mut watch = watch();
    let mut child =
        Command::new("sh").args(["-c", "read line; exit 0"]).uid(NOBODY).stdin(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    watch.until("the exec", |events| has(events, pid, EventKind::Exec));
    believe(pid, 0, 0);
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    watch.until("the exit", |events| has(events, pid, EventKind::Exit));
    child.wait().unwrap();
    assert!(changes(&watch, pid).is_empty(), "{:?}", changes(&watch, pid));
}

#[test]
fn processes_that_ran_before_are_known_and_those_that_end_are_forgotten() {
    let mut before = shell_that_waits("exec /bin/true");
    let mut watch = watch();
    let pid = before.id();
    assert!(is_known(pid) && is_known(std::process::id()));
    believe(pid, NOBODY, NOBODY);
    before.stdin.take().unwrap().write_all(b"go\n").unwrap();
    watch.until("the exit", |events| has(events, pid, EventKind::Exit));
    assert!(before.wait().unwrap().success());
    assert!(has(&watch.events, pid, EventKind::Credentials));
    let ended: Vec<u32> = (0..200).map(|_| run(&mut watch, &mut Command::new("/bin/true"))).collect();
    assert!(!ended.into_iter().chain([pid]).any(is_known));
}

#[test]
fn what_is_remembered_does_not_outlive_the_watch() {
    let mut watch = watch();
    let ids = || known_maps().into_iter().map(|map| map.info().unwrap().info.id).collect::<Vec<_>>();
    let mut child = shell_that_waits("exec /bin/true");
    let pid = child.id();
    watch.until("the exec", |events| has(events, pid, EventKind::Exec));
    let first = ids();
    watch.probe.set_interest(Interest::default()).unwrap();
    watch.probe.set_interest(wanted()).unwrap();
    assert!(ids().iter().any(|id| !first.contains(id)), "a new map");
    assert!(is_known(pid));
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    watch.until("the exit", |events| has(events, pid, EventKind::Exit));
    assert!(child.wait().unwrap().success());
    assert!(changes(&watch, pid).is_empty());
}

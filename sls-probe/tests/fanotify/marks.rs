//! What is watched, and what is not.

use std::fs;
use std::time::{Duration, Instant};

use sls_core::Field;
use sls_probe::{Fanotify, FanotifyWatch, MAX_MOUNT_NAMESPACES, WatchScope};

use crate::common::patience;
use crate::support::{BLOCKED, FINE, Launcher, Ran, Room, deny_if, mount_tmpfs, offered, patient};

fn file(room: &Room, name: &str) -> FanotifyWatch {
    FanotifyWatch::exec(WatchScope::File(room.join(name)))
}

/// Tries until it is blocked.
fn is_blocked_soon(launcher: &Launcher, program: &std::path::Path) {
    let deadline = Instant::now() + patience();
    while launcher.run(program, &[]) != BLOCKED {
        assert!(Instant::now() < deadline, "{} is never watched", program.display());
    }
}

#[test]
fn nothing_is_asked_where_no_policy_looks() {
    if !offered() {
        return;
    }
    let (room, launcher) = (Room::new(), Launcher::start());
    let (watched, other) = (room.program("watched/true"), room.program("watched/false"));
    let fanotify = patient().start(deny_if(|_| true)).unwrap();
    fanotify.watch(&[file(&room, "watched/true")]);
    assert_eq!(launcher.run(&other, &[]), Ran::Exited(1));
    assert_eq!(fanotify.stats().questions, 0);
    assert_eq!(launcher.run(&watched, &[]), BLOCKED);
}

#[test]
fn marks_follow_the_policies() {
    if !offered() {
        return;
    }
    let (room, launcher) = (Room::new(), Launcher::start());
    let (one, two) = (room.program("one/true"), room.program("two/true"));
    let fanotify = patient().start(deny_if(|_| true)).unwrap();
    let both = [file(&room, "one/true"), file(&room, "two/true")];
    for (watches, expected) in
        [(&both[..1], [BLOCKED, FINE]), (&both[..], [BLOCKED, BLOCKED]), (&both[1..], [FINE, BLOCKED])]
    {
        fanotify.watch(watches);
        assert_eq!([launcher.run(&one, &[]), launcher.run(&two, &[])], expected);
    }
    fanotify.watch(&room.watch());
    assert_eq!(launcher.run(&one, &[]), BLOCKED);
    let before = fanotify.stats().questions;
    fanotify.watch(&[]);
    assert_eq!([launcher.run(&one, &[]), launcher.run(&two, &[])], [FINE, FINE]);
    assert_eq!(fanotify.stats().questions, before);
}

#[test]
fn what_takes_the_place_of_a_file_is_watched() {
    if !offered() {
        return;
    }
    let (room, launcher) = (Room::new(), Launcher::start());
    let path = room.join("later/program/true");
    let wanted = path.clone();
    let fanotify = patient()
        .start(deny_if(move |event| event.text(Field::ProgramName) == wanted.as_os_str().as_encoded_bytes()))
        .unwrap();
    // Neither it nor its directory is there yet.
    fanotify.watch(&[file(&room, "later/program/true")]);
    room.program("later/program/true");
    is_blocked_soon(&launcher, &path);
    // Replaced by rename, as package managers do.
    fs::rename(room.program("other/true"), &path).unwrap();
    is_blocked_soon(&launcher, &path);
    // Its directory, too.
    fs::rename(room.join("later"), room.join("before")).unwrap();
    room.program("later/program/true");
    is_blocked_soon(&launcher, &path);
    // A file system is mounted over it.
    mount_tmpfs(&room.join("later"));
    fs::create_dir(room.join("later/program")).unwrap();
    room.program("later/program/true");
    is_blocked_soon(&launcher, &path);
    nix::mount::umount2(&room.join("later"), nix::mount::MntFlags::MNT_DETACH).unwrap();
}

#[test]
fn new_mounts_below_are_watched() {
    if !offered() {
        return;
    }
    let (room, launcher) = (Room::new(), Launcher::start());
    let fanotify = patient().start(deny_if(|event| event.text(Field::ProgramName).ends_with(b"/new/true"))).unwrap();
    fanotify.watch(&room.watch());
    fs::create_dir(room.join("new")).unwrap();
    mount_tmpfs(&room.join("new"));
    let program = room.program("new/true");
    is_blocked_soon(&launcher, &program);
    nix::mount::umount2(&room.join("new"), nix::mount::MntFlags::MNT_DETACH).unwrap();
}

#[test]
fn files_of_other_mount_namespaces_are_watched() {
    if !offered() {
        return;
    }
    let (room, launcher) = (Room::new(), Launcher::start());
    room.program("kept/true");
    fs::create_dir(room.join("own")).unwrap();
    // As a container: its own file system, and nothing of it outside.
    let script = |then: &str| {
        let room = room.path();
        let room = room.display();
        format!(
            "unshare -m sh -c 'mount -t tmpfs none {room}/own && cp {room}/kept/true {room}/own/true && : > {room}/ready && \
             while [ ! -e {room}/go ]; do sleep 0.01; done; {then}'"
        )
    };
    for (scope, told) in [
        (WatchScope::File(room.join("own/true")), false),
        (WatchScope::Under(room.join("own")), false),
        (WatchScope::File(room.join("own/true")), true),
    ] {
        let _ = (fs::remove_file(room.join("ready")), fs::remove_file(room.join("go")));
        let fanotify =
            patient().start(deny_if(|event| event.text(Field::ProgramName).ends_with(b"/own/true"))).unwrap();
        if told {
            fanotify.watch(&[FanotifyWatch::exec(scope.clone())]);
        }
        std::thread::scope(|threads| {
            let script = script(&format!("{}/own/true", room.path().display()));
            let run = threads.spawn({
                let launcher = &launcher;
                move || launcher.shell(&script)
            });
            let deadline = Instant::now() + patience();
            while !room.join("ready").exists() {
                assert!(Instant::now() < deadline);
                std::thread::sleep(Duration::from_millis(1));
            }
            if told {
                // As the first event of a new namespace would.
                let pid = namespace_process(&room.join("own/true"));
                fanotify.see_namespace_of(pid);
                while fanotify.stats().namespaces_seen == 0 {
                    assert!(Instant::now() < deadline);
                    std::thread::sleep(Duration::from_millis(1));
                }
            } else {
                fanotify.watch(&[FanotifyWatch::exec(scope.clone())]);
            }
            fs::write(room.join("go"), "").unwrap();
            // The shell tells that it may not.
            assert_eq!(run.join().unwrap(), Ran::Exited(126), "{scope:?} {told}");
        });
    }
}

#[test]
fn namespaces_without_room_are_counted() {
    if !offered() {
        return;
    }
    let fanotify = patient().start(deny_if(|_| false)).unwrap();
    let deadline = Instant::now() + patience();
    while fanotify.stats().namespaces_dropped == 0 {
        assert!(Instant::now() < deadline, "{:?}", fanotify.stats());
        fanotify.see_namespace_of(std::process::id());
    }
    assert_eq!(fanotify.stats().namespaces_forgotten, 0);

    let launcher = Launcher::start();
    let room = Room::new();
    let script = format!(
        "i=0; while [ $i -lt {} ]; do unshare -m sh -c ': > {room}/ready; while [ ! -e {room}/go ]; do sleep 1; done' & \
         i=$((i+1)); done; wait",
        MAX_MOUNT_NAMESPACES + 8,
        room = room.path().display()
    );
    std::thread::scope(|threads| {
        let run = threads.spawn(|| launcher.shell(&script));
        let deadline = Instant::now() + patience();
        while fanotify.stats().namespaces_forgotten == 0 {
            if Instant::now() >= deadline {
                break;
            }
            // Whatever is watched, it looks for namespaces then.
            fanotify.watch(&[FanotifyWatch::exec(WatchScope::File(room.join("nothing")))]);
            std::thread::sleep(Duration::from_millis(100));
        }
        fs::write(room.join("go"), "").unwrap();
        assert_eq!(run.join().unwrap(), Ran::Exited(0));
    });
    assert!(fanotify.stats().namespaces_forgotten > 0);
}

/// A process that has a file which this one has not.
fn namespace_process(path: &std::path::Path) -> u32 {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|pid| fs::metadata(format!("/proc/{pid}/root{}", path.display())).is_ok()).unwrap()
}

#[test]
fn file_systems_of_the_kernel_are_left_out() {
    if !offered() {
        return;
    }
    let launcher = Launcher::start();
    let fanotify = Fanotify::builder().start(deny_if(|_| true)).unwrap();
    let mut watch = FanotifyWatch::open(WatchScope::Under("/proc".into()));
    watch.exec = true;
    fanotify.watch(&[watch]);
    // They are read while an operation waits.
    assert_eq!(launcher.run("/bin/cat", &["/proc/self/status"]), FINE);
    assert_eq!(fanotify.stats().questions, 0);
}

#[test]
fn what_finds_no_room_among_the_marks_is_told() {
    if !offered() {
        return;
    }
    let room = Room::new();
    let files = sls_probe::MAX_MARKS + 1;
    let watches: Vec<_> = (0..files)
        .map(|number| {
            let name = number.to_string();
            fs::write(room.join(&name), "").unwrap();
            file(&room, &name)
        })
        .collect();
    let fanotify = Fanotify::builder().start(deny_if(|_| false)).unwrap();
    fanotify.watch(&watches);
    let unwatched = fanotify.unwatched();
    assert_eq!(unwatched.len(), 1, "{unwatched:?}");
    assert!(unwatched[0].reason.contains("more than"), "{unwatched:?}");
    // There is room again.
    fanotify.watch(&watches[1..]);
    assert!(fanotify.unwatched().is_empty());
}

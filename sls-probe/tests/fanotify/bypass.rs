//! Ways around a rule about the path of a program, tried on the real kernel. What they are, and which of them a rule withstands,
//! is in the table of the crate's README, which is compared with what happens here.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::mount::{MsFlags, mount};
use nix::sys::memfd::{MFdFlags, memfd_create};
use sls_core::{Event, Field, Value};
use sls_probe::{Fanotify, FanotifyWatch, WatchScope};

use crate::common::{emulated, not_offered};
use crate::support::{Launcher, Room, deny_if, offered, patient};

/// Tries of what depends on the moment.
const RACES: usize = 300;

/// How the table says what happened.
const YES: &str = "yes";
const NO: &str = "no";

const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";

/// Marks the table in the README.
const HEADER: &str = "| way around | path, below a directory | path of one file | inode and device |";

/// A program that is blocked, in a file system of its own.
struct Target {
    room: Room,
    launcher: Launcher,
    /// Leaves a file behind when it is told to.
    program: PathBuf,
    /// The same, loaded by `ld.so`.
    linked: PathBuf,
    /// The same, as a script.
    script: PathBuf,
    trace: PathBuf,
}

impl Target {
    fn new() -> Self {
        let room = Room::new();
        let program = room.program("blocked/busybox-touch");
        let linked = room.join("blocked/linked");
        fs::copy("/usr/bin/touch", &linked).unwrap();
        let trace = room.join("trace");
        let script = room.script("blocked/script", &format!("#!/bin/sh\n: > {}\n", trace.display()));
        Self { launcher: Launcher::start(), room, program, linked, script, trace }
    }

    fn blocked(&self) -> [&PathBuf; 3] {
        [&self.program, &self.linked, &self.script]
    }

    /// Runs what may be a name of the program.
    fn run(&self, program: impl AsRef<Path>) {
        self.launcher.run(program, &["touch", self.trace.to_str().unwrap()]);
    }

    fn shell(&self, script: &str) {
        let script = script
            .replace("PROGRAM", self.program.to_str().unwrap())
            .replace("TRACE", self.trace.to_str().unwrap())
            .replace("ROOM", self.room.path().to_str().unwrap());
        self.launcher.shell(&script);
    }

    fn play(&self, part: &str) {
        let (program, trace, room) = (self.program.display(), self.trace.display(), self.room.path());
        self.launcher.play(&format!("{part} {program} {trace} {}", room.display()));
    }

    /// Whether the program ran. Forgets it.
    fn ran(&self) -> bool {
        fs::remove_file(&self.trace).is_ok()
    }
}

/// What is tried.
struct Attack {
    name: &'static str,
    /// What is seen of each kind of rule.
    withstood: [&'static str; 3],
    try_it: fn(&Target),
}

const fn attack(name: &'static str, withstood: [&'static str; 3], try_it: fn(&Target)) -> Attack {
    Attack { name, withstood, try_it }
}

const ATTACKS: &[Attack] = &[
    attack("none: the program by its path", [YES, YES, YES], |target| target.run(&target.program)),
    attack("symbolic link", [YES, YES, YES], |target| {
        let link = target.room.join("busybox-link");
        std::os::unix::fs::symlink(&target.program, &link).unwrap();
        target.run(link);
    }),
    attack("`..` in the path", [YES, YES, YES], |target| {
        target.run(target.room.join("blocked/../blocked/./busybox-touch"));
    }),
    attack("`/proc/self/root`", [YES, YES, YES], |target| {
        target.run(format!("/proc/self/root{}", target.program.display()));
    }),
    attack("hard link", [NO, NO, YES], |target| {
        let link = target.room.join("busybox-other");
        fs::hard_link(&target.program, &link).unwrap();
        target.run(link);
    }),
    attack("rename before", [NO, NO, YES], |target| {
        let name = target.room.join("busybox-renamed");
        fs::rename(&target.program, &name).unwrap();
        target.run(&name);
        fs::rename(&name, &target.program).unwrap();
    }),
    attack("copy", [NO, NO, NO], |target| {
        let name = target.room.join("busybox-copy");
        fs::copy(&target.program, &name).unwrap();
        target.run(name);
    }),
    attack("bind mount", [NO, NO, YES], |target| {
        let other = target.room.join("bound");
        fs::create_dir_all(&other).unwrap();
        let from = target.program.parent().unwrap();
        mount(Some(from), &other, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        target.run(other.join("busybox-touch"));
        nix::mount::umount2(&other, nix::mount::MntFlags::MNT_DETACH).unwrap();
    }),
    attack("memfd", [NO, NO, NO], |target| target.play("memfd")),
    attack("`execveat` with `AT_EMPTY_PATH`", [YES, YES, YES], |target| target.play("empty-path")),
    attack("`/proc/self/fd`", [YES, YES, YES], |target| target.play("proc-fd")),
    attack("as the interpreter of a script", [YES, YES, YES], |target| {
        let text = format!("#!{} sh\n: > {}\n", target.program.display(), target.trace.display());
        target.run(target.room.script("by-script", &text));
    }),
    attack("script, run by its path", [YES, YES, YES], |target| target.run(&target.script)),
    attack("script, handed to its interpreter", [NO, NO, NO], |target| {
        target.launcher.run("/bin/sh", &[target.script.to_str().unwrap()]);
    }),
    attack("`ld.so` as launcher", [NO, YES, NO], |target| {
        target.launcher.run(LOADER, &[target.linked.to_str().unwrap(), target.trace.to_str().unwrap()]);
    }),
    attack("a copy of `ld.so` by another name", [NO, NO, NO], |target| {
        let copy = target.room.join("other-name");
        fs::copy(LOADER, &copy).unwrap();
        target.launcher.run(copy, &[target.linked.to_str().unwrap(), target.trace.to_str().unwrap()]);
    }),
    attack("chroot", [YES, YES, YES], |target| target.play("chroot")),
    attack("another mount namespace", [YES, YES, YES], |target| target.shell("unshare -m PROGRAM touch TRACE")),
    attack("another mount namespace and a bind mount in it", [NO, NO, YES], |target| {
        target.shell("unshare -m sh -c 'mount --bind ROOM/blocked /mnt && exec /mnt/busybox-touch touch TRACE'");
    }),
    attack("a new file system over the path, in another mount namespace", [NO, NO, NO], |target| {
        target.shell(
            "mkdir ROOM/kept; cp PROGRAM ROOM/kept; unshare -m sh -c \
             'mount -t tmpfs none ROOM/blocked && cp ROOM/kept/* ROOM/blocked && exec PROGRAM touch TRACE'",
        );
    }),
];

/// How a rule names the program, and so what is watched for it.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Below,
    OneFile,
    Identity,
}

const KINDS: [Kind; 3] = [Kind::Below, Kind::OneFile, Kind::Identity];

fn guard(target: &Target, kind: Kind) -> Fanotify {
    let paths = target.blocked().map(Clone::clone);
    let identities = paths.each_ref().map(|path| fs::metadata(path).map(|meta| (meta.ino(), meta.dev())).unwrap());
    let by_path = matches!(kind, Kind::Below | Kind::OneFile);
    let fanotify = patient()
        .start(deny_if(move |event| match by_path {
            true => paths.iter().any(|path| is_called(event, path)),
            false => {
                let identity = (event.number(Field::ProgramInode), event.number(Field::ProgramDevice));
                // Of a script the path is all that is told.
                identities.iter().any(|(inode, device)| identity == (Some(*inode), Some(*device)))
                    || is_called(event, &paths[2])
            }
        }))
        .unwrap();
    match kind {
        Kind::Below | Kind::Identity => fanotify.watch(&target.room.watch()),
        Kind::OneFile => {
            fanotify.watch(&target.blocked().map(|path| FanotifyWatch::exec(WatchScope::File(path.clone()))));
        }
    }
    assert!(fanotify.unwatched().is_empty(), "{:?}", fanotify.unwatched());
    fanotify
}

fn is_called(event: &Event, path: &Path) -> bool {
    let path = path.as_os_str().as_encoded_bytes();
    event.text(Field::ProgramName) == path || event.text(Field::ScriptName) == path
}

#[test]
fn table_says_what_is_withstood() {
    if !offered() {
        return;
    }
    if !Path::new(LOADER).exists() {
        return not_offered("ld-linux-x86-64", "x86-64");
    }
    let (mut rows, mut wrong) = (Vec::new(), Vec::new());
    for attack in ATTACKS {
        let results = KINDS.map(|kind| {
            let target = Target::new();
            // It is one that works.
            (attack.try_it)(&target);
            assert!(target.ran(), "{} does nothing", attack.name);
            let target = Target::new();
            let fanotify = guard(&target, kind);
            (attack.try_it)(&target);
            let ran = target.ran();
            assert_eq!(fanotify.stats().late, 0);
            if ran { NO } else { YES }
        });
        wrong.extend((results != attack.withstood).then_some((attack.name, results)));
        rows.push(format!("| {} | {} |", attack.name, results.join(" | ")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let readme = include_str!("../../README.md");
    let table: Vec<&str> = readme.lines().skip_while(|line| *line != HEADER).skip(2).collect();
    let table: Vec<&str> = table.into_iter().take_while(|line| line.starts_with('|')).collect();
    assert_eq!(table, rows, "the table in the README is not what happens:\n{}", rows.join("\n"));
}

#[test]
fn memfds_can_be_watched_where_the_kernel_lets_them() {
    if !offered() {
        return;
    }
    let target = Target::new();
    let fanotify = patient().start(deny_if(|event| event.value(Field::ProgramIsMemfd) == Value::Bool(true))).unwrap();
    fanotify.watch(&[FanotifyWatch::exec(WatchScope::Memfd)]);
    let unwatched = fanotify.unwatched();
    target.play("memfd");
    let withstood = !target.ran();
    // It says so where it cannot.
    assert_eq!(withstood, unwatched.is_empty(), "{unwatched:?}");
    if !withstood {
        not_offered("fanotify-memfd", "marks on the kernel's own file systems");
    }
}

/// The file that the verdict is about is the one that runs, whatever its name leads to meanwhile.
#[test]
fn rename_between_check_and_use_changes_nothing() {
    if !offered() {
        return;
    }
    let target = Target::new();
    let other = target.room.program("other/busybox-true");
    let fanotify = guard(&target, Kind::Identity);
    let stop = AtomicBool::new(false);
    let runs = if emulated() { RACES / 30 } else { RACES };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // The blocked program and one that is not change places.
            while !stop.load(Ordering::Relaxed) {
                let exchange = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(rustix::fs::CWD, &target.program, rustix::fs::CWD, &other, exchange).unwrap();
            }
        });
        let refused = target.launcher.run_often(runs, &target.program, &["touch", target.trace.to_str().unwrap()]);
        stop.store(true, Ordering::Relaxed);
        assert!(refused > 0 && refused < runs, "{refused} of {runs}: they did not change places");
        // Both are the same program: so each run that was not refused left a trace, and was of the other.
        assert_eq!(fanotify.stats().denied, refused as u64);
        assert_eq!(fanotify.stats().late, 0);
    });
}

pub(crate) fn play(part: &str, rest: &str) -> ! {
    let words: Vec<&str> = rest.split(' ').collect();
    let (program, trace, room) = (words[0], words[1], words[2]);
    let execute = |file: &File, flags: i32| -> ! {
        let trace = std::ffi::CString::new(trace).unwrap();
        let argv = [c"busybox-touch".as_ptr(), c"touch".as_ptr(), trace.as_ptr(), std::ptr::null()];
        let envp: [*const libc::c_char; 1] = [std::ptr::null()];
        let path = std::ffi::CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
        // SAFETY: all strings and arrays end as they must, and outlive the calls.
        unsafe {
            if flags == 0 {
                libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr());
            } else {
                libc::syscall(
                    libc::SYS_execveat,
                    file.as_raw_fd(),
                    c"".as_ptr(),
                    argv.as_ptr(),
                    envp.as_ptr(),
                    libc::AT_EMPTY_PATH,
                );
            }
        }
        std::process::exit(1);
    };
    match part {
        "memfd" => {
            let mut memfd = File::from(memfd_create(c"program", MFdFlags::empty()).unwrap());
            std::io::copy(&mut File::open(program).unwrap(), &mut memfd).unwrap();
            // A file that is open for writing cannot be executed.
            let file = File::open(format!("/proc/self/fd/{}", memfd.as_raw_fd())).unwrap();
            drop(memfd);
            execute(&file, libc::AT_EMPTY_PATH);
        }
        "empty-path" => execute(&File::open(program).unwrap(), libc::AT_EMPTY_PATH),
        "proc-fd" => execute(&File::open(program).unwrap(), 0),
        "chroot" => {
            nix::unistd::chroot(room).unwrap();
            std::env::set_current_dir("/").unwrap();
            let inside = |path: &str| path.strip_prefix(room).unwrap().to_owned();
            use std::os::unix::process::CommandExt;
            let _ = std::process::Command::new(inside(program)).args(["touch", &inside(trace)]).exec();
            std::process::exit(1);
        }
        other => panic!("no part is called {other}"),
    }
}

//! Every way around the name of a program, tried against a policy that kills it.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{AtFlags, OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;
use nix::unistd::{chroot, execveat};

use crate::common::{actor, become_program, open_dir, role};
use crate::victim::{self, Marks};
use crate::{KILLED, enforcing, killing, program};

/// How often a rename is tried in between.
const RACES: usize = 300;

/// What a child does to execute the file at `path` so that it is not known.
#[test]
fn bypass_actor() {
    let Some(part) = role() else { return };
    let (part, path) = part.rsplit_once(" /").unwrap();
    let path = &Path::new("/").join(path);
    let directory = path.parent().unwrap();
    match part {
        "/proc/self/root" => become_program(Path::new("/proc/self/root").join(path.strip_prefix("/").unwrap())),
        "relative path" => {
            std::env::set_current_dir(directory).unwrap();
            become_program(Path::new(".").join(path.file_name().unwrap()));
        }
        "execveat(AT_EMPTY_PATH)" => {
            let file = open(path, OFlag::O_PATH, Mode::empty()).unwrap();
            execute_at(file.as_fd(), "", AtFlags::AT_EMPTY_PATH);
        }
        "execveat in a directory" => {
            let file = open(directory, OFlag::O_DIRECTORY, Mode::empty()).unwrap();
            execute_at(file.as_fd(), path.file_name().unwrap().to_str().unwrap(), AtFlags::empty());
        }
        "/proc/self/fd" => {
            let file = File::open(path).unwrap();
            nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
            become_program(format!("/proc/self/fd/{}", file.as_raw_fd()));
        }
        "memfd" => {
            let file = File::from(memfd_create(c"payload", MFdFlags::MFD_CLOEXEC).unwrap());
            (&file).write_all(&fs::read(path).unwrap()).unwrap();
            execute_at(file.as_fd(), "", AtFlags::AT_EMPTY_PATH);
        }
        "bind mount" => {
            private_mounts();
            let other = directory.join("bound");
            File::create(&other).unwrap();
            mount(Some(path), &other, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
            become_program(other);
        }
        "bind mount of the directory" => {
            private_mounts();
            let other = directory.join("bound");
            fs::create_dir(&other).unwrap();
            mount(Some(directory), &other, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
            become_program(other.join(path.file_name().unwrap()));
        }
        "mount namespace" => {
            private_mounts();
            // The directory is hidden, and its content is somewhere else.
            let other = Path::new("/mnt");
            mount(Some(directory), other, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
            mount(Some("none"), directory, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
            become_program(other.join(path.file_name().unwrap()));
        }
        "chroot" => {
            chroot(directory).unwrap();
            std::env::set_current_dir("/").unwrap();
            become_program(Path::new("/").join(path.file_name().unwrap()));
        }
        "deleted name" => {
            let file = open(path, OFlag::O_PATH, Mode::empty()).unwrap();
            fs::remove_file(path).unwrap();
            execute_at(file.as_fd(), "", AtFlags::AT_EMPTY_PATH);
        }
        other => panic!("no part is called {other}"),
    }
}

fn private_mounts() {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
}

fn execute_at(directory: std::os::fd::BorrowedFd<'_>, name: &str, flags: AtFlags) -> ! {
    let name = CString::new(name).unwrap();
    let error = execveat(directory, &name, &[c"program"], &[] as &[CString], flags).unwrap_err();
    panic!("execveat: {error}");
}

/// A way, and whether the victim wrote nothing and was killed.
type Way = (&'static str, Attempt);

/// With the victim, its directory, and where it writes.
type Attempt = Box<dyn Fn(&Path, &Path, &Marks) -> bool>;

fn killed(command: &mut Command, marks: &Marks) -> bool {
    let before = marks.count();
    let status = command.stdout(marks.stdout()).status().unwrap();
    let killed = status.signal() == KILLED;
    assert_eq!(killed, marks.count() == before, "{command:?} {status}");
    killed
}

fn linked(link: impl Fn(&Path, &Path) -> std::io::Result<()> + 'static) -> Attempt {
    Box::new(move |victim, dir, marks| {
        let other = dir.join("other");
        link(victim, &other).unwrap();
        killed(&mut Command::new(other), marks)
    })
}

fn played(part: &'static str) -> Way {
    let way = move |victim: &Path, _: &Path, marks: &Marks| {
        killed(&mut actor("bypass::bypass_actor", &format!("{part} {}", victim.display())), marks)
    };
    (part, Box::new(way))
}

fn ways() -> Vec<Way> {
    vec![
        ("its own path", Box::new(|victim, _, marks| killed(&mut Command::new(victim), marks))),
        ("symbolic link", linked(|victim, other| symlink(victim, other))),
        ("hard link", linked(|victim, other| fs::hard_link(victim, other))),
        (
            "renamed",
            linked(|victim, other| {
                fs::rename(victim, other)?;
                // Long enough for whoever looks which file has the name now.
                std::thread::sleep(std::time::Duration::from_millis(200));
                Ok(())
            }),
        ),
        (
            "`..`",
            Box::new(|victim, dir, marks| {
                let around = dir.join("..").join(dir.file_name().unwrap()).join(victim.file_name().unwrap());
                killed(&mut Command::new(around), marks)
            }),
        ),
        played("relative path"),
        played("/proc/self/root"),
        played("/proc/self/fd"),
        played("execveat(AT_EMPTY_PATH)"),
        played("execveat in a directory"),
        played("deleted name"),
        played("bind mount"),
        played("bind mount of the directory"),
        played("mount namespace"),
        played("chroot"),
        ("rename between check and use", Box::new(raced)),
        (
            "interpreter of a script",
            Box::new(|victim, dir, marks| {
                let script = victim::script(dir, victim);
                killed(&mut Command::new(script), marks)
            }),
        ),
        (
            "launched by ld.so",
            Box::new(|victim, _, marks| {
                // The loader takes position-independent programs only: it maps a copy of a real one that is named like the victim.
                victim::copy("/bin/echo", victim).unwrap();
                killed(Command::new(loader()).arg(victim).arg("-n").arg("\u{7f}"), marks)
            }),
        ),
        ("copy", linked(|victim, other| victim::copy(victim, other))),
        played("memfd"),
    ]
}

/// Whoever renames the file while it is executed does not get it executed.
fn raced(victim: &Path, dir: &Path, marks: &Marks) -> bool {
    let (other, harmless) = (dir.join("other"), dir.join("harmless"));
    victim::copy("/bin/true", &harmless).unwrap();
    let done = AtomicBool::new(false);
    let before = marks.count();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let exchange = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
                nix::fcntl::renameat2(nix::fcntl::AT_FDCWD, victim, nix::fcntl::AT_FDCWD, &harmless, exchange).unwrap();
                let _ = fs::rename(&harmless, &other);
                let _ = fs::rename(&other, &harmless);
            }
        });
        for _ in 0..RACES {
            for path in [victim, &other, &harmless] {
                // It may be nowhere just now.
                let _ = Command::new(path).stdout(marks.stdout()).status();
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    marks.count() == before
}

fn loader() -> PathBuf {
    let names = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"];
    names.iter().map(PathBuf::from).find(|path| path.exists()).unwrap()
}

/// The rows of the table in the README, each with whether a policy that names the path holds, and one that asks for memfds too.
fn documented() -> BTreeMap<String, bool> {
    let readme = include_str!("../../README.md");
    let table = readme.split("| way around the name |").nth(1).expect("the table");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        (cells[1].to_owned(), cells[2].starts_with("killed"))
    })
    .collect()
}

#[test]
fn each_bypass_does_what_the_readme_says() {
    let mut found = BTreeMap::new();
    for (name, way) in ways() {
        let (_dir, dir) = open_dir();
        let marks = Marks::new(&dir);
        let victim = victim::write(&dir, "victim");
        let _watch = enforcing(&killing("Victims", &program(&victim)));
        let held = way(&victim, &dir, &marks);
        println!("| {name} | {} |", if held { "killed" } else { "not seen" });
        found.insert(name.to_owned(), held);
    }
    assert_eq!(found, documented());
}

#[test]
fn what_has_no_name_is_known_by_that() {
    let (_dir, dir) = open_dir();
    let marks = Marks::new(&dir);
    let victim = victim::write(&dir, "victim");
    let _watch = enforcing(&killing("Nameless", "programIsMemfd == true or programIsDeleted == true"));
    assert!(!killed(&mut Command::new(&victim), &marks));
    for part in ["memfd", "deleted name"] {
        assert!(killed(&mut actor("bypass::bypass_actor", &format!("{part} {}", victim.display())), &marks), "{part}");
    }
}

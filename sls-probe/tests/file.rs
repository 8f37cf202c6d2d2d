//! What file events say about what real processes do. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, chroot, fchown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use common::{Watch, family, not_offered, open_dir, text, without};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use sls_core::{Event, EventKind, Field, Interest, PolicySet, Value};
use sls_probe::{HookFamily, Probe};

/// The probe of most tests. Loading one takes longer than all of them.
static SHARED: Mutex<Option<Watch>> = Mutex::new(None);

/// A directory of its own, and what is told of it.
struct Scene {
    watch: Shared,
    path: PathBuf,
    marks: usize,
    _dir: tempfile::TempDir,
}

enum Shared {
    All(MutexGuard<'static, Option<Watch>>),
    Own(Box<Watch>),
}

impl Scene {
    fn new() -> Self {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.get_or_insert_with(|| {
            let mut interest = Interest::default();
            interest.add_kind(EventKind::File);
            watch(interest)
        });
        Self::on(Shared::All(shared))
    }

    fn with(interest: Interest) -> Self {
        Self::on(Shared::Own(Box::new(watch(interest))))
    }

    fn on(watch: Shared) -> Self {
        let (dir, path) = open_dir();
        Self { watch, path, marks: 0, _dir: dir }
    }

    fn watch(&mut self) -> &mut Watch {
        match &mut self.watch {
            Shared::All(watch) => watch.as_mut().unwrap(),
            Shared::Own(watch) => watch,
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// What is told of the directory because of `act`.
    fn told<T>(&mut self, act: impl FnOnce(&Path) -> T) -> (Vec<Event>, T) {
        self.mark();
        self.watch().events.clear();
        let result = act(&self.path);
        let mark = self.mark();
        let events = self.watch().events.clone();
        let ours = |event: &Event| {
            let names = [Field::FilePath, Field::NewFilePath].map(|field| event.text(field).to_vec());
            event.kind == EventKind::File
                && names.iter().any(|name| name.starts_with(self.path.as_os_str().as_bytes()) && *name != mark)
        };
        (events.into_iter().filter(ours).collect(), result)
    }

    /// Makes a file and waits until it is told: nothing is left that happened before.
    fn mark(&mut self) -> Vec<u8> {
        self.marks += 1;
        let mark = self.at(&format!("mark-{}", self.marks));
        File::create(&mark).unwrap();
        let mark = mark.as_os_str().as_bytes().to_vec();
        self.watch().until("the mark", |events| events.iter().any(|event| event.text(Field::FilePath) == mark));
        mark
    }

    /// The only event that `act` makes.
    fn one<T>(&mut self, act: impl FnOnce(&Path) -> T) -> Event {
        let (events, _) = self.told(act);
        let [event] = &events[..] else { panic!("{} events: {}", events.len(), list(&events)) };
        event.clone()
    }

    /// Name and new name below the directory.
    fn summary(&self, event: &Event) -> String {
        let below = |field| {
            let name = String::from_utf8_lossy(event.text(field)).into_owned();
            name.strip_prefix(self.path.to_str().unwrap()).map(str::to_owned).unwrap_or(name)
        };
        let mut summary = format!("{} {}", below(Field::FileOperation), below(Field::FilePath));
        if event.value(Field::NewFilePath) != Value::Absent {
            summary += &format!(" {}", below(Field::NewFilePath));
        }
        summary
    }

    fn summaries(&self, events: &[Event]) -> Vec<String> {
        events.iter().map(|event| self.summary(event)).collect()
    }

    fn summary_of<T>(&mut self, act: impl FnOnce(&Path) -> T) -> Vec<String> {
        let (events, _) = self.told(act);
        self.summaries(&events)
    }
}

fn watch(interest: Interest) -> Watch {
    let builder = Probe::builder().exec(false).fork(false).exit(false).snapshot(false);
    Watch::with(builder.interest(interest).hooks(family()))
}

fn list(events: &[Event]) -> String {
    let one = |event: &Event| {
        let names = [Field::FileOperation, Field::FilePath, Field::NewFilePath];
        names.map(|field| format!("{:?}", String::from_utf8_lossy(event.text(field)))).join(" ")
    };
    events.iter().map(one).collect::<Vec<_>>().join("\n")
}

/// Whether the names that a call was given are seen as the kernel resolved them.
fn sees_objects() -> bool {
    family() == HookFamily::Trampoline
}

/// Whether links in passed names are followed. Says so if not.
fn follows_links() -> bool {
    use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
    let follows = sees_objects() || openat2(CWD, "/", OFlags::PATH, Mode::empty(), ResolveFlags::CACHED).is_ok();
    if !follows {
        not_offered("lookup-in-memory", "RESOLVE_CACHED, Linux 5.12");
    }
    follows
}

fn c(path: impl AsRef<Path>) -> CString {
    CString::new(path.as_ref().as_os_str().as_bytes()).unwrap()
}

fn ok(result: i32) {
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// Mode, owner and identity are what stat(2) says.
fn agrees(event: &Event, file: &fs::Metadata, path: &Path) {
    assert_eq!(event.number(Field::FileMode), Some(u64::from(file.mode() & 0o7777)), "{event:?}");
    assert_eq!(event.number(Field::FileUid), Some(file.uid().into()));
    assert_eq!(event.number(Field::FileGid), Some(file.gid().into()));
    assert_eq!(event.number(Field::FileInode), Some(file.ino()));
    if common::device_is_plain(path) {
        assert_eq!(event.number(Field::FileDevice), Some(file.dev()));
    }
}

#[test]
fn opening_and_creating() {
    let mut scene = Scene::new();
    let file = scene.at("file");
    let event = scene.one(|_| File::create(&file).unwrap());
    assert_eq!(scene.summary(&event), "CREATE /file");
    agrees(&event, &file.metadata().unwrap(), &file);
    let event = scene.one(|_| OpenOptions::new().append(true).open(&file).unwrap());
    assert_eq!(scene.summary(&event), "OPEN_WRITE /file");
    agrees(&event, &file.metadata().unwrap(), &file);
    assert!(event.untrusted().is_empty());
    let created = scene.at("read-only");
    let event = scene.one(|_| OpenOptions::new().read(true).custom_flags(libc::O_CREAT).open(&created).unwrap());
    assert_eq!(scene.summary(&event), "CREATE /read-only");
    let nothing = scene.summary_of(|_| {
        File::open(&file).unwrap();
        OpenOptions::new().write(true).open("/dev/null").unwrap();
        File::create_new(&file).unwrap_err();
        OpenOptions::new().write(true).open("no-such-file").unwrap_err();
    });
    assert_eq!(nothing, [""; 0]);
}

#[test]
fn every_operation_on_names() {
    let mut scene = Scene::new();
    let [a, b, d] = ["a", "b", "d"].map(|name| scene.at(name));
    let told = scene.summary_of(|_| {
        fs::create_dir(&d).unwrap();
        File::create(&a).unwrap();
        fs::rename(&a, &b).unwrap();
        fs::hard_link(&b, &a).unwrap();
        symlink("/etc/passwd", d.join("link")).unwrap();
        fs::remove_file(d.join("link")).unwrap();
        fs::remove_file(&a).unwrap();
        fs::remove_dir(&d).unwrap();
        nix::unistd::mkfifo(&a, nix::sys::stat::Mode::S_IRWXU).unwrap();
    });
    let expected = [
        "CREATE /d",
        "CREATE /a",
        "RENAME /a /b",
        "LINK /b /a",
        "SYMLINK /d/link",
        "UNLINK /d/link",
        "UNLINK /a",
        "UNLINK /d",
        "CREATE /a",
    ];
    assert_eq!(told, expected);
}

#[test]
fn every_attribute() {
    let mut scene = Scene::new();
    let path = scene.at("file");
    let file = File::create(&path).unwrap();
    let name = c(&path);
    let (attribute, value) = (c"trusted.sls", b"1");
    let (events, ()) = scene.told(|_| {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o4755)).unwrap();
        file.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
        chown(&path, Some(7), Some(8)).unwrap();
        fchown(&file, Some(9), None).unwrap();
        file.set_len(100).unwrap();
        nix::unistd::truncate(&path, 0).unwrap();
        // SAFETY: the strings end in a NUL and outlive the calls; the value has the length that is given.
        unsafe {
            ok(libc::setxattr(name.as_ptr(), attribute.as_ptr(), value.as_ptr().cast(), 1, 0));
            ok(libc::removexattr(name.as_ptr(), attribute.as_ptr()));
            ok(libc::fsetxattr(file.as_raw_fd(), attribute.as_ptr(), value.as_ptr().cast(), 1, 0));
        }
    });
    let told = scene.summaries(&events);
    let operations: Vec<_> = told.iter().map(|told| told.strip_suffix(" /file").unwrap()).collect();
    let expected = ["CHMOD", "CHMOD", "CHOWN", "CHOWN", "TRUNCATE", "TRUNCATE", "SETXATTR", "SETXATTR", "SETXATTR"];
    assert_eq!(operations, expected);
    agrees(events.last().unwrap(), &path.metadata().unwrap(), &path);
    if sees_objects() {
        let modes: Vec<_> = events[..3].iter().map(|event| event.number(Field::FileMode).unwrap()).collect();
        assert_eq!(modes, [0o4755, 0o600, 0o600]);
        assert_eq!(events[2].number(Field::FileUid), Some(7));
    }
}

#[test]
fn what_was_refused_is_no_event() {
    let mut scene = Scene::new();
    let [full, other, file] = ["full", "other", "file"].map(|name| scene.at(name));
    fs::create_dir(&full).unwrap();
    fs::create_dir(&other).unwrap();
    File::create(full.join("in")).unwrap();
    File::create(&file).unwrap();
    let name = file.to_str().unwrap().to_owned();
    let told = scene.summary_of(|_| {
        fs::remove_dir(&full).unwrap_err();
        fs::rename(&other, &full).unwrap_err();
        fs::create_dir(&full).unwrap_err();
        let mut nobody = Command::new("/bin/sh");
        nobody.args(["-c", "rm -f $0; mv $0 $0.new; chmod 777 $0; ln -s x $0; true > $0; test -e $0", &name]);
        let status = nobody.uid(65534).gid(65534).current_dir("/").stderr(std::process::Stdio::null()).status();
        assert!(status.unwrap().success());
    });
    assert_eq!(told, [""; 0]);
}

/// Runs `act` in a thread with mounts of its own, which end with it.
fn with_own_mounts<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
            act()
        });
        thread.join().unwrap()
    })
}

#[test]
fn symlink_is_seen_through() {
    if !follows_links() {
        return;
    }
    let mut scene = Scene::new();
    let [real, link] = ["real", "link"].map(|name| scene.at(name));
    fs::create_dir(&real).unwrap();
    symlink(&real, &link).unwrap();
    symlink(real.join("file"), scene.at("to-file")).unwrap();
    let told = scene.summary_of(|path| {
        File::create(link.join("file")).unwrap();
        fs::rename(link.join("file"), link.join("new")).unwrap();
        fs::rename(link.join("new"), real.join("file")).unwrap();
        fs::remove_file(path.join("to-file")).unwrap();
    });
    let expected =
        ["CREATE /real/file", "RENAME /real/file /real/new", "RENAME /real/new /real/file", "UNLINK /to-file"];
    assert_eq!(told, expected);
    symlink(real.join("file"), scene.at("to-file")).unwrap();
    // Until a link was followed later than it was made, by a clock of 4 or 10 ms, each time that it is followed is written
    // to its file system, which a lookup in memory does not do.
    thread::sleep(std::time::Duration::from_millis(50));
    // Without better hooks, such a link is followed when the event is read.
    let told = scene.summary_of(|path| {
        fs::set_permissions(path.join("to-file"), fs::Permissions::from_mode(0o700)).unwrap();
        chown(path.join("to-file"), Some(1), Some(1)).unwrap();
    });
    assert_eq!(told, ["CHMOD /real/file", "CHOWN /real/file"]);
    let told = scene.summary_of(|path| std::os::unix::fs::lchown(path.join("to-file"), Some(1), Some(1)).unwrap());
    assert_eq!(told, ["CHOWN /to-file"]);
}

#[test]
fn dot_dot_is_resolved() {
    if !follows_links() {
        return;
    }
    let mut scene = Scene::new();
    fs::create_dir(scene.at("a")).unwrap();
    symlink(scene.at("a"), scene.at("b")).unwrap();
    let told = scene.summary_of(|path| {
        File::create(path.join("a/../././/a/../file")).unwrap();
        fs::rename(path.join("b/../file"), path.join("a/./../new")).unwrap();
        fs::remove_file(path.join("a/..//new")).unwrap();
    });
    assert_eq!(told, ["CREATE /file", "RENAME /file /new", "UNLINK /new"]);
}

#[test]
fn names_start_from_the_working_directory_or_an_open_one() {
    let mut scene = Scene::new();
    let [a, b] = ["a", "b"].map(|name| scene.at(name));
    fs::create_dir(&a).unwrap();
    fs::create_dir(&b).unwrap();
    let (events, ()) = scene.told(|_| {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                unshare(CloneFlags::CLONE_FS).unwrap();
                std::env::set_current_dir(&a).unwrap();
                fs::write("one", "").unwrap();
                fs::rename("one", "two").unwrap();
                fs::set_permissions("two", fs::Permissions::from_mode(0o711)).unwrap();
                let other = File::open(&b).unwrap();
                let (two, three) = (c"two".as_ptr(), c"three".as_ptr());
                // SAFETY: the strings end in a NUL and live as long as the program.
                unsafe {
                    ok(libc::renameat(libc::AT_FDCWD, two, other.as_raw_fd(), three));
                    ok(libc::unlinkat(other.as_raw_fd(), three, 0));
                }
            });
            thread.join().unwrap();
        });
    });
    let expected =
        ["CREATE /a/one", "RENAME /a/one /a/two", "CHMOD /a/two", "RENAME /a/two /b/three", "UNLINK /b/three"];
    assert_eq!(scene.summaries(&events), expected);
    // A single name in a directory that the kernel knows is whole, whatever became of the file.
    let whole = [&events[1], &events[3], &events[4]];
    assert!(whole.iter().all(|event| event.truncated().is_empty()), "{events:?}");
}

#[test]
fn proc_self_root_is_no_disguise() {
    if !follows_links() {
        return;
    }
    let mut scene = Scene::new();
    let told = scene.summary_of(|path| {
        let disguised = Path::new("/proc/self/root/proc/thread-self/root").join(path.strip_prefix("/").unwrap());
        File::create(disguised.join("file")).unwrap();
        fs::rename(disguised.join("file"), disguised.join("new")).unwrap();
        fs::remove_file(disguised.join("new")).unwrap();
    });
    assert_eq!(told, ["CREATE /file", "RENAME /file /new", "UNLINK /new"]);
}

#[test]
fn hard_link_keeps_the_inode() {
    let mut scene = Scene::new();
    let [file, link] = ["file", "link"].map(|name| scene.at(name));
    File::create(&file).unwrap();
    let inode = file.metadata().unwrap().ino();
    let (events, ()) = scene.told(|_| {
        fs::hard_link(&file, &link).unwrap();
        OpenOptions::new().write(true).open(&link).unwrap();
    });
    assert_eq!(scene.summaries(&events), ["LINK /file /link", "OPEN_WRITE /link"]);
    assert!(events.iter().all(|event| event.number(Field::FileInode) == Some(inode)));
}

#[test]
fn bind_mount_shows_its_own_name_and_the_same_inode() {
    let mut scene = Scene::new();
    let [real, bound] = ["real", "bound"].map(|name| scene.at(name));
    fs::create_dir(&real).unwrap();
    fs::create_dir(&bound).unwrap();
    let (events, inode) = scene.told(|_| {
        with_own_mounts(|| {
            mount(Some(&real), &bound, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
            File::create(bound.join("file")).unwrap();
            fs::rename(bound.join("file"), bound.join("new")).unwrap();
            fs::set_permissions(bound.join("new"), fs::Permissions::from_mode(0o4700)).unwrap();
        });
        real.join("new").metadata().unwrap().ino()
    });
    assert_eq!(scene.summaries(&events), ["CREATE /bound/file", "RENAME /bound/file /bound/new", "CHMOD /bound/new"]);
    // The mount is gone when the names are resolved, so they are all that is known.
    let seen = if sees_objects() { 3 } else { 1 };
    assert!(events[..seen].iter().all(|event| event.number(Field::FileInode) == Some(inode)), "{events:?}");
}

#[test]
fn long_path_is_cut_at_its_beginning() {
    let mut scene = Scene::new();
    let name = "n".repeat(200);
    let (events, ()) = {
        scene.watch().events.clear();
        let path = scene.path.clone();
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                unshare(CloneFlags::CLONE_FS).unwrap();
                std::env::set_current_dir(&path).unwrap();
                for _ in 0..25 {
                    fs::create_dir(&name).unwrap();
                    std::env::set_current_dir(&name).unwrap();
                }
                File::create("leaf").unwrap();
                fs::rename("leaf", "new").unwrap();
                fs::remove_file("new").unwrap();
            });
            thread.join().unwrap();
        });
        scene.mark();
        (scene.watch().events.clone(), ())
    };
    for (operation, leaf) in [("CREATE", "/leaf"), ("RENAME", "/leaf"), ("UNLINK", "/new")] {
        let found = events.iter().any(|event| match event.value(Field::FilePath) {
            Value::Text { bytes, truncated: true } => {
                event.text(Field::FileOperation) == operation.as_bytes() && bytes.ends_with(leaf.as_bytes())
            }
            _ => false,
        });
        assert!(found, "{operation} {leaf}: {}", list(&events));
    }
}

#[test]
fn chroot_shows_the_path_outside() {
    let mut scene = Scene::new();
    let jail = scene.at("jail");
    fs::create_dir_all(jail.join("etc")).unwrap();
    let told = scene.summary_of(|_| {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                unshare(CloneFlags::CLONE_FS).unwrap();
                chroot(&jail).unwrap();
                std::env::set_current_dir("/").unwrap();
                File::create("/etc/passwd").unwrap();
                fs::rename("/../etc/passwd", "etc/shadow").unwrap();
                fs::remove_file("/etc/shadow").unwrap();
            });
            thread.join().unwrap();
        });
    });
    let expected = ["CREATE /jail/etc/passwd", "RENAME /jail/etc/passwd /jail/etc/shadow", "UNLINK /jail/etc/shadow"];
    assert_eq!(told, expected);
}

#[test]
fn mount_namespace_has_its_own_files() {
    let mut scene = Scene::new();
    let at = scene.at("mount");
    fs::create_dir(&at).unwrap();
    let (events, namespace) = scene.told(|_| {
        with_own_mounts(|| {
            mount(Some("none"), &at, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
            File::create(at.join("file")).unwrap();
            fs::rename(at.join("file"), at.join("new")).unwrap();
            fs::remove_file(at.join("new")).unwrap();
            fs::metadata("/proc/thread-self/ns/mnt").unwrap().ino()
        })
    });
    let expected = ["CREATE /mount/file", "RENAME /mount/file /mount/new", "UNLINK /mount/new"];
    assert_eq!(scene.summaries(&events), expected);
    assert!(events.iter().all(|event| event.mount_namespace == Some(namespace as u32)));
    if !sees_objects() {
        // The namespace is gone, so the names are those that were passed, and links could have been in them.
        let doubted = |event: &Event| event.untrusted().contains(Field::FilePath);
        assert!(events[1..].iter().all(doubted), "{events:?}");
    }
}

#[test]
fn mode_is_known_of_a_file_that_is_gone() {
    let mut scene = Scene::new();
    let at = scene.at("gone");
    let (events, ()) = scene.told(|_| {
        File::create(&at).unwrap();
        fs::set_permissions(&at, fs::Permissions::from_mode(0o4711)).unwrap();
        fs::remove_file(&at).unwrap();
    });
    let chmod = events.iter().find(|event| event.text(Field::FileOperation) == b"CHMOD").expect("a change of mode");
    assert_eq!(chmod.number(Field::FileMode), Some(0o4711));
}

#[test]
fn exchange_is_two_renames() {
    let mut scene = Scene::new();
    let [a, b] = ["a", "b"].map(|name| scene.at(name));
    File::create(&a).unwrap();
    File::create(&b).unwrap();
    let told = scene.summary_of(|_| {
        let (a, b) = (c(&a), c(&b));
        // SAFETY: both strings end in a NUL and outlive the call.
        let result =
            unsafe { libc::renameat2(libc::AT_FDCWD, a.as_ptr(), libc::AT_FDCWD, b.as_ptr(), libc::RENAME_EXCHANGE) };
        ok(result);
    });
    let expected = ["RENAME /a /b", "RENAME /b /a"];
    assert_eq!(told, expected);
}

#[test]
fn nameless_file_is_seen_when_it_gets_a_name() {
    let mut scene = Scene::new();
    let name = scene.at("name");
    let (events, ()) = scene.told(|path| {
        let file = OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(path).unwrap();
        let (from, to) = (CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap(), c(&name));
        let flags = libc::AT_SYMLINK_FOLLOW;
        // SAFETY: both strings end in a NUL and outlive the call.
        ok(unsafe { libc::linkat(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), flags) });
    });
    let link = events.last().unwrap();
    assert_eq!(text(link, Field::FileOperation), "LINK");
    assert_eq!(text(link, Field::NewFilePath), name.to_str().unwrap());
    assert_eq!(link.number(Field::FileInode), Some(name.metadata().unwrap().ino()));
}

/// Interest in one operation and nothing else.
fn only(operation: &str) -> Interest {
    let policy =
        format!("P:\n  policy: filemonitor\n  rules: ['match fileOperation == \"{operation}\"', default ignore]\n");
    PolicySet::from_yaml("policy.yaml", policy).unwrap().interest()
}

#[test]
fn passed_descriptor_is_told_by_its_first_write() {
    let mut interest = only("WRITE");
    interest.add_kind(EventKind::File);
    let mut scene = Scene::with(interest);
    let path = scene.at("file");
    let (events, writer) = scene.told(|_| {
        use std::io::Write;
        let mut file = File::create(&path).unwrap();
        file.write_all(b"mine").unwrap();
        let mut child = Command::new("/bin/sh").args(["-c", "echo a; echo b"]).stdout(file).spawn().unwrap();
        child.wait().unwrap();
        child.id()
    });
    if !sees_objects() {
        // Nothing tells: that would be a tracepoint on each write.
        assert_eq!(scene.summaries(&events), ["CREATE /file"]);
        return without("trampoline", "writes to a file that was opened before");
    }
    assert_eq!(scene.summaries(&events), ["CREATE /file", "WRITE /file"]);
    assert_eq!(events[1].process.pid, writer);
}

#[test]
fn memory_of_a_process_is_no_file() {
    let mut interest = Interest::default();
    interest.add_kind(EventKind::Ptrace);
    let mut scene = Scene::with(interest);
    let target = common::Running(Command::new("/bin/sleep").arg("60").spawn().unwrap());
    let memory = format!("/proc/{}/mem", target.0.id());
    let program = fs::canonicalize("/bin/sleep").unwrap();
    // Whoever starts it may go on a moment before it is that program.
    while fs::read_link(format!("/proc/{}/exe", target.0.id())).unwrap() != program {
        thread::yield_now();
    }
    File::open(&memory).unwrap();
    OpenOptions::new().write(true).open(&memory).unwrap();
    let own = std::process::id();
    let pid = target.0.id();
    let opened = |event: &&Event| event.kind == EventKind::Ptrace && event.process.pid == own;
    let reached = |event: &Event| event.number(Field::TargetPid) == Some(pid.into());
    scene.watch().until("the event", |events| events.iter().filter(opened).any(reached));
    let events: Vec<_> = scene.watch().events.iter().filter(opened).filter(|event| reached(event)).collect();
    assert_eq!(events.len(), 1);
    assert_eq!(text(events[0], Field::PtraceRequest), "MEM_WRITE");
    assert_eq!(text(events[0], Field::TargetProgramName), program.to_str().unwrap());
}

#[test]
fn overlay_is_told_once_and_by_its_own_names() {
    let mut scene = Scene::new();
    let [lower, upper, work, merged] = ["lower", "upper", "work", "merged"].map(|name| scene.at(name));
    let told = scene.summary_of(|path| {
        with_own_mounts(|| {
            // Not every file system can be a layer.
            mount(Some("none"), path, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
            for directory in [&lower, &upper, &work, &merged] {
                fs::create_dir(directory).unwrap();
            }
            File::create(lower.join("old")).unwrap();
            let [l, u, w] = [&lower, &upper, &work].map(|layer| layer.display().to_string());
            let options = format!("lowerdir={l},upperdir={u},workdir={w}");
            mount(Some("overlay"), &merged, Some("overlay"), MsFlags::empty(), Some(&*options)).unwrap();
            OpenOptions::new().append(true).open(merged.join("old")).unwrap();
            File::create(merged.join("file")).unwrap();
            fs::rename(merged.join("file"), merged.join("new")).unwrap();
            fs::set_permissions(merged.join("new"), fs::Permissions::from_mode(0o711)).unwrap();
            fs::remove_file(merged.join("new")).unwrap();
            fs::remove_file(merged.join("old")).unwrap();
        });
    });
    let expected = [
        "CREATE /lower",
        "CREATE /upper",
        "CREATE /work",
        "CREATE /merged",
        "CREATE /lower/old",
        "OPEN_WRITE /merged/old",
        "CREATE /merged/file",
        "RENAME /merged/file /merged/new",
        "CHMOD /merged/new",
        "UNLINK /merged/new",
        "UNLINK /merged/old",
    ];
    assert_eq!(told, expected);
}

#[test]
fn other_paths_are_left_out_in_the_kernel() {
    let policy = "P:\n  policy: filemonitor\n  rules: ['match filePath == \"/sls-test-a/*\"', default ignore]\n";
    let interest = PolicySet::from_yaml("policy.yaml", policy).unwrap().interest();
    let mut watch = watch(interest);
    let names = with_own_mounts(|| {
        // A root of its own, so that nothing is made in the real one.
        let (_dir, path) = open_dir();
        mount(Some("none"), &path, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        nix::unistd::pivot_root(&path, &path).unwrap();
        std::env::set_current_dir("/").unwrap();
        for name in ["sls-test-a", "sls-test-b"] {
            fs::create_dir(format!("/{name}")).unwrap();
            for file in ["one", "two"] {
                File::create(format!("/{name}/{file}")).unwrap();
            }
        }
        ["/sls-test-a/one", "/sls-test-a/two"]
    });
    let opened = |events: &[Event]| -> Vec<String> {
        let paths = events.iter().map(|event| String::from_utf8_lossy(event.text(Field::FilePath)).into_owned());
        paths.filter(|path| path.starts_with("/sls-test-") && path.matches('/').count() == 2).collect()
    };
    watch.until("the last file", |events| opened(events).iter().any(|name| name == names[1]));
    assert_eq!(opened(&watch.events), names);
}

#[test]
fn handle_is_a_way_to_open() {
    let mut scene = Scene::new();
    let file = scene.at("file");
    File::create(&file).unwrap();
    let told = scene.summary_of(|path| {
        let directory = File::open(path).unwrap();
        let name = c(&file);
        // `struct file_handle`: the room behind it, the type, the handle.
        let mut handle = [0_u32; 2 + 32];
        handle[0] = 128;
        let mut mount = 0;
        // SAFETY: the name ends in a NUL, the handle has the room that it says, and all outlive the calls; the descriptor
        // is closed once.
        unsafe {
            ok(libc::name_to_handle_at(libc::AT_FDCWD, name.as_ptr(), handle.as_mut_ptr().cast(), &mut mount, 0));
            let fd = libc::open_by_handle_at(directory.as_raw_fd(), handle.as_mut_ptr().cast(), libc::O_WRONLY);
            assert!(fd >= 0, "{}", std::io::Error::last_os_error());
            libc::close(fd);
        }
    });
    assert_eq!(told, ["OPEN_WRITE /file"]);
}

/// One operation through io_uring; its result.
fn submitted(ring: &mut io_uring::IoUring, entry: &io_uring::squeue::Entry) -> i32 {
    // SAFETY: the names that the entry points to outlive the call, which waits for the end of the operation.
    unsafe { ring.submission().push(entry) }.unwrap();
    ring.submit_and_wait(1).unwrap();
    ring.completion().next().unwrap().result()
}

#[test]
fn io_uring_is_seen_by_hooks_on_objects_alone() {
    use io_uring::{IoUring, opcode, types};
    let Ok(mut ring) = IoUring::new(4) else {
        return not_offered("io_uring", "CONFIG_IO_URING, kernel.io_uring_disabled=0");
    };
    let mut scene = Scene::new();
    let (file, new) = (c(scene.at("file")), c(scene.at("new")));
    let here = types::Fd(libc::AT_FDCWD);
    let (events, results) = scene.told(|_| {
        let open = opcode::OpenAt::new(here, file.as_ptr()).flags(libc::O_CREAT | libc::O_WRONLY).mode(0o600);
        let opened = submitted(&mut ring, &open.build());
        assert!(opened >= 0, "{opened}");
        // SAFETY: it is nobody else's.
        unsafe { libc::close(opened) };
        let rename = opcode::RenameAt::new(here, file.as_ptr(), here, new.as_ptr()).build();
        let remove = opcode::UnlinkAt::new(here, new.as_ptr()).build();
        [rename, remove].map(|entry| submitted(&mut ring, &entry))
    });
    if !sees_objects() {
        without("trampoline", "files that are changed through io_uring");
    }
    let expected: &[&str] = match results {
        _ if !sees_objects() => &[],
        [0, 0] => &["CREATE /file", "RENAME /file /new", "UNLINK /new"],
        // Linux 5.10 can open only.
        _ => &["CREATE /file"],
    };
    assert_eq!(scene.summaries(&events), expected);
}

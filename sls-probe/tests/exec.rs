//! What an exec event says about a real program. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::ffi::{CStr, CString, OsStr};
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Watch, actor, become_program, device_is_plain, open_dir, role, start_ticks, stat_field, text, ticks};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::fexecve;
use sls_core::{Field, Guards, HOST_PID_NAMESPACE, Value};

/// The parts that children of these tests play: what a shell cannot do.
#[test]
fn exec_actor() {
    let Some(role) = role() else { return };
    let (part, path) = role.split_once(' ').unwrap();
    match part {
        "memfd" => {
            let file = File::from(memfd_create(c"pay load", MFdFlags::MFD_CLOEXEC).unwrap());
            (&file).write_all(&fs::read(path).unwrap()).unwrap();
            become_file(&file);
        }
        "deleted" => {
            let file = File::open(path).unwrap();
            fs::remove_file(path).unwrap();
            become_file(&file);
        }
        "detached-tree" => {
            let tree = open_tree(path);
            std::env::set_current_dir(format!("/proc/self/fd/{}", tree.as_raw_fd())).unwrap();
            become_program("./true");
        }
        // The other threads of the test harness make this a process with a leader that is not the caller.
        "thread" => {
            let path = path.to_owned();
            std::thread::spawn(move || become_program(path)).join().unwrap();
        }
        // So many levels of names of so many bytes that no single path names them.
        "nest" => {
            let [levels, bytes, dir] = path.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{path}") };
            let name = "n".repeat(bytes.parse().unwrap());
            std::env::set_current_dir(dir).unwrap();
            for _ in 0..levels.parse().unwrap() {
                fs::create_dir(&name).unwrap();
                std::env::set_current_dir(&name).unwrap();
            }
            fs::copy("/bin/true", "true").unwrap();
            become_program("./true");
        }
        other => panic!("no part is called {other}"),
    }
}

fn become_file(file: &File) -> ! {
    let environment: [&CStr; 0] = [];
    panic!("fexecve: {:?}", fexecve(file.as_fd(), &[c"from-fd"], &environment));
}

/// A copy of the mount at `path`, mounted nowhere.
fn open_tree(path: &str) -> OwnedFd {
    let path = CString::new(path).unwrap();
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    // SAFETY: the path ends in a NUL and outlives the call; the descriptor that it returns is nobody else's.
    unsafe {
        let fd = libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags);
        assert!(fd >= 0, "open_tree: {}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd as i32)
    }
}

/// The real name of a program.
fn real(path: &str) -> String {
    fs::canonicalize(path).unwrap().to_str().unwrap().to_owned()
}

fn name_of(command: &mut Command) -> String {
    text(&Watch::start().exec_of(command), Field::ProgramName)
}

#[test]
fn every_value_agrees_with_proc() {
    let mut watch = Watch::start();
    let terminal = nix::pty::openpty(None, None).unwrap();
    let slave = fs::read_link(format!("/proc/self/fd/{}", terminal.slave.as_raw_fd())).unwrap();
    let mut command = Command::new("setsid");
    command.args(["--ctty", "/bin/sleep", "60", "0.5", "1m"]).current_dir("/usr/share");
    command.stdin(terminal.slave.try_clone().unwrap());
    let child = common::Running(command.spawn().unwrap());
    let pid = child.0.id();
    let sleep = real("/bin/sleep");
    watch.until("sleep", |events| {
        events.iter().any(|event| event.process.pid == pid && event.text(Field::ProgramName) == sleep.as_bytes())
    });
    let event = watch.last(pid, sls_core::EventKind::Exec);
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let link = |name: &str| fs::read_link(proc.join(name)).unwrap().to_str().unwrap().to_owned();

    assert_eq!(text(&event, Field::ProgramName), link("exe"));
    assert_eq!(text(&event, Field::InvokedName), "/bin/sleep");
    assert_eq!(event.value(Field::ScriptName), Value::Absent);
    let arguments: Vec<u8> = event.arguments().flat_map(|argument| [argument, b"\0"].concat()).collect();
    assert_eq!(arguments, fs::read(proc.join("cmdline")).unwrap());
    assert_eq!(text(&event, Field::ProcessName), fs::read_to_string(proc.join("comm")).unwrap().trim());
    assert_eq!(text(&event, Field::ProgramDirectory), link("cwd"));
    assert_eq!(text(&event, Field::ProgramDirectory), "/usr/share");
    assert_eq!(event.value(Field::ProgramIsMemfd), Value::Bool(false));
    assert_eq!(event.value(Field::ProgramIsDeleted), Value::Bool(false));
    let file = fs::metadata(proc.join("exe")).unwrap();
    assert_eq!(event.number(Field::ProgramInode), Some(file.ino()));
    assert!(event.number(Field::ProgramDevice) == Some(file.dev()) || !device_is_plain(proc.join("exe")));
    assert_eq!(text(&event, Field::Terminal), slave.strip_prefix("/dev").unwrap().to_str().unwrap());
    assert_eq!(ticks(event.process.start), start_ticks(pid).unwrap());
    assert_eq!(event.parent.pid.to_string(), stat_field(pid, 4).unwrap());
    assert_eq!(event.parent.pid, std::process::id());
    assert_eq!(ticks(event.parent.start), start_ticks(event.parent.pid).unwrap());
    assert_eq!([Field::Uid, Field::Gid, Field::Euid, Field::Egid].map(|field| event.number(field)), [Some(0); 4]);
    assert_eq!(text(&event, Field::UserName), "root");
    assert_eq!(text(&event, Field::GroupName), "root");
    let login: u32 = fs::read_to_string(proc.join("loginuid")).unwrap().trim().parse().unwrap();
    assert_eq!(event.number(Field::LoginUid), (login != u32::MAX).then_some(login.into()));
    assert_eq!(link("ns/pid"), format!("pid:[{}]", event.pid_namespace.unwrap()));
    assert_eq!(link("ns/mnt"), format!("mnt:[{}]", event.mount_namespace.unwrap()));
    assert_eq!(event.cgroup_id, Some(cgroup_inode(pid)));
    assert!(!event.kernel_thread && event.unknown().is_empty() && event.truncated().is_empty());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    assert!(now - event.time < 30_000_000_000, "the event is from {} ns ago", now - event.time);
    for field in sls_core::EventSource::provides(&watch.probe, event.kind).iter() {
        // It is no script, and in no container.
        let of_container = [Field::ContainerId, Field::ContainerName, Field::ImageName, Field::ImageId];
        let of_pod = [Field::KubernetesPod, Field::KubernetesNamespace];
        let may_be_absent = matches!(field, Field::ScriptName | Field::LoginUid)
            || of_container.contains(&field)
            || of_pod.contains(&field);
        assert!(may_be_absent || event.value(field) != Value::Absent, "{field} was promised");
    }
}

/// Inode of a process's directory in the v2 hierarchy, wherever that is mounted.
fn cgroup_inode(pid: u32) -> u64 {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mount = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|words| words[2] == "cgroup2");
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let group = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
    fs::metadata(format!("{}{group}", mount.unwrap()[1])).unwrap().ino()
}

#[test]
fn detours_do_not_change_the_name() {
    let (_dir, dir) = open_dir();
    let program = real("/bin/true");
    symlink(&program, dir.join("link")).unwrap();
    symlink(dir.join("link"), dir.join("link to link")).unwrap();
    assert_eq!(name_of(&mut Command::new(dir.join("link to link"))), program);
    assert_eq!(name_of(&mut Command::new(format!("/proc/self/root{program}"))), program);
    let relative = format!("../../{program}");
    let mut command = Command::new(&relative);
    let event = Watch::start().exec_of(command.current_dir("/usr/bin"));
    assert_eq!(text(&event, Field::ProgramName), program);
    assert_eq!(text(&event, Field::InvokedName), relative);
}

#[test]
fn hard_link_has_its_own_name_and_the_same_inode() {
    let (_dir, dir) = open_dir();
    let (first, second) = (dir.join("first"), dir.join("second"));
    fs::copy("/bin/true", &first).unwrap();
    fs::hard_link(&first, &second).unwrap();
    let event = Watch::start().exec_of(&mut Command::new(&second));
    assert_eq!(text(&event, Field::ProgramName), second.to_str().unwrap());
    assert_eq!(event.number(Field::ProgramInode), Some(fs::metadata(&first).unwrap().ino()));
}

#[test]
fn mounts_are_crossed() {
    let (_dir, dir) = open_dir();
    let script = |lines: &str| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-ec", lines]).current_dir(&dir);
        command
    };
    fs::create_dir(dir.join("a")).unwrap();
    let place = dir.to_str().unwrap();
    let bound = name_of(&mut script("mount --bind /usr/bin a; exec a/true"));
    assert_eq!(bound, format!("{place}/a/true"));
    // A mount on a mount on a mount, and one on the same place twice.
    let nested = name_of(&mut script(
        "mount -t tmpfs none a; mkdir a/b; mount -t tmpfs none a/b; mount -t tmpfs none a/b; mkdir a/b/c
         mount --bind /usr/bin a/b/c; exec a/b/c/true",
    ));
    assert_eq!(nested, format!("{place}/a/b/c/true"));
    // Another root directory of the process is not another root of the system.
    let changed = name_of(&mut script(
        "mount -t tmpfs none a; mkdir -p a/usr a/bin a/lib a/lib64; mount --bind /usr a/usr
         for d in bin lib lib64; do mount --bind /$d a/$d; done; exec chroot a /usr/bin/true",
    ));
    assert_eq!(changed, format!("{place}/a/usr/bin/true"));
    // A tree that is mounted nowhere any more: where it was is not known.
    let event = Watch::start().exec_of(&mut script(
        "mount -t tmpfs none a; mkdir a/d; cp /bin/true a/d/; cd a/d; umount --lazy ../../a; exec ./true",
    ));
    assert_eq!(event.value(Field::ProgramName), Value::Text { bytes: b"/d/true", truncated: true });
    assert_eq!(event.value(Field::ProgramDirectory), Value::Text { bytes: b"/d", truncated: true });
    // Neither is it for a copy of a mount.
    fs::copy("/bin/true", dir.join("true")).unwrap();
    let event = Watch::start().exec_of(&mut actor("exec_actor", &format!("detached-tree {place}")));
    assert_eq!(event.value(Field::ProgramName), Value::Text { bytes: b"/true", truncated: true });
}

#[test]
fn nobody_gains_protection_by_a_mount() {
    let mut watch = Watch::start();
    let host = sls_probe::HostInfo::read().mount_namespace.unwrap();
    let guards = Guards::default().host_mount_namespace(host);
    // A mount namespace and a user namespace, and no PID namespace.
    let mut command = Command::new("unshare");
    let lines = "mount -t tmpfs none /usr/local/bin; cp /bin/true /usr/local/bin/runc; exec /usr/local/bin/runc";
    command.args(["--user", "--map-root-user", "--mount", "sh", "-ec", lines]).uid(65534).gid(65534);
    let mut event = watch.exec_of(command.current_dir("/"));
    assert_eq!(text(&event, Field::ProgramName), "/usr/local/bin/runc");
    assert_eq!(event.pid_namespace, Some(HOST_PID_NAMESPACE));
    assert_ne!(event.mount_namespace, Some(host));
    assert_eq!(guards.refusal(&event), None);
    // The same path in the host's namespaces is protected.
    let native = watch.exec_of(&mut Command::new("/bin/true"));
    assert_eq!(native.mount_namespace, Some(host));
    event.mount_namespace = native.mount_namespace;
    assert_eq!(guards.refusal(&event).unwrap().guard, "container-runtime");
}

#[test]
fn memfd_is_seen() {
    let event = Watch::start().exec_of(&mut actor("exec_actor", "memfd /bin/true"));
    assert_eq!(text(&event, Field::ProgramName), "/memfd:pay load");
    assert_eq!(event.value(Field::ProgramIsMemfd), Value::Bool(true));
    assert_eq!(event.value(Field::ProgramIsDeleted), Value::Bool(true));
    assert!(text(&event, Field::InvokedName).starts_with("/dev/fd/"));
    assert_eq!(text(&event, Field::ProgramArguments), "from-fd");
}

#[test]
fn deleted_program_is_seen() {
    let (_dir, dir) = open_dir();
    let path = dir.join("memfd:not");
    fs::copy("/bin/true", &path).unwrap();
    let inode = fs::metadata(&path).unwrap().ino();
    let event = Watch::start().exec_of(&mut actor("exec_actor", &format!("deleted {}", path.display())));
    assert_eq!(text(&event, Field::ProgramName), path.to_str().unwrap());
    assert_eq!(event.value(Field::ProgramIsDeleted), Value::Bool(true));
    assert_eq!(event.value(Field::ProgramIsMemfd), Value::Bool(false));
    assert_eq!(event.number(Field::ProgramInode), Some(inode));
}

#[test]
fn script_is_told_from_its_interpreter() {
    let (_dir, dir) = open_dir();
    let script = dir.join("script");
    fs::write(&script, "#!/bin/sh -e\nexit 0\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let mut watch = Watch::start();
    let event = watch.exec_of(&mut Command::new(&script));
    assert_eq!(text(&event, Field::ProgramName), real("/bin/sh"));
    assert_eq!(text(&event, Field::ScriptName), script.to_str().unwrap());
    assert_eq!(text(&event, Field::InvokedName), script.to_str().unwrap());
    assert_eq!(text(&event, Field::ProcessName), "script");
    assert_eq!(text(&event, Field::ProgramArguments), format!("/bin/sh -e {}", script.display()));
    let event = watch.exec_of(Command::new("./script").current_dir(&dir));
    assert_eq!(text(&event, Field::ScriptName), script.to_str().unwrap());
    assert_eq!(text(&event, Field::InvokedName), "./script");
    // Other spellings of the same.
    let name = dir.file_name().unwrap().to_str().unwrap();
    for spelling in [format!("..//{name}/./script"), format!("//{}/.///script", dir.display())] {
        let event = watch.exec_of(Command::new(&spelling).current_dir(&dir));
        assert_eq!(text(&event, Field::ScriptName), script.to_str().unwrap());
        assert_eq!(text(&event, Field::InvokedName), spelling);
    }
    // Out of a link: not where it seems to be.
    fs::create_dir_all(dir.join("a/b")).unwrap();
    symlink("a/b", dir.join("link")).unwrap();
    fs::copy(&script, dir.join("a/script")).unwrap();
    let event = watch.exec_of(&mut Command::new(dir.join("link/../script")));
    assert_eq!(event.value(Field::ScriptName), Value::Text { bytes: b"/script", truncated: true });
}

#[test]
fn argv_is_bytes_and_bounded() {
    let mut watch = Watch::start();
    let odd = [&b"\xff\xfe caf\xe9"[..], b"", b"a\nb"];
    let event = watch.exec_of(Command::new("/bin/true").args(odd.map(OsStr::from_bytes)));
    assert_eq!(event.arguments().skip(1).collect::<Vec<_>>(), odd);

    let event = watch.exec_of(Command::new("/bin/true").arg("x".repeat(100_000)).arg("end"));
    let Value::Text { bytes, truncated: true } = event.value(Field::ProgramArguments) else { panic!("{event:?}") };
    assert_eq!(bytes.len(), sls_probe::MAX_ARGV_BYTES);
    assert!(bytes.starts_with(b"/bin/true xxx") && bytes.ends_with(b"xxx"));

    // As many bytes as fit, with the NULs, and one more.
    let room = sls_probe::MAX_ARGV_BYTES - "/bin/true".len() - 2;
    let event = watch.exec_of(Command::new("/bin/true").arg("x".repeat(room)));
    assert!(event.truncated().is_empty());
    assert_eq!(event.arguments().nth(1).unwrap().len(), room);
    let event = watch.exec_of(Command::new("/bin/true").arg("x".repeat(room + 1)));
    assert!(event.truncated().contains(Field::ProgramArguments));
}

#[test]
fn path_without_a_name_keeps_its_end() {
    let (_dir, dir) = open_dir();
    let place = dir.to_str().unwrap();
    let nest = |levels: usize, bytes: usize| {
        let inner = tempfile::tempdir_in(&dir).unwrap();
        let root = inner.path().to_str().unwrap();
        let event = Watch::start().exec_of(&mut actor("exec_actor", &format!("nest {levels} {bytes} {root}")));
        let full = format!("{root}{}/true", format!("/{}", "n".repeat(bytes)).repeat(levels));
        // The standard library would need an open directory for each level, which are too many.
        assert!(Command::new("rm").arg("-rf").arg(root).status().unwrap().success());
        (event, full)
    };
    for (levels, bytes) in [(20, 255), (2100, 1)] {
        let (event, full) = nest(levels, bytes);
        let Value::Text { bytes: name, truncated: true } = event.value(Field::ProgramName) else { panic!("{event:?}") };
        assert!(full.as_bytes().ends_with(name), "{}", name.escape_ascii());
        assert!((4096..4096 + 256).contains(&name.len()), "{}", name.len());
        assert!(event.truncated().contains(Field::ProgramDirectory));
    }
    // Just short enough: every path that can be written is whole.
    let room = 4095 - place.len() - "/.tmpXXXXXX/true".len();
    let (event, full) = nest(room / 256, 255);
    assert!(full.len() > 3800);
    assert_eq!(text(&event, Field::ProgramName), full);
    // However many its components are.
    for levels in [70, room / 2] {
        let (event, full) = nest(levels, 1);
        assert_eq!(text(&event, Field::ProgramName), full);
        assert_eq!(text(&event, Field::ProgramDirectory), full.strip_suffix("/true").unwrap());
    }
}

#[test]
fn credentials_are_those_of_the_new_program() {
    let (_dir, dir) = open_dir();
    let mut watch = Watch::start();
    let event = watch.exec_of(Command::new("/bin/true").uid(65534).gid(65534));
    assert_eq!([Field::Uid, Field::Gid].map(|field| event.number(field)), [Some(65534); 2]);
    assert_eq!(text(&event, Field::UserName), "nobody");
    assert_eq!(text(&event, Field::GroupName), "nogroup");

    let program = dir.join("setuid");
    fs::copy("/bin/true", &program).unwrap();
    chown(&program, Some(12345), Some(12346)).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o6755)).unwrap();
    let event = watch.exec_of(Command::new(&program).uid(65534).gid(65534));
    let ids = [Field::Uid, Field::Gid, Field::Euid, Field::Egid].map(|field| event.number(field).unwrap());
    assert_eq!(ids, [65534, 65534, 12345, 12346]);
    assert_eq!(text(&event, Field::UserName), "nobody");

    let event = watch.exec_of(Command::new(&program).uid(54321).gid(54321));
    assert_eq!(event.value(Field::UserName), Value::Absent);
}

#[test]
fn login_uid_is_told_once_it_is_set() {
    let mut command = Command::new("sh");
    command.args(["-ec", "echo 4242 >/proc/self/loginuid; exec /bin/true"]);
    assert_eq!(Watch::start().exec_of(&mut command).number(Field::LoginUid), Some(4242));
}

#[test]
fn exec_in_a_thread_is_the_process() {
    let mut watch = Watch::start();
    let event = watch.exec_of(&mut actor("exec_actor", "thread /bin/true"));
    let events = watch.of(event.process.pid);
    assert_eq!(text(&event, Field::ProgramName), real("/bin/true"));
    assert!(events.iter().all(|other| other.process == event.process), "{events:#?}");
    let kinds: Vec<_> = events.iter().map(|event| event.kind.name()).collect();
    assert_eq!(kinds, ["fork", "exec", "exec", "exit"]);
}

#[test]
fn names_hold_in_other_pid_namespaces() {
    let mut watch = Watch::start();
    let mut command = Command::new("unshare");
    let mut child = command.args(["--pid", "--fork", "/bin/true"]).spawn().unwrap();
    let unshare = child.id();
    watch.until("the end", |events| common::has(events, unshare, sls_core::EventKind::Exit));
    child.wait().unwrap();
    let event =
        watch.events.iter().find(|event| event.parent.pid == unshare && event.kind == sls_core::EventKind::Exec);
    let event = event.unwrap();
    let own = fs::read_link("/proc/self/ns/pid").unwrap();
    assert_ne!(own, Path::new(&format!("pid:[{}]", event.pid_namespace.unwrap())));
    assert!(event.process.pid > 1, "the pid is the host's, not the 1 of the namespace");
}

//! Real containers of runc, crun and Podman, as the probe sees them. Needs root, runc, crun and busybox; of Podman what there
//! is to see is seen where it is installed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use common::{Watch, text};
use serde_json::{Value as Json, json};
use sls_core::{CONTAINER_FIELDS, Event, EventKind, Field, PolicySet, Value};
use sls_probe::{Containers, Hierarchy, Probe, ProbeBuilder};
use tempfile::TempDir;

/// Live events, and what becomes of containers.
fn probe() -> ProbeBuilder {
    let policies = PolicySet::from_yaml("policy.yaml", "Any: {policy: container, rules: [default match]}").unwrap();
    Probe::builder().snapshot(false).interest(policies.interest())
}

/// A name that nothing else on the machine has.
fn unique(what: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!("sls-{what}-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// A bundle with a root file system of busybox alone.
struct Bundle {
    dir: TempDir,
    id: String,
    config: Json,
}

impl Bundle {
    fn new(script: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let rootfs = dir.path().join("rootfs");
        root_file_system(&rootfs);
        let spec = Command::new("runc").arg("spec").current_dir(dir.path()).output().expect("runc");
        assert!(spec.status.success(), "{spec:?}");
        let mut config: Json = serde_json::from_slice(&fs::read(dir.path().join("config.json")).unwrap()).unwrap();
        let id = unique("container");
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["/bin/busybox", "sh", "-c", script]);
        config["process"]["noNewPrivileges"] = json!(false);
        config["root"]["readonly"] = json!(false);
        config["linux"]["cgroupsPath"] = json!(format!("/{id}"));
        // crun would have to raise a limit for them, which not every root may.
        config["linux"].as_object_mut().unwrap().remove("resources");
        Self { dir, id, config }
    }

    /// The path of the root directory on the host.
    fn root(&self) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join("rootfs")
    }

    fn bind(&mut self, source: &Path, destination: &str) {
        let mount = json!({"type": "bind", "source": source, "destination": destination, "options": ["rbind"]});
        self.config["mounts"].as_array_mut().unwrap().push(mount);
    }

    fn share_namespaces(&mut self, kinds: &[&str]) {
        let namespaces = self.config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| !kinds.contains(&namespace["type"].as_str().unwrap()));
    }

    /// Runs the container to its end.
    fn run(&self, watch: &mut Watch, runtime: &Runtime) {
        fs::write(self.dir.path().join("config.json"), self.config.to_string()).unwrap();
        let mut command = runtime.command();
        command.args(["run", "--bundle"]).arg(self.dir.path()).arg(&self.id).stdin(Stdio::null());
        let mut child = common::Running(command.stdout(Stdio::null()).spawn().unwrap());
        let id = &self.id;
        // As a sensor would: what a runtime writes about a container is gone soon after it.
        watch.until("the stop of the container", |events| {
            let status = child.0.try_wait().unwrap();
            assert!(status.is_none_or(|status| status.success()), "{id}: {status:?}");
            operation(events, "STOP", id).is_some()
        });
        assert!(child.0.wait().unwrap().success());
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        for runtime in ["runc", "crun"] {
            let _ = Command::new(runtime).args(["delete", "--force", &self.id]).output();
        }
        remove_cgroups(&self.id);
    }
}

fn root_file_system(path: &Path) {
    for dir in ["bin", "proc", "sys", "dev", "tmp", "etc"] {
        fs::create_dir_all(path.join(dir)).unwrap();
    }
    fs::copy("/bin/busybox", path.join("bin/busybox")).expect("busybox-static");
}

/// A runtime that failed leaves cgroups behind.
fn remove_cgroups(name: &str) {
    let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
    for hierarchy in hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]) {
        let _ = Command::new("find").arg(hierarchy.join(name)).args(["-depth", "-type", "d", "-delete"]).output();
    }
}

/// Makes version 2 all there is, where it is not.
const UNIFIED: &str = r#"[ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ] || mount -t cgroup2 none /sys/fs/cgroup"#;

/// How containers are run.
enum Runtime {
    /// With the hierarchies that this machine has.
    Runc,
    /// Where version 2 is all there is.
    CrunUnified,
    /// Where there is no version 2.
    CrunLegacy,
}

impl Runtime {
    fn command(&self) -> Command {
        let view = match self {
            Self::Runc => return Command::new("runc"),
            Self::CrunUnified => UNIFIED,
            Self::CrunLegacy => {
                "mount -t tmpfs none /sys/fs/cgroup
                for name in cpuset cpu cpuacct blkio memory devices freezer pids; do
                    mkdir /sys/fs/cgroup/$name
                    mount -t cgroup -o $name none /sys/fs/cgroup/$name || rmdir /sys/fs/cgroup/$name
                done 2>/dev/null
                mkdir /sys/fs/cgroup/systemd
                mount -t cgroup -o none,name=systemd none /sys/fs/cgroup/systemd"
            }
        };
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-ec"]);
        command.arg(format!("{view}\nexec crun --root /run/crun \"$@\"")).arg("crun");
        command
    }
}

/// Whether engines would use a hierarchy of version 1 on this machine.
fn has_legacy() -> bool {
    let table = fs::read_to_string("/proc/cgroups").unwrap();
    table.lines().any(|line| line.starts_with("pids\t") && line.split('\t').nth(1) != Some("0"))
}

fn operation<'e>(events: &'e [Event], operation: &str, id: &str) -> Option<&'e Event> {
    events.iter().find(|event| {
        event.kind == EventKind::Container
            && event.text(Field::ContainerOperation) == operation.as_bytes()
            && event.text(Field::ContainerId) == id.as_bytes()
    })
}

/// The executions in a container, the runtime's own aside.
fn executions<'e>(events: &'e [Event], program: &str) -> Vec<&'e Event> {
    let of_program = |event: &&Event| event.text(Field::ProgramName) == program.as_bytes();
    events.iter().filter(|event| event.kind == EventKind::Exec).filter(of_program).collect()
}

fn position(events: &[Event], found: &Event) -> usize {
    events.iter().position(|event| std::ptr::eq(event, found)).unwrap()
}

fn whole_life(runtime: &Runtime) {
    let mut watch = Watch::with(probe());
    let shared = TempDir::new().unwrap();
    let mut bundle = Bundle::new("/bin/busybox sleep 0.5; /bin/busybox true; /bin/busybox sleep 0.2");
    bundle.bind(shared.path(), "/shared");
    let script = bundle.config["process"]["args"][3].as_str().unwrap().to_owned();
    let first = format!("/bin/busybox sh -c {script}");
    bundle.run(&mut watch, runtime);
    let id = &bundle.id;

    let start = operation(&watch.events, "START", id).unwrap();
    let programs = executions(&watch.events, "/bin/busybox");
    let programs: Vec<_> = programs.into_iter().filter(|event| event.cgroup_id == start.cgroup_id).collect();
    let programs: Vec<_> =
        programs.into_iter().filter(|event| event.mount_namespace == start.mount_namespace).collect();
    assert_eq!(programs.len(), 4, "sh, sleep, true and sleep: {programs:?}");
    assert_eq!(text(programs[0], Field::ProgramArguments), first);
    for (number, program) in programs.iter().enumerate() {
        // On a busy machine the first of them can be faster than whoever reads what the runtime wrote a millisecond ago.
        if number < 2 && program.value(Field::ContainerName) == Value::Unknown {
            continue;
        }
        assert_eq!([Field::ContainerId, Field::ContainerName].map(|field| text(program, field)), [&**id, &**id]);
        assert_eq!(program.value(Field::ImageName), Value::Absent);
        assert!(CONTAINER_FIELDS.iter().all(|field| program.value(*field) != Value::Unknown), "{program:?}");
    }
    // Everything of the container belongs to it, to its last process's end.
    let pids: Vec<u32> = programs.iter().map(|event| event.process.pid).collect();
    let ends = watch.events.iter().filter(|event| event.kind == EventKind::Exit && pids.contains(&event.process.pid));
    assert!(ends.clone().count() == 3 && ends.clone().all(|end| end.text(Field::ContainerId) == id.as_bytes()));

    let stop = operation(&watch.events, "STOP", id).unwrap();
    assert_eq!(start.process, programs[0].process, "the container starts with its first program");
    assert_eq!(start.time, programs[0].time);
    assert_eq!(text(start, Field::ProgramName), "/bin/busybox");
    assert_eq!((stop.process.pid, position(&watch.events, start) < position(&watch.events, stop)), (0, true));
    assert!(stop.time > start.time);
    for event in [start, stop] {
        for flag in [Field::ContainerPrivileged, Field::ContainerHostPid, Field::ContainerHostNetwork] {
            assert_eq!(event.value(flag), Value::Bool(false), "{flag}");
        }
        let Value::Many { items, truncated: false } = event.value(Field::ContainerMounts) else { panic!("{event:?}") };
        assert!(items.iter().any(|mount| mount == shared.path().as_os_str().as_encoded_bytes()));
    }
    let own = |event: &&Event| event.kind == EventKind::Container && event.text(Field::ContainerId) == id.as_bytes();
    assert_eq!(watch.events.iter().filter(own).count(), 2);
    let stats = watch.probe.containers().unwrap().stats();
    assert_eq!((stats.untracked, stats.unasked), (0, 0));
}

#[test]
fn runc() {
    whole_life(&Runtime::Runc);
}

#[test]
fn crun_on_version_2() {
    whole_life(&Runtime::CrunUnified);
}

#[test]
fn crun_on_version_1() {
    if has_legacy() {
        whole_life(&Runtime::CrunLegacy);
    }
}

#[test]
fn privileged_and_in_the_hosts_namespaces() {
    for shared in [&["pid"][..], &["network"]] {
        let mut watch = Watch::with(probe());
        let mut bundle = Bundle::new("/bin/busybox sleep 2");
        bundle.share_namespaces(shared);
        let bounds = fs::read_to_string("/proc/self/status").unwrap();
        let bounds = bounds.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap();
        let bounds = u64::from_str_radix(bounds.trim(), 16).unwrap();
        let all: Vec<_> = CAPABILITIES.iter().enumerate().filter(|(bit, _)| bounds >> bit & 1 == 1).collect();
        let all: Vec<_> = all.into_iter().map(|(_, name)| format!("CAP_{name}")).collect();
        for set in ["bounding", "effective", "permitted"] {
            bundle.config["process"]["capabilities"][set] = json!(all);
        }
        bundle.config["linux"]["resources"] = json!({"devices": [{"allow": true, "access": "rwm"}]});
        bundle.run(&mut watch, &Runtime::Runc);
        let start = operation(&watch.events, "START", &bundle.id).unwrap();
        assert_eq!(start.value(Field::ContainerPrivileged), Value::Bool(true));
        assert_eq!(start.value(Field::ContainerHostPid), Value::Bool(shared == ["pid"]));
        assert_eq!(start.value(Field::ContainerHostNetwork), Value::Bool(shared == ["network"]));
    }
}

const CAPABILITIES: [&str; 38] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
];

#[test]
fn a_container_that_ran_before() {
    let bundle = Bundle::new("echo here > /tmp/here; exec /bin/busybox sleep 60");
    fs::write(bundle.dir.path().join("config.json"), bundle.config.to_string()).unwrap();
    let mut command = Command::new("runc");
    command.args(["run", "--detach", "--bundle"]).arg(bundle.dir.path()).arg(&bundle.id);
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert!(status.success());
    let mut watch = Watch::with(probe().snapshot(true));
    watch.until("the start", |events| operation(events, "START", &bundle.id).is_some());
    let sleeps =
        |event: &&Event| event.kind == EventKind::Baseline && event.text(Field::ContainerId) == bundle.id.as_bytes();
    watch.until("the snapshot", |events| events.iter().any(|event| sleeps(&event)));
    let sleep = watch.events.iter().find(sleeps).unwrap();
    assert_eq!(text(sleep, Field::ContainerName), bundle.id);
    let found = sls_probe::find_containers().unwrap();
    let found = found.iter().find(|container| container.id == bundle.id).unwrap();
    assert_eq!((Some(found.cgroup_id), found.user), (sleep.cgroup_id, None));
    assert_eq!(found.cgroup_path, format!("/{}", bundle.id).as_bytes());
    // Where its files lie on the host.
    let containers = watch.probe.containers().unwrap();
    let container = containers.container(Hierarchy::Unified, sleep.cgroup_id.unwrap()).unwrap();
    assert_eq!(container.mount_namespace, sleep.mount_namespace);
    let path = String::from_utf8(container.host_path(b"/tmp/here").unwrap()).unwrap();
    assert_eq!(Path::new(&path), bundle.root().join("tmp/here"));
    assert_eq!(fs::read_to_string(path).unwrap(), "here\n");
    assert_eq!(container.host_path(b"/proc/1/cmdline"), None);
    let host = watch.events.iter().find(|event| event.process.pid == std::process::id()).unwrap();
    assert!(CONTAINER_FIELDS.iter().all(|field| host.value(*field) == Value::Absent), "{host:?}");

    assert!(Command::new("runc").args(["kill", &bundle.id, "KILL"]).status().unwrap().success());
    // runc notices when it is asked, and removes the cgroup then.
    watch.until("the end of the container", |events| {
        events
            .iter()
            .any(|event| event.kind == EventKind::Exit && event.text(Field::ContainerId) == bundle.id.as_bytes())
    });
    let deleted = Command::new("runc").args(["delete", "--force", &bundle.id]).output().unwrap();
    assert!(deleted.status.success(), "{deleted:?}");
    watch.until("the stop", |events| operation(events, "STOP", &bundle.id).is_some());
}

#[test]
fn files_of_containers_have_a_name_on_the_host() {
    let policies = "Shared: {policy: file, rules: ['match hostFilePath == \"*/from-inside\"', default ignore]}
Any: {policy: container, rules: [default match]}";
    let policies = PolicySet::from_yaml("policy.yaml", policies).unwrap();
    let mut watch = Watch::with(Probe::builder().snapshot(false).interest(policies.interest()));
    let shared = TempDir::new().unwrap();
    let shared_path = shared.path().canonicalize().unwrap();
    let mut bundle = Bundle::new(
        "/bin/busybox sleep 0.3; echo > /shared/from-inside; echo > /tmp/from-inside; /bin/busybox sleep 0.3",
    );
    bundle.bind(shared.path(), "/shared");
    bundle.run(&mut watch, &Runtime::Runc);
    let files: Vec<_> = watch.events.iter().filter(|event| event.kind == EventKind::File).collect();
    for (inside, outside) in [
        ("/shared/from-inside", shared_path.join("from-inside")),
        ("/tmp/from-inside", bundle.root().join("tmp/from-inside")),
    ] {
        let event = files.iter().find(|event| {
            event.text(Field::FilePath) == inside.as_bytes() && event.text(Field::ContainerId) == bundle.id.as_bytes()
        });
        let event = event.unwrap_or_else(|| panic!("{inside}: {files:?}"));
        assert_eq!(text(event, Field::HostFilePath), outside.to_str().unwrap());
        assert!(outside.exists());
    }
}

#[test]
fn a_hundred_short_containers() {
    // An emulated machine takes its time.
    let count = if std::env::var_os("SLS_LAB_GUEST").is_some() { 10 } else { 100 };
    let mut watch = Watch::with(probe());
    let before = watch.probe.containers().unwrap().stats();
    let mut bundle = Bundle::new("");
    let arguments = format!("/bin/busybox true {}", bundle.id);
    bundle.config["process"]["args"] = json!(arguments.split(' ').collect::<Vec<_>>());
    bundle.config["linux"].as_object_mut().unwrap().remove("cgroupsPath");
    fs::write(bundle.dir.path().join("config.json"), bundle.config.to_string()).unwrap();
    let script = format!(
        "{UNIFIED}
        for number in $(seq {count}); do crun run --bundle {} {}-$number </dev/null || exit; done",
        bundle.dir.path().display(),
        bundle.id
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-ec", &script]);
    let mut child = common::Running(command.spawn().unwrap());
    let prefix = format!("{}-", bundle.id);
    let operations = |events: &[Event], operation: &str| {
        let own = |event: &&Event| event.text(Field::ContainerId).starts_with(prefix.as_bytes());
        let of = |event: &&Event| event.text(Field::ContainerOperation) == operation.as_bytes();
        events.iter().filter(own).filter(of).count()
    };
    watch.until("all of them", |events| operations(events, "STOP") == count);
    assert!(child.0.wait().unwrap().success());
    assert_eq!(operations(&watch.events, "START"), count);
    // A container of 5 ms can be over before anybody has looked: then nothing is known of it, and that is said.
    let first = executions(&watch.events, "/bin/busybox");
    let first: Vec<_> =
        first.into_iter().filter(|event| event.text(Field::ProgramArguments) == arguments.as_bytes()).collect();
    let known = first.iter().filter(|event| event.text(Field::ContainerName).starts_with(prefix.as_bytes())).count();
    let unknown = first.iter().filter(|event| event.value(Field::ContainerName) == Value::Unknown).count();
    assert_eq!((first.len(), known + unknown), (count, count), "{known} known, {unknown} unknown");
    println!("{known} of {count} were known by their first program");
    // Other tests have containers too, but not so many.
    watch.poll(Duration::ZERO);
    let after = watch.probe.containers().unwrap().stats();
    assert!(
        after.cgroups < before.cgroups + count / 2 && after.containers < before.containers + count / 2,
        "{after:?}"
    );
    assert_eq!((after.untracked, after.unasked, after.unawaited), (0, 0, 0));
}

/// A cgroup of version 2 that is removed at the end.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new() -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let mount = mounts.filter(|words| words[2] == "cgroup2").map(|words| words[1].to_owned()).next_back().unwrap();
        let path = Path::new(&mount).join(unique("cgroup"));
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = Command::new("find").arg(&self.0).args(["-depth", "-type", "d", "-delete"]).output();
    }
}

#[test]
fn the_name_that_a_user_gives_a_cgroup_is_not_believed() {
    const USER: u32 = 65_534;
    let mut watch = Watch::with(probe());
    let cgroup = Cgroup::new();
    chown(&cgroup.0, Some(USER), Some(USER)).unwrap();
    let id = format!("{:064x}", std::process::id());
    let claimed = cgroup.0.join(format!("docker-{id}.scope"));
    let status = Command::new("mkdir").arg(&claimed).uid(USER).gid(USER).status().unwrap();
    assert!(status.success());
    let script = format!("echo $$ > {}/cgroup.procs && exec /bin/busybox true", claimed.display());
    let event = watch.exec_of(Command::new("/bin/busybox").args(["sh", "-c", &script]));
    // Nothing was looked up for it, so there is nothing to wait for either.
    assert_eq!([Field::ContainerId, Field::ContainerName].map(|field| text(&event, field)), [&*id, &*id]);
    assert_eq!(event.value(Field::ImageName), Value::Absent);
}

#[test]
fn cgroups_that_came_and_went_unseen() {
    let mut containers = Containers::builder().start().unwrap();
    containers.scan(false);
    let cgroup = Cgroup::new();
    let id = format!("{:064x}", u64::from(std::process::id()) << 32);
    let path = cgroup.0.join(format!("docker-{id}.scope"));
    fs::create_dir(&path).unwrap();
    let inode = fs::metadata(&path).unwrap().ino();
    let tells = |containers: &mut Containers| {
        let mut event = Event::new(EventKind::Exec);
        event.cgroup_id = Some(inode);
        containers.fill(&mut event, None);
        event.text(Field::ContainerId) == id.as_bytes()
    };
    let looks_again = |containers: &mut Containers| {
        let before = containers.stats().rescans;
        containers.rescan();
        while containers.stats().rescans == before {
            containers.poll(&mut |_| {});
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    assert!(!tells(&mut containers));
    looks_again(&mut containers);
    assert!(tells(&mut containers));
    fs::remove_dir(&path).unwrap();
    looks_again(&mut containers);
    assert!(!tells(&mut containers));
}

/// Podman with a storage of its own.
struct Podman {
    dir: TempDir,
}

impl Podman {
    fn new() -> Option<Self> {
        Command::new("podman").arg("--version").output().ok()?;
        Some(Self { dir: TempDir::new().unwrap() })
    }

    fn run(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("podman");
        for (option, dir) in [("--root", "root"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
            command.arg(option).arg(self.dir.path().join(dir));
        }
        command.args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "none"]);
        let output = command.args(["--runtime", "runc"]).args(arguments).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "podman {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.run(&["rm", "--force", "--all", "--time", "0"]);
        let parent = self.dir.path().to_owned();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        for mount in
            mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|it| Path::new(it).starts_with(&parent))
        {
            let _ = Command::new("umount").arg(mount).status();
        }
        remove_cgroups("libpod_parent");
    }
}

#[test]
fn podman() {
    let Some(podman) = Podman::new() else {
        println!("podman is not installed: nothing was tested");
        return;
    };
    let files = TempDir::new().unwrap();
    root_file_system(files.path());
    let archive = files.path().join("image.tar");
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(files.path()).args(["--exclude", "image.tar", "-cf"]).arg(&archive).arg(".");
    assert!(tar.status().unwrap().success());
    let image = podman.run(&["import", archive.to_str().unwrap(), "localhost/sls-test:7"]);
    let image = image.lines().last().unwrap().trim_start_matches("sha256:").to_owned();

    let mut watch = Watch::with(probe());
    let name = unique("podman");
    // The defaults are more than every root may set.
    let limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"];
    let shell = ["/bin/busybox", "sh", "-c", "/bin/busybox sleep 1; echo here > /here; /bin/busybox sleep 60; :"];
    let run = ["run", "--detach", "--privileged", "--pid", "host", "--network", "none", "--name", &name];
    let id = podman.run(&[&run[..], &limits, &["localhost/sls-test:7"], &shell].concat());
    assert_eq!(id.len(), 64, "{id}");
    watch.until("the start", |events| operation(events, "START", &id).is_some());
    watch.until("the sleep", |events| {
        let own = |event: &&Event| event.text(Field::ContainerId) == id.as_bytes();
        executions(events, "/bin/busybox").into_iter().filter(own).count() == 3
    });
    let programs = executions(&watch.events, "/bin/busybox");
    let programs: Vec<_> =
        programs.into_iter().filter(|event| event.text(Field::ContainerId) == id.as_bytes()).collect();
    for event in programs.iter().copied().chain(operation(&watch.events, "START", &id)) {
        // Its storage is not where Podman usually has it, and runc writes where that is just before the first program.
        if event.time < programs[2].time && event.value(Field::ContainerName) == Value::Unknown {
            continue;
        }
        assert_eq!(text(event, Field::ContainerName), name);
        assert_eq!(text(event, Field::ImageName), "localhost/sls-test:7");
        assert_eq!(text(event, Field::ImageId), format!("sha256:{image}"));
        assert_eq!(event.value(Field::KubernetesPod), Value::Absent);
    }
    let start = operation(&watch.events, "START", &id).unwrap();
    let flags = [Field::ContainerPrivileged, Field::ContainerHostPid, Field::ContainerHostNetwork];
    assert_eq!(flags.map(|flag| start.value(flag)), [true, true, false].map(Value::Bool));
    let containers = watch.probe.containers().unwrap();
    let container = containers.container(Hierarchy::Unified, start.cgroup_id.unwrap()).unwrap();
    let path = String::from_utf8(container.host_path(b"/here").unwrap()).unwrap();
    assert_eq!(fs::read_to_string(path).unwrap(), "here\n");
    // conmon watches the container, and is not in it.
    let conmon = |event: &&Event| event.kind == EventKind::Exec && event.text(Field::ProcessName) == b"conmon";
    let conmon = watch.events.iter().find(conmon).expect("conmon");
    assert_eq!(conmon.value(Field::ContainerId), Value::Absent);

    podman.run(&["kill", "--signal", "KILL", &name]);
    watch.until("the stop", |events| operation(events, "STOP", &id).is_some());
}

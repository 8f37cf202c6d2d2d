//! Real containers of runc and crun, and bare cgroups.

#![allow(clippy::expect_used)]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value as Json, json};
use tempfile::TempDir;

use super::wait_until;

/// A name that nothing else on the machine has.
pub(crate) fn unique(what: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!("sls-{what}-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// Where version 2 is mounted.
pub(crate) fn unified() -> PathBuf {
    let hybrid = PathBuf::from("/sys/fs/cgroup/unified");
    if hybrid.is_dir() { hybrid } else { "/sys/fs/cgroup".into() }
}

/// A container runtime, and how it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runtime {
    /// With the hierarchies that this machine has.
    Runc,
    /// Where version 2 is all there is: it does without where it is not.
    Crun,
}

impl Runtime {
    pub(crate) const ALL: [Self; 2] = [Self::Runc, Self::Crun];

    fn command(self) -> Command {
        if self == Self::Runc {
            return Command::new("runc");
        }
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-ec"]);
        command.arg(
            "[ \"$(stat -f -c %T /sys/fs/cgroup)\" = cgroup2fs ] || mount -t cgroup2 none /sys/fs/cgroup
            exec crun \"$@\"",
        );
        command.arg("crun");
        command
    }
}

/// A running container with a root file system of busybox alone; it is removed in the end.
#[derive(Debug)]
pub(crate) struct Container {
    runtime: Runtime,
    bundle: TempDir,
    id: String,
    /// Its first process.
    pub(crate) pid: u32,
    pub(crate) cgroup: Cgroup,
}

impl Container {
    /// Runs a script of the shell in a new container.
    pub(crate) fn run(runtime: Runtime, script: &str) -> Self {
        Self::run_as(runtime, &unique("container"), script)
    }

    /// The same, with this id and cgroup.
    pub(crate) fn run_as(runtime: Runtime, id: &str, script: &str) -> Self {
        let bundle = TempDir::new().unwrap();
        let rootfs = bundle.path().join("rootfs");
        for dir in ["bin", "proc", "sys", "dev", "tmp", "etc"] {
            fs::create_dir_all(rootfs.join(dir)).unwrap();
        }
        fs::copy("/bin/busybox", rootfs.join("bin/busybox")).expect("busybox-static");
        let spec = Command::new("runc").arg("spec").current_dir(bundle.path()).output().expect("runc");
        assert!(spec.status.success(), "{spec:?}");
        let file = bundle.path().join("config.json");
        let mut config: Json = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["/bin/busybox", "sh", "-c", script]);
        config["root"]["readonly"] = json!(false);
        config["linux"]["cgroupsPath"] = json!(format!("/{id}"));
        // crun would have to raise a limit for them, which not every root may.
        config["linux"].as_object_mut().unwrap().remove("resources");
        fs::write(file, config.to_string()).unwrap();

        // Whatever fails from here on is cleaned up after.
        let cgroup = Cgroup { path: unified().join(id) };
        let mut container = Self { runtime, bundle, id: id.to_owned(), pid: 0, cgroup };
        let mut command = container.command(&["run", "--detach", "--bundle"]);
        let errors = container.bundle.path().join("errors");
        command.arg(container.bundle.path()).arg(id).stdin(Stdio::null()).stdout(Stdio::null());
        let status = command.stderr(fs::File::create(&errors).unwrap()).status().unwrap();
        assert!(status.success(), "{}", fs::read_to_string(errors).unwrap());
        let state = container.command(&["state", id]).output().unwrap();
        let state: Json = serde_json::from_slice(&state.stdout).unwrap();
        container.pid = state["pid"].as_u64().unwrap().try_into().unwrap();
        container
    }

    /// A command of the runtime.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.runtime.command();
        command.args(arguments);
        command
    }

    /// A command of the runtime that is only about this container.
    pub(crate) fn control(&self, verb: &str) {
        let output = self.command(&[verb, &self.id]).output().unwrap();
        assert!(output.status.success(), "{verb}: {output:?}");
    }

    /// Size of a file in the container; 0 if there is none.
    pub(crate) fn size_of(&self, path: &str) -> u64 {
        fs::metadata(self.bundle.path().join("rootfs").join(path)).map_or(0, |meta| meta.len())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.cgroup.try_write("cgroup.freeze", "0");
        if self.runtime == Runtime::Runc {
            let _ = self.command(&["resume", &self.id]).output();
        }
        let _ = self.cgroup.try_write("cgroup.kill", "1");
        let _ = self.command(&["delete", "--force", &self.id]).output();
        // A runtime that failed leaves cgroups behind.
        let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
        for hierarchy in hierarchies {
            remove(&hierarchy.join(&self.id));
        }
    }
}

/// A cgroup by its path.
#[derive(Debug)]
pub(crate) struct Cgroup {
    pub(crate) path: PathBuf,
}

impl Cgroup {
    pub(crate) fn id(&self) -> u64 {
        fs::metadata(&self.path).unwrap().ino()
    }

    pub(crate) fn read(&self, file: &str) -> String {
        fs::read_to_string(self.path.join(file)).unwrap_or_default()
    }

    pub(crate) fn try_write(&self, file: &str, text: &str) -> std::io::Result<()> {
        // Not created, where there is no such file.
        use std::io::Write;
        fs::OpenOptions::new().write(true).open(self.path.join(file))?.write_all(text.as_bytes())
    }

    pub(crate) fn add(&self, pid: u32) {
        self.try_write("cgroup.procs", &pid.to_string()).unwrap();
    }

    /// A cgroup below this one.
    pub(crate) fn below(&self, name: &str) -> Self {
        let path = self.path.join(name);
        fs::create_dir(&path).unwrap();
        Self { path }
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.read("cgroup.events").contains("frozen 1")
    }

    /// Whether no process is in it or below it, or it is gone.
    pub(crate) fn is_empty(&self) -> bool {
        !self.read("cgroup.events").contains("populated 1")
    }

    /// The processes in it and below it.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let output = Command::new("find").arg(&self.path).args(["-name", "cgroup.procs"]).output().unwrap();
        let files = String::from_utf8(output.stdout).unwrap();
        let texts = files.lines().map(|file| fs::read_to_string(file).unwrap_or_default());
        texts.collect::<String>().lines().map(|pid| pid.parse().unwrap()).collect()
    }
}

/// A cgroup of this test, in whatever hierarchy; it is emptied and removed in the end.
#[derive(Debug)]
pub(crate) struct OwnCgroup(pub(crate) Cgroup);

impl OwnCgroup {
    pub(crate) fn new() -> Self {
        Self::under(&unified())
    }

    pub(crate) fn under(hierarchy: &Path) -> Self {
        let path = hierarchy.join(unique("cgroup"));
        fs::create_dir(&path).unwrap();
        Self(Cgroup { path })
    }
}

impl std::ops::Deref for OwnCgroup {
    type Target = Cgroup;

    fn deref(&self) -> &Cgroup {
        &self.0
    }
}

impl Drop for OwnCgroup {
    fn drop(&mut self) {
        let _ = self.try_write("cgroup.freeze", "0");
        let _ = self.try_write("freezer.state", "THAWED");
        let _ = self.try_write("cgroup.kill", "1");
        if self.path.join("freezer.state").exists() {
            // Whoever is in it cannot be killed with it, and belongs to the test.
            let parent = Cgroup { path: self.path.parent().unwrap().to_owned() };
            self.pids().into_iter().for_each(|pid| drop(parent.try_write("cgroup.procs", &pid.to_string())));
        }
        if self.path.exists() && !std::thread::panicking() && self.path.join("cgroup.events").exists() {
            wait_until("the cgroup of the test is empty", || self.is_empty());
        }
        remove(&self.path);
    }
}

fn remove(path: &Path) {
    if path.exists() {
        let arguments = [path.as_os_str(), OsStr::new("-depth"), "-type".as_ref(), "d".as_ref(), "-delete".as_ref()];
        let _ = Command::new("find").args(arguments).output();
    }
}

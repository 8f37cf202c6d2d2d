//! `sls thaw` on a container of runc, and on cgroups that are named as engines name them. Needs root, runc and busybox.

// A test may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use support::{directory, sls, wait_for};

/// Where version 2 is mounted.
fn unified() -> PathBuf {
    let hybrid = Path::new("/sys/fs/cgroup/unified");
    if hybrid.is_dir() { hybrid.into() } else { "/sys/fs/cgroup".into() }
}

/// The cgroup of a container of Docker, which has the id that is given and no process. It is removed in the end.
struct DockerCgroup(PathBuf);

impl DockerCgroup {
    fn new(id: &str) -> Self {
        let path = unified().join(format!("docker-{id}.scope"));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn freeze(&self) {
        fs::write(self.0.join("cgroup.freeze"), "1").unwrap();
    }

    fn is_frozen(&self) -> bool {
        fs::read_to_string(self.0.join("cgroup.events")).unwrap().contains("frozen 1")
    }
}

impl Drop for DockerCgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// An id that begins with `start` and is this test's alone.
fn id(start: &str) -> String {
    let own = format!("{start}{:08x}", std::process::id());
    format!("{own:0<64}")
}

fn thaw(container: &str, format: &str) -> Output {
    sls(&["thaw", container, "--format", format]).output().unwrap()
}

fn says(output: &Output, status: i32, error: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(status) && text.contains(error), "{output:?}");
}

#[test]
fn a_container_goes_on() {
    let id = id("a0");
    let cgroup = DockerCgroup::new(&id);
    cgroup.freeze();
    wait_for("the cgroup to freeze", || cgroup.is_frozen().then_some(()));
    let output = thaw(&id, "human");
    says(&output, 0, "");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, format!("thawed container {id} (cgroup /docker-{id}.scope)\n"));
    assert!(!cgroup.is_frozen());

    // Again, by the beginning of its id, and for a program.
    cgroup.freeze();
    let output = thaw(&id[..20], "json");
    says(&output, 0, "");
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let cgroup_id = fs::metadata(&cgroup.0).unwrap().ino();
    let path = format!("/docker-{id}.scope");
    let expected =
        json!({"container": id, "cgroupId": cgroup_id, "cgroupPath": path, "result": "successful", "details": ""});
    assert_eq!(json, expected);
    assert!(!cgroup.is_frozen());

    says(&thaw(&id, "human"), 1, "the container is not paused");
    let json: Value = serde_json::from_slice(&thaw(&id, "json").stdout).unwrap();
    assert_eq!((&json["result"], &json["details"]), (&json!("not successful"), &json!("the container is not paused")));
}

#[test]
fn a_name_must_mean_one_container() {
    let one = id("b0");
    let other = format!("{}{}", &one[..12], "1".repeat(52));
    let cgroups = [DockerCgroup::new(&one), DockerCgroup::new(&other)];
    cgroups.iter().for_each(DockerCgroup::freeze);
    let output = thaw(&one[..12], "human");
    says(&output, 1, "several containers have an id that begins with ");
    assert!(cgroups.iter().all(DockerCgroup::is_frozen));
    // All of one's own is nobody else's.
    says(&thaw(&one, "human"), 0, "");
    assert!(!cgroups[0].is_frozen() && cgroups[1].is_frozen());

    says(&thaw("no-such-container", "human"), 1, "no container has the id no-such-container");
    says(&thaw("abc", "human"), 2, "expected at least 4 characters");
    says(&thaw("", "human"), 2, "expected at least 4 characters");
}

#[test]
fn a_user_who_may_not_is_told_so() {
    let id = id("c0");
    let cgroup = DockerCgroup::new(&id);
    cgroup.freeze();
    // The program may lie where others cannot look.
    let directory = directory();
    let program = support::copy_of(env!("CARGO_BIN_EXE_sls"), directory.path().join("sls"));
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program).args(["thaw", &id]);
    says(&command.output().unwrap(), 2, "permission denied");
    assert!(cgroup.is_frozen());
}

/// A container of bare runc has the id that runc knows, whatever its cgroup is called.
#[test]
fn a_container_of_runc_goes_on() {
    let directory = directory();
    let (id, path) = (format!("sls-thaw-{}", std::process::id()), format!("/sls-box-{}", std::process::id()));
    let container = RuncContainer::run(directory.path(), &id, &path);
    let cgroup = unified().join(&path[1..]);
    fs::write(cgroup.join("cgroup.freeze"), "1").unwrap();
    let events = || fs::read_to_string(cgroup.join("cgroup.events")).unwrap();
    wait_for("the container to freeze", || events().contains("frozen 1").then_some(()));
    says(&thaw(&id, "human"), 0, "");
    assert!(events().contains("frozen 0") && events().contains("populated 1"));
    drop(container);
}

struct RuncContainer<'i>(&'i str, &'i str);

impl<'i> RuncContainer<'i> {
    fn run(bundle: &Path, id: &'i str, cgroup: &'i str) -> Self {
        let root = bundle.join("rootfs");
        ["bin", "proc", "sys", "dev"].iter().for_each(|dir| fs::create_dir_all(root.join(dir)).unwrap());
        support::copy_of("/bin/busybox", root.join("bin/busybox"));
        let spec = Command::new("runc").arg("spec").current_dir(bundle).status().expect("runc");
        assert!(spec.success());
        let file = bundle.join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["/bin/busybox", "sleep", "600"]);
        config["linux"]["cgroupsPath"] = json!(cgroup);
        fs::write(file, config.to_string()).unwrap();
        let container = Self(id, cgroup);
        let mut command = Command::new("runc");
        command.args(["run", "--detach", "--bundle"]).arg(bundle).arg(id);
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        assert!(status.success());
        container
    }
}

impl Drop for RuncContainer<'_> {
    fn drop(&mut self) {
        let _ = fs::write(unified().join(&self.1[1..]).join("cgroup.freeze"), "0");
        let _ = Command::new("runc").args(["delete", "--force", self.0]).output();
    }
}

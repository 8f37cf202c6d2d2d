//! What `sls run` does to a container whose process violates a policy, and what it says of a process outside of one. Needs
//! root, runc and busybox.

// A test may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use support::{Sensor, Victim, copy_of, directory, policy, runs, sls, sls_run, wait_for, write};

/// The path in the container that is looked for. Busybox takes a name that begins with its own for its own.
const TOOL: &str = "/bin/busybox-tool";

fn unified() -> PathBuf {
    let hybrid = Path::new("/sys/fs/cgroup/unified");
    if hybrid.is_dir() { hybrid.into() } else { "/sys/fs/cgroup".into() }
}

/// A container in a cgroup that is named as Docker names them, which says its id at once. Its first process becomes
/// [`TOOL`]; another counts.
struct Container {
    bundle: tempfile::TempDir,
    id: String,
    pid: u32,
}

impl Container {
    fn run(number: u32) -> Self {
        let bundle = directory();
        let root = bundle.path().join("rootfs");
        ["bin", "proc", "sys", "dev", "tmp"].iter().for_each(|dir| fs::create_dir_all(root.join(dir)).unwrap());
        copy_of("/bin/busybox", root.join("bin/busybox"));
        copy_of("/bin/busybox", root.join(&TOOL[1..]));
        let spec = Command::new("runc").arg("spec").current_dir(bundle.path()).status().expect("runc");
        assert!(spec.success());
        let file = bundle.path().join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        let id = format!("{:0<64}", format!("d{number:x}{:08x}", std::process::id()));
        let script = format!(
            "(while :; do echo >> /tmp/count; /bin/busybox sleep 0.01; done) &
            exec {TOOL} sleep 600"
        );
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["/bin/busybox", "sh", "-c", script]);
        config["root"]["readonly"] = json!(false);
        config["linux"]["cgroupsPath"] = json!(format!("/docker-{id}.scope"));
        fs::write(file, config.to_string()).unwrap();
        let mut container = Self { bundle, id, pid: 0 };
        let pid_file = container.bundle.path().join("pid");
        let mut command = Command::new("runc");
        command.args(["run", "--detach", "--pid-file"]).arg(&pid_file).arg("--bundle").arg(container.bundle.path());
        let status = command.arg(&container.id).stdin(Stdio::null()).stdout(Stdio::null()).status().unwrap();
        assert!(status.success());
        container.pid = fs::read_to_string(pid_file).unwrap().parse().unwrap();
        container
    }

    fn events(&self) -> String {
        let path = unified().join(format!("docker-{}.scope/cgroup.events", self.id));
        fs::read_to_string(path).unwrap_or_default()
    }

    fn count(&self) -> u64 {
        fs::metadata(self.bundle.path().join("rootfs/tmp/count")).map_or(0, |meta| meta.len())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = fs::write(unified().join(format!("docker-{}.scope/cgroup.freeze", self.id)), "0");
        let _ = Command::new("runc").args(["delete", "--force", &self.id]).output();
    }
}

#[test]
fn kill_container_ends_the_whole_container() {
    let directory = directory();
    let text = policy("Box", &format!("programName == \"{TOOL}\""), "[kill-container, alert]");
    let sensor = Sensor::start(sls_run(&write(directory.path().join("policy.yaml"), &text)));
    let container = Container::run(1);
    let alert = sensor.alert(container.pid);
    assert_eq!(alert.outcome(), ["kill-container", "successful", ""], "{}", alert.text);
    assert_eq!(alert.message(), "Took responseAction: kill-container");
    assert!(!container.events().contains("populated 1"), "the alert came before the end");
    sensor.stop().assert_clean();
}

#[test]
fn pause_container_freezes_it_until_it_is_thawed() {
    let directory = directory();
    let text = policy("Box", &format!("programName == \"{TOOL}\""), "[pause-container, alert]");
    let sensor = Sensor::start(sls_run(&write(directory.path().join("policy.yaml"), &text)));
    let container = Container::run(2);
    let alert = sensor.alert(container.pid);
    assert_eq!(alert.outcome(), ["pause-container", "successful", ""], "{}", alert.text);
    assert!(container.events().contains("frozen 1"), "the alert came before the pause");
    let count = container.count();
    assert!(sls(&["thaw", &container.id[..12]]).output().unwrap().status.success());
    wait_for("the container to go on", || (container.count() > count).then_some(()));
    sensor.stop().assert_clean();
    assert!(container.events().contains("populated 1"), "the end of the sensor ended the container");
}

#[test]
fn outside_a_container_nothing_is_done_and_the_alert_says_so() {
    let directory = directory();
    let program = copy_of("/usr/bin/sleep", directory.path().join("not-in-a-container"));
    let text = policy("Box", &format!("programName == \"{}\"", program.display()), "[kill-container, alert]");
    let sensor = Sensor::start(sls_run(&write(directory.path().join("policy.yaml"), &text)));
    let victim = Victim::as_nobody(Command::new(&program).arg("60"));
    let alert = sensor.alert(victim.pid());
    let details = "container: the process runs outside a container";
    assert_eq!(alert.outcome(), ["kill-container", "refused", details], "{}", alert.text);
    assert_eq!(alert.message(), "Refused responseAction: kill-container");
    assert!(runs(victim.pid()));
    sensor.stop().assert_clean();
}

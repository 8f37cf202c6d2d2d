//! What the systemd unit gives is enough for every action; what it might take away is noticed.
//!
//! The unit's settings are applied as systemd does, with mounts in a namespace of its own and with `setpriv`. Its filters of
//! system calls are not: there is no common tool that sets them.

// A test may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fmt::Write;
use std::fs;
use std::process::{Command, Output};

use serde_json::Value;

use support::{directory, in_clean_environment, policy, run, text, write};

const SLS: &str = env!("CARGO_BIN_EXE_sls");

#[test]
fn under_the_unit_every_action_works() {
    let output = run(Unit::deployed().command(&["doctor", "--format", "json"]));
    let report = report(&output);
    let actions = report["actions"].as_array().unwrap();
    assert!(!actions.is_empty());
    for action in actions {
        assert_eq!(report["actionsTested"][action.as_str().unwrap()]["works"], true, "{report}");
    }
    assert_eq!(report["permitted"], true);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn under_the_unit_the_sensor_starts_and_ends() {
    let directory = directory();
    let acting = "[stop, kill, kill-tree, kill-container, pause-container, alert]";
    let mut acting = policy("Acting", "programName == \"/nonexistent\"", acting);
    for action in ["quarantine", "delete"] {
        let condition = "filePath == \"/nonexistent\"";
        acting += &policy(action, condition, &format!("[{action}, alert]")).replace("policy: program", "policy: file");
    }
    write(directory.path().join("policy.yaml"), &acting);
    let config = "policies: [policy.yaml]\nquarantineDirectory: store\n";
    let config = write(directory.path().join("config.yaml"), config);
    let arguments = ["run", "--require-actions", "--duration", "1s", "--config", config.to_str().unwrap()];
    let output = run(Unit::deployed().command(&arguments));
    let log = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{log}");
    assert!(log.contains("watching") && !log.contains("does not work here"), "{log}");
    // The built-in content judges whatever else happens on this machine, which may be more than a debug build can write.
    let mut errors = log.lines().filter(|line| line.contains("ERROR") && !line.contains("the outputs are too slow"));
    assert_eq!(errors.next(), None, "{log}");
    assert_eq!(
        fs::read_dir(directory.path().join("store")).unwrap().count(),
        0,
        "the test of quarantine left something"
    );
}

#[test]
fn file_actions_on_read_only_file_systems_are_inert() {
    let unit = Unit::deployed().with("ProtectSystem", "strict");
    let report = report(&run(unit.command(&["doctor", "--format", "json"])));
    for action in ["quarantine", "delete"] {
        let tested = &report["actionsTested"][action];
        assert_eq!(tested["works"], false, "{report}");
        assert!(tested["reason"].as_str().unwrap().to_lowercase().contains("read-only file system"), "{tested}");
    }
    for action in ["kill", "stop", "kill-container"] {
        assert_eq!(report["actionsTested"][action]["works"], true, "{report}");
    }
}

#[test]
fn inert_container_kill_is_known_before_it_is_needed() {
    let unit = Unit::deployed().with("ProtectControlGroups", "yes");
    let report = report(&run(unit.command(&["doctor", "--format", "json"])));
    for action in ["kill-container", "pause-container"] {
        let tested = &report["actionsTested"][action];
        assert_eq!(tested["works"], false, "{report}");
        assert!(tested["reason"].as_str().unwrap().ends_with("read-only file system"), "{tested}");
    }
    assert_eq!(report["actionsTested"]["kill"]["works"], true, "{report}");

    let directory = directory();
    let killing = policy("Killing", "programName == \"/nonexistent\"", "[kill-container, alert]");
    let file = write(directory.path().join("policy.yaml"), &killing);
    let arguments =
        ["run", "--no-content", "--require-actions", "--duration", "1s", "--policy", file.to_str().unwrap()];
    let refused = run(unit.command(&arguments));
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    let said = text(&refused.stderr);
    let expected = "sls: these actions do not work here (--require-actions): kill-container: /sys/fs/cgroup";
    assert!(said.contains(expected) && said.contains("read-only file system"), "{said}");
    assert!(!said.contains("watching"), "{said}");
}

#[test]
fn under_the_unit_pinning_takes_its_drop_in() {
    let pins = format!("/sys/fs/bpf/sls-test-unit-{}", std::process::id());
    let directory = directory();
    write(directory.path().join("policy.yaml"), &policy("Killing", "programName == \"/nonexistent\"", "[kill, alert]"));
    let config = format!("policies: [policy.yaml]\ncontent: false\npin: true\npinDirectory: {pins}\n");
    let config = write(directory.path().join("config.yaml"), &config);
    let arguments = ["run", "--duration", "1s", "--config", config.to_str().unwrap()];
    let refused = run(Unit::deployed().command(&arguments));
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("cannot pin the kernel tier") && said.contains("Read-only file system"), "{said}");
    let output = run(Unit::pinning().command(&arguments));
    let pinned = fs::exists(&pins).unwrap();
    let unpinned = run(Unit::pinning().command(&["unpin", "--path", &pins]));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(pinned && unpinned.status.success() && !fs::exists(&pins).unwrap(), "{unpinned:?}");
}

/// Settings of a service, in order; a later one of the same name takes the place of those before.
struct Unit(Vec<(String, String)>);

impl Unit {
    fn deployed() -> Self {
        Self(Self::settings(include_str!("../../deploy/sls.service")))
    }

    /// With what pinning takes.
    fn pinning() -> Self {
        let mut unit = Self::deployed();
        unit.0.extend(Self::settings(include_str!("../../deploy/sls-pin.conf")));
        unit
    }

    fn settings(unit: &str) -> Vec<(String, String)> {
        let service = unit.split_once("[Service]").unwrap().1.split("[Install]").next().unwrap();
        let settings = service.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
        settings.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    /// How long the longest of these paths is that a mount is at or below.
    fn names(&self, key: &str, point: &str) -> usize {
        let paths = self.setting(key).split_whitespace().map(|path| path.trim_start_matches('-'));
        let below = paths.filter(|path| point == *path || point.starts_with(&format!("{path}/")));
        below.map(str::len).max().unwrap_or(0)
    }

    fn with(mut self, key: &str, value: &str) -> Self {
        self.0.push((key.to_owned(), value.to_owned()));
        self
    }

    fn setting(&self, key: &str) -> &str {
        self.0.iter().rev().find(|(known, _)| known == key).map_or("", |(_, value)| value)
    }

    fn is_on(&self, key: &str) -> bool {
        matches!(self.setting(key), "yes" | "true" | "on" | "1")
    }

    /// `sls` with these arguments as the service would run it.
    fn command(&self, arguments: &[&str]) -> Command {
        let script = self.mounts() + "exec \"$@\"\n";
        let mut command =
            in_clean_environment(Command::new("unshare"), &["--mount", "--propagation", "private", "sh", "-ec"]);
        command.args([&script, "sh", "setpriv"]);
        if self.is_on("NoNewPrivileges") {
            command.arg("--no-new-privs");
        }
        let names: Vec<_> = self.setting("CapabilityBoundingSet").split_whitespace().collect();
        assert!(!names.is_empty(), "the unit says nothing of capabilities");
        let kept = names.iter().map(|name| format!(",+{}", name.strip_prefix("CAP_").unwrap().to_lowercase()));
        command.arg(format!("--bounding-set=-all{}", kept.collect::<String>()));
        command.arg(SLS).args(arguments);
        command
    }

    /// What the service sees of the file systems.
    fn mounts(&self) -> String {
        // Where systemd runs, it has mounted this.
        let mut script =
            "[ -e /sys/kernel/tracing/events ] || mount -t tracefs tracefs /sys/kernel/tracing\n".to_owned();
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points: Vec<_> = mountinfo.lines().map(|line| line.split(' ').nth(4).unwrap()).collect();
        let below = |point: &str, above: &str| point == above || point.starts_with(&format!("{above}/"));
        let cgroups = |point: &str| below(point, "/sys/fs/cgroup");
        let read_only = |point: &str| {
            let of_the_kernel = ["/sys", "/proc", "/dev"].iter().any(|above| below(point, above));
            match self.setting("ProtectSystem") {
                "strict" if !of_the_kernel => true,
                _ if cgroups(point) => self.is_on("ProtectControlGroups"),
                _ if self.is_on("ProtectKernelTunables") => below(point, "/sys"),
                _ => self.names("ReadOnlyPaths", point) > self.names("ReadWritePaths", point),
            }
        };
        for point in points.into_iter().filter(|point| read_only(point)) {
            writeln!(script, "mount -o remount,bind,ro '{point}'").unwrap();
        }
        let mut bind = |path: &str| {
            writeln!(
                script,
                "if [ -e '{path}' ]; then mount --rbind '{path}' '{path}'; mount -o remount,bind,ro '{path}'; fi"
            )
            .unwrap();
        };
        if self.is_on("ProtectKernelTunables") || self.names("ReadOnlyPaths", "/proc/sys") > 0 {
            bind("/proc/sys");
        }
        match self.setting("ProtectSystem") {
            "yes" | "true" => ["/usr", "/boot"].iter().for_each(|path| bind(path)),
            "full" => ["/usr", "/boot", "/etc"].iter().for_each(|path| bind(path)),
            _ => {}
        }
        if self.setting("ProtectHome") == "read-only" {
            ["/home", "/root", "/run/user"].iter().for_each(|path| bind(path));
        }
        if self.is_on("PrivateTmp") {
            script += "mount -t tmpfs tmpfs /tmp; mount -t tmpfs tmpfs /var/tmp\n";
        }
        script
    }
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

//! The files in which OCI runtimes keep their containers: `config.json` of a bundle, `state.json` of runc, `status` of
//! crun.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

/// How a container is set up.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Setup {
    /// The root directory; relative to the bundle if it is not absolute.
    pub(crate) root: Option<String>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) annotations: BTreeMap<String, String>,
    /// The capabilities that it may ever have, a bit each.
    pub(crate) capabilities: u64,
    /// Whether no device is forbidden.
    pub(crate) all_devices: bool,
    pub(crate) pid: Namespace,
    pub(crate) network: Namespace,
    /// Where the bundle is.
    pub(crate) bundle: Option<PathBuf>,
    /// The first process, and when it started, in clock ticks since boot.
    pub(crate) init: Option<(u32, u64)>,
    /// The runtime has yet to write where the bundle is, and which process is the first.
    pub(crate) early: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) destination: String,
    /// Of bind mounts only.
    pub(crate) source: Option<String>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) enum Namespace {
    /// That of the runtime.
    #[default]
    Shared,
    Own,
    /// The one behind this path.
    Joined(PathBuf),
}

/// `config.json`: <https://github.com/opencontainers/runtime-spec/blob/main/config.md>.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Spec {
    root: Option<SpecRoot>,
    mounts: Option<Vec<SpecMount>>,
    annotations: Option<BTreeMap<String, String>>,
    process: Option<SpecProcess>,
    linux: Option<SpecLinux>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SpecRoot {
    path: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SpecMount {
    destination: String,
    #[serde(rename = "type")]
    kind: Option<String>,
    source: Option<String>,
    options: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SpecProcess {
    capabilities: Option<SpecCapabilities>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SpecCapabilities {
    bounding: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SpecLinux {
    namespaces: Option<Vec<NamespaceEntry>>,
    resources: Option<SpecResources>,
    #[serde(rename = "cgroupsPath")]
    cgroups_path: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NamespaceEntry {
    #[serde(rename = "type")]
    kind: String,
    path: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SpecResources {
    devices: Option<Vec<SpecDevice>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SpecDevice {
    allow: bool,
    #[serde(rename = "type")]
    kind: Option<String>,
    major: Option<i64>,
    minor: Option<i64>,
    access: Option<String>,
}

impl Spec {
    /// The path of the container's cgroup, if it says where that is to be. With systemd it says what it is to be called.
    pub(crate) fn cgroup(&self) -> Option<&str> {
        self.linux.as_ref()?.cgroups_path.as_deref().filter(|path| path.starts_with('/'))
    }

    pub(crate) fn setup(self) -> Setup {
        let linux = self.linux.unwrap_or_default();
        let bounding = self.process.and_then(|process| process.capabilities?.bounding).unwrap_or_default();
        let rules = linux.resources.and_then(|resources| resources.devices).unwrap_or_default();
        let rules = rules.iter().map(|rule| DeviceRule {
            allow: rule.allow,
            all: matches!(rule.kind.as_deref(), None | Some("" | "a")) && any(rule.major) && any(rule.minor),
            access: rule.access.as_deref().unwrap_or_default(),
        });
        let mounts = self.mounts.unwrap_or_default().into_iter().map(|mount| {
            let options = mount.options.unwrap_or_default();
            let bind = mount.kind.as_deref() == Some("bind") || options.iter().any(|it| it == "bind" || it == "rbind");
            Mount { destination: mount.destination, source: mount.source.filter(|_| bind) }
        });
        let (pid, network) = namespaces(linux.namespaces.unwrap_or_default(), "pid", "network");
        Setup {
            root: self.root.map(|root| root.path).filter(|path| !path.is_empty()),
            mounts: mounts.collect(),
            annotations: self.annotations.unwrap_or_default(),
            capabilities: capabilities(&bounding),
            all_devices: all_devices(rules),
            pid,
            network,
            ..Setup::default()
        }
    }
}

/// `state.json` of runc: `libcontainer.State`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RuncState {
    init_process_pid: u32,
    init_process_start: u64,
    config: RuncConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RuncConfig {
    rootfs: String,
    mounts: Option<Vec<RuncMount>>,
    namespaces: Option<Vec<NamespaceEntry>>,
    capabilities: Option<RuncCapabilities>,
    cgroups: Option<RuncCgroups>,
    labels: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RuncMount {
    source: Option<String>,
    destination: String,
    device: Option<String>,
    flags: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RuncCapabilities {
    #[serde(rename = "Bounding")]
    bounding: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RuncCgroups {
    devices: Option<Vec<RuncDevice>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RuncDevice {
    /// A character: `a`, `b`, `c`.
    #[serde(rename = "type")]
    kind: u32,
    major: i64,
    minor: i64,
    permissions: String,
    allow: bool,
}

impl RuncState {
    pub(crate) fn setup(self) -> Setup {
        const MS_BIND: u64 = 4096;
        let config = self.config;
        let mut annotations: BTreeMap<String, String> = config
            .labels
            .unwrap_or_default()
            .iter()
            .filter_map(|label| label.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        // runc's own.
        let bundle = annotations.remove("bundle").map(PathBuf::from);
        let mounts = config.mounts.unwrap_or_default().into_iter().map(|mount| {
            let bind = mount.device.as_deref() == Some("bind") || mount.flags & MS_BIND != 0;
            Mount { destination: mount.destination, source: mount.source.filter(|_| bind) }
        });
        let rules = config.cgroups.and_then(|cgroups| cgroups.devices).unwrap_or_default();
        let rules = rules.iter().map(|rule| DeviceRule {
            allow: rule.allow,
            all: rule.kind == u32::from(b'a') && any(Some(rule.major)) && any(Some(rule.minor)),
            access: &rule.permissions,
        });
        let bounding = config.capabilities.and_then(|capabilities| capabilities.bounding).unwrap_or_default();
        let (pid, network) = namespaces(config.namespaces.unwrap_or_default(), "NEWPID", "NEWNET");
        Setup {
            root: Some(config.rootfs).filter(|path| !path.is_empty()),
            mounts: mounts.collect(),
            annotations,
            capabilities: capabilities(&bounding),
            all_devices: all_devices(rules),
            pid,
            network,
            bundle,
            init: (self.init_process_pid > 0).then_some((self.init_process_pid, self.init_process_start)),
            early: false,
        }
    }
}

/// `status` of crun. Beside it is a copy of `config.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(crate) struct CrunStatus {
    pid: u32,
    process_start_time: u64,
    cgroup_path: Option<String>,
    systemd_cgroup: bool,
    bundle: Option<PathBuf>,
}

impl CrunStatus {
    pub(crate) fn setup(self, spec: Spec) -> Setup {
        Setup {
            bundle: self.bundle,
            init: (self.pid > 0).then_some((self.pid, self.process_start_time)),
            ..spec.setup()
        }
    }

    /// The path of its cgroup, from the root of the hierarchy.
    pub(crate) fn cgroups(self) -> Vec<String> {
        let path = self.cgroup_path.map(|path| match path.strip_suffix("/container") {
            // What crun puts below the scope that systemd gave it.
            Some(scope) if self.systemd_cgroup => scope.to_owned(),
            _ => path,
        });
        path.into_iter().collect()
    }
}

/// Only the paths of a container's cgroups in runc's `state.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RuncCgroupPaths {
    cgroup_paths: Option<BTreeMap<String, String>>,
}

impl RuncCgroupPaths {
    /// The paths of its cgroups, each from the root of its hierarchy.
    pub(crate) fn cgroups(self) -> Vec<String> {
        let mut paths: Vec<String> = Vec::new();
        for (controller, path) in self.cgroup_paths.unwrap_or_default() {
            let Some(path) = path.strip_prefix("/sys/fs/cgroup/") else { continue };
            // The unified hierarchy has no controller's name. Where it is not the only one, each has its directory.
            let path = match path.split_once('/') {
                Some((hierarchy, path)) if !controller.is_empty() || hierarchy == "unified" => path,
                _ => path,
            };
            let path = format!("/{path}");
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
        paths
    }
}

struct DeviceRule<'r> {
    allow: bool,
    /// Whether it is about every device.
    all: bool,
    access: &'r str,
}

/// Absent and negative numbers mean any.
fn any(number: Option<i64>) -> bool {
    number.is_none_or(|number| number < 0)
}

/// What the last rule about all devices says. Where there is none, nothing is forbidden.
fn all_devices<'r>(rules: impl DoubleEndedIterator<Item = DeviceRule<'r>>) -> bool {
    let last = rules.rev().find(|rule| rule.all);
    last.is_none_or(|rule| rule.allow && ['r', 'w', 'm'].iter().all(|access| rule.access.contains(*access)))
}

fn namespaces(entries: Vec<NamespaceEntry>, pid: &str, network: &str) -> (Namespace, Namespace) {
    let mut found = (Namespace::Shared, Namespace::Shared);
    for entry in entries {
        let namespace = match entry.path.filter(|path| !path.is_empty()) {
            Some(path) => Namespace::Joined(path.into()),
            None => Namespace::Own,
        };
        if entry.kind == pid {
            found.0 = namespace;
        } else if entry.kind == network {
            found.1 = namespace;
        }
    }
    found
}

/// The names of capabilities(7) as bits; names that are not known are left out.
fn capabilities(names: &[String]) -> u64 {
    let bit = |name: &String| {
        let name = name.strip_prefix("CAP_").unwrap_or(name);
        CAPABILITIES.iter().position(|known| *known == name).map_or(0, |bit| 1 << bit)
    };
    names.iter().fold(0, |mask, name| mask | bit(name))
}

/// In the order of `include/uapi/linux/capability.h`.
const CAPABILITIES: [&str; 41] = [
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
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Those that Linux has had since 3.16: an older runtime knows no others, and `SYS_ADMIN` includes the rest.
pub(crate) const ALL_CAPABILITIES: u64 = (1 << 38) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(linux: &str) -> Setup {
        serde_json::from_str::<Spec>(&format!(r#"{{"linux": {linux}}}"#)).unwrap().setup()
    }

    #[test]
    fn devices() {
        let table = [
            (r#"{}"#, true),
            (r#"{"resources": {"devices": null}}"#, true),
            (r#"{"resources": {"devices": [{"allow": false, "access": "rwm"}]}}"#, false),
            (r#"{"resources": {"devices": [{"allow": true, "access": "rwm"}]}}"#, true),
            (r#"{"resources": {"devices": [{"allow": true, "access": "rw"}]}}"#, false),
            (r#"{"resources": {"devices": [{"allow": false}, {"allow": true, "type": "a", "access": "rwm"}]}}"#, true),
            (r#"{"resources": {"devices": [{"allow": false}, {"allow": true, "type": "c", "access": "rwm"}]}}"#, false),
            (
                r#"{"resources": {"devices": [{"allow": false},
                {"allow": true, "type": "a", "major": -1, "minor": -1, "access": "rwm"}]}}"#,
                true,
            ),
            (r#"{"resources": {"devices": [{"allow": false}, {"allow": true, "major": 1, "access": "rwm"}]}}"#, false),
        ];
        for (linux, all) in table {
            assert_eq!(spec(linux).all_devices, all, "{linux}");
        }
    }

    #[test]
    fn capabilities_have_their_numbers() {
        let names = |names: &[&str]| capabilities(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(names(&["CAP_CHOWN", "CAP_SYS_ADMIN", "BPF", "CAP_NONSENSE", ""]), 1 | 1 << 21 | 1 << 39);
        let all: Vec<&str> = CAPABILITIES.to_vec();
        assert_eq!(names(&all), (1 << 41) - 1);
    }

    #[test]
    fn namespaces_are_shared_unless_said_otherwise() {
        let setup = spec(r#"{"namespaces": [{"type": "pid", "path": ""}, {"type": "network", "path": "/run/ns"}]}"#);
        assert_eq!((setup.pid, setup.network), (Namespace::Own, Namespace::Joined("/run/ns".into())));
        let setup = spec(r#"{"namespaces": [{"type": "mount"}]}"#);
        assert_eq!((setup.pid, setup.network), (Namespace::Shared, Namespace::Shared));
    }

    #[test]
    fn cgroups_of_runc() {
        let of = |paths: &str| {
            let state = format!(r#"{{"cgroup_paths": {paths}}}"#);
            serde_json::from_str::<RuncCgroupPaths>(&state).unwrap().cgroups()
        };
        assert_eq!(of(r#"{"": "/sys/fs/cgroup/a/b"}"#), ["/a/b"]);
        assert_eq!(of(r#"{"": "/sys/fs/cgroup/unified/a", "cpu": "/sys/fs/cgroup/cpu,cpuacct/a"}"#), ["/a"]);
        assert_eq!(of(r#"{"pids": "/sys/fs/cgroup/pids/a", "memory": "/elsewhere/b"}"#), ["/a"]);
        assert!(of("null").is_empty());
    }
}

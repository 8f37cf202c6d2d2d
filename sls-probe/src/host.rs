//! Facts about the host, for alerts.

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use nix::sys::stat::stat;
use sls_core::HOST_PID_NAMESPACE;

use sls_core::{Guards, Host, Uuid};

use crate::clock::BootTime;

/// What alerts say about the host. A fact that cannot be had is empty or zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HostInfo {
    /// Release of the running kernel, as `uname -r` prints it.
    pub kernel_release: String,
    /// Version of the running kernel, as `uname -v` prints it.
    pub kernel_version: String,
    /// Architecture, as `uname -m` prints it.
    pub arch: String,
    /// CPUs that are online.
    pub cpu_count: u32,
    /// The machine's id, from `/etc/machine-id`.
    pub machine_id: String,
    /// The id of this boot.
    pub boot_id: String,
    /// When the host was booted, in nanoseconds since the epoch.
    pub node_boot_time: u64,
    /// Host name of the UTS namespace that the sensor lives in.
    pub hostname: String,
    /// Whether the sensor lives in the host's PID namespace. Only there do the pids of events mean to the sensor what
    /// they mean to the kernel: actions need it.
    pub in_host_pid_namespace: bool,
    /// Inode of the mount namespace of the host: that of PID 1, or else the sensor's own. It differs from boot to boot,
    /// and tells whether a path means the host's file. In another PID namespace than the host's, it is not the host's.
    pub mount_namespace: Option<u32>,
    /// Whether the sensor itself seems to run in a container. A guess, from marks that container engines leave.
    pub in_container: bool,
}

impl HostInfo {
    /// Reads all facts.
    #[must_use]
    pub fn read() -> Self {
        let in_host_pid_namespace = in_host_pid_namespace();
        Self {
            kernel_release: line("/proc/sys/kernel/osrelease"),
            kernel_version: line("/proc/sys/kernel/version"),
            // Names differ only for architectures that the probe does not serve.
            arch: ARCH.to_owned(),
            cpu_count: cpus(&line("/sys/devices/system/cpu/online")),
            machine_id: Some(line("/etc/machine-id"))
                .filter(|id| !id.is_empty())
                .unwrap_or_else(|| line("/var/lib/dbus/machine-id")),
            boot_id: line("/proc/sys/kernel/random/boot_id"),
            node_boot_time: BootTime::measure().epoch(),
            hostname: line("/proc/sys/kernel/hostname"),
            in_host_pid_namespace,
            mount_namespace: namespace("/proc/1/ns/mnt").or_else(|| namespace("/proc/self/ns/mnt")),
            in_container: !in_host_pid_namespace || container_marks(),
        }
    }

    /// What an engine is to know of this host. Its session is this run of this process.
    #[must_use]
    pub fn to_host(&self) -> Host {
        let mut host = Host::default();
        let session = format!("session {} {} {:?}", self.boot_id, std::process::id(), SystemTime::now());
        host.node_name = Some(self.hostname.clone());
        host.sensor_id = Some(format!("sls-{}", Uuid::new_v5(&Uuid::NAMESPACE_OID, self.machine_id.as_bytes())));
        host.session = Uuid::new_v5(&Uuid::NAMESPACE_OID, session.as_bytes());
        host.boot_id.clone_from(&self.boot_id);
        host.boot_time = Some(self.node_boot_time).filter(|time| *time > 0);
        host.metadata = self.metadata();
        host
    }

    /// The default guards, which on this host protect programs by path in its own mount namespace only.
    #[must_use]
    pub fn guards(&self) -> Guards {
        match self.mount_namespace {
            Some(inode) => Guards::default().host_mount_namespace(inode),
            None => Guards::default(),
        }
    }

    /// The facts under the names that the `metadata` of alerts has for them.
    #[must_use]
    pub fn metadata(&self) -> BTreeMap<String, String> {
        let facts = [
            ("kernel_release", self.kernel_release.clone()),
            ("kernel_version", self.kernel_version.clone()),
            ("arch", self.arch.clone()),
            ("cpu_count", self.cpu_count.to_string()),
            ("machine_id", self.machine_id.clone()),
            ("node_boot_time", self.node_boot_time.to_string()),
            ("node_hostname", self.hostname.clone()),
            ("uname_hostname", self.hostname.clone()),
            ("uname_os", "Linux".to_owned()),
            ("in_container", self.in_container.to_string()),
            ("in_host_pid_namespace", self.in_host_pid_namespace.to_string()),
            ("container_runtime", container_runtime().to_owned()),
            ("collector", "ebpf".to_owned()),
        ];
        facts.into_iter().map(|(name, fact)| (name.to_owned(), fact)).collect()
    }
}

/// Whether this process lives in the host's PID namespace.
pub(crate) fn in_host_pid_namespace() -> bool {
    namespace("/proc/self/ns/pid") == Some(HOST_PID_NAMESPACE)
}

fn namespace(path: &str) -> Option<u32> {
    stat(path).ok()?.st_ino.try_into().ok()
}

/// The container runtime of the host, by the socket that it listens on.
fn container_runtime() -> &'static str {
    let sockets = [
        ("docker", "/run/docker.sock"),
        ("containerd", "/run/containerd/containerd.sock"),
        ("cri-o", "/run/crio/crio.sock"),
        ("podman", "/run/podman/podman.sock"),
    ];
    sockets.into_iter().find(|(_, socket)| Path::new(socket).exists()).map_or("not-found", |(name, _)| name)
}

fn line(path: &str) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// The CPUs in a list such as `0-3,8`.
fn cpus(list: &str) -> u32 {
    let ranges = list.split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(last.trim().parse::<u32>().ok()?.checked_sub(first.trim().parse().ok()?)?.saturating_add(1))
    });
    ranges.fold(0, u32::saturating_add)
}

fn container_marks() -> bool {
    let files = ["/.dockerenv", "/run/.containerenv", "/run/systemd/container"];
    let cgroup = line("/proc/self/cgroup");
    let engines = ["/docker", "/kubepods", "/libpod", "/lxc", "/containerd", "/crio"];
    files.iter().any(|file| Path::new(file).exists()) || engines.iter().any(|engine| cgroup.contains(engine))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn uname(option: &str) -> String {
        String::from_utf8(Command::new("uname").arg(option).output().unwrap().stdout).unwrap().trim().to_owned()
    }

    #[test]
    fn facts_agree_with_other_sources() {
        let host = HostInfo::read();
        assert_eq!(host.kernel_release, uname("-r"));
        assert_eq!(host.kernel_version, uname("-v"));
        assert_eq!(host.arch, uname("-m"));
        assert_eq!(host.hostname, uname("-n"));
        assert_eq!(host.boot_id.len(), 36);
        let online = fs::read_to_string("/proc/stat").unwrap();
        let cpu_lines = online.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu ")).count();
        assert_eq!(host.cpu_count as usize, cpu_lines);
        let boot: u64 = online.lines().find_map(|line| line.strip_prefix("btime ")).unwrap().parse().unwrap();
        assert!((host.node_boot_time / 1_000_000_000).abs_diff(boot) <= 1);
        let namespace = fs::read_link("/proc/self/ns/pid").unwrap();
        assert_eq!(host.in_host_pid_namespace, namespace == Path::new("pid:[4026531836]"));
        let mounts = fs::read_link("/proc/1/ns/mnt").or_else(|_| fs::read_link("/proc/self/ns/mnt")).unwrap();
        assert_eq!(mounts.to_str().unwrap(), format!("mnt:[{}]", host.mount_namespace.unwrap()));
    }

    #[test]
    fn lists_of_cpus() {
        assert_eq!([cpus("0"), cpus("0-3"), cpus("0-3,8"), cpus(""), cpus("9-3,x")], [1, 4, 5, 0, 0]);
    }
}

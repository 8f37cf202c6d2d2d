//! Guards: what no policy may act upon. They are data, so they can be printed, extended and explained.

use std::fmt;

use serde::Serialize;

use crate::action::Refusal;
use crate::event::{Event, ProcessKey};
use crate::pattern::{Known, Pattern};
use crate::schema::Field;
use crate::truth::Truth;

/// Inode of the initial PID namespace, which is the host's: fixed by the kernel (`PROC_PID_INIT_INO`).
pub const HOST_PID_NAMESPACE: u32 = 0xEFFF_FFFC;

/// Programs that keep containers or the host running. Only absolute paths that root alone can write, and only in the
/// host's own PID and mount namespaces: whoever makes a mount namespace, which takes no privilege in a user namespace of
/// one's own, can have any file under any name there. So nobody gains protection by a name, as long as the guards are
/// told which mount namespace is the host's.
const RUNTIME_PROGRAMS: &[&str] = &[
    "containerd",
    "containerd-shim",
    "containerd-shim-runc-v1",
    "containerd-shim-runc-v2",
    "dockerd",
    "docker-proxy",
    "cri-dockerd",
    "buildkitd",
    "runc",
    "crun",
    "crio",
    "conmon",
    "podman",
    "kubelet",
    "k3s",
    "rke2",
];

/// Where those programs are. `*` stands for the version; everything below the directory in front of it is root's, and no
/// volume or root file system of a container is there.
const RUNTIME_DIRECTORIES: &[&str] = &[
    "/usr/bin/",
    "/usr/sbin/",
    "/usr/local/bin/",
    "/usr/local/sbin/",
    "/usr/libexec/",
    "/usr/libexec/podman/",
    // Flatcar and other systems whose /usr is read-only; RKE2 there.
    "/opt/bin/",
    "/opt/rke2/bin/",
    // What K3s and RKE2 unpack.
    "/var/lib/rancher/k3s/data/*/bin/",
    "/var/lib/rancher/rke2/data/*/bin/",
    // Google Kubernetes Engine.
    "/home/kubernetes/bin/",
    // A snap has a mount namespace of its own: of use only to guards that were not told the host's.
    "/snap/docker/*/bin/",
];

/// One guard.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Guard {
    /// Stable name, reported when it refuses.
    pub name: &'static str,
    /// Why it refuses, in a few words.
    pub reason: &'static str,
    /// What it protects.
    pub protects: Protected,
}

/// What a guard protects.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Protected {
    /// The process with this pid, whenever it started.
    Pid(u32),
    /// Every kernel thread.
    KernelThreads,
    /// One process. Start times are compared in steps of `resolution` nanoseconds, for `/proc` gives clock ticks only.
    Process {
        /// Its identity.
        key: ProcessKey,
        /// The step, at least 1.
        resolution: u64,
    },
    /// Processes of the host's PID and mount namespaces that run a program whose resolved path matches this pattern. See
    /// [`Guards::host_mount_namespace`].
    Program(String),
    /// Processes in the cgroup with this id.
    Cgroup(u64),
    /// Whatever cannot be named by pid and start time: acting on a bare pid is never allowed.
    Unidentified,
}

impl fmt::Display for Protected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pid(pid) => write!(f, "pid {pid}"),
            Self::KernelThreads => f.write_str("kernel threads"),
            Self::Process { key, .. } => write!(f, "process {}", key.pid),
            Self::Program(pattern) => write!(f, "program {pattern}"),
            Self::Cgroup(id) => write!(f, "cgroup {id}"),
            Self::Unidentified => f.write_str("processes without a start time"),
        }
    }
}

/// The guards of a planner.
///
/// ```
/// use sls_core::{Event, EventKind, Field, Guards, ProcessKey};
///
/// let guards = Guards::default().protect_program("/opt/db/bin/*");
/// let mut event = Event::new(EventKind::Exec);
/// event.process = ProcessKey { pid: 1, start: 10 };
/// assert_eq!(guards.refusal(&event).unwrap().guard, "pid-1");
/// event.process = ProcessKey { pid: 70, start: 10 };
/// assert_eq!(guards.refusal(&event), None);
/// event.set_text(Field::ProgramName, b"/opt/db/bin/server");
/// assert_eq!(guards.refusal(&event).unwrap().guard, "protected-program");
/// ```
#[derive(Clone, Debug)]
pub struct Guards {
    guards: Vec<(Guard, Option<Pattern>)>,
    host_mount_namespace: Option<u32>,
}

impl Default for Guards {
    /// The guards that every planner starts with: init, kernel threads, container runtimes and the kubelet, and
    /// whatever has no identity.
    fn default() -> Self {
        let mut guards = Self::none()
            .with("process-identity", "the event does not identify a process", Protected::Unidentified)
            .with("pid-1", "init is never acted upon", Protected::Pid(1))
            .with("kernel-thread", "kernel threads are never acted upon", Protected::KernelThreads);
        for directory in RUNTIME_DIRECTORIES {
            for program in RUNTIME_PROGRAMS {
                let path = format!("{directory}{program}");
                guards = guards.with(
                    "container-runtime",
                    "container runtimes and the kubelet are never acted upon",
                    Protected::Program(path),
                );
            }
        }
        guards
    }
}

impl Guards {
    /// No guards at all: for tests, and for planners that start from another set.
    #[must_use]
    pub fn none() -> Self {
        Self { guards: Vec::new(), host_mount_namespace: None }
    }

    /// Adds a guard of one's own.
    #[must_use]
    pub fn with(mut self, name: &'static str, reason: &'static str, protects: Protected) -> Self {
        let pattern = match &protects {
            Protected::Program(pattern) => Some(Pattern::new(pattern)),
            _ => None,
        };
        self.guards.push((Guard { name, reason, protects }, pattern));
        self
    }

    /// Protects the sensor itself, or one of its ancestors. `resolution` is the step in nanoseconds in which its start
    /// time is known.
    #[must_use]
    pub fn protect_sensor(self, key: ProcessKey, resolution: u64) -> Self {
        let resolution = resolution.max(1);
        self.with("sensor", "the sensor and its ancestors are never acted upon", Protected::Process { key, resolution })
    }

    /// Tells the guards the inode of the host's mount namespace, which differs from boot to boot. From then on a program
    /// is protected by its path only if the event says that its process lives in the host's PID namespace and in that mount
    /// namespace: in another, any user can give any file any path.
    ///
    /// Guards that were not told protect by the path alone, unless the event says that the process is in another PID
    /// namespace. That is for sources whose events know no mount namespace.
    ///
    /// A runtime to which the service manager gave a mount namespace of its own is not protected by its path then; see
    /// [`Guards::protect_cgroup`].
    ///
    /// ```
    /// use sls_core::{Event, EventKind, Field, Guards, HOST_PID_NAMESPACE, ProcessKey};
    ///
    /// let guards = Guards::default().host_mount_namespace(4_026_531_832);
    /// let mut event = Event::new(EventKind::Exec);
    /// event.process = ProcessKey { pid: 70, start: 10 };
    /// event.set_text(Field::ProgramName, b"/usr/bin/containerd");
    /// event.pid_namespace = Some(HOST_PID_NAMESPACE);
    /// event.mount_namespace = Some(4_026_532_000);
    /// assert_eq!(guards.refusal(&event), None);
    /// event.mount_namespace = Some(4_026_531_832);
    /// assert_eq!(guards.refusal(&event).unwrap().guard, "container-runtime");
    /// ```
    #[must_use]
    pub fn host_mount_namespace(mut self, inode: u32) -> Self {
        self.host_mount_namespace = Some(inode);
        self
    }

    /// Protects programs by their resolved path, in which `*` is a wildcard.
    #[must_use]
    pub fn protect_program(self, pattern: impl Into<String>) -> Self {
        self.with("protected-program", "the operator protects this program", Protected::Program(pattern.into()))
    }

    /// Protects the processes of a cgroup, by its id in the v2 hierarchy.
    #[must_use]
    pub fn protect_cgroup(self, id: u64) -> Self {
        self.with("protected-cgroup", "the operator protects this cgroup", Protected::Cgroup(id))
    }

    /// The guards in the order in which they are asked.
    pub fn iter(&self) -> impl Iterator<Item = &Guard> {
        self.guards.iter().map(|(guard, _)| guard)
    }

    /// The first guard that protects the acting process of `event`.
    #[must_use]
    pub fn refusal(&self, event: &Event) -> Option<Refusal> {
        self.guards
            .iter()
            .find(|(guard, pattern)| self.protects(guard, pattern.as_ref(), event))
            .map(|(guard, _)| Refusal::new(guard.name, guard.reason))
    }

    fn protects(&self, guard: &Guard, pattern: Option<&Pattern>, event: &Event) -> bool {
        match &guard.protects {
            Protected::Pid(pid) => event.process.pid == *pid,
            Protected::KernelThreads => event.kernel_thread,
            Protected::Process { key, resolution } => {
                event.process.pid == key.pid && event.process.start / resolution == key.start / resolution
            }
            Protected::Program(_) => {
                let program = event.text(Field::ProgramName);
                // Of a cut path the start is missing: whether it is a protected one has to follow from what is left.
                let known = if event.truncated().contains(Field::ProgramName) { Known::End } else { Known::Whole };
                self.is_native(event)
                    && pattern.is_some_and(|pattern| pattern.matches(program, known, false) == Truth::True)
            }
            Protected::Cgroup(id) => event.cgroup_id == Some(*id),
            Protected::Unidentified => event.process.pid == 0 || event.process.start == 0,
        }
    }

    /// Whether the paths of the event's acting process are the host's, so that they say what it runs.
    fn is_native(&self, event: &Event) -> bool {
        let host_mounts = self.host_mount_namespace;
        match event.pid_namespace {
            Some(HOST_PID_NAMESPACE) => host_mounts.is_none() || event.mount_namespace == host_mounts,
            Some(_) => false,
            None => host_mounts.is_none(),
        }
    }
}

impl Serialize for Guard {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut out = serializer.serialize_struct("Guard", 3)?;
        out.serialize_field("name", self.name)?;
        out.serialize_field("reason", self.reason)?;
        out.serialize_field("protects", &self.protects.to_string())?;
        out.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventKind;

    fn event(program: &str, namespace: u32) -> Event {
        let mut event = Event::new(EventKind::Exec);
        event.process = ProcessKey { pid: 500, start: 1_234_567_890 };
        event.pid_namespace = Some(namespace);
        event.set_text(Field::ProgramName, program.as_bytes());
        event
    }

    #[test]
    fn a_runtime_is_protected_by_its_whole_path_on_the_host_only() {
        let guards = Guards::default();
        let guard = |program: &str, namespace| guards.refusal(&event(program, namespace)).map(|refusal| refusal.guard);
        assert_eq!(guard("/usr/bin/containerd", HOST_PID_NAMESPACE), Some("container-runtime"));
        assert_eq!(guard("/tmp/usr/bin/containerd", HOST_PID_NAMESPACE), None);
        assert_eq!(guard("/usr/bin/containerd", 4_026_532_000), None);
    }

    #[test]
    fn runtimes_of_distributions_are_protected() {
        let guards = Guards::default();
        let guard = |program| guards.refusal(&event(program, HOST_PID_NAMESPACE)).map(|refusal| refusal.guard);
        for program in [
            "/var/lib/rancher/k3s/data/2949af7261ce923f6a5091396d266a0e9d9436dcee976fcd548edc324eb277bb/bin/k3s",
            "/var/lib/rancher/rke2/data/v1.31.4-rke2r1-3a2b1c/bin/kubelet",
            "/var/lib/rancher/rke2/data/v1.31.4-rke2r1-3a2b1c/bin/containerd-shim-runc-v2",
            "/home/kubernetes/bin/kubelet",
            "/opt/bin/kubelet",
            "/snap/docker/2963/bin/dockerd",
            "/usr/bin/cri-dockerd",
            "/usr/local/bin/buildkitd",
        ] {
            assert_eq!(guard(program), Some("container-runtime"), "{program}");
        }
        for program in [
            // Volumes and root file systems of containers.
            "/var/lib/rancher/k3s/storage/pvc-1_default_x/data/y/bin/runc",
            "/var/lib/rancher/k3s/agent/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/1/fs/bin/runc",
            // Other tools that are unpacked along with them.
            "/var/lib/rancher/k3s/data/2949af72/bin/aux/nsenter",
            "/usr/bin/containerd-stress",
        ] {
            assert_eq!(guard(program), None, "{program}");
        }
    }

    #[test]
    fn a_mount_namespace_gives_no_protection() {
        const HOST_MOUNTS: u32 = 4_026_531_832;
        let told = Guards::default().host_mount_namespace(HOST_MOUNTS);
        let guard = |guards: &Guards, pid_namespace, mount_namespace| {
            let mut event = event("/usr/local/bin/runc", 1);
            (event.pid_namespace, event.mount_namespace) = (pid_namespace, mount_namespace);
            guards.refusal(&event).map(|refusal| refusal.guard)
        };
        let (host, other) = (Some(HOST_PID_NAMESPACE), Some(1));
        assert_eq!(guard(&told, host, Some(HOST_MOUNTS)), Some("container-runtime"));
        assert_eq!(guard(&told, host, Some(HOST_MOUNTS + 1)), None);
        // What is not known to be the host's is not.
        assert_eq!(guard(&told, host, None), None);
        assert_eq!(guard(&told, None, Some(HOST_MOUNTS)), None);
        assert_eq!(guard(&told, other, Some(HOST_MOUNTS)), None);
        // An embedder's events may know no namespaces.
        assert_eq!(guard(&Guards::default(), None, None), Some("container-runtime"));
        assert_eq!(guard(&Guards::default(), host, Some(5)), Some("container-runtime"));
        assert_eq!(guard(&Guards::default(), other, None), None);
    }

    #[test]
    fn the_end_of_a_cut_path_protects_only_if_any_start_would() {
        let guards = Guards::none().protect_program("/opt/db/bin/*").protect_program("*/protected");
        let cut = |program: &str| {
            let mut event = event(program, HOST_PID_NAMESPACE);
            assert_eq!(guards.refusal(&event).map(|refusal| refusal.guard), Some("protected-program"));
            event.mark_truncated(Field::ProgramName);
            guards.refusal(&event).map(|refusal| refusal.guard)
        };
        // The whole path may be `/tmp/opt/db/bin/…`.
        assert_eq!(cut("/opt/db/bin/evil"), None);
        assert_eq!(cut("/d/e/protected"), Some("protected-program"));
    }

    #[test]
    fn the_sensor_is_known_to_the_clock_tick() {
        let key = ProcessKey { pid: 500, start: 1_230_000_000 };
        let guards = Guards::none().protect_sensor(key, 10_000_000);
        assert_eq!(guards.refusal(&event("/x", 1)).map(|refusal| refusal.guard), Some("sensor"));
        let guards = Guards::none().protect_sensor(ProcessKey { start: 1_240_000_000, ..key }, 10_000_000);
        assert_eq!(guards.refusal(&event("/x", 1)), None);
    }

    #[test]
    fn a_process_without_identity_is_never_acted_upon() {
        let mut event = event("/x", 1);
        event.process.start = 0;
        assert_eq!(Guards::default().refusal(&event).map(|refusal| refusal.guard), Some("process-identity"));
    }
}

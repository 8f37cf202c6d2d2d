//! Guards: what no policy may act upon. They are data, so they can be printed, extended and explained.

mod declared;
mod defaults;

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;

use crate::action::{Action, Refusal};
use crate::event::{Event, ProcessKey};
use crate::pattern::{Known, Pattern};
use crate::schema::Field;
use crate::truth::Truth;

/// Inode of the initial PID namespace, which is the host's: fixed by the kernel (`PROC_PID_INIT_INO`).
pub const HOST_PID_NAMESPACE: u32 = 0xEFFF_FFFC;

/// One guard.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Guard {
    /// Stable name, reported when it refuses.
    pub name: Cow<'static, str>,
    /// Why it refuses, in a few words.
    pub reason: Cow<'static, str>,
    /// What it protects.
    pub protects: Protected,
}

/// What a guard protects.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Files under a path that matches this pattern, against actions on files.
    Path(String),
    /// Whatever cannot be named by pid and start time: acting on a bare pid is never allowed.
    Unidentified,
    /// Everything, from the action with this token; any of its spellings will do. An action on the host as a whole has no
    /// other guard.
    Action(String),
}

impl fmt::Display for Protected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pid(pid) => write!(f, "pid {pid}"),
            Self::KernelThreads => f.write_str("kernel threads"),
            Self::Process { key, .. } => write!(f, "process {}", key.pid),
            Self::Program(pattern) => write!(f, "program {pattern}"),
            Self::Cgroup(id) => write!(f, "cgroup {id}"),
            Self::Path(pattern) => write!(f, "file {pattern}"),
            Self::Unidentified => f.write_str("processes without a start time"),
            Self::Action(token) => write!(f, "everything from {token}"),
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
    /// The guards that every planner starts with: init, kernel threads, container runtimes and the kubelet, whatever has no
    /// identity, and the files without which a host does not start or lets nobody in.
    fn default() -> Self {
        let guards = Self::none()
            .with("process-identity", "the event does not identify a process", Protected::Unidentified)
            .with("pid-1", "init is never acted upon", Protected::Pid(1))
            .with("kernel-thread", "kernel threads are never acted upon", Protected::KernelThreads);
        let reason = "container runtimes and the kubelet are never acted upon";
        let guards = defaults::runtime_programs()
            .fold(guards, |guards, path| guards.with("container-runtime", reason, Protected::Program(path)));
        let reason = "the host does not work without this file";
        defaults::system_files().fold(guards, |guards, path| guards.with("system-file", reason, Protected::Path(path)))
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
    pub fn with(
        self,
        name: impl Into<Cow<'static, str>>,
        reason: impl Into<Cow<'static, str>>,
        protects: Protected,
    ) -> Self {
        self.with_guard(Guard { name: name.into(), reason: reason.into(), protects })
    }

    /// Adds a guard, such as one that was read from a configuration.
    #[must_use]
    pub fn with_guard(mut self, guard: Guard) -> Self {
        let pattern = match &guard.protects {
            Protected::Program(pattern) | Protected::Path(pattern) => Some(Pattern::new(pattern)),
            _ => None,
        };
        self.guards.push((guard, pattern));
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

    /// The inode of the host's mount namespace, if the guards were told.
    #[must_use]
    pub fn known_mount_namespace(&self) -> Option<u32> {
        self.host_mount_namespace
    }

    /// Protects programs by their resolved path, in which `*` is a wildcard.
    #[must_use]
    pub fn protect_program(self, pattern: impl Into<String>) -> Self {
        self.with("protected-program", "the operator protects this program", Protected::Program(pattern.into()))
    }

    /// Protects files by their resolved path, in which `*` is a wildcard. A path in a container is taken as the host sees it.
    ///
    /// ```
    /// use sls_core::{Event, EventKind, Field, Guards};
    ///
    /// let guards = Guards::default().protect_path("/srv/db/*");
    /// let mut event = Event::new(EventKind::File);
    /// event.set_text(Field::FilePath, b"/srv/db/table");
    /// assert_eq!(guards.file_refusal(&event).unwrap().guard, "protected-path");
    /// assert_eq!(guards.path_refusal(b"/etc/passwd").unwrap().guard, "system-file");
    /// assert_eq!(guards.path_refusal(b"/tmp/etc/passwd"), None);
    /// ```
    #[must_use]
    pub fn protect_path(self, pattern: impl Into<String>) -> Self {
        self.with("protected-path", "the operator protects this file", Protected::Path(pattern.into()))
    }

    /// Protects a file of the sensor's own.
    #[must_use]
    pub fn protect_sensor_file(self, pattern: impl Into<String>) -> Self {
        self.with("sensor-file", "the sensor's own files are never acted upon", Protected::Path(pattern.into()))
    }

    /// Protects the processes of a cgroup, by its id in the v2 hierarchy.
    #[must_use]
    pub fn protect_cgroup(self, id: u64) -> Self {
        self.with("protected-cgroup", "the operator protects this cgroup", Protected::Cgroup(id))
    }

    /// Forbids the action with this token, one of SLS's or an embedder's, whatever a policy asks for.
    ///
    /// ```
    /// use sls_core::{Action, CustomAction, Guards, TargetType};
    ///
    /// static ISOLATE: CustomAction = CustomAction::new("isolate-host", TargetType::Host);
    /// let guards = Guards::default().forbid_action("isolate-host");
    /// assert_eq!(guards.action_refusal(Action::Custom(&ISOLATE)).unwrap().guard, "forbidden-action");
    /// assert_eq!(guards.action_refusal(Action::Kill), None);
    /// ```
    #[must_use]
    pub fn forbid_action(self, token: impl Into<String>) -> Self {
        self.with("forbidden-action", "the operator forbids this action", Protected::Action(token.into()))
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
            .map(|(guard, _)| Refusal::new(guard.name.clone(), guard.reason.clone()))
    }

    /// The first guard that forbids `action`, whatever it would act upon.
    #[must_use]
    pub fn action_refusal(&self, action: Action) -> Option<Refusal> {
        self.iter()
            .find(|guard| match &guard.protects {
                Protected::Action(token) => action.tokens().any(|known| known == token),
                _ => false,
            })
            .map(|guard| Refusal::new(guard.name.clone(), guard.reason.clone()))
    }

    /// The first guard that protects the file of `event`, under any name that the event has of it. The guards of processes
    /// do not: a file may have to go whose process must stay.
    ///
    /// In a container only the path on the host counts, where it is known: there anybody can have `/etc/passwd`. Elsewhere
    /// the path counts also in a mount namespace of one's own. A name can hide a file there from actions on files, but a
    /// file of the host that is lost is lost for all.
    #[must_use]
    pub fn file_refusal(&self, event: &Event) -> Option<Refusal> {
        let in_container = !event.text(Field::ContainerId).is_empty();
        let name = |field| (event.text(field), event.truncated().contains(field));
        let names = [
            [name(Field::FilePath), name(Field::HostFilePath)],
            [name(Field::NewFilePath), name(Field::NewHostFilePath)],
            event.old_names(),
        ];
        names.into_iter().find_map(|[inside, outside]| {
            let inside_counts = !in_container || outside.0.is_empty();
            let paths = [inside_counts.then_some(inside), Some(outside)];
            paths.into_iter().flatten().find_map(|(path, cut)| {
                // Of a cut path the start is missing, as above.
                self.refusal_under(path, if cut { Known::End } else { Known::Whole })
            })
        })
    }

    /// The first guard that protects the file with this resolved path on the host.
    #[must_use]
    pub fn path_refusal(&self, path: &[u8]) -> Option<Refusal> {
        self.refusal_under(path, Known::Whole)
    }

    fn refusal_under(&self, path: &[u8], known: Known) -> Option<Refusal> {
        let protects = |(guard, pattern): &&(Guard, Option<Pattern>)| {
            let pattern = pattern.as_ref().filter(|_| matches!(guard.protects, Protected::Path(_)));
            !path.is_empty() && pattern.is_some_and(|pattern| pattern.matches(path, known, false) == Truth::True)
        };
        let (guard, _) = self.guards.iter().find(protects)?;
        Some(Refusal::new(guard.name.clone(), guard.reason.clone()))
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
            Protected::Cgroup(id) => [event.cgroup_id, event.container_cgroup_id].contains(&Some(*id)),
            // Files are asked about on their own.
            Protected::Path(_) => false,
            Protected::Unidentified => event.process.pid == 0 || event.process.start == 0,
            // No process is protected by it from other actions.
            Protected::Action(_) => false,
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
        out.serialize_field("name", &self.name)?;
        out.serialize_field("reason", &self.reason)?;
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
        let guard = |program: &str, namespace| {
            guards.refusal(&event(program, namespace)).map(|refusal| refusal.guard.into_owned())
        };
        assert_eq!(guard("/usr/bin/containerd", HOST_PID_NAMESPACE), Some("container-runtime".into()));
        assert_eq!(guard("/tmp/usr/bin/containerd", HOST_PID_NAMESPACE), None);
        assert_eq!(guard("/usr/bin/containerd", 4_026_532_000), None);
    }

    #[test]
    fn runtimes_of_distributions_are_protected() {
        let guards = Guards::default();
        let guard =
            |program| guards.refusal(&event(program, HOST_PID_NAMESPACE)).map(|refusal| refusal.guard.into_owned());
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
            assert_eq!(guard(program), Some("container-runtime".into()), "{program}");
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
            guards.refusal(&event).map(|refusal| refusal.guard.into_owned())
        };
        let (host, other) = (Some(HOST_PID_NAMESPACE), Some(1));
        assert_eq!(guard(&told, host, Some(HOST_MOUNTS)), Some("container-runtime".into()));
        assert_eq!(guard(&told, host, Some(HOST_MOUNTS + 1)), None);
        // What is not known to be the host's is not.
        assert_eq!(guard(&told, host, None), None);
        assert_eq!(guard(&told, None, Some(HOST_MOUNTS)), None);
        assert_eq!(guard(&told, other, Some(HOST_MOUNTS)), None);
        // An embedder's events may know no namespaces.
        assert_eq!(guard(&Guards::default(), None, None), Some("container-runtime".into()));
        assert_eq!(guard(&Guards::default(), host, Some(5)), Some("container-runtime".into()));
        assert_eq!(guard(&Guards::default(), other, None), None);
    }

    #[test]
    fn the_end_of_a_cut_path_protects_only_if_any_start_would() {
        let guards = Guards::none().protect_program("/opt/db/bin/*").protect_program("*/protected");
        let cut = |program: &str| {
            let mut event = event(program, HOST_PID_NAMESPACE);
            assert_eq!(
                guards.refusal(&event).map(|refusal| refusal.guard.into_owned()),
                Some("protected-program".into())
            );
            event.mark_truncated(Field::ProgramName);
            guards.refusal(&event).map(|refusal| refusal.guard.into_owned())
        };
        // The whole path may be `/tmp/opt/db/bin/…`.
        assert_eq!(cut("/opt/db/bin/evil"), None);
        assert_eq!(cut("/d/e/protected"), Some("protected-program".into()));
    }

    #[test]
    fn the_sensor_is_known_to_the_clock_tick() {
        let key = ProcessKey { pid: 500, start: 1_230_000_000 };
        let guards = Guards::none().protect_sensor(key, 10_000_000);
        assert_eq!(guards.refusal(&event("/x", 1)).map(|refusal| refusal.guard.into_owned()), Some("sensor".into()));
        let guards = Guards::none().protect_sensor(ProcessKey { start: 1_240_000_000, ..key }, 10_000_000);
        assert_eq!(guards.refusal(&event("/x", 1)), None);
    }

    #[test]
    fn an_action_is_forbidden_by_any_of_its_tokens() {
        let guards = Guards::none().forbid_action("suspend");
        let refusal = guards.action_refusal(Action::Stop).unwrap();
        assert_eq!(refusal.to_string(), "forbidden-action: the operator forbids this action");
        assert_eq!(guards.action_refusal(Action::Kill), None);
        // Who is protected does not change by it.
        assert_eq!(guards.refusal(&event("/x", 1)), None);
        assert_eq!(guards.iter().next().unwrap().protects.to_string(), "everything from suspend");
    }

    #[test]
    fn a_process_without_identity_is_never_acted_upon() {
        let mut event = event("/x", 1);
        event.process.start = 0;
        assert_eq!(
            Guards::default().refusal(&event).map(|refusal| refusal.guard.into_owned()),
            Some("process-identity".into())
        );
    }
}

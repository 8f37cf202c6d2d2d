//! What the probe finds in the running kernel: for people who ask why something is not seen.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use libbpf_rs::ObjectBuilder;
use sls_core::{EventKind, Interest};

use crate::builder::ProbeBuilder;
use crate::cgroup;
use crate::error::ProbeError;
use crate::group::{GROUPS, Wanted};
use crate::hooks::HookFamily;
use crate::loader::{check_kernel, with_log};

/// What the running kernel offers a probe, and what the probe makes of it.
///
/// ```no_run
/// use sls_probe::{KernelSupport, Probe};
///
/// let support = KernelSupport::of(&Probe::builder());
/// tracing::info!(family = %support.family, "hooks");
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct KernelSupport {
    /// Why no probe can work here at all: too old, or without type information.
    pub unusable: Option<ProbeError>,
    /// Whether this process may load programs. Without that, what follows is a guess.
    pub permitted: bool,
    /// Each family of hooks, and whether it works here.
    pub families: Vec<(HookFamily, bool)>,
    /// The family that is used.
    pub family: HookFamily,
    /// Where the cgroup v2 hierarchy is mounted. Where it is not, the probe mounts it for itself.
    pub cgroup_root: Option<PathBuf>,
    /// Whether tracefs is mounted. Where it is not, the probe mounts it for itself.
    pub tracefs_mounted: bool,
    /// Each kind of events that a policy can look at.
    pub kinds: Vec<KindSupport>,
}

/// How events of one kind come about.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct KindSupport {
    /// The kind.
    pub kind: EventKind,
    /// Where programs are attached when all of it is wanted; empty if the kernel does not offer the kind.
    pub hooks: Vec<String>,
    /// Where they are attached for what the settings want.
    pub wanted: Vec<String>,
}

impl KernelSupport {
    /// What `builder` finds on the running kernel. Loads small programs to find out, and watches nothing.
    #[must_use]
    pub fn of(builder: &ProbeBuilder) -> Self {
        let permitted = HookFamily::may_load_programs();
        let everything = builder.clone().interest(Interest::everything());
        let all = hook_points(&everything);
        let wanted = hook_points(builder);
        let of = |points: &[(EventKind, String)], kind| {
            // A crash is how a process ends.
            let kind = if kind == EventKind::Crash { EventKind::Exit } else { kind };
            let of_kind: BTreeSet<&String> =
                points.iter().filter(|(other, _)| *other == kind).map(|(_, point)| point).collect();
            of_kind.into_iter().cloned().collect()
        };
        Self {
            unusable: check_kernel().err(),
            permitted,
            families: HookFamily::ALL.iter().map(|family| (*family, permitted && family.works())).collect(),
            family: builder.family,
            cgroup_root: cgroup::mount_point(),
            tracefs_mounted: Path::new("/sys/kernel/tracing/events").exists()
                || fs::metadata("/sys/kernel/debug/tracing/events").is_ok(),
            kinds: EventKind::ALL
                .iter()
                .map(|kind| {
                    // The ends of processes are watched in any case.
                    let watched = *kind != EventKind::Crash || builder.watches(*kind);
                    let wanted = if watched { of(&wanted, *kind) } else { Vec::new() };
                    KindSupport { kind: *kind, hooks: of(&all, *kind), wanted }
                })
                .collect(),
        }
    }
}

/// The programs that would be attached, by kind: their sections, such as `tp_btf/sched_process_exec`.
fn hook_points(builder: &ProbeBuilder) -> Vec<(EventKind, String)> {
    let wanted = Wanted { settings: builder, family: builder.family };
    let mut points = Vec::new();
    for group in GROUPS {
        let hooks = (group.hooks)(&wanted);
        if hooks.is_empty() {
            continue;
        }
        let opened = with_log(|| ObjectBuilder::default().open_memory(&group.object.0));
        for hook in hooks {
            let program =
                opened.as_ref().ok().and_then(|open| open.progs().find(|program| program.name() == hook.program));
            let section = program.map(|program| program.section().to_string_lossy().into_owned());
            points.push((hook.kind, section.unwrap_or_else(|| hook.program.to_owned())));
        }
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_are_named_as_the_kernel_names_them() {
        let support = KernelSupport::of(&ProbeBuilder::default());
        let exec = support.kinds.iter().find(|kind| kind.kind == EventKind::Exec).unwrap();
        assert_eq!(exec.wanted, ["tp_btf/sched_process_exec"]);
        let module = support.kinds.iter().find(|kind| kind.kind == EventKind::Module).unwrap();
        assert!(module.wanted.is_empty() && !module.hooks.is_empty(), "{module:?}");
    }
}

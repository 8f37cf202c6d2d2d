//! Guards as a program in the kernel keeps them: where it is not sure, it stands back.

use std::collections::BTreeSet;

use super::{Guards, Protected};
use crate::action::Action;
use crate::event::{Event, ProcessKey};
use crate::lowering::PathSet;
use crate::pattern::Pattern;
use crate::schema::Field;

/// What a program in the kernel must not act upon: all that a guard of processes protects, and perhaps more. What it leaves
/// alone comes to user space, where the guards themselves are asked.
///
/// Kernel threads, and whatever has no start time, are left alone as well.
///
/// ```
/// use sls_core::{Event, EventKind, Field, Guards, ProcessKey};
///
/// let kernel = Guards::default().protect_program("/opt/*/agent").protect_cgroup(77).kernel();
/// let mut event = Event::new(EventKind::Exec);
/// event.process = ProcessKey { pid: 300, start: 5 };
/// event.set_text(Field::ProgramName, b"/usr/bin/wget");
/// assert!(!kernel.protects(&event));
/// // The kernel compares the beginning only.
/// assert!(kernel.protects(event.set_text(Field::ProgramName, b"/opt/x/y")));
/// assert!(kernel.pids.contains(&1) && kernel.cgroups.contains(&77));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct KernelGuards {
    /// Processes with these pids, whenever they started.
    pub pids: BTreeSet<u32>,
    /// Processes with these pids that started at these times, in nanoseconds since boot, give or take the second number.
    pub processes: Vec<(ProcessKey, u64)>,
    /// Processes of which the program has one of these paths, in any namespace.
    pub programs: PathSet,
    /// Processes in these cgroups of the v2 hierarchy, or in a container that has one.
    pub cgroups: BTreeSet<u64>,
    /// Actions that are never taken.
    pub actions: Vec<Action>,
}

impl Guards {
    /// The guards for a program in the kernel.
    #[must_use]
    pub fn kernel(&self) -> KernelGuards {
        let mut kernel = KernelGuards::default();
        for (guard, pattern) in &self.guards {
            match &guard.protects {
                Protected::Pid(pid) => drop(kernel.pids.insert(*pid)),
                Protected::Process { key, resolution } => kernel.processes.push((*key, *resolution)),
                Protected::Program(_) => pattern.iter().for_each(|pattern| add(&mut kernel.programs, pattern)),
                Protected::Cgroup(id) => drop(kernel.cgroups.insert(*id)),
                Protected::Action(token) => kernel.actions.extend(Action::from_token(token)),
                // Those are left alone in any case, and no action in the kernel is on files.
                Protected::KernelThreads | Protected::Unidentified | Protected::Path(_) => {}
            }
        }
        kernel
    }
}

/// All paths that match the pattern, and where it is not a plain one more than those.
fn add(paths: &mut PathSet, pattern: &Pattern) {
    match (pattern.literal(), pattern.literal_start(), pattern.literal_end()) {
        (Some(whole), ..) => paths.whole.insert(whole.into()),
        (None, b"", end) if !end.is_empty() => paths.ends.insert(end.into()),
        (None, start, _) => paths.beginnings.insert(start.into()),
    };
}

impl KernelGuards {
    /// Whether the kernel leaves the acting process of `event` alone: the reference for programs in the kernel.
    #[must_use]
    pub fn protects(&self, event: &Event) -> bool {
        let ProcessKey { pid, start } = event.process;
        let near = |(key, resolution): &(ProcessKey, u64)| key.pid == pid && key.start.abs_diff(start) <= *resolution;
        let cgroups = [event.cgroup_id, event.container_cgroup_id];
        event.kernel_thread
            || pid == 0
            || start == 0
            || self.pids.contains(&pid)
            || self.processes.iter().any(near)
            || self.programs.contains(event.text(Field::ProgramName))
            // The start of a path that was cut is missing.
            || event.truncated().contains(Field::ProgramName)
            || cgroups.iter().flatten().any(|id| self.cgroups.contains(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventKind;

    fn event(pid: u32, start: u64, program: &str) -> Event {
        let mut event = Event::new(EventKind::Exec);
        event.process = ProcessKey { pid, start };
        event.set_text(Field::ProgramName, program.as_bytes());
        event
    }

    #[test]
    fn nothing_that_a_guard_protects_is_acted_upon() {
        let key = ProcessKey { pid: 500, start: 1_230_000_000 };
        let guards = Guards::default()
            .protect_sensor(key, 10_000_000)
            .protect_program("/opt/db/*")
            .protect_program("*/protected")
            .protect_program("/a/*/b")
            .protect_cgroup(7);
        let kernel = guards.kernel();
        let mut seen = [0; 2];
        for (pid, start) in [(0, 0), (1, 4), (500, 1_234_567_890), (500, 1_229_000_000), (500, 9), (501, 1_230_000_000)]
        {
            for program in ["/x", "/opt/db/x", "/y/protected", "/a/c/b", "/a/c", "/usr/bin/containerd", "/usr/bin/wget"]
            {
                for cgroup in [None, Some(7), Some(8)] {
                    for kernel_thread in [false, true] {
                        let mut event = event(pid, start, program);
                        (event.cgroup_id, event.kernel_thread) = (cgroup, kernel_thread);
                        let protected = guards.refusal(&event).is_some();
                        assert!(!protected || kernel.protects(&event), "{event:?}");
                        seen[usize::from(kernel.protects(&event))] += 1;
                    }
                }
            }
        }
        assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
        assert!(!kernel.protects(&event(501, 5, "/usr/bin/wget")));
        let mut cut = event(501, 5, "/b/agent");
        assert!(kernel.protects(cut.mark_truncated(Field::ProgramName)));
    }

    #[test]
    fn a_forbidden_action_is_forbidden_in_the_kernel() {
        assert_eq!(Guards::none().forbid_action("suspend").kernel().actions, [Action::Stop]);
    }
}

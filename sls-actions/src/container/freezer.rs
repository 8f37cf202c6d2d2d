//! The freezer of version 1, with which runtimes pause containers where both versions are in use. A process that it has
//! frozen does not die, not even of SIGKILL, before it is thawed.

use std::collections::{BTreeSet, HashSet};

use sls_core::ProcessKey;

use super::cgroup::{Cgroup, Hierarchy, Limits, MAX_CONTAINER_CGROUP_DEPTH, path_of};

/// Whether the cgroup itself was frozen, and not one above it.
const SELF_FREEZING: &str = "freezer.self_freezing";

/// Thaws the cgroups of the freezer that hold `members` frozen. One that holds others too is left alone: they are not the
/// container's. Gives why members stay frozen, if they do.
pub(super) fn thaw(freezer: &Hierarchy, members: &[ProcessKey]) -> Result<(), String> {
    let paths: BTreeSet<Vec<u8>> = members.iter().filter_map(|member| path(member.pid)).collect();
    let own: HashSet<u32> = members.iter().map(|member| member.pid).collect();
    let mut result = Ok(());
    for path in paths {
        let mut end = path.len();
        // From the process's own cgroup up: whichever is frozen holds it.
        for _ in 0..MAX_CONTAINER_CGROUP_DEPTH {
            let Some(cgroup) = freezer.at(&path[..end]) else { break };
            if cgroup.read(SELF_FREEZING).is_ok_and(|text| text.trim() == "1") {
                let name = String::from_utf8_lossy(&path[..end]);
                if !holds_only(&cgroup, &own) {
                    result = Err(format!("the freezer cgroup {name} holds it frozen, along with others"));
                } else if let Err(error) = cgroup.write("freezer.state", "THAWED") {
                    let error = crate::errno::io_text(&error);
                    result = Err(format!("the freezer cgroup {name} cannot be thawed: {error}"));
                }
            }
            match path[..end].iter().rposition(|byte| *byte == b'/') {
                Some(slash) => end = slash,
                None => break,
            }
        }
    }
    result
}

fn path(pid: u32) -> Option<Vec<u8>> {
    path_of(pid, |controllers| controllers.split(|byte| *byte == b',').any(|name| name == b"freezer"))
}

fn holds_only(cgroup: &Cgroup, own: &HashSet<u32>) -> bool {
    let found = cgroup.population(Limits::MAX);
    found.is_ok_and(|found| found.all && found.processes.iter().all(|(pid, _)| own.contains(pid)))
}

//! Whom an action on a container would reach, and whether one of them is to be spared.

use std::io;

use sls_core::{ActionResult, Event, EventKind, ProcessKey, Protection, Refusal};

use super::cgroup::{Cgroup, Hierarchy, Limits, Population, path_of};
use crate::errno;
use crate::stat::Stat;
use crate::subject;

/// The processes that may be acted upon.
#[derive(Debug)]
pub(crate) struct Members(pub(crate) Vec<ProcessKey>);

/// Refuses the root of the hierarchy, and the cgroups that the sensor is in.
pub(crate) fn refuse_own(hierarchy: &Hierarchy, id: u64) -> Result<(), ActionResult> {
    if id == hierarchy.root_id() {
        return Err(refused(&Refusal::new("root-cgroup", "the root of the hierarchy is never acted upon"), ""));
    }
    let own = path_of(std::process::id(), <[u8]>::is_empty).and_then(|path| hierarchy.find_at(&path, id));
    own.map_or(Ok(()), |_| Err(sensor_inside()))
}

/// The processes of the container, after every guard was asked about each of them, and about the cgroups above and below.
/// None if there are more than `limits` allow; then nobody was asked.
pub(crate) fn members(
    cgroup: &Cgroup,
    protection: &Protection,
    limits: Limits,
) -> Result<Option<Members>, ActionResult> {
    let failed = |error: io::Error| ActionResult::NotSuccessful {
        details: format!("cannot list the processes of the container: {}", errno::io_text(&error)),
    };
    let Population { processes, cgroups, all } = cgroup.population(limits).map_err(failed)?;
    // By pid, whatever its cgroup is called: a cgroup namespace hides names, not pids.
    if processes.iter().any(|(pid, _)| *pid == std::process::id()) {
        return Err(sensor_inside());
    }
    if !all {
        if limits != Limits::MAX {
            return Ok(None);
        }
        let Limits { processes, cgroups } = limits;
        let details = format!("the container has more than {processes} processes or {cgroups} cgroups");
        return Err(ActionResult::NotSuccessful { details });
    }
    let mut event = Event::new(EventKind::Baseline);
    let mut members = Vec::with_capacity(processes.len());
    for (pid, id) in processes {
        if !describe(pid, &mut event) {
            continue;
        }
        (event.cgroup_id, event.container_cgroup_id) = (Some(id), Some(cgroup.id));
        if let Some(refusal) = protection.refusal(&event) {
            return Err(refused(&refusal, &format!(" (process {pid} of the container)")));
        }
        members.push(event.process);
    }
    if let Some(first) = members.first() {
        // A protected cgroup covers what is below it; and what contains one cannot be acted upon without it.
        event.reset(EventKind::Baseline);
        event.process = *first;
        let above = cgroup.ids_above().map_err(failed)?;
        for id in above.into_iter().chain(cgroups) {
            event.cgroup_id = Some(id);
            if let Some(refusal) = protection.refusal(&event) {
                return Err(refused(&refusal, &format!(" (cgroup {id})")));
            }
        }
    }
    Ok(Some(Members(members)))
}

/// Fills `event` with what guards look at; false if the process is gone.
fn describe(pid: u32, event: &mut Event) -> bool {
    event.reset(EventKind::Baseline);
    let Ok(stat) = Stat::of_process(pid) else { return false };
    subject::describe(pid, stat.start_ticks, event);
    event.kernel_thread = stat.kernel_thread;
    true
}

fn sensor_inside() -> ActionResult {
    refused(&Refusal::new("sensor-cgroup", "the sensor runs in this cgroup"), "")
}

fn refused(refusal: &Refusal, whom: &str) -> ActionResult {
    ActionResult::Refused { details: format!("{refusal}{whom}") }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use sls_core::Field;

    use super::*;

    #[test]
    fn processes_are_described_for_the_guards() {
        let mut event = Event::new(EventKind::Exec);
        assert!(describe(std::process::id(), &mut event));
        assert_eq!(event.process, crate::process_key(std::process::id()).unwrap());
        assert_eq!(event.text(Field::ProgramName), std::env::current_exe().unwrap().as_os_str().as_bytes());
        assert!(event.pid_namespace.is_some() && event.mount_namespace.is_some() && !event.kernel_thread);
        assert!(!describe(u32::MAX, &mut event));
    }
}

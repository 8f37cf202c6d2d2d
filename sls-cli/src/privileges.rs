//! What the sensor may do after it has started: not all that root may.

use std::path::Path;

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

/// What is kept, and for what. `deploy/sls.service` gives the same.
pub(crate) const NEEDED: &[(&str, CapabilitySet, &str)] = &[
    ("CAP_BPF", CapabilitySet::BPF, "to load BPF programs, also after a reload"),
    ("CAP_PERFMON", CapabilitySet::PERFMON, "to attach them to tracepoints, functions and probes"),
    ("CAP_NET_ADMIN", CapabilitySet::NET_ADMIN, "to attach those of connections"),
    ("CAP_SYS_RESOURCE", CapabilitySet::SYS_RESOURCE, "to lock the memory of maps before Linux 5.11"),
    (
        "CAP_SYS_PTRACE",
        CapabilitySet::SYS_PTRACE,
        "to read the programs, namespaces and files of other users' processes",
    ),
    ("CAP_KILL", CapabilitySet::KILL, "to kill and stop other users' processes"),
    (
        "CAP_DAC_OVERRIDE",
        CapabilitySet::DAC_OVERRIDE,
        "to reach other users' files and cgroups, and to take files from them",
    ),
    ("CAP_FOWNER", CapabilitySet::FOWNER, "to take other users' files from /tmp"),
    ("CAP_CHOWN", CapabilitySet::CHOWN, "to make files in the quarantine store the sensor's own"),
];

/// What is kept besides where tracefs or the cgroup v2 hierarchy is not mounted: the probe mounts them for itself. And where
/// operations wait for policies: to tell the kernel which.
const MOUNTING_AND_HOLDING: CapabilitySet = CapabilitySet::SYS_ADMIN;

/// Gives up every capability but those that are needed, for good and for all threads that are started from now on. Those
/// that the sensor was not given stay missing. `holds` says whether operations wait for policies.
///
/// # Errors
/// When the kernel refuses. What was given up before that stays so.
pub(crate) fn drop_unneeded(holds: bool) -> std::io::Result<()> {
    let mut kept = NEEDED.iter().fold(CapabilitySet::empty(), |kept, (_, capability, _)| kept | *capability);
    if holds || !everything_is_mounted() {
        kept |= MOUNTING_AND_HOLDING;
    }
    let held = capabilities(None)?;
    // What is not in the bounding set does not come back when a program is executed, as the self-test does.
    if held.effective.contains(CapabilitySet::SETPCAP) {
        for number in 0..u64::BITS {
            let capability = CapabilitySet::from_bits_retain(1 << number);
            // Numbers that the kernel does not know are not in the set.
            if !kept.contains(capability) && capability_is_in_bounding_set(capability).unwrap_or(false) {
                remove_capability_from_bounding_set(capability)?;
            }
        }
    }
    clear_ambient_capability_set()?;
    set_no_new_privs(true)?;
    let kept = CapabilitySets {
        effective: held.effective & kept,
        permitted: held.permitted & kept,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, kept)?;
    Ok(())
}

fn everything_is_mounted() -> bool {
    // Users name the places of their mounts: not every name is text.
    let mounts = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let whole_cgroups = String::from_utf8_lossy(&mounts)
        .lines()
        .filter_map(|line| line.split_once(" - "))
        .any(|(mount, file_system)| file_system.starts_with("cgroup2 ") && mount.split(' ').nth(3) == Some("/"));
    whole_cgroups && Path::new("/sys/kernel/tracing/events").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_gives_what_is_needed_and_no_more() {
        let unit = include_str!("../../deploy/sls.service");
        let line = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
        let mut given: Vec<_> = line.split_whitespace().collect();
        let mut needed: Vec<_> = NEEDED.iter().map(|(name, ..)| *name).collect();
        given.sort_unstable();
        needed.sort_unstable();
        assert_eq!(given, needed);
    }
}

//! What the fuzz targets reach of the parsers that have no face of their own. It is there in builds with `--cfg fuzzing`
//! only, which `.ci/fuzz.sh` and cargo-fuzz set.

use std::path::PathBuf;

/// Parent and start time, in clock ticks, of a line of `/proc/PID/stat`.
#[must_use]
pub fn process_stat(line: &[u8]) -> Option<(u32, u64)> {
    crate::stat::parse(line).map(|stat| (stat.parent, stat.start_ticks))
}

/// Where the whole cgroup v2 hierarchy is mounted by a table of mounts, `/proc/PID/mountinfo`.
#[must_use]
pub fn cgroup_mount(mountinfo: &[u8]) -> Option<PathBuf> {
    crate::container::unified_mount_point_in(mountinfo)
}

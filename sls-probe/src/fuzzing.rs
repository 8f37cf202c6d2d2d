//! What the fuzz targets reach of the parsers that have no face of their own. It is there in builds with `--cfg fuzzing`
//! only, which `.ci/fuzz.sh` and cargo-fuzz set.

use std::path::PathBuf;

/// The body of an engine's answer to an HTTP request, if it has one.
#[must_use]
pub fn engine_answer(mut bytes: &[u8]) -> Option<Vec<u8>> {
    crate::container::engine_answer(&mut bytes).ok()
}

/// Where the whole cgroup v2 hierarchy is mounted by a table of mounts, `/proc/PID/mountinfo`.
#[must_use]
pub fn cgroup_mount(mountinfo: &[u8]) -> Option<PathBuf> {
    crate::cgroup::in_table(mountinfo)
}

/// The paths that a table of mounts has.
#[must_use]
pub fn mounts(mountinfo: &[u8]) -> Vec<PathBuf> {
    crate::fanotify::mounts(mountinfo)
}

/// Parent and start time, in clock ticks, of a line of `/proc/PID/stat`.
#[must_use]
pub fn process_stat(line: &[u8]) -> Option<(u32, u64)> {
    crate::fanotify::process_stat(line)
}

/// Whether a line of `/proc/PID/task/TID/syscall` is of a call that opens a file or may.
#[must_use]
pub fn may_open(line: &[u8]) -> bool {
    crate::fanotify::may_open(line)
}

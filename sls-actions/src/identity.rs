//! Who a process is: its pid with its start time, and its pidfd's inode where the kernel has one.

use std::io;

use rustix::io::Errno;
use sls_core::{ProcessKey, Target};

use crate::pidfd::ProcessFd;
use crate::stat::Stat;

/// Length of a clock tick, in nanoseconds: `/proc` gives start times in whole ticks since boot. It is 10 ms on every
/// architecture that Rust knows (`USER_HZ` is part of the kernel's interface, not of its configuration), and
/// [`ProcessResponderBuilder::build`](crate::ProcessResponderBuilder::build) refuses to work where it is not.
pub const CLOCK_TICK_NS: u64 = 10_000_000;

/// The most processes that [`own_ancestry`] gives, the caller included.
pub const MAX_ANCESTRY: usize = 64;

/// How often [`own_ancestry`] begins again when an ancestor ends while it looks.
const MAX_ANCESTRY_RETRIES: usize = 16;

/// Start time of the process that has `pid` now, in nanoseconds since boot, cut to a whole [clock tick](CLOCK_TICK_NS).
///
/// ```
/// let start = sls_actions::process_start(std::process::id())?;
/// assert_eq!(start % sls_actions::CLOCK_TICK_NS, 0);
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// When there is no such process (`ESRCH`), or `/proc` cannot be read.
pub fn process_start(pid: u32) -> io::Result<u64> {
    Ok(start(Stat::of_process(pid)?)?)
}

/// Pid and [start time](process_start) of the process that has `pid` now.
///
/// # Errors
/// Those of [`process_start`].
pub fn process_key(pid: u32) -> io::Result<ProcessKey> {
    Ok(ProcessKey { pid, start: process_start(pid)? })
}

/// Everything that identifies the process which has `pid` now, as the target of an action. All parts are of the same
/// process, even if the pid changes hands meanwhile.
///
/// ```
/// # use sls_core::Target;
/// let target = sls_actions::process_target(std::process::id())?;
/// assert!(matches!(target, Target::Process { key, .. } if key.pid == std::process::id()));
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// When there is no such process, or it is dead but not reaped (`ESRCH`), or `/proc` cannot be read.
pub fn process_target(pid: u32) -> io::Result<Target> {
    let process = ProcessFd::open(pid)?;
    let pidfd_inode = if process.is_on_pidfs()? { Some(process.inode()?) } else { None };
    let key = process_key(pid)?;
    // Its pid cannot have been used again before now, so what was read under that pid is its own.
    if process.has_exited()? {
        return Err(Errno::SRCH.into());
    }
    Ok(Target::Process { key, pidfd_inode })
}

/// Whether two start times, in nanoseconds since boot, are the same as far as `/proc` can tell: start times from the
/// kernel's events are exact, those from `/proc` are cut to whole ticks.
///
/// ```
/// use sls_actions::started_in_same_tick;
///
/// assert!(started_in_same_tick(77_000_000_000, 77_009_999_999));
/// assert!(!started_in_same_tick(77_000_000_000, 77_010_000_000));
/// ```
#[must_use]
pub fn started_in_same_tick(one: u64, other: u64) -> bool {
    one / CLOCK_TICK_NS == other / CLOCK_TICK_NS
}

/// The calling process and its ancestors, nearest first: processes that must never be acted on, for whoever kills one of
/// them may end the sensor. At most [`MAX_ANCESTRY`] are given. Start times are cut to whole ticks, so a guard compares
/// pids, and start times with [`started_in_same_tick`].
///
/// ```
/// let ancestry = sls_actions::own_ancestry()?;
/// assert_eq!(ancestry[0].pid, std::process::id());
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// When `/proc` cannot be read, or ancestors ended again and again while it was.
pub fn own_ancestry() -> io::Result<Vec<ProcessKey>> {
    ancestry(std::process::id())
}

fn ancestry(pid: u32) -> io::Result<Vec<ProcessKey>> {
    for _ in 0..=MAX_ANCESTRY_RETRIES {
        if let Some(found) = try_ancestry(pid)? {
            return Ok(found);
        }
    }
    Err(Errno::AGAIN.into())
}

/// One walk to the top; none if an ancestor ended during it, so that what was found may be no ancestry.
fn try_ancestry(pid: u32) -> io::Result<Option<Vec<ProcessKey>>> {
    let mut child_pid = pid;
    let mut child = Stat::of_process(pid)?;
    let mut found = vec![ProcessKey { pid, start: start(child)? }];
    while child.parent != 0 && found.len() < MAX_ANCESTRY {
        let parent = match Stat::of_process(child.parent) {
            Err(Errno::SRCH) => return Ok(None),
            stat => stat?,
        };
        // It was the parent before and still is, so it lived in between and what was read is its own.
        match Stat::of_process(child_pid) {
            Ok(again) if again.parent == child.parent && again.start_ticks == child.start_ticks => {}
            Ok(_) | Err(Errno::SRCH) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
        found.push(ProcessKey { pid: child.parent, start: start(parent)? });
        child_pid = child.parent;
        child = parent;
    }
    Ok(Some(found))
}

fn start(stat: Stat) -> Result<u64, Errno> {
    stat.start_ticks.checked_mul(CLOCK_TICK_NS).ok_or(Errno::OVERFLOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_tick_is_the_kernels() {
        assert_eq!(rustix::param::clock_ticks_per_second() * CLOCK_TICK_NS, 1_000_000_000);
    }

    #[test]
    fn ancestry_leads_to_the_first_process() {
        let ancestry = own_ancestry().unwrap();
        assert_eq!(ancestry[1].pid, std::os::unix::process::parent_id());
        assert!(ancestry.len() < MAX_ANCESTRY);
        for pair in ancestry.windows(2) {
            assert_eq!(process_key(pair[0].pid).unwrap(), pair[0]);
            assert!(pair[1].start <= pair[0].start, "a parent is older than its child: {pair:?}");
        }
    }

    #[test]
    fn no_process_has_no_identity() {
        for pid in [0, u32::MAX, i32::MAX as u32] {
            assert_eq!(process_target(pid).unwrap_err().raw_os_error(), Some(Errno::SRCH.raw_os_error()));
            assert_eq!(process_key(pid).unwrap_err().raw_os_error(), Some(Errno::SRCH.raw_os_error()));
        }
    }
}

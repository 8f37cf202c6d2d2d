//! What is done to a cgroup, and how its effect is seen.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::Signal;
use sls_core::ActionResult;

use super::cgroup::{Cgroup, Limits, is_gone};
use super::guard::Members;
use super::thaw::ThawQueue;
use super::{CONTAINER_IS_GONE, CONTAINER_NOT_PAUSED, FREEZE};
use crate::confirm;
use crate::errno;
use crate::identity::CLOCK_TICK_NS;
use crate::pidfd::ProcessFd;
use crate::stat::Stat;

/// The file that kills all processes of a cgroup and of those below it, also those that are being created.
const KILL: &str = "cgroup.kill";

/// The file that says whether there are processes and whether they are frozen.
const EVENTS: &str = "cgroup.events";

/// How long the end of a container is waited for before it is killed once more.
const ROUND: Duration = Duration::from_millis(50);

/// The most survivors that are named.
const MAX_NAMED_SURVIVORS: usize = 5;

/// What waiting has given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Observed {
    /// What was waited for.
    Seen,
    /// Nothing, in one round.
    NotYet,
    /// Nothing, and the time is over.
    TimedOut,
}

/// Kills `members`, and where the kernel can, whoever else is in the cgroup by now.
pub(super) fn kill(cgroup: &Cgroup, members: &Members, cgroup_kill: bool) -> Result<(), ActionResult> {
    if !cgroup_kill {
        return kill_each(cgroup, members);
    }
    match cgroup.write(KILL, "1") {
        Ok(()) => Ok(()),
        // Before Linux 5.14, and in a threaded cgroup.
        Err(error) if is(&error, Errno::NOENT) || is(&error, Errno::OPNOTSUPP) => kill_each(cgroup, members),
        Err(error) if is(&error, Errno::NODEV) => Ok(()),
        Err(error) => Err(failed(&error, "cannot write cgroup.kill")),
    }
}

/// Signals one after the other. They are frozen meanwhile, so that they make no others; a frozen process dies all the same.
fn kill_each(cgroup: &Cgroup, members: &Members) -> Result<(), ActionResult> {
    let freezes = cgroup.read(FREEZE).is_ok_and(|text| text.trim() == "0") && cgroup.write(FREEZE, "1").is_ok();
    let mut result = Ok(());
    for member in &members.0 {
        let signalled = ProcessFd::open(member.pid).and_then(|process| {
            // Asked while the process is held: if it has the start time, it is the one that the guards were asked about,
            // and if it has not ended after that, the start time is its own.
            let same = Stat::of_process(member.pid)?.start_ticks.saturating_mul(CLOCK_TICK_NS) == member.start;
            if same && !process.has_exited()? { process.signal(Signal::KILL) } else { Ok(()) }
        });
        match signalled {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => result = Err(failed(&errno.into(), &format!("cannot kill process {}", member.pid))),
        }
    }
    if freezes {
        // Those that came in between are met in the next round; if the cgroup is gone, so are they.
        let _ = cgroup.write(FREEZE, "0");
    }
    result
}

/// Freezes the cgroup, to be thawed by `thaws` if there is such a queue.
pub(super) fn freeze(cgroup: &Cgroup, thaws: Option<&ThawQueue>) -> Result<(), ActionResult> {
    let failed = |error: io::Error| failed(&error, "cannot write cgroup.freeze");
    if let Some(thaws) = thaws {
        // What another has frozen is the other's to thaw; what this responder has frozen waits already.
        if cgroup.read(FREEZE).map_err(failed)?.trim() == "1" {
            return Ok(());
        }
        // Noted first: what is frozen and forgotten stays so.
        if !thaws.push(cgroup.try_clone().map_err(failed)?) {
            return Err(ActionResult::not_successful("too many paused containers wait to be thawed"));
        }
    }
    cgroup.write(FREEZE, "1").map_err(|error| {
        if let Some(thaws) = thaws {
            thaws.forget(cgroup.id);
        }
        failed(error)
    })
}

/// Lets a frozen cgroup go on, and waits until it does.
pub(super) fn thaw(cgroup: &Cgroup, timeout: Duration) -> ActionResult {
    let try_thaw = || {
        let failed = |error: io::Error| failed(&error, "cannot write cgroup.freeze");
        if cgroup.read(FREEZE).map_err(failed)?.trim() == "0" {
            return Err(ActionResult::not_successful(CONTAINER_NOT_PAUSED));
        }
        cgroup.write(FREEZE, "0").map_err(failed)?;
        match wait(cgroup, "frozen 0", confirm::deadline(Instant::now(), timeout), timeout)? {
            Observed::Seen => Ok(()),
            _ => Err(ActionResult::not_successful("a cgroup above the container's is frozen")),
        }
    };
    try_thaw().err().unwrap_or(ActionResult::Successful)
}

/// Whether no process is in the cgroup or below it.
pub(super) fn is_empty(cgroup: &Cgroup) -> io::Result<bool> {
    match cgroup.read(EVENTS) {
        Ok(text) => Ok(says(&text, "populated 0")),
        Err(error) if is_gone(&error) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Waits for one round until the cgroup is empty or gone.
pub(super) fn wait_empty(cgroup: &Cgroup, deadline: Instant) -> Result<Observed, ActionResult> {
    match wait(cgroup, "populated 0", deadline, ROUND) {
        Err(result) if result.details() == CONTAINER_IS_GONE => Ok(Observed::Seen),
        seen => seen,
    }
}

/// Waits until every process of the cgroup is frozen. One that has ended runs no more either, such as by the next action
/// of the same plan.
pub(super) fn wait_frozen(cgroup: &Cgroup, deadline: Instant, timeout: Duration) -> Result<(), ActionResult> {
    match wait(cgroup, "frozen 1", deadline, timeout) {
        Ok(Observed::Seen) => Ok(()),
        Err(result) if result.details() == CONTAINER_IS_GONE => Ok(()),
        Err(result) => Err(result),
        Ok(_) => {
            Err(ActionResult::not_successful(format!("not every process of the container froze within {timeout:?}")))
        }
    }
}

/// Why the container has not ended.
pub(super) fn survivors(cgroup: &Cgroup, timeout: Duration, why: &str) -> ActionResult {
    let mut details = format!("the container did not end within {timeout:?}");
    let limits = Limits { processes: MAX_NAMED_SURVIVORS, ..Limits::MAX };
    let left = cgroup.population(limits).unwrap_or_default();
    if !left.processes.is_empty() {
        let pids: Vec<_> = left.processes.iter().map(|(pid, _)| pid.to_string()).collect();
        let more = if left.all { "" } else { " and others" };
        details += &format!(", left are pids {}{more}", pids.join(", "));
    }
    if !why.is_empty() {
        details += &format!("; {why}");
    }
    ActionResult::NotSuccessful { details }
}

/// A failure in the kernel's words.
pub(super) fn failed(error: &io::Error, what: &str) -> ActionResult {
    if is_gone(error) {
        return ActionResult::not_successful(CONTAINER_IS_GONE);
    }
    ActionResult::not_successful(format!("{what}: {}", errno::io_text(error)))
}

/// Waits for one round at most until `cgroup.events` has the line that is `wanted`.
fn wait(cgroup: &Cgroup, wanted: &str, deadline: Instant, round: Duration) -> Result<Observed, ActionResult> {
    let failed = |error: io::Error| failed(&error, "cannot read cgroup.events");
    let file = cgroup.file(EVENTS).map_err(failed)?;
    let end = deadline.min(confirm::deadline(Instant::now(), round));
    loop {
        // The kernel tells of changes after this reading.
        if says(&read_again(&file).map_err(failed)?, wanted) {
            return Ok(Observed::Seen);
        }
        let now = Instant::now();
        if now >= end {
            return Ok(if now >= deadline { Observed::TimedOut } else { Observed::NotYet });
        }
        let left = Timespec::try_from(end - now).unwrap_or(Timespec { tv_sec: i32::MAX.into(), tv_nsec: 0 });
        match poll(&mut [PollFd::new(&file, PollFlags::PRI)], Some(&left)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(failed(errno.into())),
        }
    }
}

fn read_again(file: &File) -> io::Result<String> {
    let mut text = [0; 128];
    let len = file.read_at(&mut text, 0)?;
    Ok(String::from_utf8_lossy(&text[..len]).into_owned())
}

fn says(events: &str, wanted: &str) -> bool {
    events.lines().any(|line| line == wanted)
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

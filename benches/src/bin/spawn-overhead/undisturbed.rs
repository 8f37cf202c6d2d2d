//! Keeps neighbours away from the loop.

use std::io;

use anyhow::Context;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The lowest real-time priority: above everything ordinary.
const PRIORITY: i32 = 1;

/// While it lives, this thread and what it spawns stay on one CPU and go before every ordinary process: moving between
/// caches and waiting for a time slice are by far the largest part of the noise. The sensor must have been started
/// before: it runs where and when the kernel lets it.
pub(crate) struct Undisturbed {
    cpus: CpuSet,
}

impl Undisturbed {
    /// Pins to the first CPU that this thread may use.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let before = Self { cpus: sched_getaffinity(Pid::from_raw(0))? };
        let cpu = (0..CpuSet::count()).find(|cpu| before.cpus.is_set(*cpu).unwrap_or(false)).context("no CPU")?;
        let mut one = CpuSet::new();
        one.set(cpu)?;
        sched_setaffinity(Pid::from_raw(0), &one)?;
        schedule(libc::SCHED_FIFO, PRIORITY).context("cannot become a real-time thread")?;
        Ok(before)
    }
}

impl Drop for Undisturbed {
    fn drop(&mut self) {
        let _ = schedule(libc::SCHED_OTHER, 0);
        let _ = sched_setaffinity(Pid::from_raw(0), &self.cpus);
    }
}

/// Sets the policy of the calling thread.
fn schedule(policy: i32, priority: i32) -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: the parameters are initialised and outlive the call, which only reads them; 0 is the calling thread.
    match unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

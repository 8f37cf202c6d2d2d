//! The tight loop: spawn, wait, again; and what it cost.

use std::ffi::CString;
use std::ops::Sub;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, posix_spawn};
use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::time::TimeVal;
use nix::sys::wait::{WaitStatus, waitpid};

/// Spawns one program again and again. `posix_spawn` is what a shell's fast path and most runtimes use: no address
/// space is copied, so the loop is as tight as it can be, and the sensor's share of it as large.
pub(crate) struct Spawner {
    program: CString,
    argv: [CString; 1],
    attributes: PosixSpawnAttr,
    actions: PosixSpawnFileActions,
}

/// What a loop cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// CPU time of the spawning thread and of its children.
    pub(crate) cpu: Duration,
    pub(crate) wall: Duration,
}

impl Spawner {
    pub(crate) fn new(program: &Path) -> anyhow::Result<Self> {
        let program = CString::new(program.as_os_str().as_bytes())?;
        Ok(Self {
            argv: [program.clone()],
            program,
            attributes: PosixSpawnAttr::init()?,
            actions: PosixSpawnFileActions::init()?,
        })
    }

    /// Spawns `count` times, one after the other.
    pub(crate) fn run(&self, count: u32) -> anyhow::Result<Cost> {
        let (cpu, wall) = (cpu_time()?, Instant::now());
        for _ in 0..count {
            let environment: [CString; 0] = [];
            let pid = posix_spawn(self.program.as_c_str(), &self.actions, &self.attributes, &self.argv, &environment)
                .with_context(|| format!("cannot spawn {}", self.program.to_string_lossy()))?;
            let status = waitpid(pid, None)?;
            ensure!(matches!(status, WaitStatus::Exited(_, 0)), "the spawned program failed: {status:?}");
        }
        Ok(Cost { cpu: cpu_time()?.sub(cpu), wall: wall.elapsed() })
    }
}

/// Of this thread and of all children waited for.
fn cpu_time() -> anyhow::Result<Duration> {
    Ok(total(getrusage(UsageWho::RUSAGE_THREAD)?) + total(getrusage(UsageWho::RUSAGE_CHILDREN)?))
}

fn total(usage: Usage) -> Duration {
    let duration = |time: TimeVal| Duration::from_micros(time.tv_sec() as u64 * 1_000_000 + time.tv_usec() as u64);
    duration(usage.user_time()) + duration(usage.system_time())
}

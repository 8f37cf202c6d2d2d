//! `sls rearm`: tells a running sensor to close its circuit breakers.

use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, bail};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::args::RearmArgs;
use crate::exit::Answer;

/// What tells a sensor to close its circuit breakers.
pub(crate) const REARM: Signal = Signal::USR1;

pub(crate) fn run(args: &RearmArgs) -> anyhow::Result<Answer> {
    let pid = args.pid;
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).context("0 is no process")?;
    // Whatever is found under the pid from here on is this process, or the signal fails.
    let process = pidfd_open(raw, PidfdFlags::empty()).with_context(|| format!("there is no process {pid}"))?;
    let program = |pid: &str| -> anyhow::Result<(u64, u64)> {
        let found = fs::metadata(format!("/proc/{pid}/exe"))
            .with_context(|| format!("cannot tell which program the process {pid} runs"))?;
        Ok((found.dev(), found.ino()))
    };
    if program(&pid.to_string())? != program("self")? {
        bail!("the process {pid} does not run this very file of `sls`");
    }
    // Another command of `sls`, or a sensor that is just starting, would be ended by the signal.
    if !catches(pid, REARM)? {
        bail!("the process {pid} is no sensor that is running (`sls run`)");
    }
    pidfd_send_signal(process, REARM).with_context(|| format!("cannot reach the process {pid}"))?;
    Ok(Answer::Yes)
}

/// Whether the process has a handler of its own for the signal.
fn catches(pid: u32, signal: Signal) -> anyhow::Result<bool> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("cannot look at the process {pid}"))?;
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or_default();
    let caught = u64::from_str_radix(caught.trim(), 16).context("the kernel does not say which signals it catches")?;
    Ok(caught & (1 << (signal.as_raw() - 1)) != 0)
}

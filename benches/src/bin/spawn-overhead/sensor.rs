//! The sensor as a user runs it: `sls run`, in a process of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;

/// How long it may take to start, and to stop.
const PATIENCE: Duration = Duration::from_secs(30);

/// After this it ends by itself, should nobody stop it.
const LONGEST_RUN: &str = "10m";

/// A running sensor. Dropping it kills it.
pub(crate) struct Sensor {
    process: Child,
    /// What it writes to standard error.
    log: PathBuf,
    clock: ClockId,
}

/// What it says when it stops.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) events: u64,
    pub(crate) lost: u64,
    pub(crate) detections: u64,
}

/// Resident memory in KiB, and its parts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// The most so far.
    pub(crate) peak: u64,
    pub(crate) resident: u64,
    pub(crate) anonymous: u64,
    pub(crate) file: u64,
    pub(crate) shared: u64,
}

impl Sensor {
    /// Starts `sls run` with these arguments and a log in `directory`, and returns when it watches.
    pub(crate) fn start(sls: &Path, directory: &Path, arguments: &[String]) -> anyhow::Result<Self> {
        let log = directory.join(format!("sls-bench-log-{}", std::process::id()));
        let stderr = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let process = Command::new(sls)
            .args(["run", "--output", "file:/dev/null", "--duration", LONGEST_RUN])
            .args(arguments)
            .env("SLS_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .with_context(|| format!("cannot start {}", sls.display()))?;
        let clock = clock_getcpuclockid(Pid::from_raw(process.id() as i32))?;
        let mut sensor = Self { process, log, clock };
        sensor.wait_for(" watching ")?;
        Ok(sensor)
    }

    /// CPU time of all its threads so far.
    pub(crate) fn cpu_time(&self) -> anyhow::Result<Duration> {
        Ok(self.clock.now()?.into())
    }

    pub(crate) fn memory(&self) -> anyhow::Result<Memory> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let value = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
            line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().map_err(|_| anyhow!("no {key}"))
        };
        Ok(Memory {
            peak: value("VmHWM")?,
            resident: value("VmRSS")?,
            anonymous: value("RssAnon")?,
            file: value("RssFile")?,
            shared: value("RssShmem")?,
        })
    }

    /// Stops it as an operator would, and returns what it has seen.
    pub(crate) fn stop(mut self) -> anyhow::Result<Tally> {
        kill(Pid::from_raw(self.process.id() as i32), Signal::SIGTERM)?;
        let line = self.wait_for(" stopped ")?;
        let value = |key: &str| {
            let word = line.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
            word.and_then(|value| value.parse().ok()).with_context(|| format!("no {key} in: {line}"))
        };
        let tally = Tally { events: value("events")?, lost: value("lost")?, detections: value("detections")? };
        let status = self.process.wait()?;
        if !status.success() {
            bail!("the sensor ended with {status}");
        }
        Ok(tally)
    }

    /// The first line that says `what`. Looked for in a file: a thread that reads a pipe would make every spawn of this
    /// process dearer, and only while the sensor runs.
    fn wait_for(&mut self, what: &str) -> anyhow::Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ended = self.process.try_wait()?.is_some();
            let log = fs::read_to_string(&self.log)?;
            match log.split_inclusive('\n').find(|line| line.ends_with('\n') && line.contains(what)) {
                Some(line) => return Ok(line.to_owned()),
                None if ended => bail!("the sensor ended without saying{what}; it said:\n{log}"),
                None if Instant::now() >= deadline => bail!("the sensor did not say{what}in time; it said:\n{log}"),
                None => thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

impl Drop for Sensor {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_file(&self.log);
    }
}

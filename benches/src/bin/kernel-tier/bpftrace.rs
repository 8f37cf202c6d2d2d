//! bpftrace, as a clock and as what the kernel tier is compared with.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The name of the victim, by which both scripts know it: shorter than a comm.
pub(crate) const VICTIM: &str = "sls-victim";

/// A running script.
struct Script {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Script {
    fn start(arguments: &[&str], text: &str) -> anyhow::Result<Self> {
        let text = format!("BEGIN {{ printf(\"ready\\n\"); }} {text}");
        let mut child = Command::new("bpftrace")
            .args(arguments)
            .args(["-B", "line", "-e", &text])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("bpftrace, which this compares with, cannot be started")?;
        let mut lines = BufReader::new(child.stdout.take().context("its output is a pipe")?);
        let mut line = String::new();
        while line.trim() != "ready" {
            line.clear();
            ensure!(lines.read_line(&mut line)? > 0, "bpftrace ended");
        }
        Ok(Self { child, lines })
    }

    /// Ends it, and returns what it still had to say.
    fn finish(mut self) -> anyhow::Result<Vec<String>> {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGINT)?;
        let lines = self.lines.lines().collect::<Result<_, _>>()?;
        self.child.wait()?;
        Ok(lines)
    }
}

/// Tells how long victims lived.
pub(crate) struct Observer(Script);

impl Observer {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let text = format!(
            "tracepoint:sched:sched_process_exec /comm == \"{VICTIM}\"/ {{ @start[pid] = nsecs; }} \
             tracepoint:sched:sched_process_exit /@start[pid]/ {{ printf(\"%lld\\n\", nsecs - @start[pid]); delete(@start[pid]); }}"
        );
        Script::start(&[], &text).map(Self)
    }

    /// In microseconds.
    pub(crate) fn finish(self) -> anyhow::Result<Vec<f64>> {
        let lines = self.0.finish()?;
        Ok(lines.iter().filter_map(|line| line.trim().parse::<u64>().ok()).map(|time| time as f64 / 1e3).collect())
    }
}

/// Kills victims.
pub(crate) struct Killer(Script);

impl Killer {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let text = format!("tracepoint:sched:sched_process_exec /comm == \"{VICTIM}\"/ {{ signal(\"KILL\"); }}");
        Script::start(&["--unsafe"], &text).map(Self)
    }

    pub(crate) fn finish(self) -> anyhow::Result<()> {
        self.0.finish().map(drop)
    }
}

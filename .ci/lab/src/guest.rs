//! Inside a guest: runs one job after the other and reports each in a line of JSON on the standard output.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use libbpf_rs::{Link, Object, ObjectBuilder};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::leftovers::Traces;
use crate::outcome::Outcome;
use crate::plan::{Job, Plan};

/// What a job may take. The guests are emulated, and tests wait for up to 120 s for what does not come.
const PATIENCE: Duration = Duration::from_secs(300);

/// How much of a job's output is reported: its end.
const MAX_OUTPUT: usize = 4096;

/// What a guest says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    /// The guest is up; the release of its kernel.
    Kernel(String),
    Begun(String),
    Ended {
        id: String,
        result: Outcome,
        seconds: f64,
        /// Of what did not succeed.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        output: String,
    },
}

/// Does what the plan in the file says.
pub(crate) fn run(plan: &Path) -> anyhow::Result<()> {
    ensure!(std::env::var_os("SLS_LAB_GUEST").is_some(), "this is no guest of the lab");
    let plan: Plan = serde_json::from_slice(&fs::read(plan)?).context("plan")?;
    say(&Report::Kernel(fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned()))?;
    let _refusal = plan.refuse.as_deref().map(refuse).transpose().context("cannot make the kernel refuse programs")?;
    if plan.hide_kprobes {
        hide_kprobes().context("cannot hide the kprobes")?;
    }
    let start = Instant::now();
    for job in &plan.jobs {
        if plan.budget.is_some_and(|seconds| start.elapsed() > Duration::from_secs(seconds)) {
            break;
        }
        say(&Report::Begun(job.id.clone()))?;
        let begun = Instant::now();
        let (result, output) = perform(job, &plan.environment)?;
        let output = if result == Outcome::Failed { output } else { String::new() };
        let seconds = (begun.elapsed().as_secs_f64() * 10.0).round() / 10.0;
        say(&Report::Ended { id: job.id.clone(), result, seconds, output })?;
    }
    Ok(())
}

fn say(report: &Report) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    io::stdout().lock().write_all(&line).context("cannot report")
}

/// Runs the job. What it leaves behind is a failure too, and is removed as far as it is a process.
fn perform(job: &Job, environment: &[(String, String)]) -> anyhow::Result<(Outcome, String)> {
    let before = Traces::now();
    let mut output = File::options().create(true).truncate(true).read(true).write(true).open("/run/lab/output")?;
    let (program, arguments) = job.command.split_first().context("a job without a command")?;
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(&job.directory)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output.try_clone()?)
        .process_group(0)
        .spawn()
        .with_context(|| program.clone())?;
    let status = wait(&mut child)?;
    output.rewind()?;
    let mut bytes = Vec::new();
    output.read_to_end(&mut bytes)?;
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    let success = status.is_some_and(|status| status.success());
    let mut result = match (job.test, success) {
        (true, _) => Outcome::of_test(&text, success),
        (false, true) => Outcome::Ok,
        (false, false) => Outcome::Failed,
    };
    match status {
        None => text.push_str(&format!("\nnot done after {} s\n", PATIENCE.as_secs())),
        Some(status) if !success => text.push_str(&format!("\n{status}\n")),
        Some(_) => {}
    }
    let left = before.left_behind();
    if !left.is_empty() {
        result = Outcome::Failed;
        text.push_str(&format!("\nleft behind: {}\n", left.join(", ")));
        before.end_processes();
    }
    let start = text.len().saturating_sub(MAX_OUTPUT);
    let start = (start..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    Ok((result, text[start..].to_owned()))
}

/// The status, or none if it had to be killed.
fn wait(child: &mut Child) -> anyhow::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(5);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() > deadline {
            // It is its own group's leader, and not reaped yet.
            let _ = killpg(Pid::from_raw(child.id().try_into()?), Signal::SIGKILL);
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// Takes away what programs find kprobes by.
fn hide_kprobes() -> anyhow::Result<()> {
    const SOURCES: &str = "/sys/bus/event_source/devices";
    let entries = fs::read_dir(SOURCES)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?;
    let links = entries.iter().map(|path| Ok((path, fs::read_link(path)?))).collect::<io::Result<Vec<_>>>()?;
    let none: Option<&str> = None;
    mount(Some("tmpfs"), SOURCES, Some("tmpfs"), MsFlags::empty(), none)?;
    for (path, target) in links.into_iter().filter(|(path, _)| !path.ends_with("kprobe")) {
        symlink(target, path)?;
    }
    Ok(())
}

/// Loads and attaches the program that makes the kernel refuse others, for as long as the result lives.
fn refuse(object: &Path) -> anyhow::Result<(Object, Vec<Link>)> {
    let object = ObjectBuilder::default().open_file(object)?.load()?;
    let links = object.progs_mut().map(|program| program.attach()).collect::<Result<_, _>>()?;
    Ok((object, links))
}

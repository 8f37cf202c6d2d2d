//! Tells whether the probe works on the running kernel: loads, attaches, runs a program and checks what is said about
//! it. Prints one line; the exit status is 0 if all is well. Needs root.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};
use std::{fs, io};

use sls_core::{BoxError, Event, EventKind, EventSource, Field, ProcessKey};
use sls_probe::{HostInfo, Probe};

fn main() -> ExitCode {
    let start = Instant::now();
    let (line, code) = match smoke() {
        Ok(what) => (format!("ok: {what}, {} ms", start.elapsed().as_millis()), ExitCode::SUCCESS),
        Err(error) => (format!("failed: {error}"), ExitCode::FAILURE),
    };
    // Nobody may be listening; the status still tells.
    let _ = writeln!(io::stdout(), "kernel {}: {line}", HostInfo::read().kernel_release);
    code
}

fn smoke() -> Result<String, BoxError> {
    let host = HostInfo::read();
    let mut probe = Probe::builder().load()?.attach()?;
    // `sh -c` with more than one command stays; `exec` makes it another program with the same pid.
    let mut child = Command::new("/bin/sh").args(["-c", "exec /bin/sleep 0.2"]).spawn()?;
    let mut seen = Vec::new();
    let mut baseline = 0;
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut status = None;
    while Instant::now() < deadline {
        probe.poll(Duration::from_millis(100), &mut |event| match event.kind {
            EventKind::Baseline => baseline += 1,
            _ if event.process.pid == child.id() => seen.push(event.clone()),
            _ => {}
        })?;
        if status.is_none() {
            status = child.try_wait()?;
        }
        if seen.iter().any(|event| event.kind == EventKind::Exit) {
            break;
        }
    }
    child.wait()?;
    let kinds: Vec<EventKind> = seen.iter().map(|event| event.kind).collect();
    let expected = [EventKind::Fork, EventKind::Exec, EventKind::Exec, EventKind::Exit];
    check("order of events", format!("{kinds:?}"), format!("{expected:?}"))?;
    for event in &seen {
        check("process", event.process, seen[0].process)?;
        check("parent", event.parent.pid, std::process::id())?;
        check("lost", event.lost, 0)?;
        check("cgroup", event.cgroup_id.is_some(), true)?;
        check("mount namespace", event.mount_namespace, host.mount_namespace)?;
        check("creator", event.creator, ProcessKey::default())?;
        check("uid", event.number(Field::Uid), Some(own_uid()?))?;
    }
    let exec = &seen[2];
    let sleep = fs::canonicalize("/bin/sleep")?;
    let file = fs::metadata(&sleep)?;
    text(exec, Field::ProgramName, sleep.to_str().ok_or("path of sleep")?)?;
    text(exec, Field::InvokedName, "/bin/sleep")?;
    text(exec, Field::ProgramArguments, "/bin/sleep 0.2")?;
    text(exec, Field::ProcessName, "sleep")?;
    text(exec, Field::UserName, "root")?;
    text(exec, Field::ProgramDirectory, std::env::current_dir()?.to_str().ok_or("working directory")?)?;
    check("inode", exec.number(Field::ProgramInode), Some(file.ino()))?;
    check("unknown", exec.unknown().is_empty() && exec.truncated().is_empty(), true)?;
    check("exit status", seen[3].exit_status, Some(0))?;
    let processes =
        fs::read_dir("/proc")?.flatten().filter(|entry| entry.file_name().as_encoded_bytes()[0].is_ascii_digit());
    let processes = processes.count();
    check("baseline is complete", baseline + 5 >= processes, true)?;
    let pidfs = exec.pidfd_inode.map_or("no pidfs".to_owned(), |inode| format!("pidfd inode {inode}"));
    Ok(format!("fork, exec, exec, exit, {baseline} running, {pidfs}"))
}

fn text(event: &Event, field: Field, expected: &str) -> Result<(), BoxError> {
    check(field.name(), event.text(field).escape_ascii().to_string(), expected.to_owned())
}

fn check<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Result<(), BoxError> {
    if found == expected { Ok(()) } else { Err(format!("{what}: found {found:?}, expected {expected:?}").into()) }
}

fn own_uid() -> Result<u64, BoxError> {
    Ok(fs::metadata("/proc/self")?.uid().into())
}

//! A sensor as a child of the test, and victims for it. Everything that is started here ends with its owner, whatever
//! happens to the test.

// Each test program uses a part.
#![allow(dead_code, unused_imports)]

#[path = "../../../.ci/lab/for_tests.rs"]
mod for_tests;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};
use serde_json::Value;

pub(crate) use for_tests::{emulated, not_offered, patience, rounds, without};

/// The ordinary user that victims run as.
pub(crate) const NOBODY: u32 = 65534;

/// A directory that goes away again, and that every user may look into.
pub(crate) fn directory() -> tempfile::TempDir {
    let directory = tempfile::Builder::new().prefix("sls-test-").tempdir().unwrap();
    fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    directory
}

/// A copy of `program` under a path that nothing else on this machine runs. Another process makes it: were it open for
/// writing in this one, a fork in another thread could keep it so, and it could not be executed.
pub(crate) fn copy_of(program: &str, to: PathBuf) -> PathBuf {
    let copied = Command::new("cp").arg(program).arg(&to).status().unwrap();
    assert!(copied.success(), "cannot copy {program}");
    to
}

pub(crate) fn write(path: PathBuf, text: &str) -> PathBuf {
    fs::write(&path, text).unwrap();
    path
}

/// A policy of type `program` with one rule that matches.
pub(crate) fn policy(name: &str, condition: &str, actions: &str) -> String {
    format!(
        "{name}:\n  policy: program\n  responseActions: {actions}\n  rules:\n  - match {condition}\n  - default ignore\n"
    )
}

/// A policy that alerts on one program.
pub(crate) fn text_against(name: &str, program: &Path) -> String {
    policy(name, &format!("programName == \"{}\"", program.display()), "[alert]")
}

/// A policy file that alerts on one program.
pub(crate) fn alerting(name: &str, directory: &tempfile::TempDir, program: &Path) -> PathBuf {
    write(directory.path().join("policy.yaml"), &text_against(name, program))
}

/// Puts another file in the place of this one, in one step.
pub(crate) fn replace(file: &Path, text: impl AsRef<[u8]>) {
    let new = file.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, file).unwrap();
}

/// `sls` with these arguments, in an environment without surprises.
pub(crate) fn sls(arguments: &[&str]) -> Command {
    in_clean_environment(Command::new(env!("CARGO_BIN_EXE_sls")), arguments)
}

/// `sls run` with one policy and nothing else.
pub(crate) fn sls_run(policy: &Path) -> Command {
    let mut command = sls(&["run", "--no-content", "--policy"]);
    command.arg(policy);
    command
}

pub(crate) fn in_clean_environment(mut command: Command, arguments: &[&str]) -> Command {
    // A zone that needs no database, and that is four hours behind as the fixture's is.
    command.args(arguments).env_remove("SLS_LOG").env("TZ", "SLS4").stdin(Stdio::null());
    command
}

/// Runs to the end, which must come, and returns what was said.
pub(crate) fn run(mut command: Command) -> Output {
    run_ref(&mut command)
}

pub(crate) fn run_ref(command: &mut Command) -> Output {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let shown = format!("{command:?}");
    let mut child = command.process_group(0).spawn().unwrap();
    let readers =
        [Lines::follow(child.stdout.take().unwrap(), |_| None), Lines::follow(child.stderr.take().unwrap(), |_| None)];
    let mut child = Owned(Some(child));
    let status = child.wait().unwrap_or_else(|| panic!("it did not end: {shown}"));
    let [stdout, stderr] = readers.map(|lines| lines.finish().into_iter().map(|line| line.text + "\n").collect());
    let [stdout, stderr]: [String; 2] = [stdout, stderr];
    Output { status, stdout: stdout.into_bytes(), stderr: stderr.into_bytes() }
}

pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Waits until `condition` gives something.
pub(crate) fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(start.elapsed() < patience(), "waited in vain for {what}");
        sleep(Duration::from_millis(2));
    }
}

/// The state letter of `/proc/PID/stat`; none if there is no such process.
pub(crate) fn state(pid: u32) -> Option<char> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let behind_name = stat.iter().rposition(|byte| *byte == b')')? + 2;
    stat.get(behind_name).map(|state| char::from(*state))
}

/// Whether it is there, and neither dead nor stopped.
pub(crate) fn runs(pid: u32) -> bool {
    matches!(state(pid), Some('R' | 'S' | 'D'))
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    kill_process(to_pid(pid), signal).unwrap_or_else(|error| panic!("cannot signal {pid}: {error}"));
}

fn to_pid(pid: u32) -> Pid {
    Pid::from_raw(pid.try_into().unwrap()).unwrap()
}

/// A sensor that is watching.
pub(crate) struct Sensor {
    child: Owned,
    /// The sensor's own pid, which is not that of the child if something stands in between.
    pub(crate) pid: u32,
    alerts: Option<Lines>,
    log: Lines,
}

impl Sensor {
    /// Starts it with its alerts on a pipe, and waits until it watches.
    pub(crate) fn start(command: Command) -> Self {
        Self::start_with(command, Stdio::piped())
    }

    /// The same with a standard output of one's own.
    pub(crate) fn start_with(mut command: Command, stdout: Stdio) -> Self {
        let mut child = command.stdout(stdout).stderr(Stdio::piped()).process_group(0).spawn().unwrap();
        // The command keeps a copy of the output.
        drop(command);
        let pid = child.id();
        // What the alert says of an action must be so when it comes, so it is looked at in that moment.
        let alerts = child.stdout.take().map(|pipe| Lines::follow(pipe, |alert| state(pid_of(alert)?)));
        let log = Lines::follow(child.stderr.take().unwrap(), |_| None);
        let sensor = Self { child: Owned(Some(child)), pid, alerts, log };
        sensor.wait_for_log("watching");
        sensor
    }

    /// Makes it sleep. What happens meanwhile it sees late.
    pub(crate) fn suspend(&self) {
        signal(self.pid, Signal::STOP);
        wait_for("the sensor to stop", || (state(self.pid) == Some('T')).then_some(()));
    }

    pub(crate) fn resume(&self) {
        signal(self.pid, Signal::CONT);
    }

    /// The first line of standard error with `wanted` in it.
    pub(crate) fn wait_for_log(&self, wanted: &str) -> String {
        self.log.wait(wanted, |line| line.text.contains(wanted)).text
    }

    /// All that it said on standard error.
    pub(crate) fn log(&self) -> String {
        self.log.all().into_iter().map(|line| line.text + "\n").collect()
    }

    /// Closes the pipe that it writes its log to.
    pub(crate) fn close_log(&mut self) {
        self.log.stop_following();
    }

    /// The first alert about this process.
    pub(crate) fn alert(&self, pid: u32) -> Alert {
        self.alerts().wait(&format!("alert about {pid}"), |alert| pid_of(alert) == Some(pid))
    }

    /// The first alert of which this is true.
    pub(crate) fn alert_where(&self, what: &str, wanted: impl Fn(&Alert) -> bool) -> Alert {
        self.alerts().wait(what, wanted)
    }

    /// All alerts so far.
    pub(crate) fn alerts_now(&self) -> Vec<Alert> {
        self.alerts().all()
    }

    fn alerts(&self) -> &Lines {
        self.alerts.as_ref().expect("the alerts go elsewhere")
    }

    /// Ends it with SIGTERM.
    pub(crate) fn stop(self) -> Ended {
        signal(self.pid, Signal::TERM);
        self.wait()
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> Ended {
        let status = self.child.wait().unwrap_or_else(|| panic!("the sensor did not end:\n{}", self.log()));
        let log = self.log.finish().into_iter().map(|line| line.text + "\n").collect();
        let alerts = self.alerts.map(Lines::finish).unwrap_or_default();
        Ended { status, alerts, log }
    }
}

/// What a sensor leaves.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) alerts: Vec<Alert>,
    pub(crate) log: String,
}

impl Ended {
    /// The alerts about this process.
    pub(crate) fn about(&self, pid: u32) -> Vec<&Alert> {
        self.alerts.iter().filter(|alert| pid_of(alert) == Some(pid)).collect()
    }

    pub(crate) fn assert_clean(&self) {
        assert_eq!(self.status.code(), Some(0), "{}", self.log);
        let stopped = self.log.lines().last().unwrap_or_default();
        assert!(stopped.contains("stopped") && stopped.contains(" lost=0 "), "{}", self.log);
    }
}

/// A line that came, an alert in most cases.
#[derive(Clone, Debug)]
pub(crate) struct Alert {
    /// As it came.
    pub(crate) text: String,
    /// The same as JSON; null if it is none.
    pub(crate) json: Value,
    /// The state that the process was in when the line came.
    pub(crate) state: Option<char>,
}

impl Alert {
    pub(crate) fn policy(&self) -> &str {
        self.json["strategy_name"].as_str().unwrap()
    }

    /// The notifications after the first, which are about actions.
    pub(crate) fn actions(&self) -> &[Value] {
        &self.json["notifications"].as_array().unwrap()[1..]
    }

    /// `action_type`, `action_result` and its details of the only action.
    pub(crate) fn outcome(&self) -> [&str; 3] {
        let [action] = self.actions() else { panic!("not one action: {}", self.text) };
        ["action_type", "action_result", "action_result_details"]
            .map(|key| action["message_fields"][key].as_str().unwrap_or_default())
    }

    /// The message of the only action.
    pub(crate) fn message(&self) -> &str {
        let [action] = self.actions() else { panic!("not one action: {}", self.text) };
        action["message"].as_str().unwrap()
    }
}

fn pid_of(alert: &Alert) -> Option<u32> {
    alert.json["process_info"]["pid"].as_u64()?.try_into().ok()
}

/// A program that is to be found, and perhaps killed.
pub(crate) struct Victim(Owned);

impl Victim {
    pub(crate) fn spawn(command: &mut Command) -> Self {
        // A group of its own, as everything that it starts must end with it.
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).spawn();
        Self(Owned(Some(child.unwrap_or_else(|error| panic!("{command:?}: {error}")))))
    }

    /// With the outputs that the command has.
    pub(crate) fn spawn_with_output(command: &mut Command) -> Self {
        Self(Owned(Some(command.stdin(Stdio::null()).process_group(0).spawn().unwrap())))
    }

    pub(crate) fn as_nobody(command: &mut Command) -> Self {
        Self::spawn(command.uid(NOBODY).gid(NOBODY))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// Waits for its end and reaps it.
    pub(crate) fn reap(mut self) -> ExitStatus {
        let pid = self.pid();
        self.0.wait().unwrap_or_else(|| panic!("the victim {pid} lives on in state {:?}", state(pid)))
    }

    /// Waits for its end, and leaves it unreaped.
    pub(crate) fn wait_until_dead(&self) {
        wait_for("the end of the victim", || (state(self.pid()) == Some('Z')).then_some(()));
    }

    /// Runs to the end, and returns the pid that it had.
    pub(crate) fn run(command: &mut Command) -> u32 {
        let victim = Self::as_nobody(command);
        let pid = victim.pid();
        let status = victim.reap();
        assert!(status.success(), "{command:?}: {status}");
        pid
    }
}

/// A child that leads a process group. Whatever is left of the group is killed before the child is reaped: until then
/// both numbers are its own.
struct Owned(Option<Child>);

impl Owned {
    fn pid(&self) -> u32 {
        self.0.as_ref().expect("reaped already").id()
    }

    /// None if it does not end in time.
    fn wait(&mut self) -> Option<ExitStatus> {
        let pid = to_pid(self.pid());
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        let start = Instant::now();
        while waitid(WaitId::Pid(pid), options).unwrap().is_none() {
            if start.elapsed() > patience() {
                return None;
            }
            sleep(Duration::from_millis(1));
        }
        self.end()
    }

    fn end(&mut self) -> Option<ExitStatus> {
        let mut child = self.0.take()?;
        let _ = kill_process_group(to_pid(child.id()), Signal::KILL);
        child.wait().ok()
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.end();
    }
}

/// The lines of a pipe, as they come.
struct Lines {
    shared: Arc<(Mutex<State>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    lines: Vec<Alert>,
    ended: bool,
    unwanted: bool,
}

impl Lines {
    fn follow(
        pipe: impl std::io::Read + Send + 'static,
        look: impl Fn(&Alert) -> Option<char> + Send + 'static,
    ) -> Self {
        let shared = Arc::<(Mutex<State>, Condvar)>::default();
        let writer = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut bytes = Vec::new();
            // Bytes, for a line that is no text must not end the reading.
            while pipe.read_until(b'\n', &mut bytes).is_ok_and(|length| length > 0) {
                let text = String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned();
                bytes.clear();
                let json = serde_json::from_str(&text).unwrap_or_default();
                let mut line = Alert { text, json, state: None };
                line.state = look(&line);
                let mut state = lock(&writer.0);
                state.lines.push(line);
                writer.1.notify_all();
                if state.unwanted {
                    break;
                }
            }
            lock(&writer.0).ended = true;
            writer.1.notify_all();
        });
        Self { shared, thread: Some(thread) }
    }

    fn all(&self) -> Vec<Alert> {
        lock(&self.shared.0).lines.clone()
    }

    fn wait(&self, what: &str, wanted: impl Fn(&Alert) -> bool) -> Alert {
        let (state, changed) = &*self.shared;
        let start = Instant::now();
        let mut state = lock(state);
        loop {
            if let Some(line) = state.lines.iter().find(|line| wanted(line)) {
                return line.clone();
            }
            let left = patience().saturating_sub(start.elapsed());
            if state.ended || left.is_zero() {
                let lines: String = state.lines.iter().map(|line| format!("{}\n", line.text)).collect();
                drop(state);
                panic!("waited in vain for {what}; what came was:\n{lines}");
            }
            state = changed.wait_timeout(state, left).unwrap().0;
        }
    }

    /// Reads one more line at most, then closes the pipe.
    fn stop_following(&mut self) {
        lock(&self.shared.0).unwanted = true;
    }

    /// Everything up to the end of the pipe.
    fn finish(mut self) -> Vec<Alert> {
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        self.all()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

//! What these tests share: a file system of their own, so that nothing else on the machine waits, and a process that is no child
//! of the sensor, for children of the sensor may do everything.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use sls_core::Event;
use sls_probe::{
    Decider, FailMode, Fanotify, FanotifyBuilder, FanotifyWatch, HeldOperation, Screening, Verdict, WatchScope,
};

use crate::common::{actor, not_offered, role};

/// What the test binary is called with to play a part.
const ACTOR: &str = "support::fanotify_actor";

/// A file system that is mounted for one test.
pub(crate) struct Room {
    dir: tempfile::TempDir,
}

impl Room {
    pub(crate) fn new() -> Self {
        // Without anything that means something in a regular expression: it would hold more.
        let dir = tempfile::Builder::new().prefix("sls-room-").tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        mount_tmpfs(dir.path());
        Self { dir }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().canonicalize().unwrap()
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// A program that needs no other file, and does what it is called.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        let path = self.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(busybox(), &path).unwrap();
        path
    }

    /// One that is loaded by `ld.so`.
    pub(crate) fn linked_program(&self, name: &str) -> PathBuf {
        let path = self.join(name);
        fs::copy("/bin/true", &path).unwrap();
        path
    }

    pub(crate) fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    pub(crate) fn watch(&self) -> [FanotifyWatch; 1] {
        [FanotifyWatch::exec(WatchScope::Under(self.path()))]
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = umount2(self.dir.path(), MntFlags::MNT_DETACH);
    }
}

pub(crate) fn mount_tmpfs(path: &Path) {
    mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
}

pub(crate) fn busybox() -> &'static str {
    ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| fs::metadata(path).is_ok()).expect("busybox")
}

/// Whether the kernel offers permission events. Says that it does not if so.
pub(crate) fn offered() -> bool {
    let offered = Fanotify::offered();
    if let Err(error) = &offered {
        assert!(matches!(error, sls_probe::FanotifyError::NotOffered), "{error}");
        not_offered("fanotify-permission", "CONFIG_FANOTIFY_ACCESS_PERMISSIONS");
    }
    offered.is_ok()
}

/// To be decided, with a deadline that no load of the machine makes too short.
pub(crate) fn ask(mode: FailMode) -> Screening {
    Screening::Ask { deadline: sls_probe::MAX_DECISION_DEADLINE, mode }
}

/// The same, with the deadline that there is by default.
pub(crate) fn ask_soon(mode: FailMode) -> Screening {
    Screening::Ask { deadline: sls_probe::DEFAULT_DECISION_DEADLINE, mode }
}

/// Decides at once by a function of the event.
pub(crate) struct Rule<F>(pub(crate) F);

impl<F: FnMut(&Event) -> Verdict + Send> Decider for Rule<F> {
    fn screen(&mut self, _: &Event) -> Screening {
        ask(FailMode::Open)
    }

    fn decide(&mut self, held: HeldOperation) {
        let verdict = (self.0)(held.event());
        held.answer(verdict);
    }
}

pub(crate) fn deny_if(denied: impl Fn(&Event) -> bool + Send + 'static) -> impl Decider {
    Rule(move |event: &Event| if denied(event) { Verdict::Deny } else { Verdict::Allow })
}

/// With a deadline that no load of the machine makes too short.
pub(crate) fn patient() -> FanotifyBuilder {
    Fanotify::builder().deadline(sls_probe::MAX_DECISION_DEADLINE)
}

/// A process that is no descendant of this one, and runs what it is told to.
pub(crate) struct Launcher {
    pipes: Mutex<(Option<ChildStdin>, BufReader<ChildStdout>)>,
}

impl Drop for Launcher {
    fn drop(&mut self) {
        let (stdin, stdout) = self.pipes.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        drop(stdin.take());
        // Until it has ended.
        let _ = std::io::copy(stdout, &mut std::io::sink());
    }
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ran {
    Exited(i32),
    Killed,
    /// The program did not start.
    Refused(i32),
}

/// `EPERM`, which is what a blocked operation fails with.
pub(crate) const BLOCKED: Ran = Ran::Refused(libc::EPERM);
pub(crate) const FINE: Ran = Ran::Exited(0);

impl Launcher {
    pub(crate) fn start() -> Self {
        let mut parent = part("launch").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (stdin, stdout) = (parent.stdin.take().unwrap(), parent.stdout.take().unwrap());
        // It ends at once, and leaves its child to init.
        assert!(parent.wait().unwrap().success());
        let mut stdout = BufReader::new(stdout);
        while line(&mut stdout).trim() != "launching" {}
        Self { pipes: Mutex::new((Some(stdin), stdout)) }
    }

    /// Runs a program to its end.
    pub(crate) fn run(&self, program: impl AsRef<Path>, arguments: &[&str]) -> Ran {
        self.ask("run", program, arguments)
    }

    /// Runs a shell script.
    pub(crate) fn shell(&self, script: &str) -> Ran {
        self.run("/bin/sh", &["-c", script])
    }

    /// Has this binary play a part.
    pub(crate) fn play(&self, part: &str) -> Ran {
        self.ask("play", part, &[])
    }

    /// Runs a program so often, and tells how often it was refused.
    pub(crate) fn run_often(&self, times: usize, program: impl AsRef<Path>, arguments: &[&str]) -> usize {
        let times = times.to_string();
        let arguments: Vec<&str> = std::iter::once(&times[..]).chain(arguments.iter().copied()).collect();
        match self.ask("often", program, &arguments) {
            Ran::Exited(refused) => refused as usize,
            other => panic!("{other:?}"),
        }
    }

    fn ask(&self, what: &str, program: impl AsRef<Path>, arguments: &[&str]) -> Ran {
        let mut pipes = self.pipes.lock().unwrap();
        let (stdin, stdout) = &mut *pipes;
        let words: Vec<&str> =
            [what, program.as_ref().to_str().unwrap()].into_iter().chain(arguments.iter().copied()).collect();
        writeln!(stdin.as_mut().unwrap(), "{}", words.join("\t")).unwrap();
        let answer = line(stdout);
        let (kind, number) = answer.trim().split_once(' ').unwrap_or_else(|| panic!("{answer:?}"));
        match kind {
            "exited" => Ran::Exited(number.parse().unwrap()),
            "killed" => Ran::Killed,
            _ => Ran::Refused(number.parse().unwrap()),
        }
    }
}

fn line(from: &mut impl BufRead) -> String {
    let mut line = String::new();
    assert!(from.read_line(&mut line).unwrap() > 0, "the other end is gone");
    line
}

/// This binary in another part.
pub(crate) fn part(part: &str) -> Command {
    actor(ACTOR, part)
}

pub(crate) struct Killed(pub(crate) Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn fanotify_actor() {
    let Some(role) = role() else { return };
    let (part, rest) = role.split_once(' ').unwrap_or((&role, ""));
    match part {
        "launch" => {
            self::part("launcher").stdout(Stdio::inherit()).spawn().unwrap();
            std::process::exit(0);
        }
        "launcher" => launcher(),
        "hold" => crate::survival::hold(rest),
        _ => crate::bypass::play(part, rest),
    }
}

fn launcher() -> ! {
    let say = |text: String| {
        let mut out = std::io::stdout();
        let _ = writeln!(out, "{text}").and_then(|()| out.flush());
    };
    // The harness has begun a line.
    say("\nlaunching".to_owned());
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split('\t').collect();
        say(match words[0] {
            "often" => {
                let times: usize = words[2].parse().unwrap();
                let refused =
                    (0..times).filter(|_| run(Command::new(words[1]).args(&words[3..])).starts_with("refused 1"));
                format!("exited {}", refused.count())
            }
            "play" => run(&mut part(words[1])),
            _ => run(Command::new(words[1]).args(&words[2..])),
        });
    }
    std::process::exit(0);
}

fn run(command: &mut Command) -> String {
    match command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status() {
        Ok(status) => status.code().map_or("killed 0".to_owned(), |code| format!("exited {code}")),
        Err(error) => format!("refused {}", error.raw_os_error().unwrap_or(0)),
    }
}

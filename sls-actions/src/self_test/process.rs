//! A child that does nothing, for actions on processes.

use std::ffi::OsString;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use rustix::thread::{CapabilitySet, capabilities};
use sls_core::{Action, Event, EventKind, Field, ProcessKey, Target};

use super::{Sacrifice, SelfTestOutcome, cannot, untested};
use crate::identity::process_target;
use crate::stat::Stat;

/// For how long the default program waits. It ends by itself if the sensor is killed in the middle of a test.
const LIFE_SECONDS: &str = "20";

/// Pause between two looks at a child.
const PAUSE: Duration = Duration::from_millis(1);

/// `sleep` or busybox, where they usually are.
pub(super) fn default_program() -> Option<(PathBuf, Vec<OsString>)> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories: Vec<_> = std::env::split_paths(&path)
        .chain(["/bin", "/usr/bin"].map(PathBuf::from))
        .filter(|path| path.is_absolute())
        .collect();
    let find = |name: &str| directories.iter().map(|directory| directory.join(name)).find(|file| file.is_file());
    match find("sleep") {
        Some(sleep) => Some((sleep, vec![LIFE_SECONDS.into()])),
        None => Some((find("busybox")?, vec!["sleep".into(), LIFE_SECONDS.into()])),
    }
}

pub(super) struct SacrificialProcess {
    child: Child,
    program: PathBuf,
    key: ProcessKey,
    target: Target,
    timeout: Duration,
}

impl SacrificialProcess {
    /// Starts it. When this returns the program runs: `spawn` waits for its execution.
    pub(super) fn spawn(program: &Path, arguments: &[OsString], timeout: Duration) -> Result<Self, SelfTestOutcome> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
        // A group of its own: if the sensor ends while the child is stopped, the kernel continues it and hangs it up.
        command.process_group(0);
        let child = command.spawn().map_err(|error| cannot("start", program, &error))?;
        // From here on it is ended, whatever goes wrong.
        let mut sacrifice = Self {
            key: ProcessKey { pid: child.id(), start: 0 },
            child,
            program: program.to_owned(),
            target: Target::Unidentified,
            timeout,
        };
        let pid = sacrifice.child.id();
        sacrifice.target = process_target(pid)
            .map_err(|error| untested(format!("cannot identify a child: {}", crate::errno::io_text(&error))))?;
        if let Target::Process { key, .. } = sacrifice.target {
            sacrifice.key = key;
        }
        Ok(sacrifice)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether its end comes within the time-out, and which.
    pub(super) fn end(&mut self) -> Option<ExitStatus> {
        let deadline = Instant::now() + self.timeout;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                // Whoever embeds this reaps children that are not its own: it has ended, no more is known.
                Err(_) => return None,
                Ok(None) if Instant::now() >= deadline => return None,
                Ok(None) => std::thread::sleep(PAUSE),
            }
        }
    }

    /// Why it does not count as killed.
    pub(super) fn not_killed(&mut self) -> Option<String> {
        match self.end() {
            Some(status) if status.signal() == Some(Signal::KILL.as_raw()) => None,
            Some(status) => Some(format!("the child ended otherwise: {status}")),
            None if Stat::of_process(self.pid()).is_err() => None,
            None => Some("the child lives".to_owned()),
        }
    }
}

impl Sacrifice for SacrificialProcess {
    fn target(&self) -> Target {
        self.target
    }

    fn event(&self) -> Event {
        let mut event = Event::new(EventKind::Exec);
        event.process = self.key;
        event.parent.pid = std::process::id();
        event.set_text(Field::ProgramName, std::os::unix::ffi::OsStrExt::as_bytes(self.program.as_os_str()));
        if let Target::Process { pidfd_inode, .. } = self.target {
            event.pidfd_inode = pidfd_inode;
        }
        event
    }

    fn missing_right(&self, _: Action) -> Option<String> {
        // The child has the sensor's own user, whose processes may be signalled without it.
        let held = capabilities(None).is_ok_and(|held| held.effective.contains(CapabilitySet::KILL));
        (!held).then(|| "processes of other users may not be signalled: CAP_KILL is missing".to_owned())
    }

    fn unharmed(&mut self, action: Action) -> Option<String> {
        match action {
            Action::Stop => match Stat::of_process(self.pid()) {
                Ok(stat) if stat.is_halted() => None,
                _ => Some("the child runs".to_owned()),
            },
            Action::Kill | Action::KillTree => self.not_killed(),
            // What an embedder's action does is known to its responder alone.
            _ => None,
        }
    }
}

impl Drop for SacrificialProcess {
    fn drop(&mut self) {
        // It fails if the child is gone, which is what it is to be.
        let _ = self.child.kill();
        self.end();
    }
}

//! A cgroup with a child in it, for actions on containers.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use sls_core::{Action, Event, Target};

use super::process::SacrificialProcess;
use super::{Sacrifice, SelfTestOutcome, cannot};
use crate::container::cgroup::{path_of, unified_mount_point};

/// Pause between two looks at a cgroup.
const PAUSE: Duration = Duration::from_millis(1);

/// Tells cgroups that one process makes at the same time apart.
static COUNT: AtomicU32 = AtomicU32::new(0);

pub(super) struct SacrificialContainer {
    // The first to be dropped: a cgroup with a process in it cannot be removed.
    process: SacrificialProcess,
    cgroup: SacrificialCgroup,
}

impl SacrificialContainer {
    /// Makes a cgroup and moves `process` into it.
    pub(super) fn new(process: SacrificialProcess, timeout: Duration) -> Result<Self, SelfTestOutcome> {
        let cgroup = SacrificialCgroup::new(timeout)?;
        let container = Self { process, cgroup };
        let procs = container.cgroup.path.join("cgroup.procs");
        fs::write(&procs, container.process.pid().to_string())
            .map_err(|error| cannot("move a child by", &procs, &error))?;
        Ok(container)
    }
}

impl Sacrifice for SacrificialContainer {
    fn target(&self) -> Target {
        Target::Container { cgroup_id: self.cgroup.id }
    }

    fn event(&self) -> Event {
        let mut event = self.process.event();
        event.cgroup_id = Some(self.cgroup.id);
        event.container_cgroup_id = Some(self.cgroup.id);
        event
    }

    fn missing_right(&self, action: Action) -> Option<String> {
        // Before Linux 5.14 each process is signalled.
        let signals = action == Action::KillContainer && !self.cgroup.path.join("cgroup.kill").exists();
        if signals { self.process.missing_right(action) } else { None }
    }

    fn unharmed(&mut self, action: Action) -> Option<String> {
        match action {
            Action::PauseContainer => (!self.cgroup.says("frozen 1")).then(|| "the cgroup is not frozen".to_owned()),
            Action::KillContainer => self.process.not_killed(),
            _ => None,
        }
    }
}

struct SacrificialCgroup {
    path: PathBuf,
    id: u64,
    timeout: Duration,
}

impl SacrificialCgroup {
    fn new(timeout: Duration) -> Result<Self, SelfTestOutcome> {
        let not_mounted = || SelfTestOutcome::Inert { reason: "the cgroup v2 hierarchy is not mounted".to_owned() };
        let root = unified_mount_point().ok_or_else(not_mounted)?;
        let name = format!("sls-self-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let below = |parent: PathBuf| {
            let path = parent.join(&name);
            fs::create_dir(&path).map(|()| path).map_err(|error| (parent, error))
        };
        // Below the sensor's own, which is its to use; in a cgroup namespace that path may lead nowhere.
        let own = own_cgroup().map(|own| root.join(own)).filter(|own| own.is_dir());
        let made = match own {
            Some(own) => below(own).or_else(|_| below(root)),
            None => below(root),
        };
        let path = match made {
            Ok(path) => path,
            // What forbids this forbids the action: a container's cgroup is written to as well.
            Err((parent, error)) if is_forbidden(&error) => {
                let reason = format!("{} cannot be written to: {}", parent.display(), crate::errno::io_text(&error));
                return Err(SelfTestOutcome::Inert { reason });
            }
            Err((parent, error)) => return Err(cannot("make a cgroup in", &parent, &error)),
        };
        let mut cgroup = Self { path, id: 0, timeout };
        cgroup.id = fs::metadata(&cgroup.path).map_err(|error| cannot("look at", &cgroup.path, &error))?.ino();
        Ok(cgroup)
    }

    /// Whether `cgroup.events` has this line.
    fn says(&self, line: &str) -> bool {
        fs::read_to_string(self.path.join("cgroup.events")).is_ok_and(|events| events.lines().any(|says| says == line))
    }
}

impl Drop for SacrificialCgroup {
    fn drop(&mut self) {
        // Its processes have been killed and reaped; the kernel may take a moment to see that it is empty.
        let deadline = Instant::now() + self.timeout;
        while let Err(error) = fs::remove_dir(&self.path) {
            if error.kind() == io::ErrorKind::NotFound || Instant::now() >= deadline {
                return;
            }
            std::thread::sleep(PAUSE);
        }
    }
}

fn is_forbidden(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

/// The sensor's own cgroup, relative to the root.
fn own_cgroup() -> Option<PathBuf> {
    let own = path_of(std::process::id(), <[u8]>::is_empty)?;
    let path = Path::new(OsStr::from_bytes(own.strip_prefix(b"/")?));
    (!path.components().any(|part| part.as_os_str() == "..")).then(|| path.to_owned())
}

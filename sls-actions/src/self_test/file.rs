//! A file, for actions on files.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, capabilities};
use sls_core::{Action, Event, EventKind, Field, Target};
use uuid::Uuid;

use super::{Sacrifice, SelfTestOutcome, cannot};
use crate::file::QuarantineStore;
use crate::identity::process_key;

/// Owner of the file, where the sensor may give files away: a user who owns nothing else.
const NOBODY: u32 = 65_534;

const NAME: &CStr = c"sacrifice";

/// Tells directories that one process makes at the same time apart.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// A file that nobody may read, in a directory that nobody may write to and from which only its owner may take it. Both
/// belong to another user where that can be, as the files do that matter.
pub(super) struct SacrificialFile {
    directory_path: PathBuf,
    /// The other user may put anything in the place of its directory, so that it is never looked up again.
    directory: OwnedFd,
    /// Where it may be instead, and under which id.
    store: Option<Arc<QuarantineStore>>,
    id: Uuid,
    device: u64,
    inode: u64,
}

impl SacrificialFile {
    pub(super) fn new(parent: &Path, store: Option<Arc<QuarantineStore>>) -> Result<Self, SelfTestOutcome> {
        let name = format!(".sls-self-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        // One that no alert has, nor another test.
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let id = Uuid::new_v5(&Uuid::nil(), format!("{name} {}", time.as_nanos()).as_bytes());
        let path = parent.join(name);
        let failed = |errno: Errno| cannot("make a file in", parent, &io::Error::from(errno));
        rustix::fs::mkdir(&path, Mode::RWXU).map_err(failed)?;
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::open(&path, flags, Mode::empty()).map_err(|errno| {
            // Nothing is in it yet.
            let _ = rustix::fs::rmdir(&path);
            failed(errno)
        })?;
        // From here on it is removed, whatever goes wrong.
        let mut sacrifice = Self { directory_path: path, directory, store, id, device: 0, inode: 0 };
        sacrifice.fill().map_err(failed)?;
        Ok(sacrifice)
    }

    fn fill(&mut self) -> Result<(), Errno> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.directory, NAME, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&file)?;
        (self.device, self.inode) = (stat.st_dev, stat.st_ino);
        // The sticky bit of /tmp.
        rustix::fs::fchmod(&self.directory, Mode::RUSR | Mode::XUSR | Mode::SVTX)?;
        if holds(CapabilitySet::CHOWN) {
            let (user, group) = (Some(Uid::from_raw(NOBODY)), Some(Gid::from_raw(NOBODY)));
            rustix::fs::fchown(&file, user, group)?;
            rustix::fs::fchown(&self.directory, user, group)?;
        }
        Ok(())
    }
}

impl Sacrifice for SacrificialFile {
    fn target(&self) -> Target {
        Target::File { device: self.device, inode: self.inode }
    }

    fn alert_id(&self) -> Uuid {
        self.id
    }

    fn event(&self) -> Event {
        let mut event = Event::new(EventKind::File);
        event.process = process_key(std::process::id()).unwrap_or_default();
        let path = self.directory_path.join(std::ffi::OsStr::from_bytes(NAME.to_bytes()));
        event.set_text(Field::FilePath, path.as_os_str().as_bytes());
        event.set_number(Field::FileDevice, self.device).set_number(Field::FileInode, self.inode);
        event
    }

    fn missing_right(&self, action: Action) -> Option<String> {
        // Without the first the file is the sensor's own, which tells nothing of those of others.
        let needed: &[(CapabilitySet, &str)] = match action {
            Action::Quarantine => &[(CapabilitySet::CHOWN, "CAP_CHOWN"), (CapabilitySet::FOWNER, "CAP_FOWNER")],
            _ => &[(CapabilitySet::FOWNER, "CAP_FOWNER")],
        };
        let (_, name) = needed.iter().find(|(capability, _)| !holds(*capability))?;
        Some(format!("files of other users may not be taken: {name} is missing"))
    }

    fn unharmed(&mut self, action: Action) -> Option<String> {
        let there = matches!(action, Action::Quarantine | Action::Delete)
            && rustix::fs::statat(&self.directory, NAME, AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|found| found.st_ino == self.inode);
        there.then(|| "the file is where it was".to_owned())
    }
}

impl Drop for SacrificialFile {
    fn drop(&mut self) {
        // Its own again, so that it may be written to. What fails leaves an empty directory, and no way on.
        let _ = rustix::fs::fchown(&self.directory, Some(rustix::process::geteuid()), Some(rustix::process::getegid()));
        let _ = rustix::fs::fchmod(&self.directory, Mode::RWXU);
        let _ = rustix::fs::unlinkat(&self.directory, NAME, AtFlags::empty());
        let _ = rustix::fs::rmdir(&self.directory_path);
        if let Some(store) = &self.store {
            // It fails if it did not get there.
            let _ = store.purge(self.id);
        }
    }
}

fn holds(capability: CapabilitySet) -> bool {
    capabilities(None).is_ok_and(|held| held.effective.contains(capability))
}

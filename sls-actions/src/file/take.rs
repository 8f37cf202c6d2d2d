//! `quarantine`, step by step. Each step leaves the store so that [`QuarantineStore::recover`] can tell what was done.

use std::ffi::OsStr;
use std::fs::File;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use sls_core::ActionResult;
use uuid::Uuid;

use super::copy;
use super::find::Found;
use super::identity::{self, FileId};
use super::manifest::{QuarantineEntry, QuarantineState};
use super::name;
use super::remove::{self, NotRemoved};
use super::store::{Lock, QuarantineError, QuarantineStore, io_error, sync_directory};
use crate::errno;

/// How often a file that changes while it is copied is copied anew.
const MAX_COPIES: usize = 3;

/// Of what a file is taken away.
#[derive(Debug)]
pub(super) struct Cause {
    pub(super) alert_uuid: Uuid,
    pub(super) policy: String,
}

/// A file that is on its way into the store.
#[derive(Debug)]
pub(super) struct Taking {
    store: Arc<QuarantineStore>,
    found: Found,
    entry: QuarantineEntry,
    lock: Lock,
    max_copy: u64,
}

/// Why a file was not taken away.
pub(super) enum NotTaken {
    /// Its name was given to another file between the look and the move; another look may find it.
    Replaced(ActionResult),
    /// For good.
    Final(ActionResult),
}

impl From<QuarantineError> for NotTaken {
    fn from(error: QuarantineError) -> Self {
        Self::Final(ActionResult::not_successful(error.to_string()))
    }
}

/// Moves the file into the store if it is on the same file system; else everything is left to [`Taking::finish`].
pub(super) fn begin(
    store: &Arc<QuarantineStore>,
    found: Found,
    cause: &Cause,
    max_copy: u64,
) -> Result<Taking, NotTaken> {
    store.reserve(&found.stat)?;
    let id = store.free_id(cause.alert_uuid);
    let lock = store.lock(id)?;
    let mut entry = new_entry(id, QuarantineState::Moving, &found, cause);
    store.write_manifest(&entry, false)?;
    store.steps.done("manifest");
    let moved = rustix::fs::renameat_with(
        &found.directory,
        &found.name,
        &store.directory,
        &*entry.entry,
        RenameFlags::NOREPLACE,
    );
    store.steps.done("renamed");
    match moved {
        Ok(()) if FileId::at(&store.directory, &*entry.entry) == Ok(found.id) => {}
        Ok(()) => {
            let result = give_back(store, &mut entry, &found);
            lock.release(store);
            return Err(NotTaken::Replaced(result));
        }
        Err(Errno::XDEV) => {
            if entry.size > max_copy {
                let _ = store.forget(&entry);
                lock.release(store);
                let path = name::shown(&found.path);
                let details = format!("unable to copy {path} to the store: it has more than {max_copy} bytes");
                return Err(NotTaken::Final(ActionResult::not_successful(details)));
            }
            entry.state = QuarantineState::Copying;
            store.write_manifest(&entry, false)?;
            store.steps.done("copying");
        }
        Err(errno) => {
            let _ = store.forget(&entry);
            lock.release(store);
            return Err(match errno {
                Errno::NOENT => NotTaken::Replaced(gone(&found)),
                _ => NotTaken::Final(failed("quarantine", &found, errno)),
            });
        }
    }
    Ok(Taking { store: Arc::clone(store), found, entry, lock, max_copy })
}

/// Another file came into the store: back with it. If its directory is gone it stays, as an entry of its own.
fn give_back(store: &QuarantineStore, entry: &mut QuarantineEntry, found: &Found) -> ActionResult {
    let path = name::shown(&found.path);
    let (from, to) = (&store.directory, &found.directory);
    let back = remove::put_back(from, OsStr::new(&entry.entry), to, &found.name, &entry.aside_name());
    store.steps.done("given back");
    let note = match back {
        Ok(other) => {
            let _ = store.forget(entry);
            other.map_or_else(String::new, |other| format!(", which had to be moved to {other} beside it"))
        }
        Err(errno) => {
            if let Ok(stat) = store.stat(&entry.entry) {
                let cause = Cause { alert_uuid: entry.alert_uuid, policy: entry.policy.clone() };
                *entry = QuarantineEntry {
                    alert_uuid: cause.alert_uuid,
                    policy: cause.policy,
                    path_on_host: entry.path_on_host,
                    entry: entry.entry.clone(),
                    ..QuarantineEntry::new(entry.id, QuarantineState::Complete, &found.path, &stat)
                };
                let _ = store.write_manifest(entry, true);
            }
            format!(", which cannot be put back ({}) and is in the store as {}", errno::text(errno), entry.id)
        }
    };
    ActionResult::Refused { details: format!("file-identity: {path} now names another file{note}") }
}

impl Taking {
    /// Does what is slow, and says what came of it all.
    pub(super) fn finish(mut self) -> ActionResult {
        let result = match self.entry.state {
            QuarantineState::Moving => self.finish_moved(),
            _ => self.copy(),
        };
        let result = result.unwrap_or_else(|error| {
            let path = name::shown(&self.found.path);
            ActionResult::not_successful(match self.entry.state {
                QuarantineState::Copying => format!("unable to quarantine {path}: {error}"),
                _ => format!("{path} is in the store as {}, but: {error}", self.entry.id),
            })
        });
        self.lock.release(&self.store);
        result
    }

    fn finish_moved(&mut self) -> Result<ActionResult, QuarantineError> {
        self.store.write_manifest(&self.entry, true)?;
        sync_directory(&self.found.directory).map_err(io_error("bring the move to the disk"))?;
        self.store.steps.done("synced");
        complete_moved(&self.store, &mut self.entry, self.max_copy)?;
        self.report()
    }

    fn copy(&mut self) -> Result<ActionResult, QuarantineError> {
        let done = self.copy_content();
        if let Err(error) = done {
            let _ = self.store.forget(&self.entry);
            return Err(error);
        }
        self.entry.state = QuarantineState::Removing;
        let placed = self.store.write_manifest(&self.entry, true).and_then(|()| {
            self.store.steps.done("removing");
            let store = &self.store.directory;
            rustix::fs::renameat(store, self.entry.partial_name(), store, &*self.entry.entry)
                .and_then(|()| rustix::fs::fsync(store))
                .map_err(io_error("name the copy"))
        });
        if let Err(error) = placed {
            self.entry.state = QuarantineState::Copying;
            let _ = self.store.forget(&self.entry);
            return Err(error);
        }
        self.store.steps.done("copied");
        let aside = self.entry.aside_name();
        let removed = remove::remove(&self.found.directory, &self.found.name, self.found.id, &aside, &self.store.steps);
        if let Err(not_removed) = removed {
            // The original is where it was, or wherever others took it: a copy would claim what has not happened.
            self.store.forget(&self.entry)?;
            return Ok(refused("quarantine", &self.found, not_removed));
        }
        let _ = sync_directory(&self.found.directory);
        self.entry.state = QuarantineState::Complete;
        self.store.write_manifest(&self.entry, true)?;
        self.store.steps.done("complete");
        self.report()
    }

    fn copy_content(&mut self) -> Result<(), QuarantineError> {
        let what = "copy the file";
        let mut from = identity::reopen(&self.found.file).map_err(io_error(what))?;
        self.entry.xattrs = copy::xattrs(&from).map_err(io_error("read its extended attributes"))?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let to = rustix::fs::openat(&self.store.directory, self.entry.partial_name(), flags, Mode::RUSR);
        let mut to = File::from(to.map_err(io_error(what))?);
        self.store.steps.done("partial");
        for _ in 0..MAX_COPIES {
            let read = copy::copy(&mut from, &mut to, self.max_copy).map_err(io_error(what))?;
            let Some(read) = read else {
                let limit = format!("it has more than {} bytes", self.max_copy);
                return Err(io_error(what)(std::io::Error::other(limit)));
            };
            to.sync_all().map_err(io_error(what))?;
            let limit = self.max_copy;
            let verified = [&mut to, &mut from]
                .into_iter()
                .all(|file| matches!(copy::sha256(file, limit), Ok(Some(hash)) if hash == read));
            if verified {
                self.entry.size = to.metadata().map_err(io_error(what))?.len();
                self.entry.sha256 = Some(read);
                self.store.steps.done("verified");
                return Ok(());
            }
        }
        Err(io_error(what)(std::io::Error::other("it changes all the time")))
    }

    /// The file is in the store; whether it is nowhere else.
    fn report(&self) -> Result<ActionResult, QuarantineError> {
        let links = rustix::fs::fstat(&self.found.file).map_err(io_error("look at the file"))?.st_nlink;
        let own = u64::from(self.store.stat(&self.entry.entry).is_ok_and(|stat| FileId::of(&stat) == self.found.id));
        #[allow(clippy::useless_conversion)]
        Ok(other_names(u64::from(links).saturating_sub(own), &format!("it is in the store as {}", self.entry.id)))
    }
}

/// Completes an entry whose file was renamed into the store.
pub(super) fn complete_moved(
    store: &QuarantineStore,
    entry: &mut QuarantineEntry,
    max_hash: u64,
) -> Result<(), QuarantineError> {
    let what = "look at the file in the store";
    let mut file = store.open_entry(&entry.entry).map_err(io_error(what))?;
    entry.xattrs = copy::xattrs(&file).map_err(io_error("read its extended attributes"))?;
    store.write_manifest(entry, false)?;
    let stat = rustix::fs::fstat(&file).map_err(io_error(what))?;
    // Of a file with other names all of them would be changed.
    if stat.st_nlink == 1 {
        copy::tighten(&file).map_err(io_error("take the file from its owner"))?;
    }
    store.steps.done("tightened");
    file.sync_all().map_err(io_error("bring the file to the disk"))?;
    entry.size = u64::try_from(stat.st_size).unwrap_or(0);
    entry.sha256 = copy::sha256(&mut file, max_hash).map_err(io_error("read the file"))?;
    entry.state = QuarantineState::Complete;
    store.write_manifest(entry, true)?;
    store.steps.done("complete");
    Ok(())
}

/// Removes the file.
pub(super) fn delete(store: &Arc<QuarantineStore>, found: &Found, cause: &Cause) -> Result<ActionResult, NotTaken> {
    // The id of the alert stays free for its quarantine.
    let id = store.free_id(Uuid::nil());
    let lock = store.lock(id)?;
    let entry = new_entry(id, QuarantineState::Deleting, found, cause);
    let result = match store.write_manifest(&entry, false) {
        Ok(()) => {
            store.steps.done("manifest");
            let aside = entry.aside_name();
            let removed = remove::remove(&found.directory, &found.name, found.id, &aside, &store.steps);
            removed.map_err(|not_removed| match not_removed {
                NotRemoved::Another | NotRemoved::MovedTo(_) => {
                    NotTaken::Replaced(refused("delete", found, not_removed))
                }
                NotRemoved::Failed(Errno::NOENT) => NotTaken::Replaced(gone(found)),
                NotRemoved::Failed(_) => NotTaken::Final(refused("delete", found, not_removed)),
            })
        }
        Err(error) => Err(error.into()),
    };
    let _ = store.unlink(&entry.manifest_name());
    lock.release(store);
    result?;
    match rustix::fs::fstat(&found.file) {
        #[allow(clippy::useless_conversion)]
        Ok(stat) => Ok(other_names(stat.st_nlink.into(), "the name is gone")),
        Err(errno) => Ok(failed("delete", found, errno)),
    }
}

fn new_entry(id: Uuid, state: QuarantineState, found: &Found, cause: &Cause) -> QuarantineEntry {
    QuarantineEntry {
        alert_uuid: cause.alert_uuid,
        policy: cause.policy.clone(),
        path_on_host: found.on_host,
        ..QuarantineEntry::new(id, state, &found.path, &found.stat)
    }
}

fn other_names(others: u64, done: &str) -> ActionResult {
    match others {
        0 => ActionResult::Successful,
        1 => ActionResult::not_successful(format!("{done}, but 1 other name of the file remains")),
        _ => ActionResult::not_successful(format!("{done}, but {others} other names of the file remain")),
    }
}

fn refused(action: &str, found: &Found, not_removed: NotRemoved) -> ActionResult {
    let path = name::shown(&found.path);
    let details = match not_removed {
        NotRemoved::Failed(errno) => return failed(action, found, errno),
        NotRemoved::Another => format!("file-identity: {path} now names another file"),
        NotRemoved::MovedTo(other) => {
            format!("file-identity: {path} now names another file, which had to be moved to {other} beside it")
        }
    };
    ActionResult::Refused { details }
}

fn gone(found: &Found) -> ActionResult {
    let path = name::shown(&found.path);
    ActionResult::not_successful(format!("unable to open original path {path}: {}", errno::text(Errno::NOENT)))
}

fn failed(action: &str, found: &Found, errno: Errno) -> ActionResult {
    ActionResult::not_successful(format!("unable to {action} {}: {}", name::shown(&found.path), errno::text(errno)))
}

//! What an interrupted process left: finished where that is sure, undone otherwise.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;

use rustix::fs::AtFlags;
use rustix::io::Errno;
use uuid::Uuid;

use super::copy;
use super::identity;
use super::manifest::{QuarantineEntry, QuarantineState};
use super::remove;
use super::restore::open_target;
use super::store::{QuarantineError, QuarantineStore, io_error, sync_directory};
use super::take::complete_moved;
use crate::file::DEFAULT_MAX_COPY_BYTES;

impl QuarantineStore {
    /// Finishes or undoes what was left half done: afterwards a file is either whole where it was, or whole in the store.
    /// What another process works on, and what is in a directory that cannot be reached now, is left alone. Gives how many
    /// entries were put in order.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub fn recover(&self) -> Result<usize, QuarantineError> {
        let mut recovered = 0;
        for id in self.ids()? {
            match self.lock(id) {
                Ok(lock) => {
                    let result = self.recover_one(id);
                    lock.release(self);
                    recovered += usize::from(result?);
                }
                Err(QuarantineError::Busy { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(recovered)
    }

    fn recover_one(&self, id: Uuid) -> Result<bool, QuarantineError> {
        self.unlink(&format!("{id}.json.new")).map_err(io_error("remove a manifest"))?;
        let mut entry = match self.read_manifest(id) {
            Ok(Some(entry)) => entry,
            // A manifest that had not reached the disk when the machine went down has no content.
            Ok(None) | Err(QuarantineError::Manifest { .. }) => return self.adopt(id),
            Err(error) => return Err(error),
        };
        let in_store = self.stat(&entry.entry).ok();
        match entry.state {
            QuarantineState::Complete if in_store.is_some() => return Ok(false),
            QuarantineState::Complete | QuarantineState::Copying => self.forget(&entry)?,
            QuarantineState::Moving => match in_store {
                None => self.forget(&entry)?,
                Some(stat) if stat.st_ino == entry.inode => {
                    complete_moved(self, &mut entry, DEFAULT_MAX_COPY_BYTES)?;
                }
                Some(_) => self.recover_stray(&mut entry)?,
            },
            QuarantineState::Removing => return self.recover_removing(&mut entry, in_store.is_some()),
            QuarantineState::Deleting => {
                if let Some((directory, name)) = origin(&entry) {
                    take_from_aside(&entry, &directory, &name)?;
                }
                self.forget(&entry)?;
            }
            QuarantineState::Restoring => self.recover_restoring(&mut entry, in_store.is_some())?,
        }
        Ok(true)
    }

    /// A file without a manifest becomes an entry whose path is not known.
    fn adopt(&self, id: Uuid) -> Result<bool, QuarantineError> {
        let what = "look at a file without a manifest";
        self.unlink(&format!("{id}.partial")).map_err(io_error(what))?;
        let start = format!("{id}-");
        let Some(found) = self.names()?.find(|name| name.starts_with(&start)) else {
            return Ok(false);
        };
        let stat = self.stat(&found).map_err(io_error(what))?;
        let entry = QuarantineEntry {
            path_on_host: false,
            entry: found,
            ..QuarantineEntry::new(id, QuarantineState::Moving, b"", &stat)
        };
        complete_moved(self, &mut { entry }, DEFAULT_MAX_COPY_BYTES)?;
        Ok(true)
    }

    /// Another file than the one that was meant came into the store: it goes back, or stays as an entry of its own.
    fn recover_stray(&self, entry: &mut QuarantineEntry) -> Result<(), QuarantineError> {
        if let Some((directory, name)) = origin(entry) {
            let from = OsStr::new(&entry.entry);
            if remove::put_back(&self.directory, from, &directory, &name, &entry.aside_name()).is_ok() {
                let _ = sync_directory(&directory);
                return self.forget(entry);
            }
        }
        let stat = self.stat(&entry.entry).map_err(io_error("look at a file"))?;
        entry.inode = stat.st_ino;
        (entry.uid, entry.gid, entry.mode) = (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777);
        complete_moved(self, entry, DEFAULT_MAX_COPY_BYTES)
    }

    fn recover_removing(&self, entry: &mut QuarantineEntry, in_store: bool) -> Result<bool, QuarantineError> {
        let original = match entry.path_on_host.then(|| open_target(&entry.path)) {
            // A container's directory cannot be told from here.
            None => return Ok(false),
            Some(Ok((directory, name))) => {
                let back = take_from_aside(entry, &directory, &name)?;
                [Some(name), back.map(Into::into)]
                    .into_iter()
                    .flatten()
                    .any(|name| is_original(entry, &directory, &name))
            }
            Some(Err(QuarantineError::Target { source, .. }))
                if source.raw_os_error() == Some(Errno::NOENT.raw_os_error()) =>
            {
                false
            }
            Some(Err(_)) => return Ok(false),
        };
        if original {
            self.forget(entry)?;
            return Ok(true);
        }
        if !in_store {
            let (from, to) = (entry.partial_name(), &entry.entry);
            rustix::fs::renameat(&self.directory, from, &self.directory, &**to).map_err(io_error("name the copy"))?;
        }
        entry.state = QuarantineState::Complete;
        self.write_manifest(entry, true)?;
        Ok(true)
    }

    fn recover_restoring(&self, entry: &mut QuarantineEntry, in_store: bool) -> Result<(), QuarantineError> {
        if !in_store {
            return self.forget(entry);
        }
        let target = entry.target.as_ref().and_then(|target| open_target(target).ok());
        if let Some((directory, name)) = target {
            let there = rustix::fs::statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW).ok();
            let placed = there.is_some_and(|stat| Some(stat.st_ino) == entry.placed_inode) && entry.sha256.is_some();
            if placed && has_content(entry, &directory, &name) {
                let _ = rustix::fs::unlinkat(&directory, entry.aside_name(), AtFlags::REMOVEDIR);
                return self.forget(entry);
            }
            if let Ok(private) = remove::open_private(&directory, &entry.aside_name()) {
                let _ = rustix::fs::unlinkat(&private, &name, AtFlags::empty());
                let _ = rustix::fs::unlinkat(&directory, entry.aside_name(), AtFlags::REMOVEDIR);
            }
        }
        self.stay(entry)
    }
}

/// The directory and the name that a file had, if they are the host's and there.
fn origin(entry: &QuarantineEntry) -> Option<(OwnedFd, std::ffi::OsString)> {
    entry.path_on_host.then(|| open_target(&entry.path).ok()).flatten()
}

/// Puts back what was moved aside to be removed, and gives the name if it is another than it had.
fn take_from_aside(
    entry: &QuarantineEntry,
    directory: &OwnedFd,
    name: &OsStr,
) -> Result<Option<String>, QuarantineError> {
    let aside = entry.aside_name();
    let Ok(private) = remove::open_private(directory, &aside) else { return Ok(None) };
    let back = match remove::put_back(&private, name, directory, name, &aside) {
        Err(Errno::NOENT) => None,
        back => back.map_err(io_error("put a file back"))?,
    };
    let _ = rustix::fs::unlinkat(directory, &*aside, AtFlags::REMOVEDIR);
    let _ = sync_directory(directory);
    Ok(back)
}

/// Whether a name stands for the file that was copied: inode and content. Device numbers may have changed since.
fn is_original(entry: &QuarantineEntry, directory: &OwnedFd, name: &OsStr) -> bool {
    let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW);
    stat.is_ok_and(|stat| stat.st_ino == entry.inode) && has_content(entry, directory, name)
}

fn has_content(entry: &QuarantineEntry, directory: &OwnedFd, name: &OsStr) -> bool {
    let hash = identity::open_name(directory, name).and_then(|file| {
        let stat = rustix::fs::fstat(&file)?;
        if identity::not_regular(&stat).is_some() {
            return Err(Errno::INVAL);
        }
        let mut file = identity::reopen(file)?;
        copy::sha256(&mut file, u64::MAX).map_err(|_| Errno::IO)
    });
    matches!(hash, Ok(hash) if hash.is_some() && hash == entry.sha256)
}

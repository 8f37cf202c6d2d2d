//! Putting a file back.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use uuid::Uuid;

use super::copy;
use super::identity;
use super::manifest::{QuarantineEntry, QuarantineState};
use super::name;
use super::remove;
use super::store::{QuarantineError, QuarantineStore, io_error, sync_directory};

/// How a file is put back.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct RestoreOptions {
    to: Option<PathBuf>,
    accept_changed: bool,
}

impl RestoreOptions {
    /// To its original path, and only if its content is what was put into the store.
    pub fn new() -> Self {
        Self::default()
    }

    /// To this absolute path instead.
    pub fn to(mut self, path: impl Into<PathBuf>) -> Self {
        self.to = Some(path.into());
        self
    }

    /// Also if the content is not what was put into the store: a process that had the file open for writing can have
    /// changed it, and of a file longer than the limit the content is not known.
    pub fn accept_changed(mut self) -> Self {
        self.accept_changed = true;
        self
    }
}

impl QuarantineStore {
    /// Puts a file back, with owner, mode, times and extended attributes as they were, and gives the path. The directory
    /// must exist, no symbolic link is followed, and a file of that name is never replaced.
    ///
    /// # Errors
    /// When any of that is not so; the file is in the store then as before.
    pub fn restore(&self, id: Uuid, options: &RestoreOptions) -> Result<PathBuf, QuarantineError> {
        let lock = self.lock(id)?;
        let result = self.complete(id).and_then(|entry| self.restore_locked(entry, options));
        lock.release(self);
        result
    }

    fn restore_locked(&self, mut entry: QuarantineEntry, options: &RestoreOptions) -> Result<PathBuf, QuarantineError> {
        let target = match &options.to {
            Some(path) => std::path::absolute(path).map_err(io_error("tell the path"))?,
            None if entry.path_on_host => entry.path.clone(),
            None => return Err(QuarantineError::NoTarget { path: name::shown(entry.path.as_os_str().as_bytes()) }),
        };
        let mut file = self.open_entry(&entry.entry).map_err(io_error("open the file in the store"))?;
        let limit = if entry.sha256.is_some() { u64::MAX } else { 0 };
        let hash = copy::sha256(&mut file, limit).map_err(io_error("read the file in the store"))?;
        if !options.accept_changed && (hash.is_none() || hash != entry.sha256) {
            return Err(QuarantineError::Changed { id: entry.id });
        }
        let refused = |errno: Errno| refusal(&target, errno);
        let (directory, file_name) = open_target(&target)?;
        match rustix::fs::statat(&directory, &file_name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {}
            Ok(_) => return Err(refused(Errno::EXIST)),
            Err(errno) => return Err(refused(errno)),
        }
        entry.state = QuarantineState::Restoring;
        entry.target = Some(target.clone());
        self.write_manifest(&entry, true)?;
        self.steps.done("restoring");
        let placed = self.place(&mut entry, &mut file, &directory, &file_name, &target);
        match placed {
            Ok(()) => {
                let _ = sync_directory(&directory);
                self.steps.done("placed");
                self.forget(&entry)?;
                Ok(target)
            }
            Err(error) => {
                self.stay(&mut entry)?;
                Err(error)
            }
        }
    }

    fn place(
        &self,
        entry: &mut QuarantineEntry,
        file: &mut File,
        directory: &OwnedFd,
        file_name: &std::ffi::OsStr,
        target: &Path,
    ) -> Result<(), QuarantineError> {
        let stat = rustix::fs::fstat(&*file).map_err(io_error("look at the file"))?;
        let there = rustix::fs::fstat(directory).map_err(io_error("look at the directory"))?;
        if stat.st_dev == there.st_dev {
            // Before it has a name there: nobody shall find it half made.
            copy::set_attributes(&*file, entry).map_err(io_error("restore the attributes"))?;
            self.steps.done("attributes");
            let flags = RenameFlags::NOREPLACE;
            match rustix::fs::renameat_with(&self.directory, &*entry.entry, directory, file_name, flags) {
                Err(Errno::XDEV) => {}
                result => return result.map_err(|errno| refusal(target, errno)),
            }
        }
        let aside = entry.aside_name();
        let private = remove::make_private(directory, &aside).map_err(|errno| refusal(target, errno))?;
        self.steps.done("private directory");
        let result = self.place_copy(entry, file, directory, file_name, target, &private);
        if result.is_err() {
            let _ = rustix::fs::unlinkat(&private, file_name, AtFlags::empty());
        }
        let _ = rustix::fs::unlinkat(directory, &*aside, AtFlags::REMOVEDIR);
        result
    }

    fn place_copy(
        &self,
        entry: &mut QuarantineEntry,
        file: &mut File,
        directory: &OwnedFd,
        file_name: &std::ffi::OsStr,
        target: &Path,
        private: &OwnedFd,
    ) -> Result<(), QuarantineError> {
        let what = "copy the file";
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let made = rustix::fs::openat(private, file_name, flags, Mode::RUSR | Mode::WUSR).map_err(io_error(what))?;
        let mut made = File::from(made);
        let read = copy::copy(file, &mut made, u64::MAX).map_err(io_error(what))?;
        let written = copy::sha256(&mut made, u64::MAX).map_err(io_error(what))?;
        if read != written {
            return Err(io_error(what)(std::io::Error::other("the copy differs")));
        }
        copy::set_attributes(&made, entry).map_err(io_error("restore the attributes"))?;
        made.sync_all().map_err(io_error(what))?;
        entry.placed_inode = Some(rustix::fs::fstat(&made).map_err(io_error(what))?.st_ino);
        self.write_manifest(entry, true)?;
        self.steps.done("placing");
        rustix::fs::renameat_with(private, file_name, directory, file_name, RenameFlags::NOREPLACE)
            .map_err(|errno| refusal(target, errno))
    }

    /// An entry that could not be put back is as before.
    pub(super) fn stay(&self, entry: &mut QuarantineEntry) -> Result<(), QuarantineError> {
        let what = "take the file from its owner";
        let file = self.open_entry(&entry.entry).map_err(io_error(what))?;
        if rustix::fs::fstat(&file).map_err(io_error(what))?.st_nlink == 1 {
            copy::tighten(&file).map_err(io_error(what))?;
        }
        entry.state = QuarantineState::Complete;
        (entry.target, entry.placed_inode) = (None, None);
        self.write_manifest(entry, true)
    }
}

fn refusal(target: &Path, errno: Errno) -> QuarantineError {
    QuarantineError::Target { path: name::shown(target.as_os_str().as_bytes()), source: errno.into() }
}

/// The directory of `target` and the name in it.
pub(super) fn open_target(target: &Path) -> Result<(OwnedFd, std::ffi::OsString), QuarantineError> {
    let refused = |errno: Errno| refusal(target, errno);
    let (parent, file_name) = name::split(target.as_os_str().as_bytes()).ok_or_else(|| refused(Errno::INVAL))?;
    let root = identity::own_root().map_err(refused)?;
    Ok((identity::open_directory(root, parent).map_err(refused)?, file_name))
}

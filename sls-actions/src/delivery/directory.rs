//! The directory of a spool: made if need be, entered without following a link, and nobody else's.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Component, Path};

use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::spool::SpoolError;

/// A directory that this process alone works in.
#[derive(Debug)]
pub(super) struct Directory(OwnedFd);

impl Directory {
    /// Opens the directory, or makes it and those above it, with mode 0700, and locks it.
    pub(super) fn open(path: &Path) -> Result<Self, SpoolError> {
        let failed = |source: io::Error| SpoolError::Open { path: path.to_owned(), source };
        let not_safe = |reason| Err(SpoolError::Unsafe { path: path.to_owned(), reason });
        let absolute = std::path::absolute(path).map_err(failed)?;
        let directory = descend(&absolute).map_err(|errno| failed(errno.into()))?;
        let stat = rustix::fs::fstat(&directory).map_err(|errno| failed(errno.into()))?;
        if stat.st_uid != rustix::process::geteuid().as_raw() {
            return not_safe("it belongs to another user");
        }
        if stat.st_mode & 0o077 != 0 {
            return not_safe("its mode lets others in");
        }
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self(directory)),
            Err(Errno::WOULDBLOCK) => Err(SpoolError::InUse { path: path.to_owned() }),
            Err(errno) => Err(failed(errno.into())),
        }
    }

    pub(super) fn names(&self) -> io::Result<Vec<String>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let list = Dir::new(rustix::fs::openat(&self.0, c".", flags, Mode::empty())?)?;
        let mut names = Vec::new();
        for entry in list {
            names.extend(entry?.file_name().to_str().ok().map(str::to_owned));
        }
        Ok(names)
    }

    /// Makes a file that is not there yet.
    pub(super) fn create(&self, name: &str) -> io::Result<File> {
        self.file(name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)
    }

    pub(super) fn open_file(&self, name: &str) -> io::Result<File> {
        self.file(name, OFlags::RDWR)
    }

    /// Puts a file into the place of another in one step. It need not be on the disk afterwards.
    pub(super) fn replace(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let new = format!("{name}.new");
        self.file(&new, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)?.write_all(content)?;
        Ok(rustix::fs::renameat(&self.0, &*new, &self.0, name)?)
    }

    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.0, name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            result => Ok(result?),
        }
    }

    /// Brings the names to the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.0)?)
    }

    fn file(&self, name: &str, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        Ok(rustix::fs::openat(&self.0, name, flags, Mode::RUSR | Mode::WUSR)?.into())
    }
}

fn descend(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut directory = rustix::fs::open(c"/", flags, Mode::empty())?;
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => {
                match rustix::fs::mkdirat(&directory, name, Mode::RWXU) {
                    Ok(()) => rustix::fs::fsync(&directory)?,
                    // A file system that is not to be written to may have it all the same.
                    Err(Errno::EXIST | Errno::ROFS | Errno::ACCESS) => {}
                    Err(errno) => return Err(errno),
                }
                directory = rustix::fs::openat(&directory, name, flags, Mode::empty())?;
            }
            Component::ParentDir | Component::Prefix(_) => return Err(Errno::INVAL),
        }
    }
    Ok(directory)
}

//! Taking one file, and no other, away from a name that others can change at any time.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::identity::FileId;
use super::steps::Steps;

/// Why a name was not removed.
#[derive(Debug)]
pub(super) enum NotRemoved {
    /// It names another file, which is in its place again.
    Another,
    /// It names another file. Someone took the name meanwhile, so that file is now in the same directory under this one.
    MovedTo(String),
    /// The kernel refused.
    Failed(Errno),
}

impl From<Errno> for NotRemoved {
    fn from(errno: Errno) -> Self {
        Self::Failed(errno)
    }
}

/// Removes `name` from `directory` if it is the file `id`: the name is moved into a directory of the sensor's own, where
/// nobody can exchange it between the check and the removal, and back if it is another file.
pub(super) fn remove(
    directory: impl AsFd,
    name: &OsStr,
    id: FileId,
    aside: &str,
    steps: &Steps,
) -> Result<(), NotRemoved> {
    let private = make_private(&directory, aside)?;
    steps.done("private directory");
    let result = remove_through(&directory, name, id, aside, &private, steps);
    // Only ever an empty directory.
    let _ = rustix::fs::unlinkat(&directory, aside, AtFlags::REMOVEDIR);
    result
}

fn remove_through(
    directory: impl AsFd,
    name: &OsStr,
    id: FileId,
    aside: &str,
    private: &OwnedFd,
    steps: &Steps,
) -> Result<(), NotRemoved> {
    rustix::fs::renameat_with(&directory, name, private, name, RenameFlags::NOREPLACE)?;
    steps.done("aside");
    if FileId::at(private, name) == Ok(id) {
        let removed = rustix::fs::unlinkat(private, name, AtFlags::empty());
        steps.done("unlinked");
        return removed.or_else(|errno| {
            // What cannot be removed goes back where it was.
            put_back(private, name, &directory, name, aside)?;
            Err(NotRemoved::Failed(errno))
        });
    }
    match put_back(private, name, directory, name, aside)? {
        None => Err(NotRemoved::Another),
        Some(other) => Err(NotRemoved::MovedTo(other)),
    }
}

/// Moves a file back under its name, or, if that was taken meanwhile, under another that is given back.
pub(super) fn put_back(
    from: impl AsFd,
    from_name: &OsStr,
    directory: impl AsFd,
    name: &OsStr,
    unique: &str,
) -> Result<Option<String>, Errno> {
    match rustix::fs::renameat_with(&from, from_name, &directory, name, RenameFlags::NOREPLACE) {
        Err(Errno::EXIST) => {
            let other = format!("{unique}-file");
            rustix::fs::renameat_with(from, from_name, directory, &*other, RenameFlags::NOREPLACE)?;
            Ok(Some(other))
        }
        result => result.map(|()| None),
    }
}

/// A new directory that nobody else can enter.
pub(super) fn make_private(directory: impl AsFd, name: &str) -> Result<OwnedFd, Errno> {
    rustix::fs::mkdirat(&directory, name, Mode::RWXU)?;
    open_private(directory, name)
}

/// A directory of [`make_private`], which holds only if it is still that.
pub(super) fn open_private(directory: impl AsFd, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let private = rustix::fs::openat(&directory, name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&private)?;
    let own = stat.st_uid == rustix::process::geteuid().as_raw() && stat.st_mode & 0o077 == 0;
    if own { Ok(private) } else { Err(Errno::PERM) }
}

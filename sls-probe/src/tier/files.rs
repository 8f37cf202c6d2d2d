//! The files that policies name: which ones they are now, and when that changes.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

/// The most directories that are watched. Files in others are looked at every [`super::RESOLVE_INTERVAL`] only.
const MAX_DIRECTORIES: usize = 4096;

/// Device and inode.
pub(crate) type Identity = (u64, u64);

/// Tells when a name in one of some directories comes to mean another file, and when a file is gone.
#[derive(Debug)]
pub(crate) struct Directories {
    inotify: OwnedFd,
    watched: BTreeMap<i32, PathBuf>,
    files: BTreeMap<i32, Identity>,
    /// How many directories there are beyond [`MAX_DIRECTORIES`].
    unwatched: usize,
}

/// What changed.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Names that mean another file, or none.
    pub(crate) names: BTreeSet<Box<[u8]>>,
    /// Files whose inodes are free for others.
    pub(crate) gone: BTreeSet<Identity>,
    /// It is not known what.
    pub(crate) all: bool,
}

impl Directories {
    pub(crate) fn new() -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Self { inotify, watched: BTreeMap::new(), files: BTreeMap::new(), unwatched: 0 })
    }

    /// How many directories had no room by the last look.
    pub(crate) fn unwatched(&self) -> usize {
        self.unwatched
    }

    /// Watches the directories that these paths are in, as far as they exist, and no others.
    pub(crate) fn watch<'p>(&mut self, paths: impl Iterator<Item = &'p [u8]>) {
        let changes = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::MOVED_FROM | WatchFlags::DELETE;
        let own = WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF | WatchFlags::ONLYDIR;
        let directories: BTreeSet<&Path> =
            paths.filter_map(|path| Path::new(OsStr::from_bytes(path)).parent()).collect();
        let mut watched = BTreeMap::new();
        self.unwatched = directories.len().saturating_sub(MAX_DIRECTORIES);
        for directory in directories.into_iter().take(MAX_DIRECTORIES) {
            // One that does not exist is tried again.
            if let Ok(watch) = inotify::add_watch(&self.inotify, directory, changes | own) {
                watched.insert(watch, directory.to_owned());
            }
        }
        for watch in self.watched.keys().filter(|watch| !watched.contains_key(watch)) {
            // It may have gone with its directory.
            let _ = inotify::remove_watch(&self.inotify, *watch);
        }
        self.watched = watched;
    }

    /// Watches for the end of the file that has this path and this identity. No if that cannot be, or if it is another file by
    /// now: then nothing tells when its inode is somebody else's.
    pub(crate) fn watch_file(&mut self, path: &[u8], file: Identity) -> bool {
        if self.files.values().any(|other| *other == file) {
            return true;
        }
        let until_gone = WatchFlags::DELETE_SELF | WatchFlags::DONT_FOLLOW;
        match inotify::add_watch(&self.inotify, OsStr::from_bytes(path), until_gone) {
            Ok(watch) if identity(path) == Some(file) => {
                self.files.insert(watch, file);
                true
            }
            _ => false,
        }
    }

    /// Watches no file but these.
    pub(crate) fn retain(&mut self, wanted: impl Fn(&Identity) -> bool) {
        let inotify = &self.inotify;
        self.files.retain(|watch, file| {
            let keep = wanted(file);
            if !keep {
                // It may have gone with its file.
                let _ = inotify::remove_watch(inotify, *watch);
            }
            keep
        });
    }

    /// What is readable when something changes.
    pub(crate) fn waiter(&self) -> io::Result<OwnedFd> {
        self.inotify.try_clone()
    }

    /// What changed since it was asked last.
    pub(crate) fn changes(&mut self) -> Changes {
        let mut changes = Changes::default();
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        while let Ok(event) = reader.next() {
            if let Some(file) = self.files.get(&event.wd()) {
                // Nothing else is asked of files.
                changes.gone.insert(*file);
                if event.events().contains(ReadFlags::IGNORED) {
                    self.files.remove(&event.wd());
                }
                continue;
            }
            match (self.watched.get(&event.wd()), event.file_name()) {
                (Some(directory), Some(name)) => {
                    let path = directory.join(OsStr::from_bytes(name.to_bytes()));
                    changes.names.insert(path.as_os_str().as_bytes().into());
                }
                // The end of a watch that was taken away.
                (None, _) if event.events().contains(ReadFlags::IGNORED) => {}
                // The directory itself, or too much at once.
                _ => changes.all = true,
            }
        }
        changes
    }
}

/// Waits until something changes, `stop` is readable, or the time is over.
pub(crate) fn wait(changes: Option<&OwnedFd>, stop: &OwnedFd, timeout: &Timespec) {
    let mut fds: Vec<PollFd<'_>> = changes.into_iter().chain([stop]).map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    // An interrupted wait is one that is over.
    let _ = poll(&mut fds, Some(timeout));
}

/// Device and inode of the regular file that has this path. A link at its end is not followed: what it leads to has a path of
/// its own, which is what the kernel compares.
pub(crate) fn identity(path: &[u8]) -> Option<Identity> {
    let meta = fs::symlink_metadata(OsStr::from_bytes(path)).ok()?;
    meta.is_file().then(|| (meta.dev(), meta.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_beyond_the_limit_are_counted() {
        let mut directories = Directories::new().unwrap();
        let paths: Vec<_> = (0..MAX_DIRECTORIES + 4).map(|number| format!("/nowhere/{number}/file")).collect();
        directories.watch(paths.iter().map(String::as_bytes));
        assert_eq!(directories.unwatched(), 4);
        directories.watch(paths[..10].iter().map(String::as_bytes));
        assert_eq!(directories.unwatched(), 0);
    }
}

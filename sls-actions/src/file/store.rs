//! The quarantine store: a directory that only root can enter, with a file and a manifest for each entry.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;
use thiserror::Error;
use uuid::Uuid;

use super::identity;
use super::manifest::{QuarantineEntry, QuarantineState, SCHEMA_VERSION, now};
use super::name;
use super::steps::Steps;
use crate::errno;

/// Where files go unless told otherwise.
pub const DEFAULT_QUARANTINE_DIRECTORY: &str = "/.sls-quarantined/";

/// The most files in a store, unless told otherwise.
pub const DEFAULT_MAX_QUARANTINED_FILES: u64 = 4096;

/// The most bytes on disk that the files of a store take together, unless told otherwise: 8 GiB.
pub const DEFAULT_MAX_QUARANTINED_BYTES: u64 = 8 << 30;

/// The most bytes of a manifest that are read. Extended attributes are at most 64 KiB a file on most file systems.
const MAX_MANIFEST: u64 = 4 << 20;

/// How often a lock is tried that others remove under one's hands.
const MAX_LOCK_TRIES: usize = 16;

/// Length of a uuid in text.
const UUID_LEN: usize = 36;

/// Why something could not be done with a [`QuarantineStore`].
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum QuarantineError {
    /// The directory cannot be opened or made.
    #[error("cannot open the quarantine store {}: {}", path.display(), errno::io_text(source))]
    Open {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Others than root could reach what is in the directory.
    #[error("the quarantine store {} is not safe: {reason}", path.display())]
    Unsafe {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There is no such entry.
    #[error("no entry {id} in the quarantine store")]
    NotFound {
        /// The id that was asked for.
        id: Uuid,
    },
    /// Someone else works on the entry.
    #[error("the entry {id} is in use")]
    Busy {
        /// The entry.
        id: Uuid,
    },
    /// The entry is not complete.
    #[error("the entry {id} is not complete: {}", state.name())]
    Incomplete {
        /// The entry.
        id: Uuid,
        /// How far it is.
        state: QuarantineState,
    },
    /// No manifest, or one of another version.
    #[error("the manifest of {id} cannot be read: {reason}")]
    Manifest {
        /// The entry.
        id: Uuid,
        /// What is wrong.
        reason: String,
    },
    /// A limit of the store.
    #[error("the quarantine store is full: its limit is {limit}")]
    Full {
        /// The limit with its unit.
        limit: String,
    },
    /// The file cannot go back to where it was.
    #[error("unable to open original path {path}: {}", errno::io_text(source))]
    Target {
        /// The path, with what cannot be printed escaped.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The path is not one of the host, or not known; another has to be given.
    #[error("the original path {path} is not one of the host: name a path to restore to")]
    NoTarget {
        /// The path, with what cannot be printed escaped.
        path: String,
    },
    /// The content is not what was put into the store.
    #[error("the content of {id} has changed in the store")]
    Changed {
        /// The entry.
        id: Uuid,
    },
    /// Anything else that the kernel refused.
    #[error("cannot {what}: {}", errno::io_text(source))]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Makes an error of the kernel's out of what was tried.
pub(super) fn io_error<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> QuarantineError {
    move |source| QuarantineError::Io { what, source: source.into() }
}

/// A directory of quarantined files. Several processes may use one at once.
#[derive(Debug)]
pub struct QuarantineStore {
    pub(super) directory: OwnedFd,
    path: PathBuf,
    max_files: u64,
    max_bytes: u64,
    files: AtomicU64,
    bytes: AtomicU64,
    turned_away: AtomicU64,
    serial: AtomicU64,
    pub(super) steps: Steps,
}

impl QuarantineStore {
    /// Opens a store, or makes it: a directory with mode 0700. No component of the path may be a symbolic link. What an
    /// interrupted process left half done is finished or undone, see [`QuarantineStore::recover`].
    ///
    /// # Errors
    /// When the directory cannot be opened, belongs to another user, or its mode lets others in.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, QuarantineError> {
        let store = Self::open_unrecovered(path.as_ref(), Steps::default())?;
        store.recover()?;
        Ok(store)
    }

    pub(super) fn open_unrecovered(path: &Path, steps: Steps) -> Result<Self, QuarantineError> {
        use std::os::unix::ffi::OsStrExt;
        let failed = |source: io::Error| QuarantineError::Open { path: path.to_owned(), source };
        let absolute = std::path::absolute(path).map_err(failed)?;
        let bytes = absolute.as_os_str().as_bytes();
        let bytes = bytes.strip_suffix(b"/").unwrap_or(bytes);
        let (parent, file_name) = name::split(bytes).ok_or_else(|| failed(Errno::INVAL.into()))?;
        let open = || -> Result<OwnedFd, Errno> {
            let parent = identity::open_directory(identity::own_root()?, parent)?;
            match rustix::fs::mkdirat(&parent, &file_name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(&parent, &file_name, flags, Mode::empty())
        };
        let directory = open().map_err(|errno| failed(errno.into()))?;
        let stat = rustix::fs::fstat(&directory).map_err(|errno| failed(errno.into()))?;
        let not_safe = |reason| Err(QuarantineError::Unsafe { path: path.to_owned(), reason });
        if stat.st_uid != rustix::process::geteuid().as_raw() {
            return not_safe("it belongs to another user");
        }
        if stat.st_mode & 0o077 != 0 {
            return not_safe("its mode lets others in");
        }
        let store = Self {
            directory,
            path: absolute,
            max_files: DEFAULT_MAX_QUARANTINED_FILES,
            max_bytes: DEFAULT_MAX_QUARANTINED_BYTES,
            files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            turned_away: AtomicU64::new(0),
            serial: AtomicU64::new(0),
            steps,
        };
        store.count()?;
        Ok(store)
    }

    /// The most files that it takes. The default is [`DEFAULT_MAX_QUARANTINED_FILES`].
    #[must_use]
    pub fn max_files(mut self, files: u64) -> Self {
        self.max_files = files;
        self
    }

    /// The most bytes on disk that its files take together. The default is [`DEFAULT_MAX_QUARANTINED_BYTES`].
    #[must_use]
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many files its limits have kept out since it was opened.
    #[must_use]
    pub fn turned_away(&self) -> u64 {
        self.turned_away.load(Ordering::Relaxed)
    }

    /// The entries, oldest first. Those whose manifest cannot be read are left out; [`QuarantineStore::get`] says why.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list(&self) -> Result<Vec<QuarantineEntry>, QuarantineError> {
        let mut entries: Vec<_> = self.ids()?.into_iter().filter_map(|id| self.get(id).ok()).collect();
        entries.retain(|entry| entry.state != QuarantineState::Deleting);
        entries.sort_by_key(|entry| (entry.time, entry.id));
        Ok(entries)
    }

    /// One entry.
    ///
    /// # Errors
    /// When there is none of this id, or its manifest cannot be read.
    pub fn get(&self, id: Uuid) -> Result<QuarantineEntry, QuarantineError> {
        self.read_manifest(id)?.ok_or(QuarantineError::NotFound { id })
    }

    /// Removes an entry for good.
    ///
    /// # Errors
    /// When there is none, it is not complete, or someone works on it.
    pub fn purge(&self, id: Uuid) -> Result<(), QuarantineError> {
        let lock = self.lock(id)?;
        let result = self.complete(id).and_then(|entry| self.forget(&entry));
        lock.release(self);
        result
    }

    /// Removes the entries that have been in the store for longer than `age`, and gives their ids. Those that are in use
    /// or not complete stay.
    ///
    /// # Errors
    /// When the directory cannot be read, or an entry cannot be removed.
    pub fn purge_older_than(&self, age: Duration) -> Result<Vec<Uuid>, QuarantineError> {
        let before = now().saturating_sub(u64::try_from(age.as_nanos()).unwrap_or(u64::MAX));
        let mut purged = Vec::new();
        for entry in self.list()?.into_iter().filter(|entry| entry.time <= before) {
            match self.purge(entry.id) {
                Ok(()) => purged.push(entry.id),
                Err(
                    QuarantineError::Busy { .. }
                    | QuarantineError::NotFound { .. }
                    | QuarantineError::Incomplete { .. },
                ) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(purged)
    }

    pub(super) fn complete(&self, id: Uuid) -> Result<QuarantineEntry, QuarantineError> {
        let entry = self.get(id)?;
        match entry.state {
            QuarantineState::Complete => Ok(entry),
            state => Err(QuarantineError::Incomplete { id, state }),
        }
    }

    /// The ids of which anything is in the directory.
    pub(super) fn ids(&self) -> Result<Vec<Uuid>, QuarantineError> {
        let mut ids: Vec<_> = self.names()?.filter_map(|name| id_of(&name)).collect();
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    pub(super) fn names(&self) -> Result<impl Iterator<Item = String>, QuarantineError> {
        // A reading position of its own: the descriptor is shared by threads.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let list = rustix::fs::openat(&self.directory, c".", flags, Mode::empty()).and_then(Dir::new);
        let list = list.map_err(io_error("read the quarantine store"))?;
        Ok(list.map_while(Result::ok).filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned)))
    }

    /// Takes room for one more file; what is known of the directory is brought up to date before anything is refused.
    pub(super) fn reserve(&self, stat: &Stat) -> Result<(), QuarantineError> {
        let more = blocks(stat);
        for counted in [false, true] {
            if counted {
                self.count()?;
            }
            let files = self.files.load(Ordering::Relaxed).saturating_add(1);
            let bytes = self.bytes.load(Ordering::Relaxed).saturating_add(more);
            let limit = if files > self.max_files {
                format!("{} files", self.max_files)
            } else if bytes > self.max_bytes {
                format!("{} bytes", self.max_bytes)
            } else {
                self.files.fetch_add(1, Ordering::Relaxed);
                self.bytes.fetch_add(more, Ordering::Relaxed);
                return Ok(());
            };
            if counted {
                self.turned_away.fetch_add(1, Ordering::Relaxed);
                return Err(QuarantineError::Full { limit });
            }
        }
        Ok(())
    }

    fn count(&self) -> Result<(), QuarantineError> {
        let (mut files, mut bytes) = (0, 0);
        for name in self.names()?.filter(|name| name.as_bytes().get(UUID_LEN) == Some(&b'-')) {
            if let Ok(stat) = self.stat(&name) {
                files += 1;
                bytes += blocks(&stat);
            }
        }
        self.files.store(files, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// An id for what the alert `wanted` tells of.
    pub(super) fn free_id(&self, wanted: Uuid) -> Uuid {
        if !wanted.is_nil() && matches!(self.stat(&format!("{wanted}.json")), Err(Errno::NOENT)) {
            return wanted;
        }
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        Uuid::new_v5(&wanted, format!("{} {} {serial}", std::process::id(), now()).as_bytes())
    }

    /// Makes sure that nobody else works on an entry.
    pub(super) fn lock(&self, id: Uuid) -> Result<Lock, QuarantineError> {
        let name = format!("{id}.lock");
        let failed = "lock the entry";
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for _ in 0..MAX_LOCK_TRIES {
            let file = rustix::fs::openat(&self.directory, &*name, flags, Mode::RUSR | Mode::WUSR);
            let file = file.map_err(io_error(failed))?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) => return Err(QuarantineError::Busy { id }),
                locked => locked.map_err(io_error(failed))?,
            }
            // Whoever had it before removed the name: then it is no lock.
            let inode = rustix::fs::fstat(&file).map_err(io_error(failed))?.st_ino;
            if self.stat(&name).is_ok_and(|stat| stat.st_ino == inode) {
                return Ok(Lock { _file: file, name });
            }
        }
        Err(QuarantineError::Busy { id })
    }

    pub(super) fn read_manifest(&self, id: Uuid) -> Result<Option<QuarantineEntry>, QuarantineError> {
        let unreadable = |reason: String| QuarantineError::Manifest { id, reason };
        let file = match self.open_entry(&format!("{id}.json")) {
            Err(Errno::NOENT) => return Ok(None),
            file => file.map_err(|errno| unreadable(errno::text(errno)))?,
        };
        let mut text = Vec::new();
        file.take(MAX_MANIFEST).read_to_end(&mut text).map_err(|error| unreadable(errno::io_text(&error)))?;
        let entry: QuarantineEntry = serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))?;
        if entry.schema_version != SCHEMA_VERSION {
            return Err(unreadable(format!("it is of version {}", entry.schema_version)));
        }
        if entry.id != id || id_of(&entry.entry) != Some(id) || entry.entry.contains('/') {
            return Err(unreadable("it is of another entry".to_owned()));
        }
        Ok(Some(entry))
    }

    /// Writes a manifest in one step. With `sync` it is on the disk afterwards, and all names of the store with it.
    pub(super) fn write_manifest(&self, entry: &QuarantineEntry, sync: bool) -> Result<(), QuarantineError> {
        let what = "write the manifest";
        let new = format!("{}.new", entry.manifest_name());
        let text = serde_json::to_vec_pretty(entry).map_err(|error| io_error(what)(io::Error::from(error)))?;
        let write = || -> io::Result<()> {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut file = File::from(rustix::fs::openat(&self.directory, &*new, flags, Mode::RUSR | Mode::WUSR)?);
            file.write_all(&text)?;
            if sync {
                file.sync_all()?;
            }
            rustix::fs::renameat(&self.directory, &*new, &self.directory, entry.manifest_name())?;
            if sync {
                rustix::fs::fsync(&self.directory)?;
            }
            Ok(())
        };
        write().map_err(io_error(what))
    }

    /// Removes file and manifest, in this order: a manifest without a file is nothing.
    pub(super) fn forget(&self, entry: &QuarantineEntry) -> Result<(), QuarantineError> {
        let size = self.stat(&entry.entry).ok();
        for name in [&entry.entry, &entry.partial_name(), &entry.manifest_name()] {
            self.unlink(name).map_err(io_error("remove the entry"))?;
        }
        if let Some(stat) = size {
            let _ = self.files.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |files| files.checked_sub(1));
            let less = blocks(&stat);
            let _ = self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bytes| bytes.checked_sub(less));
        }
        rustix::fs::fsync(&self.directory).map_err(io_error("remove the entry"))
    }

    /// Removes a name of the store, if it is there.
    pub(super) fn unlink(&self, name: &str) -> Result<(), Errno> {
        match rustix::fs::unlinkat(&self.directory, name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            result => result,
        }
    }

    pub(super) fn stat(&self, name: &str) -> Result<Stat, Errno> {
        rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    pub(super) fn open_entry(&self, name: &str) -> Result<File, Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        rustix::fs::openat(&self.directory, name, flags, Mode::empty()).map(File::from)
    }
}

/// The right to work on an entry. It ends with the process at the latest.
#[derive(Debug)]
pub(super) struct Lock {
    _file: OwnedFd,
    name: String,
}

impl Lock {
    pub(super) fn release(self, store: &QuarantineStore) {
        // The name goes while it is held; one that stays is removed by the next recovery.
        let _ = store.unlink(&self.name);
    }
}

fn blocks(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512)
}

fn id_of(name: &str) -> Option<Uuid> {
    Uuid::try_parse(name.get(..UUID_LEN)?).ok()
}

/// Brings the names of a directory to the disk; the descriptor may be one that only names it.
pub(super) fn sync_directory(directory: impl AsFd) -> Result<(), Errno> {
    const HERE: &CStr = c".";
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::fsync(rustix::fs::openat(directory, HERE, flags, Mode::empty())?)
}

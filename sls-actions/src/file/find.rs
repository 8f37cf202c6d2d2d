//! Where the file of an event is now.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Dir, Mode, OFlags, Stat};
use rustix::io::Errno;
use sls_core::{ActionResult, Event, Field};

use super::identity::{self, FileId};
use super::name;
use crate::errno;
use crate::identity::{process_start, started_in_same_tick};

/// The most entries of the file's directory that are looked at when the file is not where the event says.
pub const MAX_SEARCHED_ENTRIES: usize = 4096;

/// The most open descriptors of the acting process that are looked at then.
pub const MAX_SEARCHED_DESCRIPTORS: usize = 1024;

/// A file that was found by its identity, and the name that it had then.
#[derive(Debug)]
pub(super) struct Found {
    /// The directory of the name.
    pub(super) directory: OwnedFd,
    pub(super) name: OsString,
    /// The file itself. It is held so that its inode is not used again.
    pub(super) file: OwnedFd,
    pub(super) stat: Stat,
    pub(super) id: FileId,
    /// Directory and name as a path.
    pub(super) path: Vec<u8>,
    /// Whether the path is one of the sensor's mount namespace.
    pub(super) on_host: bool,
    /// Whether the name is none of those in the event.
    pub(super) elsewhere: bool,
}

/// Looks for the file with this device and inode.
pub(super) fn find(event: &Event, meant: (u64, u64), own_mounts: Option<u32>) -> Result<Found, ActionResult> {
    let search = Search::new(event, meant, own_mounts).map_err(|errno| failed("/", errno))?;
    let (mut replaced, mut first_error, mut any_path) = (None, None, None);
    let places = search.places();
    for (root, on_host, path) in &places {
        any_path.get_or_insert(path);
        match search.look(root, *on_host, path, false) {
            Ok(Some(found)) => return accept(found),
            Ok(None) => replaced = replaced.or(Some(path)),
            Err(error) => first_error = first_error.or(Some((path, error))),
        }
    }
    if let Some(found) = search.by_descriptor().or_else(|| search.beside(&places)) {
        return accept(found);
    }
    if let Some(path) = replaced {
        let details = format!("file-identity: {} now names another file", name::shown(path));
        return Err(ActionResult::Refused { details });
    }
    Err(match (first_error, any_path) {
        (Some((path, errno)), _) => failed(&name::shown(path), errno),
        _ => ActionResult::not_successful("the event does not tell the path of the file".to_owned()),
    })
}

fn accept(found: Found) -> Result<Found, ActionResult> {
    match identity::not_regular(&found.stat) {
        None => Ok(found),
        Some(kind) => {
            Err(ActionResult::not_successful(format!("{} is {kind}, not a regular file", name::shown(&found.path))))
        }
    }
}

fn failed(path: &str, errno: Errno) -> ActionResult {
    ActionResult::not_successful(format!("unable to open original path {path}: {}", errno::text(errno)))
}

struct Search<'e> {
    event: &'e Event,
    meant: (u64, u64),
    host: OwnedFd,
    /// The acting process's `/proc` directory, which stands for that process alone.
    process: Option<OwnedFd>,
    /// Its root, where that is another than the sensor's.
    root: Option<OwnedFd>,
    native: bool,
}

impl<'e> Search<'e> {
    fn new(event: &'e Event, meant: (u64, u64), own_mounts: Option<u32>) -> Result<Self, Errno> {
        let native = event.mount_namespace.is_none() || event.mount_namespace == own_mounts;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let process = rustix::fs::open(format!("/proc/{}", event.process.pid), flags, Mode::empty()).ok();
        // The start is read after the directory was opened: if it is the right one now, the directory is its own or dead.
        let process = process.filter(|_| {
            process_start(event.process.pid).is_ok_and(|start| started_in_same_tick(start, event.process.start))
        });
        let root = process.as_ref().filter(|_| !native);
        let root = root.and_then(|process| rustix::fs::openat(process, c"root", flags, Mode::empty()).ok());
        Ok(Self { event, meant, host: identity::own_root()?, process, root, native })
    }

    /// Roots and paths where the event says that the file may be, the likeliest first.
    fn places(&self) -> Vec<(&OwnedFd, bool, Vec<u8>)> {
        let mut places = Vec::new();
        for field in [Field::NewHostFilePath, Field::HostFilePath, Field::NewFilePath, Field::FilePath] {
            let path = self.event.text(field);
            // Of a cut path the beginning is missing.
            if path.is_empty() || self.event.truncated().contains(field) {
                continue;
            }
            let of_host = self.native || matches!(field, Field::NewHostFilePath | Field::HostFilePath);
            let root = if of_host { Some(&self.host) } else { self.root.as_ref() };
            places.extend(root.map(|root| (root, of_host, path.to_vec())));
        }
        places
    }

    /// The file under this path, if it is the one; none if it is another.
    fn look(&self, root: &OwnedFd, on_host: bool, path: &[u8], elsewhere: bool) -> Result<Option<Found>, Errno> {
        let (parent, name) = name::split(path).ok_or(Errno::INVAL)?;
        let directory = identity::open_directory(root, parent)?;
        self.look_at(directory, name, on_host, path.to_vec(), elsewhere)
    }

    fn look_at(
        &self,
        directory: OwnedFd,
        name: OsString,
        on_host: bool,
        path: Vec<u8>,
        elsewhere: bool,
    ) -> Result<Option<Found>, Errno> {
        let file = identity::open_name(&directory, &name)?;
        let stat = rustix::fs::fstat(&file)?;
        if !identity::is_meant(&file, &stat, self.meant, self.event.process.pid) {
            return Ok(None);
        }
        let id = FileId::of(&stat);
        Ok(Some(Found { directory, name, file, stat, id, path, on_host, elsewhere }))
    }

    /// Among what the acting process has open: the kernel knows under which name each is now.
    fn by_descriptor(&self) -> Option<Found> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let descriptors = rustix::fs::openat(self.process.as_ref()?, c"fd", flags, Mode::empty()).ok()?;
        let entries = Dir::read_from(&descriptors).ok()?.map_while(Result::ok).take(MAX_SEARCHED_DESCRIPTORS);
        entries.into_iter().find_map(|entry| {
            let stat = rustix::fs::statat(&descriptors, entry.file_name(), rustix::fs::AtFlags::empty()).ok()?;
            if stat.st_ino != self.meant.1 {
                return None;
            }
            let path = rustix::fs::readlinkat(&descriptors, entry.file_name(), Vec::new()).ok()?.into_bytes();
            let roots = [(Some(&self.host), true), (self.root.as_ref(), false)];
            roots.into_iter().find_map(|(root, on_host)| match self.look(root?, on_host, &path, true) {
                Ok(Some(found)) => Some(found),
                _ => None,
            })
        })
    }

    /// Among the entries of the directories where it was.
    fn beside(&self, places: &[(&OwnedFd, bool, Vec<u8>)]) -> Option<Found> {
        places.iter().find_map(|(root, on_host, path)| {
            let (parent, _) = name::split(path)?;
            let directory = identity::open_directory(root.as_fd(), parent).ok()?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let listed = rustix::fs::openat(&directory, c".", flags, Mode::empty()).ok()?;
            let entries = Dir::read_from(&listed).ok()?.map_while(Result::ok).take(MAX_SEARCHED_ENTRIES);
            entries.into_iter().filter(|entry| entry.ino() == self.meant.1).find_map(|entry| {
                let name = OsStr::from_bytes(entry.file_name().to_bytes()).to_owned();
                let mut found_path = parent.strip_suffix(b"/").unwrap_or(parent).to_vec();
                found_path.push(b'/');
                found_path.extend_from_slice(name.as_bytes());
                let directory = rustix::io::fcntl_dupfd_cloexec(&directory, 0).ok()?;
                match self.look_at(directory, name, *on_host, found_path, true) {
                    Ok(Some(found)) => Some(found),
                    _ => None,
                }
            })
        })
    }
}

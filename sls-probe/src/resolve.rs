//! Names that a system call was given, made into those of the files.
//!
//! Where the kernel offers no better hooks, a record has such a name as the process passed it, and the directory that it
//! starts from. What is asked for here was just used by the process, so it is in the kernel's memory: nothing is waited for,
//! no file system is asked (one of FUSE could let the sensor wait for ever), and no file is opened but by its path alone.

use std::borrow::Cow;
use std::ffi::{CString, OsStr};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxFlags, open, openat2, statx};
use rustix::io::Errno;
use sls_core::{Event, Field};

use crate::record::{self, Passed};

/// How often a name may lead through links of `/proc` that say where a process is.
const MAX_PROCESS_LINKS: usize = 8;

/// A concurrent rename anywhere makes the kernel give up; it is asked again so many times.
const ATTEMPTS: usize = 3;

/// What the name of a removed file ends with.
const DELETED: &[u8] = b" (deleted)";

/// Resolves the names in records.
#[derive(Debug)]
pub(crate) struct Resolver {
    /// The sensor's mount namespace, and its root.
    namespace: Option<u32>,
    root: Option<OwnedFd>,
}

/// Where paths of a mount namespace begin: a directory in it, and its own path there.
struct Root<'a> {
    directory: Start<'a>,
    path: Vec<u8>,
}

enum Start<'a> {
    Own(BorrowedFd<'a>),
    Other(OwnedFd),
}

impl AsFd for Start<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Own(directory) => *directory,
            Self::Other(directory) => directory.as_fd(),
        }
    }
}

impl Resolver {
    pub(crate) fn new() -> Self {
        let namespace = fs::metadata("/proc/self/ns/mnt").ok().map(|meta| meta.ino() as u32);
        let root = open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok();
        Self { namespace, root }
    }

    /// Sets the names of `event`, which was decoded from `bytes`, to those of the files. A name that cannot be resolved
    /// stays as it was passed, made absolute: a link may have been in it, and it is not to be trusted.
    pub(crate) fn resolve(&self, bytes: &[u8], event: &mut Event) {
        let Ok(names) = record::passed_names(bytes) else { return };
        for passed in names.iter().flatten() {
            let found = self.root_of(event).and_then(|root| find(&root, passed, event));
            let Some(found) = found else { continue };
            event.set_text(passed.field, &found.path).mark_untrusted(passed.field);
            if let Some(file) = found.file.filter(|_| describes(event, passed.field)) {
                set_file(&file, event);
            }
        }
    }

    /// The root of the mount namespace of the event's process, or what the process has for it.
    fn root_of(&self, event: &Event) -> Option<Root<'_>> {
        if self.namespace.is_some() && event.mount_namespace == self.namespace {
            let directory = Start::Own(self.root.as_ref()?.as_fd());
            return Some(Root { directory, path: b"/".to_vec() });
        }
        let process = format!("/proc/{}", event.process.pid);
        // The number may be another process's by now.
        let namespace = fs::metadata(format!("{process}/ns/mnt")).ok()?.ino() as u32;
        if Some(namespace) != event.mount_namespace {
            return None;
        }
        let link = format!("{process}/root");
        let path = fs::read_link(&link).ok()?.into_os_string().into_vec();
        let directory = open(link, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        Some(Root { directory: Start::Other(directory), path })
    }
}

/// Whether what is found at the name `field` is the file that the event is of.
fn describes(event: &Event, field: Field) -> bool {
    match event.text(Field::FileOperation) {
        b"UNLINK" => false,
        b"RENAME" | b"LINK" => field == Field::NewFilePath,
        _ => true,
    }
}

struct Found {
    path: Vec<u8>,
    file: Option<OwnedFd>,
}

fn find(root: &Root<'_>, passed: &Passed<'_>, event: &Event) -> Option<Found> {
    let (mut base, mut name) = (record::path_of(passed.directory), Cow::Borrowed(passed.name));
    for _ in 0..MAX_PROCESS_LINKS {
        let Some((start, rest)) = process_link(&name, event) else { break };
        if let Some(start) = start {
            // An absolute path in the mount namespace.
            base = start;
        }
        name = Cow::Owned(rest);
    }
    let trimmed = name.iter().rposition(|byte| *byte != b'/').map_or(&b""[..], |last| &name[..=last]);
    let split = trimmed.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    let (parent, leaf) = trimmed.split_at(split);
    if passed.follow || matches!(leaf, b"" | b"." | b"..") {
        let file = lookup(root, &base, trimmed, OFlags::PATH)?;
        return Some(Found { path: path_of(&file)?, file: Some(file) });
    }
    let directory = lookup(root, &base, parent, OFlags::PATH | OFlags::DIRECTORY)?;
    let mut path = path_of(&directory)?;
    if path != b"/" {
        path.push(b'/');
    }
    path.extend_from_slice(leaf);
    let file = cached(directory.as_fd(), leaf, OFlags::PATH | OFlags::NOFOLLOW, ResolveFlags::empty());
    Some(Found { path, file })
}

/// The file called `name`, from the directory with the path `base`.
fn lookup(root: &Root<'_>, base: &[u8], name: &[u8], flags: OFlags) -> Option<OwnedFd> {
    let below = base
        .strip_prefix(&root.path[..])
        .filter(|below| root.path == b"/" || below.first().is_none_or(|b| *b == b'/'))?;
    let below = relative(below);
    if name.first() == Some(&b'/') {
        // From the root of the process, which it cannot leave.
        let start = cached(root.directory.as_fd(), below, OFlags::PATH | OFlags::DIRECTORY, ResolveFlags::NO_SYMLINKS)?;
        return cached(start.as_fd(), relative(name), flags, ResolveFlags::empty());
    }
    cached(root.directory.as_fd(), &[below, b"/", name].concat(), flags, ResolveFlags::empty())
}

/// Looks a name up in what the kernel has in memory. Links to the root lead to `directory`.
fn cached(directory: BorrowedFd<'_>, name: &[u8], flags: OFlags, resolve: ResolveFlags) -> Option<OwnedFd> {
    let name = CString::new(name).ok()?;
    let resolve = resolve | ResolveFlags::CACHED | ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..ATTEMPTS {
        match openat2(directory, &name, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            result => return result.ok(),
        }
    }
    None
}

fn relative(path: &[u8]) -> &[u8] {
    let start = path.iter().position(|byte| *byte != b'/').unwrap_or(path.len());
    if start == path.len() { b"." } else { &path[start..] }
}

/// The path of an open file in its mount namespace.
fn path_of(file: &OwnedFd) -> Option<Vec<u8>> {
    let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?.into_os_string().into_vec();
    (path.starts_with(b"/") && !path.ends_with(DELETED)).then_some(path)
}

/// If `name` leads through a link in `/proc` that says where the process itself is: where that is (none: its own root), and
/// the name from there. The sensor must not follow these: they would be its own.
fn process_link(name: &[u8], event: &Event) -> Option<(Option<Vec<u8>>, Vec<u8>)> {
    let mut names = name.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
    let is_process =
        |name: &[u8]| matches!(name, b"self" | b"thread-self") || name == event.process.pid.to_string().as_bytes();
    if !name.starts_with(b"/") || names.next()? != b"proc" || !is_process(names.next()?) {
        return None;
    }
    let link = names.next()?;
    let number = if link == b"fd" { names.next()? } else { b"" };
    let rest: Vec<u8> = names.flat_map(|name| [&b"/"[..], name]).collect::<Vec<_>>().concat();
    match link {
        b"root" => Some((None, if rest.is_empty() { b"/".to_vec() } else { rest })),
        b"cwd" | b"fd" => {
            let link = [b"/proc/", event.process.pid.to_string().as_bytes(), b"/", link, b"/", number].concat();
            let link = link.strip_suffix(b"/").unwrap_or(&link);
            let path = fs::read_link(Path::new(OsStr::from_bytes(link))).ok()?.into_os_string().into_vec();
            if !path.starts_with(b"/") || path.ends_with(DELETED) {
                return None;
            }
            let rest = rest.strip_prefix(b"/").map_or(b".".to_vec(), <[u8]>::to_vec);
            Some((Some(path), rest))
        }
        _ => None,
    }
}

/// Sets what is known of the file. Another may have taken its place meanwhile.
fn set_file(file: &OwnedFd, event: &mut Event) {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let Ok(stat) = statx(file, "", flags, StatxFlags::BASIC_STATS) else { return };
    let device = rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor);
    let values = [
        (Field::FileMode, u64::from(stat.stx_mode) & 0o7777),
        (Field::FileUid, stat.stx_uid.into()),
        (Field::FileGid, stat.stx_gid.into()),
        (Field::FileInode, stat.stx_ino),
        (Field::FileDevice, device),
    ];
    // The mode that was asked for is better than one that was looked up afterwards.
    let known = event.number(Field::FileMode).is_some();
    for (field, value) in values.into_iter().skip(usize::from(known)) {
        event.set_number(field, value).mark_untrusted(field);
    }
}

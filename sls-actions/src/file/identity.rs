//! Which file a name or a descriptor stands for.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, StatxFlags};
use rustix::io::Errno;

/// The most bytes of a table of mounts that are read.
const MAX_MOUNTINFO: u64 = 16 << 20;

/// Device and inode as stat(2) gives them. While a descriptor of the file is held no other file has the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId {
    pub(super) device: u64,
    pub(super) inode: u64,
}

impl FileId {
    pub(super) fn of(stat: &Stat) -> Self {
        Self { device: stat.st_dev, inode: stat.st_ino }
    }

    /// Of what `name` in `directory` is now; a symbolic link is not followed.
    pub(super) fn at(directory: impl AsFd, name: impl rustix::path::Arg) -> Result<Self, Errno> {
        rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| Self::of(&stat))
    }
}

/// Whether the open file is the one that an event calls `device` and `inode`. Events have the device of the file system;
/// on Btrfs, and on overlays of several file systems, stat(2) gives another, and the table of mounts has it.
pub(super) fn is_meant(file: impl AsFd, stat: &Stat, (device, inode): (u64, u64), pid: u32) -> bool {
    stat.st_ino == inode && (stat.st_dev == device || superblock_device(file, pid) == Some(device))
}

fn superblock_device(file: impl AsFd, pid: u32) -> Option<u64> {
    let stat = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
    let tables = ["/proc/self/mountinfo".to_owned(), format!("/proc/{pid}/mountinfo")];
    tables.into_iter().find_map(|table| mount_device(&table, stat.stx_mnt_id))
}

fn mount_device(table: &str, mount: u64) -> Option<u64> {
    let lines = BufReader::new(File::open(table).ok()?.take(MAX_MOUNTINFO)).split(b'\n');
    lines.map_while(Result::ok).find_map(|line| {
        let mut words = std::str::from_utf8(&line).ok()?.split(' ');
        if words.next()?.parse() != Ok(mount) {
            return None;
        }
        let (major, minor) = words.nth(1)?.split_once(':')?;
        Some(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?))
    })
}

/// Opens a directory by a path below `root`, without following any symbolic link. The descriptor only names it.
pub(super) fn open_directory(root: impl AsFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let below = path.iter().position(|byte| *byte != b'/').map_or(&b"."[..], |start| &path[start..]);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::BENEATH;
    rustix::fs::openat2(root, OsStr::from_bytes(below), flags, Mode::empty(), resolve)
}

/// The root directory of the sensor.
pub(super) fn own_root() -> Result<OwnedFd, Errno> {
    rustix::fs::open(c"/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// A descriptor of what `name` in `directory` is, which allows nothing but to name it.
pub(super) fn open_name(directory: impl AsFd, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(directory, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// The same file, open for reading. A regular file: opening others may have effects.
pub(super) fn reopen(file: impl AsFd) -> Result<File, Errno> {
    // Not the descriptor itself, which would be closed before its name is used.
    let path = own_link(&file);
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    // Reading shall leave no trace in the time of access; only the owner and root may ask for that.
    let opened = rustix::fs::open(&*path, flags | OFlags::NOATIME, Mode::empty());
    opened.or_else(|_| rustix::fs::open(&*path, flags, Mode::empty())).map(File::from)
}

/// Name of a descriptor of the sensor in `/proc`.
fn own_link(file: &impl AsFd) -> String {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())
}

/// What kind of thing a file is, in words; none for a regular file.
pub(super) fn not_regular(stat: &Stat) -> Option<&'static str> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => None,
        FileType::Directory => Some("a directory"),
        FileType::Symlink => Some("a symbolic link"),
        FileType::Fifo => Some("a FIFO"),
        FileType::Socket => Some("a socket"),
        FileType::CharacterDevice | FileType::BlockDevice => Some("a device"),
        _ => Some("no regular file"),
    }
}

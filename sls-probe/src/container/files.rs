//! Reading what lies under the host's root directory, and no more than was agreed.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use serde::de::DeserializeOwned;

/// The largest file of a runtime or an engine that is read. Those of one container have some 10 KiB; the list of all
/// containers of Podman has 1 KiB of each.
pub const MAX_STATE_FILE_BYTES: u64 = 8 * 1024 * 1024;

/// The most entries of one directory that are looked at.
pub const MAX_STATE_DIR_ENTRIES: usize = 4096;

/// Components of a path that may be missing when it is resolved.
const MAX_MISSING: usize = 40;

/// A directory that is taken for the root: links in it lead nowhere else.
#[derive(Debug)]
pub(crate) struct Root {
    dir: File,
    /// What the kernel calls it.
    path: PathBuf,
}

impl Root {
    pub(crate) fn open(path: &Path) -> Option<Self> {
        let dir = File::open(path).ok()?;
        let path = named(&dir)?;
        Some(Self { dir, path })
    }

    /// Its path from the sensor's own root.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn open_in(&self, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
        // Nobody is waited for who would have to open a FIFO. The flags do not go with O_PATH, which opens nothing.
        let patient = if flags.contains(OFlag::O_PATH) { OFlag::empty() } else { OFlag::O_NONBLOCK | OFlag::O_NOCTTY };
        let flags = flags | patient | OFlag::O_CLOEXEC;
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        openat2(&self.dir, path, OpenHow::new().flags(flags).resolve(resolve))
    }

    /// A file, if it is a regular one that is not too large.
    pub(crate) fn read(&self, path: &Path) -> Option<Vec<u8>> {
        let file = File::from(self.open_in(path, OFlag::O_RDONLY).ok()?);
        if !file.metadata().ok()?.is_file() {
            return None;
        }
        let mut bytes = Vec::new();
        file.take(MAX_STATE_FILE_BYTES + 1).read_to_end(&mut bytes).ok()?;
        (bytes.len() as u64 <= MAX_STATE_FILE_BYTES).then_some(bytes)
    }

    /// A JSON document. Bytes that are no UTF-8 are replaced, so that they do not hide the rest.
    pub(crate) fn json<T: DeserializeOwned>(&self, path: &Path) -> Option<T> {
        json(&self.read(path)?)
    }

    /// The names in a directory.
    pub(crate) fn names(&self, path: &Path) -> Vec<PathBuf> {
        let Ok(dir) = self.open_in(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY) else { return Vec::new() };
        let Ok(entries) = fs::read_dir(format!("/proc/self/fd/{}", dir.as_raw_fd())) else { return Vec::new() };
        entries.take(MAX_STATE_DIR_ENTRIES).filter_map(|entry| Some(PathBuf::from(entry.ok()?.file_name()))).collect()
    }

    /// What tells one state of a file from another.
    pub(crate) fn version(&self, path: &Path) -> Option<(u64, i64, i64)> {
        let file = File::from(self.open_in(path, OFlag::O_PATH).ok()?);
        let meta = file.metadata().ok()?;
        Some((meta.ino(), meta.mtime(), meta.mtime_nsec()))
    }

    /// How long ago a file was changed.
    pub(crate) fn age(&self, path: &Path) -> Option<Duration> {
        let file = File::from(self.open_in(path, OFlag::O_PATH).ok()?);
        Some(file.metadata().ok()?.modified().ok()?.elapsed().unwrap_or_default())
    }

    /// The path from this root without links. What does not exist yet stays as it is.
    pub(crate) fn resolve(&self, path: &Path) -> Option<Vec<u8>> {
        let mut existing = path;
        for _ in 0..MAX_MISSING {
            match self.open_in(existing, OFlag::O_PATH) {
                Ok(fd) => {
                    let found = named(&File::from(fd))?;
                    let inside = found.strip_prefix(&self.path).ok()?;
                    let rest = path.strip_prefix(existing).ok()?;
                    let whole = Path::new("/").join(inside).join(rest);
                    return Some(trimmed(whole.as_os_str().as_bytes()).to_vec());
                }
                Err(Errno::ENOENT) => existing = existing.parent()?,
                Err(_) => return None,
            }
        }
        None
    }

    /// Another root, somewhere in this one.
    pub(crate) fn sub(&self, path: &Path) -> Option<Self> {
        let dir = File::from(self.open_in(path, OFlag::O_PATH | OFlag::O_DIRECTORY).ok()?);
        let path = named(&dir)?;
        Some(Self { dir, path })
    }

    /// The inode behind a path such as `/proc/PID/ns/net`.
    pub(crate) fn namespace(&self, path: &Path) -> Option<u64> {
        let path = path.strip_prefix("/").unwrap_or(path);
        fs::metadata(self.path.join(path)).ok().map(|meta| meta.ino())
    }
}

/// `document` as a `T`.
pub(crate) fn json<T: DeserializeOwned>(document: &[u8]) -> Option<T> {
    serde_json::from_str(&String::from_utf8_lossy(document)).ok()
}

/// What the kernel calls an open file, if it still has that name.
fn named(file: &File) -> Option<PathBuf> {
    let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
    let (open, found) = (file.metadata().ok()?, fs::symlink_metadata(&path).ok()?);
    ((open.dev(), open.ino()) == (found.dev(), found.ino())).then_some(path)
}

/// Without a slash at the end, unless there is nothing else.
fn trimmed(path: &[u8]) -> &[u8] {
    match path.strip_suffix(b"/") {
        Some(b"") | None => path,
        Some(rest) => rest,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nothing_outside_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        fs::create_dir_all(path.join("etc/deep")).unwrap();
        fs::write(path.join("etc/hostname"), b"inside").unwrap();
        symlink("/etc/hostname", path.join("absolute")).unwrap();
        symlink("../../../../etc/hostname", path.join("relative")).unwrap();
        symlink("/etc", path.join("link")).unwrap();
        symlink("loop", path.join("loop")).unwrap();
        let root = Root::open(path).unwrap();
        for name in ["absolute", "relative", "/etc/hostname", "link/hostname", "../etc/hostname"] {
            assert_eq!(root.read(Path::new(name)).as_deref(), Some(&b"inside"[..]), "{name}");
        }
        assert_eq!(root.read(Path::new("/etc")), None);
        assert_eq!(root.read(Path::new("loop")), None);
        let resolve = |path: &str| root.resolve(Path::new(path)).map(|path| String::from_utf8(path).unwrap());
        assert_eq!(resolve("/link/hostname").unwrap(), "/etc/hostname");
        assert_eq!(resolve("/link/deep/new/file").unwrap(), "/etc/deep/new/file");
        assert_eq!(resolve("/").unwrap(), "/");
        assert_eq!(resolve("/loop/x"), None);
        assert_eq!(root.sub(Path::new("link")).unwrap().resolve(Path::new("/deep")).unwrap(), b"/deep");
    }

    #[test]
    fn what_is_no_file_or_too_large_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        nix::unistd::mkfifo(&dir.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        File::create(dir.path().join("large")).unwrap().set_len(MAX_STATE_FILE_BYTES + 1).unwrap();
        let root = Root::open(dir.path()).unwrap();
        assert_eq!(root.read(Path::new("fifo")), None);
        assert_eq!(root.read(Path::new("large")), None);
    }

    #[test]
    fn bytes_that_are_no_text_hide_nothing() {
        let list: Vec<String> = json(b"[\"a\xff\", \"b\"]").unwrap();
        assert_eq!(list, ["a\u{fffd}", "b"]);
    }
}

//! Files to act on, and what they are.

// Each test program uses a part.
#![allow(dead_code, clippy::unwrap_used)]

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::{MountFlags, UnmountFlags};
use sls_actions::{FileResponder, QuarantineStore};
use sls_core::{
    Action, ActionContext, ActionOutcome, Event, EventKind, Field, Permission, PlannedAction, Responder, Target,
};

/// A directory that goes away again, with a store in it.
pub(crate) struct Place {
    pub(crate) directory: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "needs root");
        Self { directory: tempfile::Builder::new().prefix("sls-file-").tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn file(&self, name: impl AsRef<Path>, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    pub(crate) fn store(&self) -> QuarantineStore {
        QuarantineStore::open(self.path("store")).unwrap()
    }

    pub(crate) fn responder(&self) -> FileResponder {
        FileResponder::builder().store(self.store()).build().unwrap()
    }
}

/// A file system of its own, for as long as the value lives.
pub(crate) struct Tmpfs(pub(crate) PathBuf);

impl Tmpfs {
    pub(crate) fn mount(at: PathBuf) -> Self {
        fs::create_dir(&at).unwrap();
        rustix::mount::mount(c"tmpfs", &at, c"tmpfs", MountFlags::empty(), Some(c"size=64m")).unwrap();
        Self(at)
    }

    pub(crate) fn set_readonly(&self) {
        rustix::mount::mount_remount(&self.0, MountFlags::RDONLY, c"").unwrap();
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, UnmountFlags::DETACH);
    }
}

pub(crate) fn identity(path: &Path) -> Target {
    let metadata = fs::symlink_metadata(path).unwrap();
    Target::File { device: metadata.dev(), inode: metadata.ino() }
}

/// An event of this process about the file `path`.
pub(crate) fn event(path: &Path) -> Event {
    let mut event = Event::new(EventKind::File);
    event.process = sls_actions::process_key(std::process::id()).unwrap();
    event.set_text(Field::FilePath, path.as_os_str().as_bytes());
    event
}

pub(crate) fn act(responder: &mut FileResponder, action: Action, target: Target, event: &Event) -> ActionOutcome {
    let planned = PlannedAction::new(action, target, Permission::Granted);
    responder.execute(&planned, &ActionContext::new(event)).finish()
}

/// Acts on the file that has `path` now, and says what came of it.
pub(crate) fn on(responder: &mut FileResponder, action: Action, path: &Path) -> (&'static str, String) {
    said(&act(responder, action, identity(path), &event(path)))
}

pub(crate) fn said(outcome: &ActionOutcome) -> (&'static str, String) {
    (outcome.result.name(), outcome.result.details().to_owned())
}

pub(crate) const SUCCESSFUL: (&str, String) = ("successful", String::new());

/// Everything about a file that restoring is to bring back.
#[derive(Debug, PartialEq)]
pub(crate) struct Whole {
    content: Vec<u8>,
    owner: (u32, u32),
    mode: u32,
    modified: (i64, i64),
    accessed: (i64, i64),
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

pub(crate) fn whole(path: &Path) -> Whole {
    let metadata = fs::symlink_metadata(path).unwrap();
    let file = File::open(path).unwrap();
    let mut names = vec![0; 4096];
    let len = rustix::fs::flistxattr(&file, &mut names[..]).unwrap();
    let mut xattrs: Vec<_> = names[..len]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 4096];
            let len = rustix::fs::fgetxattr(&file, name, &mut value[..]).unwrap();
            (name.to_vec(), value[..len].to_vec())
        })
        .collect();
    xattrs.sort();
    Whole {
        content: fs::read(path).unwrap(),
        owner: (metadata.uid(), metadata.gid()),
        mode: metadata.mode(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        accessed: (metadata.atime(), metadata.atime_nsec()),
        xattrs,
    }
}

/// A file with an owner, mode, times and attributes of its own.
pub(crate) fn peculiar(path: &Path) {
    fs::write(path, b"peculiar content").unwrap();
    std::os::unix::fs::chown(path, Some(1234), Some(5678)).unwrap();
    fs::set_permissions(path, PermissionsExt::from_mode(0o4751)).unwrap();
    let file = File::open(path).unwrap();
    for (name, value) in [(c"user.odd", &b"a\0b\xff%"[..]), (c"trusted.more", b"")] {
        rustix::fs::fsetxattr(&file, name, value, rustix::fs::XattrFlags::empty()).unwrap();
    }
    let time = |tv_sec, tv_nsec| rustix::fs::Timespec { tv_sec, tv_nsec };
    let times =
        rustix::fs::Timestamps { last_access: time(1_000_000_001, 7), last_modification: time(-5, 123_456_789) };
    rustix::fs::futimens(&file, &times).unwrap();
}

pub(crate) fn run(program: &str, arguments: &[&std::ffi::OsStr]) {
    assert!(Command::new(program).args(arguments).status().unwrap().success(), "{program} {arguments:?}");
}

//! What is watched: files and file systems.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::fanotify::{MarkFlags, MaskFlags};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use nix::sys::memfd::{MFdFlags, memfd_create};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxFlags, open, openat2, statx};

use super::group::{OPEN, OPEN_EXEC};
use super::held::Waiting;
use super::mounts::{self, Mount};
use super::stats::count;

/// Files and file systems that are watched at most. More are told of as errors.
pub const MAX_MARKS: usize = 4096;

/// Mount namespaces that are looked into at most, the sensor's own included.
pub const MAX_MOUNT_NAMESPACES: usize = 256;

/// Mounts of one namespace that are looked at.
const MAX_MOUNTS: usize = 4096;

/// What may happen to a directory in which a file is looked for.
const CHANGES: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_ONLYDIR);

/// Where a policy looks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum WatchScope {
    /// The file that has this path, in any mount namespace: that file alone is watched, and nothing else costs anything. One
    /// that takes its place is watched as soon as the sensor was told of it, not at once: where that matters, watch its
    /// directory.
    File(PathBuf),
    /// Everything below this directory. Its file system is watched as a whole, and so are those mounted below.
    Under(PathBuf),
    /// Every file.
    Everywhere,
    /// Files that are in no directory, made by `memfd_create`.
    Memfd,
}

/// A place that is watched, and what for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct FanotifyWatch {
    /// Where.
    pub scope: WatchScope,
    /// Whether executions are held.
    pub exec: bool,
    /// Whether every opening is held. It takes the place of nothing: an execution is held twice then.
    pub open: bool,
    /// Whether a program that is handed to the loader of programs (`ld.so PROGRAM`) counts as executed. Every opening has to be held for it.
    pub loaders: bool,
}

impl FanotifyWatch {
    /// Executions of what is in `scope`; of a single file also those by way of the loader.
    #[must_use]
    pub fn exec(scope: WatchScope) -> Self {
        let loaders = matches!(scope, WatchScope::File(_));
        Self { scope, exec: true, open: false, loaders }
    }

    /// Openings of what is in `scope`.
    #[must_use]
    pub fn open(scope: WatchScope) -> Self {
        Self { scope, exec: false, open: true, loaders: false }
    }

    /// Sets whether what the loader opens counts as executed.
    #[must_use]
    pub fn loaders(mut self, on: bool) -> Self {
        self.loaders = on;
        self
    }

    fn mask(&self) -> MaskFlags {
        let mut mask = MaskFlags::empty();
        mask.set(OPEN_EXEC, self.exec);
        mask.set(OPEN, self.open || self.loaders);
        mask
    }
}

/// Something that could not be watched.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unwatched {
    /// The path, as the mount namespace has it.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

/// A file by its path in one mount namespace.
#[derive(Debug)]
struct Wanted {
    path: PathBuf,
    mask: MaskFlags,
    namespace: u32,
    /// The nearest directory that there is, and what in it leads on.
    watched: Option<(WatchDescriptor, OsString)>,
}

/// What is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Object {
    File { device: u64, inode: u64 },
    FileSystem { device: u64 },
}

#[derive(Debug)]
struct Placed {
    mask: MaskFlags,
    /// Where it was found, to take the mark away.
    namespace: u32,
    path: PathBuf,
}

/// A mount namespace, and a process in it.
#[derive(Clone, Copy, Debug)]
struct Namespace {
    inode: u32,
    pid: Option<u32>,
}

impl Namespace {
    fn process(self) -> String {
        self.pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string())
    }

    /// Its root. It is not kept: that would keep others from unmounting.
    fn root(self) -> io::Result<OwnedFd> {
        let path = self.pid.map_or_else(|| "/".to_owned(), |pid| format!("/proc/{pid}/root"));
        let root = open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        // The number may be another process's by now.
        match self.pid {
            Some(pid) if namespace_of(pid) != Some(self.inode) => Err(Errno::ESRCH.into()),
            _ => Ok(root),
        }
    }
}

fn namespace_of(pid: u32) -> Option<u32> {
    fs::metadata(format!("/proc/{pid}/ns/mnt")).ok()?.ino().try_into().ok()
}

#[derive(Debug)]
pub(super) struct Marks {
    waiting: Arc<Waiting>,
    inotify: Inotify,
    watches: Vec<FanotifyWatch>,
    files: Vec<Wanted>,
    placed: HashMap<Object, Placed>,
    namespaces: Vec<Namespace>,
    unwatched: Vec<Unwatched>,
    /// Whether something found no room by the last look.
    lacks_room: bool,
}

impl Marks {
    pub(super) fn new(waiting: Arc<Waiting>) -> io::Result<Self> {
        let own = fs::metadata("/proc/self/ns/mnt")?.ino() as u32;
        Ok(Self {
            waiting,
            inotify: Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?,
            watches: Vec::new(),
            files: Vec::new(),
            placed: HashMap::new(),
            namespaces: vec![Namespace { inode: own, pid: None }],
            unwatched: Vec::new(),
            lacks_room: false,
        })
    }

    pub(super) fn changes(&self) -> impl AsFd + '_ {
        &self.inotify
    }

    pub(super) fn watches_file_systems(&self) -> bool {
        self.watches.iter().any(|watch| matches!(watch.scope, WatchScope::Under(_) | WatchScope::Everywhere))
    }

    pub(super) fn watches_files(&self) -> bool {
        !self.files.is_empty()
    }

    pub(super) fn unwatched(&self) -> &[Unwatched] {
        &self.unwatched
    }

    /// Watches these from now on, and no others. What is watched before and after is watched all the time.
    pub(super) fn set(&mut self, watches: &[FanotifyWatch]) {
        self.watches = watches.to_vec();
        let opens = watches.iter().any(|watch| watch.open);
        let loaders = watches.iter().any(|watch| watch.loaders);
        self.waiting.set_watched(opens, loaders);
        if !watches.is_empty() {
            self.find_namespaces();
        }
        self.place();
    }

    /// Looks for the mount namespaces of all processes.
    fn find_namespaces(&mut self) {
        // Of those that are known, the process may have gone.
        self.namespaces.truncate(1);
        let mut known: HashSet<u32> = self.namespaces.iter().map(|namespace| namespace.inode).collect();
        for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let pid = process.file_name().to_str().and_then(|name| name.parse().ok());
            let Some((pid, inode)) = pid.and_then(|pid| Some((pid, namespace_of(pid)?))) else { continue };
            if known.contains(&inode) {
                continue;
            }
            if known.len() >= MAX_MOUNT_NAMESPACES {
                count(&self.waiting.counters.namespaces_forgotten);
                continue;
            }
            known.insert(inode);
            self.namespaces.push(Namespace { inode, pid: Some(pid) });
        }
    }

    /// Looks into the mount namespace of a process, if it was not known.
    pub(super) fn see(&mut self, pid: u32) {
        let Some(inode) = namespace_of(pid) else { return };
        match self.namespaces.iter_mut().find(|known| known.inode == inode) {
            Some(known) if known.pid.is_none() => return,
            Some(known) => known.pid = Some(pid),
            None => {
                if self.namespaces.len() >= MAX_MOUNT_NAMESPACES {
                    self.namespaces.remove(1);
                    count(&self.waiting.counters.namespaces_forgotten);
                }
                self.namespaces.push(Namespace { inode, pid: Some(pid) });
            }
        }
        if !self.watches.is_empty() {
            self.place();
        }
        count(&self.waiting.counters.namespaces_seen);
    }

    /// Places every mark that is wanted and missing, then takes away what is no longer wanted.
    pub(super) fn place(&mut self) {
        self.place_all();
        if std::mem::take(&mut self.lacks_room) {
            // What is no longer wanted has left some.
            self.place_all();
            self.lacks_room = false;
        }
    }

    fn place_all(&mut self) {
        self.unwatched.clear();
        for wanted in self.files.drain(..) {
            if let Some((descriptor, _)) = wanted.watched {
                let _ = self.inotify.rm_watch(descriptor);
            }
        }
        let mut wanted: HashMap<Object, MaskFlags> = HashMap::new();
        for namespace in self.namespaces.clone() {
            let Ok(root) = namespace.root() else { continue };
            let mounts = mounts::of(&namespace.process(), MAX_MOUNTS).unwrap_or_default();
            for watch in self.watches.clone() {
                self.place_watch(&watch, namespace, &root, &mounts, &mut wanted);
            }
        }
        self.namespaces.retain(|namespace| namespace.pid.is_none_or(|pid| namespace_of(pid) == Some(namespace.inode)));
        self.remove_except(&wanted);
    }

    fn place_watch(
        &mut self,
        watch: &FanotifyWatch,
        namespace: Namespace,
        root: &OwnedFd,
        mounts: &[Mount],
        wanted: &mut HashMap<Object, MaskFlags>,
    ) {
        let mask = watch.mask();
        let chosen = match &watch.scope {
            WatchScope::File(path) => {
                let (path, namespace) = (path.clone(), namespace.inode);
                self.files.push(Wanted { path, mask, namespace, watched: None });
                let at = self.files.len() - 1;
                if let Some(object) = self.place_file(at, root) {
                    wanted.entry(object).or_insert(MaskFlags::empty()).insert(mask);
                }
                return;
            }
            WatchScope::Memfd => {
                if namespace.pid.is_none() {
                    match memfd_create(c"sls", MFdFlags::MFD_CLOEXEC) {
                        Ok(file) => self.place_file_system(&file, Path::new("memfd"), mask, namespace, wanted),
                        Err(errno) => self.fail(Path::new("memfd"), errno.to_string()),
                    }
                }
                return;
            }
            WatchScope::Under(directory) => mounts::under(mounts, directory),
            WatchScope::Everywhere => mounts.iter().collect(),
        };
        for mount in chosen {
            if mount.is_of_kernel() {
                continue;
            }
            if mount.is_remote() {
                self.fail(&mount.path, "another machine or program answers for this file system".to_owned());
                continue;
            }
            match find(root, &mount.path, OFlags::PATH) {
                Ok(file) => self.place_file_system(&file, &mount.path, mask, namespace, wanted),
                // Another mount covers it, or nobody may look at it.
                Err(error) => self.fail(&mount.path, error.to_string()),
            }
        }
    }

    fn place_file_system(
        &mut self,
        file: impl AsFd,
        path: &Path,
        mask: MaskFlags,
        namespace: Namespace,
        wanted: &mut HashMap<Object, MaskFlags>,
    ) {
        let Ok((device, _)) = identity(&file) else { return };
        let object = Object::FileSystem { device };
        wanted.entry(object).or_insert(MaskFlags::empty()).insert(mask);
        self.mark(object, &file, mask, path, namespace.inode);
    }

    /// Marks the file that has the path now, and has the directory watched in which another can take its place.
    fn place_file(&mut self, at: usize, root: &OwnedFd) -> Option<Object> {
        let path = self.files[at].path.clone();
        // The directory first: what happens after that is told.
        let watched = self.watch_directory(&path, root);
        let Wanted { mask, namespace, .. } = self.files[at];
        self.files[at].watched = watched;
        let file = find(root, &path, OFlags::PATH).ok()?;
        let (device, inode) = identity(&file).ok()?;
        let object = Object::File { device, inode };
        self.mark(object, &file, mask, &path, namespace);
        Some(object)
    }

    fn watch_directory(&self, path: &Path, root: &OwnedFd) -> Option<(WatchDescriptor, OsString)> {
        let mut next = path;
        while let (Some(directory), Some(name)) = (next.parent(), next.file_name()) {
            if let Ok(file) = find(root, directory, OFlags::PATH | OFlags::DIRECTORY) {
                let descriptor = self.inotify.add_watch(&*own_path(&file), CHANGES).ok()?;
                return Some((descriptor, name.to_owned()));
            }
            next = directory;
        }
        None
    }

    /// Marks again what has taken the place of a file. Call it when [`changes`](Self::changes) can be read.
    pub(super) fn follow(&mut self) {
        let mut changed: HashSet<usize> = HashSet::new();
        while let Ok(events) = self.inotify.read_events() {
            for event in &events {
                let is_hit = |wanted: &Wanted| {
                    let hit = wanted.watched.as_ref().filter(|(descriptor, _)| *descriptor == event.wd);
                    hit.is_some_and(|(_, name)| event.name.as_deref().is_none_or(|changed: &OsStr| changed == name))
                };
                let overflowed = event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW);
                changed.extend((0..self.files.len()).filter(|at| overflowed || is_hit(&self.files[*at])));
            }
        }
        self.refresh(changed.into_iter());
    }

    /// Looks whether every file is still the one that is marked.
    pub(super) fn recheck(&mut self) {
        self.refresh(0..self.files.len());
    }

    fn refresh(&mut self, files: impl Iterator<Item = usize>) {
        for at in files {
            let namespace = self.files[at].namespace;
            let namespace = self.namespaces.iter().find(|known| known.inode == namespace);
            let Some(root) = namespace.and_then(|namespace| namespace.root().ok()) else { continue };
            self.place_file(at, &root);
        }
    }

    fn mark(&mut self, object: Object, file: impl AsFd, mask: MaskFlags, path: &Path, namespace: u32) {
        let placed = self.placed.get(&object).map_or(MaskFlags::empty(), |placed| placed.mask);
        // A file that was removed takes its mark with it, and its number may be another's: so it is marked anew each time.
        let is_file_system = matches!(object, Object::FileSystem { .. });
        if is_file_system && placed.contains(mask) {
            return;
        }
        if placed.is_empty() && self.placed.len() >= MAX_MARKS {
            self.lacks_room = true;
            return self.fail(path, format!("more than {MAX_MARKS} files and file systems"));
        }
        match self.waiting.group.mark(MarkFlags::FAN_MARK_ADD | scope_of(object), mask, &own_path(file)) {
            Ok(()) => {
                let mask = placed | mask;
                self.placed.insert(object, Placed { mask, namespace, path: path.to_owned() });
            }
            Err(errno) => self.fail(path, errno.to_string()),
        }
    }

    fn remove_except(&mut self, wanted: &HashMap<Object, MaskFlags>) {
        let none = MaskFlags::empty();
        let stale: Vec<Object> = self
            .placed
            .keys()
            .copied()
            .filter(|object| !wanted.get(object).unwrap_or(&none).contains(self.placed[object].mask))
            .collect();
        for object in stale {
            let keep = *wanted.get(&object).unwrap_or(&none);
            let Some(placed) = self.placed.get_mut(&object) else { continue };
            let surplus = placed.mask & !keep;
            placed.mask = keep;
            let namespace = self.namespaces.iter().find(|known| known.inode == placed.namespace);
            let file = namespace.and_then(|namespace| find(&namespace.root().ok()?, &placed.path, OFlags::PATH).ok());
            // What is no longer there has no mark either. What has moved keeps it: nobody objects to what it does.
            if let Some(file) = file.filter(|file| is(object, file)) {
                let _ =
                    self.waiting.group.mark(MarkFlags::FAN_MARK_REMOVE | scope_of(object), surplus, &own_path(&file));
            }
            if keep.is_empty() {
                self.placed.remove(&object);
            }
        }
    }

    fn fail(&mut self, path: &Path, reason: String) {
        if self.unwatched.iter().any(|unwatched| unwatched.path == path && unwatched.reason == reason) {
            return;
        }
        count(&self.waiting.counters.marks_failed);
        if self.unwatched.len() < MAX_MARKS {
            self.unwatched.push(Unwatched { path: path.to_owned(), reason });
        }
    }
}

fn scope_of(object: Object) -> MarkFlags {
    match object {
        Object::File { .. } => MarkFlags::empty(),
        Object::FileSystem { .. } => MarkFlags::FAN_MARK_FILESYSTEM,
    }
}

fn is(object: Object, file: &OwnedFd) -> bool {
    identity(file).is_ok_and(|(device, inode)| match object {
        Object::File { .. } => object == Object::File { device, inode },
        Object::FileSystem { .. } => object == Object::FileSystem { device },
    })
}

/// Looks a path up from the root of a mount namespace, opening nothing.
fn find(root: &OwnedFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)?)
}

/// Device and inode.
fn identity(file: impl AsFd) -> io::Result<(u64, u64)> {
    let stat = statx(file, "", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, StatxFlags::INO)?;
    Ok((rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino))
}

/// A path by which this process reaches a file that it has: the kernel marks none that was opened by its path alone.
fn own_path(file: impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()))
}

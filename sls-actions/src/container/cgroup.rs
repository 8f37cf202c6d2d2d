//! Cgroups as directories that are held open: what is written through one cannot reach a cgroup that was made later
//! under the same name.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, FileType, Mode, OFlags, fstat, fstatfs, openat};
use rustix::io::Errno;

/// The most processes of a container that the guards are asked about. An action on a container that has more is
/// `not successful`, for one of them may be protected.
pub const MAX_CONTAINER_PROCESSES: usize = 65_536;

/// The most cgroups that are looked at: below the cgroup of a container, and of the whole host where the container has to
/// be searched for.
pub const MAX_CONTAINER_CGROUPS: usize = 16_384;

/// The most levels that a container's cgroup may lie below the root.
pub const MAX_CONTAINER_CGROUP_DEPTH: usize = 64;

/// Magic numbers of the file systems, see statfs(2).
const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;
const CGROUP_SUPER_MAGIC: u64 = 0x0027_e0eb;

/// Longest file that is read, but for lists of processes: `cgroup.events` and its like have a few words.
const MAX_FILE_BYTES: u64 = 4096;

/// Room for one pid and its line feed.
const MAX_PID_LINE: u64 = 11;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A hierarchy of cgroups where it is mounted.
#[derive(Debug)]
pub(crate) struct Hierarchy {
    root: Cgroup,
    /// The cgroup that is mounted, from the root of what the sensor's cgroup namespace shows.
    mounted: Vec<u8>,
}

impl Hierarchy {
    /// Version 2.
    pub(crate) fn unified() -> io::Result<Self> {
        Self::mount(CGROUP2_SUPER_MAGIC, |kind, _| kind == b"cgroup2")
    }

    /// The freezer of version 1.
    pub(crate) fn freezer() -> io::Result<Self> {
        Self::mount(CGROUP_SUPER_MAGIC, |kind, options| {
            kind == b"cgroup" && options.split(|byte| *byte == b',').any(|option| option == b"freezer")
        })
    }

    /// Where it is mounted. What comes last covers what was there before.
    fn mount(magic: u64, is_wanted: impl Fn(&[u8], &[u8]) -> bool) -> io::Result<Self> {
        let mounts = fs::read("/proc/self/mountinfo")?;
        let mut failed = io::Error::from(Errno::NOENT);
        for line in mounts.split(|byte| *byte == b'\n').rev() {
            let Some((mounted, point)) = mount_point(line, &is_wanted) else { continue };
            match open_root(&point, magic) {
                Ok(root) => return Ok(Self { root, mounted }),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Id of the cgroup at the root of the mount.
    pub(crate) fn root_id(&self) -> u64 {
        self.root.id
    }

    /// The cgroup with this id among the one at `path`, as `/proc/PID/cgroup` has it, and those above it.
    pub(crate) fn find_at(&self, path: &[u8], id: u64) -> Option<Cgroup> {
        let path = self.below_mount(path)?;
        let ends = (1..path.len()).filter(|end| path[*end] == b'/').chain([path.len()]);
        // The process is most often in the container's own cgroup or just below it.
        let mut ends: Vec<usize> = ends.take(MAX_CONTAINER_CGROUP_DEPTH).collect();
        ends.reverse();
        ends.into_iter().filter_map(|end| self.root.open(&path[..end]).ok()).find(|found| found.id == id)
    }

    /// The cgroup at `path`, as `/proc/PID/cgroup` has it.
    pub(crate) fn at(&self, path: &[u8]) -> Option<Cgroup> {
        match self.below_mount(path)? {
            b"" => None,
            path => self.root.open(path).ok(),
        }
    }

    /// Id of the cgroup at `path`, as `/proc/PID/cgroup` has it.
    pub(crate) fn id_at(&self, path: &[u8]) -> Option<u64> {
        Some(self.root.open(self.below_mount(path)?).ok()?.id)
    }

    /// The cgroup with this id, wherever it is, as far as [`MAX_CONTAINER_CGROUPS`] reach.
    pub(crate) fn search(&self, id: u64) -> io::Result<Option<Cgroup>> {
        let mut found = None;
        let all = self.root.each_below(MAX_CONTAINER_CGROUPS, &mut |cgroup| {
            if cgroup.id == id {
                found = Some(cgroup.try_clone()?);
            }
            Ok(found.is_none())
        })?;
        match found {
            None if !all => Err(io::Error::other(format!("there are more than {MAX_CONTAINER_CGROUPS} cgroups"))),
            found => Ok(found),
        }
    }

    /// From the mounted cgroup, without a slash in front; none if it is not below that.
    fn below_mount<'p>(&self, path: &'p [u8]) -> Option<&'p [u8]> {
        let path = if self.mounted == b"/" { path } else { path.strip_prefix(&*self.mounted)? };
        let path = if path.is_empty() { path } else { path.strip_prefix(b"/")? };
        let inside = path.split(|byte| *byte == b'/').all(|name| name != b"..");
        inside.then_some(path)
    }
}

/// One cgroup, by its directory.
#[derive(Debug)]
pub(crate) struct Cgroup {
    dir: OwnedFd,
    /// The inode of the directory.
    pub(crate) id: u64,
    device: u64,
}

impl Cgroup {
    fn of(dir: OwnedFd) -> io::Result<Self> {
        let stat = fstat(&dir)?;
        Ok(Self { dir, id: stat.st_ino, device: stat.st_dev })
    }

    /// The one at `path` below this one.
    fn open(&self, path: &[u8]) -> io::Result<Self> {
        if path.is_empty() {
            return self.try_clone();
        }
        // There are no symbolic links and no other mounts in a hierarchy of cgroups.
        let found = Self::of(openat(&self.dir, OsStr::from_bytes(path), DIRECTORY, Mode::empty())?)?;
        if found.device == self.device { Ok(found) } else { Err(Errno::XDEV.into()) }
    }

    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { dir: self.dir.try_clone()?, ..*self })
    }

    /// A file of the cgroup, to read or to poll.
    pub(crate) fn file(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat(&self.dir, name, flags, Mode::empty())?.into())
    }

    /// What the file `name` says.
    pub(crate) fn read(&self, name: &str) -> io::Result<String> {
        let mut text = String::new();
        self.file(name)?.take(MAX_FILE_BYTES).read_to_string(&mut text)?;
        Ok(text)
    }

    /// Writes `value` into the file `name`.
    pub(crate) fn write(&self, name: &str, value: &str) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        File::from(openat(&self.dir, name, flags, Mode::empty())?).write_all(value.as_bytes())
    }

    /// The ids of the cgroups above it, nearest first, that of the mount's root included.
    pub(crate) fn ids_above(&self) -> io::Result<Vec<u64>> {
        let mut ids = Vec::new();
        let mut cgroup = self.try_clone()?;
        loop {
            let above = Self::of(openat(&cgroup.dir, "..", DIRECTORY, Mode::empty())?)?;
            if above.device != self.device {
                return Ok(ids);
            }
            if ids.len() == MAX_CONTAINER_CGROUP_DEPTH {
                return Err(io::Error::other(format!("the cgroup is over {MAX_CONTAINER_CGROUP_DEPTH} levels deep")));
            }
            ids.push(above.id);
            cgroup = above;
        }
    }

    /// Hands this cgroup and those below it to `visit`, `limit` of them at most, until that says no. One that was removed
    /// meanwhile is left out. Gives whether these are all.
    fn each_below(&self, limit: usize, visit: &mut dyn FnMut(&Self) -> io::Result<bool>) -> io::Result<bool> {
        let mut waiting: Vec<Vec<u8>> = vec![Vec::new()];
        let mut count = 1;
        while let Some(path) = waiting.pop() {
            let cgroup = match self.open(&path) {
                Err(error) if is_gone(&error) => continue,
                cgroup => cgroup?,
            };
            match visit(&cgroup) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(error) if is_gone(&error) => continue,
                Err(error) => return Err(error),
            }
            let names = match Dir::read_from(&cgroup.dir) {
                Err(errno) if is_gone(&errno.into()) => continue,
                names => names?,
            };
            for entry in names {
                let entry = match entry {
                    Err(errno) if is_gone(&errno.into()) => break,
                    entry => entry?,
                };
                let name = entry.file_name().to_bytes();
                if entry.file_type() != FileType::Directory || matches!(name, b"." | b"..") {
                    continue;
                }
                count += 1;
                if count > limit {
                    return Ok(false);
                }
                let between: &[u8] = if path.is_empty() { b"" } else { b"/" };
                waiting.push([&path, between, name].concat());
            }
        }
        Ok(true)
    }

    /// Who is in this cgroup and in those below it, as far as `limits` reach.
    pub(crate) fn population(&self, limits: Limits) -> io::Result<Population> {
        let Limits { processes: limit, cgroups } = limits;
        let mut found = Population::default();
        let Population { processes, cgroups: ids, .. } = &mut found;
        let all = self.each_below(cgroups, &mut |cgroup| {
            ids.push(cgroup.id);
            let mut text = String::new();
            let room = (limit as u64 + 1) * MAX_PID_LINE;
            match cgroup.file("cgroup.procs")?.take(room).read_to_string(&mut text) {
                // Of a threaded cgroup: its processes are listed in the domain above.
                Err(error) if error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => {}
                result => drop(result?),
            }
            for pid in text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid != 0) {
                if processes.len() == limit {
                    return Ok(false);
                }
                processes.push((pid, cgroup.id));
            }
            Ok(true)
        })?;
        found.all = all;
        Ok(found)
    }
}

/// How many are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) processes: usize,
    pub(crate) cgroups: usize,
}

impl Limits {
    /// All that are ever looked at.
    pub(crate) const MAX: Self = Self { processes: MAX_CONTAINER_PROCESSES, cgroups: MAX_CONTAINER_CGROUPS };
}

/// Who is in a cgroup.
#[derive(Debug, Default)]
pub(crate) struct Population {
    /// Pid and id of the cgroup.
    pub(crate) processes: Vec<(u32, u64)>,
    /// Ids of the cgroup itself and of those below it.
    pub(crate) cgroups: Vec<u64>,
    /// Whether that is all.
    pub(crate) all: bool,
}

/// Whether the error says that the cgroup, or the file, is not there any more.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    [Errno::NOENT, Errno::NODEV].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// The path of the cgroup that the process which has `pid` now is in, in the hierarchy that `is_wanted` knows by its list
/// of controllers; that of version 2 has none.
pub(crate) fn path_of(pid: u32, is_wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
    let table = fs::read(format!("/proc/{pid}/cgroup")).ok()?;
    table.split(|byte| *byte == b'\n').find_map(|line| {
        let mut parts = line.splitn(3, |byte| *byte == b':');
        let (_number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        is_wanted(controllers).then(|| path.strip_suffix(b" (deleted)").unwrap_or(path).to_vec())
    })
}

/// Where the whole hierarchy of version 2 is mounted.
pub(crate) fn unified_mount_point() -> Option<PathBuf> {
    unified_mount_point_in(&fs::read("/proc/self/mountinfo").ok()?)
}

/// The same by a table of mounts.
pub(crate) fn unified_mount_point_in(mountinfo: &[u8]) -> Option<PathBuf> {
    let mut points =
        mountinfo.split(|byte| *byte == b'\n').filter_map(|line| mount_point(line, |kind, _| kind == b"cgroup2"));
    points.find(|(mounted, _)| mounted == b"/").map(|(_, point)| point)
}

fn open_root(point: &Path, magic: u64) -> io::Result<Cgroup> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(point, flags, Mode::empty())?;
    // The type of the field differs between architectures.
    #[allow(clippy::unnecessary_cast)]
    let found = fstatfs(&dir)?.f_type as u64;
    if found == magic { Cgroup::of(dir) } else { Err(Errno::NOENT.into()) }
}

/// What is mounted and where, if a line of mountinfo (see proc(5)) is about a file system that is wanted.
fn mount_point(line: &[u8], is_wanted: impl Fn(&[u8], &[u8]) -> bool) -> Option<(Vec<u8>, PathBuf)> {
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    // Behind six words that are always there.
    let dash = words.iter().position(|word| *word == b"-").filter(|dash| *dash >= 6)?;
    let (kind, options) = (words.get(dash + 1)?, words.get(dash + 3)?);
    let path = std::ffi::OsString::from_vec(unescaped(words.get(4)?));
    is_wanted(kind, options).then(|| (unescaped(words[3]), path.into()))
}

/// Without the octal escapes of spaces and their like.
fn unescaped(word: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(word.len());
    let mut rest = word;
    while let [first, tail @ ..] = rest {
        match tail {
            [high @ b'0'..=b'3', middle @ b'0'..=b'7', low @ b'0'..=b'7', next @ ..] if *first == b'\\' => {
                plain.push((high - b'0') << 6 | (middle - b'0') << 3 | (low - b'0'));
                rest = next;
            }
            _ => {
                plain.push(*first);
                rest = tail;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_told_apart() {
        let of = |line: &str| mount_point(line.as_bytes(), |kind, _| kind == b"cgroup2");
        let line = r"44 31 0:38 /a\040b /sys/fs/c\134group rw,relatime shared:10 - cgroup2 cgroup2 rw";
        assert_eq!(of(line), Some((b"/a b".to_vec(), PathBuf::from(r"/sys/fs/c\group"))));
        assert_eq!(of("40 33 0:33 / /sys/fs/cgroup/pids rw shared:15 - cgroup cgroup rw,pids"), None);
        assert_eq!(of("44 31 0:38 - cgroup2 cgroup2 rw"), None);
        assert_eq!(of(""), None);
    }

    #[test]
    fn paths_stay_below_the_mount() {
        let root = Cgroup::of(rustix::fs::open("/", DIRECTORY, Mode::empty()).unwrap()).unwrap();
        let mut hierarchy = Hierarchy { root, mounted: b"/".to_vec() };
        assert_eq!(hierarchy.below_mount(b"/a/b"), Some(&b"a/b"[..]));
        assert_eq!(hierarchy.below_mount(b"/"), Some(&b""[..]));
        // What lies outside a cgroup namespace.
        assert_eq!(hierarchy.below_mount(b"/../a"), None);
        hierarchy.mounted = b"/docker".to_vec();
        assert_eq!(hierarchy.below_mount(b"/docker/a"), Some(&b"a"[..]));
        assert_eq!(hierarchy.below_mount(b"/dockers/a"), None);
        assert_eq!(hierarchy.below_mount(b"/a"), None);
    }
}

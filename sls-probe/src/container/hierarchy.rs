//! The cgroups that there are, and where.

use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::cgroup::{ContainerRuntime, MAX_CGROUP_DEPTH};

/// Controllers whose hierarchy of version 1 tells in which container a process is: every engine uses them.
const CONTROLLERS: [&str; 2] = ["pids", "memory"];

/// A tree of cgroups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Hierarchy {
    /// Version 2, which every kernel has; but processes can all be in its root.
    #[default]
    Unified,
    /// One of version 1, in which engines put their containers on hosts that do not use version 2.
    Legacy,
}

/// Who made a cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct CgroupMaker {
    pub(super) uid: u32,
    pub(super) mount_namespace: Option<u32>,
    /// The bare runtime that it is, if it is one.
    pub(super) runtime: Option<ContainerRuntime>,
}

impl CgroupMaker {
    /// A process of this user, as the host counts users.
    pub fn new(uid: u32) -> Self {
        Self { uid, mount_namespace: None, runtime: None }
    }

    /// Inode of its mount namespace: a program that runs in it is the runtime's, not the container's.
    pub fn mount_namespace(mut self, inode: Option<u32>) -> Self {
        self.mount_namespace = inode;
        self
    }

    /// Its name (comm), which tells a runtime.
    pub fn name(mut self, name: &[u8]) -> Self {
        self.runtime = match name {
            b"runc" => Some(ContainerRuntime::Runc),
            b"crun" => Some(ContainerRuntime::Crun),
            _ => None,
        };
        self
    }
}

/// The hierarchy of version 1 that is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Legacy {
    /// `pids` or `memory`.
    pub(crate) controller: &'static str,
    /// The kernel's number of the hierarchy.
    pub(crate) id: u32,
}

impl Legacy {
    /// The hierarchy of this host, if it has one.
    pub(crate) fn of_host() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/cgroups").ok()?)
    }

    fn parse(table: &str) -> Option<Self> {
        CONTROLLERS.iter().find_map(|controller| {
            let row = table.lines().find(|line| line.split_whitespace().next() == Some(controller))?;
            let id = row.split_whitespace().nth(1)?.parse().ok()?;
            (id != 0).then_some(Self { controller, id })
        })
    }
}

/// A cgroup that was found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) hierarchy: Hierarchy,
    pub(crate) id: u64,
    /// From the root of the hierarchy.
    pub(crate) path: Vec<u8>,
    /// The user who could make it.
    pub(crate) maker: u32,
    /// Whether processes are in it, or in one below.
    pub(crate) populated: bool,
}

/// The cgroups of this host, up to `limit`.
pub(crate) fn scan(limit: usize) -> Vec<Found> {
    let mounts = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let mut found = Vec::new();
    let legacy = Legacy::of_host();
    let trees = [
        (Hierarchy::Unified, mount_point(&mounts, |kind, _| kind == b"cgroup2")),
        (
            Hierarchy::Legacy,
            legacy.and_then(|legacy| {
                let controller = legacy.controller.as_bytes();
                mount_point(&mounts, |kind, options| {
                    kind == b"cgroup" && options.split(|byte| *byte == b',').any(|option| option == controller)
                })
            }),
        ),
    ];
    for (hierarchy, top) in trees {
        let Some(top) = top else { continue };
        walk(hierarchy, &top, limit, &mut found);
    }
    found
}

/// What records have of the id of a process's cgroup in the hierarchy of version 1. It takes four billion files of cgroups
/// until one comes again.
pub(crate) fn lower_half(id: u64) -> u64 {
    id & u64::from(u32::MAX)
}

/// Whether any process is in the cgroup at `path`, or in one below it.
fn is_populated(hierarchy: Hierarchy, path: &Path) -> bool {
    let read = |name: &str| fs::read(path.join(name)).unwrap_or_default();
    match hierarchy {
        // The root has no such file, and is never empty.
        Hierarchy::Unified => !read("cgroup.events").windows(11).any(|bytes| bytes == b"populated 0"),
        Hierarchy::Legacy => !read("cgroup.procs").is_empty(),
    }
}

fn walk(hierarchy: Hierarchy, top: &Path, limit: usize, found: &mut Vec<Found>) {
    let Ok(root) = fs::metadata(top) else { return };
    let entry = |id, path: &Path, maker| Found {
        hierarchy,
        id: match hierarchy {
            Hierarchy::Unified => id,
            Hierarchy::Legacy => lower_half(id),
        },
        path: Path::new("/").join(path.strip_prefix(top).unwrap_or(path)).into_os_string().into_vec(),
        maker,
        populated: is_populated(hierarchy, path),
    };
    found.push(entry(root.ino(), top, root.uid()));
    let mut waiting = vec![(top.to_owned(), root.uid(), 0)];
    while let Some((dir, owner, depth)) = waiting.pop() {
        for child in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if !child.file_type().is_ok_and(|kind| kind.is_dir()) || depth == MAX_CGROUP_DEPTH {
                continue;
            }
            if found.len() >= limit {
                return;
            }
            let path = child.path();
            // One user's place is that user's all the way down.
            let inner = fs::metadata(&path).map_or(owner, |meta| if owner == 0 { meta.uid() } else { owner });
            found.push(entry(child.ino(), &path, owner));
            waiting.push((path, inner, depth + 1));
        }
    }
}

/// Where a file system that `is_wanted` is mounted, whole. What comes last covers what was there before.
fn mount_point(mountinfo: &[u8], is_wanted: impl Fn(&[u8], &[u8]) -> bool) -> Option<PathBuf> {
    let lines = mountinfo.split(|byte| *byte == b'\n').rev();
    lines.into_iter().find_map(|line| {
        let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let dash = words.iter().position(|word| *word == b"-")?;
        let (kind, options) = (words.get(dash + 1)?, words.get(dash + 3)?);
        // In a namespace of cgroups, what lies above the namespace's root is not shown: the root is `/` there too.
        let whole = *words.get(3)? == b"/" && is_wanted(kind, options);
        whole.then(|| PathBuf::from(std::ffi::OsStr::from_bytes(words[4])))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legacy_hierarchies() {
        let v1 = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t3\t4\t1\nmemory\t4\t5\t1\npids\t8\t3\t1\n";
        assert_eq!(Legacy::parse(v1), Some(Legacy { controller: "pids", id: 8 }));
        let without_pids = v1.replace("pids\t8", "pids\t0");
        assert_eq!(Legacy::parse(&without_pids), Some(Legacy { controller: "memory", id: 4 }));
        assert_eq!(Legacy::parse("cpuset\t0\t1\t1\nmemory\t0\t90\t1\npids\t0\t90\t1\n"), None);
    }

    #[test]
    fn mount_points() {
        let table = b"33 24 0:28 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755\n\
            34 33 0:29 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw\n\
            40 33 0:33 / /sys/fs/cgroup/pids rw shared:15 - cgroup cgroup rw,pids\n\
            41 33 0:34 /docker /sys/fs/cgroup/memory rw shared:15 - cgroup cgroup rw,memory\n";
        let of = |name: &'static str| {
            mount_point(table, move |kind, options| {
                kind == name.as_bytes() || options.ends_with(format!(",{name}").as_bytes())
            })
        };
        assert_eq!(of("cgroup2"), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(of("pids"), Some("/sys/fs/cgroup/pids".into()));
        assert_eq!(of("memory"), None);
    }

    #[test]
    fn this_host() {
        let found = scan(usize::MAX);
        let roots: Vec<&Found> = found.iter().filter(|cgroup| cgroup.path == b"/").collect();
        assert!(!roots.is_empty() && roots.iter().all(|root| root.populated && root.maker == 0));
        assert_eq!(scan(1).len(), roots.len());
    }
}

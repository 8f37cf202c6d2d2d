//! The cgroup v2 hierarchy.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// Opens the root of the cgroup v2 hierarchy: where it is mounted, else by a mount of its own that nobody else sees. Every
/// kernel has the hierarchy, whichever one the machine uses.
pub(crate) fn root() -> io::Result<File> {
    match mount_point() {
        Some(path) => File::open(path),
        None => detached(),
    }
}

/// Where the whole cgroup v2 hierarchy is mounted; none if it is not, as seen from here.
#[must_use]
pub fn mount_point() -> Option<PathBuf> {
    in_table(&fs::read("/proc/self/mountinfo").ok()?)
}

/// The same from a table of mounts. A directory that a user mounts something on can have any name: it may be no text.
pub(crate) fn in_table(mountinfo: &[u8]) -> Option<PathBuf> {
    let line = |line| in_line(str::from_utf8(line).ok()?).map(PathBuf::from);
    mountinfo.split(|byte| *byte == b'\n').find_map(line)
}

/// The mount point in a line of mountinfo, if it is that of the whole hierarchy.
fn in_line(line: &str) -> Option<&str> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut columns = mount.split(' ').skip(3);
    let (root, path) = (columns.next()?, columns.next()?);
    (file_system.starts_with("cgroup2 ") && root == "/").then_some(path)
}

/// Mounts the hierarchy nowhere. The mount goes with the file.
fn detached() -> io::Result<File> {
    let context = fsopen("cgroup2", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let attributes =
        MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    let root = openat(&mount, c".", OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(root.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn root_is_the_same_without_a_mount() {
        if fs::metadata("/proc/self").unwrap().uid() != 0 || mount_point().is_none() {
            return; // It takes root, and a mount to compare with.
        }
        let identity = |file: File| file.metadata().map(|meta| (meta.dev(), meta.ino())).unwrap();
        assert_eq!(identity(detached().unwrap()), identity(root().unwrap()));
    }

    #[test]
    fn only_the_whole_hierarchy_counts() {
        let whole = "34 25 0:29 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";
        assert_eq!(in_line(whole), Some("/sys/fs/cgroup/unified"));
        assert_eq!(in_line("34 25 0:29 /a /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw"), None);
        assert_eq!(in_line("34 25 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu"), None);
    }

    #[test]
    fn a_mount_whose_name_is_no_text_hides_nothing() {
        let table = b"33 25 0:30 / /home/user/\xff rw - fuse.sshfs user@host rw\n\
            34 25 0:29 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(in_table(table), Some("/sys/fs/cgroup".into()));
    }
}

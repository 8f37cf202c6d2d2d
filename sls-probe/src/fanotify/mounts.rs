//! Which file systems are mounted where, and which of them can be watched.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The kernel's own, which hold no programs and which this process reads while an operation waits.
const OF_KERNEL: &[&[u8]] = &[
    b"autofs",
    b"binfmt_misc",
    b"bpf",
    b"cgroup",
    b"cgroup2",
    b"configfs",
    b"debugfs",
    b"devpts",
    b"efivarfs",
    b"fusectl",
    b"mqueue",
    b"nsfs",
    b"proc",
    b"pstore",
    b"rpc_pipefs",
    b"securityfs",
    b"selinuxfs",
    b"sysfs",
    b"tracefs",
];

/// Whoever opens a file there waits for another machine or program, and so would everybody who asks after that.
const REMOTE: &[&[u8]] = &[b"9p", b"afs", b"ceph", b"cifs", b"fuse", b"nfs", b"nfs4", b"smb3"];

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) path: PathBuf,
    /// As `/proc/PID/mountinfo` writes it.
    device: Vec<u8>,
    kind: Vec<u8>,
}

impl Mount {
    /// Whether it is one of the kernel's own.
    pub(super) fn is_of_kernel(&self) -> bool {
        OF_KERNEL.contains(&&self.kind[..])
    }

    /// Whether another machine or program answers for it.
    pub(super) fn is_remote(&self) -> bool {
        REMOTE.contains(&self.kind.split(|byte| *byte == b'.').next().unwrap_or_default())
    }

    fn parse(line: &[u8]) -> Option<Self> {
        let mut columns = line.split(|byte| *byte == b' ');
        let device = columns.nth(2)?.to_vec();
        let path = unescape(columns.nth(1)?);
        let kind = columns.skip_while(|column| *column != b"-").nth(1)?.to_vec();
        Some(Self { path: PathBuf::from(std::ffi::OsString::from_vec(path)), device, kind })
    }
}

/// The mounts of the mount namespace of `process` (`self`, or a pid), each file system once: as it is mounted last.
pub(super) fn of(process: &str, limit: usize) -> io::Result<Vec<Mount>> {
    let table = fs::read(format!("/proc/{process}/mountinfo"))?;
    Ok(parse(&table).into_iter().take(limit).collect())
}

fn parse(table: &[u8]) -> Vec<Mount> {
    table.split(|byte| *byte == b'\n').filter_map(Mount::parse).collect()
}

/// The mounts in which something below `directory` can be: its own, and those below.
pub(super) fn under<'m>(mounts: &'m [Mount], directory: &Path) -> Vec<&'m Mount> {
    let own = mounts.iter().filter(|mount| directory.starts_with(&mount.path));
    // Of several at one place the last is on top.
    let own = own.max_by_key(|mount| mount.path.as_os_str().len());
    let below = mounts.iter().filter(|mount| mount.path.starts_with(directory));
    own.into_iter().chain(below).collect()
}

/// Space, tab, newline, `#` and backslash are written as `\` and three octal digits.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        match after.first_chunk() {
            Some([high @ b'0'..=b'3', middle @ b'0'..=b'7', low @ b'0'..=b'7']) if *first == b'\\' => {
                bytes.push((high - b'0') << 6 | (middle - b'0') << 3 | (low - b'0'));
                rest = &after[3..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

/// Where the mounts of a table are.
#[cfg(fuzzing)]
pub(crate) fn paths(table: &[u8]) -> Vec<PathBuf> {
    let mounts = parse(table);
    under(&mounts, Path::new("/")).into_iter().map(|mount| mount.path.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
        22 21 0:5 / /proc rw - proc proc rw\n\
        23 21 0:30 / /opt/a\\040b rw shared:2 master:1 - tmpfs tmpfs rw\n\
        24 21 0:31 / /home rw - fuse.sshfs user@host rw\n\
        25 21 0:32 / /optional rw - tmpfs tmpfs rw\n\
        26 21 0:33 / /home rw - tmpfs tmpfs rw\n";

    #[test]
    fn tables_are_read() {
        let mounts = parse(TABLE);
        assert_eq!(mounts.len(), 6);
        assert_eq!(mounts[2].path, Path::new("/opt/a b"));
        assert!(mounts[1].is_of_kernel() && !mounts[0].is_of_kernel());
        assert!(mounts[3].is_remote() && !mounts[2].is_remote());
        assert!(!of("self", 1000).unwrap().is_empty());
    }

    #[test]
    fn escapes_are_octal() {
        assert_eq!(unescape(b"a\\040b\\134\\377"), b"a b\\\xff");
        for plain in [&b"\\08"[..], b"\\048", b"\\400", b"\\+40", b"\\"] {
            assert_eq!(unescape(plain), plain);
        }
    }

    #[test]
    fn a_directory_is_in_its_own_mount_and_has_those_below() {
        let mounts = parse(TABLE);
        let paths = |directory: &str| {
            let mut paths: Vec<_> =
                under(&mounts, Path::new(directory)).iter().map(|mount| mount.path.clone()).collect();
            paths.dedup();
            paths
        };
        assert_eq!(paths("/opt"), [Path::new("/"), Path::new("/opt/a b")]);
        assert_eq!(paths("/opt/a b/c"), [Path::new("/opt/a b")]);
        assert_eq!(paths("/usr/bin"), [Path::new("/")]);
        assert_eq!(under(&mounts, Path::new("/home/x"))[0].kind, b"tmpfs");
    }
}

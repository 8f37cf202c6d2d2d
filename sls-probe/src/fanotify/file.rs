//! What can be told of a file from its open descriptor, without opening anything: that could be a question again.

use std::mem::MaybeUninit;
use std::os::fd::{OwnedFd, RawFd};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, fstat, fstatfs, open, readlinkat_raw, statx};
use rustix::io::{Errno, pread};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

/// The kernel gives no longer ones in `/proc`.
const PATH_BYTES: usize = 4096;

/// Bytes of a program in which its interpreter is looked for at first; almost always it is there.
const HEADER_BYTES: usize = 1024;

/// The most that a program's interpreter may be called.
const INTERPRETER_BYTES: usize = 256;

/// What the kernel writes behind the path of a file without a name.
const DELETED: &[u8] = b" (deleted)";

/// Magic number of `pidfs`.
const PIDFS_MAGIC: u64 = 0x5049_4446;

const MEMFD: &[u8] = b"/memfd:";

const S_ISUID: u32 = 0o4000;
const S_ISGID: u32 = 0o2000;

/// An open file. Made to be used again.
#[derive(Debug, Default)]
pub(super) struct OpenedFile {
    pub(super) path: Vec<u8>,
    /// Whether anything is known of it.
    pub(super) is_known: bool,
    /// Whether the path could be had.
    pub(super) is_named: bool,
    pub(super) inode: u64,
    pub(super) device: u64,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) is_memfd: bool,
    pub(super) is_deleted: bool,
}

impl OpenedFile {
    pub(super) fn sets_user(&self) -> bool {
        self.mode & S_ISUID != 0
    }

    pub(super) fn sets_group(&self) -> bool {
        self.mode & S_ISGID != 0
    }
}

/// How the kernel runs a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// By the interpreter that it names after `#!`.
    Script,
    /// As a program of its own, or with what it is linked to.
    Elf,
    Other,
}

/// Looks at this process's own descriptors.
#[derive(Debug)]
pub(super) struct Descriptors {
    /// `/proc/self/fd`.
    directory: OwnedFd,
    own: OwnedFd,
    /// Whether pidfds have an inode each that is never used twice (Linux 6.9).
    is_pidfs: bool,
}

impl Descriptors {
    pub(super) fn open() -> Result<Self, Errno> {
        let directory = open("/proc/self/fd", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let own = pidfd_open(getpid(), PidfdFlags::empty())?;
        // The type of the field differs between architectures.
        #[allow(clippy::unnecessary_cast)]
        let is_pidfs = fstatfs(&own)?.f_type as u64 == PIDFS_MAGIC;
        Ok(Self { directory, own, is_pidfs })
    }

    /// The inode of a process's pidfd: the one that came with the question, else one that is opened by its number.
    pub(super) fn process_inode(&self, pidfd: Option<RawFd>, pid: u32) -> Option<u64> {
        if !self.is_pidfs {
            return None;
        }
        let Some(number) = pidfd else {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
            return Some(fstat(pidfd_open(pid, PidfdFlags::empty()).ok()?).ok()?.st_ino);
        };
        let mut digits = [0; 12];
        let name = decimal(number, &mut digits);
        Some(statx(&self.directory, name, AtFlags::STATX_DONT_SYNC, StatxFlags::INO).ok()?.stx_ino)
    }

    /// Fills `file`. None if even its inode cannot be had; then nothing is known of it.
    pub(super) fn look(&self, number: RawFd, file: &mut OpenedFile) -> Option<()> {
        (file.is_known, file.is_named) = (false, false);
        let mut digits = [0; 12];
        let name = decimal(number, &mut digits);
        let stat = statx(&self.directory, name, AtFlags::STATX_DONT_SYNC, StatxFlags::BASIC_STATS).ok()?;
        file.inode = stat.stx_ino;
        file.device = rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor);
        (file.mode, file.uid, file.gid) = (stat.stx_mode.into(), stat.stx_uid, stat.stx_gid);
        file.path.clear();
        let mut buffer = [MaybeUninit::uninit(); PATH_BYTES];
        let path = readlinkat_raw(&self.directory, name, &mut buffer).map_or(&[][..], |(path, _)| path);
        let marked = path.strip_suffix(DELETED);
        file.is_deleted = stat.stx_nlink == 0;
        // A file can be called so; then it is there under that name.
        let bare = match marked {
            Some(bare) if file.is_deleted || !self.is_there(path, file) => bare,
            _ => path,
        };
        file.is_memfd = file.is_deleted && bare.starts_with(MEMFD);
        file.is_named = bare.starts_with(b"/") && path.len() < PATH_BYTES;
        file.path.extend_from_slice(bare);
        file.is_known = true;
        Some(())
    }

    fn is_there(&self, path: &[u8], file: &OpenedFile) -> bool {
        let flags = AtFlags::STATX_DONT_SYNC | AtFlags::SYMLINK_NOFOLLOW;
        statx(rustix::fs::CWD, path, flags, StatxFlags::INO).is_ok_and(|stat| stat.stx_ino == file.inode)
    }

    /// How the kernel runs the file, and for an ELF program the name of its interpreter, which is put into `interpreter`.
    pub(super) fn format(&self, number: RawFd, interpreter: &mut Vec<u8>) -> Format {
        interpreter.clear();
        // The same open file: whoever reads from it asks no question.
        let Ok(file) = pidfd_getfd(&self.own, number, PidfdGetfdFlags::empty()) else { return Format::Other };
        let mut bytes = [0; HEADER_BYTES];
        let len = pread(&file, &mut bytes[..], 0).unwrap_or(0);
        let header = &bytes[..len];
        if header.starts_with(b"#!") {
            return Format::Script;
        }
        if !header.starts_with(b"\x7fELF") {
            return Format::Other;
        }
        if let Some((offset, size)) = interpreter_at(header) {
            let size = size.min(INTERPRETER_BYTES);
            let name = usize::try_from(offset).ok().and_then(|start| header.get(start..start.checked_add(size)?));
            match name {
                Some(name) => interpreter.extend_from_slice(name),
                None => {
                    let mut name = [0; INTERPRETER_BYTES];
                    let len = pread(&file, &mut name[..size], offset).unwrap_or(0);
                    interpreter.extend_from_slice(&name[..len]);
                }
            }
            let end = interpreter.iter().position(|byte| *byte == 0).unwrap_or(interpreter.len());
            interpreter.truncate(end);
        }
        Format::Elf
    }
}

/// Where `PT_INTERP` says that the name of the interpreter is, and how long. Of programs of this machine's byte order.
fn interpreter_at(header: &[u8]) -> Option<(u64, usize)> {
    const PT_INTERP: u32 = 3;
    let half = |at: usize| Some(u16::from_ne_bytes(header.get(at..at + 2)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_ne_bytes(header.get(at..at + 4)?.try_into().ok()?));
    let long = |at: usize| Some(u64::from_ne_bytes(header.get(at..at + 8)?.try_into().ok()?));
    let wide = *header.get(4)? == 2;
    let (table, size, count) = match wide {
        true => (long(32)?, half(54)?, half(56)?),
        false => (u64::from(word(28)?), half(42)?, half(44)?),
    };
    let start = usize::try_from(table).ok()?;
    (0..usize::from(count))
        .map_while(|index| start.checked_add(index * usize::from(size)).filter(|at| *at < header.len()))
        .find(|at| word(*at) == Some(PT_INTERP))
        .and_then(|at| match wide {
            true => Some((long(at + 8)?, usize::try_from(long(at + 32)?).ok()?)),
            false => Some((u64::from(word(at + 4)?), word(at + 16)? as usize)),
        })
}

/// `number` as text, without allocating.
fn decimal(number: i32, digits: &mut [u8; 12]) -> &[u8] {
    let mut at = digits.len();
    let mut rest = number.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            return &digits[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    use super::*;

    #[test]
    fn numbers_as_text() {
        for number in [0, 7, 10, 4096, i32::MAX] {
            assert_eq!(decimal(number, &mut [0; 12]), number.to_string().as_bytes());
        }
    }

    #[test]
    fn files_are_told_by_their_descriptors() {
        let dir = tempfile::tempdir().unwrap();
        let descriptors = Descriptors::open().unwrap();
        let mut file = OpenedFile::default();
        let path = dir.path().canonicalize().unwrap().join("odd (deleted)");
        fs::write(&path, "x").unwrap();
        let open = File::open(&path).unwrap();
        descriptors.look(open.as_raw_fd(), &mut file).unwrap();
        assert_eq!(file.path, path.as_os_str().as_encoded_bytes());
        let meta = fs::metadata(&path).unwrap();
        assert_eq!((file.device, file.inode), (meta.dev(), meta.ino()));
        assert!(!file.is_deleted && file.is_named);

        let other = dir.path().join("other");
        fs::hard_link(&path, &other).unwrap();
        fs::remove_file(&path).unwrap();
        descriptors.look(open.as_raw_fd(), &mut file).unwrap();
        assert_eq!(file.path, path.as_os_str().as_encoded_bytes());
        fs::remove_file(&other).unwrap();
        descriptors.look(open.as_raw_fd(), &mut file).unwrap();
        assert!(file.is_deleted && !file.is_memfd);
    }

    #[test]
    fn formats() {
        let dir = tempfile::tempdir().unwrap();
        let descriptors = Descriptors::open().unwrap();
        let mut interpreter = Vec::new();
        assert_eq!(
            descriptors.format(File::open("/proc/self/exe").unwrap().as_raw_fd(), &mut interpreter),
            Format::Elf
        );
        assert!(interpreter.starts_with(b"/lib") && Path::new(std::str::from_utf8(&interpreter).unwrap()).exists());
        for (text, format) in [("#!/bin/sh\n", Format::Script), ("", Format::Other), ("\x7fELF", Format::Elf)] {
            let path = dir.path().join("file");
            fs::write(&path, text).unwrap();
            assert_eq!(descriptors.format(File::open(&path).unwrap().as_raw_fd(), &mut interpreter), format);
            assert!(interpreter.is_empty());
        }
    }

    #[test]
    fn a_hostile_header_names_no_interpreter() {
        let program = fs::read("/proc/self/exe").unwrap();
        for len in 0..HEADER_BYTES.min(program.len()) {
            let _ = interpreter_at(&program[..len]);
        }
        let mut hostile = program[..HEADER_BYTES].to_vec();
        hostile[32..40].fill(0xff);
        assert_eq!(interpreter_at(&hostile), None);
        hostile[32..40].copy_from_slice(&1000_u64.to_ne_bytes());
        hostile[54..58].fill(0xff);
        let _ = interpreter_at(&hostile);
    }
}

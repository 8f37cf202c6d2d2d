//! Content and attributes of a file.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;

use rustix::fs::{Gid, Mode, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::manifest::{QuarantineEntry, timespec};
use super::name;

const CHUNK: usize = 64 << 10;

/// The most bytes of the names, and of one value, of extended attributes: the kernel's own limit (`XATTR_SIZE_MAX`).
const XATTR_SIZE_MAX: usize = 64 << 10;

/// The same as zeros in a copy, which become a hole.
static HOLE: [u8; CHUNK] = [0; CHUNK];

/// SHA-256 of at most `limit` bytes from the beginning, in hexadecimal; none if there are more.
pub(super) fn sha256(file: &mut File, limit: u64) -> io::Result<Option<String>> {
    digest(file, None, limit)
}

/// Copies at most `limit` bytes from the beginning of `from` and gives their SHA-256; none if there are more. What is
/// zero in whole chunks becomes a hole.
pub(super) fn copy(from: &mut File, to: &mut File, limit: u64) -> io::Result<Option<String>> {
    to.set_len(0)?;
    to.seek(SeekFrom::Start(0))?;
    digest(from, Some(to), limit)
}

fn digest(from: &mut File, mut to: Option<&mut File>, limit: u64) -> io::Result<Option<String>> {
    from.seek(SeekFrom::Start(0))?;
    let mut chunk = vec![0; CHUNK];
    let (mut hash, mut len) = (Sha256::new(), 0_u64);
    loop {
        let got = match from.read(&mut chunk) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            got => got?,
        };
        if got == 0 {
            break;
        }
        len += got as u64;
        if len > limit {
            return Ok(None);
        }
        hash.update(&chunk[..got]);
        if let Some(to) = to.as_deref_mut() {
            if got == CHUNK && chunk == HOLE {
                to.seek(SeekFrom::Current(CHUNK as i64))?;
            } else {
                to.write_all(&chunk[..got])?;
            }
        }
    }
    if let Some(to) = to {
        to.set_len(len)?;
    }
    Ok(Some(hash.finalize().iter().fold(String::new(), |mut text, byte| {
        // A String takes everything that is written to it.
        let _ = write!(text, "{byte:02x}");
        text
    })))
}

/// The extended attributes, encoded as manifests have them. None on file systems without.
pub(super) fn xattrs(file: impl AsFd) -> Result<Vec<(String, String)>, Errno> {
    let mut names = vec![0; XATTR_SIZE_MAX];
    let len = match rustix::fs::flistxattr(&file, &mut names[..]) {
        Err(Errno::OPNOTSUPP) => 0,
        len => len?,
    };
    let mut found = Vec::new();
    let mut value = vec![0; XATTR_SIZE_MAX];
    for attribute in names[..len].split(|byte| *byte == 0).filter(|attribute| !attribute.is_empty()) {
        match rustix::fs::fgetxattr(&file, attribute, &mut value[..]) {
            Ok(len) => found.push((name::encode_path(attribute), name::encode_path(&value[..len]))),
            // Gone since, or of a kind that nobody can read.
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(found)
}

/// Makes root its owner and nobody able to write it.
pub(super) fn tighten(file: impl AsFd) -> Result<(), Errno> {
    rustix::fs::fchown(&file, Some(rustix::process::geteuid()), Some(rustix::process::getegid()))?;
    rustix::fs::fchmod(&file, Mode::RUSR)
}

/// Gives a file the owner, attributes, mode and times that an entry had. Times come last: all else may change them.
pub(super) fn set_attributes(file: impl AsFd, entry: &QuarantineEntry) -> Result<(), Errno> {
    rustix::fs::fchown(&file, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))?;
    let had = xattrs(&file)?;
    for attribute in &entry.xattrs {
        let (Some(attribute_name), Some(value)) = (name::decode(&attribute.0), name::decode(&attribute.1)) else {
            return Err(Errno::INVAL);
        };
        if !had.contains(attribute) {
            rustix::fs::fsetxattr(&file, &*attribute_name, &value, XattrFlags::empty())?;
        }
    }
    rustix::fs::fchmod(&file, Mode::from_raw_mode(entry.mode))?;
    let times = Timestamps { last_access: timespec(entry.accessed), last_modification: timespec(entry.modified) };
    rustix::fs::futimens(&file, &times)
}

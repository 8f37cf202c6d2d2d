//! A program whose first instructions are a write: if anything of it runs, that shows.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sls_benches::elf::elf;

/// `write(1, start of the file, 1); exit(0)`. The file starts at [`sls_benches::elf::BASE`].
#[cfg(target_arch = "x86_64")]
const CODE: &[u8] = &[
    0xb8, 1, 0, 0, 0, // mov eax, 1
    0xbf, 1, 0, 0, 0, // mov edi, 1
    0xbe, 0, 0, 0x40, 0, // mov esi, 0x400000
    0xba, 1, 0, 0, 0, // mov edx, 1
    0x0f, 0x05, // syscall
    0x31, 0xff, // xor edi, edi
    0xb8, 60, 0, 0, 0, // mov eax, 60
    0x0f, 0x05, // syscall
];

#[cfg(target_arch = "aarch64")]
const CODE: &[u8] = &[
    0x20, 0x00, 0x80, 0xd2, // mov x0, 1
    0x01, 0x00, 0x80, 0xd2, // mov x1, 0
    0x01, 0x08, 0xa0, 0xf2, // movk x1, 0x40, lsl 16
    0x22, 0x00, 0x80, 0xd2, // mov x2, 1
    0x08, 0x08, 0x80, 0xd2, // mov x8, 64
    0x01, 0x00, 0x00, 0xd4, // svc 0
    0x00, 0x00, 0x80, 0xd2, // mov x0, 0
    0xa8, 0x0b, 0x80, 0xd2, // mov x8, 93
    0x01, 0x00, 0x00, 0xd4, // svc 0
];

/// Writes the program into a directory.
pub(crate) fn write(directory: &Path, name: &str) -> std::io::Result<PathBuf> {
    let path = directory.join(name);
    fs::write(&path, elf(CODE))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// A file that victims write into, one byte each.
#[derive(Debug)]
pub(crate) struct Marks(File, PathBuf);

impl Marks {
    pub(crate) fn new(directory: &Path) -> std::io::Result<Self> {
        let path = directory.join("marks");
        let file = File::options().create(true).append(true).open(&path)?;
        Ok(Self(file, path))
    }

    pub(crate) fn file(&self) -> &File {
        &self.0
    }

    /// How many of them got to it.
    pub(crate) fn count(&self) -> std::io::Result<u64> {
        Ok(fs::metadata(&self.1)?.len())
    }
}

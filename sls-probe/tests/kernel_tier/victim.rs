//! A program whose first instructions are a write: if anything of it runs, that shows.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// `write(1, start of the file, 1); exit(0)`.
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
#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;

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
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;

const BASE: u64 = 0x40_0000;
/// A page wherever pages are largest.
const PAGE: u64 = 0x1_0000;

/// Writes the program into a directory.
pub(crate) fn write(directory: &Path, name: &str) -> PathBuf {
    let path = directory.join(name);
    write_executable(&path, &elf());
    path
}

/// Another process writes it: were it open for writing in this one, a fork in another thread could keep it so, and it could not
/// be executed.
fn write_executable(path: &Path, bytes: &[u8]) {
    let mut command = Command::new("sh");
    command.args(["-c", "cat >\"$1\" && chmod 755 \"$1\"", "sh"]).arg(path).stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    assert!(child.wait().unwrap().success(), "cannot write {}", path.display());
}

/// The same with a copy.
pub(crate) fn copy(from: impl AsRef<Path>, to: &Path) -> std::io::Result<()> {
    let copied = Command::new("cp").arg("--preserve=mode").arg(from.as_ref()).arg(to).status()?;
    if copied.success() { Ok(()) } else { Err(std::io::Error::other(format!("cp: {copied}"))) }
}

/// What a victim writes: the first byte of its file, which no text has.
pub(crate) const MARK: u8 = 0x7f;

/// A file that victims write into, one byte each.
#[derive(Debug)]
pub(crate) struct Marks(File, PathBuf);

impl Marks {
    pub(crate) fn new(directory: &Path) -> Self {
        let path = directory.join("marks");
        let file = File::options().create(true).append(true).open(&path).unwrap();
        Self(file, path)
    }

    pub(crate) fn stdout(&self) -> File {
        self.0.try_clone().unwrap()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.1
    }

    /// How many of them got to it.
    pub(crate) fn count(&self) -> u64 {
        fs::read(&self.1).unwrap().iter().filter(|byte| **byte == MARK).count() as u64
    }
}

/// One header, one segment, and the code.
pub(crate) fn elf() -> Vec<u8> {
    let size = 0x78 + CODE.len() as u64;
    // 64 bits, little-endian, version 1, System V.
    let mut bytes = vec![MARK, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let half = |bytes: &mut Vec<u8>, values: &[u16]| values.iter().for_each(|v| bytes.extend(v.to_le_bytes()));
    let word = |bytes: &mut Vec<u8>, values: &[u32]| values.iter().for_each(|v| bytes.extend(v.to_le_bytes()));
    let long = |bytes: &mut Vec<u8>, values: &[u64]| values.iter().for_each(|v| bytes.extend(v.to_le_bytes()));
    half(&mut bytes, &[2, MACHINE]);
    word(&mut bytes, &[1]);
    long(&mut bytes, &[BASE + 0x78, 64, 0]);
    word(&mut bytes, &[0]);
    half(&mut bytes, &[64, 56, 1, 0, 0, 0]);
    word(&mut bytes, &[1, 5]);
    long(&mut bytes, &[0, BASE, BASE, size, size, PAGE]);
    bytes.extend(CODE);
    bytes
}

/// A script that is to be run by `interpreter`.
pub(crate) fn script(directory: &Path, interpreter: &Path) -> PathBuf {
    let path = directory.join("script");
    write_executable(&path, format!("#!{}\n", interpreter.display()).as_bytes());
    path
}

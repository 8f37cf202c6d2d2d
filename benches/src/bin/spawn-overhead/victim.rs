//! The smallest program there is: it exits. No loader, no libc, so that nothing hides what the sensor adds.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// `exit(0)`.
#[cfg(target_arch = "x86_64")]
const CODE: &[u8] = &[
    0x31, 0xff, // xor edi, edi
    0xb8, 60, 0, 0, 0, // mov eax, 60
    0x0f, 0x05, // syscall
];
#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;

/// `exit(0)`.
#[cfg(target_arch = "aarch64")]
const CODE: &[u8] = &[
    0x00, 0x00, 0x80, 0xd2, // mov x0, 0
    0xa8, 0x0b, 0x80, 0xd2, // mov x8, 93
    0x01, 0x00, 0x00, 0xd4, // svc 0
];
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;

/// Where the file is mapped.
const BASE: u64 = 0x40_0000;
/// A page wherever pages are largest.
const PAGE: u64 = 0x1_0000;
const HEADER_BYTES: u16 = 64;
const SEGMENT_BYTES: u16 = 56;

/// An executable on disk, which is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Victim {
    path: PathBuf,
}

impl Victim {
    /// Writes it into `directory`, under a name that no other program has.
    pub(crate) fn write(directory: &Path) -> anyhow::Result<Self> {
        let path = directory.join(format!("sls-bench-victim-{}", std::process::id()));
        let _ = fs::remove_file(&path);
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(&path);
        file.and_then(|mut file| file.write_all(&elf())).with_context(|| format!("cannot write {}", path.display()))?;
        // The events have the resolved path.
        let path = path.canonicalize()?;
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// One header, one segment, and the code.
fn elf() -> Vec<u8> {
    let code_at = u64::from(HEADER_BYTES + SEGMENT_BYTES);
    let size = code_at + CODE.len() as u64;
    // 64 bits, little-endian, version 1, System V.
    let mut bytes = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let half = |bytes: &mut Vec<u8>, values: &[u16]| values.iter().for_each(|v| bytes.extend(v.to_le_bytes()));
    let word = |bytes: &mut Vec<u8>, values: &[u32]| values.iter().for_each(|v| bytes.extend(v.to_le_bytes()));
    let long = |bytes: &mut Vec<u8>, values: &[u64]| values.iter().for_each(|v| bytes.extend(v.to_le_bytes()));
    // Executable, machine, version; entry, segments, no sections; no flags; sizes and counts.
    half(&mut bytes, &[2, MACHINE]);
    word(&mut bytes, &[1]);
    long(&mut bytes, &[BASE + code_at, HEADER_BYTES.into(), 0]);
    word(&mut bytes, &[0]);
    half(&mut bytes, &[HEADER_BYTES, SEGMENT_BYTES, 1, 0, 0, 0]);
    // To load, readable and executable; file offset, addresses, sizes, alignment.
    word(&mut bytes, &[1, 5]);
    long(&mut bytes, &[0, BASE, BASE, size, size, PAGE]);
    bytes.extend(CODE);
    bytes
}

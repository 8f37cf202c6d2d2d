//! The smallest program there is: it exits. No loader, no libc, so that nothing hides what the sensor adds.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use sls_benches::elf::elf;

/// `exit(0)`.
#[cfg(target_arch = "x86_64")]
const CODE: &[u8] = &[
    0x31, 0xff, // xor edi, edi
    0xb8, 60, 0, 0, 0, // mov eax, 60
    0x0f, 0x05, // syscall
];

/// `exit(0)`.
#[cfg(target_arch = "aarch64")]
const CODE: &[u8] = &[
    0x00, 0x00, 0x80, 0xd2, // mov x0, 0
    0xa8, 0x0b, 0x80, 0xd2, // mov x8, 93
    0x01, 0x00, 0x00, 0xd4, // svc 0
];

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
        file.and_then(|mut file| file.write_all(&elf(CODE)))
            .with_context(|| format!("cannot write {}", path.display()))?;
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

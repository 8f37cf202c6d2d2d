//! Why nothing can be pinned, or not be removed again.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::error::ProbeError;

/// Why the kernel tier cannot be pinned, or its pins not be read or removed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PinError {
    /// It is no place for pins.
    #[error("{} is not in a BPF file system: mount one there (mount -t bpf bpf /sys/fs/bpf)", path.display())]
    NoBpffs {
        /// Where it was looked.
        path: PathBuf,
    },
    /// A file or directory cannot be made, read or removed.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel does not pin a link or a map, or does not give a pinned one.
    #[error("cannot use the pin {}: {source}", path.display())]
    Pin {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: libbpf_rs::Error,
    },
    /// A map of the probe is not what it should be.
    #[error(transparent)]
    Probe(#[from] ProbeError),
}

impl PinError {
    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::File { what, path, source }
    }
}

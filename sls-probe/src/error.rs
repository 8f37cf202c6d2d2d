//! What can go wrong, and what to do about it.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use sls_core::Lane;

use crate::room::{MAX_LANE_BYTES, MAX_RING_BYTES, MIN_LANE_BYTES, MIN_RING_BYTES};
use crate::tier::TierError;

/// Why the probe does not work.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The ring's size is not one that the kernel can map.
    #[error(
        "rings of {bytes} bytes together are not possible: it must be a power of two from {MIN_RING_BYTES} to {MAX_RING_BYTES}"
    )]
    RingSize {
        /// The size asked for.
        bytes: u32,
    },
    /// The ring of one lane cannot have this size.
    #[error(
        "a ring of {bytes} bytes for the {lane} lane is not possible: it must be a power of two from {MIN_LANE_BYTES} to {MAX_LANE_BYTES}"
    )]
    LaneSize {
        /// Whose it is.
        lane: Lane,
        /// The size asked for.
        bytes: u32,
    },
    /// The kernel lacks what the programs need.
    #[error("kernel {release} is too old: 5.10 or later is needed")]
    KernelTooOld {
        /// The running kernel's release.
        release: String,
    },
    /// The kernel does not describe its own types, so the programs cannot be fitted to it.
    #[error("the kernel has no type information at {}: it must be built with CONFIG_DEBUG_INFO_BTF=y", path.display())]
    NoTypeInformation {
        /// Where it was looked for.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused to let this process use BPF.
    #[error(
        "not permitted to load BPF programs: run as root, or with CAP_BPF, CAP_PERFMON, for connections \
         CAP_NET_ADMIN and, before Linux 5.11, CAP_SYS_RESOURCE in the first user namespace; a container also needs a seccomp profile that allows bpf(2), \
         and kernel lockdown must not be `confidentiality`"
    )]
    NotPermitted {
        /// What the kernel said.
        source: libbpf_rs::Error,
    },
    /// The kernel refused a program or a map.
    #[error("the kernel refused the BPF programs of {object}: {source}{}", excerpt(log))]
    Load {
        /// The group of programs: `process`, `file`, ….
        object: &'static str,
        /// What the kernel said.
        source: libbpf_rs::Error,
        /// The end of what libbpf and the kernel's verifier wrote, at most [`MAX_LOG_BYTES`] bytes; may be empty.
        log: String,
    },
    /// A part of the BPF object is not there: the object and the crate do not fit together.
    #[error("the BPF object has no {what} called {name}")]
    Object {
        /// `map` or `program`.
        what: &'static str,
        /// What it should be called.
        name: &'static str,
    },
    /// A program could not be attached to its tracepoint.
    #[error("cannot attach the BPF program {program}: {source}")]
    Attach {
        /// The program.
        program: &'static str,
        /// What the kernel said.
        source: libbpf_rs::Error,
    },
    /// A probe of the user's own is not possible.
    #[error("cannot put the probe of the policy \"{policy}\" on {probe}: {reason}")]
    UserProbe {
        /// The policy that wants it.
        policy: String,
        /// The function, and the executable if it is in one.
        probe: String,
        /// Why not.
        reason: String,
    },
    /// The ring buffer could not be mapped or waited for.
    #[error("cannot read the ring buffer: {source}")]
    Ring {
        /// What the kernel said.
        source: libbpf_rs::Error,
    },
    /// A map could not be read or written.
    #[error("cannot access the BPF map {map}: {source}")]
    Map {
        /// The map.
        map: &'static str,
        /// What the kernel said.
        source: libbpf_rs::Error,
    },
    /// The thread that looks for containers could not be started.
    #[error("cannot start the thread that looks for containers: {source}")]
    Containers {
        /// Why.
        source: io::Error,
    },
    /// The kernel tier could not be made ready.
    #[error(transparent)]
    Tier(Box<TierError>),
    /// The sensor is to protect itself, and cannot here.
    #[error("the sensor cannot protect itself: {reason}")]
    NoSelfProtection {
        /// What is missing.
        reason: String,
    },
    /// A program that is to be exempt from the sensor's protection is none.
    #[error("cannot exempt the program {} from the protection of the sensor: {source}", path.display())]
    ExemptProgram {
        /// The program.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The processes that were running at the start could not be listed.
    #[error("cannot list the running processes: {source}")]
    Snapshot {
        /// What the kernel said.
        source: io::Error,
    },
}

/// Bytes of libbpf's and the verifier's output that [`ProbeError::Load`] keeps.
pub const MAX_LOG_BYTES: usize = 16 * 1024;

/// Lines of it in the error's message.
const EXCERPT_LINES: usize = 12;

/// The verifier gives its reason in the last lines.
fn excerpt(log: &str) -> String {
    let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(EXCERPT_LINES)..].iter().map(|line| format!("\n  {line}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excerpt_is_the_end() {
        let log: String = (0..100).map(|line| format!("line {line}\n\n")).collect();
        assert!(excerpt(&log).starts_with("\n  line 88\n"));
        assert!(excerpt(&log).ends_with("\n  line 99"));
        assert_eq!(excerpt(""), "");
    }
}

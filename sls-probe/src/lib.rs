#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod accounts;
mod bell;
mod budget;
mod builder;
mod cgroup;
mod clock;
mod container;
mod enrichment;
mod error;
mod fanotify;
mod group;
mod hooks;
mod host;
mod kernel;
mod lanes;
mod loader;
mod losses;
mod points;
mod probe;
mod protection;
mod record;
mod reread;
mod resolve;
mod room;
mod snapshot;
mod support;
mod tier;
mod tracefs;

pub use accounts::{Accounts, MAX_ACCOUNT_FILE_BYTES, MAX_ACCOUNTS};
pub use builder::{DEFAULT_WAKE_BURST, DEFAULT_WAKES_PER_SECOND, ProbeBuilder};
pub use cgroup::mount_point as cgroup_root;
pub use container::{
    CgroupMaker, ContainerCgroup, ContainerInfo, ContainerMount, ContainerRuntime, ContainerStates, ContainerStats,
    Containers, ContainersBuilder, DEFAULT_CGROUP_LIMIT, DEFAULT_CONTAINER_LIMIT, DEFAULT_CONTAINER_PATIENCE,
    ENGINE_TIMEOUT, FoundContainer, Hierarchy, MAX_AWAITED_CONTAINER_EVENTS, MAX_CGROUP_DEPTH, MAX_CONTAINER_BYTES,
    MAX_CONTAINER_ID_BYTES, MAX_CONTAINER_TEXT_BYTES, MAX_STATE_DIR_ENTRIES, MAX_STATE_FILE_BYTES, find_containers,
};
pub use error::{MAX_LOG_BYTES, ProbeError};
pub use fanotify::{
    Answered, DEFAULT_DECISION_DEADLINE, DEFAULT_HELD_LIMIT, Decider, FailMode, Fanotify, FanotifyBuilder,
    FanotifyError, FanotifyStats, FanotifyWatch, HeldOperation, HeldQueue, MAX_DECISION_DEADLINE, MAX_MARKS,
    MAX_MOUNT_NAMESPACES, PolicyDecider, Screening, Unwatched, Verdict, WatchScope,
};
pub use hooks::HookFamily;
pub use host::HostInfo;
pub use loader::LoadedProbe;
pub use points::{MAX_PROBE_TEXT_BYTES, MAX_PROBES};
pub use probe::Probe;
pub use protection::{
    MAX_EXEMPT_PROGRAMS, MAX_TAMPER_ATTEMPTS, SelfProtection, TamperAttempt, TamperReport, Tampering,
};
pub use record::RecordError;
pub use room::{
    CgroupBudget, DEFAULT_RING_BYTES, MAX_CGROUP_BUDGETS, MAX_LANE_BYTES, MAX_RING_BYTES, MIN_LANE_BYTES,
    MIN_RING_BYTES,
};
pub use snapshot::MAX_ARGV_BYTES;
pub use support::{KernelSupport, KindSupport};
pub use tier::{
    KernelTier, MAX_TIER_GUARDS, MAX_TIER_PATH_BYTES, MAX_TIER_PATHS, MAX_TIER_PATTERNS, MAX_TIER_POLICIES,
    MAX_TIER_POLICIES_OF_PATH, TierError,
};

/// The decoders, for fuzzing. Not part of the API.
#[doc(hidden)]
pub mod __fuzz {
    pub use crate::container::fuzz_documents;
    pub use crate::record::decode;
}

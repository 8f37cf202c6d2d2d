#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod confirm;
mod container;
mod delivery;
mod errno;
mod file;
#[cfg(fuzzing)]
pub mod fuzzing;
mod identity;
mod namespace;
mod pidfd;
mod responder;
mod self_test;
mod stat;
mod subject;
mod tree;

pub use confirm::DEFAULT_CONFIRM_TIMEOUT;
pub use container::{
    CONTAINER_IS_GONE, CONTAINER_NOT_PAUSED, ContainerResponder, ContainerResponderBuilder, ContainerResponderError,
    DEFAULT_CONTAINER_TIMEOUT, MAX_CONTAINER_CGROUP_DEPTH, MAX_CONTAINER_CGROUPS, MAX_CONTAINER_PROCESSES,
    MAX_PENDING_THAWS, ThawStats,
};
pub use delivery::{
    DEFAULT_DELIVERY_QUEUE, DEFAULT_SPOOL_AGE, DEFAULT_SPOOL_BYTES, Delivery, DeliveryBuilder, DeliveryStats,
    FileTransport, MAX_SPOOLED_ALERT, MIN_SPOOL_BYTES, Spool, SpoolError, SpoolLimits, SpoolRecord, SpoolRecords,
    SpoolStats, SpooledAlert, UnixTransport, read_spool,
};
pub use file::{
    DEFAULT_MAX_COPY_BYTES, DEFAULT_MAX_QUARANTINED_BYTES, DEFAULT_MAX_QUARANTINED_FILES, DEFAULT_QUARANTINE_DIRECTORY,
    FileResponder, FileResponderBuilder, MAX_SEARCHED_DESCRIPTORS, MAX_SEARCHED_ENTRIES, QuarantineEntry,
    QuarantineError, QuarantineState, QuarantineStore, RestoreOptions, StoreLocation,
};
pub use identity::{
    CLOCK_TICK_NS, MAX_ANCESTRY, own_ancestry, process_key, process_start, process_target, started_in_same_tick,
};
pub use namespace::in_host_pid_namespace;
pub use responder::{NOT_IN_HOST_PID_NAMESPACE, ProcessResponder, ProcessResponderBuilder, ResponderError};
pub use self_test::{DEFAULT_SELF_TEST_TIMEOUT, SelfTest, SelfTestOutcome, SelfTestResult};
pub use tree::{MAX_HELD_PIDFDS, MAX_SWEEP_ROUNDS, MAX_TREE_PROCESSES, MAX_WAITING_TREES, SWEEP_TIME};

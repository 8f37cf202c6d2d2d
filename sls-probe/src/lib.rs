#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod accounts;
mod budget;
mod builder;
mod clock;
mod error;
mod host;
mod loader;
mod probe;
mod record;
mod snapshot;

pub use accounts::{Accounts, MAX_ACCOUNT_FILE_BYTES, MAX_ACCOUNTS};
pub use builder::{
    DEFAULT_RING_BYTES, DEFAULT_WAKE_BURST, DEFAULT_WAKES_PER_SECOND, MAX_RING_BYTES, MIN_RING_BYTES, ProbeBuilder,
};
pub use error::{MAX_LOG_BYTES, ProbeError};
pub use host::HostInfo;
pub use loader::LoadedProbe;
pub use probe::Probe;
pub use record::RecordError;
pub use snapshot::MAX_ARGV_BYTES;

/// The record decoder, for fuzzing. Not part of the API.
#[doc(hidden)]
pub mod __fuzz {
    pub use crate::record::decode;
}

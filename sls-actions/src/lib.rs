#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod confirm;
mod errno;
mod identity;
mod namespace;
mod pidfd;
mod responder;
mod stat;

pub use confirm::DEFAULT_CONFIRM_TIMEOUT;
pub use identity::{
    CLOCK_TICK_NS, MAX_ANCESTRY, own_ancestry, process_key, process_start, process_target, started_in_same_tick,
};
pub use namespace::in_host_pid_namespace;
pub use responder::{NOT_IN_HOST_PID_NAMESPACE, ProcessResponder, ProcessResponderBuilder, ResponderError};

//! Why the kernel tier does not take policies.

use std::io;

use thiserror::Error;

use crate::error::ProbeError;

/// Why policies are not in force in the kernel tier. Those that were there before still are.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TierError {
    /// A policy asks for what the programs in the kernel do not compare.
    #[error("the kernel tier does not compare `{what}`, which the policy \"{policy}\" asks for")]
    Unsupported {
        /// The policy.
        policy: String,
        /// The field, or the kind of events.
        what: &'static str,
    },
    /// A policy needs more than there is room for.
    #[error("the policy \"{policy}\" needs more than {limit} {what}, which is the limit of the kernel tier")]
    Room {
        /// The policy.
        policy: String,
        /// Of what.
        what: &'static str,
        /// As much as there can be.
        limit: usize,
    },
    /// All policies together need more than a map has room for.
    #[error("the policies need {needed} {what} in the kernel tier, where there is room for {limit}")]
    Full {
        /// Of what.
        what: &'static str,
        /// As much as they need.
        needed: usize,
        /// As much as there can be.
        limit: usize,
    },
    /// Too many policies look at one path.
    #[error("more than {limit} policies or sets of the kernel tier look at {path}")]
    Crowded {
        /// The path, or the part of one.
        path: String,
        /// As many as can.
        limit: usize,
    },
    /// The kernel refused an entry, such as for lack of memory.
    #[error(transparent)]
    Map(#[from] ProbeError),
    /// The files that policies name cannot be watched.
    #[error("cannot watch the files that policies name: {source}")]
    Watch {
        /// What the kernel said.
        source: io::Error,
    },
}

impl TierError {
    pub(super) fn unsupported(policy: &str, what: &'static str) -> Self {
        Self::Unsupported { policy: policy.to_owned(), what }
    }

    pub(super) fn room(policy: &str, what: &'static str, limit: usize) -> Self {
        Self::Room { policy: policy.to_owned(), what, limit }
    }
}

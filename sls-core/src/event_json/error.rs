//! Errors of recorded events.

use std::io;

/// Why a recorded event could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// The line is too long.
    #[error("longer than the {limit} bytes that a recorded event may have")]
    TooLong {
        /// The most bytes allowed.
        limit: usize,
    },
    /// It is not a JSON object.
    #[error("{message} at column {column}")]
    Syntax {
        /// The place, counted in bytes from 1; 0 if unknown.
        column: usize,
        /// What is wrong there.
        message: String,
    },
    /// A key is not known.
    #[error("unknown key {key:?}{}", did_you_mean(*.suggestion))]
    UnknownKey {
        /// The key, cut if it is long.
        key: String,
        /// A known key that looks like it.
        suggestion: Option<&'static str>,
    },
    /// A key is there twice, also under another name for the same field.
    #[error("key {key:?} is given more than once")]
    DuplicateKey {
        /// The key.
        key: &'static str,
    },
    /// A key is missing.
    #[error("key {key:?} is missing")]
    MissingKey {
        /// The key.
        key: &'static str,
    },
    /// A value is of the wrong JSON type.
    #[error("{key:?} must be {expected}, not {found}")]
    WrongType {
        /// The key.
        key: &'static str,
        /// What it takes.
        expected: &'static str,
        /// What was there.
        found: &'static str,
    },
    /// A number does not fit.
    #[error("{key:?} must be a whole number from 0 to {max}")]
    OutOfRange {
        /// The key.
        key: &'static str,
        /// The greatest number that fits.
        max: u64,
    },
    /// A value is not one of the names that the key takes.
    #[error("{key:?} cannot be {name:?}{}", did_you_mean(*.suggestion))]
    UnknownName {
        /// The key.
        key: &'static str,
        /// The name, cut if it is long.
        name: String,
        /// A known name that looks like it.
        suggestion: Option<&'static str>,
    },
    /// The bytes of a string that is not UTF-8 are not well-formed base64.
    #[error("{key:?} has malformed base64: {reason}")]
    Base64 {
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A host is not an IP address.
    #[error("{key:?} must be an IP address, not {value:?}")]
    Host {
        /// The key.
        key: &'static str,
        /// The value, cut if it is long.
        value: String,
    },
    /// A program path in a list has a NUL byte, which no path has.
    #[error("{key:?} has a path with a NUL byte")]
    Nul {
        /// The key.
        key: &'static str,
    },
    /// A key that follows from another says something else.
    #[error("{key:?} must be {expected:?} in such an event, or left out")]
    Contradiction {
        /// The key.
        key: &'static str,
        /// What follows from the other key.
        expected: &'static str,
    },
}

/// Why the next event could not be read from a stream.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventReadError {
    /// The line is not a recorded event. The next one can still be read.
    #[error("line {line}: {source}")]
    Line {
        /// Number of the line, from 1.
        line: u64,
        /// What is wrong with it.
        source: EventError,
    },
    /// The stream cannot be read.
    #[error("line {line} cannot be read: {source}")]
    Io {
        /// Number of the line, from 1.
        line: u64,
        /// What the system said.
        source: io::Error,
    },
}

/// Names are cut here before they go into an error.
const MAX_SHOWN: usize = 64;

/// The start of a name that may be hostile and long.
pub(super) fn shown(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(&name[..name.len().min(MAX_SHOWN)]);
    if name.len() > MAX_SHOWN { format!("{text}…") } else { text.into_owned() }
}

/// The known name nearest to `name`, if it is near.
pub(super) fn suggest(name: &[u8], known: impl IntoIterator<Item = &'static str>) -> Option<&'static str> {
    let name = str::from_utf8(name).ok().filter(|name| name.len() <= MAX_SHOWN)?.to_ascii_lowercase();
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&name, &candidate.to_ascii_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().div_ceil(4))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

fn did_you_mean(suggestion: Option<&'static str>) -> String {
    suggestion.map_or_else(String::new, |name| format!("; did you mean {name:?}?"))
}

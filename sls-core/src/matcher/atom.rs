//! What an event must have for a test to be true or in doubt, one thing at a time.

use std::sync::Arc;

use ipnet::IpNet;

use super::hash::{equal_folded, hash, hash_word};
use crate::bytes::file_name;
use crate::event::{Event, Value};
use crate::list::List;
use crate::pattern::Like;
use crate::schema::{Field, FieldKind};

/// The most bytes of a text within a value that are looked for.
pub(super) const MAX_CONTAINED: usize = 64;

/// One thing that can be looked up. A field whose value is not wholly known has everything.
#[derive(Clone, Debug)]
pub(super) enum Atom {
    Text {
        field: Field,
        part: TextPart,
        of_parts: OfParts,
    },
    /// A regular expression of which no text is known that it needs.
    Like {
        field: Field,
        like: Box<Like>,
    },
    /// One of the texts of a list, whatever their case, or lineages, numbers or hosts.
    List {
        field: Field,
        list: Arc<List>,
    },
    Numbers {
        field: Field,
        ranges: Vec<(u64, u64)>,
    },
    Bool {
        field: Field,
        wanted: bool,
    },
    Host {
        field: Field,
        network: IpNet,
    },
    /// Nothing: what no value passes is in doubt all the same where the value is.
    Never {
        field: Field,
    },
}

/// A part of a text, whatever its case. A path has the file name that is behind its last slash.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum TextPart {
    Whole(Box<[u8]>),
    FileName(Box<[u8]>),
    Start(Box<[u8]>),
    End(Box<[u8]>),
    Inside(Box<[u8]>),
    /// It is not empty.
    Something,
}

/// What a test says of a value that is only partly known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OfParts {
    /// No, if no value of which this is a part passes.
    Compares,
    /// Nothing.
    InDoubt,
}

/// A number that is larger the more events have the thing, and the more it costs to look it up. Whatever every event has
/// weighs [`ALWAYS`].
pub(super) type Weight = f32;

pub(super) const ALWAYS: Weight = 1000.0;

/// Every event has a number, if no more than so many are left out.
const FEW_NUMBERS: u64 = 16;

impl Atom {
    pub(super) fn field(&self) -> Field {
        match self {
            Self::Text { field, .. }
            | Self::Like { field, .. }
            | Self::List { field, .. }
            | Self::Numbers { field, .. }
            | Self::Bool { field, .. }
            | Self::Host { field, .. }
            | Self::Never { field } => *field,
        }
    }

    /// By rule of thumb. That of a list is the sum of its entries'.
    pub(super) fn weight(&self) -> Weight {
        let each = match self {
            Self::Text { field, part, .. } => match (part, field.kind()) {
                (TextPart::Whole(text), FieldKind::Enum(_)) if !text.is_empty() => 200.0,
                (TextPart::Start(text), FieldKind::Path) if **text == *b"/" => ALWAYS,
                (TextPart::Something, _) if *field == Field::ProgramName => ALWAYS,
                (part, _) => part.weight(),
            },
            Self::Like { .. } => 400.0,
            Self::List { .. } | Self::Never { .. } => 0.0,
            Self::Numbers { ranges, .. } if left_out(ranges) <= FEW_NUMBERS => ALWAYS,
            Self::Numbers { field, ranges } => ranges.iter().map(|range| weight_of_range(*field, *range)).sum(),
            Self::Bool { wanted: true, .. } => 100.0,
            Self::Bool { wanted: false, .. } => ALWAYS,
            Self::Host { network, .. } => match network.prefix_len() {
                0 => ALWAYS,
                1..=8 => 100.0,
                _ => 1.0,
            },
        };
        let lookups = if self.field().spec().many { 10.0 } else { 1.0 };
        (each * lookups).min(ALWAYS)
    }

    /// Whether the event has it. It may also say so of an event that has not.
    #[inline]
    pub(super) fn may_hold(&self, event: &Event) -> bool {
        let value = event.value(self.field());
        match self {
            Self::Text { part, .. } => match value {
                Value::Text { bytes, truncated: false } => part.is_in(bytes),
                Value::Absent => part.is_in(b""),
                Value::Many { items, truncated: false } => items.iter().any(|item| part.is_in(item)),
                _ => true,
            },
            Self::List { list, .. } => list.may_hold(value),
            Self::Numbers { ranges, .. } => match value {
                Value::Number(number) => ranges.iter().any(|(from, to)| (*from..=*to).contains(&number)),
                Value::Absent => false,
                _ => true,
            },
            Self::Bool { wanted, .. } => match value {
                Value::Bool(value) => value == *wanted,
                Value::Absent => !wanted,
                _ => true,
            },
            Self::Host { network, .. } => match value {
                Value::Host(address) => network.contains(&address),
                Value::Absent => false,
                _ => true,
            },
            Self::Never { .. } => {
                matches!(
                    value,
                    Value::Unknown | Value::Text { truncated: true, .. } | Value::Many { truncated: true, .. }
                )
            }
            Self::Like { .. } => true,
        }
    }
}

impl TextPart {
    pub(super) fn inside(text: &[u8]) -> Self {
        Self::Inside(text[..text.len().min(MAX_CONTAINED)].into())
    }

    /// A number that is the same for the same part of the same field, and hardly ever for others.
    pub(super) fn fingerprint(&self, field: Field) -> u64 {
        let (kind, text) = match self {
            Self::Whole(text) => (0, &**text),
            Self::FileName(text) => (1, &**text),
            Self::Start(text) => (2, &**text),
            Self::End(text) => (3, &**text),
            Self::Inside(text) => (4, &**text),
            Self::Something => (5, &[][..]),
        };
        hash_word(hash(text) ^ kind, field as usize)
    }

    fn weight(&self) -> Weight {
        match self {
            // What an event does not carry is empty.
            Self::Whole(text) if text.is_empty() => 800.0,
            Self::Whole(_) => 0.05,
            Self::FileName(_) => 0.1,
            Self::Start(text) | Self::End(text) | Self::Inside(text) => match text.len() {
                0 => ALWAYS,
                1 => 400.0,
                2 | 3 => 50.0,
                4..=7 => 3.0,
                8..=11 => 1.0,
                _ => 0.5,
            },
            Self::Something => 300.0,
        }
    }

    #[inline]
    fn is_in(&self, value: &[u8]) -> bool {
        match self {
            Self::Whole(text) => is(value, text),
            Self::FileName(name) => value.len() >= name.len() && is(file_name(value), name),
            Self::Start(text) => value.get(..text.len()).is_some_and(|start| is(start, text)),
            Self::End(text) => value.len().checked_sub(text.len()).is_some_and(|at| is(&value[at..], text)),
            // Looking for it costs as much as the test itself.
            Self::Inside(text) => value.len() >= text.len(),
            Self::Something => !value.is_empty(),
        }
    }
}

/// Whether two texts are the same but for case. The last bytes go first: texts differ there most.
#[inline]
fn is(value: &[u8], text: &[u8]) -> bool {
    value.len() == text.len()
        && value.last().map(|byte| byte | 0x20) == text.last().map(|byte| byte | 0x20)
        && equal_folded(value, text)
}

/// One number of an id, an inode or a port is rare, but for those that most events have.
fn weight_of_range(field: Field, (from, to): (u64, u64)) -> Weight {
    let common = matches!(field, Field::Uid | Field::Gid | Field::Euid | Field::Egid | Field::LoginUid);
    match to.saturating_sub(from) {
        0 if common && from == 0 => 300.0,
        0 => 5.0,
        1..=16 => 20.0,
        17..=1024 => 100.0,
        _ => 400.0,
    }
}

/// How many numbers are in no range. Ranges do not overlap.
fn left_out(ranges: &[(u64, u64)]) -> u64 {
    ranges.iter().fold(u64::MAX, |left, (from, to)| left.saturating_sub(to.saturating_sub(*from).saturating_add(1)))
}

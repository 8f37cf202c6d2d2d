//! Sets of a field's values outside which no policy responds.

use std::collections::BTreeSet;

use super::paths::PathInterest;
use crate::list::Entries;
use crate::rule::{Comparison, NumberTest};
use crate::schema::Field;

/// The most remote ports that an interest names; more are any port.
pub const MAX_INTEREST_PORTS: usize = 256;

/// A set that may have too much in it, never too little.
pub(crate) trait Narrow: Sized {
    const NONE: Self;
    const ANY: Self;

    /// The fields whose values it is about.
    const FIELDS: &'static [Field];

    /// The values that can pass a comparison.
    fn of(comparison: &Comparison) -> Self;

    /// Takes the values of `other`, too.
    fn add(&mut self, other: &Self);

    /// The smaller, the fewer.
    fn breadth(&self) -> usize;
}

/// Remote ports; none: any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ports(pub(super) Option<BTreeSet<u16>>);

impl Default for Ports {
    fn default() -> Self {
        Self::NONE
    }
}

impl Narrow for Ports {
    const NONE: Self = Self(Some(BTreeSet::new()));
    const ANY: Self = Self(None);
    const FIELDS: &'static [Field] = &[Field::RemotePort];

    fn of(comparison: &Comparison) -> Self {
        let mut all = Self::NONE;
        // A number that is no port is none that could be seen.
        match comparison {
            Comparison::Number(NumberTest::Eq(port)) => {
                all.add(&Self(Some(u16::try_from(*port).into_iter().collect())))
            }
            Comparison::AnyOf(options) => options.iter().for_each(|option| all.add(&Self::of(option))),
            Comparison::List { list, .. } => match &list.entries {
                Entries::Numbers(ranges) => {
                    let last = u64::from(u16::MAX);
                    for (from, to) in ranges {
                        // One more than there may be is enough to see that.
                        let ports = (*from..=(*to).min(last)).take(MAX_INTEREST_PORTS + 1);
                        all.add(&Self(Some(ports.filter_map(|port| u16::try_from(port).ok()).collect())));
                    }
                }
                _ => return Self::ANY,
            },
            _ => return Self::ANY,
        }
        all
    }

    fn add(&mut self, other: &Self) {
        *self = match (self.0.take(), &other.0) {
            (Some(mut all), Some(more)) => {
                all.extend(more);
                Self((all.len() <= MAX_INTEREST_PORTS).then_some(all))
            }
            _ => Self::ANY,
        };
    }

    fn breadth(&self) -> usize {
        self.0.as_ref().map_or(usize::MAX, BTreeSet::len)
    }
}

impl Narrow for PathInterest {
    const NONE: Self = Self::Under(BTreeSet::new());
    const ANY: Self = Self::Any;
    const FIELDS: &'static [Field] = &[Field::FilePath, Field::NewFilePath];

    fn of(comparison: &Comparison) -> Self {
        Self::of(comparison)
    }

    fn add(&mut self, other: &Self) {
        self.add(other);
    }

    fn breadth(&self) -> usize {
        match self {
            Self::Any => usize::MAX,
            Self::Under(beginnings) => beginnings.len(),
        }
    }
}

//! What a list holds, looked up instead of walked through.

use std::net::IpAddr;

use super::atom::Atom;
use super::need::{Chooser, Need};
use super::ranges::{Networks, Ranges};
use super::table::Target;
use super::text::{TextIndex, TextIndexBuilder};
use crate::event::Value;
use crate::list::{Entries, List};
use crate::pattern::{Known, Pattern};
use crate::schema::Field;
use crate::truth::Truth;

/// A list of fewer entries is walked through.
const MIN_ENTRIES: usize = 12;

/// The index of the entries of a list, each of which is the target of what it needs.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListIndex {
    texts: TextIndex,
    /// Entries that nothing is needed for.
    any: Box<[Target]>,
    numbers: Ranges<u64>,
    networks: Networks,
}

impl ListIndex {
    /// Which is none if the list is short, or holds lineages.
    pub(crate) fn new(entries: &Entries) -> Option<Self> {
        let numbered = |length: usize| (length >= MIN_ENTRIES).then_some(0..);
        match entries {
            Entries::Patterns(patterns) => numbered(patterns.len()).map(|_| Self::of_patterns(patterns)),
            Entries::Numbers(ranges) => numbered(ranges.len()).map(|numbers| {
                let ranges: Vec<_> =
                    ranges.iter().zip(numbers).map(|((from, to), entry)| (*from, *to, entry)).collect();
                Self { numbers: Ranges::new(&ranges), ..Self::default() }
            }),
            Entries::Hosts(hosts) => numbered(hosts.networks.len()).map(|numbers| {
                let networks = Networks::new(hosts.networks.iter().copied().zip(numbers));
                Self { networks, ..Self::default() }
            }),
            Entries::Lineages(_) => None,
        }
    }

    fn of_patterns(patterns: &[Pattern]) -> Self {
        // Which field it is makes no difference to what a text is looked up by.
        let needs: Vec<_> = patterns.iter().map(|pattern| Need::of_pattern(Field::ProgramName, pattern)).collect();
        let chooser = Chooser::new(&needs);
        let mut texts = TextIndexBuilder::default();
        let mut any = Vec::new();
        for (need, entry) in needs.into_iter().zip(0..) {
            match chooser.choose(need) {
                Some(atoms) => atoms.into_iter().for_each(|atom| {
                    if let Atom::Text { part, of_parts, .. } = atom {
                        texts.add(part, of_parts, entry);
                    }
                }),
                None => any.push(entry),
            }
        }
        Self { texts: texts.build(), any: any.into(), ..Self::default() }
    }

    fn has_text(&self, patterns: &[Pattern], value: &[u8], fold: bool) -> bool {
        let matches = |entry: Target| {
            let pattern = patterns.get(entry as usize);
            pattern.is_some_and(|pattern| pattern.matches(value, Known::Whole, fold) == Truth::True)
        };
        let mut found = false;
        self.texts.each(value, |entry| found = found || matches(entry));
        found || self.any.iter().any(|entry| matches(*entry))
    }

    fn has_number(&self, number: u64) -> bool {
        let mut found = false;
        self.numbers.each(number, |_| found = true);
        found
    }

    fn has_host(&self, address: IpAddr) -> bool {
        let mut found = false;
        self.networks.each(address, |_| found = true);
        found
    }
}

impl List {
    /// Whether the list holds a value of one of its fields. It may also say so of a value that it does not hold.
    pub(super) fn may_hold(&self, value: Value<'_>) -> bool {
        let has = |bytes: &[u8]| self.looked_up_text(bytes, Known::Whole, true) != Truth::False;
        match value {
            Value::Text { bytes, truncated: false } => has(bytes),
            Value::Many { items, truncated: false } => match &self.entries {
                Entries::Patterns(_) => items.iter().any(has),
                _ => true,
            },
            Value::Number(number) => self.looked_up_number(number) != Truth::False,
            Value::Host(address) => self.looked_up_host(address) != Truth::False,
            Value::Absent => match &self.entries {
                Entries::Patterns(_) => has(b""),
                Entries::Numbers(_) | Entries::Hosts(_) => false,
                Entries::Lineages(_) => true,
            },
            _ => true,
        }
    }

    /// What [`Entries::contains_text`] says, by the index.
    pub(crate) fn looked_up_text(&self, value: &[u8], known: Known, fold: bool) -> Truth {
        match (self.index(), &self.entries) {
            (Some(index), Entries::Patterns(patterns)) if known == Known::Whole => {
                index.has_text(patterns, value, fold).into()
            }
            _ => self.entries.contains_text(value, known, fold),
        }
    }

    /// What [`Entries::contains_number`] says, by the index.
    pub(crate) fn looked_up_number(&self, number: u64) -> Truth {
        match (self.index(), &self.entries) {
            (Some(index), Entries::Numbers(_)) => index.has_number(number).into(),
            _ => self.entries.contains_number(number),
        }
    }

    /// What [`Entries::contains_host`] says, by the index.
    pub(crate) fn looked_up_host(&self, address: IpAddr) -> Truth {
        match (self.index(), &self.entries) {
            (Some(index), Entries::Hosts(hosts)) => {
                (index.has_host(address) || hosts.names.iter().any(|name| name.stands_for(address))).into()
            }
            _ => self.entries.contains_host(address),
        }
    }
}

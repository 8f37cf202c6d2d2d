//! Sets of values that a kernel map can hold.

use std::collections::BTreeSet;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::hook::KernelLimits;
use crate::list::Entries;
use crate::pattern::Pattern;
use crate::rule::{Comparison, NumberTest};
use crate::schema::{Field, FieldKind};

/// A set of a field's values.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KernelSet {
    /// Of paths.
    Paths(PathSet),
    /// Of numbers: ranges with both ends, in order, that do not touch.
    Numbers(Vec<(u64, u64)>),
    /// Of addresses.
    Networks(Vec<IpNet>),
    /// Of an enum: a bit for each of its names, in the order of the schema, and one above them for no value.
    Names(u32),
    /// Of a bool: true.
    True,
    /// Of a text of which the kernel knows only whether there is one: `""`. In the field `containerId`: no container.
    Empty,
}

/// Paths, as the kernel resolved them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PathSet {
    /// Paths that are in it.
    pub whole: BTreeSet<Box<[u8]>>,
    /// What begins with one of these is in it. The empty one: every path.
    pub beginnings: BTreeSet<Box<[u8]>>,
    /// What ends with one of these is in it.
    pub ends: BTreeSet<Box<[u8]>>,
    /// Device and inode of files that `whole` names: an executable that is one of them is in it under any name.
    pub identities: BTreeSet<(u64, u64)>,
    pub(crate) follows_identity: bool,
}

impl PathSet {
    /// Whether a path is in it.
    #[must_use]
    pub fn contains(&self, path: &[u8]) -> bool {
        self.whole.contains(path)
            || self.beginnings.iter().any(|beginning| path.starts_with(beginning))
            || self.ends.iter().any(|end| path.ends_with(end))
    }

    /// Looks the files up again that it names: `identity` gives the device and the inode of a path that exists, as stat(2)
    /// does. Whoever fills maps with it does so at load, and whenever one of the files changes.
    pub fn set_identities(&mut self, identity: impl Fn(&[u8]) -> Option<(u64, u64)>) {
        self.identities = self.whole.iter().filter_map(|path| identity(path)).collect();
    }

    fn add(&mut self, pattern: &Pattern, limits: &KernelLimits) -> Result<(), String> {
        let (set, text) = match (pattern.literal(), pattern.literal_start(), pattern.literal_end()) {
            (Some(whole), ..) => (&mut self.whole, whole),
            (None, start, b"") if start.len() == pattern.min_len() => (&mut self.beginnings, start),
            (None, b"", end) if end.len() == pattern.min_len() && limits.path_ends => (&mut self.ends, end),
            (None, b"", end) if end.len() == pattern.min_len() => {
                return Err("the kernel compares no ends of paths".to_owned());
            }
            _ => return Err("a `*` inside a path is compared in user space".to_owned()),
        };
        if text.len() > limits.path_bytes {
            return Err(format!("a path of more than {} bytes is compared in user space", limits.path_bytes));
        }
        set.insert(text.into());
        Ok(())
    }
}

const ALL_NUMBERS: (u64, u64) = (0, u64::MAX);

impl KernelSet {
    /// The values that pass a comparison.
    pub(super) fn of(field: Field, comparison: &Comparison, limits: &KernelLimits) -> Result<Self, String> {
        match field.kind() {
            _ if field.spec().many => Err("the kernel compares one value of a field".to_owned()),
            FieldKind::Path => {
                let mut paths = PathSet::default();
                add_paths(&mut paths, comparison, limits)?;
                Ok(Self::Paths(paths))
            }
            FieldKind::Number => {
                let mut ranges = Vec::new();
                add_numbers(&mut ranges, comparison)?;
                Ok(Self::Numbers(joined(ranges)))
            }
            FieldKind::Host => {
                let mut networks = Vec::new();
                add_networks(&mut networks, comparison)?;
                Ok(Self::Networks(IpNet::aggregate(&networks)))
            }
            FieldKind::Bool => Ok(Self::True),
            FieldKind::Enum(names) => {
                let with_none = names.iter().copied().chain([""]).enumerate();
                let bits = with_none.filter(|(_, name)| passes(comparison, name.as_bytes())).map(|(bit, _)| 1 << bit);
                Ok(Self::Names(bits.sum()))
            }
            FieldKind::Name | FieldKind::Text if is_empty(comparison) => Ok(Self::Empty),
            FieldKind::Name | FieldKind::Text => {
                Err("the kernel knows only whether it is empty; the text is compared in user space".to_owned())
            }
            FieldKind::Lineage => Err("the kernel compares no ancestors but the parent".to_owned()),
        }
    }

    /// Every value of a number or a host.
    pub(super) fn any(field: Field) -> Self {
        match field.kind() {
            FieldKind::Host => Self::Networks(vec![IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())]),
            _ => Self::Numbers(vec![ALL_NUMBERS]),
        }
    }

    /// How many entries a map needs for it.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Paths(paths) => paths.whole.len() + paths.beginnings.len() + paths.ends.len(),
            Self::Numbers(ranges) => ranges.len(),
            Self::Networks(networks) => networks.len(),
            Self::Names(_) | Self::True | Self::Empty => 0,
        }
    }

    /// Whether a map needs no entry for it: nothing is in it, or what is in it is no matter of entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes in the values of `other`, which is of the same field.
    pub(super) fn join(&mut self, other: Self) {
        match (self, other) {
            (Self::Paths(all), Self::Paths(more)) => {
                all.whole.extend(more.whole);
                all.beginnings.extend(more.beginnings);
                all.ends.extend(more.ends);
            }
            (Self::Numbers(all), Self::Numbers(more)) => {
                all.extend(more);
                *all = joined(std::mem::take(all));
            }
            (Self::Networks(all), Self::Networks(more)) => {
                all.extend(more);
                *all = IpNet::aggregate(all);
            }
            (Self::Names(all), Self::Names(more)) => *all |= more,
            // There is one such set, and a field has sets of one kind.
            _ => {}
        }
    }
}

fn add_paths(paths: &mut PathSet, comparison: &Comparison, limits: &KernelLimits) -> Result<(), String> {
    match comparison {
        Comparison::Pattern { pattern, fold: false } => paths.add(pattern, limits),
        Comparison::List { list, fold: false } => match &list.entries {
            Entries::Patterns(patterns) => patterns.iter().try_for_each(|pattern| paths.add(pattern, limits)),
            _ => Err("it is compared in user space".to_owned()),
        },
        Comparison::AnyOf(options) => options.iter().try_for_each(|option| add_paths(paths, option, limits)),
        Comparison::Like(_) => Err("regular expressions are matched in user space".to_owned()),
        Comparison::Pattern { fold: true, .. } | Comparison::List { fold: true, .. } => {
            Err("the kernel tells upper from lower case".to_owned())
        }
        _ => Err("it is compared in user space".to_owned()),
    }
}

fn add_numbers(ranges: &mut Vec<(u64, u64)>, comparison: &Comparison) -> Result<(), String> {
    match comparison {
        Comparison::Number(test) => ranges.extend(range(*test)),
        Comparison::List { list, .. } => match &list.entries {
            Entries::Numbers(more) => ranges.extend(more),
            _ => return Err("it is compared in user space".to_owned()),
        },
        Comparison::AnyOf(options) => options.iter().try_for_each(|option| add_numbers(ranges, option))?,
        _ => return Err("it is compared in user space".to_owned()),
    }
    Ok(())
}

/// The numbers of a field that pass; none if none does.
fn range(test: NumberTest) -> Option<(u64, u64)> {
    let (least, most) = match test {
        NumberTest::Eq(number) => (number, number),
        NumberTest::Lt(number) => (0, number - 1),
        NumberTest::Le(number) => (0, number),
        NumberTest::Gt(number) => (number + 1, i128::from(u64::MAX)),
        NumberTest::Ge(number) => (number, i128::from(u64::MAX)),
    };
    let (least, most) = (least.max(0), most.min(i128::from(u64::MAX)));
    if least > most { None } else { Some((u64::try_from(least).ok()?, u64::try_from(most).ok()?)) }
}

/// In order, and no two of them touch.
fn joined(mut ranges: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    ranges.sort_unstable();
    let mut all: Vec<(u64, u64)> = Vec::with_capacity(ranges.len());
    for (from, to) in ranges {
        match all.last_mut() {
            Some((_, last)) if from <= last.saturating_add(1) => *last = to.max(*last),
            _ => all.push((from, to)),
        }
    }
    all
}

fn add_networks(networks: &mut Vec<IpNet>, comparison: &Comparison) -> Result<(), String> {
    match comparison {
        Comparison::Host(network) => networks.push(*network),
        Comparison::List { list, .. } => match &list.entries {
            Entries::Hosts(hosts) if hosts.names.is_empty() => networks.extend(&hosts.networks),
            _ => return Err("domain names of a list are resolved in user space".to_owned()),
        },
        Comparison::AnyOf(options) => options.iter().try_for_each(|option| add_networks(networks, option))?,
        _ => return Err("it is compared in user space".to_owned()),
    }
    Ok(())
}

fn passes(comparison: &Comparison, value: &[u8]) -> bool {
    use crate::pattern::Known::Whole;
    use crate::truth::Truth::True;
    match comparison {
        Comparison::Pattern { pattern, fold } => pattern.matches(value, Whole, *fold) == True,
        Comparison::List { list, fold } => list.entries.contains_text(value, Whole, *fold) == True,
        Comparison::AnyOf(options) => options.iter().any(|option| passes(option, value)),
        Comparison::Like(like) => like.matches(value, Whole) == True,
        _ => false,
    }
}

/// Whether nothing but the empty text passes.
fn is_empty(comparison: &Comparison) -> bool {
    match comparison {
        Comparison::Pattern { pattern, .. } => pattern.literal() == Some(b""),
        Comparison::AnyOf(options) => !options.is_empty() && options.iter().all(is_empty),
        _ => false,
    }
}

//! The atoms of many policies, by field, so that those which an event has are found together.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::atom::Atom;
use super::need::{Chooser, of_entries};
use super::ranges::{Networks, Ranges};
use super::table::{Target, unique};
use super::text::{TextIndex, TextIndexBuilder};
use crate::event::{Event, Value, canonical};
use crate::list::{Entries, HostName, List};
use crate::pattern::Known;
use crate::schema::{Field, FieldKind};

/// Set in the target of a list, whose number leads to the policies that ask for the list.
const GROUP: Target = 1 << 30;

/// What an event is looked up in.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    fields: Box<[(Field, FieldIndex)]>,
    /// The targets of each list.
    groups: Box<[Box<[Target]>]>,
}

#[derive(Clone, Debug)]
enum FieldIndex {
    Text(Box<TextIndex>),
    Number { ranges: Ranges<u64>, all: Box<[Target]> },
    Bool([Box<[Target]>; 2]),
    Host(Box<HostIndex>),
}

#[derive(Clone, Debug)]
struct HostIndex {
    networks: Networks,
    /// Domain names, whose addresses change, and who asks for each.
    names: Box<[(Arc<HostName>, Target)]>,
    all: Box<[Target]>,
}

impl Index {
    /// Calls `found` for each policy of which the event has an atom, in any order, and perhaps for others.
    #[inline]
    pub(super) fn each(&self, event: &Event, mut found: impl FnMut(Target)) {
        let mut found = |target: Target| match target & GROUP {
            0 => found(target),
            _ => {
                let group = self.groups.get((target & !GROUP) as usize);
                group.into_iter().flatten().for_each(|target| found(*target));
            }
        };
        for (field, index) in &self.fields {
            index.each(*field, event.value(*field), &mut found);
        }
    }
}

impl FieldIndex {
    #[inline]
    fn each(&self, field: Field, value: Value<'_>, found: &mut impl FnMut(Target)) {
        match (self, value) {
            (Self::Text(index), Value::Text { bytes, truncated: false }) => index.each(bytes, found),
            (Self::Text(index), Value::Text { bytes, .. }) => {
                let known = if field.kind() == FieldKind::Path { Known::End } else { Known::Start };
                index.each_of_part(bytes, known, found);
            }
            (Self::Text(_), Value::Absent) if field.spec().many => {}
            (Self::Text(index), Value::Absent) => index.each(b"", found),
            (Self::Text(index), Value::Many { items, truncated: false }) => {
                items.iter().for_each(|item| index.each(item, &mut *found));
            }
            (Self::Text(index), _) => index.each_target(found),
            (Self::Number { ranges, .. }, Value::Number(number)) => ranges.each(number, found),
            (Self::Bool([when_false, when_true]), value) => match value {
                Value::Bool(true) => when_true.iter().for_each(|target| found(*target)),
                Value::Bool(false) | Value::Absent => when_false.iter().for_each(|target| found(*target)),
                _ => [when_false, when_true].into_iter().flatten().for_each(|target| found(*target)),
            },
            (Self::Host(index), Value::Host(address)) => index.each(address, found),
            (Self::Number { .. } | Self::Host(_), Value::Absent) => {}
            (Self::Number { all, .. }, _) => all.iter().for_each(|target| found(*target)),
            (Self::Host(index), _) => index.all.iter().for_each(|target| found(*target)),
        }
    }
}

impl HostIndex {
    fn each(&self, address: IpAddr, found: &mut impl FnMut(Target)) {
        self.networks.each(address, &mut *found);
        for (name, target) in &self.names {
            if name.stands_for(address) {
                found(*target);
            }
        }
    }
}

/// Builds an [`Index`].
#[derive(Debug, Default)]
pub(super) struct IndexBuilder {
    texts: BTreeMap<Field, TextIndexBuilder>,
    numbers: BTreeMap<Field, NumberIndexBuilder>,
    bools: BTreeMap<Field, [Vec<Target>; 2]>,
    hosts: BTreeMap<Field, HostIndexBuilder>,
    groups: Vec<Vec<Target>>,
    lists: HashMap<(Field, *const List), Target>,
}

#[derive(Debug, Default)]
struct NumberIndexBuilder {
    ranges: Vec<(u64, u64, Target)>,
    all: Vec<Target>,
}

#[derive(Debug, Default)]
struct HostIndexBuilder {
    networks: Vec<(IpNet, Target)>,
    names: Vec<(Arc<HostName>, Target)>,
    all: Vec<Target>,
}

impl IndexBuilder {
    /// Adds an atom that a policy needs. The lists have to live until the index is built.
    pub(super) fn add(&mut self, atom: Atom, target: Target, chooser: &Chooser) {
        match atom {
            Atom::Text { field, part, of_parts } => self.text(field).add(part, of_parts, target),
            Atom::Like { field, like } => self.text(field).add_like(*like, target),
            Atom::List { field, list } => self.add_list(field, &list, target, chooser),
            Atom::Numbers { field, ranges } => {
                let entries = ranges.into_iter().map(|(from, to)| (from, to, target));
                self.numbers.entry(field).or_default().ranges.extend(entries);
                self.add_in_doubt(field, target);
            }
            Atom::Never { field } => self.add_in_doubt(field, target),
            Atom::Bool { field, wanted } => self.bools.entry(field).or_default()[usize::from(wanted)].push(target),
            Atom::Host { field, network } => {
                self.add_in_doubt(field, target);
                self.hosts.entry(field).or_default().networks.push((network, target));
            }
        }
    }

    pub(super) fn build(self) -> Index {
        let texts = self.texts.into_iter().map(|(field, texts)| (field, FieldIndex::Text(Box::new(texts.build()))));
        let numbers = self.numbers.into_iter().map(|(field, numbers)| {
            (field, FieldIndex::Number { ranges: Ranges::new(&numbers.ranges), all: unique(numbers.all) })
        });
        let bools = self.bools.into_iter().map(|(field, targets)| (field, FieldIndex::Bool(targets.map(unique))));
        let hosts = self.hosts.into_iter().map(|(field, hosts)| (field, FieldIndex::Host(Box::new(hosts.build()))));
        Index {
            fields: texts.chain(numbers).chain(bools).chain(hosts).collect(),
            groups: self.groups.into_iter().map(unique).collect(),
        }
    }

    fn text(&mut self, field: Field) -> &mut TextIndexBuilder {
        self.texts.entry(canonical(field)).or_default()
    }

    /// Adds somebody who has to be asked where the value of the field is in doubt.
    fn add_in_doubt(&mut self, field: Field, target: Target) {
        match field.kind() {
            FieldKind::Number => self.numbers.entry(field).or_default().all.push(target),
            FieldKind::Host => self.hosts.entry(field).or_default().all.push(target),
            // A truth value that is in doubt has both.
            FieldKind::Bool => {}
            _ => self.text(field).add_in_doubt(target),
        }
    }

    /// The entries of a list are added once, however many policies ask for it.
    fn add_list(&mut self, field: Field, list: &Arc<List>, target: Target, chooser: &Chooser) {
        let next = self.groups.len() as Target;
        let group = *self.lists.entry((field, Arc::as_ptr(list))).or_insert(next);
        if group == next {
            self.groups.push(Vec::new());
            self.add_in_doubt(field, group | GROUP);
            for need in of_entries(field, &list.entries) {
                for atom in chooser.choose(need).into_iter().flatten() {
                    self.add(atom, group | GROUP, chooser);
                }
            }
            if let Entries::Hosts(hosts) = &list.entries {
                let names = hosts.names.iter().map(|name| (name.clone(), group | GROUP));
                self.hosts.entry(field).or_default().names.extend(names);
            }
        }
        self.groups[group as usize].push(target);
    }
}

impl HostIndexBuilder {
    fn build(self) -> HostIndex {
        let networks = Networks::new(self.networks);
        HostIndex { networks, names: self.names.into(), all: unique(self.all) }
    }
}

//! Named lists, which rules compare fields with.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::event::Items;
use crate::pattern::{Known, Pattern};
use crate::policy::names;
use crate::schema::FieldKind;
use crate::truth::Truth;

names! {
    /// What a list holds.
    pub enum ListType {
        Names "names" "strings; * is a wildcard",
        Paths "paths" "paths; * anywhere, and it crosses /",
        Hosts "hosts" "CIDR blocks or addresses",
        Numbers "numbers" "integers and a-b ranges",
        Lineage "lineage" "sequences of program names, nearest ancestor last",
    }
}

impl ListType {
    /// Whether fields of `kind` can be compared with such a list.
    #[must_use]
    pub fn fits(self, kind: FieldKind) -> bool {
        match self {
            Self::Names => matches!(kind, FieldKind::Name | FieldKind::Text | FieldKind::Enum(_)),
            Self::Paths => kind == FieldKind::Path,
            Self::Hosts => kind == FieldKind::Host,
            Self::Numbers => kind == FieldKind::Number,
            Self::Lineage => kind == FieldKind::Lineage,
        }
    }
}

/// A checked list.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct List {
    /// Display name, unique in a [`PolicySet`](crate::PolicySet).
    pub name: Arc<str>,
    /// What it holds.
    pub list_type: ListType,
    /// Free text.
    pub description: String,
    pub(crate) entries: Entries,
}

impl List {
    /// How many entries it has.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.entries {
            Entries::Patterns(entries) => entries.len(),
            Entries::Hosts(entries) => entries.len(),
            Entries::Numbers(entries) => entries.len(),
            Entries::Lineages(entries) => entries.len(),
        }
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Entries {
    Patterns(Vec<Pattern>),
    Hosts(Vec<IpNet>),
    /// Inclusive ranges.
    Numbers(Vec<(u64, u64)>),
    Lineages(Vec<Lineage>),
}

impl Entries {
    /// The number, from 1, of the first text that needs more than `max` bytes to match.
    pub(crate) fn longer_than(&self, max: usize) -> Option<usize> {
        match self {
            Self::Patterns(patterns) => patterns.iter().position(|pattern| pattern.min_len() > max).map(|at| at + 1),
            _ => None,
        }
    }

    pub(crate) fn contains_text(&self, value: &[u8], known: Known, fold: bool) -> Truth {
        match self {
            Self::Patterns(patterns) => any(patterns, |pattern| pattern.matches(value, known, fold)),
            _ => Truth::False,
        }
    }

    pub(crate) fn contains_number(&self, value: u64) -> Truth {
        match self {
            Self::Numbers(ranges) => ranges.iter().any(|(from, to)| (*from..=*to).contains(&value)).into(),
            _ => Truth::False,
        }
    }

    pub(crate) fn contains_host(&self, value: IpAddr) -> Truth {
        match self {
            Self::Hosts(networks) => networks.iter().any(|network| network.contains(&value)).into(),
            _ => Truth::False,
        }
    }

    pub(crate) fn contains_lineage(&self, ancestors: Items<'_>, truncated: bool) -> Truth {
        match self {
            Self::Lineages(lineages) => any(lineages, |lineage| lineage.matches(ancestors, truncated)),
            _ => Truth::False,
        }
    }
}

/// The disjunction of `test` over `items`.
pub(crate) fn any<T>(items: impl IntoIterator<Item = T>, mut test: impl FnMut(T) -> Truth) -> Truth {
    let mut result = Truth::False;
    for item in items {
        result = result.or(test(item));
        if result == Truth::True {
            break;
        }
    }
    result
}

/// Programs that must appear in the ancestry in this order, nearest ancestor last, with gaps allowed.
#[derive(Clone, Debug)]
pub(crate) struct Lineage(pub(crate) Vec<Pattern>);

impl Lineage {
    fn matches(&self, ancestors: Items<'_>, truncated: bool) -> Truth {
        // Ancestors come nearest first, so the sequence is consumed from its end.
        let mut wanted = self.0.iter().rev().peekable();
        for ancestor in ancestors.iter() {
            let Some(program) = wanted.peek() else { break };
            if names_program(program, ancestor) {
                wanted.next();
            }
        }
        match wanted.peek() {
            None => Truth::True,
            // The missing part of the ancestry may hold the rest.
            Some(_) if truncated => Truth::Unknown,
            Some(_) => Truth::False,
        }
    }
}

/// Whether a lineage entry names an executable: by its path if the entry has a slash, else by its last component.
fn names_program(program: &Pattern, path: &[u8]) -> bool {
    let value = match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) if !program.has_slash() => &path[slash + 1..],
        _ => path,
    };
    program.matches(value, Known::Whole, false) == Truth::True
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, EventKind, Value};
    use crate::schema::Field;

    fn lineage(entries: &[&str], ancestors: &[&str], truncated: bool) -> Truth {
        let mut event = Event::new(EventKind::Exec);
        event.set_ancestors(ancestors.iter().map(|path| path.as_bytes()));
        let Value::Many { items, .. } = event.value(Field::Lineage) else { panic!("not many") };
        let entries = entries.iter().map(|entry| Pattern::new(entry)).collect();
        Entries::Lineages(vec![Lineage(entries)]).contains_lineage(items, truncated)
    }

    #[test]
    fn lineages_are_ordered_and_may_have_gaps() {
        let ancestors = ["/bin/sh", "/usr/bin/python3", "/usr/sbin/nginx", "/sbin/init"];
        assert_eq!(lineage(&["nginx", "sh"], &ancestors, false), Truth::True);
        assert_eq!(lineage(&["sh", "nginx"], &ancestors, false), Truth::False);
        assert_eq!(lineage(&["/usr/sbin/nginx", "python*"], &ancestors, false), Truth::True);
        assert_eq!(lineage(&["/nginx"], &ancestors, false), Truth::False);
        assert_eq!(lineage(&["sshd", "sh"], &ancestors, true), Truth::Unknown);
        assert_eq!(lineage(&["sh"], &[], false), Truth::False);
    }
}

//! Named lists, which rules compare fields with.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use ipnet::IpNet;

use crate::bytes::file_name;
use crate::event::Items;
use crate::matcher::ListIndex;
use crate::pattern::{Known, Pattern};
use crate::policy::names;
use crate::schema::FieldKind;
use crate::truth::Truth;

names! {
    /// What a list holds.
    pub enum ListType {
        Names "names" "strings; * is a wildcard",
        Paths "paths" "paths; * anywhere, and it crosses /",
        Hosts "hosts" "CIDR blocks, addresses, or domain names",
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
    /// Made when it is first asked for.
    pub(crate) index: OnceLock<Option<Box<ListIndex>>>,
}

impl List {
    /// What values are looked up in, if that is worth it.
    pub(crate) fn index(&self) -> Option<&ListIndex> {
        self.index.get_or_init(|| ListIndex::new(&self.entries).map(Box::new)).as_deref()
    }

    /// How many entries it has.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.entries {
            Entries::Patterns(entries) => entries.len(),
            Entries::Hosts(hosts) => hosts.networks.len() + hosts.names.len(),
            Entries::Numbers(entries) => entries.len(),
            Entries::Lineages(entries) => entries.len(),
        }
    }

    /// Whether an entry equals the whole path.
    pub(crate) fn names_path(&self, path: &str) -> bool {
        self.entries.contains_text(path.as_bytes(), Known::Whole, false) == Truth::True
    }

    /// Whether it holds the same entries. What domain names stand for just now is no part of them.
    pub(crate) fn holds_like(&self, other: &Self) -> bool {
        self.list_type == other.list_type
            && match (&self.entries, &other.entries) {
                (Entries::Patterns(own), Entries::Patterns(other)) => own == other,
                (Entries::Hosts(own), Entries::Hosts(other)) => {
                    own.networks == other.networks
                        && own.names.iter().map(|name| name.name()).eq(other.names.iter().map(|name| name.name()))
                }
                (Entries::Numbers(own), Entries::Numbers(other)) => own == other,
                (Entries::Lineages(own), Entries::Lineages(other)) => own == other,
                _ => false,
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
    Hosts(Hosts),
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
            Self::Hosts(hosts) => hosts.contains(value).into(),
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

#[derive(Clone, Debug, Default)]
pub(crate) struct Hosts {
    pub(crate) networks: Vec<IpNet>,
    pub(crate) names: Vec<Arc<HostName>>,
}

impl Hosts {
    fn contains(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address))
            || self.names.iter().any(|name| name.stands_for(address))
    }
}

/// The most addresses that a domain name of a list stands for.
pub const MAX_HOST_ADDRESSES: usize = 256;

/// A domain name in a list of hosts. Whoever runs the policies resolves it and says to what; until then, and where it
/// does not resolve, it stands for no address: were it unknown instead, one dead name would leave every connection
/// undecided.
///
/// ```
/// use sls_core::PolicySet;
///
/// let policies = PolicySet::from_yaml("p.yaml", "Update servers: {type: hosts, resolveEvery: 60, list: [deb.debian.org]}")?;
/// let name = policies.host_names().next().unwrap();
/// assert_eq!((name.name(), name.resolve_every().as_secs()), ("deb.debian.org", 60));
/// name.set_addresses(["199.232.150.132".parse().unwrap()]);
/// # Ok::<(), sls_core::Diagnostics>(())
/// ```
#[derive(Debug)]
pub struct HostName {
    name: String,
    resolve_every: Duration,
    addresses: ArcSwap<Vec<IpAddr>>,
}

impl HostName {
    pub(crate) fn new(name: String, resolve_every: Duration) -> Self {
        Self { name, resolve_every, addresses: ArcSwap::default() }
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How long its addresses are good for.
    #[must_use]
    pub fn resolve_every(&self) -> Duration {
        self.resolve_every
    }

    /// Replaces its addresses, of which the first [`MAX_HOST_ADDRESSES`] are taken. Matchers that run in other threads
    /// see the old or the new ones, and wait for nothing.
    pub fn set_addresses(&self, addresses: impl IntoIterator<Item = IpAddr>) {
        self.addresses.store(Arc::new(addresses.into_iter().take(MAX_HOST_ADDRESSES).collect()));
    }

    pub(crate) fn stands_for(&self, address: IpAddr) -> bool {
        self.addresses.load().contains(&address)
    }

    /// The addresses that it stands for.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.addresses.load().to_vec()
    }
}

/// Whether it is a domain name of RFC 1123 that cannot be taken for a mistyped address.
pub(crate) fn is_domain_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    let top = name.rsplit('.').next().unwrap_or(name);
    name.len() <= 253 && name.split('.').all(label) && top.bytes().any(|byte| byte.is_ascii_alphabetic())
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
#[derive(Clone, Debug, PartialEq, Eq)]
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
    let value = if program.has_slash() { path } else { file_name(path) };
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
    fn domain_names_are_no_mistyped_addresses() {
        for name in ["localhost", "deb.debian.org", "a-b.example.", "xn--bcher-kva.example", "1and1.com", "_x.y"] {
            assert!(is_domain_name(name), "{name}");
        }
        let long = format!("{}.example", "x".repeat(64));
        for name in ["", ".", "10.0.0.300", "10.0.0.0/33", "a..b", "-a.b", "*.example", "a b", "::1::", &long] {
            assert!(!is_domain_name(name), "{name}");
        }
    }

    #[test]
    fn names_contain_what_they_resolve_to() {
        let name = Arc::new(HostName::new("localhost".to_owned(), Duration::from_secs(60)));
        let entries = Entries::Hosts(Hosts { networks: Vec::new(), names: vec![name.clone()] });
        let address: IpAddr = "127.0.0.1".parse().unwrap();
        assert_eq!(entries.contains_host(address), Truth::False);
        name.set_addresses(std::iter::repeat_n(address, MAX_HOST_ADDRESSES + 1));
        assert_eq!(entries.contains_host(address), Truth::True);
        assert_eq!(name.addresses().len(), MAX_HOST_ADDRESSES);
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

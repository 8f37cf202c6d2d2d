//! Typed access to the attributes of one object; whatever is not asked for is an unknown key.

use std::collections::{HashMap, hash_map};
use std::time::Duration;

use saphyr_parser::ScalarStyle;

use super::yaml::{Entry, Node, Place, Yaml, attribute};
use crate::diagnostic::{Code, Diagnostics, nearest};
use crate::keys::{KeyKind, KeySpec};

/// A longer text is not written out again, in quotes.
const MAX_SUGGESTED: usize = 128;

/// The attributes of an object while it is decoded.
pub(crate) struct Attributes<'a, 'd> {
    entries: &'a [Entry],
    known: &'static [&'static str],
    pub(crate) diagnostics: &'d mut Diagnostics,
}

impl<'a, 'd> Attributes<'a, 'd> {
    /// Attributes of which `known` may appear; any other key is reported at once.
    pub(crate) fn new(entries: &'a [Entry], known: &'static [&'static str], diagnostics: &'d mut Diagnostics) -> Self {
        let mut attributes = Self { entries, known, diagnostics };
        attributes.report_unknown_keys();
        attributes
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'a Entry> {
        debug_assert!(self.known.contains(&key));
        attribute(self.entries, key)
    }

    /// A required attribute of the object whose key, or beginning, is at `object`.
    pub(crate) fn required(&mut self, key: &str, object: &Place) -> Option<&'a Entry> {
        let entry = self.get(key);
        if entry.is_none() {
            self.diagnostics.push(object.error(Code::MissingKey, format!("the key `{key}` is missing")));
        }
        entry
    }

    pub(crate) fn string(&mut self, key: &str) -> Option<&'a str> {
        let entry = self.get(key)?;
        self.string_in(key, &entry.value)
    }

    pub(crate) fn string_in(&mut self, key: &str, node: &'a Node) -> Option<&'a str> {
        match &node.value {
            Yaml::Scalar { text, .. } if node.describe() == "a string" => Some(text),
            _ => {
                self.wrong_type(key, "a string", node);
                None
            }
        }
    }

    pub(crate) fn bool(&mut self, key: &str) -> Option<bool> {
        let entry = self.get(key)?;
        match &entry.value.value {
            Yaml::Scalar { text, style: ScalarStyle::Plain } if plain_bool(text).is_some() => plain_bool(text),
            _ => {
                self.wrong_type(key, "`true` or `false`", &entry.value);
                None
            }
        }
    }

    /// An integer in the range that the table of keys has, or else the default there.
    pub(super) fn integer(&mut self, spec: &KeySpec) -> u64 {
        let KeyKind::Integer { min, max } = spec.kind else { return 0 };
        let parse = |text: &str| text.parse().ok().filter(|number| (min..=max).contains(number));
        self.number(spec, &format!("an integer from {min} to {max}"), parse)
    }

    /// A number of seconds in the range that the table of keys has, or else the default there.
    pub(super) fn seconds(&mut self, spec: &KeySpec) -> Duration {
        let KeyKind::Seconds { max } = spec.kind else { return Duration::ZERO };
        let parse = |text: &str| {
            let duration = Duration::try_from_secs_f64(text.parse().ok()?).ok();
            duration.filter(|duration| *duration <= Duration::from_secs(max))
        };
        self.number(spec, &format!("a number of seconds from 0 to {max}"), parse)
    }

    fn number<T: Default>(&mut self, spec: &KeySpec, wanted: &str, parse: impl Fn(&str) -> Option<T>) -> T {
        if let Some(entry) = self.get(spec.name) {
            match plain(&entry.value).and_then(&parse) {
                Some(number) => return number,
                None => self.out_of_range(spec.name, wanted, &entry.value),
            }
        }
        spec.default.and_then(parse).unwrap_or_default()
    }

    fn out_of_range(&mut self, key: &str, wanted: &str, node: &Node) {
        let found = plain(node).filter(|text| text.len() <= MAX_SUGGESTED).unwrap_or(node.describe());
        let message = format!("`{key}` takes {wanted}, not {found}");
        self.diagnostics.push(node.place.error(Code::WrongType, message));
    }

    /// An attribute whose value is one of `names`.
    pub(crate) fn name<T>(
        &mut self,
        key: &str,
        names: impl Iterator<Item = &'static str> + Clone,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let entry = self.get(key)?;
        let text = self.string_in(key, &entry.value)?;
        let value = parse(text);
        if value.is_none() {
            self.unknown_name(&format!("`{text}` is not a value of `{key}`"), text, &entry.value, names);
        }
        value
    }

    pub(crate) fn strings(&mut self, key: &str) -> Vec<(&'a str, &'a Node)> {
        let items = self.sequence(key, "a sequence of strings");
        items.iter().filter_map(|item| self.string_in(key, item).map(|text| (text, item))).collect()
    }

    /// The items of an attribute, which is `wanted`; none if it is missing.
    pub(crate) fn sequence(&mut self, key: &str, wanted: &str) -> &'a [Node] {
        match self.get(key).map(|entry| &entry.value) {
            None => &[],
            Some(Node { value: Yaml::Sequence(items), .. }) => items,
            Some(node) => {
                self.wrong_type(key, wanted, node);
                &[]
            }
        }
    }

    pub(crate) fn wrong_type(&mut self, key: &str, wanted: &str, node: &Node) {
        let message = format!("`{key}` takes {wanted}, not {}", node.describe());
        let mut diagnostic = node.place.error(Code::WrongType, message);
        match &node.value {
            Yaml::Scalar { text, style: ScalarStyle::Plain }
                if wanted == "a string" && !text.is_empty() && text.len() <= MAX_SUGGESTED =>
            {
                diagnostic = diagnostic.suggest(node.place.span, format!("\"{text}\""));
            }
            _ => {}
        }
        self.diagnostics.push(diagnostic);
    }

    pub(crate) fn unknown_name(
        &mut self,
        message: &str,
        text: &str,
        node: &Node,
        names: impl Iterator<Item = &'static str> + Clone,
    ) {
        let all: Vec<_> = names.clone().map(|name| format!("`{name}`")).collect();
        let mut diagnostic = node.place.error(Code::UnknownName, message).help(format!("one of {}", all.join(", ")));
        if let Some(name) = nearest(text, names) {
            diagnostic = diagnostic.suggest(node.place.span, name);
        }
        self.diagnostics.push(diagnostic);
    }

    fn report_unknown_keys(&mut self) {
        for Entry { key, .. } in self.entries {
            if self.diagnostics.is_full() {
                return;
            }
            match &key.value {
                Yaml::Scalar { text, .. } if self.known.contains(&&**text) => {}
                Yaml::Scalar { text, .. } => {
                    let mut diagnostic = key.place.error(Code::UnknownKey, format!("unknown key `{text}`"));
                    diagnostic = match nearest(text, self.known.iter().copied()) {
                        Some(name) => diagnostic.suggest(key.place.span, name),
                        None => diagnostic.help(format!("the keys here are `{}`", self.known.join("`, `"))),
                    };
                    self.diagnostics.push(diagnostic);
                }
                _ => {
                    let message = format!("a key is a string, not {}", key.describe());
                    self.diagnostics.push(key.place.error(Code::WrongType, message));
                }
            }
        }
    }
}

/// The text of a number as it is written, which has no quotes.
fn plain(node: &Node) -> Option<&str> {
    match &node.value {
        Yaml::Scalar { text, style: ScalarStyle::Plain } if node.describe() != "nothing" => Some(text),
        _ => None,
    }
}

/// The entries without those whose key was there before, which are reported.
pub(crate) fn unique_keys(entries: Vec<Entry>, diagnostics: &mut Diagnostics) -> Vec<Entry> {
    let mut places = HashMap::new();
    entries
        .into_iter()
        .filter(|entry| {
            let Yaml::Scalar { text, .. } = &entry.key.value else { return true };
            match places.entry(text.clone()) {
                hash_map::Entry::Vacant(place) => {
                    place.insert(entry.key.place.clone());
                    true
                }
                hash_map::Entry::Occupied(first) => {
                    let message = format!("the key `{text}` is given twice");
                    let label = format!("first on line {}", first.get().line());
                    diagnostics.push(entry.key.place.error(Code::DuplicateKey, message).label(label));
                    false
                }
            }
        })
        .collect()
}

/// A bool as YAML 1.2's core schema writes it.
pub(crate) fn plain_bool(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" => Some(true),
        "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

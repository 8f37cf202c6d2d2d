//! The merged document as text. It is written from the tree as it stands: a copy of it as values took as much memory as
//! the rest of a load.

use std::cell::RefCell;

use saphyr_parser::ScalarStyle;
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::object::plain_bool;
use super::yaml::{Entry, Node, Yaml};
use super::{CONTENT_GROUPS, Object};

/// The document of all objects.
pub(super) fn document(groups: Option<&Node>, objects: &[Object]) -> String {
    let mut attempts = 0_u64..;
    loop {
        let quoted =
            Quoted { mark: format!("text-{}-", attempts.next().unwrap_or_default()), texts: RefCell::default() };
        // Only strings, bools, integers and collections of them are written, which cannot fail.
        let document = serde_yaml::to_string(&Document { groups, objects, quoted: &quoted }).unwrap_or_default();
        if let Some(document) = quoted.put_into(document) {
            return document;
        }
    }
}

/// Characters that are line breaks to YAML 1.1, as which they are written, and no longer to YAML 1.2, as which they are read.
const FORMER_BREAKS: [char; 3] = ['\u{85}', '\u{2028}', '\u{2029}'];

/// Texts that are quoted here, and for which marks are written at first.
struct Quoted {
    /// How every mark begins.
    mark: String,
    texts: RefCell<Vec<String>>,
}

impl Quoted {
    fn serialize<S: Serializer>(&self, text: &str, serializer: S) -> Result<S::Ok, S::Error> {
        if !text.contains(FORMER_BREAKS) {
            return serializer.serialize_str(text);
        }
        let mut texts = self.texts.borrow_mut();
        texts.push(text.to_owned());
        serializer.serialize_str(&format!("{}{}-", self.mark, texts.len() - 1))
    }

    /// The document with the texts in place of their marks; none if something else in it looks like one.
    fn put_into(&self, document: String) -> Option<String> {
        let texts = self.texts.borrow();
        if texts.is_empty() {
            return Some(document);
        }
        if document.matches(&self.mark).count() != texts.len() {
            return None;
        }
        let mut parts = document.split(&self.mark);
        let mut whole = parts.next().unwrap_or_default().to_owned();
        for (text, part) in texts.iter().zip(parts) {
            // A string of JSON is one of YAML.
            let quoted = serde_json::to_string(text).unwrap_or_default();
            for char in quoted.chars() {
                match u32::from(char) {
                    ..0x7f => whole.push(char),
                    code @ ..=0xffff => whole.push_str(&format!("\\u{code:04x}")),
                    code => whole.push_str(&format!("\\U{code:08x}")),
                }
            }
            whole.push_str(part.split_once('-').map_or("", |(_, rest)| rest));
        }
        Some(whole)
    }
}

struct Document<'a> {
    groups: Option<&'a Node>,
    objects: &'a [Object],
    quoted: &'a Quoted,
}

impl Serialize for Document<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.objects.len() + usize::from(self.groups.is_some())))?;
        if let Some(groups) = self.groups {
            map.serialize_entry(CONTENT_GROUPS, &Attribute(groups, self.quoted))?;
        }
        for object in self.objects {
            map.serialize_entry(&Text(&object.name, self.quoted), &Attributes(&object.entries, self.quoted))?;
        }
        map.end()
    }
}

/// A string.
struct Text<'a>(&'a str, &'a Quoted);

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.1.serialize(self.0, serializer)
    }
}

/// The attributes of an object.
struct Attributes<'a>(&'a [Entry], &'a Quoted);

impl Serialize for Attributes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(entries, quoted) = self;
        serializer.collect_map(entries.iter().map(|entry| (Item(&entry.key, quoted), Attribute(&entry.value, quoted))))
    }
}

/// An attribute's value.
struct Attribute<'a>(&'a Node, &'a Quoted);

impl Serialize for Attribute<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0.value {
            Yaml::Scalar { text, style: ScalarStyle::Plain } => match (plain_bool(text), text.parse::<i64>()) {
                (Some(value), _) => serializer.serialize_bool(value),
                (None, Ok(value)) => serializer.serialize_i64(value),
                (None, Err(_)) => match text.parse::<f64>() {
                    Ok(value) if value.is_finite() => serializer.serialize_f64(value),
                    _ => self.1.serialize(text, serializer),
                },
            },
            _ => Item(self.0, self.1).serialize(serializer),
        }
    }
}

/// A value in a collection, or a key. Here the text counts, so that `007` and `True` keep theirs.
struct Item<'a>(&'a Node, &'a Quoted);

impl Serialize for Item<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(node, quoted) = self;
        match &node.value {
            Yaml::Sequence(items) => serializer.collect_seq(items.iter().map(|item| Item(item, quoted))),
            Yaml::Mapping(entries) => serializer
                .collect_map(entries.iter().map(|entry| (Item(&entry.key, quoted), Item(&entry.value, quoted)))),
            Yaml::Scalar { text, style: ScalarStyle::Plain } if is_canonical(text) => {
                Attribute(node, quoted).serialize(serializer)
            }
            Yaml::Scalar { text, .. } => quoted.serialize(text, serializer),
        }
    }
}

/// Whether a plain text is a bool or an integer, and written in the way in which it would be written out.
fn is_canonical(text: &str) -> bool {
    matches!(text, "true" | "false") || text.parse::<i64>().is_ok_and(|number| number.to_string() == text)
}

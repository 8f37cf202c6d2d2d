//! The merged document as text. It is written from the tree as it stands: a copy of it as values took as much memory as
//! the rest of a load.

use saphyr_parser::ScalarStyle;
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::object::plain_bool;
use super::yaml::{Entry, Node, Yaml};
use super::{CONTENT_GROUPS, Object};

/// The document of all objects.
pub(super) fn document(groups: Option<&Node>, objects: &[Object]) -> String {
    // Only strings, bools, integers and collections of them are written, which cannot fail.
    serde_yaml::to_string(&Document { groups, objects }).unwrap_or_default()
}

struct Document<'a> {
    groups: Option<&'a Node>,
    objects: &'a [Object],
}

impl Serialize for Document<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.objects.len() + usize::from(self.groups.is_some())))?;
        if let Some(groups) = self.groups {
            map.serialize_entry(CONTENT_GROUPS, &Attribute(groups))?;
        }
        for object in self.objects {
            map.serialize_entry(&object.name, &Attributes(&object.entries))?;
        }
        map.end()
    }
}

/// The attributes of an object.
struct Attributes<'a>(&'a [Entry]);

impl Serialize for Attributes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|entry| (Item(&entry.key), Attribute(&entry.value))))
    }
}

/// An attribute's value.
struct Attribute<'a>(&'a Node);

impl Serialize for Attribute<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0.value {
            Yaml::Scalar { text, style: ScalarStyle::Plain } => match (plain_bool(text), text.parse::<i64>()) {
                (Some(value), _) => serializer.serialize_bool(value),
                (None, Ok(value)) => serializer.serialize_i64(value),
                (None, Err(_)) => match text.parse::<f64>() {
                    Ok(value) if value.is_finite() => serializer.serialize_f64(value),
                    _ => serializer.serialize_str(text),
                },
            },
            _ => Item(self.0).serialize(serializer),
        }
    }
}

/// A value in a collection, or a key. Here the text counts, so that `007` and `True` keep theirs.
struct Item<'a>(&'a Node);

impl Serialize for Item<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0.value {
            Yaml::Sequence(items) => serializer.collect_seq(items.iter().map(Item)),
            Yaml::Mapping(entries) => {
                serializer.collect_map(entries.iter().map(|entry| (Item(&entry.key), Item(&entry.value))))
            }
            Yaml::Scalar { text, style: ScalarStyle::Plain } if is_canonical(text) => {
                Attribute(self.0).serialize(serializer)
            }
            Yaml::Scalar { text, .. } => serializer.serialize_str(text),
        }
    }
}

/// Whether a plain text is a bool or an integer, and written in the way in which it would be written out.
fn is_canonical(text: &str) -> bool {
    matches!(text, "true" | "false") || text.parse::<i64>().is_ok_and(|number| number.to_string() == text)
}

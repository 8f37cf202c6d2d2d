//! Documents in, a checked [`PolicySet`] or diagnostics out. Loading is all or nothing.

mod decode;
mod object;
mod yaml;

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use saphyr_parser::ScalarStyle;
use sha2::{Digest, Sha256};

use self::decode::{PolicyContext, decode_list, decode_policy};
use self::yaml::{Entry, Node, Yaml};
use crate::capabilities::Capabilities;
use crate::diagnostic::{Code, Diagnostic, Diagnostics, SourceText, Span};
use crate::limits::Limits;
use crate::policy::PolicySet;

/// Loads policy documents as layers: a later one may override attributes of what an earlier one defines.
///
/// ```
/// use sls_core::PolicyLoader;
///
/// let policies = PolicyLoader::new()
///     .document("content.yaml", "No wget:\n  policy: program\n  rules: ['match programName == \"*/wget\"', default ignore]\n")
///     .document("local.yaml", "No wget:\n  priority: High\n")
///     .load()?;
/// assert_eq!(policies.policy("No wget").unwrap().priority, sls_core::Priority::High);
/// # Ok::<(), sls_core::Diagnostics>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct PolicyLoader {
    limits: Limits,
    capabilities: Capabilities,
    documents: Vec<(String, Vec<u8>)>,
}

impl PolicyLoader {
    /// A loader with the default limits and no documents.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces the limits.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Refuses policies that need more than this sensor can see and do. By default nothing is refused for that.
    #[must_use]
    pub fn capabilities(mut self, capabilities: Capabilities) -> Self {
        self.capabilities = capabilities;
        self
    }

    /// Adds a document as the next layer. The name appears in diagnostics only.
    #[must_use]
    pub fn document(mut self, name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        self.documents.push((name.into(), bytes.into()));
        self
    }

    /// Checks everything and returns the effective policies.
    ///
    /// # Errors
    /// Every finding that could be made, if there is an error among them.
    pub fn load(self) -> Result<PolicySet, Diagnostics> {
        let mut diagnostics = Diagnostics::limited(self.limits.diagnostics);
        let mut objects = Objects::default();
        let names: Vec<_> = self.documents.iter().map(|(name, _)| name.clone()).collect();
        for (name, bytes) in self.documents {
            match read(&name, bytes, &self.limits) {
                Ok(root) => objects.add_layer(root, &mut diagnostics),
                Err(diagnostic) => diagnostics.push(diagnostic),
            }
        }
        let set = objects.decode(&self.limits, &self.capabilities, &mut diagnostics);
        diagnostics.sort(&names);
        if diagnostics.has_errors() { Err(diagnostics) } else { Ok(set) }
    }
}

impl PolicySet {
    /// Loads one document with the default limits.
    ///
    /// # Errors
    /// See [`PolicyLoader::load`].
    pub fn from_yaml(name: &str, text: impl Into<Vec<u8>>) -> Result<Self, Diagnostics> {
        PolicyLoader::new().document(name, text).load()
    }
}

/// The byte order mark, which is no part of the text.
const MARK: &[u8] = "\u{feff}".as_bytes();

fn read(name: &str, mut bytes: Vec<u8>, limits: &Limits) -> Result<Node, Diagnostic> {
    let mark = if bytes.starts_with(MARK) { MARK.len() } else { 0 };
    bytes.drain(..mark);
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..valid].iter().filter(|byte| **byte == b'\n').count() + 1;
        let source = SourceText::new(name, String::from_utf8_lossy(&error.as_bytes()[..valid]));
        let message = format!("the document is not UTF-8: bad byte at offset {}, line {line}", mark + valid);
        Diagnostic::error(Code::Encoding, &source, Span::new(valid, valid), message)
    })?;
    yaml::parse(&SourceText::new(name, text), limits)
}

/// The objects of all layers, merged, in the order in which they first appeared.
#[derive(Default)]
struct Objects {
    order: Vec<Object>,
    by_name: HashMap<String, usize>,
    groups: Option<Node>,
}

/// A named object of the document.
struct Object {
    name: String,
    key: Node,
    entries: Vec<Entry>,
}

/// Top-level keys that are not display names.
const CONTENT_GROUPS: &str = "enabled_content_groups";

impl Objects {
    fn add_layer(&mut self, root: Node, diagnostics: &mut Diagnostics) {
        let Yaml::Mapping(entries) = root.value else {
            let message = format!("a policy document is a mapping, not {}", root.describe());
            diagnostics.push(root.place.error(Code::WrongType, message));
            return;
        };
        let mut seen = HashMap::new();
        for Entry { key, value } in entries {
            if diagnostics.is_full() {
                return;
            }
            let Yaml::Scalar { text: name, .. } = &key.value else {
                diagnostics
                    .push(key.place.error(Code::WrongType, format!("a name is a string, not {}", key.describe())));
                continue;
            };
            let name = name.clone();
            if let Some(first) = seen.insert(name.clone(), key.place.clone()) {
                let message = format!("`{name}` is defined twice in this document");
                let label = format!("first on line {}", first.line());
                diagnostics.push(key.place.error(Code::DuplicateKey, message).label(label));
                continue;
            }
            if name == CONTENT_GROUPS {
                self.groups = Some(value);
                continue;
            }
            match value.value {
                Yaml::Mapping(attributes) => self.merge(name, key, attributes, diagnostics),
                _ => diagnostics.push(
                    key.place
                        .error(Code::NotAnObject, format!("`{name}` is neither a policy nor a list"))
                        .help("a policy has the key `policy`, a list has the keys `type` and `list`"),
                ),
            }
        }
    }

    /// Adds an object, or overrides attributes of the one with the same name.
    fn merge(&mut self, name: String, key: Node, attributes: Vec<Entry>, diagnostics: &mut Diagnostics) {
        let attributes = object::unique_keys(attributes, diagnostics);
        match self.by_name.get(&name) {
            Some(index) => {
                let entries = &mut self.order[*index].entries;
                let places: HashMap<_, _> =
                    (0..).zip(&*entries).filter_map(|(at, entry)| Some((name_of(&entry.key)?, at))).collect();
                let places: Vec<Option<usize>> =
                    attributes.iter().map(|attribute| places.get(name_of(&attribute.key)?).copied()).collect();
                for (attribute, place) in attributes.into_iter().zip(places) {
                    match place {
                        Some(at) => entries[at] = attribute,
                        None => entries.push(attribute),
                    }
                }
            }
            None => {
                self.by_name.insert(name.clone(), self.order.len());
                self.order.push(Object { name, key, entries: attributes });
            }
        }
    }

    fn decode(self, limits: &Limits, capabilities: &Capabilities, diagnostics: &mut Diagnostics) -> PolicySet {
        let groups = self.groups.as_ref().map(|node| decode::strings(node, CONTENT_GROUPS, diagnostics));
        let effective = self.effective_document();
        let (lists, rest): (Vec<_>, Vec<_>) = self.order.iter().partition(|object| object.is_list());
        let mut set = PolicySet { hash: hex(&Sha256::digest(&effective)), effective, ..PolicySet::default() };
        for object in lists {
            if diagnostics.is_full() {
                break;
            }
            if let Some(list) = decode_list(&object.name, &object.key, &object.entries, limits, diagnostics) {
                set.lists.insert(list.name.clone(), Arc::new(list));
            }
        }
        let mut too_many = false;
        let regex_bytes = Cell::new(limits.regex_total_bytes);
        for object in rest {
            if diagnostics.is_full() {
                break;
            }
            if !object.has("policy") {
                let message = format!("`{}` is neither a policy nor a list", object.name);
                diagnostics.push(
                    object
                        .key
                        .place
                        .error(Code::NotAnObject, message)
                        .help("a policy has the key `policy`, a list has the keys `type` and `list`; an override comes after the document that it changes"),
                );
                continue;
            }
            if set.policies.len() == limits.policies && !too_many {
                too_many = true;
                let message = format!("too many policies: the limit `policies` is {}", limits.policies);
                diagnostics.push(object.key.place.error(Code::Limit, message));
            }
            if too_many {
                break;
            }
            let context = PolicyContext {
                name: &object.name,
                key: &object.key,
                lists: &set.lists,
                limits,
                capabilities,
                regex_bytes: &regex_bytes,
            };
            let decoded = decode_policy(&context, &object.entries, diagnostics);
            if let Some(mut policy) = decoded {
                policy.enabled &= selected(policy.group.as_deref(), groups.as_deref());
                set.policies.push(Arc::new(policy));
            }
        }
        set
    }

    fn effective_document(&self) -> String {
        let mut document = serde_yaml::Mapping::new();
        if let Some(groups) = &self.groups {
            document.insert(CONTENT_GROUPS.into(), to_value(groups));
        }
        for object in &self.order {
            document.insert(object.name.as_str().into(), to_mapping(&object.entries, to_value));
        }
        // Only strings, bools, integers and collections of them are written, which cannot fail.
        serde_yaml::to_string(&document).unwrap_or_default()
    }
}

impl Object {
    /// Whether it is a list, or was meant to be one.
    fn is_list(&self) -> bool {
        self.has("list") || self.has("type") && !self.has("policy")
    }

    fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| matches!(&entry.key.value, Yaml::Scalar { text, .. } if text == key))
    }
}

/// Whether a content group is switched on: one selector is it, or a dotted prefix of it.
fn selected(group: Option<&str>, selectors: Option<&[String]>) -> bool {
    match (group, selectors) {
        (Some(group), Some(selectors)) => selectors.iter().any(|selector| {
            group.strip_prefix(selector.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        }),
        _ => true,
    }
}

/// The text of a key, if it is one.
fn name_of(key: &Node) -> Option<&str> {
    match &key.value {
        Yaml::Scalar { text, .. } => Some(text),
        _ => None,
    }
}

/// An attribute's value. Of an entry in a collection the text counts, so that `007` and `True` keep theirs.
fn to_value(node: &Node) -> serde_yaml::Value {
    match &node.value {
        Yaml::Scalar { text, style: ScalarStyle::Plain } => match object::plain_bool(text) {
            Some(value) => value.into(),
            None => text.parse::<i64>().map_or_else(|_| text.as_str().into(), Into::into),
        },
        _ => to_entry(node),
    }
}

fn to_entry(node: &Node) -> serde_yaml::Value {
    match &node.value {
        Yaml::Sequence(items) => serde_yaml::Value::Sequence(items.iter().map(to_entry).collect()),
        Yaml::Mapping(entries) => to_mapping(entries, to_entry),
        Yaml::Scalar { text, style: ScalarStyle::Plain } => {
            let plain = to_value(node);
            match &plain {
                serde_yaml::Value::Bool(value) if value.to_string() == *text => plain,
                serde_yaml::Value::Number(number) if number.to_string() == *text => plain,
                _ => text.as_str().into(),
            }
        }
        Yaml::Scalar { text, .. } => text.as_str().into(),
    }
}

fn to_mapping(entries: &[Entry], value: fn(&Node) -> serde_yaml::Value) -> serde_yaml::Value {
    serde_yaml::Value::Mapping(entries.iter().map(|entry| (to_entry(&entry.key), value(&entry.value))).collect())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

//! Documents in, a checked [`PolicySet`] or diagnostics out. Loading is all or nothing.

mod decode;
mod effective;
mod extend;
pub(crate) mod object;
pub(crate) mod yaml;

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use self::decode::{PolicyContext, decode_list, decode_policy};
use self::yaml::Place;
pub(crate) use self::yaml::{Entry, Node, Yaml, attribute};
use crate::capabilities::Capabilities;
use crate::diagnostic::{Code, Diagnostic, Diagnostics, SourceText, Span, nearest};
use crate::interest::ProbePoint;
use crate::limits::Limits;
use crate::lint::{LinkResolver, Lint, Source};
use crate::policy::{Policy, PolicySet};
use crate::tiers::Unmet;

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
    documents: Vec<Document>,
    links: Option<LinkResolver>,
}

#[derive(Clone, Debug)]
struct Document {
    name: String,
    bytes: Vec<u8>,
    content: bool,
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

    /// Lets the loader warn of paths that lead through a symbolic link. Given a path, `resolve` returns where it really leads,
    /// if it can tell. It is asked at most 1,000 times in a load; by default nothing is asked, for this crate does no I/O.
    #[must_use]
    pub fn resolve_links(mut self, resolve: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        self.links = Some(LinkResolver(Arc::new(resolve)));
        self
    }

    /// Adds a document as the next layer. The name appears in diagnostics only.
    #[must_use]
    pub fn document(mut self, name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        self.documents.push(Document { name: name.into(), bytes: bytes.into(), content: false });
        self
    }

    /// Adds a document of detections that were written for any sensor, as the next layer: a policy of it that needs more
    /// than this sensor can see and do is left out, which [`PolicySet::left_out`] tells, where in another document it would
    /// be an error.
    #[must_use]
    pub fn content(mut self, name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        self.documents.push(Document { name: name.into(), bytes: bytes.into(), content: true });
        self
    }

    /// Checks everything and returns the effective policies, with [warnings](PolicySet::warnings) of what is probably not
    /// meant.
    ///
    /// # Errors
    /// Every finding that could be made, if there is an error among them.
    pub fn load(self) -> Result<PolicySet, Diagnostics> {
        let mut diagnostics = Diagnostics::limited(self.limits.diagnostics);
        let mut objects = Objects::default();
        let names: Vec<_> = self.documents.iter().map(|document| document.name.clone()).collect();
        for Document { name, bytes, content } in self.documents {
            match read(&name, bytes, &self.limits) {
                Ok(root) => objects.add_layer(root, content, &mut diagnostics),
                Err(diagnostic) => diagnostics.push(diagnostic),
            }
        }
        let mut lint = Lint::new(self.links.as_ref(), self.limits.diagnostics);
        let mut set = objects.decode(&self.limits, &self.capabilities, &mut diagnostics, &mut lint);
        set.warnings = lint.into_warnings();
        set.warnings.sort(&names);
        set.left_out.sort(&names);
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

/// Reads one YAML document.
pub(crate) fn read(name: &str, mut bytes: Vec<u8>, limits: &Limits) -> Result<Node, Diagnostic> {
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
    /// Where the last document begins.
    last_layer: Option<Place>,
}

/// A named object of the document.
struct Object {
    name: String,
    key: Node,
    entries: Vec<Entry>,
    /// Whether it comes from a content document.
    content: bool,
}

/// Top-level keys that are not display names.
pub(crate) const CONTENT_GROUPS: &str = "enabled_content_groups";

impl Objects {
    fn add_layer(&mut self, root: Node, content: bool, diagnostics: &mut Diagnostics) {
        self.last_layer = Some(root.place.clone());
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
            let name = name.to_string();
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
                Yaml::Mapping(attributes) => self.merge(name, key, attributes, content, diagnostics),
                _ => diagnostics.push(
                    key.place
                        .error(Code::NotAnObject, format!("`{name}` is neither a policy nor a list"))
                        .help("a policy has the key `policy`, a list has the keys `type` and `list`"),
                ),
            }
        }
    }

    /// Adds an object, or overrides attributes of the one with the same name.
    fn merge(&mut self, name: String, key: Node, attributes: Vec<Entry>, content: bool, diagnostics: &mut Diagnostics) {
        let (attributes, extensions) = extend::split(object::unique_keys(attributes, diagnostics));
        match self.by_name.get(&name) {
            Some(index) => {
                let entries = &mut self.order[*index].entries;
                let places: HashMap<_, _> =
                    (0..).zip(&*entries).filter_map(|(at, entry)| Some((entry.key.scalar()?, at))).collect();
                let places: Vec<Option<usize>> =
                    attributes.iter().map(|attribute| places.get(attribute.key.scalar()?).copied()).collect();
                for (attribute, place) in attributes.into_iter().zip(places) {
                    match place {
                        Some(at) => entries[at] = attribute,
                        None => entries.push(attribute),
                    }
                }
                extend::apply(entries, extensions, diagnostics);
            }
            None => {
                extend::report_unfounded(&name, &extensions, self.by_name.keys().map(String::as_str), diagnostics);
                if attributes.is_empty() && !extensions.is_empty() {
                    return;
                }
                self.by_name.insert(name.clone(), self.order.len());
                self.order.push(Object { name, key, entries: attributes, content });
            }
        }
    }

    fn decode(
        self,
        limits: &Limits,
        capabilities: &Capabilities,
        diagnostics: &mut Diagnostics,
        lint: &mut Lint<'_>,
    ) -> PolicySet {
        let groups = self.groups.as_ref().map(|node| decode::strings(node, CONTENT_GROUPS, diagnostics));
        let effective = effective::document(self.groups.as_ref(), &self.order);
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
                let others = self.order.iter().filter(|other| other.has("policy") || other.has("list"));
                let help = match nearest(&object.name, others.map(|other| &*other.name)) {
                    Some(name) => format!("to override `{name}`, write its name"),
                    None => "a policy has the key `policy`, a list has the keys `type` and `list`; an override comes after the document that it changes".to_owned(),
                };
                diagnostics.push(object.key.place.error(Code::NotAnObject, message).help(help));
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
            let mut own = Diagnostics::limited(limits.diagnostics);
            let decoded = decode_policy(&context, &object.entries, &mut own).map(|mut policy| {
                policy.index = set.policies.len();
                policy.enabled &= selected(policy.group.as_deref(), groups.as_deref());
                Arc::new(policy)
            });
            if let Some(policy) = decoded.as_ref().filter(|_| own.is_empty())
                && let Err(unmet) = set.tiers.add(policy, capabilities)
            {
                own.push(no_tier(object, policy, unmet));
            }
            if object.content
                && let Some(reason) = own.as_slice().first()
                && own.as_slice().iter().all(|finding| matches!(finding.code, Code::Unsupported | Code::NoTier))
            {
                set.left_out.push(reason.as_warning());
                continue;
            }
            own.into_iter().for_each(|finding| diagnostics.push(finding));
            if let Some(policy) = decoded {
                if let Some(other) = fetches_otherwise(&policy, &set.policies) {
                    let message =
                        format!("`{}` is on the same function as `{other}`, but fetches other arguments", policy.name);
                    let help = "each event of a function raises all its policies: give them the same `arguments`";
                    diagnostics.push(object.key.place.error(Code::Conflict, message).help(help));
                }
                // First it has to load.
                if diagnostics.is_empty() {
                    lint.policy(&policy, object.source());
                }
                set.policies.push(policy);
            }
        }
        if diagnostics.is_empty() {
            let lists = self.order.iter().filter(|object| object.is_list());
            let lists = lists.map(|list| (&*list.name, list.source(), list.is_in(self.last_layer.as_ref())));
            let find = |name: &str| self.by_name.get(name).map(|index| self.order[*index].source());
            lint.set(&set, lists, self.groups.as_ref(), find);
        }
        set
    }
}

impl Object {
    /// Whether it is a list, or was meant to be one.
    fn is_list(&self) -> bool {
        self.has("list") || self.has("type") && !self.has("policy")
    }

    fn source(&self) -> Source<'_> {
        Source { key: &self.key, entries: &self.entries, content: self.content }
    }

    /// Whether it was first defined in the document of `place`.
    fn is_in(&self, place: Option<&Place>) -> bool {
        place.is_some_and(|place| Arc::ptr_eq(&place.source, &self.key.place.source))
    }

    fn has(&self, key: &str) -> bool {
        attribute(&self.entries, key).is_some()
    }
}

/// That no tier does what the policy asks for, at the place where it does.
fn no_tier(object: &Object, policy: &Policy, unmet: Unmet) -> Diagnostic {
    let keys: &[&str] = if policy.tier.is_some() { &["tier"] } else { &["responseActions", "responseAction"] };
    let place = keys
        .iter()
        .find_map(|key| attribute(&object.entries, key))
        .map_or(&object.key.place, |entry| &entry.value.place);
    place.error(Code::NoTier, unmet.message).label(unmet.reasons).help(unmet.help)
}

/// The policy among `others` that has a probe where `policy` has one, and is not content with the same events.
fn fetches_otherwise<'p>(policy: &Policy, others: &'p [Arc<Policy>]) -> Option<&'p str> {
    let point = ProbePoint::of(policy).filter(|_| policy.enabled)?;
    let other = others.iter().filter(|other| other.enabled).find(|other| {
        ProbePoint::of(other).is_some_and(|other| other.has_place_of(&point) && !other.gives_same_as(&point))
    });
    other.map(|other| &*other.name)
}

/// Whether a content group is switched on: one selector is it, or a dotted prefix of it.
fn selected(group: Option<&str>, selectors: Option<&[String]>) -> bool {
    match (group, selectors) {
        (Some(group), Some(selectors)) => selectors.iter().any(|selector| selects(selector, group)),
        _ => true,
    }
}

pub(crate) fn selects(selector: &str, group: &str) -> bool {
    group.strip_prefix(selector).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

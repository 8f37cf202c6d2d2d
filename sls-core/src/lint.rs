//! The static analyser: policies that load, but are probably not meant. A warning never changes what is loaded.
//!
//! Its cost is near-linear in the size of the documents. What is compared with each other is bounded: by [`RULE_FUEL`] in one
//! policy, by [`LOAD_FUEL`] in all. Beyond that, less is found.

mod expenses;
mod literals;
mod logic;
mod policies;
mod rules;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use saphyr_parser::ScalarStyle;

use self::literals::{check_entry, check_test, is_resolved, literals};
use self::logic::Fuel;
use self::rules::each_test;
use crate::diagnostic::{Code, Diagnostic, Diagnostics, Span, nearest};
use crate::list::{List, ListType};
use crate::loader::{Entry, Node, Yaml, attribute, selects};
use crate::matcher::Appraiser;
use crate::policy::{Policy, PolicySet};
use crate::rule::{Comparison, Test};
use crate::schema::{FieldKind, FieldSet};

/// Comparisons that the rules of one policy may cost.
const RULE_FUEL: usize = 20_000;

/// Comparisons that all policies of a load may cost.
const LOAD_FUEL: usize = 4_000_000;

/// How often one load asks where a path leads.
const MAX_LINKS: usize = 1_000;

/// A longer list is not searched for what a link leads to.
const MAX_SEARCHED: usize = 10_000;

/// Tells where a path really leads, if it is not there.
#[derive(Clone)]
pub(crate) struct LinkResolver(pub(crate) Arc<Resolve>);

type Resolve = dyn Fn(&str) -> Option<String> + Send + Sync;

impl fmt::Debug for LinkResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkResolver")
    }
}

/// A finding in a text, such as a rule. The spans are in it.
#[derive(Debug)]
struct Finding {
    code: Code,
    span: Span,
    message: String,
    label: String,
    help: Option<String>,
    suggestion: Option<(Span, String)>,
}

impl Finding {
    fn new(code: Code, span: Span, message: String) -> Self {
        Self { code, span, message, label: String::new(), help: None, suggestion: None }
    }

    fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    fn suggest(mut self, span: Span, replacement: String) -> Self {
        self.suggestion = Some((span, replacement));
        self
    }
}

/// The analyser during one load.
#[derive(Debug)]
pub(crate) struct Lint<'a> {
    links: Option<&'a LinkResolver>,
    links_left: usize,
    fuel: Fuel,
    /// The fields that each list is compared with.
    uses: HashMap<Arc<str>, FieldSet>,
    appraiser: Appraiser,
    warnings: Diagnostics,
}

/// An object of the documents as the analyser sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'n> {
    /// Its name.
    pub(crate) key: &'n Node,
    /// Its attributes.
    pub(crate) entries: &'n [Entry],
    /// Whether it was written for any host, whose links it cannot know.
    pub(crate) content: bool,
}

impl<'a> Lint<'a> {
    /// An analyser that keeps `limit` warnings.
    pub(crate) fn new(links: Option<&'a LinkResolver>, limit: usize) -> Self {
        Self {
            links,
            links_left: MAX_LINKS,
            fuel: Fuel::new(LOAD_FUEL),
            uses: HashMap::new(),
            appraiser: Appraiser::default(),
            warnings: Diagnostics::limited(limit),
        }
    }

    /// Looks at one policy, all of whose attributes were right.
    pub(crate) fn policy(&mut self, policy: &Policy, source: Source<'_>) {
        for condition in policy.rules.iter().filter_map(|rule| rule.condition.as_ref()) {
            each_test(condition, &mut |test| self.note_use(test));
        }
        // Nothing more would be kept.
        if self.warnings.is_full() {
            return;
        }
        let units = self.fuel.left().min(RULE_FUEL);
        let fuel = Fuel::new(units);
        let mut found = Vec::new();
        rules::check(policy, &fuel, &mut found);
        found.extend(expenses::check(policy, &mut self.appraiser, &found));
        let response = policies::check(policy, &fuel);
        self.fuel.burn(units - fuel.left());
        for (index, rule) in policy.rules.iter().enumerate() {
            let Some(condition) = &rule.condition else { continue };
            let mut texts = Vec::new();
            each_test(condition, &mut |test| {
                check_test(test, &mut texts);
                if !source.content {
                    self.check_links(test, &mut texts);
                }
            });
            found.extend(texts.into_iter().map(|finding| (index, finding)));
        }
        let rules = items(source.entries, "rules");
        for (index, finding) in found {
            if let Some(node) = rules.get(index) {
                self.push(source, in_text(node, finding));
            }
        }
        if let Some(finding) = response {
            let place = match finding.code {
                Code::NoAction => attribute(source.entries, "responseActions").map(|entry| &entry.value),
                _ => rules.last(),
            };
            self.push(source, at(place.unwrap_or(source.key), finding));
        }
    }

    /// Looks at the whole, when all policies were looked at. `lists` are all lists, each with whether the last document
    /// was the first to define it.
    pub(crate) fn set<'n>(
        &mut self,
        set: &PolicySet,
        lists: impl Iterator<Item = (&'n str, Source<'n>, bool)>,
        selectors: Option<&Node>,
        find: impl Fn(&str) -> Option<Source<'n>>,
    ) {
        for conflict in policies::conflicts(set.policies.iter().map(|policy| &**policy), &self.fuel) {
            let [first, second] = [conflict.first, conflict.second].map(|index| &set.policies[index]);
            let Some(source) = find(&second.name) else { continue };
            let message = format!("`{}` and `{}` respond to the same events", first.name, second.name);
            let label = format!("one is to `{}` what the other is to `{}`", conflict.keeps, conflict.destroys);
            let node = attribute(source.entries, "responseActions").or(attribute(source.entries, "responseAction"));
            let place = &node.map_or(source.key, |entry| &entry.value).place;
            self.push(source, place.warning(Code::ConflictingActions, message).label(label));
        }
        for (name, source, newest) in lists {
            if self.warnings.is_full() {
                break;
            }
            if let Some(list) = set.lists.get(name) {
                self.list(list, source, newest && !set.policies.is_empty());
            }
        }
        if let Some(Node { value: Yaml::Sequence(selectors), .. }) = selectors {
            for node in selectors {
                if self.warnings.is_full() {
                    break;
                }
                self.selector(node, set);
            }
        }
    }

    /// Keeps a finding, unless its object silences it.
    fn push(&mut self, source: Source<'_>, finding: Diagnostic) {
        let code = finding.code.id();
        if !items(source.entries, "silence").iter().any(|item| item.scalar() == Some(code)) {
            self.warnings.push(finding);
        }
    }

    pub(crate) fn into_warnings(self) -> Diagnostics {
        self.warnings
    }

    fn note_use(&mut self, test: &Test) {
        if let Comparison::List { list, .. } = &test.comparison {
            match self.uses.get_mut(&list.name) {
                Some(fields) => fields.insert(test.field),
                None => {
                    self.uses.insert(list.name.clone(), FieldSet::from_iter([test.field]));
                }
            }
        }
    }

    fn list(&mut self, list: &List, source: Source<'_>, newest: bool) {
        let fields = self.uses.get(&list.name).copied().unwrap_or_default();
        if fields.is_empty() && newest {
            let message = format!("no rule names the list `{}`", list.name);
            let mut warning = source.key.place.warning(Code::UnusedList, message);
            if let Some(name) = nearest(&list.name, self.uses.keys().map(|name| &**name)) {
                warning = warning.help(format!("to override `{name}`, write its name"));
            }
            self.push(source, warning);
        }
        let kind = match list.list_type {
            ListType::Paths => FieldKind::Path,
            ListType::Names => FieldKind::Name,
            _ => return,
        };
        // Free text has brackets of its own.
        let kind = if fields.iter().any(|field| field.kind() == FieldKind::Text) { FieldKind::Text } else { kind };
        let resolved = kind == FieldKind::Path && (fields.is_empty() || fields.iter().any(is_resolved));
        let name = fields.iter().find(|field| is_resolved(*field)).map_or("programName", |field| field.name());
        for node in items(source.entries, "list") {
            let Yaml::Scalar { text, .. } = &node.value else { continue };
            let mut finding = check_entry(kind, resolved, name, text);
            if finding.is_none() && resolved && !source.content && !text.contains(['*', '\\']) {
                let span = Span::new(0, text.len());
                // A list for many hosts has both.
                let listed = |target: &str| list.len() <= MAX_SEARCHED && list.names_path(target);
                let link = self.link(text, span).filter(|(_, target)| !listed(target));
                finding = link.map(|(finding, target)| finding.suggest(span, target));
            }
            if let Some(mut finding) = finding {
                // A whole entry is put in quotes: a plain one may not begin with a star.
                let quoted = finding.suggestion.take().map(|(_, text)| format!("{text:?}"));
                let mut warning = in_text(node, finding);
                if let Some(quoted) = quoted.filter(|_| is_on_one_line(node)) {
                    warning = warning.suggest(node.place.span, quoted);
                }
                self.push(source, warning);
            }
            if self.warnings.is_full() {
                return;
            }
        }
    }

    fn check_links(&mut self, test: &Test, found: &mut Vec<Finding>) {
        if self.links.is_none() || !is_resolved(test.field) || matches!(test.comparison, Comparison::Like(_)) {
            return;
        }
        let literals = literals(test);
        for (span, raw) in &literals {
            if raw.contains(['*', '\\']) {
                continue;
            }
            let link = self.link(raw, *span);
            if let Some((finding, target)) = link.filter(|(_, target)| !literals.iter().any(|(_, raw)| raw == target)) {
                let span = *span;
                found.push(finding.suggest(span, target.replace('\\', r"\\").replace('*', r"\*").replace('"', "\\\"")));
            }
        }
    }

    /// What is to be said about a path through a link, and where it leads.
    fn link(&mut self, path: &str, span: Span) -> Option<(Finding, String)> {
        if !path.starts_with('/') || self.links_left == 0 {
            return None;
        }
        let LinkResolver(resolve) = self.links?;
        self.links_left -= 1;
        let target = resolve(path).filter(|target| target != path)?;
        let message = format!("`{path}` leads through a symbolic link on this host, to `{target}`");
        let finding = Finding::new(Code::SymbolicLink, span, message).help("the kernel reports paths without links");
        Some((finding, target))
    }

    fn selector(&mut self, node: &Node, set: &PolicySet) {
        let Yaml::Scalar { text: selector, .. } = &node.value else { return };
        let groups = || set.policies.iter().filter_map(|policy| policy.group.as_deref());
        if !groups().any(|group| selects(selector, group)) {
            let message = format!("`{selector}` selects no policy");
            let mut warning = node.place.warning(Code::UnusedSelector, message);
            if let Some(group) = nearest(selector, groups()) {
                warning = warning.help(format!("there is `{group}`"));
            }
            self.warnings.push(warning);
        }
    }
}

fn items<'n>(entries: &'n [Entry], key: &str) -> &'n [Node] {
    match attribute(entries, key).map(|entry| &entry.value.value) {
        Some(Yaml::Sequence(items)) => items,
        _ => &[],
    }
}

fn is_on_one_line(node: &Node) -> bool {
    matches!(
        node.value,
        Yaml::Scalar { style: ScalarStyle::Plain | ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted, .. }
    )
}

/// The finding at its place in the scalar `node`.
fn in_text(node: &Node, finding: Finding) -> Diagnostic {
    let place = node.part(finding.span);
    let mut warning = place.warning(finding.code, finding.message).label(finding.label);
    warning.help = finding.help;
    if let Some((span, replacement)) = finding.suggestion {
        let place = node.part(span);
        // Only where the place is exact can something be put there, and only if it stands for itself.
        let quotes = match &node.value {
            Yaml::Scalar { style: ScalarStyle::DoubleQuoted, .. } => ['"', '\\'],
            Yaml::Scalar { style: ScalarStyle::SingleQuoted, .. } => ['\'', '\''],
            _ => ['\n', '\n'],
        };
        if place.span != node.place.span && !replacement.contains(quotes) {
            warning = warning.suggest(place.span, replacement);
        }
    }
    warning
}

/// The finding at the whole of `node`.
fn at(node: &Node, finding: Finding) -> Diagnostic {
    let mut warning = node.place.warning(finding.code, finding.message).label(finding.label);
    warning.help = finding.help;
    warning
}

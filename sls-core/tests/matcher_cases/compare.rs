//! What two matchers make of a case, and the smallest part of it on which they disagree.

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};
use sls_core::{Diagnostics, Event, Field, FieldSet, Limits, Matcher, PolicyLoader, PolicySet, TreeMatcher};

use super::{Case, Step};

/// Makes the matcher that is compared with the plain evaluator.
pub(crate) type Factory<'f> = &'f dyn Fn(&Map<String, Value>, Arc<PolicySet>) -> Box<dyn Matcher>;

/// A decision.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) policy: String,
    pub(crate) rule: String,
    /// The rule's place in the policy; none if it is not one of its own.
    pub(crate) index: Option<usize>,
    pub(crate) certain: bool,
    pub(crate) uncertain: FieldSet,
}

/// Decisions under each name that the event has.
pub(crate) fn answers(matcher: &dyn Matcher, event: &Event) -> Vec<Vec<Answer>> {
    let mut names = Vec::new();
    event.clone().each_name(|event| {
        let mut answers = Vec::new();
        matcher.decide(event, &mut |decision| {
            answers.push(Answer {
                policy: decision.policy.name.to_string(),
                rule: decision.rule.text.to_string(),
                index: decision.policy.rules.iter().position(|rule| std::ptr::eq(rule, decision.rule)),
                certain: decision.certain,
                uncertain: decision.uncertain,
            });
        });
        names.push(answers);
    });
    names
}

pub(crate) fn load(document: &Map<String, Value>) -> Arc<PolicySet> {
    try_load(document).unwrap_or_else(|error| panic!("{error}"))
}

fn try_load(document: &Map<String, Value>) -> Result<Arc<PolicySet>, Diagnostics> {
    // Literals are long, and groups are repeated within groups.
    let limits = Limits { regex_bytes: 16 << 20, regex_total_bytes: 256 << 20, ..Limits::default() };
    let text = serde_json::to_string(document).unwrap();
    PolicyLoader::new().limits(limits).document("case.yaml", text).load().map(Arc::new)
}

/// Two matchers of one set of policies.
struct Pair {
    policies: Arc<PolicySet>,
    tree: TreeMatcher,
    other: Box<dyn Matcher>,
}

impl Pair {
    fn new(document: &Map<String, Value>, factory: Factory<'_>) -> Self {
        let policies = load(document);
        let other = factory(document, policies.clone());
        Self { tree: TreeMatcher::new(policies.clone()), policies, other }
    }

    /// What both make of the step.
    fn take(&self, step: &Step) -> [Vec<Vec<Answer>>; 2] {
        for (index, name) in self.policies.host_names().enumerate() {
            let addresses = step.addresses.get(index % step.addresses.len().max(1));
            name.set_addresses(addresses.into_iter().flatten().copied());
        }
        [answers(&self.tree, &step.event), answers(&*self.other, &step.event)]
    }
}

/// Compares a matcher with the plain evaluator, whose answers to each step are shown to `look`: those under a new name,
/// if there is one, and then the others.
///
/// # Errors
/// The first disagreement, made small.
pub(crate) fn check(
    case: &Case,
    factory: Factory<'_>,
    look: &mut dyn FnMut(&Step, &[Answer]),
) -> Result<(), Box<Disagreement>> {
    let pair = Pair::new(&case.document, factory);
    for step in &case.steps {
        let [tree, other] = pair.take(step);
        if tree != other {
            return Err(Box::new(Disagreement::of(case.document.clone(), step.clone(), factory)));
        }
        look(step, &tree.concat());
    }
    Ok(())
}

/// A step on which the matchers disagree.
pub(crate) struct Disagreement {
    pub(crate) document: Map<String, Value>,
    pub(crate) step: Step,
    /// Of the plain evaluator and of the other.
    pub(crate) answers: [Vec<Vec<Answer>>; 2],
}

impl Disagreement {
    /// Takes away what is not needed for the matchers to disagree.
    fn of(document: Map<String, Value>, step: Step, factory: Factory<'_>) -> Self {
        let answers = Pair::new(&document, factory).take(&step);
        let mut small = Self { document, step, answers };
        let names = |document: &Map<String, Value>| document.keys().cloned().collect::<Vec<_>>();
        // Halves first, for there can be many.
        let mut size = names(&small.document).len() / 2;
        while size > 0 {
            for chunk in names(&small.document).chunks(size) {
                small.try_without(factory, |document, _| document.retain(|name, _| !chunk.contains(name)));
            }
            size /= 2;
        }
        for name in names(&small.document) {
            let key = if small.document[&name].get("list").is_some() { "list" } else { "rules" };
            let mut at = 0;
            while small.document[&name][key].as_array().is_some_and(|rules| at < rules.len()) {
                let shorter = small.try_without(factory, |document, _| {
                    document[&name][key].as_array_mut().unwrap().remove(at);
                });
                at += usize::from(!shorter);
            }
        }
        for field in Field::all() {
            small.try_without(factory, |_, step| {
                step.event.clear(field);
            });
        }
        small.try_without(factory, |_, step| step.addresses.clear());
        small
    }

    fn try_without(&mut self, factory: Factory<'_>, take: impl FnOnce(&mut Map<String, Value>, &mut Step)) -> bool {
        let (mut document, mut step) = (self.document.clone(), self.step.clone());
        take(&mut document, &mut step);
        // A rule may need the list that was taken.
        if try_load(&document).is_err() {
            return false;
        }
        let answers = Pair::new(&document, factory).take(&step);
        let disagree = answers[0] != answers[1];
        if disagree {
            *self = Self { document, step, answers };
        }
        disagree
    }
}

impl fmt::Debug for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let document = serde_json::to_string_pretty(&self.document).unwrap_or_default();
        let Step { event, addresses, change, target } = &self.step;
        let [tree, other] = &self.answers;
        write!(
            f,
            "the matchers disagree on an event for {target}, changed: {change:?}\n{document}\n{}\n{event:#?}\nnames: {addresses:?}\n\
             plain evaluator: {tree:#?}\nthe other: {other:#?}",
            event.to_json()
        )
    }
}

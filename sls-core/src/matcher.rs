//! The compiled matcher: policies by what an event must have before they can respond to it.
//!
//! For each kind of event, [`need`] finds what is necessary for a response of each policy, and [`index`] turns that round:
//! from what an event has to the policies that may respond. Those few, and the policies of which nothing is necessary, are
//! asked in their order, with all their rules and as the plain evaluator asks them. The index may name policies that do not
//! respond; it leaves out none that does.

mod atom;
mod candidates;
mod edges;
mod grams;
mod hash;
mod index;
mod list_index;
mod literals;
mod need;
mod ranges;
mod regexes;
mod reloadable;
mod table;
mod text;

use std::fmt;
use std::sync::Arc;

use crate::evaluate::{Decision, LookUp, Matcher, decision};
use crate::event::{Event, EventKind};
use crate::policy::{Policy, PolicySet};
use crate::trigger::raises;
use atom::Atom;
use candidates::Candidates;
use index::{Index, IndexBuilder};
use need::{Chooser, Need};
use table::Target;

pub(crate) use list_index::ListIndex;
pub use reloadable::ReloadableMatcher;

/// The most policies of a kind of event that are asked one after the other, rather than looked up.
const MAX_SCANNED: usize = 8;

/// Policies compiled for matching: what an event costs hardly depends on how many there are. It agrees with
/// [`TreeMatcher`](crate::TreeMatcher) on every policy and event, and allocates nothing for an event that no policy
/// matches, but for some scratch memory, once for each thread.
///
/// ```
/// use std::sync::Arc;
/// use sls_core::{CompiledMatcher, Event, EventKind, Field, Matcher, PolicySet};
///
/// let policies = PolicySet::from_yaml("p.yaml",
///     "No wget: {policy: program, rules: ['match programName == \"*/wget\"', default ignore]}")?;
/// let matcher = CompiledMatcher::new(Arc::new(policies));
/// let mut event = Event::new(EventKind::Exec);
/// event.set_text(Field::ProgramName, b"/usr/bin/wget");
/// let mut matched = Vec::new();
/// matcher.decide(&event, &mut |decision| matched.push(decision.policy.name.clone()));
/// assert_eq!(&*matched[0], "No wget");
/// # Ok::<(), sls_core::Diagnostics>(())
/// ```
pub struct CompiledMatcher {
    /// By kind of event.
    kinds: [Option<Box<KindMatcher>>; EventKind::ALL.len()],
}

impl CompiledMatcher {
    /// Compiles the enabled policies of a set.
    #[must_use]
    pub fn new(policies: Arc<PolicySet>) -> Self {
        // Now, and not when the first event comes.
        for list in policies.lists().values() {
            list.index();
        }
        let mut kinds = [const { None }; EventKind::ALL.len()];
        for kind in EventKind::ALL {
            let raised = policies.active().filter(|policy| raises(policy.policy_type, *kind));
            kinds[*kind as usize] = KindMatcher::new(raised.cloned().collect()).map(Box::new);
        }
        Self { kinds }
    }
}

impl Matcher for CompiledMatcher {
    fn decide(&self, event: &Event, decided: &mut dyn FnMut(Decision<'_>)) {
        if let Some(kind) = &self.kinds[event.kind as usize] {
            kind.decide(event, decided);
        }
    }
}

impl fmt::Debug for CompiledMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_map();
        for (kind, matcher) in EventKind::ALL.iter().zip(&self.kinds) {
            if let Some(matcher) = matcher {
                debug.entry(kind, matcher);
            }
        }
        debug.finish()
    }
}

/// The policies that one kind of event raises.
struct KindMatcher {
    /// In document order.
    policies: Box<[Arc<Policy>]>,
    plan: Plan,
}

/// How candidates are found.
enum Plan {
    /// For each policy the atoms of which an event must have one, if there are such.
    Scan(Box<[Option<Box<[Atom]>>]>),
    Look {
        index: Box<Index>,
        /// Policies that every event may match, rising.
        always: Box<[Target]>,
    },
}

impl KindMatcher {
    fn new(policies: Box<[Arc<Policy>]>) -> Option<Self> {
        if policies.is_empty() {
            return None;
        }
        let needs: Vec<_> = policies.iter().map(|policy| Need::of_policy(policy)).collect();
        let chooser = Chooser::new(&needs);
        let chosen = needs.into_iter().map(|need| chooser.choose(need));
        if policies.len() <= MAX_SCANNED {
            let plan = Plan::Scan(chosen.map(|atoms| atoms.map(Vec::into_boxed_slice)).collect());
            return Some(Self { policies, plan });
        }
        let mut builder = IndexBuilder::default();
        let mut always = Vec::new();
        for (atoms, policy) in chosen.zip(0..) {
            match atoms {
                Some(atoms) => atoms.into_iter().for_each(|atom| builder.add(atom, policy, &chooser)),
                None => always.push(policy),
            }
        }
        Some(Self { policies, plan: Plan::Look { index: Box::new(builder.build()), always: always.into() } })
    }

    #[inline]
    fn decide(&self, event: &Event, decided: &mut dyn FnMut(Decision<'_>)) {
        match &self.plan {
            Plan::Scan(plan) => {
                for (policy, atoms) in self.policies.iter().zip(plan) {
                    if atoms.as_ref().is_none_or(|atoms| atoms.iter().any(|atom| atom.may_hold(event))) {
                        ask(policy, event, decided);
                    }
                }
            }
            Plan::Look { index, always } => {
                let mut candidates = Candidates::new();
                index.each(event, |candidate| candidates.push(candidate));
                if candidates.is_empty() && always.is_empty() {
                    return;
                }
                let mut always = always.iter().copied().peekable();
                candidates.for_each(|candidate| {
                    while let Some(earlier) = always.next_if(|always| *always < candidate) {
                        self.ask(earlier, event, decided);
                    }
                    self.ask(candidate, event, decided);
                });
                always.for_each(|rest| self.ask(rest, event, decided));
            }
        }
    }

    fn ask(&self, policy: Target, event: &Event, decided: &mut dyn FnMut(Decision<'_>)) {
        if let Some(policy) = self.policies.get(policy as usize) {
            ask(policy, event, decided);
        }
    }
}

fn ask(policy: &Arc<Policy>, event: &Event, decided: &mut dyn FnMut(Decision<'_>)) {
    if let Some(decision) = decision::<LookUp>(policy, event) {
        decided(decision);
    }
}

impl fmt::Debug for KindMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KindMatcher").field("policies", &self.policies.len()).finish_non_exhaustive()
    }
}

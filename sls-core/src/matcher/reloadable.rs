//! A matcher whose policies are replaced while others use it.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::CompiledMatcher;
use crate::evaluate::{Decision, Matcher};
use crate::event::Event;
use crate::policy::PolicySet;

/// A matcher that several threads share, and whose policies can be replaced meanwhile. Nobody waits: an event is decided by
/// the old policies or by the new ones, and never by both. An [`Engine`](crate::Engine), which one thread owns, needs none.
///
/// ```
/// use std::sync::Arc;
/// use sls_core::{Event, EventKind, Field, Matcher, PolicySet, ReloadableMatcher};
///
/// let load = |program: &str| {
///     let text = format!("P: {{policy: program, rules: ['match programName == \"{program}\"', default ignore]}}");
///     PolicySet::from_yaml("p.yaml", &*text).map(Arc::new)
/// };
/// let matcher = ReloadableMatcher::new(load("/usr/bin/wget")?);
/// let mut event = Event::new(EventKind::Exec);
/// event.set_text(Field::ProgramName, b"/usr/bin/curl");
/// let matches = || {
///     let mut matches = false;
///     matcher.decide(&event, &mut |_| matches = true);
///     matches
/// };
/// assert!(!matches());
/// matcher.reload(load("/usr/bin/curl")?);
/// assert!(matches());
/// # Ok::<(), sls_core::Diagnostics>(())
/// ```
#[derive(Debug)]
pub struct ReloadableMatcher {
    current: ArcSwap<CompiledMatcher>,
}

impl ReloadableMatcher {
    /// A matcher of the enabled policies of a set.
    #[must_use]
    pub fn new(policies: Arc<PolicySet>) -> Self {
        Self { current: ArcSwap::from_pointee(CompiledMatcher::new(policies)) }
    }

    /// Replaces the policies. They are compiled first, in the calling thread.
    pub fn reload(&self, policies: Arc<PolicySet>) {
        self.current.store(Arc::new(CompiledMatcher::new(policies)));
    }
}

impl Matcher for ReloadableMatcher {
    fn decide(&self, event: &Event, decided: &mut dyn FnMut(Decision<'_>)) {
        self.current.load().decide(event, decided);
    }
}

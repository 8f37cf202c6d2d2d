//! Tries the actions that policies ask for, once each, before they are needed.

use sls_core::{ActionSet, PolicySet};

use crate::responders::{ResponderSettings, asked_for};

/// What was tried, and with what.
pub(super) struct Trials {
    responders: ResponderSettings,
    acts: bool,
    tried: ActionSet,
}

impl Trials {
    /// Nothing is tried unless the sensor `acts`: in dry run nothing is carried out, and outside the host's PID namespace
    /// it is known what comes of it.
    pub(super) fn new(responders: ResponderSettings, acts: bool) -> Self {
        Self { responders, acts, tried: ActionSet::EMPTY }
    }

    /// Tries what the policies ask for and was not tried before. Of each action that does not work it warns, and gives
    /// the name with the reason.
    pub(super) fn of(&mut self, policies: &PolicySet) -> anyhow::Result<Vec<String>> {
        let new: ActionSet = asked_for(policies).iter().filter(|action| !self.tried.contains(*action)).collect();
        if !self.acts || new.is_empty() {
            return Ok(Vec::new());
        }
        let results = self.responders.test(new)?;
        self.tried = self.tried.union(new);
        let mut inert = Vec::new();
        for result in results {
            if let Some(reason) = result.outcome.reason() {
                tracing::warn!(action = %result.action, reason, "policies ask for an action that does not work here");
                inert.push(format!("{}: {reason}", result.action));
            }
        }
        Ok(inert)
    }
}

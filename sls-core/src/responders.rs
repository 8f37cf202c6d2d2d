//! Several responders as one.

use crate::action::{ActionOutcome, ActionResult, ActionSet, PlannedAction};
use crate::plugin::{ActionContext, Execution, Responder};

/// Responders that share the work: an action goes to the first that supports it.
///
/// ```
/// use sls_core::{Action, DryRunResponder, Responder, Responders};
///
/// let responders = Responders::default().with(DryRunResponder);
/// assert!(responders.supports().contains(Action::Kill));
/// ```
#[derive(Debug, Default)]
pub struct Responders {
    responders: Vec<(ActionSet, Box<dyn Responder>)>,
}

impl Responders {
    /// Adds a responder, for what those before it do not support.
    #[must_use]
    pub fn with(mut self, responder: impl Responder + 'static) -> Self {
        self.responders.push((responder.supports(), Box::new(responder)));
        self
    }
}

impl Responders {
    fn supporting(&mut self, action: &PlannedAction) -> Option<&mut (dyn Responder + 'static)> {
        let supporting = self.responders.iter_mut().find(|(supported, _)| supported.contains(action.action));
        supporting.map(|(_, responder)| &mut **responder)
    }
}

fn not_supported(action: &PlannedAction) -> Execution {
    Execution::Done(ActionOutcome::new(action, ActionResult::not_successful("not supported")))
}

impl Responder for Responders {
    fn supports(&self) -> ActionSet {
        self.responders.iter().fold(ActionSet::EMPTY, |all, (supported, _)| all.union(*supported))
    }

    fn execute(&mut self, action: &PlannedAction, context: &ActionContext<'_>) -> Execution {
        match self.supporting(action) {
            Some(responder) => responder.execute(action, context),
            None => not_supported(action),
        }
    }

    fn confirm(&mut self, action: &PlannedAction, context: &ActionContext<'_>) -> Execution {
        match self.supporting(action) {
            Some(responder) => responder.confirm(action, context),
            None => not_supported(action),
        }
    }
}

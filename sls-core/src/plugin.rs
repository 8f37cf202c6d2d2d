//! The traits that connect the engine to the world. The engine calls [`Responder`] and, later, its [`Confirmation`]; a
//! host polls an [`EventSource`], hands what it gives to the engine, and the alerts to an [`AlertSink`]. `sls-probe`,
//! `sls-actions` and embedders implement them.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use crate::action::{ActionOutcome, ActionSet, PlannedAction};
use crate::alert::Alert;
use crate::event::{Event, EventKind};
use crate::schema::FieldSet;

/// An error from outside the engine.
pub type BoxError = Box<dyn Error + Send + Sync + 'static>;

/// Whether a source can give more events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SourceStatus {
    /// More may come.
    Open,
    /// The source has ended; polling it again gives nothing.
    Ended,
}

/// Where events come from.
pub trait EventSource: fmt::Debug + Send {
    /// Waits up to `timeout` for events and hands each to `handle`, in the order in which they happened as far as the
    /// source can tell. The event is lent: its memory is used again for the next one. The handler may add to it.
    ///
    /// # Errors
    /// When the source is broken; events before that were handled.
    fn poll(&mut self, timeout: Duration, handle: &mut dyn FnMut(&mut Event)) -> Result<SourceStatus, BoxError>;

    /// Which fields the source can fill in events of `kind`; a policy that needs another cannot work on it.
    fn provides(&self, kind: EventKind) -> FieldSet;
}

/// Carries planned actions out.
///
/// The engine calls [`Responder::execute`] only with a granted permission, from the thread that reads events, before
/// anything else is done about the detection: an implementation acts at once and leaves slow confirmation to the
/// returned [`Execution`].
pub trait Responder: fmt::Debug + Send {
    /// Which actions it can carry out; a policy that asks for another cannot work with it.
    fn supports(&self) -> ActionSet;

    /// Starts `action`.
    fn execute(&mut self, action: &PlannedAction) -> Execution;
}

/// An action under way.
#[derive(Debug)]
#[non_exhaustive]
pub enum Execution {
    /// The result is known.
    Done(ActionOutcome),
    /// It was started; its effect is still to be seen.
    Pending(Box<dyn Confirmation>),
}

impl Execution {
    /// Waits until the result is known.
    #[must_use]
    pub fn finish(self) -> ActionOutcome {
        match self {
            Self::Done(outcome) => outcome,
            Self::Pending(confirmation) => confirmation.wait(),
        }
    }
}

/// Observes the effect of an action.
pub trait Confirmation: fmt::Debug + Send {
    /// Waits, for a bounded time, until the effect is seen, and says what came of the action.
    fn wait(self: Box<Self>) -> ActionOutcome;
}

/// Where alerts go. A host gives it those whose `message_type` is not none: the others are of policies that act in
/// silence.
pub trait AlertSink: fmt::Debug + Send {
    /// Takes one alert.
    ///
    /// # Errors
    /// When the alert could not be delivered.
    fn emit(&mut self, alert: &Alert) -> Result<(), BoxError>;
}

//! Alerts on their way out of an engine.

use super::respond::Started;
use crate::alert::Alert;
use crate::planner::MessageType;

/// An alert whose actions were started, but perhaps not yet seen to take effect.
#[derive(Debug)]
pub struct PendingAlert {
    pub(super) alert: Alert,
    pub(super) executions: Vec<Started>,
    pub(super) utc_offset: i32,
}

impl PendingAlert {
    /// The message type to report it under; none if its policy acts in silence.
    #[must_use]
    pub fn message_type(&self) -> Option<MessageType> {
        self.alert.message_type
    }

    /// Waits until the effect of every action was seen, or its time is over, and returns the whole alert. Call it on
    /// another thread than the one that processes events.
    #[must_use]
    pub fn complete(self) -> Alert {
        let mut alert = self.alert;
        for execution in self.executions {
            alert.add_outcome(&execution.finish(), self.utc_offset);
        }
        alert
    }
}

//! What the sensor reports of itself: alerts of message type `audit` that no policy raises.

use serde::Serialize;

use crate::event::EventKind;
use crate::loss::Loss;

/// Something about the sensor that its operator has to know, as data. In an alert it is `sensor_info`, and its name the
/// `strategy_name`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "condition", rename_all = "snake_case")]
#[non_exhaustive]
pub enum SensorCondition {
    /// Events did not arrive.
    EventsLost {
        /// How many, by lane, kind and cause.
        losses: Vec<Loss>,
        /// The policies that may have missed something, in their order, at most [`MAX_CONDITION_POLICIES`].
        policies: Vec<AffectedPolicy>,
        /// How many policies may have.
        policy_count: usize,
    },
}

/// A policy that may have missed something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct AffectedPolicy {
    /// Its name.
    pub name: String,
    /// The kinds of lost events that it depends on ([`Policy::depends_on`](crate::Policy::depends_on)): when they were lost is
    /// in the losses of these kinds.
    pub kinds: Vec<EventKind>,
}

/// The most policies that a condition names.
pub const MAX_CONDITION_POLICIES: usize = 64;

impl SensorCondition {
    /// The name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::EventsLost { .. } => "events_lost",
        }
    }

    /// The condition in words.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::EventsLost { losses, policy_count, .. } => {
                let count: u64 = losses.iter().map(|loss| loss.count).sum();
                let mut kinds: Vec<_> = losses.iter().map(|loss| loss.kind.name()).collect();
                kinds.sort_unstable();
                kinds.dedup();
                let (events, kinds) = (if count == 1 { "event was" } else { "events were" }, kinds.join(", "));
                let policies = if *policy_count == 1 { "policy" } else { "policies" };
                format!("{count} {events} lost ({kinds}); {policy_count} {policies} may have missed something")
            }
        }
    }
}

//! What the sensor reports of itself: alerts that no policy raises.

use serde::Serialize;

use crate::bytes::display;
use crate::event::EventKind;
use crate::governor::Economy;
use crate::loss::{Loss, Shedding};
use crate::planner::MessageType;
use crate::policy::Priority;

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
    /// The sensor came to a limit on what it may take of the machine, or back from it: it gives up something else than
    /// before.
    LoadShed {
        /// What it gives up from now on, and for what.
        #[serde(flatten)]
        economy: Economy,
        /// The policies that may miss something as long as it stays so, in their order, at most [`MAX_CONDITION_POLICIES`].
        policies: Vec<AffectedPolicy>,
        /// How many policies may.
        policy_count: usize,
    },
    /// The kernel tier of an earlier sensor was in force while no sensor ran. Numbers are of decisions.
    KernelTierUnattended {
        /// It acted, which has alerts of its own.
        told: u64,
        /// It acted, and there is no alert: the policy is not loaded any more in that form, or there were too many.
        untold: u64,
        /// A policy matched, and it did not act: the policy had acted on as many targets as it may, or a guard may protect the
        /// process.
        left_alone: u64,
        /// It decided, and nothing else is known.
        lost: u64,
        /// How many tiers were of a version that cannot be read, so that nothing is known of what they did.
        unreadable: usize,
    },
    /// Somebody tried to get at the sensor, and was refused. It is the only condition of message type `alert`.
    Tampering {
        /// How often.
        refused: u64,
        /// Those of which more is known, the oldest first, at most [`MAX_CONDITION_ATTEMPTS`].
        attempts: Vec<TamperingAttempt>,
    },
}

/// One attempt to get at the sensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TamperingAttempt {
    /// What was tried, in words.
    pub operation: String,
    /// Who tried it. None: it is not known.
    pub pid: Option<u32>,
    /// The real user id.
    pub uid: u32,
    /// The name of the thread, which it can choose.
    pub name: String,
}

impl TamperingAttempt {
    /// An attempt at `operation` by a thread of this name.
    #[must_use]
    pub fn new(operation: impl Into<String>, pid: Option<u32>, uid: u32, name: &[u8]) -> Self {
        Self { operation: operation.into(), pid, uid, name: display(name) }
    }
}

/// The most attempts that a condition tells of one by one.
pub const MAX_CONDITION_ATTEMPTS: usize = 64;

/// A policy that may have missed something, or that may miss it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct AffectedPolicy {
    /// Its name.
    pub name: String,
    /// The kinds of events that it depends on ([`Policy::depends_on`](crate::Policy::depends_on)) and that were lost, or that are
    /// left out: when they were lost is in the losses of these kinds.
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
            Self::LoadShed { .. } => "load_shed",
            Self::KernelTierUnattended { .. } => "kernel_tier_unattended",
            Self::Tampering { .. } => "tampering",
        }
    }

    /// Under which message type it is reported: an attack on the sensor as `alert`, all else as `audit`.
    #[must_use]
    pub fn message_type(&self) -> MessageType {
        match self {
            Self::Tampering { .. } => MessageType::Alert,
            _ => MessageType::Audit,
        }
    }

    /// How much it matters.
    #[must_use]
    pub fn priority(&self) -> Priority {
        match self {
            Self::Tampering { .. } => Priority::High,
            _ => Priority::Medium,
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
            Self::LoadShed { economy, .. } if economy.shedding == Shedding::Nothing => {
                format!("{economy}; nothing is left out")
            }
            Self::LoadShed { economy, policy_count, .. } => {
                format!("{economy}; {policy_count} policies may miss something")
            }
            Self::KernelTierUnattended { told, untold, left_alone, lost, .. } => format!(
                "While no sensor ran, the kernel tier acted {} times, {untold} of them without an alert, left {left_alone} \
                 matches alone, and decided {lost} times without a trace",
                told + untold
            ),
            Self::Tampering { refused, attempts } => {
                let times = if *refused == 1 { "once".to_owned() } else { format!("{refused} times") };
                let mut operations: Vec<_> = attempts.iter().map(|attempt| attempt.operation.as_str()).collect();
                operations.sort_unstable();
                operations.dedup();
                let more = if operations.len() > SHOWN_OPERATIONS { ", …" } else { "" };
                operations.truncate(SHOWN_OPERATIONS);
                match &operations[..] {
                    [] => format!("Tampering with the sensor was refused {times}"),
                    shown => format!("Tampering with the sensor was refused {times} ({}{more})", shown.join(", ")),
                }
            }
        }
    }
}

/// The most kinds of attempts that the condition's text names.
const SHOWN_OPERATIONS: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tampering_is_an_alert_and_names_what_was_tried() {
        let attempt = |operation: &str| TamperingAttempt::new(operation, Some(7), 0, b"evil\xff");
        let message = |refused, attempts| SensorCondition::Tampering { refused, attempts }.message();
        assert_eq!(message(1, vec![attempt("ptrace")]), "Tampering with the sensor was refused once (ptrace)");
        assert_eq!(
            message(5, vec![attempt("signal 9"), attempt("ptrace"), attempt("signal 9")]),
            "Tampering with the sensor was refused 5 times (ptrace, signal 9)"
        );
        let many = ["a", "b", "c", "d", "e"].map(attempt).to_vec();
        assert!(message(5, many).ends_with("(a, b, c, d, …)"));
        assert_eq!(message(2, Vec::new()), "Tampering with the sensor was refused 2 times");
        let condition = SensorCondition::Tampering { refused: 1, attempts: vec![attempt("ptrace")] };
        assert_eq!((condition.message_type(), condition.priority()), (MessageType::Alert, Priority::High));
        let json = serde_json::to_value(&condition).unwrap();
        assert_eq!(json["condition"], "tampering");
        assert_eq!(
            json["attempts"][0],
            serde_json::json!({"operation": "ptrace", "pid": 7, "uid": 0, "name": "evil\\xff"})
        );
    }
}

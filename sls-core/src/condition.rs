//! What the sensor reports of itself: alerts of message type `audit` that no policy raises.

use serde::Serialize;

use crate::event::EventKind;
use crate::governor::Economy;
use crate::loss::{Loss, Shedding};

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
}

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
        }
    }
}

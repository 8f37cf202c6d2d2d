//! What holds a policy in dry run for a time: the warm-up and the circuit breaker. Plans are pure; what they are held for
//! is remembered here.

use std::sync::Arc;
use std::time::Duration;

use crate::action::Refusal;
use crate::breaker::{Admission, Breaker, BreakerLimits, Scope};
use crate::event::Event;
use crate::event_clock::EventClock;
use crate::planner::Plan;
use crate::policy::{Policy, PolicySet};
use crate::warm_up::WarmUp;

/// The restraints of an engine.
#[derive(Debug)]
pub(crate) struct Restraints {
    clock: EventClock,
    breaker: Breaker,
    warm_up: WarmUp,
    /// Breakers that tripped at the event at hand. Kept for its memory.
    pub(crate) trips: Vec<Trip>,
    pub(crate) stats: RestraintStats,
}

/// How often the restraints held something.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RestraintStats {
    pub(crate) breaker_trips: u64,
    pub(crate) breaker_held: u64,
    pub(crate) warm_up_held: u64,
}

/// A breaker that tripped.
#[derive(Debug)]
pub(crate) struct Trip {
    /// The policy that wanted to act on one target too many.
    pub(crate) policy: Arc<Policy>,
    pub(crate) rule: Arc<str>,
    scope: Scope,
    limits: BreakerLimits,
}

impl Trip {
    /// What happened, in words.
    pub(crate) fn message(&self) -> String {
        let (window, cool_down) = (self.limits.window.as_secs_f64(), self.limits.cool_down.as_secs_f64());
        match self.scope {
            Scope::Policy => format!(
                "The circuit breaker of the policy \"{}\" tripped: it acted on {} targets within {window} s; \
                 its actions are dry run for {cool_down} s",
                self.policy.name, self.limits.policy_targets
            ),
            Scope::Sensor => format!(
                "The circuit breaker of the sensor tripped: its policies acted on {} targets within {window} s; \
                 all actions are dry run for {cool_down} s",
                self.limits.sensor_targets
            ),
        }
    }
}

impl Restraints {
    pub(crate) fn new(limits: BreakerLimits, warm_up: Duration, policies: &PolicySet) -> Self {
        Self {
            clock: EventClock::default(),
            breaker: Breaker::new(limits, policies),
            warm_up: WarmUp::new(warm_up, policies),
            trips: Vec::with_capacity(1),
            stats: RestraintStats::default(),
        }
    }

    /// Takes what policies of the same name have counted over.
    pub(crate) fn reload(&mut self, old: &PolicySet, new: &PolicySet) {
        self.breaker.reload(old, new);
        self.warm_up.reload(old, new);
    }

    /// Takes an event's time, before anything is decided about it.
    pub(crate) fn advance(&mut self, event: &Event) {
        self.clock.advance(event.time);
        self.warm_up.advance(self.clock.elapsed());
    }

    /// Why nothing of the plan may be carried out. Call it once for each plan: it counts.
    pub(crate) fn hold(
        &mut self,
        policy: &Arc<Policy>,
        rule: &Arc<str>,
        plan: &Plan,
        event: &Event,
    ) -> Option<Refusal> {
        if !plan.acts() {
            return None;
        }
        let now = self.clock.elapsed();
        if let Some(refusal) = self.warm_up.hold(policy.index, now) {
            self.stats.warm_up_held += 1;
            return Some(refusal);
        }
        let refusal = match self.breaker.admit(policy.index, plan, event, now) {
            Admission::Admitted => return None,
            Admission::Held(refusal) => refusal,
            Admission::Tripped(scope, refusal) => {
                self.stats.breaker_trips += 1;
                let limits = *self.breaker.limits();
                self.trips.push(Trip { policy: policy.clone(), rule: rule.clone(), scope, limits });
                refusal
            }
        };
        self.stats.breaker_held += 1;
        Some(refusal)
    }

    /// On how many targets more the policy may act now.
    pub(crate) fn allowance(&mut self, policy: &Policy) -> usize {
        let now = self.clock.elapsed();
        match self.warm_up.hold(policy.index, now) {
            Some(_) => 0,
            None => self.breaker.room(policy.index, now),
        }
    }

    pub(crate) fn rearm(&mut self) {
        self.breaker.rearm();
    }
}

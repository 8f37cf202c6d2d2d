//! Keeps the policies in the kernel those of the engine, and lets them act as often as the engine would.

use std::time::{Duration, Instant};

use sls_core::{Engine, Guards, Policy, PolicySet};
use sls_probe::{KernelTier, TierError};

/// How often the kernel is told on how many targets each policy may act.
const ALLOW_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct TierKeeper {
    tier: Option<KernelTier>,
    guards: Guards,
    can_act: bool,
    allowed: Instant,
}

impl TierKeeper {
    /// Where the sensor `can_act` on nothing, nor does the kernel: the guards know no process there, not even whoever started
    /// the sensor.
    pub(super) fn new(tier: Option<&KernelTier>, guards: Guards, can_act: bool) -> Self {
        Self { tier: tier.cloned(), guards, can_act, allowed: Instant::now() }
    }

    /// Whether the kernel has room for the policies.
    pub(super) fn check(&self, policies: &PolicySet) -> Result<(), TierError> {
        match &self.tier {
            Some(_) => KernelTier::check(policies, &self.guards),
            None => Ok(()),
        }
    }

    /// Puts the engine's policies in force.
    pub(super) fn load(&mut self, engine: &mut Engine) -> Result<(), TierError> {
        let Some(tier) = &self.tier else { return Ok(()) };
        let policies = engine.policies().clone();
        self.allowed = Instant::now();
        tier.load_allowed(&policies, &self.guards, |policy| allowance(engine, policy, self.can_act))
    }

    /// Says on how many targets more each policy may act, if it is time to.
    pub(super) fn allow(&mut self, engine: &mut Engine) {
        if self.allowed.elapsed() >= ALLOW_INTERVAL {
            self.allow_now(engine);
        }
    }

    pub(super) fn allow_now(&mut self, engine: &mut Engine) {
        let Some(tier) = &self.tier else { return };
        self.allowed = Instant::now();
        if let Err(error) = tier.allow(|policy| allowance(engine, policy, self.can_act)) {
            tracing::error!(%error, "the kernel cannot be told on how many targets policies may act");
        }
    }
}

/// On how many targets more the policy may act.
fn allowance(engine: &mut Engine, policy: &Policy, can_act: bool) -> usize {
    if can_act { engine.allowance(policy) } else { 0 }
}

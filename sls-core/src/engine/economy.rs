//! An engine that keeps less for a while, and tells what its sensor gives up.

use std::sync::Arc;

use super::{Engine, PendingAlert};
use crate::condition::{MAX_CONDITION_POLICIES, SensorCondition};
use crate::event::EventKind;
use crate::governor::{Economy, Retention};
use crate::loss::{Lane, Shedding};
use crate::policy::{Policy, PolicyType};
use crate::trigger::raises;

impl Engine {
    /// Lets its caches keep so much from now on. What is too much goes with [`Engine::shrink`], and as events come.
    pub fn retain(&mut self, retention: Retention) {
        self.processes.retain(retention);
        self.history.retain(retention);
    }

    /// Lets go of what [`Engine::retain`] no longer wants, in at most about `steps` steps, so that events need not wait for
    /// long: 256 take less than a millisecond. Whether there is more to let go of.
    pub fn shrink(&mut self, steps: usize) -> bool {
        self.processes.shrink(steps) | self.history.shrink(steps)
    }

    /// Makes the alert of what a [`Governor`](crate::Governor) gives up from now on, found at `time`, in nanoseconds since the
    /// epoch: it names the policies that may miss something.
    ///
    /// ```
    /// use sls_core::{Engine, Governor, GovernorLimits, PolicySet, Usage};
    ///
    /// let policies = PolicySet::from_yaml("p.yaml", "Files: {policy: file, rules: [default match]}")?;
    /// let mut engine = Engine::builder(policies).build();
    /// let mut governor = Governor::new(GovernorLimits::default());
    /// let mut alerts = Vec::new();
    /// for second in 0..=20 {
    ///     // A whole CPU of two.
    ///     let time = second * 1_000_000_000;
    ///     if let Some(economy) = governor.observe(Usage::new(time, time, 0, 2)) {
    ///         alerts.push(engine.report_economy(economy, time).complete().description);
    ///     }
    /// }
    /// assert_eq!(alerts.len(), 2);
    /// assert!(alerts[0].ends_with("it sheds telemetry, its caches keep full; 0 policies may miss something"));
    /// assert!(alerts[1].ends_with("it sheds activity, its caches keep full; 1 policies may miss something"));
    /// # Ok::<(), sls_core::Diagnostics>(())
    /// ```
    #[must_use]
    pub fn report_economy(&mut self, economy: Economy, time: u64) -> PendingAlert {
        let shed: Vec<_> = EventKind::ALL.iter().copied().filter(|kind| sheds(&economy, *kind)).collect();
        let concerned = |policy: &&Arc<Policy>| shed.iter().any(|kind| depends(policy.policy_type, *kind));
        let policy_count = self.policies.active().filter(concerned).count();
        let first = self.policies.active().filter(concerned).take(MAX_CONDITION_POLICIES);
        let policies = first.map(|policy| policy.name.to_string()).collect();
        self.report_condition(SensorCondition::LoadShed { economy, policies, policy_count }, time)
    }
}

fn sheds(economy: &Economy, kind: EventKind) -> bool {
    economy.shedding >= Shedding::Activity && Lane::of(kind) == Lane::Activity
}

/// Whether policies of the type need events of the kind: to be raised, or to know what is new.
fn depends(policy_type: PolicyType, kind: EventKind) -> bool {
    raises(policy_type, kind) || policy_type == PolicyType::NewFileExec && kind == EventKind::File
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::PolicySet;

    #[test]
    fn those_that_may_miss_something_are_named() {
        let text = "
Exec: {policy: program, rules: [default match]}
New: {policy: newFileExec, rules: [default match]}
Modules: {policy: kernelModule, rules: [default match]}
Files: {policy: file, rules: [default match]}
Off: {policy: file, enabled: false, rules: [default match]}
";
        let mut engine = Engine::builder(PolicySet::from_yaml("p.yaml", text).unwrap()).build();
        let mut named = |shedding| {
            let economy = Economy { shedding, ..Economy::default() };
            let alert = engine.report_economy(economy, 1).complete();
            let Some(SensorCondition::LoadShed { policies, policy_count, .. }) = alert.sensor_info else {
                panic!("{alert:?}")
            };
            assert_eq!(policies.len(), policy_count);
            policies.join(" ")
        };
        assert_eq!(Shedding::ALL.iter().map(|step| named(*step)).collect::<Vec<_>>(), ["", "", "New Files"]);
    }
}

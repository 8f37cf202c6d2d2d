//! An engine that keeps less for a while, and tells what its sensor gives up.

use super::{Engine, PendingAlert};
use crate::condition::{AffectedPolicy, MAX_CONDITION_POLICIES, SensorCondition};
use crate::dependence::KindSet;
use crate::event::EventKind;
use crate::governor::{Economy, Retention};
use crate::loss::{Lane, Shedding};

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
        let kinds = EventKind::ALL.iter().filter(|kind| sheds(&economy, **kind));
        let kinds = kinds.fold(KindSet::default(), |kinds, kind| kinds.with(*kind));
        let mut policy_count = 0;
        let mut policies = Vec::new();
        for policy in self.policies.active() {
            let affected = KindSet::of(policy).intersection(kinds);
            if affected.is_empty() {
                continue;
            }
            policy_count += 1;
            if policies.len() < MAX_CONDITION_POLICIES {
                policies.push(AffectedPolicy { name: policy.name.to_string(), kinds: affected.iter().collect() });
            }
        }
        self.report_condition(SensorCondition::LoadShed { economy, policies, policy_count }, time)
    }
}

fn sheds(economy: &Economy, kind: EventKind) -> bool {
    economy.shedding >= Shedding::Activity && Lane::of(kind) == Lane::Activity
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
            policies.iter().map(|policy| policy.name.as_str()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(Shedding::ALL.iter().map(|step| named(*step)).collect::<Vec<_>>(), ["", "", "New Files"]);
    }
}

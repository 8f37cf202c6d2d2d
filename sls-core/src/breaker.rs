//! The circuit breaker: a policy that acts on many targets in a short time is more likely wrong than right. It goes on in
//! dry run until the breaker closes again.

use std::time::Duration;

use crate::action::{Permission, Refusal, Target};
use crate::event::Event;
use crate::event_clock::nanoseconds;
use crate::planner::{MAX_ACTIONS, Plan};
use crate::policy::PolicySet;

/// Name of the guard that holds a policy whose breaker tripped.
pub const CIRCUIT_BREAKER: &str = "circuit-breaker";

/// The most targets that a limit of [`BreakerLimits`] can name; a greater one counts as this.
pub const MAX_BREAKER_TARGETS: usize = 1_024;

/// When the circuit breaker trips, and for how long.
///
/// Targets are told apart by their identity, so acting on one again is free. An operation counts as its process, and an
/// action on a process with its descendants as that process. What is planned in dry run or refused does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BreakerLimits {
    /// The most targets that one policy acts on in a window; 0 switches its breaker off. Default 10: more than one attack
    /// leaves behind, less than what a host runs.
    pub policy_targets: usize,
    /// The most targets that all policies together act on in a window; 0 switches the breaker of the sensor off. Default 30.
    pub sensor_targets: usize,
    /// The window. Default 60 s.
    pub window: Duration,
    /// How long actions are dry run once it has tripped. Default 300 s.
    pub cool_down: Duration,
}

impl Default for BreakerLimits {
    fn default() -> Self {
        Self {
            policy_targets: 10,
            sensor_targets: 30,
            window: Duration::from_secs(60),
            cool_down: Duration::from_secs(300),
        }
    }
}

impl BreakerLimits {
    /// The most targets of one policy.
    #[must_use]
    pub fn policy_targets(self, policy_targets: usize) -> Self {
        Self { policy_targets, ..self }
    }

    /// The most targets of all policies.
    #[must_use]
    pub fn sensor_targets(self, sensor_targets: usize) -> Self {
        Self { sensor_targets, ..self }
    }

    /// The window.
    #[must_use]
    pub fn window(self, window: Duration) -> Self {
        Self { window, ..self }
    }

    /// How long actions are dry run once it has tripped.
    #[must_use]
    pub fn cool_down(self, cool_down: Duration) -> Self {
        Self { cool_down, ..self }
    }
}

/// Whose breaker it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    Policy,
    Sensor,
}

impl Scope {
    fn refusal(self) -> Refusal {
        let reason = match self {
            Self::Policy => "the policy acted on too many targets",
            Self::Sensor => "the sensor acted on too many targets",
        };
        Refusal::new(CIRCUIT_BREAKER, reason)
    }
}

/// What the breaker says of a plan.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It may act.
    Admitted,
    /// It tripped before.
    Held(Refusal),
    /// It trips now.
    Tripped(Scope, Refusal),
}

/// The breakers of an engine: one for each policy that acts, and one for all.
#[derive(Debug)]
pub(crate) struct Breaker {
    limits: BreakerLimits,
    /// By the policy's place in the set.
    policies: Vec<Option<Window>>,
    sensor: Option<Window>,
}

impl Breaker {
    pub(crate) fn new(limits: BreakerLimits, policies: &PolicySet) -> Self {
        let sensor = Window::new(limits.sensor_targets);
        let mut breaker = Self { limits, policies: Vec::new(), sensor };
        breaker.reload(&PolicySet::default(), policies);
        breaker
    }

    /// Takes the breakers of policies of the same name over.
    pub(crate) fn reload(&mut self, old: &PolicySet, new: &PolicySet) {
        self.policies = new.carry_over(old, std::mem::take(&mut self.policies), |policy, before| {
            let before = before.and_then(|(_, window)| window);
            let acts = policy.enabled && policy.actions.iter().any(|action| action.target_type().is_some());
            before.or_else(|| acts.then(|| Window::new(self.limits.policy_targets))?)
        });
    }

    pub(crate) fn limits(&self) -> &BreakerLimits {
        &self.limits
    }

    /// Whether the policy at this place may act on all targets that the plan is granted, at this time of the event clock.
    /// Call it once for each plan: it counts.
    pub(crate) fn admit(&mut self, policy: usize, plan: &Plan, event: &Event, now: u64) -> Admission {
        let targets = &Targets::of(plan, event);
        let mut windows = [
            (Scope::Sensor, self.sensor.as_mut()),
            (Scope::Policy, self.policies.get_mut(policy).and_then(Option::as_mut)),
        ];
        let (window, cool_down) = (nanoseconds(self.limits.window), nanoseconds(self.limits.cool_down));
        for (scope, breaker) in &mut windows {
            if breaker.as_mut().is_some_and(|breaker| breaker.is_open(now, cool_down)) {
                return Admission::Held(scope.refusal());
            }
        }
        // The policy's own first: it is the one to blame. Nothing is counted unless both have room.
        for (scope, breaker) in windows.iter_mut().rev() {
            if breaker.as_mut().is_some_and(|breaker| !breaker.has_room(targets, now, window)) {
                if let Some(breaker) = breaker {
                    breaker.tripped = Some(now);
                }
                return Admission::Tripped(*scope, scope.refusal());
            }
        }
        for (_, breaker) in &mut windows {
            if let Some(breaker) = breaker {
                breaker.count(targets, now);
            }
        }
        Admission::Admitted
    }

    /// On how many targets that are new the policy at this place may act now.
    pub(crate) fn room(&mut self, policy: usize, now: u64) -> usize {
        let (window, cool_down) = (nanoseconds(self.limits.window), nanoseconds(self.limits.cool_down));
        let windows = [self.sensor.as_mut(), self.policies.get_mut(policy).and_then(Option::as_mut)];
        let rooms = windows
            .into_iter()
            .flatten()
            .map(|breaker| if breaker.is_open(now, cool_down) { 0 } else { breaker.room(now, window) });
        rooms.min().unwrap_or(usize::MAX)
    }

    /// Closes every breaker, and forgets what was counted.
    pub(crate) fn rearm(&mut self) {
        for window in self.policies.iter_mut().chain([&mut self.sensor]).flatten() {
            window.tripped = None;
            window.acted.clear();
        }
    }
}

/// The targets that were acted on lately.
#[derive(Debug)]
struct Window {
    /// With the time of the last action on each. It never grows beyond the room that it was made with.
    acted: Vec<(Target, u64)>,
    limit: usize,
    /// When it tripped, while it is open.
    tripped: Option<u64>,
}

impl Window {
    /// None if the limit switches it off.
    fn new(limit: usize) -> Option<Self> {
        let limit = limit.min(MAX_BREAKER_TARGETS);
        (limit > 0).then(|| Self { acted: Vec::with_capacity(limit), limit, tripped: None })
    }

    /// Whether it tripped and has not cooled down.
    fn is_open(&mut self, now: u64, cool_down: u64) -> bool {
        if self.tripped.is_some_and(|tripped| now.saturating_sub(tripped) >= cool_down) {
            self.tripped = None;
        }
        self.tripped.is_some()
    }

    /// Whether the targets can be acted on without one too many; what left the window is forgotten.
    fn has_room(&mut self, targets: &Targets, now: u64, window: u64) -> bool {
        self.acted.retain(|(_, time)| now.saturating_sub(*time) < window);
        let new = targets.iter().filter(|target| !self.acted.iter().any(|(known, _)| known == *target)).count();
        self.acted.len() + new <= self.limit
    }

    /// How many targets more can be acted on.
    fn room(&mut self, now: u64, window: u64) -> usize {
        self.acted.retain(|(_, time)| now.saturating_sub(*time) < window);
        self.limit.saturating_sub(self.acted.len())
    }

    fn count(&mut self, targets: &Targets, now: u64) {
        for target in targets.iter() {
            match self.acted.iter_mut().find(|(known, _)| known == target) {
                Some((_, time)) => *time = now,
                None => self.acted.push((*target, now)),
            }
        }
    }
}

/// The distinct targets of a plan, on the stack.
struct Targets {
    targets: [Target; MAX_ACTIONS],
    len: usize,
}

impl Targets {
    /// Those of the actions that the plan is granted.
    fn of(plan: &Plan, event: &Event) -> Self {
        let mut targets = Self { targets: [Target::Unidentified; MAX_ACTIONS], len: 0 };
        for planned in plan.actions().filter(|planned| planned.permission == Permission::Granted) {
            let target = match planned.target {
                // Its pidfd's inode says no more than the key, and is not always known.
                Target::Process { key, .. } => Target::Process { key, pidfd_inode: None },
                Target::Operation => Target::Process { key: event.process, pidfd_inode: None },
                other => other,
            };
            if !targets.iter().any(|known| *known == target) {
                targets.targets[targets.len] = target;
                targets.len += 1;
            }
        }
        targets
    }

    fn iter(&self) -> impl Iterator<Item = &Target> {
        self.targets[..self.len].iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::{Action, PlannedAction};
    use crate::event::{EventKind, ProcessKey};

    const SECOND: u64 = 1_000_000_000;
    const POLICIES: &str = "
A: {policy: program, responseActions: [kill, alert], rules: [default match]}
B: {policy: program, responseActions: [kill, stop], rules: [default match]}
";

    fn breaker(policy_targets: usize, sensor_targets: usize) -> Breaker {
        let limits = BreakerLimits::default().policy_targets(policy_targets).sensor_targets(sensor_targets);
        Breaker::new(limits, &PolicySet::from_yaml("p.yaml", POLICIES).unwrap())
    }

    /// What becomes of a kill of `pid` by the policy at this place.
    fn kill(breaker: &mut Breaker, policy: usize, pid: u32, seconds: u64) -> Admission {
        let target = Target::Process { key: ProcessKey { pid, start: 1 }, pidfd_inode: Some(seconds) };
        let mut plan = Plan::default();
        for action in [Action::Stop, Action::Kill] {
            plan.push(PlannedAction::new(action, target, Permission::Granted));
        }
        breaker.admit(policy, &plan, &Event::new(EventKind::Exec), seconds * SECOND)
    }

    fn held(scope: Scope) -> Admission {
        Admission::Held(scope.refusal())
    }

    fn tripped(scope: Scope) -> Admission {
        Admission::Tripped(scope, scope.refusal())
    }

    #[test]
    fn it_trips_once_at_the_target_that_is_too_many() {
        let mut breaker = breaker(3, 0);
        for pid in [1, 2, 3, 2, 1] {
            assert_eq!(kill(&mut breaker, 0, pid, 0), Admission::Admitted, "{pid}");
        }
        assert_eq!(kill(&mut breaker, 0, 4, 1), tripped(Scope::Policy));
        // Then it acts on nothing, not even on what it knows.
        assert_eq!(kill(&mut breaker, 0, 5, 2), held(Scope::Policy));
        assert_eq!(kill(&mut breaker, 0, 1, 2), held(Scope::Policy));
        // Others go on.
        assert_eq!(kill(&mut breaker, 1, 5, 2), Admission::Admitted);
    }

    #[test]
    fn it_closes_by_itself_and_by_hand() {
        let mut breaker = breaker(1, 0);
        assert_eq!(kill(&mut breaker, 0, 1, 0), Admission::Admitted);
        assert_eq!(kill(&mut breaker, 0, 2, 10), tripped(Scope::Policy));
        assert_eq!(kill(&mut breaker, 0, 3, 309), held(Scope::Policy));
        assert_eq!(kill(&mut breaker, 0, 4, 310), Admission::Admitted);
        assert_eq!(kill(&mut breaker, 0, 5, 311), tripped(Scope::Policy));
        breaker.rearm();
        assert_eq!(kill(&mut breaker, 0, 6, 311), Admission::Admitted);
    }

    #[test]
    fn targets_leave_the_window() {
        let mut breaker = breaker(2, 0);
        assert_eq!(kill(&mut breaker, 0, 1, 0), Admission::Admitted);
        assert_eq!(kill(&mut breaker, 0, 2, 30), Admission::Admitted);
        assert_eq!(kill(&mut breaker, 0, 3, 60), Admission::Admitted);
        assert_eq!(kill(&mut breaker, 0, 4, 89), tripped(Scope::Policy));
    }

    #[test]
    fn the_sensor_has_one_for_all_policies() {
        let mut breaker = breaker(2, 3);
        for (policy, pid) in [(0, 1), (0, 2), (1, 3), (1, 1)] {
            assert_eq!(kill(&mut breaker, policy, pid, 0), Admission::Admitted);
        }
        assert_eq!(kill(&mut breaker, 1, 1, 0), Admission::Admitted);
        // The policy is to blame first.
        assert_eq!(kill(&mut breaker, 0, 9, 0), tripped(Scope::Policy));
        breaker.rearm();
        for (policy, pid) in [(0, 1), (0, 2), (1, 3)] {
            assert_eq!(kill(&mut breaker, policy, pid, 0), Admission::Admitted);
        }
        assert_eq!(kill(&mut breaker, 1, 4, 0), tripped(Scope::Sensor));
        assert_eq!(kill(&mut breaker, 0, 1, 0), held(Scope::Sensor));
    }

    #[test]
    fn a_reload_keeps_the_breakers_by_name() {
        let old = PolicySet::from_yaml("p.yaml", POLICIES).unwrap();
        let mut breaker = breaker(1, 0);
        kill(&mut breaker, 1, 1, 0);
        assert_eq!(kill(&mut breaker, 1, 2, 0), tripped(Scope::Policy));
        let new = PolicySet::from_yaml(
            "p.yaml",
            "B: {policy: program, responseActions: [kill], rules: [default match]}\nC: {policy: program, rules: [default match]}",
        )
        .unwrap();
        breaker.reload(&old, &new);
        assert_eq!(kill(&mut breaker, 0, 3, 1), held(Scope::Policy));
        // What only alerts needs none.
        assert!(breaker.policies[1].is_none());
    }

    #[test]
    fn zero_switches_it_off() {
        let mut breaker = breaker(0, 0);
        for pid in 1..5_000 {
            assert_eq!(kill(&mut breaker, 0, pid, 0), Admission::Admitted);
        }
    }
}

//! Warm-up: a policy that is new only dry-runs for a time, so that whoever wrote it sees what it would have done.

use std::time::Duration;

use crate::action::Refusal;
use crate::event_clock::nanoseconds;
use crate::policy::PolicySet;

/// Name of the guard that holds a policy which is new.
pub const WARM_UP: &str = "warm-up";

/// Which policies of an engine are new.
#[derive(Debug)]
pub(crate) struct WarmUp {
    duration: u64,
    /// By the policy's place in the set.
    policies: Vec<Since>,
    /// Whether a policy waits for the first event after it was loaded.
    waiting: bool,
}

/// Since when a policy is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    /// The next event.
    NextEvent,
    /// A time of the event clock.
    Time(u64),
    /// Long enough.
    Over,
}

impl WarmUp {
    /// Zero switches it off.
    pub(crate) fn new(duration: Duration, policies: &PolicySet) -> Self {
        let mut warm_up = Self { duration: nanoseconds(duration), policies: Vec::new(), waiting: false };
        warm_up.reload(&PolicySet::default(), policies);
        warm_up
    }

    /// Policies that were there before and decide as they did keep their time.
    pub(crate) fn reload(&mut self, old: &PolicySet, new: &PolicySet) {
        let before = std::mem::take(&mut self.policies);
        if self.duration == 0 {
            return;
        }
        self.policies = new.carry_over(old, before, |policy, before| match before {
            Some((known, since)) if known.decides_like(policy) => since,
            _ => Since::NextEvent,
        });
        self.waiting = self.policies.contains(&Since::NextEvent);
    }

    /// Takes the event clock at an event, before anything is decided about it.
    pub(crate) fn advance(&mut self, now: u64) {
        if std::mem::take(&mut self.waiting) {
            for since in &mut self.policies {
                if *since == Since::NextEvent {
                    *since = Since::Time(now);
                }
            }
        }
    }

    /// Why the policy at this place may not act yet.
    pub(crate) fn hold(&mut self, policy: usize, now: u64) -> Option<Refusal> {
        let since = self.policies.get_mut(policy)?;
        if matches!(since, Since::Time(start) if now.saturating_sub(*start) >= self.duration) {
            *since = Since::Over;
        }
        (*since != Since::Over).then(|| Refusal::new(WARM_UP, "the policy is new"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICIES: &str = "
A: {policy: program, responseActions: [kill], rules: ['match programName in $L', default ignore]}
B: {policy: program, responseActions: [kill], rules: [default match]}
L: {type: paths, list: [/a, /b]}
";

    fn load(text: &str) -> PolicySet {
        PolicySet::from_yaml("p.yaml", text).unwrap()
    }

    fn held(warm_up: &mut WarmUp, now: u64) -> Vec<bool> {
        warm_up.advance(now);
        (0..2).map(|policy| warm_up.hold(policy, now).is_some()).collect()
    }

    #[test]
    fn it_counts_from_the_first_event() {
        let mut warm_up = WarmUp::new(Duration::from_nanos(10), &load(POLICIES));
        assert_eq!(held(&mut warm_up, 100), [true, true]);
        assert_eq!(held(&mut warm_up, 109), [true, true]);
        assert_eq!(held(&mut warm_up, 110), [false, false]);
        let mut off = WarmUp::new(Duration::ZERO, &load(POLICIES));
        assert_eq!(held(&mut off, 1), [false, false]);
    }

    #[test]
    fn a_reload_warms_up_what_is_new_or_changed() {
        for (text, expected) in [
            (POLICIES.to_owned(), [false, false]),
            // What it says is not what it does.
            (POLICIES.replace("A: {", "A: {alertMessage: other, "), [false, false]),
            (POLICIES.replace("B: {", "B: {dryRun: true, "), [false, true]),
            (POLICIES.replace("[default match]", "[default ignore]"), [false, true]),
            (POLICIES.replace("kill], rules: [d", "stop], rules: [d"), [false, true]),
            (POLICIES.replace("/b]", "/c]"), [true, false]),
            (POLICIES.replace("\nA", "\nNew"), [true, false]),
        ] {
            let (old, new) = (load(POLICIES), load(&text));
            let mut warm_up = WarmUp::new(Duration::from_nanos(10), &old);
            held(&mut warm_up, 1);
            assert_eq!(held(&mut warm_up, 11), [false, false]);
            warm_up.reload(&old, &new);
            assert_eq!(held(&mut warm_up, 12), expected, "{text}");
            assert_eq!(held(&mut warm_up, 22), [false, false], "{text}");
        }
    }
}

//! What was lost, until it is told: by lane, kind and cause, beside the policies that may have missed something.

use std::sync::Arc;

use crate::condition::{AffectedPolicy, MAX_CONDITION_POLICIES, SensorCondition};
use crate::dependence::KindSet;
use crate::event::{Event, EventKind};
use crate::loss::Loss;
use crate::policy::PolicySet;

/// How long after one alert of lost events the next comes at the earliest, in nanoseconds: 10 seconds. What is lost meanwhile
/// is in the next.
pub const LOSS_REPORT_INTERVAL: u64 = 10_000_000_000;

type Counts = [u64; EventKind::ALL.len()];

#[derive(Debug)]
pub(super) struct LossLedger {
    dependents: Vec<Dependent>,
    /// What was not told yet, each lane, kind and cause once.
    untold: Vec<Loss>,
    /// When something was told last.
    told: Option<u64>,
    /// The same events, as those after them tell of them and as the source does.
    by_events: Counts,
    by_source: Counts,
    /// How many of them alerts have told.
    in_alerts: Counts,
}

/// A policy, and what it depends on.
#[derive(Debug)]
struct Dependent {
    name: Arc<str>,
    kinds: KindSet,
    /// Those that the policy of this name depended on before a reload, until it is known what was lost before that.
    former: KindSet,
    missed: KindSet,
    /// Whether it is no longer loaded.
    gone: bool,
}

impl LossLedger {
    pub(super) fn new(policies: &PolicySet) -> Self {
        let none = [0; EventKind::ALL.len()];
        let mut ledger = Self {
            dependents: Vec::new(),
            untold: Vec::new(),
            told: None,
            by_events: none,
            by_source: none,
            in_alerts: none,
        };
        ledger.reload(policies);
        ledger
    }

    /// Takes other policies. What is told next may have been lost before.
    pub(super) fn reload(&mut self, policies: &PolicySet) {
        let mut old = std::mem::take(&mut self.dependents);
        for policy in policies.active() {
            let before = old.iter().position(|dependent| dependent.name == policy.name).map(|at| old.remove(at));
            let (former, missed) =
                before.map_or_else(Default::default, |old| (old.kinds.union(old.former), old.missed));
            let (name, kinds) = (policy.name.clone(), KindSet::of(policy));
            self.dependents.push(Dependent { name, kinds, former, missed, gone: false });
        }
        self.dependents.extend(old.into_iter().map(|dependent| Dependent { gone: true, ..dependent }));
    }

    /// Counts what the event says was lost before it.
    pub(super) fn count(&mut self, event: &Event) {
        self.by_events[class(event.kind)] += event.lost;
    }

    /// Takes in what a source says was lost since it was asked last.
    pub(super) fn note(&mut self, losses: &[Loss]) {
        let mut kinds = KindSet::default();
        for loss in losses.iter().filter(|loss| loss.count > 0) {
            self.by_source[class(loss.kind)] += loss.count;
            kinds = kinds.with(loss.kind);
            self.add(loss);
        }
        for dependent in &mut self.dependents {
            let all = dependent.kinds.union(std::mem::take(&mut dependent.former));
            dependent.missed = dependent.missed.union(all.intersection(kinds));
        }
        self.dependents.retain(|dependent| !dependent.gone || !dependent.missed.is_empty());
    }

    fn add(&mut self, loss: &Loss) {
        let key = |loss: &Loss| (loss.lane, loss.kind as usize, loss.cause as usize);
        match self.untold.binary_search_by_key(&key(loss), key) {
            Ok(at) => {
                let sum = &mut self.untold[at];
                sum.count += loss.count;
                sum.since = sum.since.min(loss.since);
                sum.until = sum.until.max(loss.until);
            }
            Err(at) => self.untold.insert(at, *loss),
        }
    }

    /// What to tell at `time`, if there is something and it is time to.
    pub(super) fn due(&mut self, time: u64) -> Option<SensorCondition> {
        // A clock that was set back holds nothing up.
        let waits = |told: u64| time >= told && time - told < LOSS_REPORT_INTERVAL;
        if self.told.is_some_and(waits) { None } else { self.take(time) }
    }

    /// What to tell at `time`, if there is something.
    pub(super) fn take(&mut self, time: u64) -> Option<SensorCondition> {
        if self.untold.is_empty() {
            return None;
        }
        self.told = Some(time);
        let affected = self.dependents.iter().filter(|dependent| !dependent.missed.is_empty());
        let policy_count = affected.clone().count();
        let named = |dependent: &Dependent| AffectedPolicy {
            name: dependent.name.to_string(),
            kinds: dependent.missed.iter().collect(),
        };
        let policies = affected.take(MAX_CONDITION_POLICIES).map(named).collect();
        self.dependents.retain(|dependent| !dependent.gone);
        self.dependents.iter_mut().for_each(|dependent| dependent.missed = KindSet::default());
        Some(SensorCondition::EventsLost { losses: std::mem::take(&mut self.untold), policies, policy_count })
    }

    /// How many events were lost. A source may tell of each twice: by [`Event::lost`] and by itself, sooner or later.
    pub(super) fn total(&self) -> u64 {
        (0..EventKind::ALL.len()).map(|class| self.of(class)).sum()
    }

    /// How many of the class of `kind` were lost since this was asked last.
    pub(super) fn since_alert(&mut self, kind: EventKind) -> u64 {
        let class = class(kind);
        let all = self.of(class);
        all - std::mem::replace(&mut self.in_alerts[class], all)
    }

    fn of(&self, class: usize) -> u64 {
        self.by_events[class].max(self.by_source[class])
    }
}

/// Where losses of a kind are counted. A crash is told by the end of the process.
fn class(kind: EventKind) -> usize {
    let kind = if kind == EventKind::Crash { EventKind::Exit } else { kind };
    kind as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::{Lane, LossCause};

    const SECOND: u64 = 1_000_000_000;
    const POLICIES: &str = "
Programs: {policy: program, rules: [default match]}
Files: {policy: file, rules: ['match programName == \"/x\"', default ignore]}
Nothing: {policy: file, enabled: false, rules: [default match]}";

    fn ledger(text: &str) -> LossLedger {
        LossLedger::new(&load(text))
    }

    fn load(text: &str) -> PolicySet {
        PolicySet::from_yaml("p.yaml", text).unwrap()
    }

    fn lost(kind: EventKind, count: u64, since: u64, until: u64) -> Loss {
        Loss::new(Lane::Process, kind, LossCause::LaneFull, count, since * SECOND, until * SECOND)
    }

    type Told = (Vec<Loss>, Vec<(String, Vec<EventKind>)>, usize);

    fn told(condition: Option<SensorCondition>) -> Option<Told> {
        let Some(SensorCondition::EventsLost { losses, policies, policy_count }) = condition else { return None };
        Some((losses, policies.into_iter().map(|policy| (policy.name, policy.kinds)).collect(), policy_count))
    }

    #[test]
    fn a_burst_is_told_at_once_and_then_together() {
        let mut ledger = ledger(POLICIES);
        assert_eq!(told(ledger.due(SECOND)), None);
        ledger.note(&[lost(EventKind::Exec, 3, 99, 100)]);
        let exec = vec![EventKind::Exec];
        let both = vec![("Programs".to_owned(), exec.clone()), ("Files".to_owned(), exec)];
        assert_eq!(told(ledger.due(100 * SECOND)), Some((vec![lost(EventKind::Exec, 3, 99, 100)], both, 2)));
        let full = |count, since, until| {
            Loss::new(Lane::Activity, EventKind::File, LossCause::OverBudget, count, since * SECOND, until * SECOND)
        };
        for second in 101..109 {
            ledger.note(&[full(2, second - 1, second), lost(EventKind::Fork, 0, second - 1, second)]);
            assert_eq!(told(ledger.due(second * SECOND)), None);
        }
        ledger.note(&[lost(EventKind::Fork, 7, 108, 109)]);
        assert_eq!(told(ledger.due(109 * SECOND)), None);
        let files = vec![("Files".to_owned(), vec![EventKind::Fork, EventKind::File])];
        let losses = vec![lost(EventKind::Fork, 7, 108, 109), full(16, 100, 108)];
        assert_eq!(told(ledger.due(110 * SECOND)), Some((losses, files, 1)));
        // Silence is no news, and the next burst is told at once again.
        assert_eq!(told(ledger.due(200 * SECOND)), None);
        ledger.note(&[lost(EventKind::Exit, 1, 200, 201)]);
        let nobody = Some((vec![lost(EventKind::Exit, 1, 200, 201)], Vec::new(), 0));
        assert_eq!(told(ledger.due(201 * SECOND)), nobody);
        assert_eq!(ledger.total(), 3 + 16 + 7 + 1);
    }

    #[test]
    fn the_end_and_a_clock_set_back_leave_nothing_out() {
        let mut ledger = ledger(POLICIES);
        let mut lose = |time: u64, end: bool| {
            ledger.note(&[lost(EventKind::Exec, 1, time, time)]);
            told(if end { ledger.take(time * SECOND) } else { ledger.due(time * SECOND) }).map(|(losses, ..)| losses)
        };
        assert_eq!(lose(1000, false), Some(vec![lost(EventKind::Exec, 1, 1000, 1000)]));
        assert_eq!(lose(1001, false), None);
        assert_eq!(lose(1002, true), Some(vec![lost(EventKind::Exec, 2, 1001, 1002)]));
        assert_eq!(lose(500, false), Some(vec![lost(EventKind::Exec, 1, 500, 500)]));
    }

    #[test]
    fn a_reload_forgets_no_policy_that_missed_something() {
        let mut ledger = ledger(POLICIES);
        ledger.note(&[lost(EventKind::Module, 1, 1, 1)]);
        assert!(ledger.due(SECOND).is_some());
        ledger.note(&[lost(EventKind::Exec, 1, 1, 2)]);
        // The files were lost before the reload or after it.
        ledger.reload(&load(
            "Late: {policy: connect, rules: [default match]}\nPrograms: {policy: segfault, rules: [default match]}",
        ));
        ledger.note(&[lost(EventKind::File, 1, 1, 2), lost(EventKind::Exit, 1, 1, 2)]);
        let (_, policies, count) = told(ledger.take(2 * SECOND)).unwrap();
        let programs = ("Programs".to_owned(), vec![EventKind::Exec, EventKind::Exit]);
        assert_eq!(policies, [programs, ("Files".to_owned(), vec![EventKind::Exec, EventKind::File])]);
        assert_eq!(count, 2);
        ledger.note(&[lost(EventKind::File, 1, 2, 3), lost(EventKind::Exec, 1, 2, 3)]);
        assert_eq!(told(ledger.take(3 * SECOND)).unwrap().2, 0);
        assert_eq!(ledger.dependents.len(), 2);
    }

    #[test]
    fn what_is_told_twice_counts_once() {
        let mut ledger = ledger(POLICIES);
        let mut event = Event::new(EventKind::Exec);
        event.lost = 5;
        ledger.count(&event);
        assert_eq!((ledger.total(), ledger.since_alert(EventKind::Exec)), (5, 5));
        ledger.note(&[lost(EventKind::Exec, 7, 1, 1), lost(EventKind::Exit, 2, 1, 1)]);
        assert_eq!((ledger.total(), ledger.since_alert(EventKind::Exec)), (9, 2));
        event.lost = 2;
        ledger.count(&event);
        (event.kind, event.lost) = (EventKind::Crash, 2);
        ledger.count(&event);
        assert_eq!((ledger.total(), ledger.since_alert(EventKind::Exec)), (9, 0));
        assert_eq!(ledger.since_alert(EventKind::Crash), 2);
    }

    #[test]
    fn the_names_are_bounded_and_the_count_is_not() {
        let text: String =
            (0..100).map(|index| format!("P{index}: {{policy: program, rules: [default match]}}\n")).collect();
        let mut ledger = ledger(&text);
        ledger.note(&[lost(EventKind::Exec, 1, 1, 1)]);
        let (_, policies, count) = told(ledger.due(SECOND)).unwrap();
        assert_eq!((policies.len(), count), (MAX_CONDITION_POLICIES, 100));
        assert_eq!(policies[0].0, "P0");
    }
}

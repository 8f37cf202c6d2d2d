//! What the engine remembers of earlier events for the policy types that need it: which files are new, how often a
//! program crashed, which file was reported. All of it is bounded, and every step takes the event's own time.

mod changed_files;

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use lru::LruCache;

pub(crate) use self::changed_files::CHANGES;
use self::changed_files::ChangedFiles;
use crate::evaluate::Decision;
use crate::event::Event;
use crate::governor::Retention;
use crate::policy::{OnUnknown, PolicySet};
use crate::schema::Field;
use crate::trigger::TypeOptions;

/// How many changed files an engine remembers unless told otherwise: about 100 bytes for each, two entries a file.
pub const DEFAULT_CHANGED_FILE_LIMIT: usize = 131_072;

/// How many crashing programs are remembered for each `segfault` policy.
pub const MAX_CRASHING_PROGRAMS: usize = 1_024;

/// How many reported files are remembered for each `file` policy with a `timeout`.
pub const MAX_REPORTED_FILES: usize = 16_384;

/// What came of a decision once the policy's history was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The policy responds.
    Responds,
    /// As many crashes of the program are in the window, which the policy tolerates.
    Tolerated(usize),
    /// The file was reported this long ago.
    Reported(Duration),
}

/// The memory of one engine.
#[derive(Debug)]
pub(crate) struct History {
    changed_files: ChangedFiles,
    /// By the policy's place in the set.
    policies: Vec<PolicyHistory>,
    hasher: RandomState,
    /// Things that had to be forgotten while they still counted.
    forgotten: u64,
}

#[derive(Debug, Default)]
enum PolicyHistory {
    #[default]
    Stateless,
    /// Times of crashes by program.
    Crashes(LruCache<u64, VecDeque<u64>>),
    /// When a file was reported, by path.
    Reports(LruCache<u64, u64>),
}

impl History {
    pub(crate) fn new(policies: &PolicySet, changed_file_limit: usize) -> Self {
        let mut history = Self {
            changed_files: ChangedFiles::new(changed_file_limit),
            policies: Vec::new(),
            hasher: RandomState::new(),
            forgotten: 0,
        };
        history.reload(&PolicySet::default(), policies);
        history
    }

    /// Takes what `old` policies remember over to the `new` ones of the same name and kind.
    pub(crate) fn reload(&mut self, old: &PolicySet, new: &PolicySet) {
        self.policies = new.carry_over(old, std::mem::take(&mut self.policies), |policy, before| {
            let fresh = match policy.options {
                TypeOptions::Segfault { .. } => PolicyHistory::Crashes(LruCache::unbounded()),
                TypeOptions::File { timeout } if !timeout.is_zero() => PolicyHistory::Reports(LruCache::unbounded()),
                _ => return PolicyHistory::Stateless,
            };
            match before {
                Some((_, before)) if std::mem::discriminant(&before) == std::mem::discriminant(&fresh) => before,
                _ => fresh,
            }
        });
        let longest = new.active().filter_map(|policy| match policy.options {
            TypeOptions::NewFileExec { file_timeout } => Some(file_timeout),
            _ => None,
        });
        self.changed_files.remember_for(longest.max());
    }

    /// Fills in what an event says in the light of earlier ones.
    pub(crate) fn enrich(&self, event: &mut Event) {
        self.changed_files.enrich(event, &self.hasher);
    }

    /// Remembers an event.
    pub(crate) fn observe(&mut self, event: &Event) {
        self.forgotten += self.changed_files.observe(event, &self.hasher);
    }

    /// Remembers so much from now on.
    pub(crate) fn retain(&mut self, retention: Retention) {
        self.changed_files.keep_few(retention >= Retention::LittleHistory);
    }

    /// Forgets what is too much in at most `steps` steps; whether there is more.
    pub(crate) fn shrink(&mut self, steps: usize) -> bool {
        let (forgotten, more) = self.changed_files.shrink(steps);
        self.forgotten += forgotten;
        more
    }

    /// Things that had to be forgotten while they still counted, for want of room.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Whether the policy responds to an event that its rules match or leave in doubt. Call it once for each decision:
    /// it counts.
    pub(crate) fn admit(&mut self, event: &Event, decision: &Decision<'_>) -> Verdict {
        let policy = decision.policy;
        if !decision.certain && policy.on_unknown == OnUnknown::Ignore {
            return Verdict::Responds;
        }
        match (self.policies.get_mut(policy.index), &policy.options) {
            (Some(PolicyHistory::Crashes(programs)), TypeOptions::Segfault { tolerance, duration }) => {
                let key = hash(&self.hasher, event, Field::ProgramName);
                let crashes = programs.get_or_insert_mut(key, VecDeque::new);
                crashes.retain(|time| within(*time, event.time, *duration));
                crashes.push_back(event.time);
                let count = crashes.len();
                if count > *tolerance as usize {
                    // The next response takes as many crashes again.
                    crashes.clear();
                    return Verdict::Responds;
                }
                let counts =
                    |crashes: &VecDeque<u64>| crashes.back().is_some_and(|time| within(*time, event.time, *duration));
                self.forgotten += make_room(programs, MAX_CRASHING_PROGRAMS, counts);
                Verdict::Tolerated(count)
            }
            (Some(PolicyHistory::Reports(files)), TypeOptions::File { timeout }) => {
                // Whoever acts must act on each.
                if policy.actions.iter().any(|action| action.target_type().is_some()) {
                    return Verdict::Responds;
                }
                let key = hash(&self.hasher, event, Field::FilePath);
                if let Some(time) = files.peek(&key).filter(|time| within(**time, event.time, *timeout)) {
                    return Verdict::Reported(Duration::from_nanos(event.time.saturating_sub(*time)));
                }
                files.push(key, event.time);
                self.forgotten += make_room(files, MAX_REPORTED_FILES, |time| within(*time, event.time, *timeout));
                Verdict::Responds
            }
            _ => Verdict::Responds,
        }
    }
}

/// Drops what was used longest ago until at most `limit` are left, and says how many of those counted.
fn make_room<V>(cache: &mut LruCache<u64, V>, limit: usize, counts: impl Fn(&V) -> bool) -> u64 {
    let mut dropped = 0;
    while cache.len() > limit
        && let Some((_, value)) = cache.pop_lru()
    {
        dropped += u64::from(counts(&value));
    }
    dropped
}

/// Whether `earlier` is at most `duration` before `now`. Clocks may step back: then it is.
fn within(earlier: u64, now: u64, duration: Duration) -> bool {
    u128::from(now.saturating_sub(earlier)) <= duration.as_nanos()
}

/// A path in its mount namespace and container, as a number that nobody outside can aim at.
fn hash(hasher: &RandomState, event: &Event, path: Field) -> u64 {
    hasher.hash_one((event.mount_namespace, event.text(Field::ContainerId), event.text(path)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::{Matcher, TreeMatcher};
    use crate::event::EventKind;

    const SECOND: u64 = 1_000_000_000;

    fn admit(history: &mut History, policies: &PolicySet, event: &mut Event) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        let matcher = TreeMatcher::new(policies.clone().into());
        event.each_name(|event| {
            matcher.decide(event, &mut |decision| verdicts.push(history.admit(event, &decision)));
        });
        verdicts
    }

    fn crash(program: &str, time: u64) -> Event {
        let mut event = Event::new(EventKind::Crash);
        event.time = time;
        event.set_text(Field::ProgramName, program.as_bytes());
        event
    }

    fn created(path: &str, time: u64) -> Event {
        let mut event = Event::new(EventKind::File);
        event.time = time;
        event.set_text(Field::FileOperation, b"CREATE").set_text(Field::FilePath, path.as_bytes());
        event
    }

    fn load(text: &str) -> PolicySet {
        PolicySet::from_yaml("p.yaml", text).unwrap()
    }

    const CRASHES: &str = "P: {policy: segfault, tolerance: 2, duration: 10, rules: [default match]}";

    #[test]
    fn crashes_count_by_program_in_a_window() {
        let policies = load(CRASHES);
        let mut history = History::new(&policies, 8);
        let mut at = |program: &str, time| admit(&mut history, &policies, &mut crash(program, time * SECOND))[0];
        assert_eq!(at("/a", 100), Verdict::Tolerated(1));
        assert_eq!(at("/b", 101), Verdict::Tolerated(1));
        assert_eq!(at("/a", 105), Verdict::Tolerated(2));
        // The first has left the window.
        assert_eq!(at("/a", 111), Verdict::Tolerated(2));
        assert_eq!(at("/a", 112), Verdict::Responds);
        assert_eq!(at("/a", 113), Verdict::Tolerated(1));
        // A clock that steps back forgets nothing.
        assert_eq!(at("/a", 50), Verdict::Tolerated(2));
        assert_eq!(at("/a", 50), Verdict::Responds);
    }

    #[test]
    fn crashing_programs_are_bounded() {
        let policies = load(CRASHES);
        let mut history = History::new(&policies, 8);
        for program in 0..=MAX_CRASHING_PROGRAMS {
            admit(&mut history, &policies, &mut crash(&format!("/{program}"), SECOND));
        }
        assert_eq!(history.forgotten(), 1);
        assert_eq!(admit(&mut history, &policies, &mut crash("/0", SECOND)), [Verdict::Tolerated(1)]);
    }

    #[test]
    fn a_file_is_reported_once_in_its_time() {
        let policies = load("P: {policy: file, timeout: 10, rules: [default match]}");
        let mut history = History::new(&policies, 8);
        let mut at = |path: &str, time| admit(&mut history, &policies, &mut created(path, time * SECOND))[0];
        assert_eq!(at("/a", 100), Verdict::Responds);
        assert_eq!(at("/a", 104), Verdict::Reported(Duration::from_secs(4)));
        assert_eq!(at("/b", 104), Verdict::Responds);
        // The time runs from the report, not from what was kept quiet.
        assert_eq!(at("/a", 111), Verdict::Responds);
    }

    #[test]
    fn reported_files_are_bounded() {
        let policies = load("P: {policy: file, timeout: 10, rules: [default match]}");
        let mut history = History::new(&policies, 8);
        for file in 0..MAX_REPORTED_FILES + 3 {
            admit(&mut history, &policies, &mut created(&format!("/{file}"), SECOND));
        }
        assert_eq!(history.forgotten(), 3);
        assert_eq!(admit(&mut history, &policies, &mut created("/0", SECOND)), [Verdict::Responds]);
    }

    #[test]
    fn a_little_history_is_reached_bit_by_bit() {
        let policies = load("P: {policy: newFileExec, rules: [default match]}");
        let mut history = History::new(&policies, 400);
        for file in 0..400 {
            history.observe(&created(&format!("/{file}"), SECOND));
        }
        history.retain(Retention::FewProcesses);
        assert!(!history.shrink(1000));
        history.retain(Retention::LittleHistory);
        assert!(history.shrink(100) && history.shrink(100) && !history.shrink(100));
        assert_eq!(history.forgotten(), 300);
        let age = |path: &[u8]| {
            let mut event = Event::new(EventKind::Exec);
            event.time = 3 * SECOND;
            event.set_text(Field::ProgramName, path);
            history.enrich(&mut event);
            event.number(Field::FileAge)
        };
        assert_eq!([age(b"/299"), age(b"/300"), age(b"/399")], [None, Some(2), Some(2)]);
    }

    #[test]
    fn who_acts_on_a_file_acts_each_time() {
        let policies = load("P: {policy: file, timeout: 10, responseActions: [alert, kill], rules: [default match]}");
        let mut history = History::new(&policies, 8);
        for _ in 0..2 {
            assert_eq!(admit(&mut history, &policies, &mut created("/a", SECOND)), [Verdict::Responds]);
        }
    }

    #[test]
    fn a_reload_keeps_what_was_counted() {
        let old = load(CRASHES);
        let mut history = History::new(&old, 8);
        admit(&mut history, &old, &mut crash("/a", SECOND));
        let new = load(&format!("Q: {{policy: segfault, rules: [default match]}}\n{CRASHES}"));
        history.reload(&old, &new);
        let verdicts = admit(&mut history, &new, &mut crash("/a", SECOND));
        assert_eq!(verdicts, [Verdict::Tolerated(1), Verdict::Tolerated(2)]);
    }
}

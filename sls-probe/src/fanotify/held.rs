//! Operations that wait for an answer.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sls_core::{Event, HeldDecision, HeldVerdict, ProcessKey, ProcessTable};

use super::MAX_DECISION_DEADLINE;
use super::group::{BUFFER_BYTES, Group, Question, Received, Verdict};
use super::process::TICK_NANOS;
use super::stats::Counters;

/// What becomes of an operation about which nothing was decided in time.
// Exhaustive: it goes on or it does not.
#[allow(clippy::exhaustive_enums)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FailMode {
    /// It goes on: what a policy does not get to see, it does not block.
    #[default]
    Open,
    /// It is refused.
    Closed,
}

impl FailMode {
    pub(super) fn verdict(self) -> Verdict {
        match self {
            Self::Open => Verdict::Allow,
            Self::Closed => Verdict::Deny,
        }
    }
}

/// Everything that waits, with the group that it waits for. The reader, the keeper and whoever decides share it.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) group: Group,
    pub(super) counters: Counters,
    entries: Mutex<Vec<Option<Entry>>>,
    generation: AtomicU64,
    deadline: Duration,
    default_mode: FailMode,
    opens: AtomicBool,
    loaders: AtomicBool,
    started: Instant,
    /// When the reader began with its question, in nanoseconds since the start; 0 if it waits for one.
    reading_since: AtomicU64,
}

#[derive(Debug)]
struct Entry {
    file: Received,
    /// Kept so that its number stays its own.
    _pidfd: Option<Received>,
    read: Instant,
    expires: Instant,
    mode: FailMode,
    generation: u64,
    answered: bool,
}

/// How long an operation waits, and what becomes of it then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) deadline: Duration,
    pub(super) mode: FailMode,
}

/// The place of an operation among those that wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    index: usize,
    generation: u64,
}

/// What became of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answered {
    /// The kernel took it. It does so also if the process was killed while it waited.
    InTime,
    /// The time was over, and the operation answered by its [`FailMode`].
    TooLate,
}

/// What the keeper found.
pub(super) struct Expiry {
    /// When the next one is too late.
    pub(super) next: Option<Instant>,
    /// The reader has been at one question for longer than the deadline.
    pub(super) reader_is_stuck: bool,
}

impl Waiting {
    pub(super) fn new(group: Group, limit: usize, deadline: Duration, default_mode: FailMode) -> Self {
        let entries = Mutex::new((0..limit).map(|_| None).collect());
        let (counters, generation) = (Counters::default(), AtomicU64::new(0));
        let (started, reading_since) = (Instant::now(), AtomicU64::new(0));
        let (opens, loaders) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { group, counters, entries, generation, deadline, default_mode, opens, loaders, started, reading_since }
    }

    pub(super) fn default_mode(&self) -> FailMode {
        self.default_mode
    }

    pub(super) fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Called by the reader when it begins with a question, and when it is done with it.
    pub(super) fn set_reading(&self, reading: bool) {
        let since = if reading { (self.started.elapsed().as_nanos() as u64).max(1) } else { 0 };
        self.reading_since.store(since, Ordering::Release);
    }

    /// When the reader has been at its question for too long.
    fn reader_until(&self) -> Option<Instant> {
        let since = self.reading_since.load(Ordering::Acquire);
        (since != 0).then(|| self.started + Duration::from_nanos(since) + self.deadline)
    }

    /// Whether somebody wants to decide about files that are opened.
    pub(super) fn watches_opens(&self) -> bool {
        self.opens.load(Ordering::Relaxed)
    }

    /// Whether a program that is opened by a loader counts as executed.
    pub(super) fn watches_loaders(&self) -> bool {
        self.loaders.load(Ordering::Relaxed)
    }

    pub(super) fn set_watched(&self, opens: bool, loaders: bool) {
        self.opens.store(opens, Ordering::Relaxed);
        self.loaders.store(loaders, Ordering::Relaxed);
    }

    /// Nothing panics with the lock held.
    fn entries(&self) -> MutexGuard<'_, Vec<Option<Entry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets an operation wait. Without room it is answered at once.
    pub(super) fn admit(&self, question: Question) -> Option<Place> {
        let mut entries = self.entries();
        let Some(index) = entries.iter().position(Option::is_none) else {
            drop(entries);
            self.counters.overflowed.fetch_add(1, Ordering::Relaxed);
            let _ = self.respond(&question.file, self.default_mode.verdict());
            return None;
        };
        let generation = self.generation.fetch_add(1, Ordering::Relaxed);
        let Question { file, pidfd, .. } = question;
        let read = Instant::now();
        let expires = read + self.deadline;
        let mode = self.default_mode;
        entries[index] = Some(Entry { file, _pidfd: pidfd, read, expires, mode, generation, answered: false });
        Some(Place { index, generation })
    }

    fn set_terms(&self, place: Place, terms: Terms) {
        if let Some(entry) = find(&mut self.entries(), place) {
            entry.mode = terms.mode;
            entry.expires = entry.read + terms.deadline.min(MAX_DECISION_DEADLINE);
        }
    }

    /// Answers, and forgets the operation. `verdict` none: by its mode.
    pub(super) fn finish(&self, place: Place, verdict: Option<Verdict>) -> Answered {
        let mut entries = self.entries();
        let taken = find(&mut entries, place).is_some().then(|| entries[place.index].take()).flatten();
        let Some(entry) = taken else { return Answered::TooLate };
        if entry.answered {
            return Answered::TooLate;
        }
        match self.respond(&entry.file, verdict.unwrap_or(entry.mode.verdict())) {
            Ok(()) => Answered::InTime,
            Err(_) => Answered::TooLate,
        }
    }

    /// Answers what waits longer than it may. The numbers of its files stay taken until who has it in his hands is done.
    pub(super) fn expire(&self, now: Instant) -> Expiry {
        let mut expiry = Expiry { next: None, reader_is_stuck: false };
        if let Some(until) = self.reader_until() {
            expiry.reader_is_stuck = until <= now;
            expiry.next = Some(until).filter(|until| *until > now);
        }
        for slot in self.entries().iter_mut() {
            let Some(entry) = slot else { continue };
            if !entry.answered && entry.expires <= now {
                entry.answered = true;
                self.counters.late.fetch_add(1, Ordering::Relaxed);
                let _ = self.respond(&entry.file, entry.mode.verdict());
            }
            if !entry.answered {
                expiry.next = Some(expiry.next.map_or(entry.expires, |next| next.min(entry.expires)));
            }
        }
        expiry
    }

    /// Answers everything by its mode.
    pub(super) fn release(&self) {
        for entry in self.entries().iter_mut().flatten().filter(|entry| !entry.answered) {
            entry.answered = true;
            let _ = self.respond(&entry.file, entry.mode.verdict());
        }
    }

    /// Lets go what was asked and not read.
    pub(super) fn drain(&self) {
        let mut buffer = [0; BUFFER_BYTES];
        while let Ok(questions) = self.group.read(&mut buffer) {
            let mut count = 0;
            for question in questions.flatten() {
                count += 1;
                self.answer(&question, Verdict::Allow);
            }
            if count == 0 {
                return;
            }
        }
    }

    /// Answers what was not admitted.
    pub(super) fn answer(&self, question: &Question, verdict: Verdict) {
        let _ = self.respond(&question.file, verdict);
    }

    pub(super) fn len(&self) -> usize {
        self.entries().iter().flatten().filter(|entry| !entry.answered).count()
    }

    fn respond(&self, file: &Received, verdict: Verdict) -> nix::Result<()> {
        let result = self.group.answer(file, verdict);
        let counter = match (result, verdict) {
            (Err(_), _) => &self.counters.untaken,
            (Ok(()), Verdict::Allow) => &self.counters.allowed,
            (Ok(()), Verdict::Deny) => &self.counters.denied,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        result
    }
}

fn find(entries: &mut [Option<Entry>], place: Place) -> Option<&mut Entry> {
    entries.get_mut(place.index)?.as_mut().filter(|entry| entry.generation == place.generation)
}

/// An operation that waits until it is answered, at the latest when its time is over. Dropped without an answer, it is
/// answered by its [`FailMode`].
#[derive(Debug)]
pub struct HeldOperation {
    waiting: Arc<Waiting>,
    place: Option<Place>,
    event: Event,
}

impl HeldOperation {
    pub(super) fn new(waiting: &Arc<Waiting>, place: Place, event: Event, terms: Terms) -> Self {
        waiting.set_terms(place, terms);
        Self { waiting: Arc::clone(waiting), place: Some(place), event }
    }

    /// What is about to happen, as far as it can be known: see [`Fanotify`](super::Fanotify).
    #[must_use]
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// The same, to be completed.
    pub fn event_mut(&mut self) -> &mut Event {
        &mut self.event
    }

    /// Gives the acting process the start time to the nanosecond, which only the process table knows: what `/proc` has, and
    /// the event until then, is cut to whole ticks of 10 ms.
    pub fn identify(&mut self, processes: &ProcessTable) {
        let ProcessKey { pid, start } = self.event.process;
        if let Some(key) = processes.process(ProcessKey { pid, start: 0 }).map(|record| record.key())
            && key.start / TICK_NANOS == start / TICK_NANOS
        {
            self.event.process = key;
        }
    }

    /// Answers by an engine's decision, and tells the alerts what became of it.
    pub fn decide(mut self, decide: impl FnOnce(&mut Event) -> HeldDecision) {
        let decision = decide(&mut self.event);
        let verdict = if decision.verdict() == HeldVerdict::Deny { Verdict::Deny } else { Verdict::Allow };
        decision.answered(match self.answer(verdict) {
            Answered::InTime => {
                Ok(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64))
            }
            Answered::TooLate => Err("its deadline had passed".to_owned()),
        });
    }

    /// There is no room where it should go: it is answered by its mode, and counted.
    pub(super) fn refuse_room(self) {
        self.waiting.counters.overflowed.fetch_add(1, Ordering::Relaxed);
    }

    /// Answers, and tells what became of it.
    pub fn answer(mut self, verdict: Verdict) -> Answered {
        self.place.take().map_or(Answered::TooLate, |place| self.waiting.finish(place, Some(verdict)))
    }
}

impl Drop for HeldOperation {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            self.waiting.finish(place, None);
        }
    }
}

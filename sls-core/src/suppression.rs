//! Repeated alerts of one policy about one execution, counted instead of sent.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::alert::Alert;
use crate::event::{Event, EventKind, ProcessKey};
use crate::event_clock::{EventClock, nanoseconds};

/// The most windows in which repetitions are counted. One more ends the oldest, whose count is told.
pub const MAX_SUPPRESSION_WINDOWS: usize = 1024;

/// What becomes of an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It is sent.
    Sent,
    /// It stands for those that follow it: it is to be kept ([`Suppression::keep`]).
    Kept,
    /// It is counted.
    Counted,
}

/// The windows. The first alert of a policy about an execution is sent at once and opens one; those that follow within it are
/// one alert with their number, which comes when it ends: by time, by the end of the execution, for want of room, when the
/// policies change, and with the engine.
#[derive(Debug, Default)]
pub(crate) struct Suppression {
    /// In nanoseconds; zero suppresses nothing.
    length: u64,
    clock: EventClock,
    /// By process. An execution ends those of the program before.
    windows: HashMap<ProcessKey, Vec<Window>>,
    /// In the order of their ends. What was ended before is still in it.
    ends: VecDeque<(ProcessKey, u64)>,
    serial: u64,
    /// Alerts whose windows have ended.
    pub(crate) due: VecDeque<Box<Alert>>,
    pub(crate) suppressed: u64,
    pub(crate) evicted: u64,
}

#[derive(Debug)]
struct Window {
    /// Index of the policy.
    policy: usize,
    serial: u64,
    end: u64,
    /// What was not sent.
    count: u64,
    last: u64,
    kept: Option<Box<Alert>>,
}

impl Window {
    /// What stands for all that was not sent in it.
    fn close(self) -> Option<Box<Alert>> {
        let mut alert = self.kept?;
        alert.repeated = self.count;
        alert.last_timestamp = self.last;
        Some(alert)
    }
}

impl Suppression {
    pub(crate) fn new(window: Duration) -> Self {
        Self { length: nanoseconds(window), ..Self::default() }
    }

    /// Takes in the time of an event, and the end of an execution.
    pub(crate) fn observe(&mut self, event: &Event) {
        if self.length == 0 {
            return;
        }
        self.advance(event.time);
        if matches!(event.kind, EventKind::Exec | EventKind::Exit) && !self.windows.is_empty() {
            let ended = self.windows.remove(&event.process).unwrap_or_default();
            self.due.extend(ended.into_iter().filter_map(Window::close));
        }
    }

    /// Ends the windows whose time is over, in nanoseconds since the epoch.
    pub(crate) fn advance(&mut self, time: u64) {
        self.clock.advance(time);
        let now = self.clock.elapsed();
        while let Some((process, serial)) = self.ends.front().copied() {
            match self.find(process, serial) {
                Some(window) if window.end > now => break,
                _ => self.end_oldest(),
            };
        }
    }

    /// What becomes of an alert of this policy that took no action.
    pub(crate) fn admit(&mut self, event: &Event, policy: usize) -> Admission {
        if self.length == 0 || event.process.pid == 0 {
            return Admission::Sent;
        }
        let window =
            self.windows.get_mut(&event.process).and_then(|all| all.iter_mut().find(|one| one.policy == policy));
        if let Some(window) = window {
            window.count += 1;
            window.last = event.time;
            self.suppressed += 1;
            return if window.kept.is_none() { Admission::Kept } else { Admission::Counted };
        }
        while self.ends.len() >= MAX_SUPPRESSION_WINDOWS {
            self.evicted += u64::from(self.end_oldest());
        }
        self.serial += 1;
        let end = self.clock.elapsed().saturating_add(self.length);
        let window = Window { policy, serial: self.serial, end, count: 0, last: 0, kept: None };
        self.windows.entry(event.process).or_default().push(window);
        self.ends.push_back((event.process, self.serial));
        Admission::Sent
    }

    /// Keeps the alert that was admitted last.
    pub(crate) fn keep(&mut self, process: ProcessKey, policy: usize, alert: Alert) {
        let window = self.windows.get_mut(&process).and_then(|all| all.iter_mut().find(|one| one.policy == policy));
        match window {
            Some(window) => window.kept = Some(Box::new(alert)),
            None => self.due.push_back(Box::new(alert)),
        }
    }

    /// Ends all windows.
    pub(crate) fn end_all(&mut self) {
        while !self.ends.is_empty() {
            self.end_oldest();
        }
    }

    fn find(&self, process: ProcessKey, serial: u64) -> Option<&Window> {
        self.windows.get(&process)?.iter().find(|window| window.serial == serial)
    }

    /// Whether there was one that had not ended already.
    fn end_oldest(&mut self) -> bool {
        let Some((process, serial)) = self.ends.pop_front() else { return false };
        let Some(all) = self.windows.get_mut(&process) else { return false };
        let Some(at) = all.iter().position(|window| window.serial == serial) else { return false };
        self.due.extend(all.remove(at).close());
        if all.is_empty() {
            self.windows.remove(&process);
        }
        true
    }
}

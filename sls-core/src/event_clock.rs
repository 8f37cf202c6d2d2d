//! Time as events tell it, for what has to pass before an engine does something: it has no clock of its own.

use std::time::Duration;

/// How far behind the latest event another may be without the clock having been set back: events of several CPUs come in
/// nearly the right order.
const MAX_DISORDER: u64 = 60_000_000_000;

/// The most that one step forward counts, a year: however many times are wrong, the count does not come to its end.
const MAX_STEP: u64 = 365 * 86_400 * 1_000_000_000;

/// Counts nanoseconds from event to event and never runs backwards.
///
/// An event that is a little older than the latest moves nothing. One that is older by more than [`MAX_DISORDER`] means that
/// the host's clock was set back: time goes on from there, so that a single wrong time cannot stop it for good. An event
/// without a time moves nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct EventClock {
    /// The latest time of an event, in nanoseconds since the epoch; 0 before the first.
    latest: u64,
    elapsed: u64,
}

impl EventClock {
    /// Takes the time of an event.
    pub(crate) fn advance(&mut self, time: u64) {
        if time == 0 {
            return;
        }
        if self.latest == 0 || time.saturating_add(MAX_DISORDER) < self.latest {
            self.latest = time;
        } else if time > self.latest {
            self.elapsed = self.elapsed.saturating_add((time - self.latest).min(MAX_STEP));
            self.latest = time;
        }
    }

    /// Nanoseconds since the first event.
    pub(crate) fn elapsed(self) -> u64 {
        self.elapsed
    }
}

/// A duration as the clock counts it; what is longer than it can count is the longest that it can.
pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn it_never_runs_backwards_and_never_stands_still_for_good() {
        let mut clock = EventClock::default();
        let mut at = |seconds: u64| {
            clock.advance(seconds * SECOND);
            clock.elapsed() / SECOND
        };
        assert_eq!(at(1_000), 0);
        assert_eq!(at(1_010), 10);
        // Out of order, and without a time.
        assert_eq!(at(1_005), 10);
        assert_eq!(at(0), 10);
        assert_eq!(at(1_011), 11);
        // A clock that is set back, and one event from far ahead.
        assert_eq!(at(500), 11);
        assert_eq!(at(501), 12);
        let far = at(1_000_000);
        assert_eq!(at(502), far);
        assert_eq!(at(503), far + 1);
    }
}

//! How often the kernel may wake the reader.

use std::time::{Duration, Instant};

/// A bucket of wake-ups: it holds `burst`, and gets `per_second` back.
///
/// A wake-up costs the traced program more than all the rest of an event (an interrupt to another CPU). Single events
/// are worth it, thousands a second are not. So everything that the reader finds is paid for, whether it was woken for
/// it or not: as long as events keep coming, the bucket stays empty.
#[derive(Debug)]
pub(crate) struct WakeBudget {
    interval: Duration,
    burst: Duration,
    /// When the bucket will be full again.
    full_at: Instant,
}

impl WakeBudget {
    /// A full bucket. A rate of zero never gives anything.
    pub(crate) fn new(per_second: u32, burst: u32, now: Instant) -> Self {
        let interval = Duration::from_secs(1).checked_div(per_second).unwrap_or(Duration::MAX);
        Self { interval, burst: interval.saturating_mul(if per_second == 0 { 0 } else { burst }), full_at: now }
    }

    /// Whether there is a wake-up left.
    pub(crate) fn allows(&self, now: Instant) -> bool {
        self.full_at.saturating_duration_since(now).saturating_add(self.interval) <= self.burst
    }

    /// Takes one, if there is one. What is not there is not owed.
    pub(crate) fn spend(&mut self, now: Instant) {
        let full_at = self.full_at.max(now).checked_add(self.interval);
        let empty = now.checked_add(self.burst);
        self.full_at = full_at.into_iter().chain(empty).min().unwrap_or(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_then_rate() {
        let start = Instant::now();
        let mut budget = WakeBudget::new(100, 3, start);
        for _ in 0..3 {
            assert!(budget.allows(start));
            budget.spend(start);
        }
        assert!(!budget.allows(start));
        assert!(!budget.allows(start + Duration::from_millis(9)));
        assert!(budget.allows(start + Duration::from_millis(10)));
        budget.spend(start + Duration::from_millis(10));
        assert!(!budget.allows(start + Duration::from_millis(10)));
        for _ in 0..50 {
            budget.spend(start + Duration::from_millis(20));
        }
        assert!(!budget.allows(start + Duration::from_millis(29)));
        assert!(budget.allows(start + Duration::from_millis(30)), "an empty bucket went into debt");
        assert!(!WakeBudget::new(0, 3, start).allows(start + Duration::from_secs(9)));
    }
}

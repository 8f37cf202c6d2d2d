//! What outputs that can fail have in common: an alert as it travels, who carries it, and how long to wait after a failure.

use std::fmt;
use std::time::Duration;

use uuid::Uuid;

use crate::alert::Alert;
use crate::plugin::BoxError;

/// An alert as it is kept and delivered: its JSON object, as it was when the alert was made. A later version of the sensor
/// delivers it unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EncodedAlert {
    /// The alert's uuid, by which a receiver knows it again when it comes twice.
    pub uuid: Uuid,
    /// The alert as one line of JSON, without a line feed.
    pub json: String,
}

impl EncodedAlert {
    /// With JSON of one's own for the alert of this uuid.
    #[must_use]
    pub fn new(uuid: Uuid, json: impl Into<String>) -> Self {
        Self { uuid, json: json.into() }
    }
}

impl From<&Alert> for EncodedAlert {
    fn from(alert: &Alert) -> Self {
        Self::new(alert.uuid, alert.to_json())
    }
}

/// Carries alerts to a receiver that may be slow, or away. It may block: it is called on a thread of its own, from the
/// oldest alert to the newest, and again with the same alert until it takes it.
///
/// What was sent counts as delivered only when [`AlertTransport::flush`] has succeeded; until then it can come once more, with
/// the same uuid.
pub trait AlertTransport: fmt::Debug + Send {
    /// Sends one alert.
    ///
    /// # Errors
    /// When the receiver does not take it now. It is tried again later.
    fn send(&mut self, alert: &EncodedAlert) -> Result<(), BoxError>;

    /// Makes sure that what was sent has arrived, as far as can be known: afterwards nobody else has it. Called after a number of
    /// alerts. By default what was sent has arrived.
    ///
    /// # Errors
    /// When something of what was sent since the last flush may not have arrived. All of that is sent again.
    fn flush(&mut self) -> Result<(), BoxError> {
        Ok(())
    }
}

/// How long to wait after failures: exponential back-off with full jitter, so that those who failed together do not come back
/// together.
///
/// ```
/// use std::time::Duration;
/// use sls_core::Backoff;
///
/// let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
/// assert_eq!(backoff.delay(3, u64::MAX / 2), Duration::from_secs(2)); // between 0 and 4 s
/// assert_eq!(backoff.delay(1000, u64::MAX), Duration::from_secs(60));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
}

impl Backoff {
    /// Waits at most `first` after one failure, twice that after two, and so on, but never longer than `longest`.
    #[must_use]
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest }
    }

    /// How long to wait after so many failures in a row, to the millisecond. `random` decides, evenly over all its values.
    #[must_use]
    pub fn delay(self, failures: u32, random: u64) -> Duration {
        let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
        let most = self.first.saturating_mul(doubled).min(self.longest).as_millis();
        let delay = most.saturating_mul(u128::from(random) + 1) >> u64::BITS;
        Duration::from_millis(u64::try_from(delay).unwrap_or(u64::MAX))
    }
}

impl Default for Backoff {
    /// From half a second to a minute.
    fn default() -> Self {
        Self::new(Duration::from_millis(500), Duration::from_secs(60))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_delay_is_never_longer_than_was_said(first in 0_u64..100_000, longest in 0_u64..100_000, failures: u32, random: u64) {
            let backoff = Backoff::new(Duration::from_millis(first), Duration::from_millis(longest));
            prop_assert!(backoff.delay(failures, random) <= Duration::from_millis(longest));
            prop_assert!(backoff.delay(1, random) <= Duration::from_millis(first.min(longest)));
            prop_assert_eq!(backoff.delay(failures, 0).as_millis() <= 1, true);
        }
    }

    #[test]
    fn delays_double() {
        let backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(3));
        let delays: Vec<_> = (0..6).map(|failures| backoff.delay(failures, u64::MAX).as_millis()).collect();
        assert_eq!(delays, [500, 500, 1000, 2000, 3000, 3000]);
        let longest = Backoff::new(Duration::MAX, Duration::MAX).delay(u32::MAX, u64::MAX);
        assert!(longest >= Duration::from_secs(1 << 40), "{longest:?}");
    }
}

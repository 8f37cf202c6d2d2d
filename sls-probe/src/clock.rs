//! From the kernel's boot clock to the time of day.

use nix::time::{ClockId, clock_gettime};

/// The distance between the two clocks. It changes when somebody sets the time, so it is measured again now and then.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BootTime {
    /// Nanoseconds since the epoch at which the boot clock was zero.
    epoch: u64,
}

impl BootTime {
    /// Measures the distance.
    pub(crate) fn measure() -> Self {
        // The boot clock is read on both sides of the other: the middle is right to within half of what that took.
        let before = nanos(ClockId::CLOCK_BOOTTIME);
        let now = nanos(ClockId::CLOCK_REALTIME);
        let after = nanos(ClockId::CLOCK_BOOTTIME);
        Self { epoch: now.saturating_sub(before + (after - before) / 2) }
    }

    /// What the boot clock shows.
    pub(crate) fn now() -> u64 {
        nanos(ClockId::CLOCK_BOOTTIME)
    }

    /// When the boot clock was zero, in nanoseconds since the epoch.
    pub(crate) fn epoch(self) -> u64 {
        self.epoch
    }

    /// Nanoseconds since the epoch of a time on the boot clock.
    pub(crate) fn to_epoch(self, boot: u64) -> u64 {
        self.epoch.saturating_add(boot)
    }
}

/// A clock that cannot be read is zero; Linux has both since 2.6.39.
fn nanos(clock: ClockId) -> u64 {
    clock_gettime(clock).map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

//! How much room each lane has, and how much of it one cgroup may take.

use sls_core::Lane;

use crate::error::ProbeError;

/// Size of the ring buffers between the kernel and the sensor together, unless told otherwise. A half of it is for each lane:
/// about 20,000 executions, and as many opened files.
pub const DEFAULT_RING_BYTES: u32 = 16 * 1024 * 1024;

/// The smallest rings: each has one page where pages are largest.
pub const MIN_RING_BYTES: u32 = 2 * MIN_LANE_BYTES;

/// The largest rings together.
pub const MAX_RING_BYTES: u32 = 2 * MAX_LANE_BYTES;

/// The smallest ring of one lane.
pub const MIN_LANE_BYTES: u32 = 64 * 1024;

/// The largest ring of one lane.
pub const MAX_LANE_BYTES: u32 = 512 * 1024 * 1024;

/// Cgroups whose use of a lane is kept account of. With more, those that were quiet longest begin with a whole budget again.
pub const MAX_CGROUP_BUDGETS: usize = 4096;

/// What part of a lane a cgroup may take at once, and again every second, unless told otherwise: a sixteenth.
const DEFAULT_BUDGET_PART: u32 = 16;

/// What one cgroup may send by a lane of which more than a half is filled. While there is more room than that, nobody's events
/// are withheld.
///
/// ```
/// use sls_core::Lane;
/// use sls_probe::{CgroupBudget, Probe};
///
/// let builder = Probe::builder()
///     .cgroup_budget(Lane::Activity, CgroupBudget::new(256 * 1024, 1024 * 1024))
///     .cgroup_budget(Lane::Process, CgroupBudget::UNLIMITED);
/// # let _ = builder;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CgroupBudget {
    /// Bytes of records that it gets back every second. An execution takes about 400, a file that is opened about 300.
    pub bytes_per_second: u32,
    /// Bytes that it can take at once. Zero: there is no budget.
    pub burst_bytes: u32,
}

impl CgroupBudget {
    /// No budget: one cgroup can fill a lane.
    pub const UNLIMITED: Self = Self { bytes_per_second: 0, burst_bytes: 0 };

    /// So many bytes a second, and so many at once.
    #[must_use]
    pub const fn new(bytes_per_second: u32, burst_bytes: u32) -> Self {
        Self { bytes_per_second, burst_bytes }
    }
}

/// The room of one lane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub(crate) bytes: u32,
    /// None: a part of the ring.
    pub(crate) budget: Option<CgroupBudget>,
}

impl Default for Room {
    fn default() -> Self {
        Self { bytes: DEFAULT_RING_BYTES / 2, budget: None }
    }
}

impl Room {
    /// What programs are told of it, in the order of `struct config`.
    pub(crate) fn numbers(self) -> [u64; 3] {
        let part = self.bytes / DEFAULT_BUDGET_PART;
        let budget = self.budget.unwrap_or(CgroupBudget::new(part, part));
        // They count time in units of 2^30 ns.
        let rate = (u64::from(budget.bytes_per_second) << 30) / 1_000_000_000;
        [self.bytes.into(), budget.burst_bytes.into(), rate]
    }

    pub(crate) fn check(self, lane: Lane) -> Result<(), ProbeError> {
        let bytes = self.bytes;
        if bytes.is_power_of_two() && (MIN_LANE_BYTES..=MAX_LANE_BYTES).contains(&bytes) {
            return Ok(());
        }
        Err(ProbeError::LaneSize { lane, bytes })
    }
}

/// The number of a lane in programs: `enum lane` of `bpf/record.h`.
pub(crate) fn number(lane: Lane) -> usize {
    match lane {
        Lane::Activity => 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_count_seconds_of_their_own() {
        let room = Room { bytes: 1 << 20, budget: Some(CgroupBudget::new(1_000_000_000, 7)) };
        assert_eq!(room.numbers(), [1 << 20, 7, 1 << 30]);
        assert_eq!(Room { budget: None, ..room }.numbers()[1], 1 << 16);
    }

    #[test]
    fn programs_keep_as_many_accounts_as_is_said() {
        assert!(include_str!("../bpf/common.h").contains(&format!("#define BUDGETS {MAX_CGROUP_BUDGETS}\n")));
    }
}

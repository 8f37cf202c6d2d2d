//! The sensor's limits on itself: what it takes, what it gives up for that, and what is said of it.

use std::time::{Duration, Instant};

use sls_core::{Economy, Engine, EventSource, Governor, GovernorLimits, PendingAlert, Retention};
use sls_probe::{OwnCgroup, Probe, resource_usage};

use super::now;
use crate::config::Config;

/// How often it is looked what the sensor takes.
const INTERVAL: Duration = Duration::from_secs(1);

/// How much the engine lets go of between two looks at the ring. It takes less than a millisecond.
const SHRINK_STEPS: usize = 256;

/// How long it waits in between at most.
const SHRINK_PAUSE: Duration = Duration::from_millis(20);

/// The cgroup's `memory.max`, where nobody else has set one: so many times the memory limit. The maps of BPF programs and files that were
/// written count there as well, and who reaches it is killed.
const HARD_LIMIT_FACTOR: u64 = 2;

pub(super) struct Governing {
    governor: Governor,
    looked: Instant,
    shrinking: bool,
    /// Whether what it takes is not known, which is said once.
    blind: bool,
}

impl Governing {
    /// Begins to count.
    pub(super) fn start(config: &Config) -> Self {
        let governor = Governor::new(with_cgroup(config.limits.limits()));
        let mut governing = Self { governor, looked: Instant::now(), shrinking: false, blind: false };
        // What it took to start is no part of what it takes.
        governing.look();
        governing
    }

    /// How long to wait for events at most.
    pub(super) fn pause(&self) -> Duration {
        if self.shrinking { SHRINK_PAUSE } else { INTERVAL }
    }

    /// Keeps the sensor within its limits, if it is time to look.
    pub(super) fn govern(&mut self, probe: &mut Probe, engine: &mut Engine, alert: impl FnOnce(PendingAlert)) {
        if self.shrinking {
            self.shrinking = engine.shrink(SHRINK_STEPS);
        }
        if self.looked.elapsed() < INTERVAL {
            return;
        }
        let Some(economy) = self.look() else { return };
        log(&economy);
        if let Err(error) = probe.shed(economy.shedding) {
            tracing::error!(%error, shedding = %economy.shedding, "the probe cannot shed load");
        }
        engine.retain(economy.retention);
        self.shrinking = economy.retention > Retention::Full;
        alert(engine.report_economy(economy, now()));
    }

    /// How often something else was given up than before.
    pub(super) fn changes(&self) -> u64 {
        self.governor.changes()
    }

    fn look(&mut self) -> Option<Economy> {
        self.looked = Instant::now();
        match resource_usage() {
            Ok(usage) => {
                self.blind = false;
                self.governor.observe(usage)
            }
            Err(error) => {
                if !std::mem::replace(&mut self.blind, true) {
                    tracing::error!(%error, "it is not known what the sensor takes: its limits do not hold");
                }
                None
            }
        }
    }
}

/// The limits in the light of the cgroup that the sensor is in: it acts before the kernel does.
fn with_cgroup(limits: GovernorLimits) -> GovernorLimits {
    let (Some(cgroup), Some(memory)) = (OwnCgroup::find(), limits.memory_bytes) else { return limits };
    match cgroup.set_memory_max(memory.saturating_mul(HARD_LIMIT_FACTOR)) {
        Ok(true) => tracing::info!(cgroup = %cgroup.path().display(), "memory.max is set to twice the memory limit"),
        Ok(false) => {}
        Err(error) => tracing::debug!(%error, "memory.max cannot be set: the sensor keeps its own accounts"),
    }
    let hard = cgroup.memory_max().map_or(u64::MAX, |max| max - max / 8);
    if hard < memory {
        tracing::info!(bytes = hard, "the memory limit is 7/8 of what the cgroup has");
    }
    limits.memory_bytes(Some(memory.min(hard)))
}

fn log(economy: &Economy) {
    if economy.is_none() {
        tracing::info!("within the limits again: {economy}");
    } else if economy.over_limit {
        tracing::error!("over the limits: {economy}");
    } else {
        tracing::warn!("kept within the limits: {economy}");
    }
}

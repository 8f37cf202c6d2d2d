//! What did not fit: every cache, table and queue has a limit, and here is what each limit has cost.

use std::time::{Duration, Instant};

use sls_core::Engine;
use sls_probe::{Accounts, Containers, FanotifyStats, KernelTier, Probe};

use super::alerts::Deliverer;
use super::hold::Holding;

/// How often they are in the log, at the level `debug`.
const INTERVAL: Duration = Duration::from_secs(60);

pub(super) struct Counters {
    logged: Instant,
}

impl Default for Counters {
    fn default() -> Self {
        Self { logged: Instant::now() }
    }
}

/// The names are those in `docs/limits.md`.
macro_rules! log_counters {
    ($level:ident, $engine:expr, $probe:expr, $held:expr, $alerts:expr, $message:literal) => {{
        let engine = $engine.stats();
        let (held, namespaces) = $held;
        let containers = $probe.containers().map(Containers::stats).unwrap_or_default();
        tracing::$level!(
            processes_evicted = engine.processes_evicted,
            left_early = engine.left_early,
            texts_cut = engine.texts_cut,
            forgotten = engine.forgotten,
            pursuits_cut = engine.pursuits_cut,
            held_responses_forgotten = engine.held_responses_forgotten,
            untracked_containers = containers.untracked,
            unasked_containers = containers.unasked,
            unawaited_containers = containers.unawaited,
            accounts_omitted = $probe.accounts().map_or(0, Accounts::omitted),
            tier_files_forgotten = $probe.kernel_tier().map_or(0, KernelTier::files_forgotten),
            tier_directories_unwatched = $probe.kernel_tier().map_or(0, KernelTier::directories_unwatched),
            held_overflowed = held.overflowed,
            marks_failed = held.marks_failed,
            namespaces_dropped = held.namespaces_dropped,
            namespaces_forgotten = held.namespaces_forgotten + namespaces,
            alerts_lost = $alerts,
            $message
        );
    }};
}

impl Counters {
    /// Logs them, if it is time to. Only then are they asked for: some of them need a lock.
    pub(super) fn log(&mut self, engine: &Engine, probe: &Probe, holding: &Holding, alerts: &Deliverer) {
        if self.logged.elapsed() >= INTERVAL {
            self.logged = Instant::now();
            log_counters!(debug, engine, probe, holding.stats(), alerts.lost(), "what did not fit so far");
        }
    }

    /// Logs them for the last time.
    pub(super) fn log_at_end(engine: &Engine, probe: &Probe, held: (FanotifyStats, u64), alerts_lost: u64) {
        log_counters!(info, engine, probe, held, alerts_lost, "what did not fit");
    }
}

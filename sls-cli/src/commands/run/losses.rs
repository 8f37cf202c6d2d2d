//! What did not arrive: it is told, and the table of processes is put right after it.

use std::time::{Duration, Instant};

use sls_core::{Engine, EventSource, Loss, ProcessRepair};

use super::alerts::Deliverer;
use super::now;

/// How often the source is asked.
const INTERVAL: Duration = Duration::from_secs(1);

/// Says what was lost, when it happens and not again and again.
#[derive(Debug)]
pub(super) struct Losses {
    asked: Instant,
    /// Kept for its memory.
    losses: Vec<Loss>,
    /// What the log was told.
    events: u64,
    alerts: u64,
}

impl Default for Losses {
    fn default() -> Self {
        Self { asked: Instant::now(), losses: Vec::new(), events: 0, alerts: 0 }
    }
}

impl Losses {
    /// Asks, if it is time to, and goes on with the repair of what losses have broken.
    pub(super) fn look(&mut self, source: &mut dyn EventSource, engine: &mut Engine, alerts: &Deliverer) {
        if self.asked.elapsed() >= INTERVAL {
            self.asked = Instant::now();
            self.ask(source);
            let time = now();
            if let Some(alert) = engine.report_losses(&self.losses, time) {
                alerts.send(alert);
            }
            match engine.repair(source, time) {
                Ok(Some(repair)) => tell(repair),
                Ok(None) => {}
                Err(error) => tracing::error!(%error, "the processes cannot be gone through again"),
            }
        }
        self.log(engine, alerts);
    }

    /// Tells what is left.
    pub(super) fn finish(&mut self, source: &mut dyn EventSource, engine: &mut Engine, alerts: &Deliverer) {
        self.ask(source);
        let time = now();
        let last = [engine.report_losses(&self.losses, time), engine.flush_losses(time)];
        last.into_iter().flatten().for_each(|alert| alerts.send(alert));
        self.log(engine, alerts);
    }

    fn ask(&mut self, source: &mut dyn EventSource) {
        self.losses.clear();
        if let Err(error) = source.losses(&mut |loss| self.losses.push(loss)) {
            tracing::error!(%error, "it is not known what was lost");
        }
    }

    fn log(&mut self, engine: &Engine, alerts: &Deliverer) {
        let events = engine.stats().lost;
        if events > self.events {
            tracing::error!(
                lost = events - self.events,
                total = events,
                "the kernel's buffer was full: events were lost"
            );
            self.events = events;
        }
        self.log_alerts(alerts.lost());
    }

    /// Tells of alerts that there was no room for, so many in all.
    pub(super) fn log_alerts(&mut self, lost: u64) {
        if lost > self.alerts {
            let new = lost - self.alerts;
            tracing::error!(
                lost = new,
                total = lost,
                "the outputs are too slow: alerts were lost, their actions were not"
            );
            self.alerts = lost;
        }
    }
}

fn tell(repair: ProcessRepair) {
    let ProcessRepair { ended, found, corrected, .. } = repair;
    tracing::info!(ended, found, corrected, "all processes were gone through again, for events were lost");
}

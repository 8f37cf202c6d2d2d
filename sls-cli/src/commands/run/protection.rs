//! The sensor's protection of itself: what it exempts, and what is said of what it refused.

use std::mem;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGUSR1};
use sls_core::{Engine, MAX_CONDITION_ATTEMPTS, PendingAlert, SensorCondition, TamperingAttempt};
use sls_probe::{Probe, SelfProtection, TamperAttempt};

use super::now;
use crate::config::Config;

/// How often it is looked whether something was refused.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// How long refusals gather for one alert, after one that came at once: who tries again and again does not hide the rest.
const ALERT_INTERVAL: Duration = Duration::from_secs(10);

/// The most attempts that are logged one by one each time; the others are counted.
const LOGGED_ATTEMPTS: usize = 8;

/// Reloading, and `sls rearm`, are not for the service manager alone.
pub(super) fn settings(config: &Config) -> SelfProtection {
    let protection = SelfProtection::new().allow_signal(SIGHUP).allow_signal(SIGUSR1);
    config.self_protection_exempt.iter().fold(protection, SelfProtection::allow_program)
}

/// Says what was refused.
#[derive(Debug)]
pub(super) struct Tampering {
    looked: Instant,
    refused: u64,
    alerted: Option<Instant>,
    /// What no alert has told of yet.
    untold: u64,
    attempts: Vec<TamperingAttempt>,
}

impl Default for Tampering {
    fn default() -> Self {
        Self { looked: Instant::now(), refused: 0, alerted: None, untold: 0, attempts: Vec::new() }
    }
}

impl Tampering {
    /// How many attempts were refused since the start.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    /// Looks, if it is time to.
    pub(super) fn report(&mut self, probe: &mut Probe, engine: &mut Engine, alert: impl FnMut(PendingAlert)) {
        if self.looked.elapsed() < REPORT_INTERVAL {
            return;
        }
        self.look(probe);
        if self.alerted.is_none_or(|alerted| alerted.elapsed() >= ALERT_INTERVAL) {
            self.alert(engine, alert);
        }
    }

    /// Tells of what is left.
    pub(super) fn finish(&mut self, probe: &mut Probe, engine: &mut Engine, alert: impl FnMut(PendingAlert)) {
        self.look(probe);
        self.alert(engine, alert);
    }

    fn alert(&mut self, engine: &mut Engine, mut alert: impl FnMut(PendingAlert)) {
        if self.untold == 0 {
            return;
        }
        let (refused, attempts) = (mem::take(&mut self.untold), mem::take(&mut self.attempts));
        self.alerted = Some(Instant::now());
        alert(engine.report_condition(SensorCondition::Tampering { refused, attempts }, now()));
    }

    fn look(&mut self, probe: &mut Probe) {
        self.looked = Instant::now();
        let report = match probe.tampering() {
            Ok(report) => report,
            Err(error) => return tracing::error!(%error, "it is not known who tampers with the sensor"),
        };
        self.refused += report.refused;
        self.untold += report.refused;
        let room = MAX_CONDITION_ATTEMPTS - self.attempts.len();
        self.attempts.extend(report.attempts.iter().take(room).map(TamperingAttempt::from));
        let logged = &report.attempts[..report.attempts.len().min(LOGGED_ATTEMPTS)];
        logged.iter().for_each(log);
        let others = report.refused.saturating_sub(logged.len() as u64);
        if others > 0 {
            tracing::warn!(attempts = others, total = self.refused, "tampering with the sensor was refused more often");
        }
    }
}

fn log(attempt: &TamperAttempt) {
    let TamperAttempt { tampering, pid, uid, name, .. } = attempt;
    let name = name.escape_ascii();
    match pid {
        Some(pid) => tracing::warn!(%tampering, pid, uid, %name, "tampering with the sensor was refused"),
        None => tracing::warn!(%tampering, "tampering with the sensor was refused"),
    }
}

//! The sensor's protection of itself: what it exempts, and what is said of what it refused.

use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGUSR1};
use sls_probe::{Probe, SelfProtection, TamperAttempt};

use crate::config::Config;

/// How often it is looked whether something was refused.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

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
}

impl Default for Tampering {
    fn default() -> Self {
        Self { looked: Instant::now(), refused: 0 }
    }
}

impl Tampering {
    /// How many attempts were refused since the start.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    /// Looks, if it is time to.
    pub(super) fn report(&mut self, probe: &mut Probe) {
        if self.looked.elapsed() >= REPORT_INTERVAL {
            self.report_now(probe);
        }
    }

    pub(super) fn report_now(&mut self, probe: &mut Probe) {
        self.looked = Instant::now();
        let report = match probe.tampering() {
            Ok(report) => report,
            Err(error) => return tracing::error!(%error, "it is not known who tampers with the sensor"),
        };
        self.refused += report.refused;
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

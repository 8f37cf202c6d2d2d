//! The threads between the engine and the outputs. The first waits for the effect of actions, the second writes alerts, so
//! that neither ever delays a response: a slow output holds no pidfd, and a process that will not die no alert of others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::bail;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use sls_core::{Alert, AlertSink, PendingAlert};

use crate::output::Outputs;

/// Alerts whose actions are still to be confirmed; each holds a file descriptor. More are lost, and counted.
const CONFIRMATIONS: usize = 256;

/// Alerts that wait for the outputs; more are lost, and counted.
const ALERTS: usize = 512;

/// How long the outputs may take for what waits when the sensor stops.
const FINISH_TIME: Duration = Duration::from_secs(5);

pub(super) struct Deliverer {
    pending: Sender<Box<PendingAlert>>,
    lost: Arc<AtomicU64>,
    /// How delivery ended, once it has.
    result: Receiver<anyhow::Result<()>>,
}

impl Deliverer {
    /// Starts both threads. If `end_when_unread`, delivery ends when the last output was closed by its reader.
    pub(super) fn start(outputs: Outputs, end_when_unread: bool) -> anyhow::Result<Self> {
        let (pending, to_confirm) = bounded(CONFIRMATIONS);
        let (confirmed, alerts) = bounded(ALERTS);
        let (done, result) = bounded(1);
        let lost = Arc::new(AtomicU64::new(0));
        let lost_there = lost.clone();
        std::thread::Builder::new()
            .name("sls-confirm".into())
            .spawn(move || confirm(&to_confirm, &confirmed, &lost_there))?;
        std::thread::Builder::new().name("sls-outputs".into()).spawn(move || {
            // Nobody may wait for it any more.
            let _ = done.send(deliver(&alerts, outputs, end_when_unread));
        })?;
        Ok(Self { pending, lost, result })
    }

    /// Hands an alert over without ever waiting.
    pub(super) fn send(&self, alert: PendingAlert) {
        if self.pending.try_send(Box::new(alert)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Alerts that there was no room for.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Whether nobody takes alerts any more.
    pub(super) fn ended(&self) -> bool {
        !self.result.is_empty()
    }

    /// Delivers what waits, but does not wait for an output that is stuck.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        drop(self.pending);
        match self.result.recv_timeout(FINISH_TIME) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => bail!("an output is stuck: the last alerts were not delivered"),
            Err(RecvTimeoutError::Disconnected) => bail!("the output thread panicked"),
        }
    }
}

fn confirm(pending: &Receiver<Box<PendingAlert>>, confirmed: &Sender<Box<Alert>>, lost: &AtomicU64) {
    for pending in pending {
        let alert = Box::new(pending.complete());
        if alert.message_type.is_none() {
            tell(&alert);
        } else if confirmed.try_send(alert).is_err() {
            lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Says in the log what a policy did that wants no alert.
fn tell(alert: &Alert) {
    let pid = alert.process_info.as_ref().map(|process| process.pid);
    for notification in alert.notifications.iter().skip(1) {
        tracing::info!(policy = alert.strategy_name, pid, "a policy acted without an alert: {}", notification.message);
    }
}

fn deliver(alerts: &Receiver<Box<Alert>>, mut outputs: Outputs, end_when_unread: bool) -> anyhow::Result<()> {
    for alert in alerts {
        if outputs.is_empty() {
            continue;
        }
        if let Err(error) = outputs.emit(&alert) {
            let error = anyhow::Error::from_boxed(error);
            if outputs.is_empty() && end_when_unread {
                return Err(error);
            }
            tracing::error!("an alert was not delivered: {error:#}");
            if outputs.is_empty() {
                tracing::error!("nobody reads alerts any more; the sensor goes on, for its actions");
            }
        }
    }
    Ok(())
}

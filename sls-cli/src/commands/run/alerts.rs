//! The threads between the engine and the outputs. The first waits for the effect of actions, another writes to standard
//! output, and each other output has its own, so that none ever delays a response: a slow output holds no pidfd, and a process
//! that will not die no alert of others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::bail;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use sls_actions::DeliveryStats;
use sls_core::{Alert, AlertSink, PendingAlert};

use crate::output::{Output, Outputs, StandardOutputs, encode};

/// Alerts whose actions are still to be confirmed; each holds a file descriptor. More are lost, and counted.
const CONFIRMATIONS: usize = 256;

/// Alerts that wait for standard output; more are lost, and counted.
const ALERTS: usize = 512;

/// How long the outputs may take for what waits when the sensor stops.
const FINISH_TIME: Duration = Duration::from_secs(5);

/// How often the state of the outputs is logged, if it changes.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

pub(super) struct Deliverer {
    pending: Sender<Box<PendingAlert>>,
    outputs: Arc<Outputs>,
    lost: Arc<AtomicU64>,
    /// How writing to standard output ended, once it has.
    result: Receiver<anyhow::Result<()>>,
    told: Vec<DeliveryStats>,
    next_report: Instant,
}

impl Deliverer {
    /// Starts the threads. If `end_when_unread`, delivery ends when the last output was closed by its reader.
    pub(super) fn start(mut outputs: Outputs, end_when_unread: bool) -> anyhow::Result<Self> {
        let (pending, to_confirm) = bounded(CONFIRMATIONS);
        let (confirmed, alerts) = bounded(ALERTS);
        let (done, result) = bounded(1);
        let stdout = outputs.stdout.take();
        let told = outputs.deliveries.iter().map(|output| output.delivery.stats()).collect();
        let only_stdout = outputs.deliveries.is_empty();
        let outputs = Arc::new(outputs);
        let lost = Arc::new(AtomicU64::new(0));
        let confirming = Confirming {
            outputs: outputs.clone(),
            stdout: (!stdout.is_empty()).then_some(confirmed),
            lost: lost.clone(),
        };
        std::thread::Builder::new().name("sls-confirm".into()).spawn(move || confirming.run(&to_confirm))?;
        std::thread::Builder::new().name("sls-outputs".into()).spawn(move || {
            let result = write(&alerts, stdout, only_stdout, only_stdout && end_when_unread);
            // Nobody may wait for it any more.
            let _ = done.send(result);
        })?;
        Ok(Self { pending, outputs, lost, result, told, next_report: Instant::now() })
    }

    /// Hands an alert over without ever waiting.
    pub(super) fn send(&self, alert: PendingAlert) {
        if self.pending.try_send(Box::new(alert)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Alerts that there was no room for.
    pub(super) fn lost(&self) -> u64 {
        let lost_by_outputs: u64 = self.outputs.deliveries.iter().map(|output| output.delivery.lost()).sum();
        self.lost.load(Ordering::Relaxed) + lost_by_outputs
    }

    /// Whether nobody takes alerts any more.
    pub(super) fn ended(&self) -> bool {
        self.outputs.deliveries.is_empty() && !self.result.is_empty()
    }

    /// Logs what has become of the outputs, from time to time.
    pub(super) fn report(&mut self) {
        let now = Instant::now();
        if now >= self.next_report {
            self.next_report = now + REPORT_INTERVAL;
            for (output, told) in self.outputs.deliveries.iter().zip(&mut self.told) {
                report(output, told, output.delivery.stats());
            }
        }
    }

    /// Delivers what waits, but does not wait for an output that is stuck. Gives how many alerts were lost in all.
    pub(super) fn finish(self) -> anyhow::Result<u64> {
        let Self { pending, outputs, lost, result, told, .. } = self;
        drop(pending);
        let deadline = Instant::now() + FINISH_TIME;
        let ended = result.recv_timeout(FINISH_TIME);
        // It ends when the last action is confirmed.
        let outputs = loop {
            match Arc::strong_count(&outputs) {
                1 => break Arc::into_inner(outputs),
                _ if Instant::now() >= deadline => break None,
                _ => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let Some(outputs) = outputs else { bail!("an action is stuck: the last alerts were not delivered") };
        let mut lost = lost.load(Ordering::Relaxed);
        let mut undelivered = None;
        for (Output { name, delivery }, told) in outputs.deliveries.into_iter().zip(told) {
            let stats = delivery.finish(deadline.saturating_duration_since(Instant::now()));
            lost += stats.lost;
            report_drops(&name, &told, &stats);
            if let Some(spool) = stats.spool.filter(|spool| spool.waiting > 0) {
                tracing::warn!(output = name, alerts = spool.waiting, "alerts stay in the spool until the next start");
            }
            if stats.in_memory > 0 {
                undelivered = Some(name);
            }
        }
        match ended {
            Ok(result) => result?,
            Err(RecvTimeoutError::Timeout) => bail!("an output is stuck: the last alerts were not delivered"),
            Err(RecvTimeoutError::Disconnected) => bail!("the output thread panicked"),
        }
        match undelivered {
            Some(name) => bail!("the output {name} is stuck: the last alerts were not delivered"),
            None => Ok(lost),
        }
    }
}

/// Says what has changed.
fn report(output: &Output, told: &mut DeliveryStats, stats: DeliveryStats) {
    let name = &output.name;
    match (&told.failure, &stats.failure) {
        (None, Some(error)) => {
            tracing::error!(output = name, error, waiting = stats.waiting(), "the output takes no alerts: they wait");
        }
        (Some(_), None) => {
            tracing::info!(output = name, delivered = stats.delivered, "the output takes alerts again");
        }
        _ => {}
    }
    match (&told.spool_failure, &stats.spool_failure) {
        (None, Some(error)) => {
            tracing::error!(
                output = name,
                error,
                in_memory = stats.in_memory,
                "alerts wait in memory, not in the spool"
            );
        }
        (Some(_), None) => tracing::info!(output = name, "the spool takes alerts again"),
        _ => {}
    }
    report_drops(name, told, &stats);
    *told = stats;
}

fn report_drops(output: &str, told: &DeliveryStats, stats: &DeliveryStats) {
    let (Some(before), Some(now)) = (told.spool, stats.spool) else { return };
    for (reason, before, now) in [
        ("it was full", before.dropped_for_size, now.dropped_for_size),
        ("they were too old", before.dropped_for_age, now.dropped_for_age),
    ] {
        if now > before {
            tracing::error!(
                output,
                dropped = now - before,
                total = now,
                "the spool dropped its oldest alerts: {reason}"
            );
        }
    }
    if now.corrupt > before.corrupt {
        tracing::error!(output, records = now.corrupt - before.corrupt, "records of the spool were corrupt");
    }
}

/// What the first thread has.
struct Confirming {
    outputs: Arc<Outputs>,
    stdout: Option<Sender<Box<Alert>>>,
    lost: Arc<AtomicU64>,
}

impl Confirming {
    fn run(self, pending: &Receiver<Box<PendingAlert>>) {
        let Self { outputs, stdout, lost } = self;
        for pending in pending {
            let alert = Box::new(pending.complete());
            if alert.message_type.is_none() {
                tell(&alert);
            }
            if !outputs.want(&alert) {
                continue;
            }
            if !outputs.deliveries.is_empty() {
                let encoded = Arc::new(encode(&alert));
                outputs.deliveries.iter().for_each(|output| output.delivery.send(encoded.clone()));
            }
            if stdout.as_ref().is_some_and(|stdout| stdout.try_send(alert).is_err()) {
                lost.fetch_add(1, Ordering::Relaxed);
            }
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

/// Writes to standard output. Where that is `only` one, nobody is left if its reader goes.
fn write(
    alerts: &Receiver<Box<Alert>>,
    mut stdout: StandardOutputs,
    only: bool,
    end_when_unread: bool,
) -> anyhow::Result<()> {
    for alert in alerts {
        if stdout.is_empty() {
            continue;
        }
        if let Err(error) = stdout.emit(&alert) {
            let error = anyhow::Error::from_boxed(error);
            if stdout.is_empty() && end_when_unread {
                return Err(error);
            }
            tracing::error!("an alert was not delivered: {error:#}");
            if stdout.is_empty() && only {
                tracing::error!("nobody reads alerts any more; the sensor goes on, for its actions");
            }
        }
    }
    Ok(())
}

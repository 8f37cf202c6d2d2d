//! Delivery of alerts to outputs that can fail: a bounded queue, a disk spool, and retries, on threads of their own.

mod directory;
mod record;
mod spool;
#[cfg(test)]
mod tests;
mod transport;
mod worker;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use sls_core::{AlertTransport, Backoff, EncodedAlert, Uuid};

pub use self::record::{MAX_SPOOLED_ALERT, SpoolRecord, SpoolRecords, read_spool};
pub use self::spool::{
    DEFAULT_SPOOL_AGE, DEFAULT_SPOOL_BYTES, MIN_SPOOL_BYTES, Spool, SpoolError, SpoolLimits, SpoolStats, SpooledAlert,
};
pub use self::transport::{FileTransport, UnixTransport};
use self::worker::{Shared, Spooled, send_all, spool_all};

/// Alerts that may wait in memory for one output, unless told otherwise: twice as many, those on the way to the spool and those
/// that it does not take.
pub const DEFAULT_DELIVERY_QUEUE: usize = 1024;

/// What a [`Delivery`] has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeliveryStats {
    /// Alerts that the output has taken.
    pub delivered: u64,
    /// Times that the output did not take an alert.
    pub failures: u64,
    /// Why it did not the last time; none if it took the last one.
    pub failure: Option<String>,
    /// Alerts that wait in memory, as far as they are not on their way to the spool.
    pub in_memory: u64,
    /// Alerts that were dropped because there was no room in memory.
    pub lost: u64,
    /// Why the spool took no alert the last time; none if it took the last one.
    pub spool_failure: Option<String>,
    /// The spool; none without one.
    pub spool: Option<SpoolStats>,
}

impl DeliveryStats {
    /// Alerts that nobody will get any more.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        let spool = self.spool.unwrap_or_default();
        self.lost + spool.dropped_for_size + spool.dropped_for_age
    }

    /// Alerts that wait.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.in_memory + self.spool.unwrap_or_default().waiting
    }
}

/// Builds a [`Delivery`].
pub struct DeliveryBuilder {
    transport: Box<dyn AlertTransport>,
    name: String,
    spool: Option<Spool>,
    queue: usize,
    backoff: Backoff,
    spooled: Spooled,
}

impl DeliveryBuilder {
    /// Keeps alerts in this spool until they are delivered. What is in it goes first. Without one they wait in memory, and are
    /// gone with the process.
    #[must_use]
    pub fn spool(mut self, spool: Spool) -> Self {
        self.spool = Some(spool);
        self
    }

    /// How many alerts may wait in memory. Default [`DEFAULT_DELIVERY_QUEUE`].
    #[must_use]
    pub fn queue(mut self, alerts: usize) -> Self {
        self.queue = alerts.max(1);
        self
    }

    /// How long to wait after failures. There is no end to the attempts but the spool's limits.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Calls `spooled` for each alert that is in the spool, on the disk, from now on: whatever ends the process, it will be
    /// delivered. It is called on a thread of the delivery.
    #[must_use]
    pub fn on_spooled(mut self, spooled: impl Fn(Uuid) + Send + 'static) -> Self {
        self.spooled = Spooled(Box::new(spooled));
        self
    }

    /// Starts delivering.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(self) -> io::Result<Delivery> {
        let Self { transport, name, spool, queue, backoff, spooled } = self;
        let (sender, receiver) = bounded(queue);
        let (running, ended) = bounded(0);
        let shared = Arc::new(Shared::new(spool, queue));
        let (theirs, token) = (shared.clone(), running.clone());
        std::thread::Builder::new().name(format!("{name}-spool")).spawn(move || {
            spool_all(&theirs, &receiver, &spooled);
            // Before it is known that this has ended: the spool closes with the last of us.
            drop(theirs);
            drop(token);
        })?;
        let theirs = shared.clone();
        std::thread::Builder::new().name(format!("{name}-out")).spawn(move || {
            send_all(&theirs, transport, backoff);
            drop(theirs);
            drop(running);
        })?;
        Ok(Delivery { queue: Some(sender), shared, ended })
    }
}

impl fmt::Debug for DeliveryBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeliveryBuilder")
            .field("transport", &self.transport)
            .field("spool", &self.spool)
            .finish_non_exhaustive()
    }
}

/// Delivers alerts to one output, at least once each and in order, and never makes anyone wait for it.
///
/// An alert goes through a bounded queue into the spool, and from there to the output, which is tried again and again, with
/// exponential back-off and jitter, until it takes it or the spool's limits drop it. Where the spool takes none, as on a full
/// disk, alerts wait in memory until it does. Each output has a delivery of its own, so none holds up others.
///
/// ```
/// use std::time::Duration;
/// use sls_actions::{Delivery, FileTransport, Spool, SpoolLimits};
/// use sls_core::{EncodedAlert, Uuid};
///
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().canonicalize()?;
/// let spool = Spool::open(path.join("spool"), SpoolLimits::default())?;
/// let output = path.join("alerts.json");
/// let delivery = Delivery::builder(FileTransport::new(&output)).spool(spool).start()?;
/// delivery.send(EncodedAlert::new(Uuid::from_u128(7), "{}"));
/// let stats = delivery.finish(Duration::from_secs(60));
/// assert_eq!((stats.delivered, stats.waiting()), (1, 0));
/// assert_eq!(std::fs::read_to_string(output)?, "{}\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Delivery {
    queue: Option<Sender<Arc<EncodedAlert>>>,
    shared: Arc<Shared>,
    /// Closed when both threads have ended.
    ended: Receiver<()>,
}

impl Delivery {
    /// A builder of a delivery through this transport.
    #[must_use]
    pub fn builder(transport: impl AlertTransport + 'static) -> DeliveryBuilder {
        DeliveryBuilder {
            transport: Box::new(transport),
            name: "alerts".into(),
            spool: None,
            queue: DEFAULT_DELIVERY_QUEUE,
            backoff: Backoff::default(),
            spooled: Spooled(Box::new(|_| {})),
        }
    }

    /// Hands an alert over, without ever waiting; if the queue is full, it is lost, and counted.
    pub fn send(&self, alert: impl Into<Arc<EncodedAlert>>) {
        if self.queue.as_ref().is_none_or(|queue| queue.try_send(alert.into()).is_err()) {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many alerts were dropped because there was no room in memory ([`DeliveryStats::lost`]), at the cost of reading a number.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// What it has done. It waits neither for the disk nor for the output.
    #[must_use]
    pub fn stats(&self) -> DeliveryStats {
        self.shared.stats()
    }

    /// Delivers what waits, for at most so long and as long as the output takes it. What it does not take stays in the spool. An
    /// output or a disk that hangs is left to its thread, which keeps the spool until it goes on.
    #[must_use]
    pub fn finish(mut self, longest: Duration) -> DeliveryStats {
        self.end();
        match self.ended.recv_timeout(longest) {
            Ok(()) | Err(RecvTimeoutError::Disconnected | RecvTimeoutError::Timeout) => {}
        }
        self.shared.abandon();
        self.shared.stats()
    }

    fn end(&mut self) {
        self.queue = None;
        self.shared.finish();
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.end();
        self.shared.abandon();
    }
}

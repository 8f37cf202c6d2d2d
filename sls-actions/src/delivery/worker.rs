//! The two threads of a delivery: one brings alerts to the disk, the other from there to the output. Neither waits for the
//! other's device, but for the moment in which the spool itself is at work.

use std::collections::VecDeque;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use sls_core::{AlertTransport, Backoff, BoxError, EncodedAlert, Uuid};

use super::DeliveryStats;
use super::spool::{Spool, SpoolError};

/// The most alerts that are spooled, or sent, before it is noted.
const BATCH: usize = 256;

/// How often the spool is tried again that takes no alerts, and what is too old looked for.
const SPOOL_RETRY: Duration = Duration::from_secs(1);

/// What is called for each alert that is on the disk.
pub(super) struct Spooled(pub(super) Box<dyn Fn(Uuid) + Send>);

impl fmt::Debug for Spooled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Spooled")
    }
}

/// What both threads and the owner share.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// A copy that is never held for long.
    stats: Mutex<DeliveryStats>,
    pub(super) lost: AtomicU64,
}

#[derive(Debug)]
struct State {
    spool: Option<Spool>,
    /// What is in no spool. Newer than what is.
    memory: VecDeque<Arc<EncodedAlert>>,
    most_in_memory: usize,
    /// Alerts from there that are being sent.
    in_flight: usize,
    /// No more alerts come from the first thread.
    spooling_ended: bool,
    /// What cannot be delivered at once is left.
    finishing: bool,
    /// Nobody waits any more.
    abandoned: bool,
}

/// What is to be sent.
enum Batch {
    Spool(Vec<(u64, EncodedAlert)>),
    Memory(VecDeque<Arc<EncodedAlert>>),
}

impl Shared {
    pub(super) fn new(spool: Option<Spool>, most_in_memory: usize) -> Self {
        let stats = DeliveryStats { spool: spool.as_ref().map(Spool::stats), ..DeliveryStats::default() };
        let state = State {
            spool,
            memory: VecDeque::new(),
            most_in_memory,
            in_flight: 0,
            spooling_ended: false,
            finishing: false,
            abandoned: false,
        };
        Self { state: Mutex::new(state), changed: Condvar::new(), stats: Mutex::new(stats), lost: AtomicU64::new(0) }
    }

    pub(super) fn stats(&self) -> DeliveryStats {
        DeliveryStats { lost: self.lost.load(Ordering::Relaxed), ..lock(&self.stats).clone() }
    }

    /// The flags are set by a thread of its own if the disk is at work: nobody may have to wait for it.
    pub(super) fn finish(self: &Arc<Self>) {
        self.set(|state| state.finishing = true);
    }

    pub(super) fn abandon(self: &Arc<Self>) {
        self.set(|state| (state.finishing, state.abandoned) = (true, true));
    }

    fn set(self: &Arc<Self>, set: impl FnOnce(&mut State) + Send + 'static) {
        let shared = self.clone();
        match self.state.try_lock() {
            Ok(mut state) => set(&mut state),
            Err(_) => {
                // Without a thread it ends when there is nothing left to do.
                let _ = std::thread::Builder::new().spawn(move || {
                    set(&mut lock(&shared.state));
                    shared.changed.notify_all();
                });
            }
        }
        self.changed.notify_all();
    }

    /// Shows others what has changed.
    fn tell(&self, state: &State, change: impl FnOnce(&mut DeliveryStats)) {
        let mut stats = lock(&self.stats);
        stats.in_memory = (state.memory.len() + state.in_flight) as u64;
        stats.spool = state.spool.as_ref().map(Spool::stats);
        change(&mut stats);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The first thread: brings alerts to the disk.
pub(super) fn spool_all(shared: &Shared, queue: &Receiver<Arc<EncodedAlert>>, spooled: &Spooled) {
    let mut uuids = Vec::new();
    loop {
        let first = queue.recv_timeout(SPOOL_RETRY);
        let ended = matches!(first, Err(RecvTimeoutError::Disconnected));
        let mut state = lock(&shared.state);
        // What came while the other thread was at the spool goes with it, in one write.
        state.memory.extend(first.into_iter().chain(queue.try_iter().take(BATCH - 1)));
        let failure = state.fill_spool(&mut uuids);
        let surplus = state.memory.len().saturating_sub(state.most_in_memory);
        state.memory.drain(..surplus);
        shared.lost.fetch_add(surplus as u64, Ordering::Relaxed);
        state.spooling_ended = ended;
        shared.tell(&state, |stats| stats.spool_failure = failure);
        drop(state);
        shared.changed.notify_all();
        uuids.drain(..).for_each(&spooled.0);
        if ended {
            return;
        }
    }
}

impl State {
    /// Brings what is in memory into the spool, if there is one, and tells why it could not.
    fn fill_spool(&mut self, uuids: &mut Vec<Uuid>) -> Option<String> {
        let Self { spool: Some(spool), memory, .. } = self else { return None };
        spool.expire();
        let mut too_long = 0;
        while memory.len() > too_long {
            memory.make_contiguous();
            let rest = &memory.as_slices().0[too_long..];
            match spool.append(rest) {
                Ok(count) => uuids.extend(memory.drain(too_long..too_long + count).map(|alert| alert.uuid)),
                // It waits in memory, and holds up no other.
                Err(SpoolError::TooLong { .. }) => too_long += 1,
                Err(error) => return Some(error.to_string()),
            }
        }
        None
    }

    fn next_batch(&mut self) -> Result<Option<Batch>, BoxError> {
        if let Some(spool) = &mut self.spool {
            let alerts = spool.read(BATCH)?;
            if !alerts.is_empty() {
                return Ok(Some(Batch::Spool(
                    alerts.into_iter().map(|spooled| (spooled.number, spooled.alert)).collect(),
                )));
            }
        }
        let count = self.memory.len().min(BATCH);
        let batch: VecDeque<_> = self.memory.drain(..count).collect();
        self.in_flight = count;
        Ok((count > 0).then_some(Batch::Memory(batch)))
    }
}

/// The second thread: brings alerts to the output.
pub(super) fn send_all(shared: &Shared, mut transport: Box<dyn AlertTransport>, backoff: Backoff) {
    let mut failures = 0;
    let random = RandomState::new();
    loop {
        let mut state = lock(&shared.state);
        let batch = loop {
            if state.abandoned {
                return;
            }
            match state.next_batch() {
                Ok(Some(batch)) => break Ok(batch),
                Err(error) => break Err(error),
                Ok(None) if state.spooling_ended => return,
                Ok(None) => state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        };
        let was_finishing = state.finishing;
        drop(state);
        let failure = batch.and_then(|batch| send(shared, &mut *transport, batch)).err().map(|error| describe(&*error));
        let failed = failure.is_some();
        failures = if failed { failures + 1 } else { 0 };
        let mut stats = lock(&shared.stats);
        stats.failures += u64::from(failed);
        stats.failure = failure;
        drop(stats);
        if failed {
            // Once more when the end is near, and not again.
            if was_finishing {
                return;
            }
            pause(shared, backoff.delay(failures, random.hash_one(failures)));
        }
    }
}

fn pause(shared: &Shared, delay: Duration) {
    let end = Instant::now() + delay;
    let mut state = lock(&shared.state);
    while !state.finishing {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        state = shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
    }
}

/// Sends a batch as far as it goes.
fn send(shared: &Shared, transport: &mut dyn AlertTransport, batch: Batch) -> Result<(), BoxError> {
    match batch {
        Batch::Spool(alerts) => {
            let (count, sent) = send_each(transport, alerts.iter().map(|(_, alert)| alert));
            let mut state = lock(&shared.state);
            let noted = match (count.checked_sub(1).map(|last| alerts[last].0), &mut state.spool) {
                (Some(number), Some(spool)) => spool.delivered(number).err().map(|error| error.to_string()),
                _ => None,
            };
            shared.tell(&state, |stats| {
                stats.delivered += count as u64;
                if noted.is_some() {
                    stats.spool_failure = noted;
                }
            });
            sent
        }
        Batch::Memory(mut alerts) => {
            let (count, sent) = send_each(transport, alerts.iter().map(|alert| &**alert));
            alerts.drain(..count);
            let mut state = lock(&shared.state);
            state.in_flight = 0;
            while let Some(alert) = alerts.pop_back() {
                state.memory.push_front(alert);
            }
            shared.tell(&state, |stats| stats.delivered += count as u64);
            sent
        }
    }
}

/// Sends one after the other, and tells how many have arrived.
fn send_each<'a>(
    transport: &mut dyn AlertTransport,
    alerts: impl Iterator<Item = &'a EncodedAlert>,
) -> (usize, Result<(), BoxError>) {
    let mut count = 0;
    let mut sent = Ok(());
    for alert in alerts {
        sent = transport.send(alert);
        if sent.is_err() {
            break;
        }
        count += 1;
    }
    match transport.flush() {
        Ok(()) => (count, sent),
        Err(error) => (0, sent.and(Err(error))),
    }
}

/// An error with its causes, in one line.
fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

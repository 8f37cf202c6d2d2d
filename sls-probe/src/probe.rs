//! The attached probe: an event source.

use std::fs;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use libbpf_rs::{Link, MapCore, MapFlags, MapHandle, Object, RingBuffer, RingBufferBuilder};
use nix::errno::Errno;
use sls_core::{BoxError, Event, EventKind, EventSource, FieldSet, ProcessKey, SourceStatus};

use crate::accounts::Accounts;
use crate::budget::WakeBudget;
use crate::builder::ProbeBuilder;
use crate::clock::BootTime;
use crate::error::ProbeError;
use crate::loader::{DOZING, LOST, LoadedProbe, RING, program_of, watches};
use crate::record;
use crate::snapshot::Snapshot;

/// How long the reader leaves the ring alone while events come too fast for wake-ups.
const NAP: Duration = Duration::from_millis(2);

/// How often clocks, accounts and the kernel's own counters are looked at.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);

/// Records taken out of the ring at once. It bounds the reader's memory, and how long a record keeps its place.
const BATCH_BYTES: usize = 256 * 1024;

/// Longest single wait in the kernel. A full ring has no room for a bell either: whatever may go wrong with wake-ups, the
/// reader looks for itself that often.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// What the ring's callback returns when the batch is full. The record that it got is in the batch.
const BATCH_FULL: i32 = -(Errno::ECANCELED as i32);

const INTERRUPTED: i32 = -(Errno::EINTR as i32);

/// Kinds of which records can be lost, in the order of `enum record_kind`.
const LOSSY: [EventKind; 3] = [EventKind::Exec, EventKind::Fork, EventKind::Exit];

/// Watches the kernel for executions, new processes and ends of processes.
///
/// Dropping it detaches everything. It can be moved to another thread, and is polled by one at a time.
#[derive(Debug)]
pub struct Probe {
    settings: ProbeBuilder,
    // Dropped before the object: no record comes any more.
    _links: Vec<Link>,
    snapshot: Option<Snapshot>,
    ring: RingBuffer<'static>,
    batch: Arc<Mutex<Batch>>,
    spare: Batch,
    dozing: MapHandle,
    losses: Losses,
    /// Needed where several threads can each report the end of their process.
    ended: Option<Ended>,
    budget: WakeBudget,
    clock: BootTime,
    accounts: Option<Accounts>,
    event: Event,
    refreshed: Instant,
    _object: Object,
}

/// Records that were copied out of the ring, one behind the other.
#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Probe {
    /// The way to a probe.
    pub fn builder() -> ProbeBuilder {
        ProbeBuilder::default()
    }

    pub(crate) fn new(loaded: LoadedProbe) -> Result<Self, ProbeError> {
        let batch = Arc::new(Mutex::new(Batch::default()));
        let ring_error = |source| ProbeError::Ring { source };
        let mut rings = RingBufferBuilder::new();
        let map = loaded.map(RING)?;
        let filled = Arc::clone(&batch);
        rings.add(&map, move |bytes| lock(&filled).push(bytes)).map_err(ring_error)?;
        let ring = rings.build().map_err(ring_error)?;
        let losses = Losses::new(&loaded)?;
        let dozing = loaded.map(DOZING)?;
        // Everything is ready before the first record can come.
        let (links, snapshot) = loaded.links()?;
        let snapshot = snapshot.map(Snapshot::start).transpose();
        let snapshot = snapshot.map_err(|source| ProbeError::Attach { program: "on_task", source })?;
        let LoadedProbe { settings, object, exact_exits } = loaded;
        let now = Instant::now();
        Ok(Self {
            _links: links,
            snapshot,
            ring,
            batch,
            spare: Batch::default(),
            dozing,
            losses,
            ended: (!exact_exits).then(Ended::default),
            budget: WakeBudget::new(settings.wakes_per_second, settings.wake_burst, now),
            clock: BootTime::measure(),
            accounts: settings.account_names.then(Accounts::host),
            event: Event::new(EventKind::Exec),
            refreshed: now,
            settings,
            _object: object,
        })
    }

    /// How many events of `kind` were lost since the probe was attached: the ring was full, or the kernel did not run
    /// the program because it was already running on the same CPU. The same losses are in [`Event::lost`] of the next
    /// event of the kind.
    ///
    /// # Errors
    /// When the kernel's counter cannot be read.
    pub fn lost(&self, kind: EventKind) -> Result<u64, ProbeError> {
        match LOSSY.iter().position(|lossy| *lossy == kind) {
            Some(index) => Ok(self.losses.in_ring(index)? + self.losses.not_run(index)),
            None => Ok(0),
        }
    }

    /// The accounts that names are looked up in, if they are.
    #[must_use]
    pub fn accounts(&self) -> Option<&Accounts> {
        self.accounts.as_ref()
    }

    /// Hands over what is in the ring, and returns how many events that was. Stops at `deadline` if more keeps coming.
    fn drain(&mut self, deadline: Option<Instant>, handle: &mut dyn FnMut(&mut Event)) -> Result<usize, ProbeError> {
        let mut count = 0;
        loop {
            let result = self.ring.consume_raw();
            count += self.deliver(handle);
            match result {
                BATCH_FULL if deadline.is_none_or(|deadline| Instant::now() < deadline) => {}
                BATCH_FULL | 0.. => return Ok(count),
                error => return Err(ring_error(error)),
            }
        }
    }

    /// Sleeps until the kernel rings, and takes what is there. Tells how many events that was, and whether a signal came.
    fn doze(&mut self, timeout: Duration, handle: &mut dyn FnMut(&mut Event)) -> Result<(usize, bool), ProbeError> {
        match self.ring.poll_raw(timeout.min(LONGEST_WAIT)) {
            result @ (BATCH_FULL | INTERRUPTED | 0..) => Ok((self.deliver(handle), result == INTERRUPTED)),
            error => Err(ring_error(error)),
        }
    }

    /// Decodes the batch.
    fn deliver(&mut self, handle: &mut dyn FnMut(&mut Event)) -> usize {
        // The callback must find the lock free whatever the handler does.
        let mut batch = mem::replace(&mut *lock(&self.batch), mem::take(&mut self.spare));
        let mut start = 0;
        let mut count = 0;
        for end in batch.ends.drain(..) {
            let bytes = &batch.bytes[start..end];
            start = end;
            match record::decode(bytes, &mut self.event) {
                Ok(()) if self.ended.as_mut().is_some_and(|ended| ended.again(&self.event)) => {}
                Ok(()) => {
                    self.event.lost = self.losses.before(&self.event);
                    self.event.time = self.clock.to_epoch(self.event.time);
                    if let Some(accounts) = &self.accounts {
                        accounts.fill(&mut self.event);
                    }
                    handle(&mut self.event);
                    count += 1;
                }
                // Object and decoder are built together, so this is a bug; the other records are still good.
                Err(error) => tracing::error!(%error, "the kernel sent a record that cannot be decoded"),
            }
        }
        batch.bytes.clear();
        self.spare = batch;
        count
    }

    fn deliver_snapshot(
        &mut self,
        deadline: Option<Instant>,
        handle: &mut dyn FnMut(&mut Event),
    ) -> Result<usize, ProbeError> {
        let Some(mut snapshot) = self.snapshot.take() else { return Ok(0) };
        let mut count = 0;
        let (clock, accounts) = (self.clock, self.accounts.as_ref());
        let mut finish = |event: &mut Event| {
            event.time = clock.to_epoch(event.time);
            if let Some(accounts) = accounts {
                accounts.fill(event);
            }
            handle(event);
            count += 1;
        };
        loop {
            let more = snapshot.step(&mut self.event, &mut finish).map_err(|source| ProbeError::Snapshot { source })?;
            if !more {
                return Ok(count);
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                self.snapshot = Some(snapshot);
                return Ok(count);
            }
        }
    }

    fn set_dozing(&self) -> Result<(), ProbeError> {
        let (key, value) = (0_u32.to_ne_bytes(), 1_u32.to_ne_bytes());
        self.dozing.update(&key, &value, MapFlags::ANY).map_err(|source| ProbeError::Map { map: DOZING, source })
    }

    fn refresh(&mut self, now: Instant) {
        if now.saturating_duration_since(self.refreshed) < REFRESH_INTERVAL {
            return;
        }
        self.refreshed = now;
        self.clock = BootTime::measure();
        self.losses.refresh();
        if let Some(accounts) = &mut self.accounts {
            accounts.refresh();
        }
    }

    fn poll_events(&mut self, timeout: Duration, handle: &mut dyn FnMut(&mut Event)) -> Result<(), ProbeError> {
        let now = Instant::now();
        let deadline = now.checked_add(timeout);
        self.refresh(now);
        if self.snapshot.is_some() {
            let count = self.deliver_snapshot(deadline, handle)?;
            // Nothing that happened meanwhile comes before what was there first.
            if count > 0 || self.snapshot.is_some() {
                return Ok(());
            }
        }
        loop {
            if self.drain(deadline, handle)? > 0 {
                self.budget.spend(Instant::now());
                return Ok(());
            }
            let now = Instant::now();
            self.refresh(now);
            let left = deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(now));
            if left.is_zero() {
                return Ok(());
            }
            // The kernel waits in whole milliseconds.
            if left < Duration::from_millis(1) || !self.budget.allows(now) {
                thread::sleep(left.min(NAP));
                continue;
            }
            self.set_dozing()?;
            // What was committed before the flag was set rang no bell.
            let (mut count, mut interrupted) = (self.drain(deadline, handle)?, false);
            if count == 0 {
                (count, interrupted) = self.doze(left, handle)?;
            }
            if count > 0 {
                self.budget.spend(Instant::now());
            }
            // The handler of a signal may have told the caller to stop.
            if count > 0 || interrupted {
                return Ok(());
            }
        }
    }
}

impl EventSource for Probe {
    fn poll(&mut self, timeout: Duration, handle: &mut dyn FnMut(&mut Event)) -> Result<SourceStatus, BoxError> {
        self.poll_events(timeout, handle)?;
        Ok(SourceStatus::Open)
    }

    fn provides(&self, kind: EventKind) -> FieldSet {
        self.settings.provides(kind)
    }
}

impl Batch {
    /// Takes one record. A negative answer stops libbpf, after this record.
    fn push(&mut self, bytes: &[u8]) -> i32 {
        self.bytes.extend_from_slice(bytes);
        self.ends.push(self.bytes.len());
        if self.bytes.len() >= BATCH_BYTES { BATCH_FULL } else { 0 }
    }
}

/// Nothing panics with the lock held, and a batch is whole after each record anyway.
fn lock(batch: &Mutex<Batch>) -> MutexGuard<'_, Batch> {
    batch.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ring_error(code: i32) -> ProbeError {
    ProbeError::Ring { source: libbpf_rs::Error::from_raw_os_error(-code) }
}

/// How many ends are remembered. Those of one process follow each other as closely as its threads end.
const ENDED: usize = 64;

/// The processes that ended last, so that none ends twice.
#[derive(Debug)]
struct Ended {
    processes: [ProcessKey; ENDED],
    next: usize,
}

impl Default for Ended {
    fn default() -> Self {
        Self { processes: [ProcessKey::default(); ENDED], next: 0 }
    }
}

impl Ended {
    /// Whether `event` says what another has said.
    fn again(&mut self, event: &Event) -> bool {
        if event.kind != EventKind::Exit {
            return false;
        }
        if self.processes.contains(&event.process) {
            return true;
        }
        self.processes[self.next] = event.process;
        self.next = (self.next + 1) % ENDED;
        false
    }
}

/// Counts what did not arrive.
#[derive(Debug)]
struct Losses {
    counters: MapHandle,
    /// The programs of [`LOSSY`], to ask the kernel how often it did not run them.
    programs: [Option<OwnedFd>; 3],
    /// What was told of the ring's losses.
    told: [u64; 3],
    /// What was told or will be told of the times that a program was not run.
    misses: [u64; 3],
    untold_misses: [u64; 3],
}

impl Losses {
    fn new(loaded: &LoadedProbe) -> Result<Self, ProbeError> {
        let mut programs = [None, None, None];
        for (slot, kind) in programs.iter_mut().zip(LOSSY) {
            let found =
                loaded.object.progs().find(|program| program_of(kind).is_some_and(|name| program.name() == name));
            let fd =
                found.filter(|_| watches(&loaded.settings, kind)).map(|program| program.as_fd().try_clone_to_owned());
            *slot = fd.transpose().map_err(|error| ProbeError::Ring { source: error.into() })?;
        }
        Ok(Self { counters: loaded.map(LOST)?, programs, told: [0; 3], misses: [0; 3], untold_misses: [0; 3] })
    }

    /// What was lost just before `event`, whose `lost` is the kernel's count.
    fn before(&mut self, event: &Event) -> u64 {
        let Some(index) = LOSSY.iter().position(|kind| *kind == event.kind) else { return 0 };
        // Records of different CPUs can overtake each other: the count never goes back.
        let lost = event.lost.saturating_sub(self.told[index]);
        self.told[index] += lost;
        lost + mem::take(&mut self.untold_misses[index])
    }

    fn refresh(&mut self) {
        for index in 0..LOSSY.len() {
            let misses = self.not_run(index);
            self.untold_misses[index] += misses.saturating_sub(self.misses[index]);
            self.misses[index] = misses;
        }
    }

    fn in_ring(&self, index: usize) -> Result<u64, ProbeError> {
        let value = self.counters.lookup(&(index as u32).to_ne_bytes(), MapFlags::ANY);
        let value = value.map_err(|source| ProbeError::Map { map: LOST, source })?;
        let bytes = value.and_then(|value| value.try_into().ok());
        Ok(bytes.map_or(0, u64::from_ne_bytes))
    }

    /// `recursion_misses`, which Linux tells since 5.12.
    fn not_run(&self, index: usize) -> u64 {
        let Some(program) = &self.programs[index] else { return 0 };
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd())).unwrap_or_default();
        let count = info.lines().find_map(|line| line.strip_prefix("recursion_misses:"));
        count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::builder::MIN_RING_BYTES;

    /// These need root.
    fn probe(ring_bytes: u32) -> Probe {
        Probe::builder().snapshot(false).ring_bytes(ring_bytes).load().unwrap().attach().unwrap()
    }

    fn run_true() -> u32 {
        let mut child = Command::new("/bin/true").spawn().unwrap();
        child.wait().unwrap();
        child.id()
    }

    fn flag(map: &MapHandle) -> Vec<u8> {
        map.lookup(&0_u32.to_ne_bytes(), MapFlags::ANY).unwrap().unwrap()
    }

    #[test]
    fn a_bell_that_could_not_ring_is_not_taken_for_rung() {
        let mut probe = probe(MIN_RING_BYTES);
        // Until there is room for nothing, not even for bells, which are smaller than any record.
        for _ in 0..2000 {
            probe.set_dozing().unwrap();
            run_true();
        }
        assert_eq!(flag(&probe.dozing), 1_u32.to_ne_bytes(), "the reader sleeps, and nobody will try again");
        let mut count = 0;
        probe.poll(Duration::ZERO, &mut |_| count += 1).unwrap();
        assert!(count > 0);
    }

    #[test]
    fn a_lost_bell_blinds_nobody() {
        let mut probe = probe(1 << 20);
        let map = MapHandle::try_from(&probe.dozing).unwrap();
        let start = Instant::now();
        let child = thread::spawn(move || {
            // Once it sleeps, the bell is taken away.
            while flag(&map) != 1_u32.to_ne_bytes() {
                thread::sleep(Duration::from_millis(1));
            }
            thread::sleep(Duration::from_millis(20));
            let (key, value) = (0_u32.to_ne_bytes(), 0_u32.to_ne_bytes());
            map.update(&key, &value, MapFlags::ANY).unwrap();
            run_true()
        });
        let mut child = Some(child);
        let mut pid = 0;
        let mut seen = Vec::new();
        // Whatever else runs on this machine may end a poll early.
        let after = loop {
            let take = &mut |event: &mut Event| {
                if event.kind == EventKind::Exec {
                    seen.push((event.process.pid, start.elapsed()));
                }
            };
            probe.poll(Duration::from_secs(30), take).unwrap();
            if let Some(ended) = child.take_if(|child| child.is_finished()) {
                pid = ended.join().unwrap();
            }
            if let Some((_, after)) = seen.iter().find(|(seen, _)| *seen == pid) {
                break *after;
            }
        };
        assert!(after < Duration::from_secs(10), "{after:?}");
    }
}

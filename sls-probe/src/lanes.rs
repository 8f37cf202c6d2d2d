//! The ways from the kernel to the reader: a ring each, read in turn and merged.
//!
//! Each lane comes in the order in which records were finished. What an activity presupposes (the process, the program that it
//! executes) was in the other lane before the activity was recorded, and the record of the activity says how far that lane was
//! filled then: it waits until that much has been read. So no event comes before those that it follows from. What was copied
//! out of a ring waits here, and is not lost. The other way round, of what has been read the older comes first, and activities
//! are read last: an execution comes after what its process did before, but it does not wait for a backlog of activities.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use libbpf_rs::{MapHandle, RingBuffer, RingBufferBuilder};
use nix::errno::Errno;
use sls_core::{EventKind, Lane};

use crate::error::ProbeError;

/// Records of processes that are taken out of their ring at once. It bounds the reader's memory.
const PROCESS_BATCH_BYTES: usize = 256 * 1024;

/// The same of activities. An execution waits for no more of them than that.
const ACTIVITY_BATCH_BYTES: usize = 64 * 1024;

/// How long an activity waits for what it follows: the program that records that can have been preempted. It does not wait for
/// ever.
const LONGEST_HOLD: Duration = Duration::from_millis(100);

/// What the ring's callback returns when the batch is full. The record that it got is in the batch.
const BATCH_FULL: i32 = -(Errno::ECANCELED as i32);

/// Bytes of a ring before each record.
const RING_HEADER_BYTES: usize = 8;

/// Where a record has its time.
const TIME_AT: usize = 8;

/// Where the record of an activity says how far the other lane was filled.
const POSITION_AT: usize = 40;

/// The kinds whose records do not go by the lane of processes, unless the kernel has decided about what they tell
/// (`ACTIVITY_KINDS` in `bpf/record.h`).
const ACTIVITY_KINDS: [EventKind; 7] = [
    EventKind::File,
    EventKind::Connect,
    EventKind::Accept,
    EventKind::Listen,
    EventKind::Memory,
    EventKind::Userfaultfd,
    EventKind::Probe,
];

/// The lane of events of `kind`.
pub(crate) fn lane_of(kind: EventKind) -> Lane {
    if ACTIVITY_KINDS.contains(&kind) { Lane::Activity } else { Lane::Process }
}

/// Both lanes.
#[derive(Debug)]
pub(crate) struct Lanes {
    process: LaneReader,
    activity: LaneReader,
    /// Since when the oldest activity waits for what it follows.
    held_since: Option<Instant>,
}

impl Lanes {
    pub(crate) fn new(process: &MapHandle, activity: &MapHandle) -> Result<Self, ProbeError> {
        Ok(Self {
            process: LaneReader::new(process, PROCESS_BATCH_BYTES)?,
            activity: LaneReader::new(activity, ACTIVITY_BATCH_BYTES)?,
            held_since: None,
        })
    }

    /// Takes records out of both rings. Returns whether there may be more.
    pub(crate) fn read(&mut self) -> Result<bool, ProbeError> {
        // Activities afterwards, so that what went before the end or the next program of a process is read with it. What they
        // follow themselves, they wait for.
        let more = self.process.read()?;
        Ok(self.activity.read()? || more)
    }

    /// Whether an activity waits for what it follows.
    pub(crate) fn is_holding(&self) -> bool {
        !self.activity.taken.is_empty()
    }

    /// Takes the records that have been read, to be put back with what is left.
    pub(crate) fn take(&mut self) -> Merge {
        Merge {
            process: mem::take(&mut self.process.taken),
            activity: mem::take(&mut self.activity.taken),
            read_to: self.process.position,
            overdue: self.held_since.is_some_and(|since| since.elapsed() >= LONGEST_HOLD),
        }
    }

    /// Puts back what [`Merge::next`] held.
    pub(crate) fn put_back(&mut self, merge: Merge) {
        self.process.taken = merge.process;
        self.activity.taken = merge.activity;
        self.held_since = match self.held_since {
            _ if self.activity.taken.is_empty() => None,
            Some(since) if !merge.overdue => Some(since),
            _ => Some(Instant::now()),
        };
    }
}

/// What was read of both lanes.
#[derive(Debug)]
pub(crate) struct Merge {
    process: Batch,
    activity: Batch,
    /// How far the lane of processes has been read.
    read_to: u64,
    overdue: bool,
}

impl Merge {
    /// The next record, as far as it need not wait.
    pub(crate) fn next(&mut self) -> Option<&[u8]> {
        let time = |record: &[u8]| number_at(record, TIME_AT);
        let may_come = |record: &&[u8]| self.overdue || number_at(record, POSITION_AT) <= self.read_to;
        let activity = self.activity.front().filter(may_come);
        match (self.process.front(), activity) {
            (Some(process), Some(activity)) if time(activity) < time(process) => self.activity.pop(),
            (None, Some(_)) => self.activity.pop(),
            (process, _) => {
                process?;
                self.process.pop()
            }
        }
    }
}

/// The ring of a lane, and what was read of it.
#[derive(Debug)]
struct LaneReader {
    ring: RingBuffer<'static>,
    /// Where the ring's callback puts records.
    filled: Arc<Mutex<Batch>>,
    batch_bytes: usize,
    taken: Batch,
    /// Bytes that were read since the start, as the kernel counts them.
    position: u64,
}

impl LaneReader {
    fn new(map: &MapHandle, batch_bytes: usize) -> Result<Self, ProbeError> {
        let error = |source| ProbeError::Ring { source };
        let filled = Arc::new(Mutex::new(Batch::default()));
        let callback = Arc::clone(&filled);
        let mut rings = RingBufferBuilder::new();
        rings.add(map, move |bytes| lock(&callback).push(bytes, batch_bytes)).map_err(error)?;
        let ring = rings.build().map_err(error)?;
        Ok(Self { ring, filled, batch_bytes, taken: Batch::default(), position: 0 })
    }

    /// Copies records out of the ring, behind those that wait. Returns whether there may be more.
    fn read(&mut self) -> Result<bool, ProbeError> {
        self.taken.forget_given();
        if self.taken.bytes.len() >= self.batch_bytes {
            return Ok(true);
        }
        mem::swap(&mut *lock(&self.filled), &mut self.taken);
        let result = self.ring.consume_raw();
        mem::swap(&mut *lock(&self.filled), &mut self.taken);
        self.position += mem::take(&mut self.taken.ring_bytes);
        match result {
            0.. => Ok(false),
            BATCH_FULL => Ok(true),
            code => Err(ProbeError::Ring { source: libbpf_rs::Error::from_raw_os_error(-code) }),
        }
    }
}

/// Records that were copied out of a ring, one behind the other.
#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    /// How many were given.
    given: usize,
    /// What they took in the ring.
    ring_bytes: u64,
}

impl Batch {
    /// Takes one record. A negative answer stops libbpf, after this record.
    fn push(&mut self, record: &[u8], limit: usize) -> i32 {
        self.bytes.extend_from_slice(record);
        self.ends.push(self.bytes.len());
        self.ring_bytes += (record.len() + RING_HEADER_BYTES).next_multiple_of(8) as u64;
        if self.bytes.len() >= limit { BATCH_FULL } else { 0 }
    }

    fn is_empty(&self) -> bool {
        self.given == self.ends.len()
    }

    fn front(&self) -> Option<&[u8]> {
        let end = *self.ends.get(self.given)?;
        let start = self.given.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        self.bytes.get(start..end)
    }

    fn pop(&mut self) -> Option<&[u8]> {
        self.given += 1;
        let end = *self.ends.get(self.given - 1)?;
        let start = self.given.checked_sub(2).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        self.bytes.get(start..end)
    }

    /// Moves what was not given yet to the front.
    fn forget_given(&mut self) {
        let Some(last) = self.given.checked_sub(1) else { return };
        let start = self.ends.get(last).copied().unwrap_or(self.bytes.len());
        self.bytes.drain(..start);
        self.ends.drain(..self.given);
        self.ends.iter_mut().for_each(|end| *end -= start);
        self.given = 0;
    }
}

/// A number of a record. What is shorter than a header has none; decoding it will tell.
fn number_at(record: &[u8], at: usize) -> u64 {
    record.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Nothing panics with the lock held, and a batch is whole after each record anyway.
fn lock(batch: &Mutex<Batch>) -> MutexGuard<'_, Batch> {
    batch.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::KINDS;

    /// A record that has nothing but a time and a position.
    fn record(time: u64, position: u64) -> Vec<u8> {
        let mut record = vec![0; 48];
        record[TIME_AT..TIME_AT + 8].copy_from_slice(&time.to_le_bytes());
        record[POSITION_AT..].copy_from_slice(&position.to_le_bytes());
        record
    }

    fn batch(records: &[(u64, u64)]) -> Batch {
        let mut batch = Batch::default();
        for (time, position) in records {
            batch.push(&record(*time, *position), usize::MAX);
        }
        batch
    }

    fn times(merge: &mut Merge) -> Vec<u64> {
        std::iter::from_fn(|| merge.next().map(|record| number_at(record, TIME_AT))).collect()
    }

    #[test]
    fn older_records_come_first_and_processes_before_what_they_do_at_the_same_time() {
        let (process, activity) = (batch(&[(1, 0), (5, 0), (9, 0)]), batch(&[(1, 0), (4, 0), (6, 0), (7, 0)]));
        let mut merge = Merge { process, activity, read_to: 0, overdue: false };
        assert_eq!(times(&mut merge), [1, 1, 4, 5, 6, 7, 9]);
        assert!(merge.process.is_empty() && merge.activity.is_empty());
    }

    #[test]
    fn activities_wait_for_what_they_follow_and_processes_for_nothing() {
        let (process, activity) = (batch(&[(1, 0), (8, 0)]), batch(&[(2, 100), (3, 101), (4, 100)]));
        let mut merge = Merge { process, activity, read_to: 100, overdue: false };
        assert_eq!(times(&mut merge), [1, 2, 8]);
        merge.read_to = 101;
        assert_eq!(times(&mut merge), [3, 4]);
    }

    #[test]
    fn no_activity_waits_for_ever() {
        let mut merge = Merge { process: batch(&[]), activity: batch(&[(2, 100)]), read_to: 0, overdue: false };
        assert!(times(&mut merge).is_empty());
        merge.overdue = true;
        assert_eq!(times(&mut merge), [2]);
    }

    #[test]
    fn programs_and_reader_agree_on_the_lane_of_each_kind() {
        let source = include_str!("../bpf/record.h");
        let (_, mask) = source.split_once("#define ACTIVITY_KINDS").unwrap();
        let (mask, _) = mask.split_once(")\n").unwrap();
        let mut in_programs: Vec<&str> =
            mask.split("RECORD_").skip(1).map(|rest| rest.split(' ').next().unwrap()).collect();
        let name = |kind: &EventKind| kind.name().to_uppercase();
        let mut in_reader: Vec<String> = ACTIVITY_KINDS.iter().map(name).collect();
        in_programs.sort_unstable();
        in_reader.sort_unstable();
        assert_eq!(in_programs, in_reader);
        for (number, kind) in KINDS.iter().enumerate() {
            assert!(source.contains(&format!("RECORD_{} = {number},", name(kind))), "{kind:?}");
        }
    }
}

//! The disk spool of one output: a log of segments that is only ever appended to, and a cursor behind what was delivered.

use std::borrow::Borrow;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sls_core::EncodedAlert;
use thiserror::Error;

use super::directory::Directory;
use super::record::{self, MAX_SPOOLED_ALERT, read_spool};
use crate::errno;

/// The most bytes that the alerts of one output may take on disk, unless told otherwise: 128 MiB.
pub const DEFAULT_SPOOL_BYTES: u64 = 128 << 20;

/// How long an alert stays that cannot be delivered, unless told otherwise: a week.
pub const DEFAULT_SPOOL_AGE: Duration = Duration::from_secs(7 * 86_400);

/// The least that a spool can be limited to.
pub const MIN_SPOOL_BYTES: u64 = 64 << 10;

/// A spool has as many segments at its limit; the oldest goes as a whole.
const SEGMENTS: u64 = 8;

const MAX_SEGMENT_BYTES: u64 = 4 << 20;

/// The most bytes that are read at once, unless a single record is longer.
const READ_BYTES: usize = 1 << 20;

const SUFFIX: &str = ".log";
const CURSOR: &str = "cursor";

/// How much a [`Spool`] keeps, and how long. What is over is dropped, the oldest first, and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpoolLimits {
    /// The most bytes that it takes on disk. Default [`DEFAULT_SPOOL_BYTES`], at least [`MIN_SPOOL_BYTES`].
    pub max_bytes: u64,
    /// How long an alert stays, by the host's clock. Default [`DEFAULT_SPOOL_AGE`].
    pub max_age: Duration,
}

impl Default for SpoolLimits {
    fn default() -> Self {
        Self { max_bytes: DEFAULT_SPOOL_BYTES, max_age: DEFAULT_SPOOL_AGE }
    }
}

impl SpoolLimits {
    /// Replaces the most bytes.
    #[must_use]
    pub fn max_bytes(self, max_bytes: u64) -> Self {
        Self { max_bytes, ..self }
    }

    /// Replaces the longest age.
    #[must_use]
    pub fn max_age(self, max_age: Duration) -> Self {
        Self { max_age, ..self }
    }

    fn segment_bytes(&self) -> u64 {
        (self.max_bytes / SEGMENTS).min(MAX_SEGMENT_BYTES)
    }
}

/// Why something could not be done with a [`Spool`].
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SpoolError {
    /// The directory cannot be opened or made.
    #[error("cannot open the spool {}: {}", path.display(), errno::io_text(source))]
    Open {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Others could reach what is in the directory.
    #[error("the spool {} is not safe: {reason}", path.display())]
    Unsafe {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Another process, or another spool of this one, has it.
    #[error("the spool {} is in use", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The alert is longer than any that is kept.
    #[error("an alert of {bytes} bytes is too long for the spool: the limit is {limit}")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The longest that would be kept.
        limit: u64,
    },
    /// Anything else that the kernel refused, such as to write to a disk that is full.
    #[error("cannot {what} the spool: {}", errno::io_text(source))]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

fn io_error(what: &'static str) -> impl FnOnce(io::Error) -> SpoolError {
    move |source| SpoolError::Io { what, source }
}

/// What a [`Spool`] holds, and what it has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpoolStats {
    /// Alerts in it that were not delivered.
    pub waiting: u64,
    /// Bytes that it takes on disk.
    pub bytes: u64,
    /// Alerts that were in it when it was opened.
    pub found: u64,
    /// Alerts that came into it.
    pub spooled: u64,
    /// Alerts that were dropped undelivered for want of room.
    pub dropped_for_size: u64,
    /// Alerts that were dropped undelivered because they had become too old.
    pub dropped_for_age: u64,
    /// Stretches of its files that were no records.
    pub corrupt: u64,
}

/// An alert of a [`Spool`], with the number by which it is known there.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpooledAlert {
    /// Its number; later alerts have greater ones.
    pub number: u64,
    /// The alert.
    pub alert: EncodedAlert,
}

/// Alerts on disk that are to be delivered by one output.
///
/// It is a directory that only the own user can enter, with no link followed to it. An alert is appended to a log, and whatever
/// ends the process, or the machine, after [`Spool::append`] has said so: it is there when the spool is opened again, in order,
/// until [`Spool::delivered`]. A torn end is cut off, what is corrupt is passed over and counted.
///
/// ```
/// use sls_actions::{Spool, SpoolLimits};
/// use sls_core::{EncodedAlert, Uuid};
///
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().canonicalize()?.join("spool");
/// let mut spool = Spool::open(&path, SpoolLimits::default())?;
/// spool.append(&[EncodedAlert::new(Uuid::from_u128(7), "{}")])?;
/// drop(spool);
///
/// let mut spool = Spool::open(&path, SpoolLimits::default())?;
/// let waiting = spool.read(10)?;
/// assert_eq!(waiting[0].alert.uuid, Uuid::from_u128(7));
/// spool.delivered(waiting[0].number)?;
/// assert_eq!(spool.read(10)?, []);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Spool {
    directory: Directory,
    limits: SpoolLimits,
    /// Oldest first.
    segments: VecDeque<Segment>,
    /// The last segment, if more may come into it.
    active: Option<File>,
    /// Number of the next alert that comes.
    next: u64,
    /// Number of the first alert that was not delivered.
    cursor: u64,
    stats: SpoolStats,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Segment {
    /// At most the number of its first alert, and greater than those of the segments before.
    first: u64,
    /// Bytes of it that are on disk and whole.
    bytes: u64,
    /// Its alerts that were not delivered.
    waiting: u64,
    /// Where to go on reading.
    read: u64,
    /// When its last alert came.
    newest: u64,
}

impl Segment {
    fn name(&self) -> String {
        segment_name(self.first)
    }
}

fn segment_name(first: u64) -> String {
    format!("{first:016x}{SUFFIX}")
}

impl Spool {
    /// Opens the spool in this directory, or makes it, with those above it. What is over the limits is dropped.
    ///
    /// # Errors
    /// When the directory cannot be opened or read, is not safe, or is in use.
    pub fn open(path: impl AsRef<Path>, limits: SpoolLimits) -> Result<Self, SpoolError> {
        let path = path.as_ref();
        let directory = Directory::open(path)?;
        let limits = limits.max_bytes(limits.max_bytes.max(MIN_SPOOL_BYTES));
        let mut spool = Self {
            cursor: read_cursor(&directory).unwrap_or(0),
            directory,
            limits,
            segments: VecDeque::new(),
            active: None,
            next: 1,
            stats: SpoolStats::default(),
            buffer: Vec::new(),
        };
        spool.recover().map_err(|source| SpoolError::Open { path: path.to_owned(), source })?;
        spool.expire();
        spool.make_room(0);
        Ok(spool)
    }

    /// Appends as many of the alerts as go into one write, at least one, and tells how many. They are on the disk then. Alerts
    /// that come together share the wait for it.
    ///
    /// # Errors
    /// When the first of them is too long, or could not be written, as on a full disk. Nothing has changed then.
    pub fn append<A: Borrow<EncodedAlert>>(&mut self, alerts: &[A]) -> Result<usize, SpoolError> {
        let Some(first) = alerts.first().map(Borrow::borrow) else { return Ok(0) };
        let most = self.limits.max_bytes / 2;
        if record::encoded_len(first).is_none_or(|length| length as u64 > most) {
            let limit = most.min(MAX_SPOOLED_ALERT as u64);
            return Err(SpoolError::TooLong { bytes: first.json.len(), limit });
        }
        let segment_bytes = self.limits.segment_bytes();
        let mut used = match (&self.active, self.segments.back()) {
            (Some(_), Some(segment)) if segment.bytes < segment_bytes => segment.bytes,
            _ => {
                self.active = None;
                0
            }
        };
        let time = now();
        let mut count = 0;
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        for alert in alerts.iter().map(Borrow::borrow) {
            let Some(length) = record::encoded_len(alert).filter(|length| *length as u64 <= most) else { break };
            if count > 0 && used >= segment_bytes {
                break;
            }
            record::encode(alert, self.next + count as u64, time, &mut buffer);
            used += length as u64;
            count += 1;
        }
        self.make_room(buffer.len() as u64);
        let written = self.write(&buffer, time, count as u64);
        self.buffer = buffer;
        // What may be on the disk all the same must not share its number with another.
        self.next += count as u64;
        written.map_err(io_error("write to"))?;
        self.stats.spooled += count as u64;
        Ok(count)
    }

    /// The oldest alerts that were not delivered, at most so many; all that are left if there are less, and at least one if there
    /// is any. They stay until they are [`Spool::delivered`].
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn read(&mut self, most: usize) -> Result<Vec<SpooledAlert>, SpoolError> {
        self.expire();
        let mut found = Vec::new();
        let mut index = 0;
        let mut bytes = Vec::new();
        while found.is_empty() && index < self.segments.len() {
            let Self { segments, directory, cursor, .. } = self;
            let segment = &mut segments[index];
            if segment.waiting == 0 {
                index += 1;
                continue;
            }
            let mut file = directory.open_file(&segment.name()).map_err(io_error("read"))?;
            for limit in [READ_BYTES, usize::MAX] {
                bytes.clear();
                file.seek(SeekFrom::Start(segment.read)).map_err(io_error("read"))?;
                let left = segment.bytes.saturating_sub(segment.read).min(limit as u64);
                (&mut file).take(left).read_to_end(&mut bytes).map_err(io_error("read"))?;
                let mut records = read_spool(&bytes);
                let undelivered = records.by_ref().filter(|record| record.number >= *cursor);
                found.extend(
                    undelivered.take(most).map(|record| SpooledAlert { number: record.number, alert: record.alert() }),
                );
                if !found.is_empty() {
                    break;
                }
            }
            if found.is_empty() {
                // What was counted there is not to be had any more.
                let lost = std::mem::take(&mut segment.waiting);
                self.stats.waiting -= lost;
                self.stats.corrupt += lost;
                index += 1;
            }
        }
        self.sweep();
        Ok(found)
    }

    /// Forgets all alerts up to this number: they were delivered.
    ///
    /// # Errors
    /// When that could not be noted on disk. They do not come again from this spool, but after it is opened anew.
    pub fn delivered(&mut self, number: u64) -> Result<(), SpoolError> {
        let before = self.cursor;
        self.cursor = before.max(number.saturating_add(1).min(self.next));
        self.advance(before).map_err(io_error("read"))?;
        let noted = write_cursor(&self.directory, self.cursor).map_err(io_error("write to"));
        // Only now, so that the numbers that were given stay known.
        self.sweep();
        noted
    }

    /// Drops the alerts that have become too old, as reading and appending do, too.
    pub fn expire(&mut self) {
        let oldest = now().saturating_sub(u64::try_from(self.limits.max_age.as_nanos()).unwrap_or(u64::MAX));
        while self.segments.front().is_some_and(|segment| segment.newest < oldest) {
            self.stats.dropped_for_age += self.drop_oldest();
        }
    }

    /// What it holds, and what it has done.
    #[must_use]
    pub fn stats(&self) -> SpoolStats {
        SpoolStats { bytes: self.segments.iter().map(|segment| segment.bytes).sum(), ..self.stats }
    }

    /// Finds out what is there.
    fn recover(&mut self) -> io::Result<()> {
        let mut firsts: Vec<_> = self.directory.names()?.iter().filter_map(|name| segment_number(name)).collect();
        firsts.sort_unstable();
        let last = firsts.last().copied();
        let mut bytes = Vec::new();
        for first in firsts {
            bytes.clear();
            let mut file = self.directory.open_file(&segment_name(first))?;
            file.read_to_end(&mut bytes)?;
            let mut segment = Segment { first, bytes: bytes.len() as u64, waiting: 0, read: 0, newest: 0 };
            let mut records = read_spool(&bytes);
            for record in records.by_ref() {
                self.next = self.next.max(record.number.saturating_add(1));
                segment.waiting += u64::from(record.number >= self.cursor);
                segment.newest = record.time;
            }
            let whole = records.intact_bytes();
            self.stats.corrupt += records.corrupt();
            self.next = self.next.max(first);
            if whole < bytes.len() {
                // The end of the last is torn; that of another is corrupt.
                self.stats.corrupt += u64::from(last != Some(first));
                file.set_len(whole as u64)?;
                segment.bytes = whole as u64;
            }
            if whole == 0 {
                self.directory.remove(&segment_name(first))?;
                continue;
            }
            if last == Some(first) {
                self.active = Some(file);
            }
            self.stats.waiting += segment.waiting;
            self.segments.push_back(segment);
        }
        self.next = self.next.max(self.cursor);
        self.stats.found = self.stats.waiting;
        self.sweep();
        Ok(())
    }

    /// Writes records behind the last, and waits until they are on the disk.
    fn write(&mut self, records: &[u8], time: u64, count: u64) -> io::Result<()> {
        let new = self.active.is_none();
        if new {
            let first = self.next;
            self.active = Some(self.directory.create(&segment_name(first))?);
            self.segments.push_back(Segment { first, bytes: 0, waiting: 0, read: 0, newest: time });
        }
        // Both are there: the second belongs to the first.
        let (Some(file), Some(segment)) = (&self.active, self.segments.back_mut()) else { return Ok(()) };
        let written = file.write_all_at(records, segment.bytes).and_then(|()| file.sync_data());
        match written.and_then(|()| if new { self.directory.sync() } else { Ok(()) }) {
            Ok(()) => {
                segment.bytes += records.len() as u64;
                segment.waiting += count;
                segment.newest = time;
                self.stats.waiting += count;
                Ok(())
            }
            Err(error) => {
                // After a failed sync nobody knows what of the file is on the disk: no more is to come into it.
                let _ = file.set_len(segment.bytes);
                self.active = None;
                if segment.bytes == 0 {
                    let name = segment.name();
                    self.segments.pop_back();
                    let _ = self.directory.remove(&name);
                }
                Err(error)
            }
        }
    }

    /// Counts what was delivered since the cursor was at `before`.
    fn advance(&mut self, before: u64) -> io::Result<()> {
        let Self { segments, directory, cursor, stats, .. } = self;
        let ends: Vec<_> = segments.iter().skip(1).map(|segment| segment.first).chain([u64::MAX]).collect();
        let mut bytes = Vec::new();
        for (segment, end) in segments.iter_mut().zip(ends) {
            if *cursor >= end {
                stats.waiting -= std::mem::take(&mut segment.waiting);
                segment.read = segment.bytes;
                continue;
            }
            if *cursor > segment.first && before < end {
                bytes.clear();
                let file = directory.open_file(&segment.name())?;
                bytes.resize(usize::try_from(segment.bytes - segment.read).unwrap_or(0), 0);
                file.read_exact_at(&mut bytes, segment.read)?;
                let mut records = read_spool(&bytes);
                let (mut done, mut read) = (0, 0);
                while let Some(record) = records.next().filter(|record| record.number < *cursor) {
                    read = records.intact_bytes();
                    done += u64::from(record.number >= before);
                }
                let done = segment.waiting.min(done);
                segment.read += read as u64;
                segment.waiting -= done;
                stats.waiting -= done;
            }
            break;
        }
        Ok(())
    }

    /// Removes the segments of which all was delivered, but for the one that is written to.
    fn sweep(&mut self) {
        while let Some(segment) = self.segments.front()
            && segment.waiting == 0
            && (self.segments.len() > 1 || self.active.is_none() || segment.bytes >= self.limits.segment_bytes())
        {
            self.drop_oldest();
        }
    }

    /// Drops the oldest segments until so many bytes more are within the limit.
    fn make_room(&mut self, more: u64) {
        while self.stats().bytes + more > self.limits.max_bytes && !self.segments.is_empty() {
            self.stats.dropped_for_size += self.drop_oldest();
        }
    }

    /// Drops the oldest segment, and tells how many of its alerts were not delivered.
    fn drop_oldest(&mut self) -> u64 {
        let Some(segment) = self.segments.pop_front() else { return 0 };
        if self.segments.is_empty() {
            self.active = None;
            // The numbers go on, also if nothing else says where they were.
            let _ = write_cursor(&self.directory, self.next);
        }
        // What stays there is dropped when the spool is opened next.
        let _ = self.directory.remove(&segment.name());
        self.stats.waiting -= segment.waiting;
        segment.waiting
    }
}

fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX).filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

fn cursor_text(number: u64) -> String {
    format!("{number} {:08x}\n", crc32fast::hash(&number.to_le_bytes()))
}

fn write_cursor(directory: &Directory, number: u64) -> io::Result<()> {
    directory.replace(CURSOR, cursor_text(number).as_bytes())
}

/// None if it is not there, or not whole: everything counts as undelivered then.
fn read_cursor(directory: &Directory) -> Option<u64> {
    let mut text = String::new();
    directory.open_file(CURSOR).ok()?.take(64).read_to_string(&mut text).ok()?;
    let number = text.split_once(' ')?.0.parse().ok()?;
    (text == cursor_text(number)).then_some(number)
}

/// Nanoseconds since the epoch.
fn now() -> u64 {
    let elapsed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}

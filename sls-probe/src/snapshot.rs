//! The processes that are running: those when the probe was attached, and those at any later time.

use std::fs::{self, File};
use std::io::{self, Read};

use libbpf_rs::{Iter, Link};
use sls_core::{Event, Field};

use crate::record::{self, Decoded};

/// Bytes of argv that are kept of a process, the same as in the kernel's records (`ARGV_BYTES` in `bpf/record.h`).
pub const MAX_ARGV_BYTES: usize = 8192;

/// More than the kernel's own buffer for iterators (32 KiB on most machines), so that one read empties it.
const CHUNK_BYTES: usize = 128 * 1024;

/// Ticks of `/proc/PID/stat` in nanoseconds: `USER_HZ` is 100 wherever the probe works.
const TICK_NANOS: u64 = 10_000_000;

/// A snapshot under way.
#[derive(Debug)]
pub(crate) struct Snapshot {
    iter: Iter,
    // The iterator's file does not keep the program attached.
    _link: Link,
    buffer: Vec<u8>,
    argv: Vec<u8>,
    arguments: Arguments,
}

/// What is done about argv, which the iterator cannot read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arguments {
    /// It is read in `/proc`. That waits for the process's memory, as long as the process wants.
    Read,
    /// It is unknown.
    Leave,
}

impl Snapshot {
    pub(crate) fn start(link: Link, arguments: Arguments) -> Result<Self, libbpf_rs::Error> {
        let iter = Iter::new(&link)?;
        Ok(Self { iter, _link: link, buffer: Vec::new(), argv: Vec::new(), arguments })
    }

    /// Decodes the processes that the kernel hands out at once, and gives each to `handle`, with the id of its cgroup in
    /// the hierarchy of version 1. Returns whether there may be more.
    pub(crate) fn step(
        &mut self,
        event: &mut Event,
        handle: &mut dyn FnMut(&mut Event, Option<u64>),
    ) -> io::Result<bool> {
        let start = self.buffer.len();
        self.buffer.resize(start + CHUNK_BYTES, 0);
        let read = match self.iter.read(&mut self.buffer[start..]) {
            Ok(read) => read,
            // The kernel wants to be asked again after a million tasks.
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {
                self.buffer.truncate(start);
                return Ok(true);
            }
            Err(error) => return Err(error),
        };
        self.buffer.truncate(start + read);
        if read == 0 {
            return Ok(false);
        }
        let mut rest = &self.buffer[..];
        while let Some((len, _)) = rest.split_first_chunk() {
            let len = u32::from_le_bytes(*len) as usize;
            // A record that is not whole yet waits for the next read.
            let Some((bytes, after)) = rest.split_at_checked(len.max(1)) else { break };
            rest = after;
            match record::decode_any(bytes, event) {
                Ok(Decoded::Event { legacy_cgroup }) => {
                    match self.arguments {
                        Arguments::Read => command_line(event, &mut self.argv),
                        Arguments::Leave if event.kernel_thread => {}
                        Arguments::Leave => drop(event.mark_unknown(Field::ProgramArguments)),
                    }
                    handle(event, legacy_cgroup);
                }
                // No iterator gives them.
                Ok(Decoded::Cgroup(_)) => {}
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
        }
        let done = self.buffer.len() - rest.len();
        self.buffer.drain(..done);
        Ok(true)
    }
}

/// Reads argv, which the iterator cannot: it lies in the memory of another process.
fn command_line(event: &mut Event, argv: &mut Vec<u8>) {
    if event.kernel_thread {
        return;
    }
    argv.clear();
    let pid = event.process.pid;
    let limit = MAX_ARGV_BYTES as u64 + 1;
    let read = File::open(format!("/proc/{pid}/cmdline")).and_then(|file| file.take(limit).read_to_end(argv));
    // Looked at afterwards: a process that has this pid and start now had them when its argv was read. One that got
    // the pid later started later.
    if read.is_err() || start_ticks(pid) != Some(event.process.start / TICK_NANOS) {
        event.mark_unknown(Field::ProgramArguments);
        return;
    }
    let cut = argv.len() > MAX_ARGV_BYTES;
    argv.truncate(MAX_ARGV_BYTES);
    record::arguments(argv, cut, event);
    // Since its exec the process may have written something else there.
    event.mark_untrusted(Field::ProgramArguments);
}

/// Field 22 of `/proc/PID/stat`. The name in field 2 may hold anything, so what counts is behind its last `)`.
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let after = stat.iter().rposition(|byte| *byte == b')')?;
    let ticks = stat[after + 1..].split(|byte| *byte == b' ').filter(|word| !word.is_empty()).nth(19)?;
    std::str::from_utf8(ticks).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use sls_core::{EventKind, ProcessKey, Value};

    use super::*;

    #[test]
    fn argv_is_lent_to_its_process_only() {
        let pid = std::process::id();
        let ticks = start_ticks(pid).unwrap();
        let mut event = Event::new(EventKind::Baseline);
        event.process = ProcessKey { pid, start: ticks * TICK_NANOS + 7 };
        command_line(&mut event, &mut Vec::new());
        let first = std::env::args().next().unwrap();
        assert_eq!(event.arguments().next(), Some(first.as_bytes()));

        event.process.start += TICK_NANOS;
        command_line(&mut event, &mut Vec::new());
        assert_eq!(event.value(Field::ProgramArguments), Value::Unknown);
    }
}

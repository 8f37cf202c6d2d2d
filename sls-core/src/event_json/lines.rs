//! Recorded events from a stream of lines.

use std::fmt;
use std::io::{BufRead, ErrorKind};
use std::time::Duration;

use super::{EventError, EventReadError, MAX_EVENT_LINE, UnknownKeys};
use crate::event::{Event, EventKind};
use crate::plugin::{BoxError, EventSource, SourceStatus};
use crate::schema::{Field, FieldSet};

/// The most events that one poll of an [`EventReader`] gives.
const EVENTS_PER_POLL: usize = 256;

/// Reads recorded events, one JSON object a line. Blank lines are skipped.
///
/// It is an iterator over events with their line numbers, and an [`EventSource`]. A line that is not an event gives an
/// error with its number; the events before it have been given, and reading can go on behind it. A line is never held in
/// memory beyond [`MAX_EVENT_LINE`].
///
/// As a source it cannot keep to a time-out: it waits as long as the reader does. A reader that gives
/// [`ErrorKind::WouldBlock`] ends the poll, and a line begun is kept for the next.
///
/// ```
/// use sls_core::{EventReader, Field};
///
/// let recording = "{\"kind\":\"exec\",\"uid\":0}\n\n{\"kind\":\"exit\",\"exitStatus\":256}\n{\"kind\":\"?\"}\n";
/// let mut events = EventReader::new(recording.as_bytes());
/// let (line, event) = events.next().unwrap()?;
/// assert_eq!((line, event.number(Field::Uid)), (1, Some(0)));
/// assert_eq!(events.next().unwrap()?.0, 3);
/// assert_eq!(events.next().unwrap().unwrap_err().to_string(), "line 4: \"kind\" cannot be \"?\"");
/// assert!(events.next().is_none());
/// # Ok::<(), sls_core::EventReadError>(())
/// ```
pub struct EventReader<R> {
    reader: R,
    unknown_keys: UnknownKeys,
    buffer: Vec<u8>,
    // Set while the rest of a line that is too long is thrown away.
    overlong: bool,
    line: u64,
    skipped: u64,
    ended: bool,
    event: Event,
}

impl<R: BufRead> EventReader<R> {
    /// Reads from `reader`; unknown keys are an error.
    pub fn new(reader: R) -> Self {
        Self {
            reader,
            unknown_keys: UnknownKeys::Reject,
            buffer: Vec::new(),
            overlong: false,
            line: 0,
            skipped: 0,
            ended: false,
            event: Event::new(EventKind::Exec),
        }
    }

    /// Says what is done about unknown keys.
    #[must_use]
    pub fn unknown_keys(mut self, unknown_keys: UnknownKeys) -> Self {
        self.unknown_keys = unknown_keys;
        self
    }

    /// Reads the next event into `event`, whose memory is used again; false at the end.
    ///
    /// # Errors
    /// When the next line is not an event or the stream cannot be read. After an error of the stream other than
    /// [`ErrorKind::WouldBlock`] there is nothing more.
    pub fn read(&mut self, event: &mut Event) -> Result<bool, EventReadError> {
        while !self.ended {
            let complete = match self.fill_line() {
                Ok(complete) => complete,
                Err(source) => {
                    self.ended = source.kind() != ErrorKind::WouldBlock;
                    return Err(EventReadError::Io { line: self.line + 1, source });
                }
            };
            self.ended = !complete;
            if std::mem::take(&mut self.overlong) {
                self.line += 1;
                self.buffer.clear();
                return Err(self.bad_line(EventError::TooLong { limit: MAX_EVENT_LINE }));
            }
            // Without a line end: the last line, or nothing at all.
            self.line += u64::from(complete || !self.buffer.is_empty());
            if self.buffer.iter().all(u8::is_ascii_whitespace) {
                self.buffer.clear();
                continue;
            }
            let result = event.read_json(&self.buffer, self.unknown_keys);
            self.buffer.clear();
            self.skipped += result.map_err(|error| self.bad_line(error))? as u64;
            return Ok(true);
        }
        Ok(false)
    }

    /// Number of the line read last, from 1; 0 before the first.
    #[must_use]
    pub fn line(&self) -> u64 {
        self.line
    }

    /// How many unknown keys were skipped so far.
    #[must_use]
    pub fn skipped_keys(&self) -> u64 {
        self.skipped
    }

    /// Moves bytes up to the next line end into the buffer; false if the stream ended instead.
    fn fill_line(&mut self) -> std::io::Result<bool> {
        loop {
            let available = match self.reader.fill_buf() {
                Ok(available) => available,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if available.is_empty() {
                return Ok(false);
            }
            let end = available.iter().position(|byte| *byte == b'\n');
            let part = &available[..end.unwrap_or(available.len())];
            if self.overlong || self.buffer.len() + part.len() > MAX_EVENT_LINE {
                self.overlong = true;
                self.buffer.clear();
            } else {
                self.buffer.extend_from_slice(part);
            }
            let used = end.map_or(available.len(), |end| end + 1);
            self.reader.consume(used);
            if end.is_some() {
                return Ok(true);
            }
        }
    }

    fn bad_line(&self, source: EventError) -> EventReadError {
        EventReadError::Line { line: self.line, source }
    }
}

impl<R: BufRead> Iterator for EventReader<R> {
    type Item = Result<(u64, Event), EventReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut event = Event::new(EventKind::Exec);
        match self.read(&mut event) {
            Ok(true) => Some(Ok((self.line, event))),
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        }
    }
}

impl<R: BufRead + Send> EventSource for EventReader<R> {
    fn poll(&mut self, _timeout: Duration, handle: &mut dyn FnMut(&mut Event)) -> Result<SourceStatus, BoxError> {
        let mut event = std::mem::replace(&mut self.event, Event::new(EventKind::Exec));
        let mut status = Ok(SourceStatus::Open);
        for _ in 0..EVENTS_PER_POLL {
            match self.read(&mut event) {
                Ok(true) => handle(&mut event),
                Ok(false) => status = Ok(SourceStatus::Ended),
                Err(EventReadError::Io { source, .. }) if source.kind() == ErrorKind::WouldBlock => break,
                Err(error) => status = Err(error.into()),
            }
            if !matches!(status, Ok(SourceStatus::Open)) {
                break;
            }
        }
        self.event = event;
        status
    }

    fn provides(&self, _kind: EventKind) -> FieldSet {
        Field::all().collect()
    }
}

impl<R> fmt::Debug for EventReader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventReader")
            .field("unknown_keys", &self.unknown_keys)
            .field("line", &self.line)
            .field("skipped", &self.skipped)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, BufReader, Read};

    use super::*;

    fn read_all(text: &[u8]) -> Vec<Result<(u64, Event), String>> {
        // A tiny buffer, so that lines are put together from pieces.
        EventReader::new(BufReader::with_capacity(7, text))
            .map(|item| item.map_err(|error| error.to_string()))
            .collect()
    }

    #[test]
    fn bad_lines_have_numbers_and_the_rest_is_read() {
        let items = read_all(b"{\"kind\":\"exec\"}\r\n \n{\"kind\":\"exec\",\"uid\":-1}\n[]\n{\"kind\":\"fork\"}");
        assert_eq!(items.len(), 4);
        assert_eq!(items[0].as_ref().map(|(line, _)| *line), Ok(1));
        let error = items[1].as_ref().unwrap_err();
        assert_eq!(error, "line 3: \"uid\" must be a whole number from 0 to 18446744073709551615");
        assert!(items[2].as_ref().unwrap_err().starts_with("line 4: invalid type: sequence, expected a JSON object"));
        assert_eq!(items[3].as_ref().map(|(line, event)| (*line, event.kind)), Ok((5, EventKind::Fork)));
    }

    #[test]
    fn an_endless_line_is_not_held() {
        let long = io::repeat(b'x').take(64 << 20).chain(&b"\n{\"kind\":\"exit\"}\n"[..]);
        let mut reader = EventReader::new(BufReader::new(long));
        let mut event = Event::new(EventKind::Exec);
        let error = reader.read(&mut event).unwrap_err();
        assert_eq!(error.to_string(), "line 1: longer than the 1048576 bytes that a recorded event may have");
        assert!(reader.buffer.capacity() <= 2 * MAX_EVENT_LINE, "{} bytes held", reader.buffer.capacity());
        assert!(reader.read(&mut event).unwrap());
        assert_eq!((reader.line(), event.kind), (2, EventKind::Exit));
        assert!(!reader.read(&mut event).unwrap());
    }

    #[test]
    fn the_limit_is_exact() {
        let mut line = format!("{{\"kind\":\"exec\",\"programName\":\"{}\"}}", "a".repeat(MAX_EVENT_LINE)).into_bytes();
        let surplus = line.len() - MAX_EVENT_LINE;
        line.drain(40..40 + surplus);
        assert_eq!(read_all(&line).len(), 1);
        assert!(read_all(&line)[0].is_ok());
        line.insert(40, b'a');
        assert!(read_all(&line)[0].is_err());
    }

    #[test]
    fn as_a_source_it_gives_events_and_ends() {
        let recording = "{\"kind\":\"exec\",\"x\":1}\n".repeat(EVENTS_PER_POLL + 1);
        let mut source = EventReader::new(recording.as_bytes()).unknown_keys(UnknownKeys::Skip);
        let mut count = 0;
        assert_eq!(source.poll(Duration::ZERO, &mut |_| count += 1).unwrap(), SourceStatus::Open);
        assert_eq!(count, EVENTS_PER_POLL);
        assert_eq!(source.poll(Duration::ZERO, &mut |_| count += 1).unwrap(), SourceStatus::Ended);
        assert_eq!(source.poll(Duration::ZERO, &mut |_| count += 1).unwrap(), SourceStatus::Ended);
        assert_eq!((count, source.skipped_keys()), (EVENTS_PER_POLL + 1, count as u64));

        let mut source = EventReader::new(&b"{\"kind\":\"exec\"}\nnonsense\n"[..]);
        let mut count = 0;
        let error = source.poll(Duration::ZERO, &mut |_| count += 1).unwrap_err();
        assert!(error.to_string().starts_with("line 2: "), "{error}");
        assert_eq!(count, 1);
    }

    #[test]
    fn a_line_begun_survives_a_reader_that_would_block() {
        struct Halting(Vec<&'static [u8]>);
        impl Read for Halting {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                match self.0.pop() {
                    Some(b"") => Err(ErrorKind::WouldBlock.into()),
                    Some(mut part) => part.read(buffer),
                    None => Ok(0),
                }
            }
        }
        let mut source = EventReader::new(BufReader::new(Halting(vec![b"\"exec\"}\n", b"", b"{\"kind\":"])));
        let mut count = 0;
        assert_eq!(source.poll(Duration::ZERO, &mut |_| count += 1).unwrap(), SourceStatus::Open);
        assert_eq!(count, 0);
        assert_eq!(source.poll(Duration::ZERO, &mut |_| count += 1).unwrap(), SourceStatus::Ended);
        assert_eq!(count, 1);
    }
}

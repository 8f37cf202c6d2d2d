//! The form of a spool's records: what is written, and what is found again of it, whatever happened to the bytes.

use sls_core::{EncodedAlert, Uuid};

/// The most bytes of JSON that a spooled alert has.
pub const MAX_SPOOLED_ALERT: usize = 4 << 20;

/// What a record begins with. JSON has no NUL, and neither has it the zero byte of each length, so what an attacker writes
/// into an alert is never taken for a record.
const MAGIC: [u8; 4] = *b"\0SLS";

/// Magic, length, number, time, uuid, checksum.
const HEADER: usize = 4 + 4 + 8 + 8 + 16 + 4;

/// One alert in the bytes of a spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpoolRecord<'b> {
    /// Its number in the spool; they rise.
    pub number: u64,
    /// When it was put into the spool, in nanoseconds since the epoch.
    pub time: u64,
    /// The alert's uuid.
    pub uuid: Uuid,
    /// The alert.
    pub json: &'b str,
}

impl SpoolRecord<'_> {
    pub(super) fn alert(&self) -> EncodedAlert {
        EncodedAlert::new(self.uuid, self.json)
    }
}

/// The intact records in the bytes of a spool's file, in their order.
///
/// Any bytes will do. What is no intact record is passed over up to the next one, and counted. A record that ends too early is
/// not corrupt, but the torn tail of what was being written.
///
/// ```
/// let mut records = sls_actions::read_spool(b"no record at all");
/// assert_eq!(records.next(), None);
/// assert_eq!((records.corrupt(), records.intact_bytes()), (0, 0));
/// ```
#[derive(Clone, Debug)]
pub struct SpoolRecords<'b> {
    bytes: &'b [u8],
    at: usize,
    intact: usize,
    corrupt: u64,
}

/// Reads the records in `bytes`.
#[must_use]
pub fn read_spool(bytes: &[u8]) -> SpoolRecords<'_> {
    SpoolRecords { bytes, at: 0, intact: 0, corrupt: 0 }
}

impl SpoolRecords<'_> {
    /// How many stretches between intact records were none, of those passed so far.
    #[must_use]
    pub fn corrupt(&self) -> u64 {
        self.corrupt
    }

    /// Where the last record ends that was given. After the last of all, the bytes from there on are a torn tail.
    #[must_use]
    pub fn intact_bytes(&self) -> usize {
        self.intact
    }
}

impl<'b> Iterator for SpoolRecords<'b> {
    type Item = SpoolRecord<'b>;

    fn next(&mut self) -> Option<SpoolRecord<'b>> {
        loop {
            let rest = self.bytes.get(self.at..)?;
            self.at += rest.windows(MAGIC.len()).position(|window| window == MAGIC)?;
            if let Some((record, length)) = decode(&self.bytes[self.at..]) {
                self.corrupt += u64::from(self.at > self.intact);
                self.at += length;
                self.intact = self.at;
                return Some(record);
            }
            self.at += MAGIC.len();
        }
    }
}

/// The record that the bytes begin with, and its length.
fn decode(bytes: &[u8]) -> Option<(SpoolRecord<'_>, usize)> {
    let (header, rest) = bytes.split_at_checked(HEADER)?;
    let length = usize::try_from(u32::from_le_bytes(field(header, 4)?)).ok()?;
    if length > MAX_SPOOLED_ALERT {
        return None;
    }
    let json = rest.get(..length)?;
    if u32::from_le_bytes(field(header, HEADER - 4)?) != checksum(&header[..HEADER - 4], json) {
        return None;
    }
    let record = SpoolRecord {
        number: u64::from_le_bytes(field(header, 8)?),
        time: u64::from_le_bytes(field(header, 16)?),
        uuid: Uuid::from_bytes(field(header, 24)?),
        json: std::str::from_utf8(json).ok()?,
    };
    Some((record, HEADER + length))
}

fn field<const LENGTH: usize>(header: &[u8], at: usize) -> Option<[u8; LENGTH]> {
    header.get(at..at + LENGTH)?.try_into().ok()
}

fn checksum(header: &[u8], json: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(json);
    hasher.finalize()
}

/// How long the record of an alert is; none if it is longer than any may be.
pub(super) fn encoded_len(alert: &EncodedAlert) -> Option<usize> {
    (alert.json.len() <= MAX_SPOOLED_ALERT).then_some(HEADER + alert.json.len())
}

/// Appends the record of an alert, which is not longer than it may be.
pub(super) fn encode(alert: &EncodedAlert, number: u64, time: u64, to: &mut Vec<u8>) {
    let start = to.len();
    // Fits, by the limit.
    let length = u32::try_from(alert.json.len()).unwrap_or(u32::MAX);
    to.extend(MAGIC);
    to.extend(length.to_le_bytes());
    to.extend(number.to_le_bytes());
    to.extend(time.to_le_bytes());
    to.extend(alert.uuid.as_bytes());
    to.extend(checksum(&to[start..], alert.json.as_bytes()).to_le_bytes());
    to.extend(alert.json.as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn alert(number: u64, text: &str) -> EncodedAlert {
        EncodedAlert::new(Uuid::from_u128(number.into()), format!("{{\"text\":\"{text}\"}}"))
    }

    /// The bytes of some alerts, and where each ends.
    fn log(texts: &[String]) -> (Vec<u8>, Vec<usize>) {
        let mut bytes = Vec::new();
        let ends = texts
            .iter()
            .zip(1..)
            .map(|(text, number)| {
                encode(&alert(number, text), number, 7 * number, &mut bytes);
                bytes.len()
            })
            .collect();
        (bytes, ends)
    }

    fn numbers(bytes: &[u8]) -> Vec<u64> {
        read_spool(bytes).map(|record| record.number).collect()
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(texts: Vec<String>) {
            let (bytes, _) = log(&texts);
            let mut records = read_spool(&bytes);
            for (text, number) in texts.iter().zip(1..) {
                let record = records.next().unwrap();
                prop_assert_eq!((record.number, record.time), (number, 7 * number));
                prop_assert_eq!(record.alert(), alert(number, text));
            }
            prop_assert_eq!(records.next(), None);
            prop_assert_eq!((records.corrupt(), records.intact_bytes()), (0, bytes.len()));
        }

        #[test]
        fn every_prefix_gives_what_is_whole_in_it(texts in prop::collection::vec(".{0,40}", 1..8), cut: prop::sample::Index) {
            let (bytes, ends) = log(&texts);
            let cut = cut.index(bytes.len() + 1);
            let whole = ends.iter().filter(|end| **end <= cut).count();
            let mut records = read_spool(&bytes[..cut]);
            prop_assert_eq!(records.by_ref().map(|record| record.number).collect::<Vec<_>>(), (1..=whole as u64).collect::<Vec<_>>());
            prop_assert_eq!((records.corrupt(), records.intact_bytes()), (0, whole.checked_sub(1).map_or(0, |last| ends[last])));
        }

        #[test]
        fn what_is_overwritten_takes_no_other_with_it(
            texts in prop::collection::vec(".{0,40}", 1..8),
            at: prop::sample::Index,
            junk in prop::collection::vec(any::<u8>(), 1..64),
        ) {
            let (mut bytes, ends) = log(&texts);
            let at = at.index(bytes.len());
            let end = (at + junk.len()).min(bytes.len());
            bytes[at..end].copy_from_slice(&junk[..end - at]);
            let untouched = |number: usize| ends[number] <= at || ends.get(number.wrapping_sub(1)).copied().unwrap_or(0) >= end;
            let wanted: Vec<_> = (0..ends.len()).filter(|number| untouched(*number)).map(|number| number as u64 + 1).collect();
            let found = numbers(&bytes);
            prop_assert!(wanted.iter().all(|number| found.contains(number)), "{:?} of {:?}", found, wanted);
            // One that is hit may be as it was.
            prop_assert!(found.len() <= ends.len() && found.is_sorted());
        }

        #[test]
        fn any_bytes_will_do(bytes: Vec<u8>, texts in prop::collection::vec(".{0,10}", 0..3)) {
            let (log, _) = log(&texts);
            let mut mixed = bytes.clone();
            mixed.extend(&log);
            mixed.extend(&bytes);
            prop_assert_eq!(numbers(&mixed), (1..=texts.len() as u64).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_record_inside_an_alert_is_none() {
        let mut forged = Vec::new();
        encode(&alert(666, "forged"), 666, 1, &mut forged);
        let text = serde_json::to_string(&String::from_utf8_lossy(&forged)).unwrap();
        let (mut bytes, _) = log(&[text]);
        // The record around it is broken, so it is looked into.
        bytes[5] ^= 1;
        assert!(numbers(&bytes).is_empty());
    }
}

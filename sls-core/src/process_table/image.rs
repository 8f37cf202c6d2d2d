//! What is known of a process beside its identity. It does not change, so a forked child shares it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::event::{Event, EventKind, Value};
use crate::schema::{Field, FieldKind, FieldSet};

/// The most bytes of each path or name that the table keeps of a process: what a path has at most on Linux.
pub const MAX_STORED_TEXT: usize = 4096;

/// The most bytes of arguments that the table keeps of a process, joined by one space. More are marked truncated.
pub const MAX_STORED_ARGUMENTS: usize = 4096;

/// The bytes of texts that a table keeps before it becomes sparing.
pub const MAX_STORED_BYTES: usize = 64 << 20;

/// The most bytes of each text of a process that a table keeps once it has [`MAX_STORED_BYTES`]. More are marked
/// truncated.
pub const SPARE_STORED_TEXT: usize = 256;

const _: () = assert!(MAX_STORED_ARGUMENTS <= u16::MAX as usize, "ends of arguments are 16 bits wide");

/// The texts that are kept, in the order in which they lie in memory. An exec replaces the first [`REPLACED`].
const TEXTS: [Field; 7] = [
    Field::ProgramName,
    Field::InvokedName,
    Field::ScriptName,
    Field::ProgramArguments,
    Field::ProcessName,
    Field::ProgramDirectory,
    Field::Terminal,
];
const REPLACED: usize = 5;

/// The numbers that are kept. An exec replaces the first [`REPLACED_NUMBERS`].
const NUMBERS: [Field; 7] =
    [Field::ProgramInode, Field::ProgramDevice, Field::Uid, Field::Gid, Field::Euid, Field::Egid, Field::LoginUid];
const REPLACED_NUMBERS: usize = 2;

/// The truth values that are kept. An exec replaces them all.
const BOOLS: [Field; 2] = [Field::ProgramIsMemfd, Field::ProgramIsDeleted];

/// What events of the process are told about its program.
pub(crate) const OF_PROGRAM: [Field; 10] = [
    Field::ProgramName,
    Field::InvokedName,
    Field::ScriptName,
    Field::ProgramArguments,
    Field::ProgramDirectory,
    Field::Terminal,
    Field::ProgramInode,
    Field::ProgramDevice,
    Field::ProgramIsMemfd,
    Field::ProgramIsDeleted,
];

/// Those that only an exec changes.
const EXECUTED: [Field; 8] = [
    Field::ProgramName,
    Field::InvokedName,
    Field::ScriptName,
    Field::ProgramArguments,
    Field::ProgramInode,
    Field::ProgramDevice,
    Field::ProgramIsMemfd,
    Field::ProgramIsDeleted,
];

/// An event, and what of it is taken.
struct News<'e> {
    event: &'e Event,
    /// Fields whose value stays what it was.
    kept: FieldSet,
    /// Whether a new program runs.
    exec: bool,
    /// Whether the event tells the program.
    told: bool,
}

impl News<'_> {
    fn value(&self, field: Field) -> Value<'_> {
        if self.kept.contains(field) { Value::Absent } else { self.event.value(field) }
    }

    fn number(&self, field: Field) -> Option<u64> {
        match self.value(field) {
            Value::Number(number) => Some(number),
            _ => None,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct ProcessImage {
    bytes: Box<[u8]>,
    ends: [u32; TEXTS.len()],
    argument_ends: Box<[u16]>,
    numbers: [u64; NUMBERS.len()],
    /// Those of [`BOOLS`] that are true.
    truths: FieldSet,
    present: FieldSet,
    truncated: FieldSet,
    unknown: FieldSet,
    told: bool,
    /// When it came into force, in nanoseconds since boot: at the exec, or when it was first seen after one that was not told.
    /// Zero if its process has had it from its start, as far as is known.
    since: u64,
    /// When an event told the program last.
    told_at: u64,
    stored: StoredBytes,
}

/// Bytes that all images of a table have together.
#[derive(Clone, Debug, Default)]
struct StoredBytes(Arc<AtomicUsize>);

impl StoredBytes {
    /// The most bytes of `field` to keep now.
    fn limit(&self, field: Field) -> usize {
        match field {
            _ if self.0.load(Ordering::Relaxed) > MAX_STORED_BYTES => SPARE_STORED_TEXT,
            Field::ProgramArguments => MAX_STORED_ARGUMENTS,
            _ => MAX_STORED_TEXT,
        }
    }
}

impl Drop for ProcessImage {
    fn drop(&mut self) {
        self.stored.0.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

impl ProcessImage {
    /// The image after `event`; none if the event does not change it.
    pub(super) fn with(&self, event: &Event) -> Option<Arc<Self>> {
        let told = matches!(event.kind, EventKind::Exec | EventKind::Baseline);
        let news = News { event, kept: FieldSet::EMPTY, exec: event.kind == EventKind::Exec, told };
        (told || self.differs(&news)).then(|| Arc::new(self.rebuild(&news)))
    }

    /// The image of a program that was executed unseen, some time before `event`, which found it.
    pub(super) fn replaced_by(&self, event: &Event) -> Arc<Self> {
        Arc::new(self.rebuild(&News { event, kept: FieldSet::EMPTY, exec: true, told: true }))
    }

    /// The image after `event` found that its program still runs; none if nothing else has changed. What was known of the
    /// program stays: since its exec, the process may have written something else to where it can be read.
    pub(super) fn confirmed_by(&self, event: &Event) -> Option<Arc<Self>> {
        let known = EXECUTED.into_iter().filter(|field| self.value(*field) != Value::Unknown);
        let news = News { event, kept: known.collect(), exec: false, told: true };
        self.differs(&news).then(|| Arc::new(self.rebuild(&news)))
    }

    /// From when on it is that of its process, in nanoseconds since boot.
    pub(super) fn since(&self) -> u64 {
        self.since
    }

    /// When an event told the program last, in nanoseconds since boot. Zero if that is not known.
    pub(super) fn told_at(&self) -> u64 {
        self.told_at
    }

    /// Whether `event` tells that the process runs this program, or another. None if the one or the other does not say.
    pub(super) fn is_of_program(&self, event: &Event) -> Option<bool> {
        if !self.told {
            return None;
        }
        let number = |field| match self.value(field) {
            Value::Number(number) => Some(number == event.number(field)?),
            _ => None,
        };
        if let (Some(inode), Some(device)) = (number(Field::ProgramInode), number(Field::ProgramDevice)) {
            return Some(inode && device);
        }
        match (self.value(Field::ProgramName), event.value(Field::ProgramName)) {
            (Value::Text { bytes, truncated: false }, Value::Text { bytes: other, truncated: false }) => {
                Some(bytes == other)
            }
            (Value::Unknown, _) | (_, Value::Unknown) => None,
            (Value::Absent, other) => Some(other == Value::Absent),
            (_, Value::Absent) => Some(false),
            _ => None,
        }
    }

    /// Whether an event told the program: then a field without a value has none.
    pub(super) fn is_told(&self) -> bool {
        self.told
    }

    /// The value of `field`, of which only those in [`TEXTS`] and [`NUMBERS`] are kept.
    pub(super) fn value(&self, field: Field) -> Value<'_> {
        if self.unknown.contains(field) {
            return Value::Unknown;
        }
        if !self.present.contains(field) {
            return if self.told { Value::Absent } else { Value::Unknown };
        }
        if let Some(slot) = NUMBERS.iter().position(|number| *number == field) {
            return Value::Number(self.numbers[slot]);
        }
        if BOOLS.contains(&field) {
            return Value::Bool(self.truths.contains(field));
        }
        match TEXTS.iter().position(|text| *text == field) {
            Some(slot) => Value::Text { bytes: self.text(slot), truncated: self.truncated.contains(field) },
            None => Value::Absent,
        }
    }

    /// Gives an event of the process what it lacks about the program.
    pub(super) fn describe(&self, event: &mut Event) {
        for field in OF_PROGRAM {
            if event.value(field) != Value::Absent {
                continue;
            }
            match self.value(field) {
                // Each by itself.
                Value::Text { truncated, .. } if field == Field::ProgramArguments => {
                    event.set_arguments(self.arguments());
                    if truncated {
                        event.mark_truncated(field);
                    }
                }
                value => event.set_value(field, value),
            }
        }
    }

    /// The whole path of the program, if it is the file that the event's program is.
    pub(super) fn path_of_program(&self, event: &Event) -> Option<&[u8]> {
        let same = |field| event.number(field).is_some_and(|number| self.value(field) == Value::Number(number));
        match self.value(Field::ProgramName) {
            Value::Text { bytes, truncated: false } if same(Field::ProgramInode) && same(Field::ProgramDevice) => {
                Some(bytes)
            }
            _ => None,
        }
    }

    pub(super) fn arguments(&self) -> impl Iterator<Item = &[u8]> {
        let joined = match self.value(Field::ProgramArguments) {
            Value::Text { bytes, .. } => bytes,
            _ => b"",
        };
        let mut start = 0;
        self.argument_ends.iter().map(move |end| {
            let end = usize::from(*end);
            // The ends were made with the text: they rise and lie in it.
            let argument = joined.get(start..end).unwrap_or_default();
            start = end + 1;
            argument
        })
    }

    fn text(&self, slot: usize) -> &[u8] {
        let start = if slot == 0 { 0 } else { self.ends[slot - 1] };
        &self.bytes[start as usize..self.ends[slot] as usize]
    }

    /// Whether an event other than an exec knows better.
    fn differs(&self, event: &News<'_>) -> bool {
        let text = |(slot, field): (usize, &Field)| match self.news(*field, event) {
            Some((bytes, truncated)) => {
                let known = self.present.contains(*field) && self.truncated.contains(*field) == truncated;
                !known || self.text(slot) != bytes
            }
            None => false,
        };
        let number = |(slot, field): (usize, &Field)| match event.number(*field) {
            Some(number) => !self.present.contains(*field) || self.numbers[slot] != number,
            None => false,
        };
        let truth = |field: &Field| match event.value(*field) {
            Value::Bool(truth) => !self.present.contains(*field) || self.truths.contains(*field) != truth,
            _ => false,
        };
        TEXTS.iter().enumerate().any(text) || NUMBERS.iter().enumerate().any(number) || BOOLS.iter().any(truth)
    }

    /// The text that an event has, as much as is kept of it.
    fn kept<'e>(&self, field: Field, event: &'e News<'_>) -> Option<(&'e [u8], bool)> {
        match event.value(field) {
            Value::Text { bytes, truncated } => {
                let (bytes, cut) = clip(field, bytes, self.stored.limit(field));
                Some((bytes, truncated || cut))
            }
            _ => None,
        }
    }

    /// The text that an event has and that is better than what is known: a part does not replace the whole.
    fn news<'e>(&self, field: Field, event: &'e News<'_>) -> Option<(&'e [u8], bool)> {
        match self.kept(field, event) {
            Some((bytes, truncated)) => {
                let whole = self.present.contains(field) && !self.truncated.contains(field);
                (!(truncated && whole)).then_some((bytes, truncated))
            }
            None => None,
        }
    }

    fn rebuild(&self, event: &News<'_>) -> Self {
        let News { exec, told, event: &Event { since_boot, .. }, .. } = *event;
        let mut image = Self::default();
        image.told = told || self.told;
        image.since = if exec { since_boot } else { self.since };
        image.told_at = if told { since_boot } else { self.told_at };
        image.stored = self.stored.clone();
        let mut bytes = Vec::with_capacity(self.capacity_for(event));
        for (slot, field) in TEXTS.into_iter().enumerate() {
            let replaced = exec && slot < REPLACED;
            let news = if replaced { self.kept(field, event) } else { self.news(field, event) };
            if let Some((text, truncated)) = news {
                bytes.extend_from_slice(text);
                image.present.insert(field);
                if truncated {
                    image.truncated.insert(field);
                }
                if field == Field::ProgramArguments {
                    image.argument_ends = ends(event.event.arguments(), text.len());
                }
            } else if replaced {
                if event.value(field) == Value::Unknown {
                    image.unknown.insert(field);
                }
            } else {
                bytes.extend_from_slice(self.text(slot));
                image.keep(self, field);
                if event.value(field) == Value::Unknown && !image.present.contains(field) {
                    image.unknown.insert(field);
                }
                if field == Field::ProgramArguments {
                    image.argument_ends.clone_from(&self.argument_ends);
                }
            }
            image.ends[slot] = bytes.len() as u32;
        }
        for (slot, field) in NUMBERS.into_iter().enumerate() {
            match event.number(field) {
                Some(number) => {
                    image.numbers[slot] = number;
                    image.present.insert(field);
                }
                None if exec && slot < REPLACED_NUMBERS => {}
                None => {
                    image.numbers[slot] = self.numbers[slot];
                    image.keep(self, field);
                }
            }
        }
        for field in BOOLS {
            match event.value(field) {
                Value::Bool(truth) => {
                    image.present.insert(field);
                    if truth {
                        image.truths.insert(field);
                    }
                }
                Value::Unknown => image.unknown.insert(field),
                _ if exec => {}
                _ => image.keep(self, field),
            }
        }
        image.stored.0.fetch_add(bytes.len(), Ordering::Relaxed);
        image.bytes = bytes.into_boxed_slice();
        image
    }

    fn keep(&mut self, from: &Self, field: Field) {
        for (to, from) in [
            (&mut self.present, from.present),
            (&mut self.truncated, from.truncated),
            (&mut self.unknown, from.unknown),
            (&mut self.truths, from.truths),
        ] {
            if from.contains(field) {
                to.insert(field);
            }
        }
    }

    /// At least what a rebuilt image takes.
    fn capacity_for(&self, event: &News<'_>) -> usize {
        let new = TEXTS.iter().filter_map(|field| self.kept(*field, event)).map(|(text, _)| text.len()).sum::<usize>();
        new + self.bytes.len()
    }
}

/// The part of a text that is kept, and whether it is only a part. Of a path that is the end.
fn clip(field: Field, bytes: &[u8], limit: usize) -> (&[u8], bool) {
    let surplus = bytes.len().saturating_sub(limit);
    let kept = if field.kind() == FieldKind::Path { &bytes[surplus..] } else { &bytes[..bytes.len() - surplus] };
    (kept, surplus > 0)
}

/// Where each argument ends in the joined text, of which `limit` bytes are kept.
fn ends<'a>(arguments: impl Iterator<Item = &'a [u8]>, limit: usize) -> Box<[u16]> {
    let mut start = 0;
    arguments
        .map_while(|argument| {
            let end = (start + argument.len()).min(limit);
            // Of an argument behind the limit not even the start is left.
            let kept = start < limit || argument.is_empty() && start == limit;
            start += argument.len() + 1;
            kept.then_some(end as u16)
        })
        .collect()
}

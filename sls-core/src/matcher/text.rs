//! Which of many texts the value of a field is, begins or ends with, has as its file name, or holds.

use super::atom::{OfParts, TextPart};
use super::edges::Edges;
use super::grams::{GRAMS, Grams};
use super::hash::hash;
use super::regexes::Regexes;
use super::table::{Table, Target, unique};
use crate::pattern::{Known, Like};

/// What a value is looked up in.
#[derive(Clone, Debug, Default)]
pub(crate) struct TextIndex {
    whole: Whole,
    names: Table,
    starts: Option<Edges<false>>,
    ends: Option<Edges<true>>,
    short: Option<Grams<{ GRAMS[0] }>>,
    long: Option<Grams<{ GRAMS[1] }>>,
    regexes: Option<Regexes>,
    something: Box<[Target]>,
    in_doubt: InDoubt,
}

/// Whole texts.
#[derive(Clone, Debug, Default)]
struct Whole {
    table: Table,
    /// A bit for each length that a text has; the last for all that are longer.
    lengths: u64,
    longest: usize,
}

/// The targets of each part of the index: values that are partly known may have any of its texts.
#[derive(Clone, Debug, Default)]
struct InDoubt {
    whole: Box<[Target]>,
    names: Box<[Target]>,
    starts: Box<[Target]>,
    ends: Box<[Target]>,
    /// Of those that can be anywhere, and of those that say nothing of a part.
    rest: Box<[Target]>,
}

impl TextIndex {
    /// Calls `found` for each text that the value has, in any order and perhaps more than once, and perhaps for others.
    #[inline]
    pub(super) fn each(&self, value: &[u8], mut found: impl FnMut(Target)) {
        self.whole.each(value, &mut found);
        self.each_name(value, &mut found);
        if let Some(starts) = &self.starts {
            starts.each(value, &mut found);
        }
        if let Some(ends) = &self.ends {
            ends.each(value, &mut found);
        }
        if let Some(short) = &self.short {
            short.each(value, &mut found);
        }
        if let Some(long) = &self.long {
            long.each(value, &mut found);
        }
        if let Some(regexes) = &self.regexes {
            regexes.each(value, &mut found);
        }
        if !value.is_empty() {
            self.something.iter().for_each(|target| found(*target));
        }
    }

    /// The same for a value of which `part` is known.
    #[cold]
    pub(super) fn each_of_part(&self, part: &[u8], known: Known, mut found: impl FnMut(Target)) {
        // A longer value is none of the texts.
        if part.len() <= self.whole.longest {
            self.in_doubt.whole.iter().for_each(|target| found(*target));
        }
        match &self.starts {
            Some(starts) if known == Known::Start && part.len() >= starts.longest() => starts.each(part, &mut found),
            _ => self.in_doubt.starts.iter().for_each(|target| found(*target)),
        }
        match &self.ends {
            Some(ends) if known == Known::End && part.len() >= ends.longest() => ends.each(part, &mut found),
            _ => self.in_doubt.ends.iter().for_each(|target| found(*target)),
        }
        if known == Known::End && part.contains(&b'/') {
            self.each_name(part, &mut found);
        } else {
            self.in_doubt.names.iter().for_each(|target| found(*target));
        }
        self.in_doubt.rest.iter().for_each(|target| found(*target));
    }

    /// The same for a value of which nothing is known.
    #[cold]
    pub(super) fn each_target(&self, mut found: impl FnMut(Target)) {
        let InDoubt { whole, names, starts, ends, rest } = &self.in_doubt;
        [whole, names, starts, ends, rest].into_iter().flatten().for_each(|target| found(*target));
    }

    #[inline]
    fn each_name(&self, value: &[u8], found: &mut impl FnMut(Target)) {
        if !self.names.is_empty() {
            let name = memchr::memrchr(b'/', value).map_or(value, |slash| &value[slash + 1..]);
            self.names.each(hash(name), found);
        }
    }
}

impl Whole {
    #[inline]
    fn each(&self, value: &[u8], found: &mut impl FnMut(Target)) {
        if self.lengths >> length_bit(value) & 1 != 0 {
            self.table.each(hash(value), found);
        }
    }
}

fn length_bit(text: &[u8]) -> usize {
    text.len().min(63)
}

/// Builds a [`TextIndex`].
#[derive(Debug, Default)]
pub(super) struct TextIndexBuilder {
    whole: Vec<(Box<[u8]>, Target)>,
    names: Vec<(Box<[u8]>, Target)>,
    starts: Vec<(Box<[u8]>, Target)>,
    ends: Vec<(Box<[u8]>, Target)>,
    inside: Vec<(Box<[u8]>, Target)>,
    regexes: Vec<(Like, Target)>,
    something: Vec<Target>,
    in_doubt: Vec<Target>,
}

impl TextIndexBuilder {
    pub(super) fn add(&mut self, part: TextPart, of_parts: OfParts, target: Target) {
        if of_parts == OfParts::InDoubt {
            self.add_in_doubt(target);
        }
        match part {
            TextPart::Whole(text) => self.whole.push((text, target)),
            TextPart::FileName(text) => self.names.push((text, target)),
            TextPart::Start(text) => self.starts.push((text, target)),
            TextPart::End(text) => self.ends.push((text, target)),
            TextPart::Inside(text) if text.len() < GRAMS[0] => self.something.push(target),
            TextPart::Inside(text) => self.inside.push((text, target)),
            TextPart::Something => self.something.push(target),
        }
    }

    /// Adds a target of all values that are not wholly known.
    pub(super) fn add_in_doubt(&mut self, target: Target) {
        self.in_doubt.push(target);
    }

    pub(super) fn add_like(&mut self, like: Like, target: Target) {
        self.regexes.push((like, target));
    }

    pub(super) fn build(self) -> TextIndex {
        let hashed = |texts: &[(Box<[u8]>, Target)]| {
            Table::new(texts.iter().map(|(text, target)| (hash(text), *target)).collect::<Vec<_>>())
        };
        let of = |texts: &[(Box<[u8]>, Target)]| unique(texts.iter().map(|(_, target)| *target));
        let (short, long): (Vec<_>, Vec<_>) =
            borrowed(&self.inside).into_iter().partition(|(text, _)| text.len() < GRAMS[1]);
        let anywhere = self.inside.iter().map(|(_, target)| *target).chain(self.something.iter().copied());
        let regexes = self.regexes.iter().map(|(_, target)| *target).chain(self.in_doubt);
        TextIndex {
            in_doubt: InDoubt {
                whole: of(&self.whole),
                names: of(&self.names),
                starts: of(&self.starts),
                ends: of(&self.ends),
                rest: unique(anywhere.chain(regexes)),
            },
            whole: Whole {
                table: hashed(&self.whole),
                lengths: self.whole.iter().fold(0, |lengths, (text, _)| lengths | 1 << length_bit(text)),
                longest: self.whole.iter().map(|(text, _)| text.len()).max().unwrap_or_default(),
            },
            names: hashed(&self.names),
            starts: Edges::new(&borrowed(&self.starts)),
            ends: Edges::new(&borrowed(&self.ends)),
            short: Grams::new(&short),
            long: Grams::new(&long),
            regexes: Regexes::new(&self.regexes),
            something: unique(self.something.iter().copied()),
        }
    }
}

fn borrowed(texts: &[(Box<[u8]>, Target)]) -> Vec<(&[u8], Target)> {
    texts.iter().map(|(text, target)| (&**text, *target)).collect()
}

//! Which of many texts a value begins or ends with. The texts are told apart by length: for each length that there is, a
//! word at the inner end of that many bytes is looked up in a small filter, and hardly ever more.

use super::hash::{hash, hash_word, word};
use super::table::{Filter, Table, Target};

/// The most bytes of a text that are compared, so that there are not too many lengths.
const MAX_EDGE: usize = 64;

/// The beginnings or, with `END`, the ends of values, each with a target.
#[derive(Clone, Debug)]
pub(super) struct Edges<const END: bool> {
    /// Rising.
    lengths: Box<[u8]>,
    filter: Filter,
    table: Table,
}

impl<const END: bool> Edges<END> {
    /// Which is none if there are no texts.
    pub(super) fn new(texts: &[(&[u8], Target)]) -> Option<Self> {
        if texts.is_empty() {
            return None;
        }
        let texts: Vec<_> =
            texts.iter().map(|(text, target)| (edge::<END>(text, text.len().min(MAX_EDGE)), *target)).collect();
        let mut lengths: Vec<u8> = texts.iter().map(|(text, _)| text.len() as u8).collect();
        lengths.sort_unstable();
        lengths.dedup();
        Some(Self {
            lengths: lengths.into(),
            filter: Filter::new(texts.iter().map(|(text, _)| inner_word::<END>(text))),
            table: Table::new(texts.iter().map(|(text, target)| (hash(text), *target))),
        })
    }

    /// The most bytes of a value that are looked at.
    pub(super) fn longest(&self) -> usize {
        self.lengths.last().copied().unwrap_or_default().into()
    }

    /// Calls `found` for each text that `value` begins or ends with.
    #[inline]
    pub(super) fn each(&self, value: &[u8], mut found: impl FnMut(Target)) {
        for length in &self.lengths {
            let length = usize::from(*length);
            if length > value.len() {
                break;
            }
            let edge = edge::<END>(value, length);
            if self.filter.may_have(inner_word::<END>(edge)) {
                self.table.each(hash(edge), &mut found);
            }
        }
    }
}

fn edge<const END: bool>(text: &[u8], length: usize) -> &[u8] {
    if END { &text[text.len() - length..] } else { &text[..length] }
}

/// The hash of the eight bytes of an edge that lie innermost: the outermost are the same in most values.
#[inline]
fn inner_word<const END: bool>(edge: &[u8]) -> u64 {
    let at = if END { 0 } else { edge.len().saturating_sub(8) };
    hash_word(word(edge, at), edge.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn finds_each_edge(texts in prop::collection::vec("[ab/]{1,70}|[ab]{1,3}", 1..12), value in "[ab/]{0,4}", with: prop::sample::Index) {
            let targets: Vec<_> = texts.iter().map(String::as_bytes).zip(0..).collect();
            let cut = |text: &str| text.len().min(MAX_EDGE);
            let text = with.get(&texts);

            let begins = format!("{text}{value}");
            let mut found = Vec::new();
            Edges::<false>::new(&targets).unwrap().each(begins.as_bytes(), |target| found.push(target));
            found.sort_unstable();
            let expected = (0..).zip(&texts).filter(|(_, text)| begins.starts_with(&text[..cut(text)]));
            prop_assert_eq!(&found, &expected.map(|(target, _)| target).collect::<Vec<_>>());

            let ends = format!("{value}{text}");
            found.clear();
            Edges::<true>::new(&targets).unwrap().each(ends.as_bytes(), |target| found.push(target));
            found.sort_unstable();
            let expected = (0..).zip(&texts).filter(|(_, text)| ends.ends_with(&text[text.len() - cut(text)..]));
            prop_assert_eq!(&found, &expected.map(|(target, _)| target).collect::<Vec<_>>());
        }
    }
}

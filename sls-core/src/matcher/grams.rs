//! Which of many literals a text holds. The text is looked at in steps as long as the shortest literal allows, a few bytes
//! at a time: each literal is found by one of its grams, those at as many places of it as a step is long.

use super::hash::{equal_folded, half_word, hash_word, quarter_word};
use super::table::{Filter, Table, Tally, Target};

/// The longest step.
const MAX_STEP: usize = 8;

/// The lengths of grams: a literal of fewer bytes than the first is in none.
pub(super) const GRAMS: [usize; 2] = [2, 4];

/// Literals of at least `G` bytes, each with a target. `G` is one of [`GRAMS`].
#[derive(Clone, Debug)]
pub(super) struct Grams<const G: usize> {
    step: usize,
    filter: Filter,
    /// From hashes of grams to numbers of places.
    table: Table,
    places: Box<[Place]>,
    /// All literals, one after the other.
    text: Box<[u8]>,
}

/// Where a gram is in a literal.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Of the literal in the text of all.
    start: u32,
    len: u16,
    /// Of the gram in the literal.
    offset: u16,
    target: Target,
}

impl<const G: usize> Grams<G> {
    /// Which is none if there are no literals. They are looked for without regard to case.
    pub(super) fn new(literals: &[(&[u8], Target)]) -> Option<Self> {
        let shortest = literals.iter().map(|(literal, _)| literal.len()).min()?;
        let step = (shortest + 1 - G).min(MAX_STEP);
        let mut commonness = Tally::default();
        for (literal, _) in literals {
            (0..=literal.len() - G).for_each(|at| commonness.add(gram::<G>(literal, at)));
        }
        let mut text = Vec::new();
        let mut places = Vec::new();
        let mut grams = Vec::new();
        for &(literal, target) in literals {
            let start = text.len() as u32;
            text.extend_from_slice(literal);
            // Of the grams that lie where a step can hit them, those that are in the fewest literals tell most.
            let cost = |first: usize| -> u32 {
                (first..first + step).map(|at| commonness.count(&gram::<G>(literal, at))).sum()
            };
            let first = (0..=literal.len() - G + 1 - step).rev().min_by_key(|first| cost(*first)).unwrap_or_default();
            for offset in first..first + step {
                grams.push((gram::<G>(literal, offset), places.len() as Target));
                places.push(Place { start, len: literal.len() as u16, offset: offset as u16, target });
            }
        }
        Some(Self {
            step,
            filter: Filter::new(grams.iter().map(|(gram, _)| spread(*gram))),
            table: Table::new(grams.iter().map(|(gram, place)| (hash_word((*gram).into(), G), *place))),
            places: places.into(),
            text: text.into(),
        })
    }

    /// Calls `found` for each literal in `value`, and again if it is there again.
    #[inline]
    pub(super) fn each(&self, value: &[u8], mut found: impl FnMut(Target)) {
        for (steps, window) in value.windows(G).step_by(self.step).enumerate() {
            let gram = gram::<G>(window, 0);
            if self.filter.may_have(spread(gram)) {
                self.check(gram, value, steps * self.step, &mut found);
            }
        }
    }

    #[inline(never)]
    fn check(&self, gram: u32, value: &[u8], at: usize, found: &mut impl FnMut(Target)) {
        self.table.each(hash_word(gram.into(), G), |place| {
            let Some(place) = self.places.get(place as usize) else { return };
            let literal = &self.text[place.start as usize..][..place.len.into()];
            let start = at.checked_sub(place.offset.into());
            let there = start.and_then(|start| value.get(start..start + literal.len()));
            if there.is_some_and(|there| equal_folded(there, literal)) {
                found(place.target);
            }
        });
    }
}

/// A hash that is good in its upper bits, and quick: a filter takes these.
#[inline]
fn spread(gram: u32) -> u64 {
    u64::from(gram).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[inline]
fn gram<const G: usize>(bytes: &[u8], at: usize) -> u32 {
    if G == GRAMS[0] { quarter_word(bytes, at) } else { half_word(bytes, at) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn check<const G: usize>(literals: &[String], value: &str) {
        let literals: Vec<_> =
            literals.iter().map(String::as_bytes).zip(0..).filter(|(literal, _)| literal.len() >= G).collect();
        let mut found = BTreeSet::new();
        if let Some(grams) = Grams::<G>::new(&literals) {
            grams.each(value.as_bytes(), |target| {
                found.insert(target);
            });
        }
        let holds =
            |literal: &[u8]| value.to_ascii_lowercase().contains(&String::from_utf8_lossy(literal).to_lowercase());
        let expected: BTreeSet<_> =
            literals.iter().filter(|(literal, _)| holds(literal)).map(|(_, target)| *target).collect();
        assert_eq!(found, expected, "{value}");
    }

    proptest! {
        #[test]
        fn finds_each_literal_that_is_there(
            literals in prop::collection::vec("[abA]{2,12}", 0..12), value in "[abB]{0,40}", rare in "[a-z]{4,20}",
        ) {
            check::<2>(&literals, &value);
            check::<4>(&literals, &value);
            check::<4>(std::slice::from_ref(&rare), &format!("{value}{rare}{value}"));
        }
    }
}

//! The policies that may respond to one event.

use std::cell::Cell;

use super::table::Target;

/// How many candidates are kept without a look at the memory of the thread. An event has hardly ever more.
const FEW: usize = 32;

thread_local! {
    /// A bit for each policy, while there are more than a few candidates. Allocated once for a thread.
    static BITS: Cell<Vec<u64>> = const { Cell::new(Vec::new()) };
}

/// Numbers of policies, in any order, as often as one likes.
pub(super) struct Candidates {
    few: [Target; FEW],
    count: usize,
    /// In use once `few` was full.
    bits: Vec<u64>,
    many: bool,
}

impl Candidates {
    #[inline]
    pub(super) fn new() -> Self {
        Self { few: [0; FEW], count: 0, bits: Vec::new(), many: false }
    }

    #[inline]
    pub(super) fn push(&mut self, candidate: Target) {
        if !self.many && self.count < FEW {
            self.few[self.count] = candidate;
            self.count += 1;
        } else {
            self.push_to_many(candidate);
        }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Calls `each` for every candidate once, in rising order.
    pub(super) fn for_each(mut self, mut each: impl FnMut(Target)) {
        if !self.many {
            let few = &mut self.few[..self.count];
            few.sort_unstable();
            let mut last = None;
            for candidate in few {
                if last != Some(*candidate) {
                    last = Some(*candidate);
                    each(*candidate);
                }
            }
            return;
        }
        for (index, word) in self.bits.iter().enumerate() {
            let mut word = *word;
            while word != 0 {
                each((index * 64) as Target + word.trailing_zeros());
                word &= word - 1;
            }
        }
        self.bits.clear();
        BITS.set(self.bits);
    }

    #[cold]
    fn push_to_many(&mut self, candidate: Target) {
        if !self.many {
            self.many = true;
            // Whoever matches within a callback of a match finds none, and makes its own.
            self.bits = BITS.take();
            for candidate in self.few {
                self.set(candidate);
            }
        }
        self.set(candidate);
    }

    fn set(&mut self, candidate: Target) {
        let word = candidate as usize / 64;
        if word >= self.bits.len() {
            self.bits.resize(word + 1, 0);
        }
        self.bits[word] |= 1 << (candidate % 64);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn come_once_and_in_order(mut pushed in prop::collection::vec(0u32..300, 0..100)) {
            for _ in 0..2 {
                let mut candidates = Candidates::new();
                pushed.iter().for_each(|candidate| candidates.push(*candidate));
                assert_eq!(candidates.is_empty(), pushed.is_empty());
                let mut seen = Vec::new();
                candidates.for_each(|candidate| seen.push(candidate));
                let mut expected = pushed.clone();
                expected.sort_unstable();
                expected.dedup();
                prop_assert_eq!(seen, expected);
                pushed.reverse();
            }
        }
    }
}

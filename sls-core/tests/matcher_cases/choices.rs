//! Where a generator's decisions come from.

/// Decisions that follow from a seed, or from the bytes of a fuzzer.
#[derive(Debug)]
pub(crate) enum Choices<'b> {
    Seed(u64),
    /// When they are used up, every decision is the first.
    Bytes(&'b [u8]),
}

impl Choices<'_> {
    /// A number below `limit`, which is at most 65,536.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        let number = match limit {
            ..=256 => usize::from(self.byte()),
            _ => usize::from(self.byte()) << 8 | usize::from(self.byte()),
        };
        number % limit
    }

    /// True once in so many times; never when the bytes are used up.
    pub(crate) fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == times - 1
    }

    pub(crate) fn pick<'i, T>(&mut self, items: &'i [T]) -> &'i T {
        &items[self.below(items.len())]
    }

    fn byte(&mut self) -> u8 {
        match self {
            Self::Bytes([first, rest @ ..]) => {
                let byte = *first;
                *self = Self::Bytes(rest);
                byte
            }
            Self::Bytes([]) => 0,
            // SplitMix64.
            Self::Seed(state) => {
                *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                (mixed >> 56) as u8
            }
        }
    }
}

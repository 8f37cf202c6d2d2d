//! Hashes of bytes without regard to ASCII case.
//!
//! They have no key: the tables hold only what policies say, so values that collide on purpose cost the look at a policy
//! each, as values that match do.

/// Makes letters of either case the same, in each byte. Some other bytes become the same too: who asks must tolerate that.
const LOWER: u64 = 0x2020_2020_2020_2020;

const SEEDS: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03];

/// The hash of `bytes`.
#[inline]
pub(super) fn hash(bytes: &[u8]) -> u64 {
    let length = bytes.len() as u64;
    let mut state = SEEDS[0] ^ length;
    let mut rest = bytes;
    while rest.len() > 16 {
        state = mix(word(rest, 0) ^ state, word(rest, 8) ^ SEEDS[1]);
        rest = &rest[16..];
    }
    let (low, high) = if rest.len() >= 8 {
        (word(rest, 0), word(rest, rest.len() - 8))
    } else if rest.len() >= 4 {
        (u64::from(half_word(rest, 0)), u64::from(half_word(rest, rest.len() - 4)))
    } else {
        (rest.iter().fold(0, |word, byte| word << 8 | u64::from(byte | 0x20)), 0)
    };
    mix(low ^ state, high ^ SEEDS[1])
}

/// The hash of a word that stands for a text of some length.
#[inline]
pub(super) fn hash_word(word: u64, length: usize) -> u64 {
    mix(word ^ SEEDS[0], length as u64 ^ SEEDS[1])
}

/// The eight bytes from `at`, folded; fewer where the text ends.
#[inline]
pub(super) fn word(bytes: &[u8], at: usize) -> u64 {
    match bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        Some(chunk) => u64::from_le_bytes(*chunk) | LOWER,
        None => {
            let rest = bytes.get(at..).unwrap_or_default();
            let word = rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
            word | LOWER
        }
    }
}

/// The four bytes from `at`, folded; 0 where the text is shorter.
#[inline]
pub(super) fn half_word(bytes: &[u8], at: usize) -> u32 {
    let chunk = bytes.get(at..).and_then(|rest| rest.first_chunk());
    chunk.map_or(0, |chunk| u32::from_le_bytes(*chunk) | LOWER as u32)
}

/// The two bytes from `at`, folded; 0 where the text is shorter.
#[inline]
pub(super) fn quarter_word(bytes: &[u8], at: usize) -> u32 {
    let chunk = bytes.get(at..).and_then(|rest| rest.first_chunk());
    chunk.map_or(0, |chunk| u32::from(u16::from_le_bytes(*chunk) | LOWER as u16))
}

/// Whether two texts are the same after folding as [`word`] does.
#[inline]
pub(super) fn equal_folded(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a | 0x20 == b | 0x20)
}

#[inline]
fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn case_makes_no_difference(bytes in prop::collection::vec(any::<u8>(), 0..70)) {
            let (lower, upper) = (bytes.to_ascii_lowercase(), bytes.to_ascii_uppercase());
            prop_assert_eq!(hash(&lower), hash(&upper));
            prop_assert!(equal_folded(&lower, &upper));
            for at in 0..=bytes.len() {
                prop_assert_eq!(word(&lower, at), word(&upper, at));
                prop_assert_eq!(half_word(&lower, at), half_word(&upper, at));
                prop_assert_eq!(quarter_word(&lower, at), quarter_word(&upper, at));
            }
        }

        #[test]
        fn every_byte_counts(bytes in prop::collection::vec(any::<u8>(), 1..70), at: prop::sample::Index, flip in 0u32..5) {
            let mut other = bytes.clone();
            other[at.index(bytes.len())] ^= 1 << flip;
            prop_assert_ne!(hash(&bytes), hash(&other));
            prop_assert_ne!(hash(&bytes), hash(&bytes[1..]));
        }
    }
}

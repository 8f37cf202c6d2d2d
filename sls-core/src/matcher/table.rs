//! Hash tables from what policies say to who says it.

use std::collections::HashMap;

/// Who is looking for something, by number.
pub(super) type Target = u32;

/// Each target once, rising.
pub(super) fn unique(targets: impl IntoIterator<Item = Target>) -> Box<[Target]> {
    let mut targets: Vec<_> = targets.into_iter().collect();
    targets.sort_unstable();
    targets.dedup();
    targets.into()
}

/// Set in a slot whose value is a place in the list of targets.
const SEVERAL: u32 = 1 << 31;

/// No target.
const NONE: u32 = u32::MAX;

/// Targets by hash. Two keys with one hash are one key.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    /// Half as many again as keys or more, and a power of two. Empty if there is no key.
    slots: Box<[Slot]>,
    /// How many targets, then the targets, for each key that has several.
    several: Box<[Target]>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    /// The upper half of the hash; the lower is the place.
    tag: u32,
    /// The target, or where the targets are, or [`NONE`].
    value: u32,
}

impl Table {
    /// A table of these hashes and targets. Targets are less than 2^31.
    pub(super) fn new(entries: impl IntoIterator<Item = (u64, Target)>) -> Self {
        let mut entries: Vec<_> = entries.into_iter().collect();
        entries.sort_unstable();
        entries.dedup();
        if entries.is_empty() {
            return Self::default();
        }
        let keys = entries.chunk_by(|a, b| a.0 == b.0);
        let mut slots = vec![Slot { tag: 0, value: NONE }; (keys.clone().count() * 3 / 2 + 1).next_power_of_two()];
        let mut several = Vec::new();
        for key in keys {
            let hash = key[0].0;
            let value = match key {
                [(_, target)] => *target,
                targets => {
                    let at = several.len() as u32;
                    several.push(targets.len() as u32);
                    several.extend(targets.iter().map(|(_, target)| *target));
                    at | SEVERAL
                }
            };
            let mut at = hash as usize & (slots.len() - 1);
            while slots[at].value != NONE {
                at = (at + 1) & (slots.len() - 1);
            }
            slots[at] = Slot { tag: (hash >> 32) as u32, value };
        }
        Self { slots: slots.into(), several: several.into() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Calls `found` for each target of a hash, and perhaps for others.
    #[inline]
    pub(super) fn each(&self, hash: u64, mut found: impl FnMut(Target)) {
        let mask = self.slots.len().wrapping_sub(1);
        let mut at = hash as usize & mask;
        while let Some(slot) = self.slots.get(at) {
            if slot.value == NONE {
                return;
            }
            if slot.tag == (hash >> 32) as u32 {
                if slot.value & SEVERAL == 0 {
                    found(slot.value);
                } else {
                    let at = (slot.value & !SEVERAL) as usize;
                    let count = self.several[at] as usize;
                    self.several[at + 1..=at + count].iter().for_each(|target| found(*target));
                }
            }
            at = (at + 1) & mask;
        }
    }
}

/// Which hashes are certainly not in a table: small enough to stay in the nearest cache.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    bits: Box<[u64]>,
    /// How far a hash is shifted to become the number of a bit.
    shift: u32,
}

impl Filter {
    /// The most bits that a filter has: 32 KiB.
    const MAX_BITS: usize = 1 << 18;

    pub(super) fn new(hashes: impl ExactSizeIterator<Item = u64>) -> Self {
        let size = (hashes.len() * 32).next_power_of_two().clamp(64, Self::MAX_BITS);
        let mut bits = vec![0; size / 64];
        let shift = 64 - size.trailing_zeros();
        for hash in hashes {
            let bit = (hash >> shift) as usize;
            bits[bit / 64] |= 1 << (bit % 64);
        }
        Self { bits: bits.into(), shift }
    }

    #[inline]
    pub(super) fn may_have(&self, hash: u64) -> bool {
        let bit = (hash >> self.shift) as usize;
        // A shifted hash is less than the number of bits.
        self.bits.get(bit / 64).is_some_and(|word| word >> (bit % 64) & 1 != 0)
    }
}

/// How often something occurs.
#[derive(Debug)]
pub(super) struct Tally<K>(HashMap<K, u32>);

impl<K: std::hash::Hash + Eq> Default for Tally<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: std::hash::Hash + Eq> Tally<K> {
    pub(super) fn add(&mut self, key: K) {
        *self.0.entry(key).or_default() += 1;
    }

    pub(super) fn count(&self, key: &K) -> u32 {
        self.0.get(key).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn finds_all_targets_of_a_hash(
            entries in prop::collection::vec((prop_oneof![(0u64..8).prop_map(|hash| (hash << 32) | (hash % 3)), any::<u64>()], 0u32..50), 0..60),
            absent: u64,
        ) {
            let table = Table::new(entries.iter().copied());
            let filter = Filter::new(entries.iter().map(|(hash, _)| *hash));
            let mut expected: BTreeMap<u64, Vec<Target>> = BTreeMap::from([(absent, Vec::new())]);
            for (hash, target) in &entries {
                expected.entry(*hash).or_default().push(*target);
                prop_assert!(filter.may_have(*hash));
            }
            for (hash, targets) in &mut expected {
                targets.sort_unstable();
                targets.dedup();
                let mut found = Vec::new();
                table.each(*hash, |target| found.push(target));
                found.sort_unstable();
                prop_assert_eq!(&found, targets);
            }
        }
    }
}

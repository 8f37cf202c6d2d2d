//! Which ranges hold a number, and which networks an address.

use std::net::IpAddr;

use ipnet::IpNet;

use super::table::Target;

/// A range that covers more of the pieces, into which the bounds of all ranges cut the numbers, is looked at by itself.
const MAX_PIECES: usize = 32;

/// Inclusive ranges of numbers, each with a target.
#[derive(Clone, Debug)]
pub(super) struct Ranges<K> {
    /// Where a piece begins, rising. It ends where the next begins.
    starts: Box<[K]>,
    /// Where the targets of each piece are, and at last where they end.
    offsets: Box<[u32]>,
    targets: Box<[Target]>,
    /// Ranges of very many pieces.
    wide: Box<[(K, K, Target)]>,
}

impl<K> Default for Ranges<K> {
    fn default() -> Self {
        Self { starts: Box::default(), offsets: Box::default(), targets: Box::default(), wide: Box::default() }
    }
}

/// A number that has a next one.
pub(super) trait Number: Copy + Ord {
    /// The next number, if this is not the last.
    fn next(self) -> Option<Self>;
}

macro_rules! numbers {
    ($($kind:ty)*) => { $(impl Number for $kind {
        fn next(self) -> Option<Self> {
            self.checked_add(1)
        }
    })* };
}

numbers!(u32 u64 u128);

impl<K: Number> Ranges<K> {
    pub(super) fn new(ranges: &[(K, K, Target)]) -> Self {
        let bounds = ranges.iter().filter(|(from, to, _)| from <= to);
        let mut starts: Vec<K> = bounds.clone().flat_map(|(from, to, _)| [Some(*from), to.next()]).flatten().collect();
        starts.sort_unstable();
        starts.dedup();
        let mut pieces = Vec::new();
        let mut wide = Vec::new();
        for &(from, to, target) in bounds {
            let first = starts.partition_point(|start| *start < from);
            let end = starts.partition_point(|start| *start <= to);
            if end - first > MAX_PIECES {
                wide.push((from, to, target));
            } else {
                pieces.extend((first..end).map(|piece| (piece, target)));
            }
        }
        pieces.sort_unstable();
        pieces.dedup();
        let offset = |piece| pieces.partition_point(|(other, _)| *other < piece) as u32;
        Self {
            offsets: (0..=starts.len()).map(offset).collect(),
            targets: pieces.iter().map(|(_, target)| *target).collect(),
            starts: starts.into(),
            wide: wide.into(),
        }
    }

    /// Calls `found` for each range that holds `number`.
    #[inline]
    pub(super) fn each(&self, number: K, mut found: impl FnMut(Target)) {
        let piece = self.starts.partition_point(|start| *start <= number);
        if let Some(piece) = piece.checked_sub(1) {
            let (from, to) = (self.offsets[piece] as usize, self.offsets[piece + 1] as usize);
            self.targets[from..to].iter().for_each(|target| found(*target));
        }
        for (from, to, target) in &self.wide {
            if (*from..=*to).contains(&number) {
                found(*target);
            }
        }
    }
}

/// Which networks hold an address.
#[derive(Clone, Debug, Default)]
pub(super) struct Networks {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

impl Networks {
    pub(super) fn new(networks: impl IntoIterator<Item = (IpNet, Target)>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (network, target) in networks {
            match network {
                IpNet::V4(net) => v4.push((net.network().into(), net.broadcast().into(), target)),
                IpNet::V6(net) => v6.push((net.network().into(), net.broadcast().into(), target)),
            }
        }
        Self { v4: Ranges::new(&v4), v6: Ranges::new(&v6) }
    }

    /// Calls `found` for each network that holds `address`.
    pub(super) fn each(&self, address: IpAddr, found: impl FnMut(Target)) {
        match address {
            IpAddr::V4(address) => self.v4.each(address.into(), found),
            IpAddr::V6(address) => self.v6.each(address.into(), found),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number() -> impl Strategy<Value = u32> {
        prop_oneof![0u32..60, u32::MAX - 3..=u32::MAX]
    }

    proptest! {
        #[test]
        fn finds_what_holds_the_number(bounds in prop::collection::vec((number(), number()), 0..90), wanted in number()) {
            let ranges: Vec<_> = bounds.iter().zip(0..).map(|((from, to), target)| (*from, *to, target)).collect();
            let mut found = Vec::new();
            Ranges::new(&ranges).each(wanted, |target| found.push(target));
            found.sort_unstable();
            let holds = |&&(from, to, _): &&(u32, u32, u32)| from <= wanted && wanted <= to;
            let expected: Vec<_> = ranges.iter().filter(holds).map(|(_, _, target)| *target).collect();
            prop_assert_eq!(found, expected);
        }
    }
}

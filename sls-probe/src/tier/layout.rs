//! Keys and values of the tier's maps, as `bpf/tier.h` has them.

use std::collections::BTreeSet;

use sls_core::{Mechanism, Policy};

/// The longest path in a key.
pub(crate) const PATH_BYTES: usize = 252;
/// Atoms and policies of an entry.
pub(crate) const ENTRY_ATOMS: usize = 16;
pub(crate) const ENTRY_POLICIES: usize = 16;
/// Policies that are asked about everything.
pub(crate) const ALWAYS: usize = 32;
/// Tests of a policy.
pub(crate) const POLICY_TESTS: usize = 64;
/// Verdicts that a record has room for.
pub(crate) const VERDICTS: usize = 4;

/// `struct tier_detail`.
pub(crate) const DETAIL_BYTES: usize = 8 + 8 * VERDICTS;

/// The same on every architecture that the programs run on.
pub(crate) const SIGKILL: u8 = 9;
pub(crate) const SIGSTOP: u8 = 19;

pub(crate) const ACTION_BLOCK: u32 = 1 << 8;

/// `enum tier_event`.
pub(crate) mod event {
    pub(crate) const EXEC: u32 = 1 << 0;
    pub(crate) const FILE: u32 = 1 << 1;
    pub(crate) const CONNECT: u32 = 1 << 2;
    pub(crate) const PTRACE: u32 = 1 << 3;
    pub(crate) const MODULE: u32 = 1 << 4;
    pub(crate) const FILE_OLD: u32 = 1 << 5;
    pub(crate) const EXEC_ASKED: u32 = 1 << 6;
}

pub(crate) mod test {
    pub(crate) const ALWAYS: u8 = 0;
    pub(crate) const PROGRAM: u8 = 1;
    pub(crate) const PARENT: u8 = 2;
    pub(crate) const OBJECT: u8 = 3;
    pub(crate) const UID: u8 = 4;
    pub(crate) const GID: u8 = 5;
    pub(crate) const EUID: u8 = 6;
    pub(crate) const EGID: u8 = 7;
    pub(crate) const INODE: u8 = 8;
    pub(crate) const DEVICE: u8 = 9;
    pub(crate) const PID: u8 = 10;
    pub(crate) const PARENT_PID: u8 = 11;
    pub(crate) const TARGET_PID: u8 = 12;
    pub(crate) const PORT: u8 = 13;
    pub(crate) const MEMFD: u8 = 14;
    pub(crate) const DELETED: u8 = 15;
    pub(crate) const OPERATION: u8 = 16;
    pub(crate) const PROTOCOL: u8 = 17;
    pub(crate) const NETWORK: u8 = 18;
}

pub(crate) mod flag {
    pub(crate) const NEGATED: u8 = 1 << 0;
    pub(crate) const LAST: u8 = 1 << 1;
    pub(crate) const MATCHES: u8 = 1 << 2;
    pub(crate) const OR: u8 = 1 << 3;
}

/// Of the paths of programs that are protected.
pub(crate) const ATOM_PROTECTED: u16 = u16::MAX;

/// Beginnings of topmost directories that a head has room for.
pub(crate) const ROOTS: usize = 4;

/// In place of the first: they do not fit, so everything has to be looked up.
pub(crate) const ALL_ROOTS: u32 = u32::MAX;

/// What came of a match, as `enum tier_result`.
pub(crate) const RESULT_DONE: u8 = 1;

/// Of a policy's name.
const NAME_BYTES: usize = 120;

const GUARD_PID: u32 = 1;
const GUARD_CGROUP: u32 = 2;

/// `struct tier_entry`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) atoms: BTreeSet<u16>,
    pub(crate) policies: BTreeSet<u16>,
}

impl Entry {
    pub(crate) fn join(&mut self, other: &Self) {
        self.atoms.extend(&other.atoms);
        self.policies.extend(&other.policies);
    }

    pub(crate) fn fits(&self) -> bool {
        self.atoms.len() <= ENTRY_ATOMS && self.policies.len() <= ENTRY_POLICIES
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(2 * (ENTRY_ATOMS + ENTRY_POLICIES));
        for (numbers, room) in [(&self.atoms, ENTRY_ATOMS), (&self.policies, ENTRY_POLICIES)] {
            let padded = numbers.iter().copied().chain(std::iter::repeat(0)).take(room);
            bytes.extend(padded.flat_map(u16::to_ne_bytes));
        }
        bytes
    }
}

/// `struct tier_test`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Test {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) rule: u16,
    pub(crate) a: u32,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// `struct tier_policy`; of the tests no more than [`POLICY_TESTS`].
pub(crate) fn policy(tests: &[Test], action: u32, events: u32, operations: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(16 + 24 * POLICY_TESTS);
    for number in [tests.len() as u32, action, events, operations] {
        bytes.extend(number.to_ne_bytes());
    }
    for test in tests {
        bytes.extend([test.kind, test.flags]);
        bytes.extend(test.rule.to_ne_bytes());
        bytes.extend(test.a.to_ne_bytes());
        bytes.extend(test.from.to_ne_bytes());
        bytes.extend(test.to.to_ne_bytes());
    }
    bytes.resize(16 + 24 * POLICY_TESTS, 0);
    bytes
}

/// `struct tier_head`: sets of events, but for the namespaces of the host, of which 0 is none, and `cgroups`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) files: u32,
    pub(crate) beginnings: u32,
    pub(crate) ends: u32,
    pub(crate) programs: u32,
    pub(crate) parents: u32,
    pub(crate) events: u32,
    pub(crate) pid_namespace: u32,
    pub(crate) mount_namespace: u32,
    /// Whether some cgroups are protected.
    pub(crate) cgroups: bool,
    /// Those that the policies of `always` are about.
    pub(crate) always_events: u32,
    /// How the topmost directories begin below which a beginning is protected.
    pub(crate) roots: BTreeSet<u32>,
    pub(crate) always: Vec<u16>,
}

impl Head {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let numbers = [
            self.files,
            self.beginnings,
            self.ends,
            self.programs,
            self.parents,
            self.events,
            self.pid_namespace,
            self.mount_namespace,
            self.cgroups.into(),
            self.always_events,
        ];
        let mut bytes: Vec<u8> = numbers.into_iter().flat_map(u32::to_ne_bytes).collect();
        let fits = self.roots.len() <= ROOTS && !self.roots.contains(&ALL_ROOTS);
        let roots: Vec<u32> = if fits { self.roots.iter().copied().collect() } else { vec![ALL_ROOTS] };
        bytes.extend(roots.into_iter().chain(std::iter::repeat(0)).take(ROOTS).flat_map(u32::to_ne_bytes));
        let always = self.always.iter().copied().chain(std::iter::repeat(0)).take(ALWAYS);
        bytes.extend(always.flat_map(u16::to_ne_bytes));
        bytes
    }
}

/// `struct tier_number`.
pub(crate) fn number_key(generation: u32, policy: u16) -> Vec<u8> {
    [generation, policy.into()].into_iter().flat_map(u32::to_ne_bytes).collect()
}

/// `struct tier_path`: of an absolute path of no more than [`PATH_BYTES`].
pub(crate) fn path_key(generation: u32, path: &[u8]) -> Vec<u8> {
    let mut key = generation.to_ne_bytes().to_vec();
    for name in path.split(|byte| *byte == b'/').rev().filter(|name| !name.is_empty()) {
        key.extend_from_slice(name);
        key.push(0);
    }
    key.resize(4 + PATH_BYTES, 0);
    key
}

/// `struct tier_prefix`: of the beginning of a path, or of the beginning of one that is turned round.
pub(crate) fn prefix_key(generation: u32, beginning: &[u8]) -> Vec<u8> {
    let mut key = (32 + 8 * beginning.len() as u32).to_ne_bytes().to_vec();
    key.extend(generation.to_ne_bytes());
    key.extend_from_slice(beginning);
    key.resize(8 + PATH_BYTES, 0);
    key
}

/// `struct tier_file`: of a file as stat(2) knows it. None if the kernel could not have such a device.
pub(crate) fn file_key(generation: u32, (device, inode): (u64, u64)) -> Option<Vec<u8>> {
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    if major >> 12 != 0 || minor >> 20 != 0 {
        return None;
    }
    let mut key = inode.to_ne_bytes().to_vec();
    key.extend(((major << 20 | minor) as u32).to_ne_bytes());
    key.extend(generation.to_ne_bytes());
    Some(key)
}

/// `struct tier_allowance`.
pub(crate) fn allowance(allowed: u64) -> Vec<u8> {
    [allowed, 0].into_iter().flat_map(u64::to_ne_bytes).collect()
}

/// `struct tier_name`: what tells a policy, in the same words, from others.
pub(crate) fn name(policy: &Policy, mechanism: Mechanism) -> Vec<u8> {
    // FNV-1a: it has to be the same in every version.
    let fnv = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let rules = policy.rules.iter().flat_map(|rule| rule.text.as_bytes().iter().chain(b"\n"));
    let text = rules.chain(mechanism.name().as_bytes()).chain(policy.name.as_bytes());
    let mut bytes = text.fold(0xcbf2_9ce4_8422_2325, fnv).to_ne_bytes().to_vec();
    bytes.extend(policy.name.bytes().take(NAME_BYTES));
    bytes.resize(8 + NAME_BYTES, 0);
    bytes
}

/// A guard: `struct tier_guard_key` without its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum GuardKey {
    Pid(u32),
    Cgroup(u64),
}

impl GuardKey {
    pub(crate) fn to_bytes(self, generation: u32) -> Vec<u8> {
        let (value, kind) = match self {
            Self::Pid(pid) => (pid.into(), GUARD_PID),
            Self::Cgroup(id) => (id, GUARD_CGROUP),
        };
        let mut key = value.to_ne_bytes().to_vec();
        key.extend(generation.to_ne_bytes());
        key.extend(kind.to_ne_bytes());
        key
    }
}

/// `struct tier_guard`: the start in steps, and the step in nanoseconds; 0 is whenever it started.
pub(crate) fn guard(start: u64, step: u64) -> Vec<u8> {
    [start, step].into_iter().flat_map(u64::to_ne_bytes).collect()
}

/// One verdict of `struct tier_detail`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) policy: u16,
    pub(crate) rule: u16,
    pub(crate) result: u8,
    /// A signal; 0: it was refused.
    pub(crate) action: u8,
}

/// What a record says of the tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdicts<'r> {
    pub(crate) generation: u32,
    bytes: &'r [u8],
}

impl<'r> Verdicts<'r> {
    /// None if the tier had nothing to say.
    pub(crate) fn of(detail: &'r [u8]) -> Option<Self> {
        let (head, rest) = detail.split_first_chunk::<8>()?;
        let count = usize::from(u16::from_le_bytes([head[4], head[5]])).min(VERDICTS);
        let bytes = rest.get(..8 * count).filter(|bytes| !bytes.is_empty())?;
        Some(Self { generation: u32::from_le_bytes([head[0], head[1], head[2], head[3]]), bytes })
    }

    /// What was carried out; of several, what is final.
    pub(crate) fn acted(&self) -> Option<Verdict> {
        let done = || self.iter().filter(|verdict| verdict.result == RESULT_DONE);
        done().find(|verdict| verdict.action == SIGKILL).or_else(|| done().next())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Verdict> + use<'r> {
        self.bytes.chunks_exact(8).map(|bytes| Verdict {
            policy: u16::from_le_bytes([bytes[0], bytes[1]]),
            rule: u16::from_le_bytes([bytes[2], bytes[3]]),
            result: bytes[4],
            action: bytes[5],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_as_long_as_the_maps_have_them() {
        assert_eq!(path_key(7, b"/usr/bin/sh").len(), 256);
        assert!(path_key(7, b"/usr/bin/sh")[4..].starts_with(b"sh\0bin\0usr\0\0"));
        let prefix = prefix_key(7, b"/opt/");
        assert_eq!((prefix.len(), u32::from_ne_bytes([prefix[0], prefix[1], prefix[2], prefix[3]])), (260, 72));
        assert_eq!(file_key(7, (0x801, 9)).unwrap().len(), 16);
        assert_eq!(number_key(1, 2).len(), 8);
        assert_eq!(GuardKey::Cgroup(1).to_bytes(2).len(), 16);
        assert_eq!(Head::default().to_bytes().len(), 120);
        assert_eq!(policy(&[], 0, 0, 0).len(), 16 + 24 * POLICY_TESTS);
        assert_eq!(Entry::default().to_bytes().len(), 64);
    }

    #[test]
    fn verdicts_are_read_back() {
        let mut detail = vec![5, 0, 0, 0, 1, 0, 0, 0];
        detail.extend([2, 0, 3, 0, RESULT_DONE, 9, 0, 0]);
        detail.resize(DETAIL_BYTES, 0);
        let verdicts = Verdicts::of(&detail).unwrap();
        assert_eq!(verdicts.generation, 5);
        let one = Verdict { policy: 2, rule: 3, result: RESULT_DONE, action: 9 };
        assert_eq!(verdicts.iter().collect::<Vec<_>>(), [one]);
        assert_eq!(Verdicts::of(&[0; DETAIL_BYTES]), None);
        assert_eq!(Verdicts::of(&[]), None);
    }
}

//! From lowered policies to what the maps of the kernel tier hold.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use ipnet::IpNet;
use sls_core::{
    Action, EventKind, Field, FieldKind, Guards, HOST_PID_NAMESPACE, KernelPolicy, KernelSet, KernelTest, Mechanism,
    PathSet, Policy, Protected, RuleVerdict, Tiers,
};

use super::error::TierError;
use super::layout::{self, Entry, GuardKey, Head, Test, flag, test};

/// What a generation of the maps holds, without its number.
#[derive(Debug, Default)]
pub(crate) struct Image {
    pub(crate) head: Head,
    /// Each with its number, from 1 on.
    pub(crate) policies: Vec<Numbered>,
    pub(crate) paths: BTreeMap<Box<[u8]>, Entry>,
    /// Of the files that have these names now.
    pub(crate) named: BTreeMap<Box<[u8]>, Entry>,
    pub(crate) beginnings: BTreeMap<Box<[u8]>, Entry>,
    /// Turned round.
    pub(crate) ends: BTreeMap<Box<[u8]>, Entry>,
    /// Beginnings of programs' paths; with a NUL at the end the path is whole.
    pub(crate) protected: BTreeSet<Box<[u8]>>,
    pub(crate) guards: BTreeMap<GuardKey, (u64, u64)>,
}

/// A policy in the maps.
#[derive(Debug)]
pub(crate) struct Numbered {
    pub(crate) number: u16,
    pub(crate) policy: Arc<Policy>,
    pub(crate) mechanism: Mechanism,
    /// `struct tier_policy`.
    pub(crate) value: Vec<u8>,
}

/// What is decided in the kernel, and by what.
pub(crate) const DECIDED: [(Mechanism, EventKind); 7] = [
    (Mechanism::ExecSignal, EventKind::Exec),
    (Mechanism::Lsm, EventKind::Exec),
    (Mechanism::Lsm, EventKind::File),
    (Mechanism::Lsm, EventKind::Connect),
    (Mechanism::Lsm, EventKind::Ptrace),
    (Mechanism::Lsm, EventKind::Module),
    (Mechanism::CgroupConnect, EventKind::Connect),
];

impl Image {
    /// What the maps hold for these policies.
    ///
    /// # Errors
    /// When a policy needs what the programs do not have, or more than the maps have room for.
    pub(crate) fn of(tiers: &Tiers, guards: &Guards) -> Result<Self, TierError> {
        let mut image = Self::default();
        image.add_guards(guards);
        let mut atoms = Atoms::default();
        for (mechanism, kind) in DECIDED {
            for policy in tiers.kernel_policies(mechanism, kind) {
                image.add(policy, mechanism, &mut atoms)?;
            }
        }
        close(&mut image.beginnings);
        close(&mut image.ends);
        let events = image.head.events;
        for (map, present) in [
            (&image.named, &mut image.head.files),
            (&image.beginnings, &mut image.head.beginnings),
            (&image.ends, &mut image.head.ends),
        ] {
            *present = if map.is_empty() { 0 } else { events };
        }
        image.check()?;
        Ok(image)
    }

    fn add(&mut self, policy: &KernelPolicy, mechanism: Mechanism, atoms: &mut Atoms) -> Result<(), TierError> {
        let name = &policy.policy.name;
        let number = u16::try_from(self.policies.len() + 1).unwrap_or(0);
        if number == 0 {
            return Err(TierError::room(name, "policies before it", usize::from(u16::MAX)));
        }
        let event = event_bits(policy, mechanism).ok_or_else(|| TierError::unsupported(name, policy.kind.name()))?;
        let mut tests = Vec::new();
        let mut anchored = true;
        for rule in &policy.rules {
            let matches = rule.verdict == RuleVerdict::Match;
            let first = tests.len();
            let mut anchor: Option<&KernelTest> = None;
            for kernel_test in &rule.tests {
                let follows = matches && follows_identity(kernel_test);
                self.encode(kernel_test, follows, atoms, &mut tests)
                    .ok_or_else(|| TierError::unsupported(name, kernel_test.field.name()))?;
                if is_anchor(policy.kind, kernel_test)
                    && anchor.is_none_or(|anchor| kernel_test.set.len() < anchor.set.len())
                {
                    anchor = Some(kernel_test);
                }
            }
            if rule.tests.is_empty() {
                tests.push(Test { kind: test::ALWAYS, ..Test::default() });
            }
            if let Some(last) = tests.last_mut() {
                last.flags |= flag::LAST | if matches { flag::MATCHES } else { 0 };
            }
            let index = u16::try_from(rule.rule).unwrap_or(u16::MAX);
            tests[first..].iter_mut().for_each(|test| test.rule = index);
            match anchor.map(|test| (&test.set, follows_identity(test))) {
                Some((KernelSet::Paths(paths), follows)) if matches => {
                    self.spread(paths, follows, &|entry| _ = entry.policies.insert(number));
                }
                _ => anchored &= !matches,
            }
        }
        if tests.len() > layout::POLICY_TESTS {
            return Err(TierError::room(name, "tests in a policy", layout::POLICY_TESTS));
        }
        if !anchored {
            self.head.always.push(number);
            self.head.always_events |= event;
        }
        if self.head.always.len() > layout::ALWAYS {
            return Err(TierError::room(name, "policies without a path to find them by", layout::ALWAYS));
        }
        let mentions = |field| policy.rules.iter().flat_map(|rule| &rule.tests).any(|test| test.field == field);
        self.head.events |= event;
        self.head.parents |= if mentions(Field::ParentProgramName) { event } else { 0 };
        let anchored_by_program = |field| mentions(Field::ProgramName) && !mentions(field);
        self.head.programs |= if anchored_by_program(object(policy.kind)) { event } else { 0 };
        let operations = operation_bits(policy);
        let value = layout::policy(&tests, action_of(policy, mechanism), event, operations);
        self.policies.push(Numbered { number, policy: policy.policy.clone(), mechanism, value });
        Ok(())
    }

    /// Adds one test, or several that are joined. None if the programs have no such test.
    fn encode(&mut self, from: &KernelTest, follows: bool, atoms: &mut Atoms, tests: &mut Vec<Test>) -> Option<()> {
        let first = tests.len();
        match &from.set {
            KernelSet::Paths(paths) => {
                let kind = match from.field {
                    Field::ProgramName => test::PROGRAM,
                    Field::ParentProgramName => test::PARENT,
                    Field::FilePath | Field::TargetProgramName => test::OBJECT,
                    _ => return None,
                };
                let (atom, new) = atoms.of(paths, follows)?;
                if new {
                    self.spread(paths, follows, &|entry| _ = entry.atoms.insert(atom));
                }
                tests.push(Test { kind, a: atom.into(), ..Test::default() });
            }
            KernelSet::Numbers(ranges) => {
                let kind = number_kind(from.field)?;
                tests.extend(ranges.iter().map(|(from, to)| Test { kind, from: *from, to: *to, ..Test::default() }));
                if ranges.is_empty() {
                    // No number is in it.
                    tests.push(Test { kind, from: 1, to: 0, ..Test::default() });
                }
            }
            KernelSet::Networks(networks) => {
                tests.extend(networks.iter().map(network));
                if networks.is_empty() {
                    return None;
                }
            }
            KernelSet::Names(bits) => {
                let kind = match from.field {
                    Field::FileOperation | Field::ModuleOperation => test::OPERATION,
                    Field::Protocol => test::PROTOCOL,
                    _ => return None,
                };
                tests.push(Test { kind, from: u64::from(*bits), ..Test::default() });
            }
            KernelSet::True => {
                let kind = match from.field {
                    Field::ProgramIsMemfd => test::MEMFD,
                    Field::ProgramIsDeleted => test::DELETED,
                    _ => return None,
                };
                tests.push(Test { kind, ..Test::default() });
            }
            _ => return None,
        }
        let (last, others) = tests[first..].split_last_mut()?;
        others.iter_mut().for_each(|test| test.flags |= flag::OR);
        last.flags |= if from.negated { flag::NEGATED } else { 0 };
        Some(())
    }

    /// Does something to each entry of what is in a set.
    fn spread(&mut self, paths: &PathSet, follows: bool, add: &dyn Fn(&mut Entry)) {
        for path in &paths.whole {
            add(self.paths.entry(path.clone()).or_default());
            if follows {
                add(self.named.entry(path.clone()).or_default());
            }
        }
        for beginning in &paths.beginnings {
            add(self.beginnings.entry(beginning.clone()).or_default());
        }
        for end in &paths.ends {
            add(self.ends.entry(end.iter().rev().copied().collect()).or_default());
        }
    }

    /// What the kernel is not to act on. Where it cannot tell as exactly as the guards do, it leaves more to user space.
    fn add_guards(&mut self, guards: &Guards) {
        self.head.pid_namespace = HOST_PID_NAMESPACE;
        self.head.mount_namespace = guards.known_mount_namespace().unwrap_or(0);
        for guard in guards.iter() {
            match &guard.protects {
                Protected::Pid(pid) => {
                    self.guards.insert(GuardKey::Pid(*pid), (0, 0));
                }
                Protected::Process { key, resolution } => {
                    let step = (*resolution).max(1);
                    // Two of one pid cannot both live: what is protected twice is protected whenever it started.
                    let entry = self.guards.entry(GuardKey::Pid(key.pid));
                    entry.and_modify(|other| *other = (0, 0)).or_insert((key.start / step, step));
                }
                Protected::Cgroup(id) => {
                    self.head.cgroups = true;
                    self.guards.insert(GuardKey::Cgroup(*id), (0, 0));
                }
                Protected::Program(pattern) => self.protect(literal_start(pattern)),
                // Kernel threads execute nothing, and each process here has an identity. Files and actions are nothing that
                // is signalled.
                _ => {}
            }
        }
    }

    fn protect(&mut self, start: Box<[u8]>) {
        match start.split_last() {
            Some((0, path)) if path.starts_with(b"/") => {
                self.paths.entry(path.into()).or_default().atoms.insert(layout::ATOM_PROTECTED);
            }
            _ => {
                self.head.roots.insert(root_of(&start));
                self.protected.insert(start);
            }
        }
    }

    fn check(&self) -> Result<(), TierError> {
        let maps = [
            ("policies", self.policies.len(), super::MAX_TIER_POLICIES),
            ("paths", self.paths.len().max(self.named.len()), super::MAX_TIER_PATHS),
            ("beginnings of paths", self.beginnings.len().max(self.protected.len()), super::MAX_TIER_PATTERNS),
            ("ends of paths", self.ends.len(), super::MAX_TIER_PATTERNS),
            ("guards", self.guards.len(), super::MAX_TIER_GUARDS),
        ];
        for (what, needed, limit) in maps {
            if needed > limit {
                return Err(TierError::Full { what, needed, limit });
            }
        }
        for map in [&self.paths, &self.named, &self.beginnings, &self.ends] {
            if let Some((path, _)) = map.iter().find(|(_, entry)| !entry.fits()) {
                let path = String::from_utf8_lossy(path).into_owned();
                return Err(TierError::Crowded { path, limit: layout::ENTRY_POLICIES });
            }
        }
        Ok(())
    }
}

/// The atoms that there are: one for each set of paths that a test asks for.
#[derive(Default)]
struct Atoms(HashMap<(PathSetKey, bool), u16>);

type PathSetKey = [BTreeSet<Box<[u8]>>; 3];

impl Atoms {
    /// The atom of a set, and whether it is new. None if there are no more.
    fn of(&mut self, paths: &PathSet, follows: bool) -> Option<(u16, bool)> {
        let next = u16::try_from(self.0.len() + 1).ok().filter(|atom| *atom < layout::ATOM_PROTECTED)?;
        let key = ([paths.whole.clone(), paths.beginnings.clone(), paths.ends.clone()], follows);
        let atom = *self.0.entry(key).or_insert(next);
        Some((atom, atom == next))
    }
}

/// The longest beginning is found, so it has to have what is true of the shorter ones.
fn close(map: &mut BTreeMap<Box<[u8]>, Entry>) {
    // In order, each comes right after those that it begins with, and others that begin with the same.
    let mut above: Vec<(Box<[u8]>, Entry)> = Vec::new();
    for (beginning, entry) in map.iter_mut() {
        while above.pop_if(|(shorter, _)| !beginning.starts_with(shorter)).is_some() {}
        if let Some((_, shorter)) = above.last() {
            entry.join(shorter);
        }
        above.push((beginning.clone(), entry.clone()));
    }
}

/// What the policy does there.
fn action_of(policy: &KernelPolicy, mechanism: Mechanism) -> u32 {
    let actions = policy.policy.actions;
    match mechanism {
        Mechanism::ExecSignal if actions.contains(Action::Kill) => layout::SIGKILL.into(),
        Mechanism::ExecSignal => layout::SIGSTOP.into(),
        _ => layout::ACTION_BLOCK,
    }
}

/// The events that the policy is asked about.
fn event_bits(policy: &KernelPolicy, mechanism: Mechanism) -> Option<u32> {
    use layout::event;
    Some(match policy.kind {
        EventKind::Exec if mechanism == Mechanism::ExecSignal => event::EXEC,
        EventKind::Exec => event::EXEC_ASKED,
        EventKind::File if policy.under_old_name => event::FILE | event::FILE_OLD,
        EventKind::File => event::FILE,
        EventKind::Connect => event::CONNECT,
        EventKind::Ptrace => event::PTRACE,
        EventKind::Module => event::MODULE,
        _ => return None,
    })
}

/// What is acted upon in events of a kind, by its path.
fn object(kind: EventKind) -> Field {
    match kind {
        EventKind::File => Field::FilePath,
        EventKind::Ptrace => Field::TargetProgramName,
        // The program itself, or nothing that has a path.
        _ => Field::NewFilePath,
    }
}

/// The operations that the policy responds to, as bits in the order of the schema.
fn operation_bits(policy: &KernelPolicy) -> u32 {
    let field = match policy.kind {
        EventKind::File => Field::FileOperation,
        EventKind::Module => Field::ModuleOperation,
        EventKind::Connect => Field::Protocol,
        _ => return 0,
    };
    let FieldKind::Enum(names) = field.kind() else { return 0 };
    let bit = |(bit, name): (usize, &&str)| if policy.operations.contains(name) { 1 << bit } else { 0 };
    names.iter().enumerate().map(bit).sum()
}

/// Whether a test is one of those that [`KernelPolicy::identified`] gives.
fn follows_identity(test: &KernelTest) -> bool {
    test.field == Field::ProgramName && !test.negated
}

/// Whether a rule that has this test is found by its paths.
fn is_anchor(kind: EventKind, test: &KernelTest) -> bool {
    let role = match kind {
        EventKind::Exec => test.field == Field::ProgramName,
        _ => matches!(test.field, Field::ProgramName | Field::FilePath | Field::TargetProgramName),
    };
    // One that every path has, finds nothing.
    role && !test.negated
        && matches!(&test.set, KernelSet::Paths(paths) if paths.beginnings.iter().chain(&paths.ends).all(|part| !part.is_empty()))
}

fn number_kind(field: Field) -> Option<u8> {
    Some(match field {
        Field::Uid => test::UID,
        Field::Gid => test::GID,
        Field::Euid => test::EUID,
        Field::Egid => test::EGID,
        Field::ProgramInode => test::INODE,
        Field::ProgramDevice => test::DEVICE,
        Field::ProcessPid => test::PID,
        Field::ParentPid => test::PARENT_PID,
        Field::TargetPid => test::TARGET_PID,
        Field::RemotePort => test::PORT,
        _ => return None,
    })
}

fn network(network: &IpNet) -> Test {
    let (address, bits) = match network {
        IpNet::V4(network) => (network.network().to_ipv6_mapped(), 96 + network.prefix_len()),
        IpNet::V6(network) => (network.network(), network.prefix_len()),
    };
    let address = u128::from(address);
    Test { kind: test::NETWORK, a: bits.into(), from: (address >> 64) as u64, to: address as u64, ..Test::default() }
}

/// What everything that a pattern matches begins with; with a NUL if it matches nothing else.
fn literal_start(pattern: &str) -> Box<[u8]> {
    let mut start = Vec::new();
    let mut bytes = pattern.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'*' => return cut(start),
            b'\\' => start.extend(bytes.next()),
            byte => start.push(byte),
        }
    }
    start.push(0);
    cut(start)
}

/// How the topmost directory of what begins so begins, with its NUL if it is short: four bytes as the kernel compares them.
fn root_of(beginning: &[u8]) -> u32 {
    let mut names = beginning.split(|byte| *byte == b'/');
    match (names.next(), names.next(), names.next()) {
        (Some(b""), Some(root), Some(_)) if !root.is_empty() => {
            let mut bytes = [0; 4];
            bytes.iter_mut().zip(root).for_each(|(byte, of_root)| *byte = *of_root);
            u32::from_ne_bytes(bytes)
        }
        // The directory may go on, or be any.
        _ => layout::ALL_ROOTS,
    }
}

/// As much as a key has room for.
fn cut(mut start: Vec<u8>) -> Box<[u8]> {
    start.truncate(layout::PATH_BYTES);
    start.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longer_beginnings_have_what_shorter_ones_have() {
        let entry = |policy| Entry { policies: [policy].into(), ..Entry::default() };
        let mut map: BTreeMap<Box<[u8]>, Entry> = BTreeMap::new();
        for (beginning, policy) in [("/a/", 1), ("/a/b", 2), ("/a/b/c/", 3), ("/a/bd", 4), ("/b/", 5)] {
            map.insert(beginning.as_bytes().into(), entry(policy));
        }
        close(&mut map);
        let of = |beginning: &str| map[beginning.as_bytes()].policies.iter().copied().collect::<Vec<_>>();
        assert_eq!(of("/a/"), [1]);
        assert_eq!(of("/a/b"), [1, 2]);
        assert_eq!(of("/a/b/c/"), [1, 2, 3]);
        assert_eq!(of("/a/bd"), [1, 2, 4]);
        assert_eq!(of("/b/"), [5]);
    }

    #[test]
    fn what_is_protected_is_never_less_than_the_pattern() {
        assert_eq!(&*literal_start("/usr/bin/crun"), b"/usr/bin/crun\0");
        assert_eq!(&*literal_start("/snap/docker/*/bin/dockerd"), b"/snap/docker/");
        assert_eq!(&*literal_start(r"/opt/a\*b"), b"/opt/a*b\0");
        assert_eq!(&*literal_start("*/x"), b"");
        assert_eq!(literal_start(&"/x".repeat(200)).len(), layout::PATH_BYTES);
    }

    #[test]
    fn topmost_directory_tells_what_may_be_protected() {
        assert_eq!(root_of(b"/var/lib/x"), u32::from_ne_bytes(*b"var\0"));
        assert_eq!(root_of(b"/snap/docker/"), u32::from_ne_bytes(*b"snap"));
        assert_eq!(root_of(b"/a/"), u32::from_ne_bytes(*b"a\0\0\0"));
        for any in [&b"/va"[..], b"", b"x/y", b"//x"] {
            assert_eq!(root_of(any), layout::ALL_ROOTS);
        }
    }

    #[test]
    fn ipv4_networks_are_mapped() {
        let test = network(&"10.1.0.0/16".parse().unwrap());
        assert_eq!((test.a, test.from, test.to), (112, 0, 0xffff_0a01_0000));
    }
}

//! What the loaded policies can be raised by, so that a source watches that and nothing else.

mod narrow;
mod paths;
mod possible;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::event::{Event, EventKind, Value};
use crate::history::CHANGES;
use crate::policy::{Policy, PolicySet, PolicyType};
use crate::schema::{Field, FieldKind};
use crate::trigger::{TypeOptions, raises};
use crate::truth::Truth;

pub use narrow::MAX_INTEREST_PORTS;
pub(crate) use narrow::Narrow;
use narrow::Ports;
pub use paths::{MAX_INTEREST_PATHS, PathInterest};

/// The events that policies look at. Others raise none of them: a source need not give them, and they are best left out
/// where they arise, in the kernel.
///
/// What keeps the process table (exec, fork, exit, baseline) is always needed and is not spoken of here.
///
/// ```
/// use sls_core::{EventKind, PathInterest, PolicySet};
///
/// let policies = PolicySet::from_yaml("policy.yaml", r#"
/// Cron:
///   policy: file
///   rules: ['match filePath == "/etc/cron*"', default ignore]
/// "#)?;
/// let interest = policies.interest();
/// assert!(interest.wants_value(EventKind::File, "CREATE") && !interest.wants_value(EventKind::File, "UNLINK"));
/// let PathInterest::Under(paths) = interest.paths("CREATE") else { panic!("any path") };
/// assert!(paths.contains(&b"etc"[..]));
/// assert!(!interest.wants_kind(EventKind::Connect));
/// # Ok::<(), sls_core::Diagnostics>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Interest {
    kinds: Vec<EventKind>,
    /// Of kinds that have a [`choice`]: the values that are wanted.
    values: BTreeMap<&'static str, BTreeSet<&'static str>>,
    /// By file operation.
    paths: BTreeMap<&'static str, PathInterest>,
    /// Of outbound connections.
    ports: Ports,
    /// Bits of which one is set in every mode that is wanted of a `CHMOD`.
    mode_bits: ModeBits,
    /// Whether memory is of interest that is executable and not writable.
    read_only_memory: bool,
    probes: Vec<ProbePoint>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ModeBits {
    /// Whatever the mode is.
    Any,
    OneOf(u16),
}

impl Default for ModeBits {
    fn default() -> Self {
        Self::OneOf(0)
    }
}

impl ModeBits {
    fn add(&mut self, other: Self) {
        *self = match (*self, other) {
            (Self::OneOf(bits), Self::OneOf(more)) => Self::OneOf(bits | more),
            _ => Self::Any,
        };
    }
}

/// Where a policy wants a probe of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct ProbePoint {
    /// The policy, or the first of those that want the same.
    pub policy: Arc<str>,
    /// The function.
    pub symbol: String,
    /// The executable or library that it is in; none for a function of the kernel.
    pub executable: Option<String>,
    /// Where the arguments are, by name: each is a [`ProbeArgument`](crate::ProbeArgument).
    pub arguments: BTreeMap<String, String>,
}

impl ProbePoint {
    /// On the kernel's function `symbol`, for `policy`.
    #[must_use]
    pub fn kernel(policy: &str, symbol: &str) -> Self {
        let (policy, symbol) = (policy.into(), symbol.to_owned());
        Self { policy, symbol, executable: None, arguments: BTreeMap::new() }
    }

    /// On the function `symbol` of an executable or library, for `policy`.
    #[must_use]
    pub fn user(policy: &str, executable: &str, symbol: &str) -> Self {
        Self { executable: Some(executable.to_owned()), ..Self::kernel(policy, symbol) }
    }

    /// What `policy` wants, if it is one with a probe of its own.
    pub(crate) fn of(policy: &Policy) -> Option<Self> {
        let TypeOptions::Probe { symbol, executable, arguments } = &policy.options else { return None };
        let (symbol, executable, arguments) = (symbol.clone(), executable.clone(), arguments.clone());
        Some(Self { policy: policy.name.clone(), symbol, executable, arguments })
    }

    /// Fetches what is at `place` as well, and calls it `name`.
    #[must_use]
    pub fn argument(mut self, name: &str, place: &str) -> Self {
        self.arguments.insert(name.to_owned(), place.to_owned());
        self
    }

    /// Whether both are on the same function.
    #[must_use]
    pub fn has_place_of(&self, other: &Self) -> bool {
        self.symbol == other.symbol && self.executable == other.executable
    }

    /// Whether both give the same events, whichever policy wants them.
    #[must_use]
    pub fn gives_same_as(&self, other: &Self) -> bool {
        self.has_place_of(other) && self.arguments == other.arguments
    }
}

/// The field whose value says what kind of thing happened, in events of a kind that has one.
fn choice(kind: EventKind) -> Option<Field> {
    match kind {
        EventKind::File => Some(Field::FileOperation),
        EventKind::Connect | EventKind::Accept | EventKind::Listen => Some(Field::Protocol),
        EventKind::Ptrace => Some(Field::PtraceRequest),
        EventKind::Memory => Some(Field::MemoryRegion),
        EventKind::Crash => Some(Field::CrashSignal),
        EventKind::Module => Some(Field::ModuleOperation),
        EventKind::Container => Some(Field::ContainerOperation),
        EventKind::Security => Some(Field::SecurityChange),
        _ => None,
    }
}

/// The fields that an event has no value in, for what kind of thing happened.
fn absent(kind: EventKind, value: &str) -> &'static [Field] {
    use Field as F;
    match (kind, value) {
        (EventKind::Connect | EventKind::Accept | EventKind::Listen, UNIX) => {
            &[F::RemoteHost, F::RemotePort, F::LocalHost, F::LocalPort, F::InboundHost, F::InboundPort]
        }
        (EventKind::Connect | EventKind::Accept | EventKind::Listen, _) => &[F::SocketPath],
        _ => &[],
    }
}

/// What can happen in events of a kind, where it is one of several things.
pub(crate) fn values_of_choice(kind: EventKind) -> &'static [&'static str] {
    choice(kind).map_or(&[][..], values_of)
}

fn values_of(field: Field) -> &'static [&'static str] {
    match field.kind() {
        FieldKind::Enum(names) => names,
        _ => &[],
    }
}

const UNIX: &str = "UNIX";

/// Stands for the port of a connection that has none.
const NO_PORT: u16 = 0;

/// Wanted only by policies that name it: it is seen of every write, and `OPEN_WRITE` says already what is written to, except
/// through a descriptor that somebody else opened.
const OPERATION_OF_PASSED_DESCRIPTORS: &str = "WRITE";

impl Interest {
    /// Everything that can raise a policy, for sources without policies. Without `WRITE` ([`Interest::add_value`]) and
    /// without probes.
    #[must_use]
    pub fn everything() -> Self {
        let mut interest = Self::default();
        for kind in EventKind::ALL {
            interest.add_kind(*kind);
        }
        interest
    }

    /// What the active policies of a set need.
    pub(crate) fn of(policies: &PolicySet) -> Self {
        let mut interest = Self::default();
        for policy in policies.active() {
            interest.add(policy);
        }
        interest
    }

    fn add(&mut self, policy: &Policy) {
        if policy.policy_type == PolicyType::NewFileExec {
            self.want_kind(EventKind::File);
            // Who writes has opened before.
            for operation in CHANGES.iter().filter(|operation| **operation != OPERATION_OF_PASSED_DESCRIPTORS) {
                self.want(EventKind::File, operation);
                self.paths.insert(operation, PathInterest::Any);
            }
        }
        if let Some(point) = ProbePoint::of(policy) {
            self.add_probe(point);
        }
        for kind in EventKind::ALL.iter().copied().filter(|kind| raises(policy.policy_type, *kind)) {
            let Some(field) = choice(kind) else {
                if possible::response(policy, &[event_type(kind)]).is_some() {
                    self.want_kind(kind);
                }
                continue;
            };
            for value in values_of(field) {
                self.add_case(policy, kind, field, value);
            }
        }
    }

    fn add_case(&mut self, policy: &Policy, kind: EventKind, field: Field, value: &'static str) {
        if may_not_be_raised(policy, kind, field, value) {
            return;
        }
        let mut known = known_of_case(kind, field, value);
        let Some(response) = possible::response(policy, &known) else { return };
        self.want_kind(kind);
        self.want(kind, value);
        match kind {
            EventKind::File => {
                let paths = response.needs();
                self.paths.entry(value).and_modify(|all| all.add(&paths)).or_insert(paths);
                if value == "CHMOD" {
                    self.mode_bits.add(match policy.options {
                        TypeOptions::Chmod { bits } => ModeBits::OneOf(bits),
                        _ => ModeBits::Any,
                    });
                }
            }
            EventKind::Connect if value == UNIX => self.ports.add(&Ports(Some([NO_PORT].into()))),
            EventKind::Connect => self.ports.add(&response.needs()),
            EventKind::Memory => {
                known.push((Field::MemoryIsWritable, Value::Bool(false)));
                self.read_only_memory |= possible::response(policy, &known).is_some();
            }
            _ => {}
        }
    }

    fn want_kind(&mut self, kind: EventKind) {
        if !self.kinds.contains(&kind) {
            self.kinds.push(kind);
        }
    }

    fn want(&mut self, kind: EventKind, value: &'static str) {
        self.values.entry(kind.name()).or_default().insert(value);
    }

    /// Wants all events of `kind`, whatever the policies say, except `WRITE` ([`Interest::add_value`]) and `OPEN_READ`,
    /// which raises nothing.
    pub fn add_kind(&mut self, kind: EventKind) -> &mut Self {
        self.want_kind(kind);
        for value in values_of_choice(kind) {
            if !matches!(*value, OPERATION_OF_PASSED_DESCRIPTORS | "OPEN_READ") {
                self.add_value(kind, value);
            }
        }
        self
    }

    /// Wants all events of `kind` in which `value` happens ([`Interest::wants_value`]), whatever the policies say. A value
    /// that the kind does not have changes nothing.
    pub fn add_value(&mut self, kind: EventKind, value: &str) -> &mut Self {
        let values = values_of_choice(kind);
        let Some(value) = values.iter().copied().find(|other| *other == value) else { return self };
        self.want_kind(kind);
        self.want(kind, value);
        match kind {
            EventKind::File => {
                self.paths.insert(value, PathInterest::Any);
                if value == "CHMOD" {
                    self.mode_bits = ModeBits::Any;
                }
            }
            EventKind::Connect => self.ports = Ports::ANY,
            EventKind::Memory => self.read_only_memory = true,
            _ => {}
        }
        self
    }

    /// Wants a probe as well.
    pub fn add_probe(&mut self, point: ProbePoint) -> &mut Self {
        self.want_kind(EventKind::Probe);
        if !self.probes.iter().any(|other| other.gives_same_as(&point)) {
            self.probes.push(point);
        }
        self
    }

    /// The kinds of events that are wanted.
    pub fn kinds(&self) -> impl Iterator<Item = EventKind> {
        self.kinds.iter().copied()
    }

    /// Whether events of `kind` are wanted.
    #[must_use]
    pub fn wants_kind(&self, kind: EventKind) -> bool {
        self.kinds.contains(&kind)
    }

    /// Whether events of `kind` are wanted in which `value` happens: a file operation, a protocol, a ptrace request, a
    /// region of memory, the signal of a crash, what was loaded into the kernel, what became of a container, or which
    /// protection was changed.
    #[must_use]
    pub fn wants_value(&self, kind: EventKind, value: &str) -> bool {
        self.values.get(kind.name()).is_some_and(|values| values.contains(value))
    }

    /// The paths to which a file operation is wanted. What is not wholly known of a path is to be given in any case.
    #[must_use]
    pub fn paths(&self, operation: &str) -> &PathInterest {
        static NONE: PathInterest = PathInterest::NONE;
        self.paths.get(operation).unwrap_or(&NONE)
    }

    /// The remote ports of outbound connections that are wanted; none: all. Port 0 stands for UNIX sockets, which have none.
    #[must_use]
    pub fn ports(&self) -> Option<&BTreeSet<u16>> {
        self.ports.0.as_ref()
    }

    /// Mode bits of which a `CHMOD` has to leave one set, for only policies of type `chmod` ask for it; none: it is wanted
    /// whatever the mode is.
    #[must_use]
    pub fn mode_bits(&self) -> Option<u16> {
        match self.mode_bits {
            ModeBits::OneOf(bits) => Some(bits),
            ModeBits::Any => None,
        }
    }

    /// Whether memory that becomes executable is of interest also if it is not writable.
    #[must_use]
    pub fn wants_read_only_memory(&self) -> bool {
        self.read_only_memory
    }

    /// The probes that policies of type `kprobe` and `uprobe` define, each once.
    #[must_use]
    pub fn probes(&self) -> &[ProbePoint] {
        &self.probes
    }

    /// Whether a policy may look at `event`. One that is not wanted raises none, and none remembers it: for sources that
    /// cannot say beforehand what they give. Ask it of no event that keeps the process table.
    ///
    /// ```
    /// use sls_core::{Event, EventKind, Field, PolicySet};
    ///
    /// let policies = PolicySet::from_yaml("policy.yaml", r#"
    /// Keys:
    ///   policy: file
    ///   rules: ['match filePath == "/root/.ssh/*"', default ignore]
    /// "#)?;
    /// let mut event = Event::new(EventKind::File);
    /// event.set_text(Field::FileOperation, b"CREATE").set_text(Field::FilePath, b"/root/.ssh/authorized_keys");
    /// assert!(policies.interest().wants(&event));
    /// event.set_text(Field::FilePath, b"/tmp/x");
    /// assert!(!policies.interest().wants(&event));
    /// // It may be any file.
    /// event.clear(Field::FilePath).mark_unknown(Field::FilePath);
    /// assert!(policies.interest().wants(&event));
    /// # Ok::<(), sls_core::Diagnostics>(())
    /// ```
    #[must_use]
    pub fn wants(&self, event: &Event) -> bool {
        let Some(field) = choice(event.kind) else { return self.wants_kind(event.kind) };
        let Value::Text { bytes, truncated: false } = event.value(field) else {
            // What it is cannot be told, and sources do tell.
            return true;
        };
        let Ok(value) = std::str::from_utf8(bytes) else { return false };
        // Sources give no such event, and it was not thought of above.
        if absent(event.kind, value).iter().any(|field| event.value(*field) != Value::Absent) {
            return true;
        }
        if !self.wants_value(event.kind, value) {
            return false;
        }
        match event.kind {
            EventKind::File => self.wants_path(event, value) && (value != "CHMOD" || self.wants_mode(event)),
            EventKind::Connect if value != UNIX => match (&self.ports.0, event.value(Field::RemotePort)) {
                (Some(ports), Value::Number(port)) => u16::try_from(port).map_or(true, |port| ports.contains(&port)),
                _ => true,
            },
            EventKind::Memory => {
                self.read_only_memory
                    || !matches!(event.value(Field::MemoryIsWritable), Value::Bool(false) | Value::Absent)
            }
            _ => true,
        }
    }

    /// A path test may concern either name of a rename or link.
    fn wants_path(&self, event: &Event, operation: &str) -> bool {
        let paths = self.paths(operation);
        [Field::FilePath, Field::NewFilePath].iter().any(|field| match event.value(*field) {
            Value::Text { bytes, truncated: false } => paths.includes(bytes),
            Value::Absent => *field == Field::FilePath && paths.includes(b""),
            _ => true,
        })
    }

    fn wants_mode(&self, event: &Event) -> bool {
        match (self.mode_bits, event.value(Field::FileMode)) {
            (ModeBits::OneOf(bits), Value::Number(mode)) => mode & u64::from(bits) != 0,
            (ModeBits::OneOf(_), Value::Absent) => false,
            _ => true,
        }
    }
}

fn text(value: &str) -> Value<'_> {
    Value::Text { bytes: value.as_bytes(), truncated: false }
}

fn event_type(kind: EventKind) -> (Field, Value<'static>) {
    (Field::EventType, text(kind.event_type()))
}

/// What is known of an event from its kind and from the value of its choice.
fn known_of_case(kind: EventKind, field: Field, value: &'static str) -> Vec<(Field, Value<'static>)> {
    let mut known = vec![(field, text(value)), event_type(kind)];
    known.extend(absent(kind, value).iter().map(|field| (*field, Value::Absent)));
    known
}

/// Whether the policy can respond to an event of `kind` in which `value` happens, where it is one of several things.
pub(crate) fn responds(policy: &Policy, kind: EventKind, value: Option<&'static str>) -> bool {
    if !raises(policy.policy_type, kind) {
        return false;
    }
    match (choice(kind), value) {
        (Some(field), Some(value)) => {
            !may_not_be_raised(policy, kind, field, value)
                && possible::response(policy, &known_of_case(kind, field, value)).is_some()
        }
        _ => possible::response(policy, &[event_type(kind)]).is_some(),
    }
}

/// What the fields that `N` is about must have for the policy to respond to such an event.
pub(crate) fn needs<N: Narrow>(policy: &Policy, kind: EventKind, value: Option<&'static str>) -> N {
    if !responds(policy, kind, value) {
        return N::NONE;
    }
    let known = match (choice(kind), value) {
        (Some(field), Some(value)) => known_of_case(kind, field, value),
        _ => vec![event_type(kind)],
    };
    possible::response(policy, &known).map_or(N::NONE, |response| response.needs())
}

/// Whether no event with this value of its choice raises the policy, whatever else it has; or none should, for the policy
/// would have to name it.
fn may_not_be_raised(policy: &Policy, kind: EventKind, field: Field, value: &str) -> bool {
    if value == OPERATION_OF_PASSED_DESCRIPTORS && !possible::names(policy, field, value) {
        return true;
    }
    let mut event = Event::new(kind);
    event.set_text(field, value.as_bytes());
    for unknown in Field::all().filter(|other| *other != field) {
        event.mark_unknown(unknown);
    }
    // Under the new name more can be raised, never less.
    event.clear(Field::NewFilePath);
    policy.is_raised_by(&event) == Truth::False
}

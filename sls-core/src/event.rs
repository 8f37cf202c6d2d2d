//! The event model: a kind, the identity of the acting process, and one slot for each field of the schema.

use std::fmt;
use std::net::IpAddr;

use serde::{Serialize, Serializer};

use crate::enforcement::Enforced;
use crate::schema::{Field, FieldKind, FieldSet, SCHEMA};

/// The most ancestors that an event carries; a longer ancestry is cut there and marked truncated.
pub const MAX_ANCESTORS: usize = 64;

/// The identity of a process on one boot of one host: a pid can be reused, a pid and a start time cannot.
// Exhaustive: these two numbers are the identity, by definition.
#[allow(clippy::exhaustive_structs)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessKey {
    /// Thread group id in the host's PID namespace.
    pub pid: u32,
    /// Start time in nanoseconds since boot.
    pub start: u64,
}

impl fmt::Display for ProcessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.pid, self.start)
    }
}

macro_rules! kinds {
    ($( $variant:ident $name:literal $event_type:literal $meaning:literal; )+) => {
        /// What happened.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum EventKind { $( #[doc = $meaning] $variant, )+ }

        impl EventKind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[ $( Self::$variant, )+ ];

            /// The name in recorded events.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $( Self::$variant => $name, )+ }
            }

            /// The value of the field `eventType`.
            #[must_use]
            pub fn event_type(self) -> &'static str {
                match self { $( Self::$variant => $event_type, )+ }
            }
        }
    };
}

kinds! {
    Exec "exec" "PROCESS_EVENT_TYPE_EXEC" "A program was executed.";
    Fork "fork" "PROCESS_EVENT_TYPE_FORK" "A process was created.";
    Exit "exit" "PROCESS_EVENT_TYPE_EXIT" "A process ended.";
    Baseline "baseline" "BASELINE_TASK" "A process was already running when the source started.";
    File "file" "FILE_EVENT" "A file was changed or opened.";
    Connect "connect" "NETWORK_EVENT_TYPE_CONNECT" "An outbound connection.";
    Accept "accept" "NETWORK_EVENT_TYPE_ACCEPT" "An inbound connection was accepted.";
    Listen "listen" "NETWORK_EVENT_TYPE_LISTEN" "A socket began to listen.";
    Ptrace "ptrace" "PTRACE_EVENT" "A process reached into another.";
    Memory "memory" "MEMORY_EVENT" "Memory became executable.";
    Crash "crash" "CRASH_EVENT" "A process crashed.";
    Credentials "credentials" "CREDENTIALS_EVENT" "Credentials changed.";
    Module "module" "MODULE_EVENT" "Kernel code was loaded.";
    Userfaultfd "userfaultfd" "USERFAULTFD_EVENT" "A userfaultfd was created.";
    Container "container" "CONTAINER_EVENT" "A container started or stopped.";
    Security "security" "SECURITY_EVENT" "A protection was switched off.";
    Probe "probe" "PROBE_EVENT" "A probe that the user defined was hit.";
}

impl EventKind {
    /// The kind called `name` in recorded events.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }
}

impl Serialize for EventKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The value of a field in one event.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value<'a> {
    /// The field does not apply: it compares as `""`, or is false for numbers and hosts.
    Absent,
    /// The field applies, but its value could not be had.
    Unknown,
    /// Bytes, of which a part is missing if `truncated`: the start of a path, the end of anything else.
    Text {
        /// What is known.
        bytes: &'a [u8],
        /// Whether more was there.
        truncated: bool,
    },
    /// An unsigned integer.
    Number(u64),
    /// A truth value.
    Bool(bool),
    /// An address.
    Host(IpAddr),
    /// Several texts, nearest ancestor first.
    Many {
        /// The texts.
        items: Items<'a>,
        /// Whether there were more.
        truncated: bool,
    },
}

/// The most texts of a many-valued field that are not ancestors.
pub const MAX_ITEMS: usize = 256;

/// The texts of a many-valued field. Items are separated by NUL, which no path holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Items<'a>(Option<&'a [u8]>);

impl<'a> Items<'a> {
    /// The items, nearest first.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = &'a [u8]> {
        self.0.into_iter().flat_map(|bytes| bytes.split(|byte| *byte == 0))
    }
}

/// A value as eight bytes, to be read as the kind of its field says: a number, a truth value, or where a text or an address
/// is in the arena.
#[derive(Clone, Copy, Debug, Default)]
struct Slot(u64);

impl Slot {
    fn of_bytes(start: usize, end: usize) -> Self {
        Self(start as u64 | ((end - start) as u64) << 32)
    }

    #[inline]
    fn bytes(self, arena: &[u8]) -> &[u8] {
        let (start, len) = (self.0 as u32 as usize, (self.0 >> 32) as usize);
        // Slots are made with the bytes, which go together.
        arena.get(start..start + len).unwrap_or_default()
    }
}

/// The values of an event's fields. What a look at a field takes lies together: with many policies, what an event costs
/// is in good part the time to get at it.
#[derive(Clone)]
#[repr(C, align(64))]
struct Values {
    present: FieldSet,
    truncated: FieldSet,
    unknown: FieldSet,
    untrusted: FieldSet,
    arena: Vec<u8>,
    slots: [Slot; SCHEMA.len()],
}

/// One event. It is made to be reused: [`Event::reset`] keeps the memory, so a source that fills one event again and
/// again allocates nothing once it has seen its longest.
///
/// ```
/// use sls_core::{Event, EventKind, Field, ProcessKey, Value};
///
/// let mut event = Event::new(EventKind::Exec);
/// event.process = ProcessKey { pid: 4242, start: 77_000_000_000 };
/// event.set_text(Field::ProgramName, b"/usr/bin/wget");
/// event.set_arguments([&b"wget"[..], b"-q"]);
/// event.set_number(Field::Uid, 1000);
/// assert_eq!(event.value(Field::ProgramArguments), Value::Text { bytes: b"wget -q", truncated: false });
/// assert_eq!(event.value(Field::ProcessPid), Value::Number(4242));
/// assert_eq!(event.value(Field::Euid), Value::Absent);
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// When, in nanoseconds since the epoch.
    pub time: u64,
    /// When, in nanoseconds since boot, on the clock of [`ProcessKey::start`]. A source whose events can overtake each other
    /// says it, so that what an event tells belongs to the program that its process ran then. Zero if it is not known: then
    /// events come in the order in which they happened.
    pub since_boot: u64,
    /// The acting process. Zero if there is none.
    pub process: ProcessKey,
    /// Its parent. Zero if it has none.
    pub parent: ProcessKey,
    /// The process that made the acting process, if an event that tells of its creation knows that it is another than
    /// [`Event::parent`]: with `CLONE_PARENT` a process makes a sibling. Zero otherwise.
    pub creator: ProcessKey,
    /// Inode of the acting process's pidfd (`pidfs`, Linux 6.9 and later): an identity that is never reused on one boot.
    pub pidfd_inode: Option<u64>,
    /// Id of the process's cgroup in the v2 hierarchy.
    pub cgroup_id: Option<u64>,
    /// Id of the cgroup of the container that the process is in, in the v2 hierarchy. The process can also be in one below:
    /// what acts on the container acts on this one.
    pub container_cgroup_id: Option<u64>,
    /// Inode of the PID namespace that the process lives in.
    pub pid_namespace: Option<u32>,
    /// Inode of the mount namespace that the process lives in: paths are paths in it.
    pub mount_namespace: Option<u32>,
    /// Whether the process is a kernel thread.
    pub kernel_thread: bool,
    /// Wait status of an `exit` event, as wait(2) encodes it.
    pub exit_status: Option<u32>,
    /// Events of this kind that were lost just before this one.
    pub lost: u64,
    /// What was done about it in the kernel already.
    pub enforced: Option<Enforced>,
    values: Values,
    argument_ends: Vec<u32>,
    under_new_name: bool,
    /// Of `filePath` and `hostFilePath` while the new name stands there, and whether each was cut.
    old_names: [(Slot, bool); 2],
}

impl Event {
    /// An event of `kind` without any value.
    #[must_use]
    pub fn new(kind: EventKind) -> Self {
        Self {
            kind,
            time: 0,
            since_boot: 0,
            process: ProcessKey::default(),
            parent: ProcessKey::default(),
            creator: ProcessKey::default(),
            pidfd_inode: None,
            cgroup_id: None,
            container_cgroup_id: None,
            pid_namespace: None,
            mount_namespace: None,
            kernel_thread: false,
            exit_status: None,
            lost: 0,
            enforced: None,
            values: Values {
                present: FieldSet::EMPTY,
                truncated: FieldSet::EMPTY,
                unknown: FieldSet::EMPTY,
                untrusted: FieldSet::EMPTY,
                arena: Vec::new(),
                slots: [Slot::default(); SCHEMA.len()],
            },
            argument_ends: Vec::new(),
            under_new_name: false,
            old_names: Default::default(),
        }
    }

    /// Makes this an event of `kind` without any value, keeping its memory.
    pub fn reset(&mut self, kind: EventKind) {
        self.kind = kind;
        self.time = 0;
        self.since_boot = 0;
        self.process = ProcessKey::default();
        self.parent = ProcessKey::default();
        self.creator = ProcessKey::default();
        self.pidfd_inode = None;
        self.cgroup_id = None;
        self.container_cgroup_id = None;
        self.pid_namespace = None;
        self.mount_namespace = None;
        self.kernel_thread = false;
        self.exit_status = None;
        self.lost = 0;
        self.enforced = None;
        self.values.present = FieldSet::EMPTY;
        self.values.truncated = FieldSet::EMPTY;
        self.values.unknown = FieldSet::EMPTY;
        self.values.untrusted = FieldSet::EMPTY;
        self.values.arena.clear();
        self.argument_ends.clear();
        self.under_new_name = false;
        self.old_names = Default::default();
    }

    /// The value of `field`.
    #[must_use]
    #[inline]
    pub fn value(&self, field: Field) -> Value<'_> {
        let doubt = self.values.unknown.union(self.values.truncated);
        if self.values.present.contains(field) && !doubt.contains(field) && !COMPUTED.contains(field) {
            self.present_value(field, false)
        } else {
            self.unusual_value(field)
        }
    }

    #[inline]
    fn present_value(&self, field: Field, truncated: bool) -> Value<'_> {
        let slot = self.values.slots[field as usize];
        match field.kind() {
            FieldKind::Number => Value::Number(slot.0),
            FieldKind::Bool => Value::Bool(slot.0 != 0),
            FieldKind::Host => match *slot.bytes(&self.values.arena) {
                [a, b, c, d] => Value::Host(IpAddr::from([a, b, c, d])),
                ref bytes => bytes.first_chunk::<16>().map_or(Value::Unknown, |bytes| Value::Host((*bytes).into())),
            },
            _ => {
                let bytes = slot.bytes(&self.values.arena);
                if field.spec().many {
                    Value::Many { items: Items((!bytes.is_empty()).then_some(bytes)), truncated }
                } else {
                    Value::Text { bytes, truncated }
                }
            }
        }
    }

    fn unusual_value(&self, field: Field) -> Value<'_> {
        if self.values.unknown.contains(canonical(field)) {
            return Value::Unknown;
        }
        match field {
            Field::ProcessPid => return number_unless_zero(self.process.pid),
            Field::ParentPid => return number_unless_zero(self.parent.pid),
            Field::EventType => {
                return Value::Text { bytes: self.kind.event_type().as_bytes(), truncated: false };
            }
            Field::Lineage => return self.value(Field::AncestorProgramName),
            _ => {}
        }
        let truncated = self.values.truncated.contains(field);
        match self.values.present.contains(field) {
            true => self.present_value(field, truncated),
            // Of a value that is only partly known, nothing is.
            false if truncated => Value::Unknown,
            false => Value::Absent,
        }
    }

    /// The known bytes of a text field; empty if it has none.
    #[must_use]
    pub fn text(&self, field: Field) -> &[u8] {
        match self.value(field) {
            Value::Text { bytes, .. } => bytes,
            _ => b"",
        }
    }

    /// The number in a field, if it has one.
    #[must_use]
    pub fn number(&self, field: Field) -> Option<u64> {
        match self.value(field) {
            Value::Number(number) => Some(number),
            _ => None,
        }
    }

    /// The arguments one by one, argv\[0\] first; the last may be cut.
    pub fn arguments(&self) -> impl Iterator<Item = &[u8]> {
        let (joined, ends) = match self.value(Field::ProgramArguments) {
            Value::Text { bytes, .. } => (bytes, &self.argument_ends[..]),
            _ => (&b""[..], &[][..]),
        };
        let mut start = 0;
        ends.iter().map(move |end| {
            let end = *end as usize;
            // The ends were made with the text: they rise and lie in it.
            let argument = joined.get(start..end).unwrap_or_default();
            start = end + 1;
            argument
        })
    }

    /// Fields whose value is only partly known.
    #[must_use]
    pub fn truncated(&self) -> FieldSet {
        self.values.truncated
    }

    /// Fields that apply but could not be read.
    #[must_use]
    pub fn unknown(&self) -> FieldSet {
        self.values.unknown
    }

    /// Fields whose value was read from memory that the acting process can change, or was not resolved by the kernel. Rules
    /// take it as it is.
    #[must_use]
    pub fn untrusted(&self) -> FieldSet {
        self.values.untrusted
    }

    /// Sets a path, name, text or enum field. A value for a field of another kind marks the field unknown.
    pub fn set_text(&mut self, field: Field, bytes: &[u8]) -> &mut Self {
        let fits = matches!(field.kind(), FieldKind::Path | FieldKind::Name | FieldKind::Text | FieldKind::Enum(_))
            && !field.spec().many;
        if field == Field::ProgramArguments {
            return self.set_arguments([bytes]);
        }
        let slot = self.append(|arena| arena.extend_from_slice(bytes));
        self.set(field, slot, fits)
    }

    /// Sets a text field from parts, which saves the caller from joining them.
    pub fn set_text_parts<'p>(&mut self, field: Field, parts: impl IntoIterator<Item = &'p [u8]>) -> &mut Self {
        let fits = matches!(field.kind(), FieldKind::Path | FieldKind::Name | FieldKind::Text)
            && !field.spec().many
            && field != Field::ProgramArguments;
        let slot = self.append(|arena| parts.into_iter().for_each(|part| arena.extend_from_slice(part)));
        self.set(field, slot, fits)
    }

    /// Sets a number field. A number for a field of another kind marks the field unknown.
    pub fn set_number(&mut self, field: Field, number: u64) -> &mut Self {
        self.set(field, Slot(number), field.kind() == FieldKind::Number)
    }

    /// Sets a bool field. A bool for a field of another kind marks the field unknown.
    pub fn set_bool(&mut self, field: Field, value: bool) -> &mut Self {
        self.set(field, Slot(value.into()), field.kind() == FieldKind::Bool)
    }

    /// Sets a host field. An address for a field of another kind marks the field unknown.
    pub fn set_host(&mut self, field: Field, address: IpAddr) -> &mut Self {
        let slot = self.append(|arena| match address {
            IpAddr::V4(address) => arena.extend(address.octets()),
            IpAddr::V6(address) => arena.extend(address.octets()),
        });
        self.set(field, slot, field.kind() == FieldKind::Host)
    }

    /// Sets `programArguments` from argv.
    pub fn set_arguments<'p>(&mut self, arguments: impl IntoIterator<Item = &'p [u8]>) -> &mut Self {
        self.argument_ends.clear();
        let base = self.values.arena.len();
        for argument in arguments {
            if !self.argument_ends.is_empty() {
                self.values.arena.push(b' ');
            }
            self.values.arena.extend_from_slice(argument);
            self.argument_ends.push((self.values.arena.len() - base) as u32);
        }
        let slot = Slot::of_bytes(base, self.values.arena.len());
        self.set(Field::ProgramArguments, slot, true)
    }

    /// Sets `ancestorProgramName` (and with it `lineage`), nearest ancestor first. At most [`MAX_ANCESTORS`] are kept;
    /// more mark the field truncated.
    pub fn set_ancestors<'p>(&mut self, programs: impl IntoIterator<Item = &'p [u8]>) -> &mut Self {
        self.set_items(Field::AncestorProgramName, programs, MAX_ANCESTORS)
    }

    /// Sets a many-valued field. At most [`MAX_ITEMS`] texts are kept (of ancestors [`MAX_ANCESTORS`]); more mark the
    /// field truncated. Texts for a field with one value mark the field unknown.
    pub fn set_texts<'p>(&mut self, field: Field, texts: impl IntoIterator<Item = &'p [u8]>) -> &mut Self {
        let ancestors = canonical(field) == Field::AncestorProgramName;
        self.set_items(field, texts, if ancestors { MAX_ANCESTORS } else { MAX_ITEMS })
    }

    fn set_items<'p>(&mut self, field: Field, texts: impl IntoIterator<Item = &'p [u8]>, limit: usize) -> &mut Self {
        let mut cut = false;
        let slot = self.append(|arena| {
            for (index, text) in texts.into_iter().enumerate() {
                if index == limit {
                    cut = true;
                    break;
                }
                if index > 0 {
                    arena.push(0);
                }
                arena.extend(text.iter().filter(|byte| **byte != 0));
            }
        });
        self.set(field, slot, field.spec().many);
        if cut {
            self.mark_truncated(field);
        }
        self
    }

    /// Calls `look` with the event as policies have to see it: once, or for a rename or link twice. Then `filePath` is
    /// first the new name and afterwards the old one, so that a rule on `filePath` holds whichever way a file comes to
    /// its name; `newFilePath` is the new name both times. The same goes for `hostFilePath`.
    /// [`Event::is_under_new_name`] tells which.
    pub fn each_name(&mut self, mut look: impl FnMut(&Self)) {
        if self.kind == EventKind::File && self.value(Field::NewFilePath) != Value::Absent {
            let old_names = [Field::FilePath, Field::HostFilePath].map(|field| self.state(field));
            self.set_state(Field::FilePath, self.state(Field::NewFilePath));
            self.set_state(Field::HostFilePath, self.state(Field::NewHostFilePath));
            self.under_new_name = true;
            self.old_names =
                old_names.map(|(slot, [present, cut, ..])| if present { (slot, cut) } else { Default::default() });
            look(self);
            self.set_state(Field::FilePath, old_names[0]);
            self.set_state(Field::HostFilePath, old_names[1]);
            self.under_new_name = false;
            self.old_names = Default::default();
        }
        look(self);
    }

    /// Whether `filePath` is the new name of a rename or link just now.
    #[must_use]
    pub fn is_under_new_name(&self) -> bool {
        self.under_new_name
    }

    /// The old `filePath` and `hostFilePath` of a file that is looked at under its new name, and whether each was cut;
    /// empty otherwise.
    pub(crate) fn old_names(&self) -> [(&[u8], bool); 2] {
        self.old_names.map(|(slot, cut)| (slot.bytes(&self.values.arena), cut))
    }

    /// A field's value and what is known of it.
    fn state(&self, field: Field) -> (Slot, [bool; 4]) {
        let sets = [self.values.present, self.values.truncated, self.values.unknown, self.values.untrusted];
        (self.values.slots[field as usize], sets.map(|set| set.contains(field)))
    }

    fn set_state(&mut self, field: Field, (slot, members): (Slot, [bool; 4])) {
        self.values.slots[field as usize] = slot;
        let sets = [
            &mut self.values.present,
            &mut self.values.truncated,
            &mut self.values.unknown,
            &mut self.values.untrusted,
        ];
        for (set, member) in sets.into_iter().zip(members) {
            set.assign(field, member);
        }
    }

    /// Gives `to` the value of `from`, and what is known of it, without copying it. Both fields hold the same kind of value.
    pub fn copy_text(&mut self, from: Field, to: Field) {
        self.set_state(to, self.state(from));
    }

    /// Gives a field a value that another one had, with what is known of it. A field cannot be given several texts so.
    pub(crate) fn set_value(&mut self, field: Field, value: Value<'_>) {
        match value {
            Value::Text { bytes, truncated } => {
                self.set_text(field, bytes);
                if truncated {
                    self.mark_truncated(field);
                }
            }
            Value::Number(number) => {
                self.set_number(field, number);
            }
            Value::Bool(truth) => {
                self.set_bool(field, truth);
            }
            Value::Host(address) => {
                self.set_host(field, address);
            }
            Value::Unknown => {
                self.mark_unknown(field);
            }
            Value::Absent | Value::Many { .. } => {}
        }
    }

    /// Says that the value just set is only a part.
    pub fn mark_truncated(&mut self, field: Field) -> &mut Self {
        self.values.truncated.insert(canonical(field));
        self
    }

    /// Says that the field applies, but its value could not be had.
    pub fn mark_unknown(&mut self, field: Field) -> &mut Self {
        self.values.unknown.insert(canonical(field));
        self
    }

    /// Says that the value just set can be another than the one that the kernel used: it was read from memory that the
    /// acting process can change, or the kernel did not resolve it.
    pub fn mark_untrusted(&mut self, field: Field) -> &mut Self {
        self.values.untrusted.insert(canonical(field));
        self
    }

    /// Takes a field's value away.
    pub fn clear(&mut self, field: Field) -> &mut Self {
        let field = canonical(field);
        self.values.present.remove(field);
        self.values.truncated.remove(field);
        self.values.unknown.remove(field);
        self.values.untrusted.remove(field);
        self
    }

    fn append(&mut self, fill: impl FnOnce(&mut Vec<u8>)) -> Slot {
        let start = self.values.arena.len();
        fill(&mut self.values.arena);
        Slot::of_bytes(start, self.values.arena.len())
    }

    fn set(&mut self, field: Field, slot: Slot, fits: bool) -> &mut Self {
        debug_assert!(fits, "value of the wrong kind for {field}");
        let field = canonical(field);
        self.values.truncated.remove(field);
        self.values.unknown.remove(field);
        self.values.untrusted.remove(field);
        if fits {
            self.values.present.insert(field);
            self.values.slots[field as usize] = slot;
        } else {
            self.values.unknown.insert(field);
        }
        self
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Event");
        debug.field("kind", &self.kind).field("time", &self.time).field("process", &self.process);
        for field in Field::all().filter(|field| self.values.present.contains(*field)) {
            match self.value(field) {
                Value::Text { bytes, .. } => debug.field(field.name(), &bytes.escape_ascii().to_string()),
                value => debug.field(field.name(), &value),
            };
        }
        debug
            .field("truncated", &self.values.truncated)
            .field("unknown", &self.values.unknown)
            .field("untrusted", &self.values.untrusted)
            .finish_non_exhaustive()
    }
}

/// Fields whose values are not in their slots.
const COMPUTED: FieldSet = FieldSet::of(&[Field::ProcessPid, Field::ParentPid, Field::EventType, Field::Lineage]);

/// `lineage` is another view of `ancestorProgramName`.
pub(crate) fn canonical(field: Field) -> Field {
    if field == Field::Lineage { Field::AncestorProgramName } else { field }
}

fn number_unless_zero(number: u32) -> Value<'static> {
    if number == 0 { Value::Absent } else { Value::Number(number.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reset_forgets_values_and_keeps_memory() {
        let mut event = Event::new(EventKind::Exec);
        event.set_text(Field::ProgramName, &[b'a'; 500]).mark_truncated(Field::ProgramName);
        event.set_arguments([&b"a"[..], b"b c", b""]);
        assert_eq!(event.arguments().collect::<Vec<_>>(), [&b"a"[..], b"b c", b""]);
        let capacity = event.values.arena.capacity();
        event.reset(EventKind::Fork);
        assert_eq!(event.value(Field::ProgramName), Value::Absent);
        assert!(event.truncated().is_empty());
        assert_eq!(event.arguments().count(), 0);
        assert_eq!(event.values.arena.capacity(), capacity);
    }

    #[test]
    fn marks_count_without_a_value() {
        let mut event = Event::new(EventKind::Exec);
        event.mark_truncated(Field::ProgramName).mark_truncated(Field::Lineage).mark_unknown(Field::ParentPid);
        for field in [Field::ProgramName, Field::AncestorProgramName, Field::Lineage, Field::ParentPid] {
            assert_eq!(event.value(field), Value::Unknown, "{field}");
        }
    }

    #[test]
    fn a_new_value_is_trusted_again() {
        let mut event = Event::new(EventKind::File);
        event.set_text(Field::FilePath, b"/x").mark_untrusted(Field::FilePath);
        event.set_text(Field::NewFilePath, b"/y");
        let untrusted = |event: &Event, field| event.untrusted().contains(field);
        event.each_name(|event| assert_eq!(untrusted(event, Field::FilePath), !event.is_under_new_name()));
        assert!(untrusted(&event, Field::FilePath));
        event.set_text(Field::FilePath, b"/x");
        assert!(event.untrusted().is_empty());
    }

    #[test]
    fn a_rename_has_two_names_on_the_host_too() {
        let mut event = Event::new(EventKind::File);
        event.set_text(Field::FilePath, b"/a").set_text(Field::NewFilePath, b"/b");
        event.set_text(Field::HostFilePath, b"/host/a").mark_unknown(Field::NewHostFilePath);
        let mut seen = Vec::new();
        event.each_name(|event| {
            seen.push((event.text(Field::FilePath).to_owned(), format!("{:?}", event.value(Field::HostFilePath))))
        });
        let host = format!("{:?}", event.value(Field::HostFilePath));
        assert_eq!(seen, [(b"/b".to_vec(), "Unknown".to_owned()), (b"/a".to_vec(), host)]);
    }

    #[test]
    fn ancestors_are_many_and_bounded() {
        let mut event = Event::new(EventKind::Exec);
        event.set_ancestors([&b"/bin/sh"[..], b"/sbin/init"]);
        let Value::Many { items, truncated: false } = event.value(Field::Lineage) else { panic!("not many") };
        assert_eq!(items.iter().collect::<Vec<_>>(), [&b"/bin/sh"[..], b"/sbin/init"]);
        event.set_ancestors([]);
        let Value::Many { items, .. } = event.value(Field::Lineage) else { panic!("not many") };
        assert_eq!(items.iter().count(), 0);
        event.set_ancestors(std::iter::repeat_n(&b"/x"[..], MAX_ANCESTORS + 1));
        assert!(event.truncated().contains(Field::AncestorProgramName));
    }
}

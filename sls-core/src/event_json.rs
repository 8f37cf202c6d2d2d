//! Recorded events: the public form of [`Event`], one JSON object a line.
//!
//! Keys come from the field schema; only what an event has beside its fields is named here.

mod error;
mod lines;
mod parse;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Deserialize, Deserializer};
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::event::{Event, Items, Value};
use crate::schema::{Field, FieldSet};

pub use error::{EventError, EventReadError};
pub use lines::EventReader;

/// The longest recorded event that is read, in bytes without the line end. An event's own texts are bounded far below.
pub const MAX_EVENT_LINE: usize = 1 << 20;

/// What is done about keys that a recorded event should not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnknownKeys {
    /// They are an error: a misspelt key would silently change what the rules see.
    #[default]
    Reject,
    /// They are skipped and counted, for recordings of a newer version.
    Skip,
}

impl Event {
    /// The event as one line of JSON, without a line end.
    ///
    /// The order of keys is fixed: the event's own, then the fields in schema order, then the marks. What is not set is
    /// left out, and so are fields that follow from others. Serializing the event gives the same.
    ///
    /// ```
    /// use sls_core::{Event, EventKind, Field};
    ///
    /// let mut event = Event::new(EventKind::Exec);
    /// event.process.pid = 4242;
    /// event.set_text(Field::ProgramName, b"/tmp/\xff").set_arguments([&b"wget"[..], b"-q"]);
    /// assert_eq!(
    ///     event.to_json(),
    ///     r#"{"kind":"exec","processPid":4242,"programName":{"base64":"L3RtcC//"},"programArguments":["wget","-q"]}"#
    /// );
    /// ```
    #[must_use]
    pub fn to_json(&self) -> String {
        // Invariant: writing to memory does not fail, and every key is a string.
        #[allow(clippy::expect_used)]
        serde_json::to_string(self).expect("an event is always serializable")
    }

    /// Reads one recorded event, and says how many unknown keys were skipped.
    ///
    /// # Errors
    /// When `line` is not a JSON object, is longer than [`MAX_EVENT_LINE`], has a key twice, a key that is not known
    /// (unless those are skipped) or a value that does not fit its key.
    ///
    /// ```
    /// use sls_core::{Event, Field, UnknownKeys};
    ///
    /// let (event, _) = Event::from_json(r#"{"kind":"exec","uid":1000}"#, UnknownKeys::Reject)?;
    /// assert_eq!(event.number(Field::Uid), Some(1000));
    /// let error = Event::from_json(r#"{"kind":"exec","programname":"/bin/sh"}"#, UnknownKeys::Reject).unwrap_err();
    /// assert_eq!(error.to_string(), r#"unknown key "programname"; did you mean "programName"?"#);
    /// # Ok::<(), sls_core::EventError>(())
    /// ```
    pub fn from_json(line: impl AsRef<[u8]>, unknown_keys: UnknownKeys) -> Result<(Self, usize), EventError> {
        let mut event = Self::new(crate::event::EventKind::Exec);
        let skipped = event.read_json(line.as_ref(), unknown_keys)?;
        Ok((event, skipped))
    }

    /// Like [`Event::from_json`], into this event, whose memory is used again.
    ///
    /// # Errors
    /// As [`Event::from_json`]; the event is then without values.
    pub fn read_json(&mut self, line: &[u8], unknown_keys: UnknownKeys) -> Result<usize, EventError> {
        if line.len() > MAX_EVENT_LINE {
            return Err(EventError::TooLong { limit: MAX_EVENT_LINE });
        }
        parse::read(self, line, unknown_keys).inspect_err(|_| self.reset(self.kind))
    }
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for key in OwnKey::LEADING {
            match key {
                OwnKey::Kind => map.serialize_entry(key.name(), self.kind.name())?,
                OwnKey::Time => entry_unless_zero(&mut map, *key, self.time)?,
                OwnKey::SinceBoot => entry_unless_zero(&mut map, *key, self.since_boot)?,
                OwnKey::ProcessPid => entry_unless_zero(&mut map, *key, self.process.pid.into())?,
                OwnKey::ProcessStart => entry_unless_zero(&mut map, *key, self.process.start)?,
                OwnKey::ParentPid => entry_unless_zero(&mut map, *key, self.parent.pid.into())?,
                OwnKey::ParentStart => entry_unless_zero(&mut map, *key, self.parent.start)?,
                OwnKey::CreatorPid => entry_unless_zero(&mut map, *key, self.creator.pid.into())?,
                OwnKey::CreatorStart => entry_unless_zero(&mut map, *key, self.creator.start)?,
                OwnKey::PidfdInode => optional_entry(&mut map, *key, self.pidfd_inode)?,
                OwnKey::CgroupId => optional_entry(&mut map, *key, self.cgroup_id)?,
                OwnKey::ContainerCgroupId => optional_entry(&mut map, *key, self.container_cgroup_id)?,
                OwnKey::PidNamespace => optional_entry(&mut map, *key, self.pid_namespace)?,
                OwnKey::MountNamespace => optional_entry(&mut map, *key, self.mount_namespace)?,
                OwnKey::KernelThread => optional_entry(&mut map, *key, self.kernel_thread.then_some(true))?,
                OwnKey::ExitStatus => optional_entry(&mut map, *key, self.exit_status)?,
                OwnKey::Truncated | OwnKey::Unknown | OwnKey::Untrusted | OwnKey::Lost => {}
            }
        }
        for field in Field::all().filter(|field| !is_derived(*field)) {
            match self.value(field) {
                Value::Absent | Value::Unknown => {}
                Value::Text { .. } if field == Field::ProgramArguments => {
                    map.serialize_entry(field.name(), &Arguments(self))?;
                }
                Value::Text { bytes, .. } => map.serialize_entry(field.name(), &Text(bytes))?,
                Value::Number(number) => map.serialize_entry(field.name(), &number)?,
                Value::Bool(value) => map.serialize_entry(field.name(), &value)?,
                Value::Host(address) => map.serialize_entry(field.name(), &address)?,
                Value::Many { items, .. } => map.serialize_entry(field.name(), &Many(items))?,
            }
        }
        let marks = [
            (OwnKey::Truncated, self.truncated()),
            (OwnKey::Unknown, self.unknown()),
            (OwnKey::Untrusted, self.untrusted()),
        ];
        for (key, set) in marks {
            if !set.is_empty() {
                map.serialize_entry(key.name(), &Names(set))?;
            }
        }
        entry_unless_zero(&mut map, OwnKey::Lost, self.lost)?;
        map.end()
    }
}

/// Reads what [`Serialize`] writes, from any self-describing format, and rejects unknown keys.
impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parse::deserialize(deserializer)
    }
}

/// The keys of a recorded event that are not fields, or that carry a part of the event's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum OwnKey {
    Kind,
    Time,
    SinceBoot,
    ProcessPid,
    ProcessStart,
    ParentPid,
    ParentStart,
    CreatorPid,
    CreatorStart,
    PidfdInode,
    CgroupId,
    ContainerCgroupId,
    PidNamespace,
    MountNamespace,
    KernelThread,
    ExitStatus,
    Truncated,
    Unknown,
    Untrusted,
    Lost,
}

impl OwnKey {
    /// In the order in which they are written; [`Self::LEADING`] come before the fields.
    const ALL: &'static [Self] = &[
        Self::Kind,
        Self::Time,
        Self::SinceBoot,
        Self::ProcessPid,
        Self::ProcessStart,
        Self::ParentPid,
        Self::ParentStart,
        Self::CreatorPid,
        Self::CreatorStart,
        Self::PidfdInode,
        Self::CgroupId,
        Self::ContainerCgroupId,
        Self::PidNamespace,
        Self::MountNamespace,
        Self::KernelThread,
        Self::ExitStatus,
        Self::Truncated,
        Self::Unknown,
        Self::Untrusted,
        Self::Lost,
    ];
    const LEADING: &'static [Self] = Self::ALL.split_at(16).0;

    fn name(self) -> &'static str {
        match self {
            Self::Kind => "kind",
            Self::Time => "time",
            Self::SinceBoot => "sinceBoot",
            Self::ProcessPid => Field::ProcessPid.name(),
            Self::ProcessStart => "processStart",
            Self::ParentPid => Field::ParentPid.name(),
            Self::ParentStart => "parentStart",
            Self::CreatorPid => "creatorPid",
            Self::CreatorStart => "creatorStart",
            Self::PidfdInode => "pidfdInode",
            Self::CgroupId => "cgroupId",
            Self::ContainerCgroupId => "containerCgroupId",
            Self::PidNamespace => "pidNamespace",
            Self::MountNamespace => "mountNamespace",
            Self::KernelThread => "kernelThread",
            Self::ExitStatus => "exitStatus",
            Self::Truncated => "truncated",
            Self::Unknown => "unknown",
            Self::Untrusted => "untrusted",
            Self::Lost => "lost",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|key| key.name() == name)
    }
}

/// Whether the field's value follows from another part of the event, so that it is not written again.
fn is_derived(field: Field) -> bool {
    matches!(field, Field::ProcessPid | Field::ParentPid | Field::EventType | Field::Lineage)
}

fn entry_unless_zero<M: SerializeMap>(map: &mut M, key: OwnKey, number: u64) -> Result<(), M::Error> {
    optional_entry(map, key, (number != 0).then_some(number))
}

fn optional_entry<M: SerializeMap>(map: &mut M, key: OwnKey, value: Option<impl Serialize>) -> Result<(), M::Error> {
    match value {
        Some(value) => map.serialize_entry(key.name(), &value),
        None => Ok(()),
    }
}

/// The key of the object that stands for a string whose bytes are not UTF-8.
const BASE64: &str = "base64";

struct Text<'a>(&'a [u8]);

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Ok(text) = str::from_utf8(self.0) {
            return serializer.serialize_str(text);
        }
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(BASE64, &STANDARD.encode(self.0))?;
        map.end()
    }
}

struct Arguments<'a>(&'a Event);

impl Serialize for Arguments<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.arguments().map(Text))
    }
}

struct Many<'a>(Items<'a>);

impl Serialize for Many<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(Text))
    }
}

struct Names(FieldSet);

impl Serialize for Names {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(Field::name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_keys_are_in_order_and_distinct() {
        for (index, key) in OwnKey::ALL.iter().enumerate() {
            assert_eq!(*key as usize, index);
            assert_eq!(OwnKey::from_name(key.name()), Some(*key));
            let field = Field::from_name(key.name());
            assert!(field.is_none_or(is_derived), "{} hides a field", key.name());
        }
        assert_eq!(OwnKey::LEADING.last(), Some(&OwnKey::ExitStatus));
    }
}

//! The parser of recorded events: streaming, so that a duplicate key is seen and nothing is built twice.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::error::{shown, suggest};
use super::{BASE64, EventError, OwnKey, UnknownKeys, is_derived};
use crate::event::{Event, EventKind};
use crate::schema::{Field, FieldKind, FieldSet};

/// Reads `line` into `event` and gives the number of keys skipped.
pub(super) fn read(event: &mut Event, line: &[u8], unknown_keys: UnknownKeys) -> Result<usize, EventError> {
    let mut problem = None;
    let mut json = serde_json::Deserializer::from_slice(line);
    let result = json.deserialize_map(EventVisitor::new(event, unknown_keys, &mut problem));
    result.and_then(|skipped| json.end().map(|()| skipped)).map_err(|error| problem.unwrap_or_else(|| syntax(&error)))
}

/// Reads an event from any format.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Event, D::Error> {
    let mut event = Event::new(EventKind::Exec);
    // The error that the format gives already has the text of ours, and its place.
    let mut problem = None;
    deserializer.deserialize_map(EventVisitor::new(&mut event, UnknownKeys::Reject, &mut problem))?;
    Ok(event)
}

fn syntax(error: &serde_json::Error) -> EventError {
    let mut message = error.to_string();
    // serde_json appends " at line 1 column N"; what is a line is for the caller to say.
    if let Some(at) = message.rfind(" at line ") {
        message.truncate(at);
    }
    EventError::Syntax { column: error.column(), message }
}

struct EventVisitor<'e> {
    event: &'e mut Event,
    unknown_keys: UnknownKeys,
    // A deserializer's error can carry only text: the typed one is left here.
    problem: &'e mut Option<EventError>,
    own_seen: u32,
    fields_seen: FieldSet,
    truncated: FieldSet,
    untrusted: FieldSet,
    unknown: FieldSet,
    // The value given for `eventType`, which follows from the kind.
    claimed_type: Option<&'static str>,
    skipped: usize,
}

impl<'e> EventVisitor<'e> {
    fn new(event: &'e mut Event, unknown_keys: UnknownKeys, problem: &'e mut Option<EventError>) -> Self {
        event.reset(EventKind::Exec);
        Self {
            event,
            unknown_keys,
            problem,
            own_seen: 0,
            fields_seen: FieldSet::EMPTY,
            truncated: FieldSet::EMPTY,
            untrusted: FieldSet::EMPTY,
            unknown: FieldSet::EMPTY,
            claimed_type: None,
            skipped: 0,
        }
    }

    fn set_own(&mut self, key: OwnKey, value: Json<'_>) -> Result<(), EventError> {
        let name = key.name();
        match key {
            OwnKey::Kind => {
                let text = value.text(name)?;
                let kind = str::from_utf8(&text).ok().and_then(EventKind::from_name);
                self.event.kind =
                    kind.ok_or_else(|| unknown_name(name, &text, EventKind::ALL.iter().map(|kind| kind.name())))?;
            }
            OwnKey::Time => self.event.time = value.number(name, u64::MAX)?,
            OwnKey::SinceBoot => self.event.since_boot = value.number(name, u64::MAX)?,
            OwnKey::ProcessPid => self.event.process.pid = value.small_number(name)?,
            OwnKey::ProcessStart => self.event.process.start = value.number(name, u64::MAX)?,
            OwnKey::ParentPid => self.event.parent.pid = value.small_number(name)?,
            OwnKey::ParentStart => self.event.parent.start = value.number(name, u64::MAX)?,
            OwnKey::CreatorPid => self.event.creator.pid = value.small_number(name)?,
            OwnKey::CreatorStart => self.event.creator.start = value.number(name, u64::MAX)?,
            OwnKey::PidfdInode => self.event.pidfd_inode = Some(value.number(name, u64::MAX)?),
            OwnKey::CgroupId => self.event.cgroup_id = Some(value.number(name, u64::MAX)?),
            OwnKey::ContainerCgroupId => self.event.container_cgroup_id = Some(value.number(name, u64::MAX)?),
            OwnKey::PidNamespace => self.event.pid_namespace = Some(value.small_number(name)?),
            OwnKey::MountNamespace => self.event.mount_namespace = Some(value.small_number(name)?),
            OwnKey::KernelThread => self.event.kernel_thread = value.bool(name)?,
            OwnKey::ExitStatus => self.event.exit_status = Some(value.small_number(name)?),
            OwnKey::Truncated => self.truncated = self.field_names(name, value)?,
            OwnKey::Unknown => self.unknown = self.field_names(name, value)?,
            OwnKey::Untrusted => self.untrusted = self.field_names(name, value)?,
            OwnKey::Lost => self.event.lost = value.number(name, u64::MAX)?,
        }
        Ok(())
    }

    fn field_names(&mut self, key: &'static str, value: Json<'_>) -> Result<FieldSet, EventError> {
        let mut set = FieldSet::EMPTY;
        for text in value.list(key)? {
            match str::from_utf8(&text).ok().and_then(Field::from_name) {
                Some(field) => set.insert(field),
                None if self.unknown_keys == UnknownKeys::Skip => self.skipped += 1,
                None => return Err(unknown_name(key, &text, Field::all().map(Field::name))),
            }
        }
        Ok(set)
    }

    fn set_field(&mut self, field: Field, value: Json<'_>) -> Result<(), EventError> {
        let name = field.name();
        match field.kind() {
            _ if field == Field::ProgramArguments => {
                let arguments = value.list(name)?;
                self.event.set_arguments(arguments.iter().map(|argument| &**argument));
            }
            _ if field.spec().many => {
                let programs = value.list(name)?;
                if programs.iter().any(|program| program.contains(&0)) {
                    return Err(EventError::Nul { key: name });
                }
                self.event.set_texts(field, programs.iter().map(|program| &**program));
            }
            FieldKind::Path | FieldKind::Name | FieldKind::Text => {
                self.event.set_text(field, &value.text(name)?);
            }
            FieldKind::Enum(names) => {
                let text = value.text(name)?;
                let known = names.iter().copied().find(|known| known.as_bytes() == &*text);
                let known = known.ok_or_else(|| unknown_name(name, &text, names.iter().copied()))?;
                if is_derived(field) {
                    self.claimed_type = Some(known);
                } else {
                    self.event.set_text(field, &text);
                }
            }
            FieldKind::Number => {
                self.event.set_number(field, value.number(name, u64::MAX)?);
            }
            FieldKind::Bool => {
                self.event.set_bool(field, value.bool(name)?);
            }
            FieldKind::Host => {
                let text = value.text(name)?;
                let address = str::from_utf8(&text).ok().and_then(|text| text.parse().ok());
                let address = address.ok_or_else(|| EventError::Host { key: name, value: shown(&text) })?;
                self.event.set_host(field, address);
            }
            // Many-valued, above.
            FieldKind::Lineage => {}
        }
        Ok(())
    }

    fn see(&mut self, key: Key) -> Result<(), EventError> {
        let again = match key {
            Key::Own(key) => {
                let bit = 1 << key as u32;
                let again = self.own_seen & bit != 0;
                self.own_seen |= bit;
                again
            }
            Key::Field(field) => {
                let slot = if field == Field::Lineage { Field::AncestorProgramName } else { field };
                let again = self.fields_seen.contains(slot);
                self.fields_seen.insert(slot);
                again
            }
        };
        if again { Err(EventError::DuplicateKey { key: key.name() }) } else { Ok(()) }
    }

    fn finish(&mut self) -> Result<usize, EventError> {
        if self.own_seen & (1 << OwnKey::Kind as u32) == 0 {
            return Err(EventError::MissingKey { key: OwnKey::Kind.name() });
        }
        let expected = self.event.kind.event_type();
        if self.claimed_type.is_some_and(|claimed| claimed != expected) {
            return Err(EventError::Contradiction { key: Field::EventType.name(), expected });
        }
        // Setting a value takes its marks away, so they come last.
        for field in self.truncated.iter() {
            self.event.mark_truncated(field);
        }
        for field in self.unknown.iter() {
            self.event.mark_unknown(field);
        }
        for field in self.untrusted.iter() {
            self.event.mark_untrusted(field);
        }
        Ok(self.skipped)
    }
}

impl<'de> Visitor<'de> for EventVisitor<'_> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<usize, A::Error> {
        while let Some(key) = map.next_key_seed(KeySeed)? {
            let key = match key {
                Ok(key) => key,
                Err(_) if self.unknown_keys == UnknownKeys::Skip => {
                    map.next_value::<IgnoredAny>()?;
                    self.skipped += 1;
                    continue;
                }
                Err(error) => return fail(self.problem, error),
            };
            if let Err(error) = self.see(key) {
                return fail(self.problem, error);
            }
            let value = map.next_value_seed(ValueSeed { key: key.name(), place: Place::Top, problem: self.problem })?;
            let result = match key {
                Key::Own(key) => self.set_own(key, value),
                Key::Field(field) => self.set_field(field, value),
            };
            if let Err(error) = result {
                return fail(self.problem, error);
            }
        }
        match self.finish() {
            Ok(skipped) => Ok(skipped),
            Err(error) => fail(self.problem, error),
        }
    }
}

fn fail<T, E: serde::de::Error>(problem: &mut Option<EventError>, error: EventError) -> Result<T, E> {
    let text = E::custom(&error);
    *problem = Some(error);
    Err(text)
}

fn unknown_name(key: &'static str, name: &[u8], known: impl IntoIterator<Item = &'static str>) -> EventError {
    EventError::UnknownName { key, name: shown(name), suggestion: suggest(name, known) }
}

#[derive(Clone, Copy)]
enum Key {
    Own(OwnKey),
    Field(Field),
}

impl Key {
    fn name(self) -> &'static str {
        match self {
            Self::Own(key) => key.name(),
            Self::Field(field) => field.name(),
        }
    }
}

struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Result<Key, EventError>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for KeySeed {
    type Value = Result<Key, EventError>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        let key = OwnKey::from_name(name).map(Key::Own).or_else(|| Field::from_name(name).map(Key::Field));
        Ok(key.ok_or_else(|| {
            let known = OwnKey::ALL.iter().map(|key| key.name()).chain(Field::all().map(Field::name));
            EventError::UnknownKey { key: shown(name.as_bytes()), suggestion: suggest(name.as_bytes(), known) }
        }))
    }
}

/// A value of any type that an event can have.
enum Json<'de> {
    Null,
    Bool(bool),
    Number(u64),
    Integer,
    Fraction,
    Text(Cow<'de, [u8]>),
    List(Vec<Cow<'de, [u8]>>),
}

impl<'de> Json<'de> {
    fn found(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) | Self::Integer => "a number",
            Self::Fraction => "a fraction",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
        }
    }

    fn not<T>(&self, key: &'static str, expected: &'static str) -> Result<T, EventError> {
        Err(EventError::WrongType { key, expected, found: self.found() })
    }

    fn bool(self, key: &'static str) -> Result<bool, EventError> {
        match self {
            Self::Bool(value) => Ok(value),
            other => other.not(key, "true or false"),
        }
    }

    fn number(self, key: &'static str, max: u64) -> Result<u64, EventError> {
        match self {
            Self::Number(number) if number <= max => Ok(number),
            Self::Number(_) | Self::Integer => Err(EventError::OutOfRange { key, max }),
            other => other.not(key, "a number"),
        }
    }

    fn small_number(self, key: &'static str) -> Result<u32, EventError> {
        let max = u32::MAX.into();
        u32::try_from(self.number(key, max)?).map_err(|_| EventError::OutOfRange { key, max })
    }

    fn text(self, key: &'static str) -> Result<Cow<'de, [u8]>, EventError> {
        match self {
            Self::Text(text) => Ok(text),
            other => other.not(key, "a string"),
        }
    }

    fn list(self, key: &'static str) -> Result<Vec<Cow<'de, [u8]>>, EventError> {
        match self {
            Self::List(list) => Ok(list),
            other => other.not(key, "a list of strings"),
        }
    }
}

/// Where a value stands. Nothing nests deeper than this, so the parser does not recurse further.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Top,
    List,
    Base64,
}

struct ValueSeed<'p> {
    key: &'static str,
    place: Place,
    problem: &'p mut Option<EventError>,
}

impl ValueSeed<'_> {
    fn refuse<T, E: serde::de::Error>(self, found: &'static str) -> Result<T, E> {
        let expected = match self.place {
            Place::Top => "a plain value or {\"base64\": \"…\"}",
            Place::List => "a list of strings",
            Place::Base64 => "a string in base64",
        };
        fail(self.problem, EventError::WrongType { key: self.key, expected, found })
    }
}

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = Json<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_> {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value of an event")
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(value))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Json<'de>, E> {
        Ok(Json::Number(number))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Json<'de>, E> {
        Ok(u64::try_from(number).map_or(Json::Integer, Json::Number))
    }

    fn visit_u128<E>(self, number: u128) -> Result<Json<'de>, E> {
        Ok(u64::try_from(number).map_or(Json::Integer, Json::Number))
    }

    fn visit_i128<E>(self, number: i128) -> Result<Json<'de>, E> {
        Ok(u64::try_from(number).map_or(Json::Integer, Json::Number))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Json<'de>, E> {
        // An integer beyond 64 bits arrives here too, and is better called out of range.
        Ok(if number.fract() == 0.0 { Json::Integer } else { Json::Fraction })
    }

    fn visit_str<E>(self, text: &str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Owned(text.as_bytes().to_vec())))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Borrowed(text.as_bytes())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json<'de>, A::Error> {
        let Self { key, place, problem } = self;
        if place != Place::Top {
            return Self { key, place, problem }.refuse("a list");
        }
        let mut list = Vec::new();
        while let Some(item) = seq.next_element_seed(ValueSeed { key, place: Place::List, problem })? {
            match item {
                Json::Text(text) => list.push(text),
                other => return ValueSeed { key, place: Place::List, problem }.refuse(other.found()),
            }
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json<'de>, A::Error> {
        let Self { key, place, problem } = self;
        if place == Place::Base64 || map.next_key_seed(Base64Key)? != Some(true) {
            return Self { key, place, problem }.refuse("an object");
        }
        let encoded = match map.next_value_seed(ValueSeed { key, place: Place::Base64, problem })? {
            Json::Text(text) => text,
            other => return ValueSeed { key, place: Place::Base64, problem }.refuse(other.found()),
        };
        if map.next_key_seed(Base64Key)?.is_some() {
            return Self { key, place, problem }.refuse("an object");
        }
        match STANDARD.decode(&*encoded) {
            Ok(bytes) => Ok(Json::Text(Cow::Owned(bytes))),
            Err(error) => fail(problem, EventError::Base64 { key, reason: error.to_string() }),
        }
    }
}

/// The one key of the object that stands for bytes; true if it is that.
struct Base64Key;

impl<'de> DeserializeSeed<'de> for Base64Key {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for Base64Key {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(name == BASE64)
    }
}

//! What the table shows of one process.

use std::fmt;

use super::forest::{Entry, State};
use crate::event::{ProcessKey, Value};
use crate::schema::Field;

/// One process of a [`ProcessTable`](crate::ProcessTable), with what is known of it.
///
/// Texts are attacker-chosen bytes. Where only "nothing" and "not known" must be told apart, ask
/// [`ProcessRecord::value`].
#[derive(Clone, Copy)]
pub struct ProcessRecord<'t> {
    entry: &'t Entry,
}

impl<'t> ProcessRecord<'t> {
    pub(super) fn new(entry: &'t Entry) -> Self {
        Self { entry }
    }

    /// The identity of the process.
    #[must_use]
    pub fn key(self) -> ProcessKey {
        self.entry.key
    }

    /// The identity of its parent as an event told it last: after an adoption the one that adopted it. Zero if it has
    /// none or none was told.
    #[must_use]
    pub fn parent(self) -> ProcessKey {
        self.entry.reported_parent
    }

    /// Whether the process has ended.
    #[must_use]
    pub fn exited(self) -> bool {
        self.entry.state == State::Exited
    }

    /// Whether only its identity is known: it was named as a parent, but has not been seen to act.
    #[must_use]
    pub fn only_named(self) -> bool {
        self.entry.state == State::Named
    }

    /// Path of the executable.
    #[must_use]
    pub fn program_name(self) -> &'t [u8] {
        self.text(Field::ProgramName)
    }

    /// The path that was passed to execve.
    #[must_use]
    pub fn invoked_name(self) -> &'t [u8] {
        self.text(Field::InvokedName)
    }

    /// The script that an interpreter was started for.
    #[must_use]
    pub fn script_name(self) -> &'t [u8] {
        self.text(Field::ScriptName)
    }

    /// The arguments one by one, argv\[0\] first; the last may be cut.
    pub fn arguments(self) -> impl Iterator<Item = &'t [u8]> {
        self.entry.image.arguments()
    }

    /// The process's comm.
    #[must_use]
    pub fn process_name(self) -> &'t [u8] {
        self.text(Field::ProcessName)
    }

    /// Working directory when last told.
    #[must_use]
    pub fn working_directory(self) -> &'t [u8] {
        self.text(Field::ProgramDirectory)
    }

    /// Controlling terminal when last told.
    #[must_use]
    pub fn terminal(self) -> &'t [u8] {
        self.text(Field::Terminal)
    }

    /// Real user id.
    #[must_use]
    pub fn uid(self) -> Option<u64> {
        self.number(Field::Uid)
    }

    /// Real group id.
    #[must_use]
    pub fn gid(self) -> Option<u64> {
        self.number(Field::Gid)
    }

    /// Effective user id.
    #[must_use]
    pub fn euid(self) -> Option<u64> {
        self.number(Field::Euid)
    }

    /// Effective group id.
    #[must_use]
    pub fn egid(self) -> Option<u64> {
        self.number(Field::Egid)
    }

    /// Audit login uid.
    #[must_use]
    pub fn login_uid(self) -> Option<u64> {
        self.number(Field::LoginUid)
    }

    /// What is known of `field`, which must be one that a method above gives; any other is absent or unknown.
    #[must_use]
    pub fn value(self, field: Field) -> Value<'t> {
        self.entry.image.value(field)
    }

    fn text(self, field: Field) -> &'t [u8] {
        match self.value(field) {
            Value::Text { bytes, .. } => bytes,
            _ => b"",
        }
    }

    fn number(self, field: Field) -> Option<u64> {
        match self.value(field) {
            Value::Number(number) => Some(number),
            _ => None,
        }
    }
}

impl fmt::Debug for ProcessRecord<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessRecord")
            .field("key", &self.key())
            .field("parent", &self.parent())
            .field("program_name", &format_args!("{}", self.program_name().escape_ascii()))
            .field("exited", &self.exited())
            .finish_non_exhaustive()
    }
}

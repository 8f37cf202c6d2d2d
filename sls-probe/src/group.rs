//! The BPF objects. Each gives the events of some kinds, and is loaded only if they are wanted.

mod container;
mod credentials;
mod file;
pub(crate) mod memory;
mod module;
mod network;
mod process;
mod ptrace;
pub(crate) mod refuse;
pub(crate) mod security;

use libbpf_rs::{Object, OpenObject};
use sls_core::{EventKind, FieldSet};

use crate::builder::ProbeBuilder;
use crate::error::ProbeError;
use crate::hooks::HookFamily;
use crate::loader::Aligned;

/// Every group. The first is always loaded: the maps that all share are its own.
pub(crate) const GROUPS: &[Group] = &[
    process::GROUP,
    module::GROUP,
    ptrace::GROUP,
    file::GROUP,
    security::GROUP,
    network::GROUP,
    memory::GROUP,
    credentials::GROUP,
    container::GROUP,
    refuse::GROUP,
];

/// What is to be watched, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) settings: &'a ProbeBuilder,
    pub(crate) family: HookFamily,
}

impl Wanted<'_> {
    /// Whether events of `kind` are to be given.
    pub(crate) fn kind(&self, kind: EventKind) -> bool {
        self.settings.watches(kind)
    }

    /// Whether events of `kind` in which `value` happens are to be given ([`Interest::wants_value`](sls_core::Interest::wants_value)).
    pub(crate) fn value(&self, kind: EventKind, value: &str) -> bool {
        self.settings.interest.wants_value(kind, value)
    }
}

/// A BPF object and what it is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    pub(crate) name: &'static str,
    pub(crate) object: &'static Aligned<[u8]>,
    /// The programs that give what is wanted. None: the object is not loaded at all.
    pub(crate) hooks: fn(&Wanted<'_>) -> Vec<Hook>,
    /// Sets constants before the programs are loaded.
    pub(crate) configure: fn(&mut OpenObject, &Wanted<'_>) -> libbpf_rs::Result<()>,
    /// Brings the kernel's filters up to date: before anything is attached, and whenever what is wanted changes.
    pub(crate) filter: fn(&Object, &Wanted<'_>) -> Result<(), ProbeError>,
    /// The fields of its own that the group fills in events of a kind; none for a kind that is not its own. Those that
    /// every record has go without saying.
    pub(crate) fields: fn(EventKind, HookFamily) -> FieldSet,
}

/// A program to attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hook {
    pub(crate) program: &'static str,
    /// What is lost when the kernel does not run it.
    pub(crate) kind: EventKind,
    pub(crate) attach: Attach,
}

impl Hook {
    /// A program whose section says what it is attached to.
    pub(crate) const fn new(program: &'static str, kind: EventKind) -> Self {
        Self { program, kind, attach: Attach::Section }
    }

    /// Whether it runs when it is read, and not when something happens.
    pub(crate) fn is_iterator(&self) -> bool {
        matches!(self.attach, Attach::Iterator | Attach::Scan)
    }
}

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attach {
    /// As its section says.
    Section,
    /// To the root of the cgroup v2 hierarchy.
    Cgroup,
    /// To a tracepoint of system calls. One program can have many. Calls that the kernel does not have are nobody's loss.
    SystemCall(&'static str),
    /// Not with the others: the snapshot does it.
    Iterator,
    /// An iterator that is read to its end as soon as the others are attached, for what it leaves in maps.
    Scan,
}

pub(crate) fn no_configuration(_: &mut OpenObject, _: &Wanted<'_>) -> libbpf_rs::Result<()> {
    Ok(())
}

pub(crate) fn no_filter(_: &Object, _: &Wanted<'_>) -> Result<(), ProbeError> {
    Ok(())
}

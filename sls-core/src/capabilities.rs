//! What a sensor can see and do, so that a policy that needs more is refused at load and not silently blind.

use crate::action::{Action, ActionSet};
use crate::event::EventKind;
use crate::plugin::{EventSource, Responder};
use crate::policy::PolicyType;
use crate::schema::{Field, FieldSet};
use crate::trigger::raises;

/// The fields that the engine itself fills in, from its process table and from the event's kind.
pub const ENGINE_FIELDS: &[Field] = &[
    Field::ProcessPid,
    Field::ParentPid,
    Field::ParentProgramName,
    Field::ParentProgramArguments,
    Field::AncestorProgramName,
    Field::Lineage,
    Field::EventType,
    Field::FileAge,
];

/// What a sensor can see and do.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Capabilities {
    /// The fields of each kind of event that the source gives.
    fields: Vec<(EventKind, FieldSet)>,
    actions: ActionSet,
    unsafe_policies: bool,
}

impl Default for Capabilities {
    /// Everything: for checking documents that will run elsewhere.
    fn default() -> Self {
        let fields = EventKind::ALL.iter().map(|kind| (*kind, Field::all().collect())).collect();
        Self { fields, actions: Action::ALL.iter().copied().collect(), unsafe_policies: true }
    }
}

impl Capabilities {
    /// What a source and a responder offer together with the engine.
    #[must_use]
    pub fn of(source: &dyn EventSource, responder: &dyn Responder) -> Self {
        Self::new(|kind| source.provides(kind), responder.supports())
    }

    /// The same from their parts; `provides` gives the empty set for a kind that the source never gives.
    #[must_use]
    pub fn new(provides: impl Fn(EventKind) -> FieldSet, supports: ActionSet) -> Self {
        let engine: FieldSet = ENGINE_FIELDS.iter().copied().collect();
        let fields = EventKind::ALL
            .iter()
            .map(|kind| (*kind, provides(*kind)))
            .filter(|(_, fields)| !fields.is_empty())
            .map(|(kind, fields)| (kind, fields.union(engine)))
            .collect();
        let mut actions = supports;
        actions.insert(Action::Alert);
        actions.insert(Action::Audit);
        Self { fields, actions, unsafe_policies: false }
    }

    /// Allows policies that put probes of their own into the kernel and into programs (`kprobe`, `uprobe`), or not. By
    /// default a sensor does not.
    #[must_use]
    pub fn unsafe_policies(mut self, allowed: bool) -> Self {
        self.unsafe_policies = allowed;
        self
    }

    /// Whether policies of the type may be loaded at all.
    #[must_use]
    pub fn allows_type(&self, policy_type: PolicyType) -> bool {
        self.unsafe_policies || !matches!(policy_type, PolicyType::Kprobe | PolicyType::Uprobe)
    }

    /// Whether events of the policy type come at all.
    #[must_use]
    pub fn offers_type(&self, policy_type: PolicyType) -> bool {
        let gives = |kind| self.fields.iter().any(|(given, _)| *given == kind);
        // What is new is learnt from file events.
        (policy_type != PolicyType::NewFileExec || gives(EventKind::File))
            && EventKind::ALL.iter().any(|kind| raises(policy_type, *kind) && gives(*kind))
            && self.offers_trigger(policy_type)
    }

    /// Whether the fields come that tell whether an event raises the type.
    fn offers_trigger(&self, policy_type: PolicyType) -> bool {
        let needed: &[Field] = match policy_type {
            PolicyType::File | PolicyType::FileMonitor => &[Field::FileOperation],
            PolicyType::Chmod => &[Field::FileOperation, Field::FileMode],
            PolicyType::InteractiveShell => &[Field::StandardInput],
            PolicyType::Selinux | PolicyType::SmepSmap | PolicyType::KernelPayload => &[Field::SecurityChange],
            PolicyType::Kprobe | PolicyType::Uprobe => &[Field::ProbeSymbol],
            _ => &[],
        };
        needed.iter().all(|field| self.offers_field(policy_type, *field))
    }

    /// Whether every event that raises the policy type has the field.
    #[must_use]
    pub fn offers_field(&self, policy_type: PolicyType, field: Field) -> bool {
        self.fields.iter().filter(|(kind, _)| raises(policy_type, *kind)).all(|(_, fields)| fields.contains(field))
    }

    /// Whether the action can be carried out.
    #[must_use]
    pub fn offers_action(&self, action: Action) -> bool {
        self.actions.contains(action)
    }
}

//! What a sensor can see and do, so that a policy that needs more is refused at load and not silently blind.

use crate::action::{Action, ActionSet};
use crate::evaluate::raises;
use crate::event::EventKind;
use crate::plugin::{EventSource, Responder};
use crate::policy::PolicyType;
use crate::schema::{Field, FieldSet};

/// The fields that the engine itself fills in, from its process table and from the event's kind.
pub const ENGINE_FIELDS: &[Field] = &[
    Field::ProcessPid,
    Field::ParentPid,
    Field::ParentProgramName,
    Field::ParentProgramArguments,
    Field::AncestorProgramName,
    Field::Lineage,
    Field::EventType,
];

/// What a sensor can see and do.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Capabilities {
    /// The fields of each kind of event that the source gives.
    fields: Vec<(EventKind, FieldSet)>,
    actions: ActionSet,
}

impl Default for Capabilities {
    /// Everything: for checking documents that will run elsewhere.
    fn default() -> Self {
        let fields = EventKind::ALL.iter().map(|kind| (*kind, Field::all().collect())).collect();
        Self { fields, actions: Action::ALL.iter().copied().collect() }
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
        Self { fields, actions }
    }

    /// Whether events of the policy type come at all.
    #[must_use]
    pub fn offers_type(&self, policy_type: PolicyType) -> bool {
        self.fields.iter().any(|(kind, _)| raises(policy_type, *kind))
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

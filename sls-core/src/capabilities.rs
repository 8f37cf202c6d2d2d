//! What a sensor can see and do, so that a policy that needs more is refused at load and not silently blind.

use crate::action::{Action, ActionSet, CustomAction};
use crate::event::EventKind;
use crate::hook::{Hook, Mechanism};
use crate::plugin::{EventSource, Responder};
use crate::policy::PolicyType;
use crate::process_table::{OF_PROGRAM, tells_of_process};
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

/// What the engine fills in of an executed file that it saw change.
const NEW_FILE_FIELDS: &[Field] = &[Field::FilePath, Field::FileInode, Field::FileDevice];

/// What the process table knows of a program and gives to the other events of the process.
fn told_by_exec(exec: FieldSet) -> FieldSet {
    OF_PROGRAM.into_iter().filter(|field| exec.contains(*field)).collect()
}

/// What a sensor can see and do.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Capabilities {
    /// The fields of each kind of event that the source gives.
    fields: Vec<(EventKind, FieldSet)>,
    actions: ActionSet,
    unsafe_policies: bool,
    /// Types whose events do not come, and why.
    unavailable: Vec<(PolicyType, String)>,
    hooks: Vec<Hook>,
    /// Mechanisms that are not there, and why.
    no_mechanism: Vec<(Mechanism, String)>,
}

impl Default for Capabilities {
    /// Everything: for checking documents that will run elsewhere.
    fn default() -> Self {
        let fields = EventKind::ALL.iter().map(|kind| (*kind, Field::all().collect())).collect();
        let kinds = [EventKind::Exec, EventKind::File, EventKind::Connect, EventKind::Ptrace, EventKind::Module];
        let others = [Hook::exec_signal(), Hook::cgroup_connect(), Hook::fanotify_exec(), Hook::fanotify_open()];
        Self {
            fields,
            actions: Action::ALL.iter().copied().collect(),
            unsafe_policies: true,
            unavailable: Vec::new(),
            hooks: kinds.into_iter().map(Hook::lsm).chain(others).collect(),
            no_mechanism: Vec::new(),
        }
    }
}

impl Capabilities {
    /// What a source and a responder offer together with the engine.
    #[must_use]
    pub fn of(source: &dyn EventSource, responder: &dyn Responder) -> Self {
        let all = Self::new(|kind| source.provides(kind), responder.supports())
            .unavailable(|policy_type| source.unavailable(policy_type));
        let all = source.hooks().into_iter().fold(all, Self::hook);
        let missing =
            Mechanism::ALL.iter().filter_map(|mechanism| Some((*mechanism, source.no_mechanism(*mechanism)?)));
        missing.fold(all, |all, (mechanism, reason)| all.no_mechanism(mechanism, reason))
    }

    /// The same from their parts; `provides` gives the empty set for a kind that the source never gives.
    #[must_use]
    pub fn new(provides: impl Fn(EventKind) -> FieldSet, supports: ActionSet) -> Self {
        let engine: FieldSet = ENGINE_FIELDS.iter().copied().collect();
        let program = told_by_exec(provides(EventKind::Exec));
        let of_kind = |kind: EventKind| match provides(kind) {
            given if given.is_empty() => given,
            given if kind == EventKind::Exec && !provides(EventKind::File).is_empty() => {
                given.union(NEW_FILE_FIELDS.iter().copied().collect()).union(engine)
            }
            given if tells_of_process(kind) => given.union(engine),
            given => given.union(program).union(engine),
        };
        let fields = EventKind::ALL.iter().map(|kind| (*kind, of_kind(*kind)));
        let fields = fields.filter(|(_, fields)| !fields.is_empty()).collect();
        let mut actions = supports;
        actions.insert(Action::Alert);
        actions.insert(Action::Audit);
        let (hooks, no_mechanism) = (Vec::new(), Vec::new());
        Self { fields, actions, unsafe_policies: false, unavailable: Vec::new(), hooks, no_mechanism }
    }

    /// Offers a hook, in place of one of the same mechanism and for the same kind of events.
    #[must_use]
    pub fn hook(mut self, hook: Hook) -> Self {
        self.hooks.retain(|other| (other.mechanism(), other.kind()) != (hook.mechanism(), hook.kind()));
        self.hooks.push(hook);
        self
    }

    /// Offers no hook at all: what was offered before is taken away, and with it `block`.
    #[must_use]
    pub fn without_hooks(mut self) -> Self {
        self.hooks.clear();
        self.actions = self.actions.iter().filter(|action| *action != Action::Block).collect();
        self
    }

    /// Takes the hooks of a mechanism away, for `reason`: what is missing, such as a kernel option. `sls check
    /// --explain-tiers` shows it, and so does the refusal of a policy that asks for more than is left.
    #[must_use]
    pub fn no_mechanism(mut self, mechanism: Mechanism, reason: impl Into<String>) -> Self {
        self.hooks.retain(|hook| hook.mechanism() != mechanism);
        self.no_mechanism.push((mechanism, reason.into()));
        self
    }

    /// What is offered.
    #[must_use]
    pub fn hooks(&self) -> &[Hook] {
        &self.hooks
    }

    /// What a mechanism offers for events of `kind`.
    #[must_use]
    pub fn hook_of(&self, mechanism: Mechanism, kind: EventKind) -> Option<&Hook> {
        self.hooks.iter().find(|hook| hook.mechanism() == mechanism && hook.kind() == kind)
    }

    /// Why a mechanism is not there, where that is known.
    #[must_use]
    pub fn why_no_mechanism(&self, mechanism: Mechanism) -> Option<&str> {
        self.no_mechanism.iter().find(|(other, _)| *other == mechanism).map(|(_, reason)| reason.as_str())
    }

    /// Takes policy types away for which `reason` gives one: what is missing, such as a hook, and which kernel option would
    /// bring it. The refusal of a policy shows it. Types may share a kind of events of which a source gives only some.
    ///
    /// ```
    /// use sls_core::{Capabilities, PolicyLoader, PolicyType};
    ///
    /// let sensor = Capabilities::default().unavailable(|policy_type| match policy_type {
    ///     PolicyType::Selinux => Some("the kernel has no SELinux (CONFIG_SECURITY_SELINUX)".to_owned()),
    ///     _ => None,
    /// });
    /// let refused = PolicyLoader::new()
    ///     .capabilities(sensor)
    ///     .document("policy.yaml", "Off: {policy: selinux, rules: [default match]}")
    ///     .load()
    ///     .unwrap_err();
    /// let finding = &refused.as_slice()[0];
    /// assert!(finding.message.contains("`Off`"));
    /// assert_eq!(finding.label, "the kernel has no SELinux (CONFIG_SECURITY_SELINUX)");
    /// ```
    #[must_use]
    pub fn unavailable(mut self, reason: impl Fn(PolicyType) -> Option<String>) -> Self {
        let reasons = PolicyType::ALL.iter().filter_map(|policy_type| Some((*policy_type, reason(*policy_type)?)));
        self.unavailable.extend(reasons);
        self
    }

    /// Why events of the policy type do not come, where that is known.
    #[must_use]
    pub fn why_unavailable(&self, policy_type: PolicyType) -> Option<&str> {
        self.unavailable.iter().find(|(other, _)| *other == policy_type).map(|(_, reason)| reason.as_str())
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
        self.why_unavailable(policy_type).is_none()
            && (policy_type != PolicyType::NewFileExec || gives(EventKind::File))
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

    /// Adds an embedder's action: for checking documents of a sensor that has it.
    #[must_use]
    pub fn action(mut self, action: &'static CustomAction) -> Self {
        self.actions.insert(Action::Custom(action));
        self
    }

    /// The actions that can be carried out.
    #[must_use]
    pub fn actions(&self) -> ActionSet {
        self.actions
    }

    /// Whether the action can be carried out.
    #[must_use]
    pub fn offers_action(&self, action: Action) -> bool {
        let blocks = action == Action::Block && self.hooks.iter().any(|hook| hook.mechanism().can(action));
        blocks || self.actions.contains(action)
    }
}

//! By what each policy is enforced: the strongest mechanism of the host that can decide it, and why no stronger one does.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};

use crate::action::{Action, Tier};
use crate::capabilities::Capabilities;
use crate::event::EventKind;
use crate::hold::{self, HeldPaths, Hold};
use crate::hook::{Hook, Mechanism};
use crate::interest::{responds, values_of_choice};
use crate::lowering::{KernelPolicy, Obstacle};
use crate::policy::{Policy, PolicySet};
use crate::trigger::raises;

/// By what the policies of a set are enforced on the host that they were loaded for.
///
/// ```
/// use sls_core::{Capabilities, EventKind, Hook, Mechanism, PolicyLoader, Tier};
///
/// let text = r#"
/// No wget:
///   policy: program
///   responseActions: [kill, alert]
///   rules: ['match programName == "/usr/bin/wget"', default ignore]
/// "#;
/// // A host where BPF programs may send signals.
/// let host = Capabilities::default().without_hooks().hook(Hook::exec_signal());
/// let policies = PolicyLoader::new().capabilities(host).document("p.yaml", text).load()?;
/// let [case] = policies.tiers().cases() else { panic!("one kind of events") };
/// assert_eq!((case.mechanism, case.tier()), (Mechanism::ExecSignal, Tier::Kernel));
/// assert_eq!(policies.tiers().kernel_policies(Mechanism::ExecSignal, EventKind::Exec).count(), 1);
/// # Ok::<(), sls_core::Diagnostics>(())
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Tiers {
    cases: Vec<TierCase>,
    kernel: Vec<(Mechanism, KernelPolicy)>,
    holds: Vec<Hold>,
}

/// By what a policy is enforced in one kind of events, or when one thing happens in them.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TierCase {
    /// The policy.
    pub policy: Arc<Policy>,
    /// The events.
    pub kind: EventKind,
    /// What happens in them, where it is one of several things.
    pub operation: Option<&'static str>,
    /// What enforces it.
    pub mechanism: Mechanism,
    /// What would be stronger and does not, strongest first.
    pub passed_over: Vec<PassedOver>,
}

/// A mechanism that does not enforce a policy, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PassedOver {
    /// The mechanism.
    pub mechanism: Mechanism,
    /// What stands in the way.
    pub obstacles: Vec<Obstacle>,
}

impl TierCase {
    /// The tier that decides.
    #[must_use]
    pub fn tier(&self) -> Tier {
        self.mechanism.tier()
    }
}

impl Serialize for TierCase {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("TierCase", 6)?;
        out.serialize_field("policy", &*self.policy.name)?;
        out.serialize_field("event", self.kind.name())?;
        out.serialize_field("operation", &self.operation)?;
        out.serialize_field("tier", self.tier().name())?;
        out.serialize_field("mechanism", self.mechanism.name())?;
        out.serialize_field("passedOver", &self.passed_over)?;
        out.end()
    }
}

impl Serialize for PassedOver {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("PassedOver", 3)?;
        out.serialize_field("tier", self.mechanism.tier().name())?;
        out.serialize_field("mechanism", self.mechanism.name())?;
        let reasons: Vec<_> = self.obstacles.iter().map(ToString::to_string).collect();
        out.serialize_field("reasons", &reasons)?;
        out.end()
    }
}

impl Tiers {
    /// Every policy that takes part and acts, with each kind of events, in document order. For those that only report, too,
    /// there is [`PolicySet::explain_tiers`].
    #[must_use]
    pub fn cases(&self) -> &[TierCase] {
        &self.cases
    }

    /// The policies that `mechanism` decides in the kernel about events of `kind`, as it decides them. Of their
    /// [`KernelPolicy::operations`] only those are left that it holds.
    pub fn kernel_policies(&self, mechanism: Mechanism, kind: EventKind) -> impl Iterator<Item = &KernelPolicy> {
        let policies = self.kernel.iter().filter(move |(other, policy)| *other == mechanism && policy.kind == kind);
        policies.map(|(_, policy)| policy)
    }

    /// What has to wait for an answer from user space.
    #[must_use]
    pub fn holds(&self) -> &[Hold] {
        &self.holds
    }

    /// Whether events of `kind` in which `operation` happens are held for the policy at this place.
    pub(crate) fn is_held(&self, policy: usize, kind: EventKind, operation: &[u8]) -> bool {
        self.holds
            .iter()
            .filter(|hold| hold.policy.index == policy && hold.kind == kind)
            .any(|hold| hold.operations.is_empty() || hold.operations.iter().any(|held| held.as_bytes() == operation))
    }

    /// The same for all active policies: [`Tiers::cases`], and for those that only report one case of each kind of events.
    pub(crate) fn of_all(&self, policies: &PolicySet) -> Vec<TierCase> {
        let mut all = Vec::new();
        let mut cases = self.cases.iter().peekable();
        for policy in policies.active() {
            let before = all.len();
            while let Some(case) = cases.next_if(|case| case.policy.index == policy.index) {
                all.push(case.clone());
            }
            if all.len() == before {
                let kinds = EventKind::ALL.iter().filter(|kind| raises(policy.policy_type, **kind));
                all.extend(kinds.map(|kind| only_reports(policy, *kind)));
            }
        }
        all
    }

    /// Chooses for one policy more, in document order, for there is room for so many.
    ///
    /// # Errors
    /// Why no tier does what it asks for. Then nothing is added.
    pub(crate) fn add(&mut self, policy: &Arc<Policy>, capabilities: &Capabilities) -> Result<(), Unmet> {
        if !policy.enabled || !acts(policy) {
            return Ok(());
        }
        let (mut cases, mut kernel, mut holds) = (Vec::new(), Vec::new(), Vec::new());
        for kind in EventKind::ALL.iter().copied() {
            let values = values_of_choice(kind);
            let operations = values.iter().copied().map(Some).chain(values.is_empty().then_some(None));
            for operation in operations.filter(|operation| responds(policy, kind, *operation)) {
                let choice = Choice { policy, kind, operation, capabilities, tiers: self, kernel: &kernel };
                let (mechanism, lowered, passed_over) = choice.strongest();
                let case = TierCase { policy: policy.clone(), kind, operation, mechanism, passed_over };
                if let Some(unmet) = unmet(&case, capabilities) {
                    return Err(unmet);
                }
                if let Some(lowered) = lowered {
                    add_kernel(&mut kernel, mechanism, lowered, operation);
                }
                if mechanism == Mechanism::FanotifyPermission {
                    add_hold(&mut holds, &case);
                }
                cases.push(case);
            }
        }
        self.cases.append(&mut cases);
        self.kernel.append(&mut kernel);
        self.holds.append(&mut holds);
        Ok(())
    }
}

/// What a policy asks for and no tier does.
#[derive(Debug)]
pub(crate) struct Unmet {
    pub(crate) message: String,
    pub(crate) reasons: String,
    pub(crate) help: String,
}

fn unmet(case: &TierCase, capabilities: &Capabilities) -> Option<Unmet> {
    let TierCase { policy, mechanism, kind, operation, passed_over } = case;
    let blocks = policy.actions.contains(Action::Block);
    // A responder that blocks does so in a way of its own.
    let answered = || capabilities.actions().contains(Action::Block) && *mechanism == Mechanism::Pidfd;
    let met = (!blocks || mechanism.can(Action::Block) || answered())
        && policy.tier.is_none_or(|wanted| mechanism.tier().strength() >= wanted.strength());
    if met {
        return None;
    }
    let what = match operation {
        Some(operation) => format!("`{operation}` in events of kind `{kind}`"),
        None => format!("events of kind `{kind}`"),
    };
    let message = match policy.tier {
        Some(wanted) => format!("`{}` cannot decide {what} in the tier `{}`", policy.name, wanted.name()),
        None => format!("`{}` cannot block {what}: no tier of this sensor refuses them", policy.name),
    };
    let strong_enough =
        |passed: &&PassedOver| policy.tier.is_none_or(|wanted| passed.mechanism.tier().strength() >= wanted.strength());
    let reasons = passed_over.iter().filter(strong_enough).map(|passed| {
        let obstacles: Vec<_> = passed.obstacles.iter().map(ToString::to_string).collect();
        format!("{}: {}", passed.mechanism, obstacles.join(", "))
    });
    let reasons = reasons.collect::<Vec<_>>().join("; ");
    let help = match (operation, policy.tier) {
        (Some(_), _) => "leave it to another policy, with a test of what happens, or ask for less",
        (None, Some(_)) => {
            "leave `tier` out to take the strongest that there is; `sls check --explain-tiers` tells which"
        }
        (None, None) => "`kill` ends the program a moment later; `sls doctor` tells what this host lacks",
    };
    Some(Unmet {
        message,
        reasons: if reasons.is_empty() { "nothing holds such an event".to_owned() } else { reasons },
        help: help.to_owned(),
    })
}

fn only_reports(policy: &Arc<Policy>, kind: EventKind) -> TierCase {
    let passed = |mechanism: &Mechanism| PassedOver {
        mechanism: *mechanism,
        obstacles: vec![Obstacle::new("there is nothing to enforce, for the policy only reports")],
    };
    let passed_over = candidates(kind).iter().map(passed).collect();
    TierCase { policy: policy.clone(), kind, operation: None, mechanism: Mechanism::Pidfd, passed_over }
}

/// Whether the policy does more than to report.
fn acts(policy: &Policy) -> bool {
    policy.tier.is_some() || policy.actions.iter().any(|action| action.target_type().is_some())
}

fn add_kernel(
    all: &mut Vec<(Mechanism, KernelPolicy)>,
    mechanism: Mechanism,
    mut lowered: KernelPolicy,
    operation: Option<&'static str>,
) {
    match all.iter_mut().find(|(other, policy)| *other == mechanism && policy.kind == lowered.kind) {
        Some((_, policy)) => policy.operations.extend(operation),
        None => {
            lowered.operations = operation.into_iter().collect();
            all.push((mechanism, lowered));
        }
    }
}

fn add_hold(all: &mut Vec<Hold>, case: &TierCase) {
    let paths = HeldPaths::of(&case.policy, case.kind, case.operation);
    match all.iter_mut().find(|hold| hold.kind == case.kind) {
        Some(hold) => {
            hold.operations.extend(case.operation);
            hold.paths.add(&paths);
        }
        None => all.push(Hold {
            policy: case.policy.clone(),
            kind: case.kind,
            operations: case.operation.into_iter().collect(),
            paths,
        }),
    }
}

struct Choice<'a> {
    policy: &'a Arc<Policy>,
    kind: EventKind,
    operation: Option<&'static str>,
    capabilities: &'a Capabilities,
    tiers: &'a Tiers,
    /// What was lowered of the policy already, for other operations.
    kernel: &'a [(Mechanism, KernelPolicy)],
}

impl Choice<'_> {
    /// The strongest mechanism that can, what it decides in the kernel, and those that cannot.
    fn strongest(&self) -> (Mechanism, Option<KernelPolicy>, Vec<PassedOver>) {
        let mut passed_over = Vec::new();
        for mechanism in candidates(self.kind).iter().copied() {
            match self.consider(mechanism) {
                Ok(lowered) => return (mechanism, lowered, passed_over),
                Err(obstacles) => passed_over.push(PassedOver { mechanism, obstacles }),
            }
        }
        (Mechanism::Pidfd, None, passed_over)
    }

    fn consider(&self, mechanism: Mechanism) -> Result<Option<KernelPolicy>, Vec<Obstacle>> {
        if let Some(reason) = self.unfit(mechanism) {
            return Err(vec![Obstacle::new(reason)]);
        }
        let Some(hook) = self.capabilities.hook_of(mechanism, self.kind) else {
            let reason = self.capabilities.why_no_mechanism(mechanism).unwrap_or("this sensor does not have it");
            return Err(vec![Obstacle::new(reason)]);
        };
        if let Some(operation) = self.operation.filter(|operation| !hook.holds(operation)) {
            return Err(vec![Obstacle::new(format!("it does not hold `{operation}`"))]);
        }
        if mechanism == Mechanism::FanotifyPermission {
            return self.held(hook).map(|()| None);
        }
        let lowered = KernelPolicy::lower(self.policy, hook)?;
        self.room_for(&lowered, mechanism, hook)?;
        Ok(Some(lowered))
    }

    /// Why the mechanism cannot do what the policy asks for, whatever its rules are.
    fn unfit(&self, mechanism: Mechanism) -> Option<&'static str> {
        let actions = self.policy.actions;
        let active = || actions.iter().filter(|action| action.target_type().is_some());
        if actions.contains(Action::Block) {
            return (!mechanism.can(Action::Block)).then_some("it signals a process, and refuses nothing");
        }
        match mechanism {
            // What is decided before it happens may be answered by anything.
            Mechanism::FanotifyPermission => None,
            Mechanism::ExecSignal if active().any(|action| mechanism.can(action)) => None,
            Mechanism::ExecSignal => Some("it signals the program alone, with `kill` or `stop`"),
            _ => Some("it refuses, and the policy has no `block`"),
        }
    }

    fn held(&self, hook: &Hook) -> Result<(), Vec<Obstacle>> {
        let obstacles = hold::obstacles(self.policy, hook);
        if !obstacles.is_empty() {
            return Err(obstacles);
        }
        let asked_for = self.policy.actions.contains(Action::Block) || self.policy.tier.is_some();
        let reason = if asked_for {
            return Ok(());
        } else if self.kind != EventKind::Exec {
            "every opening of the files would wait, to read as well; ask for it with `tier: fanotify`"
        } else if HeldPaths::of(self.policy, self.kind, self.operation) == HeldPaths::Any {
            "every execution would wait, for the rules name no places; ask for it with `tier: fanotify`"
        } else {
            return Ok(());
        };
        Err(vec![Obstacle::new(reason)])
    }

    /// What does not fit into maps is told now, and not when they are full.
    fn room_for(&self, lowered: &KernelPolicy, mechanism: Mechanism, hook: &Hook) -> Result<(), Vec<Obstacle>> {
        if self.kernel.iter().any(|(other, policy)| *other == mechanism && policy.kind == self.kind) {
            return Ok(());
        }
        let limits = hook.limits();
        let (policies, entries) = self
            .tiers
            .kernel_policies(mechanism, self.kind)
            .fold((1, lowered.entries()), |(policies, entries), other| (policies + 1, entries + other.entries()));
        for (what, needed, limit) in
            [("policies", policies, limits.policies), ("entries", entries, limits.total_entries)]
        {
            if needed > limit {
                return Err(vec![Obstacle::new(format!(
                    "with those before it, there is room for {limit} {what} only"
                ))]);
            }
        }
        Ok(())
    }
}

/// What can decide events of `kind`, strongest first.
fn candidates(kind: EventKind) -> &'static [Mechanism] {
    use Mechanism::{CgroupConnect, ExecSignal, FanotifyPermission, Lsm};
    match kind {
        EventKind::Exec => &[Lsm, ExecSignal, FanotifyPermission],
        EventKind::File => &[Lsm, FanotifyPermission],
        EventKind::Connect => &[Lsm, CgroupConnect],
        EventKind::Ptrace | EventKind::Module => &[Lsm],
        _ => &[],
    }
}

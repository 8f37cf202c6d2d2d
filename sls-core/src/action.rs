//! Actions: what a policy asks for, what the planner made of it, and what came of it.

mod custom;
mod set;

use std::borrow::Cow;
use std::fmt;

use crate::event::ProcessKey;
use crate::policy::PolicyType;

pub use custom::CustomAction;
pub use set::{ActionSet, MAX_CUSTOM_ACTIONS};

/// A response action, as policies name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Action {
    /// Emit the alert.
    Alert,
    /// Emit the alert as message type `audit`.
    Audit,
    /// Refuse the operation before it happens.
    Block,
    /// SIGSTOP to the acting process.
    Stop,
    /// Freeze the container's cgroup.
    PauseContainer,
    /// Move the file to the quarantine store.
    Quarantine,
    /// Remove the file.
    Delete,
    /// SIGKILL to the acting process; its children survive.
    Kill,
    /// Kill the acting process and all of its descendants.
    KillTree,
    /// End the acting process's container.
    KillContainer,
    /// An action that an embedder adds.
    Custom(&'static CustomAction),
}

impl Action {
    /// Every action but those that embedders add, in the order in which a plan carries them out: what holds the attacker
    /// still comes first, what destroys evidence last.
    pub const ALL: &'static [Self] = &[
        Self::Alert,
        Self::Audit,
        Self::Block,
        Self::Stop,
        Self::PauseContainer,
        Self::Quarantine,
        Self::Delete,
        Self::Kill,
        Self::KillTree,
        Self::KillContainer,
    ];

    /// The token that policies and alerts use.
    #[must_use]
    pub fn token(self) -> &'static str {
        match self {
            Self::Custom(action) => action.token(),
            Self::Alert => "alert",
            Self::Audit => "audit",
            Self::Block => "block",
            Self::Stop => "stop",
            Self::PauseContainer => "pause-container",
            Self::Quarantine => "quarantine",
            Self::Delete => "delete",
            Self::Kill => "kill",
            Self::KillTree => "kill-tree",
            Self::KillContainer => "kill-container",
        }
    }

    /// The action that `token` names, other spellings included; none of an embedder's, which an [`ActionSet`] finds.
    #[must_use]
    pub fn from_token(token: &str) -> Option<Self> {
        let mut tokens = Self::ALL.iter().flat_map(|action| action.tokens().map(|token| (token, *action)));
        tokens.find(|(known, _)| *known == token).map(|(_, action)| action)
    }

    /// Every token that names the action in policies, [`Action::token`] first.
    pub fn tokens(self) -> impl Iterator<Item = &'static str> {
        let other = match self {
            Self::Stop => Some("suspend"),
            Self::Delete => Some("delete-file"),
            _ => None,
        };
        std::iter::once(self.token()).chain(other)
    }

    /// Whether it ends processes, after which there is nothing left to look at.
    pub(crate) fn kills(self) -> bool {
        matches!(self, Self::Kill | Self::KillTree | Self::KillContainer)
    }

    /// What the action acts on; none for those that only report.
    #[must_use]
    pub fn target_type(self) -> Option<TargetType> {
        match self {
            Self::Custom(action) => Some(action.target_type()),
            Self::Alert | Self::Audit => None,
            Self::Block => Some(TargetType::Operation),
            Self::Stop | Self::Kill | Self::KillTree => Some(TargetType::Process),
            Self::PauseContainer | Self::KillContainer => Some(TargetType::Container),
            Self::Quarantine | Self::Delete => Some(TargetType::File),
        }
    }

    /// Whether policies of type `policy_type` may ask for the action.
    #[must_use]
    pub fn fits(self, policy_type: PolicyType) -> bool {
        use PolicyType as P;
        match self {
            Self::Custom(action) => action.fits(policy_type),
            Self::Alert | Self::Audit => true,
            Self::Kill | Self::KillTree | Self::Stop | Self::KillContainer | Self::PauseContainer => {
                policy_type.has_acting_process()
            }
            Self::Quarantine | Self::Delete => policy_type.has_file(),
            Self::Block => {
                matches!(policy_type, P::Program | P::File | P::FileMonitor | P::Connect | P::Ptrace | P::KernelModule)
            }
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.token())
    }
}

/// What an action acts on, as alerts name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TargetType {
    /// A process.
    Process,
    /// A container.
    Container,
    /// A file.
    File,
    /// The operation that raised the event.
    Operation,
    /// The host as a whole.
    Host,
}

impl TargetType {
    /// The name in alerts.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Container => "container",
            Self::File => "file",
            Self::Operation => "operation",
            Self::Host => "host",
        }
    }
}

/// The identity of what an action acts on; never a bare pid or path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Target {
    /// A process.
    Process {
        /// Its pid and start time.
        key: ProcessKey,
        /// Its pidfd's inode, where the kernel has one.
        pidfd_inode: Option<u64>,
    },
    /// A container.
    Container {
        /// Id of the acting process's cgroup in the v2 hierarchy.
        cgroup_id: u64,
    },
    /// A file.
    File {
        /// Device of its file system, as stat(2) gives it.
        device: u64,
        /// Its inode.
        inode: u64,
    },
    /// The operation that raised the event.
    Operation,
    /// The host that the sensor watches.
    Host,
    /// Something that the event does not identify; no action on it is ever granted.
    Unidentified,
}

/// Where an action is decided and carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Tier {
    /// In the kernel, before the new program's first instruction.
    Kernel,
    /// While a fanotify permission event holds the operation.
    Fanotify,
    /// In user space, after the event.
    Process,
}

impl Tier {
    /// Every tier, weakest first.
    pub const ALL: &'static [Self] = &[Self::Process, Self::Fanotify, Self::Kernel];

    /// The names of all tiers.
    pub(crate) const NAMES: &'static [&'static str] = &["process", "fanotify", "kernel"];

    /// The tier called `name`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|tier| tier.name() == name)
    }

    /// The stronger, the earlier it decides.
    pub(crate) fn strength(self) -> usize {
        Self::ALL.iter().position(|tier| *tier == self).unwrap_or_default()
    }

    /// The name in alerts.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Fanotify => "fanotify",
            Self::Process => "process",
        }
    }
}

/// One action of a plan: what to do, to what, and whether it may be done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlannedAction {
    /// The action.
    pub action: Action,
    /// What it acts on.
    pub target: Target,
    /// Whether it is to be carried out.
    pub permission: Permission,
}

impl PlannedAction {
    /// A planned action.
    #[must_use]
    pub fn new(action: Action, target: Target, permission: Permission) -> Self {
        Self { action, target, permission }
    }
}

/// Whether a planned action is to be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Permission {
    /// Carry it out.
    Granted,
    /// Report it as if; carry nothing out.
    DryRun,
    /// The same, because a guard holds the policy in dry run for a time: it is new, or its circuit breaker has tripped.
    Held(Refusal),
    /// A guard said no.
    Refused(Refusal),
}

/// Which guard refused an action, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// The guard's stable name.
    pub guard: Cow<'static, str>,
    /// Why, in a few words.
    pub reason: Cow<'static, str>,
}

impl Refusal {
    /// A refusal by `guard`.
    #[must_use]
    pub fn new(guard: impl Into<Cow<'static, str>>, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { guard: guard.into(), reason: reason.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.guard, self.reason)
    }
}

/// What came of a planned action.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ActionResult {
    /// The effect was observed.
    Successful,
    /// It was tried and failed, or its effect was not seen in time.
    NotSuccessful {
        /// Why: an error text such as `no such process`.
        details: String,
    },
    /// It was planned and guarded, and not carried out.
    DryRun {
        /// Which guard holds the policy in dry run; empty if the policy or the sensor was told to.
        details: String,
    },
    /// A guard, or the identity check just before the action, said no.
    Refused {
        /// The guard and its reason.
        details: String,
    },
}

impl ActionResult {
    /// That the action failed, for this reason.
    #[must_use]
    pub fn not_successful(details: impl Into<String>) -> Self {
        Self::NotSuccessful { details: details.into() }
    }

    /// The value of `action_result` in alerts.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Successful => "successful",
            Self::NotSuccessful { .. } => "not successful",
            Self::DryRun { .. } => "dry run",
            Self::Refused { .. } => "refused",
        }
    }

    /// The value of `action_result_details`; empty if there is nothing to add.
    #[must_use]
    pub fn details(&self) -> &str {
        match self {
            Self::NotSuccessful { details } | Self::Refused { details } | Self::DryRun { details } => details,
            Self::Successful => "",
        }
    }

    /// What `permission` leaves to report; none if the action is to be carried out.
    #[must_use]
    pub fn withheld(permission: &Permission) -> Option<Self> {
        match permission {
            Permission::Granted => None,
            Permission::DryRun => Some(Self::DryRun { details: String::new() }),
            Permission::Held(guard) => Some(Self::DryRun { details: guard.to_string() }),
            Permission::Refused(guard) => Some(Self::Refused { details: guard.to_string() }),
        }
    }
}

/// The outcome of one action, as its alert reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ActionOutcome {
    /// The action.
    pub action: Action,
    /// What it acted on.
    pub target: Target,
    /// What came of it.
    pub result: ActionResult,
    /// Where it was carried out; none if it was not.
    pub tier: Option<Tier>,
    /// When the result was known, in nanoseconds since the epoch; none takes the event's time.
    pub time: Option<u64>,
}

impl ActionOutcome {
    /// An outcome of `planned` at no time and in no tier of its own.
    #[must_use]
    pub fn new(planned: &PlannedAction, result: ActionResult) -> Self {
        Self { action: planned.action, target: planned.target, result, tier: None, time: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip() {
        for action in Action::ALL {
            assert_eq!(Action::from_token(action.token()), Some(*action));
        }
        assert_eq!(Action::from_token("suspend"), Some(Action::Stop));
        assert_eq!(Action::from_token("delete-file"), Some(Action::Delete));
        assert_eq!(Action::from_token("KILL"), None);
    }
}

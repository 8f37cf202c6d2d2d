//! Actions that embedders add.

use std::fmt;
use std::hash::{Hash, Hasher};

use super::TargetType;
use crate::policy::PolicyType;

/// An action that an embedder adds to those of policies, such as "isolate this host". Policies ask for it by its token;
/// plans, guards, dry run and alerts treat it like the others; a [`Responder`](crate::Responder) that has it in what it
/// [supports](crate::Responder::supports) makes it known and carries it out.
///
/// A plan carries it out before those that kill, so that what it looks at is still there, and after all others.
///
/// ```
/// use sls_core::{Action, CustomAction, TargetType};
///
/// static ISOLATE: CustomAction = CustomAction::new("isolate-host", TargetType::Host);
/// let action = Action::Custom(&ISOLATE);
/// assert_eq!(action.token(), "isolate-host");
/// ```
#[derive(Clone, Copy)]
pub struct CustomAction {
    token: &'static str,
    target_type: TargetType,
    policy_types: Option<&'static [PolicyType]>,
}

impl CustomAction {
    /// An action with this token, for every policy type that can have such a target. Where an embedder gives a token that
    /// is one of SLS's own, policies go on to get SLS's.
    #[must_use]
    pub const fn new(token: &'static str, target_type: TargetType) -> Self {
        Self { token, target_type, policy_types: None }
    }

    /// Only for policies of these types.
    #[must_use]
    pub const fn policy_types(self, policy_types: &'static [PolicyType]) -> Self {
        Self { policy_types: Some(policy_types), ..self }
    }

    /// The token that policies and alerts use.
    #[must_use]
    pub const fn token(&self) -> &'static str {
        self.token
    }

    /// What it acts on.
    #[must_use]
    pub const fn target_type(&self) -> TargetType {
        self.target_type
    }

    pub(super) fn fits(&self, policy_type: PolicyType) -> bool {
        let can_be = match self.target_type {
            TargetType::Process | TargetType::Container => policy_type.has_acting_process(),
            TargetType::File => policy_type.has_file(),
            TargetType::Operation | TargetType::Host => true,
        };
        can_be && self.policy_types.is_none_or(|policy_types| policy_types.contains(&policy_type))
    }
}

impl fmt::Debug for CustomAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.token)
    }
}

impl PartialEq for CustomAction {
    fn eq(&self, other: &Self) -> bool {
        self.token == other.token
    }
}

impl Eq for CustomAction {}

impl Hash for CustomAction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.token.hash(state);
    }
}

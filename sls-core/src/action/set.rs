//! Sets of actions.

use std::fmt;

use super::{Action, CustomAction};

/// The most actions of embedders in one [`ActionSet`]; more are left out.
pub const MAX_CUSTOM_ACTIONS: usize = 4;

/// A set of actions.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct ActionSet {
    /// Of [`Action::ALL`], by place.
    own: u16,
    custom: [Option<&'static CustomAction>; MAX_CUSTOM_ACTIONS],
}

impl ActionSet {
    /// The empty set.
    pub const EMPTY: Self = Self { own: 0, custom: [None; MAX_CUSTOM_ACTIONS] };

    /// Adds `action`. Of embedders' actions it takes [`MAX_CUSTOM_ACTIONS`]; it says whether `action` is in it now.
    pub fn insert(&mut self, action: Action) -> bool {
        if let Action::Custom(custom) = action {
            let slot = self.custom.iter_mut().find(|slot| slot.is_none_or(|other| other == custom));
            return slot.map(|slot| *slot = Some(custom)).is_some();
        }
        self.own |= bit(action);
        true
    }

    /// Whether `action` is in the set.
    #[must_use]
    pub fn contains(self, action: Action) -> bool {
        match action {
            Action::Custom(custom) => self.custom.contains(&Some(custom)),
            own => self.own & bit(own) != 0,
        }
    }

    /// Whether no action is in the set.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Self::EMPTY
    }

    /// The members, in the order in which a plan carries them out.
    pub fn iter(self) -> impl Iterator<Item = Action> + Clone {
        let own = move |kills: bool| {
            Action::ALL.iter().copied().filter(move |action| action.kills() == kills && self.contains(*action))
        };
        own(false).chain(self.custom.into_iter().flatten().map(Action::Custom)).chain(own(true))
    }

    /// The members of both.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        self.iter().chain(other.iter()).collect()
    }

    /// The action that `token` names in policies for a sensor that has these actions: one of SLS's own, whether it is in
    /// the set or not, or an embedder's that is in it.
    #[must_use]
    pub fn named(self, token: &str) -> Option<Action> {
        let custom = || self.custom.into_iter().flatten().find(|custom| custom.token() == token).map(Action::Custom);
        Action::from_token(token).or_else(custom)
    }
}

impl FromIterator<Action> for ActionSet {
    fn from_iter<I: IntoIterator<Item = Action>>(actions: I) -> Self {
        let mut set = Self::EMPTY;
        for action in actions {
            set.insert(action);
        }
        set
    }
}

impl fmt::Debug for ActionSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(Action::token)).finish()
    }
}

fn bit(action: Action) -> u16 {
    Action::ALL.iter().position(|other| *other == action).map_or(0, |place| 1 << place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::TargetType;

    static ISOLATE: CustomAction = CustomAction::new("isolate-host", TargetType::Host);

    #[test]
    fn sets_keep_the_safe_order() {
        let actions = [Action::Kill, Action::Custom(&ISOLATE), Action::Alert, Action::Stop];
        let set: ActionSet = actions.into_iter().collect();
        let order = [Action::Alert, Action::Stop, Action::Custom(&ISOLATE), Action::Kill];
        assert_eq!(set.iter().collect::<Vec<_>>(), order);
        assert_eq!(set.named("isolate-host"), Some(Action::Custom(&ISOLATE)));
        assert_eq!(ActionSet::EMPTY.named("isolate-host"), None);
        assert_eq!(ActionSet::EMPTY.named("kill"), Some(Action::Kill));
    }

    #[test]
    fn of_embedders_it_takes_a_few() {
        static MANY: [CustomAction; 5] = [
            CustomAction::new("a", TargetType::Host),
            CustomAction::new("b", TargetType::Host),
            CustomAction::new("c", TargetType::Host),
            CustomAction::new("d", TargetType::Host),
            CustomAction::new("e", TargetType::Host),
        ];
        let mut set = ActionSet::EMPTY;
        let taken: Vec<_> = MANY.iter().chain(&MANY[..1]).map(|custom| set.insert(Action::Custom(custom))).collect();
        assert_eq!(taken, [true, true, true, true, false, true]);
        assert_eq!(set.iter().count(), MAX_CUSTOM_ACTIONS);
    }
}

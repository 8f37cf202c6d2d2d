//! What was done about an operation before its event came, and the answer to one that waits.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use crate::action::{Action, ActionOutcome, ActionResult, PlannedAction, Tier};
use crate::event::{EventKind, ProcessKey};
use crate::hook::Mechanism;
use crate::plugin::Confirmation;
use crate::policy::Policy;

/// What a program in the kernel did about an operation, before it gave the event. In dry run it does nothing, and so says
/// nothing here.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Enforced {
    /// The policy that it decided for: of the generation that was loaded in the kernel at that time.
    pub policy: Arc<Policy>,
    /// Index of the policy's rule that decided.
    pub rule: usize,
    /// What decided.
    pub mechanism: Mechanism,
    /// What it did.
    pub effect: Effect,
}

impl Enforced {
    /// `mechanism` did this for `policy`, of which the rule with this index decided.
    #[must_use]
    pub fn new(policy: Arc<Policy>, rule: usize, mechanism: Mechanism, effect: Effect) -> Self {
        Self { policy, rule, mechanism, effect }
    }

    /// Whether the operation did not happen.
    #[must_use]
    pub fn refused(&self) -> bool {
        self.effect == Effect::Refused
    }
}

/// What a program in the kernel did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Effect {
    /// It sent SIGSTOP to the acting process.
    Stopped,
    /// It sent SIGKILL to the acting process.
    Killed,
    /// It refused the operation with `EPERM`.
    Refused,
}

impl Effect {
    /// Whether `action` is done by that, or has no object any more.
    pub(crate) fn covers(self, action: Action) -> bool {
        match self {
            Self::Stopped => action == Action::Stop,
            Self::Killed => matches!(action, Action::Stop | Action::Kill),
            Self::Refused => action == Action::Block,
        }
    }
}

/// What to answer to an operation that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HeldVerdict {
    /// It goes on.
    Allow,
    /// It is refused: a policy blocks it, or has ended its process.
    Deny,
}

/// The decision about an operation that waits. Whoever holds the operation answers it, and then says here what came of that:
/// alerts of policies that block wait for it. One that is dropped was not answered.
#[derive(Debug)]
#[must_use]
pub struct HeldDecision {
    verdict: HeldVerdict,
    alerts: Vec<Sender<Result<u64, String>>>,
}

impl HeldDecision {
    pub(crate) fn new(verdict: HeldVerdict) -> Self {
        Self { verdict, alerts: Vec::new() }
    }

    /// What to answer.
    #[must_use]
    pub fn verdict(&self) -> HeldVerdict {
        self.verdict
    }

    pub(crate) fn deny(&mut self) {
        self.verdict = HeldVerdict::Deny;
    }

    /// Says that the operation was answered so, at this time in nanoseconds since the epoch; or why it was not, such as that
    /// its deadline had passed.
    pub fn answered(self, result: Result<u64, String>) {
        for alert in self.alerts {
            // Nobody may wait any more.
            let _ = alert.send(result.clone());
        }
    }

    /// A confirmation of `planned`, which blocks the operation.
    pub(crate) fn block(&mut self, planned: &PlannedAction) -> AnswerConfirmation {
        self.deny();
        let (sender, answer) = channel();
        self.alerts.push(sender);
        AnswerConfirmation { planned: planned.clone(), answer }
    }
}

/// Waits until an operation was answered.
#[derive(Debug)]
pub(crate) struct AnswerConfirmation {
    planned: PlannedAction,
    answer: Receiver<Result<u64, String>>,
}

impl Confirmation for AnswerConfirmation {
    fn wait(self: Box<Self>) -> ActionOutcome {
        let (time, result) = match self.answer.recv() {
            Ok(Ok(time)) => (Some(time), ActionResult::Successful),
            Ok(Err(reason)) => (None, ActionResult::not_successful(reason)),
            Err(_) => (None, ActionResult::not_successful("the operation was not answered")),
        };
        let mut outcome = ActionOutcome::new(&self.planned, result);
        (outcome.tier, outcome.time) = (Some(Tier::Fanotify), time);
        outcome
    }
}

/// The most responses to operations that waited of which the event is still to come.
pub const MAX_HELD_RESPONSES: usize = 256;

/// Which policies have responded to an operation while it waited, so that they do not respond to its event again.
#[derive(Debug, Default)]
pub(crate) struct HeldResponses {
    responses: Vec<HeldResponse>,
    /// Which one goes next, once there are too many.
    next: usize,
    forgotten: u64,
}

/// Of what, and for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeldResponse {
    pub(crate) process: ProcessKey,
    pub(crate) kind: EventKind,
    /// Device and inode of the file.
    pub(crate) file: (u64, u64),
    pub(crate) policy: usize,
    pub(crate) generation: u64,
}

impl HeldResponses {
    pub(crate) fn add(&mut self, response: HeldResponse) {
        if self.responses.len() < MAX_HELD_RESPONSES {
            self.responses.push(response);
        } else {
            self.responses[self.next] = response;
            self.next = (self.next + 1) % MAX_HELD_RESPONSES;
            self.forgotten += 1;
        }
    }

    /// Whether there was such a response; it counts once.
    pub(crate) fn take(&mut self, response: &HeldResponse) -> bool {
        match self.responses.iter().position(|other| other == response) {
            Some(at) => {
                self.responses.swap_remove(at);
                self.next = 0;
                true
            }
            None => false,
        }
    }

    /// How many had to go for want of room.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.responses.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(pid: u32) -> HeldResponse {
        let process = ProcessKey { pid, start: 1 };
        HeldResponse { process, kind: EventKind::Exec, file: (8, 77), policy: 0, generation: 1 }
    }

    #[test]
    fn responses_count_once_and_are_bounded() {
        let mut responses = HeldResponses::default();
        assert!(responses.is_empty());
        for pid in 0..=MAX_HELD_RESPONSES as u32 {
            responses.add(response(pid));
        }
        assert_eq!(responses.responses.len(), MAX_HELD_RESPONSES);
        assert!(!responses.take(&response(0)), "the oldest went");
        assert_eq!(responses.forgotten(), 1);
        for pid in 1..=MAX_HELD_RESPONSES as u32 {
            assert!(!responses.take(&HeldResponse { generation: 2, ..response(pid) }));
            assert!(responses.take(&response(pid)) && !responses.take(&response(pid)), "{pid}");
        }
        assert!(responses.is_empty());
    }

    #[test]
    fn an_effect_covers_what_it_leaves_nothing_of() {
        let covered = |effect: Effect| Action::ALL.iter().filter(move |action| effect.covers(**action)).count();
        assert_eq!([Effect::Stopped, Effect::Killed, Effect::Refused].map(covered), [1, 2, 1]);
        assert!(!Effect::Killed.covers(Action::KillTree), "the tree is still there");
    }
}

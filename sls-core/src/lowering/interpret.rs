//! What a lowered policy means: the reference that programs in the kernel are tested against.

use super::{KernelPolicy, KernelRule, KernelSet, KernelTest, has_every_process};
use crate::event::{Event, Value};
use crate::schema::{Field, FieldKind};
use crate::syntax::RuleVerdict;
use crate::truth::Truth;

/// What the kernel makes of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KernelVerdict {
    /// The policy responds.
    Match {
        /// Index of the policy's rule that decided.
        rule: usize,
    },
    /// It does not.
    Ignore {
        /// Index of the policy's rule that decided.
        rule: usize,
    },
    /// A value that is needed is not known in the kernel, or only in part: it does nothing, and user space decides.
    Undecided,
}

impl KernelPolicy {
    /// What the kernel makes of an event; none if the event does not raise the policy. A rename or link has to be shown
    /// under each of its names ([`Event::each_name`]).
    #[must_use]
    pub fn decide(&self, event: &Event) -> Option<KernelVerdict> {
        match self.policy.is_raised_by(event) {
            Truth::False => return None,
            Truth::Unknown => return Some(KernelVerdict::Undecided),
            Truth::True => {}
        }
        for KernelRule { rule, verdict, tests } in &self.rules {
            // The tests are done in order, and the first that fails is the last.
            let holds = tests.iter().map(|test| test.holds(event)).find(|holds| *holds != Truth::True);
            match (holds, verdict) {
                (Some(Truth::False), _) => {}
                (Some(_), _) => return Some(KernelVerdict::Undecided),
                (None, RuleVerdict::Match) => return Some(KernelVerdict::Match { rule: *rule }),
                (None, RuleVerdict::Ignore) => return Some(KernelVerdict::Ignore { rule: *rule }),
            }
        }
        // The last rule is a default, which has no test.
        Some(KernelVerdict::Undecided)
    }
}

impl KernelTest {
    /// Whether the test holds.
    #[must_use]
    pub fn holds(&self, event: &Event) -> Truth {
        let contains = self.contains(event);
        if self.negated { !contains } else { contains }
    }

    fn contains(&self, event: &Event) -> Truth {
        let found = match (&self.set, event.value(self.field)) {
            (_, Value::Unknown | Value::Text { truncated: true, .. } | Value::Many { .. }) => return Truth::Unknown,
            (_, Value::Absent) if has_every_process(self.field) => return Truth::Unknown,
            (KernelSet::Paths(paths), value) => {
                let path = text(value);
                let number = |field| event.number(field).unwrap_or_default();
                paths.contains(path)
                    || self.field == Field::ProgramName
                        && paths.identities.contains(&(number(Field::ProgramDevice), number(Field::ProgramInode)))
            }
            (KernelSet::Numbers(ranges), Value::Number(number)) => {
                ranges.iter().any(|(from, to)| (*from..=*to).contains(&number))
            }
            (KernelSet::Networks(networks), Value::Host(address)) => {
                networks.iter().any(|network| network.contains(&address))
            }
            (KernelSet::Names(bits), value) => match self.field.kind() {
                FieldKind::Enum(names) => {
                    let mut with_none = names.iter().copied().chain([""]);
                    let bit = with_none.position(|name| name.as_bytes() == text(value));
                    bit.is_some_and(|bit| bits & (1 << bit) != 0)
                }
                _ => false,
            },
            (KernelSet::True, value) => value == Value::Bool(true),
            (KernelSet::Empty, value) => text(value).is_empty(),
            _ => false,
        };
        found.into()
    }
}

/// What has no value is empty.
fn text(value: Value<'_>) -> &[u8] {
    match value {
        Value::Text { bytes, .. } => bytes,
        _ => b"",
    }
}

//! Whether a policy can respond, when a little is known of an event and all else may be anything; and what another field
//! must have for that.

use super::narrow::Narrow;
use crate::evaluate::evaluate_value;
use crate::event::Value;
use crate::policy::Policy;
use crate::rule::{Condition, Rule, Test};
use crate::schema::Field;
use crate::syntax::RuleVerdict;
use crate::truth::Truth;

/// What is known of an event.
pub(super) type Known<'a> = &'a [(Field, Value<'a>)];

/// How a policy can come to respond: a match rule is not false, and none before it is true. That one of those is in doubt
/// makes an undecided event, which is a response as well.
#[derive(Debug)]
pub(super) struct Response<'a> {
    rules: &'a [Rule],
    /// Indexes of those match rules.
    ways: Vec<usize>,
    known: Known<'a>,
}

/// None if it cannot.
pub(super) fn response<'a>(policy: &'a Policy, known: Known<'a>) -> Option<Response<'a>> {
    let mut ways = Vec::new();
    for (index, rule) in policy.rules.iter().enumerate() {
        let value = rule.condition.as_ref().map_or(Possible::TRUE, |condition| possible(condition, known));
        if rule.verdict == RuleVerdict::Match && value.non_false {
            ways.push(index);
        }
        if !value.non_true {
            break;
        }
    }
    (!ways.is_empty()).then_some(Response { rules: &policy.rules, ways, known })
}

/// Whether a rule compares `field` with `value` itself.
pub(super) fn names(policy: &Policy, field: Field, value: &str) -> bool {
    let other = Value::Text { bytes: b"", truncated: false };
    let value = Value::Text { bytes: value.as_bytes(), truncated: false };
    let mut named = false;
    for condition in policy.rules.iter().filter_map(|rule| rule.condition.as_ref()) {
        each_test(condition, &mut |test| {
            named |= test.field == field && evaluate_value(test, value) != evaluate_value(test, other);
        });
    }
    named
}

impl Response<'_> {
    /// What the fields that `N` is about must have.
    pub(super) fn needs<N: Narrow>(&self) -> N {
        union(self.ways.iter().map(|way| {
            let earlier = self.rules[..*way].iter().filter_map(|rule| rule.condition.as_ref());
            let own = self.rules[*way].condition.as_ref();
            let own = own.map_or(N::ANY, |condition| needed(condition, Truth::False, self.known));
            let earlier = earlier.map(|condition| needed(condition, Truth::True, self.known));
            narrowest(std::iter::once(own).chain(earlier))
        }))
    }
}

/// The values that a condition may have.
#[derive(Clone, Copy, Debug)]
struct Possible {
    /// True or unknown.
    non_false: bool,
    /// False or unknown.
    non_true: bool,
}

impl Possible {
    const TRUE: Self = Self { non_false: true, non_true: false };
}

fn possible(condition: &Condition, known: Known<'_>) -> Possible {
    match condition {
        Condition::And(terms) => Possible {
            non_false: terms.iter().all(|term| possible(term, known).non_false),
            non_true: terms.iter().any(|term| possible(term, known).non_true),
        },
        Condition::Or(terms) => Possible {
            non_false: terms.iter().any(|term| possible(term, known).non_false),
            non_true: terms.iter().all(|term| possible(term, known).non_true),
        },
        Condition::Not(inner) => {
            let inner = possible(inner, known);
            Possible { non_false: inner.non_true, non_true: inner.non_false }
        }
        Condition::Test(test) => match known.iter().find(|(field, _)| *field == test.field) {
            Some((_, value)) => {
                let truth = evaluate_value(test, *value);
                Possible { non_false: truth != Truth::False, non_true: truth != Truth::True }
            }
            None => Possible { non_false: true, non_true: true },
        },
    }
}

/// What the fields must have, if they are known, for the condition not to be `avoided`: true or false.
fn needed<N: Narrow>(condition: &Condition, avoided: Truth, known: Known<'_>) -> N {
    let possible = possible(condition, known);
    let keep_true = avoided == Truth::False;
    if !(if keep_true { possible.non_false } else { possible.non_true }) {
        return N::NONE;
    }
    match condition {
        Condition::Not(inner) => needed(inner, !avoided, known),
        // All of the terms have to avoid it, or one has to.
        Condition::And(terms) if keep_true => narrowest(terms.iter().map(|term| needed(term, avoided, known))),
        Condition::Or(terms) if !keep_true => narrowest(terms.iter().map(|term| needed(term, avoided, known))),
        Condition::And(terms) | Condition::Or(terms) => union(terms.iter().map(|term| needed(term, avoided, known))),
        // The comparison itself must hold.
        Condition::Test(test) if N::FIELDS.contains(&test.field) && test.negated != keep_true => {
            N::of(&test.comparison)
        }
        Condition::Test(_) => N::ANY,
    }
}

fn narrowest<N: Narrow>(all: impl Iterator<Item = N>) -> N {
    all.min_by_key(Narrow::breadth).unwrap_or(N::ANY)
}

fn union<N: Narrow>(all: impl Iterator<Item = N>) -> N {
    all.fold(N::NONE, |mut union, one| {
        union.add(&one);
        union
    })
}

fn each_test(condition: &Condition, look: &mut impl FnMut(&Test)) {
    match condition {
        Condition::And(terms) | Condition::Or(terms) => terms.iter().for_each(|term| each_test(term, look)),
        Condition::Not(inner) => each_test(inner, look),
        Condition::Test(test) => look(test),
    }
}

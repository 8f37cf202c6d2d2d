//! Which rules cost something for every event, whatever it is.

use super::atom::{ALWAYS, Atom};
use super::need::{Chooser, Need};
use crate::diagnostic::Span;
use crate::policy::Policy;
use crate::rule::{Comparison, Condition, Test};
use crate::schema::Field;
use crate::syntax::RuleVerdict;

/// What a rule costs for every event of its policy's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expense {
    /// The policy is asked.
    Asked,
    /// A regular expression runs over the value of a field.
    Expression(Field),
}

/// Finds the expenses of policies, as if each were alone. Beside others none is cheaper, for what several look for tells
/// less of each.
#[derive(Debug, Default)]
pub(crate) struct Appraiser {
    chooser: Chooser,
}

impl Appraiser {
    /// The expenses of a policy, each with its rule and the place in there. A policy that responds by default has none:
    /// it is to be asked.
    pub(crate) fn appraise(&mut self, policy: &Policy) -> Vec<(usize, Span, Expense)> {
        let need = Need::of_policy(policy);
        if matches!(policy.rules.last(), Some(rule) if rule.verdict == RuleVerdict::Match && rule.condition.is_none()) {
            return Vec::new();
        }
        self.chooser.turn_to(&need);
        let conditions = policy.rules.iter().enumerate().filter(|(_, rule)| rule.verdict == RuleVerdict::Match);
        let conditions = conditions.filter_map(|(index, rule)| Some((index, rule.condition.as_ref()?)));
        match self.chooser.choose(need) {
            Some(atoms) if atoms.iter().any(|atom| matches!(atom, Atom::Like { .. })) => {
                let mut found = Vec::new();
                for (index, condition) in conditions {
                    self.expressions(condition, false, &mut |test| {
                        found.push((index, test.span, Expense::Expression(test.field)));
                    });
                }
                found
            }
            Some(_) => Vec::new(),
            None => {
                let weighed: Vec<_> =
                    conditions.map(|(index, condition)| (index, condition, self.weight(condition, false))).collect();
                // None may be so heavy, but all of them together.
                let heaviest = weighed.iter().fold(0.0, |heaviest: f32, (_, _, weight)| heaviest.max(*weight));
                let heavy = weighed.into_iter().filter(|(_, _, weight)| *weight >= heaviest);
                heavy.map(|(index, condition, _)| (index, self.culprit(condition, false), Expense::Asked)).collect()
            }
        }
    }

    fn weight(&self, condition: &Condition, negated: bool) -> f32 {
        self.chooser.weight(&Need::of_condition(condition, negated))
    }

    /// Visits the tests whose expressions are what is looked for.
    fn expressions<'c>(&self, condition: &'c Condition, negated: bool, visit: &mut impl FnMut(&'c Test)) {
        match condition {
            Condition::Not(inner) => self.expressions(inner, !negated, visit),
            Condition::And(terms) | Condition::Or(terms) => {
                if alternatives(condition, negated).is_some() {
                    return terms.iter().for_each(|term| self.expressions(term, negated, visit));
                }
                let lightest = terms.iter().min_by(|a, b| self.weight(a, negated).total_cmp(&self.weight(b, negated)));
                lightest.into_iter().for_each(|term| self.expressions(term, negated, visit));
            }
            Condition::Test(test) if matches!(test.comparison, Comparison::Like(_)) => {
                let chosen = self.chooser.choose(Need::of_condition(condition, negated));
                if chosen.is_some_and(|atoms| atoms.iter().any(|atom| matches!(atom, Atom::Like { .. }))) {
                    visit(test);
                }
            }
            Condition::Test(_) => {}
        }
    }

    /// The place of what makes a condition so heavy: of several alternatives those that do.
    fn culprit(&self, condition: &Condition, negated: bool) -> Span {
        match condition {
            Condition::Not(inner) => self.culprit(inner, !negated),
            Condition::Test(test) => test.span,
            Condition::And(terms) | Condition::Or(terms) => {
                let heavy = |term: &&Condition| self.weight(term, negated) >= ALWAYS;
                let alternatives = alternatives(condition, negated).into_iter().flatten();
                let heavy = alternatives.filter(heavy).map(|term| self.culprit(term, negated));
                let all = || terms.iter().map(whole).reduce(Span::to);
                heavy.reduce(Span::to).or_else(all).unwrap_or_default()
            }
        }
    }
}

/// The terms of which one is enough.
fn alternatives(condition: &Condition, negated: bool) -> Option<&[Condition]> {
    match condition {
        Condition::Or(terms) if !negated => Some(terms),
        Condition::And(terms) if negated => Some(terms),
        _ => None,
    }
}

fn whole(condition: &Condition) -> Span {
    match condition {
        Condition::And(terms) | Condition::Or(terms) => terms.iter().map(whole).reduce(Span::to).unwrap_or_default(),
        Condition::Not(inner) => whole(inner),
        Condition::Test(test) => test.span,
    }
}

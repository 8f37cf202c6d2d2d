//! Rules as the matcher uses them: fields resolved, literals compiled, lists linked.

use std::sync::Arc;

use ipnet::IpNet;

use crate::diagnostic::Span;
use crate::list::{Entries, List};
use crate::pattern::{Like, Pattern};
use crate::schema::{Field, FieldSet};
use crate::syntax::RuleVerdict;

/// A checked rule.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Rule {
    /// The rule as written: the `matched_rule` of alerts.
    pub text: Arc<str>,
    /// What it makes of an event.
    pub verdict: RuleVerdict,
    /// When; none in the default rule.
    pub condition: Option<Condition>,
}

impl Rule {
    /// Whether it decides the same about every event: it is written in the same way, and its lists hold the same.
    pub(crate) fn decides_like(&self, other: &Self) -> bool {
        let lists = |rule: &Self| {
            let mut lists = Vec::new();
            if let Some(condition) = &rule.condition {
                condition.collect_lists(&mut lists);
            }
            lists
        };
        let (own, others) = (lists(self), lists(other));
        self.text == other.text
            && own.len() == others.len()
            && own.iter().zip(&others).all(|(own, other)| own.holds_like(other))
    }
}

/// A checked expression.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Condition {
    /// All of them.
    And(Vec<Condition>),
    /// One of them.
    Or(Vec<Condition>),
    /// Not this one.
    Not(Box<Condition>),
    /// A comparison.
    Test(Test),
}

impl Condition {
    /// Every field that the condition reads.
    #[must_use]
    pub fn fields(&self) -> FieldSet {
        match self {
            Self::And(terms) | Self::Or(terms) => {
                terms.iter().fold(FieldSet::EMPTY, |fields, term| fields.union(term.fields()))
            }
            Self::Not(inner) => inner.fields(),
            Self::Test(test) => FieldSet::from_iter([test.field]),
        }
    }
}

impl Condition {
    /// The lists that it reads, as often as it does, from left to right.
    fn collect_lists(&self, lists: &mut Vec<Arc<List>>) {
        match self {
            Self::And(terms) | Self::Or(terms) => terms.iter().for_each(|term| term.collect_lists(lists)),
            Self::Not(inner) => inner.collect_lists(lists),
            Self::Test(test) => test.comparison.collect_lists(lists),
        }
    }
}

/// A checked comparison of a field with something.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Test {
    /// The test as written.
    pub text: Arc<str>,
    /// Where it stands in the rule's text.
    pub(crate) span: Span,
    /// The field.
    pub field: Field,
    /// Whether the outcome is turned round (`!=`, `not in`, …).
    pub(crate) negated: bool,
    pub(crate) comparison: Comparison,
}

#[derive(Clone, Debug)]
pub(crate) enum Comparison {
    Pattern { pattern: Pattern, fold: bool },
    Like(Box<Like>),
    Number(NumberTest),
    Bool(bool),
    Host(IpNet),
    List { list: Arc<List>, fold: bool },
    AnyOf(Vec<Comparison>),
}

impl Comparison {
    /// Calls `visit` for texts of which every one that passes begins with one, or is one where that is said. False if there
    /// are no such, or too many.
    pub(crate) fn each_start(&self, visit: &mut impl FnMut(&[u8], bool)) -> bool {
        let mut of_pattern = |pattern: &Pattern| match pattern.literal() {
            Some(whole) => visit(whole, true),
            None => visit(pattern.literal_start(), false),
        };
        match self {
            Self::Pattern { pattern, fold: false } => of_pattern(pattern),
            Self::List { list, fold: false } => match &list.entries {
                Entries::Patterns(patterns) => patterns.iter().for_each(of_pattern),
                _ => return false,
            },
            Self::AnyOf(options) => return options.iter().all(|option| option.each_start(visit)),
            Self::Like(like) => match like.starts() {
                Some(starts) => starts.iter().for_each(|(start, whole)| visit(start, *whole)),
                None => return false,
            },
            _ => return false,
        }
        true
    }

    fn collect_lists(&self, lists: &mut Vec<Arc<List>>) {
        match self {
            Self::List { list, .. } => lists.push(list.clone()),
            Self::AnyOf(any) => any.iter().for_each(|one| one.collect_lists(lists)),
            Self::Pattern { .. } | Self::Like(_) | Self::Number(_) | Self::Bool(_) | Self::Host(_) => {}
        }
    }
}

/// An order of numbers. Literals may lie outside the range that fields have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NumberTest {
    Eq(i128),
    Lt(i128),
    Le(i128),
    Gt(i128),
    Ge(i128),
}

impl NumberTest {
    pub(crate) fn holds(self, value: u64) -> bool {
        let value = i128::from(value);
        match self {
            Self::Eq(literal) => value == literal,
            Self::Lt(literal) => value < literal,
            Self::Le(literal) => value <= literal,
            Self::Gt(literal) => value > literal,
            Self::Ge(literal) => value >= literal,
        }
    }
}

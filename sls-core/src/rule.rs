//! Rules as the matcher uses them: fields resolved, literals compiled, lists linked.

use std::sync::Arc;

use ipnet::IpNet;

use crate::diagnostic::Span;
use crate::list::List;
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

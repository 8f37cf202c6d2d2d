//! What can be proven about conditions. Every answer is on the safe side: what is not proven is not claimed.
//!
//! A test has a definite value only if its field is known well enough, and then the value holds for whatever the field
//! may turn out to be. So it is enough to look at whole values. "Never" is about definite values: a condition that is never
//! true may well be unknown.

use std::cell::Cell;

use crate::evaluate::evaluate_value;
use crate::event::Value;
use crate::rule::{Comparison, Condition, NumberTest, Test};
use crate::schema::{Field, FieldKind};
use crate::truth::Truth;

/// The work that proofs may still do: one unit is about one comparison.
#[derive(Debug)]
pub(super) struct Fuel(Cell<usize>);

impl Fuel {
    pub(super) fn new(units: usize) -> Self {
        Self(Cell::new(units))
    }

    pub(super) fn left(&self) -> usize {
        self.0.get()
    }

    /// Whether there was enough for `units` more.
    pub(super) fn burn(&self, units: usize) -> bool {
        let left = self.0.get();
        self.0.set(left.saturating_sub(units));
        left >= units
    }
}

/// A longer list or set is not looked into.
const MAX_ENTRIES: usize = 64;

/// That a test has the value `holds`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Atom<'a> {
    pub(super) test: &'a Test,
    pub(super) holds: bool,
}

/// What has to be so for a condition to have a value: all of the atoms, and one alternative of each choice.
#[derive(Debug, Default)]
pub(super) struct Conjunction<'a> {
    pub(super) atoms: Vec<Atom<'a>>,
    pub(super) choices: Vec<Choice<'a>>,
}

/// That one of the terms has the value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice<'a> {
    pub(super) terms: &'a [Condition],
    pub(super) value: bool,
}

impl<'a> Conjunction<'a> {
    pub(super) fn of(condition: &'a Condition, value: bool) -> Self {
        let mut conjunction = Self::default();
        conjunction.add(condition, value);
        conjunction
    }

    fn add(&mut self, condition: &'a Condition, value: bool) {
        match (condition, value) {
            (Condition::And(terms), true) | (Condition::Or(terms), false) => {
                terms.iter().for_each(|term| self.add(term, value));
            }
            (Condition::And(terms) | Condition::Or(terms), _) => self.choices.push(Choice { terms, value }),
            (Condition::Not(inner), _) => self.add(inner, !value),
            (Condition::Test(test), _) => self.atoms.push(Atom { test, holds: value }),
        }
    }

    /// Atoms that cannot be so together, as few as can be found.
    pub(super) fn contradiction(&self, fuel: &Fuel) -> Option<Vec<Atom<'a>>> {
        if let Some(atom) = self.atoms.iter().find(|atom| fuel.burn(1) && atom.is_impossible(fuel)) {
            return Some(vec![*atom]);
        }
        for (index, first) in self.atoms.iter().enumerate() {
            for second in &self.atoms[index + 1..] {
                if !fuel.burn(1) {
                    return None;
                }
                if first.excludes(second, fuel) {
                    return Some(vec![*first, *second]);
                }
            }
        }
        for (index, first) in self.atoms.iter().enumerate() {
            let field = first.test.field;
            if self.atoms[..index].iter().any(|atom| atom.test.field == field) {
                continue;
            }
            let same: Vec<_> = self.atoms[index..].iter().filter(|atom| atom.test.field == field).copied().collect();
            if same.len() > 2 && no_value_satisfies(&same, fuel) {
                return Some(same);
            }
        }
        None
    }

    /// Whether `goal` has the value `value` whenever this is so.
    fn entails(&self, goal: &Condition, value: bool, fuel: &Fuel) -> bool {
        if !fuel.burn(1) {
            return false;
        }
        match (goal, value) {
            (Condition::And(terms), true) | (Condition::Or(terms), false) => {
                return terms.iter().all(|term| self.entails(term, value, fuel));
            }
            (Condition::Not(inner), _) => return self.entails(inner, !value, fuel),
            (Condition::And(terms) | Condition::Or(terms), _) => {
                if terms.iter().any(|term| self.entails(term, value, fuel)) {
                    return true;
                }
            }
            (Condition::Test(test), _) => {
                if self.entails_test(Atom { test, holds: value }, fuel) {
                    return true;
                }
            }
        }
        let follows = |term, choice: &Choice<'_>| Conjunction::of(term, choice.value).entails(goal, value, fuel);
        self.choices.iter().any(|choice| choice.terms.iter().all(|term| follows(term, choice)))
    }

    fn entails_test(&self, goal: Atom<'_>, fuel: &Fuel) -> bool {
        if !fuel.burn(self.atoms.len()) {
            return false;
        }
        let field = goal.test.field;
        let mut atoms = self.atoms.iter().filter(|atom| atom.test.field == field).peekable();
        // Of a field that no atom is about, not even that it is known is known.
        if atoms.peek().is_none() {
            return false;
        }
        let mut atoms: Vec<_> = atoms.copied().collect();
        if atoms.iter().any(|atom| atom.says_the_same_as(&goal)) {
            return true;
        }
        // The values that satisfy the atoms are few enough to be tried, and none gives the goal another value.
        if matches!(goal.test.comparison, Comparison::List { .. }) && field.kind() == FieldKind::Number {
            return false;
        }
        atoms.push(Atom { test: goal.test, holds: !goal.holds });
        no_value_satisfies(&atoms, fuel)
    }
}

/// Whether `condition` never has the value `value`, for any event.
pub(super) fn never(condition: &Condition, value: bool, fuel: &Fuel) -> bool {
    let conjunction = Conjunction::of(condition, value);
    conjunction.contradiction(fuel).is_some() || conjunction.choices.iter().any(|choice| choice.is_impossible(fuel))
}

/// Whether `goal` is true whenever `condition` is.
pub(super) fn implies(condition: &Condition, goal: &Condition, fuel: &Fuel) -> bool {
    Conjunction::of(condition, true).entails(goal, true, fuel)
}

/// Whether a number test is true for every number; without one it is false.
pub(super) fn holds_for_every_number(test: &Test, fuel: &Fuel) -> bool {
    test.field.kind() == FieldKind::Number
        && !matches!(test.comparison, Comparison::List { .. })
        && candidates(test.field, &[Atom { test, holds: true }]).is_some_and(|candidates| {
            fuel.burn(candidates.len() * size(&test.comparison))
                && candidates.iter().all(|value| *value == Value::Absent || evaluate_value(test, *value) == Truth::True)
        })
}

impl Choice<'_> {
    pub(super) fn is_impossible(&self, fuel: &Fuel) -> bool {
        self.terms.iter().all(|term| never(term, self.value, fuel))
    }
}

impl Atom<'_> {
    /// Whether the atom asks that the field's value satisfies the comparison, or that it does not.
    fn wants(&self) -> bool {
        self.holds != self.test.negated
    }

    /// Whether a field without a value passes neither a test nor its negation.
    fn fails_without_a_value(&self) -> bool {
        matches!(self.test.field.kind(), FieldKind::Number | FieldKind::Host)
    }

    /// Whether a field that satisfies this atom satisfies the other one, for they make the same comparison.
    fn says_the_same_as(&self, other: &Self) -> bool {
        self.test.field == other.test.field
            && self.wants() == other.wants()
            && (self.holds || !other.holds || !self.fails_without_a_value())
            && same(&self.test.comparison, &other.test.comparison)
    }

    fn is_impossible(&self, fuel: &Fuel) -> bool {
        if self.fails_without_a_value() && !self.holds {
            return false;
        }
        let exists = if self.wants() {
            can_hold(&self.test.comparison)
        } else {
            self.test.field.spec().many || can_fail(&self.test.comparison)
        };
        !exists || self.test.field.kind() == FieldKind::Number && no_value_satisfies(&[*self], fuel)
    }

    fn excludes(&self, other: &Self, fuel: &Fuel) -> bool {
        let (a, b) = (self.test, other.test);
        if a.field != b.field {
            return false;
        }
        if !fuel.burn(size(&a.comparison).min(size(&b.comparison))) {
            return false;
        }
        if self.wants() != other.wants() && same(&a.comparison, &b.comparison) {
            // A number that is not there passes neither a test nor its negation.
            return self.holds || other.holds || !self.fails_without_a_value();
        }
        if let (Comparison::Host(first), Comparison::Host(second)) = (&a.comparison, &b.comparison) {
            let both = self.holds && other.holds && !a.negated && !b.negated;
            return both && !first.contains(second) && !second.contains(first);
        }
        no_value_satisfies(&[*self, *other], fuel)
    }
}

/// Whether no value of their field satisfies all of the atoms. Told only where a few values stand for all.
fn no_value_satisfies(atoms: &[Atom<'_>], fuel: &Fuel) -> bool {
    let [first, ..] = atoms else { return false };
    let field = first.test.field;
    // An atom that is too large to try is left out, which only makes more values satisfy the rest.
    let atoms: Vec<_> = atoms
        .iter()
        .filter(|atom| {
            let list = matches!(atom.test.comparison, Comparison::List { .. });
            size(&atom.test.comparison) <= MAX_ENTRIES && !(list && field.kind() == FieldKind::Number)
        })
        .copied()
        .collect();
    let Some(candidates) = candidates(field, &atoms) else { return false };
    let cost: usize = atoms.iter().map(|atom| size(&atom.test.comparison)).sum();
    fuel.burn(candidates.len() * cost)
        && candidates
            .iter()
            .all(|value| atoms.iter().any(|atom| evaluate_value(atom.test, *value) != Truth::from(atom.holds)))
}

/// Values of which one satisfies the atoms if any value does; none if there are too many to try.
fn candidates<'a>(field: Field, atoms: &[Atom<'a>]) -> Option<Vec<Value<'a>>> {
    match field.kind() {
        FieldKind::Bool => Some(vec![Value::Bool(true), Value::Bool(false), Value::Absent]),
        FieldKind::Number => {
            // The least number that satisfies tests of numbers is zero, or one of theirs, or the one after it.
            let mut numbers = vec![0];
            atoms.iter().for_each(|atom| bounds(&atom.test.comparison, &mut numbers));
            let values = numbers.into_iter().filter_map(|number| u64::try_from(number).ok().map(Value::Number));
            Some(values.chain([Value::Absent]).collect())
        }
        FieldKind::Path | FieldKind::Name | FieldKind::Text | FieldKind::Enum(_) if !field.spec().many => atoms
            .iter()
            .filter(|atom| atom.wants())
            .filter_map(|atom| literals(&atom.test.comparison))
            .min_by_key(Vec::len),
        _ => None,
    }
}

fn bounds(comparison: &Comparison, numbers: &mut Vec<i128>) {
    match comparison {
        Comparison::Number(
            NumberTest::Eq(n) | NumberTest::Lt(n) | NumberTest::Le(n) | NumberTest::Gt(n) | NumberTest::Ge(n),
        ) => numbers.extend([*n, n.saturating_add(1)]),
        Comparison::AnyOf(parts) => parts.iter().for_each(|part| bounds(part, numbers)),
        _ => {}
    }
}

/// The only texts that satisfy a comparison, if they are few.
fn literals(comparison: &Comparison) -> Option<Vec<Value<'_>>> {
    match comparison {
        Comparison::Pattern { pattern, fold: false } => {
            pattern.literal().map(|bytes| vec![Value::Text { bytes, truncated: false }])
        }
        Comparison::AnyOf(parts) => {
            let parts: Option<Vec<_>> = parts.iter().map(literals).collect();
            parts.map(|parts| parts.concat())
        }
        _ => None,
    }
}

/// How many comparisons there are in one.
fn size(comparison: &Comparison) -> usize {
    match comparison {
        Comparison::AnyOf(parts) => parts.len(),
        Comparison::List { list, .. } => list.len().max(1),
        _ => 1,
    }
}

/// Whether some value satisfies the comparison; numbers apart.
fn can_hold(comparison: &Comparison) -> bool {
    match comparison {
        Comparison::AnyOf(parts) => parts.iter().any(can_hold),
        Comparison::List { list, .. } => !list.is_empty(),
        _ => true,
    }
}

/// Whether some text does not satisfy the comparison.
fn can_fail(comparison: &Comparison) -> bool {
    match comparison {
        Comparison::Pattern { pattern, .. } => !pattern.is_universal(),
        Comparison::Like(like) => like.compiled() != r"\A(?:.*)\z",
        Comparison::AnyOf(parts) => parts.iter().all(can_fail),
        _ => true,
    }
}

/// Whether two comparisons are the same for being written the same.
fn same(a: &Comparison, b: &Comparison) -> bool {
    use Comparison as C;
    match (a, b) {
        (C::Pattern { pattern: a, fold: x }, C::Pattern { pattern: b, fold: y }) => x == y && a == b,
        (C::Like(a), C::Like(b)) => a.compiled() == b.compiled(),
        (C::Number(a), C::Number(b)) => a == b,
        (C::Bool(a), C::Bool(b)) => a == b,
        (C::Host(a), C::Host(b)) => a == b,
        (C::List { list: a, fold: x }, C::List { list: b, fold: y }) => x == y && a.name == b.name,
        (C::AnyOf(a), C::AnyOf(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        _ => false,
    }
}

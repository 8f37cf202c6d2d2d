//! A condition over kernel tests, and its disjunctive normal form.

use super::KernelTest;
use crate::hook::KernelLimits;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Formula {
    Always(bool),
    Test(KernelTest),
    All(Vec<Formula>),
    Any(Vec<Formula>),
}

impl Formula {
    pub(super) fn all(terms: Vec<Self>) -> Self {
        combine(terms, true)
    }

    pub(super) fn any(terms: Vec<Self>) -> Self {
        combine(terms, false)
    }

    /// Its contrary. Of fields that are known each test is true or false, so De Morgan holds.
    pub(super) fn negate(self) -> Self {
        match self {
            Self::Always(value) => Self::Always(!value),
            Self::Test(test) => Self::Test(KernelTest { negated: !test.negated, ..test }),
            Self::All(terms) => Self::any(terms.into_iter().map(Self::negate).collect()),
            Self::Any(terms) => Self::all(terms.into_iter().map(Self::negate).collect()),
        }
    }

    /// The conjunctions of which one has to hold, in no more than the limits allow; an empty one always holds.
    ///
    /// # Errors
    /// Why it is too much.
    pub(super) fn conjunctions(self, limits: &KernelLimits) -> Result<Vec<Vec<KernelTest>>, String> {
        match self {
            Self::Always(true) => Ok(vec![Vec::new()]),
            Self::Always(false) => Ok(Vec::new()),
            Self::Test(test) => Ok(vec![vec![test]]),
            Self::Any(terms) => {
                let mut all = Vec::new();
                for term in terms {
                    all.extend(term.conjunctions(limits)?);
                    few(&all, limits)?;
                }
                Ok(all)
            }
            Self::All(terms) => {
                let mut all = vec![Vec::new()];
                for term in terms {
                    let term = term.conjunctions(limits)?;
                    if all.len().saturating_mul(term.len()) > limits.rules {
                        return Err(too_many(limits));
                    }
                    all = all.iter().flat_map(|one| term.iter().map(|other| [&**one, other].concat())).collect();
                }
                if all.iter().any(|tests| tests.len() > limits.tests) {
                    return Err(format!("it needs more than {} tests at once in the kernel", limits.tests));
                }
                Ok(all)
            }
        }
    }
}

fn few(all: &[Vec<KernelTest>], limits: &KernelLimits) -> Result<(), String> {
    if all.len() > limits.rules { Err(too_many(limits)) } else { Ok(()) }
}

fn too_many(limits: &KernelLimits) -> String {
    format!("multiplied out it needs more than {} rules in the kernel", limits.rules)
}

/// The terms as one formula, the nested ones of the same kind taken in, and tests of one field joined where one set does.
fn combine(terms: Vec<Formula>, all: bool) -> Formula {
    let mut flat: Vec<Formula> = Vec::with_capacity(terms.len());
    for term in terms {
        match term {
            Formula::Always(value) if value == all => {}
            Formula::Always(_) => return Formula::Always(!all),
            Formula::All(inner) if all => inner.into_iter().for_each(|term| push(&mut flat, term, all)),
            Formula::Any(inner) if !all => inner.into_iter().for_each(|term| push(&mut flat, term, all)),
            term => push(&mut flat, term, all),
        }
    }
    match flat.len() {
        0 => Formula::Always(all),
        1 => flat.swap_remove(0),
        _ if all => Formula::All(flat),
        _ => Formula::Any(flat),
    }
}

/// In one of two sets, or in neither of them: that is one set. In both is not, and neither is outside one of them.
fn push(flat: &mut Vec<Formula>, term: Formula, all: bool) {
    if let Formula::Test(new) = term {
        for other in flat.iter_mut() {
            if let Formula::Test(other) = other
                && other.field == new.field
                && other.negated == new.negated
                && new.negated == all
            {
                other.set.join(new.set);
                return;
            }
        }
        flat.push(Formula::Test(new));
    } else {
        flat.push(term);
    }
}

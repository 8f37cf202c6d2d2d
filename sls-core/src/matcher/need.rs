//! What an event must have before a policy can respond to it.
//!
//! A policy responds if its outcome is a match, or in doubt. Either takes a `match` rule, or a default to match, that is
//! not false: if an `ignore` rule decides, only a `match` rule in doubt before it can put that in doubt; if a `match` rule
//! decides, it is true. A conjunction is not false only if no term is, a disjunction only if some term is not, and `not`
//! is carried down to the tests by De Morgan's laws, which hold in Kleene's logic. A test on a value that is wholly known
//! is not false only if it is true, and of values in doubt an [`Atom`] claims nothing. So what is found here is
//! necessary; whether it suffices, the rules themselves say.

use std::collections::HashMap;
use std::sync::Arc;

use super::atom::{ALWAYS, Atom, OfParts, TextPart, Weight};
use super::literals;
use super::table::Tally;
use crate::list::{Entries, Lineage, List};
use crate::pattern::{Like, Pattern};
use crate::policy::Policy;
use crate::rule::{Comparison, Condition, NumberTest};
use crate::schema::{Field, FieldKind};
use crate::syntax::RuleVerdict;

/// Necessary conditions, of which the lightest are chosen.
#[derive(Clone, Debug)]
pub(super) enum Need {
    /// Nothing: any event will do.
    Nothing,
    Atom(Atom),
    /// One of them.
    Any(Vec<Need>),
    /// All of them, so that it does to look for one.
    All(Vec<Need>),
}

impl Need {
    pub(super) fn of_policy(policy: &Policy) -> Self {
        let matching = policy.rules.iter().filter(|rule| rule.verdict == RuleVerdict::Match);
        let rules = Self::any(matching.map(|rule| match &rule.condition {
            Some(condition) => Self::of_condition(condition, false),
            None => Self::Nothing,
        }));
        let trigger = policy.trigger_texts().map_or(Self::Nothing, |(field, texts)| {
            let part = |text: &Vec<u8>| match field.kind() {
                FieldKind::Path => TextPart::FileName(text[..].into()),
                _ => TextPart::Whole(text[..].into()),
            };
            Self::any(
                texts.iter().map(|text| Self::Atom(Atom::Text { field, part: part(text), of_parts: OfParts::InDoubt })),
            )
        });
        Self::all([trigger, rules])
    }

    /// What the condition, turned round if `negated`, needs not to be false.
    pub(super) fn of_condition(condition: &Condition, negated: bool) -> Self {
        match condition {
            Condition::And(terms) if !negated => Self::all(terms.iter().map(|term| Self::of_condition(term, false))),
            Condition::Or(terms) if negated => Self::all(terms.iter().map(|term| Self::of_condition(term, true))),
            Condition::And(terms) | Condition::Or(terms) => {
                Self::any(terms.iter().map(|term| Self::of_condition(term, negated)))
            }
            Condition::Not(inner) => Self::of_condition(inner, !negated),
            // A number or host that is absent passes no test, so that turning the test round is not to negate it.
            Condition::Test(test) if negated && matches!(test.field.kind(), FieldKind::Number | FieldKind::Host) => {
                Self::Nothing
            }
            Condition::Test(test) => Self::of_comparison(test.field, &test.comparison, test.negated != negated),
        }
    }

    fn of_comparison(field: Field, comparison: &Comparison, negated: bool) -> Self {
        match comparison {
            Comparison::Bool(wanted) => Self::Atom(Atom::Bool { field, wanted: *wanted != negated }),
            Comparison::Number(test) => Self::Atom(Atom::Numbers { field, ranges: ranges(*test, negated) }),
            Comparison::Pattern { pattern, .. } if negated => match pattern.literal() {
                Some([]) if !field.spec().many => Self::text(field, TextPart::Something),
                _ => Self::Nothing,
            },
            _ if negated => Self::Nothing,
            Comparison::Pattern { pattern, .. } => Self::of_pattern(field, pattern),
            Comparison::Like(like) => Self::of_like(field, like),
            Comparison::Host(network) => Self::Atom(Atom::Host { field, network: *network }),
            Comparison::AnyOf(parts) if parts.is_empty() => Self::Atom(Atom::Never { field }),
            Comparison::AnyOf(parts) => Self::any(parts.iter().map(|part| Self::of_comparison(field, part, false))),
            Comparison::List { list, .. } => Self::Atom(Atom::List { field, list: list.clone() }),
        }
    }

    pub(super) fn of_pattern(field: Field, pattern: &Pattern) -> Self {
        let text = |part| Self::text(field, part);
        let [first, middle @ .., last] = pattern.pieces() else {
            return pattern.literal().map_or(Self::Nothing, |whole| text(TextPart::Whole(whole.into())));
        };
        let name = last.iter().rposition(|byte| *byte == b'/').map(|slash| &last[slash + 1..]);
        let mut needs = Vec::new();
        needs.extend((!first.is_empty()).then(|| text(TextPart::Start(first.clone()))));
        needs.extend((!last.is_empty()).then(|| text(TextPart::End(last.clone()))));
        needs.extend(name.filter(|name| !name.is_empty()).map(|name| text(TextPart::FileName(name.into()))));
        needs.extend(middle.iter().filter(|piece| !piece.is_empty()).map(|piece| text(TextPart::inside(piece))));
        Self::all(needs)
    }

    fn of_like(field: Field, like: &Like) -> Self {
        let text = |part| Self::Atom(Atom::Text { field, part, of_parts: OfParts::InDoubt });
        let Some(hir) = like.hir() else { return Self::Nothing };
        let starts = Like::starts_of(&hir).map(|starts| {
            if starts.is_empty() {
                return Self::Atom(Atom::Never { field });
            }
            Self::any(starts.into_iter().map(|(start, exact)| match start {
                start if exact => text(TextPart::Whole(start.into())),
                start if start.is_empty() => Self::Nothing,
                start => text(TextPart::Start(start.into())),
            }))
        });
        let inside = literals::required(&hir).filter(|all| literals::shortest(all) > 1);
        let inside = inside.map(|all| Self::any(all.iter().map(|literal| text(TextPart::inside(literal)))));
        Self::all(
            [starts, inside]
                .into_iter()
                .flatten()
                .chain([Self::Atom(Atom::Like { field, like: Box::new(like.clone()) })]),
        )
    }

    /// Some ancestor has to bear each name of the sequence.
    pub(super) fn of_lineage(field: Field, lineage: &Lineage) -> Self {
        Self::all(lineage.0.iter().map(|program| match program.literal() {
            _ if program.has_slash() => Self::of_pattern(field, program),
            Some(name) => Self::text(field, TextPart::FileName(name.into())),
            None => Self::Nothing,
        }))
    }

    fn each_atom(&self, visit: &mut impl FnMut(&Atom)) {
        match self {
            Self::Nothing => {}
            Self::Atom(atom) => visit(atom),
            Self::Any(needs) | Self::All(needs) => needs.iter().for_each(|need| need.each_atom(visit)),
        }
    }

    fn text(field: Field, part: TextPart) -> Self {
        Self::Atom(Atom::Text { field, part, of_parts: OfParts::Compares })
    }

    fn any(needs: impl IntoIterator<Item = Self>) -> Self {
        let needs: Vec<_> = needs.into_iter().collect();
        if needs.iter().any(|need| matches!(need, Self::Nothing)) { Self::Nothing } else { Self::Any(needs) }
    }

    fn all(needs: impl IntoIterator<Item = Self>) -> Self {
        let needs: Vec<_> = needs.into_iter().filter(|need| !matches!(need, Self::Nothing)).collect();
        if needs.is_empty() { Self::Nothing } else { Self::All(needs) }
    }
}

/// Chooses what to look for, knowing what is needed by how many.
#[derive(Debug, Default)]
pub(super) struct Chooser {
    /// By what [`TextPart::fingerprint`] says.
    needed: Tally<u64>,
    /// By field, for what is rare in one can be common in another, and by address: whoever asks keeps the lists alive.
    lists: HashMap<(Field, *const List), Weight>,
}

impl Chooser {
    /// A chooser for somebody who has these needs.
    pub(super) fn new(needs: &[Need]) -> Self {
        let mut chooser = Self::default();
        needs.iter().for_each(|need| chooser.count(need));
        // All of this has to be known before anything is weighed: what has been weighed must not change.
        needs.iter().for_each(|need| chooser.weigh_lists(need));
        chooser
    }

    /// Turns to somebody who has only this need. Lists stay weighed.
    pub(super) fn turn_to(&mut self, need: &Need) {
        self.needed = Tally::default();
        self.weigh_lists(need);
        self.count(need);
    }

    fn count(&mut self, need: &Need) {
        need.each_atom(&mut |atom| {
            if let Atom::Text { field, part, .. } = atom {
                self.needed.add(part.fingerprint(*field));
            }
        });
    }

    fn weigh_lists(&mut self, need: &Need) {
        need.each_atom(&mut |atom| {
            if let Atom::List { field, list } = atom
                && !self.lists.contains_key(&(*field, Arc::as_ptr(list)))
            {
                let entries = of_entries(*field, &list.entries).map(|need| self.weight(&need));
                let weight = entries.sum::<Weight>().min(ALWAYS);
                self.lists.insert((*field, Arc::as_ptr(list)), weight);
            }
        });
    }

    /// The atoms of which an event must have one; none if every event, or nearly so, has.
    pub(super) fn choose(&self, need: Need) -> Option<Vec<Atom>> {
        if self.weight(&need) >= ALWAYS {
            return None;
        }
        let mut atoms = Vec::new();
        self.collect(need, &mut atoms);
        Some(atoms)
    }

    fn collect(&self, need: Need, atoms: &mut Vec<Atom>) {
        match need {
            // Its weight is that of what every event has.
            Need::Nothing => {}
            Need::Atom(atom) => atoms.push(atom),
            Need::Any(needs) => needs.into_iter().for_each(|need| self.collect(need, atoms)),
            Need::All(needs) => {
                let lightest = needs.into_iter().min_by(|a, b| self.weight(a).total_cmp(&self.weight(b)));
                lightest.into_iter().for_each(|need| self.collect(need, atoms));
            }
        }
    }

    pub(super) fn weight(&self, need: &Need) -> Weight {
        let lightest = |a: Weight, b: Weight| a.min(b);
        match need {
            Need::Nothing => ALWAYS,
            Need::Atom(Atom::List { field, list }) => {
                self.lists.get(&(*field, Arc::as_ptr(list))).copied().unwrap_or(ALWAYS)
            }
            Need::Atom(atom @ Atom::Text { field, part, .. }) => {
                // What many look for they rarely look for because it is rare: directories, interpreters.
                let shared = self.needed.count(&part.fingerprint(*field));
                (atom.weight() * (1.0 + shared as Weight / 4.0)).min(ALWAYS)
            }
            Need::Atom(atom) => atom.weight(),
            Need::Any(needs) => needs.iter().map(|need| self.weight(need)).sum::<Weight>().min(ALWAYS),
            Need::All(needs) => needs.iter().map(|need| self.weight(need)).fold(ALWAYS, lightest),
        }
    }
}

/// The need of each entry of a list. Numbers and hosts are their own.
pub(super) fn of_entries(field: Field, entries: &Entries) -> Box<dyn Iterator<Item = Need> + '_> {
    match entries {
        Entries::Patterns(patterns) => Box::new(patterns.iter().map(move |pattern| Need::of_pattern(field, pattern))),
        Entries::Lineages(lineages) => Box::new(lineages.iter().map(move |lineage| Need::of_lineage(field, lineage))),
        Entries::Numbers(ranges) => {
            Box::new(ranges.iter().map(move |range| Need::Atom(Atom::Numbers { field, ranges: vec![*range] })))
        }
        Entries::Hosts(hosts) => {
            Box::new(hosts.networks.iter().map(move |network| Need::Atom(Atom::Host { field, network: *network })))
        }
    }
}

/// The numbers that pass a test.
fn ranges(test: NumberTest, negated: bool) -> Vec<(u64, u64)> {
    let clamp = |number: i128| number.clamp(0, u64::MAX.into()) as u64;
    let below = |end: i128| (end > 0).then(|| (0, clamp(end - 1)));
    let from = |start: i128| (start <= u64::MAX.into()).then(|| (clamp(start), u64::MAX));
    let ranges = match (test, negated) {
        (NumberTest::Eq(number), false) => [u64::try_from(number).ok().map(|number| (number, number)), None],
        (NumberTest::Eq(number), true) => [below(number), from(number.saturating_add(1))],
        (NumberTest::Lt(number), false) | (NumberTest::Ge(number), true) => [below(number), None],
        (NumberTest::Le(number), false) | (NumberTest::Gt(number), true) => [below(number.saturating_add(1)), None],
        (NumberTest::Gt(number), false) | (NumberTest::Le(number), true) => [from(number.saturating_add(1)), None],
        (NumberTest::Ge(number), false) | (NumberTest::Lt(number), true) => [from(number), None],
    };
    ranges.into_iter().flatten().collect()
}

//! Rules that never decide, that are true for no event, or for every one.

use super::Finding;
use super::logic::{Atom, Choice, Conjunction, Fuel, holds_for_every_number, implies, never};
use crate::diagnostic::{Code, Span};
use crate::policy::Policy;
use crate::rule::{Comparison, Condition, NumberTest, Rule, Test};
use crate::schema::Field;
use crate::syntax::RuleVerdict;

/// How many rules of a policy are compared with each other.
const MAX_COMPARED: usize = 64;

/// What the kernel has in the login uid of a process that nobody's login started.
const UNSET: i128 = u32::MAX as i128;

/// What is odd about the rules of a policy, each with the index of its rule.
pub(super) fn check(policy: &Policy, fuel: &Fuel, found: &mut Vec<(usize, Finding)>) {
    let mut earlier: Vec<(usize, &Condition)> = Vec::new();
    // No rule is tried after one that is always true.
    let mut reached = true;
    for (index, rule) in policy.rules.iter().enumerate() {
        let Some(condition) = &rule.condition else { continue };
        if never(condition, true, fuel) {
            found.extend(never_true(rule, condition, fuel).map(|finding| (index, finding)));
            continue;
        }
        if never(condition, false, fuel) {
            let finding = Finding::new(Code::AlwaysTrue, whole(rule), "this rule is true for every event".to_owned());
            let finding = if reached { finding.label("no rule after it is ever tried") } else { finding };
            found.push((index, finding));
            reached = false;
            continue;
        }
        let mut add = |finding| found.push((index, finding));
        check_parts(condition, true, fuel, &mut add);
        check_parts(condition, false, fuel, &mut add);
        each_test(condition, &mut |test| check_number(test, fuel, &mut add));
        if reached && earlier.len() < MAX_COMPARED {
            match earlier.iter().find(|(_, other)| implies(condition, other, fuel)) {
                Some((first, _)) => add(unreachable(rule, *first, &policy.rules[*first])),
                None => earlier.push((index, condition)),
            }
        }
    }
}

/// Whether a rule excludes some events.
pub(super) fn excludes(rule: &Rule, fuel: &Fuel) -> bool {
    rule.verdict == RuleVerdict::Ignore
        && rule.condition.as_ref().is_some_and(|condition| !never(condition, true, fuel))
}

fn whole(rule: &Rule) -> Span {
    Span::new(0, rule.text.len())
}

fn unreachable(rule: &Rule, first: usize, earlier: &Rule) -> Finding {
    let message = if rule.condition.is_some() && rule.text == earlier.text {
        format!("this rule never decides: rule {} is the same", first + 1)
    } else {
        format!("this rule never decides: rule {} is true whenever it is", first + 1)
    };
    let finding = Finding::new(Code::UnreachableRule, whole(rule), message);
    if rule.verdict == earlier.verdict {
        finding.help("leave it out")
    } else {
        finding.help(format!("rules are tried from the top: put it above rule {}", first + 1))
    }
}

fn never_true(rule: &Rule, condition: &Condition, fuel: &Fuel) -> Option<Finding> {
    let culprits = culprits(condition, true, fuel);
    if let Some(list) = culprits.iter().find_map(|atom| empty_list(atom.test)) {
        // A list of exceptions may wait for its first entry.
        return (rule.verdict == RuleVerdict::Match).then(|| {
            Finding::new(Code::EmptyList, span_of(&culprits, condition), format!("the list `{list}` is empty"))
                .label("so this rule matches nothing")
        });
    }
    let finding =
        Finding::new(Code::NeverTrue, span_of(&culprits, condition), "this rule can never be true".to_owned());
    Some(explain(finding, &culprits))
}

/// Looks for terms of which one would do, but some never can.
fn check_parts(condition: &Condition, value: bool, fuel: &Fuel, add: &mut impl FnMut(Finding)) {
    for Choice { terms, value } in Conjunction::of(condition, value).choices {
        for term in terms {
            if !never(term, value, fuel) {
                check_parts(term, value, fuel, add);
                continue;
            }
            let culprits = culprits(term, value, fuel);
            if culprits.iter().any(|atom| empty_list(atom.test).is_some()) {
                continue;
            }
            let (code, message) = match value {
                true => (Code::NeverTrue, "this part can never be true"),
                false => (Code::AlwaysTrue, "this part is true for every event"),
            };
            let finding = Finding::new(code, span_of(&culprits, term), message.to_owned());
            add(if value { explain(finding, &culprits) } else { finding });
        }
    }
}

fn explain(finding: Finding, culprits: &[Atom<'_>]) -> Finding {
    match culprits {
        [atom] if matches!(atom.test.comparison, Comparison::Number(_) | Comparison::AnyOf(_)) => {
            finding.label(format!("no value of `{}` is like that", atom.test.field))
        }
        [_, _] => finding.label("these exclude each other"),
        [_, _, _, ..] => finding.label("these cannot hold together"),
        _ => finding,
    }
}

/// The tests that keep a condition from having a value; none if it is not that simple.
fn culprits<'c>(condition: &'c Condition, value: bool, fuel: &Fuel) -> Vec<Atom<'c>> {
    Conjunction::of(condition, value).contradiction(fuel).unwrap_or_default()
}

fn span_of(culprits: &[Atom<'_>], condition: &Condition) -> Span {
    let mut span: Option<Span> = None;
    let mut add = |test: &Test| span = Some(span.map_or(test.span, |span| span.to(test.span)));
    culprits.iter().for_each(|atom| add(atom.test));
    if culprits.is_empty() {
        each_test(condition, &mut add);
    }
    span.unwrap_or_default()
}

fn empty_list(test: &Test) -> Option<&str> {
    match &test.comparison {
        Comparison::List { list, .. } if list.is_empty() => Some(&list.name),
        _ => None,
    }
}

/// The parser bounds the depth of this recursion.
pub(super) fn each_test<'c>(condition: &'c Condition, visit: &mut impl FnMut(&'c Test)) {
    match condition {
        Condition::And(terms) | Condition::Or(terms) => terms.iter().for_each(|term| each_test(term, visit)),
        Condition::Not(inner) => each_test(inner, visit),
        Condition::Test(test) => visit(test),
    }
}

fn check_number(test: &Test, fuel: &Fuel, add: &mut impl FnMut(Finding)) {
    if test.field == Field::LoginUid {
        if !test.negated && names_number(&test.comparison, UNSET) {
            let message = format!("{UNSET} is the kernel's mark for \"no login\": `loginUid` has no value then");
            add(Finding::new(Code::UnsetNumber, test.span, message)
                .help("a number without a value passes no test; `not loginUid >= 0` is true when none was set"));
        }
    } else if holds_for_every_number(test, fuel) {
        let message = format!("this is true for every value of `{}`", test.field);
        add(Finding::new(Code::AlwaysTrue, test.span, message));
    }
}

fn names_number(comparison: &Comparison, number: i128) -> bool {
    match comparison {
        Comparison::Number(NumberTest::Eq(literal)) => *literal == number,
        Comparison::AnyOf(parts) => parts.iter().any(|part| names_number(part, number)),
        _ => false,
    }
}

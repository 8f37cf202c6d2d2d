//! The plain evaluator: it walks the tree of every rule of every policy, in order. It is the oracle that faster
//! matchers are tested against, and it tells why.

use std::net::IpAddr;
use std::sync::Arc;

use crate::event::{Event, Value};
use crate::list::{List, any};
use crate::pattern::Known;
use crate::policy::{Policy, PolicySet};
use crate::rule::{Comparison, Condition, Rule, Test};
use crate::schema::{Field, FieldKind, FieldSet};
use crate::syntax::RuleVerdict;
use crate::truth::Truth;

/// Decides which policies respond to an event. It holds no state and no lock; one matcher may serve many threads.
pub trait Matcher: std::fmt::Debug + Send + Sync {
    /// Calls `decided` for each enabled policy that `event` matches or leaves undecided, in document order. A rename or
    /// link has to be shown under both its names ([`Event::each_name`]), as the engine does.
    fn decide(&self, event: &Event, decided: &mut dyn FnMut(Decision<'_>));
}

/// What a policy makes of an event.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Decision<'a> {
    /// The policy.
    pub policy: &'a Arc<Policy>,
    /// The rule that decided, or the first that could not be decided.
    pub rule: &'a Rule,
    /// Whether the event matches for certain, or a rule could not be decided that might have changed the outcome.
    pub certain: bool,
    /// The fields that could not be decided upon.
    pub uncertain: FieldSet,
}

impl<'a> Decision<'a> {
    /// `rule` decided that the policy responds.
    #[must_use]
    pub fn certain(policy: &'a Arc<Policy>, rule: &'a Rule) -> Self {
        Self { policy, rule, certain: true, uncertain: FieldSet::EMPTY }
    }

    /// `rule` could not be decided for want of the `uncertain` fields, and might have changed the outcome.
    #[must_use]
    pub fn undecided(policy: &'a Arc<Policy>, rule: &'a Rule, uncertain: FieldSet) -> Self {
        Self { policy, rule, certain: false, uncertain }
    }
}

/// The plain evaluator as a [`Matcher`].
#[derive(Debug)]
pub struct TreeMatcher {
    policies: Arc<PolicySet>,
}

impl TreeMatcher {
    /// A matcher of the enabled policies of a set.
    #[must_use]
    pub fn new(policies: Arc<PolicySet>) -> Self {
        Self { policies }
    }
}

impl Matcher for TreeMatcher {
    fn decide(&self, event: &Event, decided: &mut dyn FnMut(Decision<'_>)) {
        for policy in self.policies.active() {
            if let Some(decision) = decision::<WalkThrough>(policy, event) {
                decided(decision);
            }
        }
    }
}

/// What the policy decides, if it responds to the event.
pub(crate) fn decision<'p, L: Lists>(policy: &'p Arc<Policy>, event: &Event) -> Option<Decision<'p>> {
    let outcome = outcome_by::<L>(policy, event).filter(Outcome::is_response)?;
    let rule = policy.rules.get(outcome.rule)?;
    Some(Decision { policy, rule, certain: outcome.certain, uncertain: outcome.uncertain })
}

/// How it is found out whether a list holds a value.
pub(crate) trait Lists {
    fn contains_text(list: &List, value: &[u8], known: Known, fold: bool) -> Truth;
    fn contains_number(list: &List, number: u64) -> Truth;
    fn contains_host(list: &List, address: IpAddr) -> Truth;
}

/// Entry by entry.
pub(crate) struct WalkThrough;

impl Lists for WalkThrough {
    fn contains_text(list: &List, value: &[u8], known: Known, fold: bool) -> Truth {
        list.entries.contains_text(value, known, fold)
    }

    fn contains_number(list: &List, number: u64) -> Truth {
        list.entries.contains_number(number)
    }

    fn contains_host(list: &List, address: IpAddr) -> Truth {
        list.entries.contains_host(address)
    }
}

/// By the list's index.
pub(crate) struct LookUp;

impl Lists for LookUp {
    fn contains_text(list: &List, value: &[u8], known: Known, fold: bool) -> Truth {
        list.looked_up_text(value, known, fold)
    }

    fn contains_number(list: &List, number: u64) -> Truth {
        list.looked_up_number(number)
    }

    fn contains_host(list: &List, address: IpAddr) -> Truth {
        list.looked_up_host(address)
    }
}

impl Condition {
    /// The condition's value for an event, by the plain evaluator.
    #[must_use]
    pub fn evaluate(&self, event: &Event) -> Truth {
        evaluate(self, event, &mut FieldSet::default())
    }
}

/// How the rules of a policy ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Index of the rule that decided, or of the first that is in doubt.
    pub(crate) rule: usize,
    pub(crate) verdict: RuleVerdict,
    pub(crate) certain: bool,
    pub(crate) uncertain: FieldSet,
}

impl Outcome {
    /// Whether the policy has something to say: it matched, or it may have.
    pub(crate) fn is_response(&self) -> bool {
        !self.certain || self.verdict == RuleVerdict::Match
    }
}

/// What the policy makes of the event; none if the event does not raise it. An event of which that is not known is
/// undecided, unless the rules ignore it.
pub(crate) fn outcome(policy: &Policy, event: &Event) -> Option<Outcome> {
    outcome_by::<WalkThrough>(policy, event)
}

fn outcome_by<L: Lists>(policy: &Policy, event: &Event) -> Option<Outcome> {
    let mut uncertain = FieldSet::EMPTY;
    let raised = policy.trigger(event, &mut uncertain);
    if raised == Truth::False {
        return None;
    }
    let outcome = outcome_of_rules::<L>(policy, event);
    Some(match raised {
        Truth::Unknown if outcome.is_response() => {
            Outcome { certain: false, uncertain: uncertain.union(outcome.uncertain), ..outcome }
        }
        _ => outcome,
    })
}

/// Runs the rules from the top. The first that is true decides. A rule that stays unknown decides nothing; if it would
/// have given another verdict than the rule that decides, the event is undecided.
fn outcome_of_rules<L: Lists>(policy: &Policy, event: &Event) -> Outcome {
    // The first rule in doubt for each verdict, and the fields in doubt of all.
    let mut doubts: [Option<usize>; 2] = [None, None];
    let mut uncertain = FieldSet::EMPTY;
    for (index, rule) in policy.rules.iter().enumerate() {
        let mut unknown = FieldSet::EMPTY;
        let truth = match &rule.condition {
            None => Truth::True,
            Some(condition) => evaluate_by::<L>(condition, event, &mut unknown),
        };
        match truth {
            Truth::False => {}
            Truth::Unknown => {
                doubts[rule.verdict as usize].get_or_insert(index);
                uncertain = uncertain.union(unknown);
            }
            Truth::True => {
                let other = match rule.verdict {
                    RuleVerdict::Match => RuleVerdict::Ignore,
                    RuleVerdict::Ignore => RuleVerdict::Match,
                };
                return match doubts[other as usize] {
                    Some(doubt) => Outcome { rule: doubt, verdict: rule.verdict, certain: false, uncertain },
                    None => Outcome { rule: index, verdict: rule.verdict, certain: true, uncertain: FieldSet::EMPTY },
                };
            }
        }
    }
    // The loader sees to it that the last rule is a default, which is always true.
    let rule = policy.rules.len().saturating_sub(1);
    Outcome { rule, verdict: RuleVerdict::Ignore, certain: true, uncertain: FieldSet::EMPTY }
}

/// The value of a condition. The fields of its unknown tests are added to `unknown` if the whole is unknown.
pub(crate) fn evaluate(condition: &Condition, event: &Event, unknown: &mut FieldSet) -> Truth {
    evaluate_by::<WalkThrough>(condition, event, unknown)
}

fn evaluate_by<L: Lists>(condition: &Condition, event: &Event, unknown: &mut FieldSet) -> Truth {
    match condition {
        Condition::And(terms) => terms.iter().fold(Truth::True, |truth, term| match truth {
            Truth::False => truth,
            _ => truth.and(evaluate_by::<L>(term, event, unknown)),
        }),
        Condition::Or(terms) => terms.iter().fold(Truth::False, |truth, term| match truth {
            Truth::True => truth,
            _ => truth.or(evaluate_by::<L>(term, event, unknown)),
        }),
        Condition::Not(inner) => !evaluate_by::<L>(inner, event, unknown),
        Condition::Test(test) => {
            let truth = evaluate_value_by::<L>(test, event.value(test.field));
            if truth == Truth::Unknown {
                unknown.insert(test.field);
            }
            truth
        }
    }
}

/// The value of one test.
pub(crate) fn evaluate_test(test: &Test, event: &Event) -> Truth {
    evaluate_value(test, event.value(test.field))
}

/// The value of one test for a value of its field.
pub(crate) fn evaluate_value(test: &Test, value: Value<'_>) -> Truth {
    evaluate_value_by::<WalkThrough>(test, value)
}

fn evaluate_value_by<L: Lists>(test: &Test, value: Value<'_>) -> Truth {
    let value = match value {
        Value::Unknown => return Truth::Unknown,
        // A text without a value is empty. Nothing else without a value passes any test, turned round or not.
        Value::Absent => match test.field.kind() {
            FieldKind::Number | FieldKind::Host | FieldKind::Bool => return absent_number(test),
            FieldKind::Lineage => return Truth::from(test.negated),
            _ if test.field.spec().many => return Truth::from(test.negated),
            _ => Value::Text { bytes: b"", truncated: false },
        },
        value => value,
    };
    let truth = compare::<L>(&test.comparison, test.field, value);
    if test.negated { !truth } else { truth }
}

/// A bool that an event does not carry is false; a number or a host that it does not carry passes no test.
fn absent_number(test: &Test) -> Truth {
    match test.comparison {
        Comparison::Bool(wanted) => Truth::from(wanted == test.negated),
        _ => Truth::False,
    }
}

fn compare<L: Lists>(comparison: &Comparison, field: Field, value: Value<'_>) -> Truth {
    match (comparison, value) {
        (Comparison::AnyOf(parts), value) => any(parts, |part| compare::<L>(part, field, value)),
        (Comparison::List { list, .. }, Value::Many { items, truncated }) if field.kind() == FieldKind::Lineage => {
            list.entries.contains_lineage(items, truncated)
        }
        (comparison, Value::Many { items, truncated }) => {
            let one = |bytes| compare::<L>(comparison, field, Value::Text { bytes, truncated: false });
            let rest = if truncated { Truth::Unknown } else { Truth::False };
            any(items.iter(), one).or(rest)
        }
        (Comparison::Pattern { pattern, fold }, Value::Text { bytes, truncated }) => {
            pattern.matches(bytes, known(field, truncated), *fold)
        }
        (Comparison::Like(like), Value::Text { bytes, truncated }) => like.matches(bytes, known(field, truncated)),
        (Comparison::List { list, fold }, Value::Text { bytes, truncated }) => {
            L::contains_text(list, bytes, known(field, truncated), *fold)
        }
        (Comparison::List { list, .. }, Value::Number(number)) => L::contains_number(list, number),
        (Comparison::List { list, .. }, Value::Host(address)) => L::contains_host(list, address),
        (Comparison::Number(test), Value::Number(number)) => test.holds(number).into(),
        (Comparison::Bool(wanted), Value::Bool(value)) => (*wanted == value).into(),
        (Comparison::Host(network), Value::Host(address)) => network.contains(&address).into(),
        // The type check pairs comparisons with the values that their field can have.
        _ => Truth::Unknown,
    }
}

/// A path that was cut keeps its end, any other text its start.
fn known(field: Field, truncated: bool) -> Known {
    match (truncated, field.kind()) {
        (false, _) => Known::Whole,
        (true, FieldKind::Path) => Known::End,
        (true, _) => Known::Start,
    }
}

//! What policies do as a whole: to everything, to nothing, or against each other.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::Finding;
use super::logic::{Conjunction, Fuel, implies};
use super::rules::excludes;
use crate::action::{Action, ActionSet};
use crate::diagnostic::{Code, Span};
use crate::policy::{Policy, PolicyType};
use crate::rule::{Comparison, Condition, Rule};
use crate::schema::Field;
use crate::syntax::RuleVerdict;

/// What is odd about the response of a policy. Findings about what a certain type of policy lacks belong here, too.
pub(super) fn check(policy: &Policy, fuel: &Fuel) -> Option<Finding> {
    let finding = |code, message: String| Finding::new(code, Span::default(), message);
    if policy.actions.is_empty() {
        return Some(
            finding(Code::NoAction, "nothing happens when this policy matches".to_owned())
                .help("`[alert]` reports it; `enabled: false` switches the policy off"),
        );
    }
    let [rules @ .., default] = &*policy.rules else { return None };
    if default.verdict != RuleVerdict::Match {
        return None;
    }
    let active = active(policy.actions);
    // An empty list of exceptions may wait for its first entry, but not where something is killed.
    let excluded = |rule| if active.is_empty() { rule_ignores(rule) } else { excludes(rule, fuel) };
    if rules.iter().any(excluded) {
        return None;
    }
    if !active.is_empty() {
        let tokens: Vec<_> = active.iter().map(Action::token).collect();
        let message = format!("`default match` without an exception: `{}` for every event", tokens.join("`, `"));
        return Some(
            finding(Code::MatchesEverything, message)
                .label(format!("whenever {}", policy.policy_type.meaning()))
                .help("match what is meant and end with `default ignore`, or `ignore` what has to go on"),
        );
    }
    // To audit everything is what `audit` is for, and some types are raised by nothing ordinary.
    (policy.actions.contains(Action::Alert) && is_raised_by_routine(policy.policy_type)).then(|| {
        finding(Code::MatchesEverything, "`default match` without an exception: an alert for every event".to_owned())
            .label(format!("whenever {}", policy.policy_type.meaning()))
            .help("match what is meant and end with `default ignore`; `audit` records everything")
    })
}

/// Whether ordinary work raises policies of the type all the time.
fn is_raised_by_routine(policy_type: PolicyType) -> bool {
    use PolicyType as P;
    matches!(
        policy_type,
        P::Program | P::File | P::FileMonitor | P::Connect | P::NetworkService | P::Kprobe | P::Uprobe
    )
}

fn rule_ignores(rule: &Rule) -> bool {
    rule.verdict == RuleVerdict::Ignore
}

/// Those that do something to a process, a file or a container.
fn active(actions: ActionSet) -> ActionSet {
    actions.iter().filter(|action| action.target_type().is_some()).collect()
}

/// Alternatives of a bucket that are compared with a new one.
const MAX_RIVALS: usize = 8;

/// Two policies, by index, of which one keeps what the other destroys.
#[derive(Debug)]
pub(super) struct Conflict {
    pub(super) first: usize,
    pub(super) second: usize,
    pub(super) keeps: Action,
    pub(super) destroys: Action,
}

/// The policies that match the same events, or some of each other's, and do opposite things to them. Only conditions that
/// begin with the same text are compared, so that many policies cost little.
pub(super) fn conflicts<'p>(policies: impl Iterator<Item = &'p Policy>, fuel: &Fuel) -> Vec<Conflict> {
    let mut buckets: HashMap<u64, Vec<(usize, &Policy, &Condition)>> = HashMap::new();
    let mut conflicts: Vec<Conflict> = Vec::new();
    for (index, policy) in policies.enumerate() {
        if !policy.enabled || policy.dry_run || active(policy.actions).is_empty() {
            continue;
        }
        // What is left after an exception may be different for each.
        for rule in policy.rules.iter().take_while(|rule| rule.verdict == RuleVerdict::Match) {
            for condition in rule.condition.iter().flat_map(alternatives) {
                let bucket = buckets.entry(bucket(policy, condition)).or_default();
                for (other_index, other, rival) in &*bucket {
                    let opposites = opposites(other.actions, policy.actions);
                    let known = conflicts.last().is_some_and(|last| (last.first, last.second) == (*other_index, index));
                    if let Some((keeps, destroys)) = opposites.filter(|_| !known && *other_index != index)
                        && (implies(condition, rival, fuel) || implies(rival, condition, fuel))
                    {
                        conflicts.push(Conflict { first: *other_index, second: index, keeps, destroys });
                    }
                }
                if bucket.len() < MAX_RIVALS {
                    bucket.push((index, policy, condition));
                }
            }
        }
    }
    conflicts
}

/// The conditions of which one makes the rule true.
fn alternatives(condition: &Condition) -> &[Condition] {
    match condition {
        Condition::Or(terms) => terms,
        condition => std::slice::from_ref(condition),
    }
}

/// An action of one that keeps what is destroyed by an action of the other.
fn opposites(a: ActionSet, b: ActionSet) -> Option<(Action, Action)> {
    const OPPOSITES: [(&[Action], &[Action]); 2] = [
        (&[Action::Stop, Action::PauseContainer], &[Action::Kill, Action::KillTree, Action::KillContainer]),
        (&[Action::Quarantine], &[Action::Delete]),
    ];
    let has = |set: ActionSet, actions: &[Action]| actions.iter().copied().find(|action| set.contains(*action));
    [(a, b), (b, a)].into_iter().find_map(|(keeper, destroyer)| {
        OPPOSITES.iter().find_map(|(keep, destroy)| match (has(keeper, keep), has(destroyer, destroy)) {
            (Some(keeps), Some(destroys)) if has(keeper, destroy).is_none() => Some((keeps, destroys)),
            _ => None,
        })
    })
}

/// What conditions that can imply each other have in common, if they ask for one exact text; else the whole condition.
fn bucket(policy: &Policy, condition: &Condition) -> u64 {
    let mut hasher = DefaultHasher::new();
    policy.policy_type.hash(&mut hasher);
    let conjunction = Conjunction::of(condition, true);
    let literals = conjunction.atoms.iter().filter_map(|atom| match &atom.test.comparison {
        Comparison::Pattern { pattern, fold: false } if atom.holds != atom.test.negated => {
            pattern.literal().map(|literal| (atom.test.field, literal))
        }
        _ => None,
    });
    match literals.min() {
        Some(literal) => literal.hash(&mut hasher),
        None => {
            let mut tests: Vec<(Field, bool, &str)> =
                conjunction.atoms.iter().map(|atom| (atom.test.field, atom.holds, &*atom.test.text)).collect();
            tests.sort_unstable();
            (tests, conjunction.choices.len()).hash(&mut hasher);
        }
    }
    hasher.finish()
}

//! Executions and rules about them, as many as asked for and always the same: what matchers are measured with.
//!
//! Of 20 rules 14 compare the program with one path, one with a directory, one with a pattern and two with 20 to 50 paths;
//! one searches the arguments for a regular expression; one combines tests with `and`, `or`, `not` and a uid, in three
//! shapes. Programs of rules and of ordinary executions share their directories and syllables: they differ in that the
//! numbers in the names are odd for rules and even for the others.

mod executions;
mod random;
mod rules;

use executions::Host;
use random::Random;

pub use executions::Execution;
pub use rules::{Condition, Regex, TextField, TextTest, UidTest};

/// Executions of a [`Workload`].
pub const EXECUTIONS: usize = 10_000;

/// How many of them satisfy a rule.
pub const MATCHING: usize = 10;

/// Rules repeat in kind after as many.
const KINDS_REPEAT: usize = 20;

/// Positions among [`KINDS_REPEAT`] rules of those that the matching executions satisfy, so that each kind is among them.
const MATCHED_POSITIONS: [usize; MATCHING] = [0, 3, 6, 9, 12, 15, 17, 9, 17, 4];

/// One regular expression in as many has no literal that every match contains.
const WITHOUT_LITERAL: usize = 20;

/// Whether some regular expressions are without a literal that every match contains, so that nothing but running them
/// tells whether they match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
// Exhaustive: these are all there are.
#[allow(clippy::exhaustive_enums)]
pub enum Regexes {
    /// One in 20 is without.
    SomeWithoutLiteral,
    /// None is.
    AllWithLiteral,
}

/// Rules and executions.
#[derive(Debug)]
#[non_exhaustive]
pub struct Workload {
    /// The rules. What is told of a rule is its position here.
    pub rules: Vec<Condition>,
    /// [`EXECUTIONS`], of which [`MATCHING`] satisfy a rule.
    pub executions: Vec<Execution>,
    /// Executions that each satisfy a rule, to compare engines by; not to be timed.
    pub satisfying: Vec<Execution>,
}

impl Workload {
    /// `rules` rules, the executions, and `satisfying` that satisfy rules of every kind. The first rules of a larger
    /// workload are the rules of a smaller one, and but for the matching ones the executions are the same.
    #[must_use]
    pub fn new(rules: usize, regexes: Regexes, satisfying: usize) -> Self {
        let rules = rules::rules(rules, regexes);
        let host = Host::new();
        let mut random = Random::new(2);
        let mut executions: Vec<_> = (0..EXECUTIONS).map(|_| host.execution(&mut random)).collect();
        let mut random = Random::new(3);
        let distance = EXECUTIONS / MATCHING;
        for (index, position) in MATCHED_POSITIONS.into_iter().enumerate() {
            let rule = rule_at(position, rules.len(), &mut random);
            rules[rule].satisfy(&mut executions[index * distance + distance / 2], &mut random);
        }
        let satisfying = (0..satisfying)
            .map(|index| {
                let mut execution = host.execution(&mut random);
                let rule = rule_at(index % KINDS_REPEAT, rules.len(), &mut random);
                rules[rule].satisfy(&mut execution, &mut random);
                execution
            })
            .collect();
        Self { rules, executions, satisfying }
    }
}

/// Any of the rules at this position among each [`KINDS_REPEAT`].
fn rule_at(position: usize, rules: usize, random: &mut Random) -> usize {
    match rules / KINDS_REPEAT {
        0 => position % rules,
        repeats => random.below(repeats) * KINDS_REPEAT + position,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(lengths: impl Iterator<Item = usize>) -> f64 {
        let lengths: Vec<_> = lengths.collect();
        lengths.iter().sum::<usize>() as f64 / lengths.len() as f64
    }

    #[test]
    fn executions_are_as_long_as_they_are_on_servers() {
        let executions = Workload::new(1, Regexes::AllWithLiteral, 0).executions;
        let exe = mean(executions.iter().map(|execution| execution.exe.len()));
        let arguments = mean(executions.iter().map(|execution| execution.joined_arguments().len()));
        assert!((20.0..22.0).contains(&exe), "{exe}");
        assert!((75.0..85.0).contains(&arguments), "{arguments}");
    }

    #[test]
    fn rules_are_mixed_as_documented() {
        let rules = Workload::new(400, Regexes::SomeWithoutLiteral, 0).rules;
        let count = |of: fn(&TextTest) -> bool| {
            rules.iter().filter(|rule| matches!(rule, Condition::Text(_, test) if of(test))).count()
        };
        assert_eq!(count(|test| matches!(test, TextTest::Equals(_))), 14 * 20);
        assert_eq!(count(|test| matches!(test, TextTest::Prefix(_))), 20);
        assert_eq!(count(|test| matches!(test, TextTest::Glob(_))), 20);
        assert_eq!(count(|test| matches!(test, TextTest::In(paths) if (20..=50).contains(&paths.len()))), 2 * 20);
        assert_eq!(count(|test| matches!(test, TextTest::Regex(_))), 20);
        assert_eq!(count(|test| matches!(test, TextTest::Regex(regex) if regex.literal.is_none())), 1);
        assert_eq!(rules.iter().filter(|rule| matches!(rule, Condition::And(_))).count(), 20);
    }

    #[test]
    fn the_same_workload_comes_again() {
        let new = || format!("{:?}", Workload::new(40, Regexes::SomeWithoutLiteral, 40));
        assert_eq!(new(), new());
    }
}

//! From a policy to what a program in the kernel can decide exactly: an ordered list of conjunctions over numbers, paths and
//! addresses. Pure, so that whoever fills maps with it can be tested against [`KernelPolicy::decide`].

mod formula;
mod interpret;
mod set;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use crate::evaluate::evaluate_value;
use crate::event::{EventKind, Value};
use crate::hook::Hook;
use crate::interest::{responds, values_of_choice};
use crate::policy::{Policy, PolicyType};
use crate::rule::{Comparison, Condition, Test};
use crate::schema::{Field, FieldKind, FieldSet};
use crate::syntax::RuleVerdict;
use crate::trigger::raises;
use crate::truth::Truth;

use formula::Formula;
pub use interpret::KernelVerdict;
pub use set::{KernelSet, PathSet};

/// A policy that the kernel can decide: about every event whose fields it knows, it decides what the policy's rules do.
///
/// A rule of the policy with an `or` becomes several [`KernelRule`]s in a row. The first whose tests all hold decides; the
/// last has no test.
///
/// ```
/// use sls_core::{Event, EventKind, Field, Hook, KernelPolicy, KernelVerdict, PolicySet};
///
/// let policies = PolicySet::from_yaml("p.yaml", r#"
/// No wget:
///   policy: program
///   responseActions: [kill, alert]
///   rules:
///     - ignore uid == 0 or parentProgramName == "/usr/bin/apt"
///     - match programName in ["/usr/bin/wget", "/opt/*"]
///     - default ignore
/// "#)?;
/// let policy = policies.policy("No wget").unwrap();
/// let lowered = KernelPolicy::lower(policy, &Hook::exec_signal()).unwrap();
/// assert_eq!(lowered.rules.len(), 4);
///
/// let mut event = Event::new(EventKind::Exec);
/// event.set_text(Field::ProgramName, b"/opt/x").set_text(Field::ParentProgramName, b"/usr/bin/bash");
/// assert_eq!(lowered.decide(event.set_number(Field::Uid, 0)), Some(KernelVerdict::Ignore { rule: 0 }));
/// assert_eq!(lowered.decide(event.set_number(Field::Uid, 9)), Some(KernelVerdict::Match { rule: 1 }));
/// assert_eq!(lowered.decide(event.mark_truncated(Field::ProgramName)), Some(KernelVerdict::Undecided));
/// # Ok::<(), sls_core::Diagnostics>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct KernelPolicy {
    /// The policy.
    pub policy: Arc<Policy>,
    /// The events that it is about.
    pub kind: EventKind,
    /// Of kinds in which one of several things happens: those that the policy can respond to.
    pub operations: Vec<&'static str>,
    /// Whether a rename or link is to be looked at under its old name, too, after the new one.
    pub under_old_name: bool,
    /// From the first to the last, which is the default.
    pub rules: Vec<KernelRule>,
}

/// A conjunction, and what follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KernelRule {
    /// Index of the policy's rule that it comes from.
    pub rule: usize,
    /// What it makes of an event in which all tests hold.
    pub verdict: RuleVerdict,
    /// The tests, each field at most a few times. Without any, it decides every event.
    pub tests: Vec<KernelTest>,
}

/// Whether the value of a field is in a set. An absent text is empty, an absent bool is false; an absent number or address is
/// in no set.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KernelTest {
    /// The field.
    pub field: Field,
    /// Whether the test holds for values **outside** the set.
    pub negated: bool,
    /// The set.
    pub set: KernelSet,
}

/// Why the kernel cannot decide a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Obstacle {
    /// The test that stands in the way, as written; none if it is not a single one.
    pub test: Option<Arc<str>>,
    /// Why, in a few words.
    pub reason: String,
}

impl Obstacle {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self { test: None, reason: reason.into() }
    }

    pub(crate) fn of(test: &Arc<str>, reason: impl Into<String>) -> Self {
        Self { test: Some(test.clone()), reason: reason.into() }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.test {
            Some(test) => write!(f, "`{test}`: {}", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}

impl KernelPolicy {
    /// The policy as the kernel can decide it at `hook`.
    ///
    /// # Errors
    /// Everything that stands in the way. A policy that can be decided in part only is not lowered.
    pub fn lower(policy: &Arc<Policy>, hook: &Hook) -> Result<Self, Vec<Obstacle>> {
        let (kind, limits) = (hook.kind(), hook.limits());
        if !raises(policy.policy_type, kind) {
            return Err(vec![Obstacle::new(format!("events of kind `{kind}` do not raise it"))]);
        }
        if let Some(obstacle) = raised_by_more(policy) {
            return Err(vec![obstacle]);
        }
        let mut obstacles = Vec::new();
        let mut rules = Vec::new();
        for (index, rule) in policy.rules.iter().enumerate() {
            let formula = match &rule.condition {
                None => Formula::Always(true),
                Some(condition) => match (Lowering { hook, obstacles: &mut obstacles }).condition(condition) {
                    Some(formula) => formula,
                    None => continue,
                },
            };
            match formula.conjunctions(limits) {
                Ok(conjunctions) => {
                    let rule = |tests| KernelRule { rule: index, verdict: rule.verdict, tests };
                    rules.extend(conjunctions.into_iter().map(rule));
                }
                Err(reason) => obstacles.push(Obstacle::of(&rule.text, reason)),
            }
        }
        let entries = entries(&rules);
        for (what, needed, limit) in [("rules", rules.len(), limits.rules), ("entries", entries, limits.entries)] {
            if needed > limit {
                let reason = format!("it needs {needed} {what} in the kernel, where a policy has room for {limit}");
                obstacles.push(Obstacle::new(reason));
            }
        }
        if !obstacles.is_empty() {
            return Err(obstacles);
        }
        for rule in rules.iter_mut().filter(|rule| rule.verdict == RuleVerdict::Match) {
            rule.tests.iter_mut().filter(|test| !test.negated).for_each(KernelTest::follow_identity);
        }
        Ok(Self {
            operations: operations(policy, kind),
            under_old_name: policy.policy_type == PolicyType::FileMonitor,
            policy: policy.clone(),
            kind,
            rules,
        })
    }

    /// How many entries of maps its sets need.
    #[must_use]
    pub fn entries(&self) -> usize {
        entries(&self.rules)
    }

    /// The fields that the kernel has to know.
    #[must_use]
    pub fn fields(&self) -> FieldSet {
        self.rules.iter().flat_map(|rule| &rule.tests).map(|test| test.field).collect()
    }

    /// The sets of paths of executables that are also to be known by device and inode, so that a hard link does not get
    /// around them: those of the tests that a match needs. See [`PathSet::set_identities`].
    pub fn identified(&mut self) -> impl Iterator<Item = &mut PathSet> {
        let tests = self.rules.iter_mut().flat_map(|rule| &mut rule.tests);
        tests.filter_map(|test| match &mut test.set {
            KernelSet::Paths(paths) if paths.follows_identity => Some(paths),
            _ => None,
        })
    }
}

fn entries(rules: &[KernelRule]) -> usize {
    rules.iter().flat_map(|rule| &rule.tests).map(|test| test.set.len()).sum()
}

impl KernelTest {
    fn follow_identity(&mut self) {
        if let (Field::ProgramName, KernelSet::Paths(paths)) = (self.field, &mut self.set) {
            paths.follows_identity = true;
        }
    }
}

/// The things of which each can happen in an event of `kind` to which the policy responds.
pub(crate) fn operations(policy: &Policy, kind: EventKind) -> Vec<&'static str> {
    values_of_choice(kind).iter().copied().filter(|value| responds(policy, kind, Some(value))).collect()
}

/// What beside the kind of an event and what happens in it raises the policy, if there is something.
fn raised_by_more(policy: &Policy) -> Option<Obstacle> {
    let what = match policy.policy_type {
        PolicyType::NewFileExec => "whether the file is new is remembered in user space",
        PolicyType::InteractiveShell => "whether a shell is interactive follows from its arguments",
        PolicyType::Chmod => "the new mode is compared in user space",
        PolicyType::Segfault => "crashes are counted in user space",
        _ => return None,
    };
    Some(Obstacle::new(what))
}

struct Lowering<'a> {
    hook: &'a Hook,
    obstacles: &'a mut Vec<Obstacle>,
}

impl Lowering<'_> {
    /// None if there is an obstacle; all of them are reported.
    fn condition(&mut self, condition: &Condition) -> Option<Formula> {
        match condition {
            Condition::And(terms) => self.all(terms).map(Formula::all),
            Condition::Or(terms) => self.all(terms).map(Formula::any),
            Condition::Not(inner) => self.condition(inner).map(Formula::negate),
            Condition::Test(test) => match self.test(test) {
                Ok(formula) => Some(formula),
                Err(reason) => {
                    self.obstacles.push(Obstacle::of(&test.text, reason));
                    None
                }
            },
        }
    }

    fn all(&mut self, terms: &[Condition]) -> Option<Vec<Formula>> {
        // Without a short cut: every obstacle counts.
        let lowered: Vec<_> = terms.iter().map(|term| self.condition(term)).collect();
        lowered.into_iter().collect()
    }

    fn test(&self, test: &Test) -> Result<Formula, String> {
        let field = test.field;
        if field == Field::EventType {
            let value = Value::Text { bytes: self.hook.kind().event_type().as_bytes(), truncated: false };
            return Ok(Formula::Always(evaluate_value(test, value) == Truth::True));
        }
        if !self.hook.fields().contains(field) {
            return Err(not_known(field).to_owned());
        }
        let tests = |negated, set| Formula::Test(KernelTest { field, negated, set });
        if let Comparison::Bool(wanted) = test.comparison {
            return Ok(tests(test.negated == wanted, KernelSet::True));
        }
        let set = KernelSet::of(field, &test.comparison, self.hook.limits())?;
        // Without a value, no test of a number or a host is passed, turned round or not.
        if test.negated && may_be_absent(field) {
            return Ok(Formula::all(vec![tests(false, KernelSet::any(field)), tests(true, set)]));
        }
        Ok(tests(test.negated, set))
    }
}

/// Whether it is a number or an address that some events of a kind have, and others do not.
fn may_be_absent(field: Field) -> bool {
    matches!(field.kind(), FieldKind::Number | FieldKind::Host) && !has_every_process(field)
}

/// Whether it is a number that the kernel knows of every process.
fn has_every_process(field: Field) -> bool {
    matches!(field, Field::Uid | Field::Gid | Field::Euid | Field::Egid | Field::ProcessPid)
}

fn not_known(field: Field) -> &'static str {
    match field {
        Field::ProgramArguments | Field::ParentProgramArguments => "arguments are compared in user space",
        Field::UserName | Field::GroupName => "the kernel knows no names of users; compare the number",
        Field::ContainerName
        | Field::ImageName
        | Field::ImageId
        | Field::KubernetesPod
        | Field::KubernetesNamespace => "the kernel knows of a container only that it is one (`containerId`)",
        Field::AncestorProgramName | Field::Lineage => "the kernel compares no ancestors but the parent",
        Field::Euid | Field::Egid => "it is not known before set-user-id bits were looked at",
        _ => "its value is not known there",
    }
}

//! Tests of policies as data: events, and the responses that are expected of them. Nothing is read or carried out here.

mod read;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use serde::Serialize;

use self::read::read;
use crate::action::ActionSet;
use crate::diagnostic::{Code, Diagnostics, nearest};
use crate::engine::Engine;
use crate::event::Event;
use crate::explain::Explanation;
use crate::limits::Limits;
use crate::loader::yaml::Place;
use crate::policy::PolicySet;
use crate::trigger::raises;

/// The tests of one file, which names the policies that it is about.
///
/// ```
/// use sls_core::{PolicySet, PolicyTests};
///
/// let tests = PolicyTests::from_yaml("wget.test.yaml", r#"
/// policies: [wget.yaml]
/// tests:
///   - name: wget is killed
///     event: {kind: exec, programName: /usr/bin/wget}
///     expect: [{policy: No wget, actions: [kill, alert]}]
///   - name: curl is not
///     event: {kind: exec, programName: /usr/bin/curl}
///     expect: []
/// "#)?;
/// assert!(tests.policies().eq(["wget.yaml"]));
/// let policies = PolicySet::from_yaml("wget.yaml", r#"
/// No wget:
///   policy: program
///   responseActions: [alert, kill]
///   rules: ['match programName == "/usr/bin/wget"', default ignore]
/// "#)?;
/// let outcomes = tests.run(policies)?;
/// assert!(outcomes.iter().all(|outcome| outcome.passed()));
/// # Ok::<(), sls_core::Diagnostics>(())
/// ```
#[derive(Clone, Debug)]
pub struct PolicyTests {
    policies: Vec<String>,
    only: Option<Names>,
    tests: Vec<Test>,
    diagnostics_limit: usize,
}

/// Names of policies, and where they stand.
type Names = BTreeMap<String, Place>;

#[derive(Clone, Debug)]
struct Test {
    name: String,
    line: usize,
    before: Vec<Event>,
    event: Event,
    only: Option<Names>,
    expect: Vec<Expected>,
}

/// The response that is expected of one policy. What is not given is not compared.
#[derive(Clone, Debug)]
struct Expected {
    policy: String,
    place: Place,
    outcome: &'static str,
    matched_rule: Option<String>,
    actions: Option<BTreeSet<String>>,
    uncertain: Option<BTreeSet<&'static str>>,
}

/// What came of one test.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct TestOutcome {
    /// The test's name.
    pub name: String,
    /// The line on which the test begins, from 1.
    pub line: usize,
    /// The event as the policies saw it.
    pub event: Event,
    /// The policies that responded, in document order; without those that the test's `only` leaves out.
    pub responses: Vec<String>,
    /// What differs from what was expected, by policy. Empty if the test passed.
    pub mismatches: Vec<Mismatch>,
}

impl TestOutcome {
    /// Whether everything was as expected.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.mismatches.is_empty()
    }
}

/// A policy that did something else than was expected.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Mismatch {
    /// The policy's name.
    pub policy: String,
    /// What differs.
    pub differences: Vec<Difference>,
    /// Why the policy decided as it did. None if it was not asked: it is disabled, or such events do not raise it.
    pub explanation: Option<Explanation>,
}

/// One key of an expectation that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Difference {
    /// The key: `outcome`, `matchedRule`, `actions` or `uncertain`.
    pub key: &'static str,
    /// What was expected.
    pub expected: String,
    /// What was found.
    pub found: String,
}

impl PolicyTests {
    /// Reads a file of tests within the default limits. The name appears in diagnostics only.
    ///
    /// # Errors
    /// Every finding, as for policy documents: what is not YAML, unknown or missing keys, values that do not fit.
    pub fn from_yaml(name: &str, bytes: impl Into<Vec<u8>>) -> Result<Self, Diagnostics> {
        Self::with_limits(name, bytes, &Limits::default())
    }

    /// Like [`PolicyTests::from_yaml`], within other limits.
    ///
    /// # Errors
    /// As [`PolicyTests::from_yaml`].
    pub fn with_limits(name: &str, bytes: impl Into<Vec<u8>>, limits: &Limits) -> Result<Self, Diagnostics> {
        Self::with_actions(name, bytes, limits, ActionSet::EMPTY)
    }

    /// Like [`PolicyTests::with_limits`], of policies that may have these actions of an embedder as well: those that its
    /// [`Responder`](crate::Responder) supports.
    ///
    /// # Errors
    /// As [`PolicyTests::from_yaml`].
    pub fn with_actions(
        name: &str,
        bytes: impl Into<Vec<u8>>,
        limits: &Limits,
        actions: ActionSet,
    ) -> Result<Self, Diagnostics> {
        read(name, bytes.into(), limits, actions)
    }

    /// The policy documents that the file names, as layers in this order. Their paths are relative to the file, and theirs
    /// to read who calls.
    pub fn policies(&self) -> impl Iterator<Item = &str> {
        self.policies.iter().map(String::as_str)
    }

    /// Whether a response of this policy is compared in any of the tests.
    #[must_use]
    pub fn covers(&self, policy: &str) -> bool {
        self.tests.iter().any(|test| self.is_compared(test, policy))
    }

    /// Runs every test, each in an engine of its own with the default guards, and nothing is carried out.
    ///
    /// # Errors
    /// When the tests name a policy that is not among `policies`.
    pub fn run(&self, policies: impl Into<Arc<PolicySet>>) -> Result<Vec<TestOutcome>, Diagnostics> {
        let policies = policies.into();
        self.check_names(&policies)?;
        Ok(self.tests.iter().map(|test| self.run_test(test, &policies)).collect())
    }

    fn check_names(&self, policies: &PolicySet) -> Result<(), Diagnostics> {
        let known: HashSet<&str> = policies.policies().iter().map(|policy| &*policy.name).collect();
        let only = self.only.iter().chain(self.tests.iter().filter_map(|test| test.only.as_ref())).flatten();
        let expected =
            self.tests.iter().flat_map(|test| &test.expect).map(|expected| (&expected.policy, &expected.place));
        let mut diagnostics = Diagnostics::limited(self.diagnostics_limit);
        for (name, place) in only.chain(expected).filter(|(name, _)| !known.contains(name.as_str())) {
            if diagnostics.is_full() {
                break;
            }
            let mut diagnostic = place.error(Code::UnknownName, format!("there is no policy `{name}`"));
            diagnostic = match nearest(name, policies.policies().iter().map(|policy| &*policy.name)) {
                Some(near) => diagnostic.suggest(place.span, near),
                None => diagnostic.help("the policies are those of the documents under `policies`"),
            };
            diagnostics.push(diagnostic);
        }
        diagnostics.sort(&[]);
        if diagnostics.is_empty() { Ok(()) } else { Err(diagnostics) }
    }

    fn is_compared(&self, test: &Test, policy: &str) -> bool {
        test.only.as_ref().or(self.only.as_ref()).is_none_or(|only| only.contains_key(policy))
    }

    fn run_test(&self, test: &Test, policies: &Arc<PolicySet>) -> TestOutcome {
        let mut engine = Engine::builder(policies.clone()).build();
        for earlier in &test.before {
            engine.explain(&mut earlier.clone());
        }
        let mut event = test.event.clone();
        let mut expected: HashMap<&str, &Expected> =
            test.expect.iter().map(|expected| (expected.policy.as_str(), expected)).collect();
        let (mut responses, mut mismatches) = (Vec::new(), Vec::new());
        for explanation in engine.explain(&mut event) {
            if !self.is_compared(test, &explanation.policy) {
                continue;
            }
            if explanation.is_response() {
                responses.push(explanation.policy.clone());
            }
            let differences = match expected.remove(explanation.policy.as_str()) {
                Some(expected) => expected.differences(&explanation),
                None if explanation.is_response() => {
                    vec![Difference::new("outcome", "no response", explanation.outcome)]
                }
                None => Vec::new(),
            };
            if !differences.is_empty() {
                let policy = explanation.policy.clone();
                mismatches.push(Mismatch { policy, differences, explanation: Some(explanation) });
            }
        }
        for expected in test.expect.iter().filter(|entry| expected.contains_key(entry.policy.as_str())) {
            let found = match policies.policy(&expected.policy) {
                Some(policy) if !raises(policy.policy_type, event.kind) => {
                    format!("not asked: `{}` events do not raise `{}` policies", event.kind, policy.policy_type)
                }
                _ => "not asked: the policy is disabled".to_owned(),
            };
            let differences = vec![Difference::new("outcome", expected.outcome, found)];
            mismatches.push(Mismatch { policy: expected.policy.clone(), differences, explanation: None });
        }
        TestOutcome { name: test.name.clone(), line: test.line, event, responses, mismatches }
    }
}

impl Expected {
    fn differences(&self, found: &Explanation) -> Vec<Difference> {
        if !found.is_response() {
            let found = match found.outcome {
                "ignore" => "ignore".to_owned(),
                outcome => format!("{outcome}, without a response"),
            };
            return vec![Difference::new("outcome", self.outcome, found)];
        }
        let mut differences = Vec::new();
        if self.outcome != found.outcome {
            differences.push(Difference::new("outcome", self.outcome, found.outcome));
        }
        if let Some(rule) = self.matched_rule.as_ref().filter(|rule| **rule != found.rule) {
            differences.push(Difference::new("matchedRule", rule, &found.rule));
        }
        let actions = actions(found);
        if let Some(expected) = self.actions.as_ref().filter(|expected| **expected != actions) {
            differences.push(Difference::new("actions", listed(expected), listed(&actions)));
        }
        let uncertain = found.uncertain.iter().copied().collect();
        if let Some(expected) = self.uncertain.as_ref().filter(|expected| **expected != uncertain) {
            differences.push(Difference::new("uncertain", listed(expected), listed(&uncertain)));
        }
        differences
    }
}

impl Difference {
    fn new(key: &'static str, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self { key, expected: expected.into(), found: found.into() }
    }
}

/// What a response does, as tests name it: a dry run counts as the action, a refusal does not.
fn actions(response: &Explanation) -> BTreeSet<String> {
    let plan = response.plan.iter().map(|planned| match planned.permission {
        "refused" => refused(planned.action),
        _ => planned.action.to_owned(),
    });
    response.report.map(str::to_owned).into_iter().chain(plan).collect()
}

fn refused(action: &str) -> String {
    format!("{action}: refused")
}

fn listed<T: AsRef<str>>(names: &BTreeSet<T>) -> String {
    let names: Vec<_> = names.iter().map(AsRef::as_ref).collect();
    format!("[{}]", names.join(", "))
}

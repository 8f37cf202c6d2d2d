//! Why a policy decided as it did: the value of every test, the rule that decided, the plan and the guards.

use serde::Serialize;

use crate::action::Permission;
use crate::bytes::display;
use crate::evaluate::{Decision, Outcome, evaluate, evaluate_test, outcome, raises};
use crate::event::{Event, Value};
use crate::planner::{ActionPlanner, Plan, PlanContext};
use crate::policy::{Policy, PolicySet};
use crate::rule::{Condition, Test};
use crate::schema::{Field, FieldSet};

/// Why one policy did what it did about one event.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Explanation {
    /// The policy's name.
    pub policy: String,
    /// `match`, `ignore` or `undecided`.
    pub outcome: &'static str,
    /// The rule that decided, or the first that could not be decided.
    pub rule: String,
    /// The fields that were in doubt.
    pub uncertain: Vec<&'static str>,
    /// Every rule, with the value of every test.
    pub rules: Vec<RuleExplanation>,
    /// The message type of the alert, if one would be emitted.
    pub report: Option<&'static str>,
    /// The plan, as guarded.
    pub plan: Vec<ActionExplanation>,
}

/// The value of one rule.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct RuleExplanation {
    /// The rule as written.
    pub rule: String,
    /// `true`, `false` or `unknown`.
    pub value: &'static str,
    /// Its tests from left to right, those included that evaluation would have skipped.
    pub tests: Vec<TestExplanation>,
}

/// The value of one test.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct TestExplanation {
    /// The test as written.
    pub test: String,
    /// `true`, `false` or `unknown`.
    pub value: &'static str,
    /// What the event has in the field.
    pub found: String,
}

/// One action of the plan.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ActionExplanation {
    /// The action's token.
    pub action: &'static str,
    /// `granted`, `dry run` or `refused`.
    pub permission: &'static str,
    /// The guard that refused, and its reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guard: Option<String>,
}

/// Explains what each enabled policy makes of `event`: all whose type the event raises, whether they match or not.
///
/// ```
/// use sls_core::{Event, EventKind, Field, GuardedPlanner, PolicySet, explain};
///
/// let policies = PolicySet::from_yaml("p.yaml",
///     "No wget:\n  policy: program\n  rules: ['match programName == \"*/wget\" and uid == 0', default ignore]\n")?;
/// let mut event = Event::new(EventKind::Exec);
/// event.set_text(Field::ProgramName, b"/usr/bin/wget").set_number(Field::Uid, 1000);
/// let explanation = explain(&policies, &event, &GuardedPlanner::default(), false).remove(0);
/// assert_eq!(explanation.outcome, "ignore");
/// assert_eq!(explanation.rules[0].tests[0].value, "true");
/// assert_eq!(explanation.rules[0].tests[1].found, "1000");
/// # Ok::<(), sls_core::Diagnostics>(())
/// ```
#[must_use]
pub fn explain(policies: &PolicySet, event: &Event, planner: &dyn ActionPlanner, dry_run: bool) -> Vec<Explanation> {
    policies
        .active()
        .filter(|policy| raises(policy.policy_type, event.kind))
        .map(|policy| {
            let outcome = outcome(policy, event);
            let rule = &policy.rules[outcome.rule];
            let decision = Decision { policy, rule, certain: outcome.certain, uncertain: outcome.uncertain };
            let plan = if outcome.is_response() {
                planner.plan(&PlanContext { event, decision, dry_run })
            } else {
                Plan::default()
            };
            Explanation {
                policy: policy.name.to_string(),
                outcome: outcome_name(&outcome),
                rule: rule.text.to_string(),
                uncertain: outcome.uncertain.iter().map(Field::name).collect(),
                rules: rules(policy, event),
                report: plan.report.map(|message_type| message_type.name()),
                plan: plan
                    .actions()
                    .map(|planned| {
                        let (permission, guard) = match planned.permission {
                            Permission::Granted => ("granted", None),
                            Permission::DryRun => ("dry run", None),
                            Permission::Refused(refusal) => ("refused", Some(refusal.to_string())),
                        };
                        ActionExplanation { action: planned.action.token(), permission, guard }
                    })
                    .collect(),
            }
        })
        .collect()
}

fn outcome_name(outcome: &Outcome) -> &'static str {
    if outcome.certain { outcome.verdict.name() } else { "undecided" }
}

fn rules(policy: &Policy, event: &Event) -> Vec<RuleExplanation> {
    policy
        .rules
        .iter()
        .map(|rule| {
            let mut tests = Vec::new();
            let value = match &rule.condition {
                None => "true",
                Some(condition) => {
                    collect_tests(condition, event, &mut tests);
                    evaluate(condition, event, &mut FieldSet::default()).name()
                }
            };
            RuleExplanation { rule: rule.text.to_string(), value, tests }
        })
        .collect()
}

fn collect_tests(condition: &Condition, event: &Event, tests: &mut Vec<TestExplanation>) {
    match condition {
        Condition::And(terms) | Condition::Or(terms) => {
            terms.iter().for_each(|term| collect_tests(term, event, tests));
        }
        Condition::Not(inner) => collect_tests(inner, event, tests),
        Condition::Test(test) => tests.push(explain_test(test, event)),
    }
}

fn explain_test(test: &Test, event: &Event) -> TestExplanation {
    let cut = |truncated| if truncated { " (truncated)" } else { "" };
    let found = match event.value(test.field) {
        Value::Absent => "nothing".to_owned(),
        Value::Unknown => "unknown".to_owned(),
        Value::Text { bytes, truncated } => format!("\"{}\"{}", display(bytes), cut(truncated)),
        Value::Number(number) => number.to_string(),
        Value::Bool(value) => value.to_string(),
        Value::Host(address) => address.to_string(),
        Value::Many { items, truncated } => {
            let items: Vec<_> = items.iter().map(|item| format!("\"{}\"", display(item))).collect();
            format!("[{}]{}", items.join(", "), cut(truncated))
        }
    };
    TestExplanation { test: test.text.to_string(), value: evaluate_test(test, event).name(), found }
}

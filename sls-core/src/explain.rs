//! Why a policy decided as it did: the value of every test, the rule that decided, the plan and the guards.

use std::sync::Arc;

use serde::Serialize;

use crate::action::{Permission, PlannedAction};
use crate::bytes::display;
use crate::evaluate::{Decision, Outcome, evaluate, evaluate_test, outcome};
use crate::event::{Event, Value, canonical};
use crate::history::{History, Verdict};
use crate::planner::{ActionPlanner, PlanContext};
use crate::policy::{Policy, PolicySet};
use crate::rule::{Condition, Test};
use crate::schema::{Field, FieldSet};
use crate::trigger::raises;

/// Why one policy did what it did about one event.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Explanation {
    /// The policy's name.
    pub policy: String,
    /// `match`, `undecided`, `ignore`; `held` if the policy would respond but for what happened before; `not raised` if
    /// the event is of the right kind but not what the policy type is about.
    pub outcome: &'static str,
    /// Why it is held or not raised, or under which of its names a file was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The rule that decided, or the first that could not be decided; empty if the policy is not raised.
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

impl Explanation {
    /// Whether the policy responds: it reports, or plans an action.
    #[must_use]
    pub fn is_response(&self) -> bool {
        self.report.is_some() || !self.plan.is_empty()
    }
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

/// Explains what each enabled policy makes of an enriched event.
pub(crate) fn explain(
    policies: &PolicySet,
    event: &mut Event,
    planner: &dyn ActionPlanner,
    dry_run: bool,
    history: &mut History,
) -> Vec<Explanation> {
    let mut explanations: Vec<Explanation> = Vec::new();
    event.each_name(|event| {
        let mut before = explanations.iter_mut();
        let mut added = Vec::new();
        for policy in policies.active().filter(|policy| raises(policy.policy_type, event.kind)) {
            let previous = before.next();
            let outcome = outcome(policy, event);
            let certain = outcome.is_some_and(|outcome| outcome.certain && outcome.is_response());
            // As the engine does, it asks again only for more certainty.
            match previous.as_ref().map(|previous| previous.outcome) {
                Some(MATCH) => continue,
                Some(UNDECIDED) if !certain => continue,
                _ => {}
            }
            let explanation = explain_policy(policy, outcome, event, planner, dry_run, history);
            match previous {
                // Under which name more is to be said.
                Some(previous) if rank(&explanation) > rank(previous) => *previous = explanation,
                Some(_) => {}
                None => added.push(explanation),
            }
        }
        explanations.append(&mut added);
    });
    explanations
}

const MATCH: &str = "match";
const UNDECIDED: &str = "undecided";

fn rank(explanation: &Explanation) -> u8 {
    match explanation.outcome {
        MATCH => 4,
        UNDECIDED => 3,
        "held" => 2,
        "ignore" => 1,
        _ => 0,
    }
}

fn explain_policy(
    policy: &Arc<Policy>,
    outcome: Option<Outcome>,
    event: &Event,
    planner: &dyn ActionPlanner,
    dry_run: bool,
    history: &mut History,
) -> Explanation {
    let mut explanation = Explanation {
        policy: policy.name.to_string(),
        outcome: "not raised",
        note: None,
        rule: String::new(),
        uncertain: Vec::new(),
        rules: Vec::new(),
        report: None,
        plan: Vec::new(),
    };
    let Some(outcome) = outcome else {
        explanation.note = Some(format!("the policy is raised when {}", policy.policy_type.meaning()));
        return explanation;
    };
    let rule = &policy.rules[outcome.rule];
    explanation.outcome = outcome_name(&outcome);
    explanation.rule = rule.text.to_string();
    explanation.uncertain = outcome.uncertain.iter().map(Field::name).collect();
    explanation.rules = rules(policy, event);
    if event.is_under_new_name() {
        explanation.note = Some("`filePath` is the new name".to_owned());
    }
    if !outcome.is_response() {
        return explanation;
    }
    let decision = Decision { policy, rule, certain: outcome.certain, uncertain: outcome.uncertain };
    let held = match history.admit(event, &decision) {
        Verdict::Responds => None,
        Verdict::Tolerated(crashes) => Some(format!("{crashes} crashes of the program are tolerated")),
        Verdict::Reported(ago) => Some(format!("the file was reported {} s ago", ago.as_secs())),
    };
    if held.is_some() {
        explanation.outcome = "held";
        explanation.note = held;
        return explanation;
    }
    let plan = planner.plan(&PlanContext::new(event, decision, dry_run));
    explanation.report = plan.report.map(|message_type| message_type.name());
    explanation.plan = plan.actions().map(explain_action).collect();
    explanation
}

fn explain_action(planned: &PlannedAction) -> ActionExplanation {
    let (permission, guard) = match &planned.permission {
        Permission::Granted => ("granted", None),
        Permission::DryRun => ("dry run", None),
        Permission::Held(guard) => ("dry run", Some(guard.to_string())),
        Permission::Refused(refusal) => ("refused", Some(refusal.to_string())),
    };
    ActionExplanation { action: planned.action.token(), permission, guard }
}

fn outcome_name(outcome: &Outcome) -> &'static str {
    if outcome.certain { outcome.verdict.name() } else { UNDECIDED }
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
    let trust = if event.untrusted().contains(canonical(test.field)) { " (untrusted)" } else { "" };
    TestExplanation { test: test.text.to_string(), value: evaluate_test(test, event).name(), found: found + trust }
}

#[cfg(test)]
mod tests {
    use crate::engine::Engine;
    use crate::event::{Event, EventKind};
    use crate::policy::PolicySet;
    use crate::schema::Field;

    #[test]
    fn what_cannot_be_relied_on_is_said_so() {
        let text =
            "P: {policy: connect, rules: ['match socketPath == \"/run/*\" and remotePort == 1', default ignore]}";
        let mut engine = Engine::builder(PolicySet::from_yaml("p.yaml", text).unwrap()).build();
        let mut event = Event::new(EventKind::Connect);
        event.set_text(Field::SocketPath, b"/run/x").mark_untrusted(Field::SocketPath).set_number(Field::RemotePort, 1);
        let explanation = engine.explain(&mut event).remove(0);
        assert_eq!(explanation.outcome, "match");
        let found: Vec<_> = explanation.rules[0].tests.iter().map(|test| &*test.found).collect();
        assert_eq!(found, ["\"/run/x\" (untrusted)", "1"]);
    }
}

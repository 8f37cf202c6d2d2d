//! Rules that cost something for every event, where events are frequent.

use super::Finding;
use crate::diagnostic::Code;
use crate::matcher::{Appraiser, Expense};
use crate::policy::{Policy, PolicyType};

/// What is dear about the rules of a policy, each with the index of its rule, but for those about which something was
/// `found`.
pub(super) fn check(policy: &Policy, appraiser: &mut Appraiser, found: &[(usize, Finding)]) -> Vec<(usize, Finding)> {
    if !policy.enabled || !is_frequent(policy.policy_type) {
        return Vec::new();
    }
    let mut expenses = appraiser.appraise(policy);
    // What is wrong with a rule comes before what it costs.
    expenses.retain(|(index, ..)| !found.iter().any(|(other, _)| other == index));
    let finding = |span, expense| {
        match expense {
        Expense::Asked => Finding::new(
            Code::ExpensiveRule,
            span,
            format!("this rule is evaluated on every event of type `{}`", policy.policy_type),
        )
        .label("most events may pass this")
        .help("`and` a test that few events pass: a path, a file name, a list of them, or a text of at least 4 bytes"),
        Expense::Expression(field) => Finding::new(
            Code::ExpensiveRule,
            span,
            format!("this expression runs over `{field}` of every event of type `{}`", policy.policy_type),
        )
        .label("it has no text that every match has")
        .help(
            "write a text of at least 4 bytes into it, or `and` a test that few events pass: a path, a file name, a list \
             of them",
        ),
    }
    };
    expenses.into_iter().map(|(index, span, expense)| (index, finding(span, expense))).collect()
}

/// Whether a host has so many events of the type that each of them counts.
fn is_frequent(policy_type: PolicyType) -> bool {
    use PolicyType as P;
    matches!(policy_type, P::Program | P::File | P::FileMonitor | P::Connect | P::NetworkService)
}

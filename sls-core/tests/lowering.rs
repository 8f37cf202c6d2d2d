//! Whatever the policy and the event: what is lowered to the kernel decides as the plain evaluator does, or not at all.

// A helper of a test fails like the test.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

// Other tests let engines process the cases.
#[allow(dead_code)]
mod cases;
mod generators;

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use sls_core::{
    Event, EventKind, Field, Hook, KernelPolicy, KernelVerdict, Matcher, Policy, PolicyType, TreeMatcher, Value,
};

use cases::{Case, case_of};

const TYPES: &[PolicyType] = &[
    PolicyType::Program,
    PolicyType::File,
    PolicyType::FileMonitor,
    PolicyType::Connect,
    PolicyType::Ptrace,
    PolicyType::KernelModule,
];

const EVERY_PROCESS_HAS: [Field; 5] = [Field::Uid, Field::Gid, Field::Euid, Field::Egid, Field::ProcessPid];

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_kernel_decides_as_the_evaluator_does(case in case_of(TYPES, 1..6)) {
        check(&case, &mut BTreeSet::new());
    }
}

/// The property means something only if the cases do.
#[test]
fn generated_policies_are_lowered_and_decide() {
    let mut runner = TestRunner::deterministic();
    let mut seen = BTreeSet::new();
    for _ in 0..600 {
        check(&case_of(TYPES, 1..6).new_tree(&mut runner).unwrap().current(), &mut seen);
    }
    let mut wanted = Vec::new();
    for policy_type in TYPES {
        for verdict in ["match", "ignore", "undecided"] {
            for length in ["only the default", "more than the default"] {
                // Without a test, only what raises it can be in doubt.
                if verdict != "undecided" || length == "more than the default" {
                    wanted.push(format!("{policy_type} {verdict} {length}"));
                }
            }
        }
    }
    wanted.extend(["not lowered", "not raised"].map(str::to_owned));
    let missing: Vec<_> = wanted.into_iter().filter(|wanted| !seen.contains(wanted)).collect();
    assert!(missing.is_empty(), "never generated: {missing:?}");
}

fn check(case: &Case, seen: &mut BTreeSet<String>) {
    let policies = Arc::new(case.load());
    let matcher = TreeMatcher::new(policies.clone());
    for event in &case.events {
        let Some(hook) = hook(event.kind) else { continue };
        for policy in policies.active().filter(|policy| sls_core::raises(policy.policy_type, event.kind)) {
            // Whatever can be put into a set is, also what no hook knows.
            let Ok(lowered) = KernelPolicy::lower(policy, &hook.clone().with(Field::all())) else {
                seen.insert("not lowered".to_owned());
                continue;
            };
            event.clone().each_name(|event| {
                let about = || format!("{}\n{lowered:#?}\n{case:#?}", event.to_json());
                let plain = decision(&matcher, policy, event);
                let verdict = match lowered.decide(event) {
                    None => {
                        assert_eq!(plain, None, "a response to what does not raise it, {}", about());
                        seen.insert("not raised".to_owned());
                        return;
                    }
                    Some(KernelVerdict::Match { rule }) => {
                        assert_eq!(plain, Some((policy.rules[rule].text.to_string(), true)), "{}", about());
                        "match"
                    }
                    Some(KernelVerdict::Ignore { .. }) => {
                        assert_eq!(plain, None, "{}", about());
                        "ignore"
                    }
                    Some(KernelVerdict::Undecided) => {
                        let mut needed = lowered.fields();
                        [Field::FileOperation, Field::NewFilePath].into_iter().for_each(|field| needed.insert(field));
                        let unclear = event.unknown().union(event.truncated());
                        // Every process has those, though not every event that was made up.
                        let lacks = |field| EVERY_PROCESS_HAS.contains(&field) && event.value(field) == Value::Absent;
                        let doubt = needed.iter().any(|field| unclear.contains(field) || lacks(field));
                        assert!(doubt, "no reason for doubt, {}", about());
                        "undecided"
                    }
                    Some(_) => panic!("another verdict"),
                };
                let length = if lowered.rules.len() == 1 { "only the default" } else { "more than the default" };
                seen.insert(format!("{} {verdict} {length}", policy.policy_type));
            });
        }
    }
}

fn hook(kind: EventKind) -> Option<Hook> {
    match kind {
        EventKind::Exec => Some(Hook::exec_signal()),
        EventKind::File | EventKind::Connect | EventKind::Ptrace | EventKind::Module => Some(Hook::lsm(kind)),
        _ => None,
    }
}

/// The deciding rule if the policy responds, and whether it is certain.
fn decision(matcher: &TreeMatcher, policy: &Arc<Policy>, event: &Event) -> Option<(String, bool)> {
    let mut found = None;
    matcher.decide(event, &mut |decision| {
        if Arc::ptr_eq(decision.policy, policy) {
            found = Some((decision.rule.text.to_string(), decision.certain));
        }
    });
    found
}

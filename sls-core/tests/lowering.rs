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
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::json;
use sls_core::{
    Capabilities, Event, EventKind, Field, HeldPaths, Hook, KernelPolicy, KernelVerdict, Matcher, Policy, PolicyLoader,
    PolicyType, TreeMatcher, Value,
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

/// Tests of where a program is, and another.
const PLACES: &[&str] = &[
    r#"programName == "/tmp/x""#,
    r#"programName == "/tmp/*""#,
    r#"programName != "/tmp/a*""#,
    r#"programName in ["/tmp/x", "/srv/*"]"#,
    r#"programName not in ["/tmp/x", "/tmp/a/*"]"#,
    r#"programName like "/(tmp|srv)/.*""#,
    r#"programName =~ "/TMP/X""#,
    "uid == 0",
];

const PROGRAMS: &[&str] = &["/tmp/x", "/tmp/ab", "/tmp/a/b", "/tmp", "/TMP/x", "/srv/x", "/srvx", "/usr/bin/x", "x"];

fn placed_rules() -> impl Strategy<Value = Vec<String>> {
    let verdict = || select(&["match", "ignore"][..]);
    let test = select(PLACES).prop_map(str::to_owned);
    let expression = test.prop_recursive(3, 6, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(left, right)| format!("({left}) and ({right})")),
            (inner.clone(), inner.clone()).prop_map(|(left, right)| format!("({left}) or ({right})")),
            inner.prop_map(|inner| format!("not ({inner})")),
        ]
    });
    let rule = (verdict(), expression).prop_map(|(verdict, expression)| format!("{verdict} {expression}"));
    (prop::collection::vec(rule, 1..4), prop_oneof![4 => Just("ignore"), 1 => Just("match")]).prop_map(
        |(mut rules, default)| {
            rules.push(format!("default {default}"));
            rules
        },
    )
}

#[test]
fn whatever_a_held_policy_responds_to_is_held() {
    let host = Capabilities::default().without_hooks().hook(Hook::fanotify_exec());
    let mut runner = TestRunner::deterministic();
    let [mut inside, mut outside] = [0; 2];
    for _ in 0..1000 {
        let rules = placed_rules().new_tree(&mut runner).unwrap().current();
        let document = json!({"P": {"policy": "program", "responseActions": ["block"], "rules": rules}}).to_string();
        let loader = PolicyLoader::new().capabilities(host.clone()).document("p.yaml", document);
        let policies = Arc::new(loader.load().unwrap_or_else(|error| panic!("{error}\n{rules:#?}")));
        let matcher = TreeMatcher::new(policies.clone());
        // What can never respond needs no hold.
        let hold = policies.tiers().holds().first();
        for (program, uid) in PROGRAMS.iter().flat_map(|program| [(program, 0), (program, 1)]) {
            let mut event = Event::new(EventKind::Exec);
            event.set_text(Field::ProgramName, program.as_bytes()).set_number(Field::Uid, uid);
            let held = hold.is_some_and(|hold| hold.paths.includes(program.as_bytes()));
            outside += usize::from(!held);
            if decision(&matcher, policies.policy("P").unwrap(), &event).is_some() {
                assert!(held, "{program} of {uid}: {rules:#?}\n{hold:#?}");
                inside += usize::from(hold.is_some_and(|hold| hold.paths != HeldPaths::Any));
            }
        }
    }
    assert!(inside > 500 && outside > 500, "{inside} responses in places, {outside} events elsewhere");
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

//! The built-in content, by `content.yaml`: what it alerts on, and what it leaves alone.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Value, json};
use sls_core::{DryRunResponder, Engine, Event, PolicySet, UnknownKeys};

#[derive(Deserialize)]
struct Case {
    event: Value,
    alerts: Vec<String>,
}

#[test]
fn the_built_in_content_alerts_on_what_it_should() {
    let policies = std::sync::Arc::new(
        PolicySet::from_yaml("linux.yaml", include_str!("../policies/linux.yaml"))
            .unwrap_or_else(|error| panic!("{error}")),
    );
    let cases: Vec<Case> = serde_yaml::from_str(include_str!("content.yaml")).unwrap();
    let mut seen = BTreeSet::new();
    for case in &cases {
        let mut event = json!({
            "kind": "exec", "processPid": 300, "processStart": 3, "parentPid": 200, "parentStart": 2,
            "ancestorProgramName": ["/usr/bin/bash"], "parentProgramName": "/usr/bin/bash",
            "parentProgramArguments": "bash",
        });
        event.as_object_mut().unwrap().extend(case.event.as_object().unwrap().clone());
        let (mut event, _) = Event::from_json(event.to_string(), UnknownKeys::Reject).unwrap();
        let mut alerts = Vec::new();
        Engine::builder(policies.clone()).dry_run(true).build().process(
            &mut event,
            &mut DryRunResponder,
            &mut |pending| {
                let alert = pending.complete();
                let doubt = if alert.uncertain.is_empty() { "" } else { "? " };
                alerts.push(format!("{doubt}{}", alert.strategy_name));
            },
        );
        assert_eq!(alerts, case.alerts, "{}", case.event);
        seen.extend(alerts);
    }
    for policy in policies.active() {
        assert!(seen.contains(&*policy.name), "no case makes `{}` alert", policy.name);
        assert!(!policy.categories.is_empty(), "`{}` has no category", policy.name);
        assert!(policy.actions.iter().eq([sls_core::Action::Alert]), "`{}` does more than alert", policy.name);
    }
}

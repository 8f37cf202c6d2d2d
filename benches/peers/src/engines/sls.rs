//! SLS: each rule is a policy that looks at programs. The matcher is asked what the sensor asks it.

use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;

use sls_benches::sls::{document, event, rule_of};
use sls_benches::workload::{Condition, Execution};
use sls_core::{CompiledMatcher, Event, Limits, Matcher, PolicyLoader, PolicySet, TreeMatcher};

use crate::engine::{Cost, Engine, Loaded, Matched};

struct Sls<M> {
    matcher: M,
    compiling: Cost,
    events: Vec<Event>,
}

pub(crate) fn load_compiled(rules: &[Condition], executions: &[Execution]) -> anyhow::Result<Loaded> {
    load(rules, executions, CompiledMatcher::new)
}

pub(crate) fn load_plain(rules: &[Condition], executions: &[Execution]) -> anyhow::Result<Loaded> {
    load(rules, executions, TreeMatcher::new)
}

fn load<M: Matcher + 'static>(
    rules: &[Condition],
    executions: &[Execution],
    compile: fn(Arc<PolicySet>) -> M,
) -> anyhow::Result<Loaded> {
    let text = document(rules);
    // The limits are against hostile documents.
    let limits = Limits { document_bytes: 64 << 20, regex_total_bytes: 1 << 30, ..Limits::default() };
    let (set, loading) = Cost::of(|| PolicyLoader::new().limits(limits.clone()).document("rules.yaml", &*text).load())?;
    let set = Arc::new(set);
    let (matcher, compiling) = Cost::of(|| Ok::<_, Infallible>(compile(set.clone())))?;
    let cost = Cost {
        milliseconds: loading.milliseconds + compiling.milliseconds,
        bytes: loading.bytes + compiling.bytes, //
    };
    let engine = Sls { matcher, compiling, events: executions.iter().map(event).collect() };
    Ok(Loaded { engine: Box::new(engine), cost })
}

impl<M: Matcher> Engine for Sls<M> {
    fn run(&mut self, executions: Range<usize>) -> Matched {
        let mut matched = Matched::default();
        for event in &self.events[executions] {
            self.matcher.decide(event, &mut |decision| {
                if decision.certain
                    && let Some(rule) = rule_of(&decision.policy.name)
                {
                    matched.add(rule);
                }
            });
        }
        matched
    }

    fn notes(&self) -> Vec<(&'static str, Cost)> {
        vec![("compiling", self.compiling)]
    }
}

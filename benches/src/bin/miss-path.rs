//! What callgrind counts the instructions of: the matcher, for events that no policy responds to. `make instructions`
//! runs it. It prints how many events there were.

// It prints what the script needs.
#![allow(clippy::print_stdout)]
#![forbid(unsafe_code)]

use std::hint::black_box;
use std::sync::Arc;

use anyhow::{Context, ensure};
use sls_benches::sls::{document, event};
use sls_benches::workload::{Regexes, Workload};
use sls_core::{CompiledMatcher, Event, Matcher, PolicySet};

/// Events that are counted.
const EVENTS: usize = 1000;

fn main() -> anyhow::Result<()> {
    let policies = std::env::args().nth(1).and_then(|count| count.parse().ok()).context("usage: miss-path POLICIES")?;
    let workload = Workload::new(policies, Regexes::SomeWithoutLiteral, 0);
    let set = PolicySet::from_yaml("rules.yaml", document(&workload.rules))?;
    let matcher = CompiledMatcher::new(Arc::new(set));
    let mut events: Vec<_> = workload.executions.iter().take(2 * EVENTS).map(event).collect();
    events.retain(|event| warm_up(&matcher, event) == 0);
    events.truncate(EVENTS);
    ensure!(events.len() == EVENTS, "too many events match");
    counted_by_callgrind(&matcher, &events);
    println!("{EVENTS}");
    Ok(())
}

/// Builds what is built when it is first needed, and tells how many policies respond.
fn warm_up(matcher: &CompiledMatcher, event: &Event) -> u32 {
    let mut responding = 0;
    matcher.decide(event, &mut |_| responding += 1);
    responding
}

/// Only what happens in here is counted.
#[inline(never)]
fn counted_by_callgrind(matcher: &CompiledMatcher, events: &[Event]) {
    let mut responding = 0_u32;
    for event in events {
        matcher.decide(black_box(event), &mut |_| responding += 1);
    }
    black_box(responding);
}

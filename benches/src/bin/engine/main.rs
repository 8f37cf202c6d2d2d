//! What the engine takes for an event that no policy responds to: time and allocations, by number of policies; and its
//! matcher beside the plain evaluator. Needs no privileges.

// It prints what it measured.
#![allow(clippy::print_stdout)]
#![forbid(unsafe_code)]

use std::fmt::Write;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use anyhow::ensure;
use sls_benches::counting::{Counting, allocations, bytes};
use sls_benches::{Table, median};
use sls_core::{
    CompiledMatcher, DryRunResponder, Engine, Event, EventKind, Field, Matcher, PolicySet, ProcessKey, ProcessTable,
    TreeMatcher, UnknownKeys, Value,
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const CONTENT: &str =
    concat!(include_str!("../../../../policies/lists.yaml"), include_str!("../../../../policies/linux.yaml"));

/// An execution of find(1), as `sls record` printed it.
const RECORDED: &str = include_str!("../../../data/exec.jsonl");

/// Timed batches of each row, of which the median counts.
const BATCHES: usize = 15;

/// Events of a batch, so that even the shortest takes a millisecond. With many policies there are fewer.
const EVENTS: u32 = 2000;

/// What is processed before anything is measured: the lazy automata of regular expressions are built by then.
const WARM_UP: u32 = 200;

/// The program that creates the processes.
const PARENT: ProcessKey = ProcessKey { pid: 4200, start: 70_000 };

fn main() -> anyhow::Result<()> {
    let (recorded, _) = Event::from_json(RECORDED.trim_end(), UnknownKeys::Reject)?;
    let mut table = Table::new(&[
        "policies",
        "plain ns",
        "allocations",
        "match ns",
        "allocations",
        "exec ns",
        "allocations",
        "spawn ns",
        "allocations",
    ]);
    let mut allocated = 0;
    for (name, policies) in policy_sets()? {
        let events = (EVENTS * 20 / (20 + policies.policies().len() as u32)).max(50);
        let mut bench = Bench::new(policies, &recorded);
        let plain = bench.matching(&TreeMatcher::new(bench.policies.clone()), events)?;
        let matching = bench.matching(&CompiledMatcher::new(bench.policies.clone()), EVENTS)?;
        let exec = bench.exec(events);
        let spawn = bench.spawn(events);
        ensure!(bench.alerts == 0, "{name}: a policy responded to the recorded event");
        table.row([name].into_iter().chain([plain, matching, exec, spawn].iter().flat_map(Cost::cells)));
        allocated += plain.allocations + matching.allocations;
    }
    println!(
        "no policy responds; medians of {BATCHES} batches, each per event, or per spawn\n\
         plain: the plain evaluator alone; match: the matcher alone; exec: the whole engine; spawn: the whole engine for a fork, an exec and an exit\n"
    );
    println!("{table}");
    let (processes, size) = full_table(&recorded);
    println!("a full process table: {processes} processes, each with a program of its own, {:.1} MiB", mebibytes(size));
    ensure!(allocated == 0, "the matcher allocated for an event that nothing matches");
    Ok(())
}

/// The built-in content, and the same kind of policy in growing numbers.
fn policy_sets() -> anyhow::Result<Vec<(String, PolicySet)>> {
    let mut sets = vec![("built-in content".to_owned(), PolicySet::from_yaml("linux.yaml", CONTENT)?)];
    for count in [1, 10, 100, 1000] {
        sets.push((format!("{count} generated"), PolicySet::from_yaml("generated.yaml", generated(count)?)?));
    }
    Ok(sets)
}

/// Policies as people write them: a name, a directory with an argument, an exception.
fn generated(count: u32) -> anyhow::Result<String> {
    let mut text = String::new();
    for index in 0..count {
        write!(
            text,
            "Generated {index}:\n  policy: program\n  rules:\n    \
             - ignore parentProgramName == \"/opt/agent{index}/*\"\n    \
             - match programName in [\"*/tool{index}\", \"/usr/local/bin/helper{index}\"]\n    \
             - match programName == \"/srv/{index}/*\" and programArguments like \".*--connect[= ]host{index}.*\"\n    \
             - default ignore\n"
        )?;
    }
    Ok(text)
}

/// Medians per event.
#[derive(Clone, Copy)]
struct Cost {
    nanoseconds: f64,
    /// Of one batch, the last.
    allocations: u64,
    events: u32,
}

impl Cost {
    fn cells(&self) -> [String; 2] {
        let each = self.allocations as f64 / f64::from(self.events);
        [format!("{:.0}", self.nanoseconds), format!("{each:.2}")]
    }
}

struct Bench<'r> {
    recorded: &'r Event,
    policies: Arc<PolicySet>,
    engine: Engine,
    /// Filled again and again, as a source does.
    event: Event,
    alerts: u64,
    next_pid: u32,
}

impl<'r> Bench<'r> {
    fn new(policies: PolicySet, recorded: &'r Event) -> Self {
        let policies = Arc::new(policies);
        let engine = Engine::builder(policies.clone()).build();
        let mut bench =
            Self { recorded, policies, engine, event: Event::new(EventKind::Exec), alerts: 0, next_pid: 5000 };
        bench.event.process = PARENT;
        bench.event.set_text(Field::ProgramName, b"/usr/bin/bash").set_arguments([&b"bash"[..], b"-i"]);
        bench.process();
        bench
    }

    /// The matcher alone, on an event that the engine has enriched.
    fn matching(&mut self, matcher: &dyn Matcher, events: u32) -> anyhow::Result<Cost> {
        self.fill(EventKind::Exec);
        self.process();
        let event = &self.event;
        ensure!(event.value(Field::ParentProgramName) != Value::Absent, "the event was not enriched");
        let mut decided = 0_u64;
        let cost = timed(events, || matcher.decide(black_box(event), &mut |_| decided += 1));
        ensure!(decided == 0, "a policy responded to the recorded event");
        Ok(cost)
    }

    /// One process that executes again and again.
    fn exec(&mut self, events: u32) -> Cost {
        let fill = timed(events, || self.fill(EventKind::Exec));
        let all = timed(events, || {
            self.fill(EventKind::Exec);
            self.process();
        });
        all.without(fill)
    }

    /// A process that is created, executes, and ends, again and again.
    fn spawn(&mut self, spawns: u32) -> Cost {
        const KINDS: [EventKind; 3] = [EventKind::Fork, EventKind::Exec, EventKind::Exit];
        let fill = timed(spawns, || KINDS.into_iter().for_each(|kind| self.fill(kind)));
        let all = timed(spawns, || {
            self.next_pid += 1;
            for kind in KINDS {
                self.fill(kind);
                self.process();
            }
        });
        all.without(fill)
    }

    fn process(&mut self) {
        let alerts = &mut self.alerts;
        self.engine.process(&mut self.event, &mut DryRunResponder, &mut |_| *alerts += 1);
    }

    /// What a source does for each event; its time is subtracted.
    fn fill(&mut self, kind: EventKind) {
        let (event, recorded) = (&mut self.event, self.recorded);
        event.reset(kind);
        event.time = recorded.time;
        event.process = ProcessKey { pid: self.next_pid, start: u64::from(self.next_pid) * 1000 };
        event.parent = PARENT;
        if kind != EventKind::Exec {
            return;
        }
        for field in Field::all() {
            match recorded.value(field) {
                Value::Text { .. } if field == Field::ProgramArguments => {
                    event.set_arguments(recorded.arguments());
                }
                Value::Text { bytes, .. } if field != Field::EventType => {
                    event.set_text(field, bytes);
                }
                Value::Number(number) if !matches!(field, Field::ProcessPid | Field::ParentPid) => {
                    event.set_number(field, number);
                }
                Value::Bool(value) => {
                    event.set_bool(field, value);
                }
                _ => {}
            }
        }
    }
}

impl Cost {
    fn without(self, other: Self) -> Self {
        Self {
            nanoseconds: self.nanoseconds - other.nanoseconds,
            allocations: self.allocations.saturating_sub(other.allocations),
            ..self
        }
    }
}

fn timed(events: u32, mut work: impl FnMut()) -> Cost {
    (0..WARM_UP).for_each(|_| work());
    let mut batches = Vec::with_capacity(BATCHES);
    let mut allocated = 0;
    for _ in 0..BATCHES {
        let before = allocations();
        let start = Instant::now();
        (0..events).for_each(|_| work());
        batches.push(start.elapsed().as_secs_f64() * 1e9 / f64::from(events));
        allocated = allocations() - before;
    }
    Cost { nanoseconds: median(batches), allocations: allocated, events }
}

/// The most that a process table of the default size takes with programs like the recorded one, none of which is shared.
fn full_table(recorded: &Event) -> (usize, i64) {
    let mut event = recorded.clone();
    let before = bytes();
    let mut table = ProcessTable::default();
    for index in 0..table.limit() as u32 + 1000 {
        event.process = ProcessKey { pid: 5000 + index, start: u64::from(5000 + index) };
        event.parent = PARENT;
        table.observe(&event);
    }
    (table.len(), bytes() - before)
}

fn mebibytes(bytes: i64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

//! Comparing engines with the reference, and timing them.

use std::hint::black_box;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::ensure;
use sls_benches::counting;
use sls_benches::median;
use sls_benches::workload::{EXECUTIONS, MATCHING, Workload};

use crate::engine::{Engine, Loaded, Matched};
use crate::engines::Peer;
use crate::reference::Reference;
use crate::report::{Mix, Result as Measured};

/// Executions of which each satisfies a rule, which engines are compared by before they are timed.
const SATISFYING: usize = 400;

/// Executions that are timed at once take about as long.
const CHUNK: Duration = Duration::from_millis(1);

/// No engine is passed over fewer executions.
const MIN_EXECUTIONS: usize = 60;

/// The fewest and most turns that an engine gets, and how often it is passed over its executions in each.
const TURNS: Range<usize> = 3..134;
const PASSES: usize = 3;

/// After the turns of others a quick engine is passed over its executions once before it is timed: the others have driven
/// the events from the caches, in which the sensor has just filled its event.
const REFILLED: Duration = Duration::from_millis(20);

/// How thoroughly to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// For all rounds of an engine.
    pub(crate) time: Duration,
    /// For one pass of an engine over the executions; if all would take longer, fewer are passed over.
    pub(crate) pass: Duration,
    /// For the comparison with the reference.
    pub(crate) comparison: Duration,
}

impl Effort {
    pub(crate) const FULL: Self =
        Self { time: Duration::from_millis(900), pass: Duration::from_millis(100), comparison: Duration::from_secs(6) };
    pub(crate) const QUICK: Self = Self {
        time: Duration::from_millis(200),
        pass: Duration::from_millis(25),
        comparison: Duration::from_millis(500), //
    };
}

/// Measures the engines on one workload, in turns, so that what disturbs one disturbs all.
pub(crate) fn measure(mix: Mix, rules: usize, peers: &[Peer], effort: Effort) -> anyhow::Result<Vec<Measured>> {
    let workload = Workload::new(rules, mix.regexes(), SATISFYING);
    let executions: Vec<_> = workload.executions.iter().chain(&workload.satisfying).cloned().collect();
    let reference = Reference::new(&workload.rules)?;
    let expected: Vec<_> = executions.iter().map(|execution| reference.matched(execution, |_| true)).collect();
    let matching = expected[..EXECUTIONS].iter().filter(|matched| matched.count() > 0).count();
    ensure!(matching == MATCHING, "{matching} executions satisfy a rule instead of {MATCHING}");
    let mut contestants = Vec::new();
    for peer in peers {
        let Loaded { mut engine, cost } = (peer.load)(&workload.rules, &executions)?;
        let expressed = (0..rules).filter(|rule| engine.has_rule(*rule)).count();
        let expected: Vec<_> = if expressed == rules {
            expected.clone()
        } else {
            executions.iter().map(|execution| reference.matched(execution, |rule| engine.has_rule(rule))).collect()
        };
        let each = compare(peer.name, &mut *engine, &expected, effort)?;
        let allocations = allocations(&mut *engine, &expected[..EXECUTIONS], each);
        let measured = Measured {
            mix,
            rules: workload.rules.len(),
            engine: peer.name.to_owned(),
            expressed,
            nanoseconds: 0.0,
            least_nanoseconds: 0.0,
            executions: 0,
            allocations,
            load: cost,
            compile: engine.compiling(),
        };
        contestants.push(Contestant::new(engine, measured, each, effort));
    }
    counting::pause(true);
    for turn in 0..TURNS.end {
        for contestant in &mut contestants {
            if turn < TURNS.start || contestant.spent < effort.time {
                contestant.turn();
            }
        }
    }
    counting::pause(false);
    Ok(contestants.into_iter().map(Contestant::measured).collect())
}

/// Compares what the engine says of each execution, and returns how long it takes for one. An engine that is slow is asked
/// about a part: the first executions, and those at the end, which satisfy rules.
fn compare(name: &str, engine: &mut dyn Engine, expected: &[Matched], effort: Effort) -> anyhow::Result<Duration> {
    let (mut compared, mut matching) = (0, 0);
    let begin = Instant::now();
    let (ordinary, satisfying) = (0..EXECUTIONS, EXECUTIONS..expected.len());
    for index in satisfying.chain(ordinary) {
        if begin.elapsed() > effort.comparison && compared >= expected.len() - EXECUTIONS + MIN_EXECUTIONS {
            break;
        }
        let found = engine.run(index..index + 1);
        ensure!(found == expected[index], "{name}: execution {index}: {found:?} instead of {:?}", expected[index]);
        compared += 1;
        matching += found.count();
    }
    ensure!(matching > 0 || expected.iter().all(|expected| expected.count() == 0), "{name}: nothing matched");
    // What ran first built what is built when it is first needed.
    let warm = compared.div_ceil(10).min(500);
    let start = Instant::now();
    black_box(engine.run(0..warm));
    Ok(start.elapsed() / warm as u32)
}

/// Allocations for each execution that satisfies no rule, at the second time: what is built when it is first needed is
/// built by then.
fn allocations(engine: &mut dyn Engine, expected: &[Matched], each: Duration) -> f64 {
    let limit = affordable(each, Duration::from_millis(200));
    let satisfying_none = expected.iter().enumerate().filter(|(_, matched)| matched.count() == 0);
    let indices: Vec<_> = satisfying_none.map(|(index, _)| index).take(limit).collect();
    let mut pass = || {
        let before = counting::allocations();
        for index in &indices {
            black_box(engine.run(*index..index + 1));
        }
        counting::allocations() - before
    };
    pass();
    pass() as f64 / indices.len() as f64
}

/// How many executions can be evaluated in a time.
fn affordable(each: Duration, time: Duration) -> usize {
    let affordable = time.as_nanos() / each.as_nanos().max(1);
    (affordable as usize).clamp(MIN_EXECUTIONS, EXECUTIONS)
}

struct Contestant {
    engine: Box<dyn Engine>,
    measured: Measured,
    refilled: bool,
    chunk: usize,
    /// Nanoseconds of each chunk in each pass.
    chunks: Vec<Vec<f64>>,
    spent: Duration,
}

impl Contestant {
    fn new(engine: Box<dyn Engine>, mut measured: Measured, each: Duration, effort: Effort) -> Self {
        measured.executions = affordable(each, effort.pass);
        let chunk = (CHUNK.as_nanos() / each.as_nanos().max(1)).clamp(1, measured.executions as u128) as usize;
        let chunks = vec![Vec::new(); measured.executions.div_ceil(chunk)];
        let refilled = each * (measured.executions as u32) < REFILLED;
        Self { engine, measured, refilled, chunk, chunks, spent: Duration::ZERO }
    }

    fn turn(&mut self) {
        if self.refilled {
            black_box(self.engine.run(0..self.measured.executions));
        }
        for _ in 0..PASSES {
            self.pass();
        }
    }

    fn pass(&mut self) {
        for (index, times) in self.chunks.iter_mut().enumerate() {
            let first = index * self.chunk;
            let executions = first..(first + self.chunk).min(self.measured.executions);
            let start = Instant::now();
            black_box(self.engine.run(black_box(executions)));
            let time = start.elapsed();
            self.spent += time;
            times.push(time.as_secs_f64() * 1e9);
        }
    }

    fn measured(self) -> Measured {
        let executions = self.measured.executions as f64;
        let least = |times: &Vec<f64>| times.iter().copied().fold(f64::INFINITY, f64::min);
        Measured {
            nanoseconds: self.chunks.iter().map(|times| median(times.iter().copied())).sum::<f64>() / executions,
            least_nanoseconds: self.chunks.iter().map(least).sum::<f64>() / executions,
            ..self.measured
        }
    }
}

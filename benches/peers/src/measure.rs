//! Comparing engines with the reference, and timing them.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::ensure;
use sls_benches::counting;
use sls_benches::median;
use sls_benches::workload::{EXECUTIONS, Workload};

use crate::engine::{Cost, Engine, Loaded, Matched};
use crate::engines::Peer;
use crate::reference::Reference;

/// Executions that are timed at once take about as long.
const CHUNK: Duration = Duration::from_millis(1);

/// No engine is passed over fewer executions.
const MIN_EXECUTIONS: usize = 60;

/// The fewest and most times that an engine is passed over its executions.
const ROUNDS: std::ops::Range<usize> = 9..401;

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

/// An engine that was measured.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) name: &'static str,
    /// Nanoseconds for an execution: by the median and by the minimum of each chunk.
    pub(crate) nanoseconds: f64,
    pub(crate) least_nanoseconds: f64,
    /// How many executions a pass had.
    pub(crate) executions: usize,
    /// The rules that it can express.
    pub(crate) rules: usize,
    /// Allocations for each execution that satisfies no rule.
    pub(crate) allocations: f64,
    pub(crate) load: Cost,
    pub(crate) notes: Vec<(&'static str, Cost)>,
}

/// Measures the engines on one workload, round by round in turns, so that what disturbs one disturbs all.
pub(crate) fn measure(workload: &Workload, peers: &[Peer], effort: Effort) -> anyhow::Result<Vec<Measured>> {
    let executions: Vec<_> = workload.executions.iter().chain(&workload.satisfying).cloned().collect();
    let reference = Reference::new(&workload.rules)?;
    let expected: Vec<_> = executions.iter().map(|execution| reference.matched(execution, |_| true)).collect();
    let mut contestants = Vec::new();
    for peer in peers {
        let Loaded { mut engine, cost } = (peer.load)(&workload.rules, &executions)?;
        let rules = (0..workload.rules.len()).filter(|rule| engine.has_rule(*rule)).count();
        let expected: Vec<_> = if rules == workload.rules.len() {
            expected.clone()
        } else {
            executions.iter().map(|execution| reference.matched(execution, |rule| engine.has_rule(rule))).collect()
        };
        let each = compare(peer.name, &mut *engine, &expected, effort)?;
        let allocations = allocations(&mut *engine, &expected[..EXECUTIONS], each);
        let notes = engine.notes();
        let measured = Measured {
            name: peer.name,
            nanoseconds: 0.0,
            least_nanoseconds: 0.0,
            executions: 0,
            rules,
            allocations,
            load: cost,
            notes,
        };
        contestants.push(Contestant::new(engine, measured, each, effort));
    }
    counting::pause(true);
    for round in 0..ROUNDS.end {
        for contestant in &mut contestants {
            if round < ROUNDS.start || contestant.spent < effort.time {
                contestant.round();
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

/// Allocations for each execution that satisfies no rule.
fn allocations(engine: &mut dyn Engine, expected: &[Matched], each: Duration) -> f64 {
    let (mut allocations, mut executions) = (0, 0);
    let limit = affordable(each, Duration::from_millis(200));
    for (index, _) in expected.iter().enumerate().filter(|(_, matched)| matched.count() == 0).take(limit) {
        let before = counting::allocations();
        black_box(engine.run(index..index + 1));
        allocations += counting::allocations() - before;
        executions += 1;
    }
    allocations as f64 / f64::from(executions)
}

/// How many executions can be evaluated in a time.
fn affordable(each: Duration, time: Duration) -> usize {
    let affordable = time.as_nanos() / each.as_nanos().max(1);
    (affordable as usize).clamp(MIN_EXECUTIONS, EXECUTIONS)
}

struct Contestant {
    engine: Box<dyn Engine>,
    measured: Measured,
    chunk: usize,
    /// Nanoseconds of each chunk in each round.
    chunks: Vec<Vec<f64>>,
    spent: Duration,
}

impl Contestant {
    fn new(engine: Box<dyn Engine>, mut measured: Measured, each: Duration, effort: Effort) -> Self {
        measured.executions = affordable(each, effort.pass);
        let chunk = (CHUNK.as_nanos() / each.as_nanos().max(1)).clamp(1, measured.executions as u128) as usize;
        let chunks = vec![Vec::new(); measured.executions.div_ceil(chunk)];
        Self { engine, measured, chunk, chunks, spent: Duration::ZERO }
    }

    /// One pass over the executions.
    fn round(&mut self) {
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

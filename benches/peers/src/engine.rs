//! What an engine has to offer to be measured.

use std::ops::Range;
use std::time::{Duration, Instant};

use sls_benches::counting;
use sls_benches::median;
use sls_benches::workload::{Condition, Execution};

/// Rules that were satisfied: how many, and which, in whatever order they were told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Matched {
    count: u64,
    digest: u64,
}

impl Matched {
    pub(crate) fn add(&mut self, rule: usize) {
        self.count += 1;
        self.digest = self.digest.wrapping_add((rule as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29));
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }
}

/// An engine with its rules and, in its own form, the executions.
pub(crate) trait Engine {
    /// Evaluates all rules for each of these executions.
    fn run(&mut self, executions: Range<usize>) -> Matched;

    /// Whether the engine has this rule: some cannot express all.
    fn has_rule(&self, _rule: usize) -> bool {
        true
    }

    /// What the engine is after loading, beside what `Cost` says.
    fn notes(&self) -> Vec<(&'static str, Cost)> {
        Vec::new()
    }
}

/// An engine that was loaded.
pub(crate) struct Loaded {
    pub(crate) engine: Box<dyn Engine>,
    /// From the rules' text to being ready.
    pub(crate) cost: Cost,
}

/// How an engine is loaded with rules, and given executions.
pub(crate) type Load = fn(&[Condition], &[Execution]) -> anyhow::Result<Loaded>;

/// What making something took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) milliseconds: f64,
    /// Memory that it holds.
    pub(crate) bytes: i64,
}

/// Times are medians of as many runs, unless they would take longer than `PATIENCE`.
const RUNS: usize = 5;
const PATIENCE: Duration = Duration::from_millis(1500);

impl Cost {
    /// What it takes to `make` something, and what was made.
    pub(crate) fn of<T, E>(mut make: impl FnMut() -> Result<T, E>) -> Result<(T, Self), E> {
        let before = counting::bytes();
        let begin = Instant::now();
        let mut made = make()?;
        let mut times = vec![begin.elapsed().as_secs_f64() * 1e3];
        let bytes = counting::bytes() - before;
        while times.len() < RUNS && begin.elapsed() < PATIENCE {
            drop(made);
            let start = Instant::now();
            made = make()?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        Ok((made, Self { milliseconds: median(times), bytes }))
    }
}

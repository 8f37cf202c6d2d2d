//! What was measured, as it is printed and stored.

use std::fs;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use sls_benches::Table;
use sls_benches::workload::{EXECUTIONS, Regexes};

use crate::engine::Cost;
use crate::engines::{RSIGMA, SLS, WIREFILTER};
use crate::record::RecordCost;

/// Everything that was measured.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Report {
    /// The processor.
    pub(crate) processor: String,
    /// The compiler.
    pub(crate) rustc: String,
    pub(crate) results: Vec<Result>,
    /// From a record of the kernel to the decision.
    pub(crate) record: Option<RecordCost>,
}

/// One engine with one workload.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Result {
    pub(crate) mix: Mix,
    pub(crate) rules: usize,
    pub(crate) engine: String,
    /// Of the rules, those that the engine can express.
    pub(crate) expressed: usize,
    /// For one execution: the sum of the medians, and of the minima, of all chunks.
    pub(crate) nanoseconds: f64,
    pub(crate) least_nanoseconds: f64,
    /// Executions that it was timed with.
    pub(crate) executions: usize,
    /// For an execution that satisfies no rule.
    pub(crate) allocations: f64,
    /// From the rules' text to being ready.
    pub(crate) load: Cost,
    /// Of that, what is left when the rules have been read, checked and typed.
    pub(crate) compile: Option<Cost>,
}

/// The regular expressions of the workload.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mix {
    SomeWithoutLiteral,
    AllWithLiteral,
}

impl Mix {
    pub(crate) const ALL: [Self; 2] = [Self::SomeWithoutLiteral, Self::AllWithLiteral];

    pub(crate) fn regexes(self) -> Regexes {
        match self {
            Self::SomeWithoutLiteral => Regexes::SomeWithoutLiteral,
            Self::AllWithLiteral => Regexes::AllWithLiteral,
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::SomeWithoutLiteral => "1 regular expression in 20 without a literal",
            Self::AllWithLiteral => "every regular expression with a literal",
        }
    }
}

impl Report {
    pub(crate) fn new() -> Self {
        Self { processor: processor(), rustc: rustc(), results: Vec::new(), record: None }
    }

    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        serde_json::from_str(&text).with_context(|| path.display().to_string())
    }

    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(path, text).with_context(|| path.display().to_string())
    }

    pub(crate) fn result(&self, mix: Mix, rules: usize, engine: &str) -> Option<&Result> {
        self.results.iter().find(|result| result.mix == mix && result.rules == rules && result.engine == engine)
    }

    /// Names of engines, in the order in which they were measured.
    pub(crate) fn engines(&self) -> Vec<&str> {
        let mut engines: Vec<&str> = Vec::new();
        for result in &self.results {
            if !engines.contains(&&*result.engine) {
                engines.push(&result.engine);
            }
        }
        engines
    }

    /// Numbers of rules, rising.
    pub(crate) fn sizes(&self) -> Vec<usize> {
        let mut sizes: Vec<_> = self.results.iter().map(|result| result.rules).collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }

    pub(crate) fn print(&self) {
        let sizes = self.sizes();
        println!("{}, rustc {}", self.processor, self.rustc);
        for mix in Mix::ALL.into_iter().filter(|mix| self.results.iter().any(|result| result.mix == *mix)) {
            println!("\nns for one execution, by number of rules: median (least); {}\n", mix.title());
            println!("{}", self.table(mix, &sizes, time));
            for other in [WIREFILTER, RSIGMA] {
                if sizes.iter().any(|rules| self.times(mix, *rules, other).is_some()) {
                    println!("{}", self.ratios(mix, &sizes, other));
                }
            }
        }
        let mix = self.results.first().map_or(Mix::SomeWithoutLiteral, |result| result.mix);
        println!("\nloading, from text to being ready: ms, MB\n");
        println!("{}", self.table(mix, &sizes, |result| cost(result.load)));
        println!("of that, compiling what was read and checked: ms, MB\n");
        println!("{}", self.table(mix, &sizes, |result| result.compile.map(cost).unwrap_or_default()));
        println!("allocations for an execution that satisfies no rule\n");
        println!("{}", self.table(mix, &sizes, |result| format!("{:.2}", result.allocations)));
        println!("† timed with fewer than {EXECUTIONS} executions; ° without the rules that it cannot express\n");
        if let Some(record) = &self.record {
            println!("{record}");
        }
    }

    fn table(&self, mix: Mix, sizes: &[usize], cell: impl Fn(&Result) -> String) -> Table {
        let titles: Vec<_> =
            std::iter::once("engine".to_owned()).chain(sizes.iter().map(ToString::to_string)).collect();
        let mut table = Table::new(&titles.iter().map(String::as_str).collect::<Vec<_>>());
        for engine in self.engines() {
            let cells: Vec<_> =
                sizes.iter().map(|rules| self.result(mix, *rules, engine).map(&cell).unwrap_or_default()).collect();
            if cells.iter().any(|cell| !cell.is_empty()) {
                table.row(std::iter::once(engine.to_owned()).chain(cells));
            }
        }
        table
    }

    /// One line: how many times as fast as another engine SLS is.
    fn ratios(&self, mix: Mix, sizes: &[usize], other: &str) -> String {
        let times: Vec<_> = sizes
            .iter()
            .filter_map(|rules| Some(format!("{:.2} with {rules}", self.times(mix, *rules, other)?)))
            .collect();
        format!("  times as fast as {other}: {}", times.join(", "))
    }

    fn times(&self, mix: Mix, rules: usize, other: &str) -> Option<f64> {
        Some(self.result(mix, rules, other)?.nanoseconds / self.result(mix, rules, SLS)?.nanoseconds)
    }
}

fn time(result: &Result) -> String {
    let fewer = if result.executions < EXECUTIONS { "†" } else { "" };
    let unexpressed = if (1..result.rules).contains(&result.expressed) { "°" } else { "" };
    format!("{} ({}){fewer}{unexpressed}", nanoseconds(result.nanoseconds), nanoseconds(result.least_nanoseconds))
}

/// With one digit of a small number, and the thousands of a large one apart.
pub(crate) fn nanoseconds(number: f64) -> String {
    if number < 100.0 { format!("{number:.1}") } else { grouped(number) }
}

/// A whole number, with its thousands apart.
pub(crate) fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}

fn cost(cost: Cost) -> String {
    format!("{:.1}, {:.1}", cost.milliseconds, cost.megabytes())
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    let cores = text.lines().filter(|line| line.starts_with("processor")).count();
    format!("{cores} × {}", model.unwrap_or(std::env::consts::ARCH))
}

fn rustc() -> String {
    let output = std::process::Command::new("rustc").arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.split(' ').nth(1).unwrap_or("unknown").to_owned()
}

//! SLS's matcher beside other open rule engines: one execution against 1 to 10,000 rules.

#![forbid(unsafe_code)]

mod engine;
mod engines;
mod measure;
mod plot;
mod record;
mod reference;
mod report;
mod targets;

use std::hint::black_box;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Parser;
use sls_benches::counting::Counting;
use sls_benches::workload::{EXECUTIONS, Workload};

use engines::{PEERS, Peer};
use measure::{Effort, measure};
use report::{Mix, Report};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What `--output` writes.
const NUMBERS: &str = "matcher.json";
const CURVES: &str = "matcher.svg";

/// One execution against many rules, for SLS and other open engines.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only these engines.
    #[arg(long, value_delimiter = ',')]
    engines: Vec<String>,
    /// Numbers of rules.
    #[arg(short = 'n', long, value_delimiter = ',')]
    rules: Vec<usize>,
    /// Only the workload in which every regular expression has a literal that its matches contain.
    #[arg(long)]
    all_with_literal: bool,
    /// Only the workload in which one regular expression in 20 has none.
    #[arg(long, conflicts_with = "all_with_literal")]
    some_without_literal: bool,
    /// Less precise, in less than a minute; without the slowest engines.
    #[arg(long)]
    quick: bool,
    /// Fails if a target is missed.
    #[arg(long)]
    check: bool,
    /// Writes the numbers and the curves into this directory.
    #[arg(long, value_name = "DIRECTORY")]
    output: Option<PathBuf>,
    /// Measures nothing: prints the numbers in this directory and draws their curves again.
    #[arg(long, value_name = "DIRECTORY", conflicts_with = "output")]
    redraw: Option<PathBuf>,
    /// For a profiler: does nothing but evaluate, for as long, with one engine and one number of rules.
    #[arg(long, value_name = "SECONDS")]
    loop_seconds: Option<u64>,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    if let Some(seconds) = arguments.loop_seconds {
        profiled(&arguments, Duration::from_secs(seconds))?;
        return Ok(ExitCode::SUCCESS);
    }
    let report = match &arguments.redraw {
        Some(directory) => Report::read(&directory.join(NUMBERS))?,
        None => measured(&arguments)?,
    };
    report.print();
    let met = targets::check(&report);
    if let Some(directory) = &arguments.output {
        report.write(&directory.join(NUMBERS))?;
    }
    if let Some(directory) = arguments.output.as_ref().or(arguments.redraw.as_ref()) {
        plot::draw(&report, &directory.join(CURVES))?;
    }
    Ok(if met || !arguments.check { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Arguments {
    fn peers(&self) -> anyhow::Result<Vec<Peer>> {
        if self.engines.is_empty() {
            return Ok(PEERS.into_iter().filter(|peer| !self.quick || peer.quick).collect());
        }
        let named = |name: &String| {
            let names = PEERS.map(|peer| peer.name).join(", ");
            PEERS.into_iter().find(|peer| peer.name == name).with_context(|| format!("no engine {name}: {names}"))
        };
        self.engines.iter().map(named).collect()
    }

    fn sizes(&self) -> Vec<usize> {
        if self.rules.is_empty() { vec![1, 10, 100, 1000, 10_000] } else { self.rules.clone() }
    }

    fn mixes(&self) -> Vec<Mix> {
        let mut mixes = Mix::ALL.to_vec();
        mixes.retain(|mix| match mix {
            Mix::SomeWithoutLiteral => !self.all_with_literal,
            Mix::AllWithLiteral => !self.some_without_literal,
        });
        mixes
    }
}

fn measured(arguments: &Arguments) -> anyhow::Result<Report> {
    let effort = if arguments.quick { Effort::QUICK } else { Effort::FULL };
    let peers = arguments.peers()?;
    let mut report = Report::new();
    for mix in arguments.mixes() {
        for rules in arguments.sizes() {
            eprintln!("{rules} rules, {}", mix.title());
            report.results.extend(measure(mix, rules, &peers, effort)?);
        }
    }
    report.record = Some(record::measure()?);
    Ok(report)
}

/// One engine, again and again.
fn profiled(arguments: &Arguments, time: Duration) -> anyhow::Result<()> {
    let (peers, sizes, mixes) = (arguments.peers()?, arguments.sizes(), arguments.mixes());
    ensure!(sizes.len() == 1 && peers.len() == 1, "a loop needs one engine and one number of rules");
    let workload = Workload::new(sizes[0], mixes[0].regexes(), 0);
    let mut engine = (peers[0].load)(&workload.rules, &workload.executions)?.engine;
    let (begin, mut passes) = (Instant::now(), 0_u32);
    while begin.elapsed() < time {
        black_box(engine.run(0..EXECUTIONS));
        passes += 1;
    }
    let nanoseconds = begin.elapsed().as_secs_f64() * 1e9 / f64::from(passes) / EXECUTIONS as f64;
    println!("{} with {} rules: {nanoseconds:.1} ns", peers[0].name, sizes[0]);
    Ok(())
}

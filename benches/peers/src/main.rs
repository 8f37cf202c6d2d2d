//! SLS's matcher beside other open rule engines: one execution against 1 to 10,000 rules.

mod engine;
mod engines;
mod measure;
mod reference;

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Parser;
use sls_benches::Table;
use sls_benches::counting::Counting;
use sls_benches::workload::{EXECUTIONS, Regexes, Workload};

use engines::{PEERS, Peer};
use measure::{Effort, Measured, measure};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Executions of which each satisfies a rule, which engines are compared by before they are timed.
const SATISFYING: usize = 400;

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
    /// Less precise, in much shorter time.
    #[arg(long)]
    quick: bool,
    /// For a profiler: does nothing but evaluate, for as long, with one engine and one number of rules.
    #[arg(long, value_name = "SECONDS")]
    loop_seconds: Option<u64>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let peers = arguments.peers()?;
    if let Some(seconds) = arguments.loop_seconds {
        return endless(&arguments, &peers, Duration::from_secs(seconds));
    }
    let effort = if arguments.quick { Effort::QUICK } else { Effort::FULL };
    for regexes in arguments.regexes() {
        for rules in arguments.sizes() {
            let workload = Workload::new(rules, regexes, SATISFYING);
            let measured = measure(&workload, &peers, effort)?;
            print(rules, regexes, &measured);
        }
    }
    Ok(())
}

impl Arguments {
    fn peers(&self) -> anyhow::Result<Vec<Peer>> {
        if self.engines.is_empty() {
            return Ok(PEERS.to_vec());
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

    fn regexes(&self) -> Vec<Regexes> {
        let mut regexes = vec![Regexes::SomeWithoutLiteral, Regexes::AllWithLiteral];
        regexes.retain(|regexes| match regexes {
            Regexes::SomeWithoutLiteral => !self.all_with_literal,
            Regexes::AllWithLiteral => !self.some_without_literal,
        });
        regexes
    }
}

fn endless(arguments: &Arguments, peers: &[Peer], time: Duration) -> anyhow::Result<()> {
    let (sizes, regexes) = (arguments.sizes(), arguments.regexes());
    ensure!(sizes.len() == 1 && peers.len() == 1, "a loop needs one engine and one number of rules");
    let workload = Workload::new(sizes[0], regexes[0], 0);
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

fn print(rules: usize, regexes: Regexes, measured: &[Measured]) {
    let mut table =
        Table::new(&["engine", "ns", "least ns", "allocations", "load ms", "load MB", "compile ms", "compile MB"]);
    for measured in measured {
        let mut row = vec![
            measured.name.to_owned(),
            format!("{:.1}", measured.nanoseconds),
            format!("{:.1}", measured.least_nanoseconds),
            format!("{:.2}", measured.allocations),
            format!("{:.1}", measured.load.milliseconds),
            format!("{:.1}", measured.load.bytes as f64 / 1e6),
        ];
        for (_, cost) in &measured.notes {
            row.push(format!("{:.1}", cost.milliseconds));
            row.push(format!("{:.1}", cost.bytes as f64 / 1e6));
        }
        table.row(row);
    }
    println!("{rules} rules, {regexes:?}\n{table}");
}

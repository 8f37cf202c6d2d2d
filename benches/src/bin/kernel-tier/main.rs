//! How soon the kernel tier ends a program, beside bpftrace with the name in its script; and what it costs programs that no
//! policy matches. Each is measured A B A B in one run. See the README of this directory.

// It prints what it measured.
#![allow(clippy::print_stdout, clippy::print_stderr)]
#![deny(unsafe_code)]

mod bpftrace;
#[allow(unsafe_code)]
#[path = "../spawn-overhead/undisturbed.rs"]
mod undisturbed;
mod victim;

use std::ffi::CString;
use std::fmt::Write;
use std::fs;
use std::ops::Sub;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, posix_spawn};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::sys::wait::{WaitStatus, waitpid};
use sls_core::{Capabilities, EventSource, Guards, Interest, PolicyLoader, PolicySet};
use sls_probe::{KernelTier, Probe};

use bpftrace::{Killer, Observer};
use undisturbed::Undisturbed;
use victim::Marks;

const USAGE: &str = "usage: kernel-tier [--rounds N] [--victims N] [--spawns N] [--check]";

/// Policies that are loaded, of which at most one matches.
const POLICIES: usize = 1000;

/// At most so many times what bpftrace takes, by the median.
const SLOWER: f64 = 1.2;
/// At most so long in 99 of 100 cases.
const P99: Duration = Duration::from_micros(100);
/// At most so much more CPU time for a spawn that no policy matches.
const COST: f64 = 0.01;

struct Options {
    rounds: usize,
    victims: usize,
    spawns: usize,
    check: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let options = Options::parse(std::env::args().skip(1))?;
    let directory = tempfile::tempdir()?;
    let path = directory.path().canonicalize()?;
    let victim = victim::write(&path, bpftrace::VICTIM)?;

    // A probe with a kernel tier has a thread, and where there are two, each spawn is dearer, whatever they do.
    std::thread::spawn(|| {
        loop {
            std::thread::park();
        }
    });

    let mut missed = Vec::new();
    latency(&options, &path, &victim, &mut missed)?;
    cost(&options, &victim, &mut missed)?;
    missed.iter().for_each(|miss| println!("MISSED: {miss}"));
    if missed.is_empty() {
        println!("every target is met");
    }
    Ok(if missed.is_empty() || !options.check { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// From exec to exit.
fn latency(options: &Options, directory: &Path, victim: &Path, missed: &mut Vec<String>) -> anyhow::Result<()> {
    let marks = Marks::new(directory)?;
    let spawner = Spawner::new(victim, &marks)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..options.rounds {
        for by_us in [true, false] {
            // First, so that its clock starts before anybody acts.
            let observer = Observer::start()?;
            let times = if by_us {
                let mut probe = enforcing(victim)?;
                killed(&spawner, options.victims)?;
                let times = observer.finish()?;
                // What waits in the ring is nobody's.
                probe.poll(Duration::ZERO, &mut |_| {}).map_err(anyhow::Error::from_boxed)?;
                times
            } else {
                let killer = Killer::start()?;
                killed(&spawner, options.victims)?;
                let times = observer.finish()?;
                killer.finish()?;
                times
            };
            if by_us { &mut ours } else { &mut theirs }.extend(times);
        }
        eprintln!("latency: round {} of {}", round + 1, options.rounds);
    }
    let (ours, theirs) = (Distribution::of(ours)?, Distribution::of(theirs)?);
    let writes = marks.count()?;
    println!("| exec to exit, µs | victims | p50 | p90 | p99 | max |\n|---|---|---|---|---|---|");
    println!("| kernel tier, {POLICIES} policies | {ours} |");
    println!("| bpftrace, signal(\"KILL\") | {theirs} |");
    let ratio = ours.at(50) / theirs.at(50);
    println!("ratio of the medians {ratio:.2}; {writes} writes of all victims");
    if writes > 0 {
        missed.push(format!("{writes} victims ran"));
    }
    if ratio > SLOWER {
        missed.push(format!("the median is {ratio:.2} times that of bpftrace"));
    }
    if ours.at(99) > P99.as_secs_f64() * 1e6 {
        missed.push(format!("p99 is {:.0} µs", ours.at(99)));
    }
    Ok(())
}

fn killed(spawner: &Spawner, count: usize) -> anyhow::Result<()> {
    let _undisturbed = Undisturbed::new()?;
    spawner.killed(count)
}

/// Of a spawn that no policy matches.
fn cost(options: &Options, program: &Path, missed: &mut Vec<String>) -> anyhow::Result<()> {
    let null = fs::File::options().write(true).open("/dev/null")?;
    let spawner = Spawner::with_output(program, &null)?;
    let mut ratios = Vec::new();
    let mut noise = Vec::new();
    for round in 0..options.rounds {
        let mut measured = Vec::new();
        for on in [false, true, false, true] {
            let mut probe = if on { enforcing(Path::new("/no/such/program"))? } else { watching()? };
            let _undisturbed = Undisturbed::new()?;
            spawner.run(options.spawns / 10)?;
            let before = cpu_time()?;
            spawner.run(options.spawns)?;
            measured.push(cpu_time()?.sub(before).as_secs_f64());
            probe.poll(Duration::ZERO, &mut |_| {}).map_err(anyhow::Error::from_boxed)?;
        }
        let [off, on, off_again, on_again] = measured[..] else { unreachable!("four were measured") };
        ratios.push((on + on_again) / (off + off_again) - 1.0);
        noise.push(off_again / off - 1.0);
        let micros = [off, on, off_again, on_again].map(|time| 1e6 * time / options.spawns as f64);
        eprintln!("cost: round {} of {}, µs of CPU a spawn, off and on: {micros:.1?}", round + 1, options.rounds);
    }
    let (ratio, noise) = (median(ratios), median(noise));
    println!(
        "spawn loop with {POLICIES} policies that do not match, beside the same probe without: {:+.2} % (off again {:+.2} %)",
        100.0 * ratio,
        100.0 * noise
    );
    if ratio > COST + noise.abs() {
        missed.push(format!("a spawn costs {:.2} % more", 100.0 * ratio));
    }
    Ok(())
}

/// A probe whose kernel tier kills this program.
fn enforcing(program: &Path) -> anyhow::Result<Probe> {
    let mut text = String::new();
    for number in 1..POLICIES {
        policy(&mut text, number, &format!("/opt/elsewhere/{number}"))?;
    }
    policy(&mut text, POLICIES, &program.to_string_lossy())?;
    let host = KernelTier::hooks().into_iter().fold(Capabilities::default().without_hooks(), Capabilities::hook);
    let policies: PolicySet = PolicyLoader::new().capabilities(host).document("p.yaml", text).load()?;
    let probe = builder().kernel_tier(true).load()?.attach()?;
    let tier = probe.kernel_tier().context("a probe without a kernel tier")?;
    tier.load_allowed(&policies, &Guards::default(), |_| usize::MAX)?;
    Ok(probe)
}

fn watching() -> anyhow::Result<Probe> {
    Ok(builder().load()?.attach()?)
}

fn builder() -> sls_probe::ProbeBuilder {
    Probe::builder().snapshot(false).containers(false).interest(Interest::default())
}

fn policy(text: &mut String, number: usize, path: &str) -> std::fmt::Result {
    writeln!(
        text,
        "P{number}:\n  policy: program\n  responseActions: [kill]\n  rules: ['match programName == \"{path}\"', default ignore]"
    )
}

/// Spawns one program again and again.
struct Spawner {
    program: CString,
    actions: PosixSpawnFileActions,
}

impl Spawner {
    fn new(program: &Path, marks: &Marks) -> anyhow::Result<Self> {
        Self::with_output(program, marks.file())
    }

    fn with_output(program: &Path, output: &fs::File) -> anyhow::Result<Self> {
        let mut actions = PosixSpawnFileActions::init()?;
        actions.add_dup2(output.as_raw_fd(), 1)?;
        Ok(Self { program: CString::new(program.as_os_str().as_bytes())?, actions })
    }

    fn spawn(&self) -> anyhow::Result<WaitStatus> {
        let environment: [CString; 0] = [];
        let attributes = PosixSpawnAttr::init()?;
        let argv = [self.program.clone()];
        let pid = posix_spawn(self.program.as_c_str(), &self.actions, &attributes, &argv, &environment)?;
        Ok(waitpid(pid, None)?)
    }

    fn killed(&self, count: usize) -> anyhow::Result<()> {
        for _ in 0..count {
            let status = self.spawn()?;
            ensure!(matches!(status, WaitStatus::Signaled(..)), "a victim was not killed: {status:?}");
        }
        Ok(())
    }

    fn run(&self, count: usize) -> anyhow::Result<()> {
        for _ in 0..count {
            let status = self.spawn()?;
            ensure!(matches!(status, WaitStatus::Exited(_, 0)), "the program failed: {status:?}");
        }
        Ok(())
    }
}

/// Of this thread and of all children waited for.
fn cpu_time() -> anyhow::Result<Duration> {
    let total = |who| {
        let usage = getrusage(who)?;
        let micros = |time: TimeVal| time.num_microseconds().unsigned_abs();
        anyhow::Ok(Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time())))
    };
    Ok(total(UsageWho::RUSAGE_THREAD)? + total(UsageWho::RUSAGE_CHILDREN)?)
}

/// Times in microseconds, in order.
struct Distribution(Vec<f64>);

impl Distribution {
    fn of(mut times: Vec<f64>) -> anyhow::Result<Self> {
        ensure!(!times.is_empty(), "nothing was measured");
        times.sort_by(f64::total_cmp);
        Ok(Self(times))
    }

    fn at(&self, percent: usize) -> f64 {
        self.0[(self.0.len() - 1) * percent / 100]
    }
}

impl std::fmt::Display for Distribution {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [p50, p90, p99, max] = [50, 90, 99, 100].map(|percent| self.at(percent));
        write!(f, "{} | {p50:.1} | {p90:.1} | {p99:.1} | {max:.0}", self.0.len())
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut options = Self { rounds: 5, victims: 1000, spawns: 5000, check: false };
        while let Some(argument) = arguments.next() {
            let mut number = || -> anyhow::Result<usize> { Ok(arguments.next().context(USAGE)?.parse()?) };
            match argument.as_str() {
                "--rounds" => options.rounds = number()?.max(1),
                "--victims" => options.victims = number()?.max(1),
                "--spawns" => options.spawns = number()?.max(10),
                "--check" => options.check = true,
                _ => anyhow::bail!(USAGE),
            }
        }
        Ok(options)
    }
}

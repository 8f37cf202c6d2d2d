//! What a tight spawn loop costs with the sensor on, compared with the same loop without it, and whether anything is
//! lost meanwhile. See the README of this directory for what is measured and how.

// It prints what it measured.
#![allow(clippy::print_stdout, clippy::print_stderr)]
#![deny(unsafe_code)]

mod delivery;
mod report;
mod sensor;
mod spawner;
#[allow(unsafe_code)]
mod undisturbed;
mod victim;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{env, fs, thread};

use anyhow::{Context, bail, ensure};
use sls_core::PolicySet;

use report::{Report, Sample};
use sensor::Sensor;
use spawner::Spawner;
use undisturbed::Undisturbed;
use victim::Victim;

const USAGE: &str = "usage: spawn-overhead [--rounds N] [--spawns N] [--sls FILE] [--as-is] [--check]";

/// The built-in content, for the run in this process.
const CONTENT: &str =
    concat!(include_str!("../../../../policies/lists.yaml"), include_str!("../../../../policies/linux.yaml"));

/// The least that a sensor can be given: one policy that nothing here matches.
const ONE_POLICY: &str = "\
Blocked Program:
  policy: program
  responseActions: [alert]
  rules:
    - match programName == \"*/sls-bench-no-such-program\"
    - default ignore
";

/// After a sensor has started or stopped, until the machine is quiet again.
const SETTLE: Duration = Duration::from_millis(100);

/// What a loop does after it, the sensor may still have to read.
const DRAIN: Duration = Duration::from_millis(10);

/// Spawns before each measured loop: caches, and the sensor's own buffers.
const WARM_UP: u32 = 100;

/// A program that is spawned in a loop.
struct Workload {
    name: &'static str,
    spawner: Spawner,
    /// Spawns of one loop.
    spawns: u32,
}

/// What runs beside the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setting {
    Off,
    OnePolicy,
    Content,
    /// Off once more: its difference from the first is what the measurement cannot tell from noise.
    OffAgain,
}

impl Setting {
    const ALL: [Self; 4] = [Self::Off, Self::OnePolicy, Self::Content, Self::OffAgain];

    fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::OnePolicy => "on, one policy",
            Self::Content => "on, built-in content",
            Self::OffAgain => "off again (noise)",
        }
    }

    fn is_on(self) -> bool {
        matches!(self, Self::OnePolicy | Self::Content)
    }
}

struct Options {
    rounds: u32,
    spawns: u32,
    sls: PathBuf,
    undisturbed: bool,
    check: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let options = Options::parse(env::args().skip(1))?;
    ensure!(options.sls.exists(), "no {}: cargo build --release -p sls-cli", options.sls.display());
    let own = env::current_exe()?;
    let directory = own.parent().context("this program is in no directory")?;
    let victim = Victim::write(directory)?;
    let policy = OnePolicy::write(directory)?;
    let workloads = [
        Workload { name: "static ELF of 129 bytes", spawner: Spawner::new(victim.path())?, spawns: options.spawns },
        // About five times as dear.
        Workload {
            name: "/bin/true",
            spawner: Spawner::new(Path::new("/bin/true"))?,
            spawns: (options.spawns / 5).max(1),
        },
    ];

    let mut report = Report::new(&workloads);
    let mut random = Random::new();
    let mut disturbed = 0;
    while report.rounds() < options.rounds as usize && disturbed < options.rounds {
        for setting in random.shuffled(Setting::ALL) {
            measure(&options, setting, &policy, &workloads, &mut report)?;
        }
        disturbed += u32::from(!report.keep_round(!options.undisturbed));
        eprintln!("round {} of {}, {disturbed} disturbed", report.rounds(), options.rounds);
    }
    ensure!(report.rounds() * 2 >= options.rounds as usize, "this machine is too busy to measure anything");
    println!("{report}");

    let spawns = options.spawns * 5;
    let delivered = delivery::count(PolicySet::from_yaml("linux.yaml", CONTENT)?, victim.path(), spawns)?;
    println!("{}", report::delivery(delivered, spawns));

    let missed = report.missed(delivered, spawns);
    for miss in &missed {
        println!("MISSED: {miss}");
    }
    if missed.is_empty() {
        println!("every target is met");
    }
    Ok(if missed.is_empty() || !options.check { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One round of one setting: attach, both loops, detach.
fn measure(
    options: &Options,
    setting: Setting,
    policy: &OnePolicy,
    workloads: &[Workload],
    report: &mut Report,
) -> anyhow::Result<()> {
    let sensor = match setting {
        Setting::Off | Setting::OffAgain => None,
        Setting::OnePolicy => Some(Sensor::start(
            &options.sls,
            policy.directory(),
            &["--no-content".into(), "--policy".into(), policy.argument()],
        )?),
        Setting::Content => Some(Sensor::start(&options.sls, policy.directory(), &["--dry-run".into()])?),
    };
    thread::sleep(SETTLE);
    let mut spawned = 0;
    for (index, workload) in workloads.iter().enumerate() {
        let _undisturbed = options.undisturbed.then(Undisturbed::new).transpose()?;
        workload.spawner.run(WARM_UP)?;
        thread::sleep(DRAIN);
        let before = sensor.as_ref().map(Sensor::cpu_time).transpose()?;
        let cost = workload.spawner.run(workload.spawns)?;
        thread::sleep(DRAIN);
        let after = sensor.as_ref().map(Sensor::cpu_time).transpose()?;
        let sensor_cpu = after.unwrap_or_default().saturating_sub(before.unwrap_or_default());
        report.add(index, setting, Sample::new(cost, sensor_cpu, workload.spawns));
        spawned += u64::from(WARM_UP + workload.spawns);
    }
    if let Some(sensor) = sensor {
        let memory = sensor.memory()?;
        report.stopped(setting, spawned, memory, sensor.stop()?);
    }
    thread::sleep(SETTLE);
    Ok(())
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut options = Self {
            rounds: 21,
            spawns: 2000,
            sls: env::current_exe()?.with_file_name("sls"),
            undisturbed: true,
            check: false,
        };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().with_context(|| format!("{argument} needs a value\n{USAGE}"));
            match &*argument {
                "--rounds" => options.rounds = value()?.parse().context("--rounds")?,
                "--spawns" => options.spawns = value()?.parse().context("--spawns")?,
                "--sls" => options.sls = value()?.into(),
                "--as-is" => options.undisturbed = false,
                "--check" => options.check = true,
                _ => bail!("unknown argument {argument}\n{USAGE}"),
            }
        }
        ensure!(options.rounds > 0 && options.spawns > 0, "nothing to measure\n{USAGE}");
        Ok(options)
    }
}

/// [`ONE_POLICY`] as a file, which is removed when this is dropped.
struct OnePolicy(PathBuf);

impl OnePolicy {
    fn write(directory: &Path) -> anyhow::Result<Self> {
        let path = directory.join(format!("sls-bench-policy-{}.yaml", std::process::id()));
        fs::write(&path, ONE_POLICY).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self(path))
    }

    /// Where it is, and where a log can be.
    fn directory(&self) -> &Path {
        self.0.parent().unwrap_or(Path::new("."))
    }

    fn argument(&self) -> String {
        self.0.display().to_string()
    }
}

impl Drop for OnePolicy {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Enough randomness to shuffle rounds: xorshift.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(time.as_nanos() as u64 | 1)
    }

    fn shuffled<T, const N: usize>(&mut self, mut items: [T; N]) -> [T; N] {
        for index in (1..N).rev() {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            items.swap(index, (self.0 % (index as u64 + 1)) as usize);
        }
        items
    }
}

//! From samples to tables and verdicts.

use std::fmt;
use std::time::Duration;

use sls_benches::{Table, median};

use crate::delivery::Delivered;
use crate::sensor::{Memory, Tally};
use crate::spawner::Cost;
use crate::{Setting, Workload};

/// The most that the loop may cost with the sensor on, in units of what it costs without.
const MAX_RATIO: f64 = 1.05;

/// The most that the sensor may have in memory, in KiB.
const MAX_RESIDENT: u64 = 30 * 1024;

/// A loop that took more wall time than this, in units of its CPU time, had to wait for neighbours. Then CPU time means
/// little as well: every time slice begins with cold caches. The sensor alone never makes a loop wait for this long.
const MAX_WAIT: f64 = 1.5;

/// Each spawn is a fork, an exec and an exit.
const EVENTS_PER_SPAWN: u64 = 3;

/// One loop, in microseconds a spawn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    cpu: f64,
    wall: f64,
    sensor: f64,
}

impl Sample {
    pub(crate) fn new(cost: Cost, sensor: Duration, spawns: u32) -> Self {
        let each = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(spawns);
        Self { cpu: each(cost.cpu), wall: each(cost.wall), sensor: each(sensor) }
    }

    fn total(&self) -> f64 {
        self.cpu + self.sensor
    }
}

/// Everything that was measured.
pub(crate) struct Report {
    workloads: Vec<(&'static str, u32)>,
    /// By workload, then by setting, then by round.
    samples: Vec<[Vec<Sample>; Setting::ALL.len()]>,
    sensors: [Sensors; Setting::ALL.len()],
}

/// What the sensors of one setting said and held, one a round.
#[derive(Clone, Copy, Debug, Default)]
struct Sensors {
    runs: u64,
    spawned: u64,
    tally: Tally,
    /// Of the run with the highest peak.
    memory: Memory,
}

impl Report {
    pub(crate) fn new(workloads: &[Workload]) -> Self {
        Self {
            workloads: workloads.iter().map(|workload| (workload.name, workload.spawns)).collect(),
            samples: workloads.iter().map(|_| Default::default()).collect(),
            sensors: Default::default(),
        }
    }

    /// Adds what a loop of the workload `workload` cost. Every setting gets one of each round.
    pub(crate) fn add(&mut self, workload: usize, setting: Setting, sample: Sample) {
        self.samples[workload][setting as usize].push(sample);
    }

    /// Ends a round. It is dropped, and false returned, if neighbours disturbed any of its loops, unless it is kept as it is.
    pub(crate) fn keep_round(&mut self, as_it_is: bool) -> bool {
        let mut last = self.samples.iter().flatten().filter_map(|samples| samples.last());
        let keep = as_it_is || last.all(|sample| sample.wall < MAX_WAIT * sample.total());
        if !keep {
            self.samples.iter_mut().flatten().for_each(|samples| samples.truncate(samples.len().saturating_sub(1)));
        }
        keep
    }

    /// Rounds that were kept.
    pub(crate) fn rounds(&self) -> usize {
        self.samples[0][Setting::Off as usize].len()
    }

    /// Adds what a sensor held and said at the end, after `spawned` spawns.
    pub(crate) fn stopped(&mut self, setting: Setting, spawned: u64, memory: Memory, tally: Tally) {
        let sensors = &mut self.sensors[setting as usize];
        sensors.runs += 1;
        sensors.spawned += spawned;
        sensors.tally.events += tally.events;
        sensors.tally.lost += tally.lost;
        sensors.tally.detections += tally.detections;
        if memory.peak > sensors.memory.peak {
            sensors.memory = memory;
        }
    }

    /// The targets that were missed by more than the noise.
    pub(crate) fn missed(&self, delivered: Delivered, spawns: u32) -> Vec<String> {
        let mut missed = Vec::new();
        for setting in Setting::ALL.into_iter().filter(|setting| setting.is_on()) {
            let name = setting.name();
            for (index, (workload, _)) in self.workloads.iter().enumerate() {
                let noise = (self.ratio(index, Setting::OffAgain, |sample| sample.cpu) - 1.0).abs();
                let ratio = self.ratio(index, setting, |sample| sample.cpu);
                if ratio > MAX_RATIO + noise {
                    let (cost, most, noise) = (percent(ratio), percent(MAX_RATIO), percent(1.0 + noise));
                    missed
                        .push(format!("{workload}, {name}: the loop cost {cost} of CPU; target {most}, noise {noise}"));
                }
            }
            let Sensors { spawned, tally, memory, .. } = self.sensors[setting as usize];
            if tally.lost > 0 || tally.events < EVENTS_PER_SPAWN * spawned {
                let Tally { events, lost, .. } = tally;
                missed.push(format!("{name}: {events} events of {spawned} spawns, {lost} lost"));
            }
            if memory.peak >= MAX_RESIDENT {
                missed.push(format!("{name}: {} MiB resident, target {}", mebibytes(memory.peak), MAX_RESIDENT / 1024));
            }
        }
        if !delivered.is_complete(spawns.into()) {
            missed.push(format!("not every spawn arrived: {delivered:?} of {spawns}"));
        }
        missed
    }

    fn median(&self, workload: usize, setting: Setting, value: impl Fn(&Sample) -> f64) -> f64 {
        median(self.samples[workload][setting as usize].iter().map(value))
    }

    /// Of medians; what is beside the loop without a sensor is the loop alone.
    fn ratio(&self, workload: usize, setting: Setting, value: impl Fn(&Sample) -> f64) -> f64 {
        self.median(workload, setting, &value) / self.median(workload, Setting::Off, &value)
    }

    /// The median of the ratios within each round, which a machine that slowly gets busier distorts less.
    fn paired(&self, workload: usize, setting: Setting, value: impl Fn(&Sample) -> f64) -> f64 {
        let (with, without) =
            (&self.samples[workload][setting as usize], &self.samples[workload][Setting::Off as usize]);
        median(with.iter().zip(without).map(|(with, without)| value(with) / value(without)))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, spawns)) in self.workloads.iter().enumerate() {
            let rounds = self.rounds();
            writeln!(f, "\n{name}: {rounds} rounds of {spawns} spawns, medians, µs a spawn; % is beside `off`")?;
            let mut table =
                Table::new(&["", "loop CPU", "%", "% by round", "wall", "%", "sensor CPU", "both", "%", "% by round"]);
            for setting in Setting::ALL {
                let change = |ratio: f64| if setting == Setting::Off { String::new() } else { percent(ratio) };
                let micros = |value: fn(&Sample) -> f64| format!("{:.1}", self.median(index, setting, value));
                table.row([
                    setting.name().into(),
                    micros(|sample| sample.cpu),
                    change(self.ratio(index, setting, |sample| sample.cpu)),
                    change(self.paired(index, setting, |sample| sample.cpu)),
                    micros(|sample| sample.wall),
                    change(self.ratio(index, setting, |sample| sample.wall)),
                    micros(|sample| sample.sensor),
                    micros(Sample::total),
                    change(self.ratio(index, setting, Sample::total)),
                    change(self.paired(index, setting, Sample::total)),
                ]);
            }
            write!(f, "{table}")?;
        }
        writeln!(f, "\nthe sensor: events of all its runs, memory in MiB of the run with the highest peak")?;
        let mut table = Table::new(&[
            "",
            "runs",
            "spawns",
            "events",
            "lost",
            "detections",
            "peak RSS",
            "RSS",
            "anon",
            "file",
            "shmem",
        ]);
        for setting in Setting::ALL.into_iter().filter(|setting| setting.is_on()) {
            let Sensors { runs, spawned, tally, memory } = self.sensors[setting as usize];
            let counts = [runs, spawned, tally.events, tally.lost, tally.detections].map(|count| count.to_string());
            let sizes = [memory.peak, memory.resident, memory.anonymous, memory.file, memory.shared].map(mebibytes);
            table.row([setting.name().into()].into_iter().chain(counts).chain(sizes));
        }
        write!(f, "{table}")
    }
}

/// What arrived of `spawns` spawns, in words.
pub(crate) fn delivery(delivered: Delivered, spawns: u32) -> String {
    let Delivered { execs, forks, exits, lost } = delivered;
    format!("of {spawns} spawns in a row arrived: {forks} forks, {execs} execs, {exits} exits; {lost} events lost")
}

fn percent(ratio: f64) -> String {
    format!("{:+.1} %", (ratio - 1.0) * 100.0)
}

fn mebibytes(kibibytes: u64) -> String {
    format!("{:.1}", kibibytes as f64 / 1024.0)
}

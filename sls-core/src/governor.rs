//! What the sensor may take of the machine, and what it gives up before it takes more.

mod ladder;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::loss::Shedding;
use ladder::{Ladder, Load};

/// The CPU time that the sensor may take unless told otherwise, in millionths of what the machine has: 5 %.
pub const DEFAULT_CPU_PPM: u32 = 50_000;

/// The memory that the sensor may take unless told otherwise, in bytes: 256 MiB.
pub const DEFAULT_MEMORY_BYTES: u64 = 256 << 20;

/// The time over which use is averaged unless told otherwise, and the shortest between two steps.
pub const DEFAULT_GOVERNOR_WINDOW: Duration = Duration::from_secs(10);

/// How many windows in a row have to be calm before the first step back.
pub const CALM_WINDOWS: u32 = 3;

/// The most windows that have to be calm: their number doubles whenever a step back turns out to have been too early.
pub const MAX_CALM_WINDOWS: u32 = 48;

/// What the sensor may take.
///
/// ```
/// use sls_core::{DEFAULT_CPU_PPM, GovernorLimits};
///
/// let limits = GovernorLimits::default().memory_bytes(None);
/// assert_eq!((limits.cpu_ppm, limits.memory_bytes), (Some(DEFAULT_CPU_PPM), None));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GovernorLimits {
    /// CPU time of all threads, in millionths of the CPU time of the whole machine; none if there is no limit. Default
    /// [`DEFAULT_CPU_PPM`].
    pub cpu_ppm: Option<u32>,
    /// Bytes of memory; none if there is no limit. Default [`DEFAULT_MEMORY_BYTES`].
    pub memory_bytes: Option<u64>,
    /// The time over which use is averaged, and the shortest between two steps. Default [`DEFAULT_GOVERNOR_WINDOW`].
    pub window: Duration,
}

impl Default for GovernorLimits {
    fn default() -> Self {
        Self {
            cpu_ppm: Some(DEFAULT_CPU_PPM),
            memory_bytes: Some(DEFAULT_MEMORY_BYTES),
            window: DEFAULT_GOVERNOR_WINDOW,
        }
    }
}

impl GovernorLimits {
    /// With this limit on CPU time, in millionths of the machine's.
    #[must_use]
    pub fn cpu_ppm(self, cpu_ppm: Option<u32>) -> Self {
        Self { cpu_ppm, ..self }
    }

    /// With this limit on memory, in bytes.
    #[must_use]
    pub fn memory_bytes(self, memory_bytes: Option<u64>) -> Self {
        Self { memory_bytes, ..self }
    }

    /// With this time over which use is averaged.
    #[must_use]
    pub fn window(self, window: Duration) -> Self {
        Self { window, ..self }
    }
}

/// What the sensor has taken, at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// When, in nanoseconds of a clock that never steps back.
    pub time_ns: u64,
    /// CPU time of all threads so far, in nanoseconds.
    pub cpu_ns: u64,
    /// Bytes of memory now.
    pub memory_bytes: u64,
    /// CPUs of the machine; 0 counts as 1.
    pub cpus: u32,
}

impl Usage {
    /// `cpu_ns` so far and `memory_bytes` now, at `time_ns`, on a machine with `cpus`.
    #[must_use]
    pub fn new(time_ns: u64, cpu_ns: u64, memory_bytes: u64, cpus: u32) -> Self {
        Self { time_ns, cpu_ns, memory_bytes, cpus }
    }
}

/// How much the caches keep ([`Engine::retain`](crate::Engine::retain)). Each step gives up what those before it do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Retention {
    /// As much as they are made for.
    #[default]
    Full,
    /// Of each text about a process only [`SPARE_STORED_TEXT`](crate::SPARE_STORED_TEXT) bytes.
    ShortTexts,
    /// A quarter of the processes, but not less than [`MIN_PROCESS_LIMIT`](crate::MIN_PROCESS_LIMIT).
    FewProcesses,
    /// A quarter of the changed files.
    LittleHistory,
}

impl Retention {
    /// Every step, the one that keeps most first.
    pub const ALL: &'static [Self] = &[Self::Full, Self::ShortTexts, Self::FewProcesses, Self::LittleHistory];

    /// The name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::ShortTexts => "short_texts",
            Self::FewProcesses => "few_processes",
            Self::LittleHistory => "little_history",
        }
    }
}

impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the sensor gives up, and for what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Economy {
    /// What its source leaves out ([`EventSource::shed`](crate::EventSource::shed)).
    pub shedding: Shedding,
    /// How much its caches keep ([`Engine::retain`](crate::Engine::retain)).
    pub retention: Retention,
    /// Whether it was over a limit when there was nothing left to give up, and has not taken a step back since. It goes on:
    /// executions, what the kernel decides, and responses are never given up.
    pub over_limit: bool,
    /// CPU time in the last window, in millionths of the machine's.
    pub cpu_ppm: u32,
    /// The limit on it.
    pub cpu_limit_ppm: Option<u32>,
    /// Bytes of memory at the end of the last window.
    pub memory_bytes: u64,
    /// The limit on it.
    pub memory_limit_bytes: Option<u64>,
}

impl Economy {
    /// Whether nothing is given up.
    #[must_use]
    pub fn is_none(&self) -> bool {
        !self.over_limit && self.shedding == Shedding::Nothing && self.retention == Retention::Full
    }

    fn same_measures(&self, other: &Self) -> bool {
        let measures = |economy: &Self| (economy.shedding, economy.retention, economy.over_limit);
        measures(self) == measures(other)
    }
}

impl fmt::Display for Economy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shedding, retention, cpu_ppm, cpu_limit_ppm, memory_bytes, memory_limit_bytes, .. } = self;
        write!(f, "the sensor takes {} of the machine's CPU time (limit ", Percent(*cpu_ppm))?;
        match cpu_limit_ppm {
            Some(limit) => write!(f, "{}", Percent(*limit))?,
            None => f.write_str("none")?,
        }
        write!(f, ") and {} MiB (limit ", memory_bytes >> 20)?;
        match memory_limit_bytes {
            Some(limit) => write!(f, "{} MiB", limit >> 20)?,
            None => f.write_str("none")?,
        }
        write!(f, "): it sheds {shedding}, its caches keep {retention}")?;
        if self.over_limit { f.write_str(", and that is not enough") } else { Ok(()) }
    }
}

/// Millionths, shown in per cent with two digits.
struct Percent(u32);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02} %", self.0 / 10_000, self.0 % 10_000 / 100)
    }
}

/// Keeps the sensor within its limits. It reads no clock and does nothing itself: a host tells it about once a second what
/// the sensor has taken, and does what it answers.
///
/// # Limits and steps
/// Use is averaged over windows ([`GovernorLimits::window`]), so that a burst is not what counts, and no step comes earlier
/// than a window after the last. After a window **over the CPU limit** it sheds one step more ([`Shedding`]). When memory
/// comes to **7/8 of the memory limit**, the caches keep less, step by step ([`Retention`]); when they keep least, and it is
/// over the limit and still grows, it sheds as well. That memory has to grow is because an allocator does not give
/// everything back that it was given.
///
/// A step is taken back after [`CALM_WINDOWS`] windows in a row that took less than half of the CPU limit, or less than 3/4 of
/// the memory limit; for shedding it is enough that memory no longer grows. If that was too early, twice as many are waited
/// for the next time, up to [`MAX_CALM_WINDOWS`].
///
/// Nothing that it asks for delays a response: neither executions nor responses are ever left out, and no thread has to
/// wait. If that is not enough, it says so ([`Economy::over_limit`]).
///
/// ```
/// use sls_core::{Governor, GovernorLimits, Shedding, Usage};
///
/// const SECOND: u64 = 1_000_000_000;
/// let mut governor = Governor::new(GovernorLimits::default());
/// governor.observe(Usage::new(0, 0, 0, 2));
/// // Four of the twenty seconds that two CPUs have in the window: 20 %.
/// let change = governor.observe(Usage::new(10 * SECOND, 4 * SECOND, 0, 2));
/// assert_eq!(change.map(|economy| (economy.shedding, economy.cpu_ppm)), Some((Shedding::Telemetry, 200_000)));
/// ```
#[derive(Clone, Debug)]
pub struct Governor {
    limits: GovernorLimits,
    /// What had been taken when the window began.
    begun: Option<Usage>,
    cpu: Ladder,
    caches: Ladder,
    memory: Ladder,
    /// The least memory since the last step for its sake.
    least_memory: u64,
    /// Whether it was over a limit when there was no step left, and none was taken back since.
    cpu_over: bool,
    memory_over: bool,
    economy: Economy,
    changes: u64,
}

impl Governor {
    /// A governor for these limits, of a sensor that gives nothing up.
    #[must_use]
    pub fn new(limits: GovernorLimits) -> Self {
        let shedding = Shedding::ALL.len() - 1;
        let economy =
            Economy { cpu_limit_ppm: limits.cpu_ppm, memory_limit_bytes: limits.memory_bytes, ..Economy::default() };
        Self {
            limits,
            begun: None,
            cpu: Ladder::new(shedding),
            caches: Ladder::new(Retention::ALL.len() - 1),
            memory: Ladder::new(shedding),
            least_memory: 0,
            cpu_over: false,
            memory_over: false,
            economy,
            changes: 0,
        }
    }

    /// Takes in what the sensor has taken. Gives what is to be given up from now on if that is something else than before.
    pub fn observe(&mut self, usage: Usage) -> Option<Economy> {
        let begun = *self.begun.get_or_insert(usage);
        let elapsed = usage.time_ns.saturating_sub(begun.time_ns);
        if elapsed == 0 || u128::from(elapsed) < self.limits.window.as_nanos() {
            return None;
        }
        self.begun = Some(usage);
        self.judge_cpu(usage, begun, elapsed);
        self.judge_memory(usage.memory_bytes);
        let shedding = Shedding::ALL[self.cpu.step().max(self.memory.step())];
        let retention = Retention::ALL[self.caches.step()];
        let over_limit = self.cpu_over || self.memory_over;
        let economy = Economy { shedding, retention, over_limit, ..self.economy };
        let changed = !economy.same_measures(&self.economy);
        self.economy = economy;
        self.changes += u64::from(changed);
        changed.then_some(economy)
    }

    /// What is given up, as the last window told.
    #[must_use]
    pub fn economy(&self) -> Economy {
        self.economy
    }

    /// How often something else was to be given up than before.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    fn judge_cpu(&mut self, usage: Usage, begun: Usage, elapsed: u64) {
        let taken = usage.cpu_ns.saturating_sub(begun.cpu_ns);
        let machine = u128::from(elapsed) * u128::from(usage.cpus.max(1));
        let ppm = u32::try_from(u128::from(taken) * 1_000_000 / machine).unwrap_or(u32::MAX);
        self.economy.cpu_ppm = ppm;
        let Some(limit) = self.limits.cpu_ppm else { return };
        let load = match ppm {
            _ if ppm > limit => Load::High,
            _ if ppm <= limit / 2 => Load::Low,
            _ => Load::Fair,
        };
        self.cpu_over |= load == Load::High && self.cpu.is_at_top();
        self.cpu.take(load);
        self.cpu_over &= self.cpu.is_at_top();
    }

    fn judge_memory(&mut self, bytes: u64) {
        self.economy.memory_bytes = bytes;
        let Some(limit) = self.limits.memory_bytes else { return };
        let caches_at_top = self.caches.is_at_top();
        let moved = self.caches.take(match bytes {
            _ if bytes > limit - limit / 8 => Load::High,
            _ if bytes <= limit / 4 * 3 => Load::Low,
            _ => Load::Fair,
        });
        self.least_memory = if moved { bytes } else { self.least_memory.min(bytes) };
        let grows = bytes > self.least_memory.saturating_add(limit / 32);
        // Memory that no longer grows is not won back by seeing less.
        let load = if caches_at_top && grows && bytes > limit { Load::High } else { Load::Low };
        let moved = self.memory.take(load);
        if moved {
            self.least_memory = bytes;
        }
        self.memory_over |= caches_at_top && bytes > limit && !moved;
        self.memory_over &= self.caches.is_at_top();
    }
}

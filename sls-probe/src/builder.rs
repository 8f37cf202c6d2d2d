//! The settings of a probe, and what they make it provide.

use sls_core::{EventKind, FieldSet};

use crate::error::ProbeError;
use crate::loader::LoadedProbe;

/// Size of the ring buffer between the kernel and the sensor, unless told otherwise: about 20,000 executions.
pub const DEFAULT_RING_BYTES: u32 = 8 * 1024 * 1024;

/// The smallest ring: one page where pages are largest.
pub const MIN_RING_BYTES: u32 = 64 * 1024;

/// The largest ring.
pub const MAX_RING_BYTES: u32 = 1024 * 1024 * 1024;

/// Wake-ups a second that single events may cause, unless told otherwise.
pub const DEFAULT_WAKES_PER_SECOND: u32 = 200;

/// Wake-ups that may come at once, unless told otherwise.
pub const DEFAULT_WAKE_BURST: u32 = 20;

/// How a probe should be. Made by [`Probe::builder`](crate::Probe::builder).
#[derive(Clone, Debug)]
#[must_use]
pub struct ProbeBuilder {
    pub(crate) ring_bytes: u32,
    pub(crate) exec: bool,
    pub(crate) fork: bool,
    pub(crate) exit: bool,
    pub(crate) snapshot: bool,
    pub(crate) account_names: bool,
    pub(crate) wakes_per_second: u32,
    pub(crate) wake_burst: u32,
}

impl Default for ProbeBuilder {
    fn default() -> Self {
        Self {
            ring_bytes: DEFAULT_RING_BYTES,
            exec: true,
            fork: true,
            exit: true,
            snapshot: true,
            account_names: true,
            wakes_per_second: DEFAULT_WAKES_PER_SECOND,
            wake_burst: DEFAULT_WAKE_BURST,
        }
    }
}

impl ProbeBuilder {
    /// Size of the ring buffer: a power of two from [`MIN_RING_BYTES`] to [`MAX_RING_BYTES`]. Default
    /// [`DEFAULT_RING_BYTES`]. Events that find it full are lost, and counted.
    pub fn ring_bytes(mut self, bytes: u32) -> Self {
        self.ring_bytes = bytes;
        self
    }

    /// Whether to watch executions. Default yes.
    pub fn exec(mut self, on: bool) -> Self {
        self.exec = on;
        self
    }

    /// Whether to watch the creation of processes. Threads are never reported. Default yes.
    pub fn fork(mut self, on: bool) -> Self {
        self.fork = on;
        self
    }

    /// Whether to watch the end of processes. Default yes.
    pub fn exit(mut self, on: bool) -> Self {
        self.exit = on;
        self
    }

    /// Whether to report the processes that were running at the start, as events of kind `baseline`. Default yes.
    pub fn snapshot(mut self, on: bool) -> Self {
        self.snapshot = on;
        self
    }

    /// Whether to look up `userName` and `groupName`. Default yes.
    pub fn account_names(mut self, on: bool) -> Self {
        self.account_names = on;
        self
    }

    /// How often the kernel may wake a sleeping reader for a single execution: so many times a second, and so many at
    /// once. As long as events come faster than that, the reader looks every 2 ms instead. Default
    /// [`DEFAULT_WAKES_PER_SECOND`] and [`DEFAULT_WAKE_BURST`]; 0 never wakes.
    pub fn wake_budget(mut self, per_second: u32, burst: u32) -> Self {
        self.wakes_per_second = per_second;
        self.wake_burst = burst;
        self
    }

    /// Loads the programs into the kernel. Nothing is watched yet.
    ///
    /// # Errors
    /// When a setting is not possible, or the kernel refuses: not permitted, too old, without type information, or
    /// its verifier objects.
    pub fn load(self) -> Result<LoadedProbe, ProbeError> {
        if !self.ring_bytes.is_power_of_two() || !(MIN_RING_BYTES..=MAX_RING_BYTES).contains(&self.ring_bytes) {
            return Err(ProbeError::RingSize { bytes: self.ring_bytes });
        }
        LoadedProbe::load(self)
    }

    /// The fields that the probe will fill in events of `kind`, as it is set; none for a kind that it will not give.
    #[must_use]
    pub fn provides(&self, kind: EventKind) -> FieldSet {
        use sls_core::Field as F;
        let (on, own): (bool, &[F]) = match kind {
            EventKind::Exec => (self.exec, &[F::InvokedName, F::ScriptName]),
            EventKind::Fork => (self.fork, &[]),
            EventKind::Exit => (self.exit, &[]),
            EventKind::Baseline => (self.snapshot, &[]),
            _ => (false, &[]),
        };
        if !on {
            return FieldSet::EMPTY;
        }
        let ids =
            [F::ProcessName, F::ProcessPid, F::ParentPid, F::Uid, F::Gid, F::Euid, F::Egid, F::LoginUid, F::EventType];
        let program = [
            F::ProgramName,
            F::ProgramArguments,
            F::ProgramDirectory,
            F::ProgramIsMemfd,
            F::ProgramIsDeleted,
            F::ProgramInode,
            F::ProgramDevice,
            F::Terminal,
        ];
        let mut fields: FieldSet = ids.into_iter().chain(own.iter().copied()).collect();
        if matches!(kind, EventKind::Exec | EventKind::Baseline) {
            fields = fields.union(program.into_iter().collect());
        }
        if self.account_names {
            fields = fields.union([F::UserName, F::GroupName].into_iter().collect());
        }
        fields
    }
}

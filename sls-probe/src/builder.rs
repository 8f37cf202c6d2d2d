//! The settings of a probe, and what they make it provide.

use std::path::PathBuf;

use sls_core::{CONTAINER_FIELDS, EventKind, FieldSet, Hook, Interest, Lane, Mechanism, PolicyType, Shedding, Tiers};

use crate::error::ProbeError;
use crate::group::{GROUPS, memory, security};
use crate::hooks::HookFamily;
use crate::kernel;
use crate::loader::LoadedProbe;
use crate::protection::SelfProtection;
use crate::record::KINDS;
use crate::room::{self, CgroupBudget, MAX_RING_BYTES, MIN_RING_BYTES, Room};
use crate::tier::{self, KernelTier};

/// Wake-ups a second that single events may cause, unless told otherwise.
pub const DEFAULT_WAKES_PER_SECOND: u32 = 200;

/// Wake-ups that may come at once, unless told otherwise.
pub const DEFAULT_WAKE_BURST: u32 = 20;

/// What keeps the process table.
const PROCESS_KINDS: [EventKind; 4] = [EventKind::Exec, EventKind::Fork, EventKind::Exit, EventKind::Baseline];

/// How a probe should be. Made by [`Probe::builder`](crate::Probe::builder).
#[derive(Clone, Debug)]
#[must_use]
pub struct ProbeBuilder {
    /// What both lanes were given together.
    ring_bytes: Option<u32>,
    /// In the order of [`room::number`].
    pub(crate) lanes: [Room; 2],
    pub(crate) family: HookFamily,
    /// Of [`PROCESS_KINDS`].
    process_kinds: Vec<EventKind>,
    /// What policies look at.
    needed: Interest,
    /// What is watched besides.
    telemetry: Vec<EventKind>,
    /// Both.
    pub(crate) interest: Interest,
    pub(crate) unsafe_probes: bool,
    pub(crate) kernel_tier: bool,
    pub(crate) refusals: Vec<(Mechanism, EventKind)>,
    pub(crate) self_protection: Option<SelfProtection>,
    pub(crate) pin: Option<PathBuf>,
    pub(crate) account_names: bool,
    pub(crate) containers: bool,
    pub(crate) host_root: PathBuf,
    pub(crate) wakes_per_second: u32,
    pub(crate) wake_burst: u32,
}

impl Default for ProbeBuilder {
    fn default() -> Self {
        Self {
            ring_bytes: None,
            lanes: [Room::default(); 2],
            family: HookFamily::detect(),
            process_kinds: PROCESS_KINDS.to_vec(),
            needed: Interest::default(),
            telemetry: Vec::new(),
            interest: Interest::default(),
            unsafe_probes: false,
            kernel_tier: false,
            refusals: Vec::new(),
            self_protection: None,
            pin: None,
            account_names: true,
            containers: true,
            host_root: PathBuf::from("/"),
            wakes_per_second: DEFAULT_WAKES_PER_SECOND,
            wake_burst: DEFAULT_WAKE_BURST,
        }
    }
}

impl ProbeBuilder {
    /// Size of the ring buffers together: a power of two from [`MIN_RING_BYTES`] to [`MAX_RING_BYTES`], of which each lane gets
    /// a half. Default [`DEFAULT_RING_BYTES`](crate::DEFAULT_RING_BYTES). Events that find their lane full are lost, and counted.
    pub fn ring_bytes(mut self, bytes: u32) -> Self {
        self.ring_bytes = Some(bytes);
        self.lanes.iter_mut().for_each(|room| room.bytes = bytes / 2);
        self
    }

    /// Size of the ring buffer of one lane: a power of two from [`MIN_LANE_BYTES`](crate::MIN_LANE_BYTES) to
    /// [`MAX_LANE_BYTES`](crate::MAX_LANE_BYTES). Default: a half of [`DEFAULT_RING_BYTES`](crate::DEFAULT_RING_BYTES).
    pub fn lane_bytes(mut self, lane: Lane, bytes: u32) -> Self {
        self.lanes[room::number(lane)].bytes = bytes;
        self
    }

    /// What each cgroup may send by a lane of which more than a half is filled, so that none takes what is left from all others.
    /// What goes over it is lost, and counted ([`LossCause::OverBudget`](sls_core::LossCause::OverBudget)). What the kernel
    /// tier has decided, and what tells of cgroups, is never withheld. Default: a sixteenth of the lane at once, and again
    /// every second.
    pub fn cgroup_budget(mut self, lane: Lane, budget: CgroupBudget) -> Self {
        self.lanes[room::number(lane)].budget = Some(budget);
        self
    }

    /// Whether policies can be decided in the kernel: then the probe has a [`KernelTier`](crate::KernelTier), which has no
    /// policies at first. Default no. Executions are watched in any case then.
    pub fn kernel_tier(mut self, on: bool) -> Self {
        self.kernel_tier = on;
        self
    }

    /// Has the programs of the [kernel tier](ProbeBuilder::kernel_tier) go on deciding when this process has ended, however it
    /// did: they are pinned in this directory of a BPF file system, such as [`DEFAULT_PIN_PATH`](crate::DEFAULT_PIN_PATH), by
    /// [`Probe::take_over`](crate::Probe::take_over). [`KernelTier::unpin`](crate::KernelTier::unpin) removes them. While they
    /// are alone, a policy acts on no more targets than it was last [allowed](crate::KernelTier::allow), and files are known
    /// by their paths only. Default: no.
    pub fn pin(mut self, path: impl Into<PathBuf>) -> Self {
        self.pin = Some(path.into());
        self
    }

    /// Has the kernel ask about the operations that policies of a set refuse, as far as the kernel tier decides them. Default:
    /// none.
    pub fn refusals(mut self, tiers: &Tiers) -> Self {
        self.refusals = tier::wanted(tiers);
        self
    }

    /// Has the kernel refuse what others would do to this process and to the probe's BPF objects, from [`LoadedProbe::attach`]
    /// until the probe is dropped. Where the kernel does not ask BPF programs as it asks its security modules
    /// ([`SelfProtection::missing`]), the probe does not load then. Default: it does not.
    pub fn self_protection(mut self, protection: SelfProtection) -> Self {
        self.self_protection = Some(protection);
        self
    }

    /// Whether to watch executions. Default yes.
    pub fn exec(self, on: bool) -> Self {
        self.kind(EventKind::Exec, on)
    }

    /// Whether to watch the creation of processes. Threads are never reported. Default yes.
    pub fn fork(self, on: bool) -> Self {
        self.kind(EventKind::Fork, on)
    }

    /// Whether to watch the end of processes. Default yes.
    pub fn exit(self, on: bool) -> Self {
        self.kind(EventKind::Exit, on)
    }

    /// Whether to report the processes that were running at the start, as events of kind `baseline`. Default yes.
    pub fn snapshot(self, on: bool) -> Self {
        self.kind(EventKind::Baseline, on)
    }

    pub(crate) fn kind(mut self, kind: EventKind, on: bool) -> Self {
        self.process_kinds.retain(|other| *other != kind);
        if on {
            self.process_kinds.push(kind);
        }
        self
    }

    /// Which other events to watch: what the loaded policies need
    /// ([`PolicySet::interest`](sls_core::PolicySet::interest)), or [`Interest::everything`]. Default none. What is not
    /// wanted is not attached, and filtered in the kernel as far as it can be; what the running kernel cannot give is
    /// left out, see [`ProbeBuilder::provides`].
    pub fn interest(mut self, interest: Interest) -> Self {
        self.needed = interest;
        self.widen_interest();
        self
    }

    /// Kinds of events to watch as well, all of each, though no policy looks at them: to record or to count them. Those that
    /// [`interest`](ProbeBuilder::interest) does not name are the first to be left out when load is shed
    /// ([`Shedding::Telemetry`]). Default none.
    pub fn telemetry(mut self, kinds: impl IntoIterator<Item = EventKind>) -> Self {
        self.telemetry = kinds.into_iter().collect();
        self.widen_interest();
        self
    }

    fn widen_interest(&mut self) {
        self.interest = self.needed.clone();
        for kind in &self.telemetry {
            self.interest.add_kind(*kind);
        }
    }

    /// The kinds of records that are left out, as bits of their numbers. What keeps the process table and the containers
    /// stays, and what the kernel has decided knows nothing of it.
    pub(crate) fn shed_kinds(&self, shedding: Shedding) -> u32 {
        let is_shed = |kind: EventKind| {
            let telemetry = self.telemetry.contains(&kind) && !self.needed.wants_kind(kind);
            let keeps = PROCESS_KINDS.contains(&kind);
            !keeps
                && (shedding >= Shedding::Telemetry && telemetry
                    || shedding >= Shedding::Activity && Lane::of(kind) == Lane::Activity)
        };
        let bits = (0_u32..).zip(KINDS).filter(|(_, kind)| is_shed(*kind));
        bits.fold(0, |mask, (bit, _)| mask | 1 << bit)
    }

    /// Whether the probes that policies define themselves ([`Interest::probes`]) may be put into the kernel and into
    /// programs. On a function that is called often, such a probe can slow a machine down. Default no: then the probe does
    /// not load with such an interest.
    pub fn unsafe_probes(mut self, allowed: bool) -> Self {
        self.unsafe_probes = allowed;
        self
    }

    /// The kind of hooks to use. Default: the best that the running kernel has, as [`HookFamily::detect`] finds it.
    pub fn hooks(mut self, family: HookFamily) -> Self {
        self.family = family;
        self
    }

    /// Whether to look up `userName` and `groupName`. Default yes.
    pub fn account_names(mut self, on: bool) -> Self {
        self.account_names = on;
        self
    }

    /// Whether to tell in which container an event happens. Default yes. Events of kind `container`, which tell of the
    /// start and the stop of containers, need it, and executions to be watched.
    pub fn containers(mut self, on: bool) -> Self {
        self.containers = on;
        self
    }

    /// Root directory of the host, below which container runtimes and engines keep what they know of their containers: for
    /// a sensor that runs in a container itself. Default `/`.
    pub fn host_root(mut self, path: impl Into<PathBuf>) -> Self {
        self.host_root = path.into();
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
        let possible = |bytes: &u32| bytes.is_power_of_two() && (MIN_RING_BYTES..=MAX_RING_BYTES).contains(bytes);
        if let Some(bytes) = self.ring_bytes.filter(|bytes| !possible(bytes)) {
            return Err(ProbeError::RingSize { bytes });
        }
        for lane in Lane::ALL.iter().copied() {
            self.lanes[room::number(lane)].check(lane)?;
        }
        LoadedProbe::load(self)
    }

    /// The fields that the probe can fill in events of `kind`; none for a kind that it cannot give on this kernel.
    #[must_use]
    pub fn provides(&self, kind: EventKind) -> FieldSet {
        use sls_core::Field as F;
        let own = GROUPS.iter().map(|group| (group.fields)(kind, self.family)).fold(FieldSet::EMPTY, FieldSet::union);
        if kind == EventKind::Container && !self.containers {
            return FieldSet::EMPTY;
        }
        let own = if kind == EventKind::Probe && self.unsafe_probes {
            [F::ProbeSymbol, F::ProbeExecutable, F::ProbeArguments].into_iter().collect()
        } else {
            own
        };
        if own.is_empty() && !(PROCESS_KINDS.contains(&kind) && self.watches(kind)) {
            return FieldSet::EMPTY;
        }
        let ids =
            [F::ProcessName, F::ProcessPid, F::ParentPid, F::Uid, F::Gid, F::Euid, F::Egid, F::LoginUid, F::EventType];
        let mut fields = own.union(ids.into_iter().collect());
        if self.account_names {
            fields = fields.union([F::UserName, F::GroupName].into_iter().collect());
        }
        if self.containers {
            fields = fields.union(CONTAINER_FIELDS.into_iter().collect());
            if own.contains(F::FilePath) {
                fields = fields.union([F::HostFilePath, F::NewHostFilePath].into_iter().collect());
            }
        }
        fields
    }

    /// Why the running kernel does not give what raises policies of a type, and which of its options would; none if it
    /// does, or if the probe gives no events of their kind at all.
    #[must_use]
    pub fn unavailable(&self, policy_type: PolicyType) -> Option<String> {
        match policy_type {
            PolicyType::Kprobe => (!kernel::has_kprobes()).then(|| kernel::NO_KPROBES.to_owned()),
            PolicyType::Uprobe => (!kernel::has_uprobes()).then(|| kernel::NO_UPROBES.to_owned()),
            PolicyType::Selinux | PolicyType::SmepSmap | PolicyType::KernelPayload => {
                security::unavailable(policy_type, self.family).map(str::to_owned)
            }
            PolicyType::Userfaultfd => memory::no_userfaultfd(self.family).map(str::to_owned),
            PolicyType::Ptrace => self.unless_given(EventKind::Ptrace),
            PolicyType::MemoryProtection => self.unless_given(EventKind::Memory),
            PolicyType::PrivilegeEscalation => self.unless_given(EventKind::Credentials),
            _ => None,
        }
    }

    /// Where policies can be decided in the kernel: nowhere without a [kernel tier](ProbeBuilder::kernel_tier).
    #[must_use]
    pub fn tier_hooks(&self) -> Vec<Hook> {
        if self.kernel_tier { KernelTier::hooks() } else { Vec::new() }
    }

    /// What is missing for a mechanism of the kernel tier, if something is.
    #[must_use]
    pub fn no_mechanism(&self, mechanism: Mechanism) -> Option<String> {
        if self.kernel_tier { KernelTier::missing(mechanism) } else { None }
    }

    /// Of kinds that tracepoints of system calls give where nothing better does.
    fn unless_given(&self, kind: EventKind) -> Option<String> {
        self.provides(kind).is_empty().then(|| kernel::NO_SYSCALL_TRACEPOINTS.to_owned())
    }

    /// Whether crashes by `signal` are to be given.
    pub(crate) fn wants_crash(&self, signal: &str) -> bool {
        self.interest.wants_value(EventKind::Crash, signal)
    }

    /// Whether events of `kind` are to be given.
    pub(crate) fn watches(&self, kind: EventKind) -> bool {
        if kind == EventKind::Exec && self.kernel_tier {
            return true;
        }
        if PROCESS_KINDS.contains(&kind) { self.process_kinds.contains(&kind) } else { self.interest.wants_kind(kind) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shed(builder: &ProbeBuilder, shedding: Shedding) -> Vec<EventKind> {
        let mask = builder.shed_kinds(shedding);
        KINDS.into_iter().enumerate().filter(|(bit, _)| mask >> bit & 1 == 1).map(|(_, kind)| kind).collect()
    }

    #[test]
    fn telemetry_is_shed_before_what_policies_need_and_the_process_table_never() {
        use EventKind::{Accept, Connect, Exec, File, Fork, Listen, Memory, Module, Probe, Ptrace, Userfaultfd};
        let mut interest = Interest::default();
        interest.add_kind(File).add_kind(Module);
        let builder = ProbeBuilder::default().interest(interest).telemetry([Connect, File, Ptrace, Fork, Exec]);
        assert!(builder.watches(Ptrace) && builder.watches(Connect) && builder.watches(Module));
        assert_eq!(shed(&builder, Shedding::Nothing), []);
        assert_eq!(shed(&builder, Shedding::Telemetry), [Connect, Ptrace]);
        let all = [File, Connect, Accept, Listen, Ptrace, Memory, Userfaultfd, Probe];
        assert_eq!(shed(&builder, Shedding::Activity), all);
        // Other policies came.
        let mut interest = Interest::default();
        interest.add_kind(Connect);
        assert_eq!(shed(&builder.interest(interest), Shedding::Telemetry), [File, Ptrace]);
    }
}

//! The attached probe: an event source.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use libbpf_rs::MapHandle;
use sls_core::{
    BoxError, Event, EventKind, EventSource, FieldSet, Hook, Interest, Loss, Mechanism, PolicySet, PolicyType,
    ProcessKey, Shedding, SourceStatus,
};

use crate::accounts::Accounts;
use crate::bell::Bell;
use crate::budget::WakeBudget;
use crate::builder::ProbeBuilder;
use crate::clock::BootTime;
use crate::container::Containers;
use crate::enrichment::Enrichment;
use crate::error::ProbeError;
use crate::group::{Attach, GROUPS, Wanted};
use crate::host::in_host_pid_namespace;
use crate::kernel::Kernel;
use crate::lanes::Lanes;
use crate::loader::{DOZING, LOST, LoadedObject, LoadedProbe, RINGS, SHED, SharedMaps, set_entry};
use crate::losses::Losses;
use crate::points::{Point, Points};
use crate::protection::{Protector, TamperReport};
use crate::record::{self, Decoded, crash};
use crate::reread::Reread;
use crate::resolve::Resolver;
use crate::snapshot::{Arguments, Snapshot};
use crate::tier::KernelTier;
use crate::tier::layout::Verdicts;

/// How long the reader leaves the rings alone while events come too fast for wake-ups.
const NAP: Duration = Duration::from_millis(2);

/// How often the rings are read again for what an activity follows, before the reader sleeps over it.
const ROUNDS_IN_VAIN: usize = 2;

/// How often clocks, accounts and the kernel's own counters are looked at.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);

/// Longest single wait in the kernel. A full ring has no room for a bell either: whatever may go wrong with wake-ups, the
/// reader looks for itself that often.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Watches the kernel for executions, new processes and ends of processes.
///
/// Dropping it detaches everything. It can be moved to another thread, and is polled by one at a time.
#[derive(Debug)]
pub struct Probe {
    settings: ProbeBuilder,
    // Dropped before the rings: no record comes any more.
    objects: Vec<LoadedObject>,
    points: Points,
    protector: Option<Protector>,
    tier: Option<KernelTier>,
    shared: SharedMaps,
    snapshot: Option<Snapshot>,
    reread: Reread,
    lanes: Lanes,
    dozing: MapHandle,
    shed_kinds: MapHandle,
    shedding: Shedding,
    losses: Losses,
    /// In nanoseconds since the epoch.
    losses_told_at: u64,
    /// Needed where several threads can each report the end of their process.
    ended: Option<Ended>,
    budget: WakeBudget,
    enrichment: Enrichment,
    /// Records about cgroups that were lost and made up for.
    lost_cgroups: u64,
    resolver: Resolver,
    event: Event,
    refreshed: Instant,
    bell: Bell,
}

impl Probe {
    /// The way to a probe.
    pub fn builder() -> ProbeBuilder {
        ProbeBuilder::default()
    }

    pub(crate) fn new(loaded: LoadedProbe) -> Result<Self, ProbeError> {
        let LoadedProbe { settings, objects, shared, mut points, protector } = loaded;
        let [process, activity] = RINGS;
        let rings = [shared.get(process)?, shared.get(activity)?];
        let lanes = Lanes::new(&rings[0], &rings[1])?;
        let bell = Bell::new(rings).map_err(|error| ProbeError::Ring { source: error.into() })?;
        let mut losses = Losses::new(shared.get(LOST)?);
        let dozing = shared.get(DOZING)?;
        let shed_kinds = shared.get(SHED)?;
        let tier = match objects.first().filter(|_| settings.kernel_tier) {
            Some(first) => Some(KernelTier::of(&first.object).map_err(|error| ProbeError::Tier(Box::new(error)))?),
            None => None,
        };
        // Everything is ready before the first record can come.
        let mut attached = Vec::new();
        for object in objects {
            losses.add(&object)?;
            let hooks = object.loaded.clone();
            let (object, result) = object.attach(hooks);
            result?;
            attached.push(object);
        }
        points.attach()?;
        let snapshot = snapshot(&attached, Arguments::Read)?;
        let enrichment = Enrichment::start(&settings)?;
        let now = Instant::now();
        let mut protector = protector.map(Protector::attach).transpose()?;
        if let Some(protector) = &mut protector {
            protect(protector, &attached, &points)?;
        }
        Ok(Self {
            objects: attached,
            points,
            protector,
            tier,
            shared,
            snapshot,
            reread: Reread::default(),
            lanes,
            dozing,
            shed_kinds,
            shedding: Shedding::Nothing,
            losses,
            losses_told_at: enrichment.clock.to_epoch(BootTime::now()),
            ended: (!Kernel::running().exit_says_group_dead).then(Ended::default),
            budget: WakeBudget::new(settings.wakes_per_second, settings.wake_burst, now),
            enrichment,
            lost_cgroups: 0,
            resolver: Resolver::new(),
            event: Event::new(EventKind::Exec),
            refreshed: now,
            bell,
            settings,
        })
    }

    /// How many events of `kind` were lost since the probe was attached, for whatever [cause](sls_core::LossCause). The same
    /// losses are in [`Event::lost`] of the next event of the kind.
    ///
    /// # Errors
    /// When the kernel's counter cannot be read.
    pub fn lost(&self, kind: EventKind) -> Result<u64, ProbeError> {
        // A crash is told by the end of the process.
        let kind = if kind == EventKind::Crash { EventKind::Exit } else { kind };
        self.losses.of(kind)
    }

    /// Watches what `interest` says from now on, such as after policies were loaded anew. What is needed for it is loaded and
    /// attached, and what is no longer needed is detached; what is watched before and after loses nothing meanwhile.
    /// Loading programs can take some tenths of a second.
    ///
    /// # Errors
    /// When the kernel refuses; what was watched before is watched still.
    pub fn set_interest(&mut self, interest: Interest) -> Result<(), ProbeError> {
        let settings = self.settings.clone().interest(interest);
        self.change(settings)
    }

    /// Watches what policies look at from now on, and has the kernel ask about what those of its tier refuse. Otherwise as
    /// [`Probe::set_interest`].
    ///
    /// # Errors
    /// When the kernel refuses; what was watched before is watched still.
    pub fn set_policies(&mut self, policies: &PolicySet) -> Result<(), ProbeError> {
        let settings = self.settings.clone().interest(policies.interest()).refusals(policies.tiers());
        self.change(settings)
    }

    fn change(&mut self, settings: ProbeBuilder) -> Result<(), ProbeError> {
        let result = self.attach_wanted(settings);
        let Some(protector) = &mut self.protector else { return result };
        // Packages are renewed. Until the new file can be found, the old one is exempt.
        if let Err(error) = protector.resolve() {
            tracing::warn!(%error, "the programs that are exempt from the protection of the sensor stay what they were");
        }
        result.and(protect(protector, &self.objects, &self.points))
    }

    fn attach_wanted(&mut self, settings: ProbeBuilder) -> Result<(), ProbeError> {
        let wanted = Wanted { settings: &settings, family: settings.family };
        let mut points = self.points.prepare(&settings, &self.shared)?;
        points.iter_mut().try_for_each(Point::attach)?;
        for group in GROUPS {
            let hooks = (group.hooks)(&wanted);
            match self.objects.iter().position(|object| object.group.name == group.name) {
                // What its maps know goes stale, and it takes room. The first has what others share.
                Some(at) if hooks.is_empty() && group.name != GROUPS[0].name => {
                    self.objects.swap_remove(at);
                    self.losses.remove(group.name);
                }
                Some(at) if self.objects[at].has(&hooks) => {
                    (group.filter)(&self.objects[at].object, &wanted)?;
                    let object = self.objects.swap_remove(at);
                    let (object, result) = object.attach(hooks);
                    self.objects.push(object);
                    result?;
                }
                _ if hooks.is_empty() => {}
                old => {
                    let object = LoadedObject::load(group, &hooks, &wanted, &self.shared)?;
                    let (object, result) = object.attach(hooks);
                    result?;
                    self.losses.remove(group.name);
                    self.losses.add(&object)?;
                    // Only now does the old one go: nothing is missed in between.
                    match old {
                        Some(at) => self.objects[at] = object,
                        None => self.objects.push(object),
                    }
                }
            }
        }
        if let Some(containers) = &mut self.enrichment.containers {
            containers.set_events(settings.watches(EventKind::Container));
        }
        self.points.replace(points, &settings);
        self.settings = settings;
        self.set_shedding(self.shedding)
    }

    /// Has [`poll`](EventSource::poll) return early while `bell` can be read: somebody else has something for its thread to
    /// do.
    ///
    /// # Errors
    /// When this process may open no more files.
    pub fn return_on(&mut self, bell: impl AsFd) -> std::io::Result<()> {
        self.bell.listen_to(bell)
    }

    /// Sets the names of accounts and the container in an event from another source, that has ids and a
    /// [`cgroup_id`](Event::cgroup_id).
    pub fn complete(&mut self, event: &mut Event) {
        self.enrichment.name(event, None);
    }

    /// What was refused since the last call because the sensor [protects itself](ProbeBuilder::self_protection). To be called
    /// about every second.
    ///
    /// # Errors
    /// When the kernel's maps cannot be read.
    pub fn tampering(&mut self) -> Result<TamperReport, ProbeError> {
        self.protector.as_mut().map_or_else(|| Ok(TamperReport::default()), Protector::report)
    }

    /// The policies that are decided in the kernel, if the probe was built with that.
    #[must_use]
    pub fn kernel_tier(&self) -> Option<&KernelTier> {
        self.tier.as_ref()
    }

    /// The accounts that names are looked up in, if they are.
    #[must_use]
    pub fn accounts(&self) -> Option<&Accounts> {
        self.enrichment.accounts.as_ref()
    }

    /// The containers that events happen in, if that is looked for.
    #[must_use]
    pub fn containers(&self) -> Option<&Containers> {
        self.enrichment.containers.as_ref()
    }

    /// Hands over what is in the rings, and returns how many events that was. Stops at `deadline` if more keeps coming.
    fn drain(&mut self, deadline: Option<Instant>, handle: &mut dyn FnMut(&mut Event)) -> Result<usize, ProbeError> {
        let (mut count, mut rounds_in_vain) = (0, 0);
        loop {
            let more = self.lanes.read();
            let delivered = self.deliver(handle);
            count += delivered;
            let full = more?;
            rounds_in_vain = if delivered == 0 && !full { rounds_in_vain + 1 } else { 0 };
            let more = full || self.lanes.is_holding();
            let late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if !more || late || rounds_in_vain == ROUNDS_IN_VAIN {
                return Ok(count);
            }
        }
    }

    /// Sleeps until the kernel rings, and takes what is there. Tells how many events that was, and whether a signal came.
    fn doze(&mut self, timeout: Duration, handle: &mut dyn FnMut(&mut Event)) -> Result<(usize, bool), ProbeError> {
        if self.bell.wait(timeout.min(LONGEST_WAIT)) {
            return Ok((0, true));
        }
        self.lanes.read()?;
        Ok((self.deliver(handle), false))
    }

    /// Decodes what was read.
    fn deliver(&mut self, handle: &mut dyn FnMut(&mut Event)) -> usize {
        let mut read = self.lanes.take();
        let mut count = 0;
        while let Some(bytes) = read.next() {
            // What the decoder's benchmark and its fuzz target begin with is taken from here.
            tracing::trace!(record = ?bytes, "received");
            match record::decode_any(bytes, &mut self.event) {
                Ok(Decoded::Event { .. }) if self.ended.as_mut().is_some_and(|ended| ended.again(&self.event)) => {}
                Ok(Decoded::Event { .. })
                    if self.event.kind == EventKind::Probe && !self.points.fill(bytes, &mut self.event) => {}
                Ok(Decoded::Event { legacy_cgroup }) => {
                    self.event.lost = self.losses.before(bytes, &self.event);
                    if let Some(tier) = &self.tier
                        && let Some(said) = Verdicts::of(record::verdicts(bytes))
                    {
                        self.event.enforced = tier.enforced(said);
                    }
                    if let Some(signal) = crash::signal(&self.event).filter(|signal| self.settings.wants_crash(signal))
                    {
                        let lost = self.event.lost;
                        crash::of_exit(&mut self.event, signal);
                        self.hand_over(legacy_cgroup, handle);
                        count += 1;
                        // The handler may have changed it. What was an event is one again.
                        if record::decode(bytes, &mut self.event).is_err() {
                            continue;
                        }
                        self.event.lost = lost;
                    }
                    if self.event.kind == EventKind::File && !self.event.untrusted().is_empty() {
                        self.resolver.resolve(bytes, &mut self.event);
                    }
                    // Only for the crashes.
                    if self.event.kind == EventKind::Exit && !self.settings.watches(EventKind::Exit) {
                        continue;
                    }
                    self.hand_over(legacy_cgroup, handle);
                    count += 1;
                }
                Ok(Decoded::Cgroup(cgroup)) => {
                    let time = self.enrichment.clock.to_epoch(cgroup.time);
                    if let Some(containers) = &mut self.enrichment.containers {
                        containers.note(&cgroup, time);
                    }
                }
                // Object and decoder are built together, so this is a bug; the other records are still good.
                Err(error) => tracing::error!(%error, "the kernel sent a record that cannot be decoded"),
            }
        }
        self.lanes.put_back(read);
        count + self.deliver_containers(handle)
    }

    /// Tells of the containers that started and stopped and are known by now.
    fn deliver_containers(&mut self, handle: &mut dyn FnMut(&mut Event)) -> usize {
        let Some(containers) = &mut self.enrichment.containers else { return 0 };
        if !containers.is_awaiting() {
            return 0;
        }
        containers.poll(handle)
    }

    /// Gives the decoded event what the kernel does not know, and hands it over.
    fn hand_over(&mut self, legacy_cgroup: Option<u64>, handle: &mut dyn FnMut(&mut Event)) {
        self.enrichment.fill(&mut self.event, legacy_cgroup);
        handle(&mut self.event);
    }

    fn deliver_snapshot(
        &mut self,
        deadline: Option<Instant>,
        handle: &mut dyn FnMut(&mut Event),
    ) -> Result<usize, ProbeError> {
        let Some(mut snapshot) = self.snapshot.take() else { return Ok(0) };
        let mut count = 0;
        let enrichment = &mut self.enrichment;
        let mut finish = |event: &mut Event, legacy_cgroup| {
            enrichment.fill(event, legacy_cgroup);
            handle(event);
            count += 1;
        };
        loop {
            let more = snapshot.step(&mut self.event, &mut finish).map_err(|source| ProbeError::Snapshot { source })?;
            if !more {
                return Ok(count);
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                self.snapshot = Some(snapshot);
                return Ok(count);
            }
        }
    }

    fn set_shedding(&mut self, shedding: Shedding) -> Result<(), ProbeError> {
        let kinds = self.settings.shed_kinds(shedding);
        set_entry(&self.shed_kinds, SHED, &0_u32.to_ne_bytes(), &kinds.to_ne_bytes())?;
        self.shedding = shedding;
        Ok(())
    }

    fn step_reread(&mut self, handle: &mut dyn FnMut(&mut Event)) {
        let enrichment = &mut self.enrichment;
        self.reread.step(&mut self.event, &mut |event, legacy_cgroup| {
            enrichment.fill(event, legacy_cgroup);
            handle(event);
        });
    }

    fn set_dozing(&self) -> Result<(), ProbeError> {
        let (key, value) = (0_u32.to_ne_bytes(), 1_u32.to_ne_bytes());
        set_entry(&self.dozing, DOZING, &key, &value)
    }

    fn refresh(&mut self, now: Instant) {
        if now.saturating_duration_since(self.refreshed) < REFRESH_INTERVAL {
            return;
        }
        self.refreshed = now;
        self.enrichment.refresh();
        self.losses.refresh();
        if let Some(containers) = &mut self.enrichment.containers
            && let Ok(lost) = self.losses.of_cgroups()
            && lost != self.lost_cgroups
        {
            self.lost_cgroups = lost;
            containers.rescan();
        }
    }

    fn poll_events(&mut self, timeout: Duration, handle: &mut dyn FnMut(&mut Event)) -> Result<(), ProbeError> {
        let now = Instant::now();
        let deadline = now.checked_add(timeout);
        self.refresh(now);
        if self.snapshot.is_some() {
            let count = self.deliver_snapshot(deadline, handle)?;
            // Nothing that happened meanwhile comes before what was there first.
            if count > 0 || self.snapshot.is_some() {
                return Ok(());
            }
        }
        if self.reread.is_under_way() {
            // A part, and then what has come: neither waits for the other for long.
            self.step_reread(handle);
            self.drain(deadline, handle)?;
            return Ok(());
        }
        loop {
            if self.drain(deadline, handle)? > 0 {
                self.budget.spend(Instant::now());
                return Ok(());
            }
            let now = Instant::now();
            self.refresh(now);
            let left = deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(now));
            if left.is_zero() {
                return Ok(());
            }
            // The kernel waits in whole milliseconds. It does not know of what the worker finds out about containers.
            let awaiting = self.enrichment.containers.as_ref().is_some_and(Containers::is_awaiting);
            let waits = awaiting || self.lanes.is_holding();
            if left < Duration::from_millis(1) || waits || !self.budget.allows(now) {
                self.bell.nap(left.min(NAP));
                if self.bell.rings() {
                    return Ok(());
                }
                continue;
            }
            self.set_dozing()?;
            // What was committed before the flag was set rang no bell.
            let (mut count, mut interrupted) = (self.drain(deadline, handle)?, false);
            if count == 0 && !self.lanes.is_holding() {
                (count, interrupted) = self.doze(left, handle)?;
            }
            if count > 0 {
                self.budget.spend(Instant::now());
            }
            // The handler of a signal may have told the caller to stop.
            if count > 0 || interrupted || self.bell.rings() {
                return Ok(());
            }
        }
    }
}

impl EventSource for Probe {
    fn poll(&mut self, timeout: Duration, handle: &mut dyn FnMut(&mut Event)) -> Result<SourceStatus, BoxError> {
        self.poll_events(timeout, handle)?;
        Ok(SourceStatus::Open)
    }

    fn losses(&mut self, handle: &mut dyn FnMut(Loss)) -> Result<(), BoxError> {
        let now = self.enrichment.clock.to_epoch(BootTime::now());
        self.losses.refresh();
        self.losses.report(self.losses_told_at.min(now), now, handle)?;
        self.losses_told_at = now;
        Ok(())
    }

    fn shed(&mut self, shedding: Shedding) -> Result<(), BoxError> {
        Ok(self.set_shedding(shedding)?)
    }

    /// Has the kernel's task iterator run once more, a part of it at each poll. It reads no memory of the processes: their
    /// arguments are unknown. False if the probe was built without the [snapshot](ProbeBuilder::snapshot), or in another PID
    /// namespace than the host's, of which the iterator shows no more than that.
    fn reread_processes(&mut self) -> Result<bool, BoxError> {
        if !in_host_pid_namespace() {
            return Ok(false);
        }
        let Some(pass) = snapshot(&self.objects, Arguments::Leave)? else { return Ok(false) };
        self.reread.begin(pass);
        Ok(true)
    }

    fn reread_done(&mut self) -> Result<bool, BoxError> {
        Ok(self.reread.done()?)
    }

    fn provides(&self, kind: EventKind) -> FieldSet {
        self.settings.provides(kind)
    }

    fn unavailable(&self, policy_type: PolicyType) -> Option<String> {
        self.settings.unavailable(policy_type)
    }

    fn hooks(&self) -> Vec<Hook> {
        self.settings.tier_hooks()
    }

    fn no_mechanism(&self, mechanism: Mechanism) -> Option<String> {
        self.settings.no_mechanism(mechanism)
    }
}

/// How many ends are remembered. Those of one process follow each other as closely as its threads end.
const ENDED: usize = 64;

/// The processes that ended last, so that none ends twice.
#[derive(Debug)]
struct Ended {
    processes: [ProcessKey; ENDED],
    next: usize,
}

impl Default for Ended {
    fn default() -> Self {
        Self { processes: [ProcessKey::default(); ENDED], next: 0 }
    }
}

impl Ended {
    /// Whether `event` says what another has said.
    fn again(&mut self, event: &Event) -> bool {
        if event.kind != EventKind::Exit {
            return false;
        }
        if self.processes.contains(&event.process) {
            return true;
        }
        self.processes[self.next] = event.process;
        self.next = (self.next + 1) % ENDED;
        false
    }
}

/// Has the protector cover what the probe has now.
fn protect(protector: &mut Protector, objects: &[LoadedObject], points: &Points) -> Result<(), ProbeError> {
    let links = objects.iter().flat_map(LoadedObject::links).chain(points.links());
    protector.cover(objects.iter().map(|object| &object.object).chain(points.objects()), links)
}

/// Starts the snapshot, if it is wanted.
fn snapshot(objects: &[LoadedObject], arguments: Arguments) -> Result<Option<Snapshot>, ProbeError> {
    for object in objects {
        if let Some(hook) = object.loaded.iter().find(|hook| hook.attach == Attach::Iterator) {
            let snapshot = Snapshot::start(object.link(*hook)?, arguments);
            return snapshot.map(Some).map_err(|source| ProbeError::Attach { program: hook.program, source });
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;

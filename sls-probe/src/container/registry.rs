//! Which container each cgroup belongs to, and what becomes of containers.

use std::collections::{HashMap, HashSet, VecDeque};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sls_core::{CONTAINER_FIELDS, Event, EventKind, Field, Value};

use super::builder::{ContainersBuilder, Settings};
use super::cgroup::{ContainerCgroup, may_be_bare};
use super::hierarchy::{CgroupMaker, Found, Hierarchy, lower_half, scan};
use super::info::{ContainerInfo, Place};
use super::worker::{Answer, Slot, Worker};
use crate::record::CgroupRecord;

/// Starts and stops that wait for the details of their container. More are reported without.
pub const MAX_AWAITED_CONTAINER_EVENTS: usize = 1024;

/// Id of the root of a hierarchy.
const ROOT_ID: u64 = 1;

/// How often is looked whether everything is known.
const SETTLE_INTERVAL: Duration = Duration::from_millis(1);

const START: &[u8] = b"START";
const STOP: &[u8] = b"STOP";

/// The containers of a host. It is told of cgroups, and tells in which container an event happened, and when containers
/// start and stop.
///
/// Nothing here blocks: what runtimes and engines write about their containers is read by a thread of its own. Until that
/// is done, an event of a container has its id, and the rest is unknown.
///
/// ```
/// use sls_core::{Event, EventKind, Field, Value};
/// use sls_probe::{CgroupMaker, ContainerStates, Containers, Hierarchy};
///
/// let id = "e01a26336924e2fb8089bcf4cf943954fd9ea616cc5678f38f65928307979459";
/// let nothing_there = ContainerStates::under("/nonexistent");
/// let mut containers = Containers::builder().states(nothing_there).start()?;
/// containers.created(Hierarchy::Unified, 4711, format!("/docker/{id}").as_bytes(), CgroupMaker::new(0));
///
/// let mut event = Event::new(EventKind::Exec);
/// event.cgroup_id = Some(4711);
/// containers.fill(&mut event, None);
/// assert_eq!(event.text(Field::ContainerId), id.as_bytes());
/// assert_eq!(event.value(Field::ImageName), Value::Unknown);
///
/// containers.removed(Hierarchy::Unified, 4711, 0);
/// assert_eq!(containers.stats().cgroups, 0);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Containers {
    worker: Worker,
    settings: Settings,
    cgroups: HashMap<(Hierarchy, u64), Known>,
    /// What the worker finds out, by the path of the container's own cgroup.
    slots: HashMap<Arc<[u8]>, Container>,
    awaited: VecDeque<Awaited>,
    /// Of the next cgroup.
    sequence: u64,
    /// Under way.
    rescan: Option<Rescan>,
    rescan_again: bool,
    /// Holds a path while it is translated.
    path: Vec<u8>,
    stats: ContainerStats,
}

#[derive(Debug)]
struct Known {
    cgroup: Cgroup,
    /// Rises with each cgroup.
    sequence: u64,
}

/// A look at all cgroups by the worker.
#[derive(Debug)]
struct Rescan {
    /// Sequence number of the first cgroup that was told of after it began.
    floor: u64,
    /// What was removed since.
    removed: HashSet<(Hierarchy, u64)>,
}

#[derive(Debug)]
enum Cgroup {
    /// In no container.
    Host,
    /// Perhaps in a container; `own` if it is the cgroup that the slot is about, and not one below.
    Of { slot: Arc<Slot>, own: bool },
    /// There was no room for its container.
    Untracked,
}

#[derive(Debug)]
struct Container {
    slot: Arc<Slot>,
    /// Cgroups that are its own: one in each hierarchy.
    own: u32,
    /// Cgroups that are its own or below.
    all: u32,
    /// The mount namespace of who made it: the runtime, or systemd for it.
    maker_mount_namespace: Option<u32>,
    started: bool,
}

#[derive(Debug)]
struct Awaited {
    slot: Arc<Slot>,
    event: Box<Event>,
}

/// How the paths of an event lead to the host's files.
enum Paths<'i> {
    /// As they are.
    Same,
    /// Through the container's root and mounts.
    Of(&'i ContainerInfo),
    Unknown,
}

/// What a [`Containers`] holds, and what did not fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ContainerStats {
    /// Cgroups that are remembered.
    pub cgroups: usize,
    /// Containers that are remembered, and cgroups that may be some.
    pub containers: usize,
    /// Starts and stops that wait for the details of their container.
    pub awaited: usize,
    /// Cgroups that did not fit, since the start.
    pub untracked: u64,
    /// Containers of which not everything became known in time, since the start.
    pub given_up: u64,
    /// Times that all cgroups were looked at again, because some came or went unseen, since the start.
    pub rescans: u64,
    /// Containers that were not looked for, because the thread that does it had too much to do, since the start.
    pub unasked: u64,
    /// Starts and stops that were reported without the details of their container, since the start.
    pub unawaited: u64,
}

impl Containers {
    /// The way to the containers of this host.
    pub fn builder() -> ContainersBuilder {
        ContainersBuilder::default()
    }

    pub(super) fn new(worker: Worker, settings: Settings) -> Self {
        Self {
            worker,
            settings,
            cgroups: HashMap::new(),
            slots: HashMap::new(),
            awaited: VecDeque::new(),
            sequence: 0,
            rescan: None,
            rescan_again: false,
            path: Vec::new(),
            stats: ContainerStats::default(),
        }
    }

    /// Finds the cgroups that there are. A container in which something runs counts as started: it is reported by
    /// [`poll`](Self::poll) if `report`. Reads the file system of cgroups, and so can take some milliseconds.
    pub fn scan(&mut self, report: bool) {
        let floor = self.sequence;
        self.apply(scan(self.settings.cgroup_limit), floor, &HashSet::new(), report);
    }

    /// Waits until everything is known of the containers that there are, but no longer than `limit`. Returns whether it is.
    pub fn settle(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            if self.slots.values().all(|container| container.slot.whole_answer().is_some()) {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            thread::sleep(SETTLE_INTERVAL);
        }
    }

    /// Tells of starts and stops from now on, or no more.
    pub fn set_events(&mut self, on: bool) {
        self.settings.events = on;
        if !on {
            self.awaited.clear();
        }
    }

    /// Has the cgroups found again, because some came or went unseen. [`poll`](Self::poll) takes notice when that is done.
    pub fn rescan(&mut self) {
        // Told twice, the first answer may be older than the second question.
        if self.rescan.is_none() && self.worker.scan(self.settings.cgroup_limit) {
            self.rescan = Some(Rescan { floor: self.sequence, removed: HashSet::new() });
        } else {
            self.rescan_again = true;
        }
    }

    fn take_rescan(&mut self) {
        if self.rescan.is_some()
            && let Some(found) = self.worker.scanned()
            && let Some(rescan) = self.rescan.take()
        {
            self.apply(found, rescan.floor, &rescan.removed, true);
            self.stats.rescans += 1;
        }
        if self.rescan.is_none() && mem::take(&mut self.rescan_again) {
            self.rescan();
        }
    }

    /// Takes over what was found. Of what was told since the look began, at `floor`, that stands.
    fn apply(&mut self, found: Vec<Found>, floor: u64, removed: &HashSet<(Hierarchy, u64)>, report: bool) {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
        // The root of version 2 is there even where it is not mounted. Its id is always the first.
        self.created(Hierarchy::Unified, ROOT_ID, b"/", CgroupMaker::new(0));
        let there: HashSet<_> = found.iter().map(|cgroup| (cgroup.hierarchy, cgroup.id)).collect();
        let old = self.cgroups.iter().filter(|(_, known)| known.sequence < floor);
        let gone: Vec<_> = old.map(|(key, _)| *key).filter(|key| !there.contains(key) && key.1 != ROOT_ID).collect();
        for (hierarchy, id) in gone {
            self.removed(hierarchy, id, time);
        }
        for cgroup in found {
            let key = (cgroup.hierarchy, cgroup.id);
            if self.cgroups.contains_key(&key) || removed.contains(&key) {
                continue;
            }
            self.created(key.0, key.1, &cgroup.path, CgroupMaker::new(cgroup.maker));
            let Some(Cgroup::Of { slot, own: true }) = self.cgroups.get(&key).map(|known| &known.cgroup) else {
                continue;
            };
            let Some(container) = self.slots.get_mut(&slot.path).filter(|it| cgroup.populated && !it.started) else {
                continue;
            };
            container.started = true;
            if report {
                let mut event = Event::new(EventKind::Container);
                event.time = time;
                event.cgroup_id = (cgroup.hierarchy == Hierarchy::Unified).then_some(cgroup.id);
                event.set_text(Field::ContainerOperation, START);
                let slot = Arc::clone(slot);
                self.announce(slot, Box::new(event));
            }
        }
    }

    /// A cgroup was created: its id (the inode of its directory), its path from the root of the hierarchy, and who made it.
    /// What a user other than root made is believed to be no container of the host's: only its path counts, and nothing is
    /// looked up.
    pub fn created(&mut self, hierarchy: Hierarchy, id: u64, path: &[u8], maker: CgroupMaker) {
        if self.cgroups.len() >= self.settings.cgroup_limit && !self.cgroups.contains_key(&(hierarchy, id)) {
            self.stats.untracked += 1;
            return;
        }
        let cgroup = self.place(path, maker);
        if let (Cgroup::Of { slot, own: true }, Hierarchy::Unified) = (&cgroup, hierarchy) {
            slot.cgroup_id.store(id, Ordering::Relaxed);
        }
        let known = Known { cgroup, sequence: self.sequence };
        self.sequence += 1;
        if let Some(Known { cgroup: Cgroup::Of { slot, own }, .. }) = self.cgroups.insert((hierarchy, id), known) {
            // Told twice of the same one.
            self.disown(&slot, own);
        }
    }

    /// Takes over what the kernel says about a cgroup, at `time` in nanoseconds since the epoch.
    pub(crate) fn note(&mut self, record: &CgroupRecord<'_>, time: u64) {
        let id = match record.hierarchy {
            Hierarchy::Unified => record.id,
            Hierarchy::Legacy => lower_half(record.id),
        };
        if record.removed {
            self.removed(record.hierarchy, id, time);
            return;
        }
        let Some(path) = record.path else { return self.rescan() };
        // The end of a path that was cut is far below any container. Where no container is above it, it stays unknown.
        let whole = match path.iter().rposition(|byte| *byte == b'/').filter(|_| record.cut) {
            Some(slash) if ContainerCgroup::parse(&path[..slash]).is_some() => &path[..=slash],
            Some(_) => return,
            None => path,
        };
        self.created(record.hierarchy, id, whole, record.maker);
    }

    fn place(&mut self, path: &[u8], maker: CgroupMaker) -> Cgroup {
        let slot = Slot::new(path, maker.runtime);
        if slot.named.is_none() && (maker.uid != 0 || !may_be_bare(path)) {
            return Cgroup::Host;
        }
        let own = *slot.path == *path;
        if let Some(known) = self.slots.get_mut(&slot.path) {
            known.own += u32::from(own);
            known.all += 1;
            return Cgroup::Of { slot: Arc::clone(&known.slot), own };
        }
        if self.slots.len() >= self.settings.container_limit {
            self.stats.untracked += 1;
            return Cgroup::Untracked;
        }
        if maker.uid != 0 {
            slot.give_up();
        } else if !self.worker.ask(&slot) {
            self.stats.unasked += 1;
        }
        let container = Container {
            slot: Arc::clone(&slot),
            own: u32::from(own),
            all: 1,
            maker_mount_namespace: maker.mount_namespace,
            started: false,
        };
        self.slots.insert(Arc::clone(&slot.path), container);
        Cgroup::Of { slot, own }
    }

    /// A cgroup was removed, at `time` in nanoseconds since the epoch.
    pub fn removed(&mut self, hierarchy: Hierarchy, id: u64, time: u64) {
        if let Some(rescan) = self.rescan.as_mut() {
            rescan.removed.insert((hierarchy, id));
            // Too much happens for the answer to be worth it.
            if rescan.removed.len() > self.settings.cgroup_limit {
                self.rescan = None;
                self.rescan_again = true;
            }
        }
        let known = self.cgroups.remove(&(hierarchy, id));
        let Some(Known { cgroup: Cgroup::Of { slot, own }, .. }) = known else { return };
        if self.disown(&slot, own) {
            let mut event = Event::new(EventKind::Container);
            event.time = time;
            event.cgroup_id = (hierarchy == Hierarchy::Unified).then_some(id);
            event.set_text(Field::ContainerOperation, STOP);
            self.announce(slot, Box::new(event));
        }
    }

    /// A cgroup that a slot is about, or one below, is no more. Returns whether a container stops with it.
    fn disown(&mut self, slot: &Slot, own: bool) -> bool {
        let Some(container) = self.slots.get_mut(&slot.path) else { return false };
        container.all = container.all.saturating_sub(1);
        container.own = container.own.saturating_sub(u32::from(own));
        let stops = own && container.own == 0 && container.started;
        container.started &= !stops;
        if container.all == 0 {
            slot.gone.store(true, Ordering::Relaxed);
            self.slots.remove(&slot.path);
        }
        stops
    }

    /// Sets the fields that say in which container `event` happened: by [`Event::cgroup_id`], or else by the id of the
    /// cgroup that its process has in the hierarchy of version 1. An execution may be the start of a container.
    ///
    /// Of an event about a file, `hostFilePath` and `newHostFilePath` are set too.
    pub fn fill(&mut self, event: &mut Event, legacy_id: Option<u64>) {
        let unified = event.cgroup_id.map(|id| (Hierarchy::Unified, id));
        let legacy = legacy_id.map(|id| (Hierarchy::Legacy, id));
        let mut missing = unified.is_none() && legacy.is_none();
        for key in [unified, legacy].into_iter().flatten() {
            match self.cgroups.get(&key).map(|known| &known.cgroup) {
                Some(Cgroup::Host) => {}
                Some(Cgroup::Of { slot, .. }) => {
                    let slot = Arc::clone(slot);
                    if self.fill_from(&slot, event) {
                        return;
                    }
                }
                Some(Cgroup::Untracked) => missing = true,
                None => missing = true,
            }
        }
        if missing {
            CONTAINER_FIELDS.iter().for_each(|field| {
                event.mark_unknown(*field);
            });
        }
        self.translate(event, |_| if missing { Paths::Unknown } else { Paths::Same });
    }

    /// Returns whether the event is in the container, or may be.
    fn fill_from(&mut self, slot: &Arc<Slot>, event: &mut Event) -> bool {
        match slot.answer() {
            Some(Answer::Host) => return false,
            Some(Answer::Container(info, own)) => {
                info.fill(event);
                event.container_cgroup_id = self.own_cgroup(slot, own);
                let own = match slot.mount_namespace.load(Ordering::Relaxed) {
                    0 => info.mount_namespace,
                    inode => Some(inode),
                };
                let host = self.settings.host_mount_namespace;
                self.translate(event, |event| match event.mount_namespace {
                    // A container in the container, or one that mounted something of its own, is not known.
                    Some(inode) if Some(inode) == own => Paths::Of(info),
                    // The runtime, on its way into the container.
                    Some(inode) if Some(inode) == host => Paths::Same,
                    _ => Paths::Unknown,
                });
            }
            None => {
                self.translate(event, |_| Paths::Unknown);
                CONTAINER_FIELDS.iter().for_each(|field| {
                    event.mark_unknown(*field);
                });
                if let Some((id, _)) = &slot.named {
                    event.set_text(Field::ContainerId, id.as_bytes());
                    // The path alone says which cgroup it is; an action need not wait for names.
                    event.container_cgroup_id = self.own_cgroup(slot, slot.path.len());
                }
            }
        }
        if event.kind == EventKind::Exec {
            self.ran(slot, event);
        }
        true
    }

    /// The id of the cgroup that is the container's own. Below that of a container without a name, each has its own slot.
    fn own_cgroup(&self, slot: &Slot, own: usize) -> Option<u64> {
        let owner = match own < slot.path.len() {
            true => &self.slots.get(&slot.path[..own])?.slot,
            false => slot,
        };
        Some(owner.cgroup_id.load(Ordering::Relaxed)).filter(|id| *id != 0)
    }

    /// Sets the paths on the host of an event about a file.
    fn translate<'i>(&mut self, event: &mut Event, paths: impl FnOnce(&Event) -> Paths<'i>) {
        if event.kind != EventKind::File {
            return;
        }
        let paths = paths(event);
        for (inside, outside) in [(Field::FilePath, Field::HostFilePath), (Field::NewFilePath, Field::NewHostFilePath)]
        {
            let info = match (event.value(inside), &paths) {
                (Value::Absent, _) => continue,
                (_, Paths::Same) => {
                    event.copy_text(inside, outside);
                    continue;
                }
                // Of a path that was cut the start is missing.
                (Value::Text { bytes, truncated: false }, Paths::Of(info)) => {
                    self.path.clear();
                    self.path.extend_from_slice(bytes);
                    info
                }
                _ => {
                    event.mark_unknown(outside);
                    continue;
                }
            };
            match info.place_of(&self.path) {
                Place::Host(directory, rest) => event.set_text_parts(outside, [directory, rest]),
                Place::Nowhere => event.clear(outside),
                Place::Unknown => event.mark_unknown(outside),
            };
        }
    }

    /// A program runs in a container: it starts if it is the first.
    fn ran(&mut self, slot: &Slot, event: &Event) {
        // A cgroup below that of a container without a name has a slot of its own.
        let own = match slot.answer() {
            Some(Answer::Container(_, own)) => &slot.path[..own],
            _ => &slot.path,
        };
        let Some(container) = self.slots.get_mut(own).filter(|container| !container.started) else { return };
        // The runtime's own program, before it becomes the container's.
        let inside = event.mount_namespace;
        if inside.is_some()
            && (inside == self.settings.host_mount_namespace || inside == container.maker_mount_namespace)
        {
            return;
        }
        container.started = true;
        container.slot.mount_namespace.store(inside.unwrap_or(0), Ordering::Relaxed);
        container.slot.runs.store(true, Ordering::Relaxed);
        let mut event = Box::new(event.clone());
        event.kind = EventKind::Container;
        event.lost = 0;
        event.set_text(Field::ContainerOperation, START);
        let slot = Arc::clone(&container.slot);
        self.announce(slot, event);
    }

    fn announce(&mut self, slot: Arc<Slot>, event: Box<Event>) {
        if !self.settings.events {
            return;
        }
        self.awaited.push_back(Awaited { slot, event });
    }

    /// Whether [`poll`](Self::poll) should be called soon: starts or stops wait to be reported, or cgroups are looked for.
    #[must_use]
    pub fn is_awaiting(&self) -> bool {
        !self.awaited.is_empty() || self.rescan.is_some() || self.rescan_again
    }

    /// Reports the starts and stops of containers whose details are known by now, or are not going to be. Returns how
    /// many.
    pub fn poll(&mut self, handle: &mut dyn FnMut(&mut Event)) -> usize {
        self.take_rescan();
        let mut count = 0;
        for _ in 0..self.awaited.len() {
            let Some(mut next) = self.awaited.pop_front() else { break };
            let crowded = self.awaited.len() >= MAX_AWAITED_CONTAINER_EVENTS;
            if next.slot.whole_answer().is_none() && crowded {
                next.slot.give_up();
                self.stats.unawaited += 1;
            }
            match next.slot.whole_answer() {
                None => self.awaited.push_back(next),
                Some(Answer::Host) => {}
                Some(Answer::Container(info, own)) => {
                    if own < next.slot.path.len() && !starts_above(&mut self.slots, &next, own) {
                        continue;
                    }
                    CONTAINER_FIELDS.iter().for_each(|field| {
                        next.event.clear(*field);
                    });
                    info.fill(&mut next.event);
                    next.event.container_cgroup_id = self.own_cgroup(&next.slot, own);
                    info.fill_setup(&mut next.event);
                    handle(&mut next.event);
                    count += 1;
                }
            }
        }
        count
    }

    /// The container that a cgroup belongs to, if it is known.
    #[must_use]
    pub fn container(&self, hierarchy: Hierarchy, cgroup_id: u64) -> Option<&ContainerInfo> {
        let Cgroup::Of { slot, .. } = &self.cgroups.get(&(hierarchy, cgroup_id))?.cgroup else { return None };
        match slot.answer()? {
            Answer::Container(info, _) => Some(info),
            Answer::Host => None,
        }
    }

    /// What is held, and what did not fit.
    #[must_use]
    pub fn stats(&self) -> ContainerStats {
        ContainerStats {
            cgroups: self.cgroups.len(),
            containers: self.slots.len(),
            awaited: self.awaited.len(),
            given_up: self.worker.given_up(),
            ..self.stats
        }
    }
}

/// What happened in a cgroup below that of a container without a name was taken for its start or stop, as long as it was
/// not known for what it is. Whether it is the container's start.
fn starts_above(slots: &mut HashMap<Arc<[u8]>, Container>, awaited: &Awaited, own: usize) -> bool {
    let starts = awaited.event.text(Field::ContainerOperation) == START;
    let owner = slots.get_mut(&awaited.slot.path[..own]).filter(|owner| starts && !owner.started);
    owner.is_some_and(|owner| {
        owner.started = true;
        owner.slot.mount_namespace.store(awaited.event.mount_namespace.unwrap_or(0), Ordering::Relaxed);
        true
    })
}

//! The trees of processes: a slab of entries that are linked by index, so that nothing recurses and nothing is leaked.

use std::collections::{HashMap, VecDeque};
use std::ops::Index;
use std::sync::Arc;

use uuid::Uuid;

use super::image::ProcessImage;
use crate::event::{MAX_ANCESTORS, ProcessKey};

/// How long a process that has ended stays for events that come late, in nanoseconds: 5 seconds. It stays only if its source
/// says when events happened ([`Event::since_boot`](crate::Event::since_boot)).
pub const LATE_EVENT_TIME: u64 = 5_000_000_000;

/// The most ended processes that stay for events that come late, but no more than an eighth of what the table holds.
pub const MAX_LINGERING: usize = 4096;

/// How many ended processes leave at one event at most.
const LEAVING_AT_ONCE: usize = 8;

/// The index of no entry.
pub(super) const NIL: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Seen to act, not seen to end.
    Living,
    /// Only named as a parent: kept, like an exited process, for its children's sake.
    Named,
    Exited,
    /// A free slot.
    Vacant,
}

/// Where a process came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// No event named a parent.
    Untold,
    /// From the entry in `parent`.
    Linked,
    /// From an entry that had to leave.
    Lost,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: ProcessKey,
    pub(super) reported_parent: ProcessKey,
    pub(super) image: Arc<ProcessImage>,
    /// What was in force before `image`.
    former: Arc<ProcessImage>,
    pub(super) parent: u32,
    pub(super) state: State,
    pub(super) origin: Origin,
    alert_group: Option<Uuid>,
    /// The latest pass over all processes in which it was found, or before which it was made.
    pass: u32,
    first_child: u32,
    previous_sibling: u32,
    next_sibling: u32,
    queue: Option<QueueName>,
    // Neighbours in the queue; `next` also links free slots.
    previous: u32,
    next: u32,
}

/// The queues that entries leave a full table from, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum QueueName {
    /// Not living: there for descendants.
    Kept,
    /// Living, without children.
    Leaf,
    /// Living, with children.
    Inner,
}

#[derive(Clone, Copy, Debug)]
struct Queue {
    head: u32,
    tail: u32,
}

#[derive(Debug)]
struct Leaving {
    index: u32,
    /// Of whose process the entry was then.
    pid: u32,
    /// In nanoseconds since boot; zero: until the next event.
    until: u64,
}

#[derive(Debug)]
pub(super) struct Forest {
    entries: Vec<Entry>,
    free: u32,
    len: usize,
    limit: usize,
    evicted: u64,
    // Those whose start time is known.
    by_key: HashMap<ProcessKey, u32>,
    // The process with the greatest start time of each pid.
    by_pid: HashMap<u32, u32>,
    queues: [Queue; 3],
    // Exited processes without children that stay for a while.
    leaving: VecDeque<Leaving>,
    // Passes begun so far.
    pass: u32,
    // The latest time of an event, in nanoseconds since boot.
    latest: u64,
    // An entry that must not leave while another is made.
    pinned: u32,
    unknown_image: Arc<ProcessImage>,
}

impl Index<u32> for Forest {
    type Output = Entry;

    fn index(&self, index: u32) -> &Entry {
        &self.entries[index as usize]
    }
}

impl Forest {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            entries: Vec::new(),
            free: NIL,
            len: 0,
            limit,
            evicted: 0,
            by_key: HashMap::new(),
            by_pid: HashMap::new(),
            queues: [Queue { head: NIL, tail: NIL }; 3],
            leaving: VecDeque::new(),
            pass: 0,
            latest: 0,
            pinned: NIL,
            unknown_image: Arc::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    pub(super) fn unknown_image(&self) -> &Arc<ProcessImage> {
        &self.unknown_image
    }

    pub(super) fn indexes(&self) -> impl Iterator<Item = u32> {
        let occupied = |(_, entry): &(usize, &Entry)| entry.state != State::Vacant;
        self.entries.iter().enumerate().filter(occupied).map(|(index, _)| index as u32)
    }

    /// `index` and what is above it.
    pub(super) fn upwards(&self, index: u32) -> impl Iterator<Item = u32> {
        let present = |index: u32| (index != NIL).then_some(index);
        std::iter::successors(present(index), move |index| present(self[*index].parent))
    }

    /// Those that descend directly from `index`.
    pub(super) fn children(&self, index: u32) -> impl Iterator<Item = u32> {
        let present = |index: u32| (index != NIL).then_some(index);
        std::iter::successors(present(self[index].first_child), move |child| present(self[*child].next_sibling))
    }

    /// The entry of `key`. A start time that one of both does not know is not compared.
    pub(super) fn find(&self, key: ProcessKey) -> Option<u32> {
        if key.start != 0
            && let Some(index) = self.by_key.get(&key)
        {
            return Some(*index);
        }
        let index = *self.by_pid.get(&key.pid)?;
        (key.start == 0 || self[index].key.start == 0).then_some(index)
    }

    /// Whether a later process has had the pid of `key` since.
    pub(super) fn is_stale(&self, key: ProcessKey) -> bool {
        let newest = self.by_pid.get(&key.pid).map_or(0, |index| self[*index].key.start);
        key.start != 0 && newest > key.start
    }

    /// The entry of `key`, or a new one of which only that is known. `spared` does not leave to make room for it.
    pub(super) fn find_or_name(&mut self, key: ProcessKey, spared: u32) -> u32 {
        self.find(key).unwrap_or_else(|| {
            self.pinned = spared;
            let image = Arc::clone(&self.unknown_image);
            let index = self.insert_pinned(key, image, State::Named, NIL);
            self.pinned = NIL;
            index
        })
    }

    /// A new entry under `parent`, which may be [`NIL`]. It replaces an older process with the same pid.
    pub(super) fn insert(&mut self, key: ProcessKey, image: Arc<ProcessImage>, state: State, parent: u32) -> u32 {
        self.pinned = parent;
        let index = self.insert_pinned(key, image, state, parent);
        self.pinned = NIL;
        index
    }

    fn insert_pinned(&mut self, key: ProcessKey, image: Arc<ProcessImage>, state: State, parent: u32) -> u32 {
        while self.len >= self.limit && self.let_go() {}
        if self.len >= self.limit {
            self.evict();
        }
        let index = self.occupy(key, image, state);
        if parent != NIL {
            self.attach(index, parent);
        }
        self.place(index);
        if key.start != 0 {
            self.by_key.insert(key, index);
        }
        match self.by_pid.get(&key.pid).copied() {
            Some(newest) if key.start != 0 && self[newest].key.start > key.start => {}
            newest => {
                self.by_pid.insert(key.pid, index);
                // Its exit was not seen. It goes last: it may be the parent.
                if let Some(older) = newest.filter(|older| self[*older].state != State::Exited) {
                    self.entry(older).state = State::Exited;
                    self.place(older);
                    self.settle(older);
                }
            }
        }
        index
    }

    /// The image that was in force at `time`, in nanoseconds since boot; zero is now.
    pub(super) fn image_at(&self, index: u32, time: u64) -> &Arc<ProcessImage> {
        let Entry { image, former, .. } = &self[index];
        match time {
            0 => image,
            time if time >= image.since() => image,
            time if time >= former.since() => former,
            _ => &self.unknown_image,
        }
    }

    pub(super) fn set_image(&mut self, index: u32, image: Arc<ProcessImage>) {
        self.entry(index).image = image;
    }

    /// Sets an image that came into force after `former`.
    pub(super) fn replace_image(&mut self, index: u32, image: Arc<ProcessImage>, former: Arc<ProcessImage>) {
        self.set_image(index, image);
        self.set_former_image(index, former);
    }

    pub(super) fn former_image(&self, index: u32) -> &Arc<ProcessImage> {
        &self[index].former
    }

    pub(super) fn set_former_image(&mut self, index: u32, former: Arc<ProcessImage>) {
        self.entry(index).former = former;
    }

    pub(super) fn set_reported_parent(&mut self, index: u32, parent: ProcessKey) {
        self.entry(index).reported_parent = parent;
    }

    pub(super) fn set_alert_group(&mut self, index: u32, group: Uuid) {
        self.entry(index).alert_group = Some(group);
    }

    pub(super) fn alert_group(&self, index: u32) -> Option<Uuid> {
        self.upwards(index).find_map(|index| self[index].alert_group)
    }

    /// As [`Forest::alert_group`], in bounded time, as any birth and loss asks for it. Nothing slips through: what is born
    /// below a process with a group takes it over.
    fn near_alert_group(&self, index: u32) -> Option<Uuid> {
        self.upwards(index).take(MAX_ANCESTORS).find_map(|index| self[index].alert_group)
    }

    /// Whether a process that was only named has acted now.
    pub(super) fn revive(&mut self, index: u32) -> bool {
        let named = self[index].state == State::Named;
        if named {
            self.entry(index).state = State::Living;
            self.place(index);
        }
        named
    }

    /// An entry without a start time gets the one that an event knows.
    pub(super) fn learn_start(&mut self, index: u32, start: u64) {
        let key = self[index].key;
        if key.start == 0 && start != 0 {
            let key = ProcessKey { start, ..key };
            self.entry(index).key = key;
            self.by_key.insert(key, index);
        }
    }

    /// Takes the process that an event names for the origin, if none was told before or if the event is `sure` of it.
    pub(super) fn learn_origin(&mut self, index: u32, origin: ProcessKey, sure: bool) {
        let entry = &self[index];
        let open = sure || entry.origin == Origin::Untold;
        if !open || entry.state != State::Living || entry.key.pid == origin.pid {
            return;
        }
        let parent = self.find_or_name(origin, index);
        let previous = self[index].parent;
        if previous == parent {
            return;
        }
        // Hostile events could name a descendant as the parent. Far below, it is not looked for.
        let mut above = self.upwards(parent);
        let acyclic = above.by_ref().take(MAX_ANCESTORS).all(|ancestor| ancestor != index) && above.next().is_none();
        drop(above);
        self.detach(index);
        if acyclic {
            self.attach(index, parent);
        } else {
            self.entry(index).origin = Origin::Lost;
        }
        if previous != NIL {
            self.settle(previous);
        }
    }

    /// The process has ended at `time`, in nanoseconds since boot. It stays for its descendants, or for a while.
    pub(super) fn exit(&mut self, index: u32, time: u64) {
        if self[index].state == State::Exited {
            return;
        }
        self.entry(index).state = State::Exited;
        self.place(index);
        if self[index].first_child == NIL {
            let until = if time == 0 { 0 } else { time.saturating_add(LATE_EVENT_TIME) };
            self.leaving.push_back(Leaving { index, pid: self[index].key.pid, until });
        } else {
            self.settle(index);
        }
    }

    /// Lets go of the processes that have ended long enough before `time`, in nanoseconds since boot; of some of them if they
    /// are many, so that no event waits for that.
    pub(super) fn flush(&mut self, time: u64) {
        self.latest = self.latest.max(time);
        let limit = MAX_LINGERING.min(self.limit / 8).max(1);
        for _ in 0..LEAVING_AT_ONCE {
            let is_due = |leaving: &Leaving| leaving.until == 0 || leaving.until <= time;
            if !self.leaving.front().is_some_and(is_due) && self.leaving.len() <= limit {
                return;
            }
            self.let_go();
        }
    }

    /// Begins a pass over all processes that run.
    pub(super) fn begin_pass(&mut self) {
        self.pass = self.pass.wrapping_add(1);
    }

    /// The process was found in the pass.
    pub(super) fn find_in_pass(&mut self, index: u32) {
        self.entry(index).pass = self.pass;
    }

    /// Ends what was there when the pass began and was not found in it. Returns how many of these had been thought to live.
    pub(super) fn finish_pass(&mut self) -> usize {
        let mut ended = 0;
        for index in 0..self.entries.len() as u32 {
            match self[index].state {
                State::Living | State::Named if self[index].pass == self.pass => {}
                State::Living => {
                    ended += 1;
                    self.exit(index, self.latest);
                }
                State::Named => self.entry(index).state = State::Exited,
                State::Exited | State::Vacant => {}
            }
        }
        ended
    }

    /// Lets go of the process that has ended first, of those that stay for a while; false if there is none.
    fn let_go(&mut self) -> bool {
        let Some(Leaving { index, pid, .. }) = self.leaving.pop_front() else { return false };
        // It may have had to leave before.
        if self[index].key.pid == pid && self[index].state == State::Exited {
            self.settle(index);
        }
        true
    }

    /// Restores the rules after `index` has ended or lost a child: what is not living has a descendant, and not one that
    /// is too far away.
    fn settle(&mut self, mut index: u32) {
        while let Some(survivor) = self.release(index) {
            match self.trim(survivor) {
                Some(cut) => index = cut,
                None => return,
            }
        }
    }

    /// Frees `index` and what is above it as far as nothing needs it, and gives the first entry that stays.
    fn release(&mut self, mut index: u32) -> Option<u32> {
        loop {
            let entry = &self[index];
            if entry.state == State::Living || entry.first_child != NIL || index == self.pinned {
                self.place(index);
                return Some(index);
            }
            let parent = entry.parent;
            self.detach(index);
            self.vacate(index);
            if parent == NIL {
                return None;
            }
            index = parent;
        }
    }

    /// Cuts the run of exited processes around `index` where it is out of sight of what lives below; gives the entry
    /// above the cut.
    fn trim(&mut self, index: u32) -> Option<u32> {
        let (mut below, mut distance) = (index, 0);
        while self.is_link(below) && distance <= MAX_ANCESTORS {
            below = self[below].first_child;
            distance += 1;
        }
        let mut above = index;
        while self.is_link(above) {
            if distance > MAX_ANCESTORS {
                self.orphan(above);
                return Some(above);
            }
            above = self[above].parent;
            distance += 1;
        }
        None
    }

    /// Whether `index` is there only to join its one child to its parent.
    fn is_link(&self, index: u32) -> bool {
        if index == NIL || self[index].state == State::Living {
            return false;
        }
        let child = self[index].first_child;
        child != NIL && self[child].next_sibling == NIL
    }

    /// Makes room for one more.
    fn evict(&mut self) {
        let unpinned = |queue: &Queue| {
            let head = queue.head;
            if head != NIL && head == self.pinned { self[head].next } else { head }
        };
        let Some(index) = self.queues.iter().map(unpinned).find(|index| *index != NIL) else { return };
        self.evicted += 1;
        self.orphan(index);
        self.entry(index).state = State::Exited;
        self.settle(index);
    }

    /// Takes the children from a parent that is about to leave. They keep the alert group that they had through it.
    fn orphan(&mut self, parent: u32) {
        if self[parent].first_child == NIL {
            return;
        }
        let group = self.near_alert_group(parent);
        while self[parent].first_child != NIL {
            let child = self[parent].first_child;
            self.detach(child);
            let entry = self.entry(child);
            entry.alert_group = entry.alert_group.or(group);
            entry.origin = Origin::Lost;
        }
    }

    fn attach(&mut self, child: u32, parent: u32) {
        let group = self.near_alert_group(parent);
        let sibling = std::mem::replace(&mut self.entry(parent).first_child, child);
        if sibling != NIL {
            self.entry(sibling).previous_sibling = child;
        }
        let entry = self.entry(child);
        entry.alert_group = entry.alert_group.or(group);
        entry.parent = parent;
        entry.origin = Origin::Linked;
        entry.previous_sibling = NIL;
        entry.next_sibling = sibling;
        self.place(parent);
    }

    fn detach(&mut self, child: u32) {
        let Entry { parent, previous_sibling: previous, next_sibling: next, .. } = self[child];
        if parent == NIL {
            return;
        }
        match previous {
            NIL => self.entry(parent).first_child = next,
            previous => self.entry(previous).next_sibling = next,
        }
        if next != NIL {
            self.entry(next).previous_sibling = previous;
        }
        self.entry(child).parent = NIL;
    }

    /// Puts an entry at the end of the queue where it belongs, unless it is in it.
    fn place(&mut self, index: u32) {
        let entry = &self[index];
        let queue = match entry.state {
            State::Living if entry.first_child == NIL => QueueName::Leaf,
            State::Living => QueueName::Inner,
            State::Named | State::Exited => QueueName::Kept,
            State::Vacant => return,
        };
        if entry.queue == Some(queue) {
            return;
        }
        self.unqueue(index);
        let tail = std::mem::replace(&mut self.queues[queue as usize].tail, index);
        match tail {
            NIL => self.queues[queue as usize].head = index,
            tail => self.entry(tail).next = index,
        }
        let entry = self.entry(index);
        entry.queue = Some(queue);
        entry.previous = tail;
        entry.next = NIL;
    }

    fn unqueue(&mut self, index: u32) {
        let Entry { previous, next, .. } = self[index];
        let Some(queue) = self.entry(index).queue.take() else { return };
        match previous {
            NIL => self.queues[queue as usize].head = next,
            previous => self.entry(previous).next = next,
        }
        match next {
            NIL => self.queues[queue as usize].tail = previous,
            next => self.entry(next).previous = previous,
        }
    }

    fn occupy(&mut self, key: ProcessKey, image: Arc<ProcessImage>, state: State) -> u32 {
        let entry = Entry {
            key,
            reported_parent: ProcessKey::default(),
            image,
            former: Arc::clone(&self.unknown_image),
            parent: NIL,
            state,
            origin: Origin::Untold,
            alert_group: None,
            pass: self.pass,
            first_child: NIL,
            previous_sibling: NIL,
            next_sibling: NIL,
            queue: None,
            previous: NIL,
            next: NIL,
        };
        self.len += 1;
        if self.free == NIL {
            self.entries.push(entry);
            return (self.entries.len() - 1) as u32;
        }
        let index = self.free;
        self.free = self[index].next;
        *self.entry(index) = entry;
        index
    }

    fn vacate(&mut self, index: u32) {
        self.unqueue(index);
        let key = self[index].key;
        self.by_key.remove(&key);
        if self.by_pid.get(&key.pid) == Some(&index) {
            self.by_pid.remove(&key.pid);
        }
        let unknown = Arc::clone(&self.unknown_image);
        let free = std::mem::replace(&mut self.free, index);
        let entry = self.entry(index);
        entry.former = Arc::clone(&unknown);
        entry.image = unknown;
        entry.state = State::Vacant;
        entry.next = free;
        self.len -= 1;
    }

    fn entry(&mut self, index: u32) -> &mut Entry {
        &mut self.entries[index as usize]
    }
}

#[cfg(test)]
impl Forest {
    /// Checks everything that must hold between two events.
    pub(super) fn assert_sound(&self) {
        assert!(self.len <= self.limit, "{} of {}", self.len, self.limit);
        assert_eq!(self.indexes().count(), self.len);
        assert_eq!(self.pinned, NIL);
        let mut queued = 0;
        for (name, queue) in [QueueName::Kept, QueueName::Leaf, QueueName::Inner].into_iter().zip(self.queues) {
            let (mut index, mut previous) = (queue.head, NIL);
            while index != NIL {
                assert_eq!((self[index].queue, self[index].previous), (Some(name), previous));
                queued += 1;
                (previous, index) = (index, self[index].next);
            }
            assert_eq!(queue.tail, previous);
        }
        assert_eq!(queued, self.len);
        let mut children = 0;
        for index in self.indexes() {
            let entry = &self[index];
            let expected = match (entry.state, entry.first_child) {
                (State::Living, NIL) => QueueName::Leaf,
                (State::Living, _) => QueueName::Inner,
                _ => QueueName::Kept,
            };
            assert_eq!(entry.queue, Some(expected));
            let lingers = self.leaving.iter().any(|leaving| leaving.index == index && leaving.pid == entry.key.pid);
            let needed = entry.state == State::Living || entry.first_child != NIL || lingers;
            assert!(needed, "{} is kept for nothing", entry.key);
            assert_eq!(entry.origin == Origin::Linked, entry.parent != NIL);
            let mapped = self.by_key.get(&entry.key).copied();
            assert_eq!(mapped, (entry.key.start != 0).then_some(index));
            assert!(self.upwards(index).count() <= self.len, "a cycle above {}", entry.key);
            let (mut child, mut previous) = (entry.first_child, NIL);
            while child != NIL {
                assert_eq!((self[child].parent, self[child].previous_sibling), (index, previous));
                children += 1;
                (previous, child) = (child, self[child].next_sibling);
            }
        }
        assert_eq!(children, self.indexes().filter(|index| self[*index].parent != NIL).count());
        assert!(self.by_key.len() <= self.len && self.by_pid.len() <= self.len);
    }
}

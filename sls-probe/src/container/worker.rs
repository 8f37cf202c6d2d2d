//! The thread that reads what runtimes write, so that the thread of events does not.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::cgroup::{ContainerCgroup, ContainerRuntime, runtime_id};
use super::hierarchy::{Found, scan};
use super::info::ContainerInfo;
use super::states::{ContainerStates, Unnamed};

/// How long a runtime and an engine are given to write what they know of a container, unless told otherwise.
pub const DEFAULT_CONTAINER_PATIENCE: Duration = Duration::from_secs(5);

/// How long the worker goes on looking for a container once a program runs in its cgroup: what has no state by then is
/// no container.
const GRACE: Duration = Duration::from_millis(100);

/// How long files are waited for before the engine is asked.
const ASK_AFTER: Duration = Duration::from_millis(500);

/// Time between two looks at the same container: this part of what it has waited, within these limits. runc writes its
/// state about a millisecond before the container's first program runs.
const WAITED_PART: u32 = 64;
const SHORTEST_WAIT: Duration = Duration::from_micros(300);
const LONGEST_WAIT: Duration = Duration::from_millis(250);

/// Cgroups that may wait for their first look.
const QUEUE: usize = 4096;

/// A cgroup of which the worker finds out what it is.
#[derive(Debug)]
pub(crate) struct Slot {
    /// The container's own cgroup, or one that may be that of a container whose path says nothing.
    pub(crate) path: Arc<[u8]>,
    /// The bare runtime that made the cgroup, if it was one.
    made_by: Option<ContainerRuntime>,
    /// What the path says.
    pub(crate) named: Option<(Box<str>, ContainerRuntime)>,
    /// The container and the length of the path of its own cgroup; or none.
    first: OnceLock<Option<(Box<ContainerInfo>, usize)>>,
    /// The same container, when its runtime had written everything.
    later: OnceLock<Box<ContainerInfo>>,
    /// A program runs there.
    pub(crate) runs: AtomicBool,
    /// The cgroup is no more.
    pub(crate) gone: AtomicBool,
    /// The id of the cgroup in the hierarchy of version 2; 0: it has none.
    pub(crate) cgroup_id: AtomicU64,
    /// The worker has done with it.
    done: AtomicBool,
    /// The mount namespace that its first program ran in; 0: not known.
    pub(crate) mount_namespace: AtomicU32,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer<'s> {
    /// In no container.
    Host,
    /// In the container whose own cgroup has a path of so many bytes.
    Container(&'s ContainerInfo, usize),
}

impl Slot {
    pub(crate) fn new(path: &[u8], made_by: Option<ContainerRuntime>) -> Arc<Self> {
        let cgroup = ContainerCgroup::parse(path);
        Arc::new(Self {
            made_by,
            named: cgroup.map(|cgroup| (cgroup.id.into(), cgroup.runtime)),
            path: cgroup.map_or(path, |cgroup| cgroup.path).into(),
            first: OnceLock::new(),
            later: OnceLock::new(),
            runs: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            cgroup_id: AtomicU64::new(0),
            done: AtomicBool::new(false),
            mount_namespace: AtomicU32::new(0),
        })
    }

    /// What is known by now. Blocks nobody.
    pub(crate) fn answer(&self) -> Option<Answer<'_>> {
        Some(match self.first.get()? {
            Some((info, own)) => Answer::Container(self.later.get().unwrap_or(info), *own),
            None => Answer::Host,
        })
    }

    /// The same, once it is also known how the container is set up, or that this is not going to be known.
    pub(crate) fn whole_answer(&self) -> Option<Answer<'_>> {
        self.answer().filter(|answer| match answer {
            Answer::Container(info, _) if info.early && info.mounts.is_none() => self.done.load(Ordering::Acquire),
            _ => true,
        })
    }

    /// Leaves it at what the path says.
    pub(crate) fn give_up(&self) {
        let named = self.named.as_ref().map(|(id, runtime)| (&**id, *runtime)).or_else(|| self.named_by_runtime());
        let info = named.map(|(id, runtime)| Box::new(ContainerInfo::of_id(id, runtime)));
        // It may have been answered meanwhile.
        let _ = self.first.set(info.map(|info| (info, self.path.len())));
        self.done.store(true, Ordering::Release);
    }

    /// A container that came and went before its state was read: a runtime made the cgroup, and a program that is not the
    /// runtime's ran in it. Unless told otherwise, runtimes name the cgroup as the container.
    fn named_by_runtime(&self) -> Option<(&str, ContainerRuntime)> {
        let runtime = self.made_by.filter(|_| self.runs.load(Ordering::Relaxed))?;
        Some((runtime_id(self.path.rsplit(|byte| *byte == b'/').next()?)?, runtime))
    }

    /// Looks once, asking the engine too if `ask`, and answers if everything is there, or if it is the `last` look.
    fn look(&self, states: &mut ContainerStates, ask: bool, last: bool) -> Looked {
        let found = match ContainerCgroup::parse(&self.path) {
            Some(cgroup) => Unnamed::Container(Box::new(states.named(&cgroup, ask)), self.path.len()),
            None => states.unnamed(&self.path),
        };
        match found {
            Unnamed::Host if self.made_by.is_none() => {
                let _ = self.first.set(None);
                Looked::Answered
            }
            Unnamed::Container(info, own) if info.complete || info.early || last => {
                let looked = match info.early {
                    // Who it is is known; there is more to come.
                    true if !last => Looked::Again,
                    false if !info.complete => Looked::GaveUp,
                    _ => Looked::Answered,
                };
                if self.first.get().is_none() {
                    let _ = self.first.set(Some((info, own)));
                } else if !info.early {
                    let _ = self.later.set(info);
                }
                looked
            }
            Unnamed::Undecided | Unnamed::Host if last => {
                self.give_up();
                Looked::Answered
            }
            Unnamed::Container(..) | Unnamed::Undecided | Unnamed::Host => Looked::Again,
        }
    }
}

enum Looked {
    Answered,
    GaveUp,
    Again,
}

/// The other end of the worker. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Worker {
    queue: SyncSender<Task>,
    given_up: Arc<AtomicU64>,
    scanned: Arc<Mutex<Option<Vec<Found>>>>,
}

/// What the worker is asked for.
#[derive(Debug)]
enum Task {
    Find(Arc<Slot>),
    /// At most so many cgroups.
    Scan(usize),
}

impl Worker {
    pub(crate) fn start(states: ContainerStates, patience: Duration) -> io::Result<Self> {
        let (queue, tasks) = sync_channel(QUEUE);
        let worker = Self { queue, given_up: Arc::default(), scanned: Arc::default() };
        let (given_up, scanned) = (Arc::clone(&worker.given_up), Arc::clone(&worker.scanned));
        let work = move || Work { states, patience, given_up, scanned, jobs: Vec::new() }.run(&tasks);
        thread::Builder::new().name("sls-containers".to_owned()).spawn(work)?;
        Ok(worker)
    }

    /// Has the worker look which cgroups there are. Returns whether it will.
    pub(crate) fn scan(&self, limit: usize) -> bool {
        self.queue.try_send(Task::Scan(limit)).is_ok()
    }

    /// What it found, if it has.
    pub(crate) fn scanned(&self) -> Option<Vec<Found>> {
        // The worker holds it for a moment only; the next time will do.
        self.scanned.try_lock().ok()?.take()
    }

    /// Has the worker find out about `slot`. Returns whether it will: not if it has too much to do.
    pub(crate) fn ask(&self, slot: &Arc<Slot>) -> bool {
        let asked = self.queue.try_send(Task::Find(Arc::clone(slot))).is_ok();
        if !asked {
            slot.give_up();
        }
        asked
    }

    /// Containers of which not everything became known in time.
    pub(crate) fn given_up(&self) -> u64 {
        self.given_up.load(Ordering::Relaxed)
    }
}

struct Work {
    states: ContainerStates,
    patience: Duration,
    given_up: Arc<AtomicU64>,
    scanned: Arc<Mutex<Option<Vec<Found>>>>,
    jobs: Vec<Job>,
}

struct Job {
    slot: Arc<Slot>,
    since: Instant,
    due: Instant,
    /// When the first program ran.
    ran: Option<Instant>,
    /// The engine was asked.
    asked: bool,
}

impl Work {
    fn run(mut self, tasks: &Receiver<Task>) {
        loop {
            let due = self.jobs.iter().map(|job| job.due).min();
            let received = match due {
                None => tasks.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(due) => tasks.recv_timeout(due.saturating_duration_since(Instant::now())),
            };
            match received {
                Ok(Task::Scan(limit)) => {
                    let found = scan(limit);
                    *self.scanned.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
                }
                Ok(Task::Find(slot)) => {
                    let now = Instant::now();
                    self.jobs.push(Job { slot, since: now, due: now, ran: None, asked: false });
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let Self { states, patience, given_up, jobs, .. } = &mut self;
            jobs.retain_mut(|job| {
                let again = job.due > Instant::now() || job.run(states, *patience, given_up);
                if !again {
                    job.slot.done.store(true, Ordering::Release);
                }
                again
            });
        }
    }
}

impl Job {
    /// Returns whether it has to be looked at again.
    fn run(&mut self, states: &mut ContainerStates, patience: Duration, given_up: &AtomicU64) -> bool {
        let now = Instant::now();
        if self.ran.is_none() && self.slot.runs.load(Ordering::Relaxed) {
            self.ran = Some(now);
        }
        let waited = now.saturating_duration_since(self.since);
        // Of a container that has a name, an engine may write more after its start; one of a bare runtime is known
        // before, or there is none.
        let decided =
            self.slot.named.is_none() && self.ran.is_some_and(|ran| now.saturating_duration_since(ran) >= GRACE);
        let last = waited >= patience || decided || self.slot.gone.load(Ordering::Relaxed);
        // Once, when it is likely that no file will say it, and at the end.
        let ask = last || !self.asked && waited >= ASK_AFTER;
        self.asked |= ask;
        match self.slot.look(states, ask, last) {
            Looked::Answered => false,
            Looked::GaveUp => {
                given_up.fetch_add(1, Ordering::Relaxed);
                false
            }
            Looked::Again => {
                self.due = now + (waited / WAITED_PART).clamp(SHORTEST_WAIT, LONGEST_WAIT);
                true
            }
        }
    }
}

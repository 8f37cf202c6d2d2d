//! The sweep over a tree: find, hold still, kill, until nothing is left.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sls_core::{ActionResult, ProcessKey, Protection};

use super::member::{Edge, Member};
use super::{MAX_HELD_PIDFDS, MAX_SWEEP_ROUNDS, MAX_TREE_PROCESSES, SWEEP_TIME, TreeJob};
use crate::confirm::deadline;
use crate::errno::{self, NO_SUCH_PROCESS};
use crate::identity::{CLOCK_TICK_NS, own_ancestry, started_in_same_tick};
use crate::stat::{self, Stat};
use crate::subject::Subjects;

/// How long a process may take to stop before the sweep no longer waits for it. A parent in vfork(2) hangs as long as its
/// child is stopped, and a tracer may let its tracee run on; they are killed all the same.
const HALT_TIME: Duration = Duration::from_millis(100);

/// Walks in a row that find nothing new, after which the tree counts as whole.
const QUIET_WALKS: usize = 2;

/// How long the sweep waits for deaths, before it leaves that to the confirmation.
const SETTLE_TIME: Duration = Duration::from_millis(100);

/// Pauses between two looks at processes that take their time.
const FIRST_PAUSE: Duration = Duration::from_micros(100);
const LONGEST_PAUSE: Duration = Duration::from_millis(5);

/// A tree as far as it was found.
#[derive(Debug)]
pub(super) struct Sweep {
    members: Vec<Member>,
    /// Places in `members` by pid.
    by_pid: HashMap<u32, usize>,
    /// Known descendants: where each comes from, and its identity; and their places there by pid.
    known: Vec<(ProcessKey, ProcessKey)>,
    known_by_pid: HashMap<u32, usize>,
    /// Protected processes and those below, with their start times in clock ticks.
    spared: HashSet<(u32, u64)>,
    /// Processes of the tree that had ended before they could be opened, with their start times in clock ticks. What they may
    /// have left behind is looked for in another walk.
    missed: HashSet<(u32, u64)>,
    guards: BTreeSet<Cow<'static, str>>,
    protection: Protection,
    subjects: Subjects,
    has_pidfs: bool,
    /// The sensor and its ancestors.
    ancestry: Vec<ProcessKey>,
    root_was_gone: bool,
    /// How many processes were signalled.
    reached: usize,
    killed: Instant,
    /// Limits and failures that may have left something alive.
    doubts: BTreeSet<String>,
}

/// A process as one walk found it.
#[derive(Clone, Copy, Debug)]
struct Found {
    pid: u32,
    stat: Stat,
}

impl Found {
    fn is(self, key: ProcessKey) -> bool {
        let start = self.stat.start_ticks.checked_mul(CLOCK_TICK_NS);
        self.pid == key.pid && start.is_some_and(|start| started_in_same_tick(start, key.start))
    }
}

impl Sweep {
    pub(super) fn new(job: TreeJob, ancestry: &[ProcessKey], has_pidfs: bool) -> Self {
        let mut sweep = Self {
            members: Vec::new(),
            by_pid: HashMap::new(),
            known_by_pid: job.known.iter().enumerate().map(|(at, (_, key))| (key.pid, at)).collect(),
            known: job.known,
            spared: HashSet::new(),
            missed: HashSet::new(),
            guards: BTreeSet::new(),
            protection: job.protection,
            subjects: Subjects::new(),
            has_pidfs,
            // Those it was started by may have ended since, and another have taken their place.
            ancestry: own_ancestry().unwrap_or_default().into_iter().chain(ancestry.iter().copied()).collect(),
            root_was_gone: job.root.is_none(),
            reached: 0,
            killed: Instant::now(),
            doubts: BTreeSet::new(),
        };
        if let Some((process, pid)) = job.root {
            let start_ticks = Stat::of_process(pid).map_or(0, |stat| stat.start_ticks);
            match Member::of(process, pid, start_ticks, Edge::Known, has_pidfs) {
                Ok(Some(root)) => sweep.add(root),
                // Killed by someone else meanwhile.
                Ok(None) => sweep.root_was_gone = true,
                Err(errno) => sweep.doubt(errno::text(errno)),
            }
        }
        sweep
    }

    /// Finds the tree, holds it still, and kills it. Afterwards it holds few file descriptors.
    pub(super) fn run(&mut self) {
        let started = Instant::now();
        self.until_quiet(QUIET_WALKS, started, Signal::STOP);
        // Whoever was continued meanwhile is killed all the same; and none can make another process any more.
        self.killed = Instant::now();
        // Parents last. When one dies, the kernel hangs up on process groups that it leaves without a parent and in which
        // someone is stopped; a protected process may be in such a group.
        self.members.iter_mut().rev().for_each(|member| member.signal(Signal::KILL));
        self.until_quiet(1, started, Signal::KILL);
        if !self.wait_deaths(Instant::now() + SETTLE_TIME) {
            // What hangs may have children that nothing led to before.
            self.until_quiet(1, started, Signal::KILL);
        }
        self.members.retain(|member| !member.dead);
        self.members.iter_mut().for_each(Member::release);
        // It names places that are no more, and nothing is looked up from now on.
        self.by_pid = HashMap::new();
    }

    /// Waits until all are dead, for a time from the sending of the signal, and says what came of it.
    pub(super) fn confirm(mut self, timeout: Duration) -> ActionResult {
        self.wait_deaths(deadline(self.killed, timeout));
        self.members.retain(|member| !member.dead);
        let mut problems = Vec::new();
        self.spared.retain(|(pid, ticks)| {
            Stat::of_process(*pid).is_ok_and(|stat| stat.start_ticks == *ticks && stat.state != b'Z')
        });
        if !self.spared.is_empty() {
            let guards: Vec<_> = self.guards.iter().map(|guard| &**guard).collect();
            problems.push(format!("left alive: {}, protected by {}", count(self.spared.len()), guards.join(", ")));
        }
        let denied = self.members.iter().filter(|member| member.denied.is_some()).count();
        if let Some(errno) = self.members.iter().find_map(|member| member.denied) {
            problems.push(format!("{} could not be signalled: {}", count(denied), errno::text(errno)));
        }
        let left = self.members.len() - denied;
        if left > 0 {
            problems.push(format!("{} did not end within {timeout:?}", count(left)));
        }
        problems.extend(self.doubts);
        if problems.is_empty() && self.root_was_gone && self.reached == 0 {
            problems.push(NO_SUCH_PROCESS.to_owned());
        }
        if problems.is_empty() {
            ActionResult::Successful
        } else {
            ActionResult::NotSuccessful { details: problems.join("; ") }
        }
    }

    /// Walks and signals what is new, until as many walks in a row found nothing. To hold the tree still takes more: all
    /// that was found had to be seen halted before such a walk, for what runs can make another process behind it.
    fn until_quiet(&mut self, walks: usize, started: Instant, signal: Signal) {
        let mut quiet = 0;
        let mut pause = FIRST_PAUSE;
        let mut last_new = Instant::now();
        for _ in 0..MAX_SWEEP_ROUNDS {
            let still = signal == Signal::KILL || self.hold_still() || last_new.elapsed() > HALT_TIME;
            let new = match self.walk(signal) {
                Ok(new) => new,
                Err(error) => return self.doubt(format!("cannot look for processes: {}", errno::io_text(&error))),
            };
            if new > 0 {
                last_new = Instant::now();
            }
            quiet = if new == 0 && still { quiet + 1 } else { 0 };
            if quiet == walks {
                return;
            }
            if started.elapsed() > SWEEP_TIME {
                return self.doubt(format!("there were new processes for {SWEEP_TIME:?}"));
            }
            if new == 0 && !still {
                std::thread::sleep(pause);
                pause = LONGEST_PAUSE.min(pause * 2);
            }
        }
        self.doubt(format!("there were new processes in each of {MAX_SWEEP_ROUNDS} walks"));
    }

    /// Stops again whoever runs; false if anyone did.
    fn hold_still(&mut self) -> bool {
        let mut still = true;
        for member in &mut self.members {
            if !member.is_halted() && member.lives() {
                member.signal(Signal::STOP);
                still = false;
            }
        }
        still
    }

    /// Looks at all processes once, and sends `signal` to those of the tree that it finds for the first time. How
    /// many it found, those that were gone at once included.
    fn walk(&mut self, signal: Signal) -> io::Result<usize> {
        let scan: Vec<Found> =
            stat::pids()?.filter_map(|pid| Some(Found { pid, stat: Stat::of_process(pid).ok()? })).collect();
        let (first, missed, mut places) = (self.members.len(), self.missed.len(), Vec::new());
        self.find(&scan, &mut places);
        let spared = self.spare(&scan, &places);
        let mut found = Vec::new();
        for (place, mut member) in places {
            if spared.contains(&place) {
                continue;
            }
            member.signal(signal);
            found.push(member);
        }
        for member in found {
            self.add(member);
        }
        Ok(self.members.len() - first + self.missed.len() - missed)
    }

    /// The members of the tree that are new in `scan`, opened, each with its place there and after what led to it.
    fn find(&mut self, scan: &[Found], found: &mut Vec<(usize, Member)>) {
        let mut seen: HashSet<usize> = HashSet::new();
        let mut new: HashMap<u32, usize> = HashMap::new();
        let places: HashMap<u32, usize> = scan.iter().enumerate().map(|(place, one)| (one.pid, place)).collect();
        let mut children: HashMap<u32, Vec<usize>> = HashMap::new();
        let mut sessions: HashMap<u32, Vec<usize>> = HashMap::new();
        for (place, one) in scan.iter().enumerate() {
            children.entry(one.stat.parent).or_default().push(place);
            sessions.entry(one.stat.session).or_default().push(place);
        }
        // Below a protected process may be what its session alone would not spare.
        let by_session = self.spared.is_empty();
        let mut left: Vec<(usize, Edge)> = Vec::new();
        let lead = |pid: u32, leads: bool, left: &mut Vec<(usize, Edge)>| {
            left.extend(children.get(&pid).into_iter().flatten().map(|place| (*place, Edge::Parent(pid))));
            if leads && by_session {
                left.extend(sessions.get(&pid).into_iter().flatten().map(|place| (*place, Edge::Session(pid))));
            }
        };
        for member in &mut self.members {
            // It held its pid while the scan was made, and still does.
            if member.lives() {
                lead(member.pid, member.leads_session, &mut left);
            }
        }
        // From the last on, for the first is to be taken first.
        let known = self.known.iter().rev();
        let known = known.filter_map(|(_, key)| places.get(&key.pid).filter(|place| scan[**place].is(*key)));
        left.extend(known.map(|place| (*place, Edge::Known)));
        while let Some((place, edge)) = left.pop() {
            let Found { pid, stat } = scan[place];
            let is_known = self.by_pid.get(&pid).is_some_and(|at| self.members[*at].start_ticks == stat.start_ticks);
            if is_known || seen.contains(&place) || self.spared.contains(&(pid, stat.start_ticks)) {
                continue;
            }
            if self.members.len() + found.len() >= MAX_TREE_PROCESSES {
                return self.doubt(format!("the tree has more than {MAX_TREE_PROCESSES} processes"));
            }
            let member = match Member::open(pid, stat.start_ticks, edge, self.has_pidfs) {
                Ok(Some(member)) => member,
                Ok(None) => {
                    self.missed.insert((pid, stat.start_ticks));
                    continue;
                }
                Err(errno) => {
                    self.doubt(format!("cannot open a process: {}", errno::text(errno)));
                    continue;
                }
            };
            // The pid by which it was found was that of the member all the time.
            let proven = match edge {
                Edge::Known => true,
                Edge::Parent(by) | Edge::Session(by) => {
                    let by = match new.get(&by) {
                        Some(at) => found.get_mut(*at).map(|(_, member)| member),
                        None => self.by_pid.get(&by).map(|at| &mut self.members[*at]),
                    };
                    by.is_some_and(Member::lives)
                }
            };
            if !proven {
                self.missed.insert((pid, stat.start_ticks));
                continue;
            }
            seen.insert(place);
            lead(pid, member.leads_session, &mut left);
            new.insert(pid, found.len());
            found.push((place, member));
            if self.members.len() + found.len() > MAX_HELD_PIDFDS
                && let Some((_, member)) = found.last_mut()
            {
                member.release();
            }
        }
    }

    /// Which of those `found` are protected, or below what is; as places in the scan.
    fn spare(&mut self, scan: &[Found], found: &[(usize, Member)]) -> HashSet<usize> {
        for (place, member) in found {
            if let Some(guard) = self.guard(scan[*place], member) {
                self.guards.insert(guard);
                self.spared.insert((member.pid, member.start_ticks));
            }
        }
        if self.spared.is_empty() {
            return HashSet::new();
        }
        let living: HashMap<u32, Found> = scan.iter().map(|one| (one.pid, *one)).collect();
        let is_spared = |spared: &HashSet<(u32, u64)>, pid: u32| {
            living.get(&pid).is_some_and(|one| spared.contains(&(pid, one.stat.start_ticks)))
        };
        // Each pass goes at least one step down.
        loop {
            let before = self.spared.len();
            for one in scan {
                let origin = self.known_by_pid.get(&one.pid).map(|at| self.known[*at]).filter(|(_, key)| one.is(*key));
                let below = is_spared(&self.spared, one.stat.parent)
                    || origin.is_some_and(|(origin, _)| {
                        living.get(&origin.pid).is_some_and(|found| found.is(origin))
                            && is_spared(&self.spared, origin.pid)
                    });
                let taken =
                    self.by_pid.get(&one.pid).is_some_and(|at| self.members[*at].start_ticks == one.stat.start_ticks);
                if below && !taken {
                    self.spared.insert((one.pid, one.stat.start_ticks));
                }
            }
            if self.spared.len() == before {
                break;
            }
        }
        let spared = |(place, member): &(usize, Member)| {
            self.spared.contains(&(member.pid, member.start_ticks)).then_some(*place)
        };
        found.iter().filter_map(spared).collect()
    }

    fn guard(&self, found: Found, member: &Member) -> Option<Cow<'static, str>> {
        if member.pid == 1 {
            return Some("pid-1".into());
        }
        if found.stat.kernel_thread {
            return Some("kernel-thread".into());
        }
        if member.pid == std::process::id() || self.ancestry.iter().any(|key| found.is(*key)) {
            return Some("sensor".into());
        }
        Some(self.protection.refusal(&self.subjects.describe(member.pid, member.start_ticks))?.guard)
    }

    fn add(&mut self, member: Member) {
        self.by_pid.insert(member.pid, self.members.len());
        self.members.push(member);
        self.reached += 1;
    }

    fn doubt(&mut self, doubt: String) {
        self.doubts.insert(doubt);
    }

    /// Whether all were seen dead before `deadline`.
    fn wait_deaths(&mut self, deadline: Instant) -> bool {
        let mut pause = FIRST_PAUSE;
        loop {
            let left = self.members.iter_mut().filter(|member| member.denied.is_none());
            if left.fold(0, |left, member| left + usize::from(member.lives())) == 0 {
                // Those that may not be signalled are not waited for, but they may have ended.
                return self.members.iter_mut().all(|member| !member.lives());
            }
            let now = Instant::now();
            if now >= deadline {
                return false;
            }
            std::thread::sleep(pause.min(deadline - now));
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }
}

fn count(processes: usize) -> String {
    if processes == 1 { "1 process".to_owned() } else { format!("{processes} processes") }
}

// What is handed from the worker to the confirmation.
const _: () = {
    const fn is_send<T: Send>() {}
    is_send::<Sweep>();
};

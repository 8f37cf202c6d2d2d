//! `kill-tree`: the process and all of its descendants, until none is left.
//!
//! The caller stops the root. The rest is done by a thread of the responder: it walks through all processes, stops whatever
//! descends from the root, and walks again until nothing new is found and nothing found runs; so nobody is left who could
//! make another process. Only then does it kill them all. To kill from the beginning would make orphans, to which nothing leads.

mod member;
mod sweep;

use std::io;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use rustix::process::Signal;
use sls_core::{ActionOutcome, ActionResult, Confirmation, PlannedAction, ProcessKey, Protection, Tier};

use crate::confirm::outcome_now;
use crate::errno;
use crate::identity::started_in_same_tick;
use crate::pidfd::ProcessFd;
use sweep::Sweep;

/// The most processes of one tree that are killed: as many as the kernel gives pids by default. A larger tree is killed up
/// to there, and the result says so.
pub const MAX_TREE_PROCESSES: usize = 32_768;

/// The most file descriptors that are held while a tree is killed: 256, for a sensor has 1,024 by default. Processes beyond
/// are opened, and their identity is checked, for each signal.
pub const MAX_HELD_PIDFDS: usize = 256;

/// How long the walks for new processes of a tree may take, before all that were found are killed and the result says
/// that there were still new ones.
pub const SWEEP_TIME: Duration = Duration::from_secs(2);

/// The most walks for new processes of a tree, in each of its two parts: before the kill and after it.
pub const MAX_SWEEP_ROUNDS: usize = 1000;

/// The most trees that wait for the thread that kills them. Of one more only the root is killed, and the result says so.
pub const MAX_WAITING_TREES: usize = 64;

/// How long a confirmation waits for its turn, which comes long before.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What a sweep starts from.
#[derive(Debug)]
pub(crate) struct TreeJob {
    /// The process of the action, stopped already; none if it is gone.
    pub(crate) root: Option<(ProcessFd, u32)>,
    /// Known descendants, each after the one that it descends from.
    pub(crate) known: Vec<(ProcessKey, ProcessKey)>,
    /// Who is to be spared.
    pub(crate) protection: Protection,
}

/// Hands trees to the thread that kills them.
#[derive(Debug)]
pub(crate) struct TreeWorker {
    confirm_timeout: Duration,
    ancestry: Vec<ProcessKey>,
    has_pidfs: bool,
    /// None before the first.
    jobs: Option<Sender<(TreeJob, Sender<Sweep>)>>,
}

impl TreeWorker {
    pub(crate) fn new(confirm_timeout: Duration, ancestry: Vec<ProcessKey>, has_pidfs: bool) -> Self {
        Self { confirm_timeout, ancestry, has_pidfs, jobs: None }
    }

    /// Whether the process is the sensor or one of its ancestors.
    pub(crate) fn is_ancestor(&self, key: ProcessKey) -> bool {
        self.ancestry.iter().any(|own| own.pid == key.pid && started_in_same_tick(own.start, key.start))
    }

    /// Has the tree killed. When that cannot be, the root is killed alone.
    pub(crate) fn start(&mut self, planned: &PlannedAction, job: TreeJob) -> Result<TreeConfirmation, ActionResult> {
        let (answer, swept) = bounded(1);
        let jobs = match self.jobs() {
            Ok(jobs) => jobs,
            Err(error) => return Err(root_alone(job, &errno::io_text(&error))),
        };
        match jobs.try_send((job, answer)) {
            Ok(()) => Ok(TreeConfirmation { planned: planned.clone(), swept, timeout: self.confirm_timeout }),
            Err(TrySendError::Full((job, _))) => {
                Err(root_alone(job, &format!("{MAX_WAITING_TREES} trees are waiting to be killed")))
            }
            Err(TrySendError::Disconnected((job, _))) => Err(root_alone(job, "the thread that kills trees has ended")),
        }
    }

    fn jobs(&mut self) -> io::Result<&Sender<(TreeJob, Sender<Sweep>)>> {
        if self.jobs.is_none() {
            let (jobs, work) = bounded::<(TreeJob, Sender<Sweep>)>(MAX_WAITING_TREES);
            let (ancestry, has_pidfs) = (self.ancestry.clone(), self.has_pidfs);
            thread::Builder::new().name("sls-kill-tree".to_owned()).spawn(move || {
                for (roots, answer) in work {
                    let mut sweep = Sweep::new(roots, &ancestry, has_pidfs);
                    sweep.run();
                    // Nobody may want to know.
                    let _ = answer.send(sweep);
                }
            })?;
            self.jobs = Some(jobs);
        }
        self.jobs.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// Kills the root, if it is there, and says that the rest was left.
fn root_alone(job: TreeJob, why: &str) -> ActionResult {
    let killed = job.root.is_some_and(|(root, _)| root.signal(Signal::KILL).is_ok());
    let what = if killed { "only the root of the tree was killed" } else { "nothing was killed" };
    ActionResult::not_successful(format!("{what}: {why}"))
}

/// A tree that is being killed.
#[derive(Debug)]
pub(crate) struct TreeConfirmation {
    planned: PlannedAction,
    swept: Receiver<Sweep>,
    timeout: Duration,
}

impl Confirmation for TreeConfirmation {
    fn wait(self: Box<Self>) -> ActionOutcome {
        let result = match self.swept.recv_timeout(LONGEST_WAIT) {
            Ok(sweep) => sweep.confirm(self.timeout),
            Err(_) => ActionResult::not_successful("the tree was not killed to the end"),
        };
        let mut outcome = outcome_now(&self.planned, result);
        outcome.tier = Some(Tier::Process);
        outcome
    }
}

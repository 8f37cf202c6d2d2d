//! The thread that reads what the kernel asks.

use std::mem;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags, poll};
use sls_core::{Event, EventKind, Field, ProcessKey};

use super::DEFAULT_DECISION_DEADLINE;
use super::file::{Descriptors, Format, OpenedFile};
use super::group::{BUFFER_BYTES, OPEN_EXEC, Question, Received, Verdict};
use super::held::{FailMode, HeldOperation, Terms, Waiting};
use super::keeper::Keeper;
use super::process::{Processes, Stat, TICK_NANOS, is_loader, mark_undescribed, mark_unknowable};
use super::stats::count;

/// Executions under way that are remembered, one for each last digits of a pid.
const STEPS: usize = 1024;

/// How long a step of an execution is remembered. The next follows at once, unless the one before is asked about.
const STEP_TIME: Duration = Duration::from_secs(2);

/// What the file itself tells of a program, and of a file that is opened.
pub(super) const OF_PROGRAM: &[Field] =
    &[Field::ProgramName, Field::ProgramInode, Field::ProgramDevice, Field::ProgramIsMemfd, Field::ProgramIsDeleted];
const OF_FILE: &[Field] =
    &[Field::FilePath, Field::FileInode, Field::FileDevice, Field::FileMode, Field::FileUid, Field::FileGid];

/// What the first look says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Screening {
    /// No policy can object, whatever else there is to know: it goes on.
    Allow,
    /// It has to be decided with all that is known.
    Ask {
        /// How long it waits for that at most, from when it was read, but not longer than
        /// [`MAX_DECISION_DEADLINE`](super::MAX_DECISION_DEADLINE).
        deadline: Duration,
        /// What becomes of it then.
        mode: FailMode,
    },
}

/// Decides about operations. It is called on the thread that reads what the kernel asks: while it works, nothing else is
/// answered. What it opens itself is never held longer than the deadline, and best it opens nothing.
pub trait Decider: Send {
    /// A first look, with what costs little to know; all other fields are unknown. Default: everything has to be decided,
    /// within [`DEFAULT_DECISION_DEADLINE`](super::DEFAULT_DECISION_DEADLINE), and goes on after that.
    fn screen(&mut self, event: &Event) -> Screening {
        let _ = event;
        Screening::Ask { deadline: DEFAULT_DECISION_DEADLINE, mode: FailMode::Open }
    }

    /// Takes over an operation that waits. It may be sent elsewhere, and answered from there.
    fn decide(&mut self, held: HeldOperation);
}

/// What the operation may be to policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum View {
    Exec,
    Open,
}

/// The last step of an execution, by the process that does it.
#[derive(Debug, Default)]
struct Step {
    pid: u32,
    at: Option<Instant>,
    kind: StepKind,
    /// Of a script its path, of a program what it names as its interpreter.
    name: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum StepKind {
    #[default]
    None,
    /// A script was opened: its interpreter comes next.
    Script,
    /// A program was opened: what loads it comes next.
    Program,
}

pub(super) struct Reader<D> {
    waiting: Arc<Waiting>,
    keeper: Keeper,
    decider: D,
    own: u32,
    descriptors: Descriptors,
    processes: Processes,
    file: OpenedFile,
    format: Format,
    interpreter: Vec<u8>,
    event: Event,
    /// The step before the one that is looked at.
    before: Step,
    steps: Vec<Step>,
}

impl<D: Decider> Reader<D> {
    pub(super) fn new(waiting: Arc<Waiting>, keeper: Keeper, decider: D) -> rustix::io::Result<Self> {
        Ok(Self {
            waiting,
            keeper,
            decider,
            own: std::process::id(),
            descriptors: Descriptors::open()?,
            processes: Processes::new(),
            file: OpenedFile::default(),
            format: Format::Other,
            interpreter: Vec::new(),
            event: Event::new(EventKind::Exec),
            before: Step::default(),
            steps: (0..STEPS).map(|_| Step::default()).collect(),
        })
    }

    /// Answers until `stop` can be read.
    pub(super) fn run(mut self, stop: &OwnedFd, stopped: &AtomicBool) {
        let mut buffer = [0; BUFFER_BYTES];
        let waiting = Arc::clone(&self.waiting);
        loop {
            let questions = PollFd::from_borrowed_fd(waiting.group.as_fd(), PollFlags::IN);
            let _ = poll(&mut [questions, PollFd::new(stop, PollFlags::IN)], None);
            if stopped.load(Ordering::Acquire) {
                return;
            }
            let Ok(questions) = waiting.group.read(&mut buffer) else {
                // The kernel could not give out the file, and has refused the operation.
                count(&waiting.counters.unreadable);
                continue;
            };
            for question in questions {
                match question {
                    Ok(question) => self.answer(question),
                    Err(_) => count(&waiting.counters.unreadable),
                }
            }
        }
    }

    fn answer(&mut self, question: Question) {
        count(&self.waiting.counters.questions);
        if question.pid == self.own {
            count(&self.waiting.counters.own);
            self.waiting.answer(&question, Verdict::Allow);
            return;
        }
        self.waiting.set_reading(true);
        self.keeper.rouse();
        self.consider(question);
        self.waiting.set_reading(false);
    }

    fn consider(&mut self, question: Question) {
        let (pid, is_exec) = (question.pid, question.mask.contains(OPEN_EXEC));
        // They stay the numbers of these files until the place is given up.
        let (file, pidfd) = (question.file.number(), question.pidfd.as_ref().map(Received::number));
        let Some(place) = self.waiting.admit(question) else { return };
        match self.look(file, pidfd, pid, is_exec) {
            Some(terms) => {
                count(&self.waiting.counters.asked);
                let event = mem::replace(&mut self.event, Event::new(EventKind::Exec));
                let held = HeldOperation::new(&self.waiting, place, event, terms);
                if terms.deadline < self.waiting.deadline() {
                    self.keeper.wake();
                }
                self.decider.decide(held);
            }
            None => {
                self.waiting.finish(place, Some(Verdict::Allow));
            }
        }
    }

    /// None if the operation may go on. Otherwise everything that is known is in the event.
    fn look(&mut self, file: RawFd, pidfd: Option<RawFd>, pid: u32, is_exec: bool) -> Option<Terms> {
        self.descriptors.look(file, &mut self.file);
        let (view, terms) = if is_exec {
            self.step(file, pid);
            (View::Exec, self.screen(View::Exec, pid)?)
        } else if self.waiting.watches_loaders() && is_loader(pid) {
            self.before = Step::default();
            self.format = Format::Other;
            match self.screen(View::Exec, pid) {
                Some(terms) => (View::Exec, terms),
                None => (View::Open, self.screen(View::Open, pid)?),
            }
        } else {
            (View::Open, self.screen(View::Open, pid)?)
        };
        if is_exec && self.loads_program(pid) {
            return None;
        }
        let stat = self.processes.stat(pid);
        if stat.is_some_and(|stat| self.processes.is_own(stat)) {
            count(&self.waiting.counters.own);
            return None;
        }
        self.describe(view, pid, pidfd, stat);
        Some(terms)
    }

    /// The first look.
    fn screen(&mut self, view: View, pid: u32) -> Option<Terms> {
        if view == View::Open && !self.waiting.watches_opens() {
            return None;
        }
        self.describe_file(view, pid);
        mark_undescribed(&mut self.event);
        match self.decider.screen(&self.event) {
            Screening::Allow => None,
            Screening::Ask { deadline, mode } => Some(Terms { deadline, mode }),
        }
    }

    /// Takes notice of a step of an execution, and of which one was before it.
    fn step(&mut self, file: RawFd, pid: u32) {
        self.format = self.descriptors.format(file, &mut self.interpreter);
        let now = Instant::now();
        let step = &mut self.steps[pid as usize % STEPS];
        mem::swap(step, &mut self.before);
        if self.before.pid != pid || self.before.at.is_none_or(|at| now.duration_since(at) > STEP_TIME) {
            self.before.kind = StepKind::None;
        }
        (step.pid, step.at) = (pid, Some(now));
        step.name.clear();
        step.kind = match self.format {
            Format::Script => {
                step.name.extend_from_slice(&self.file.path);
                StepKind::Script
            }
            Format::Elf if !self.interpreter.is_empty() => {
                step.name.extend_from_slice(&self.interpreter);
                StepKind::Program
            }
            _ => StepKind::None,
        };
    }

    /// Whether the file is no program, but loads the one before it, which was allowed.
    fn loads_program(&self, pid: u32) -> bool {
        let name = &self.before.name[..];
        self.before.kind == StepKind::Program
            && (name == self.file.path || self.processes.has(pid, name, (self.file.device, self.file.inode)))
    }

    /// Sets what the file itself tells.
    fn describe_file(&mut self, view: View, pid: u32) {
        let Self { event, file, .. } = self;
        event.reset(if view == View::Exec { EventKind::Exec } else { EventKind::File });
        event.process = ProcessKey { pid, start: 0 };
        let path = if view == View::Exec { Field::ProgramName } else { Field::FilePath };
        match view {
            // What is executed is the interpreter, which comes next.
            View::Exec if self.format == Format::Script => {
                event.set_text(Field::ScriptName, &file.path);
                OF_PROGRAM.iter().for_each(|field| {
                    event.mark_unknown(*field);
                });
            }
            View::Exec => {
                event.set_text(path, &file.path);
                event.set_number(Field::ProgramInode, file.inode).set_number(Field::ProgramDevice, file.device);
                event.set_bool(Field::ProgramIsMemfd, file.is_memfd);
                event.set_bool(Field::ProgramIsDeleted, file.is_deleted);
                if self.before.kind == StepKind::Script {
                    event.set_text(Field::ScriptName, &self.before.name).mark_untrusted(Field::ScriptName);
                } else {
                    event.mark_unknown(Field::ScriptName);
                }
            }
            View::Open => {
                event.set_text(path, &file.path);
                event.set_number(Field::FileInode, file.inode).set_number(Field::FileDevice, file.device);
                event.set_number(Field::FileMode, (file.mode & 0o7777).into());
                event.set_number(Field::FileUid, file.uid.into()).set_number(Field::FileGid, file.gid.into());
            }
        }
        if !file.is_known {
            let fields = if view == View::Exec { OF_PROGRAM } else { OF_FILE };
            fields.iter().for_each(|field| {
                event.clear(*field).mark_unknown(*field);
            });
        }
        if !file.is_named {
            event.clear(path).mark_unknown(path);
        }
        if view == View::Exec {
            mark_unknowable(event);
        }
    }

    /// Sets everything that can be known.
    fn describe(&mut self, view: View, pid: u32, pidfd: Option<RawFd>, stat: Option<Stat>) {
        self.describe_file(view, pid);
        let Self { event, file, .. } = self;
        event.time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
        event.pidfd_inode = self.descriptors.process_inode(pidfd, pid);
        match stat {
            Some(stat) => {
                event.process.start = stat.start_ticks.saturating_mul(TICK_NANOS);
                self.processes.describe(pid, stat, event);
            }
            None => mark_undescribed(event),
        }
        if view == View::Open {
            match self.processes.purpose(pid) {
                Some(purpose) => event.set_text(Field::FileOperation, purpose),
                None => event.mark_unknown(Field::FileOperation),
            };
            return;
        }
        for field in [(file.sets_user(), Field::Euid), (file.sets_group(), Field::Egid)] {
            if let (true, field) = field {
                event.clear(field).mark_unknown(field);
            }
        }
    }
}

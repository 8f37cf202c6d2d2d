//! Operations that wait for a verdict: fanotify permission events.

mod file;
mod group;
mod held;
mod keeper;
mod marks;
mod mounts;
mod policies;
mod process;
mod reader;
mod stats;

use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::errno::Errno;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use sls_core::{Capabilities, Field, Hook, Mechanism};
use thiserror::Error;

use group::Group;
pub use group::Verdict;
use held::Waiting;
pub use held::{Answered, FailMode, HeldOperation};
use keeper::Keeper;
use marks::Marks;
pub use marks::{FanotifyWatch, MAX_MARKS, MAX_MOUNT_NAMESPACES, Unwatched, WatchScope};
#[cfg(fuzzing)]
pub(crate) use mounts::paths as mounts;
pub use policies::{HeldQueue, PolicyDecider};
#[cfg(fuzzing)]
pub(crate) use process::{may_open, process_stat};
use reader::Reader;
pub use reader::{Decider, Screening};
pub use stats::FanotifyStats;
use stats::count;

/// How long an operation waits for a verdict, unless told otherwise.
pub const DEFAULT_DECISION_DEADLINE: Duration = Duration::from_millis(50);

/// The longest that an operation may be made to wait.
pub const MAX_DECISION_DEADLINE: Duration = Duration::from_secs(10);

/// How many operations wait for a verdict at once, unless told otherwise. Each takes two descriptors of this process.
pub const DEFAULT_HELD_LIMIT: usize = 256;

/// How often the marked files are looked at, in case that a directory above them was moved.
const RECHECK: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

/// Why operations cannot be held.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FanotifyError {
    /// The kernel was built without it.
    #[error("the kernel has no fanotify permission events: it must be built with CONFIG_FANOTIFY_ACCESS_PERMISSIONS=y")]
    NotOffered,
    /// This process may not use it.
    #[error("not permitted to hold operations: run as root, or with CAP_SYS_ADMIN")]
    NotPermitted,
    /// A thread could not be started, or the kernel refused something.
    #[error("cannot hold operations: {source}")]
    Io {
        /// What the kernel said.
        #[from]
        source: io::Error,
    },
    /// A setting is not possible.
    #[error("{name} is not possible: it must be from {min} to {max}")]
    Setting {
        /// Which.
        name: &'static str,
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
}

/// The settings of a [`Fanotify`].
#[derive(Clone, Debug)]
#[must_use]
pub struct FanotifyBuilder {
    deadline: Duration,
    held_limit: usize,
    mode: FailMode,
}

impl FanotifyBuilder {
    /// How long an operation waits, at most. Default [`DEFAULT_DECISION_DEADLINE`].
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How many operations wait at once; more are answered by the mode of the whole. Default [`DEFAULT_HELD_LIMIT`].
    pub fn held_limit(mut self, limit: usize) -> Self {
        self.held_limit = limit;
        self
    }

    /// What becomes of an operation that nobody got to look at. Default [`FailMode::Open`]. Those that were looked at have
    /// the mode that [`Decider::screen`] gave them.
    pub fn fail_mode(mut self, mode: FailMode) -> Self {
        self.mode = mode;
        self
    }

    /// Starts to answer. Nothing is watched yet: [`Fanotify::watch`].
    ///
    /// # Errors
    /// When the kernel has no permission events, this process may not use them, or a setting is not possible.
    pub fn start(self, decider: impl Decider + 'static) -> Result<Fanotify, FanotifyError> {
        let longest = MAX_DECISION_DEADLINE.as_millis() as u64;
        if self.deadline < Duration::from_millis(1) || self.deadline > MAX_DECISION_DEADLINE {
            return Err(FanotifyError::Setting { name: "a deadline in milliseconds", min: 1, max: longest });
        }
        if !(1..=MAX_HELD).contains(&self.held_limit) {
            return Err(FanotifyError::Setting { name: "a limit of held operations", min: 1, max: MAX_HELD as u64 });
        }
        let group = open_group()?;
        Fanotify::start(Arc::new(Waiting::new(group, self.held_limit, self.deadline, self.mode)), decider)
    }
}

/// Processes of unknown mount namespaces that wait to be looked at.
const MAX_STRANGERS: usize = 256;

/// The most operations that can be made to wait at once.
const MAX_HELD: usize = 65_536;

fn open_group() -> Result<Group, FanotifyError> {
    Group::open().map_err(|errno| match errno {
        Errno::EPERM => FanotifyError::NotPermitted,
        Errno::EINVAL | Errno::ENOSYS => FanotifyError::NotOffered,
        errno => FanotifyError::Io { source: errno.into() },
    })
}

/// Holds executions and openings of files until somebody has decided about them.
///
/// The kernel makes the process wait; a thread looks at the file and asks the [`Decider`]. What it lets pass at the first
/// look costs two switches of threads and little more. The rest comes as a [`HeldOperation`], to be answered from any
/// thread within the deadline. After that the operation is answered by its [`FailMode`]. When this process dies, the kernel
/// lets everything go on.
///
/// # What is known of an execution
/// The event is of kind `exec`, and of the process that wants to execute. `programName`, `programInode`, `programDevice`,
/// `programIsMemfd`, `programIsDeleted` are those of the file; ids, terminal, directory, namespaces and cgroup those of
/// the process while it waits; `euid` and `egid` are unknown if the file sets them. Not known is what only the executed
/// program has: `programArguments`, `invokedName`, `processName`, `standardInput`. A script is held twice: first with its
/// `scriptName` and an unknown program, then with the program that is its interpreter. What loads a program, such as
/// `ld-linux.so`, is held as well, but never decided about on its own.
///
/// # What is known of an opening
/// The event is of kind `file`. `fileOperation` is `OPEN_READ` or `OPEN_WRITE` as far as it can be told.
///
/// # What is never held
/// What this process and its children do. File systems of the kernel's own, and those for which another machine or
/// program answers ([`Fanotify::unwatched`]).
///
/// ```no_run
/// use sls_core::Field;
/// use sls_probe::{Decider, Fanotify, FanotifyWatch, HeldOperation, Verdict, WatchScope};
///
/// struct NoNetcat;
///
/// impl Decider for NoNetcat {
///     fn decide(&mut self, held: HeldOperation) {
///         let netcat = held.event().text(Field::ProgramName).ends_with(b"/nc");
///         held.answer(if netcat { Verdict::Deny } else { Verdict::Allow });
///     }
/// }
///
/// let fanotify = Fanotify::builder().start(NoNetcat)?;
/// fanotify.watch(&[FanotifyWatch::exec(WatchScope::Under("/usr/bin".into()))]);
/// # Ok::<(), sls_probe::FanotifyError>(())
/// ```
#[derive(Debug)]
pub struct Fanotify {
    waiting: Arc<Waiting>,
    marks: Arc<Mutex<Marks>>,
    stopped: Arc<AtomicBool>,
    running: Arc<AtomicBool>,
    stop: Arc<OwnedFd>,
    changed: Arc<OwnedFd>,
    /// Processes of mount namespaces that may not be known.
    strangers: Arc<Mutex<Vec<u32>>>,
    keeper: Keeper,
    threads: Vec<JoinHandle<()>>,
}

impl Fanotify {
    /// The way to one.
    pub fn builder() -> FanotifyBuilder {
        let (deadline, held_limit) = (DEFAULT_DECISION_DEADLINE, DEFAULT_HELD_LIMIT);
        FanotifyBuilder { deadline, held_limit, mode: FailMode::default() }
    }

    /// Why operations cannot be held here; nothing if they can.
    ///
    /// # Errors
    /// Those of [`FanotifyBuilder::start`].
    pub fn offered() -> Result<(), FanotifyError> {
        open_group().map(drop)
    }

    /// Adds what can be held here to `capabilities`, or why nothing can: for a sensor that has operations held, with which
    /// policies of the tier `fanotify` are to be loaded.
    ///
    /// ```no_run
    /// use sls_core::{Capabilities, DryRunResponder, PolicyLoader};
    /// use sls_probe::{Fanotify, Probe};
    ///
    /// let probe = Probe::builder().load()?.attach()?;
    /// let capabilities = Fanotify::offer(Capabilities::of(&probe, &DryRunResponder));
    /// let policies = PolicyLoader::new().capabilities(capabilities).document("p.yaml", "…").load();
    /// # let _ = policies;
    /// # Ok::<(), sls_probe::ProbeError>(())
    /// ```
    #[must_use]
    pub fn offer(capabilities: Capabilities) -> Capabilities {
        match Self::offered() {
            // A script is told apart from its interpreter, and the directory is that of the process.
            Ok(()) => capabilities
                .hook(Hook::fanotify_exec().with([Field::ScriptName, Field::ProgramDirectory]))
                .hook(Hook::fanotify_open()),
            Err(error) => capabilities.no_mechanism(Mechanism::FanotifyPermission, error.to_string()),
        }
    }

    fn start(waiting: Arc<Waiting>, decider: impl Decider + 'static) -> Result<Self, FanotifyError> {
        let marks = Arc::new(Mutex::new(Marks::new(Arc::clone(&waiting))?));
        let stop = Arc::new(event_fd()?);
        let changed = Arc::new(event_fd()?);
        let strangers = Arc::default();
        let (stopped, running) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(true)));
        let (keeper, thread) = keeper::start(Arc::clone(&waiting), Arc::clone(&stopped))?;
        // From here on the threads end with it, whatever comes.
        let mut this =
            Self { waiting, marks, stopped, running, stop, changed, strangers, keeper, threads: vec![thread] };
        let reader = Reader::new(Arc::clone(&this.waiting), this.keeper.clone(), decider).map_err(io::Error::from)?;
        this.spawn_reader(reader)?;
        this.spawn_marker()?;
        Ok(this)
    }

    fn spawn_reader(&mut self, reader: Reader<impl Decider + 'static>) -> io::Result<()> {
        let (stop, stopped) = (Arc::clone(&self.stop), Arc::clone(&self.stopped));
        let end = End { waiting: Arc::clone(&self.waiting), running: Arc::clone(&self.running) };
        let thread = thread::Builder::new().name("sls-fanotify".to_owned()).spawn(move || {
            let _end = end;
            reader.run(&stop, &stopped);
        })?;
        self.threads.push(thread);
        Ok(())
    }

    fn spawn_marker(&mut self) -> io::Result<()> {
        let (marks, stop, stopped) = (Arc::clone(&self.marks), Arc::clone(&self.stop), Arc::clone(&self.stopped));
        let (changed, strangers) = (Arc::clone(&self.changed), Arc::clone(&self.strangers));
        // It tells of changes for as long as it is open.
        let mounts = File::open("/proc/self/mountinfo")?;
        let thread = thread::Builder::new()
            .name("sls-marks".to_owned())
            .spawn(move || follow(&marks, &mounts, &changed, &strangers, &stop, &stopped))?;
        self.threads.push(thread);
        Ok(())
    }

    /// Watches these from now on, and nothing else. When it returns, every operation there is held that begins after that.
    /// What was watched before and still is, is watched all the time. What cannot be watched is in
    /// [`unwatched`](Self::unwatched).
    pub fn watch(&self, watches: &[FanotifyWatch]) {
        lock(&self.marks).set(watches);
        // The marker waits for what concerns other marks.
        let _ = rustix::io::write(&self.changed, &1_u64.to_ne_bytes());
    }

    /// Has the mount namespace of this process looked into, which the sensor may not have known. That is done by another
    /// thread, and counted. It looks for namespaces itself whenever something else is to be watched.
    pub fn see_namespace_of(&self, pid: u32) {
        let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        if strangers.len() < MAX_STRANGERS {
            strangers.push(pid);
        } else {
            count(&self.waiting.counters.namespaces_dropped);
        }
        drop(strangers);
        let _ = rustix::io::write(&self.changed, &1_u64.to_ne_bytes());
    }

    /// What should be watched and could not, by the last look.
    #[must_use]
    pub fn unwatched(&self) -> Vec<Unwatched> {
        lock(&self.marks).unwatched().to_vec()
    }

    /// Whether the kernel says who asks by a descriptor of the process (Linux 5.15), which no other process can take the
    /// place of.
    #[must_use]
    pub fn reports_pidfd(&self) -> bool {
        self.waiting.group.reports_pidfd()
    }

    /// Whether operations are held: false after the decider has panicked. Then everything goes on.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.running.load(Ordering::Acquire)
    }

    /// What was done so far.
    #[must_use]
    pub fn stats(&self) -> FanotifyStats {
        self.waiting.counters.read(self.waiting.len())
    }
}

impl Drop for Fanotify {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        // Nothing new is asked; what was asked is answered before the threads are waited for.
        self.waiting.group.forget_marks();
        self.waiting.release();
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        self.keeper.wake();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        self.waiting.drain();
    }
}

/// What is done when the reader ends, however it does.
struct End {
    waiting: Arc<Waiting>,
    running: Arc<AtomicBool>,
}

impl Drop for End {
    fn drop(&mut self) {
        self.running.store(false, Ordering::Release);
        self.waiting.group.forget_marks();
        self.waiting.release();
        self.waiting.drain();
    }
}

fn event_fd() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

fn lock(marks: &Mutex<Marks>) -> MutexGuard<'_, Marks> {
    marks.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps the marks where they belong until `stopped`.
fn follow(
    marks: &Mutex<Marks>,
    mounts: &File,
    changed: &OwnedFd,
    strangers: &Mutex<Vec<u32>>,
    stop: &OwnedFd,
    stopped: &AtomicBool,
) {
    let Ok(files) = lock(marks).changes().as_fd().try_clone_to_owned() else { return };
    while !stopped.load(Ordering::Acquire) {
        let mut fds = [
            PollFd::new(&files, PollFlags::IN),
            PollFd::new(mounts, PollFlags::PRI),
            PollFd::new(changed, PollFlags::IN),
            PollFd::new(stop, PollFlags::IN),
        ];
        let timeout = lock(marks).watches_files().then_some(RECHECK);
        let Ok(count) = poll(&mut fds, timeout.as_ref()) else { continue };
        let [in_files, in_mounts, in_changed] = [0, 1, 2].map(|at| !fds[at].revents().is_empty());
        if in_changed {
            let _ = rustix::io::read(changed, &mut [0_u8; 8][..]);
        }
        let strangers = mem::take(&mut *strangers.lock().unwrap_or_else(PoisonError::into_inner));
        let mut marks = lock(marks);
        strangers.into_iter().for_each(|pid| marks.see(pid));
        if in_mounts && (marks.watches_file_systems() || marks.watches_files()) {
            marks.place();
        }
        if in_files {
            marks.follow();
        }
        if count == 0 {
            marks.recheck();
        }
    }
}

//! What policies want to hold, and the way from the reader to who decides for them.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sls_core::{
    CompiledMatcher, Decision, Event, EventKind, Field, FieldSet, HeldPath, HeldPaths, Hold, Matcher, OnDeadline,
    PolicySet, Value,
};

use super::held::{FailMode, HeldOperation};
use super::marks::{FanotifyWatch, WatchScope};
use super::reader::{Decider, OF_PROGRAM, Screening};
use super::{DEFAULT_HELD_LIMIT, event_fd};

impl FanotifyWatch {
    /// What the policies have to have watched, so that everything is held that they want to decide about before it happens
    /// ([`Tiers::holds`](sls_core::Tiers::holds)).
    ///
    /// ```
    /// use sls_core::PolicySet;
    /// use sls_probe::{FanotifyWatch, WatchScope};
    ///
    /// let policies = PolicySet::from_yaml("p.yaml", r#"
    /// No miners:
    ///   policy: program
    ///   responseActions: [block]
    ///   rules: ['match programName like "/opt/.*miner" and imageName != ""', default ignore]
    /// "#)?;
    /// let watches = FanotifyWatch::of(&policies);
    /// assert_eq!(watches, [FanotifyWatch::exec(WatchScope::Under("/opt".into()))]);
    /// # Ok::<(), sls_core::Diagnostics>(())
    /// ```
    #[must_use]
    pub fn of(policies: &PolicySet) -> Vec<Self> {
        let mut watches: Vec<Self> = Vec::new();
        for hold in policies.tiers().holds() {
            let scopes = match &hold.paths {
                // Also what is in no directory.
                HeldPaths::Of(paths) => paths.iter().filter_map(scope).collect(),
                _ => vec![WatchScope::Everywhere, WatchScope::Memfd],
            };
            for scope in scopes {
                let watch = if hold.kind == EventKind::Exec { Self::exec(scope) } else { Self::open(scope) };
                match watches.iter_mut().find(|other| other.scope == watch.scope) {
                    Some(other) => {
                        other.exec |= watch.exec;
                        other.open |= watch.open;
                        other.loaders |= watch.loaders;
                    }
                    None => watches.push(watch),
                }
            }
        }
        watches
    }
}

fn scope(held: &HeldPath) -> Option<WatchScope> {
    let path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
    match held {
        // A name that no file can have.
        HeldPath::File(file) if !file.starts_with(b"/") || file.contains(&0) => None,
        HeldPath::File(file) => Some(WatchScope::File(path(file))),
        HeldPath::Under(directory) => Some(WatchScope::Under(path(directory))),
        _ => Some(WatchScope::Everywhere),
    }
}

/// What the first look needs to know of the policies.
#[derive(Debug)]
struct Policies {
    set: Arc<PolicySet>,
    matcher: CompiledMatcher,
}

impl Policies {
    fn new(set: &Arc<PolicySet>) -> Arc<Self> {
        Arc::new(Self { set: Arc::clone(set), matcher: CompiledMatcher::new(Arc::clone(set)) })
    }

    fn screen(&self, event: &Event) -> Screening {
        let holds = self.set.tiers().holds();
        let path = if event.kind == EventKind::Exec { Field::ProgramName } else { Field::FilePath };
        let (path, is_script) = match event.value(path) {
            Value::Text { bytes, truncated: false } => (Some(bytes), false),
            _ => (None, event.value(Field::ScriptName) != Value::Unknown),
        };
        let of_program: FieldSet = OF_PROGRAM.iter().copied().collect();
        let mut terms = None;
        self.matcher.decide(event, &mut |decision: Decision<'_>| {
            // What depends on the interpreter is decided with it, in the next step.
            if is_script && decision.uncertain.difference(of_program) != decision.uncertain {
                return;
            }
            for hold in
                holds.iter().filter(|hold| Arc::ptr_eq(&hold.policy, decision.policy) && hold.kind == event.kind)
            {
                if path.is_none_or(|path| hold.paths.includes(path)) {
                    let (deadline, mode) = terms.unwrap_or((Duration::ZERO, FailMode::Open));
                    terms = Some((deadline.max(hold.deadline()), stricter(mode, hold)));
                }
            }
        });
        terms.map_or(Screening::Allow, |(deadline, mode)| Screening::Ask { deadline, mode })
    }
}

fn stricter(mode: FailMode, hold: &Hold) -> FailMode {
    if mode == FailMode::Closed || hold.on_deadline() == OnDeadline::Deny { FailMode::Closed } else { FailMode::Open }
}

/// Operations that policies have to decide about, on their way to the engine's thread. At most [`DEFAULT_HELD_LIMIT`] are
/// on the way.
///
/// ```no_run
/// # use std::sync::Arc;
/// # use sls_core::{DryRunResponder, Engine, PolicySet};
/// use sls_probe::{Fanotify, FanotifyWatch, HeldQueue};
///
/// # let policies = Arc::new(PolicySet::from_yaml("p.yaml", "")?);
/// let (queue, decider) = HeldQueue::new(&policies)?;
/// let fanotify = Fanotify::builder().start(decider)?;
/// fanotify.watch(&FanotifyWatch::of(&policies));
/// let mut engine = Engine::builder(policies).build();
/// // Whenever `queue` can be read:
/// while let Some(held) = queue.take() {
///     held.decide(|event| engine.decide_held(event, &mut DryRunResponder, &mut |_| ()));
/// }
/// # Ok::<(), sls_core::BoxError>(())
/// ```
#[derive(Debug)]
pub struct HeldQueue {
    operations: Receiver<HeldOperation>,
    policies: Arc<Mutex<Arc<Policies>>>,
    bell: Arc<OwnedFd>,
}

impl HeldQueue {
    /// A queue, and what fills it.
    ///
    /// # Errors
    /// When this process may open no more files.
    pub fn new(policies: &Arc<PolicySet>) -> io::Result<(Self, PolicyDecider)> {
        let (sender, operations) = sync_channel(DEFAULT_HELD_LIMIT);
        let policies = Arc::new(Mutex::new(Policies::new(policies)));
        let bell = Arc::new(event_fd()?);
        let decider = PolicyDecider { operations: sender, policies: Arc::clone(&policies), bell: Arc::clone(&bell) };
        Ok((Self { operations, policies, bell }, decider))
    }

    /// Looks at operations by these policies from now on. Those that were read before are decided by the ones that the
    /// engine has.
    pub fn set_policies(&self, policies: &Arc<PolicySet>) {
        let policies = Policies::new(policies);
        *lock(&self.policies) = policies;
    }

    /// The next operation, if one waits. The bell is silent once there is none.
    #[must_use]
    pub fn take(&self) -> Option<HeldOperation> {
        match self.operations.try_recv() {
            Ok(held) => Some(held),
            Err(_) => {
                let _ = rustix::io::read(&self.bell, &mut [0_u8; 8][..]);
                // What came in between.
                self.operations.try_recv().ok()
            }
        }
    }
}

/// Can be read while operations wait.
impl AsFd for HeldQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

/// Lets everything pass that no policy can object to, and sends the rest to a [`HeldQueue`].
#[derive(Debug)]
pub struct PolicyDecider {
    operations: SyncSender<HeldOperation>,
    policies: Arc<Mutex<Arc<Policies>>>,
    bell: Arc<OwnedFd>,
}

impl Decider for PolicyDecider {
    fn screen(&mut self, event: &Event) -> Screening {
        let policies = Arc::clone(&lock(&self.policies));
        policies.screen(event)
    }

    fn decide(&mut self, held: HeldOperation) {
        match self.operations.try_send(held) {
            Ok(()) => {
                let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
            }
            // Dropped, it goes by its mode.
            Err(TrySendError::Full(held) | TrySendError::Disconnected(held)) => held.refuse_room(),
        }
    }
}

fn lock(policies: &Mutex<Arc<Policies>>) -> MutexGuard<'_, Arc<Policies>> {
    policies.lock().unwrap_or_else(PoisonError::into_inner)
}

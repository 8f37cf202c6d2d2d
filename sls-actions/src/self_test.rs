//! The self-test: whether each action works here, tried on a sacrifice.

mod cgroup;
mod file;
mod process;

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sls_core::{
    Action, ActionContext, ActionOutcome, ActionResult, ActionSet, Event, Execution, Permission, PlannedAction,
    Responder, Target, TargetType,
};
use uuid::Uuid;

use self::cgroup::SacrificialContainer;
use self::file::SacrificialFile;
use self::process::SacrificialProcess;
use crate::file::QuarantineStore;

/// How long a sacrifice is waited for: that a process lives, that its death is seen, that its cgroup is empty.
pub const DEFAULT_SELF_TEST_TIMEOUT: Duration = Duration::from_secs(2);

/// Tries actions on sacrifices of its own, through the responder that is to carry them out later: a child process that
/// does nothing, a cgroup with such a child in it, and a file. Whatever keeps an action from working (a capability that is
/// missing, a file system that is read-only, the wrong PID namespace) is known before the action is needed.
///
/// Nothing is left behind. A run takes some milliseconds if all is well, and is bounded by the time-outs of the
/// responder and [of the test](SelfTest::timeout) if not: the actions are confirmed side by side.
///
/// ```
/// use sls_actions::{ProcessResponder, SelfTest};
/// use sls_core::Responder;
///
/// let mut responder = ProcessResponder::builder().build()?;
/// let actions = responder.supports();
/// for result in SelfTest::new().run(&mut responder, actions) {
///     println!("{}: {}", result.action, result.outcome);
/// }
/// # Ok::<(), sls_actions::ResponderError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct SelfTest {
    program: Option<(PathBuf, Vec<OsString>)>,
    directory: PathBuf,
    store: Option<Arc<QuarantineStore>>,
    timeout: Duration,
}

impl Default for SelfTest {
    fn default() -> Self {
        Self { program: None, directory: std::env::temp_dir(), store: None, timeout: DEFAULT_SELF_TEST_TIMEOUT }
    }
}

impl SelfTest {
    /// Default settings.
    pub fn new() -> Self {
        Self::default()
    }

    /// The program to sacrifice, with its arguments. It must do nothing but wait, for some seconds at least, and should
    /// end by itself soon after that. The default is `sleep`, or busybox, where the system has them.
    pub fn program<A: Into<OsString>>(
        mut self,
        program: impl Into<PathBuf>,
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        self.program = Some((program.into(), arguments.into_iter().map(Into::into).collect()));
        self
    }

    /// Where the file to sacrifice is made, in a directory of its own. The default is the directory of temporary files;
    /// better is one whose file system is that of the files which matter.
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = directory.into();
        self
    }

    /// The store of the responder, from which a quarantined sacrifice is removed. Without it `quarantine` is not tried, for
    /// the file would stay there.
    pub fn quarantine_store(mut self, store: Arc<QuarantineStore>) -> Self {
        self.store = Some(store);
        self
    }

    /// How long a sacrifice is waited for; [`DEFAULT_SELF_TEST_TIMEOUT`], two seconds, unless it is set.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Tries each of `actions` that acts on something, and says what came of it, in the order of [`ActionSet::iter`].
    pub fn run(&self, responder: &mut dyn Responder, actions: ActionSet) -> Vec<SelfTestResult> {
        let tried = actions.iter().filter(|action| action.target_type().is_some());
        // First all are started, by the one who owns the responder; then all are waited for at once.
        let started: Vec<_> = tried.map(|action| (action, self.start(responder, action))).collect();
        std::thread::scope(|scope| {
            let waiting = started.into_iter().map(|(action, trial)| {
                let waiter = std::thread::Builder::new().name("sls-self-test".into());
                (action, waiter.spawn_scoped(scope, move || trial.map_or_else(|outcome| outcome, Trial::finish)))
            });
            let waiting: Vec<_> = waiting.collect();
            waiting
                .into_iter()
                .map(|(action, waiter)| {
                    let outcome = match waiter.map(std::thread::ScopedJoinHandle::join) {
                        Ok(Ok(outcome)) => outcome,
                        Ok(Err(_)) => SelfTestOutcome::Inert { reason: "the responder panicked".to_owned() },
                        Err(error) => SelfTestOutcome::Untested { reason: format!("cannot start a thread: {error}") },
                    };
                    SelfTestResult { action, outcome }
                })
                .collect()
        })
    }

    fn start(&self, responder: &mut dyn Responder, action: Action) -> Result<Trial, SelfTestOutcome> {
        if !responder.supports().contains(action) {
            return Err(SelfTestOutcome::Inert { reason: "not supported".to_owned() });
        }
        let sacrifice: Box<dyn Sacrifice> = match action.target_type() {
            Some(TargetType::Process) => Box::new(self.process()?),
            Some(TargetType::Container) => Box::new(SacrificialContainer::new(self.process()?, self.timeout)?),
            Some(TargetType::File) => Box::new(self.file(action)?),
            _ => return Err(untested("there is nothing to sacrifice for it")),
        };
        if let Some(reason) = sacrifice.missing_right(action) {
            return Err(SelfTestOutcome::Inert { reason });
        }
        let planned = PlannedAction::new(action, sacrifice.target(), Permission::Granted);
        let event = sacrifice.event();
        let alert_id = sacrifice.alert_id();
        let execution = responder.execute(&planned, &ActionContext::new(&event).alert_id(&|| alert_id));
        Ok(Trial { action, execution, sacrifice })
    }

    fn file(&self, action: Action) -> Result<SacrificialFile, SelfTestOutcome> {
        let store = match action {
            Action::Quarantine => {
                Some(self.store.clone().ok_or_else(|| untested("the file could not be taken out of the store again"))?)
            }
            _ => None,
        };
        SacrificialFile::new(&self.directory, store)
    }

    fn process(&self) -> Result<SacrificialProcess, SelfTestOutcome> {
        let (program, arguments) = match &self.program {
            Some(given) => given.clone(),
            None => process::default_program().ok_or_else(|| untested("no program to sacrifice was found"))?,
        };
        SacrificialProcess::spawn(&program, &arguments, self.timeout)
    }
}

/// What the self-test says of one action.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SelfTestResult {
    /// The action.
    pub action: Action,
    /// What came of it.
    pub outcome: SelfTestOutcome,
}

impl SelfTestResult {
    /// A result.
    #[must_use]
    pub fn new(action: Action, outcome: SelfTestOutcome) -> Self {
        Self { action, outcome }
    }

    /// Whether the action was seen to work.
    #[must_use]
    pub fn works(&self) -> bool {
        self.outcome == SelfTestOutcome::Works
    }
}

/// Whether an action works. Shown, it is `works`, or the reason why not.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SelfTestOutcome {
    /// Its effect was seen on the sacrifice.
    Works,
    /// It does not work.
    Inert {
        /// Why: what the responder reported, or what of the effect was not seen.
        reason: String,
    },
    /// It could not be tried, so nothing is known.
    Untested {
        /// Why.
        reason: String,
    },
}

impl SelfTestOutcome {
    /// Why it does not work, or is not known to; none if it works.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Works => None,
            Self::Inert { reason } => Some(reason.clone()),
            Self::Untested { reason } => Some(format!("untested: {reason}")),
        }
    }
}

impl fmt::Display for SelfTestOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason().as_deref().unwrap_or("works"))
    }
}

/// What an action is tried on. Dropped, it is gone, whatever became of it.
trait Sacrifice: Send {
    fn target(&self) -> Target;

    /// The id of the alert that the action seems to be of.
    fn alert_id(&self) -> Uuid {
        Uuid::nil()
    }

    /// The event that the action seems to answer.
    fn event(&self) -> Event;

    /// What the sensor may not do to others', although it may to this sacrifice, which is its own.
    fn missing_right(&self, action: Action) -> Option<String>;

    /// What of the action's effect is not there to be seen.
    fn unharmed(&mut self, action: Action) -> Option<String>;
}

/// An action under way, with what it is tried on.
struct Trial {
    action: Action,
    execution: Execution,
    sacrifice: Box<dyn Sacrifice>,
}

impl Trial {
    fn finish(mut self) -> SelfTestOutcome {
        let ActionOutcome { result, .. } = self.execution.finish();
        match result {
            ActionResult::Successful => match self.sacrifice.unharmed(self.action) {
                None => SelfTestOutcome::Works,
                Some(reason) => SelfTestOutcome::Inert { reason: format!("said to be successful, but {reason}") },
            },
            other => {
                let reason = match other.details() {
                    "" => other.name().to_owned(),
                    details => details.to_owned(),
                };
                SelfTestOutcome::Inert { reason }
            }
        }
    }
}

fn untested(reason: impl Into<String>) -> SelfTestOutcome {
    SelfTestOutcome::Untested { reason: reason.into() }
}

/// An error of the system while a sacrifice was made.
fn cannot(what: &str, path: &Path, error: &std::io::Error) -> SelfTestOutcome {
    untested(format!("cannot {what} {}: {}", path.display(), crate::errno::io_text(error)))
}

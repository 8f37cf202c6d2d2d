//! The executor of `quarantine` and `delete`.

mod copy;
mod find;
mod identity;
mod manifest;
mod name;
mod recover;
mod remove;
mod restore;
mod steps;
mod store;
mod take;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sls_core::{
    Action, ActionContext, ActionOutcome, ActionResult, ActionSet, Confirmation, Execution, Field, PlannedAction,
    Responder, Target, Tier,
};

pub use self::find::{MAX_SEARCHED_DESCRIPTORS, MAX_SEARCHED_ENTRIES};
pub use self::manifest::{QuarantineEntry, QuarantineState};
pub use self::restore::RestoreOptions;
pub use self::store::{
    DEFAULT_MAX_QUARANTINED_BYTES, DEFAULT_MAX_QUARANTINED_FILES, DEFAULT_QUARANTINE_DIRECTORY, QuarantineError,
    QuarantineStore,
};

use self::find::Found;
use self::take::{Cause, NotTaken, Taking};
use crate::confirm::outcome_now;
use crate::namespace::in_host_pid_namespace;
use crate::responder::NOT_IN_HOST_PID_NAMESPACE;

/// The longest file that is copied from another file system into the store, unless the builder says otherwise: 1 GiB. Of
/// a longer one that is on the store's own file system, and so is moved whatever its length, the SHA-256 is not known.
pub const DEFAULT_MAX_COPY_BYTES: u64 = 1 << 30;

/// How often a file is looked for anew whose name is given to another between the look and the act.
const MAX_ATTEMPTS: usize = 4;

const NOT_SUPPORTED: &str = "not supported";

/// Settings of a [`FileResponder`].
#[derive(Debug)]
#[must_use]
pub struct FileResponderBuilder {
    store: StoreLocation,
    max_copy_bytes: u64,
}

/// Where a [`FileResponder`] puts files: a store, or the directory of one.
#[derive(Clone, Debug)]
pub struct StoreLocation(StoreAt);

#[derive(Clone, Debug)]
enum StoreAt {
    Path(PathBuf),
    Open(Arc<QuarantineStore>),
}

impl From<PathBuf> for StoreLocation {
    fn from(path: PathBuf) -> Self {
        Self(StoreAt::Path(path))
    }
}

impl From<&Path> for StoreLocation {
    fn from(path: &Path) -> Self {
        path.to_owned().into()
    }
}

impl From<&str> for StoreLocation {
    fn from(path: &str) -> Self {
        PathBuf::from(path).into()
    }
}

impl From<QuarantineStore> for StoreLocation {
    fn from(store: QuarantineStore) -> Self {
        Arc::new(store).into()
    }
}

impl From<Arc<QuarantineStore>> for StoreLocation {
    fn from(store: Arc<QuarantineStore>) -> Self {
        Self(StoreAt::Open(store))
    }
}

impl FileResponderBuilder {
    /// The store, or its directory, which is opened or made when the responder is built. The default is
    /// [`DEFAULT_QUARANTINE_DIRECTORY`].
    pub fn store(mut self, store: impl Into<StoreLocation>) -> Self {
        self.store = store.into();
        self
    }

    /// The longest file that is copied into the store, in bytes. The default is [`DEFAULT_MAX_COPY_BYTES`].
    pub fn max_copy_bytes(mut self, bytes: u64) -> Self {
        self.max_copy_bytes = bytes;
        self
    }

    /// The responder.
    ///
    /// # Errors
    /// When the store cannot be opened, or is not safe.
    pub fn build(self) -> Result<FileResponder, QuarantineError> {
        let store = match self.store.0 {
            StoreAt::Path(path) => Arc::new(QuarantineStore::open(path)?),
            StoreAt::Open(store) => store,
        };
        let own_mounts = rustix::fs::stat(c"/proc/self/ns/mnt").ok().and_then(|stat| u32::try_from(stat.st_ino).ok());
        let in_host_pid_namespace = in_host_pid_namespace().unwrap_or(false);
        Ok(FileResponder { store, max_copy_bytes: self.max_copy_bytes, own_mounts, in_host_pid_namespace })
    }
}

/// Carries out `quarantine` and `delete` on regular files. The [crate documentation](crate) says how, and what it
/// promises.
#[derive(Debug)]
pub struct FileResponder {
    store: Arc<QuarantineStore>,
    max_copy_bytes: u64,
    own_mounts: Option<u32>,
    in_host_pid_namespace: bool,
}

impl FileResponder {
    /// The actions that it can carry out.
    pub const ACTIONS: &'static [Action] = &[Action::Quarantine, Action::Delete];

    /// Default settings.
    pub fn builder() -> FileResponderBuilder {
        FileResponderBuilder { store: DEFAULT_QUARANTINE_DIRECTORY.into(), max_copy_bytes: DEFAULT_MAX_COPY_BYTES }
    }

    /// Where quarantined files are.
    #[must_use]
    pub fn store(&self) -> &Arc<QuarantineStore> {
        &self.store
    }

    fn start(&self, planned: &PlannedAction, context: &ActionContext<'_>) -> Result<Started, ActionResult> {
        if let Some(withheld) = ActionResult::withheld(&planned.permission) {
            return Err(withheld);
        }
        // Elsewhere a pid names another process, or none, so what the acting process sees and has open cannot be looked at.
        if !self.in_host_pid_namespace {
            return Err(ActionResult::not_successful(NOT_IN_HOST_PID_NAMESPACE));
        }
        let Target::File { device, inode } = planned.target else { return Err(not_supported()) };
        let cause = Cause { alert_uuid: context.alert_uuid(), policy: context.policy_name().to_owned() };
        let mut last = not_supported();
        for _ in 0..MAX_ATTEMPTS {
            let found = find::find(context.event(), (device, inode), self.own_mounts)?;
            self.check_place(&found, context)?;
            let started = match planned.action {
                Action::Quarantine => take::begin(&self.store, found, &cause, self.max_copy_bytes)
                    .map(|taking| Started::Taking(Box::new(taking))),
                Action::Delete => take::delete(&self.store, &found, &cause).map(Started::Done),
                _ => return Err(not_supported()),
            };
            match started {
                Ok(started) => return Ok(started),
                Err(NotTaken::Final(result)) => return Err(result),
                Err(NotTaken::Replaced(result)) => last = result,
            }
        }
        Err(last)
    }

    /// Whether a file may be taken from where it was found.
    fn check_place(&self, found: &Found, context: &ActionContext<'_>) -> Result<(), ActionResult> {
        let is_same = |other: &rustix::fs::Stat| {
            rustix::fs::fstat(&found.directory)
                .is_ok_and(|own| (own.st_dev, own.st_ino) == (other.st_dev, other.st_ino))
        };
        if rustix::fs::fstat(&self.store.directory).is_ok_and(|store| is_same(&store)) {
            let details = "quarantine-store: the file is in the quarantine store".to_owned();
            return Err(ActionResult::Refused { details });
        }
        if !found.elsewhere {
            return Ok(());
        }
        // The planner knew other paths only. In a container anybody can have any.
        if !found.on_host && !context.event().text(Field::ContainerId).is_empty() {
            return Ok(());
        }
        match context.protection().refusal_of_path(&found.path) {
            None => Ok(()),
            Some(refusal) => Err(ActionResult::Refused { details: refusal.to_string() }),
        }
    }
}

impl Responder for FileResponder {
    fn supports(&self) -> ActionSet {
        Self::ACTIONS.iter().copied().collect()
    }

    fn execute(&mut self, planned: &PlannedAction, context: &ActionContext<'_>) -> Execution {
        match self.start(planned, context) {
            Ok(Started::Taking(taking)) => {
                Execution::Pending(Box::new(FileConfirmation { planned: planned.clone(), taking }))
            }
            Ok(Started::Done(result)) => Execution::Done(outcome(planned, result)),
            Err(result) => Execution::Done(outcome(planned, result)),
        }
    }
}

enum Started {
    Taking(Box<Taking>),
    Done(ActionResult),
}

#[derive(Debug)]
struct FileConfirmation {
    planned: PlannedAction,
    taking: Box<Taking>,
}

impl Confirmation for FileConfirmation {
    fn wait(self: Box<Self>) -> ActionOutcome {
        let Self { planned, taking } = *self;
        outcome(&planned, taking.finish())
    }
}

fn outcome(planned: &PlannedAction, result: ActionResult) -> ActionOutcome {
    let mut outcome = outcome_now(planned, result);
    outcome.tier = Some(Tier::Process);
    outcome
}

fn not_supported() -> ActionResult {
    ActionResult::not_successful(NOT_SUPPORTED)
}

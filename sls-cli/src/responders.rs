//! The responders of a configuration, and the test of what they can do.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sls_actions::{
    ContainerResponder, DEFAULT_QUARANTINE_DIRECTORY, FileResponder, ProcessResponder, QuarantineStore, SelfTest,
    SelfTestOutcome, SelfTestResult,
};
use sls_core::{
    Action, ActionContext, ActionOutcome, ActionResult, ActionSet, Execution, PlannedAction, PolicySet, Responder,
    Responders,
};

use crate::config::Config;

/// For how long a child that is to be acted upon lives, if nobody ends it.
const SACRIFICE_LIFE: Duration = Duration::from_secs(20);

/// The hidden command that such a child runs.
pub(crate) const SACRIFICE: &str = "sacrifice";

/// What the responders need to know of a configuration.
#[derive(Clone, Debug)]
pub(crate) struct ResponderSettings {
    store: Store,
    thaw_after: Option<Duration>,
}

impl ResponderSettings {
    pub(crate) fn new(config: &Config) -> Self {
        let directory = config.quarantine_directory.clone();
        Self {
            store: Store {
                directory: directory.unwrap_or_else(|| DEFAULT_QUARANTINE_DIRECTORY.into()),
                opened: Arc::default(),
            },
            thaw_after: config.pause_container.thaw_after,
        }
    }

    /// All that the sensor can do.
    pub(crate) fn build(&self) -> anyhow::Result<Responders> {
        let mut containers = ContainerResponder::builder();
        if let Some(time) = self.thaw_after {
            containers = containers.thaw_after(time);
        }
        let files = Files { store: self.store.clone(), responder: None };
        Ok(Responders::default().with(ProcessResponder::builder().build()?).with(containers.build()?).with(files))
    }

    /// Tries `actions` on sacrifices, by responders of its own.
    pub(crate) fn test(&self, actions: ActionSet) -> anyhow::Result<Vec<SelfTestResult>> {
        // The sensor is there wherever it runs; `sleep` need not be.
        let mut test = SelfTest::new().program("/proc/self/exe", [SACRIFICE]);
        let files = only(actions, |action| FileResponder::ACTIONS.contains(&action));
        let mut tried = actions;
        let mut results = Vec::new();
        if !files.is_empty() {
            match self.store.open() {
                // On the file system of the store, where a file is moved and not copied.
                Ok(store) => {
                    let beside = store.path().parent().unwrap_or(store.path());
                    test = test.directory(beside).quarantine_store(Arc::clone(store));
                }
                Err(reason) => {
                    tried = only(actions, |action| !files.contains(action));
                    let inert = || SelfTestOutcome::Inert { reason: reason.to_owned() };
                    results.extend(files.iter().map(|action| SelfTestResult::new(action, inert())));
                }
            }
        }
        results.extend(test.run(&mut self.build()?, tried));
        Ok(results)
    }

    /// Tries all actions, and leaves no store where there was none: then one beside it is used, for a sensor that starts
    /// meanwhile would lose its own.
    pub(crate) fn test_all(&self) -> anyhow::Result<Vec<SelfTestResult>> {
        if self.store.directory.exists() {
            return self.test(supported());
        }
        let directory = self.store.directory.with_file_name(format!(".sls-self-test-{}", std::process::id()));
        let store = Store { directory: directory.clone(), opened: Arc::default() };
        let results = Self { store, ..self.clone() }.test(supported());
        let _ = std::fs::remove_dir(directory);
        results
    }
}

/// The quarantine store, which is opened, and made, only if there is an action that needs it.
#[derive(Clone, Debug)]
struct Store {
    directory: PathBuf,
    opened: Arc<OnceLock<Result<Arc<QuarantineStore>, String>>>,
}

impl Store {
    fn open(&self) -> Result<&Arc<QuarantineStore>, &str> {
        let open = || QuarantineStore::open(&self.directory).map(Arc::new).map_err(|error| words(&error));
        self.opened.get_or_init(open).as_ref().map_err(String::as_str)
    }
}

/// The actions on files.
#[derive(Debug)]
struct Files {
    store: Store,
    responder: Option<FileResponder>,
}

impl Files {
    fn responder(&mut self) -> Result<&mut FileResponder, String> {
        let responder = match self.responder.take() {
            Some(responder) => responder,
            None => {
                let store = Arc::clone(self.store.open()?);
                FileResponder::builder().store(store).build().map_err(|error| words(&error))?
            }
        };
        Ok(self.responder.insert(responder))
    }
}

impl Responder for Files {
    fn supports(&self) -> ActionSet {
        FileResponder::ACTIONS.iter().copied().collect()
    }

    fn execute(&mut self, planned: &PlannedAction, context: &ActionContext<'_>) -> Execution {
        // What is not carried out needs no store.
        if let Some(withheld) = ActionResult::withheld(&planned.permission) {
            return Execution::Done(ActionOutcome::new(planned, withheld));
        }
        match self.responder() {
            Ok(responder) => responder.execute(planned, context),
            Err(details) => Execution::Done(ActionOutcome::new(planned, ActionResult::NotSuccessful { details })),
        }
    }
}

fn only(actions: ActionSet, wanted: impl Fn(Action) -> bool) -> ActionSet {
    actions.iter().filter(|action| wanted(*action)).collect()
}

/// An error with its causes.
fn words(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// What the responders of every configuration support.
pub(crate) fn supported() -> ActionSet {
    let all: [&[Action]; 3] = [ProcessResponder::ACTIONS, ContainerResponder::ACTIONS, FileResponder::ACTIONS];
    all.concat().into_iter().collect()
}

/// The actions that policies may really take.
pub(crate) fn asked_for(policies: &PolicySet) -> ActionSet {
    let acting = policies.active().filter(|policy| !policy.dry_run).flat_map(|policy| policy.actions.iter());
    // What refuses an operation is tried where it is attached.
    acting.filter(|action| action.target_type().is_some() && *action != Action::Block).collect()
}

/// The life of a child that is to be acted upon.
pub(crate) fn sacrifice() {
    // Not even a sensor that is killed meanwhile leaves it behind, stopped or frozen as it may be.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    std::thread::sleep(SACRIFICE_LIFE);
}

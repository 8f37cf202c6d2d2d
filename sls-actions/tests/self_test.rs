//! The self-test tells what works from what does not, and leaves nothing behind.

// A test may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../.ci/lab/for_tests.rs"]
mod for_tests;

use std::fs;
use std::sync::{Arc, Mutex, MutexGuard};

use sls_actions::{
    ContainerResponder, FileResponder, ProcessResponder, QuarantineStore, SelfTest, SelfTestOutcome, SelfTestResult,
    in_host_pid_namespace,
};
use sls_core::{
    Action, ActionContext, ActionOutcome, ActionResult, ActionSet, Execution, PlannedAction, Responder, Responders,
    Target,
};

use for_tests::patience;

/// Children and cgroups of this process are looked at: one test at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

#[test]
fn every_action_works() {
    let clean = Clean::before();
    let store = Store::new();
    let mut responder = Responders::default()
        .with(ProcessResponder::builder().confirm_timeout(patience()).build().unwrap())
        .with(ContainerResponder::builder().confirm_timeout(patience()).build().unwrap())
        .with(FileResponder::builder().store(store.0.clone()).build().unwrap());
    let supported = responder.supports();
    assert_eq!(supported, acting());
    let results = store.test().timeout(patience()).run(&mut responder, supported);
    assert_eq!(results.iter().map(|result| result.action).collect::<Vec<_>>(), supported.iter().collect::<Vec<_>>());
    if in_host_pid_namespace().unwrap() && is_root() {
        assert!(results.iter().all(SelfTestResult::works), "{results:?}");
        assert!(store.0.list().unwrap().is_empty(), "the file is still in the store");
        assert_eq!(results[0].outcome.to_string(), "works");
    }
    clean.after();
}

#[test]
fn what_is_said_but_not_done_is_found_out() {
    let clean = Clean::before();
    let lie = |planned: &PlannedAction| ActionOutcome::new(planned, ActionResult::Successful);
    let store = Store::new();
    for result in store.test().run(&mut Fake(lie), acting()) {
        let SelfTestOutcome::Inert { reason } = &result.outcome else { panic!("{result:?}") };
        assert!(
            reason.starts_with("said to be successful, but") || (!is_root() && reason.contains("CAP_")),
            "{result:?}"
        );
    }
    clean.after();
}

#[test]
fn the_responders_reason_is_the_answer() {
    let clean = Clean::before();
    let fail = |planned: &PlannedAction| {
        let identified = match planned.target {
            Target::Process { key, .. } => key.pid != 0 && key.start != 0,
            Target::Container { cgroup_id } => cgroup_id != 0,
            Target::File { device, inode } => device != 0 && inode != 0,
            _ => false,
        };
        assert!(identified, "{planned:?}");
        ActionOutcome::new(planned, ActionResult::NotSuccessful { details: "no luck".to_owned() })
    };
    let store = Store::new();
    for result in store.test().run(&mut Fake(fail), acting()) {
        assert!(!result.works());
        assert!(!is_root() || result.outcome.to_string() == "no luck", "{result:?}");
    }
    clean.after();
}

#[test]
fn what_is_not_supported_or_acts_on_nothing() {
    let clean = Clean::before();
    let mut responder = ProcessResponder::builder().build().unwrap();
    let results = SelfTest::new().run(&mut responder, [Action::Alert, Action::Block].into_iter().collect());
    let [SelfTestResult { action: Action::Block, outcome, .. }] = &results[..] else { panic!("{results:?}") };
    assert_eq!(outcome.to_string(), "not supported");
    clean.after();
}

#[test]
fn without_a_program_to_sacrifice_nothing_is_known() {
    let clean = Clean::before();
    let mut responder = ProcessResponder::builder().build().unwrap();
    let test = SelfTest::new().program("/nonexistent/sleep", ["1"]);
    let results = test.run(&mut responder, [Action::Kill].into_iter().collect());
    let [SelfTestResult { outcome: SelfTestOutcome::Untested { reason }, .. }] = &results[..] else {
        panic!("{results:?}")
    };
    assert_eq!(reason, "cannot start /nonexistent/sleep: no such file or directory");
    clean.after();
}

#[test]
fn a_responder_that_panics_leaves_nothing_either() {
    let clean = Clean::before();
    let panic = |_: &PlannedAction| -> ActionOutcome { panic!("as asked") };
    let run = || SelfTest::new().run(&mut Fake(panic), acting());
    std::panic::catch_unwind(run).unwrap_err();
    clean.after();
}

#[test]
fn without_the_store_nothing_is_quarantined() {
    let clean = Clean::before();
    let panic = |_: &PlannedAction| -> ActionOutcome { panic!("it was tried") };
    let results = SelfTest::new().run(&mut Fake(panic), [Action::Quarantine].into_iter().collect());
    assert_eq!(results[0].outcome.to_string(), "untested: the file could not be taken out of the store again");
    clean.after();
}

/// A quarantine store that goes away again.
struct Store(Arc<QuarantineStore>, tempfile::TempDir);

impl Store {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self(Arc::new(QuarantineStore::open(directory.path().join("store")).unwrap()), directory)
    }

    fn test(&self) -> SelfTest {
        SelfTest::new().directory(self.1.path()).quarantine_store(self.0.clone())
    }
}

/// Every action with a target that there is a sacrifice for.
fn acting() -> ActionSet {
    Action::ALL.iter().copied().filter(|action| action.target_type().is_some() && *action != Action::Block).collect()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

struct Fake<F>(F);

impl<F> std::fmt::Debug for Fake<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fake")
    }
}

impl<F: FnMut(&PlannedAction) -> ActionOutcome + Send> Responder for Fake<F> {
    fn supports(&self) -> ActionSet {
        acting()
    }

    fn execute(&mut self, planned: &PlannedAction, _: &ActionContext<'_>) -> Execution {
        Execution::Done((self.0)(planned))
    }
}

/// What there was before a test, and must be again after it.
struct Clean {
    _alone: MutexGuard<'static, ()>,
    before: Vec<String>,
}

impl Clean {
    fn before() -> Self {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        Self { _alone: alone, before: belongings() }
    }

    fn after(self) {
        assert_eq!(belongings(), self.before);
    }
}

/// Children of this process, and what is named after its self-tests.
fn belongings() -> Vec<String> {
    let mut found = Vec::new();
    for task in fs::read_dir("/proc/self/task").unwrap() {
        let children = fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default();
        found.extend(children.split_whitespace().map(|child| format!("child {child}")));
    }
    let name = format!("sls-self-test-{}-", std::process::id());
    let mut directories = vec![std::env::temp_dir()];
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let cgroups = mounts.lines().filter(|line| line.contains(" - cgroup2 "));
    directories.extend(cgroups.filter_map(|line| line.split(' ').nth(4)).map(Into::into));
    for directory in directories {
        let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string());
        found.extend(names.filter_map(Result::ok).filter(|entry| entry.contains(&name)));
    }
    found.sort();
    found
}

//! `kill-container` and `pause-container` on real containers. Needs root, runc, crun and busybox.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use sls_actions::{ContainerResponder, ContainerResponderBuilder, process_key};
use sls_core::{
    Action, ActionContext, ActionOutcome, ActionPlanner, Engine, Event, EventKind, Field, GuardedPlanner, Guards,
    Permission, PlannedAction, PolicySet, ProcessKey, Protected, Responder, Target,
};
use support::containers::{Container, OwnCgroup, Runtime, unified, unique};
use support::{Child, Status, not_offered, patience, said, wait_until};

/// Makes children all the time, which outlive their parent.
const FORKS: &str = "while :; do /bin/busybox sleep 60 & /bin/busybox sleep 0.02; done";

/// Grows a file as long as it runs.
const COUNTS: &str = "while :; do echo >> /tmp/count; /bin/busybox sleep 0.01; done";
const COUNT: &str = "tmp/count";

/// Long enough for [`COUNTS`] to count, if it could.
const MANY_COUNTS: Duration = Duration::from_millis(300);

fn builder() -> ContainerResponderBuilder {
    ContainerResponder::builder().confirm_timeout(patience())
}

/// An event of the process that has `pid`.
fn event_of(pid: u32) -> Event {
    let mut event = Event::new(EventKind::Exec);
    event.process = process_key(pid).unwrap_or(ProcessKey { pid, start: 1 });
    event
}

fn planned(action: Action, cgroup_id: u64) -> PlannedAction {
    PlannedAction::new(action, Target::Container { cgroup_id }, Permission::Granted)
}

/// Acts on a cgroup as the answer to what `pid` did, within the default guards.
fn execute(builder: ContainerResponderBuilder, action: Action, pid: u32, cgroup_id: u64) -> ActionOutcome {
    guarded(builder, Guards::default(), action, pid, cgroup_id)
}

fn guarded(
    builder: ContainerResponderBuilder,
    guards: Guards,
    action: Action,
    pid: u32,
    cgroup_id: u64,
) -> ActionOutcome {
    let planner: Arc<dyn ActionPlanner> = Arc::new(GuardedPlanner::new(guards));
    let event = event_of(pid);
    let context = ActionContext::new(&event).planner(&planner);
    builder.build().unwrap().execute(&planned(action, cgroup_id), &context).finish()
}

fn assert_successful(outcome: &ActionOutcome) {
    assert_eq!(said(outcome), ("successful", ""));
    assert!(outcome.time.is_some() && outcome.tier.is_some());
}

#[test]
fn kill_ends_every_process_of_the_container() {
    for runtime in Runtime::ALL {
        for cgroup_kill in [true, false] {
            let container = Container::run(runtime, FORKS);
            wait_until("the container has made processes", || container.cgroup.pids().len() > 5);
            // A container in the container.
            let inner = container.cgroup.below("inner");
            inner.add(container.cgroup.pids().into_iter().find(|pid| *pid != container.pid).unwrap());
            wait_until("a process is in the cgroup below", || !inner.is_empty());
            let outcome = execute(
                builder().cgroup_kill(cgroup_kill),
                Action::KillContainer,
                container.pid,
                container.cgroup.id(),
            );
            assert_successful(&outcome);
            assert_eq!(container.cgroup.pids(), [0_u32; 0], "{runtime:?}");
        }
    }
}

#[test]
fn kill_takes_a_process_in_a_cgroup_below_as_that_of_the_container() {
    let container = Container::run(Runtime::Runc, FORKS);
    let inner = container.cgroup.below("inner");
    inner.add(container.pid);
    assert_successful(&execute(builder(), Action::KillContainer, container.pid, container.cgroup.id()));
    assert!(container.cgroup.is_empty());
}

#[test]
fn kill_reaches_every_cgroup_below_threaded_ones_too() {
    for cgroup_kill in [true, false] {
        let cgroup = OwnCgroup::new();
        let (threaded, deep) = (Child::sleeping(), Child::sleeping());
        let domain = cgroup.below("domain");
        let part = domain.below("part");
        part.try_write("cgroup.type", "threaded").unwrap();
        domain.add(threaded.pid as u32);
        part.try_write("cgroup.threads", &threaded.pid.to_string()).unwrap();
        // More than are looked at before the confirmation.
        let many: Vec<_> = (0..40).map(|number| cgroup.below(&format!("below-{number}"))).collect();
        many[20].below("deep").add(deep.pid as u32);
        let outcome =
            execute(builder().cgroup_kill(cgroup_kill), Action::KillContainer, threaded.pid as u32, cgroup.id());
        assert_successful(&outcome);
        for child in [threaded, deep] {
            assert_eq!(child.reap(), Status::Killed(libc::SIGKILL));
        }
    }
}

#[test]
fn the_container_is_found_when_the_process_is_gone() {
    let container = Container::run(Runtime::Runc, FORKS);
    assert_successful(&execute(builder(), Action::KillContainer, u32::MAX, container.cgroup.id()));
    assert!(container.cgroup.is_empty());
}

#[test]
fn a_container_of_many_processes_is_killed() {
    for cgroup_kill in [true, false] {
        let container = Container::run(Runtime::Runc, "while :; do /bin/busybox sleep 60 & done");
        wait_until("it has many processes", || container.cgroup.pids().len() > 300);
        let outcome =
            execute(builder().cgroup_kill(cgroup_kill), Action::KillContainer, container.pid, container.cgroup.id());
        assert_successful(&outcome);
        assert!(container.cgroup.is_empty());
    }
}

#[test]
fn pause_freezes_and_thaw_goes_on() {
    for runtime in Runtime::ALL {
        let container = Container::run(runtime, COUNTS);
        wait_until("it counts", || container.size_of(COUNT) > 1);
        assert_successful(&execute(builder(), Action::PauseContainer, container.pid, container.cgroup.id()));
        assert!(container.cgroup.is_frozen());
        let count = container.size_of(COUNT);
        std::thread::sleep(MANY_COUNTS);
        assert_eq!(container.size_of(COUNT), count, "{runtime:?} counted while it was paused");

        let responder = builder().build().unwrap();
        assert_eq!(responder.thaw(container.cgroup.id()).name(), "successful");
        wait_until("it counts again", || container.size_of(COUNT) > count);
        let again = responder.thaw(container.cgroup.id());
        assert_eq!((again.name(), again.details()), ("not successful", "the container is not paused"));
    }
}

#[test]
fn a_paused_container_can_be_killed() {
    for cgroup_kill in [true, false] {
        let container = Container::run(Runtime::Runc, COUNTS);
        let id = container.cgroup.id();
        assert_successful(&execute(builder(), Action::PauseContainer, container.pid, id));
        assert_successful(&execute(builder().cgroup_kill(cgroup_kill), Action::KillContainer, container.pid, id));
        assert!(container.cgroup.is_empty());
    }
}

#[test]
fn a_pause_ends_after_its_time_and_with_the_responder() {
    let container = Container::run(Runtime::Runc, COUNTS);
    let id = container.cgroup.id();
    let event = event_of(container.pid);
    let pause = |responder: &mut ContainerResponder| {
        let outcome = responder.execute(&planned(Action::PauseContainer, id), &ActionContext::new(&event)).finish();
        assert_eq!(said(&outcome), ("successful", ""));
    };
    let mut responder = builder().thaw_after(Duration::from_secs(1)).build().unwrap();
    pause(&mut responder);
    // What is paused already gets no second end.
    pause(&mut responder);
    wait_until("the container goes on", || !container.cgroup.is_frozen());
    wait_until("that is counted", || responder.thaw_stats().thawed == 1);

    let mut responder = builder().thaw_after(Duration::from_secs(100_000)).build().unwrap();
    pause(&mut responder);
    drop(responder);
    assert!(container.cgroup.read("cgroup.freeze").starts_with('0'));
}

/// Frozen by the other version, which a process does not even leave to die.
#[test]
fn a_container_that_its_runtime_paused_is_killed() {
    for cgroup_kill in [true, false] {
        let container = Container::run(Runtime::Runc, COUNTS);
        container.control("pause");
        let outcome =
            execute(builder().cgroup_kill(cgroup_kill), Action::KillContainer, container.pid, container.cgroup.id());
        assert_successful(&outcome);
        assert!(container.cgroup.is_empty());
    }
}

#[test]
fn what_version_1_has_frozen_along_with_others_is_not_thawed() {
    let hierarchy = Path::new("/sys/fs/cgroup/freezer");
    if !hierarchy.join("cgroup.procs").exists() {
        return not_offered("cgroup-v1", "a freezer of cgroup version 1");
    }
    let (inside, outside) = (Child::sleeping(), Child::sleeping());
    let cgroup = OwnCgroup::new();
    cgroup.add(inside.pid as u32);
    let freezer = OwnCgroup::under(hierarchy);
    freezer.add(inside.pid as u32);
    freezer.add(outside.pid as u32);
    freezer.try_write("freezer.state", "FROZEN").unwrap();
    wait_until("they are frozen", || freezer.read("freezer.state").trim() == "FROZEN");
    let short = ContainerResponder::builder().confirm_timeout(Duration::from_millis(500));
    let outcome = execute(short, Action::KillContainer, inside.pid as u32, cgroup.id());
    let (name, details) = said(&outcome);
    assert_eq!(name, "not successful");
    assert!(details.starts_with("the container did not end within 500ms, left are pids "), "{details}");
    assert!(details.ends_with("holds it frozen, along with others"), "{details}");
    assert_eq!(freezer.read("freezer.state").trim(), "FROZEN");
    freezer.try_write("freezer.state", "THAWED").unwrap();
    inside.reap();
    assert!(outside.is_untouched());
}

#[test]
fn a_protected_process_or_cgroup_saves_the_whole_container() {
    let parent = OwnCgroup::new();
    let cgroup = parent.below("container");
    let inner = cgroup.below("inner");
    let (first, second) = (Child::sleeping(), Child::sleeping());
    let (first_pid, second_pid) = (first.pid as u32, second.pid as u32);
    cgroup.add(first_pid);
    inner.add(second_pid);
    let empty = cgroup.below("empty");
    let key = process_key(second_pid).unwrap();
    let program = fs::read_link(format!("/proc/{second_pid}/exe")).unwrap().to_str().unwrap().to_owned();
    let (parent_id, inner_id, empty_id) = (parent.id(), inner.id(), empty.id());
    let cases = [
        (
            Guards::none().with("db", "not the database", Protected::Process { key, resolution: 10_000_000 }),
            format!("db: not the database (process {second_pid} of the container)"),
        ),
        (
            Guards::none().protect_program(program),
            format!("protected-program: the operator protects this program (process {first_pid} of the container)"),
        ),
        (
            Guards::none().protect_cgroup(inner_id),
            format!("protected-cgroup: the operator protects this cgroup (process {second_pid} of the container)"),
        ),
        (
            Guards::none().protect_cgroup(empty_id),
            format!("protected-cgroup: the operator protects this cgroup (cgroup {empty_id})"),
        ),
        (
            Guards::none().protect_cgroup(parent_id),
            format!("protected-cgroup: the operator protects this cgroup (cgroup {parent_id})"),
        ),
    ];
    for action in [Action::KillContainer, Action::PauseContainer] {
        for (guards, details) in &cases {
            let outcome = guarded(builder(), guards.clone(), action, first_pid, cgroup.id());
            assert_eq!(said(&outcome), ("refused", &**details));
            assert!(first.is_untouched() && second.is_untouched() && !cgroup.is_frozen());
        }
    }
    // Nothing else keeps it.
    assert_successful(&execute(builder(), Action::KillContainer, first_pid, cgroup.id()));
}

#[test]
fn the_root_is_never_acted_upon() {
    let id = std::os::unix::fs::MetadataExt::ino(&fs::metadata(unified()).unwrap());
    let child = Child::sleeping();
    for action in [Action::KillContainer, Action::PauseContainer] {
        let outcome = execute(builder(), action, child.pid as u32, id);
        assert_eq!(said(&outcome), ("refused", "root-cgroup: the root of the hierarchy is never acted upon"));
    }
    assert!(child.is_untouched());
}

#[test]
fn the_sensors_own_cgroups_are_refused() {
    let outer = OwnCgroup::new();
    let inner = outer.below("inner");
    let script = "echo $$ > \"$0\"/cgroup.procs; exec \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-ec", script]).arg(&inner.path);
    assert_passes(command, "inside_its_own_cgroups", &[]);
    // In a namespace in which its cgroup is called `/`.
    let mut command = Command::new("sh");
    command.args(["-ec", script]).arg(&inner.path).args(["unshare", "--cgroup"]);
    assert_passes(command, "inside_its_own_cgroups", &[("SLS_TEST_CGROUP", inner.path.as_os_str())]);
}

#[test]
#[ignore = "another test runs it in a cgroup of its own"]
fn inside_its_own_cgroups() {
    let own = match std::env::var_os("SLS_TEST_CGROUP") {
        Some(path) => path.into(),
        None => {
            let text = fs::read_to_string("/proc/self/cgroup").unwrap();
            let path = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
            unified().join(path)
        }
    };
    for path in [own.parent().unwrap(), &own] {
        let id = std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
        for action in [Action::KillContainer, Action::PauseContainer] {
            for pid in [std::process::id(), u32::MAX] {
                let outcome = execute(builder(), action, pid, id);
                assert_eq!(said(&outcome), ("refused", "sensor-cgroup: the sensor runs in this cgroup"));
            }
        }
    }
}

/// Where cgroups cannot be written to nothing is done, and that is said.
#[test]
fn inert_container_kill() {
    let container = Container::run(Runtime::Runc, COUNTS);
    let script = "mount -o remount,bind,ro \"$0\"; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-ec", script]).arg(unified());
    let (pid, id) = (container.pid.to_string(), container.cgroup.id().to_string());
    assert_passes(
        command,
        "where_cgroups_are_read_only",
        &[("SLS_TEST_PID", pid.as_ref()), ("SLS_TEST_ID", id.as_ref())],
    );
    let count = container.size_of(COUNT);
    wait_until("the container counts on", || container.size_of(COUNT) > count);
}

#[test]
#[ignore = "another test runs it where cgroups are read-only"]
fn where_cgroups_are_read_only() {
    let variable = |name| std::env::var(name).unwrap();
    let (pid, id) = (variable("SLS_TEST_PID").parse().unwrap(), variable("SLS_TEST_ID").parse().unwrap());
    for (action, file) in [(Action::KillContainer, "cgroup.kill"), (Action::PauseContainer, "cgroup.freeze")] {
        let outcome = execute(builder().thaw_after(patience()), action, pid, id);
        let details = format!("cannot write {file}: read-only file system");
        assert_eq!(said(&outcome), ("not successful", &*details));
    }
}

#[test]
fn nothing_is_done_where_version_2_is_not_mounted() {
    let mut command = Command::new("unshare");
    let script = "umount -R /sys/fs/cgroup; exec \"$@\"";
    command.args(["--mount", "--propagation", "private", "sh", "-ec", script, "sh"]);
    assert_passes(command, "without_version_2", &[]);
}

#[test]
#[ignore = "another test runs it where no cgroups are mounted"]
fn without_version_2() {
    assert!(!builder().build().unwrap().can_act());
    let outcome = execute(builder(), Action::KillContainer, std::process::id(), 5);
    let expected = "cgroup version 2 cannot be used: no such file or directory";
    assert_eq!(said(&outcome), ("not successful", expected));
}

#[test]
fn a_container_that_is_gone_is_nobody_elses() {
    let id = unique("container");
    let first = Container::run_as(Runtime::Runc, &id, COUNTS);
    let gone = first.cgroup.id();
    drop(first);
    for pid in [u32::MAX, std::process::id()] {
        let outcome = execute(builder(), Action::KillContainer, pid, gone);
        assert_eq!(said(&outcome), ("not successful", "the container is gone"));
    }
    // Another container under the same name.
    let second = Container::run_as(Runtime::Runc, &id, COUNTS);
    assert_ne!(second.cgroup.id(), gone);
    for action in [Action::KillContainer, Action::PauseContainer] {
        for pid in [second.pid, u32::MAX] {
            let outcome = execute(builder(), action, pid, gone);
            assert_eq!(said(&outcome), ("not successful", "the container is gone"));
        }
    }
    assert_eq!(builder().build().unwrap().thaw(gone).details(), "the container is gone");
    let count = second.size_of(COUNT);
    wait_until("the second container counts on", || second.size_of(COUNT) > count);
}

#[test]
fn a_container_without_processes_is_gone() {
    let cgroup = OwnCgroup::new();
    for action in [Action::KillContainer, Action::PauseContainer] {
        let outcome = execute(builder(), action, u32::MAX, cgroup.id());
        assert_eq!(said(&outcome), ("not successful", "the container is gone"));
    }
    assert!(cgroup.read("cgroup.freeze").starts_with('0'));
}

#[test]
fn acts_only_with_permission_and_on_containers() {
    let child = Child::sleeping();
    let cgroup = OwnCgroup::new();
    cgroup.add(child.pid as u32);
    let mut responder = builder().build().unwrap();
    assert!(responder.can_act());
    let event = event_of(child.pid as u32);
    for action in [Action::KillContainer, Action::PauseContainer] {
        assert!(responder.supports().contains(action));
        let mut planned = planned(action, cgroup.id());
        planned.permission = Permission::DryRun;
        assert_eq!(said(&responder.execute(&planned, &ActionContext::new(&event)).finish()), ("dry run", ""));
        planned.permission = Permission::Granted;
        planned.target = child.target();
        let outcome = responder.execute(&planned, &ActionContext::new(&event)).finish();
        assert_eq!(said(&outcome), ("not successful", "not supported"));
    }
    let outcome = responder.execute(&planned(Action::Kill, cgroup.id()), &ActionContext::new(&event)).finish();
    assert_eq!(said(&outcome), ("not successful", "not supported"));
    assert!(child.is_untouched() && !cgroup.is_frozen());
}

/// Outside a container nothing is done, and the alert says so.
#[test]
fn the_alert_says_that_there_is_no_container() {
    let child = Child::sleeping();
    let policy = "Escape:
  policy: program
  responseActions: [kill-container, pause-container, alert]
  rules:
  - match programName == \"/usr/bin/tool\"
  - default ignore
";
    let container = OwnCgroup::new();
    container.add(child.pid as u32);
    let mut engine = Engine::builder(PolicySet::from_yaml("policy.yaml", policy).unwrap()).build();
    let mut responder = builder().build().unwrap();
    let mut alerts = |event: &mut Event| {
        let mut json = Vec::new();
        engine.process(event, &mut responder, &mut |pending| {
            json.push(serde_json::to_value(pending.complete()).unwrap());
        });
        json.pop().unwrap()["notifications"].as_array().unwrap()[1..].to_vec()
    };
    let mut event = event_of(child.pid as u32);
    event.set_text(Field::ProgramName, b"/usr/bin/tool");
    event.cgroup_id = Some(container.id());
    let actions = alerts(&mut event.clone());
    assert_eq!(actions.len(), 2);
    for (action, token) in actions.iter().zip(["pause-container", "kill-container"]) {
        assert_eq!(action["message"], format!("Refused responseAction: {token}"));
        let fields = &action["message_fields"];
        assert_eq!((&fields["action_type"], &fields["action_result"]), (&token.into(), &"refused".into()));
        assert_eq!(fields["action_result_details"], "container: the process runs outside a container");
    }
    assert!(child.is_untouched() && !container.is_frozen());

    // The same inside of one.
    event.set_text(Field::ContainerId, b"c1");
    event.container_cgroup_id = event.cgroup_id;
    let actions = alerts(&mut event);
    for action in &actions {
        assert_eq!(action["message_fields"]["action_result"], "successful", "{action}");
    }
    assert!(container.is_empty());
}

/// Runs an ignored test of this program behind `command`.
fn assert_passes(mut command: Command, test: &str, variables: &[(&str, &std::ffi::OsStr)]) {
    let program = std::env::current_exe().unwrap();
    command.arg(program).args(["--ignored", "--exact", test]).envs(variables.iter().copied());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{output:?}");
}

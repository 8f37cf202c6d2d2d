//! What a policy does to a process, where it may not, and where it cannot.

// A test may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use tempfile::TempDir;

use support::{
    Sensor, Victim, copy_of, directory, in_clean_environment, policy, run, runs, signal, sls, sls_run, state, text,
    wait_for, write,
};

const NOT_IN_HOST: &str = "the sensor is not in the host's PID namespace";

#[test]
fn stop_suspends_and_says_so_afterwards() {
    let directory = directory();
    let program = copy_of("/usr/bin/sleep", directory.path().join("stop-me"));
    let sensor = Sensor::start(sls_run(&against(&directory, &program, "[stop, alert]")));
    let victim = Victim::as_nobody(Command::new(&program).arg("60"));
    let alert = sensor.alert(victim.pid());
    assert_eq!(alert.outcome(), ["stop", "successful", ""], "{}", alert.text);
    assert_eq!(alert.message(), "Took responseAction: stop");
    assert_eq!(alert.state, Some('T'), "the alert came before the stop");
    assert_eq!(state(victim.pid()), Some('T'));
    // It goes on as if nothing had happened.
    signal(victim.pid(), Signal::CONT);
    wait_for("the victim to go on", || runs(victim.pid()).then_some(()));
    sensor.stop().assert_clean();
    assert!(runs(victim.pid()), "the end of the sensor ended the victim");
}

#[test]
fn several_actions_come_in_the_safe_order_and_each_is_reported() {
    let directory = directory();
    let program = copy_of("/usr/bin/sleep", directory.path().join("stop-and-kill-me"));
    let sensor = Sensor::start(sls_run(&against(&directory, &program, "[kill, stop, alert]")));
    let victim = Victim::as_nobody(Command::new(&program).arg("60"));
    let alert = sensor.alert(victim.pid());
    assert_eq!(alert.state, Some('Z'));
    let results: Vec<_> = alert
        .actions()
        .iter()
        .map(|action| ["action_type", "action_result"].map(|key| action["message_fields"][key].as_str().unwrap()))
        .collect();
    assert_eq!(results, [["stop", "successful"], ["kill", "successful"]], "{}", alert.text);
    assert_eq!(victim.reap().signal(), Some(9));
    sensor.stop().assert_clean();
}

#[test]
fn a_policy_may_act_in_silence() {
    let directory = directory();
    let program = copy_of("/usr/bin/sleep", directory.path().join("vanish"));
    let sensor = Sensor::start(sls_run(&against(&directory, &program, "[kill]")));
    let victim = Victim::as_nobody(Command::new(&program).arg("60"));
    let pid = victim.pid();
    assert_eq!(victim.reap().signal(), Some(9));
    sensor.wait_for_log("a policy acted without an alert");
    let ended = sensor.stop();
    ended.assert_clean();
    assert_eq!(ended.about(pid).len(), 0);
}

#[test]
fn dry_run_of_the_sensor_spares_everything() {
    let directory = directory();
    let program = copy_of("/usr/bin/sleep", directory.path().join("spare-me"));
    let mut command = sls_run(&against(&directory, &program, "[kill, alert]"));
    command.arg("--dry-run");
    let sensor = Sensor::start(command);
    let victim = Victim::as_nobody(Command::new(&program).arg("60"));
    let alert = sensor.alert(victim.pid());
    assert_eq!(alert.outcome(), ["kill", "dry run", ""]);
    sensor.stop().assert_clean();
    assert!(runs(victim.pid()), "it was acted upon");
}

/// The shell that started the sensor becomes a program that the policy kills on sight.
#[test]
fn whoever_started_the_sensor_is_never_acted_upon() {
    let directory = directory();
    let program = copy_of("/usr/bin/sleep", directory.path().join("launcher"));
    let (policy, go) = (against(&directory, &program, "[kill, stop, alert]"), directory.path().join("go"));
    assert!(Command::new("mkfifo").arg(&go).status().unwrap().success());
    let script =
        r#""$0" run --no-content --policy "$1" & echo $! >"$2.pid"; read -r _ <"$2"; exec "$3" 60 2>/dev/null"#;
    let mut command = in_clean_environment(Command::new("sh"), &["-c", script, env!("CARGO_BIN_EXE_sls")]);
    command.arg(&policy).arg(&go).arg(&program);
    let mut sensor = Sensor::start(command);
    let launcher = sensor.pid;
    sensor.pid = fs::read_to_string(go.with_extension("pid")).unwrap().trim().parse().unwrap();

    fs::write(&go, "\n").unwrap();
    let alert = sensor.alert(launcher);
    for (action, token) in alert.actions().iter().zip(["stop", "kill"]) {
        assert_eq!(action["message"], format!("Refused responseAction: {token}"));
        let fields = &action["message_fields"];
        assert_eq!(fields["action_result"], "refused");
        assert_eq!(fields["action_result_details"], "sensor: the sensor and its ancestors are never acted upon");
        assert!(fields.get("action_tier").is_none() && fields.get("action_latency_us").is_none(), "nothing was done");
    }
    assert_eq!(alert.actions().len(), 2);
    // The same program is killed where it is nobody's ancestor.
    let other = Victim::as_nobody(Command::new(&program).arg("60"));
    let pid = other.pid();
    assert_eq!(other.reap().signal(), Some(9));
    assert_eq!(sensor.alert(pid).actions()[0]["message_fields"]["action_result"], "successful");
    assert!(runs(launcher), "the launcher was acted upon");

    signal(sensor.pid, Signal::TERM);
    sensor.wait_for_log("stopped");
    assert!(runs(launcher), "it was acted upon");
}

#[test]
fn a_protected_program_is_never_acted_upon() {
    let directory = directory();
    let program = copy_of("/usr/bin/sleep", directory.path().join("database"));
    let config = write(
        directory.path().join("config.yaml"),
        &format!("protectedPrograms: ['{}/data*']\n", directory.path().display()),
    );
    let mut command = sls_run(&against(&directory, &program, "[kill, alert]"));
    command.arg("--config").arg(config);
    let sensor = Sensor::start(command);
    let victim = Victim::as_nobody(Command::new(&program).arg("60"));
    let alert = sensor.alert(victim.pid());
    let reason = "protected-program: the operator protects this program";
    assert_eq!(alert.outcome(), ["kill", "refused", reason]);
    assert!(runs(victim.pid()), "it was acted upon");
    sensor.stop().assert_clean();
}

/// Nobody executes anything as the first process of this machine, so a recorded event stands in for it.
#[test]
fn the_first_process_is_never_acted_upon() {
    let directory = directory();
    let policy = against(&directory, Path::new("/sbin/init"), "[kill, alert]");
    let event = r#"{"kind":"exec","processPid":1,"processStart":1000,"programName":"/sbin/init"}"#;
    let events = write(directory.path().join("events.json"), event);
    let mut command = sls(&["replay", "--policy"]);
    command.arg(policy).arg(events);
    let output = run(command);
    assert!(
        text(&output.stdout).contains(r#""action_result_details":"pid-1: init is never acted upon""#),
        "{output:?}"
    );
}

#[test]
fn in_another_pid_namespace_it_alerts_and_cannot_act() {
    let directory = directory();
    let program = copy_of("/usr/bin/sleep", directory.path().join("out-of-reach"));
    let policy = against(&directory, &program, "[kill, alert]");
    let mut sensor = Sensor::start(in_pid_namespace(&policy, &[]));
    let warning = sensor.wait_for_log("WARN");
    assert!(warning.contains(NOT_IN_HOST), "{warning}");
    sensor.pid = only_child(sensor.pid);

    let victim = Victim::as_nobody(Command::new(&program).arg("60"));
    let alert = sensor.alert(victim.pid());
    assert_eq!(alert.outcome(), ["kill", "not successful", NOT_IN_HOST], "{}", alert.text);
    assert_eq!(alert.message(), format!("unable to kill process {}: {NOT_IN_HOST}", victim.pid()));
    assert_eq!(alert.json["metadata"]["in_host_pid_namespace"], "false");
    assert!(runs(victim.pid()), "the victim was acted upon");
    let ended = sensor.stop();
    ended.assert_clean();
}

#[test]
fn with_require_actions_it_does_not_start_in_another_pid_namespace() {
    let directory = directory();
    let policy = against(&directory, Path::new("/nowhere"), "[kill, alert]");
    let output = run(in_pid_namespace(&policy, &["--require-actions"]));
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = text(&output.stderr);
    assert!(said.contains(NOT_IN_HOST) && said.contains("--require-actions"), "{said}");
    assert!(!said.contains("watching"), "{said}");

    let mut here = sls_run(&policy);
    here.args(["--require-actions", "--duration", "100ms"]);
    assert_eq!(run(here).status.code(), Some(0), "it does not start where actions work");
}

#[test]
fn without_privileges_it_does_not_start() {
    let mut command = Command::new("setpriv");
    command.args(["--inh-caps=-all", "--bounding-set=-all", env!("CARGO_BIN_EXE_sls"), "run", "--duration", "1s"]);
    let output = run(command);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = text(&output.stderr);
    assert!(said.contains("cannot load the probe") && said.contains("not permitted"), "{said}");
}

/// A policy against one program.
fn against(directory: &TempDir, program: &Path, actions: &str) -> PathBuf {
    let text = policy("Against", &format!("programName == \"{}\"", program.display()), actions);
    write(directory.path().join("policy.yaml"), &text)
}

fn in_pid_namespace(policy: &Path, arguments: &[&str]) -> Command {
    let unshare = ["--pid", "--fork", "--kill-child", "--mount-proc", env!("CARGO_BIN_EXE_sls"), "run", "--no-content"];
    let mut command = in_clean_environment(Command::new("unshare"), &unshare);
    command.arg("--policy").arg(policy).args(arguments);
    command
}

fn only_child(pid: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.trim().parse().unwrap_or_else(|_| panic!("{pid} has the children {children:?}"))
}

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
fn resume_undoes_a_stop() {
    let victim = Victim::as_nobody(Command::new("/usr/bin/sleep").arg("60"));
    let (pid, other) = (victim.pid(), Victim::as_nobody(Command::new("/usr/bin/sleep").arg("60")));
    for format in ["human", "json"] {
        for stopped in [pid, other.pid()] {
            signal(stopped, Signal::STOP);
            wait_for("the victim to stop", || (state(stopped) == Some('T')).then_some(()));
        }
        let output = run(sls(&["resume", &pid.to_string(), "--format", format]));
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let expected = match format {
            "human" => format!("resumed process {pid}\n"),
            _ => format!("{{\"details\":\"\",\"pid\":{pid},\"result\":\"successful\"}}\n"),
        };
        assert_eq!(text(&output.stdout), expected);
        assert!(runs(pid));
        assert_eq!(state(other.pid()), Some('T'), "another process was continued");
    }
}

#[test]
fn resume_says_what_it_cannot_do() {
    let victim = Victim::as_nobody(Command::new("/usr/bin/sleep").arg("60"));
    let gone = victim.pid().to_string();
    signal(victim.pid(), Signal::KILL);
    victim.reap();
    let output = run(sls(&["resume", &gone, "--format", "human"]));
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), ""));
    assert_eq!(text(&output.stderr), format!("sls: unable to resume process {gone}: no such process\n"));
    let output = run(sls(&["resume", "1", "--format", "json"]));
    assert_eq!(output.status.code(), Some(1));
    let expected = "{\"details\":\"pid-1: the first process is never signalled\",\"pid\":1,\"result\":\"refused\"}\n";
    assert_eq!(text(&output.stdout), expected);
    for no_pid in ["0", "-1", "x", "4294967295"] {
        assert_eq!(run(sls(&["resume", no_pid])).status.code(), Some(2), "{no_pid}");
    }
}

/// The children of the process are older than what it is killed for, and one of them has a session of its own.
#[test]
fn a_tree_is_killed_with_everything_below() {
    let directory = directory();
    let program = copy_of("/usr/bin/sleep", directory.path().join("kill-my-tree"));
    let pids = directory.path().join("pids");
    let sensor = Sensor::start(sls_run(&against(&directory, &program, "[kill-tree, alert]")));
    let (file, program) = (pids.display(), program.display());
    let script = format!(
        "sleep 60 & a=$!; sh -c 'setsid sleep 60 & echo $! > {file}.daemon'; \
         echo $a $(cat {file}.daemon) > {file}.new; mv {file}.new {file}; exec {program} 60"
    );
    let victim = Victim::spawn(Command::new("/bin/sh").arg("-c").arg(script));
    let alert = sensor.alert(victim.pid());
    assert_eq!(alert.outcome(), ["kill-tree", "successful", ""], "{}", alert.text);
    let below: Vec<u32> =
        fs::read_to_string(&pids).unwrap().split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    assert_eq!(below.len(), 2);
    for pid in below {
        assert!(matches!(state(pid), None | Some('Z' | 'X')), "{pid} is alive: {:?}", state(pid));
    }
    assert_eq!(victim.reap().signal(), Some(9));
    sensor.stop().assert_clean();
}

/// Each process ends as soon as it has made the next, which has a session of its own: nothing leads there but events.
#[test]
fn what_escapes_from_a_killed_tree_is_pursued() {
    const HOPS: usize = 5000;
    let directory = directory();
    let program = copy_of("/usr/bin/sleep", directory.path().join("kill-my-tree"));
    let sensor = Sensor::start(sls_run(&against(&directory, &program, "[kill-tree, alert]")));
    // The first waits until the tree has a root that is killed. The last tells, should this test fail.
    let hop = format!(
        "[ $1 -lt {HOPS} ] || until read -r name </proc/$2/comm && [ $name = kill-my-tree ]; do :; done\n\
         [ $1 -gt 0 ] && setsid /bin/sh $0 $(($1 - 1)) &\n\
         [ $1 -gt 0 ] || : >$0.escaped\n"
    );
    let hopper = write(directory.path().join("hop.sh"), &hop);
    let script = format!("/bin/sh {} {HOPS} $$ 2>/dev/null & exec {} 60", hopper.display(), program.display());
    let victim = Victim::spawn(Command::new("/bin/sh").arg("-c").arg(script));
    sensor.alert(victim.pid());
    let hops = || {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
        // The victim was started with the whole script as one argument.
        lines
            .filter(|line| line.split(|byte| *byte == 0).any(|part| part == hopper.as_os_str().as_encoded_bytes()))
            .count()
    };
    // Between two of them there may be a moment without any.
    wait_for("the last to be dead", || (0..50).all(|_| hops() == 0).then_some(()));
    assert!(!hopper.with_extension("sh.escaped").exists(), "nobody stopped them");
    assert_eq!(victim.reap().signal(), Some(9));
    assert!(!sensor.log().contains("stopped"), "it ended with the tree");
    sensor.stop().assert_clean();
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

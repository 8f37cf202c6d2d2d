//! `sls run` as a daemon: reload, signals, what it refuses to start with, and what it leaves behind.

// A test may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use support::{
    NOBODY, Sensor, Victim, alerting, copy_of, directory, patience, policy, replace, run, signal, sls, sls_run, text,
    text_against, wait_for, write,
};

#[test]
fn a_changed_file_takes_over_and_a_broken_one_does_not() {
    let directory = directory();
    let [first, second] = ["first", "second"].map(|name| copy_of("/usr/bin/true", directory.path().join(name)));
    let file = alerting("First", &directory, &first);
    let sensor = Sensor::start(sls_run(&file));
    let seen = |program: &Path| {
        let pid = Victim::run(&mut Command::new(program));
        let alert = sensor.alert(pid);
        (alert.policy().to_owned(), alert.json["metadata"]["policy_generation"].as_str().unwrap().to_owned())
    };
    let (one, two, three) = ("1".to_owned(), "2".to_owned(), "3".to_owned());
    assert_eq!(seen(&first), ("First".to_owned(), one));

    replace(&file, text_against("Second", &second));
    sensor.wait_for_log("policies reloaded generation=2");
    assert_eq!(seen(&second), ("Second".to_owned(), two.clone()));

    replace(&file, text_against("Broken", &first).replace("programName", "programname"));
    sensor.wait_for_log("the policies are invalid: those loaded before stay in force");
    let log = sensor.log();
    for part in ["error[SLS", "unknown field `programname`", "policy.yaml:5:11", "^^^^^^^^^^^", "programName"] {
        assert!(log.contains(part), "no {part:?} in\n{log}");
    }
    assert!(!log.contains('\u{1b}'), "colours, and no terminal:\n{log}");
    assert_eq!(seen(&second), ("Second".to_owned(), two.clone()));

    fs::remove_file(&file).unwrap();
    sensor.wait_for_log("cannot read the file");
    assert_eq!(seen(&second), ("Second".to_owned(), two));

    replace(&file, text_against("Third", &first));
    sensor.wait_for_log("policies reloaded generation=3");
    assert_eq!(seen(&first), ("Third".to_owned(), three));

    replace(&file, text_against("Odd", Path::new("/usr//bin/odd")));
    sensor.wait_for_log("policies reloaded generation=4");
    let log = sensor.log();
    assert!(log.contains("warns of them warnings=1") && log.contains("code=SLS104 place="), "{log}");
    let ended = sensor.stop();
    ended.assert_clean();
    assert_eq!(ended.alerts.len(), 5, "policies not in force alerted as well");
}

/// The documents that sls-core has golden diagnostics for, one after the other in the place of the running one.
#[test]
fn no_bad_document_takes_the_policies_away() {
    let directory = directory();
    let victim = copy_of("/usr/bin/true", directory.path().join("victim"));
    let file = alerting("Good", &directory, &victim);
    let sensor = Sensor::start(sls_run(&file));
    let bad = concat!(env!("CARGO_MANIFEST_DIR"), "/../sls-core/tests/diagnostics");
    let mut documents: Vec<_> = fs::read_dir(bad)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    assert!(documents.len() >= 20, "the documents are gone");
    documents.sort();
    let mut documents: Vec<_> = documents.iter().take(20).map(|path| fs::read(path).unwrap()).collect();
    documents.push(vec![b'#'; 8 << 20]);
    documents.push(b"P:\n  policy: pro\0gram\n".to_vec());
    documents.push(format!("P: {}", "[".repeat(100_000)).into_bytes());
    for (count, document) in (1..).zip(&documents) {
        replace(&file, document);
        let refused = || sensor.log().matches("those loaded before stay in force").count();
        wait_for("the document to be refused", || (refused() == count).then_some(()));
    }
    let alert = sensor.alert(Victim::run(&mut Command::new(&victim)));
    assert_eq!(alert.policy(), "Good");
    assert_eq!(alert.json["metadata"]["policy_generation"], "1");
    let ended = sensor.stop();
    ended.assert_clean();
    assert!(ended.log.matches("error[SLS").count() >= documents.len(), "{}", ended.log);
}

/// The process table outlives a reload: a child started before still has its parent after.
#[test]
fn sighup_reloads_also_in_the_first_moment() {
    let directory = directory();
    let victim = copy_of("/usr/bin/true", directory.path().join("victim"));
    let sensor = Sensor::start(sls_run(&alerting("P", &directory, &victim)));
    signal(sensor.pid, Signal::HUP);
    sensor.wait_for_log("policies reloaded generation=2");
    let alert = sensor.alert(Victim::run(&mut Command::new(&victim)));
    assert_eq!(alert.json["metadata"]["policy_generation"], "2");
    assert_eq!(alert.json["lineage"][0]["pid"], std::process::id());
    sensor.stop().assert_clean();
}

#[test]
fn what_happened_before_sigterm_is_still_reported() {
    let directory = directory();
    let victim = copy_of("/usr/bin/true", directory.path().join("victim"));
    let policy = alerting("P", &directory, &victim);
    let sensor = Sensor::start(sls_run(&policy));
    let pid = Victim::run(&mut Command::new(&victim));
    let ended = sensor.stop();
    ended.assert_clean();
    assert_eq!(ended.about(pid).len(), 1, "the last event got lost");

    // More than the sensor takes out of the kernel's buffer at once.
    let sensor = Sensor::start(sls_run(&policy));
    sensor.suspend();
    let long = "x".repeat(7000);
    let pids: Vec<_> = (0..150).map(|_| Victim::run(Command::new(&victim).arg(&long))).collect();
    signal(sensor.pid, Signal::TERM);
    sensor.resume();
    let ended = sensor.wait();
    ended.assert_clean();
    let found: HashSet<_> =
        ended.alerts.iter().map(|alert| alert.json["process_info"]["pid"].as_u64().unwrap() as u32).collect();
    assert_eq!(found, pids.into_iter().collect());
}

/// Without a word on the command line: the built-in content, and nothing is ever acted upon.
#[test]
fn the_built_in_content_sees_and_acts_on_nothing() {
    let directory = directory();
    let victim = copy_of("/usr/bin/sleep", directory.path().join("dropped"));
    let sensor = Sensor::start(sls(&["run"]));
    assert!(sensor.wait_for_log("watching").contains("dry_run=true"));
    let dropped = Victim::as_nobody(Command::new(&victim).arg("60"));
    let alert = sensor.alert(dropped.pid());
    assert_eq!(alert.policy(), "Program Executed from World-writable Directory");
    assert!(support::runs(dropped.pid()));
    sensor.stop().assert_clean();
}

#[test]
fn the_configuration_file_says_as_much_as_the_command_line() {
    let directory = directory();
    let victim = copy_of("/usr/bin/sleep", directory.path().join("victim"));
    let condition = format!("programName == \"{}\"", victim.display());
    let policy = write(directory.path().join("policy.yaml"), &policy("P", &condition, "[kill, alert]"));
    let file = directory.path().join("alerts.json");
    let config = format!(
        "policies: [{}]\ncontent: false\ndryRun: true\noutputs: ['file:{}']\nringBytes: 1048576\n",
        policy.display(),
        file.display()
    );
    let config = write(directory.path().join("config.yaml"), &config);
    let mut command = sls(&["run", "--show-events", "--config"]);
    command.arg(config);
    let sensor = Sensor::start(command);
    assert!(sensor.wait_for_log("watching").contains("policies=1 "), "the content is there as well");
    let spared = Victim::as_nobody(Command::new(&victim).args(["60", "\u{1b}[2J"]));
    sensor.wait_for_log(&format!("{} nobody", spared.pid()));
    // The signal of a terminal is as good as the other.
    signal(sensor.pid, Signal::INT);
    let ended = sensor.wait();
    ended.assert_clean();
    assert!(!ended.log.contains('\u{1b}') && ended.log.contains("60 \\u{1b}[2J"), "{}", ended.log);
    assert_eq!(ended.alerts.len(), 0, "alerts on standard output as well");
    let written = fs::read_to_string(&file).unwrap();
    let alert: Value = serde_json::from_str(&written).unwrap();
    assert_eq!(alert["process_info"]["pid"], spared.pid());
    assert_eq!(alert["notifications"][1]["message_fields"]["action_result"], "dry run");
}

#[test]
fn it_ends_by_itself_when_its_time_is_up() {
    let directory = directory();
    let mut command = sls_run(&alerting("P", &directory, Path::new("/nowhere")));
    command.args(["--duration", "1s"]);
    // Taken before it starts: what this thread sees of it may be late.
    let start = Instant::now();
    let sensor = Sensor::start(command);
    let ended = sensor.wait();
    ended.assert_clean();
    let elapsed = start.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(20)).contains(&elapsed), "{elapsed:?}");
}

#[test]
fn it_does_not_start_with_what_it_cannot_use() {
    let directory = directory();
    let file = |name: &str, text: &str| write(directory.path().join(name), text).to_str().unwrap().to_owned();
    let good = file("good.yaml", &text_against("P", Path::new("/nowhere")));
    let empty = file("empty.yaml", "");
    let no_rules = file("no-rules.yaml", "P:\n  policy: program\n");
    let key = file("key.yaml", "polices: [x.yaml]\n");
    let output = file("output.yaml", "outputs: [smoke-signals]\n");
    let ring = file("ring.yaml", "ringBytes: 1000\n");
    let missing = directory.path().join("missing.yaml").to_str().unwrap().to_owned();
    let nowhere = format!("file:{}/no/such/file", directory.path().display());
    let cases: &[(&[&str], i32, &[&str])] = &[
        (&["--policy", &missing], 2, &["error[SLS025]: cannot read the file: No such file or directory", &missing]),
        (&["--policy", "/dev/zero"], 1, &["error[SLS", "limit"]),
        (&["--policy", &empty], 1, &["error[SLS", "empty"]),
        (&["--policy", &no_rules], 1, &["error[SLS", "`rules`"]),
        (&["--config", &missing], 2, &["cannot read", &missing, "No such file"]),
        (&["--config", &key, "--policy", &good], 2, &["unknown field `polices`", "expected one of `policies`"]),
        (&["--config", &output, "--policy", &good], 2, &["expected `stdout`"]),
        (&["--config", &ring, "--policy", &good], 2, &["1000", "power of two"]),
        (&["--policy", &good, "--output", &nowhere], 2, &["cannot open the output", "No such file"]),
        (&["--policy", &good, "--output", "pigeon"], 2, &["pigeon", "expected `stdout`"]),
        (&["--policy", &good, "--duration", "soon"], 2, &["soon"]),
        (&[], 2, &["--policy has to name one"]),
    ];
    for (arguments, status, parts) in cases {
        let mut command = sls(&["run", "--no-content"]);
        command.args(*arguments);
        let output = run(command);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(*status), "{arguments:?}\n{said}");
        for part in *parts {
            assert!(said.contains(part), "{arguments:?}: no {part:?} in\n{said}");
        }
        assert!(output.stdout.is_empty() && !said.contains("watching"), "{arguments:?}\n{said}");
    }
}

/// `sls check` speaks for this sensor, or for any if it is asked to.
#[test]
fn an_action_that_the_sensor_does_not_have_is_refused_with_a_caret() {
    let directory = directory();
    // Nothing but the kernel's security modules refuses it, and this machine's kernel has no programs for them.
    let document = "T: {policy: ptrace, responseActions: [block], rules: ['match uid == 0', default ignore]}\n";
    let file = write(directory.path().join("block.yaml"), document);
    for (arguments, status) in [(&["check", "--any-sensor"][..], 0), (&["check"], 1)] {
        let mut check = sls(arguments);
        check.arg(&file);
        let output = run(check);
        assert_eq!(output.status.code(), Some(status), "{output:?}");
    }

    let output = run(sls_run(&file));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output.stderr);
    let message = "error[SLS028]: `T` cannot block `ATTACH` in events of kind `ptrace`";
    for part in [message, "block.yaml:", "^^^^^"] {
        assert!(said.contains(part), "no {part:?} in\n{said}");
    }
    assert!(!said.contains("watching"), "{said}");
}

#[test]
fn a_probe_of_the_users_own_has_to_be_allowed() {
    let directory = directory();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let library = maps.lines().find_map(|line| line.split_whitespace().nth(5).filter(|path| path.contains("/libc.so")));
    let document = |symbol: &str| {
        let library = library.expect("the C library");
        let arguments = "{mode: \"arg1:x32\", path: \"arg0:string\"}";
        let probe = format!("policy: uprobe\n  executable: {library}\n  symbol: {symbol}\n  arguments: {arguments}\n");
        format!("Pipes:\n  {probe}  rules: ['match probeArguments == \"mode=0x1b6 path=*/fifo\"', default ignore]\n")
    };
    let file = write(directory.path().join("policy.yaml"), &document("mkfifo"));
    let refused = run(sls_run(&file));
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(text(&refused.stderr).contains("which this sensor does not allow"), "{refused:?}");

    let mut command = sls_run(&file);
    command.arg("--allow-unsafe-policies");
    let sensor = Sensor::start(command);
    let pipes = directory.path().join("pipes");
    fs::create_dir(&pipes).unwrap();
    std::os::unix::fs::chown(&pipes, Some(NOBODY), None).unwrap();
    let make = |name: &str| {
        let mut command = Command::new("mkfifo");
        let pid = Victim::run(command.arg(pipes.join(name)));
        fs::remove_file(pipes.join(name)).unwrap();
        pid
    };
    let (other, pid) = (make("other"), make("fifo"));
    assert_eq!(sensor.alert(pid).policy(), "Pipes");

    // A document with a probe that is not possible does not take the place of this one.
    replace(&file, document("no_such_function"));
    let log = sensor.wait_for_log("cannot watch what the new policies need");
    assert!(log.contains("\"Pipes\" on no_such_function in /"), "{log}");
    let later = make("fifo");
    assert_eq!(sensor.alert(later).policy(), "Pipes");
    let ended = sensor.stop();
    assert!(ended.about(other).is_empty());
}

#[test]
fn two_thousand_quick_programs_are_all_seen_and_nothing_is_left_behind() {
    const COUNT: usize = 2000;
    // Fewer than the alerts that may wait, however slowly we read them.
    const AT_ONCE: usize = 200;
    let directory = directory();
    let quick = copy_of("/usr/bin/true", directory.path().join("quick"));
    let condemned = copy_of("/usr/bin/sleep", directory.path().join("condemned"));
    let document = text_against("Quick", &quick)
        + &policy("Condemned", &format!("programName == \"{}\"", condemned.display()), "[kill, alert]");
    let sensor = Sensor::start(sls_run(&write(directory.path().join("policy.yaml"), &document)));
    let kill = || sensor.alert(Victim::as_nobody(Command::new(&condemned).arg("60")).pid());
    kill();
    let before = Belongings::of(sensor.pid);
    // By as many as this machine can serve at once.
    let pids: Vec<u32> = std::thread::scope(|scope| {
        let workers = [(); 2].map(|()| {
            scope.spawn(|| {
                let mut command = Command::new(&quick);
                command.stdin(Stdio::null());
                let mut run = |_| {
                    let mut child = command.spawn().unwrap();
                    let pid = child.id();
                    assert!(child.wait().unwrap().success());
                    pid
                };
                let mut pids = Vec::new();
                while pids.len() < COUNT / 2 {
                    pids.extend((0..AT_ONCE / 2).map(&mut run));
                    sensor.alert(pids[pids.len() - 1]);
                }
                pids
            })
        });
        workers.map(|worker| worker.join().unwrap()).concat()
    });
    for _ in 0..50 {
        kill();
    }
    for pid in pids.iter().rev().take(2) {
        sensor.alert(*pid);
    }
    before.wait_for_no_more(sensor.pid);
    let ended = sensor.stop();
    ended.assert_clean();
    let mut found: Vec<_> = ended
        .alerts
        .iter()
        .filter(|alert| alert.policy() == "Quick")
        .map(|alert| alert.json["process_info"]["pid"].as_u64().unwrap() as u32)
        .collect();
    let mut wanted = pids;
    found.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(found.len(), COUNT);
    assert!(found == wanted, "other processes than those that ran");
    let uuids: HashSet<_> = ended.alerts.iter().map(|alert| alert.json["uuid"].as_str().unwrap()).collect();
    assert_eq!(uuids.len(), ended.alerts.len(), "an id was given twice");
}

/// Threads, descriptors and children of a process, each by what tells it from others.
struct Belongings(Vec<String>);

impl Belongings {
    fn of(pid: u32) -> Self {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|task| task.unwrap().path());
        let mut all = Vec::new();
        for task in tasks {
            let mut children = String::new();
            File::open(task.join("children")).and_then(|mut file| file.read_to_string(&mut children)).unwrap();
            all.extend(children.split_whitespace().map(|child| format!("child {child}")));
            all.push(format!("thread {}", fs::read_to_string(task.join("comm")).unwrap().trim_end()));
        }
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let targets = descriptors.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
        all.extend(targets.map(|target| target.display().to_string()));
        Self(all)
    }

    /// Waits until the process has nothing beyond these. Fewer will do: whatever else happens on this machine, the sensor
    /// looks at, so that one look may find something open that is open for a moment.
    fn wait_for_no_more(&self, pid: u32) {
        let start = Instant::now();
        loop {
            let mut more = Self::of(pid).0;
            for known in &self.0 {
                if let Some(index) = more.iter().position(|new| new == known) {
                    more.swap_remove(index);
                }
            }
            if more.is_empty() {
                return;
            }
            assert!(start.elapsed() < patience(), "not given back: {more:?}");
            sleep(Duration::from_millis(2));
        }
    }
}

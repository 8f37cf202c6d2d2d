//! What the commands print. `SLS_BLESS=1 cargo test -p sls-cli --test commands` writes the golden files anew; read the
//! difference before it is committed.

// A test may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use support::{NOBODY, Victim, copy_of, directory, policy, run, sls, text, wait_for, write};

/// Name of the golden file, and the arguments.
const CASES: &[(&str, &str)] = &[
    ("check-good-human", "check good.yaml --format human"),
    ("check-good-json", "check good.yaml --format json"),
    ("check-effective", "check good.yaml override.yaml --effective"),
    ("check-warned-human", "check warned.yaml --format human"),
    ("check-warned-json", "check warned.yaml"),
    ("check-warned-denied", "check warned.yaml --deny-warnings"),
    ("check-good-denied", "check good.yaml --deny-warnings --format human"),
    ("check-bad-human", "check bad.yaml --format human"),
    ("check-bad-json", "check bad.yaml"),
    ("check-missing-human", "check missing.yaml good.yaml --format human"),
    ("check-missing-json", "check missing.yaml good.yaml"),
    ("check-tiers-human", "check tiers.yaml --any-sensor --explain-tiers --format human"),
    ("check-tiers-json", "check tiers.yaml --any-sensor --explain-tiers"),
    ("check-override-alone", "check override.yaml --format human"),
    ("fields-human", "fields --format human"),
    ("fields-segfault-json", "fields segfault"),
    ("fields-program-human", "fields program --format human"),
    ("fields-ptrace-json", "fields ptrace"),
    ("fields-unknown-type", "fields programm"),
    ("explain-human", "explain --policy good.yaml events.json --format human"),
    ("explain-json", "explain --policy good.yaml --policy override.yaml events.json"),
    ("explain-bad-line", "explain --policy good.yaml bad-line.json --format human"),
    ("explain-config", "explain --config guards.conf.yaml --matches events.json --format human"),
    ("test-good-human", "test good.test.yaml --require-coverage --format human"),
    ("test-good-json", "test good.test.yaml --filter killed"),
    ("test-failing-human", "test failing.test.yaml --format human"),
    ("test-failing-json", "test failing.test.yaml"),
    ("test-uncovered", "test uncovered.test.yaml --require-coverage --format human"),
    ("test-bad-human", "test bad.test.yaml missing.test.yaml good.test.yaml --format human"),
    ("test-bad-json", "test bad.test.yaml"),
    ("test-unknown-policy", "test unknown-policy.test.yaml --format human"),
    ("replay-json", "replay --policy good.yaml events.json"),
    ("replay-human", "replay --policy good.yaml events.json --format human"),
    ("replay-bad-line", "replay --policy good.yaml bad-line.json --format human"),
    ("replay-lenient", "replay --policy good.yaml bad-line.json --format human --lenient"),
    ("replay-bad-policy", "replay --policy bad.yaml events.json"),
    ("replay-missing-events", "replay --policy good.yaml missing.json"),
    ("record-unknown-kind", "record --kind exec --kind sockets"),
];

#[test]
fn commands_give_their_golden_output() {
    let mut wrong = Vec::new();
    for (name, arguments) in CASES {
        let output = run(in_directory(arguments));
        let status = output.status.code();
        let status = status.map_or_else(|| output.status.to_string(), |code| code.to_string());
        let found = format!(
            "$ sls {arguments}\n{}{}[{status}]\n",
            text(&output.stdout),
            text(&output.stderr)
                .lines()
                .map(|line| format!("2> {line}").trim_end().to_owned() + "\n")
                .collect::<String>()
        );
        let found =
            found.replace(concat!(r#""sensor_version":""#, env!("CARGO_PKG_VERSION")), r#""sensor_version":"VERSION"#);
        assert!(!found.contains(|c: char| c.is_control() && c != '\n'), "{name}: control characters in {found:?}");
        let path = inputs().join(format!("{name}.out"));
        if std::env::var_os("SLS_BLESS").is_some() {
            fs::write(&path, &found).unwrap();
        } else if fs::read_to_string(&path).unwrap_or_default() != found {
            wrong.push(format!("{} should be:\n{found}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{} outputs differ from their golden files:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn standard_input_is_as_good_as_a_file_and_a_closed_output_is_no_failure() {
    let events = fs::File::open(inputs().join("events.json")).unwrap();
    let mut from_file = in_directory("replay --policy good.yaml events.json");
    let wanted = run(in_directory("replay --policy good.yaml events.json")).stdout;
    assert!(!wanted.is_empty());
    for arguments in ["replay --policy good.yaml", "replay --policy good.yaml -"] {
        let mut command = in_directory(arguments);
        let output = run_with_input(&mut command, events.try_clone().unwrap().into());
        assert_eq!(output, wanted, "{arguments}");
        std::io::Seek::rewind(&mut &events).unwrap();
    }
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = from_file.stdout(writer).stderr(Stdio::null()).status().unwrap();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn the_same_events_give_the_same_alerts() {
    let replay = || run(in_directory("replay --policy good.yaml events.json")).stdout;
    let first = replay();
    assert_eq!(text(&first).lines().count(), 6, "{}", text(&first));
    assert_eq!(text(&first), text(&replay()));
}

#[test]
fn a_replay_tells_what_policies_cost() {
    let replay = |arguments: &str| run(in_directory(&format!("replay --policy good.yaml events.json {arguments}")));
    let plain = replay("--format json");
    let measured = replay("--format json --costs");
    assert_eq!((text(&measured.stdout), measured.status), (text(&plain.stdout), plain.status));
    let costs: Value = serde_json::from_slice(&measured.stderr).unwrap();
    let policies = costs["costs"]["policies"].as_array().unwrap();
    let responded: u64 = policies.iter().map(|cost| cost["responded"].as_u64().unwrap()).sum();
    assert_eq!(responded, text(&plain.stdout).lines().count() as u64, "{costs}");
    let number = |cost: &Value, key: &str| cost[key].as_f64().unwrap();
    for cost in policies {
        assert!(number(cost, "responded") <= number(cost, "asked") && number(cost, "asked") <= number(cost, "events"));
        assert_eq!(number(cost, "asked") > 0.0, number(cost, "nanoseconds") > 0.0, "{cost}");
    }
    assert!(policies.is_sorted_by(|one, next| number(one, "nanoseconds") >= number(next, "nanoseconds")), "{costs}");
    let kinds = costs["costs"]["kinds"].as_array().unwrap();
    let shares: f64 = policies.iter().chain(kinds).map(|cost| number(cost, "share")).sum();
    assert!((shares - 1.0).abs() < 1e-6, "{shares}");

    let output = replay("--costs");
    let table = text(&output.stderr);
    let first: Vec<_> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(first, ["events", "asked", "responded", "ns/event", "share", "policy"]);
    for cost in policies {
        let name = cost["policy"].as_str().unwrap();
        let row = table.lines().find(|row| row.ends_with(name)).unwrap_or_else(|| panic!("no {name} in {table}"));
        let numbers: Vec<_> = row.split_whitespace().take(3).map(|number| number.parse::<u64>().unwrap()).collect();
        assert_eq!(numbers, ["events", "asked", "responded"].map(|key| cost[key].as_u64().unwrap()), "{row}");
    }
    assert!(plain.stderr.is_empty());
}

/// One policy is explained in full, also where it ignores the event; a name that is none is an error.
#[test]
fn one_policy_can_be_explained() {
    let explain = |name| {
        let arguments = ["explain", "--policy", "good.yaml", "--policy-name", name, "--format", "human", "events.json"];
        let mut command = sls(&arguments);
        command.current_dir(inputs());
        run(command)
    };
    let output = explain("Runtimes are watched");
    let shown = text(&output.stdout);
    assert!(shown.contains("Runtimes are watched: ignore\n      false    match programName"), "{shown}");
    assert!(!shown.contains("No downloads by shells"), "{shown}");
    let output = explain("Runtimes");
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(2), "sls: there is no policy `Runtimes`\n"));
}

/// A real execution is recorded with everything that rules can ask for; and replay and explain take what was recorded.
#[test]
fn a_recorded_execution_has_every_field_and_can_be_replayed() {
    let directory = directory();
    let program = copy_of("/usr/bin/sleep", directory.path().join("recorded-program"));
    let recording = directory.path().join("recording.json");
    let mut command = sls(&["record", "--kind", "exec", "--duration", "20s"]);
    command.stdout(fs::File::create(&recording).unwrap()).stderr(Stdio::null());
    let recorder = Victim::spawn_with_output(&mut command);
    let line_about = |pid: u32| {
        let text = fs::read_to_string(&recording).unwrap();
        text.lines().find(|line| line.contains(&format!("\"processPid\":{pid},"))).map(str::to_owned)
    };
    // There is no telling when it has begun but to see it record.
    let (pid, line) = wait_for("the recorder", || {
        let pid = Victim::run(
            Command::new(&program)
                .arg("0")
                .arg0("\u{7f}odd \"name\"")
                .current_dir(directory.path())
                .stdin(Stdio::null()),
        );
        std::thread::sleep(Duration::from_millis(100));
        Some((pid, line_about(pid)?))
    });
    support::signal(recorder.pid(), rustix::process::Signal::TERM);
    assert_eq!(recorder.reap().code(), Some(0));

    let mut event: Value = serde_json::from_str(&line).unwrap();
    let file = fs::metadata(&program).unwrap();
    let own = std::env::current_exe().unwrap();
    let me = std::process::id();
    let recorded = fs::read_to_string(&recording).unwrap();
    assert!(recorded.lines().all(|line| line.starts_with(r#"{"kind":"exec","#)), "other kinds than asked for");
    // What can only be looked at.
    for key in ["time", "sinceBoot", "processStart", "parentStart", "cgroupId", "loginUid", "pidfdInode", "terminal"] {
        let value = event.as_object_mut().unwrap().remove(key);
        let may_lack = matches!(key, "loginUid" | "pidfdInode" | "terminal");
        assert!(may_lack || value.is_some_and(|value| value.as_u64() > Some(0)), "{key} is missing in {line}");
    }
    let arguments: Vec<_> = std::env::args().collect();
    let ancestors = event.as_object_mut().unwrap().remove("ancestorProgramName").expect("no ancestors");
    assert_eq!(ancestors[0], own.to_str().unwrap(), "{line}");
    event.as_object_mut().unwrap().remove("truncated");
    event.as_object_mut().unwrap().remove("unknown");
    let wanted = json!({
        "kind": "exec",
        "processPid": pid,
        "parentPid": me,
        "pidNamespace": fs::metadata("/proc/self/ns/pid").unwrap().ino(),
        "mountNamespace": fs::metadata("/proc/self/ns/mnt").unwrap().ino(),
        "programName": program,
        "invokedName": program,
        "programArguments": ["\u{7f}odd \"name\"", "0"],
        "processName": "recorded-progra",
        "programDirectory": directory.path(),
        "programIsMemfd": false,
        "programIsDeleted": false,
        "standardInput": "DEVICE",
        "programInode": file.ino(),
        "programDevice": file.dev(),
        "parentProgramName": own,
        "parentProgramArguments": arguments.join(" "),
        "uid": NOBODY, "gid": NOBODY, "euid": NOBODY, "egid": NOBODY,
        "userName": "nobody", "groupName": "nogroup",
    });
    assert_eq!(event, wanted, "{line}");

    let condition = format!(r#"programName == "{}" and parentProgramName == "{}""#, program.display(), own.display());
    let policy = write(directory.path().join("policy.yaml"), &policy("Recorded", &condition, "[kill, alert]"));
    let mut command = sls(&["replay", "-", "--policy"]);
    command.arg(&policy);
    let replayed = run_with_input(&mut command, fs::File::open(&recording).unwrap().into());
    let alert = text(&replayed).lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let alert = alert.into_iter().find(|alert| alert["process_info"]["pid"] == pid).expect("no alert in the replay");
    assert_eq!(alert["strategy_name"], "Recorded");
    assert_eq!(alert["process_info"]["args"], json!(["\u{7f}odd \"name\"", "0"]));
    assert_eq!(alert["notifications"][1]["message"], "Would have taken responseAction: kill");

    let mut command = sls(&["explain", "--format", "json", "--policy"]);
    command.arg(&policy).arg(&recording);
    let output = run(command);
    let explained = text(&output.stdout).lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let explained = explained.into_iter().find(|line| line["event"]["processPid"] == pid).expect("not explained");
    let [explanation] = &explained["explanations"].as_array().unwrap()[..] else { panic!("{explained}") };
    assert_eq!(explanation["outcome"], "match");
    let tests: Vec<_> =
        explanation["rules"][0]["tests"].as_array().unwrap().iter().map(|test| &test["found"]).collect();
    assert_eq!(tests, [&json!(format!("\"{}\"", program.display())), &json!(format!("\"{}\"", own.display()))]);
    assert_eq!(explanation["plan"], json!([{"action": "kill", "permission": "granted"}]));
}

/// A recording of everything gives a replay the same ancestry as the live sensor had.
#[test]
fn a_recording_begins_with_what_was_running() {
    let output = run(sls(&["record", "--kind", "baseline", "--duration", "1s"]));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let own = text(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .find(|event| event["processPid"] == std::process::id())
        .expect("this very process is not among those that were running");
    assert_eq!(own["kind"], "baseline");
    assert_eq!(own["programName"], std::env::current_exe().unwrap().to_str().unwrap());
    assert_eq!(own["programArguments"], json!(std::env::args().collect::<Vec<_>>()));
}

fn inputs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/commands")
}

fn in_directory(arguments: &str) -> Command {
    let mut command = sls(&arguments.split(' ').collect::<Vec<_>>());
    command.current_dir(inputs()).env("NO_COLOR", "1");
    command
}

fn run_with_input(command: &mut Command, input: Stdio) -> Vec<u8> {
    command.stdin(input);
    let output = support::run_ref(command);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    output.stdout
}

//! What a flood breaks in a table of processes, and how it is put right. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use common::{Running, has, open_dir, patience, start_ticks, stat_field, ticks};
use sls_core::{
    DryRunResponder, Engine, Event, EventKind, EventSource, Field, PolicySet, ProcessKey, ProcessRepair, SourceStatus,
    Value,
};
use sls_probe::{MIN_RING_BYTES, Probe, ProbeBuilder};

/// So many executions that the smallest ring cannot hold them.
const FLOOD: usize = 800;

/// A probe, and an engine that it feeds.
struct Sensor {
    probe: Probe,
    engine: Engine,
    baselines: usize,
}

impl Sensor {
    fn start(builder: ProbeBuilder) -> Self {
        let probe = builder.load().unwrap().attach().unwrap();
        // Whatever happens, this raises.
        let policies = PolicySet::from_yaml("all.yaml", "All: {policy: program, rules: [default match]}").unwrap();
        Self { probe, engine: Engine::builder(policies).build(), baselines: 0 }
    }

    fn poll(&mut self, timeout: Duration) -> Vec<Event> {
        let Self { probe, engine, baselines } = self;
        let mut events = Vec::new();
        let status = probe.poll(timeout, &mut |event| {
            let detections = engine.stats().detections;
            engine.process(event, &mut DryRunResponder, &mut |_| {});
            if event.kind == EventKind::Baseline {
                *baselines += 1;
                assert_eq!(engine.stats().detections, detections, "what was there before raises nothing");
            }
            events.push(event.clone());
        });
        assert_eq!(status.unwrap(), SourceStatus::Open);
        events
    }

    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self, &[Event]) -> bool) {
        let deadline = Instant::now() + patience();
        loop {
            let events = self.poll(Duration::from_millis(20));
            if done(self, &events) {
                return;
            }
            assert!(Instant::now() < deadline, "waited in vain for {what}");
        }
    }

    fn repair(&mut self) -> Option<ProcessRepair> {
        let Self { probe, engine, .. } = self;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let mut losses = Vec::new();
        probe.losses(&mut |loss| losses.push(loss)).unwrap();
        drop(engine.report_losses(&losses, now.as_nanos() as u64));
        engine.repair(probe, now.as_nanos() as u64).unwrap()
    }

    /// What the table says runs below `root`: pid and start, with the program.
    fn below(&self, root: ProcessKey) -> BTreeMap<(u32, u64), PathBuf> {
        let processes = self.engine.processes();
        let all = processes.descendants(root).map(|key| {
            let record = processes.process(key).unwrap();
            let program = String::from_utf8_lossy(record.program_name()).into_owned();
            ((key.pid, ticks(key.start)), PathBuf::from(program))
        });
        all.collect()
    }
}

/// What `/proc` says runs below `root`.
fn really_below(root: u32) -> BTreeMap<(u32, u64), PathBuf> {
    let pids = || fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let parents: BTreeMap<u32, u32> =
        pids().filter_map(|pid: u32| Some((pid, stat_field(pid, 4)?.parse().ok()?))).collect();
    let is_below =
        |pid: u32| std::iter::successors(Some(pid), |pid| parents.get(pid).copied()).skip(1).any(|pid| pid == root);
    let lives = |pid: &u32| stat_field(*pid, 3).is_some_and(|state| state != "Z");
    let below = pids().filter(|pid| is_below(*pid)).filter(lives);
    below.filter_map(|pid| Some(((pid, start_ticks(pid)?), fs::read_link(format!("/proc/{pid}/exe")).ok()?))).collect()
}

/// A shell that does what it is told. What it started ends with it.
struct Shell {
    child: Running,
    input: ChildStdin,
    directory: PathBuf,
}

impl Shell {
    fn start(directory: &Path) -> Self {
        let mut command = Command::new("sh");
        let mut child =
            Running(command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let input = child.0.stdin.take().unwrap();
        Self { child, input, directory: directory.to_owned() }
    }

    fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// Waits until it has done `commands`.
    fn tell(&mut self, commands: &str) {
        let done = self.directory.join("done");
        writeln!(self.input, "{commands}\n: > {}", done.display()).unwrap();
        let deadline = Instant::now() + patience();
        while !done.exists() {
            assert!(Instant::now() < deadline, "the shell does not do {commands}");
            std::thread::sleep(Duration::from_millis(2));
        }
        fs::remove_file(done).unwrap();
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        for ((pid, _), _) in really_below(self.pid()) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

fn sleepers(below: &BTreeMap<(u32, u64), PathBuf>, program: &Path) -> usize {
    below.values().filter(|path| *path == program).count()
}

#[test]
fn after_a_flood_the_table_has_what_runs() {
    let (_guard, directory) = open_dir();
    let sleep = ["early", "late", "next"].map(|name| {
        let copy = directory.join(name);
        assert!(Command::new("cp").arg("/bin/sleep").arg(&copy).status().unwrap().success());
        copy
    });
    let [early, late, next] = &sleep;
    nix::unistd::mkfifo(&directory.join("gate"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let gate = directory.join("gate");
    let mut sensor = Sensor::start(Probe::builder().ring_bytes(MIN_RING_BYTES));
    // Some that stay, some that will end, and one that will become another program.
    let mut shell = Shell::start(&directory);
    let root = shell.pid();
    shell.tell(&format!(
        "for i in 1 2 3; do {0} 1000 & done; for i in 1 2; do {0} 1000 & ended=\"$ended $!\"; done; (read x < {1}; exec {2} 1000) & changed=$!",
        early.display(),
        gate.display(),
        next.display(),
    ));
    sensor.until("the first sleepers", |sensor, _| {
        let root = sensor.engine.processes().process(ProcessKey { pid: root, start: 0 });
        root.is_some_and(|root| {
            let key = root.key();
            let below = sensor.below(key);
            below.len() == 6 && below == really_below(key.pid)
        })
    });
    let root = sensor.engine.processes().process(ProcessKey { pid: root, start: 0 }).unwrap().key();
    let before = sensor.below(root);

    // Nobody reads, and the ring is full of others before anything happens that matters, and after.
    let flood = format!("i=0; while [ $i -lt {FLOOD} ]; do /bin/true; i=$((i+1)); done");
    shell.tell(&format!(
        "{flood}; kill -9 $ended; wait $ended; echo > {}; for i in 1 2; do {} 1000 & done; while [ \"$(readlink /proc/$changed/exe)\" != {} ]; do :; done",
        gate.display(),
        late.display(),
        next.display(),
    ));
    let deadline = Instant::now() + patience();
    let real = loop {
        // The last may still be becoming what they are.
        let real = really_below(root.pid);
        if (sleepers(&real, early), sleepers(&real, late), sleepers(&real, next)) == (3, 2, 1) {
            break real;
        }
        assert!(Instant::now() < deadline, "{real:?}");
    };
    assert_eq!(real.len(), 6);

    // Read at last: what was lost is lost.
    sensor.until("the ring's end", |_, events| events.is_empty());
    assert_ne!(sensor.below(root), real, "nothing was lost that matters");
    let mut repaired = None;
    sensor.until("the repair", |sensor, _| {
        repaired = sensor.repair();
        repaired.is_some()
    });
    let repaired = repaired.unwrap();
    assert_eq!(sensor.below(root), real, "before: {before:?}; {repaired:?}");
    assert!(repaired.ended >= 2 && repaired.found >= 2 && repaired.corrected >= 1, "{repaired:?}");
    assert!(sensor.engine.stats().lost > 0);

    // The lineage of who was told of by a fork is what it was, and a new event is told of the right program.
    let changed = real.iter().find(|(_, program)| *program == next).unwrap().0.0;
    let mut event = Event::new(EventKind::File);
    event.process = ProcessKey { pid: changed, start: 0 };
    sensor.engine.processes().enrich(&mut event);
    assert_eq!((event.text(Field::ProgramName), event.parent), (next.as_os_str().as_encoded_bytes(), root));
    // Nobody has read the memory of a process for that.
    assert_eq!(event.value(Field::ProgramArguments), Value::Unknown);
    let told = before.iter().find(|(_, program)| *program == early).unwrap().0.0;
    let parent = sensor.engine.processes().lineage(ProcessKey { pid: told, start: 0 }).next().unwrap();
    assert_eq!(parent.key(), root);
}

#[test]
fn a_pass_goes_on_beside_the_events() {
    let mut sensor = Sensor::start(Probe::builder());
    sensor.until("the end of the snapshot", |sensor, _| sensor.baselines > 0);
    sensor.until("silence", |_, events| !events.iter().any(|event| event.kind == EventKind::Baseline));
    let (first, own) = (sensor.baselines, std::process::id());
    assert!(sensor.probe.reread_processes().unwrap());
    assert!(!sensor.probe.reread_done().unwrap());
    let child = Command::new("/bin/true").spawn().unwrap();
    let mut seen = Vec::new();
    sensor.until("the pass and the child", |sensor, events| {
        seen.extend_from_slice(events);
        sensor.probe.reread_done().unwrap() && has(&seen, child.id(), EventKind::Exit)
    });
    drop(Running(child));
    assert!(sensor.baselines > first);
    let own: Vec<_> =
        seen.iter().filter(|event| event.kind == EventKind::Baseline && event.process.pid == own).collect();
    assert_eq!(own.len(), 1);
    assert!(own[0].since_boot > 0 && own[0].value(Field::ProgramArguments) == Value::Unknown);
    assert!(seen.iter().any(|event| event.kind == EventKind::Baseline && event.kernel_thread));

    // Without the iterator it cannot.
    let mut blind = Probe::builder().snapshot(false).load().unwrap().attach().unwrap();
    assert!(!blind.reread_processes().unwrap());
    assert!(blind.reread_done().unwrap());
}

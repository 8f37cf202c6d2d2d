//! What one lane, or one cgroup, does not take from another, and what is told of what was lost. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod common;

use std::collections::HashMap;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use common::{Watch, emulated, has, not_offered, open_dir};
use sls_core::{Event, EventKind, EventSource, Field, Interest, Lane, Loss, LossCause, PolicySet, Shedding};
use sls_probe::{CgroupBudget, MIN_LANE_BYTES, Probe, ProbeBuilder, ProbeError, cgroup_root};

/// More than a small lane holds.
const MANY: usize = 1500;

/// A file in a directory of its own, and a probe that tells of nothing but what is opened there for writing.
struct Scene {
    file: PathBuf,
    _dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let (dir, path) = open_dir();
        let file = path.join("file");
        File::create(&file).unwrap();
        Self { file, _dir: dir }
    }

    fn interest(&self) -> Interest {
        let dir = self.file.parent().unwrap().display();
        let rule = format!("match fileOperation == \"OPEN_WRITE\" and filePath == \"{dir}/*\"");
        let text = format!("P:\n  policy: file\n  rules: ['{rule}', default ignore]\n");
        PolicySet::from_yaml("p.yaml", text).unwrap().interest()
    }

    fn builder(&self) -> ProbeBuilder {
        Probe::builder().snapshot(false).interest(self.interest())
    }

    fn open(&self, times: usize) {
        for _ in 0..times {
            File::options().write(true).open(&self.file).unwrap();
        }
    }
}

fn losses(watch: &mut Watch) -> Vec<Loss> {
    let mut losses = Vec::new();
    watch.probe.losses(&mut |loss| losses.push(loss)).unwrap();
    losses
}

/// How many events of files there were, and that of them were lost, by cause.
fn files_lost(losses: &[Loss]) -> Vec<(LossCause, u64)> {
    let files = losses.iter().filter(|loss| loss.lane == Lane::Activity && loss.kind == EventKind::File);
    files.map(|loss| (loss.cause, loss.count)).collect()
}

fn files(events: &[Event]) -> usize {
    events.iter().filter(|event| event.kind == EventKind::File).count()
}

/// Polls until there is nothing more.
fn drain(watch: &mut Watch) {
    loop {
        let before = watch.events.len();
        watch.poll(Duration::ZERO);
        if watch.events.len() == before {
            break;
        }
    }
}

fn run_true() -> u32 {
    let mut child = Command::new("/bin/true").spawn().unwrap();
    child.wait().unwrap();
    child.id()
}

#[test]
fn a_flood_of_files_takes_no_room_from_executions() {
    let scene = Scene::new();
    for (budget, cause) in [(None, LossCause::OverBudget), (Some(CgroupBudget::UNLIMITED), LossCause::LaneFull)] {
        let mut builder = scene.builder().lane_bytes(Lane::Activity, MIN_LANE_BYTES);
        if let Some(budget) = budget {
            builder = builder.cgroup_budget(Lane::Activity, budget);
        }
        let mut watch = Watch::with(builder);
        let before = std::time::SystemTime::now();
        let mut pids = Vec::new();
        for _ in 0..30 {
            scene.open(MANY / 30);
            pids.push(run_true());
        }
        drain(&mut watch);
        for pid in pids {
            assert!(has(&watch.events, pid, EventKind::Exec), "an execution is missing");
        }
        let seen = files(&watch.events);
        let all = losses(&mut watch);
        let lost = (MANY - seen) as u64;
        assert!(lost > MANY as u64 / 2, "the lane was too large for this test: {seen} of {MANY}");
        assert_eq!(files_lost(&all), [(cause, lost)]);
        assert!(all.iter().all(|loss| loss.lane == Lane::Activity), "{all:?}");
        let before = before.duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
        // The clocks are not read at the same moment.
        assert!(all.iter().all(|loss| loss.since < loss.until && loss.since < before + 1_000_000_000));

        // It is told once, and with the next event.
        assert_eq!(files_lost(&losses(&mut watch)), []);
        scene.open(1);
        watch.until("the next", |events| files(events) == seen + 1);
        assert_eq!(
            watch.events.iter().filter(|event| event.kind == EventKind::File).map(|event| event.lost).sum::<u64>(),
            lost
        );
        assert_eq!(watch.probe.lost(EventKind::File).unwrap(), lost);
        assert_eq!(watch.probe.lost(EventKind::Exec).unwrap(), 0);
    }
}

/// A cgroup that goes with its test.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(name: &str) -> Option<Self> {
        let path = cgroup_root()?.join(format!("sls-lanes-{}-{name}", std::process::id()));
        fs::create_dir(&path).ok()?;
        Some(Self(path))
    }

    fn id(&self) -> u64 {
        fs::metadata(&self.0).unwrap().ino()
    }

    /// Opens `file` so many times in a process of this cgroup.
    fn open(&self, file: &Path, times: usize) {
        let script = "echo $$ >\"$0\"; i=0; while [ $i -lt $2 ]; do : >>\"$1\"; i=$((i + 1)); done";
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", script]).arg(self.0.join("cgroup.procs")).arg(file).arg(times.to_string());
        assert!(shell.status().unwrap().success());
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_noisy_cgroup_does_not_blind_a_quiet_one() {
    const FEW: usize = 8;
    let (Some(noisy), Some(quiet)) = (Cgroup::new("noisy"), Cgroup::new("quiet")) else {
        return not_offered("cgroup2", "CONFIG_CGROUPS, a cgroup v2 hierarchy");
    };
    let seen_of = |watch: &Watch, cgroup: &Cgroup| {
        let ours = watch.events.iter().filter(|event| event.kind == EventKind::File);
        ours.filter(|event| event.cgroup_id == Some(cgroup.id())).count()
    };
    let scene = Scene::new();
    let small = scene.builder().lane_bytes(Lane::Activity, MIN_LANE_BYTES);

    let mut watch = Watch::with(small.clone());
    noisy.open(&scene.file, MANY);
    quiet.open(&scene.file, FEW);
    drain(&mut watch);
    assert_eq!(seen_of(&watch, &quiet), FEW);
    let lost = (MANY - seen_of(&watch, &noisy)) as u64;
    assert!(lost > MANY as u64 / 2);
    assert_eq!(files_lost(&losses(&mut watch)), [(LossCause::OverBudget, lost)]);
    // There is room again, and nobody is withheld.
    noisy.open(&scene.file, FEW);
    watch.events.clear();
    drain(&mut watch);
    assert_eq!(seen_of(&watch, &noisy), FEW);
    drop(watch);

    let mut watch = Watch::with(small.cgroup_budget(Lane::Activity, CgroupBudget::UNLIMITED));
    noisy.open(&scene.file, MANY);
    quiet.open(&scene.file, FEW);
    drain(&mut watch);
    assert_eq!(seen_of(&watch, &quiet), 0, "without budgets it is blinded");
    assert_eq!(files_lost(&losses(&mut watch)), [(LossCause::LaneFull, (MANY + FEW - seen_of(&watch, &noisy)) as u64)]);
}

#[test]
fn what_a_cgroup_may_send_grows_again() {
    let scene = Scene::new();
    let builder = scene.builder().lane_bytes(Lane::Activity, MIN_LANE_BYTES);
    let mut watch = Watch::with(builder.cgroup_budget(Lane::Activity, CgroupBudget::new(20_000, 4096)));
    // Nobody reads: what is used of the second half stays used.
    for _ in 0..2 {
        scene.open(MANY / 5);
        let lost = files_lost(&losses(&mut watch));
        assert!(matches!(lost[..], [(LossCause::OverBudget, 1..)]), "{lost:?}");
        thread::sleep(Duration::from_millis(300));
        // Less than a burst.
        scene.open(8);
        assert_eq!(files_lost(&losses(&mut watch)), [], "the burst has come back");
    }
}

/// Processes that open files before and after they execute something else, and end.
fn run_openers(file: &Path, count: usize) {
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..count / 4 {
                    let script =
                        ": >>\"$0\"; (: >>\"$0\"; exec /bin/true >>\"$0\"); : >>\"$0\"; exec /bin/true >>\"$0\"";
                    let mut shell = Command::new("/bin/sh");
                    assert!(shell.args(["-c", script]).arg(file).status().unwrap().success());
                }
            });
        }
    });
}

#[test]
fn events_of_a_process_are_in_order_across_lanes() {
    let scene = Scene::new();
    let mut watch = Watch::with(scene.builder());
    // All that is open at once fits into what is read at once, however late the reader is.
    for _ in 0..if emulated() { 2 } else { 10 } {
        let (file, done) = (scene.file.clone(), std::sync::atomic::AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                run_openers(&file, 40);
                done.store(true, std::sync::atomic::Ordering::Release);
            });
            while !done.load(std::sync::atomic::Ordering::Acquire) {
                watch.poll(Duration::from_millis(1));
            }
        });
        drain(&mut watch);
    }
    let openers: HashMap<_, Vec<EventKind>> =
        watch.events.iter().fold(HashMap::new(), |mut all: HashMap<_, Vec<_>>, event| {
            all.entry(event.process).or_default().push(event.kind);
            all
        });
    use EventKind::{Exec, Exit, File, Fork};
    let mut found = [0; 2];
    for kinds in openers.values().filter(|kinds| kinds.contains(&File)) {
        match kinds[..] {
            [Fork, Exec, File, File, File, Exec, Exit] => found[0] += 1,
            [Fork, File, File, Exec, Exit] => found[1] += 1,
            _ => panic!("{kinds:?}"),
        }
    }
    let expected = if emulated() { 80 } else { 400 };
    assert_eq!(found, [expected; 2]);
    assert!(watch.events.iter().all(|event| event.lost == 0));
}

#[test]
fn an_execution_does_not_wait_for_a_backlog_of_activities() {
    let scene = Scene::new();
    let mut watch = Watch::with(scene.builder());
    scene.open(MANY);
    let pid = run_true();
    drain(&mut watch);
    let files_before =
        watch.events.iter().take_while(|event| event.process.pid != pid).filter(|event| event.kind == EventKind::File);
    // 64 KiB of the smallest records.
    let count = files_before.count();
    assert!(count < 64 * 1024 / 152, "{count} activities came before an execution");
    assert_eq!(files(&watch.events), MANY);
}

#[test]
fn load_is_shed_in_steps() {
    let scene = Scene::new();
    let builder = scene.builder().telemetry([EventKind::Listen]);
    if builder.provides(EventKind::Listen).is_empty() {
        return not_offered("cgroup-programs", "CONFIG_CGROUP_BPF");
    }
    let mut watch = Watch::with(builder);
    for (step, shedding) in
        [Shedding::Nothing, Shedding::Telemetry, Shedding::Activity, Shedding::Nothing].into_iter().enumerate()
    {
        watch.probe.shed(shedding).unwrap();
        drain(&mut watch);
        losses(&mut watch);
        watch.events.clear();
        scene.open(20);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = u64::from(listener.local_addr().unwrap().port());
        let pid = run_true();
        watch.until("the execution", |events| has(events, pid, EventKind::Exit));
        drain(&mut watch);
        let listens = watch
            .events
            .iter()
            .any(|event| event.kind == EventKind::Listen && event.number(Field::InboundPort) == Some(port));
        assert_eq!(listens, shedding < Shedding::Telemetry, "step {step}");
        assert_eq!(files(&watch.events), if shedding < Shedding::Activity { 20 } else { 0 }, "step {step}");
        let all = losses(&mut watch);
        let shed = |kind| {
            all.iter().find(|loss| loss.kind == kind && loss.cause == LossCause::Shed).map_or(0, |loss| loss.count)
        };
        assert_eq!(shed(EventKind::Listen) >= 1, shedding >= Shedding::Telemetry, "step {step}: {all:?}");
        assert_eq!(shed(EventKind::File), if shedding < Shedding::Activity { 0 } else { 20 }, "step {step}");
        assert!(all.iter().all(|loss| loss.cause == LossCause::Shed), "{all:?}");
    }
}

#[test]
fn impossible_lanes_are_refused() {
    for bytes in [0, 1000, MIN_LANE_BYTES / 2, MIN_LANE_BYTES + 4096, 1 << 30] {
        for lane in Lane::ALL.iter().copied() {
            let error = Probe::builder().lane_bytes(lane, bytes).load().unwrap_err();
            assert!(
                matches!(error, ProbeError::LaneSize { lane: of, bytes: told } if of == lane && told == bytes),
                "{error}"
            );
        }
    }
}

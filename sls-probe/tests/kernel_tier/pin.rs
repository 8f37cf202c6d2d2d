//! The tier goes on when its probe has gone, and the next one takes over.

use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use libbpf_rs::query::{LinkInfoIter, ProgInfoIter};
use sls_core::{Effect, EventKind, Guards};
use sls_probe::{KernelTier, Probe, TakenOver};

use crate::common::{Watch, emulated, not_offered, open_dir};
use crate::victim::{self, Marks};
use crate::{KILLED, killing, policies, program, run, tier};

/// A shell that runs a victim again and again until it is told to stop. In this process, the ends of so many children would keep
/// the kernel from verifying programs.
struct Loop {
    shell: Child,
    stop: PathBuf,
}

impl Loop {
    fn start(dir: &Path, victim: &Path, marks: &Marks) -> Self {
        let stop = dir.join("stop");
        let script = "n=0; until [ -e \"$1\" ]; do \"$2\" >&3; n=$((n+1)); done 2>/dev/null; echo $n";
        let mut command = Command::new("sh");
        command.args(["-c", &format!("exec 3>>\"$3\"; {script}"), "sh"]).args([&stop, victim]).arg(marks.path());
        let shell = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        Self { shell, stop }
    }

    /// How often it ran.
    fn stop(mut self) -> u64 {
        fs::write(&self.stop, "").unwrap();
        let mut said = String::new();
        self.shell.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        said.trim().parse().unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

/// A directory for pins that goes away with what is in it.
struct Pins(PathBuf);

impl Pins {
    fn new(name: &str) -> Option<Self> {
        let path = Path::new("/sys/fs/bpf").join(format!("sls-test-{name}-{}", std::process::id()));
        if fs::create_dir(&path).is_err() {
            not_offered("bpffs", "a BPF file system at /sys/fs/bpf");
            return None;
        }
        Some(Self(path))
    }

    fn pinning(&self) -> Watch {
        Watch::with(Probe::builder().snapshot(false).kernel_tier(true).pin(&self.0))
    }

    /// A probe with these policies in force, after it took over.
    fn enforcing(&self, text: &str, allowed: usize) -> (Watch, TakenOver) {
        let mut watch = self.pinning();
        tier(&watch).load_allowed(&policies(text), &Guards::default(), |_| allowed).unwrap();
        let taken = watch.probe.take_over().unwrap();
        (watch, taken)
    }

    fn count(&self) -> usize {
        fs::read_dir(&self.0).unwrap().count()
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = KernelTier::unpin(&self.0);
        let _ = fs::remove_dir(&self.0);
    }
}

fn killed(victim: &Path, marks: &Marks) -> u32 {
    let mut child = Command::new(victim).stdout(marks.stdout()).spawn().unwrap();
    let pid = child.id();
    assert_eq!(child.wait().unwrap().signal(), KILLED);
    pid
}

#[test]
fn what_the_tier_did_alone_is_told_once_by_the_next_probe() {
    let Some(pins) = Pins::new("told") else { return };
    let (_dir, dir) = open_dir();
    let (victim, marks) = (victim::write(&dir, "victim"), Marks::new(&dir));
    let text = killing("Other", "programName == \"/nowhere\"") + &killing("Victims", &program(&victim));
    let (mut first, taken) = pins.enforcing(&text, usize::MAX);
    assert_eq!(taken, TakenOver::default());
    let before = killed(&victim, &marks);
    first.until("the first", |events| events.iter().any(|event| event.process.pid == before));
    drop(first);

    let alone: Vec<u32> = (0..5).map(|_| killed(&victim, &marks)).collect();
    assert!(run(Path::new("/bin/true"), &marks).success());
    assert_eq!(KernelTier::pinned(&pins.0).unwrap().len(), 1);

    // Of another number there.
    let text = killing("Victims", &program(&victim)) + &killing("New", "programName == \"/nowhere else\"");
    let (mut second, taken) = pins.enforcing(&text, usize::MAX);
    assert_eq!((taken.tiers, taken.told, taken.untold), (1, 5, 0), "{taken:?}");
    assert_eq!((taken.left_alone, taken.lost, taken.unreadable), (0, 0, 0), "{taken:?}");
    assert_eq!(pins.count(), 1, "the pins of the first are gone");
    let after = killed(&victim, &marks);
    second.until("the last", |events| events.iter().any(|event| event.process.pid == after));
    let told: Vec<_> = second
        .events
        .iter()
        .filter_map(|event| event.enforced.as_ref().map(|enforced| (event, enforced)))
        .map(|(event, enforced)| (event.process.pid, event.kind, &*enforced.policy.name, enforced.effect))
        .collect();
    let expected: Vec<_> =
        alone.iter().chain([&after]).map(|pid| (*pid, EventKind::Exec, "Victims", Effect::Killed)).collect();
    assert_eq!(told, expected);
    assert_eq!(marks.count(), 0);
}

#[test]
fn what_a_policy_did_that_is_gone_is_counted() {
    let Some(pins) = Pins::new("counted") else { return };
    let (_dir, dir) = open_dir();
    let (victim, marks) = (victim::write(&dir, "victim"), Marks::new(&dir));
    drop(pins.enforcing(&killing("Victims", &program(&victim)), usize::MAX));
    killed(&victim, &marks);
    // The same name, but not the same rule.
    let (watch, taken) = pins.enforcing(&killing("Victims", "programName == \"/nowhere\""), usize::MAX);
    assert_eq!((taken.told, taken.untold), (0, 1), "{taken:?}");
    assert!(run(&victim, &marks).success(), "the old policy is in force");
    drop(watch);
}

/// Nobody looks after files any more, so that their numbers say nothing.
#[test]
fn alone_the_tier_knows_files_by_their_paths_only() {
    let Some(pins) = Pins::new("files") else { return };
    let (_dir, dir) = open_dir();
    let (victim, marks) = (victim::write(&dir, "victim"), Marks::new(&dir));
    let (watch, _) = pins.enforcing(&killing("Victims", &program(&victim)), usize::MAX);
    let link = dir.join("another name");
    fs::hard_link(&victim, &link).unwrap();
    assert_eq!(run(&link, &marks).signal(), KILLED, "the file is known");
    drop(watch);
    assert_eq!(run(&victim, &marks).signal(), KILLED);
    assert!(run(&link, &marks).success(), "it could be the number of another file by now");
}

#[test]
fn alone_the_tier_acts_no_more_often_than_it_was_allowed() {
    let Some(pins) = Pins::new("allowed") else { return };
    let (_dir, dir) = open_dir();
    let (victim, marks) = (victim::write(&dir, "victim"), Marks::new(&dir));
    let text = killing("Victims", &program(&victim));
    drop(pins.enforcing(&text, 3));
    (0..3).for_each(|_| _ = killed(&victim, &marks));
    (0..4).for_each(|_| assert!(run(&victim, &marks).success()));
    let (_watch, taken) = pins.enforcing(&text, 0);
    assert_eq!((taken.told, taken.left_alone), (3, 4), "{taken:?}");
}

#[test]
fn probes_follow_each_other_without_a_gap() {
    let Some(pins) = Pins::new("gap") else { return };
    let (_dir, dir) = open_dir();
    let (victim, marks) = (victim::write(&dir, "victim"), Marks::new(&dir));
    let text = killing("Victims", &program(&victim));
    let restarts = if emulated() { 2 } else { 8 };
    let (mut watch, _) = pins.enforcing(&text, usize::MAX);
    let (mut told, mut untold) = (0, 0);
    let mut take = |watch: &mut Watch| {
        loop {
            watch.events.clear();
            watch.poll(Duration::ZERO);
            told += watch.events.iter().filter(|event| event.enforced.is_some()).count() as u64;
            if watch.events.is_empty() {
                break;
            }
        }
    };
    let victims = Loop::start(&dir, &victim, &marks);
    for _ in 0..restarts {
        drop(watch);
        let (next, taken) = pins.enforcing(&text, usize::MAX);
        assert_eq!((taken.tiers, taken.lost), (1, 0), "{taken:?}");
        untold += taken.untold;
        watch = next;
        take(&mut watch);
    }
    let runs = victims.stop();
    take(&mut watch);
    assert_eq!(marks.count(), 0, "survivors of {runs}");
    println!("{restarts} restarts, {runs} victims, {told} told, {untold} counted");
    // What is counted because it was too much may have been told by the new programs as well.
    assert!(told <= runs && runs <= told + untold, "{told} told and {untold} counted of {runs}");
}

#[test]
fn unpinned_nothing_is_left() {
    let Some(pins) = Pins::new("unpinned") else { return };
    let (_dir, dir) = open_dir();
    let (victim, marks) = (victim::write(&dir, "victim"), Marks::new(&dir));
    let (watch, _) = pins.enforcing(&killing("Victims", &program(&victim)), usize::MAX);
    let pinned = KernelTier::pinned(&pins.0).unwrap();
    assert!(pinned[0].running && pinned[0].readable, "{pinned:?}");
    let link = libbpf_rs::Link::open(pinned[0].path.join("on_exec_decided")).unwrap().info().unwrap();
    drop(watch);
    assert_eq!(run(&victim, &marks).signal(), KILLED);
    let removed = KernelTier::unpin(&pins.0).unwrap();
    assert_eq!(removed.len(), 1);
    assert_eq!(removed[0].programs, ["on_exec_decided"]);
    assert_eq!((removed[0].pid, removed[0].running), (Some(std::process::id()), false));
    assert_eq!(KernelTier::unpin(&pins.0).unwrap(), [], "nothing is left");
    assert!(!pins.0.exists());
    let deadline = std::time::Instant::now() + crate::common::patience();
    while LinkInfoIter::default().any(|one| one.id == link.id)
        || ProgInfoIter::default().any(|program| program.id == link.prog_id)
    {
        assert!(std::time::Instant::now() < deadline, "the program stays");
        std::thread::yield_now();
    }
    assert!(run(&victim, &marks).success());
}

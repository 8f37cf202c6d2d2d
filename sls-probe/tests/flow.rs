//! How events flow: nothing lost in silence, at once when single, cheap when many. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod common;

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::{Watch, actor, emulated, has, open_dir, patience, role};
use sls_core::{Event, EventKind, EventSource, Field};
use sls_probe::{MIN_RING_BYTES, Probe, ProbeError};

/// The part that a child without privileges plays.
#[test]
fn flow_actor() {
    if role().is_some() {
        let error = Probe::builder().load().unwrap_err();
        assert!(matches!(error, ProbeError::NotPermitted { .. }), "{error}");
        assert!(error.to_string().contains("CAP_BPF"), "{error}");
    }
}

#[test]
fn error_says_which_privileges_are_missing() {
    let (_dir, dir) = open_dir();
    // Where the tests are built, others may not be let in.
    let binary = dir.join("tests");
    fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
    let actor = actor("flow_actor", "without privileges");
    let mut command = Command::new(&binary);
    command.args(actor.get_args()).envs(actor.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let output = command.uid(65534).gid(65534).current_dir("/").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.stderr.is_empty(), "a library printed: {}", String::from_utf8_lossy(&output.stderr));
}

/// These tests measure: one at a time.
static ALONE: Mutex<()> = Mutex::new(());

macro_rules! alone {
    () => {
        let _guard = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    };
}

/// More than a small ring holds, and more than is given at once.
fn many() -> usize {
    if emulated() { 800 } else { 1500 }
}

/// What a wait may take longer than it should, where others use the processors too.
fn slack() -> Duration {
    Duration::from_millis(if emulated() { 4000 } else { 200 })
}

fn run_true() -> u32 {
    let mut child = Command::new("/bin/true").spawn().unwrap();
    child.wait().unwrap();
    child.id()
}

/// The events between two others, the first not included.
fn between(events: &[Event], first: u32, last: u32) -> &[Event] {
    let place = |pid| events.iter().position(|event| event.process.pid == pid).unwrap();
    &events[place(first) + 1..=place(last)]
}

#[test]
fn losses_are_counted_exactly() {
    alone!();
    let spawns = many() as u64;
    let only_exec = Probe::builder().snapshot(false).fork(false).exit(false);
    // Whatever else runs on this machine is seen by both, so they can be compared.
    let mut large = Watch::with(only_exec.clone());
    let mut tiny = Watch::with(only_exec.ring_bytes(MIN_RING_BYTES));
    let first = run_true();
    tiny.until("the first", |events| has(events, first, EventKind::Exec));
    for _ in 0..spawns {
        run_true();
    }
    // The ring has to have room again before something can arrive that tells of the loss.
    while {
        let count = tiny.events.len();
        tiny.poll(Duration::ZERO);
        tiny.events.len() > count
    } {}
    let last = run_true();
    tiny.until("the last", |events| has(events, last, EventKind::Exec));
    large.until("the last", |events| has(events, last, EventKind::Exec));

    let arrived = between(&tiny.events, first, last);
    let lost: u64 = arrived.iter().map(|event| event.lost).sum();
    let all = between(&large.events, first, last);
    assert_eq!(all.iter().map(|event| event.lost).sum::<u64>(), 0);
    assert!(all.len() as u64 > spawns);
    assert!(lost > spawns / 2, "the ring was too large for this test: {lost}");
    assert_eq!(arrived.len() as u64 + lost, all.len() as u64);
    let told: u64 = tiny.events.iter().map(|event| event.lost).sum();
    assert_eq!(tiny.probe.lost(EventKind::Exec).unwrap(), told);
    assert_eq!(large.probe.lost(EventKind::Exec).unwrap(), 0);
    assert_eq!(tiny.probe.lost(EventKind::Fork).unwrap(), 0);
}

#[test]
fn single_exec_arrives_at_once() {
    alone!();
    // Whatever else starts programs on this machine must not use up the wake-ups.
    let mut probe = Watch::with(Probe::builder().snapshot(false).wake_budget(1_000_000, 1000)).probe;
    // On busy CPUs an ordinary thread waits for the time slice of the very program that woke it.
    let thread = fs::read_link("/proc/thread-self").unwrap();
    let mut chrt = Command::new("chrt");
    chrt.args(["--fifo", "--reset-on-fork", "--pid", "10"]).arg(thread.file_name().unwrap());
    assert!(chrt.status().unwrap().success());
    // The machine may be busy: one good round of three shows what the probe can do.
    let medians: Vec<Duration> = (0..3).map(|_| median_delay(&mut probe)).collect();
    let best = medians.iter().min().unwrap();
    let limit = Duration::from_micros(if emulated() { 100_000 } else { 500 });
    assert!(*best < limit, "medians: {medians:?}");
}

fn median_delay(probe: &mut Probe) -> Duration {
    const RUNS: usize = 40;
    let wait = Duration::from_secs(if emulated() { 30 } else { 5 });
    let mut delays = Vec::new();
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..RUNS {
                std::thread::sleep(Duration::from_millis(25));
                run_true();
            }
        });
        // A wake-up that gets lost shows as a delay of the whole time-out.
        while delays.len() < RUNS && start.elapsed() < patience() {
            let take = &mut |event: &mut Event| {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
                if event.kind == EventKind::Exec && event.parent.pid == std::process::id() {
                    delays.push(Duration::from_nanos(now.saturating_sub(event.time)));
                }
            };
            probe.poll(wait, take).unwrap();
        }
    });
    delays.sort();
    let (median, largest) = (delays[delays.len() / 2], delays[delays.len() - 1]);
    println!("{} single events: median {median:?}, largest {largest:?}", delays.len());
    assert_eq!(delays.len(), RUNS);
    assert!(largest < wait * 2 / 5, "a wake-up was lost: {largest:?}");
    median
}

/// How often this thread was put to sleep so far.
fn sleeps() -> u64 {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
    count.trim().parse().unwrap()
}

#[test]
fn idle_probe_sleeps() {
    alone!();
    // Forks and exits of others are recorded, but do not wake the reader.
    let mut watch = Watch::with(Probe::builder().snapshot(false).exec(false));
    let (start, before) = (Instant::now(), sleeps());
    let mut polls = 0;
    while start.elapsed() < Duration::from_secs(4) {
        watch.poll(Duration::from_secs(1));
        polls += 1;
    }
    let sleeps = sleeps() - before;
    println!("{polls} polls, {sleeps} sleeps in {:?}", start.elapsed());
    assert!(sleeps < 12, "woken {sleeps} times in 4 s");
}

#[test]
fn poll_keeps_to_its_timeout() {
    alone!();
    let mut watch = Watch::with(Probe::builder().snapshot(false).exec(false).fork(false).exit(false));
    for millis in [0, 1, 30, 250] {
        let (start, timeout) = (Instant::now(), Duration::from_millis(millis));
        watch.poll(timeout);
        let waited = start.elapsed();
        assert!(waited + Duration::from_millis(2) >= timeout, "{waited:?} of {timeout:?}");
        assert!(waited < timeout + slack(), "{waited:?} for {timeout:?}");
    }
    let (start, before) = (Instant::now(), sleeps());
    watch.poll(Duration::from_micros(300));
    assert!(start.elapsed() >= Duration::from_micros(300) && sleeps() - before <= 3);
}

#[test]
fn storm_costs_no_wake_up_an_event() {
    alone!();
    let mut watch = Watch::start();
    let done = AtomicBool::new(false);
    let (start, before) = (Instant::now(), sleeps());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..many() {
                run_true();
            }
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            watch.poll(Duration::from_millis(100));
        }
    });
    let (elapsed, sleeps) = (start.elapsed(), sleeps() - before);
    println!("{} events, {sleeps} sleeps in {elapsed:?}", watch.events.len());
    // 200 wake-ups and 500 naps a second, and the burst.
    let allowed = 40.0 + 750.0 * elapsed.as_secs_f64();
    assert!((sleeps as f64) < allowed, "{sleeps} sleeps for {} events in {elapsed:?}", watch.events.len());
    assert!(watch.events.len() >= many() * 8 / 3);
    assert!(watch.events.iter().all(|event| event.lost == 0));
}

#[test]
fn backlog_comes_in_bounded_portions() {
    alone!();
    let mut watch = Watch::start();
    for _ in 0..many() {
        run_true();
    }
    let (mut total, mut largest) = (0, 0);
    for _ in 0..40 {
        let mut count = 0;
        watch.probe.poll(Duration::ZERO, &mut |_| count += 1).unwrap();
        total += count;
        largest = largest.max(count);
    }
    assert!(total >= 3 * many(), "{total}");
    // 256 KiB of the smallest records.
    assert!((500..2000).contains(&largest), "{largest} at once");
}

#[test]
fn impossible_rings_are_refused() {
    for bytes in [0, 1000, MIN_RING_BYTES / 2, MIN_RING_BYTES + 4096, 1 << 31] {
        let error = Probe::builder().ring_bytes(bytes).load().unwrap_err();
        assert!(matches!(error, ProbeError::RingSize { bytes: told } if told == bytes), "{error}");
    }
}

#[test]
fn kinds_that_are_off_are_not_reported() {
    alone!();
    let mut watch = Watch::with(Probe::builder().snapshot(false).fork(false).exit(false));
    let pid = run_true();
    watch.until("the exec", |events| has(events, pid, EventKind::Exec));
    watch.poll(Duration::from_millis(50));
    assert!(watch.events.iter().all(|event| event.kind == EventKind::Exec));
    assert!(watch.probe.provides(EventKind::Fork).is_empty());
    assert!(watch.probe.provides(EventKind::Exec).contains(Field::ScriptName));
    assert!(watch.probe.provides(EventKind::Probe).is_empty());
}

#[test]
fn probe_can_be_moved_to_a_thread() {
    alone!();
    let mut probe = Watch::start().probe;
    let mut count = 0;
    let pid = run_true();
    std::thread::spawn(move || {
        while count == 0 {
            let take = &mut |event: &mut Event| count += u32::from(event.process.pid == pid);
            probe.poll(Duration::from_millis(100), take).unwrap();
        }
    })
    .join()
    .unwrap();
}

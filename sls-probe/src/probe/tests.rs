//! The wake-ups, and what may go wrong with them. These need root.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use libbpf_rs::{MapCore, MapFlags};
use sls_core::{Capabilities, Guards, Lane, PolicyLoader};

use super::*;
use crate::room::{CgroupBudget, MIN_RING_BYTES};

fn probe(ring_bytes: u32) -> Probe {
    Probe::builder().snapshot(false).ring_bytes(ring_bytes).load().unwrap().attach().unwrap()
}

fn run_true() -> u32 {
    let mut child = Command::new("/bin/true").spawn().unwrap();
    child.wait().unwrap();
    child.id()
}

fn flag(map: &MapHandle) -> Vec<u8> {
    map.lookup(&0_u32.to_ne_bytes(), MapFlags::ANY).unwrap().unwrap()
}

#[test]
fn a_bell_that_could_not_ring_is_not_taken_for_rung() {
    let mut interest = Interest::default();
    interest.add_value(EventKind::File, "OPEN_WRITE");
    let builder = Probe::builder().snapshot(false).ring_bytes(MIN_RING_BYTES).interest(interest);
    let builder = builder.cgroup_budget(Lane::Activity, CgroupBudget::UNLIMITED);
    let mut probe = builder.load().unwrap().attach().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let script = "i=0; while [ $i -lt 600 ]; do : >file; i=$((i + 1)); done";
    let mut shell = Command::new("/bin/sh");
    assert!(shell.args(["-c", script]).current_dir(dir.path()).status().unwrap().success());
    assert!(probe.lost(EventKind::File).unwrap() > 0, "there is room for more than bells");
    // Until there is room for nothing, not even for bells, which are smaller than any record.
    for _ in 0..300 {
        probe.set_dozing().unwrap();
        run_true();
    }
    assert_eq!(flag(&probe.dozing), 1_u32.to_ne_bytes(), "the reader sleeps, and nobody will try again");
    let mut count = 0;
    probe.poll(Duration::ZERO, &mut |_| count += 1).unwrap();
    assert!(count > 0);
}

#[test]
fn a_lost_bell_blinds_nobody() {
    let mut probe = probe(1 << 20);
    let map = MapHandle::try_from(&probe.dozing).unwrap();
    let start = Instant::now();
    let child = thread::spawn(move || {
        // Once it sleeps, the bell is taken away.
        while flag(&map) != 1_u32.to_ne_bytes() {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_millis(20));
        let (key, value) = (0_u32.to_ne_bytes(), 0_u32.to_ne_bytes());
        map.update(&key, &value, MapFlags::ANY).unwrap();
        run_true()
    });
    let mut child = Some(child);
    let mut pid = 0;
    let mut seen = Vec::new();
    // Whatever else runs on this machine may end a poll early.
    let after = loop {
        let take = &mut |event: &mut Event| {
            if event.kind == EventKind::Exec {
                seen.push((event.process.pid, start.elapsed()));
            }
        };
        probe.poll(Duration::from_secs(30), take).unwrap();
        if let Some(ended) = child.take_if(|child| child.is_finished()) {
            pid = ended.join().unwrap();
        }
        if let Some((_, after)) = seen.iter().find(|(seen, _)| *seen == pid) {
            break *after;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "the child was never seen: {seen:?}");
    };
    assert!(after < Duration::from_secs(10), "{after:?}");
}

/// How long after its start the execution of `program` comes, if the bell of a sleeping reader is taken away before.
fn delay_without_bell(probe: &mut Probe, program: &Path) -> Duration {
    let map = MapHandle::try_from(&probe.dozing).unwrap();
    let program = program.to_owned();
    let child = thread::spawn(move || {
        loop {
            while flag(&map) != 1_u32.to_ne_bytes() {
                thread::sleep(Duration::from_millis(1));
            }
            thread::sleep(Duration::from_millis(20));
            // Whatever else runs on this machine may have woken it.
            if flag(&map) == 1_u32.to_ne_bytes() {
                break;
            }
        }
        map.update(&0_u32.to_ne_bytes(), &0_u32.to_ne_bytes(), MapFlags::ANY).unwrap();
        let start = Instant::now();
        let mut child = Command::new(program).spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        (pid, start)
    });
    let mut seen = Vec::new();
    let started = Instant::now();
    while !child.is_finished() || started.elapsed() < Duration::from_secs(1) {
        let take = &mut |event: &mut Event| {
            if event.kind == EventKind::Exec {
                seen.push((event.process.pid, Instant::now()));
            }
        };
        probe.poll(Duration::from_secs(2), take).unwrap();
        assert!(started.elapsed() < Duration::from_secs(60), "the child was never seen");
    }
    let (pid, start) = child.join().unwrap();
    let (_, at) = seen.iter().find(|(seen, _)| *seen == pid).unwrap();
    at.saturating_duration_since(start)
}

#[test]
fn what_the_kernel_has_decided_rings_whether_the_reader_dozes_or_not() {
    let dir = tempfile::tempdir().unwrap();
    let [plain, victim] = ["plain", "victim"].map(|name| {
        let path = dir.path().canonicalize().unwrap().join(name);
        fs::copy("/bin/true", &path).unwrap();
        path
    });
    let rule = format!("match programName == \"{}\"", victim.display());
    let text = format!("P:\n  policy: program\n  responseActions: [kill]\n  rules: ['{rule}', default ignore]\n");
    let host = KernelTier::hooks().into_iter().fold(Capabilities::default().without_hooks(), Capabilities::hook);
    let policies = PolicyLoader::new().capabilities(host).document("p.yaml", text).load().unwrap();
    let mut probe = Probe::builder().snapshot(false).kernel_tier(true).load().unwrap().attach().unwrap();
    let tier = probe.kernel_tier().unwrap();
    tier.load(&policies, &Guards::default()).unwrap();
    tier.allow(|_| usize::MAX).unwrap();
    let mut delays = |program: &Path| [(); 2].map(|()| delay_without_bell(&mut probe, program));
    let (plain, victim) = (delays(&plain), delays(&victim));
    let limit = LONGEST_WAIT / 2;
    assert!(plain.iter().any(|delay| *delay > limit), "the reader was not asleep: {plain:?}");
    assert!(victim.iter().any(|delay| *delay < limit), "{victim:?}, and without a decision {plain:?}");
}

//! What watching files costs others: processor time of calls with the probe on and off, alternately. A measurement and no
//! test, so it runs only when asked:
//!
//! ```console
//! # cargo test -p sls-probe --test file_cost -- --ignored --nocapture
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod common;

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use sls_core::{EventKind, EventSource, Interest, PolicySet};
use sls_probe::Probe;

const ROUNDS: usize = 15;
const CALLS: u32 = 20_000;

/// Nanoseconds of processor time a call.
fn cost(mut call: impl FnMut()) -> f64 {
    let used = || {
        let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
        time.tv_sec() as f64 * 1e9 + time.tv_nsec() as f64
    };
    let before = used();
    (0..CALLS).for_each(|_| call());
    (used() - before) / f64::from(CALLS)
}

fn open_and_close(path: &Path, flags: i32) -> impl FnMut() {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    move || {
        // SAFETY: the path ends in a NUL and outlives the call; the descriptor is closed once.
        unsafe {
            let fd = libc::open(path.as_ptr(), flags);
            assert!(fd >= 0);
            libc::close(fd);
        }
    }
}

/// The costs of: a call that is nobody's business, a read-only open, an open for writing.
fn costs(path: &Path) -> [f64; 3] {
    let unrelated = cost(|| {
        // SAFETY: it has no arguments and no effects.
        unsafe { libc::syscall(libc::SYS_getppid) };
    });
    [unrelated, cost(open_and_close(path, libc::O_RDONLY)), cost(open_and_close(path, libc::O_WRONLY))]
}

fn median(mut costs: Vec<f64>) -> f64 {
    costs.sort_by(f64::total_cmp);
    costs[costs.len() / 2]
}

fn elsewhere() -> Interest {
    let policy = "P:\n  policy: filemonitor\n  rules: ['match filePath == \"/no-such-directory/*\"', default ignore]\n";
    PolicySet::from_yaml("policy.yaml", policy).unwrap().interest()
}

fn everywhere() -> Interest {
    let mut interest = Interest::default();
    interest.add_kind(EventKind::File);
    interest
}

#[test]
#[ignore = "a measurement"]
fn cost_of_calls() {
    let (_dir, path) = common::open_dir();
    let deep = path.join("some/more/levels/of/names");
    std::fs::create_dir_all(&deep).unwrap();
    let file = deep.join("file");
    std::fs::write(&file, "").unwrap();
    let probe = |interest| {
        let builder = Probe::builder().exec(false).fork(false).exit(false).snapshot(false).ring_bytes(64 << 20);
        builder.interest(interest).hooks(common::family()).load().unwrap().attach().unwrap()
    };
    let mut found: [[Vec<f64>; 3]; 3] = Default::default();
    let mut note = |which: usize, costs: [f64; 3]| {
        found[which].iter_mut().zip(costs).for_each(|(all, cost)| all.push(cost));
    };
    let (mut slowest, mut lost) = (Duration::ZERO, 0);
    for _ in 0..ROUNDS {
        note(0, costs(&file));
        for (which, interest) in [(1, elsewhere()), (2, everywhere())] {
            let start = Instant::now();
            let mut probe = probe(interest);
            slowest = slowest.max(start.elapsed());
            note(which, costs(&file));
            lost += probe.lost(EventKind::File).unwrap();
            probe.poll(Duration::from_millis(1), &mut |_| {}).unwrap();
        }
    }
    println!("hooks: {}; start took at most {slowest:?}; {lost} events were lost", common::family());
    println!("{:>30} {:>9} {:>9} {:>9}", "ns of processor time", "getppid", "read-only", "writing");
    for (name, costs) in ["off", "other paths are wanted", "every file is wanted"].iter().zip(found) {
        let [unrelated, read, write] = costs.map(median);
        println!("{name:>30} {unrelated:>9.0} {read:>9.0} {write:>9.0}");
    }
}

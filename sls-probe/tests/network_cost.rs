//! What watching connections costs: processor time of calls with the probe on and off, alternately. A measurement and no
//! test, so it runs only when asked:
//!
//! ```console
//! # cargo test -p sls-probe --test network_cost -- --ignored --nocapture
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod common;

use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use nix::time::{ClockId, clock_gettime};
use sls_core::{EventKind, EventSource, Interest, PolicySet};
use sls_probe::Probe;

use common::family;

const ROUNDS: usize = 15;

/// Nanoseconds of processor time a call.
fn cost(calls: u32, mut call: impl FnMut()) -> f64 {
    let used = || {
        let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
        time.tv_sec() as f64 * 1e9 + time.tv_nsec() as f64
    };
    let before = used();
    (0..calls).for_each(|_| call());
    (used() - before) / f64::from(calls)
}

const NAMES: [&str; 3] = ["TCP connect, accept, close", "UDP sendto and recv", "getppid"];

fn measure() -> [f64; 3] {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    // Reset in place of closed: no port stays taken.
    let reset = libc::linger { l_onoff: 1, l_linger: 0 };
    let tcp = cost(3000, || {
        let client = TcpStream::connect(address).unwrap();
        drop(listener.accept().unwrap());
        setsockopt(&client, sockopt::Linger, &reset).unwrap();
    });
    let (client, server) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    let address = server.local_addr().unwrap();
    let udp = cost(20_000, || {
        client.send_to(b"x", address).unwrap();
        server.recv(&mut [0; 8]).unwrap();
    });
    let getppid = cost(300_000, || {
        // SAFETY: it takes nothing.
        unsafe { libc::syscall(libc::SYS_getppid) };
    });
    [tcp, udp, getppid]
}

fn watched(interest: &Interest) -> [f64; 3] {
    let builder = Probe::builder().exec(false).fork(false).exit(false).snapshot(false);
    let mut probe = builder.interest(interest.clone()).hooks(family()).load().unwrap().attach().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let reader = thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            probe.poll(Duration::from_millis(20), &mut |_| {}).unwrap();
        }
    });
    let costs = measure();
    stop.store(true, Ordering::Relaxed);
    reader.join().unwrap();
    costs
}

fn median(mut costs: Vec<f64>) -> f64 {
    costs.sort_by(f64::total_cmp);
    costs[costs.len() / 2]
}

#[test]
#[ignore = "a measurement"]
fn cost_of_connections() {
    let mut everything = Interest::default();
    for kind in [EventKind::Connect, EventKind::Accept, EventKind::Listen] {
        everything.add_kind(kind);
    }
    let rules = "A:\n  policy: connect\n  rules: ['match protocol == \"TCP\" and remotePort == 1', default ignore]\n";
    let one_port = PolicySet::from_yaml("policy.yaml", rules).unwrap().interest();
    for (what, interest) in [("all connections", everything), ("connections to another port", one_port)] {
        let (mut off, mut on) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            off.push(measure());
            on.push(watched(&interest));
        }
        for (index, name) in NAMES.iter().enumerate() {
            let of = |rounds: &[[f64; 3]]| median(rounds.iter().map(|costs| costs[index]).collect());
            let (off, on) = (of(&off), of(&on));
            println!("{what}: {name}: {off:.0} ns off, {on:.0} ns on, {:+.0} ns", on - off);
        }
    }
}

//! What a profiling matcher counts, by a clock that goes one nanosecond further each time it is read.

// A helper of a test fails like the test.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::cell::Cell;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use sls_core::{Event, EventKind, Field, Matcher, PolicyCost, PolicySet, ProfilingMatcher};

thread_local! {
    static NOW: Cell<u64> = const { Cell::new(0) };
}

fn clock() -> u64 {
    NOW.replace(NOW.get() + 1)
}

/// Policies for programs of a name, and some for what is not there.
fn matcher(others: usize) -> ProfilingMatcher {
    let mut document = String::from(
        "Wget: {policy: program, rules: ['ignore uid == 7', 'match programName == \"/bin/wget\"', default ignore]}\n\
         Sockets: {policy: networkService, rules: ['match localPort == 80', default ignore]}\n",
    );
    for other in 0..others {
        writeln!(
            document,
            "O{other}: {{policy: program, rules: ['match programName == \"/bin/{other}\"', default ignore]}}"
        )
        .unwrap();
    }
    ProfilingMatcher::new(Arc::new(PolicySet::from_yaml("p.yaml", document).unwrap()), clock)
}

fn exec(program: &str, uid: u64) -> Event {
    let mut event = Event::new(EventKind::Exec);
    event.set_text(Field::ProgramName, program.as_bytes()).set_number(Field::Uid, uid);
    event
}

fn cost(matcher: &ProfilingMatcher, policy: &str) -> PolicyCost {
    matcher.costs().snapshot().policies.into_iter().find(|cost| &*cost.policy == policy).unwrap()
}

/// However candidates are found.
#[test]
fn time_goes_to_policies_and_to_finding_them_but_not_to_what_is_done_in_response() {
    for others in [0, 20] {
        let matcher = matcher(others);
        let mut responses = 0;
        for event in [exec("/bin/wget", 0), exec("/bin/wget", 7), exec("/bin/true", 0)] {
            matcher.decide(&event, &mut |_| {
                responses += 1;
                NOW.set(NOW.get() + 1_000_000);
            });
        }
        assert_eq!(responses, 1);
        let wget = cost(&matcher, "Wget");
        assert_eq!((wget.events, wget.asked, wget.responded, wget.nanoseconds), (3, 2, 1, 2), "{others}");
        let snapshot = matcher.costs().snapshot();
        assert_eq!(&*snapshot.policies[0].policy, "Wget", "the dearest is the first");
        let [exec, ..] = &snapshot.kinds[..] else { panic!("no kind") };
        // Before and after each of the two that were asked, and once for the third.
        assert_eq!((exec.kind, exec.events, exec.nanoseconds), (EventKind::Exec, 3, 5), "{others}");
        assert_eq!(snapshot.nanoseconds(), 7);
        if others > 0 {
            assert_eq!((cost(&matcher, "O3").events, cost(&matcher, "O3").asked), (3, 0));
        }
    }
}

#[test]
fn a_policy_of_two_kinds_is_one() {
    let matcher = matcher(0);
    for kind in [EventKind::Accept, EventKind::Listen, EventKind::Accept, EventKind::Connect] {
        let mut event = Event::new(kind);
        event.set_number(Field::LocalPort, 80);
        matcher.decide(&event, &mut |_| ());
    }
    let sockets = cost(&matcher, "Sockets");
    assert_eq!((sockets.events, sockets.asked, sockets.responded), (3, 3, 3));
    let kinds = matcher.costs().snapshot().kinds;
    let events = |kind| kinds.iter().find(|cost| cost.kind == kind).map(|cost| cost.events);
    assert_eq!([EventKind::Accept, EventKind::Listen, EventKind::Connect].map(events), [Some(2), Some(1), None]);
}

#[test]
fn others_read_while_one_matches() {
    const EVENTS: u64 = 20_000;
    let matcher = matcher(20);
    let (costs, done) = (matcher.costs(), AtomicBool::new(false));
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut last = 0;
            while !done.load(Ordering::Relaxed) {
                let asked = costs.snapshot().policies.iter().map(|cost| cost.asked).sum();
                assert!((last..=EVENTS).contains(&asked), "{asked} after {last}");
                last = asked;
            }
        });
        let event = exec("/bin/wget", 0);
        for _ in 0..EVENTS {
            matcher.decide(&event, &mut |_| ());
        }
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    });
    assert_eq!(cost(&matcher, "Wget").responded, EVENTS);
}

//! Whatever a policy asks for and whatever happens, a responder is never handed what a guard protects, and a circuit breaker
//! lets only so many targets through.

// A test may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashSet;
use std::time::Duration;

use proptest::prelude::*;
use sls_core::{
    Action, ActionContext, ActionSet, BreakerLimits, DryRunResponder, Engine, Event, EventKind, Execution, Field,
    GuardedPlanner, Guards, HOST_PID_NAMESPACE, MessageType, Permission, PlannedAction, PolicySet, ProcessKey,
    Protected, Responder, Target,
};

const HOST_MOUNTS: u32 = 4_026_531_832;
const SECOND: u64 = 1_000_000_000;

/// Remembers what it was handed.
#[derive(Debug, Default)]
struct Recording {
    handed: Vec<PlannedAction>,
}

impl Responder for Recording {
    fn supports(&self) -> ActionSet {
        Action::ALL.iter().copied().collect()
    }

    fn execute(&mut self, action: &PlannedAction, context: &ActionContext<'_>) -> Execution {
        self.handed.push(action.clone());
        DryRunResponder.execute(action, context)
    }
}

/// What protects something, said again in other words than the guards have it.
fn is_protected(guard: &Protected, event: &Event, target: &Target) -> bool {
    let contained = !event.text(Field::ContainerId).is_empty();
    let native = event.pid_namespace == Some(HOST_PID_NAMESPACE) && event.mount_namespace == Some(HOST_MOUNTS);
    let under = |pattern: &str, path: &[u8]| match pattern.strip_suffix('*') {
        Some(start) => path.starts_with(start.as_bytes()),
        None => path == pattern.as_bytes(),
    };
    let Target::File { .. } = target else {
        return match guard {
            Protected::Pid(pid) => event.process.pid == *pid,
            Protected::Cgroup(id) => event.cgroup_id == Some(*id) || event.container_cgroup_id == Some(*id),
            Protected::Program(pattern) => native && under(pattern, event.text(Field::ProgramName)),
            Protected::KernelThreads => event.kernel_thread,
            Protected::Unidentified => event.process.pid == 0 || event.process.start == 0,
            _ => false,
        };
    };
    match guard {
        Protected::Path(pattern) => {
            let host =
                [Field::HostFilePath, Field::NewHostFilePath].iter().any(|path| under(pattern, event.text(*path)));
            let inside = [(Field::FilePath, Field::HostFilePath), (Field::NewFilePath, Field::NewHostFilePath)]
                .iter()
                .any(|(path, host)| under(pattern, event.text(*path)) && (!contained || event.text(*host).is_empty()));
            host || inside
        }
        _ => false,
    }
}

const PATHS: &[&str] = &["/p/a", "/p/b", "/q/a", "/tmp/p/a", "", "/p/"];

fn path() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(PATHS)
}

prop_compose! {
    fn event()(
        exec in any::<bool>(),
        (pid, start, cgroup, container_cgroup) in (0u32..6, 0u64..3, 0u64..4, 0u64..4),
        (kernel_thread, contained, native) in (any::<bool>(), any::<bool>(), any::<bool>()),
        texts in [path(), path(), path(), path(), path()],
    ) -> Event {
        let mut event = Event::new(if exec { EventKind::Exec } else { EventKind::File });
        event.time = SECOND;
        event.process = ProcessKey { pid, start };
        event.kernel_thread = kernel_thread;
        (event.cgroup_id, event.container_cgroup_id) = (Some(cgroup), Some(container_cgroup));
        event.pid_namespace = Some(HOST_PID_NAMESPACE);
        event.mount_namespace = Some(if native { HOST_MOUNTS } else { 7 });
        event.set_number(Field::FileDevice, 1).set_number(Field::FileInode, u64::from(pid));
        event.set_text(Field::FileOperation, b"RENAME");
        if contained {
            event.set_text(Field::ContainerId, b"1234");
        }
        let fields =
            [Field::ProgramName, Field::FilePath, Field::HostFilePath, Field::NewFilePath, Field::NewHostFilePath];
        for (field, text) in fields.into_iter().zip(texts) {
            if !text.is_empty() {
                event.set_text(field, text.as_bytes());
            }
        }
        event
    }
}

fn protected() -> impl Strategy<Value = Protected> {
    let pattern = proptest::sample::select(&["/p/*", "/p/a", "/q/*", "/tmp/*", "/none"][..]);
    prop_oneof![
        (0u32..6).prop_map(Protected::Pid),
        (0u64..4).prop_map(Protected::Cgroup),
        pattern.clone().prop_map(|pattern| Protected::Program(pattern.into())),
        pattern.prop_map(|pattern| Protected::Path(pattern.into())),
        Just(Protected::KernelThreads),
        Just(Protected::Unidentified),
    ]
}

/// Policies that ask for every action that their type can have, and one that acts in doubt.
fn greedy() -> PolicySet {
    PolicySet::from_yaml(
        "p.yaml",
        "
Program: {policy: program, responseActions: [kill, kill-tree, stop, kill-container, pause-container, block], rules: [default match]}
File: {policy: filemonitor, responseActions: [alert, kill, quarantine, delete, kill-container], rules: [default match]}
Doubt: {policy: file, onUnknown: act, responseActions: [stop, delete], rules: ['match userName == \"x\"', default ignore]}
",
    )
    .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_responder_is_handed_what_a_guard_protects(
        events in proptest::collection::vec(event(), 1..12),
        guards in proptest::collection::vec(protected(), 0..4),
    ) {
        let planner = guards.iter().cloned().fold(
            Guards::none().host_mount_namespace(HOST_MOUNTS),
            |all, guard| all.with("g", "r", guard),
        );
        let mut engine = Engine::builder(greedy())
            .planner(GuardedPlanner::new(planner))
            .breaker(BreakerLimits::default().policy_targets(0).sensor_targets(0))
            .build();
        for mut event in events {
            let mut responder = Recording::default();
            engine.process(&mut event, &mut responder, &mut |_| {});
            for handed in responder.handed {
                prop_assert_eq!(&handed.permission, &Permission::Granted);
                prop_assert_ne!(&handed.target, &Target::Unidentified);
                for guard in &guards {
                    prop_assert!(!is_protected(guard, &event, &handed.target), "{handed:?} in spite of {guard:?}: {event:?}");
                }
            }
        }
    }

    /// Times that go forward by any step: in no window more than so many, by policy and in all.
    #[test]
    fn a_breaker_lets_only_so_many_through_in_a_window(
        steps in proptest::collection::vec((0u64..40, 1u32..12, any::<bool>()), 1..80),
        (policy_targets, sensor_targets) in (1usize..5, 1usize..7),
    ) {
        let window = 60;
        let limits = BreakerLimits::default()
            .policy_targets(policy_targets)
            .sensor_targets(sensor_targets)
            .window(Duration::from_secs(window))
            .cool_down(Duration::from_secs(100));
        let mut engine = Engine::builder(two_policies()).breaker(limits).build();
        let mut time = 1_000_000;
        let mut acted: Vec<(u64, bool, ProcessKey)> = Vec::new();
        for (step, pid, first) in steps {
            time += step;
            let policy = if first { "/a" } else { "/b" };
            acted.extend(kills(&mut engine, policy, pid, time).into_iter().map(|key| (time, first, key)));
            let distinct = |of: &dyn Fn(bool) -> bool| {
                let lately = acted.iter().filter(|(at, first, _)| time - at < window && of(*first));
                lately.map(|(_, _, key)| *key).collect::<HashSet<_>>().len()
            };
            prop_assert!(distinct(&|first| first) <= policy_targets);
            prop_assert!(distinct(&|first| !first) <= policy_targets);
            prop_assert!(distinct(&|_| true) <= sensor_targets);
        }
    }

    /// Times in any order, also none at all: within one window there are never more.
    #[test]
    fn a_breaker_is_not_outrun_by_the_order_of_events(
        steps in proptest::collection::vec((prop_oneof![Just(None), (0u64..59).prop_map(Some)], 1u32..40), 1..80),
        policy_targets in 1usize..6,
    ) {
        let limits = BreakerLimits::default().policy_targets(policy_targets).sensor_targets(0);
        let mut engine = Engine::builder(two_policies()).breaker(limits).build();
        let mut acted = HashSet::new();
        for (offset, pid) in steps {
            acted.extend(kills(&mut engine, "/a", pid, offset.map_or(0, |offset| 1_000_000 + offset)));
        }
        prop_assert!(acted.len() <= policy_targets);
    }

    /// Wild times do no harm, and do not stop the engine for good.
    #[test]
    fn a_breaker_survives_any_time(times in proptest::collection::vec(any::<u64>(), 1..40)) {
        let limits = BreakerLimits::default().policy_targets(1);
        let mut engine = Engine::builder(two_policies()).breaker(limits).warm_up(Duration::from_secs(5)).build();
        for (pid, time) in (2..).zip(&times) {
            process(&mut engine, "/a", pid, *time);
        }
        // From here on the clock goes right again, whatever it said before.
        for second in 0..1_000 {
            process(&mut engine, "/nothing", 1_000, (5_000_000 + second) * SECOND);
        }
        prop_assert_eq!(kills(&mut engine, "/a", 999, 5_001_000).len(), 1);
    }
}

fn two_policies() -> PolicySet {
    PolicySet::from_yaml(
        "p.yaml",
        "
A: {policy: program, responseActions: [kill], rules: ['match programName == \"/a\"', default ignore]}
B: {policy: program, responseActions: [stop, kill], rules: ['match programName == \"/b\"', default ignore]}
",
    )
    .unwrap()
}

fn process(engine: &mut Engine, program: &str, pid: u32, time: u64) -> (Vec<PlannedAction>, Vec<sls_core::Alert>) {
    let mut event = Event::new(EventKind::Exec);
    event.time = time;
    event.process = ProcessKey { pid, start: 1 };
    event.set_text(Field::ProgramName, program.as_bytes());
    let (mut responder, mut alerts) = (Recording::default(), Vec::new());
    engine.process(&mut event, &mut responder, &mut |pending| alerts.push(pending.complete()));
    (responder.handed, alerts)
}

/// Whom an event at this second makes the responder kill.
fn kills(engine: &mut Engine, program: &str, pid: u32, seconds: u64) -> Vec<ProcessKey> {
    let (handed, _) = process(engine, program, pid, seconds * SECOND);
    let target = |action: &PlannedAction| match action.target {
        Target::Process { key, .. } => key,
        ref other => panic!("{other:?}"),
    };
    handed.iter().filter(|action| action.action == Action::Kill).map(target).collect()
}

#[test]
fn a_breaker_tells_of_itself_once_and_survives_a_reload() {
    let limits = BreakerLimits::default().policy_targets(2);
    let mut engine = Engine::builder(two_policies()).breaker(limits).build();
    let mut alerts = Vec::new();
    for pid in 2..6 {
        alerts.extend(process(&mut engine, "/b", pid, 1_000 * SECOND).1);
    }
    let told: Vec<_> = alerts.iter().filter(|alert| alert.message_type.is_some()).collect();
    let [told] = &*told else { panic!("{told:?}") };
    assert_eq!((told.message_type, &*told.strategy_name, told.priority), (Some(MessageType::Alert), "B", "High"));
    assert_eq!(
        told.notifications[0].message,
        "The circuit breaker of the policy \"B\" tripped: it acted on 2 targets within 60 s; \
         its actions are dry run for 300 s"
    );
    assert_eq!(told.notifications[0].message_fields.guard, Some("circuit-breaker"));
    let stats = engine.stats();
    assert_eq!((stats.breaker_trips, stats.breaker_held, stats.actions), (1, 2, 8));
    // What was held says by which guard.
    let held = &alerts.last().unwrap().notifications[1].message_fields;
    assert_eq!(held.action_result, Some("dry run"));
    assert_eq!(held.action_result_details.as_deref(), Some("circuit-breaker: the policy acted on too many targets"));
    engine.reload(two_policies());
    assert_eq!(kills(&mut engine, "/b", 9, 1_001), []);
    engine.rearm();
    assert_eq!(kills(&mut engine, "/b", 9, 1_001).len(), 1);
}

#[test]
fn the_breaker_of_the_sensor_holds_all_policies() {
    let limits = BreakerLimits::default().policy_targets(0).sensor_targets(2);
    let mut engine = Engine::builder(two_policies()).breaker(limits).build();
    assert_eq!(kills(&mut engine, "/a", 2, 1_000).len(), 1);
    assert_eq!(kills(&mut engine, "/b", 3, 1_000).len(), 1);
    let (handed, alerts) = process(&mut engine, "/b", 4, 1_000 * SECOND);
    assert_eq!(handed.len(), 0);
    assert_eq!(
        alerts.last().unwrap().notifications[0].message,
        "The circuit breaker of the sensor tripped: its policies acted on 2 targets within 60 s; \
         all actions are dry run for 300 s"
    );
    assert_eq!(kills(&mut engine, "/a", 5, 1_001), []);
    assert_eq!(kills(&mut engine, "/a", 5, 1_300).len(), 1);
}

#[test]
fn a_policy_in_dry_run_trips_nothing() {
    let limits = BreakerLimits::default().policy_targets(1);
    let mut engine = Engine::builder(two_policies()).breaker(limits).dry_run(true).build();
    for pid in 2..9 {
        let (handed, alerts) = process(&mut engine, "/a", pid, SECOND);
        assert_eq!((handed.len(), alerts.len()), (0, 1));
    }
    assert_eq!(engine.stats().breaker_trips, 0);
}

#[test]
fn a_new_policy_warms_up_and_an_old_one_goes_on_at_a_reload() {
    let mut engine = Engine::builder(two_policies()).warm_up(Duration::from_secs(60)).build();
    assert_eq!(kills(&mut engine, "/a", 2, 1_000), []);
    assert_eq!(kills(&mut engine, "/a", 2, 1_059), []);
    assert_eq!(kills(&mut engine, "/a", 2, 1_060).len(), 1);
    let changed = "
A: {policy: program, responseActions: [kill], rules: ['match programName == \"/a\"', default ignore]}
B: {policy: program, responseActions: [kill], rules: ['match programName == \"/b\"', default ignore]}
";
    engine.reload(PolicySet::from_yaml("p.yaml", changed).unwrap());
    assert_eq!(kills(&mut engine, "/a", 3, 1_061).len(), 1);
    assert_eq!(kills(&mut engine, "/b", 3, 1_061), []);
    assert_eq!(kills(&mut engine, "/b", 3, 1_121).len(), 1);
    assert_eq!(engine.stats().warm_up_held, 3);
}

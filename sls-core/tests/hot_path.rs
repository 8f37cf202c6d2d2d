//! From the event to the signal nothing is allocated; an event that nobody responds to costs what the process table has
//! to remember, and no more.

// A helper of a test fails like the test.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use sls_core::{
    Action, ActionContext, ActionSet, CompiledMatcher, DryRunResponder, Engine, Event, EventKind, Execution, Field,
    HeldVerdict, MAX_ALERT_LINEAGE, MAX_ANCESTOR_TEXT, MAX_PROCESS_TEXT, Matcher, PlannedAction, PolicySet, ProcessKey,
    Responder, TreeMatcher,
};

use support::{ALLOCATIONS, BYTES};

const POLICIES: &str = r#"
Kill:
  policy: program
  responseActions: [alert, stop, kill]
  rules:
    - ignore uid == 0 and parentProgramName in $Allowed
    - match programName == "*/wget" and programArguments like ".*https?://.*" and ancestorProgramName == "*/bash"
    - default ignore
Lists: {policy: program, rules: ['match programName in $Allowed and lineage in $Chains', default ignore]}
Allowed: {type: paths, list: ["/usr/bin/apt*", "/usr/lib/*/helper"]}
Chains: {type: lineage, list: [[sshd, bash], [cron, sh]]}
"#;

/// Remembers how many allocations had been made when each action was handed over.
#[derive(Debug, Default)]
struct Watching {
    allocations: Vec<usize>,
}

impl Responder for Watching {
    fn supports(&self) -> ActionSet {
        Action::ALL.iter().copied().collect()
    }

    fn execute(&mut self, action: &PlannedAction, context: &ActionContext<'_>) -> Execution {
        self.allocations.push(ALLOCATIONS.get());
        DryRunResponder.execute(action, context)
    }
}

fn exec(event: &mut Event, pid: u32, program: &str) {
    event.reset(EventKind::Exec);
    event.process = ProcessKey { pid, start: u64::from(pid) };
    event.parent = ProcessKey { pid: 20, start: 20 };
    event.set_text(Field::ProgramName, program.as_bytes()).set_number(Field::Uid, 1000);
    event.set_arguments([program.as_bytes(), b"https://198.51.100.7/x"]);
}

#[test]
fn nothing_is_allocated_before_the_signal() {
    let mut engine = Engine::builder(PolicySet::from_yaml("p.yaml", POLICIES).unwrap()).build();
    let mut responder = Watching { allocations: Vec::with_capacity(64) };
    let mut event = Event::new(EventKind::Exec);
    exec(&mut event, 20, "/usr/bin/bash");
    engine.process(&mut event, &mut responder, &mut |_| {});
    for round in 0..3 {
        exec(&mut event, 100 + round, "/usr/bin/wget");
        let before = ALLOCATIONS.get();
        responder.allocations.clear();
        let mut alerts = 0;
        engine.process(&mut event, &mut responder, &mut |_| alerts += 1);
        assert_eq!((alerts, responder.allocations.len()), (1, 2));
        // The first round makes room in buffers that stay.
        if round > 0 {
            assert_eq!(responder.allocations[0] - before, 0, "round {round}");
        }
    }
}

#[test]
fn a_miss_allocates_only_what_is_remembered() {
    let mut engine = Engine::builder(PolicySet::from_yaml("p.yaml", POLICIES).unwrap()).build();
    let mut event = Event::new(EventKind::Exec);
    for program in ["/usr/bin/bash", "/usr/bin/true"] {
        exec(&mut event, 20, program);
        engine.process(&mut event, &mut DryRunResponder, &mut |_| {});
    }
    let (allocations, bytes) = (ALLOCATIONS.get(), BYTES.get());
    for _ in 0..100 {
        exec(&mut event, 20, "/usr/bin/true");
        engine.process(&mut event, &mut DryRunResponder, &mut |_| panic!("nothing matches"));
    }
    // The image of the program: its texts, the ends of its arguments, what holds them, and two that shrink to fit.
    assert!(ALLOCATIONS.get() - allocations <= 600, "{} allocations", ALLOCATIONS.get() - allocations);
    assert_eq!(BYTES.get(), bytes, "memory grows");
}

/// Whoever comes late, or after the end of its process, is looked up as the others are.
#[test]
fn a_late_event_allocates_nothing() {
    let mut engine = Engine::builder(PolicySet::from_yaml("p.yaml", POLICIES).unwrap()).build();
    let mut event = Event::new(EventKind::Exec);
    let mut tell = |event: &mut Event| {
        let before = ALLOCATIONS.get();
        engine.process(event, &mut DryRunResponder, &mut |_| panic!("nothing matches"));
        ALLOCATIONS.get() - before
    };
    for (time, pid, program) in [(10, 20, "/usr/bin/bash"), (20, 100, "/usr/bin/true"), (30, 100, "/usr/bin/false")] {
        exec(&mut event, pid, program);
        event.since_boot = time;
        tell(&mut event);
    }
    for (kind, time) in [(EventKind::File, 25), (EventKind::Exit, 40), (EventKind::File, 15), (EventKind::File, 35)] {
        for round in 0..3 {
            event.reset(kind);
            (event.process, event.since_boot) = (ProcessKey { pid: 100, start: 100 }, time);
            event.set_text(Field::FileOperation, b"CREATE").set_text(Field::FilePath, b"/tmp/x");
            let allocations = tell(&mut event);
            // The first round makes room in buffers that stay.
            assert!(round == 0 || allocations == 0, "{kind} at {time}: {allocations} allocations");
        }
        let program: &[u8] = match time {
            15 => b"",
            25 => b"/usr/bin/true",
            _ => b"/usr/bin/false",
        };
        assert!(kind == EventKind::Exit || event.text(Field::ProgramName) == program, "{event:?} at {time}");
    }
}

// The matcher alone.

/// Policies of every form, and some that share their first condition.
fn many_policies(count: usize) -> Arc<PolicySet> {
    let mut text = String::from(
        "Shared: {type: paths, list: [/usr/bin/shared, '*/common']}\nChains: {type: lineage, list: [[sshd, sh], [cron, '*']]}\n\
         Numbers: {type: numbers, list: [7, 100-200]}\n",
    );
    for index in 0..count {
        let condition = match index % 10 {
            0 => format!(r#"programName == "/opt/app{index}/bin" or parentProgramName == "/sbin/init""#),
            1 => format!(r#"programName =~ "*/TOOL{index}" and uid != 0"#),
            2 => format!(r#"programName == "/srv/{index}/*""#),
            3 => format!(r#"programArguments == "*--token{index}*""#),
            4 => format!(r#"programArguments like ".*--exfil{index}[a-z]+.*""#),
            5 => format!(r#"programArguments like "[0-9]+[a-f]{{{}}}""#, index % 7 + 1),
            6 => format!(r#"ancestorProgramName == "*/parent{index}" and userName != "root""#),
            7 => format!("programName in $Shared and uid == {index}"),
            8 => "lineage in $Chains and uid in $Numbers".to_owned(),
            _ => format!(r#"programIsMemfd == true or invokedName == "*x{index}""#),
        };
        text.push_str(&format!("P{index}: {{policy: program, rules: ['match {condition}', default ignore]}}\n"));
    }
    Arc::new(PolicySet::from_yaml("many.yaml", text).unwrap())
}

fn changed(change: impl FnOnce(&mut Event) -> &mut Event) -> Event {
    let mut event = Event::new(EventKind::Exec);
    exec(&mut event, 100, "/usr/bin/true");
    event.set_ancestors([&b"/bin/sh"[..], b"/usr/sbin/sshd", b"/sbin/init"]);
    change(&mut event);
    event
}

/// What is to be decided without an allocation, and how many of 1,000 policies respond at least.
fn events() -> Vec<(&'static str, Event, usize)> {
    let text = |field, text: &'static str| changed(move |event| event.set_text(field, text.as_bytes()));
    vec![
        ("miss", changed(|event| event), 0),
        ("exact", text(Field::ProgramName, "/opt/app0/bin"), 1),
        ("folded end", text(Field::ProgramName, "/x/tool1"), 1),
        ("start", text(Field::ProgramName, "/srv/2/x"), 1),
        ("inside", changed(|event| event.set_arguments([&b"x --token3 y"[..]])), 1),
        ("expression", changed(|event| event.set_arguments([&b"x --exfil4abc"[..]])), 1),
        ("expression without a literal", changed(|event| event.set_arguments([&b"123abcdef"[..]])), 1),
        ("ancestor", changed(|event| event.set_ancestors([&b"/x/parent6"[..]])), 1),
        ("lineage", changed(|event| event.set_number(Field::Uid, 150)), 100),
        ("everything", changed(|event| event.set_bool(Field::ProgramIsMemfd, true)), 100),
        ("only false candidates", text(Field::ProgramName, "/usr/bin/shared"), 0),
        ("cut arguments", changed(|event| event.mark_truncated(Field::ProgramArguments)), 200),
        ("cut ancestry", changed(|event| event.mark_truncated(Field::Lineage)), 100),
        ("unknown program", changed(|event| event.mark_unknown(Field::ProgramName)), 200),
        ("long arguments", changed(|event| event.set_arguments([&b"--exfil --token ".repeat(500)[..]])), 0),
        ("64 ancestors", changed(|event| event.set_ancestors([&b"/usr/bin/parent"[..]; 64])), 0),
    ]
}

/// Whatever it answers, and however many policies it has to look at.
#[test]
fn a_matcher_allocates_nothing() {
    for count in [1, 8, 100, 1000] {
        let policies = many_policies(count);
        let (compiled, tree) = (CompiledMatcher::new(policies.clone()), TreeMatcher::new(policies));
        for (what, event, least) in events() {
            let decide = |matcher: &dyn Matcher| {
                let mut responses = 0;
                matcher.decide(&event, &mut |_| responses += 1);
                responses
            };
            // Regular expressions keep what they learnt of a value, and a thread its room for candidates.
            let expected = decide(&tree);
            assert_eq!(decide(&compiled), expected, "{what}, {count} policies");
            assert!(count < 1000 || expected >= least, "{what}: {expected} responses");
            let before = ALLOCATIONS.get();
            for _ in 0..3 {
                decide(&compiled);
            }
            assert_eq!(ALLOCATIONS.get() - before, 0, "{what}, {count} policies");
        }
    }
}

/// Values that were never seen before are no reason either, where no expression has to learn them.
#[test]
fn new_values_allocate_nothing() {
    let policies: Vec<_> = (0..1000)
        .map(|index| {
            let condition = match index % 3 {
                0 => format!(r#"programName == "*/tool{index}""#),
                1 => format!(r#"programArguments == "*--token{index}*""#),
                _ => format!("uid == {index}"),
            };
            format!("P{index}: {{policy: program, rules: ['match {condition}', default ignore]}}\n")
        })
        .collect();
    let matcher = CompiledMatcher::new(Arc::new(PolicySet::from_yaml("new.yaml", policies.concat()).unwrap()));
    // Everything at once is the most that there is to remember.
    let unknown = [Field::ProgramName, Field::ProgramArguments, Field::Uid];
    let mut event = changed(|event| unknown.into_iter().fold(event, |event, field| event.mark_unknown(field)));
    let mut responses = 0;
    matcher.decide(&event, &mut |_| responses += 1);
    assert_eq!(responses, 1000);
    responses = 0;
    for index in 0..1000_u32 {
        exec(&mut event, index + 2, &format!("/opt/{index}/tool{index}"));
        event.set_number(Field::Uid, index.into());
        event.set_arguments([format!("x{index} --token{index}").as_bytes()]);
        let before = ALLOCATIONS.get();
        matcher.decide(&event, &mut |_| responses += 1);
        assert_eq!(ALLOCATIONS.get() - before, 0, "event {index}");
    }
    assert!(responses >= 1000, "{responses} responses");
}

/// Policies that were just loaded are ready: nothing is left to be made when the first event comes.
#[test]
fn a_new_matcher_allocates_nothing() {
    let entries = |kind: &str| {
        (0..1000).map(|index| format!("'{}'", kind.replace('#', &index.to_string()))).collect::<Vec<_>>().join(", ")
    };
    let text = format!(
        "Paths: {{type: paths, list: [{}]}}\nNumbers: {{type: numbers, list: [{}]}}\nNets: {{type: hosts, list: [{}]}}\n\
         A: {{policy: program, rules: ['match programName in $Paths', default ignore]}}\n\
         B: {{policy: program, rules: ['match programName == \"*true\" and uid in $Numbers', default ignore]}}\n\
         C: {{policy: connect, rules: ['match programName == \"*true\" and remoteHost not in $Nets', default ignore]}}\n",
        entries("*/tool#"),
        entries("#"),
        entries("10.0.0.0/8"),
    );
    for warm in [false, true] {
        let matcher = CompiledMatcher::new(Arc::new(PolicySet::from_yaml("lists.yaml", &*text).unwrap()));
        let program = changed(|event| event);
        let mut connection = program.clone();
        connection.kind = EventKind::Connect;
        connection.set_host(Field::RemoteHost, [198, 51, 100, 7].into());
        let before = ALLOCATIONS.get();
        for event in [&program, &connection] {
            matcher.decide(event, &mut |_| ());
        }
        // The first has made what a thread keeps.
        assert!(!warm || ALLOCATIONS.get() == before, "{} allocations", ALLOCATIONS.get() - before);
    }
}

#[test]
fn an_operation_that_waits_and_may_go_on_allocates_nothing() {
    let policies = "
Held: {policy: program, tier: fanotify, responseActions: [kill, block], rules: ['match programName == \"/opt/*\" and ancestorProgramName == \"*/bash\" and userName == \"eve\"', default ignore]}";
    let mut engine = Engine::builder(PolicySet::from_yaml("p.yaml", policies).unwrap()).build();
    assert_eq!(engine.policies().tiers().holds().len(), 1);
    let mut event = Event::new(EventKind::Exec);
    exec(&mut event, 20, "/usr/bin/bash");
    engine.process(&mut event, &mut DryRunResponder, &mut |_| {});
    for round in 0..3 {
        exec(&mut event, 100, "/opt/x");
        event.set_text(Field::UserName, b"bob");
        let before = ALLOCATIONS.get();
        let decision = engine.decide_held(&mut event, &mut DryRunResponder, &mut |_| panic!("nothing matches"));
        assert_eq!(decision.verdict(), HeldVerdict::Allow);
        decision.answered(Ok(0));
        // The first round makes room in buffers that stay.
        assert!(round == 0 || ALLOCATIONS.get() == before, "{} allocations", ALLOCATIONS.get() - before);
    }
}

/// An attacker who makes everything long makes no alert that fills the memory.
#[test]
fn alerts_are_bounded() {
    let policies = "All: {policy: program, rules: [default match]}";
    let mut engine = Engine::builder(PolicySet::from_yaml("p.yaml", policies).unwrap()).build();
    let mut event = Event::new(EventKind::Exec);
    let mut last = None;
    for pid in 2..100 {
        exec(&mut event, pid, "/bin/x");
        event.parent = ProcessKey { pid: pid - 1, start: u64::from(pid - 1) };
        let long = [0xff; 8192];
        event.set_arguments(std::iter::repeat_n(&long[..80], 100));
        for field in [Field::ProgramName, Field::InvokedName, Field::ProgramDirectory] {
            event.set_text(field, &long[..4000]);
        }
        engine.process(&mut event, &mut DryRunResponder, &mut |pending| last = Some(pending.complete()));
    }
    let alert = last.unwrap();
    assert_eq!(alert.lineage.len(), MAX_ALERT_LINEAGE);
    assert!(alert.process_info.as_ref().is_some_and(|process| process.truncated.contains(&"args")));
    let bound = MAX_PROCESS_TEXT + MAX_ALERT_LINEAGE * MAX_ANCESTOR_TEXT;
    // Backslashes are doubled in JSON, and there are keys.
    assert!(alert.to_json().len() < 2 * bound + 64 * 1024, "{} bytes", alert.to_json().len());
}

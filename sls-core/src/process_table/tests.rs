mod late;
mod repair;

use std::collections::HashMap;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

fn key(pid: u32, start: u64) -> ProcessKey {
    ProcessKey { pid, start }
}

fn event(kind: EventKind, process: ProcessKey, parent: ProcessKey) -> Event {
    let mut event = Event::new(kind);
    (event.process, event.parent) = (process, parent);
    event
}

fn named(kind: EventKind, process: ProcessKey, parent: ProcessKey, program: &str) -> Event {
    let mut event = event(kind, process, parent);
    event.set_text(Field::ProgramName, program.as_bytes());
    event
}

const NONE: ProcessKey = ProcessKey { pid: 0, start: 0 };
const INIT: ProcessKey = ProcessKey { pid: 1, start: 1 };

/// A table with init in it.
fn table(limit: usize) -> ProcessTable {
    let mut table = ProcessTable::new(limit);
    table.observe(&named(EventKind::Baseline, INIT, NONE, "/sbin/init"));
    table
}

fn programs(table: &ProcessTable, key: ProcessKey) -> Vec<String> {
    table.lineage(key).map(|record| String::from_utf8_lossy(record.program_name()).into_owned()).collect()
}

fn enriched(table: &ProcessTable, process: ProcessKey) -> Event {
    let mut event = event(EventKind::File, process, NONE);
    table.enrich(&mut event);
    event
}

fn ancestors(event: &Event) -> (Vec<String>, bool) {
    let Value::Many { items, truncated } = event.value(Field::AncestorProgramName) else {
        panic!("{:?}", event.value(Field::AncestorProgramName))
    };
    (items.iter().map(|item| String::from_utf8_lossy(item).into_owned()).collect(), truncated)
}

#[test]
fn a_forked_child_is_what_its_parent_was_until_it_executes() {
    let mut table = table(10);
    let (shell, child) = (key(10, 100), key(11, 110));
    let mut exec = named(EventKind::Exec, shell, INIT, "/bin/sh");
    exec.set_arguments([&b"sh"[..], b"-c", b"a b"]).set_number(Field::Uid, 7).set_text(Field::ScriptName, b"/x.sh");
    table.observe(&exec);
    table.observe(&event(EventKind::Fork, child, shell));
    let record = table.process(child).unwrap();
    assert_eq!((record.program_name(), record.uid()), (&b"/bin/sh"[..], Some(7)));
    assert_eq!(record.arguments().collect::<Vec<_>>(), [&b"sh"[..], b"-c", b"a b"]);
    table.observe(&named(EventKind::Exec, child, shell, "/bin/ls"));
    let record = table.process(child).unwrap();
    assert_eq!((record.program_name(), record.script_name()), (&b"/bin/ls"[..], &b""[..]));
    assert_eq!((record.uid(), record.arguments().count()), (Some(7), 0));
    assert_eq!(table.process(shell).unwrap().program_name(), b"/bin/sh");
    let event = enriched(&table, child);
    assert_eq!(event.parent, shell);
    assert_eq!(event.text(Field::ParentProgramArguments), b"sh -c a b");
    assert_eq!(ancestors(&event), (vec!["/bin/sh".into(), "/sbin/init".into()], false));
}

#[test]
fn a_sibling_made_with_clone_parent_descends_from_its_maker() {
    let mut table = table(10);
    let (shell, maker, sibling) = (key(10, 100), key(11, 110), key(12, 120));
    table.observe(&named(EventKind::Exec, shell, INIT, "/bin/sh"));
    table.observe(&named(EventKind::Exec, maker, shell, "/tmp/evil"));
    let mut fork = event(EventKind::Fork, sibling, shell);
    fork.creator = maker;
    let check = |event: &Event| {
        assert_eq!((event.parent, event.text(Field::ParentProgramName)), (shell, &b"/bin/sh"[..]));
        assert_eq!(ancestors(event), (vec!["/tmp/evil".into(), "/bin/sh".into(), "/sbin/init".into()], false));
    };
    let mut first = fork.clone();
    table.enrich(&mut first);
    check(&first);
    table.observe(&fork);
    // What it runs until it executes something is its maker's program.
    assert_eq!(table.process(sibling).unwrap().program_name(), b"/tmp/evil");
    table.observe(&event(EventKind::Exit, maker, shell));
    let mut exec = named(EventKind::Exec, sibling, shell, "/usr/bin/curl");
    table.enrich(&mut exec);
    check(&exec);
    table.forest.assert_sound();
}

#[test]
fn a_maker_that_is_told_late_takes_the_place_of_the_parent() {
    let mut table = table(10);
    let (shell, maker, sibling) = (key(10, 100), key(11, 110), key(12, 120));
    // A snapshot that comes before the fork knows the parent only.
    table.observe(&named(EventKind::Baseline, sibling, shell, "/tmp/evil"));
    assert!(table.process(shell).unwrap().only_named());
    table.observe(&named(EventKind::Baseline, maker, INIT, "/tmp/evil"));
    let mut fork = event(EventKind::Fork, sibling, shell);
    fork.creator = maker;
    table.observe(&fork);
    assert_eq!(programs(&table, sibling), ["/tmp/evil", "/sbin/init"]);
    assert_eq!(table.process(sibling).unwrap().parent(), shell);
    assert!(table.process(shell).is_none(), "nothing needs the named parent any more");
    table.forest.assert_sound();
    // Nobody descends from a descendant of its own.
    let mut hostile = event(EventKind::Fork, maker, INIT);
    hostile.creator = sibling;
    table.observe(&hostile);
    assert_eq!(programs(&table, maker), Vec::<String>::new());
    table.forest.assert_sound();
}

/// What `enrich` makes of `event` before it is observed; afterwards it has to be the same.
fn enriched_before(table: &mut ProcessTable, event: &Event) -> Event {
    let (mut before, mut after) = (event.clone(), event.clone());
    table.enrich(&mut before);
    table.observe(event);
    table.enrich(&mut after);
    assert_eq!(before.to_json(), after.to_json());
    before
}

#[test]
fn an_event_is_enriched_before_it_is_observed() {
    let mut table = table(10);
    let (shell, child) = (key(10, 100), key(11, 110));
    table.observe(&named(EventKind::Exec, shell, INIT, "/bin/sh"));
    let lineage = (vec!["/bin/sh".to_owned(), "/sbin/init".to_owned()], false);
    let init = (vec!["/sbin/init".to_owned()], false);

    // An execution by a process that was never seen.
    let event = enriched_before(&mut table, &named(EventKind::Exec, child, shell, "/usr/bin/daemon"));
    assert_eq!((event.text(Field::ParentProgramName), ancestors(&event)), (&b"/bin/sh"[..], lineage.clone()));

    // Its parent ends, and init adopts it: the lineage stays, the parent is the new one.
    table.observe(&event_of_exit(shell));
    let event = enriched_before(&mut table, &named(EventKind::Exec, child, INIT, "/usr/bin/next"));
    assert_eq!((event.parent, event.text(Field::ParentProgramName)), (INIT, &b"/sbin/init"[..]));
    assert_eq!(ancestors(&event), lineage);

    // Its pid is used again, whether its end was seen or not: the new process has nothing of the old one.
    for start in [200, 300] {
        let event = enriched_before(&mut table, &named(EventKind::Exec, key(11, start), INIT, "/usr/bin/other"));
        assert_eq!(ancestors(&event), init);
        let next = enriched_before(&mut table, &event_of_exit(key(11, start)));
        assert_eq!(ancestors(&next), init);
    }
    // So when the parent's pid is used again: the child of the old one is no child of the new one.
    table.observe(&named(EventKind::Exec, key(10, 400), INIT, "/usr/bin/liar"));
    let event = enriched_before(&mut table, &named(EventKind::Exec, key(12, 120), shell, "/usr/bin/late"));
    assert_eq!(event.value(Field::ParentProgramName), Value::Unknown);
}

#[test]
fn a_parent_that_ended_with_the_event_before_is_still_known() {
    let mut table = table(10);
    let shell = key(10, 100);
    table.observe(&named(EventKind::Exec, shell, INIT, "/bin/sh"));
    table.observe(&event_of_exit(shell));
    let mut event = named(EventKind::Exec, key(11, 110), shell, "/usr/bin/wget");
    table.enrich(&mut event);
    assert_eq!(event.text(Field::ParentProgramName), b"/bin/sh");
    assert_eq!(ancestors(&event), (vec!["/bin/sh".into(), "/sbin/init".into()], false));
}

fn event_of_exit(process: ProcessKey) -> Event {
    event(EventKind::Exit, process, NONE)
}

#[test]
fn what_the_event_has_is_left_alone() {
    let mut table = table(10);
    table.observe(&named(EventKind::Exec, key(10, 100), INIT, "/bin/sh"));
    let mut event = event(EventKind::File, key(10, 100), key(7, 7));
    event.set_text(Field::ParentProgramName, b"/recorded").mark_unknown(Field::ParentProgramArguments);
    event.set_ancestors([&b"/also recorded"[..]]);
    event.set_text(Field::ProgramName, b"/told");
    let before = event.to_json();
    table.enrich(&mut event);
    assert_eq!(event.to_json(), before);
}

#[test]
fn other_events_are_told_of_their_program() {
    let mut table = table(10);
    let mut exec = named(EventKind::Exec, key(10, 100), INIT, "/bin/sh");
    exec.set_arguments([&b"sh"[..], b"-c", b""])
        .set_bool(Field::ProgramIsMemfd, true)
        .set_number(Field::ProgramInode, 7);
    table.observe(&exec);
    let mut opened = event(EventKind::File, key(10, 100), NONE);
    table.enrich(&mut opened);
    assert_eq!(opened.text(Field::ProgramName), b"/bin/sh");
    assert_eq!(opened.arguments().collect::<Vec<_>>(), [&b"sh"[..], b"-c", b""]);
    assert_eq!(opened.value(Field::ProgramIsMemfd), Value::Bool(true));
    assert_eq!(opened.number(Field::ProgramInode), Some(7));
    assert_eq!(opened.value(Field::ScriptName), Value::Absent);
    // A child is what its parent is, until it executes something.
    table.observe(&event(EventKind::Fork, key(11, 110), key(10, 100)));
    let mut connects = event(EventKind::Connect, key(11, 110), NONE);
    table.enrich(&mut connects);
    assert_eq!(connects.value(Field::ProgramIsMemfd), Value::Bool(true));
    table.observe(&named(EventKind::Exec, key(11, 110), key(10, 100), "/bin/true"));
    let mut connects = event(EventKind::Connect, key(11, 110), NONE);
    table.enrich(&mut connects);
    assert_eq!(connects.value(Field::ProgramIsMemfd), Value::Absent);
    assert_eq!(connects.text(Field::ProgramName), b"/bin/true");
    // Of who was never told of, nothing is known; what has no process has no program.
    let mut stranger = event(EventKind::File, key(99, 9), NONE);
    table.enrich(&mut stranger);
    assert_eq!(stranger.value(Field::ProgramName), Value::Unknown);
    let mut nobody = event(EventKind::File, NONE, NONE);
    table.enrich(&mut nobody);
    assert_eq!(nobody.value(Field::ProgramName), Value::Absent);
}

#[test]
fn a_process_without_a_parent_has_no_parent_fields_and_an_unseen_parent_is_unknown() {
    let mut table = table(10);
    let event = enriched(&table, INIT);
    for field in [Field::ParentPid, Field::ParentProgramName, Field::ParentProgramArguments, Field::Lineage] {
        assert_eq!(event.value(field), Value::Absent, "{field}");
    }
    for process in [key(10, 100), key(11, 110)] {
        table.observe(&named(EventKind::Exec, process, key(9, 90), "/bin/sh"));
        let event = enriched(&table, process);
        assert_eq!(event.value(Field::ParentPid), Value::Number(9));
        for field in [Field::ParentProgramName, Field::ParentProgramArguments, Field::Lineage] {
            assert_eq!(event.value(field), Value::Unknown, "{field}");
        }
    }
    assert!(table.process(key(9, 90)).unwrap().only_named());
    // The parent is heard of later: its children are already with it.
    table.observe(&named(EventKind::Baseline, key(9, 90), INIT, "/bin/login"));
    assert_eq!(programs(&table, key(11, 110)), ["/bin/login", "/sbin/init"]);
    let event = enriched(&table, key(10, 100));
    assert_eq!(event.text(Field::ParentProgramName), b"/bin/login");
    assert_eq!(ancestors(&event), (vec!["/bin/login".into(), "/sbin/init".into()], false));
}

#[test]
fn a_reused_pid_is_another_process() {
    let mut table = table(10);
    let (old, new) = (key(10, 100), key(10, 200));
    table.observe(&named(EventKind::Exec, old, INIT, "/old"));
    table.observe(&event(EventKind::Fork, key(11, 110), old));
    table.observe(&event(EventKind::Exit, old, INIT));
    table.observe(&named(EventKind::Exec, new, INIT, "/new"));
    assert_eq!(programs(&table, key(11, 110)), ["/old", "/sbin/init"]);
    // The exit was missed, and the parent's start is another: neither is attached to the process that is there.
    table.observe(&event(EventKind::Fork, key(12, 120), key(10, 150)));
    assert_eq!(programs(&table, key(12, 120)), [""]);
    table.observe(&named(EventKind::Exec, key(10, 300), INIT, "/newest"));
    assert!(table.process(new).is_none());
    // An event of a process that is long gone does not come back.
    table.observe(&named(EventKind::File, new, INIT, "/new"));
    assert!(table.process(new).is_none());
    assert_eq!(table.process(key(10, 0)).unwrap().program_name(), b"/newest");
}

#[test]
fn without_start_times_the_pid_decides() {
    let mut table = table(10);
    table.observe(&named(EventKind::Exec, key(10, 0), key(1, 0), "/old"));
    table.observe(&event(EventKind::Fork, key(11, 0), key(10, 0)));
    assert_eq!(programs(&table, key(11, 0)), ["/old", "/sbin/init"]);
    table.observe(&event(EventKind::Exit, key(10, 0), NONE));
    table.observe(&named(EventKind::Exec, key(10, 0), NONE, "/new"));
    assert_eq!(programs(&table, key(11, 0)), ["/old", "/sbin/init"]);
    assert_eq!(table.process(key(10, 0)).unwrap().program_name(), b"/new");
    // The start time becomes known.
    table.observe(&event(EventKind::File, key(10, 500), NONE));
    assert_eq!(table.process(key(10, 500)).unwrap().program_name(), b"/new");
    assert!(table.process(key(10, 400)).is_none());
    table.forest.assert_sound();
}

#[test]
fn ancestry_outlives_the_ancestors_and_ignores_adoption() {
    let mut table = table(10);
    let (shell, middle, daemon) = (key(10, 100), key(11, 110), key(12, 120));
    table.observe(&named(EventKind::Exec, shell, INIT, "/bin/sh"));
    table.observe(&event(EventKind::Fork, middle, shell));
    table.observe(&event(EventKind::Fork, daemon, middle));
    table.observe(&event(EventKind::Exit, middle, shell));
    table.observe(&event(EventKind::Exit, shell, INIT));
    table.observe(&named(EventKind::Exec, daemon, INIT, "/tmp/daemon"));
    assert_eq!(programs(&table, daemon), ["/bin/sh", "/bin/sh", "/sbin/init"]);
    assert!(table.process(shell).unwrap().exited());
    let event_after = enriched(&table, daemon);
    assert_eq!(event_after.parent, INIT);
    assert_eq!(event_after.text(Field::ParentProgramName), b"/sbin/init");
    assert_eq!(ancestors(&event_after).0, ["/bin/sh", "/bin/sh", "/sbin/init"]);
    table.observe(&event(EventKind::Exit, daemon, INIT));
    assert!(table.process(daemon).is_some(), "it stays for the alert about its exit");
    table.observe(&event(EventKind::File, INIT, NONE));
    assert_eq!(table.len(), 1);
    table.forest.assert_sound();
}

#[test]
fn an_alert_group_covers_the_tree_below_and_survives_its_first_process() {
    let mut table = table(1000);
    let group = Uuid::from_u128(5);
    assert!(!table.set_alert_group(key(10, 100), group));
    table.observe(&event(EventKind::Fork, key(10, 100), INIT));
    table.observe(&event(EventKind::Fork, key(11, 110), key(10, 100)));
    assert!(table.set_alert_group(key(10, 100), group));
    assert_eq!(table.alert_group(key(11, 110)), Some(group));
    assert_eq!(table.alert_group(INIT), None);
    // Neither a chain of short-lived processes nor one of sleeping ones sheds it.
    let mut last = 11;
    for exits in [true, false, true] {
        for pid in last + 1..last + 200 {
            let parent = key(pid - 1, u64::from(pid - 1) * 10);
            table.observe(&event(EventKind::Fork, key(pid, u64::from(pid) * 10), parent));
            if exits {
                table.observe(&event(EventKind::Exit, parent, NONE));
            }
        }
        last += 199;
        assert_eq!(table.alert_group(key(last, u64::from(last) * 10)), Some(group));
    }
    table.forest.assert_sound();
}

#[test]
fn an_alert_group_reaches_who_was_born_before_also_when_the_tree_is_torn() {
    let mut table = table(4);
    table.observe(&event(EventKind::Fork, key(10, 100), INIT));
    table.observe(&event(EventKind::Fork, key(11, 110), key(10, 100)));
    table.observe(&event(EventKind::Fork, key(12, 120), key(11, 110)));
    table.set_alert_group(key(10, 100), Uuid::from_u128(5));
    table.observe(&event(EventKind::Exit, key(11, 110), NONE));
    table.observe(&event(EventKind::Fork, key(13, 130), INIT));
    assert!(table.process(key(11, 110)).is_none());
    assert_eq!(table.lineage(key(12, 120)).count(), 0);
    assert_eq!(table.alert_group(key(12, 120)), Some(Uuid::from_u128(5)));
}

#[test]
fn long_arguments_and_paths_are_cut_and_marked() {
    let mut table = table(10);
    let shell = key(10, 100);
    let path = format!("/{}/end", "d".repeat(2 * MAX_STORED_TEXT));
    let mut exec = named(EventKind::Exec, shell, INIT, &path);
    let long = vec![b'x'; MAX_STORED_ARGUMENTS];
    exec.set_arguments([&b"sh"[..], &long, b"gone"]);
    table.observe(&exec);
    let record = table.process(shell).unwrap();
    let lengths = record.arguments().map(<[u8]>::len).collect::<Vec<_>>();
    assert_eq!(lengths, [2, MAX_STORED_ARGUMENTS - 3]);
    assert!(record.program_name().ends_with(b"/end") && record.program_name().len() == MAX_STORED_TEXT);
    table.observe(&event(EventKind::Fork, key(11, 110), shell));
    let event = enriched(&table, key(11, 110));
    assert!(event.truncated().contains(Field::ParentProgramName));
    assert!(event.truncated().contains(Field::ParentProgramArguments));
    // A part of a path is not passed off as an ancestor's name.
    assert_eq!(ancestors(&event), (vec!["/sbin/init".into()], true));
}

#[test]
fn a_full_table_lets_exited_processes_go_first() {
    let mut table = table(4);
    table.observe(&named(EventKind::Exec, key(10, 100), INIT, "/bin/sh"));
    table.observe(&event(EventKind::Fork, key(11, 110), key(10, 100)));
    table.observe(&event(EventKind::Fork, key(12, 120), INIT));
    table.observe(&event(EventKind::Exit, key(10, 100), INIT));
    assert_eq!((table.len(), table.evicted()), (4, 0));
    table.observe(&event(EventKind::Fork, key(13, 130), INIT));
    assert_eq!((table.len(), table.evicted()), (4, 1));
    assert!(table.process(key(10, 100)).is_none());
    assert_eq!(enriched(&table, key(11, 110)).value(Field::ParentProgramName), Value::Unknown);
    assert_eq!(enriched(&table, key(11, 110)).value(Field::AncestorProgramName), Value::Unknown);
    // Then the oldest leaf; init has children.
    table.observe(&event(EventKind::Fork, key(14, 140), INIT));
    assert!(table.process(key(11, 110)).is_none() && table.process(key(12, 120)).is_some());
    assert!(table.process(INIT).is_some());
    table.forest.assert_sound();
}

#[test]
fn a_million_births_stay_within_the_limit() {
    const BIRTHS: u32 = 1_000_000;
    let limit = 1000;
    // A chain of sleepers, one of processes that exit after they forked, and a crowd of siblings.
    let mut chain = table(limit);
    let mut relay = table(limit);
    let mut crowd = table(limit);
    let mut fork = event(EventKind::Fork, NONE, NONE);
    let mut exit = event(EventKind::Exit, NONE, NONE);
    for pid in 2..BIRTHS + 2 {
        fork.process = key(pid, pid.into());
        fork.parent = key(pid - 1, u64::from(pid) - 1);
        exit.process = fork.parent;
        chain.observe(&fork);
        relay.observe(&fork);
        relay.observe(&exit);
        fork.parent = INIT;
        crowd.observe(&fork);
    }
    for table in [&chain, &relay, &crowd] {
        table.forest.assert_sound();
    }
    assert_eq!((chain.len(), chain.evicted()), (limit, u64::from(BIRTHS) + 1 - limit as u64));
    assert_eq!((crowd.len(), crowd.evicted()), (limit, u64::from(BIRTHS) + 1 - limit as u64));
    assert_eq!((relay.len(), relay.evicted()), (MAX_ANCESTORS + 1, 0));
    let last = key(BIRTHS + 1, u64::from(BIRTHS) + 1);
    assert_eq!(relay.lineage(last).count(), MAX_ANCESTORS);
    assert_eq!(ancestors(&enriched(&relay, last)), (vec!["/sbin/init".into(); MAX_ANCESTORS], true));
    // The table is usable again after the storm.
    chain.observe(&named(EventKind::Exec, last, NONE, "/bin/true"));
    assert_eq!(chain.process(last).unwrap().program_name(), b"/bin/true");
}

#[test]
fn tables_and_records_cross_threads() {
    fn is_send_and_sync<T: Send + Sync>() {}
    is_send_and_sync::<ProcessTable>();
    is_send_and_sync::<ProcessRecord<'_>>();
}

/// What happens next in the model; processes are chosen among the living ones.
#[derive(Clone, Debug)]
enum Step {
    /// Fork from a process, or from the youngest; with the pid of a dead process if there is one and it is asked for.
    Fork {
        from: Option<Index>,
        reuse: bool,
    },
    Exec(Index),
    Exit(Index),
    /// The oldest below init exits, which makes long dead lines.
    ExitOldest,
    Act(Index),
    Group(Index),
}

/// `branching` is the probability of a fork that is not from the youngest process.
fn step(branching: f64) -> impl Strategy<Value = Step> {
    let exits = if branching < 0.1 { 1 } else { 6 };
    prop_oneof![
        16 => (proptest::option::weighted(branching, any::<Index>()), any::<bool>())
            .prop_map(|(from, reuse)| Step::Fork { from, reuse }),
        2 => any::<Index>().prop_map(Step::Exec),
        exits => any::<Index>().prop_map(Step::Exit),
        12 => Just(Step::ExitOldest),
        1 => any::<Index>().prop_map(Step::Act),
        1 => any::<Index>().prop_map(Step::Group),
    ]
}

/// Bushes, and long lines of which little is alive.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop_oneof![proptest::collection::vec(step(0.3), 1..400), proptest::collection::vec(step(0.02), 300..600),]
}

struct Known {
    key: ProcessKey,
    parent: Option<usize>,
    /// The parent that its last event named.
    reported: usize,
    program: String,
    alive: bool,
    group: Option<Uuid>,
}

/// Every process that ever was, and which of them each group was set on.
struct Model(Vec<Known>, HashMap<Uuid, Vec<usize>>);

impl Model {
    fn lineage(&self, index: usize) -> Vec<usize> {
        std::iter::successors(self.0[index].parent, |index| self.0[*index].parent).collect()
    }

    fn group(&self, index: usize) -> Option<Uuid> {
        std::iter::once(index).chain(self.lineage(index)).find_map(|index| self.0[index].group)
    }

    fn alive(&self) -> Vec<usize> {
        (0..self.0.len()).filter(|index| self.0[*index].alive).collect()
    }

    fn apply(&mut self, step: &Step, table: &mut ProcessTable) -> Option<usize> {
        let time = 2 + self.0.len() as u64;
        let alive = self.alive();
        let choose = |index: &Index| *index.get(&alive);
        match step {
            Step::Fork { from, reuse } => {
                let parent = from.as_ref().map_or_else(|| *alive.last().unwrap(), choose);
                let taken = |pid| alive.iter().any(|index| self.0[*index].key.pid == pid);
                let dead = self.0.iter().map(|known| known.key.pid).find(|pid| *reuse && !taken(*pid));
                let key = key(dead.unwrap_or(time as u32), time);
                let Known { key: parent_key, program, .. } = &self.0[parent];
                table.observe(&event(EventKind::Fork, key, *parent_key));
                let (program, group) = (program.clone(), self.group(parent));
                self.0.push(Known { key, parent: Some(parent), reported: parent, program, alive: true, group });
            }
            Step::Exec(index) => {
                let known = &mut self.0[choose(index)];
                known.program = format!("/bin/{time}");
                known.reported = 0;
                // Adopted or not: the parent in the event is not where it came from.
                table.observe(&named(EventKind::Exec, known.key, INIT, &known.program));
            }
            Step::Exit(_) | Step::ExitOldest => {
                let index = if let Step::Exit(index) = step { choose(index) } else { *alive.get(1).unwrap_or(&0) };
                if index > 0 {
                    self.0[index].alive = false;
                    table.observe(&event(EventKind::Exit, self.0[index].key, NONE));
                    return Some(index);
                }
                table.observe(&event(EventKind::File, INIT, NONE));
            }
            Step::Act(index) => table.observe(&event(EventKind::File, self.0[choose(index)].key, NONE)),
            Step::Group(index) => {
                let index = choose(index);
                let group = Uuid::from_u128(time.into());
                assert!(table.set_alert_group(self.0[index].key, group));
                self.0[index].group = Some(group);
                self.1.entry(group).or_default().push(index);
            }
        }
        None
    }

    fn check(&self, table: &ProcessTable, just_exited: Option<usize>) {
        table.forest.assert_sound();
        let mut needed = vec![false; self.0.len()];
        let mut useful = vec![false; self.0.len()];
        if let Some(index) = just_exited {
            useful[index] = true;
            self.lineage(index).iter().for_each(|ancestor| useful[*ancestor] = true);
        }
        for index in self.alive() {
            let known = &self.0[index];
            let lineage = self.lineage(index);
            needed[index] = true;
            lineage.iter().for_each(|ancestor| useful[*ancestor] = true);
            let visible = &lineage[..lineage.len().min(MAX_ANCESTORS)];
            visible.iter().for_each(|ancestor| needed[*ancestor] = true);

            let record = table.process(known.key).unwrap();
            assert_eq!(record.program_name(), known.program.as_bytes());
            assert!(!record.exited());
            let keys = table.lineage(known.key).map(ProcessRecord::key).collect::<Vec<_>>();
            assert_eq!(keys, visible.iter().map(|ancestor| self.0[*ancestor].key).collect::<Vec<_>>());
            let names = visible.iter().map(|ancestor| self.0[*ancestor].program.clone()).collect::<Vec<_>>();
            if known.parent.is_some() {
                let event = enriched(table, known.key);
                if table.process(self.0[known.reported].key).is_some() {
                    assert_eq!(event.text(Field::ParentProgramName), self.0[known.reported].program.as_bytes());
                } else {
                    assert!(event.unknown().contains(Field::ParentProgramName));
                }
                assert_eq!(ancestors(&event), (names, lineage.len() > MAX_ANCESTORS));
            }
            let found = table.alert_group(known.key);
            if lineage.len() <= MAX_ANCESTORS {
                assert_eq!(found, self.group(index));
            } else if let Some(found) = found {
                // What was set far up may come late or never, but it is never another tree's.
                let mut owners = self.1[&found].iter();
                assert!(owners.any(|owner| *owner == index || lineage.contains(owner)), "{found} of another tree");
            }
        }
        for (index, known) in self.0.iter().enumerate() {
            let present = table.process(known.key).is_some();
            assert!(present || !needed[index], "{} is missing", known.key);
            assert!(!present || known.alive || useful[index], "{} is kept", known.key);
        }
        assert_eq!(table.evicted(), 0);
    }
}

fn hostile_key() -> impl Strategy<Value = ProcessKey> {
    (0..8u32, 0..5u64).prop_map(|(pid, start)| key(pid, start))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn below_the_limit_it_knows_what_an_unbounded_list_knows(steps in steps()) {
        let mut table = table(1000);
        let program = "/sbin/init".to_owned();
        let mut model = Model(vec![Known { key: INIT, parent: None, reported: 0, program, alive: true, group: None }], HashMap::new());
        for (count, step) in steps.iter().enumerate() {
            let just_exited = model.apply(step, &mut table);
            if count % 16 == 0 || count + 1 == steps.len() {
                // A group was set without an event: then the process that ended before is still there.
                if !matches!(step, Step::Group(_)) {
                    model.check(&table, just_exited);
                }
            }
        }
    }

    #[test]
    fn hostile_events_cannot_break_it(
        limit in 0..12usize,
        steps in proptest::collection::vec(
            (proptest::sample::select(&EventKind::ALL[..6]), hostile_key(), hostile_key(), hostile_key(), 0..6u8,
                prop_oneof![Just(0), 1..20u64, Just(LATE_EVENT_TIME)]), 1..300),
    ) {
        let mut table = ProcessTable::new(limit);
        for (kind, process, parent, creator, extra, time) in steps {
            let mut event = event(kind, process, parent);
            event.since_boot = time;
            match extra {
                0 => {}
                1 => drop(event.set_text(Field::ProgramName, b"/bin/sh")),
                2 => event.creator = creator,
                3 => table.begin_repair(),
                4 => _ = table.finish_repair(),
                _ => drop(table.set_alert_group(parent, Uuid::from_u128(1))),
            }
            table.observe(&event);
            table.enrich(&mut event);
            table.forest.assert_sound();
            prop_assert!(table.lineage(process).count() <= MAX_ANCESTORS);
            prop_assert!(table.len() <= limit.max(2));
        }
    }
}

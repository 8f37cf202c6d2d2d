//! Events that never come, and a pass over all processes after that.

use std::collections::BTreeMap;

use super::*;

#[test]
fn a_pass_ends_finds_and_corrects() {
    let mut table = table(100);
    let [shell, gone, changed, stranger] = [key(10, 100), key(11, 110), key(12, 120), key(13, 130)];
    for process in [shell, gone, changed] {
        table.observe(&named(EventKind::Exec, process, if process == shell { INIT } else { shell }, "/bin/sh"));
    }
    table.set_alert_group(shell, Uuid::from_u128(5));
    table.begin_repair();
    table.observe(&named(EventKind::Baseline, INIT, NONE, "/sbin/init"));
    table.observe(&named(EventKind::Baseline, shell, INIT, "/bin/sh"));
    table.observe(&named(EventKind::Baseline, changed, shell, "/bin/changed"));
    table.observe(&named(EventKind::Baseline, stranger, shell, "/bin/stranger"));
    // Born meanwhile, where the pass has already been.
    let newborn = key(9, 140);
    table.observe(&event(EventKind::Fork, newborn, changed));
    let repair = table.finish_repair();
    assert_eq!((repair.ended, repair.found, repair.corrected), (1, 1, 1));
    assert!(table.process(gone).unwrap().exited());
    assert!(!table.process(newborn).unwrap().exited());
    assert_eq!(programs(&table, newborn), ["/bin/changed", "/bin/sh", "/sbin/init"]);
    assert_eq!(programs(&table, stranger), ["/bin/sh", "/sbin/init"]);
    assert_eq!(table.alert_group(stranger), Some(Uuid::from_u128(5)));
    assert_eq!(table.finish_repair(), ProcessRepair::default());
    table.forest.assert_sound();
}

#[test]
fn a_pass_that_is_given_up_ends_nothing() {
    let mut table = table(100);
    table.observe(&named(EventKind::Exec, key(10, 100), INIT, "/bin/sh"));
    table.begin_repair();
    table.abandon_repair();
    assert_eq!(table.finish_repair().ended, 0);
    assert!(!table.process(key(10, 100)).unwrap().exited());
}

#[test]
fn what_the_exec_told_outweighs_what_can_be_read_later() {
    let mut table = table(100);
    let process = key(10, 100);
    let mut exec = named(EventKind::Exec, process, INIT, "/usr/bin/python3");
    exec.set_arguments([&b"python3"[..], b"evil.py"]).set_text(Field::ScriptName, b"/tmp/evil.py");
    exec.set_number(Field::ProgramInode, 7).set_number(Field::ProgramDevice, 8).set_number(Field::Uid, 1000);
    table.observe(&exec);
    let mut found = named(EventKind::Baseline, process, INIT, "/usr/bin/renamed");
    found.set_arguments([&b"[kworker]"[..]]).set_text(Field::ProgramDirectory, b"/tmp");
    found.set_number(Field::ProgramInode, 7).set_number(Field::ProgramDevice, 8).set_number(Field::Uid, 0);
    table.begin_repair();
    table.observe(&found);
    assert_eq!(table.finish_repair().corrected, 0);
    let record = table.process(process).unwrap();
    assert_eq!(record.arguments().collect::<Vec<_>>(), [&b"python3"[..], b"evil.py"]);
    assert_eq!((record.program_name(), record.script_name()), (&b"/usr/bin/python3"[..], &b"/tmp/evil.py"[..]));
    // These change without an exec.
    assert_eq!((record.uid(), record.working_directory()), (Some(0), &b"/tmp"[..]));

    // Another file is another program, with nothing of the one before.
    found.set_number(Field::ProgramInode, 9);
    table.observe(&found);
    let record = table.process(process).unwrap();
    assert_eq!((record.program_name(), record.script_name()), (&b"/usr/bin/renamed"[..], &b""[..]));
    assert_eq!(record.arguments().collect::<Vec<_>>(), [&b"[kworker]"[..]]);
    // What could not be read changes nothing.
    let mut unknown = event(EventKind::Baseline, process, INIT);
    unknown.mark_unknown(Field::ProgramName).mark_unknown(Field::ProgramArguments);
    table.observe(&unknown);
    assert_eq!(table.process(process).unwrap().program_name(), b"/usr/bin/renamed");
}

#[test]
fn events_from_before_a_program_was_found_are_in_doubt() {
    let mut table = table(100);
    let process = key(10, 100);
    let at = |mut event: Event, time| {
        event.since_boot = time;
        event
    };
    let program_at = |table: &ProcessTable, time| {
        let mut event = at(event(EventKind::File, process, NONE), time);
        table.enrich(&mut event);
        event.text(Field::ProgramName).to_vec()
    };
    table.observe(&at(named(EventKind::Exec, process, INIT, "/bin/a"), 100));
    table.begin_repair();
    table.observe(&at(named(EventKind::Baseline, process, INIT, "/bin/b"), 300));
    assert_eq!(table.finish_repair().corrected, 1);
    assert_eq!((program_at(&table, 200), program_at(&table, 300)), (Vec::new(), b"/bin/b".to_vec()));
    // It was not lost, but late.
    table.observe(&at(named(EventKind::Exec, process, INIT, "/bin/b"), 200));
    assert_eq!((program_at(&table, 150), program_at(&table, 250)), (Vec::new(), b"/bin/b".to_vec()));
}

#[test]
fn many_that_have_ended_leave_a_few_at_a_time() {
    const COUNT: u32 = 5000;
    let mut table = table(10_000);
    for pid in 10..10 + COUNT {
        table.observe(&event(EventKind::Fork, key(pid, pid.into()), INIT));
    }
    table.begin_repair();
    table.observe(&named(EventKind::Baseline, INIT, NONE, "/sbin/init"));
    assert_eq!(table.finish_repair().ended, COUNT as usize);
    assert_eq!(table.descendants(INIT).count(), 0);
    let mut events = 0;
    while table.len() > 1 {
        let before = table.len();
        table.observe(&event(EventKind::File, INIT, NONE));
        events += 1;
        assert!(before - table.len() <= 8);
    }
    assert!(events >= COUNT / 8, "{events}");
    table.forest.assert_sound();
}

#[derive(Clone, Debug)]
enum Change {
    Fork(Index),
    Exec(Index),
    Exit(Index),
}

fn changes() -> impl Strategy<Value = Vec<(Change, bool)>> {
    let change = prop_oneof![
        4 => any::<Index>().prop_map(Change::Fork),
        3 => any::<Index>().prop_map(Change::Exec),
        3 => any::<Index>().prop_map(Change::Exit),
    ];
    proptest::collection::vec((change, any::<bool>()), 0..120)
}

struct Real {
    key: ProcessKey,
    creator: usize,
    program: String,
    alive: bool,
    /// Whether the fork was told.
    told: bool,
}

/// What really runs.
struct Reality {
    processes: Vec<Real>,
    time: u64,
}

impl Reality {
    fn new() -> Self {
        let init = Real { key: INIT, creator: 0, program: "/sbin/init".into(), alive: true, told: false };
        Self { processes: vec![init], time: 1 }
    }

    /// After an adoption, init.
    fn parent(&self, process: &Real) -> ProcessKey {
        match &self.processes[process.creator] {
            _ if process.key == INIT => NONE,
            creator if creator.alive => creator.key,
            _ => INIT,
        }
    }

    /// Makes a change, and gives its event.
    fn apply(&mut self, change: &Change, told: bool) -> Option<Event> {
        self.time += 1;
        let time = self.time;
        let alive: Vec<_> = (0..self.processes.len()).filter(|at| self.processes[*at].alive).collect();
        let mut event = match change {
            Change::Fork(from) => {
                let creator = *from.get(&alive);
                // A small set of pids, so that they are used again.
                let taken = |pid| alive.iter().any(|at| self.processes[*at].key.pid == pid);
                let pid = (2..).find(|pid| !taken(*pid))?;
                let process = key(pid, time);
                let program = self.processes[creator].program.clone();
                self.processes.push(Real { key: process, creator, program, alive: true, told });
                event(EventKind::Fork, process, self.processes[creator].key)
            }
            Change::Exec(of) => {
                let at = *of.get(&alive);
                self.processes[at].program = format!("/bin/{time}");
                let real = &self.processes[at];
                named(EventKind::Exec, real.key, self.parent(real), &real.program)
            }
            Change::Exit(of) => {
                let at = *of.get(&alive);
                if at == 0 {
                    return None;
                }
                self.processes[at].alive = false;
                event(EventKind::Exit, self.processes[at].key, NONE)
            }
        };
        event.since_boot = time;
        Some(event)
    }

    fn baseline(&mut self, at: usize) -> Option<Event> {
        self.time += 1;
        let real = self.processes.get(at).filter(|real| real.alive)?;
        let mut event = named(EventKind::Baseline, real.key, self.parent(real), &real.program);
        event.since_boot = self.time;
        Some(event)
    }

    fn living(&self) -> BTreeMap<ProcessKey, String> {
        let living = self.processes.iter().filter(|real| real.alive);
        living.map(|real| (real.key, real.program.clone())).collect()
    }
}

fn living(table: &ProcessTable) -> BTreeMap<ProcessKey, String> {
    let living = table.processes().filter(|record| !record.exited());
    living.map(|record| (record.key(), String::from_utf8_lossy(record.program_name()).into_owned())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn after_any_loss_a_pass_makes_the_table_what_runs(
        before in changes(),
        during in changes(),
        ordered in any::<bool>(),
    ) {
        let mut table = table(10_000);
        let mut reality = Reality::new();
        let tell = |table: &mut ProcessTable, event: Option<Event>| {
            if let Some(mut event) = event {
                event.since_boot = if ordered { 0 } else { event.since_boot };
                table.observe(&event);
            }
        };
        for (change, told) in &before {
            let event = reality.apply(change, *told);
            tell(&mut table, event.filter(|_| *told));
        }
        table.begin_repair();
        let begun = reality.time;
        // What is born during the pass may come where it has been already.
        let mut changes = during.iter();
        for at in 0..reality.processes.len() {
            let event = reality.baseline(at);
            tell(&mut table, event);
            let event = changes.next().and_then(|(change, _)| reality.apply(change, true));
            tell(&mut table, event);
        }
        table.finish_repair();
        table.forest.assert_sound();
        let (found, mut expected) = (living(&table), reality.living());
        // Who was born during the pass, of a parent where it had not been yet, may have taken over what was wrong of it.
        for real in reality.processes.iter().filter(|real| real.key.start > begun && real.alive) {
            expected.insert(real.key, found.get(&real.key).cloned().unwrap_or_else(|| "missing".into()));
        }
        prop_assert_eq!(found, expected);
        // The next makes up for that.
        table.begin_repair();
        for at in 0..reality.processes.len() {
            let event = reality.baseline(at);
            tell(&mut table, event);
        }
        table.finish_repair();
        prop_assert_eq!(living(&table), reality.living());
        for real in reality.processes.iter().filter(|real| real.alive && real.told) {
            let creator = &reality.processes[real.creator];
            let parent = table.lineage(real.key).next().map(ProcessRecord::key);
            prop_assert_eq!(parent, Some(creator.key), "{} has lost its origin", real.key);
        }
        for (change, _) in changes {
            let event = reality.apply(change, true);
            tell(&mut table, event);
        }
        prop_assert_eq!(living(&table), reality.living());
        table.forest.assert_sound();
    }
}

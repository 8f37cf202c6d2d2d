//! Events that come after later ones.

use super::*;

fn at(mut event: Event, time: u64) -> Event {
    event.since_boot = time;
    event
}

fn program_at(table: &ProcessTable, process: ProcessKey, time: u64) -> String {
    let mut event = at(event(EventKind::File, process, NONE), time);
    table.enrich(&mut event);
    match event.value(Field::ProgramName) {
        Value::Text { bytes, .. } => String::from_utf8_lossy(bytes).into_owned(),
        value => format!("{value:?}"),
    }
}

const SHELL: ProcessKey = ProcessKey { pid: 10, start: 100 };
const CHILD: ProcessKey = ProcessKey { pid: 11, start: 110 };

#[test]
fn an_event_belongs_to_the_program_that_ran_when_it_happened() {
    let mut table = table(10);
    table.observe(&at(named(EventKind::Exec, SHELL, INIT, "/bin/sh"), 105));
    table.observe(&at(event(EventKind::Fork, CHILD, SHELL), 110));
    assert_eq!(program_at(&table, CHILD, 111), "/bin/sh");
    table.observe(&at(named(EventKind::Exec, CHILD, SHELL, "/bin/first"), 200));
    for (time, program) in [(111, "/bin/sh"), (199, "/bin/sh"), (200, "/bin/first"), (0, "/bin/first")] {
        assert_eq!(program_at(&table, CHILD, time), program, "{time}");
    }
    table.observe(&at(named(EventKind::Exec, CHILD, SHELL, "/bin/second"), 300));
    for (time, program) in [(111, "Unknown"), (199, "Unknown"), (299, "/bin/first"), (301, "/bin/second")] {
        assert_eq!(program_at(&table, CHILD, time), program, "{time}");
    }
    // What a late event says of its process is not what is so now.
    let mut late = at(event(EventKind::File, CHILD, INIT), 250);
    late.set_number(Field::Uid, 7);
    table.observe(&late);
    let record = table.process(CHILD).unwrap();
    assert_eq!((record.uid(), record.parent(), record.program_name()), (None, SHELL, &b"/bin/second"[..]));
    table.forest.assert_sound();
}

#[test]
fn parents_and_ancestors_are_what_they_were() {
    let mut table = table(10);
    table.observe(&at(named(EventKind::Exec, SHELL, INIT, "/bin/sh"), 105));
    table.observe(&at(event(EventKind::Fork, CHILD, SHELL), 110));
    table.observe(&at(named(EventKind::Exec, SHELL, INIT, "/bin/other"), 200));
    let lineage_at = |time| {
        let mut event = at(event(EventKind::File, CHILD, NONE), time);
        table.enrich(&mut event);
        let parent = String::from_utf8_lossy(event.text(Field::ParentProgramName)).into_owned();
        (parent, ancestors(&event).0)
    };
    assert_eq!(lineage_at(150), ("/bin/sh".to_owned(), vec!["/bin/sh".to_owned(), "/sbin/init".to_owned()]));
    assert_eq!(lineage_at(250).0, "/bin/other");
}

#[test]
fn who_has_ended_is_known_for_a_while_and_does_not_come_back() {
    let mut table = table(100);
    table.observe(&at(named(EventKind::Exec, SHELL, INIT, "/bin/sh"), 105));
    table.observe(&at(event(EventKind::Fork, CHILD, SHELL), 110));
    table.observe(&at(event(EventKind::Exit, CHILD, SHELL), 200));
    table.observe(&at(event(EventKind::Exit, SHELL, INIT), 210));
    // The pid is used again, and another process ends.
    let other = key(10, 220);
    table.observe(&at(named(EventKind::Exec, other, INIT, "/bin/other"), 230));
    let mut late = at(event(EventKind::File, CHILD, NONE), 190);
    late.set_text(Field::FilePath, b"/x");
    table.enrich(&mut late);
    assert_eq!((late.text(Field::ProgramName), late.parent), (&b"/bin/sh"[..], SHELL));
    assert_eq!(ancestors(&late).0, ["/bin/sh", "/sbin/init"]);
    table.observe(&late);
    assert!(table.process(CHILD).unwrap().exited());
    assert_eq!(table.descendants(SHELL).count(), 0);
    table.forest.assert_sound();
    table.observe(&at(event(EventKind::File, INIT, NONE), 210 + LATE_EVENT_TIME));
    assert!(table.process(CHILD).is_none() && table.process(SHELL).is_none());
    assert_eq!((table.len(), table.evicted()), (2, 0));
    table.forest.assert_sound();
}

#[test]
fn who_has_ended_takes_no_room_from_who_lives() {
    let mut table = table(64);
    for pid in 10..1000 {
        table.observe(&at(event(EventKind::Fork, key(pid, pid.into()), INIT), pid.into()));
        table.observe(&at(event(EventKind::Exit, key(pid, pid.into()), INIT), pid.into()));
        assert!(table.len() <= 64 / 8 + 2, "{}", table.len());
    }
    for pid in 1000..1063 {
        table.observe(&at(event(EventKind::Fork, key(pid, pid.into()), INIT), pid.into()));
    }
    assert_eq!((table.len(), table.evicted()), (64, 0));
    table.forest.assert_sound();
}

#[test]
fn a_snapshot_does_not_speak_of_what_was_before() {
    let mut table = table(10);
    // Two execs had happened when the snapshot was made. Their events come after it.
    table.observe(&at(named(EventKind::Baseline, CHILD, SHELL, "/bin/second"), 300));
    table.observe(&at(named(EventKind::Exec, CHILD, SHELL, "/bin/first"), 200));
    assert_eq!(program_at(&table, CHILD, 150), "Unknown");
    table.observe(&at(named(EventKind::Exec, CHILD, SHELL, "/bin/second"), 250));
    for (time, program) in [(150, "Unknown"), (220, "/bin/first"), (260, "/bin/second")] {
        assert_eq!(program_at(&table, CHILD, time), program, "{time}");
    }
    // A snapshot that was made before an exec and comes after it.
    table.observe(&at(named(EventKind::Exec, SHELL, INIT, "/bin/new"), 400));
    table.observe(&at(named(EventKind::Baseline, SHELL, INIT, "/bin/old"), 390));
    assert_eq!(table.process(SHELL).unwrap().program_name(), b"/bin/new");
    assert_eq!(program_at(&table, SHELL, 395), "/bin/old");
}

/// One process that executes, with what it does in between: each act comes some execs late.
fn history() -> impl Strategy<Value = Vec<(bool, usize)>> {
    proptest::collection::vec((any::<bool>(), 0..4usize), 1..60)
}

proptest! {
    #[test]
    fn no_event_is_ever_told_of_another_program(history in history()) {
        let mut table = table(100);
        let mut execs = vec![(100, "Unknown".to_owned())];
        // When each is due, when it happened, and which exec was the last then.
        let mut acts: Vec<(usize, u64, usize)> = Vec::new();
        table.observe(&at(event(EventKind::Fork, CHILD, SHELL), 100));
        for (step, (executes, delay)) in history.into_iter().enumerate() {
            let time = 200 + step as u64;
            if executes {
                execs.push((time, format!("/bin/{step}")));
                table.observe(&at(named(EventKind::Exec, CHILD, SHELL, &execs[execs.len() - 1].1), time));
            } else {
                acts.push((execs.len() - 1 + delay, time, execs.len() - 1));
            }
            let now = execs.len() - 1;
            for (_, time, exec) in acts.extract_if(.., |(due, ..)| *due <= now) {
                let found = program_at(&table, CHILD, time);
                if now - exec <= 1 {
                    prop_assert_eq!(&found, &execs[exec].1);
                } else {
                    prop_assert_eq!(&found, "Unknown");
                }
                table.observe(&at(event(EventKind::File, CHILD, SHELL), time));
            }
            table.forest.assert_sound();
        }
    }
}

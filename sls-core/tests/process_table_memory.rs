//! What the process table allocates, counted by an allocator of its own.

mod support;

use sls_core::{
    DEFAULT_PROCESS_LIMIT, Event, EventKind, Field, MAX_STORED_BYTES, ProcessKey, ProcessTable, SPARE_STORED_TEXT,
    Value,
};

use support::{ALLOCATIONS, BYTES};

fn key(pid: u32) -> ProcessKey {
    ProcessKey { pid, start: u64::from(pid) * 1000 }
}

/// A table with a line of `count` shells, each the parent of the next.
fn line(limit: usize, count: u32) -> ProcessTable {
    let mut table = ProcessTable::new(limit);
    let mut event = Event::new(EventKind::Exec);
    for pid in 1..=count {
        event.reset(EventKind::Exec);
        event.process = key(pid);
        if pid > 1 {
            event.parent = key(pid - 1);
        }
        event.set_text(Field::ProgramName, b"/usr/bin/bash").set_arguments([&b"bash"[..], b"-c", b"sleep 1"]);
        table.observe(&event);
    }
    table
}

#[test]
fn enriching_allocates_nothing_once_warm() {
    let table = line(1000, 100);
    let mut event = Event::new(EventKind::File);
    let mut fill = || {
        let before = ALLOCATIONS.get();
        event.reset(EventKind::File);
        event.process = key(100);
        table.enrich(&mut event);
        let Value::Many { items, truncated: true } = event.value(Field::Lineage) else { panic!("no lineage") };
        assert_eq!(items.iter().count(), sls_core::MAX_ANCESTORS);
        ALLOCATIONS.get() - before
    };
    assert!(fill() > 0, "the counter counts");
    assert_eq!(fill(), 0);
}

#[test]
fn forks_share_what_their_parent_runs() {
    let mut table = line(100_000, 2);
    let mut event = Event::new(EventKind::Fork);
    let before = (ALLOCATIONS.get(), BYTES.get());
    const CHILDREN: u32 = 30_000;
    for pid in 3..3 + CHILDREN {
        (event.process, event.parent) = (key(pid), key(2));
        table.observe(&event);
    }
    let allocations = ALLOCATIONS.get() - before.0;
    let bytes = (BYTES.get() - before.1) / CHILDREN as isize;
    println!("{allocations} allocations, {bytes} bytes a process");
    assert_eq!(table.process(key(3 + CHILDREN - 1)).map(|record| record.program_name()), Some(&b"/usr/bin/bash"[..]));
    // Only the table itself grows, in doublings.
    assert!(allocations < 100, "{allocations} allocations");
    assert!(bytes < 256, "{bytes} bytes a process");
}

#[test]
fn what_has_left_leaves_no_memory_behind() {
    let mut table = line(1000, 1);
    let mut event = Event::new(EventKind::Exec);
    let mut round = |first: u32| {
        for pid in first..first + 500 {
            event.reset(EventKind::Exec);
            (event.process, event.parent) = (key(pid), key(1));
            event.set_text(Field::ProgramName, b"/bin/true");
            table.observe(&event);
        }
        for pid in first..first + 500 {
            event.reset(EventKind::Exit);
            event.process = key(pid);
            table.observe(&event);
        }
        event.reset(EventKind::File);
        event.process = key(1);
        table.observe(&event);
        assert_eq!(table.len(), 1);
        BYTES.get()
    };
    let warm = round(10);
    for turn in 1..20 {
        assert_eq!(round(10 + turn * 500), warm);
    }
}

/// Processes with long arguments cannot fill the memory: the texts are cut once there are many, and marked so.
#[test]
fn long_arguments_of_many_processes_are_bounded() {
    let mut table = ProcessTable::default();
    let mut event = Event::new(EventKind::Exec);
    let mut texts = 0;
    for pid in 2..DEFAULT_PROCESS_LIMIT as u32 {
        event.reset(EventKind::Exec);
        event.process = ProcessKey { pid, start: u64::from(pid) };
        let argument = format!("{pid} {}", "x".repeat(4000));
        for field in [Field::ProgramName, Field::InvokedName, Field::ProgramDirectory] {
            event.set_text(field, argument.as_bytes());
        }
        event.set_arguments([argument.as_bytes()]);
        table.observe(&event);
    }
    let mut cut = 0;
    for process in table.processes() {
        texts += process.program_name().len() + process.invoked_name().len() + process.working_directory().len();
        texts += process.arguments().map(<[u8]>::len).sum::<usize>();
        cut += usize::from(matches!(process.value(Field::ProgramName), Value::Text { truncated: true, .. }));
    }
    let spare = DEFAULT_PROCESS_LIMIT * 4 * SPARE_STORED_TEXT;
    assert!(texts < MAX_STORED_BYTES + spare + 64 * 1024, "{texts} bytes");
    assert!(cut > DEFAULT_PROCESS_LIMIT / 2 && cut < DEFAULT_PROCESS_LIMIT - 1000, "{cut} cut");
}

//! A table that keeps less, bit by bit.

use std::collections::HashMap;
use std::sync::Arc;

use super::image::ProcessImage;
use super::{MIN_PROCESS_LIMIT, ProcessTable};
use crate::governor::Retention;

/// Texts that are being cut, slot by slot.
#[derive(Debug, Default)]
pub(super) struct Shortening {
    next: usize,
    /// What shared images have become, by their address: it stays theirs, as they are held here.
    shared: HashMap<usize, (Arc<ProcessImage>, Arc<ProcessImage>)>,
}

impl ProcessTable {
    /// Keeps so much from now on. What is too much goes with [`ProcessTable::shrink`], and as other processes come.
    pub(crate) fn retain(&mut self, retention: Retention) {
        let short = retention >= Retention::ShortTexts;
        self.forest.unknown_image().keep_short(short);
        if !short {
            self.shortening = None;
        } else if self.shortening.is_none() {
            self.shortening = Some(Shortening::default());
        }
        self.forest.set_limit(match retention {
            Retention::Full | Retention::ShortTexts => self.full_limit,
            Retention::FewProcesses | Retention::LittleHistory => {
                (self.full_limit / 4).max(MIN_PROCESS_LIMIT).min(self.full_limit)
            }
        });
    }

    /// Lets go of what is too much in at most about `steps` steps; whether there is more.
    pub(crate) fn shrink(&mut self, steps: usize) -> bool {
        self.shorten(steps) | self.forest.shrink(steps)
    }

    fn shorten(&mut self, steps: usize) -> bool {
        let Some(shortening) = &mut self.shortening else { return false };
        let end = shortening.next.saturating_add(steps).min(self.forest.slots());
        for slot in shortening.next..end {
            if self.forest.is_vacant(slot) {
                continue;
            }
            let index = slot as u32;
            if let Some(image) = shortening.of(&self.forest[index].image) {
                self.forest.set_image(index, image);
            }
        }
        shortening.next = end;
        if end == self.forest.slots() {
            // What comes later is short. The pass begins again only when memory had become plentiful.
            shortening.shared = HashMap::new();
            return false;
        }
        true
    }
}

impl Shortening {
    /// What becomes of `image`; none if it stays.
    fn of(&mut self, image: &Arc<ProcessImage>) -> Option<Arc<ProcessImage>> {
        let address = Arc::as_ptr(image) as usize;
        if let Some((_, short)) = self.shared.get(&address) {
            return Some(short.clone());
        }
        let short = Arc::new(image.shortened()?);
        if Arc::strong_count(image) > 1 {
            self.shared.insert(address, (image.clone(), short.clone()));
        }
        Some(short)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, EventKind, ProcessKey, Value};
    use crate::process_table::SPARE_STORED_TEXT;
    use crate::schema::Field;

    fn key(pid: u32) -> ProcessKey {
        ProcessKey { pid, start: u64::from(pid) * 1000 }
    }

    /// A process with long arguments, and a child that shares them, each time.
    fn table(processes: u32, limit: usize) -> ProcessTable {
        let mut table = ProcessTable::new(limit);
        let mut event = Event::new(EventKind::Exec);
        for pid in (10..10 + 2 * processes).step_by(2) {
            event.reset(EventKind::Exec);
            event.process = key(pid);
            event.set_text(Field::ProgramName, b"/usr/bin/env").set_arguments([&b"env"[..], &[b'x'; 3000]]);
            table.observe(&event);
            event.reset(EventKind::Fork);
            (event.process, event.parent) = (key(pid + 1), key(pid));
            table.observe(&event);
        }
        table
    }

    #[test]
    fn short_texts_are_cut_marked_and_still_shared() {
        let mut table = table(100, 1000);
        let before = table.stored_bytes();
        table.retain(Retention::ShortTexts);
        let rounds = (1..).find(|_| !table.shrink(30)).unwrap();
        assert_eq!(rounds, 7);
        assert!(table.stored_bytes() < before / 10, "{} of {before}", table.stored_bytes());
        assert!(table.stored_bytes() < 100 * 2 * SPARE_STORED_TEXT, "children have copies of their own");
        assert_eq!((table.texts_cut(), table.len(), table.evicted()), (100, 200, 0));
        let mut event = Event::new(EventKind::File);
        event.process = key(11);
        table.enrich(&mut event);
        let Value::Text { bytes, truncated: true } = event.value(Field::ProgramArguments) else {
            panic!("{:?}", event.value(Field::ProgramArguments))
        };
        assert_eq!((bytes.len(), &bytes[..6]), (SPARE_STORED_TEXT, &b"env xx"[..]));
        assert_eq!(event.text(Field::ProgramName), b"/usr/bin/env");
    }

    #[test]
    fn new_texts_are_short_until_there_is_room_again() {
        let mut table = table(1, 1000);
        let arguments = |table: &mut ProcessTable, pid| {
            let mut event = Event::new(EventKind::Exec);
            event.process = key(pid);
            event.set_arguments([&[b'x'; 3000][..]]);
            table.observe(&event);
            table.process(key(pid)).unwrap().arguments().map(<[u8]>::len).sum::<usize>()
        };
        table.retain(Retention::LittleHistory);
        assert_eq!(arguments(&mut table, 500), SPARE_STORED_TEXT);
        assert_eq!(table.texts_cut(), 1);
        table.retain(Retention::Full);
        assert_eq!(arguments(&mut table, 501), 3000);
        assert!(!table.shrink(1000));
    }

    #[test]
    fn a_lower_limit_is_reached_bit_by_bit() {
        let mut table = table(5000, 10_000);
        table.retain(Retention::FewProcesses);
        assert_eq!(table.limit(), MIN_PROCESS_LIMIT);
        assert!(table.shrink(100));
        assert_eq!(table.evicted(), 100);
        // One more than comes.
        let mut event = Event::new(EventKind::Exec);
        event.process = key(50_000);
        let before = table.len();
        table.observe(&event);
        assert_eq!(table.len(), before - 1);
        while table.shrink(1000) {}
        assert_eq!(table.len(), MIN_PROCESS_LIMIT);
        table.forest.assert_sound();
        table.retain(Retention::Full);
        assert_eq!(table.limit(), 10_000);
    }

    #[test]
    fn a_small_table_stays_as_it_is() {
        let mut table = ProcessTable::new(100);
        table.retain(Retention::FewProcesses);
        assert_eq!(table.limit(), 100);
    }

    #[test]
    fn ended_processes_that_leave_before_their_time_are_counted() {
        // An eighth of the table stays.
        let mut table = ProcessTable::new(80);
        let mut event = Event::new(EventKind::Exec);
        for pid in 10..30 {
            event.reset(EventKind::Exec);
            (event.process, event.since_boot) = (key(pid), 1_000_000);
            table.observe(&event);
            event.reset(EventKind::Exit);
            (event.process, event.since_boot) = (key(pid), 1_000_001);
            table.observe(&event);
        }
        let (left, early) = (table.len() as u64, table.left_early());
        assert!(early > 0 && left + early == 20, "{left} are left, {early} left early");
        table.forest.assert_sound();
    }
}

//! When the process table is put right after losses, and by whom.

use crate::event::EventKind;
use crate::plugin::{BoxError, EventSource};
use crate::process_table::{ProcessRepair, ProcessTable};

/// How long after the begin of one repair of the process table the next begins at the earliest, in nanoseconds: 5 seconds.
pub const REPAIR_INTERVAL: u64 = 5_000_000_000;

/// How many passes a loss is followed by. What is born during the first takes over what is still wrong of its parent.
const PASSES: u8 = 2;

/// Passes over all processes, as many as are needed and as often as they may be.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Repairs {
    wanted: u8,
    under_way: bool,
    begun: Option<u64>,
}

impl Repairs {
    /// Events of `kind` were lost.
    pub(super) fn note(&mut self, kind: EventKind) {
        // Those that keep the table.
        if matches!(
            kind,
            EventKind::Exec | EventKind::Fork | EventKind::Exit | EventKind::Crash | EventKind::Credentials
        ) {
            self.wanted = PASSES;
        }
    }

    /// Takes the next step, if there is one at `time`.
    pub(super) fn step(
        &mut self,
        processes: &mut ProcessTable,
        source: &mut dyn EventSource,
        time: u64,
    ) -> Result<Option<ProcessRepair>, BoxError> {
        if self.under_way {
            return match source.reread_done() {
                Ok(false) => Ok(None),
                Ok(true) => {
                    self.under_way = false;
                    Ok(Some(processes.finish_repair()))
                }
                Err(error) => {
                    self.give_up(processes);
                    Err(error)
                }
            };
        }
        // A clock that was set back holds nothing up.
        let waits = |begun: u64| time >= begun && time - begun < REPAIR_INTERVAL;
        if self.wanted == 0 || self.begun.is_some_and(waits) {
            return Ok(None);
        }
        self.begun = Some(time);
        self.wanted -= 1;
        processes.begin_repair();
        match source.reread_processes() {
            Ok(true) => self.under_way = true,
            // It never can.
            Ok(false) => {
                self.give_up(processes);
                self.wanted = 0;
            }
            Err(error) => {
                self.give_up(processes);
                return Err(error);
            }
        }
        Ok(None)
    }

    /// Another pass has to do what this one did not.
    fn give_up(&mut self, processes: &mut ProcessTable) {
        processes.abandon_repair();
        self.under_way = false;
        self.wanted = (self.wanted + 1).min(PASSES);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::event::{Event, ProcessKey};
    use crate::plugin::SourceStatus;
    use crate::schema::FieldSet;

    /// A source whose pass takes as many polls as there are processes.
    #[derive(Debug, Default)]
    struct Source {
        processes: Vec<ProcessKey>,
        left: Vec<ProcessKey>,
        passes: usize,
        able: bool,
        broken: bool,
    }

    impl EventSource for Source {
        fn poll(&mut self, _: Duration, handle: &mut dyn FnMut(&mut Event)) -> Result<SourceStatus, BoxError> {
            if let Some(process) = self.left.pop() {
                let mut event = Event::new(EventKind::Baseline);
                event.process = process;
                handle(&mut event);
            }
            Ok(SourceStatus::Open)
        }

        fn provides(&self, _: EventKind) -> FieldSet {
            FieldSet::EMPTY
        }

        fn reread_processes(&mut self) -> Result<bool, BoxError> {
            self.passes += 1;
            self.left.clone_from(&self.processes);
            Ok(self.able)
        }

        fn reread_done(&mut self) -> Result<bool, BoxError> {
            if self.broken { Err("broken".into()) } else { Ok(self.left.is_empty()) }
        }
    }

    fn key(pid: u32) -> ProcessKey {
        ProcessKey { pid, start: pid.into() }
    }

    struct Host {
        repairs: Repairs,
        table: ProcessTable,
        source: Source,
    }

    impl Host {
        fn new(able: bool) -> Self {
            let source = Source { processes: vec![key(1), key(2)], able, ..Source::default() };
            Self { repairs: Repairs::default(), table: ProcessTable::default(), source }
        }

        fn second(&mut self, second: u64) -> Result<Option<ProcessRepair>, BoxError> {
            let Self { repairs, table, source } = self;
            source.poll(Duration::ZERO, &mut |event| table.observe(event)).unwrap();
            repairs.step(table, source, second * 1_000_000_000)
        }
    }

    #[test]
    fn a_loss_is_followed_by_two_passes_and_many_by_no_more_than_fit() {
        let mut host = Host::new(true);
        for second in 0..10 {
            assert_eq!(host.second(second).unwrap(), None);
        }
        assert_eq!(host.source.passes, 0, "nothing was lost");
        let mut repairs = Vec::new();
        for second in 10..60 {
            if second < 30 {
                host.repairs.note(EventKind::Fork);
            }
            host.repairs.note(EventKind::File);
            if let Some(repair) = host.second(second).unwrap() {
                repairs.push((second, repair.found));
            }
        }
        assert_eq!(repairs, [(12, 2), (17, 0), (22, 0), (27, 0), (32, 0), (37, 0)]);
        assert_eq!(host.source.passes, 6);
    }

    #[test]
    fn a_source_that_cannot_is_asked_once_and_one_that_fails_again() {
        let mut host = Host::new(false);
        host.repairs.note(EventKind::Exec);
        for second in 1..20 {
            assert_eq!(host.second(second).unwrap(), None);
        }
        assert_eq!(host.source.passes, 1);

        let mut host = Host::new(true);
        host.source.broken = true;
        host.repairs.note(EventKind::Exec);
        let failures = (0..20).filter(|second| host.second(*second).is_err()).count();
        assert_eq!(failures, 4);
        host.source.broken = false;
        assert_eq!((20..40).filter(|second| host.second(*second).unwrap().is_some()).count(), 2);
    }
}

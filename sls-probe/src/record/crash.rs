//! Crashes: what the ends of processes say of them.

use sls_core::{Event, EventKind, Field};

/// The signals that end a program that did something wrong. Their numbers are the same on x86_64 and arm64.
const SIGNALS: [(u32, &str); 5] = [(11, "SIGSEGV"), (6, "SIGABRT"), (4, "SIGILL"), (7, "SIGBUS"), (8, "SIGFPE")];

/// The bits of a wait status that hold the signal which ended the process.
const SIGNAL_MASK: u32 = 0x7f;

/// The signal of the crash that an `exit` event tells of.
pub(crate) fn signal(exit: &Event) -> Option<&'static str> {
    let ended_by = exit.exit_status? & SIGNAL_MASK;
    SIGNALS.iter().find(|(number, _)| *number == ended_by).map(|(_, name)| *name)
}

/// Makes the `exit` event of a process the event of its crash.
pub(crate) fn of_exit(event: &mut Event, signal: &str) {
    event.kind = EventKind::Crash;
    event.exit_status = None;
    event.set_text(Field::CrashSignal, signal.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(status: u32) -> Event {
        let mut event = Event::new(EventKind::Exit);
        event.exit_status = Some(status);
        event
    }

    #[test]
    fn crashes_are_told_from_other_ends() {
        assert_eq!(signal(&ended(11)), Some("SIGSEGV"));
        assert_eq!(signal(&ended(0x80 | 6)), Some("SIGABRT"), "with a core dump");
        for status in [0, 9, 15, 11 << 8, (128 + 11) << 8] {
            assert_eq!(signal(&ended(status)), None, "{status:#x}");
        }
        assert_eq!(signal(&Event::new(EventKind::Fork)), None);
        let mut event = ended(11);
        of_exit(&mut event, "SIGSEGV");
        assert_eq!((event.kind, event.exit_status), (EventKind::Crash, None));
        assert_eq!(event.text(Field::CrashSignal), b"SIGSEGV");
    }
}

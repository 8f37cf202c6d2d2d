//! What records say about processes that reach into others.

use sls_core::{Event, Field};

use super::path;
use super::{Body, Header, flag};

/// In the order of `enum ptrace_access` in `bpf/target.h`.
const ACCESSES: [&[u8]; 5] = [b"ATTACH", b"SEIZE", b"POKE", b"VM_WRITE", b"MEM_WRITE"];

pub(super) fn ptrace(header: &Header, body: &Body<'_>, event: &mut Event) {
    let (pid, access) = target(body.detail).unwrap_or((0, u32::MAX));
    match ACCESSES.get(access as usize) {
        Some(name) => event.set_text(Field::PtraceRequest, name),
        None => event.mark_unknown(Field::PtraceRequest),
    };
    if pid == 0 {
        event.mark_unknown(Field::TargetPid);
    } else {
        event.set_number(Field::TargetPid, pid.into());
    }
    if header.has(flag::PATH_UNKNOWN) {
        event.mark_unknown(Field::TargetProgramName);
    } else {
        path::set(Field::TargetProgramName, body.path, header.has(flag::PATH_CUT), event);
    }
}

/// Of `struct ptrace_detail`. The start of the target is for readers that need its identity; the event has no place for it.
fn target(detail: &[u8]) -> Option<(u32, u32)> {
    let (_start, rest) = detail.split_first_chunk::<8>()?;
    super::module::two_numbers(rest)
}

#[cfg(test)]
mod tests {
    use sls_core::{EventKind, Value};

    use super::super::{decode, tests};
    use super::*;

    fn decoded(flags: u16, pid: u32, access: u32, path: &[u8]) -> Event {
        let detail = [&77_u64.to_le_bytes()[..], &pid.to_le_bytes(), &access.to_le_bytes()].concat();
        let mut event = Event::new(EventKind::File);
        decode(&tests::detailed(8, flags, &detail, [path, b"", b"", b"", b""]), &mut event).unwrap();
        event
    }

    #[test]
    fn target_is_told() {
        let event = decoded(0, 4711, 4, b"sleep\0bin\0");
        assert_eq!(event.kind, EventKind::Ptrace);
        assert_eq!(event.text(Field::PtraceRequest), b"MEM_WRITE");
        assert_eq!(event.number(Field::TargetPid), Some(4711));
        assert_eq!(event.text(Field::TargetProgramName), b"/bin/sleep");
    }

    #[test]
    fn what_is_not_known_of_the_target_is_marked() {
        let event = decoded(flag::PATH_UNKNOWN, 0, 9, b"");
        for field in [Field::PtraceRequest, Field::TargetPid, Field::TargetProgramName] {
            assert_eq!(event.value(field), Value::Unknown);
        }
        let mut event = Event::new(EventKind::File);
        decode(&tests::detailed(8, 0, b"short", [b""; 5]), &mut event).unwrap();
        assert_eq!(event.value(Field::PtraceRequest), Value::Unknown);
    }
}

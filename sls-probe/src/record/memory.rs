//! What records say about memory.

use sls_core::{Event, Field};

use super::Body;

/// In the order of `enum region` in `bpf/memory.bpf.c`, which has one more for what is not known.
pub(crate) const REGIONS: [&str; 5] = ["HEAP", "STACK", "ANONYMOUS", "FILE", "MEMFD"];

pub(super) fn memory(body: &Body<'_>, event: &mut Event) {
    // `struct memory_detail`.
    let numbers = super::module::two_numbers(body.detail);
    match numbers.and_then(|(region, _)| REGIONS.get(region as usize)) {
        Some(name) => event.set_text(Field::MemoryRegion, name.as_bytes()),
        None => event.mark_unknown(Field::MemoryRegion),
    };
    match numbers {
        Some((_, writable)) => event.set_bool(Field::MemoryIsWritable, writable != 0),
        None => event.mark_unknown(Field::MemoryIsWritable),
    };
}

#[cfg(test)]
mod tests {
    use sls_core::{EventKind, Value};

    use super::super::{decode, tests};
    use super::*;

    fn decoded(detail: &[u8]) -> Event {
        let mut event = Event::new(EventKind::File);
        decode(&tests::detailed(9, 0, detail, [b""; 5]), &mut event).unwrap();
        event
    }

    #[test]
    fn region_is_told_or_unknown() {
        let event = decoded(&[4, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(event.kind, EventKind::Memory);
        assert_eq!(event.text(Field::MemoryRegion), b"MEMFD");
        assert_eq!(event.value(Field::MemoryIsWritable), Value::Bool(true));
        let event = decoded(&[5, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(event.value(Field::MemoryRegion), Value::Unknown);
        assert_eq!(event.value(Field::MemoryIsWritable), Value::Bool(false));
        assert_eq!(decoded(&[1]).value(Field::MemoryIsWritable), Value::Unknown);
    }
}

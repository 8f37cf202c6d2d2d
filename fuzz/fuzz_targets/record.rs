//! The decoder of the kernel's records on any bytes. Whatever it makes of them can be recorded and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sls_core::{Event, EventKind, Field, UnknownKeys, Value};

fuzz_target!(|bytes: &[u8]| {
    let mut event = Event::new(EventKind::File);
    if decoded(bytes, &mut event) {
        // Most inputs end in the wrong length, so what it says is put right to get past that.
        return;
    }
    let mut bytes = bytes.to_vec();
    if let Ok(len) = u32::try_from(bytes.len())
        && let Some(stated) = bytes.first_chunk_mut()
    {
        *stated = len.to_le_bytes();
        decoded(&bytes, &mut event);
    }
});

fn decoded(bytes: &[u8], event: &mut Event) -> bool {
    if let Err(error) = sls_probe::decode_record(bytes, event) {
        assert!(error.to_string().len() < 256);
        return false;
    }
    let mut held = 0;
    for field in Field::all() {
        if let Value::Text { bytes, .. } = event.value(field) {
            held += bytes.len();
        }
    }
    // `scriptName` repeats the directory and the passed path; a path begins with a slash.
    assert!(held <= 2 * bytes.len() + 256, "{held} bytes of values from {} bytes", bytes.len());

    let json = event.to_json();
    let (again, _) = Event::from_json(&json, UnknownKeys::Reject)
        .unwrap_or_else(|error| panic!("what was decoded does not read: {error}\n{json}"));
    for field in Field::all() {
        assert_eq!(again.value(field), event.value(field), "{field}");
    }
    assert!(again.arguments().eq(event.arguments()));
    assert_eq!(
        (again.process, again.parent, again.time, again.lost),
        (event.process, event.parent, event.time, event.lost)
    );
    assert_eq!((again.exit_status, again.pidfd_inode), (event.exit_status, event.pidfd_inode));
    assert_eq!((again.kernel_thread, again.cgroup_id), (event.kernel_thread, event.cgroup_id));
    true
}

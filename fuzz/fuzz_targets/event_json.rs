//! Recorded events: what reads is written in a form that reads as the same; what does not is explained in short.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sls_core::{Event, EventKind, Field, UnknownKeys};

fuzz_target!(|lines: &[u8]| {
    // One event for all lines, as a reader does it: nothing of a line may show in the next.
    let mut event = Event::new(EventKind::Exec);
    for line in lines.split(|byte| *byte == b'\n') {
        match event.read_json(line, UnknownKeys::Reject) {
            Ok(skipped) => {
                assert_eq!(skipped, 0);
                reads_back(&event);
                let (fresh, _) = Event::from_json(line, UnknownKeys::Skip).expect("skipping is more lenient");
                assert_eq!(fresh.to_json(), event.to_json());
            }
            Err(error) => {
                assert!(error.to_string().len() < 1024, "{} bytes of text", error.to_string().len());
                assert!(Field::all().all(|field| field == Field::EventType || event.number(field).is_none()));
                if let Ok((lenient, _)) = Event::from_json(line, UnknownKeys::Skip) {
                    reads_back(&lenient);
                }
            }
        }
    }
});

fn reads_back(event: &Event) {
    let json = event.to_json();
    let (again, _) = Event::from_json(&json, UnknownKeys::Reject)
        .unwrap_or_else(|error| panic!("what was written does not read: {error}\n{json}"));
    assert_eq!(again.to_json(), json);
    for field in Field::all() {
        assert_eq!(again.value(field), event.value(field), "{field}");
    }
    let _ = format!("{event:?}");
}

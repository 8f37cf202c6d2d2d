//! Any bytes as a file of the alert spool: what is intact is found, whatever lies around it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sls_actions::{SpoolRecord, read_spool};

fuzz_target!(|bytes: &[u8]| {
    let mut records = read_spool(bytes);
    let found: Vec<SpoolRecord<'_>> = records.by_ref().collect();
    let (intact, corrupt) = (records.intact_bytes(), records.corrupt());
    assert!(intact <= bytes.len());
    assert!(corrupt <= found.len() as u64, "what is corrupt lies before a record");
    let text: usize = found.iter().map(|record| record.json.len()).sum();
    assert!(text <= intact, "records overlap");

    // The torn tail is cut off when a spool is opened, which loses nothing.
    let mut again = read_spool(&bytes[..intact]);
    assert!(again.by_ref().eq(found.iter().copied()));
    assert_eq!((again.intact_bytes(), again.corrupt()), (intact, corrupt));

    // What was appended after a crash is found behind what the crash left.
    let twice = [bytes, &bytes[..intact]].concat();
    assert!(read_spool(&twice).count() >= found.len());
});

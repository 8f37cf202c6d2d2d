//! The answer of an engine to an HTTP request, at once and with every byte of it missing at the end.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sls_probe::fuzzing::engine_answer;

fuzz_target!(|bytes: &[u8]| {
    let Some(body) = engine_answer(bytes) else { return };
    assert!(body.len() <= bytes.len());
    // Behind the end of a body with a length, nothing is read.
    let framed = bytes.to_ascii_lowercase();
    let has = |name: &[u8]| framed.windows(name.len()).any(|part| part == name);
    if !has(b"content-length") && !has(b"transfer-encoding") {
        assert!(bytes.ends_with(&body));
        let longer = engine_answer(&[bytes, b"x"].concat()).expect("what ends with the stream may be longer");
        assert_eq!(longer, [&body[..], b"x"].concat());
    }
});

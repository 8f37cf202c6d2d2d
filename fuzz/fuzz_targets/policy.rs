//! The policy loader on any bytes: it answers with policies that their effective document reproduces, or with
//! diagnostics that can be shown.

#![no_main]

mod common;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|document: &[u8]| {
    common::load(&[document]);
});

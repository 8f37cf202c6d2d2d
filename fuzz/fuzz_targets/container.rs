//! What runtimes and engines write about containers, and the paths of cgroups, on any bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sls_probe::__fuzz::fuzz_documents;

fuzz_target!(|bytes: &[u8]| fuzz_documents(bytes));

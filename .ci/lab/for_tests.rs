//! What tests of the real kernel know of the machine that runs them, and how they say that its kernel lacks something.
//! `tests/` of every crate include this file: the lab (`README.md` beside it) reads what is printed here.

// Each test program uses a part. The lab reads standard output.
#![allow(dead_code, clippy::print_stdout)]

use std::time::Duration;

/// Nothing takes that long unless it is broken.
pub(crate) fn patience() -> Duration {
    Duration::from_secs(if emulated() { 120 } else { 30 })
}

/// Whether an emulated processor runs this, many times slower than a real one: nothing can be said about short times.
pub(crate) fn emulated() -> bool {
    std::env::var_os("SLS_LAB_EMULATED").is_some()
}

/// How often to do what is done `times` times on a real processor: a tenth, where one is emulated.
pub(crate) fn rounds(times: usize) -> usize {
    if emulated() { times.div_ceil(10) } else { times }
}

/// Says that the running kernel lacks what this test is about; the test returns after it.
///
/// `hook` is a short name for what is missing, without white space and the same wherever it is missing; `option` says what
/// would bring it: the kernel's build option, version, boot parameter or module.
pub(crate) fn not_offered(hook: &str, option: &str) {
    assert!(!hook.is_empty() && !hook.contains(char::is_whitespace), "{hook:?} is no name");
    println!("\nnot offered: {hook} ({option})");
}

/// Says that the test goes on without a part of it, because the running kernel lacks `hook`, as in [`not_offered`]. `part` is
/// what is not shown then.
pub(crate) fn without(hook: &str, part: &str) {
    assert!(!hook.is_empty() && !hook.contains(char::is_whitespace), "{hook:?} is no name");
    println!("\nwithout: {hook} ({part})");
}

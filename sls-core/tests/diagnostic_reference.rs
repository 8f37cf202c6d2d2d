//! `docs/diagnostics.md` is made from the codes. `SLS_BLESS=1 cargo test -p sls-core --test diagnostic_reference` writes it
//! anew.

// A helper of a test fails like the test.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod golden;

use std::fmt::Write;
use std::path::Path;

use sls_core::{Code, Severity};

#[test]
fn the_diagnostic_reference_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/diagnostics.md");
    golden::check(&path, &reference(), "what the codes say");
}

fn reference() -> String {
    let mut text = String::from(
        "# Diagnostics\n\nMade from the codes in `sls-core`. `sls check` shows each finding in its place, with help and, where \
         one is near, a\nsuggestion; `--format json` gives the same to programs.\n",
    );
    let parts = [
        (
            Severity::Error,
            "Errors",
            "A document with an error is refused, and what was loaded before stays in force. Where the running kernel gives a \
             policy\ntype no events, `SLS023` names the policy and, as far as it is known, the hook and the kernel option that \
             are missing.",
        ),
        (
            Severity::Warning,
            "Warnings",
            "A warning changes nothing: the policies load as they are written. \"Never\" and \"every\" are proven, for every \
             event\nwhose fields are known; not everything is found. `sls check --deny-warnings` answers no to them.",
        ),
    ];
    for (severity, title, meaning) in parts {
        write!(text, "\n## {title}\n\n{meaning}\n\n| code | meaning |\n|---|---|\n").unwrap();
        for code in Code::ALL.iter().filter(|code| code.severity() == severity) {
            writeln!(text, "| `{code}` | {} |", code.meaning()).unwrap();
        }
    }
    text
}

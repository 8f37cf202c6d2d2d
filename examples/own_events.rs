//! The engine alone, on events of one's own: no kernel, no root, any operating system.

// An example shows what it does.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use sls_core::{DryRunResponder, Engine, Event, EventKind, Field, PolicySet, ProcessKey};

const POLICIES: &str = r#"
Shell under a web server:
  policy: program
  priority: High
  responseActions: [alert, kill]
  rules:
    - match programName in $Shells and ancestorProgramName == "*/nginx"
    - default ignore
Shells: {type: paths, list: ["*/sh", "*/bash"]}
"#;

fn main() -> Result<(), sls_core::Diagnostics> {
    let policies = PolicySet::from_yaml("built-in", POLICIES)?;
    let mut engine = Engine::builder(policies).dry_run(true).build();
    // One event is used again and again; its memory stays.
    let mut event = Event::new(EventKind::Exec);
    for (pid, parent, program) in [(10, 1, "/usr/sbin/nginx"), (20, 10, "/usr/bin/php"), (30, 20, "/bin/sh")] {
        event.reset(EventKind::Exec);
        event.time = 1_732_420_000_000_000_000 + u64::from(pid);
        event.process = ProcessKey { pid, start: u64::from(pid) };
        event.parent = ProcessKey { pid: parent, start: u64::from(parent) };
        event.set_text(Field::ProgramName, program.as_bytes()).set_arguments([program.as_bytes(), b"-c", b"id"]);
        engine.process(&mut event, &mut DryRunResponder, &mut |pending| println!("{}", pending.complete().to_json()));
    }
    Ok(())
}

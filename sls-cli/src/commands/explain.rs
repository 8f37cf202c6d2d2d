//! `sls explain`: why did a policy do that?

use std::io::{Write, stdout};

use serde_json::json;
use sls_core::{Event, EventKind, GuardedPlanner, ProcessTable, explain};

use super::check::default_format;
use super::replay::{bad_events, open, report_skipped};
use crate::args::{EventsArgs, Format};
use crate::exit::{Answer, UnusablePolicies};
use crate::policies::Documents;
use crate::render;

pub(crate) fn run(args: &EventsArgs, format: Option<Format>) -> anyhow::Result<Answer> {
    let policies = Documents::of(&args.policies, args.content)
        .load(sls_core::Capabilities::default())
        .map_err(|diagnostics| UnusablePolicies::shown(&diagnostics))?;
    let planner = GuardedPlanner::default();
    let mut processes = ProcessTable::default();
    let mut reader = open(args)?;
    let mut event = Event::new(EventKind::Exec);
    while reader.read(&mut event).map_err(|error| bad_events(args, &error))? {
        processes.enrich(&mut event);
        let explanations = explain(&policies, &event, &planner, false);
        processes.observe(&event);
        if explanations.is_empty() {
            continue;
        }
        match format.unwrap_or(default_format()) {
            Format::Json => {
                let line = json!({"line": reader.line(), "event": event, "explanations": explanations});
                writeln!(stdout(), "{}", render::json(&line.to_string()))?;
            }
            Format::Human => {
                let title = format!("line {}: {}", reader.line(), render::json(&event.to_json()));
                write!(anstream::stdout(), "{}", render::explanations(&title, &explanations))?;
            }
        }
    }
    report_skipped(&reader);
    Ok(Answer::Yes)
}

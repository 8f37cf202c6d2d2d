//! `sls explain`: why did a policy do that?

use std::io::{Write, stdout};

use anyhow::bail;
use serde_json::json;
use sls_core::{Capabilities, Engine, Event, EventKind, GuardedPlanner, Guards};

use super::check::default_format;
use super::replay::{bad_events, open, report_skipped};
use crate::args::{ExplainArgs, Format};
use crate::config::Config;
use crate::exit::{Answer, UnusablePolicies};
use crate::policies::Documents;
use crate::render;

pub(crate) fn run(args: &ExplainArgs, format: Option<Format>) -> anyhow::Result<Answer> {
    let mut engine = engine(args)?;
    for name in &args.policy_names {
        if engine.policies().policy(name).is_none() {
            bail!("there is no policy `{}`", render::escape(name));
        }
    }
    let mut reader = open(&args.events)?;
    let mut event = Event::new(EventKind::Exec);
    while reader.read(&mut event).map_err(|error| bad_events(&args.events, &error))? {
        let mut explanations = engine.explain(&mut event);
        explanations.retain(|explanation| {
            let wanted = args.policy_names.is_empty() || args.policy_names.contains(&explanation.policy);
            wanted && !(args.matches && explanation.outcome == "ignore")
        });
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
                // Who asks for one policy wants to see its rules in any case.
                let brief = args.policy_names.is_empty();
                write!(anstream::stdout(), "{}", render::explanations(&title, &explanations, brief))?;
            }
        }
    }
    report_skipped(&reader);
    Ok(Answer::Yes)
}

/// The engine that `sls run` would have, but without the guards that it derives from the host that it runs on.
fn engine(args: &ExplainArgs) -> anyhow::Result<Engine> {
    let config = args.config.as_deref().map(Config::read).transpose()?.unwrap_or_default();
    let mut documents = Documents::of(&args.events.policies, args.events.content);
    if args.events.policies.is_empty() && !config.policies.is_empty() {
        let content = args.events.content || config.content.unwrap_or(true);
        documents = Documents { content, files: config.policies.clone() };
    }
    let policies =
        documents.load(Capabilities::default()).map_err(|diagnostics| UnusablePolicies::shown(&diagnostics))?;
    let planner = GuardedPlanner::new(config.guards(Guards::default()));
    let mut builder = Engine::builder(policies).planner(planner).dry_run(config.dry_run);
    if let Some(limit) = config.process_limit {
        builder = builder.process_limit(limit);
    }
    Ok(builder.build())
}

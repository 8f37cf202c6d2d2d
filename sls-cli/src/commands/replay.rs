//! `sls replay`: recorded events in, alerts out.

use std::fmt::Display;
use std::fs::File;
use std::io::{BufRead, BufReader, Write, stdin};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use sls_core::{
    AlertSink, BoxError, Capabilities, DryRunResponder, Engine, EventReader, EventSource, MatchCosts, ProfilingMatcher,
    SourceStatus, UnknownKeys,
};

use crate::args::{EventsArgs, Format, ReplayArgs};
use crate::exit::{Answer, UnusablePolicies, say};
use crate::output::StandardOutputs;
use crate::policies::Documents;
use crate::render;

pub(crate) fn run(ReplayArgs { events: args, costs }: &ReplayArgs, format: Option<Format>) -> anyhow::Result<Answer> {
    let policies = Documents::of(&args.policies, args.content)
        .load(Capabilities::default())
        .map_err(|diagnostics| UnusablePolicies::shown(&diagnostics))?;
    // JSON lines even on a terminal, unless asked: that is what a replay is for.
    let mut outputs = StandardOutputs::one(format.unwrap_or(Format::Json));
    let mut builder = Engine::builder(policies).dry_run(true);
    let measured = Arc::new(OnceLock::new());
    if *costs {
        let measured = measured.clone();
        // The policies stay the same, so this is called once.
        builder = builder.matcher(move |policies| {
            let matcher = ProfilingMatcher::new(policies, clock);
            let _ = measured.set(matcher.costs());
            Box::new(matcher)
        });
    }
    let mut engine = builder.build();
    let mut source = open(args)?;
    let mut failed: Option<BoxError> = None;
    loop {
        let status = source
            .poll(Duration::ZERO, &mut |event| {
                engine.process(event, &mut DryRunResponder, &mut |pending| {
                    if let Err(error) = outputs.emit(&pending.complete()) {
                        failed.get_or_insert(error);
                    }
                });
            })
            .map_err(|error| bad_events(args, &error))?;
        if let Some(error) = failed.take() {
            return Err(anyhow::Error::from_boxed(error));
        }
        if status == SourceStatus::Ended {
            report_skipped(&source);
            if let Some(costs) = measured.get() {
                report_costs(costs, format);
            }
            return Ok(Answer::Yes);
        }
    }
}

/// Nanoseconds since it was first asked.
fn clock() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed().as_nanos();
    u64::try_from(elapsed).unwrap_or(u64::MAX)
}

fn report_costs(costs: &MatchCosts, format: Option<Format>) {
    let costs = costs.snapshot();
    let text = match format {
        Some(Format::Json) => format!("{}\n", render::json(&render::costs_json(&costs).to_string())),
        _ => render::costs(&costs),
    };
    // Nobody has to read it.
    let _ = anstream::stderr().write_all(text.as_bytes());
}

/// The events that a command was given.
pub(crate) fn open(args: &EventsArgs) -> anyhow::Result<EventReader<Box<dyn BufRead + Send>>> {
    let reader: Box<dyn BufRead + Send> = match &args.events {
        Some(path) if path != Path::new("-") => {
            let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
            Box::new(BufReader::new(file))
        }
        _ => Box::new(BufReader::new(stdin())),
    };
    let unknown_keys = if args.lenient { UnknownKeys::Skip } else { UnknownKeys::Reject };
    Ok(EventReader::new(reader).unknown_keys(unknown_keys))
}

/// What is wrong with the events, and where. It names its cause itself.
pub(crate) fn bad_events(args: &EventsArgs, error: &dyn Display) -> anyhow::Error {
    match &args.events {
        Some(path) if path != Path::new("-") => anyhow!("{}: {error}", path.display()),
        _ => anyhow!("{error}"),
    }
}

/// Says on standard error how much of the events was not understood.
pub(crate) fn report_skipped(reader: &EventReader<Box<dyn BufRead + Send>>) {
    if reader.skipped_keys() > 0 {
        say(&format!("skipped {}", render::count(reader.skipped_keys(), "unknown key", "unknown keys")));
    }
}

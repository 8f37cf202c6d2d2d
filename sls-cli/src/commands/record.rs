//! `sls record`: live events out.

use std::io::{BufWriter, Write, stdout};
use std::time::Duration;

use anyhow::{Context, bail};
use sls_core::{Event, EventKind, EventSource, Interest, ProcessTable};
use sls_probe::Probe;

use crate::args::RecordArgs;
use crate::commands::run::{Until, drain, stop_signals};
use crate::exit::Answer;
use crate::render;

pub(crate) fn run(args: &RecordArgs) -> anyhow::Result<Answer> {
    let stopped = stop_signals()?;
    let builder = Probe::builder();
    if let Some(kind) = args.kinds.iter().find(|kind| builder.provides(**kind).is_empty()) {
        let offered: Vec<_> =
            EventKind::ALL.iter().filter(|kind| !builder.provides(**kind).is_empty()).map(|kind| kind.name()).collect();
        bail!("this sensor has no events of kind {kind}, only {}", offered.join(", "));
    }
    let mut probe = builder
        .interest(interest(&args.kinds))
        .load()
        .context("cannot load the probe")?
        .attach()
        .context("cannot attach the probe")?;
    let until = Until::new(stopped, args.duration);
    let mut recorder = Recorder {
        kinds: &args.kinds,
        processes: ProcessTable::default(),
        out: BufWriter::new(stdout()),
        written: Ok(()),
    };
    while let Some(wait) = until.wait(Duration::from_millis(200)) {
        probe.poll(wait, &mut |event| recorder.take(event)).map_err(anyhow::Error::from_boxed)?;
        recorder.flush()?;
    }
    // What happened up to now is still recorded.
    drain(&mut probe, &mut |event| recorder.take(event))?;
    recorder.flush()?;
    Ok(Answer::Yes)
}

/// What is to be watched for these kinds; everything if there is none.
fn interest(kinds: &[EventKind]) -> Interest {
    if kinds.is_empty() {
        return Interest::everything();
    }
    let mut interest = Interest::default();
    for kind in kinds {
        interest.add_kind(*kind);
    }
    interest
}

/// Writes events as the rules of a live sensor would see them: with their parent's program and their ancestors, which a
/// recording of some kinds only could not give again.
struct Recorder<'a> {
    /// The kinds that are asked for; all if none is.
    kinds: &'a [EventKind],
    processes: ProcessTable,
    out: BufWriter<std::io::Stdout>,
    /// The first failure; nothing is written after it.
    written: std::io::Result<()>,
}

impl Recorder<'_> {
    fn take(&mut self, event: &mut Event) {
        self.processes.enrich(event);
        if self.written.is_ok() && (self.kinds.is_empty() || self.kinds.contains(&event.kind)) {
            self.written = writeln!(self.out, "{}", render::json(&event.to_json()));
        }
        self.processes.observe(event);
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::mem::replace(&mut self.written, Ok(()))?;
        self.out.flush()
    }
}

//! From a record as the kernel writes it to the decision: decoding, enrichment, matching, remembering.

use std::fmt;
use std::hint::black_box;
use std::time::Instant;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use sls_benches::sls::document;
use sls_benches::workload::{Regexes, Workload};
use sls_benches::{counting, median};
use sls_core::{DryRunResponder, Engine, Event, EventKind, Field, PolicySet, Value};
use sls_probe::Accounts;

/// Records of a shell that was executed, its fork, and its child's execution of find(1), as the kernel sent them.
const RECORDS: &[u8] = include_bytes!("../../data/exec.records");

const POLICIES: usize = 1000;

/// Timed batches, and records in each.
const BATCHES: usize = 101;
const BATCH: u32 = 1000;

/// Nanoseconds for a record.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct RecordCost {
    policies: usize,
    bytes: usize,
    decode: f64,
    names: f64,
    engine: f64,
    allocations: f64,
    /// All of it: the median and the minimum.
    pub(crate) all: f64,
    pub(crate) least: f64,
}

pub(crate) fn measure() -> anyhow::Result<RecordCost> {
    let workload = Workload::new(POLICIES, Regexes::SomeWithoutLiteral, 0);
    let policies = PolicySet::from_yaml("rules.yaml", document(&workload.rules))?;
    let mut engine = Engine::builder(policies).build();
    // The names of this host's accounts, as the probe looks them up.
    let accounts = Accounts::host();
    let mut event = Event::new(EventKind::Exec);
    let mut alerts = 0;
    let mut process = |event: &mut Event| engine.process(event, &mut DryRunResponder, &mut |_| alerts += 1);

    let records = split(RECORDS).context("benches/data/exec.records")?;
    for record in &records {
        decode(record, &mut event)?;
        accounts.fill(&mut event);
        process(&mut event);
    }
    let record = *records.last().context("no record")?;
    ensure!(event.kind == EventKind::Exec && event.value(Field::ParentProgramName) != Value::Absent, "{event:?}");

    let (decoding, _, _) = timed(|| decode(black_box(record), &mut event).is_ok());
    let (naming, _, _) = timed(|| {
        let decoded = decode(black_box(record), &mut event).is_ok();
        accounts.fill(&mut event);
        decoded
    });
    let (all, least, allocations) = timed(|| {
        let decoded = decode(black_box(record), &mut event).is_ok();
        accounts.fill(&mut event);
        process(&mut event);
        decoded
    });
    ensure!(alerts == 0, "a policy responded to the record");
    Ok(RecordCost {
        policies: POLICIES,
        bytes: record.len(),
        decode: decoding,
        names: naming - decoding,
        engine: all - naming,
        allocations,
        all,
        least,
    })
}

/// Each record begins with its length.
fn split(mut bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let mut records = Vec::new();
    while let Some(length) = bytes.first_chunk() {
        let (record, rest) = bytes.split_at_checked(u32::from_le_bytes(*length).max(4) as usize)?;
        records.push(record);
        bytes = rest;
    }
    bytes.is_empty().then_some(records)
}

fn decode(record: &[u8], event: &mut Event) -> anyhow::Result<()> {
    sls_probe::decode_record(record, event)
        .context("the records are of another layout: benches/README.md says how to take new ones")
}

/// Nanoseconds by the median and the minimum, and allocations, for one call.
fn timed(mut work: impl FnMut() -> bool) -> (f64, f64, f64) {
    let mut batch = || {
        let start = Instant::now();
        assert!((0..BATCH).all(|_| work()), "it was decoded before");
        start.elapsed().as_secs_f64() * 1e9 / f64::from(BATCH)
    };
    batch();
    let before = counting::allocations();
    batch();
    let allocations = (counting::allocations() - before) as f64 / f64::from(BATCH);
    counting::pause(true);
    let times: Vec<f64> = (0..BATCHES).map(|_| batch()).collect();
    counting::pause(false);
    (median(times.iter().copied()), times.iter().copied().fold(f64::INFINITY, f64::min), allocations)
}

impl fmt::Display for RecordCost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "ns from a record of an execution ({} bytes) to the decision of {} policies: {:.0} ({:.0})\n  decoding {:.0}, \
             names of accounts {:.0}, engine {:.0}; {:.2} allocations",
            self.bytes, self.policies, self.all, self.least, self.decode, self.names, self.engine, self.allocations
        )
    }
}

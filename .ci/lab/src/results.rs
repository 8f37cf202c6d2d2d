//! The results of a guest, in files.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use crate::Places;
use crate::guests::{GUESTS, Guest};
use crate::outcome::Outcome;

/// What a run found in one guest.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Fresh {
    pub(crate) guest: String,
    /// The release of its kernel.
    pub(crate) kernel: String,
    /// Whether all tests were run that there are.
    pub(crate) everything: bool,
    pub(crate) tests: BTreeMap<String, Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) result: Outcome,
    pub(crate) seconds: f64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) output: String,
}

/// What is checked in of it: what changes only if something changed.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Recorded {
    pub(crate) kernel: String,
    pub(crate) tests: BTreeMap<String, Outcome>,
}

impl Fresh {
    pub(crate) fn write(&self, places: &Places) -> anyhow::Result<()> {
        write(&places.fresh(&self.guest), self)
    }
}

/// Makes what was run in the guests the results that are checked in. Those of other guests stay as they were.
pub(crate) fn record(places: &Places, guests: &[&Guest]) -> anyhow::Result<()> {
    for guest in guests {
        let path = places.fresh(guest.name);
        let fresh: Fresh = read(&path)?;
        ensure!(fresh.everything, "{}: not all tests were run; `make vm-test` does", path.display());
        let tests = fresh.tests.into_iter().map(|(id, entry)| (id, entry.result)).collect();
        write(&places.recorded(guest.name), &Recorded { kernel: fresh.kernel, tests })?;
    }
    Ok(())
}

/// The results that are checked in, of the guests that have any.
pub(crate) fn recorded(places: &Places) -> anyhow::Result<BTreeMap<&'static str, Recorded>> {
    let paths = GUESTS.iter().map(|guest| (guest.name, places.recorded(guest.name)));
    paths.filter(|(_, path)| path.exists()).map(|(name, path)| Ok((name, read(&path)?))).collect()
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> anyhow::Result<T> {
    let text = fs::read(path).with_context(|| path.display().to_string())?;
    serde_json::from_slice(&text).with_context(|| path.display().to_string())
}

fn write(path: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    fs::write(path, text).with_context(|| path.display().to_string())
}

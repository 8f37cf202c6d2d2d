//! The results of a guest, in files.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use crate::Places;
use crate::guests::{GUESTS, Guest};
use crate::outcome::Outcome;
use crate::plan::ring;

/// What a run found in one guest.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Fresh {
    pub(crate) guest: String,
    /// The release of its kernel.
    pub(crate) kernel: String,
    /// The rings of which all tests were run that there are.
    pub(crate) complete: Vec<String>,
    /// How long it took, one part after the other.
    pub(crate) seconds: u64,
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
    /// Adds what another part of the same guest found.
    pub(crate) fn merge(&mut self, other: Self) {
        if self.kernel.is_empty() {
            self.kernel = other.kernel;
        }
        self.seconds += other.seconds;
        self.tests.extend(other.tests);
    }

    /// In the place of what was found before in the same rings.
    fn over(self, before: BTreeMap<String, Outcome>) -> Recorded {
        let renewed = |id: &str| self.complete.iter().any(|complete| complete == ring(id));
        let mut tests: BTreeMap<_, _> = before.into_iter().filter(|(id, _)| !renewed(id)).collect();
        tests.extend(self.tests.into_iter().map(|(id, entry)| (id, entry.result)));
        Recorded { kernel: self.kernel, tests }
    }

    pub(crate) fn write(&self, places: &Places) -> anyhow::Result<()> {
        write(&places.fresh(&self.guest), self)
    }
}

/// Makes what was run in the guests the results that are checked in. Those of other guests, and of other rings, stay as they
/// were.
pub(crate) fn record(places: &Places, guests: &[&Guest]) -> anyhow::Result<()> {
    for guest in guests {
        let path = places.fresh(guest.name);
        let fresh: Fresh = read(&path)?;
        ensure!(!fresh.complete.is_empty(), "{}: not all tests were run; `make vm-test` does", path.display());
        let recorded = places.recorded(guest.name);
        let before = if recorded.exists() { read::<Recorded>(&recorded)?.tests } else { BTreeMap::new() };
        write(&recorded, &fresh.over(before))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_ring_found_takes_the_place_of_what_it_had_found() {
        let before = ["a/x::1", "a/gone::1", "b/x::1"].map(|id| (id.to_owned(), Outcome::Failed));
        let entry = Entry { result: Outcome::Ok, seconds: 1.0, output: String::new() };
        let fresh = Fresh {
            complete: vec!["a".into()],
            tests: BTreeMap::from([("a/x::1".to_owned(), entry)]),
            ..Fresh::default()
        };
        let now = fresh.over(BTreeMap::from(before)).tests;
        let expected = [("a/x::1".to_owned(), Outcome::Ok), ("b/x::1".to_owned(), Outcome::Failed)];
        assert_eq!(now, BTreeMap::from(expected));
    }
}

//! What kernels of the matrix are known not to offer. Everything else, they do.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, ensure};

use crate::guests::Guest;
use crate::outcome::Outcome;
use crate::{Places, guests};

const FILE: &str = ".ci/lab/not-offered";

/// Before a hook: it may be there or not.
const MAYBE: char = '?';

/// Guest and hook, and whether it is missing for sure.
#[derive(Debug, Default)]
pub(crate) struct Missing(BTreeMap<(String, String), bool>);

impl Missing {
    pub(crate) fn read(places: &Places) -> anyhow::Result<Self> {
        let path = places.root.join(FILE);
        Self::parse(&fs::read_to_string(&path).with_context(|| path.display().to_string())?).context(FILE)
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut missing = BTreeMap::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let mut words = line.split_whitespace();
            let (guest, hook) = words.next().zip(words.next()).with_context(|| format!("{line:?} has no hook"))?;
            ensure!(words.next().is_some(), "{line:?} does not say why");
            let sure = !hook.starts_with(MAYBE);
            let hook = hook.trim_start_matches(MAYBE);
            let guests = if guest == "*" { guests::GUESTS.iter().collect() } else { guests::select(&[guest])? };
            for guest in guests {
                let twice = missing.insert((guest.name.to_owned(), hook.to_owned()), sure);
                ensure!(twice.is_none(), "{} {hook} is there twice", guest.name);
            }
        }
        Ok(Self(missing))
    }

    /// What is wrong with the results of a guest: what they miss, and, where everything was run, what is listed and missed
    /// by none.
    pub(crate) fn judge<'a>(
        &self,
        guest: &Guest,
        results: impl Iterator<Item = (&'a str, &'a Outcome)>,
        everything: bool,
    ) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut listed: Vec<&str> = self
            .0
            .iter()
            .filter(|((name, _), sure)| name == guest.name && **sure)
            .map(|((_, hook), _)| hook.as_str())
            .collect();
        for (id, outcome) in results {
            let Some((hook, why)) = outcome.missing() else { continue };
            if self.0.contains_key(&(guest.name.to_owned(), hook.to_owned())) {
                listed.retain(|other| *other != hook);
            } else {
                wrong.push(format!("{id} misses {hook} ({why}), which {} should have ({FILE})", guest.name));
            }
        }
        if everything {
            wrong.extend(
                listed.iter().map(|hook| format!("{FILE} lists {hook}, which no test misses on {}", guest.name)),
            );
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(hook: &str) -> Outcome {
        Outcome::NotOffered { hook: hook.into(), option: "CONFIG_X".into() }
    }

    #[test]
    fn what_is_missing_must_be_listed() {
        let list = Missing::parse("# guest hook why\n5.10  pidfs  Linux 6.9\n").unwrap();
        let guest = guests::select(&["5.10"]).unwrap()[0];
        let judge = |results: &[(&str, Outcome)], everything| {
            list.judge(guest, results.iter().map(|(id, outcome)| (*id, outcome)), everything)
        };
        assert!(judge(&[("a::b", missing("pidfs")), ("a::c", Outcome::Ok)], true).is_empty());
        let wrong = judge(&[("a::b", missing("pidfs")), ("a::c", missing("kprobe"))], true);
        assert_eq!(wrong, ["a::c misses kprobe (CONFIG_X), which 5.10 should have (.ci/lab/not-offered)"]);
        let wrong = judge(&[("a::b", Outcome::Ok)], true);
        assert_eq!(wrong, [".ci/lab/not-offered lists pidfs, which no test misses on 5.10"]);
        assert!(judge(&[("a::b", Outcome::Ok)], false).is_empty());
        let other = guests::select(&["6.1"]).unwrap()[0];
        assert_eq!(list.judge(other, [("a::b", &missing("pidfs"))].into_iter(), true).len(), 1);
    }

    #[test]
    fn what_may_be_missing_may_be_there() {
        let list = Missing::parse("*  ?payload  only if it could be built").unwrap();
        let guest = guests::select(&["6.1"]).unwrap()[0];
        assert!(list.judge(guest, [("a::b", &missing("payload"))].into_iter(), true).is_empty());
        assert!(list.judge(guest, [("a::b", &Outcome::Ok)].into_iter(), true).is_empty());
    }

    #[test]
    fn lines_that_mean_nothing_are_refused() {
        for bad in ["5.10", "5.10 pidfs", "4.19 pidfs old", "5.10 a b\n5.10 a c", "* a b\n5.10 a c"] {
            assert!(Missing::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_list_is_well_formed() {
        let list = include_str!("../not-offered");
        assert!(!Missing::parse(list).unwrap().0.is_empty());
    }
}

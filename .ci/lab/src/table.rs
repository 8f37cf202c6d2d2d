//! The table of the README: what the results that are checked in say.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, ensure};

use crate::Places;
use crate::guests::GUESTS;
use crate::outcome::Outcome;
use crate::plan::{SMOKE, UNIT, group};
use crate::results::{self, Recorded};

const BEGIN: &str = "<!-- what `make vm-test` found; `.ci/lab/README.md` says how it is made -->\n";
const END: &str = "<!-- end of what `make vm-test` found -->\n";

/// What the checks that are programs show.
const SMOKE_MEANING: &str = "The sensor sees what is executed and kills what its policy names";

/// Puts the table into the README.
pub(crate) fn write(places: &Places) -> anyhow::Result<()> {
    let path = readme(places);
    let (before, _, after) = parts(&fs::read_to_string(&path)?).context("README.md")?;
    fs::write(&path, format!("{before}{BEGIN}{}{END}{after}", current(places)?))?;
    Ok(())
}

/// Whether the README has the table that the results give.
pub(crate) fn check(places: &Places) -> anyhow::Result<bool> {
    let (_, found, _) = parts(&fs::read_to_string(readme(places))?).context("README.md")?;
    let same = found == current(places)?;
    let verdict = if same { "is what" } else { "is not what" };
    println!("README.md's table of kernels {verdict} .ci/lab/results gives");
    if !same {
        println!("`cargo run -p sls-lab -- table` makes it anew");
    }
    Ok(same)
}

fn readme(places: &Places) -> PathBuf {
    places.root.join("README.md")
}

/// Before, between and after the marks.
fn parts(text: &str) -> anyhow::Result<(String, String, String)> {
    let (before, rest) = text.split_once(BEGIN).context("the mark of the table's beginning is missing")?;
    let (table, after) = rest.split_once(END).context("the mark of the table's end is missing")?;
    Ok((before.to_owned(), table.to_owned(), after.to_owned()))
}

fn current(places: &Places) -> anyhow::Result<String> {
    let results = results::recorded(places)?;
    let groups: BTreeSet<&str> =
        results.values().flat_map(|results| results.tests.keys()).map(|id| group(id)).collect();
    let groups = groups.into_iter().filter(|group| !group.ends_with(UNIT));
    let meanings = groups.map(|group| Ok((group, meaning(places, group)?))).collect::<anyhow::Result<_>>()?;
    Ok(table(&results, &meanings))
}

/// What the tests of a group are about: the first sentence of their file.
fn meaning(places: &Places, group: &str) -> anyhow::Result<String> {
    if group == SMOKE {
        return Ok(SMOKE_MEANING.to_owned());
    }
    let (ring, file) = group.split_once('/').with_context(|| format!("{group} is of no crate"))?;
    let tests = places.root.join(format!("sls-{ring}/tests"));
    let path = tests.join(format!("{file}.rs"));
    let path = if path.exists() { path } else { tests.join(file).join("main.rs") };
    let source = fs::read_to_string(&path).with_context(|| format!("results of {group}, but no {}", path.display()))?;
    let text: Vec<&str> = source.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim).collect();
    let text = text.join(" ");
    let sentence = text.split(". ").next().unwrap_or_default().trim_end_matches('.');
    ensure!(!sentence.is_empty(), "{} does not begin with a sentence about it (//!)", path.display());
    Ok(sentence.replace('|', "\\|"))
}

/// The reasons below the table, by number.
#[derive(Debug, Default)]
struct Notes(Vec<String>);

impl Notes {
    fn number(&mut self, note: String) -> usize {
        let place = self.0.iter().position(|other| *other == note).unwrap_or_else(|| {
            self.0.push(note);
            self.0.len() - 1
        });
        place + 1
    }
}

fn table(results: &BTreeMap<&str, Recorded>, meanings: &BTreeMap<&str, String>) -> String {
    let guests: Vec<_> = GUESTS.iter().filter(|guest| results.contains_key(guest.name)).collect();
    if guests.is_empty() {
        return "No run of the whole matrix is recorded for this version.\n".to_owned();
    }
    let mut text = "| tests |".to_owned();
    for guest in &guests {
        let _ = write!(text, " {} |", guest.title);
    }
    text.push_str(&format!("\n|---|{}\n", "---|".repeat(guests.len())));
    let mut notes = Notes::default();
    for (group, meaning) in meanings {
        let _ = write!(text, "| `{group}`: {meaning} |");
        for guest in &guests {
            let _ = write!(text, " {} |", cell(&results[guest.name], group, &mut notes));
        }
        text.push('\n');
    }
    if !notes.0.is_empty() {
        text.push_str("\nWhat the kernel does not offer:\n\n");
        for (place, note) in notes.0.iter().enumerate() {
            let _ = writeln!(text, "{}. {note}", place + 1);
        }
    }
    text
}

/// `yes`: all tests that were run are good. `partly`: those that the kernel lets run are. `–`: it lets none.
fn cell(results: &Recorded, wanted: &str, notes: &mut Notes) -> String {
    let outcomes = results.tests.iter().filter(|(id, _)| group(id) == wanted).map(|(_, outcome)| outcome);
    let (mut good, mut failed, mut missing) = (0_usize, 0_usize, BTreeSet::new());
    for outcome in outcomes {
        match outcome {
            Outcome::Ok | Outcome::Without { .. } => good += 1,
            Outcome::Failed => failed += 1,
            Outcome::NotOffered { .. } | Outcome::Ignored(_) => {}
        }
        match outcome {
            Outcome::NotOffered { hook, option } => missing.insert(notes.number(format!("needs {hook}: {option}"))),
            Outcome::Without { hook, part } => {
                missing.insert(notes.number(format!("without {hook} not shown: {part}")))
            }
            _ => false,
        };
    }
    let numbers: Vec<String> = missing.iter().map(usize::to_string).collect();
    let word = match (good, failed, missing.is_empty()) {
        (_, 1.., _) => "**no**",
        (0, 0, _) => "–",
        (_, 0, true) => "yes",
        (_, 0, false) => "partly",
    };
    if numbers.is_empty() { word.to_owned() } else { format!("{word} <sup>{}</sup>", numbers.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(tests: &[(&str, &str)]) -> Recorded {
        let tests = tests.iter().map(|(id, outcome)| ((*id).to_owned(), outcome.parse().unwrap())).collect();
        Recorded { kernel: "5.10.0-46-cloud-amd64".into(), tests }
    }

    #[test]
    fn a_row_is_a_file_and_a_column_a_kernel() {
        let old = recorded(&[
            ("files::opened", "ok"),
            ("files::ring", "not offered: io_uring (CONFIG_IO_URING)"),
            ("memory::mapped", "not offered: trampoline (CONFIG_FUNCTION_TRACER)"),
            ("network::connected", "failed"),
            ("network::listening", "ok"),
            ("unix::connected", "without: ipv6 (IPv6)"),
        ]);
        let new = recorded(&[
            ("files::opened", "ok"),
            ("files::ring", "ok"),
            ("memory::mapped", "ok"),
            ("network::connected", "ok"),
            ("network::listening", "ignored: flaky"),
            ("unix::connected", "ok"),
        ]);
        let results = BTreeMap::from([("5.10", old), ("7.3", new)]);
        let meanings = ["files", "memory", "network", "unix"].map(|group| (group, format!("What {group} are")));
        let expected = "\
| tests | 5.10 | 7.3 |
|---|---|---|
| `files`: What files are | partly <sup>1</sup> | yes |
| `memory`: What memory are | – <sup>2</sup> | yes |
| `network`: What network are | **no** | yes |
| `unix`: What unix are | partly <sup>3</sup> | yes |

What the kernel does not offer:

1. needs io_uring: CONFIG_IO_URING
2. needs trampoline: CONFIG_FUNCTION_TRACER
3. without ipv6 not shown: IPv6
";
        assert_eq!(table(&results, &BTreeMap::from(meanings)), expected);
    }

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let text = format!("above\n{BEGIN}old\n{END}below\n");
        let (before, table, after) = parts(&text).unwrap();
        assert_eq!((&*before, &*table, &*after), ("above\n", "old\n", "below\n"));
        assert!(parts("no marks").is_err());
    }

    #[test]
    fn a_group_without_tests_of_its_own_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let tests = directory.path().join("sls-probe/tests");
        fs::create_dir_all(tests.join("network")).unwrap();
        fs::write(tests.join("files.rs"), "//! What is opened,\n//! by whom. Needs root.\n\nmod common;\n").unwrap();
        fs::write(tests.join("network/main.rs"), "//! Connections.\n").unwrap();
        fs::write(tests.join("mute.rs"), "mod common;\n").unwrap();
        let places = Places { root: directory.path().to_owned(), target: directory.path().join("target") };
        assert_eq!(meaning(&places, "probe/files").unwrap(), "What is opened, by whom");
        assert_eq!(meaning(&places, "probe/network").unwrap(), "Connections");
        assert!(meaning(&places, "probe/mute").is_err());
        assert!(meaning(&places, "probe/gone").is_err());
        assert!(meaning(&places, "files").is_err());
    }
}

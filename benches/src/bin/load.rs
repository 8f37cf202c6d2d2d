//! What loading many policies takes: 10,000 policies with 100,000 list entries, time and peak memory. Needs no privileges.

// It prints what it measured.
#![allow(clippy::print_stdout)]
#![forbid(unsafe_code)]

use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use sls_benches::{Table, median};
use sls_core::PolicyLoader;

const POLICIES: usize = 10_000;

/// Lists, and how many entries each has.
const LISTS: usize = 20;
const ENTRIES: usize = 5_000;

/// Loads of which the median counts, each in a process of its own.
const ROUNDS: usize = 5;

/// What a load may take.
const MAX_SECONDS: f64 = 1.0;
const MAX_MEGABYTES: f64 = 200.0;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match &*arguments.iter().map(String::as_str).collect::<Vec<_>>() {
        [] => measure(false),
        ["--check"] => measure(true),
        ["load", directory] => load(Path::new(directory)),
        _ => bail!("usage: load [--check]"),
    }
}

fn measure(check: bool) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let documents = [("lists.yaml", lists()?), ("policies.yaml", policies()?), ("local.yaml", overrides()?)];
    for (name, text) in &documents {
        std::fs::write(directory.path().join(name), text)?;
    }
    let mut table = Table::new(&["load", "s", "peak MB"]);
    let (mut seconds, mut megabytes) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        let output = Command::new(std::env::current_exe()?).arg("load").arg(directory.path()).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let line = String::from_utf8(output.stdout)?;
        let (time, peak) = line.trim().split_once(' ').context("the loading process printed no result")?;
        table.row([round.to_string(), time.to_owned(), peak.to_owned()]);
        seconds.push(time.parse()?);
        megabytes.push(peak.parse()?);
    }
    let (seconds, megabytes) = (median(seconds), median(megabytes));
    table.row(["median".to_owned(), format!("{seconds:.3}"), format!("{megabytes:.1}")]);
    let size: usize = documents.iter().map(|(_, text)| text.len()).sum();
    println!(
        "{POLICIES} policies and {} list entries in {} documents of {:.1} MB\n",
        LISTS * ENTRIES,
        documents.len(),
        size as f64 / 1e6
    );
    println!("{table}");
    ensure!(!check || seconds < MAX_SECONDS, "a load takes {seconds:.3} s, the target is {MAX_SECONDS} s");
    ensure!(!check || megabytes < MAX_MEGABYTES, "a load takes {megabytes:.1} MB, the target is {MAX_MEGABYTES} MB");
    Ok(())
}

/// Loads the documents and prints the time and the most memory that this process has had.
fn load(directory: &Path) -> anyhow::Result<()> {
    let mut loader = PolicyLoader::new();
    for name in ["lists.yaml", "policies.yaml", "local.yaml"] {
        loader = loader.document(name, std::fs::read(directory.join(name))?);
    }
    let start = Instant::now();
    let set = loader.load()?;
    let seconds = start.elapsed().as_secs_f64();
    let entries: usize = set.lists().values().map(|list| list.len()).sum();
    ensure!((set.policies().len(), entries) == (POLICIES, LISTS * ENTRIES), "not all was loaded");
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    let kibibytes: f64 = peak.context("no VmHWM")?.parse()?;
    println!("{seconds:.3} {:.1}", kibibytes * 1024.0 / 1e6);
    Ok(())
}

/// Lists of every type.
fn lists() -> anyhow::Result<String> {
    let mut text = String::new();
    for list in 0..LISTS {
        let kind = KINDS[list % KINDS.len()];
        writeln!(text, "{kind} {list}:\n  type: {kind}\n  description: generated\n  list:")?;
        for entry in 0..ENTRIES {
            match kind {
                "paths" => writeln!(text, "    - \"/opt/vendor-{list}/*/release-{entry}/bin/program-{entry}\"")?,
                "names" => writeln!(text, "    - service-{list}-{entry}")?,
                "hosts" => writeln!(text, "    - 10.{list}.{}.{}/32", entry / 256, entry % 256)?,
                "numbers" => writeln!(text, "    - {}-{}", entry * 10, entry * 10 + 5)?,
                _ => writeln!(text, "    - [daemon-{entry}, \"/usr/sbin/worker-{entry}\", sh]")?,
            }
        }
    }
    Ok(text)
}

const KINDS: [&str; 5] = ["paths", "names", "hosts", "numbers", "lineage"];

/// Policies as people write them: exceptions by list, an argument, a program, the default. Every second has a regular
/// expression, and no two of those are the same.
fn policies() -> anyhow::Result<String> {
    let mut text = String::new();
    for number in 0..POLICIES {
        let list = |kind| number % (LISTS / KINDS.len()) * KINDS.len() + kind;
        write!(
            text,
            "Detection {number}:\n  policy: program\n  alertMessage: A program of family {number} was started\n  \
             comments: >-\n    Programs of this family are used by intruders to look around, and have\n    \
             no place on a server that is in production.\n  priority: High\n  confidence: Low\n  \
             categories: [MITRE.Execution.Command and Scripting Interpreter, family-{number}]\n  \
             alertLabels: {{team: blue, ticket: SEC-{number}}}\n  group: Analytics.Family{}\n  \
             responseActions: [alert, kill]\n  rules:\n    \
             - ignore parentProgramName in $\"paths {}\" or userName in $\"names {}\"\n    \
             - ignore uid in [0, {number}] and gid in $\"numbers {}\"\n    \
             - ignore lineage in $\"lineage {}\"\n    \
             - match programName == \"*/family-{number}/*\" and not programArguments == \"*--version*\"\n",
            number % 10,
            list(0),
            list(1),
            list(3),
            list(4),
        )?;
        if number % 2 == 0 {
            writeln!(
                text,
                "    - match programArguments like \".*(-e|--exec)[ =]/tmp/\\.x{number}/[a-z]+\\.(sh|py).*\""
            )?;
        }
        if number % 3 == 0 {
            writeln!(text, "    - match programName in [\"/tmp/a{number}\", \"/dev/shm/b{number}\", \"/var/tmp/c*\"]")?;
        }
        writeln!(text, "    - default ignore")?;
    }
    Ok(text)
}

/// What an operator changes: one policy in ten.
fn overrides() -> anyhow::Result<String> {
    let mut text = String::new();
    for number in (0..POLICIES).step_by(10) {
        writeln!(text, "Detection {number}:\n  priority: Medium\n  dryRun: true")?;
    }
    Ok(text)
}

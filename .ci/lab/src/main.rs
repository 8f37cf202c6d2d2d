//! Runs the tests of the real kernel under many kernels, and says what came of it. See README.md beside this crate.

// It prints what it found.
#![allow(clippy::print_stdout, clippy::print_stderr)]
#![forbid(unsafe_code)]

mod expected;
mod guest;
mod guests;
mod leftovers;
mod matrix;
mod outcome;
mod plan;
mod results;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};

const USAGE: &str = "usage: sls-lab run [-b SECONDS] [-r RINGS] [-t PART-OF-A-TEST'S-NAME] [GUEST…]
       sls-lab record [GUEST…]   what was run becomes the results that are checked in, and the README's table
       sls-lab table [--check]   the README's table from the results that are checked in
       sls-lab guest PLAN        inside a guest";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("sls-lab: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether all is well.
fn run(arguments: &[&str]) -> anyhow::Result<bool> {
    match arguments {
        ["guest", plan] => guest::run(Path::new(plan)).map(|()| true),
        ["run", rest @ ..] => {
            let places = Places::find()?;
            let runner = plan::pin(&places, &std::env::current_exe()?)?;
            matrix::run(&places, &matrix::Options { runner, ..options(rest)? })
        }
        ["record", names @ ..] => {
            let places = Places::find()?;
            results::record(&places, &guests::select(names)?)?;
            table::write(&places).map(|()| true)
        }
        ["table"] => table::write(&Places::find()?).map(|()| true),
        ["table", "--check"] => table::check(&Places::find()?),
        _ => bail!("{USAGE}"),
    }
}

fn options(mut arguments: &[&str]) -> anyhow::Result<matrix::Options> {
    let mut options = matrix::Options { rings: plan::RINGS.to_vec(), ..matrix::Options::default() };
    loop {
        match arguments {
            ["-b", seconds, rest @ ..] => {
                options.budget = Some(seconds.parse().context("-b wants seconds")?);
                arguments = rest;
            }
            ["-r", rings, rest @ ..] => {
                options.rings = plan::rings(rings)?;
                arguments = rest;
            }
            ["-t", part, rest @ ..] => {
                // An empty one is what a Makefile's variable gives that is not set.
                options.part = Some((*part).to_owned()).filter(|part| !part.is_empty());
                arguments = rest;
            }
            _ => break,
        }
    }
    ensure!(!arguments.iter().any(|name| name.starts_with('-')), "{USAGE}");
    options.guests = guests::select(arguments)?;
    Ok(options)
}

/// Where things are.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// The checkout.
    pub(crate) root: PathBuf,
    /// What cargo builds into.
    pub(crate) target: PathBuf,
}

impl Places {
    fn find() -> anyhow::Result<Self> {
        let root = std::env::current_dir()?;
        ensure!(root.join(".ci/lab/vm-run.sh").exists(), "start it at the top of the checkout");
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |target| root.join(target));
        Ok(Self { root, target })
    }

    /// What runs leave behind: results, logs.
    pub(crate) fn lab(&self) -> PathBuf {
        self.target.join("lab")
    }

    /// The results of a guest as its run gave them.
    pub(crate) fn fresh(&self, guest: &str) -> PathBuf {
        self.lab().join(format!("results/{guest}.json"))
    }

    /// The results of a guest that are checked in.
    pub(crate) fn recorded(&self, guest: &str) -> PathBuf {
        self.root.join(format!(".ci/lab/results/{guest}.json"))
    }
}

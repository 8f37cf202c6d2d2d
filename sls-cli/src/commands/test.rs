//! `sls test`: do the policies do what their tests say?

use std::collections::BTreeSet;
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::json;
use sls_core::{Capabilities, Diagnostic, Diagnostics, Limits, PolicySet, PolicyTests, TestOutcome};

use super::check::default_format;
use crate::args::{Format, TestArgs};
use crate::exit::{Answer, UnusablePolicies, show};
use crate::policies::{Documents, read};
use crate::render;

pub(crate) fn run(args: &TestArgs, format: Option<Format>) -> anyhow::Result<Answer> {
    let json = format.unwrap_or(default_format()) == Format::Json;
    let mut answer = Answer::Yes;
    let mut unreadable = None;
    let (mut policies, mut covered) = (BTreeSet::new(), BTreeSet::new());
    for file in &args.files {
        let name = file.display().to_string();
        match test(file, &name, args) {
            Ok(Tested { outcomes, own_policies }) => {
                if !outcomes.iter().all(TestOutcome::passed) {
                    answer = Answer::No;
                }
                if json {
                    for outcome in &outcomes {
                        print(&Line { file: &name, passed: outcome.passed(), outcome })?;
                    }
                } else {
                    write!(anstream::stdout(), "{}", render::tests(&name, &outcomes))?;
                }
                policies.extend(own_policies);
                covered.extend(outcomes.into_iter().flat_map(|outcome| outcome.responses));
            }
            Err(diagnostics) => {
                answer = Answer::No;
                if json {
                    print(&json!({"file": name, "passed": false, "diagnostics": diagnostics.as_slice()}))?;
                } else {
                    show(&diagnostics);
                }
                if let error @ UnusablePolicies::Unreadable = UnusablePolicies::of(&diagnostics) {
                    unreadable = Some(error);
                }
            }
        }
    }
    let uncovered: Vec<_> = policies.difference(&covered).collect();
    if !uncovered.is_empty() && args.filter.is_none() {
        if args.require_coverage {
            answer = Answer::No;
        }
        if json {
            print(&json!({"uncovered": uncovered}))?;
        } else {
            write!(anstream::stdout(), "{}", render::uncovered(&uncovered, args.require_coverage))?;
        }
    }
    // Whatever could be tested has been by now.
    unreadable.map_or(Ok(answer), |error| Err(error.into()))
}

fn print(line: &impl Serialize) -> anyhow::Result<()> {
    writeln!(stdout(), "{}", render::json(&serde_json::to_string(line)?))?;
    Ok(())
}

/// One test as a line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    file: &'a str,
    passed: bool,
    #[serde(flatten)]
    outcome: &'a TestOutcome,
}

/// What came of one file.
struct Tested {
    outcomes: Vec<TestOutcome>,
    /// The active policies that its tests are about. The built-in content is not, where it lies under others.
    own_policies: Vec<String>,
}

fn test(file: &Path, name: &str, args: &TestArgs) -> Result<Tested, Diagnostics> {
    let limits = Limits::default();
    let bytes = read(file, limits.document_bytes).map_err(|error| Diagnostic::unreadable(name, error))?;
    let tests = PolicyTests::with_limits(name, bytes, &limits)?;
    let directory = file.parent().unwrap_or(Path::new(""));
    let layers: Vec<_> = tests.policies().map(|path| directory.join(path)).collect();
    let under = if args.content && !layers.is_empty() { load(&[], true)? } else { PolicySet::default() };
    let policies = load(&layers, args.content)?;
    let is_own = |name: &str| under.policy(name).is_none() && tests.covers(name);
    let own_policies =
        policies.active().filter(|policy| is_own(&policy.name)).map(|policy| policy.name.to_string()).collect();
    let mut outcomes = tests.run(policies)?;
    outcomes.retain(|outcome| args.filter.as_ref().is_none_or(|filter| outcome.name.contains(filter)));
    Ok(Tested { outcomes, own_policies })
}

fn load(files: &[PathBuf], content: bool) -> Result<PolicySet, Diagnostics> {
    Documents::of(files, content).load(Capabilities::default())
}

//! `sls check`: is this a policy document?

use std::io::{IsTerminal, Write, stdout};

use serde_json::json;
use sls_core::{ActionSet, Capabilities, Mechanism};
use sls_probe::{Fanotify, Probe, ProbeBuilder};

use crate::args::{CheckArgs, Format};
use crate::exit::{Answer, UnusablePolicies, show};
use crate::policies::Documents;
use crate::render;
use crate::responders::supported;

pub(crate) fn run(args: &CheckArgs, format: Option<Format>) -> anyhow::Result<Answer> {
    let json = format.unwrap_or(default_format()) == Format::Json;
    let documents = Documents::of(&args.files, args.content);
    let mut out = anstream::stdout();
    match documents.load_for_this_host(capabilities(args.any_sensor, args.allow_unsafe_policies)) {
        Ok(policies) => {
            let warnings = policies.warnings();
            let (count, lists) = (policies.policies().len(), policies.lists().len());
            if args.effective {
                write!(stdout(), "{}", policies.effective_document())?;
            } else if json {
                let mut answer = json!({
                    "valid": true, "policies": count, "lists": lists, "hash": policies.hash(),
                    "diagnostics": warnings.as_slice(), "leftOut": policies.left_out().as_slice(),
                });
                if args.explain_tiers {
                    answer["tiers"] = json!(policies.explain_tiers());
                }
                writeln!(stdout(), "{}", render::json(&answer.to_string()))?;
            } else {
                let count = render::count(count as u64, "policy", "policies");
                let lists = render::count(lists as u64, "list", "lists");
                let warned = match warnings.as_slice().len() as u64 {
                    0 => String::new(),
                    some => format!(", {}", render::count(some, "warning", "warnings")),
                };
                writeln!(out, "valid: {count}, {lists}, hash {}{warned}", policies.hash())?;
            }
            if args.explain_tiers && !json {
                write!(out, "{}", render::tiers(&policies.explain_tiers()))?;
            }
            if args.effective || !json {
                for findings in [policies.left_out(), warnings] {
                    if !findings.is_empty() {
                        show(findings);
                    }
                }
            }
            if args.deny_warnings && !warnings.is_empty() {
                return Ok(Answer::No);
            }
        }
        Err(diagnostics) => {
            if json {
                let answer = json!({"valid": false, "diagnostics": diagnostics.as_slice()});
                writeln!(stdout(), "{}", render::json(&answer.to_string()))?;
            } else {
                show(&diagnostics);
            }
            return match UnusablePolicies::of(&diagnostics) {
                UnusablePolicies::Invalid => Ok(Answer::No),
                unreadable @ UnusablePolicies::Unreadable => Err(unreadable.into()),
            };
        }
    }
    Ok(Answer::Yes)
}

/// What the policies are checked against: any sensor, or this one with or without probes of the user's own.
pub(crate) fn capabilities(any_sensor: bool, unsafe_policies: bool) -> Capabilities {
    if any_sensor {
        return Capabilities::default();
    }
    let builder = Probe::builder().unsafe_probes(unsafe_policies).kernel_tier(true);
    capabilities_of(&builder, supported()).unsafe_policies(unsafe_policies)
}

/// What a probe as `builder` has it and these actions can do together.
pub(crate) fn capabilities_of(builder: &ProbeBuilder, actions: ActionSet) -> Capabilities {
    let capabilities = Capabilities::new(|kind| builder.provides(kind), actions)
        .unavailable(|policy_type| builder.unavailable(policy_type));
    let capabilities = builder.tier_hooks().into_iter().fold(capabilities, Capabilities::hook);
    let missing = Mechanism::ALL.iter().filter_map(|mechanism| Some((*mechanism, builder.no_mechanism(*mechanism)?)));
    let capabilities =
        missing.fold(capabilities, |capabilities, (mechanism, reason)| capabilities.no_mechanism(mechanism, reason));
    Fanotify::offer(capabilities)
}

/// `human` on a terminal, `json` elsewhere.
pub(crate) fn default_format() -> Format {
    if stdout().is_terminal() { Format::Human } else { Format::Json }
}

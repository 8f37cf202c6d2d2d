//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use sls_core::{EventKind, MessageType, PolicyType};

use sls_probe::DEFAULT_PIN_PATH;

use crate::output::OutputSpec;
use crate::responders::SACRIFICE;

/// An open Linux runtime sensor: policies in YAML go in, kernel events are matched against them, and the sensor answers
/// an attack while it happens.
#[derive(Debug, Parser)]
#[command(name = "sls", version, max_term_width = 100)]
pub(crate) struct Args {
    /// How to write what is asked for; the default is `human` on a terminal, `json` elsewhere.
    #[arg(long, global = true, value_enum)]
    pub(crate) format: Option<Format>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// For whom output is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For a person.
    Human,
    /// For a program.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the sensor.
    Run(RunArgs),
    /// Check policy documents, and say what is wrong with them and where.
    Check(CheckArgs),
    /// Print the keys, fields, operators and actions that policies can use.
    Fields(FieldsArgs),
    /// Print the JSON Schema of policy documents, with which an editor completes and checks them.
    Schema,
    /// Say, for each event, what every test of every policy gave and which rule decided.
    Explain(ExplainArgs),
    /// Feed recorded events to policies and print the alerts. Actions are always dry run.
    Replay(ReplayArgs),
    /// Run tests of policies: files of events and of the responses expected to them.
    Test(TestArgs),
    /// Print live events as JSON lines.
    Record(RecordArgs),
    /// Let a container go on that `pause-container` has paused.
    Thaw(ThawArgs),
    /// Print the guards: what no policy acts upon, and why.
    Guards(GuardsArgs),
    /// Tell a running sensor to close its circuit breakers, so that its policies act again.
    Rearm(RearmArgs),
    /// Remove the kernel tier that a sensor has pinned: without a sensor that runs, its policies are out of force then.
    Unpin(UnpinArgs),
    /// Continue a process that the action `stop` has suspended.
    Resume(ResumeArgs),
    /// Say what the running kernel offers, which hooks are used, which policies cannot work here, and which actions do:
    /// each is tried on a child, cgroup or file of its own.
    Doctor(DoctorArgs),
    /// Look at quarantined files, put them back, or remove them for good.
    Quarantine(QuarantineArgs),
    /// Do nothing, for a test of actions.
    #[command(hide = true, name = SACRIFICE)]
    Sacrifice,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// A policy document, above the built-in content; several are layers in this order. Without any: the built-in content
    /// alone, in dry run.
    #[arg(long = "policy", value_name = "FILE")]
    pub(crate) policies: Vec<PathBuf>,
    /// Leave the built-in content out.
    #[arg(long)]
    pub(crate) no_content: bool,
    /// Configuration file; what the command line says overrides it.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Plan, guard and report actions, but carry none out.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Refuse to start where an action that the policies ask for does not work.
    #[arg(long)]
    pub(crate) require_actions: bool,
    /// Accept policies that put probes of their own into the kernel and into programs (`kprobe`, `uprobe`).
    #[arg(long)]
    pub(crate) allow_unsafe_policies: bool,
    /// Keep policies that the kernel decides in force when the sensor has ended, however it did (`sls unpin` ends that).
    #[arg(long)]
    pub(crate) pin: bool,
    /// Keep all capabilities, instead of only those that the sensor needs.
    #[arg(long)]
    pub(crate) keep_capabilities: bool,
    /// Where alerts go: `stdout`, `stdout:human`, `stdout:json`, `file:PATH` or `unix:PATH`. May be given several times.
    #[arg(long = "output", value_name = "SPEC")]
    pub(crate) outputs: Vec<OutputSpec>,
    /// Only alerts of these message types: `alert`, `smart_policy`, `audit`; the default is the first two.
    #[arg(long = "message-type", value_parser = message_type, value_name = "TYPE")]
    pub(crate) message_types: Vec<MessageType>,
    /// Show every program that is executed as well, on standard error.
    #[arg(long)]
    pub(crate) show_events: bool,
    /// Stop after this time, such as `30s` or `5m`.
    #[arg(long, value_parser = humantime::parse_duration)]
    pub(crate) duration: Option<Duration>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CheckArgs {
    /// Policy documents; several are layers in this order.
    #[arg(required_unless_present = "content", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Put the built-in content under them, as `sls run` does.
    #[arg(long)]
    pub(crate) content: bool,
    /// Accept also what this version of the sensor cannot see or do, but another may.
    #[arg(long)]
    pub(crate) any_sensor: bool,
    /// Accept policies that put probes of their own into the kernel and into programs (`kprobe`, `uprobe`).
    #[arg(long)]
    pub(crate) allow_unsafe_policies: bool,
    /// Print the merged document.
    #[arg(long)]
    pub(crate) effective: bool,
    /// Say by which tier each policy is enforced, and why not by a stronger one.
    #[arg(long, conflicts_with = "effective")]
    pub(crate) explain_tiers: bool,
    /// Answer no, with exit status 1, also if there are warnings.
    #[arg(long)]
    pub(crate) deny_warnings: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct FieldsArgs {
    /// Only what policies of this type can use.
    #[arg(value_parser = policy_type, value_name = "TYPE")]
    pub(crate) policy_type: Option<PolicyType>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct EventsArgs {
    /// A policy document; several are layers in this order. Without any: the built-in content.
    #[arg(long = "policy", value_name = "FILE")]
    pub(crate) policies: Vec<PathBuf>,
    /// Put the built-in content under them, as `sls run` does.
    #[arg(long)]
    pub(crate) content: bool,
    /// Events as JSON lines; standard input if left out or `-`.
    #[arg(value_name = "EVENTS")]
    pub(crate) events: Option<PathBuf>,
    /// Skip unknown keys of events instead of stopping, and say how many there were.
    #[arg(long)]
    pub(crate) lenient: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ReplayArgs {
    #[command(flatten)]
    pub(crate) events: EventsArgs,
    /// Measure what each policy costs, and say it on standard error at the end: a table, or JSON with `--format json`.
    #[arg(long)]
    pub(crate) costs: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ExplainArgs {
    #[command(flatten)]
    pub(crate) events: EventsArgs,
    /// Configuration file of `sls run`: its policies, unless `--policy` names others, its guards and its dry run.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Only this policy. May be given several times.
    #[arg(long = "policy-name", value_name = "NAME")]
    pub(crate) policy_names: Vec<String>,
    /// Leave out policies that ignore the event, and events that all of them ignore.
    #[arg(long)]
    pub(crate) matches: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct TestArgs {
    /// Files of tests. The policies that one names are relative to it.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Put the built-in content under the policies, as `sls run` does.
    #[arg(long)]
    pub(crate) content: bool,
    /// Only tests whose name has this text in it.
    #[arg(long, value_name = "TEXT")]
    pub(crate) filter: Option<String>,
    /// Fail when there is a policy that no test makes respond.
    #[arg(long, conflicts_with = "filter")]
    pub(crate) require_coverage: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ThawArgs {
    /// The container's id, or a beginning of it that no other container has, of four characters at least.
    #[arg(value_parser = container_id, value_name = "CONTAINER")]
    pub(crate) container: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DoctorArgs {
    /// Configuration file of `sls run`: its policies, unless `--policy` names others, and what it says of actions.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// A policy document, above the built-in content: say what is attached for these. Without any: the built-in content.
    #[arg(long = "policy", value_name = "FILE")]
    pub(crate) policies: Vec<PathBuf>,
    /// Leave the built-in content out.
    #[arg(long, requires = "policies")]
    pub(crate) no_content: bool,
    /// Accept policies that put probes of their own into the kernel and into programs (`kprobe`, `uprobe`).
    #[arg(long)]
    pub(crate) allow_unsafe_policies: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct GuardsArgs {
    /// Configuration file of `sls run`.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RearmArgs {
    /// Process id of the sensor.
    #[arg(value_name = "PID")]
    pub(crate) pid: u32,
}

#[derive(Debug, clap::Args)]
pub(crate) struct UnpinArgs {
    /// Where it is pinned (`pinDirectory`).
    #[arg(long, value_name = "DIR", default_value = DEFAULT_PIN_PATH)]
    pub(crate) path: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ResumeArgs {
    /// Its process id in the host's PID namespace.
    #[arg(value_parser = clap::value_parser!(u32).range(1..=0x7fff_ffff), value_name = "PID")]
    pub(crate) pid: u32,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RecordArgs {
    /// Only events of this kind, such as `exec`, `file` or `connect`. May be given several times.
    #[arg(long = "kind", value_parser = event_kind)]
    pub(crate) kinds: Vec<EventKind>,
    /// Stop after this time, such as `30s` or `5m`.
    #[arg(long, value_parser = humantime::parse_duration)]
    pub(crate) duration: Option<Duration>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct QuarantineArgs {
    /// Directory of the store; otherwise that of the configuration, or else `/.sls-quarantined/`.
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,
    /// Configuration file of `sls run`.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: QuarantineCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum QuarantineCommand {
    /// List the quarantined files, oldest first.
    List,
    /// Show all that is known of one.
    Show {
        /// Id of the entry, or the beginning of it.
        id: String,
    },
    /// Put a file back as it was. A file that has its name by now is not replaced.
    Restore {
        /// Id of the entry, or the beginning of it.
        id: String,
        /// Put it here instead of its original path.
        #[arg(long, value_name = "PATH")]
        to: Option<PathBuf>,
        /// Also if its content changed after it was quarantined, or was too long to tell.
        #[arg(long)]
        accept_changed: bool,
    },
    /// Remove files for good.
    Purge {
        /// Ids of the entries, or the beginnings of them.
        #[arg(value_name = "ID", required_unless_present_any = ["older_than", "all"])]
        ids: Vec<String>,
        /// Those that were quarantined longer ago than this, such as `30d`.
        #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME", conflicts_with_all = ["ids", "all"])]
        older_than: Option<Duration>,
        /// All of them.
        #[arg(long, conflicts_with = "ids")]
        all: bool,
    },
}

/// The shortest beginning of a container's id that is taken for it.
const MIN_CONTAINER_ID: usize = 4;

fn container_id(text: &str) -> Result<String, String> {
    let long_enough = text.chars().count() >= MIN_CONTAINER_ID;
    long_enough.then(|| text.to_owned()).ok_or_else(|| format!("expected at least {MIN_CONTAINER_ID} characters"))
}

fn policy_type(name: &str) -> Result<PolicyType, String> {
    PolicyType::from_name(name).ok_or_else(|| one_of(PolicyType::ALL.iter().map(|value| value.name())))
}

fn event_kind(name: &str) -> Result<EventKind, String> {
    EventKind::from_name(name).ok_or_else(|| one_of(EventKind::ALL.iter().map(|value| value.name())))
}

pub(crate) fn message_type(name: &str) -> Result<MessageType, String> {
    MessageType::from_name(name).ok_or_else(|| one_of(MessageType::ALL.iter().map(|value| value.name())))
}

fn one_of<'n>(names: impl Iterator<Item = &'n str>) -> String {
    format!("expected one of {}", names.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn run_takes_layers_and_outputs() {
        let args = Args::parse_from([
            "sls",
            "run",
            "--policy",
            "a",
            "--policy",
            "b",
            "--output",
            "file:/x",
            "--duration",
            "1m30s",
        ]);
        let Command::Run(run) = args.command else { panic!("not run") };
        assert_eq!(run.policies.len(), 2);
        assert_eq!(run.duration, Some(Duration::from_secs(90)));
        assert!(Args::try_parse_from(["sls", "run", "--output", "smoke-signals"]).is_err());
        assert!(Args::try_parse_from(["sls", "record", "--kind", "nonsense"]).is_err());
    }
}

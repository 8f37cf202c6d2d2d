//! The configuration file of `sls run`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Deserializer};
use sls_core::{BreakerLimits, Guard, Guards, Lane, MessageType};
use sls_probe::{CgroupBudget, ProbeBuilder};

use crate::args::message_type;
use crate::output::OutputSpec;

/// What the file may say. Every key is optional; the command line goes before it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Policy documents, as layers in this order. Relative paths are relative to the configuration file.
    pub(crate) policies: Vec<PathBuf>,
    /// Whether the built-in content is the first layer; the default is yes.
    pub(crate) content: Option<bool>,
    /// Plan, guard and report actions, but carry none out.
    pub(crate) dry_run: bool,
    /// Refuse to start where an action that the policies ask for does not work.
    pub(crate) require_actions: bool,
    /// Accept policies that put probes of their own into the kernel and into programs.
    pub(crate) allow_unsafe_policies: bool,
    /// Where alerts go.
    pub(crate) outputs: Vec<OutputSpec>,
    /// Only alerts of these message types; `alert` and `smart_policy` if there are none.
    #[serde(deserialize_with = "message_types")]
    pub(crate) message_types: Vec<MessageType>,
    /// Resolved paths of programs that are never acted upon; `*` is a wildcard.
    pub(crate) protected_programs: Vec<String>,
    /// Where quarantined files are put; `/.sls-quarantined/` if it is left out.
    pub(crate) quarantine_directory: Option<PathBuf>,
    /// How containers are paused.
    pub(crate) pause_container: PauseContainer,
    /// Resolved paths of files that are never acted upon; `*` is a wildcard.
    pub(crate) protected_paths: Vec<String>,
    /// Paths of cgroups in the v2 hierarchy, whose processes, and those in cgroups below, are never acted upon.
    pub(crate) protected_cgroups: Vec<PathBuf>,
    /// Refuse what others would do to the sensor itself: signals, ptrace, access to its BPF objects.
    pub(crate) self_protection: bool,
    /// Programs that may do it all the same, such as a container runtime that has to stop the sensor.
    pub(crate) self_protection_exempt: Vec<PathBuf>,
    /// Other guards.
    pub(crate) guards: Vec<Guard>,
    /// When the circuit breaker trips.
    pub(crate) breaker: BreakerConfig,
    /// How long a policy that is new only dry-runs.
    #[serde(deserialize_with = "duration")]
    pub(crate) warm_up: Option<Duration>,
    /// Bytes of both ring buffers together, a power of two.
    pub(crate) ring_bytes: Option<u32>,
    /// Bytes of the ring of processes, a power of two, where that is not a half.
    pub(crate) process_ring_bytes: Option<u32>,
    /// The same of the ring of activities.
    pub(crate) activity_ring_bytes: Option<u32>,
    /// What one cgroup may send by a ring that fills.
    pub(crate) cgroup_budgets: CgroupBudgets,
    /// The most processes that are remembered.
    pub(crate) process_limit: Option<usize>,
}

/// What one cgroup may send by a ring of which more than a half is filled, where that differs from the default.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct CgroupBudgets {
    process: Option<CgroupBudgetConfig>,
    activity: Option<CgroupBudgetConfig>,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CgroupBudgetConfig {
    bytes_per_second: u32,
    /// Zero: no budget.
    burst_bytes: u32,
}

/// Settings of the action `pause-container`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct PauseContainer {
    /// Time after which a container goes on, such as `5m`; without it, containers stay paused until someone thaws them.
    #[serde(deserialize_with = "duration")]
    pub(crate) thaw_after: Option<Duration>,
}

/// When the circuit breaker trips, where that differs from the default.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct BreakerConfig {
    policy_targets: Option<usize>,
    sensor_targets: Option<usize>,
    #[serde(deserialize_with = "duration")]
    window: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    cool_down: Option<Duration>,
}

impl BreakerConfig {
    pub(crate) fn limits(&self) -> BreakerLimits {
        let default = BreakerLimits::default();
        default
            .policy_targets(self.policy_targets.unwrap_or(default.policy_targets))
            .sensor_targets(self.sensor_targets.unwrap_or(default.sensor_targets))
            .window(self.window.unwrap_or(default.window))
            .cool_down(self.cool_down.unwrap_or(default.cool_down))
    }
}

impl Config {
    /// Reads the file.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut config: Self =
            serde_yaml::from_str(&text).with_context(|| format!("{} is not a configuration", path.display()))?;
        let directory = path.parent().unwrap_or(Path::new(""));
        for policy in &mut config.policies {
            *policy = directory.join(&*policy);
        }
        for program in &mut config.self_protection_exempt {
            *program = directory.join(&*program);
        }
        if let Some(quarantine) = &mut config.quarantine_directory {
            *quarantine = directory.join(&*quarantine);
        }
        Ok(config)
    }

    /// Gives the probe's lanes the room that they should have.
    pub(crate) fn lanes(&self, mut builder: ProbeBuilder) -> ProbeBuilder {
        if let Some(bytes) = self.ring_bytes {
            builder = builder.ring_bytes(bytes);
        }
        let budgets = &self.cgroup_budgets;
        let lanes = [
            (Lane::Process, self.process_ring_bytes, budgets.process),
            (Lane::Activity, self.activity_ring_bytes, budgets.activity),
        ];
        for (lane, bytes, budget) in lanes {
            if let Some(bytes) = bytes {
                builder = builder.lane_bytes(lane, bytes);
            }
            if let Some(budget) = budget {
                let budget = CgroupBudget::new(budget.bytes_per_second, budget.burst_bytes);
                builder = builder.cgroup_budget(lane, budget);
            }
        }
        builder
    }

    /// The guards that it adds to others, but for those of cgroups, which are known only on the host.
    pub(crate) fn guards(&self, guards: Guards) -> Guards {
        let guards = self.protected_programs.iter().fold(guards, |guards, path| guards.protect_program(path.as_str()));
        let guards = self.protected_paths.iter().fold(guards, |guards, path| guards.protect_path(path.as_str()));
        self.guards.iter().cloned().fold(guards, Guards::with_guard)
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    humantime::parse_duration(&text).map(Some).map_err(|error| serde::de::Error::custom(format!("`{text}`: {error}")))
}

fn message_types<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<MessageType>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    names.iter().map(|name| message_type(name)).collect::<Result<_, _>>().map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use sls_probe::DEFAULT_RING_BYTES;

    use super::*;

    /// What the documentation shows.
    fn documented() -> Config {
        let docs = include_str!("../../docs/policies.md");
        let (_, section) = docs.split_once("## Configuration of the daemon").unwrap();
        let (_, block) = section.split_once("```yaml\n").unwrap();
        serde_yaml::from_str(block.split_once("```").unwrap().0).unwrap()
    }

    #[test]
    fn documented_sizes_of_the_lanes_are_the_default() {
        let config = documented();
        let half = DEFAULT_RING_BYTES / 2;
        assert_eq!(config.ring_bytes, Some(DEFAULT_RING_BYTES));
        assert_eq!((config.process_ring_bytes, config.activity_ring_bytes), (Some(half), Some(half)));
        let budget = Some(CgroupBudgetConfig { bytes_per_second: half / 16, burst_bytes: half / 16 });
        assert_eq!(config.cgroup_budgets, CgroupBudgets { process: budget, activity: budget });
    }

    #[test]
    fn lanes_have_the_sizes_that_are_asked_for() {
        let loaded = |text: &str| {
            let config: Config = serde_yaml::from_str(text).unwrap();
            config.lanes(sls_probe::Probe::builder()).load().unwrap_err().to_string()
        };
        assert!(loaded("ringBytes: 1000\n").contains("1000 bytes together"));
        assert!(loaded("ringBytes: 1048576\nactivityRingBytes: 70000\n").contains("70000 bytes for the activity lane"));
        assert!(loaded("processRingBytes: 1024\n").contains("1024 bytes for the process lane"));
        assert!(serde_yaml::from_str::<Config>("cgroupBudgets: {process: {burstBytes: 1}}\n").is_err());
    }

    #[test]
    fn keys_are_checked() {
        let config: Config =
            serde_yaml::from_str("policies: [a.yaml]\noutputs: ['file:/x']\nmessageTypes: [audit]\n").unwrap();
        assert_eq!(config.policies, [PathBuf::from("a.yaml")]);
        assert_eq!(config.outputs, ["file:/x".parse().unwrap()]);
        assert_eq!(config.message_types, [MessageType::Audit]);
        let config: Config =
            serde_yaml::from_str("selfProtection: true\nselfProtectionExempt: [/usr/bin/runc]\n").unwrap();
        assert_eq!((config.self_protection, &*config.self_protection_exempt), (true, &["/usr/bin/runc".into()][..]));
        assert!(!Config::default().self_protection);
        let config: Config = serde_yaml::from_str("pauseContainer: {thawAfter: 5m}").unwrap();
        assert_eq!(config.pause_container.thaw_after, Some(Duration::from_secs(300)));
        assert!(serde_yaml::from_str::<Config>("pauseContainer: {thawAfter: soon}").is_err());
        assert!(serde_yaml::from_str::<Config>("messageTypes: [noise]").is_err());
        let error = serde_yaml::from_str::<Config>("polices: []").unwrap_err().to_string();
        assert!(error.contains("unknown field `polices`"), "{error}");
    }

    #[test]
    fn guards_are_data() {
        let text = "
protectedPaths: [/srv/*]
guards: [{name: db, reason: it is the database, program: /opt/db/*}]
breaker: {policyTargets: 3, coolDown: 2m}
warmUp: 10m
";
        let config: Config = serde_yaml::from_str(text).unwrap();
        let guards = config.guards(Guards::none());
        let shown: Vec<_> = guards.iter().map(|guard| format!("{}: {}", guard.name, guard.protects)).collect();
        assert_eq!(shown, ["protected-path: file /srv/*", "db: program /opt/db/*"]);
        let default = BreakerLimits::default();
        assert_eq!(config.breaker.limits(), default.policy_targets(3).cool_down(Duration::from_secs(120)));
        assert_eq!(config.warm_up, Some(Duration::from_secs(600)));
        for text in ["breaker: {targets: 3}", "warmUp: soon", "guards: [{name: x}]", "breaker: {window: 5}"] {
            assert!(serde_yaml::from_str::<Config>(text).is_err(), "{text}");
        }
    }
}

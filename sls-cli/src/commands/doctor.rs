//! `sls doctor`: what works on this kernel.

use std::collections::BTreeMap;
use std::io::Write;

use serde_json::{Value, json};
use sls_actions::{SelfTestResult, in_host_pid_namespace};
use sls_core::{Capabilities, Mechanism, PolicyType};
use sls_probe::{HostInfo, KernelSupport, KernelTier, PinnedTier, Probe, SelfProtection};

use super::check::{capabilities, default_format};
use super::unpin;
use crate::args::{DoctorArgs, Format};
use crate::config::Config;
use crate::exit::{Answer, UnusablePolicies};
use crate::policies::Documents;
use crate::render;
use crate::responders::{ResponderSettings, supported};

pub(crate) fn run(args: &DoctorArgs, format: Option<Format>) -> anyhow::Result<Answer> {
    let config = args.config.as_deref().map(Config::read).transpose()?.unwrap_or_default();
    let unsafe_policies = args.allow_unsafe_policies || config.allow_unsafe_policies;
    let capabilities = capabilities(false, unsafe_policies);
    let files = if args.policies.is_empty() { config.policies.clone() } else { args.policies.clone() };
    let documents = Documents { content: !args.no_content && config.content.unwrap_or(true), files };
    let policies = documents.load(capabilities.clone()).map_err(|diagnostics| UnusablePolicies::shown(&diagnostics))?;
    let support = KernelSupport::of(&Probe::builder().unsafe_probes(unsafe_policies).interest(policies.interest()));
    let report = Report {
        host: HostInfo::read(),
        types: PolicyType::ALL.iter().map(|name| (*name, verdict(&capabilities, *name))).collect(),
        mechanisms: Mechanism::ALL.iter().map(|mechanism| (*mechanism, missing(&capabilities, *mechanism))).collect(),
        policies: policies.active().count(),
        left_out: policies.left_out().as_slice().len(),
        support,
        no_self_protection: SelfProtection::missing(),
        pinned: KernelTier::pinned(config.pin_path()).map_err(|error| error.to_string()),
        in_host_pid_namespace: in_host_pid_namespace()?,
        actions: ResponderSettings::new(&config).test_all()?,
    };
    let mut out = anstream::stdout();
    if format.unwrap_or(default_format()) == Format::Json {
        writeln!(out, "{}", render::json(&report.json().to_string()))?;
    } else {
        write!(out, "{}", report.text())?;
    }
    let acts = report.actions.iter().all(SelfTestResult::works);
    let works = report.support.unusable.is_none() && report.support.permitted && acts;
    Ok(if works { Answer::Yes } else { Answer::No })
}

struct Report {
    host: HostInfo,
    support: KernelSupport,
    /// Why policies of a type do not work; none if they do.
    types: Vec<(PolicyType, Option<String>)>,
    /// Why operations cannot be decided by a mechanism; none if they can.
    mechanisms: Vec<(Mechanism, Option<String>)>,
    policies: usize,
    left_out: usize,
    /// Why the sensor cannot protect itself; none if it can.
    no_self_protection: Option<String>,
    /// The kernel tiers that are pinned; or why that is not known.
    pinned: Result<Vec<PinnedTier>, String>,
    in_host_pid_namespace: bool,
    /// What came of trying each action.
    actions: Vec<SelfTestResult>,
}

impl Report {
    fn text(&self) -> String {
        let Self { host, support, .. } = self;
        let works = support.families.iter().filter(|(_, works)| *works).map(|(family, _)| family.name());
        let mut lines = vec![
            format!("kernel      {} {}", host.kernel_release, host.arch),
            format!("BPF         {}", self.verdict()),
            format!("hooks       {} (works here: {})", support.family, works.collect::<Vec<_>>().join(", ")),
            match &support.cgroup_root {
                Some(path) => format!("cgroup v2   {}", path.display()),
                None => "cgroup v2   not mounted: the probe mounts it for itself".to_owned(),
            },
            match support.tracefs_mounted {
                true => "tracefs     mounted".to_owned(),
                false => "tracefs     not mounted: the probe mounts it for itself".to_owned(),
            },
            match self.in_host_pid_namespace {
                true => "pids        those of the host".to_owned(),
                false => "pids        not those of the host: no action can work (hostPID: true, docker run --pid=host)"
                    .to_owned(),
            },
            match &self.no_self_protection {
                None => "protection  of the sensor itself: works here (selfProtection)".to_owned(),
                Some(reason) => format!("protection  of the sensor itself: no: {reason}"),
            },
            match &self.pinned {
                Err(error) => format!("pinned      not known: {error}"),
                Ok(tiers) if tiers.is_empty() => "pinned      nothing".to_owned(),
                Ok(tiers) => {
                    format!(
                        "pinned      {}",
                        tiers.iter().map(unpin::describe).collect::<Vec<_>>().join("\n            ")
                    )
                }
            },
            format!("policies    {} active, {} left out of the built-in content", self.policies, self.left_out),
            String::new(),
            "event         attached for these policies".to_owned(),
        ];
        for kind in &support.kinds {
            let points = match (kind.wanted.is_empty(), kind.hooks.is_empty()) {
                (false, _) => kind.wanted.join(" "),
                (true, false) => "nothing: not needed".to_owned(),
                (true, true) => "nothing: not offered here".to_owned(),
            };
            lines.push(format!("{:<13} {points}", kind.kind.name()));
        }
        lines.extend([String::new(), "decided by           works here".to_owned()]);
        for (mechanism, missing) in &self.mechanisms {
            let verdict = missing.as_deref().map_or("yes".to_owned(), |reason| format!("no: {reason}"));
            lines.push(format!("{:<20} {verdict}", mechanism.name()));
        }
        lines.extend([String::new(), "action              works here".to_owned()]);
        for tried in &self.actions {
            let verdict = tried.outcome.reason().map_or("yes".to_owned(), |reason| format!("no: {reason}"));
            lines.push(format!("{:<19} {verdict}", tried.action.token()));
        }
        lines.extend([String::new(), "policy type         works here".to_owned()]);
        for (policy_type, reason) in &self.types {
            let verdict = match reason.as_deref() {
                None => "yes".to_owned(),
                Some("") => "no".to_owned(),
                Some(reason) => format!("no: {reason}"),
            };
            lines.push(format!("{:<19} {verdict}", policy_type.name()));
        }
        lines.join("\n") + "\n"
    }

    fn verdict(&self) -> String {
        match (&self.support.unusable, self.support.permitted) {
            (Some(error), _) => error.to_string(),
            (None, true) => "yes".to_owned(),
            (None, false) => "not permitted to this user: what follows is a guess".to_owned(),
        }
    }

    fn json(&self) -> Value {
        let Self { host, support, .. } = self;
        let families: BTreeMap<_, _> = support.families.iter().map(|(family, works)| (family.name(), *works)).collect();
        let types: BTreeMap<_, _> = self.types.iter().map(|(name, reason)| (name.name(), reason.is_none())).collect();
        let reasons = self.types.iter().filter_map(|(name, reason)| Some((name.name(), reason.as_deref()?)));
        let reasons: BTreeMap<_, _> = reasons.filter(|(_, reason)| !reason.is_empty()).collect();
        let kinds = support
            .kinds
            .iter()
            .map(|kind| json!({"kind": kind.kind.name(), "hooks": kind.hooks, "attached": kind.wanted}));
        let tried = self.actions.iter().map(|tried| {
            let answer = match tried.outcome.reason() {
                None => json!({"works": true}),
                Some(reason) => json!({"works": false, "reason": reason}),
            };
            (tried.action.token(), answer)
        });
        let mechanisms = self.mechanisms.iter().map(|(mechanism, missing)| {
            let answer = match missing {
                None => json!({"works": true}),
                Some(reason) => json!({"works": false, "reason": reason}),
            };
            (mechanism.name(), answer)
        });
        let self_protection = match &self.no_self_protection {
            None => json!({"works": true}),
            Some(reason) => json!({"works": false, "reason": reason}),
        };
        let pinned = self.pinned.as_ref().map(|tiers| tiers.iter().map(unpin::json).collect::<Vec<_>>());
        json!({
            "selfProtection": self_protection,
            "pinned": pinned.ok(),
            "kernel": host.kernel_release,
            "arch": host.arch,
            "usable": support.unusable.is_none(),
            "reason": support.unusable.as_ref().map(ToString::to_string),
            "permitted": support.permitted,
            "hookFamily": support.family.name(),
            "hookFamilies": families,
            "cgroupRoot": support.cgroup_root,
            "tracefsMounted": support.tracefs_mounted,
            "actions": supported().iter().map(|action| action.to_string()).collect::<Vec<_>>(),
            "inHostPidNamespace": self.in_host_pid_namespace,
            "actionsTested": tried.collect::<BTreeMap<_, _>>(),
            "mechanisms": mechanisms.collect::<BTreeMap<_, _>>(),
            "policies": self.policies,
            "leftOut": self.left_out,
            "events": kinds.collect::<Vec<_>>(),
            "policyTypes": types,
            "reasons": reasons,
        })
    }
}

/// What is missing for a mechanism; none if it works here. User space can always act after the fact.
fn missing(capabilities: &Capabilities, mechanism: Mechanism) -> Option<String> {
    if mechanism == Mechanism::Pidfd || capabilities.hooks().iter().any(|hook| hook.mechanism() == mechanism) {
        return None;
    }
    Some(capabilities.why_no_mechanism(mechanism).unwrap_or("this sensor does not have it").to_owned())
}

/// Why policies of the type do not work here; empty if there is no more to say.
fn verdict(capabilities: &Capabilities, policy_type: PolicyType) -> Option<String> {
    if let Some(reason) = capabilities.why_unavailable(policy_type) {
        return Some(reason.to_owned());
    }
    if !capabilities.allows_type(policy_type) {
        return Some("not allowed (--allow-unsafe-policies)".to_owned());
    }
    (!capabilities.offers_type(policy_type)).then(String::new)
}

//! Policies and lists as the engine uses them: checked, typed, without the text they came from.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::action::{ActionSet, Tier};
use crate::diagnostic::Diagnostics;
use crate::interest::Interest;
use crate::list::{Entries, HostName, List};
use crate::rule::Rule;
use crate::schema::FieldSet;
use crate::tiers::{TierCase, Tiers};
use crate::trigger::TypeOptions;

macro_rules! names {
    ($( #[$meta:meta] )* $vis:vis enum $name:ident { $( $variant:ident $text:literal $meaning:literal, )+ }) => {
        $( #[$meta] )*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        $vis enum $name { $( #[doc = $meaning] $variant, )+ }

        impl $name {
            /// Every value.
            pub const ALL: &'static [Self] = &[ $( Self::$variant, )+ ];

            /// The names of all values.
            pub(crate) const NAMES: &'static [&'static str] = &[ $( $text, )+ ];

            /// The name in policies and alerts.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $( Self::$variant => $text, )+ }
            }

            /// What it means.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $( Self::$variant => $meaning, )+ }
            }

            /// The value called `name`; names are case-sensitive.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.name() == name)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

pub(crate) use names;

names! {
    /// What raises a policy's events.
    pub enum PolicyType {
        Program "program" "a program is executed",
        File "file" "a file is created, or opened for writing, renamed to, linked to",
        FileMonitor "filemonitor" "any change under a path",
        NewFileExec "newFileExec" "a file created or modified lately is executed",
        Chmod "chmod" "a mode change that sets one of the chosen bits",
        Connect "connect" "an outbound connection",
        NetworkService "networkService" "an inbound connection is accepted; a socket listens",
        InteractiveShell "interactiveShell" "a shell starts on a terminal or on a socket",
        Ptrace "ptrace" "a process reaches into another",
        MemoryProtection "memoryProtection" "memory becomes executable that should not",
        Segfault "segfault" "a program crashes more often than tolerated",
        PrivilegeEscalation "privilegeEscalation" "credentials rise without a setuid program or a set*id call",
        KernelModule "kernelModule" "kernel code is loaded",
        Userfaultfd "userfaultfd" "a userfaultfd is created",
        Container "container" "a container starts or stops",
        Selinux "selinux" "SELinux is switched off, permissive, or its policy is replaced",
        KernelPayload "kernelPayload" "a kernel function returns into user memory",
        SmepSmap "smepSmap" "SMEP, SMAP or write protection is switched off",
        Kprobe "kprobe" "a kernel probe that the user defines",
        Uprobe "uprobe" "a user-space probe that the user defines",
    }
}

names! {
    /// How much an alert matters.
    pub enum Priority {
        High "High" "needs attention now",
        Medium "Medium" "needs attention",
        Low "Low" "worth knowing",
        Info "Info" "for the record",
    }
}

names! {
    /// How sure a policy is that what it matches is no false positive.
    pub enum Confidence {
        High "High" "false positives are rare",
        Medium "Medium" "false positives happen",
        Low "Low" "false positives are common",
    }
}

names! {
    /// What a policy does with an event that a rule could not decide, for a value that it needs is not known.
    pub enum OnUnknown {
        Alert "alert" "raise the alert, take no other action",
        Ignore "ignore" "do nothing",
        Act "act" "respond as to a match",
    }
}

names! {
    /// What becomes of an operation that waited for a decision until its deadline.
    pub enum OnDeadline {
        Allow "allow" "it goes on: a sensor that is slow or gone stops nothing",
        Deny "deny" "it is refused: what was not decided does not happen",
    }
}

impl PolicyType {
    /// Whether an event of the type has a process that responses can act on.
    #[must_use]
    pub fn has_acting_process(self) -> bool {
        !matches!(self, Self::Container | Self::Selinux | Self::SmepSmap)
    }

    /// Whether an event of the type has a file that responses can act on.
    #[must_use]
    pub fn has_file(self) -> bool {
        matches!(self, Self::File | Self::FileMonitor | Self::NewFileExec | Self::Chmod)
    }

    /// The words that name the policy in alerts, as in "Program Policy".
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Program => "Program",
            Self::File => "File",
            Self::FileMonitor => "File Monitor",
            Self::NewFileExec => "New File Exec",
            Self::Chmod => "Chmod",
            Self::Connect => "Connect",
            Self::NetworkService => "Network Service",
            Self::InteractiveShell => "Interactive Shell",
            Self::Ptrace => "Ptrace",
            Self::MemoryProtection => "Memory Protection",
            Self::Segfault => "Segfault",
            Self::PrivilegeEscalation => "Privilege Escalation",
            Self::KernelModule => "Kernel Module",
            Self::Userfaultfd => "Userfaultfd",
            Self::Container => "Container",
            Self::Selinux => "SELinux",
            Self::KernelPayload => "Kernel Payload",
            Self::SmepSmap => "SMEP SMAP",
            Self::Kprobe => "Kprobe",
            Self::Uprobe => "Uprobe",
        }
    }
}

/// A checked policy.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Policy {
    /// Display name, unique in a [`PolicySet`].
    pub name: Arc<str>,
    /// What raises its events.
    pub policy_type: PolicyType,
    /// What its type has beside that.
    pub options: TypeOptions,
    /// Whether it takes part.
    pub enabled: bool,
    /// The alert's `description`.
    pub alert_message: String,
    /// The alert's `comments`.
    pub comments: String,
    /// The alert's priority.
    pub priority: Priority,
    /// The alert's confidence.
    pub confidence: Confidence,
    /// The alert's categories.
    pub categories: Vec<String>,
    /// Labels copied into each alert.
    pub alert_labels: BTreeMap<String, String>,
    /// Content group, dotted.
    pub group: Option<String>,
    /// The rules in order; the last one is the default.
    pub rules: Vec<Rule>,
    /// The response.
    pub actions: ActionSet,
    /// Plan, guard and report the actions, carry none out.
    pub dry_run: bool,
    /// What an undecided event does.
    pub on_unknown: OnUnknown,
    /// The weakest tier that may decide it; none takes the strongest that there is.
    pub tier: Option<Tier>,
    /// How long an operation waits for its decision in the `fanotify` tier.
    pub decision_deadline: Duration,
    /// What becomes of the operation then.
    pub on_deadline: OnDeadline,
    /// Every field that its rules read.
    pub fields: FieldSet,
    /// Its place in the set.
    pub(crate) index: usize,
}

impl Policy {
    /// Whether it decides and does the same about every event. What its alerts say may differ.
    pub(crate) fn decides_like(&self, other: &Self) -> bool {
        self.policy_type == other.policy_type
            && self.options == other.options
            && self.enabled == other.enabled
            && self.actions == other.actions
            && self.dry_run == other.dry_run
            && self.on_unknown == other.on_unknown
            && self.tier == other.tier
            && self.decision_deadline == other.decision_deadline
            && self.on_deadline == other.on_deadline
            && self.rules.len() == other.rules.len()
            && self.rules.iter().zip(&other.rules).all(|(rule, other)| rule.decides_like(other))
    }
}

/// An immutable set of checked policies: what one load of documents gave.
#[derive(Clone, Debug, Default)]
pub struct PolicySet {
    pub(crate) policies: Vec<Arc<Policy>>,
    pub(crate) lists: BTreeMap<Arc<str>, Arc<List>>,
    pub(crate) effective: String,
    pub(crate) hash: String,
    pub(crate) warnings: Diagnostics,
    pub(crate) left_out: Diagnostics,
    pub(crate) tiers: Tiers,
}

impl PolicySet {
    /// All policies, in document order, disabled ones included.
    #[must_use]
    pub fn policies(&self) -> &[Arc<Policy>] {
        &self.policies
    }

    /// The policy called `name`.
    #[must_use]
    pub fn policy(&self, name: &str) -> Option<&Arc<Policy>> {
        self.policies.iter().find(|policy| &*policy.name == name)
    }

    /// What is remembered of each policy, by index, in place of what was `kept` of each `old` one: `next` gets a policy and,
    /// if there was one of its name, that one with what was kept of it.
    pub(crate) fn carry_over<T>(
        &self,
        old: &Self,
        kept: Vec<T>,
        mut next: impl FnMut(&Policy, Option<(&Policy, T)>) -> T,
    ) -> Vec<T> {
        let mut kept: Vec<Option<T>> = kept.into_iter().map(Some).collect();
        let carried = self.policies.iter().map(|policy| {
            let before = old.policy(&policy.name).and_then(|old| Some((&**old, kept.get_mut(old.index)?.take()?)));
            next(policy, before)
        });
        carried.collect()
    }

    /// The policies that take part.
    pub fn active(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies.iter().filter(|policy| policy.enabled)
    }

    /// Which events can raise the active policies.
    #[must_use]
    pub fn interest(&self) -> Interest {
        Interest::of(self)
    }

    /// The lists by name.
    #[must_use]
    pub fn lists(&self) -> &BTreeMap<Arc<str>, Arc<List>> {
        &self.lists
    }

    /// What loads but is probably not meant, in document order. None of it changes what was loaded.
    ///
    /// ```
    /// let text = "P: {policy: program, rules: ['match programName == \"curl\"', default ignore]}";
    /// let policies = sls_core::PolicySet::from_yaml("p.yaml", text)?;
    /// let [warning] = policies.warnings().as_slice() else { panic!("{}", policies.warnings()) };
    /// assert_eq!(warning.code.id(), "SLS104");
    /// assert_eq!(warning.suggestion.as_ref().unwrap().replacement, "*/curl");
    /// # Ok::<(), sls_core::Diagnostics>(())
    /// ```
    #[must_use]
    pub fn warnings(&self) -> &Diagnostics {
        &self.warnings
    }

    /// The domain names in lists of hosts, for whoever runs the policies to resolve.
    pub fn host_names(&self) -> impl Iterator<Item = &Arc<HostName>> {
        self.lists.values().flat_map(|list| match &list.entries {
            Entries::Hosts(hosts) => &*hosts.names,
            _ => &[],
        })
    }

    /// Takes over what domain names resolved to in `old`, so that a reload does not blind its lists until they are
    /// resolved again.
    pub fn adopt_addresses(&self, old: &Self) {
        let known: HashMap<_, _> = old.host_names().map(|name| (name.name(), name)).collect();
        for name in self.host_names() {
            if let Some(old) = known.get(name.name()) {
                name.set_addresses(old.addresses());
            }
        }
    }

    /// The policies of content documents that are not part of the set, one finding for each, for this sensor cannot see or
    /// do what they need. See [`PolicyLoader::content`](crate::PolicyLoader::content).
    #[must_use]
    pub fn left_out(&self) -> &Diagnostics {
        &self.left_out
    }

    /// By what the active policies are enforced on the host that they were loaded for
    /// ([`PolicyLoader::capabilities`](crate::PolicyLoader::capabilities)).
    #[must_use]
    pub fn tiers(&self) -> &Tiers {
        &self.tiers
    }

    /// By what every active policy is enforced, and why not by anything stronger: what `sls check --explain-tiers` prints.
    ///
    /// ```
    /// let text = "P: {policy: program, rules: ['match uid == 7', default ignore]}";
    /// let policies = sls_core::PolicySet::from_yaml("p.yaml", text)?;
    /// let [case] = &policies.explain_tiers()[..] else { panic!("one kind of events") };
    /// assert_eq!(case.tier(), sls_core::Tier::Process);
    /// let reason = case.passed_over[0].obstacles[0].to_string();
    /// assert_eq!(reason, "there is nothing to enforce, for the policy only reports");
    /// # Ok::<(), sls_core::Diagnostics>(())
    /// ```
    #[must_use]
    pub fn explain_tiers(&self) -> Vec<TierCase> {
        self.tiers.of_all(self)
    }

    /// The merged document, as YAML that loads to this set.
    #[must_use]
    pub fn effective_document(&self) -> &str {
        &self.effective
    }

    /// SHA-256 of [`PolicySet::effective_document`], in hexadecimal: the `policy_hash` of alerts.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }
}

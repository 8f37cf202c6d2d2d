//! What of a policy goes wrong when events are lost: besides those that raise it, it depends on those that say what the
//! events which raise it mean.

use crate::action::Action;
use crate::event::EventKind;
use crate::interest::{responds, values_of_choice};
use crate::policy::{Policy, PolicyType};
use crate::process_table::{OF_LINEAGE, OF_PROGRAM};
use crate::schema::{CONTAINER_FIELDS, FieldSet};

/// What is known of a container from events about it and its cgroup.
const OF_CONTAINER: FieldSet = FieldSet::of(&CONTAINER_FIELDS);

impl Policy {
    /// Whether the policy may have missed something if events of `kind` were lost. That is so
    ///
    /// - of the kinds that raise it, as far as its rules can respond to one;
    /// - of ends of processes, which tell of crashes, if its type is `segfault`;
    /// - of file events, if its type is `newFileExec`;
    /// - of executions and forks, if its rules look at ancestors or parents, or, when it is raised by something other than an
    ///   execution, at the program: a table of processes that was not told is out of date;
    /// - of forks, if it kills trees;
    /// - of what happens to containers, if its rules look at the container.
    ///
    /// In doubt it may have.
    ///
    /// ```
    /// use sls_core::{EventKind, PolicySet};
    ///
    /// let policies = PolicySet::from_yaml("policy.yaml", r#"
    /// Shell of a server:
    ///   policy: program
    ///   rules: ['match programName == "*/sh" and ancestorProgramName == "*/nginx"', default ignore]
    /// "#)?;
    /// let policy = &policies.policies()[0];
    /// assert!(policy.depends_on(EventKind::Exec) && policy.depends_on(EventKind::Fork));
    /// assert!(!policy.depends_on(EventKind::Exit) && !policy.depends_on(EventKind::File));
    /// # Ok::<(), sls_core::Diagnostics>(())
    /// ```
    #[must_use]
    pub fn depends_on(&self, kind: EventKind) -> bool {
        if self.responds_to(kind) {
            return true;
        }
        if !EventKind::ALL.iter().any(|kind| self.responds_to(*kind)) {
            return false;
        }
        let reads = |fields: FieldSet| self.fields.difference(fields) != self.fields;
        match kind {
            EventKind::Exit => self.policy_type == PolicyType::Segfault,
            EventKind::File => self.policy_type == PolicyType::NewFileExec,
            EventKind::Exec | EventKind::Fork | EventKind::Baseline => {
                let executes = self.responds_to(EventKind::Exec);
                let kills_trees = kind != EventKind::Exec && self.actions.contains(Action::KillTree);
                reads(OF_LINEAGE) || kills_trees || !executes && reads(FieldSet::of(&OF_PROGRAM))
            }
            EventKind::Container => reads(OF_CONTAINER),
            _ => false,
        }
    }

    fn responds_to(&self, kind: EventKind) -> bool {
        match values_of_choice(kind) {
            [] => responds(self, kind, None),
            values => values.iter().any(|value| responds(self, kind, Some(value))),
        }
    }
}

/// A set of kinds of events, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct KindSet(u32);

const _: () = assert!(EventKind::ALL.len() <= 32, "KindSet holds 32 kinds");

impl KindSet {
    /// The kinds that `policy` depends on.
    pub(crate) fn of(policy: &Policy) -> Self {
        EventKind::ALL
            .iter()
            .filter(|kind| policy.depends_on(**kind))
            .fold(Self::default(), |set, kind| set.with(*kind))
    }

    pub(crate) fn with(self, kind: EventKind) -> Self {
        Self(self.0 | 1 << kind as u32)
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The members, in the order of [`EventKind::ALL`].
    pub(crate) fn iter(self) -> impl Iterator<Item = EventKind> {
        EventKind::ALL.iter().copied().filter(move |kind| self.0 & 1 << *kind as u32 != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::PolicySet;

    fn dependence(policy: &str) -> Vec<&'static str> {
        let policies = PolicySet::from_yaml("p.yaml", format!("P: {{{policy}}}")).unwrap();
        KindSet::of(&policies.policies()[0]).iter().map(EventKind::name).collect()
    }

    #[test]
    fn a_policy_depends_on_what_raises_it() {
        for (policy_type, kinds) in [
            ("program", &["exec"][..]),
            ("interactiveShell", &["exec"]),
            ("newFileExec", &["exec", "file"]),
            ("file", &["file"]),
            ("filemonitor", &["file"]),
            ("chmod, suid: true", &["file"]),
            ("connect", &["connect"]),
            ("networkService", &["accept", "listen"]),
            ("ptrace", &["ptrace"]),
            ("memoryProtection", &["memory"]),
            ("segfault", &["exit", "crash"]),
            ("privilegeEscalation", &["credentials"]),
            ("kernelModule", &["module"]),
            ("userfaultfd", &["userfaultfd"]),
            ("container", &["container"]),
            ("selinux", &["security"]),
        ] {
            assert_eq!(dependence(&format!("policy: {policy_type}, rules: [default match]")), kinds, "{policy_type}");
        }
    }

    #[test]
    fn what_cannot_respond_misses_nothing() {
        assert!(dependence("policy: program, rules: [default ignore]").is_empty());
        let rule = "match ancestorProgramName == \"*/nginx\" and eventType == \"FILE_EVENT\"";
        assert!(dependence(&format!("policy: program, rules: ['{rule}', default ignore]")).is_empty());
        let inbound = "match eventType == \"NETWORK_EVENT_TYPE_LISTEN\"";
        assert_eq!(dependence(&format!("policy: networkService, rules: ['{inbound}', default ignore]")), ["listen"]);
    }

    #[test]
    fn lineage_and_program_come_from_executions_and_forks() {
        let of = |policy_type: &str, condition: &str| {
            dependence(&format!("policy: {policy_type}, rules: ['match {condition}', default ignore]"))
        };
        let table = ["exec", "fork", "baseline"];
        // An execution says itself what is executed, and the kernel who does it.
        assert_eq!(of("program", "programName == \"/x\" and uid == 0"), ["exec"]);
        assert_eq!(of("program", "parentProgramName == \"/x\""), table);
        assert_eq!(of("file", "filePath == \"/x\" and uid == 0"), ["file"]);
        for condition in ["programName == \"/x\"", "programArguments == \"*x*\"", "programIsMemfd == true"] {
            assert_eq!(of("file", condition), ["exec", "fork", "baseline", "file"], "{condition}");
        }
        for condition in ["ancestorProgramName == \"/x\"", "parentProgramArguments == \"*x*\""] {
            assert_eq!(of("connect", condition), ["exec", "fork", "baseline", "connect"], "{condition}");
        }
        assert_eq!(of("file", "containerId != \"\""), ["file", "container"]);
        let killing = "policy: program, responseActions: [kill-tree], rules: [default match]";
        assert_eq!(dependence(killing), table);
    }
}

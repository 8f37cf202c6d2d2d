//! The places where the kernel lets an operation be decided before it happens, and what can be known there.

use std::fmt;

use crate::action::{Action, Tier};
use crate::event::EventKind;
use crate::interest::values_of_choice;
use crate::schema::{Field, FieldSet};

/// By what an operation is decided, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Mechanism {
    /// An event and a pidfd, after the fact.
    Pidfd,
    /// A fanotify permission event: the operation waits until the compiled matcher has answered.
    FanotifyPermission,
    /// A BPF program at `sched_process_exec` that sends a signal: the new program runs no instruction of its own.
    ExecSignal,
    /// A BPF program at cgroup/connect4 and cgroup/connect6.
    CgroupConnect,
    /// A BPF program at a hook of the Linux security modules.
    Lsm,
}

impl Mechanism {
    /// Every mechanism.
    pub const ALL: &'static [Self] =
        &[Self::Pidfd, Self::FanotifyPermission, Self::ExecSignal, Self::CgroupConnect, Self::Lsm];

    /// The name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pidfd => "pidfd",
            Self::FanotifyPermission => "fanotify permission",
            Self::ExecSignal => "exec signal",
            Self::CgroupConnect => "cgroup connect",
            Self::Lsm => "BPF LSM",
        }
    }

    /// The tier that it belongs to.
    #[must_use]
    pub fn tier(self) -> Tier {
        match self {
            Self::Pidfd => Tier::Process,
            Self::FanotifyPermission => Tier::Fanotify,
            Self::ExecSignal | Self::CgroupConnect | Self::Lsm => Tier::Kernel,
        }
    }

    /// Whether `action` can be taken by it. In user space those that refuse nothing can.
    #[must_use]
    pub fn can(self, action: Action) -> bool {
        match self {
            Self::Pidfd => action != Action::Block,
            // Whatever is done while the operation waits is done before it happens.
            Self::FanotifyPermission => true,
            Self::ExecSignal => matches!(action, Action::Kill | Action::Stop),
            Self::CgroupConnect | Self::Lsm => action == Action::Block,
        }
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The most policies that are decided at one hook. Default of [`KernelLimits::policies`].
pub const MAX_KERNEL_POLICIES: usize = 64;

/// The most entries of all sets of all policies at one hook. Default of [`KernelLimits::total_entries`].
pub const MAX_KERNEL_TOTAL_ENTRIES: usize = 65_536;

/// The most conjunctions of a lowered policy, all its rules together. Default of [`KernelLimits::rules`].
pub const MAX_KERNEL_RULES: usize = 64;

/// The most tests of a conjunction. Default of [`KernelLimits::tests`].
pub const MAX_KERNEL_TESTS: usize = 8;

/// The most bytes of a path, of a beginning or of an end that is compared with. Default of [`KernelLimits::path_bytes`].
pub const MAX_KERNEL_PATH: usize = 255;

/// The most entries of all sets of a lowered policy. Default of [`KernelLimits::entries`].
pub const MAX_KERNEL_ENTRIES: usize = 4096;

/// What programs at a hook have room for. What needs more is not decided there, which is known when policies are loaded.
// Exhaustive so that struct update syntax works; a new limit is a breaking change.
#[allow(clippy::exhaustive_structs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelLimits {
    /// Policies. Default [`MAX_KERNEL_POLICIES`].
    pub policies: usize,
    /// Paths, ranges and networks of all their sets. Default [`MAX_KERNEL_TOTAL_ENTRIES`].
    pub total_entries: usize,
    /// Conjunctions of all rules of a policy. Default [`MAX_KERNEL_RULES`].
    pub rules: usize,
    /// Tests of each. Default [`MAX_KERNEL_TESTS`].
    pub tests: usize,
    /// Bytes of each path. Default [`MAX_KERNEL_PATH`].
    pub path_bytes: usize,
    /// Paths, ranges and networks of all sets of a policy. Default [`MAX_KERNEL_ENTRIES`].
    pub entries: usize,
    /// Whether the end of a path can be compared, as in `*/wget`. Default yes.
    pub path_ends: bool,
}

impl Default for KernelLimits {
    fn default() -> Self {
        Self {
            policies: MAX_KERNEL_POLICIES,
            total_entries: MAX_KERNEL_TOTAL_ENTRIES,
            rules: MAX_KERNEL_RULES,
            tests: MAX_KERNEL_TESTS,
            path_bytes: MAX_KERNEL_PATH,
            entries: MAX_KERNEL_ENTRIES,
            path_ends: true,
        }
    }
}

/// What a mechanism can decide about one kind of events on a host: which of them it holds, and which fields it knows then.
///
/// ```
/// use sls_core::{EventKind, Field, Hook, Mechanism};
///
/// let exec = Hook::fanotify_exec();
/// assert_eq!((exec.mechanism(), exec.kind()), (Mechanism::FanotifyPermission, EventKind::Exec));
/// // The arguments of a program are not known when its file is opened.
/// assert!(!exec.fields().contains(Field::ProgramArguments));
/// let files = Hook::lsm(EventKind::File).operations(&["RENAME", "UNLINK"]);
/// assert!(files.holds("UNLINK") && !files.holds("CREATE"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hook {
    mechanism: Mechanism,
    kind: EventKind,
    fields: FieldSet,
    /// Of kinds in which one of several things happens: what is held.
    operations: Vec<&'static str>,
    limits: KernelLimits,
}

/// What every hook knows of the acting process.
const OF_PROCESS: &[Field] = &[
    Field::EventType,
    Field::ProgramName,
    Field::ProgramInode,
    Field::ProgramDevice,
    Field::ProgramIsMemfd,
    Field::ProgramIsDeleted,
    Field::ProcessPid,
    Field::ParentPid,
    Field::ParentProgramName,
    Field::Uid,
    Field::Gid,
    Field::ContainerId,
];

/// Not known before the kernel has looked at set-user-id bits.
const EFFECTIVE: &[Field] = &[Field::Euid, Field::Egid];

/// What user space adds that has the time to look: the process table's and the container registry's.
const OF_USER_SPACE: &[Field] = &[
    Field::AncestorProgramName,
    Field::Lineage,
    Field::ParentProgramArguments,
    Field::LoginUid,
    Field::UserName,
    Field::GroupName,
    Field::Terminal,
    Field::ContainerName,
    Field::ImageName,
    Field::ImageId,
    Field::KubernetesPod,
    Field::KubernetesNamespace,
];

/// What is known of a process that runs already, from the table or from `/proc`.
const OF_RUNNING: &[Field] =
    &[Field::InvokedName, Field::ScriptName, Field::ProgramArguments, Field::ProcessName, Field::ProgramDirectory];

impl Hook {
    fn new(mechanism: Mechanism, kind: EventKind, fields: &[&[Field]]) -> Self {
        let fields = fields.iter().flat_map(|some| some.iter().copied()).collect();
        Self { mechanism, kind, fields, operations: values_of_choice(kind).to_vec(), limits: KernelLimits::default() }
    }

    /// `bpf_send_signal` when a program was executed.
    #[must_use]
    pub fn exec_signal() -> Self {
        Self::new(Mechanism::ExecSignal, EventKind::Exec, &[OF_PROCESS, EFFECTIVE])
    }

    /// The hooks of the security modules for events of `kind`: executions, files, connections, ptrace and modules. There are
    /// none for other kinds; then it holds nothing.
    #[must_use]
    pub fn lsm(kind: EventKind) -> Self {
        let own: &[Field] = match kind {
            EventKind::Exec => return Self::new(Mechanism::Lsm, kind, &[OF_PROCESS]),
            EventKind::File => &[Field::FileOperation, Field::FilePath],
            EventKind::Connect => &[Field::Protocol, Field::RemoteHost, Field::RemotePort],
            // Which request it is, is not told.
            EventKind::Ptrace => &[Field::TargetPid, Field::TargetProgramName],
            // Nor is the name of what is loaded.
            EventKind::Module => &[Field::ModuleOperation],
            _ => return Self::new(Mechanism::Lsm, kind, &[]).operations(&[]),
        };
        let hook = Self::new(Mechanism::Lsm, kind, &[OF_PROCESS, EFFECTIVE, own]);
        match kind {
            // Nobody is refused to read.
            EventKind::File => {
                let held: Vec<_> = hook.operations.iter().copied().filter(|held| *held != "OPEN_READ").collect();
                hook.operations(&held)
            }
            _ => hook,
        }
    }

    /// The hooks that cgroups have for connections over IPv4 and IPv6.
    #[must_use]
    pub fn cgroup_connect() -> Self {
        let own = &[Field::Protocol, Field::RemoteHost, Field::RemotePort];
        Self::new(Mechanism::CgroupConnect, EventKind::Connect, &[OF_PROCESS, EFFECTIVE, own])
            .operations(&["TCP", "UDP"])
    }

    /// `FAN_OPEN_EXEC_PERM`: the file of a program is opened for execution.
    #[must_use]
    pub fn fanotify_exec() -> Self {
        Self::new(Mechanism::FanotifyPermission, EventKind::Exec, &[OF_PROCESS, OF_USER_SPACE])
    }

    /// `FAN_OPEN_PERM`: a file that exists is opened. What is created is there already when it is opened.
    #[must_use]
    pub fn fanotify_open() -> Self {
        let own = &[
            Field::FileOperation,
            Field::FilePath,
            Field::HostFilePath,
            Field::FileInode,
            Field::FileDevice,
            Field::FileMode,
            Field::FileUid,
            Field::FileGid,
        ];
        let fields: &[&[Field]] = &[OF_PROCESS, EFFECTIVE, OF_USER_SPACE, OF_RUNNING, own];
        Self::new(Mechanism::FanotifyPermission, EventKind::File, fields).operations(&["OPEN_WRITE"])
    }

    /// Holds only these of the things that can happen ([`Interest::wants_value`](crate::Interest::wants_value)).
    #[must_use]
    pub fn operations(mut self, operations: &[&str]) -> Self {
        let known = values_of_choice(self.kind).iter().copied();
        self.operations = known.filter(|known| operations.contains(known)).collect();
        self
    }

    /// Knows these fields as well.
    #[must_use]
    pub fn with(mut self, fields: impl IntoIterator<Item = Field>) -> Self {
        self.fields = self.fields.union(fields.into_iter().collect());
        self
    }

    /// Does not know these fields.
    #[must_use]
    pub fn without(mut self, fields: impl IntoIterator<Item = Field>) -> Self {
        self.fields = self.fields.difference(fields.into_iter().collect());
        self
    }

    /// Has room for this.
    #[must_use]
    pub fn with_limits(mut self, limits: KernelLimits) -> Self {
        self.limits = limits;
        self
    }

    /// What there is room for, where it is decided in the kernel.
    #[must_use]
    pub fn limits(&self) -> &KernelLimits {
        &self.limits
    }

    /// What decides there.
    #[must_use]
    pub fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// The events that are held.
    #[must_use]
    pub fn kind(&self) -> EventKind {
        self.kind
    }

    /// The fields that are known while they are held.
    #[must_use]
    pub fn fields(&self) -> FieldSet {
        self.fields
    }

    /// Whether an event is held in which `operation` happens; of kinds in which only one thing can happen, any is.
    #[must_use]
    pub fn holds(&self, operation: &str) -> bool {
        values_of_choice(self.kind).is_empty() || self.operations.contains(&operation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effective_ids_of_a_program_are_known_once_it_runs() {
        assert!(Hook::exec_signal().fields().contains(Field::Euid));
        for before in [Hook::lsm(EventKind::Exec), Hook::fanotify_exec()] {
            assert!(before.fields().contains(Field::Uid) && !before.fields().contains(Field::Euid), "{before:?}");
        }
        assert!(Hook::lsm(EventKind::File).fields().contains(Field::Euid));
    }

    #[test]
    fn a_hook_holds_what_it_can_refuse() {
        assert!(Hook::exec_signal().holds(""));
        assert!(!Hook::lsm(EventKind::File).holds("OPEN_READ") && Hook::lsm(EventKind::File).holds("CREATE"));
        assert!(!Hook::cgroup_connect().holds("UNIX") && Hook::lsm(EventKind::Connect).holds("UNIX"));
        assert!(!Hook::fanotify_open().holds("CREATE"));
        assert!(!Hook::lsm(EventKind::Security).holds("SMEP_DISABLED"));
    }

    #[test]
    fn default_limits_are_the_named_ones() {
        let limits = KernelLimits::default();
        assert_eq!((limits.policies, limits.total_entries), (MAX_KERNEL_POLICIES, MAX_KERNEL_TOTAL_ENTRIES));
        assert_eq!((limits.rules, limits.tests), (MAX_KERNEL_RULES, MAX_KERNEL_TESTS));
        assert_eq!((limits.path_bytes, limits.entries), (MAX_KERNEL_PATH, MAX_KERNEL_ENTRIES));
    }
}

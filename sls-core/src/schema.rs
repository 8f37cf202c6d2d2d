//! The field schema: one table that the rule checker, the matcher, recorded events, alerts, `sls fields` and the
//! documentation all read.

use std::fmt;

use crate::policy::PolicyType;

/// What kind of value a field holds; decides which operators, literals and lists fit it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FieldKind {
    /// A file path: attacker-chosen bytes. A path that was cut keeps its **end**.
    Path,
    /// A short name.
    Name,
    /// Free text. A text that was cut keeps its **start**.
    Text,
    /// An unsigned integer.
    Number,
    /// `true` or `false`.
    Bool,
    /// An IP address.
    Host,
    /// One of a fixed set of names.
    Enum(&'static [&'static str]),
    /// The program paths of a process's ancestors, to be compared with a `lineage` list.
    Lineage,
}

impl FieldKind {
    /// The name that diagnostics and `sls fields` print.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Name => "name",
            Self::Text => "string",
            Self::Number => "number",
            Self::Bool => "bool",
            Self::Host => "host",
            Self::Enum(_) => "enum",
            Self::Lineage => "lineage",
        }
    }

    /// The operators that a rule may use on such a field, as written in rules.
    #[must_use]
    pub fn operators(self) -> &'static [&'static str] {
        match self {
            Self::Path | Self::Name | Self::Text => {
                &["==", "!=", "=~", "!~", "like", "not like", "in", "not in", "in~", "not in~"]
            }
            Self::Number => &["==", "!=", "<", "<=", ">", ">=", "in", "not in"],
            Self::Host | Self::Enum(_) => &["==", "!=", "in", "not in"],
            Self::Bool => &["==", "!="],
            Self::Lineage => &["in", "not in"],
        }
    }
}

impl fmt::Display for FieldKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FieldKind {
    /// The name in a sentence.
    pub(crate) fn with_article(self) -> &'static str {
        match self {
            Self::Path => "a path",
            Self::Name => "a name",
            Self::Text => "a string",
            Self::Number => "a number",
            Self::Bool => "a bool",
            Self::Host => "a host",
            Self::Enum(_) => "an enum",
            Self::Lineage => "a lineage",
        }
    }
}

/// Which policy types offer a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Offered {
    /// Every policy type.
    Everywhere,
    /// Only these.
    To(&'static [PolicyType]),
}

/// One row of the schema.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct FieldSpec {
    /// The field.
    pub field: Field,
    /// Its name in rules and in recorded events.
    pub name: &'static str,
    /// What it holds.
    pub kind: FieldKind,
    /// Whether it holds several values at once; a test is true if one of them satisfies it.
    pub many: bool,
    /// The most bytes that a value can have, where the kernel fixes it. A longer literal could never match.
    pub max_len: Option<usize>,
    /// Which policy types offer it.
    pub offered: Offered,
    /// What it means.
    pub meaning: &'static str,
}

impl FieldSpec {
    /// Whether policies of type `policy_type` may use the field.
    #[must_use]
    pub fn offered_to(&self, policy_type: PolicyType) -> bool {
        match self.offered {
            Everywhere => true,
            To(types) => types.contains(&policy_type),
        }
    }
}

macro_rules! schema {
    ($( $variant:ident $name:literal $kind:expr, $many:literal, $max:expr, $offered:expr, $meaning:literal; )+) => {
        /// A field of an event, as rules name it. The discriminant is the field's slot in an event.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        #[non_exhaustive]
        pub enum Field { $( #[doc = $meaning] $variant, )+ }

        /// The whole schema, in the order of [`Field`]'s discriminants.
        pub const SCHEMA: &[FieldSpec] = &[ $( FieldSpec {
            field: Field::$variant, name: $name, kind: $kind, many: $many, max_len: $max, offered: $offered,
            meaning: $meaning,
        }, )+ ];
    };
}

use FieldKind::{Bool, Enum, Host, Lineage, Name, Number, Path, Text};
use Offered::{Everywhere, To};
use PolicyType as P;

const EXECS: Offered = To(&[P::Program, P::NewFileExec, P::InteractiveShell]);
const FILES: Offered = To(&[P::File, P::FileMonitor, P::Chmod, P::NewFileExec]);
const FILES_AND_MODULES: Offered = To(&[P::File, P::FileMonitor, P::Chmod, P::NewFileExec, P::KernelModule]);
const ATTRIBUTES: Offered = To(&[P::File, P::FileMonitor, P::Chmod]);
const TARGETED: Offered = To(&[P::Ptrace]);
const CREDENTIALS: Offered = To(&[P::PrivilegeEscalation]);
const MODULES: Offered = To(&[P::KernelModule]);
const CONTAINERS: Offered = To(&[P::Container]);
const PROTECTIONS: Offered = To(&[P::Selinux, P::KernelPayload, P::SmepSmap]);
const PROBES: Offered = To(&[P::Kprobe, P::Uprobe]);
/// `TASK_COMM_LEN` less its terminating NUL.
const COMM_LEN: Option<usize> = Some(15);
/// Kernel event names that `eventType` compares with.
const EVENT_TYPES: &[&str] = &[
    "PROCESS_EVENT_TYPE_EXEC",
    "PROCESS_EVENT_TYPE_FORK",
    "PROCESS_EVENT_TYPE_EXIT",
    "BASELINE_TASK",
    "FILE_EVENT",
    "NETWORK_EVENT_TYPE_CONNECT",
    "NETWORK_EVENT_TYPE_ACCEPT",
    "NETWORK_EVENT_TYPE_LISTEN",
    "PTRACE_EVENT",
    "MEMORY_EVENT",
    "CRASH_EVENT",
    "CREDENTIALS_EVENT",
    "MODULE_EVENT",
    "USERFAULTFD_EVENT",
    "CONTAINER_EVENT",
    "SECURITY_EVENT",
    "PROBE_EVENT",
];

schema! {
    ProgramName "programName" Path, false, None, Everywhere,
        "resolved path of the acting program's executable as the kernel sees it, not what the caller wrote";
    InvokedName "invokedName" Path, false, None, Everywhere, "the path that the caller passed to execve";
    ScriptName "scriptName" Path, false, None, Everywhere,
        "the script, when the kernel ran it through its #! interpreter; else \"\". As the caller spelt it, made absolute; links are not resolved";
    ProgramArguments "programArguments" Text, false, None, Everywhere, "argv joined by one space";
    ProcessName "processName" Name, false, COMM_LEN, Everywhere, "comm: at most 15 bytes";
    ProgramDirectory "programDirectory" Path, false, None, Everywhere, "working directory; of an event other than an execution, the one in which the program was executed";
    ProgramIsMemfd "programIsMemfd" Bool, false, None, Everywhere, "the executable is a memfd: file-less execution";
    ProgramIsDeleted "programIsDeleted" Bool, false, None, Everywhere,
        "the executable has no name left in any directory";
    ProgramInode "programInode" Number, false, None, Everywhere,
        "inode of the executable: an identity that links and renames keep";
    ProgramDevice "programDevice" Number, false, None, Everywhere,
        "device of the executable's file system, as stat(2) gives it";
    ProcessPid "processPid" Number, false, None, Everywhere, "process id in the host's PID namespace";
    ParentPid "parentPid" Number, false, None, Everywhere, "the parent's process id in the host's PID namespace";
    ParentProgramName "parentProgramName" Path, false, None, Everywhere, "resolved path of the direct parent's executable";
    ParentProgramArguments "parentProgramArguments" Text, false, None, Everywhere,
        "the direct parent's argv joined by one space";
    AncestorProgramName "ancestorProgramName" Path, true, None, Everywhere,
        "executables of all ancestors; a test is true if one of them satisfies it, != and not in if none equals";
    Lineage "lineage" Lineage, true, None, Everywhere, "the ancestry, to be compared with a list of type lineage";
    Uid "uid" Number, false, None, Everywhere, "real user id at the time of the event";
    Gid "gid" Number, false, None, Everywhere, "real group id at the time of the event";
    Euid "euid" Number, false, None, Everywhere, "effective user id at the time of the event";
    Egid "egid" Number, false, None, Everywhere, "effective group id at the time of the event";
    LoginUid "loginUid" Number, false, None, Everywhere,
        "audit login uid, which su and sudo keep; without a value when none was set";
    UserName "userName" Name, false, None, Everywhere, "name of uid in the host's user database";
    GroupName "groupName" Name, false, None, Everywhere, "name of gid in the host's group database";
    Terminal "terminal" Name, false, None, Everywhere, "controlling terminal, or \"\"";
    ContainerId "containerId" Name, false, None, Everywhere, "container id, or \"\" outside a container";
    ContainerName "containerName" Name, false, None, Everywhere, "container name, or \"\" outside a container";
    ImageName "imageName" Name, false, None, Everywhere, "name of the container's image";
    ImageId "imageId" Name, false, None, Everywhere, "id of the container's image";
    KubernetesPod "kubernetesPod" Name, false, None, Everywhere, "name of the Kubernetes pod";
    KubernetesNamespace "kubernetesNamespace" Name, false, None, Everywhere, "the pod's namespace";
    StandardInput "standardInput" Enum(&["TERMINAL", "SOCKET", "PIPE", "FILE", "DEVICE"]), false, None, EXECS,
        "what the program's standard input is";
    FilePath "filePath" Path, false, None, FILES_AND_MODULES,
        "the file acted upon; for file policies the new name of a rename or link, for newFileExec the new file";
    NewFilePath "newFilePath" Path, false, None, ATTRIBUTES, "the new name of a rename or link";
    HostFilePath "hostFilePath" Path, false, None, ATTRIBUTES,
        "filePath as the host sees it, where a container's path can be translated; outside containers the same as filePath";
    NewHostFilePath "newHostFilePath" Path, false, None, ATTRIBUTES, "newFilePath as the host sees it";
    FileOperation "fileOperation" Enum(&["CREATE", "OPEN_WRITE", "OPEN_READ", "WRITE", "RENAME", "LINK", "SYMLINK",
        "UNLINK", "TRUNCATE", "CHMOD", "CHOWN", "SETXATTR"]), false, None, ATTRIBUTES, "what was done to the file";
    FileMode "fileMode" Number, false, None, FILES, "permission bits of the file after the operation, set-id and sticky bits included";
    FileUid "fileUid" Number, false, None, FILES, "owner of the file after the operation";
    FileGid "fileGid" Number, false, None, FILES, "group of the file after the operation";
    FileInode "fileInode" Number, false, None, FILES, "inode of the file: an identity that links and renames keep";
    FileDevice "fileDevice" Number, false, None, FILES, "device of the file's file system, as stat(2) gives it";
    FileAge "fileAge" Number, false, None, To(&[P::NewFileExec]),
        "seconds since the executed file was created or modified; without a value when that was not seen";
    RemoteHost "remoteHost" Host, false, None, To(&[P::Connect]), "destination of an outbound connection";
    RemotePort "remotePort" Number, false, None, To(&[P::Connect]), "destination port of an outbound connection";
    LocalHost "localHost" Host, false, None, To(&[P::Connect, P::NetworkService]), "the socket's own address";
    LocalPort "localPort" Number, false, None, To(&[P::Connect, P::NetworkService]), "the socket's own port";
    InboundHost "inboundHost" Host, false, None, To(&[P::NetworkService]), "peer of an inbound connection";
    InboundPort "inboundPort" Number, false, None, To(&[P::NetworkService]), "local port of an inbound connection";
    SocketPath "socketPath" Path, false, None, To(&[P::Connect, P::NetworkService]),
        "address of a UNIX socket: the peer's of a connection, the socket's own of a service; abstract names begin with @";
    Protocol "protocol" Enum(&["TCP", "UDP", "UNIX"]), false, None, To(&[P::Connect, P::NetworkService]),
        "transport of the connection";
    TargetProgramName "targetProgramName" Path, false, None, TARGETED, "executable of the process acted upon";
    TargetPid "targetPid" Number, false, None, TARGETED, "process id of the process acted upon";
    PtraceRequest "ptraceRequest" Enum(&["ATTACH", "SEIZE", "POKE", "VM_WRITE", "MEM_WRITE"]), false, None, TARGETED,
        "how it was reached: a ptrace request, process_vm_writev, or a write to /proc/PID/mem";
    MemoryRegion "memoryRegion" Enum(&["HEAP", "STACK", "ANONYMOUS", "FILE", "MEMFD"]), false, None,
        To(&[P::MemoryProtection]), "which memory became executable";
    MemoryIsWritable "memoryIsWritable" Bool, false, None, To(&[P::MemoryProtection]),
        "the memory is writable and executable at once";
    CrashSignal "crashSignal" Enum(&["SIGSEGV", "SIGABRT", "SIGILL", "SIGBUS", "SIGFPE"]), false, None,
        To(&[P::Segfault]), "the signal that ended the program";
    PreviousUid "previousUid" Number, false, None, CREDENTIALS, "real user id before the change";
    PreviousEuid "previousEuid" Number, false, None, CREDENTIALS, "effective user id before the change";
    ModuleOperation "moduleOperation" Enum(&["MODULE_LOAD", "BPF_LOAD", "KEXEC"]), false, None, MODULES,
        "what was loaded: a module, a BPF program, or another kernel";
    ModuleName "moduleName" Name, false, None, MODULES, "name of the module or of the BPF program";
    ContainerOperation "containerOperation" Enum(&["START", "STOP"]), false, None, CONTAINERS,
        "what became of the container";
    ContainerPrivileged "containerPrivileged" Bool, false, None, CONTAINERS, "the container has all capabilities and devices";
    ContainerHostPid "containerHostPid" Bool, false, None, CONTAINERS, "the container shares the host's PID namespace";
    ContainerHostNetwork "containerHostNetwork" Bool, false, None, CONTAINERS,
        "the container shares the host's network namespace";
    ContainerMounts "containerMounts" Path, true, None, CONTAINERS,
        "paths of the host that are mounted into the container";
    SecurityChange "securityChange" Enum(&["SELINUX_DISABLED", "SELINUX_PERMISSIVE", "SELINUX_POLICY_LOADED",
        "SMEP_DISABLED", "SMAP_DISABLED", "WRITE_PROTECT_DISABLED", "KERNEL_PAYLOAD"]), false, None, PROTECTIONS,
        "which protection was switched off, or how the kernel was attacked";
    ProbeSymbol "probeSymbol" Name, false, None, PROBES, "the function that the probe is on";
    ProbeExecutable "probeExecutable" Path, false, None, To(&[P::Uprobe]), "the executable or library that the probe is on";
    ProbeArguments "probeArguments" Text, false, None, PROBES, "the probe's arguments as `name=value`, joined by spaces";
    EventType "eventType" Enum(EVENT_TYPES), false, None, Everywhere, "name of the kernel event's type";
}

impl Field {
    /// Every field, in schema order.
    pub fn all() -> impl ExactSizeIterator<Item = Self> {
        SCHEMA.iter().map(|spec| spec.field)
    }

    /// The field's row in the schema.
    #[must_use]
    pub fn spec(self) -> &'static FieldSpec {
        &SCHEMA[self as usize]
    }

    /// The field's name in rules and recorded events.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.spec().name
    }

    /// What the field holds.
    #[must_use]
    pub fn kind(self) -> FieldKind {
        self.spec().kind
    }

    /// The field called `name`; names are case-sensitive.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        SCHEMA.iter().find(|spec| spec.name == name).map(|spec| spec.field)
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The fields that say in which container an event happened.
pub const CONTAINER_FIELDS: [Field; 6] = [
    Field::ContainerId,
    Field::ContainerName,
    Field::ImageName,
    Field::ImageId,
    Field::KubernetesPod,
    Field::KubernetesNamespace,
];

/// A set of fields, as bits.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct FieldSet(u128);

const _: () = assert!(SCHEMA.len() <= 128, "FieldSet holds 128 fields");

impl FieldSet {
    /// The empty set.
    pub const EMPTY: Self = Self(0);

    pub(crate) const fn of(fields: &[Field]) -> Self {
        let (mut set, mut index) = (0, 0);
        while index < fields.len() {
            set |= 1 << fields[index] as u8;
            index += 1;
        }
        Self(set)
    }

    /// Adds `field`.
    pub fn insert(&mut self, field: Field) {
        self.0 |= 1 << field as u8;
    }

    /// Takes `field` out.
    pub fn remove(&mut self, field: Field) {
        self.0 &= !(1 << field as u8);
    }

    /// Adds `field` or takes it out.
    pub(crate) fn assign(&mut self, field: Field, member: bool) {
        if member { self.insert(field) } else { self.remove(field) }
    }

    /// Whether `field` is in the set.
    #[must_use]
    #[inline]
    pub fn contains(self, field: Field) -> bool {
        self.0 & (1 << field as u8) != 0
    }

    /// Whether no field is in the set.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The fields of either set.
    #[must_use]
    #[inline]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The fields of this set that `other` lacks.
    #[must_use]
    pub fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The members, in schema order.
    pub fn iter(self) -> impl Iterator<Item = Field> {
        Field::all().filter(move |field| self.contains(*field))
    }
}

impl FromIterator<Field> for FieldSet {
    fn from_iter<I: IntoIterator<Item = Field>>(fields: I) -> Self {
        let mut set = Self::EMPTY;
        fields.into_iter().for_each(|field| set.insert(field));
        set
    }
}

impl fmt::Debug for FieldSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(Field::name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discriminants_index_the_table() {
        for (slot, spec) in SCHEMA.iter().enumerate() {
            assert_eq!(spec.field as usize, slot);
            assert_eq!(Field::from_name(spec.name), Some(spec.field));
        }
    }

    #[test]
    fn set_operations() {
        let mut set: FieldSet = [Field::Uid, Field::ProgramName].into_iter().collect();
        assert!(set.contains(Field::Uid) && !set.contains(Field::Gid));
        assert_eq!(set.iter().collect::<Vec<_>>(), [Field::ProgramName, Field::Uid]);
        set.remove(Field::Uid);
        assert_eq!(set.difference(set), FieldSet::EMPTY);
        assert_eq!(format!("{set:?}"), r#"{"programName"}"#);
    }
}

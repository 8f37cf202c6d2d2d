//! What the running kernel has, as far as hooks depend on it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::OnceLock;

use libbpf_rs::Btf;
use libbpf_rs::OpenObject;
use libbpf_rs::btf::types::{Enum, Func, FuncProto, Typedef};

use crate::loader::set_constant;
use crate::tracefs;

/// Where a program says which process it must not watch: `struct self` of `bpf/self.h`.
const SELF: &str = ".rodata.self";

/// The controllers of cgroups that are asked for, as the kernel's enumeration has them.
const CONTROLLERS: [(&str, &str); 2] = [("pids", "pids_cgrp_id"), ("memory", "memory_cgrp_id")];

/// The functions and tracepoints that not every kernel has, and what differs in them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Kernel {
    /// The tracepoint of exits says that the last thread of a process ends (Linux 6.16). Before, the program has to look at
    /// the count of live threads, which several threads that end at once can all see at zero.
    pub(crate) exit_says_group_dead: bool,
    /// Its numbers of the controllers `pids` and `memory`.
    controllers: [Option<u32>; CONTROLLERS.len()],
    /// It can load modules, and has a tracepoint for it.
    pub(crate) module_load: bool,
    /// Called for each program once it is verified.
    pub(crate) bpf_prog_kallsyms_add: bool,
    /// Functions that are never inlined tell when a tracer gets its tracee (CONFIG_PROC_EVENTS), and what it does with it.
    pub(crate) ptrace: bool,
    /// Does what a 32-bit tracer asks for.
    pub(crate) compat_arch_ptrace: bool,
    /// Security modules are asked about sockets.
    pub(crate) security_network: bool,
    /// Connect UDP sockets.
    pub(crate) datagram_connect: bool,
    /// Cgroups have programs for UNIX sockets (Linux 6.7).
    pub(crate) cgroup_unix: bool,
    /// Programs can look for a process's mappings (Linux 5.17).
    pub(crate) find_vma: bool,
    /// There are System V segments, which are attached by this.
    pub(crate) do_shmat: bool,
    /// User space can handle its own page faults.
    pub(crate) userfaultfd: bool,
    /// Called for each anonymous file that security modules are to know (Linux 5.12).
    pub(crate) inode_init_security_anon: bool,
    /// SELinux is compiled in.
    pub(crate) selinux: bool,
    /// SELinux can be taken away while the system runs (before Linux 6.4).
    pub(crate) selinux_disable: bool,
}

impl Kernel {
    /// The running one. Without type information it has nothing.
    pub(crate) fn running() -> Self {
        static RUNNING: OnceLock<Kernel> = OnceLock::new();
        *RUNNING.get_or_init(|| Btf::from_vmlinux().map(|btf| Self::of(&btf)).unwrap_or_default())
    }

    fn of(btf: &Btf<'_>) -> Self {
        let function = |name| btf.type_by_name::<Func<'_>>(name).is_some();
        Self {
            exit_says_group_dead: exit_says_group_dead(btf),
            controllers: CONTROLLERS.map(|(_, name)| controller(btf, name)),
            module_load: btf.type_by_name::<Typedef<'_>>("btf_trace_module_load").is_some(),
            bpf_prog_kallsyms_add: function("bpf_prog_kallsyms_add"),
            ptrace: function("proc_ptrace_connector") && function("arch_ptrace"),
            compat_arch_ptrace: function("compat_arch_ptrace"),
            datagram_connect: function("__ip4_datagram_connect") && function("__ip6_datagram_connect"),
            cgroup_unix: function("bpf_sock_addr_set_sun_path"),
            security_network: function("security_sock_graft") && function("security_unix_may_send"),
            find_vma: function("bpf_find_vma"),
            do_shmat: function("do_shmat"),
            userfaultfd: function("handle_userfault"),
            inode_init_security_anon: function("security_inode_init_security_anon"),
            selinux: function("selnl_notify_setenforce") && function("selinux_policy_commit"),
            selinux_disable: function("selinux_disable"),
        }
    }
}

impl Kernel {
    /// The number of a controller of cgroups, if the kernel has it.
    pub(crate) fn controller(&self, name: &str) -> Option<u32> {
        CONTROLLERS.iter().zip(self.controllers).find(|((other, _), _)| *other == name).and_then(|(_, number)| number)
    }
}

fn exit_says_group_dead(btf: &Btf<'_>) -> bool {
    let Some(tracepoint) = btf.type_by_name::<Typedef<'_>>("btf_trace_sched_process_exit") else { return false };
    // A pointer to a function of (void *, struct task_struct *, bool).
    let function = tracepoint.next_type().and_then(|pointer| pointer.next_type());
    function.and_then(|function| FuncProto::try_from(function).ok()).is_some_and(|function| function.len() == 3)
}

fn controller(btf: &Btf<'_>, name: &str) -> Option<u32> {
    let numbers = btf.type_by_name::<Enum<'_>>("cgroup_subsys_id")?;
    let number = numbers.iter().find(|number| number.name.is_some_and(|other| *other == *name))?;
    u32::try_from(number.value).ok()
}

/// The running kernel's release, as `uname -r` prints it, and the first two numbers of it; none if it does not begin so.
pub(crate) fn release() -> (String, Option<(u32, u32)>) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
    let mut numbers = release.split(|byte: char| !byte.is_ascii_digit()).map(|number| number.parse().ok());
    let version = numbers.next().flatten().zip(numbers.next().flatten());
    (release, version)
}

/// Whether SELinux decides anything here: one that is compiled in but not chosen at boot has no file system.
pub(crate) fn selinux_is_active() -> bool {
    let file_systems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    file_systems.lines().any(|line| line.ends_with("\tselinuxfs"))
}

/// Whether system calls have tracepoints (CONFIG_FTRACE_SYSCALLS). Without the permission to look, the answer is no.
pub(crate) fn has_syscall_tracepoints() -> bool {
    tracefs::has_system_call("sys_exit_mmap")
}

/// Whether programs can be attached to kprobes.
pub(crate) fn has_kprobes() -> bool {
    Path::new("/sys/bus/event_source/devices/kprobe").exists()
}

/// Whether programs can be attached to uprobes.
pub(crate) fn has_uprobes() -> bool {
    Path::new("/sys/bus/event_source/devices/uprobe").exists()
}

/// What to say where system calls have none.
pub(crate) const NO_SYSCALL_TRACEPOINTS: &str =
    "the kernel has no tracepoints of system calls (CONFIG_FTRACE_SYSCALLS)";

/// What to say where there are none.
pub(crate) const NO_KPROBES: &str = "the kernel has no kprobes (CONFIG_KPROBES, CONFIG_KPROBE_EVENTS)";

/// What to say where there are none.
pub(crate) const NO_UPROBES: &str = "the kernel has no uprobes (CONFIG_UPROBE_EVENTS)";

/// Tells an object's programs who this process is, so that they leave it out.
pub(crate) fn set_self(open: &mut OpenObject) -> libbpf_rs::Result<()> {
    let namespace = fs::metadata("/proc/self/ns/pid").map_or(0, |meta| meta.ino() as u32);
    let mut value = [0; 8];
    value[..4].copy_from_slice(&std::process::id().to_le_bytes());
    value[4..].copy_from_slice(&namespace.to_le_bytes());
    set_constant(open, SELF, &value)
}

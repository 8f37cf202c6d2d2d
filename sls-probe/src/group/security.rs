//! Protections that are switched off, and functions that only the kernel itself should call.

use sls_core::{EventKind, Field, FieldSet, PolicyType};

use super::{Group, Hook, Wanted, no_configuration, no_filter};
use crate::hooks::HookFamily;
use crate::kernel::{self, Kernel};
use crate::loader::Aligned;

pub(crate) const GROUP: Group = Group {
    name: "security",
    object: &Aligned(*include_bytes!("../../bpf/security.bpf.o")),
    hooks,
    configure: no_configuration,
    filter: no_filter,
    fields,
};

/// Why the kernel does not show what raises policies of a type; none if it does.
pub(crate) fn unavailable(policy_type: PolicyType, family: HookFamily) -> Option<&'static str> {
    match policy_type {
        PolicyType::Selinux if !Kernel::running().selinux => {
            Some("the kernel has no SELinux (CONFIG_SECURITY_SELINUX)")
        }
        PolicyType::Selinux if !kernel::selinux_is_active() => Some(
            "SELinux, which would tell of it (selnl_notify_setenforce), is not active: CONFIG_SECURITY_SELINUX, and `lsm=selinux,bpf` or `security=selinux` at boot",
        ),
        PolicyType::Selinux if !family.sees_objects() => {
            Some("the kernel has no trampolines (CONFIG_FUNCTION_TRACER) and no kprobes (CONFIG_KPROBES)")
        }
        PolicyType::KernelPayload if !kernel::has_kprobes() => Some(kernel::NO_KPROBES),
        // Tried on Linux 5.10 to 7.3: they are closed to tracing, and so to kprobes.
        PolicyType::SmepSmap => Some(
            "the kernel lets no probe onto what writes its control registers (native_write_cr4, native_write_cr0), whatever its options",
        ),
        _ => None,
    }
}

fn hooks(wanted: &Wanted<'_>) -> Vec<Hook> {
    let change = |name| wanted.value(EventKind::Security, name);
    let mut programs = Vec::new();
    if unavailable(PolicyType::Selinux, wanted.family).is_none() {
        let trampolines = wanted.family == HookFamily::Trampoline;
        if change("SELINUX_PERMISSIVE") {
            programs.push(if trampolines { "fentry_setenforce" } else { "kprobe_setenforce" });
        }
        if change("SELINUX_POLICY_LOADED") {
            programs.push(if trampolines { "fentry_policy_commit" } else { "kprobe_policy_commit" });
        }
        if change("SELINUX_DISABLED") && Kernel::running().selinux_disable {
            programs.push(if trampolines { "fexit_disable" } else { "kretprobe_disable" });
        }
    }
    // The address to return to is on the stack at a kprobe, and behind a trampoline it is not.
    if change("KERNEL_PAYLOAD") && unavailable(PolicyType::KernelPayload, wanted.family).is_none() {
        programs.extend(["kprobe_commit_creds", "kprobe_prepare_kernel_cred", "kprobe_call_usermodehelper_exec"]);
    }
    programs.into_iter().map(|program| Hook::new(program, EventKind::Security)).collect()
}

fn fields(kind: EventKind, family: HookFamily) -> FieldSet {
    let types = [PolicyType::Selinux, PolicyType::KernelPayload];
    match kind {
        EventKind::Security if types.iter().any(|name| unavailable(*name, family).is_none()) => {
            [Field::SecurityChange].into_iter().collect()
        }
        _ => FieldSet::EMPTY,
    }
}

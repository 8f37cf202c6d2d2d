//! Processes that reach into others.

use libbpf_rs::Object;
use sls_core::{EventKind, Field, FieldSet};

use super::{Group, Hook, Wanted, no_configuration};
use crate::error::ProbeError;
use crate::hooks::HookFamily;
use crate::kernel::{Kernel, has_syscall_tracepoints};
use crate::loader::{Aligned, map_of, set_entry};
use crate::tracefs;

pub(crate) const GROUP: Group = Group {
    name: "ptrace",
    object: &Aligned(*include_bytes!("../../bpf/ptrace.bpf.o")),
    hooks,
    configure: no_configuration,
    filter,
    fields,
};

/// Which ways of access are wanted, by their number.
const FILTER: &str = "wanted_access";

/// In the order of `enum ptrace_access` in `bpf/target.h`, as far as this object tells of them.
const ACCESSES: [&str; 4] = ["ATTACH", "SEIZE", "POKE", "VM_WRITE"];

fn hooks(wanted: &Wanted<'_>) -> Vec<Hook> {
    let access = |name| wanted.value(EventKind::Ptrace, name);
    let (attach, poke) = (access("ATTACH") || access("SEIZE"), access("POKE"));
    let kernel = Kernel::running();
    let mut programs = Vec::new();
    match wanted.family {
        HookFamily::Trampoline if kernel.ptrace => {
            if attach {
                programs.push("fentry_attach");
            }
            if poke {
                programs.push("fexit_request");
                programs.extend(kernel.compat_arch_ptrace.then_some("fexit_compat_request"));
            }
        }
        _ if (attach || poke) && has_syscall_tracepoints() => programs.extend(["enter_ptrace", "exit_ptrace"]),
        _ => {}
    }
    // None of its parts tells a write from a read.
    if access("VM_WRITE") && tracefs::has_system_call("sys_exit_process_vm_writev") {
        programs.extend(["enter_vm_write", "exit_vm_write"]);
    }
    programs.into_iter().map(|program| Hook::new(program, EventKind::Ptrace)).collect()
}

fn filter(object: &Object, wanted: &Wanted<'_>) -> Result<(), ProbeError> {
    let map = map_of(object, FILTER)?;
    for (number, name) in (0_u32..).zip(ACCESSES) {
        let on = u32::from(wanted.value(EventKind::Ptrace, name));
        set_entry(&map, FILTER, &number.to_ne_bytes(), &on.to_ne_bytes())?;
    }
    Ok(())
}

fn fields(kind: EventKind, family: HookFamily) -> FieldSet {
    let trampolines = family == HookFamily::Trampoline && Kernel::running().ptrace;
    match kind {
        EventKind::Ptrace if trampolines || has_syscall_tracepoints() => {
            [Field::PtraceRequest, Field::TargetPid, Field::TargetProgramName].into_iter().collect()
        }
        _ => FieldSet::EMPTY,
    }
}

//! Code that is loaded into the kernel: modules, BPF programs, another kernel.

use libbpf_rs::OpenObject;
use sls_core::{EventKind, Field, FieldSet};

use super::{Group, Hook, Wanted, no_filter};
use crate::hooks::HookFamily;
use crate::kernel::{self, Kernel};
use crate::loader::Aligned;
use crate::tracefs;

pub(crate) const GROUP: Group = Group {
    name: "module",
    object: &Aligned(*include_bytes!("../../bpf/module.bpf.o")),
    hooks,
    configure,
    filter: no_filter,
    fields,
};

/// Another kernel is loaded by a system call, and none of its parts tells whether that went well.
const KEXEC: [(&str, [&str; 2]); 2] = [
    ("sys_exit_kexec_load", ["enter_kexec_load", "exit_kexec_load"]),
    ("sys_exit_kexec_file_load", ["enter_kexec_file_load", "exit_kexec_file_load"]),
];

fn hooks(wanted: &Wanted<'_>) -> Vec<Hook> {
    let operation = |name| wanted.value(EventKind::Module, name);
    let kernel = Kernel::running();
    let mut programs = Vec::new();
    if operation("MODULE_LOAD") && kernel.module_load {
        programs.extend(match wanted.family {
            HookFamily::Trampoline => ["fentry_read_file", "fentry_load_data"],
            HookFamily::Kprobe => ["kprobe_read_file", "kprobe_load_data"],
            HookFamily::Tracepoint => ["enter_finit_module", "enter_init_module"],
        });
        programs.push("on_module_load");
    }
    if operation("BPF_LOAD") {
        match wanted.family {
            HookFamily::Trampoline if kernel.bpf_prog_kallsyms_add => programs.push("fentry_program"),
            HookFamily::Kprobe if kernel.bpf_prog_kallsyms_add => programs.push("kprobe_program"),
            _ => programs.extend(["enter_bpf", "exit_bpf"]),
        }
    }
    if operation("KEXEC") {
        programs.extend(
            KEXEC.iter().filter(|(event, _)| tracefs::has_system_call(event)).flat_map(|(_, programs)| *programs),
        );
    }
    programs.into_iter().map(|program| Hook::new(program, EventKind::Module)).collect()
}

fn configure(open: &mut OpenObject, _: &Wanted<'_>) -> libbpf_rs::Result<()> {
    kernel::set_self(open)
}

fn fields(kind: EventKind, _: HookFamily) -> FieldSet {
    match kind {
        EventKind::Module => [Field::ModuleOperation, Field::ModuleName, Field::FilePath].into_iter().collect(),
        _ => FieldSet::EMPTY,
    }
}

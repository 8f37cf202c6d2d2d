//! Memory that becomes executable, and user space that handles its own page faults.

use libbpf_rs::Object;
use sls_core::{EventKind, Field, FieldSet};

use super::{Group, Hook, Wanted, no_configuration};
use crate::error::ProbeError;
use crate::hooks::HookFamily;
use crate::kernel::{Kernel, NO_SYSCALL_TRACEPOINTS, has_syscall_tracepoints};
use crate::loader::{Aligned, map_of, set_entry};
use crate::record::REGIONS;
use crate::tracefs;

pub(crate) const GROUP: Group = Group {
    name: "memory",
    object: &Aligned(*include_bytes!("../../bpf/memory.bpf.o")),
    hooks,
    configure: no_configuration,
    filter,
    fields,
};

/// The regions that are wanted, as bits.
const FILTER: &str = "wanted_regions";

const TRAMPOLINES: [&str; 2] = ["fexit_protect", "fexit_map"];

/// The calls that make memory executable: the tracepoint, the program at its entry, and those at its end, of which the
/// second is for kernels that do not look for mappings.
const CALLS: [(&str, &str, [&str; 2]); 4] = [
    ("sys_exit_mprotect", "enter_mprotect", ["exit_mprotect", "tree_mprotect"]),
    ("sys_exit_pkey_mprotect", "enter_pkey_mprotect", ["exit_pkey_mprotect", "tree_pkey_mprotect"]),
    ("sys_exit_mmap", "enter_mmap", ["exit_mmap", "tree_mmap"]),
    ("sys_exit_shmat", "enter_shmat", ["exit_shmat", "tree_shmat"]),
];

fn hooks(wanted: &Wanted<'_>) -> Vec<Hook> {
    let kernel = Kernel::running();
    let mut hooks = Vec::new();
    if wanted.kind(EventKind::Memory) {
        let hook = |program| Hook::new(program, EventKind::Memory);
        if wanted.family == HookFamily::Trampoline {
            hooks.extend(TRAMPOLINES.map(hook));
            hooks.extend(kernel.do_shmat.then(|| hook("fexit_attach")));
        } else {
            let calls = CALLS.iter().filter(|(event, ..)| tracefs::has_system_call(event));
            hooks.extend(calls.flat_map(|(_, enter, exits)| [enter, exits[usize::from(!kernel.find_vma)]].map(hook)));
        }
    }
    if wanted.kind(EventKind::Userfaultfd) && gives_userfaultfd(wanted.family) {
        let made = if sees_anonymous_files(wanted.family) { "fexit_userfaultfd" } else { "exit_userfaultfd" };
        hooks.push(Hook::new(made, EventKind::Userfaultfd));
    }
    hooks
}

fn sees_anonymous_files(family: HookFamily) -> bool {
    family == HookFamily::Trampoline && Kernel::running().inode_init_security_anon
}

/// Why userfaultfds are not told of.
pub(crate) fn no_userfaultfd(family: HookFamily) -> Option<&'static str> {
    match Kernel::running().userfaultfd {
        false => Some("the kernel has no userfaultfd (CONFIG_USERFAULTFD)"),
        true => (!gives_userfaultfd(family)).then_some(NO_SYSCALL_TRACEPOINTS),
    }
}

fn gives_userfaultfd(family: HookFamily) -> bool {
    Kernel::running().userfaultfd && (sees_anonymous_files(family) || has_syscall_tracepoints())
}

fn filter(object: &Object, wanted: &Wanted<'_>) -> Result<(), ProbeError> {
    let regions = (0..).zip(REGIONS).filter(|(_, name)| wanted.value(EventKind::Memory, name));
    let bits: u32 = regions.map(|(number, _)| 1 << number).sum();
    set_entry(&map_of(object, FILTER)?, FILTER, &0_u32.to_ne_bytes(), &bits.to_ne_bytes())
}

fn fields(kind: EventKind, family: HookFamily) -> FieldSet {
    match kind {
        EventKind::Memory if family == HookFamily::Trampoline || has_syscall_tracepoints() => {
            [Field::MemoryRegion, Field::MemoryIsWritable].into_iter().collect()
        }
        // It has no field of its own; that it has any says that it is given.
        EventKind::Userfaultfd if gives_userfaultfd(family) => [Field::EventType].into_iter().collect(),
        _ => FieldSet::EMPTY,
    }
}

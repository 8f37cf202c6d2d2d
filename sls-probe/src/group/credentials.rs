//! User ids that change without a set*id call and without a set-id program.

use libbpf_rs::OpenObject;
use sls_core::{EventKind, Field, FieldSet};

use super::{Attach, Group, Hook, Wanted, no_filter};
use crate::hooks::HookFamily;
use crate::kernel::has_syscall_tracepoints;
use crate::loader::{Aligned, set_constant};

pub(crate) const GROUP: Group = Group {
    name: "credentials",
    object: &Aligned(*include_bytes!("../../bpf/credentials.bpf.o")),
    hooks,
    configure,
    filter: no_filter,
    fields,
};

/// Where the programs are told which calls they see: `struct calls` of `bpf/credentials.bpf.c`.
const CALLS: &str = ".rodata.calls";

const ALWAYS: [&str; 3] = ["on_fork", "on_exec", "on_exit"];

const SYSTEM_CALLS: [&str; 6] =
    ["enter_setuid", "exit_setuid", "enter_setreuid", "exit_setreuid", "enter_setresuid", "exit_setresuid"];

fn hooks(wanted: &Wanted<'_>) -> Vec<Hook> {
    if !wanted.kind(EventKind::Credentials) || !can_tell(wanted.family) {
        return Vec::new();
    }
    // The calls first: what is known must not miss one.
    let calls = if sees_all_calls(wanted.family) { &["fexit_set_id"][..] } else { &SYSTEM_CALLS };
    let programs = calls.iter().chain(&ALWAYS).map(|program| Hook::new(program, EventKind::Credentials));
    let scan = Hook { program: "on_thread", kind: EventKind::Credentials, attach: Attach::Scan };
    programs.chain([scan]).collect()
}

fn sees_all_calls(family: HookFamily) -> bool {
    family == HookFamily::Trampoline
}

/// Whether there is a way to see what is honest.
fn can_tell(family: HookFamily) -> bool {
    sees_all_calls(family) || has_syscall_tracepoints()
}

fn configure(open: &mut OpenObject, wanted: &Wanted<'_>) -> libbpf_rs::Result<()> {
    let value = [u8::from(sees_all_calls(wanted.family)), 0, 0, 0, 0, 0, 0, 0];
    set_constant(open, CALLS, &value)
}

fn fields(kind: EventKind, family: HookFamily) -> FieldSet {
    match kind {
        EventKind::Credentials if can_tell(family) => [Field::PreviousUid, Field::PreviousEuid].into_iter().collect(),
        _ => FieldSet::EMPTY,
    }
}

//! exec, fork, exit, and the snapshot of running processes.

use libbpf_rs::OpenObject;
use sls_core::{EventKind, Field, FieldSet};

use super::{Attach, Group, Hook, Wanted, no_filter};
use crate::hooks::HookFamily;
use crate::kernel;
use crate::loader::Aligned;

pub(crate) const GROUP: Group = Group {
    name: "process",
    object: &Aligned(*include_bytes!("../../bpf/process.bpf.o")),
    hooks,
    configure,
    filter: no_filter,
    fields,
};

fn hooks(wanted: &Wanted<'_>) -> Vec<Hook> {
    let on_exec = if wanted.settings.kernel_tier { "on_exec_decided" } else { "on_exec" };
    let mut hooks = vec![
        Hook::new(on_exec, EventKind::Exec),
        Hook::new("on_fork", EventKind::Fork),
        Hook::new("on_exit", EventKind::Exit),
        Hook { program: "on_task", kind: EventKind::Baseline, attach: Attach::Iterator },
    ];
    // A crash is the end of a process.
    let crashes = wanted.kind(EventKind::Crash);
    hooks.retain(|hook| wanted.kind(hook.kind) || crashes && hook.kind == EventKind::Exit);
    hooks
}

/// What begins the names of the maps of the kernel tier.
const TIER_MAPS: &str = "tier_";

/// Without a kernel tier, its maps take no memory.
fn configure(open: &mut OpenObject, wanted: &Wanted<'_>) -> libbpf_rs::Result<()> {
    for mut map in open.maps_mut() {
        if !wanted.settings.kernel_tier && map.name().to_string_lossy().starts_with(TIER_MAPS) {
            map.set_autocreate(false)?;
        }
    }
    // Its end is told to what it leaves behind.
    if wanted.settings.pin.is_some() {
        kernel::set_self(open)?;
    }
    Ok(())
}

/// What is told of a program.
pub(super) const PROGRAM: [Field; 8] = [
    Field::ProgramName,
    Field::ProgramArguments,
    Field::ProgramDirectory,
    Field::ProgramIsMemfd,
    Field::ProgramIsDeleted,
    Field::ProgramInode,
    Field::ProgramDevice,
    Field::Terminal,
];

/// What is told of how it was executed.
pub(super) const INVOCATION: [Field; 2] = [Field::InvokedName, Field::ScriptName];

fn fields(kind: EventKind, _: HookFamily) -> FieldSet {
    let running = || PROGRAM.into_iter().chain([Field::StandardInput]);
    match kind {
        EventKind::Exec => running().chain(INVOCATION).collect(),
        EventKind::Baseline => running().collect(),
        EventKind::Crash => [Field::CrashSignal].into_iter().collect(),
        _ => FieldSet::EMPTY,
    }
}

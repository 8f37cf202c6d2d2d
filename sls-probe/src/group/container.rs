//! The cgroups that come and go.

use libbpf_rs::OpenObject;
use sls_core::{EventKind, Field, FieldSet};

use super::{Group, Hook, Wanted, no_filter, process};
use crate::container::Legacy;
use crate::hooks::HookFamily;
use crate::loader::{Aligned, set_constant};

pub(crate) const GROUP: Group = Group {
    name: "container",
    object: &Aligned(*include_bytes!("../../bpf/container.bpf.o")),
    hooks,
    configure,
    filter: no_filter,
    fields,
};

/// The constant that says which hierarchy of version 1 is looked at.
const LEGACY: &str = ".rodata.legacy";

fn hooks(wanted: &Wanted<'_>) -> Vec<Hook> {
    let programs = ["on_cgroup_mkdir", "on_cgroup_rmdir"];
    let wanted = wanted.settings.containers;
    programs.into_iter().filter(|_| wanted).map(|program| Hook::new(program, EventKind::Container)).collect()
}

fn configure(open: &mut OpenObject, _: &Wanted<'_>) -> libbpf_rs::Result<()> {
    let hierarchy = Legacy::of_host().map_or(0, |legacy| legacy.id);
    set_constant(open, LEGACY, &hierarchy.to_le_bytes())
}

fn fields(kind: EventKind, _: HookFamily) -> FieldSet {
    use Field as F;
    if kind != EventKind::Container {
        return FieldSet::EMPTY;
    }
    // What a start has of the container's first program is what an execution has.
    let own = [
        F::ContainerOperation,
        F::ContainerPrivileged,
        F::ContainerHostPid,
        F::ContainerHostNetwork,
        F::ContainerMounts,
    ];
    own.into_iter().chain(process::PROGRAM).chain(process::INVOCATION).collect()
}

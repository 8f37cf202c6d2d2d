//! Operations that the kernel tier refuses before they happen.

use sls_core::{EventKind, FieldSet, Mechanism};

use super::{Attach, Group, Hook, Wanted, no_configuration, no_filter};
use crate::hooks::HookFamily;
use crate::loader::Aligned;

pub(crate) const GROUP: Group = Group {
    name: "refuse",
    object: &Aligned(*include_bytes!("../../bpf/refuse.bpf.o")),
    hooks,
    configure: no_configuration,
    filter: no_filter,
    fields,
};

/// What can be refused of files.
pub(crate) const FILE_OPERATIONS: &[&str] = &["CREATE", "OPEN_WRITE", "RENAME", "LINK", "UNLINK", "TRUNCATE", "CHMOD"];

fn hooks(wanted: &Wanted<'_>) -> Vec<Hook> {
    if !wanted.settings.kernel_tier {
        return Vec::new();
    }
    wanted.settings.refusals.iter().flat_map(|(mechanism, kind)| programs(*mechanism, *kind)).collect()
}

fn programs(mechanism: Mechanism, kind: EventKind) -> Vec<Hook> {
    let programs: &[&str] = match (mechanism, kind) {
        (Mechanism::CgroupConnect, EventKind::Connect) => {
            let of_cgroup = |program| Hook { program, kind, attach: Attach::Cgroup };
            return vec![of_cgroup("refuse_connect4"), of_cgroup("refuse_connect6")];
        }
        (Mechanism::Lsm, EventKind::Exec) => &["refuse_exec"],
        (Mechanism::Lsm, EventKind::File) => &[
            "refuse_create",
            "refuse_open",
            "refuse_rename",
            "refuse_link",
            "refuse_unlink",
            "refuse_truncate",
            "refuse_chmod",
        ],
        (Mechanism::Lsm, EventKind::Connect) => &["refuse_connect"],
        (Mechanism::Lsm, EventKind::Ptrace) => &["refuse_ptrace"],
        (Mechanism::Lsm, EventKind::Module) => &["refuse_read_file", "refuse_load_data", "refuse_bpf"],
        _ => &[],
    };
    let hook = |program: &&'static str| Hook::new(program, kind);
    programs.iter().map(hook).collect()
}

fn fields(_: EventKind, _: HookFamily) -> FieldSet {
    FieldSet::EMPTY
}

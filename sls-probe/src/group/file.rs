//! What happens to files, and writing to the memory of other processes through their files.

mod calls;
mod proto;

use std::collections::BTreeMap;
use std::time::Duration;

use libbpf_rs::{MapCore, Object, OpenObject};
use sls_core::{EventKind, Field, FieldSet, PathInterest};

use super::{Group, Hook, Wanted};
use crate::clock::BootTime;
use crate::error::ProbeError;
use crate::hooks::HookFamily;
use crate::loader::{Aligned, map_of, set_entry};
use crate::record::FILE_OPERATIONS;

pub(crate) const GROUP: Group =
    Group { name: "file", object: &Aligned(*include_bytes!("../../bpf/file.bpf.o")), hooks, configure, filter, fields };

/// The bit of [`FILTER`] that says that writing `/proc/PID/mem` is wanted (`FILE_MEMORY`).
const MEMORY: u32 = 31;
const MEMORY_REQUEST: &str = "MEM_WRITE";

/// A system call that began before it was watched is no loss. One that takes longer than this counts as one.
const SETTLES_IN: Duration = Duration::from_secs(2);

/// `struct file_filter`.
const FILTER: &str = "file_filter";

/// `struct file_top`.
const TOPS: &str = "file_tops";
const TOP_BYTES: usize = 64;
const MAX_TOPS: usize = 256;

/// The programs for an operation: those that note what is to be done, and those that see it done.
const PROGRAMS: &[(&str, &[&str])] = &[
    ("CREATE", &["on_open", "on_path_mknod", "on_path_mkdir", "on_vfs_create", "on_vfs_mknod", "on_vfs_mkdir"]),
    ("OPEN_WRITE", &["on_open"]),
    // Who opened it has to be known.
    ("WRITE", &["on_open", "on_permission"]),
    ("RENAME", &["on_path_rename", "on_vfs_rename"]),
    ("LINK", &["on_path_link", "on_vfs_link"]),
    ("SYMLINK", &["on_path_symlink", "on_vfs_symlink"]),
    ("UNLINK", &["on_path_unlink", "on_path_rmdir", "on_vfs_unlink", "on_vfs_rmdir", proto::ON_DELETE]),
    ("TRUNCATE", &["on_path_truncate", "on_file_truncate", "on_notify_change"]),
    ("CHMOD", &["on_path_chmod", "on_notify_change"]),
    ("CHOWN", &["on_path_chown", "on_notify_change"]),
    (
        "SETXATTR",
        &[
            "on_want_write",
            "on_want_write_file",
            "on_vfs_setxattr",
            "on_vfs_removexattr",
            "on_vfs_set_acl",
            "on_vfs_remove_acl",
        ],
    ),
];

/// In place of `on_path_chown`, where the kernel does not take it.
const CHOWN_PROGRAMS: &[&str] = &["on_want_write", "on_want_write_file"];

const MEMORY_PROGRAMS: &[&str] = &["on_mem_open"];

fn hooks(wanted: &Wanted<'_>) -> Vec<Hook> {
    match wanted.family {
        HookFamily::Trampoline => trampolines(wanted),
        // What is done is known when a function ends, and kprobes do not see arguments then.
        HookFamily::Kprobe | HookFamily::Tracepoint => calls::hooks(wanted),
    }
}

fn trampolines(wanted: &Wanted<'_>) -> Vec<Hook> {
    let operations = PROGRAMS.iter().filter(|(operation, _)| wanted.value(EventKind::File, operation));
    let of_files = operations.flat_map(|(_, programs)| *programs).map(|program| (*program, EventKind::File));
    let chown = wanted.value(EventKind::File, "CHOWN") && !proto::has("on_path_chown");
    let by_mount = if chown { CHOWN_PROGRAMS } else { &[] }.iter().map(|program| (*program, EventKind::File));
    let memory: &[&str] = if wants_memory(wanted) { MEMORY_PROGRAMS } else { &[] };
    let all = of_files.chain(by_mount).chain(memory.iter().map(|program| (*program, EventKind::Ptrace)));
    let mut hooks: Vec<Hook> = Vec::new();
    for (program, kind) in all {
        if !hooks.iter().any(|hook| hook.program == program) && proto::has(program) {
            hooks.push(Hook::new(program, kind));
        }
    }
    hooks
}

fn wants_memory(wanted: &Wanted<'_>) -> bool {
    wanted.value(EventKind::Ptrace, MEMORY_REQUEST)
}

fn configure(open: &mut OpenObject, wanted: &Wanted<'_>) -> libbpf_rs::Result<()> {
    let writers = wanted.value(EventKind::File, "WRITE");
    let config = proto::config(writers);
    for mut map in open.maps_mut() {
        let name = map.name().to_string_lossy().into_owned();
        match (name.as_str(), wanted.family) {
            (proto::CONFIG, _) => map.set_initial_value(&config)?,
            // The other family's maps are as small as can be, and so are those that nobody asks.
            ("file_opened" | "file_writers", _) if !writers => map.set_max_entries(1)?,
            ("file_called", HookFamily::Trampoline) => map.set_max_entries(1)?,
            ("file_called", _) => map.set_max_entries(calls::threads())?,
            ("file_pending" | "file_mounts", HookFamily::Tracepoint | HookFamily::Kprobe) => map.set_max_entries(1)?,
            _ => {}
        }
    }
    Ok(())
}

fn filter(object: &Object, wanted: &Wanted<'_>) -> Result<(), ProbeError> {
    if wanted.family != HookFamily::Trampoline {
        calls::describe(object)?;
    }
    let (mut operations, mut any_path) = (0, 0);
    let mut tops: BTreeMap<&[u8], u32> = BTreeMap::new();
    for (bit, operation) in FILE_OPERATIONS.iter().enumerate().map(|(number, name)| (1_u32 << number, name)) {
        if !wanted.value(EventKind::File, operation) {
            continue;
        }
        operations |= bit;
        match wanted.settings.interest.paths(operation) {
            PathInterest::Under(beginnings) => {
                beginnings.iter().for_each(|beginning| *tops.entry(beginning).or_default() |= bit);
            }
            _ => any_path |= bit,
        }
    }
    if tops.len() > MAX_TOPS || tops.keys().any(|top| top.len() >= TOP_BYTES) {
        (any_path, tops) = (operations, BTreeMap::new());
    }
    if wants_memory(wanted) {
        operations |= 1 << MEMORY;
    }
    // Nothing that is wanted is left out meanwhile.
    set_filter(object, operations, u32::MAX)?;
    set_tops(object, &tops)?;
    set_filter(object, operations, any_path)
}

fn set_filter(object: &Object, operations: u32, any_path: u32) -> Result<(), ProbeError> {
    let settled = BootTime::now().saturating_add(SETTLES_IN.as_nanos() as u64);
    let value = [&operations.to_ne_bytes()[..], &any_path.to_ne_bytes(), &settled.to_ne_bytes()].concat();
    set_entry(&map_of(object, FILTER)?, FILTER, &0_u32.to_ne_bytes(), &value)
}

fn set_tops(object: &Object, tops: &BTreeMap<&[u8], u32>) -> Result<(), ProbeError> {
    let map = map_of(object, TOPS)?;
    for key in map.keys().collect::<Vec<_>>() {
        map.delete(&key).map_err(|source| ProbeError::Map { map: TOPS, source })?;
    }
    for (name, operations) in tops {
        let mut key = [0; TOP_BYTES];
        // Shorter than the key.
        key[..name.len()].copy_from_slice(name);
        set_entry(&map, TOPS, &key, &operations.to_ne_bytes())?;
    }
    Ok(())
}

fn fields(kind: EventKind, _: HookFamily) -> FieldSet {
    use Field as F;
    match kind {
        EventKind::File => [
            F::FileOperation,
            F::FilePath,
            F::NewFilePath,
            F::FileMode,
            F::FileUid,
            F::FileGid,
            F::FileInode,
            F::FileDevice,
        ]
        .into_iter()
        .collect(),
        _ => FieldSet::EMPTY,
    }
}

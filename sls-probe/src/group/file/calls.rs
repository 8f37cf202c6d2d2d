//! The system calls that change files.

use std::thread;

use libbpf_rs::Object;
use nix::libc;
use sls_core::EventKind;

use super::super::{Attach, Hook, Wanted};
use crate::error::ProbeError;
use crate::loader::{map_of, set_entry};
use crate::record::FILE_OPERATIONS;

/// `struct call` by number.
const CALLS: &str = "file_calls";

/// `NO_ARGUMENT`.
const NONE: u8 = 7;

/// Calls that open files.
const OPENS: &[&str] =
    &["sys_exit_open", "sys_exit_creat", "sys_exit_openat", "sys_exit_openat2", "sys_exit_open_by_handle_at"];

/// Which of the arguments of a call is what.
#[derive(Clone, Copy, Debug)]
struct Call {
    enter: &'static str,
    exit: &'static str,
    number: libc::c_long,
    operation: &'static str,
    descriptor: u8,
    directory: u8,
    name: u8,
    directory2: u8,
    name2: u8,
    flags: u8,
    /// Whether it acts upon what the name links to, unless its flags say otherwise.
    follow: bool,
}

macro_rules! call {
    ($name:literal, $number:expr, $operation:literal $(, $part:ident: $value:literal)*) => {
        Call {
            $($part: $value,)*
            ..Call {
                enter: concat!("sys_enter_", $name),
                exit: concat!("sys_exit_", $name),
                number: $number,
                operation: $operation,
                descriptor: NONE,
                directory: NONE,
                name: NONE,
                directory2: NONE,
                name2: NONE,
                flags: NONE,
                follow: matches!($operation.as_bytes(), b"CHMOD" | b"CHOWN" | b"TRUNCATE" | b"SETXATTR"),
            }
        }
    };
}

/// Calls that libc does not know everywhere; their numbers are the same on all architectures.
const SYS_FCHMODAT2: libc::c_long = 452;
const SYS_SETXATTRAT: libc::c_long = 463;
const SYS_REMOVEXATTRAT: libc::c_long = 466;

const COMMON: &[Call] = &[
    call!("unlinkat", libc::SYS_unlinkat, "UNLINK", directory: 0, name: 1),
    call!("renameat", libc::SYS_renameat, "RENAME", directory: 0, name: 1, directory2: 2, name2: 3),
    call!("renameat2", libc::SYS_renameat2, "RENAME", directory: 0, name: 1, directory2: 2, name2: 3, flags: 4),
    call!("linkat", libc::SYS_linkat, "LINK", directory: 0, name: 1, directory2: 2, name2: 3, flags: 4),
    call!("symlinkat", libc::SYS_symlinkat, "SYMLINK", directory: 1, name: 2),
    call!("mkdirat", libc::SYS_mkdirat, "CREATE", directory: 0, name: 1),
    call!("mknodat", libc::SYS_mknodat, "CREATE", directory: 0, name: 1),
    call!("fchmod", libc::SYS_fchmod, "CHMOD", descriptor: 0),
    call!("fchmodat", libc::SYS_fchmodat, "CHMOD", directory: 0, name: 1),
    call!("fchmodat2", SYS_FCHMODAT2, "CHMOD", directory: 0, name: 1, flags: 3),
    call!("fchown", libc::SYS_fchown, "CHOWN", descriptor: 0),
    call!("fchownat", libc::SYS_fchownat, "CHOWN", directory: 0, name: 1, flags: 4),
    call!("truncate", libc::SYS_truncate, "TRUNCATE", name: 0),
    call!("ftruncate", libc::SYS_ftruncate, "TRUNCATE", descriptor: 0),
    call!("setxattr", libc::SYS_setxattr, "SETXATTR", name: 0),
    call!("lsetxattr", libc::SYS_lsetxattr, "SETXATTR", name: 0, follow: false),
    call!("fsetxattr", libc::SYS_fsetxattr, "SETXATTR", descriptor: 0),
    call!("setxattrat", SYS_SETXATTRAT, "SETXATTR", directory: 0, name: 1, flags: 2),
    call!("removexattr", libc::SYS_removexattr, "SETXATTR", name: 0),
    call!("lremovexattr", libc::SYS_lremovexattr, "SETXATTR", name: 0, follow: false),
    call!("fremovexattr", libc::SYS_fremovexattr, "SETXATTR", descriptor: 0),
    call!("removexattrat", SYS_REMOVEXATTRAT, "SETXATTR", directory: 0, name: 1, flags: 2),
];

/// What only older architectures have.
#[cfg(target_arch = "x86_64")]
const OLD: &[Call] = &[
    call!("unlink", libc::SYS_unlink, "UNLINK", name: 0),
    call!("rmdir", libc::SYS_rmdir, "UNLINK", name: 0),
    call!("rename", libc::SYS_rename, "RENAME", name: 0, name2: 1),
    call!("link", libc::SYS_link, "LINK", name: 0, name2: 1),
    call!("symlink", libc::SYS_symlink, "SYMLINK", name: 1),
    call!("mkdir", libc::SYS_mkdir, "CREATE", name: 0),
    call!("mknod", libc::SYS_mknod, "CREATE", name: 0),
    call!("chmod", libc::SYS_chmod, "CHMOD", name: 0),
    call!("chown", libc::SYS_chown, "CHOWN", name: 0),
    call!("lchown", libc::SYS_lchown, "CHOWN", name: 0, follow: false),
];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[Call] = &[];

/// How many threads may be in such a call at once: a map's entry is 8 KiB.
const THREADS_EACH_PROCESSOR: usize = 16;
const MIN_THREADS: usize = 256;
const MAX_THREADS: usize = 2048;

/// The entries of `file_called`.
pub(super) fn threads() -> u32 {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    // At most `MAX_THREADS`.
    (processors * THREADS_EACH_PROCESSOR).clamp(MIN_THREADS, MAX_THREADS) as u32
}

pub(super) fn hooks(wanted: &Wanted<'_>) -> Vec<Hook> {
    let hook = |program, name, kind| Hook { program, kind, attach: Attach::SystemCall(name) };
    let wants = |operation| wanted.value(EventKind::File, operation);
    let mut hooks = Vec::new();
    if wants("CREATE") || wants("OPEN_WRITE") {
        hooks.extend(OPENS.iter().map(|name| hook("on_opened", name, EventKind::File)));
    } else if super::wants_memory(wanted) {
        hooks.extend(OPENS.iter().map(|name| hook("on_opened", name, EventKind::Ptrace)));
    }
    for call in COMMON.iter().chain(OLD).filter(|call| wants(call.operation)) {
        hooks.push(hook("on_call", call.enter, EventKind::File));
        hooks.push(hook("on_called", call.exit, EventKind::File));
    }
    hooks
}

/// Tells the programs what the arguments are.
pub(super) fn describe(object: &Object) -> Result<(), ProbeError> {
    let map = map_of(object, CALLS)?;
    for call in COMMON.iter().chain(OLD) {
        let operation = FILE_OPERATIONS.iter().position(|name| *name == call.operation);
        let operation = operation.and_then(|operation| u8::try_from(operation).ok()).unwrap_or(u8::MAX);
        let known = if call.follow { 3 } else { 1 };
        let Call { descriptor, directory, name, directory2, name2, flags, .. } = *call;
        let value = [operation, descriptor, directory, name, directory2, name2, flags, known];
        let key = u32::try_from(call.number).unwrap_or(u32::MAX).to_ne_bytes();
        set_entry(&map, CALLS, &key, &value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_have_names() {
        for call in COMMON.iter().chain(OLD) {
            assert!(FILE_OPERATIONS.contains(&call.operation), "{call:?}");
            assert!(call.descriptor != NONE || call.name != NONE, "{call:?}");
        }
    }
}

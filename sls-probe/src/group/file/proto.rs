//! Where the functions of the running kernel have what the programs look at.

use std::fs;
use std::sync::OnceLock;

use libbpf_rs::Btf;
use libbpf_rs::btf::types::{Func, FuncProto};
use libbpf_rs::btf::{BtfKind, BtfType};

use crate::kernel::release;

/// `struct file_config` of `bpf/file_objects.h`.
pub(super) const CONFIG: &str = ".rodata.file";

/// The functions whose end is watched, in the order of `enum proto_of`, with the program that does it.
const FUNCTIONS: [(&str, &str); 13] = [
    ("vfs_create", "on_vfs_create"),
    ("vfs_mknod", "on_vfs_mknod"),
    ("vfs_mkdir", "on_vfs_mkdir"),
    ("vfs_rmdir", "on_vfs_rmdir"),
    ("vfs_unlink", "on_vfs_unlink"),
    ("vfs_symlink", "on_vfs_symlink"),
    ("vfs_link", "on_vfs_link"),
    ("vfs_rename", "on_vfs_rename"),
    ("notify_change", "on_notify_change"),
    ("vfs_setxattr", "on_vfs_setxattr"),
    ("vfs_removexattr", "on_vfs_removexattr"),
    ("vfs_set_acl", "on_vfs_set_acl"),
    ("vfs_remove_acl", "on_vfs_remove_acl"),
];

/// Functions that not every kernel has, and their programs: Linux 6.2 tells the truncation of open files from that of
/// named ones, and lists of access from other attributes.
const OPTIONAL: [(&str, &str); 3] = [
    ("security_file_truncate", "on_file_truncate"),
    ("vfs_set_acl", "on_vfs_set_acl"),
    ("vfs_remove_acl", "on_vfs_remove_acl"),
];

/// Entries of `protos` in `struct file_config`.
const PROTOS: usize = 16;

/// What is known of a function.
#[derive(Clone, Copy, Debug, Default)]
struct Proto {
    dentry: u8,
    result: u8,
    pointer: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Kernel {
    protos: [Proto; FUNCTIONS.len()],
    optional: [bool; OPTIONAL.len()],
    chown: bool,
    /// The compiler made several functions of one, and the kernel may call those.
    split: [bool; FUNCTIONS.len()],
}

/// The kernel's symbols.
const SYMBOLS: &str = "/proc/kallsyms";

/// The function that may be split, and what sees the same without it.
const ON_RMDIR: &str = "on_vfs_rmdir";
pub(super) const ON_DELETE: &str = "on_d_delete";

/// The program on a function with structures for arguments.
const ON_CHOWN: &str = "on_path_chown";

/// The first kernel whose trampolines take them.
const STRUCTURES: (u32, u32) = (6, 1);

/// Whether the function that `program` is attached to was split.
fn is_split(program: &str) -> bool {
    FUNCTIONS.iter().zip(running().split).any(|((_, other), split)| split && *other == program)
}

/// Whether the kernel has the function that `program` is attached to. Those that every kernel has are not asked for.
pub(super) fn has(program: &str) -> bool {
    if program == ON_DELETE {
        return is_split(ON_RMDIR);
    }
    if program == ON_CHOWN {
        return running().chown;
    }
    match OPTIONAL.iter().position(|(_, other)| *other == program) {
        Some(at) => running().optional[at],
        None => true,
    }
}

/// The bytes of `struct file_config`.
pub(super) fn config(writers: bool) -> [u8; 4 + 4 * PROTOS] {
    let mut config = [0; 4 + 4 * PROTOS];
    config[..2].copy_from_slice(&u16::from(writers).to_ne_bytes());
    config[2..4].copy_from_slice(&u16::from(!running().chown).to_ne_bytes());
    let (entries, _) = config[4..].as_chunks_mut::<4>();
    for (entry, proto) in entries.iter_mut().zip(running().protos) {
        *entry = [proto.dentry, proto.result, proto.pointer.into(), 0];
    }
    config
}

fn running() -> &'static Kernel {
    static RUNNING: OnceLock<Kernel> = OnceLock::new();
    RUNNING.get_or_init(|| Btf::from_vmlinux().map(|btf| kernel(&btf)).unwrap_or_default())
}

fn kernel(btf: &Btf<'_>) -> Kernel {
    Kernel {
        protos: FUNCTIONS.map(|(function, _)| proto(btf, function).unwrap_or_default()),
        optional: OPTIONAL.map(|(function, _)| btf.type_by_name::<Func<'_>>(function).is_some()),
        chown: release().1.is_some_and(|version| version >= STRUCTURES),
        split: split(),
    }
}

/// Looks for `NAME.part.0` and the like.
fn split() -> [bool; FUNCTIONS.len()] {
    let mut split = [false; FUNCTIONS.len()];
    let Ok(symbols) = fs::read(SYMBOLS) else { return split };
    let lines = symbols.split(|byte| *byte == b'\n');
    // Address, type, name, and the module if it is in one.
    let names = lines.filter_map(|line| line.split(|byte| matches!(byte, b' ' | b'\t')).nth(2));
    for name in names.filter(|name| name.contains(&b'.')) {
        for ((function, program), split) in FUNCTIONS.iter().zip(&mut split) {
            let rest = name.strip_prefix(function.as_bytes());
            if rest.is_some_and(|rest| rest.starts_with(b".part.") || rest.starts_with(b".constprop.")) {
                *split = true;
                if *program != ON_RMDIR {
                    tracing::warn!(
                        function,
                        "the kernel has this function in parts: what files it changes may not be seen"
                    );
                }
            }
        }
    }
    split
}

fn proto(btf: &Btf<'_>, function: &str) -> Option<Proto> {
    let function = btf.type_by_name::<Func<'_>>(function)?;
    let proto = FuncProto::try_from(function.next_type()?).ok()?;
    // `struct renamedata` is the only argument where it is used.
    let dentries = proto.iter().enumerate().filter(|(_, parameter)| {
        let pointed = btf.type_by_id::<BtfType<'_>>(parameter.ty).and_then(|pointer| pointer.next_type());
        pointed.is_some_and(|pointed| pointed.name().is_some_and(|name| name == "dentry"))
    });
    let dentry = dentries.last().map_or(0, |(index, _)| index);
    let returned = proto.next_type().map(|returned| returned.skip_mods_and_typedefs().kind());
    Some(Proto {
        dentry: u8::try_from(dentry).ok()?,
        result: u8::try_from(proto.len()).ok()?,
        pointer: returned == Some(BtfKind::Ptr),
    })
}

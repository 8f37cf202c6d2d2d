//! The files through which tracepoints are found.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::OnceLock;
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

const MOUNT_POINT: &str = "/sys/kernel/tracing";

/// Whether system calls have the tracepoint `name`, such as `sys_enter_bpf`. Looked up once; without the permission to look
/// there is none.
pub(crate) fn has_system_call(name: &str) -> bool {
    static TRACEPOINTS: OnceLock<HashSet<OsString>> = OnceLock::new();
    let tracepoints = TRACEPOINTS.get_or_init(|| visible(system_calls).unwrap_or_default());
    tracepoints.contains(OsStr::new(name))
}

fn system_calls() -> io::Result<HashSet<OsString>> {
    let entries = fs::read_dir(Path::new(MOUNT_POINT).join("events/syscalls"))?;
    entries.map(|entry| Ok(entry?.file_name())).collect()
}

/// Runs `attach` where libbpf finds the numbers of tracepoints: if nobody mounted tracefs, in a thread with a mount
/// namespace of its own, so that the machine stays as it is.
pub(crate) fn visible<T: Send + 'static>(attach: impl FnOnce() -> T + Send + 'static) -> T {
    if Path::new(MOUNT_POINT).join("events").exists() {
        return attach();
    }
    let thread = thread::spawn(|| {
        if let Err(error) = mount_privately() {
            tracing::warn!(%error, "cannot mount tracefs: what needs tracepoints of system calls will not be seen");
        }
        attach()
    });
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn mount_privately() -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(Some("tracefs"), MOUNT_POINT, Some("tracefs"), MsFlags::empty(), none)
}

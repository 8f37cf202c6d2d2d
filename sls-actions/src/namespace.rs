//! The prerequisite of every action: pids mean the same to the sensor and to the kernel.

use std::io;

use sls_core::HOST_PID_NAMESPACE;

/// Whether the calling process is in the host's PID namespace. Elsewhere a pid from an event names another process, or
/// none, so no action can be taken.
///
/// ```
/// if !sls_actions::in_host_pid_namespace()? {
///     eprintln!("run with hostPID: true, or docker run --pid=host");
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// When `/proc/self/ns/pid` cannot be read, most often because `/proc` is not mounted or belongs to another namespace.
pub fn in_host_pid_namespace() -> io::Result<bool> {
    let namespace = rustix::fs::stat(c"/proc/self/ns/pid")?;
    Ok(namespace.st_ino == u64::from(HOST_PID_NAMESPACE))
}

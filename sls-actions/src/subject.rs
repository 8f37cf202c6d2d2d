//! What guards want to know of a process that no event tells of.

use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use sls_core::{Event, EventKind, Field, ProcessKey};

use crate::container::cgroup::{Hierarchy, path_of};
use crate::identity::CLOCK_TICK_NS;

/// What the kernel puts behind the path of a program whose file was removed.
const DELETED: &[u8] = b" (deleted)";

/// Describes processes from `/proc`.
#[derive(Debug)]
pub(crate) struct Subjects {
    cgroups: Option<Hierarchy>,
}

impl Subjects {
    pub(crate) fn new() -> Self {
        Self { cgroups: Hierarchy::unified().ok() }
    }

    /// An event that tells of the process what its guards ask for. What cannot be had is left out. It holds if the process
    /// is not gone afterwards.
    pub(crate) fn describe(&self, pid: u32, start_ticks: u64) -> Event {
        let mut event = Event::new(EventKind::Baseline);
        describe(pid, start_ticks, &mut event);
        event.cgroup_id = self.cgroup(pid);
        event
    }

    /// Id of the process's cgroup in the v2 hierarchy.
    fn cgroup(&self, pid: u32) -> Option<u64> {
        self.cgroups.as_ref()?.id_at(&path_of(pid, <[u8]>::is_empty)?)
    }
}

/// Fills `event` with what guards ask about the process, but for its cgroup. It holds if the process is not gone afterwards.
pub(crate) fn describe(pid: u32, start_ticks: u64, event: &mut Event) {
    event.process = ProcessKey { pid, start: start_ticks.saturating_mul(CLOCK_TICK_NS) };
    event.pid_namespace = namespace(pid, "pid");
    event.mount_namespace = namespace(pid, "mnt");
    if let Some(program) = program(pid) {
        event.set_text(Field::ProgramName, &program);
    }
}

/// Inode of a namespace of the process.
fn namespace(pid: u32, kind: &str) -> Option<u32> {
    fs::metadata(format!("/proc/{pid}/ns/{kind}")).ok()?.ino().try_into().ok()
}

/// The path of the program's file, also if that was removed since.
fn program(pid: u32) -> Option<Vec<u8>> {
    let link = format!("/proc/{pid}/exe");
    let mut path = fs::read_link(&link).ok()?.into_os_string().into_vec();
    if path.ends_with(DELETED) {
        // A file may be called so.
        let file = |path: &Path| fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
        let named = file(Path::new(std::ffi::OsStr::from_bytes(&path)));
        if named.is_none() || named != file(Path::new(&link)) {
            path.truncate(path.len() - DELETED.len());
        }
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Child, Command};

    use super::*;

    fn described(child: &mut Child) -> Event {
        let start = crate::process_start(child.id()).unwrap() / CLOCK_TICK_NS;
        Subjects::new().describe(child.id(), start)
    }

    #[test]
    fn tells_program_and_namespaces() {
        let mut child = Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        let event = described(&mut child);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(
            event.text(Field::ProgramName).ends_with(b"/sleep") || event.text(Field::ProgramName).ends_with(b"busybox")
        );
        assert_eq!(event.pid_namespace, namespace(std::process::id(), "pid"));
        assert_eq!(event.mount_namespace, namespace(std::process::id(), "mnt"));
        assert!(event.pid_namespace.is_some() && event.mount_namespace.is_some());
        assert_eq!(event.cgroup_id.is_some(), Subjects::new().cgroups.is_some());
    }

    #[test]
    fn a_removed_program_keeps_its_path_and_a_name_is_no_removal() {
        let directory = tempfile::tempdir().unwrap();
        for (name, remove) in [("x", false), ("x", true), ("x (deleted)", false), ("x (deleted)", true)] {
            let path = directory.path().join(name);
            fs::copy("/bin/sleep", &path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            let mut child = Command::new(&path).arg("1000").spawn().unwrap();
            // Its parent may go on before it has become the program.
            let own = std::env::current_exe().unwrap();
            while fs::read_link(format!("/proc/{}/exe", child.id())).unwrap() == own {
                std::thread::yield_now();
            }
            if remove {
                fs::remove_file(&path).unwrap();
            }
            let found = program(child.id());
            child.kill().unwrap();
            child.wait().unwrap();
            assert_eq!(found.as_deref(), Some(path.as_os_str().as_bytes()), "{name} {remove}");
        }
    }
}

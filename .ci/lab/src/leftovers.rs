//! What a test leaves behind in a guest, where nothing else runs.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use libbpf_rs::query::ProgInfoIter;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What ends by itself, and what the kernel frees later, has so long.
const PATIENCE: Duration = Duration::from_secs(10);

/// The flag of kernel threads in /proc/PID/stat.
const PF_KTHREAD: u64 = 0x0020_0000;

/// Mounted by the kernel when somebody looks there.
const AUTOMOUNT: &str = "/sys/kernel/debug/tracing";

/// Podman keeps it until the next boot.
const KEPT: &str = "/dev/shm/libpod_lock";

/// Where tests may write; only what has a name right here is looked at.
/// No other: in the root, what others write on this machine is seen too.
const DIRECTORIES: [&str; 5] = ["/tmp", "/var/tmp", "/run", "/dev/shm", "/sys/fs/bpf"];

/// The state of a guest: a line for everything that can be left behind.
#[derive(Debug)]
pub(crate) struct Traces(BTreeSet<String>);

impl Traces {
    pub(crate) fn now() -> Self {
        let mut all = BTreeSet::new();
        all.extend(processes().into_iter().map(|(pid, name)| format!("process {pid} ({name})")));
        all.extend(mounts());
        cgroups(Path::new("/sys/fs/cgroup"), &mut all);
        all.extend(DIRECTORIES.into_iter().flat_map(names).map(|path| format!("file {path}")));
        all.extend(names("/sys/class/net").map(|path| format!("interface {path}")));
        let modules = fs::read_to_string("/proc/modules").unwrap_or_default();
        all.extend(modules.lines().filter_map(|line| Some(format!("module {}", line.split(' ').next()?))));
        all.extend(
            ProgInfoIter::default()
                .map(|program| format!("BPF program {} ({})", program.id, program.name.to_string_lossy())),
        );
        for events in ["kprobe_events", "uprobe_events"] {
            let probes = fs::read_to_string(Path::new("/sys/kernel/tracing").join(events)).unwrap_or_default();
            all.extend(probes.lines().map(|probe| format!("probe {probe}")));
        }
        Self(all)
    }

    /// What is there now and was not then, and does not go away.
    pub(crate) fn left_behind(&self) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left: Vec<String> = Self::now().0.difference(&self.0).cloned().collect();
            if left.is_empty() || Instant::now() > deadline {
                return left;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Kills the processes that were not there then.
    pub(crate) fn end_processes(&self) {
        for (pid, name) in processes() {
            if !self.0.contains(&format!("process {pid} ({name})")) {
                // The guest has no processes but ours and its init.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}

/// Every process of user space, zombies included: pid and name.
fn processes() -> Vec<(i32, String)> {
    let read = |name: String| {
        let pid = name.parse().ok()?;
        let stat = fs::read(format!("/proc/{name}/stat")).ok()?;
        let stat = String::from_utf8_lossy(&stat).into_owned();
        let (head, tail) = stat.rsplit_once(") ")?;
        let flags: u64 = tail.split(' ').nth(6)?.parse().ok()?;
        let (_, name) = head.split_once('(')?;
        (flags & PF_KTHREAD == 0).then(|| (pid, name.to_owned()))
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| read(entry.file_name().into_string().ok()?)).collect()
}

fn mounts() -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(1));
    points.filter(|point| *point != AUTOMOUNT).map(|point| format!("mount {point}")).collect()
}

fn cgroups(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.insert(format!("cgroup {}", entry.path().display()));
            cgroups(&entry.path(), found);
        }
    }
}

/// Everything in a directory but empty directories: container runtimes keep theirs.
fn names(directory: &str) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let empty = |path: &Path| fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    let paths = entries.map(|entry| entry.path()).filter(move |path| !empty(path) && path != Path::new(KEPT));
    paths.map(|path| path.display().to_string())
}

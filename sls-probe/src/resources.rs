//! What this process takes of the machine, and what its cgroup lets it have.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, sysconf};
use sls_core::Usage;

use crate::cgroup::mount_point;
use crate::host::online_cpus;

/// Reads what this process has taken, for a [`Governor`](sls_core::Governor): a few system calls, some 20 µs.
///
/// CPU time is that of all its threads, in the kernel too. The run time of BPF programs is not in it: the kernel charges it
/// to whoever does what they look at. Memory is what is resident of the process (`VmRSS`), pages of programs and files
/// included, and ring buffers as often as they are mapped, which is twice. The kernel's own memory for BPF maps is not in
/// it; it counts in the cgroup.
///
/// ```
/// let before = sls_probe::resource_usage()?;
/// let after = sls_probe::resource_usage()?;
/// assert!(after.time_ns > before.time_ns && after.cpu_ns > before.cpu_ns && after.memory_bytes > 100 * 1024);
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// When `/proc` or a clock cannot be read.
pub fn resource_usage() -> io::Result<Usage> {
    let statm = fs::read_to_string("/proc/self/statm")?;
    let pages = resident_pages(&statm).ok_or_else(|| io::Error::other("unexpected /proc/self/statm"))?;
    let page = sysconf(SysconfVar::PAGE_SIZE)?.and_then(|bytes| u64::try_from(bytes).ok());
    let page = page.ok_or_else(|| io::Error::other("the size of a page is not known"))?;
    let [time, cpu] = [ClockId::CLOCK_MONOTONIC, ClockId::CLOCK_PROCESS_CPUTIME_ID].map(nanos);
    Ok(Usage::new(time?, cpu?, pages.saturating_mul(page), online_cpus()))
}

fn nanos(clock: ClockId) -> io::Result<u64> {
    let time = clock_gettime(clock)?;
    Ok(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

fn resident_pages(statm: &str) -> Option<u64> {
    statm.split(' ').nth(1)?.parse().ok()
}

/// The cgroup of this process in the v2 hierarchy: the kernel keeps its memory in bounds, as the last resort. Nothing else is set
/// in it. `cpu.max` and `memory.high` would make threads wait, of which one is that which kills.
#[derive(Clone, Debug)]
pub struct OwnCgroup {
    root: PathBuf,
    path: PathBuf,
}

impl OwnCgroup {
    /// Finds it; none where the hierarchy is not mounted, or this process is at its root or outside of what is seen of it.
    #[must_use]
    pub fn find() -> Option<Self> {
        let cgroups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let path = cgroups.lines().find_map(|line| line.strip_prefix("0::/"))?;
        let root = mount_point()?;
        let path = root.join(path);
        let below = path != root && !path.iter().any(|part| part == "..") && path.is_dir();
        below.then_some(Self { root, path })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The least `memory.max`, in bytes, of this cgroup and those above it; none if there is no limit, or no memory controller.
    #[must_use]
    pub fn memory_max(&self) -> Option<u64> {
        let cgroups = self.path.ancestors().take_while(|path| path.starts_with(&self.root));
        cgroups.filter_map(|path| read_max(path)?.bytes).min()
    }

    /// Sets `memory.max`, in bytes, if it was not set and this process is alone in the cgroup. Whether it did.
    ///
    /// # Errors
    /// When the kernel refuses, for want of permission as a rule.
    pub fn set_memory_max(&self, bytes: u64) -> io::Result<bool> {
        let is_unset = read_max(&self.path).is_some_and(|max| max.bytes.is_none());
        if !is_unset || !self.is_own()? {
            return Ok(false);
        }
        fs::write(self.path.join("memory.max"), bytes.to_string())?;
        Ok(true)
    }

    /// Whether nobody else is in it.
    fn is_own(&self) -> io::Result<bool> {
        let processes = fs::read_to_string(self.path.join("cgroup.procs"))?;
        Ok(processes.trim() == std::process::id().to_string())
    }
}

struct Max {
    /// None if it is `max`.
    bytes: Option<u64>,
}

fn read_max(cgroup: &Path) -> Option<Max> {
    let text = fs::read_to_string(cgroup.join("memory.max")).ok()?;
    Some(Max { bytes: text.trim().parse().ok() })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn work_is_cpu_time() {
        let before = resource_usage().unwrap();
        let start = Instant::now();
        while resource_usage().unwrap().cpu_ns < before.cpu_ns + 50_000_000 {
            assert!(start.elapsed() < Duration::from_secs(60), "no CPU time is counted");
        }
        let after = resource_usage().unwrap();
        assert!(after.time_ns > before.time_ns);
        assert_eq!(after.cpus, online_cpus());
    }

    #[test]
    fn what_is_touched_is_memory() {
        const SIZE: usize = 64 << 20;
        let before = resource_usage().unwrap().memory_bytes;
        let memory = std::hint::black_box(vec![1u8; SIZE]);
        let with = resource_usage().unwrap().memory_bytes;
        assert!(with > before + SIZE as u64 / 2, "{before} {with}");
        drop(memory);
        // A map of its own, which the allocator gives back at once.
        assert!(resource_usage().unwrap().memory_bytes < with - SIZE as u64 / 2);
    }

    #[test]
    fn the_tightest_limit_counts() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b");
        fs::create_dir_all(&path).unwrap();
        let cgroup = OwnCgroup { root: root.path().to_owned(), path };
        assert_eq!(cgroup.memory_max(), None, "no controller");
        fs::write(cgroup.path.join("memory.max"), "max\n").unwrap();
        assert_eq!(cgroup.memory_max(), None);
        fs::write(root.path().join("a/memory.max"), "1000\n").unwrap();
        assert_eq!(cgroup.memory_max(), Some(1000));
        fs::write(cgroup.path.join("memory.max"), "2000\n").unwrap();
        assert_eq!(cgroup.memory_max(), Some(1000));
    }

    #[test]
    fn resident_memory_is_the_second_column() {
        assert_eq!(resident_pages("5300 1200 900 10 0 700 0\n"), Some(1200));
        assert_eq!([resident_pages(""), resident_pages("5300 x")], [None, None]);
    }
}

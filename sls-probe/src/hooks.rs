//! Which kinds of hooks the running kernel has.

use std::fmt;
use std::fs;
use std::sync::OnceLock;

use libbpf_rs::ObjectBuilder;

use crate::kernel;
use crate::loader::{Aligned, loaded};

/// A way into the kernel. All give the same events; they differ in what they can see and in what they cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HookFamily {
    /// Trampolines (fentry) on the functions with which the kernel asks its security modules. They see the kernel's own
    /// objects, whichever way an operation comes (io_uring, a passed descriptor, a 32-bit call), and cost other operations
    /// nothing. x86_64 since Linux 5.10, arm64 since 6.0.
    Trampoline,
    /// Kprobes on the same functions, where there are no trampolines.
    Kprobe,
    /// Tracepoints of system calls. They work wherever BPF does, but see what was asked for in place of what is done where
    /// no kernel object is at hand, and nothing that does not come through a system call.
    Tracepoint,
}

impl HookFamily {
    /// Every family, the best first.
    pub const ALL: &'static [Self] = &[Self::Trampoline, Self::Kprobe, Self::Tracepoint];

    /// The name in texts.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Trampoline => "trampoline",
            Self::Kprobe => "kprobe",
            Self::Tracepoint => "tracepoint",
        }
    }

    /// The family called `name`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|family| family.name() == name)
    }

    /// Whether it sees the kernel's objects and not only system calls.
    #[must_use]
    pub fn sees_objects(self) -> bool {
        self != Self::Tracepoint
    }

    /// The best family that the running kernel has. Needs the permission to load BPF programs: without it, the answer is a
    /// guess from what the kernel says of itself.
    #[must_use]
    pub fn detect() -> Self {
        if !Self::may_load_programs() {
            return if cfg!(target_arch = "x86_64") { Self::Trampoline } else { Self::Kprobe };
        }
        Self::ALL.iter().copied().find(|family| family.works()).unwrap_or(Self::Tracepoint)
    }

    /// Whether this process has CAP_SYS_ADMIN or CAP_BPF.
    pub(crate) fn may_load_programs() -> bool {
        const EITHER: u64 = 1 << 21 | 1 << 39;
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        capabilities.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & EITHER != 0)
    }

    /// Whether the running kernel has the family. Tries it, once.
    #[must_use]
    pub fn works(self) -> bool {
        static TRAMPOLINE: OnceLock<bool> = OnceLock::new();
        static KPROBE: OnceLock<bool> = OnceLock::new();
        match self {
            Self::Trampoline => *TRAMPOLINE.get_or_init(|| attaches("detect_fentry")),
            Self::Kprobe => *KPROBE.get_or_init(|| kernel::has_kprobes() && attaches("detect_kprobe")),
            Self::Tracepoint => true,
        }
    }
}

impl fmt::Display for HookFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!("../bpf/detect.bpf.o"));

/// Whether a program of `detect.bpf.c` loads and attaches. It is gone again afterwards.
pub(crate) fn attaches(name: &str) -> bool {
    let tried = loaded(|| {
        let mut open = ObjectBuilder::default().open_memory(&OBJECT.0)?;
        for mut program in open.progs_mut() {
            let wanted = program.name() == name;
            program.set_autoload(wanted);
        }
        let object = open.load()?;
        let program = object.progs_mut().find(|program| program.name() == name);
        program.map(|program| program.attach()).transpose().map(|link| link.is_some())
    });
    tried.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for family in HookFamily::ALL {
            assert_eq!(HookFamily::from_name(family.name()), Some(*family));
        }
        assert_eq!(HookFamily::from_name("none"), None);
    }
}

//! The guests of the matrix.

use anyhow::Context;

/// A kernel, and how it is set up.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) name: &'static str,
    /// What fetch-kernels.sh knows the kernel by.
    pub(crate) series: &'static str,
    /// The column's head in the table.
    pub(crate) title: &'static str,
    /// Whether the kernel has trampolines. Where not, it is made to refuse fentry, fexit, fmod_ret and LSM programs.
    pub(crate) trampolines: bool,
    /// Whether the kernel has kprobes. Where not, they are not to be found.
    pub(crate) kprobes: bool,
}

impl Guest {
    /// Whether the tests of this ring are run in it. What acts and commands does not depend on the hooks that see.
    pub(crate) fn runs(&self, ring: &str) -> bool {
        ring == "probe" || self.trampolines
    }

    const fn plain(series: &'static str) -> Self {
        Self { name: series, series, title: series, trampolines: true, kprobes: true }
    }
}

/// The matrix, in the order of the table's columns.
pub(crate) const GUESTS: &[Guest] = &[
    Guest::plain("5.10"),
    Guest::plain("6.1"),
    Guest::plain("6.12"),
    Guest::plain("6.18"),
    Guest::plain("7.3"),
    Guest { name: "kprobes", series: "6.12", title: "kprobes only", trampolines: false, kprobes: true },
    Guest { name: "tracepoints", series: "6.12", title: "tracepoints only", trampolines: false, kprobes: false },
];

/// Another way to boot a kernel, for tests that miss something in the first.
#[derive(Debug)]
pub(crate) struct OtherBoot {
    /// What they miss, by the name that they give it.
    pub(crate) hook: &'static str,
    /// The guests that have it then; none: all.
    pub(crate) guests: &'static [&'static str],
    pub(crate) kernel_arguments: &'static str,
    /// A file that it takes, below what cargo builds into, and the variable in which tests look for its path. Without the
    /// file there is no such boot.
    pub(crate) file: Option<(&'static str, &'static str)>,
}

pub(crate) const OTHER_BOOTS: &[OtherBoot] = &[
    OtherBoot {
        hook: "selinux",
        guests: &[],
        kernel_arguments: "lsm=landlock,lockdown,yama,integrity,selinux,bpf selinux=1 enforcing=0",
        file: None,
    },
    OtherBoot {
        hook: "payload",
        guests: &["6.1"],
        kernel_arguments: "nopti",
        file: Some(("lab/payload/payload.ko", "SLS_PAYLOAD_MODULE")),
    },
];

/// The guests called `names`, or all.
pub(crate) fn select(names: &[&str]) -> anyhow::Result<Vec<&'static Guest>> {
    if names.is_empty() {
        return Ok(GUESTS.iter().collect());
    }
    let find = |name: &&str| GUESTS.iter().find(|guest| guest.name == *name);
    let all = || GUESTS.iter().map(|guest| guest.name).collect::<Vec<_>>().join(", ");
    names.iter().map(|name| find(name).with_context(|| format!("no guest {name}; there are {}", all()))).collect()
}

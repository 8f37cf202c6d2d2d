//! What the running kernel has for the tier.

use std::fs;
use std::sync::OnceLock;

use crate::hooks;

/// Whether the kernel asks BPF programs as it asks its security modules; else what is missing.
pub(crate) fn bpf_lsm() -> Result<(), String> {
    static ANSWER: OnceLock<Result<(), String>> = OnceLock::new();
    ANSWER.get_or_init(ask).clone()
}

fn ask() -> Result<(), String> {
    const ACTIVE: &str = "/sys/kernel/security/lsm";
    const MISSING: &str =
        "BPF is not among the kernel's security modules (CONFIG_BPF_LSM, and `bpf` in the boot parameter `lsm=`)";
    // Where securityfs is not mounted, only the attempt tells.
    let listed = fs::read_to_string(ACTIVE).map(|list| list.trim().split(',').any(|name| name == "bpf"));
    if listed.as_ref().is_ok_and(|listed| !listed) || !hooks::attaches("detect_lsm") {
        return Err(MISSING.to_owned());
    }
    Ok(())
}

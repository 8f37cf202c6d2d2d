//! The guards of the sensor on this host: the default ones, its own files, and those of the configuration.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use sls_actions::DEFAULT_QUARANTINE_DIRECTORY;
use sls_core::Guards;
use sls_probe::{HostInfo, cgroup_root};

use crate::config::Config;

/// The most cgroups that are protected one by one.
const MAX_PROTECTED_CGROUPS: usize = 4_096;

/// The guards of a sensor with this configuration, which was read from `config_file`, and these policy files; all but that
/// of the process itself.
pub(crate) fn of(
    config: &Config,
    config_file: Option<&Path>,
    policies: &[PathBuf],
    host: &HostInfo,
) -> anyhow::Result<Guards> {
    let mut guards = host.guards();
    let program = std::env::current_exe().ok();
    let files = program.iter().map(PathBuf::as_path).chain(config_file).chain(policies.iter().map(PathBuf::as_path));
    for file in files {
        // What is not there cannot be lost. Events have resolved paths.
        if let Ok(resolved) = file.canonicalize() {
            guards = guards.protect_sensor_file(literal(&resolved));
        }
    }
    // A kernel tier that is alone must not keep the next sensor from starting, nor `sls unpin`.
    if let Some(program) = program.filter(|_| config.pin).and_then(|program| program.canonicalize().ok()) {
        guards = guards.protect_program(literal(&program));
    }
    // The store may still have to be made.
    let store = config.quarantine_directory.as_deref().unwrap_or(Path::new(DEFAULT_QUARANTINE_DIRECTORY));
    guards = guards.protect_sensor_file(literal(&resolve(store)) + "/*");
    guards = config.guards(guards);
    let mut cgroups = Vec::new();
    for path in &config.protected_cgroups {
        collect_cgroups(path, &mut cgroups)
            .with_context(|| format!("cannot protect the cgroup {} (protectedCgroups)", path.display()))?;
    }
    Ok(cgroups.into_iter().fold(guards, Guards::protect_cgroup))
}

/// The path without links, as far as it exists.
fn resolve(path: &Path) -> PathBuf {
    if let Ok(resolved) = path.canonicalize() {
        return resolved;
    }
    match (path.parent().and_then(|parent| parent.canonicalize().ok()), path.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => path.to_owned(),
    }
}

/// The pattern that matches this path alone.
fn literal(path: &Path) -> String {
    path.to_string_lossy().replace('\\', "\\\\").replace('*', "\\*")
}

/// The ids of a cgroup and of all below it: a process has that of its own.
fn collect_cgroups(path: &Path, ids: &mut Vec<u64>) -> anyhow::Result<()> {
    let root = cgroup_root().context("the cgroup v2 hierarchy is not mounted here")?;
    let mut waiting = vec![root.join(path.strip_prefix("/").unwrap_or(path))];
    while let Some(directory) = waiting.pop() {
        if ids.len() == MAX_PROTECTED_CGROUPS {
            bail!("more than {MAX_PROTECTED_CGROUPS} cgroups are to be protected");
        }
        // The id of a cgroup is the inode of its directory.
        ids.push(fs::metadata(&directory)?.ino());
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                waiting.push(entry.path());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_a_star_stands_for_itself() {
        let guards = Guards::none().protect_sensor_file(literal(Path::new("/etc/a*\\b")));
        assert!(guards.path_refusal(b"/etc/a*\\b").is_some());
        assert!(guards.path_refusal(b"/etc/axx\\b").is_none());
    }
}

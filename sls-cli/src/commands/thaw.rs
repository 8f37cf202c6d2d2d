//! `sls thaw`: undoes `pause-container`.

use std::io::Write;

use anyhow::{Context, bail};
use serde_json::json;
use sls_actions::{CONTAINER_IS_GONE, CONTAINER_NOT_PAUSED, ContainerResponder};
use sls_core::ActionResult;
use sls_probe::{FoundContainer, find_containers};

use super::check::default_format;
use crate::args::{Format, ThawArgs};
use crate::exit::{Answer, say};

pub(crate) fn run(args: &ThawArgs, format: Option<Format>) -> anyhow::Result<Answer> {
    let containers = find_containers().context("cgroup version 2 is not mounted")?;
    let found = match choose(containers, &args.container) {
        Ok(found) => found,
        Err(why) => {
            say(&why);
            return Ok(Answer::No);
        }
    };
    let result = ContainerResponder::builder().build()?.thaw(found.cgroup_id);
    let path = String::from_utf8_lossy(&found.cgroup_path);
    match format.unwrap_or(default_format()) {
        Format::Json => {
            let json = json!({
                "container": found.id,
                "cgroupId": found.cgroup_id,
                "cgroupPath": path,
                "result": result.name(),
                "details": result.details(),
            });
            writeln!(anstream::stdout(), "{json}")?;
        }
        Format::Human if result == ActionResult::Successful => {
            writeln!(anstream::stdout(), "thawed container {} (cgroup {path})", found.id)?;
        }
        Format::Human => {}
    }
    match result.details() {
        "" => Ok(Answer::Yes),
        details @ (CONTAINER_IS_GONE | CONTAINER_NOT_PAUSED) => {
            say(&format!("{}: {details}", found.id));
            Ok(Answer::No)
        }
        details => bail!("cannot thaw container {}: {details}", found.id),
    }
}

/// The one container that `wanted` names: by its whole id, or by its beginning. An id that a user's service manager
/// chose counts only if there is no other.
fn choose(mut found: Vec<FoundContainer>, wanted: &str) -> Result<FoundContainer, String> {
    found.retain(|container| container.id.starts_with(wanted));
    if found.iter().any(|container| container.id == wanted) {
        found.retain(|container| container.id == wanted);
    }
    if found.iter().any(|container| container.user.is_none()) {
        found.retain(|container| container.user.is_none());
    }
    match found.len() {
        0 => Err(format!("no container has the id {wanted}")),
        1 => Ok(found.remove(0)),
        _ => {
            let mut ids: Vec<_> = found.iter().map(|container| &*container.id).collect();
            ids.sort_unstable();
            Err(format!("several containers have an id that begins with {wanted}: {}", ids.join(", ")))
        }
    }
}

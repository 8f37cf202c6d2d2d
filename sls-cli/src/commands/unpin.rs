//! `sls unpin`: removes the kernel tiers that sensors have left in force.

use std::io::Write;

use serde_json::json;
use sls_probe::{KernelTier, PinnedTier};

use super::check::default_format;
use crate::args::{Format, UnpinArgs};
use crate::exit::Answer;

pub(crate) fn run(args: &UnpinArgs, format: Option<Format>) -> anyhow::Result<Answer> {
    let removed = KernelTier::unpin(&args.path)?;
    let mut out = anstream::stdout().lock();
    for tier in &removed {
        match format.unwrap_or_else(default_format) {
            Format::Json => writeln!(out, "{}", json(tier))?,
            Format::Human => writeln!(out, "removed {}", describe(tier))?,
        }
    }
    if removed.is_empty() && format.unwrap_or_else(default_format) == Format::Human {
        writeln!(out, "nothing is pinned at {}", args.path.display())?;
    }
    Ok(Answer::Yes)
}

/// A pinned tier in a line.
pub(crate) fn describe(tier: &PinnedTier) -> String {
    let owner = match (tier.pid, tier.running) {
        (Some(pid), true) => format!("of the sensor {pid}, which runs"),
        (Some(pid), false) => format!("of the sensor {pid}, which has ended"),
        (None, _) => "of an unknown sensor".to_owned(),
    };
    format!("{}: {} {owner}", tier.path.display(), tier.programs.join(" "))
}

/// The same for programs.
pub(crate) fn json(tier: &PinnedTier) -> serde_json::Value {
    json!({"path": tier.path, "pid": tier.pid, "running": tier.running, "programs": tier.programs})
}

//! Taking over from a sensor that had pinned its kernel tier.

use std::path::Path;

use anyhow::Context;
use sls_core::SensorCondition;
use sls_probe::{KernelTier, Probe, TakenOver};

/// Puts this sensor's tier in the place of one that an earlier sensor left, whose policies are in force until now. Gives what
/// the operator has to know of it.
///
/// # Errors
/// When the tier is to be pinned, and cannot be.
pub(super) fn take_over(probe: &mut Probe, path: &Path, pins: bool) -> anyhow::Result<Option<SensorCondition>> {
    if !pins {
        match KernelTier::unpin_left(path) {
            Ok(removed) if removed.is_empty() => {}
            Ok(removed) => tracing::info!(tiers = removed.len(), "removed the pins of a sensor that has ended"),
            Err(error) => {
                tracing::warn!(%error, "the kernel tier of a sensor that has ended is in force: see `sls unpin`")
            }
        }
        return Ok(None);
    }
    let taken = probe.take_over().context("cannot pin the kernel tier")?;
    if taken.tiers == 0 {
        return Ok(None);
    }
    let TakenOver { tiers, told, untold, left_alone, lost, unreadable, .. } = taken;
    tracing::info!(tiers, told, untold, left_alone, lost, unreadable, "took over from a kernel tier that was alone");
    let quiet = told + untold + left_alone + lost == 0 && unreadable == 0;
    Ok((!quiet).then_some(SensorCondition::KernelTierUnattended { told, untold, left_alone, lost, unreadable }))
}

//! What the kernel does not know of an event.

use std::time::Duration;

use sls_core::{Event, EventKind};

use crate::accounts::Accounts;
use crate::builder::ProbeBuilder;
use crate::clock::BootTime;
use crate::container::{ContainerStates, Containers};
use crate::error::ProbeError;
use crate::host::HostInfo;

/// How long attaching may wait for what is written about the containers that are running.
const SETTLE_LIMIT: Duration = Duration::from_millis(500);

/// The time of day, the names of accounts, and the containers of the host.
#[derive(Debug)]
pub(crate) struct Enrichment {
    pub(crate) clock: BootTime,
    pub(crate) accounts: Option<Accounts>,
    pub(crate) containers: Option<Containers>,
}

impl Enrichment {
    /// Called when records about cgroups come already, so that no container falls in between.
    pub(crate) fn start(settings: &ProbeBuilder) -> Result<Self, ProbeError> {
        Ok(Self {
            containers: settings.containers.then(|| start_containers(settings)).transpose()?,
            clock: BootTime::measure(),
            accounts: settings.account_names.then(Accounts::host),
        })
    }

    /// Completes an event that was decoded.
    pub(crate) fn fill(&mut self, event: &mut Event, legacy_cgroup: Option<u64>) {
        event.since_boot = event.time;
        event.time = self.clock.to_epoch(event.time);
        self.name(event, legacy_cgroup);
    }

    /// Sets the names of accounts and the container.
    pub(crate) fn name(&mut self, event: &mut Event, legacy_cgroup: Option<u64>) {
        if let Some(accounts) = &self.accounts {
            accounts.fill(event);
        }
        if let Some(containers) = &mut self.containers {
            containers.fill(event, legacy_cgroup);
        }
    }

    /// Looks at the clocks and at the accounts again.
    pub(crate) fn refresh(&mut self) {
        self.clock = BootTime::measure();
        if let Some(accounts) = &mut self.accounts {
            accounts.refresh();
        }
    }
}

/// Starts to look for containers.
fn start_containers(settings: &ProbeBuilder) -> Result<Containers, ProbeError> {
    let mut containers = Containers::builder()
        .states(ContainerStates::under(&settings.host_root))
        .host_mount_namespace(HostInfo::read().mount_namespace)
        .events(settings.watches(EventKind::Container))
        .start()
        .map_err(|source| ProbeError::Containers { source })?;
    containers.scan(settings.watches(EventKind::Baseline));
    // So that the processes that are running are told of with their containers.
    containers.settle(SETTLE_LIMIT);
    Ok(containers)
}

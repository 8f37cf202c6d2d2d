//! The settings of a registry of containers.

use std::io;
use std::time::Duration;

use super::registry::Containers;
use super::states::ContainerStates;
use super::worker::{DEFAULT_CONTAINER_PATIENCE, Worker};

/// Cgroups that are remembered, unless told otherwise. In those beyond it the container is unknown.
pub const DEFAULT_CGROUP_LIMIT: usize = 65_536;

/// Containers that are remembered, unless told otherwise. Of those beyond it only the id is known.
pub const DEFAULT_CONTAINER_LIMIT: usize = 4096;

/// How a [`Containers`] should be. Made by [`Containers::builder`].
#[derive(Debug)]
#[must_use]
pub struct ContainersBuilder {
    states: ContainerStates,
    patience: Duration,
    settings: Settings,
}

/// What the registry itself needs to know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) cgroup_limit: usize,
    pub(super) container_limit: usize,
    pub(super) host_mount_namespace: Option<u32>,
    pub(super) events: bool,
}

impl Default for ContainersBuilder {
    fn default() -> Self {
        Self {
            states: ContainerStates::host(),
            patience: DEFAULT_CONTAINER_PATIENCE,
            settings: Settings {
                cgroup_limit: DEFAULT_CGROUP_LIMIT,
                container_limit: DEFAULT_CONTAINER_LIMIT,
                host_mount_namespace: None,
                events: true,
            },
        }
    }
}

impl ContainersBuilder {
    /// Where the details of containers are read. Default [`ContainerStates::host`].
    pub fn states(mut self, states: ContainerStates) -> Self {
        self.states = states;
        self
    }

    /// The most cgroups that are remembered. Default [`DEFAULT_CGROUP_LIMIT`].
    pub fn cgroup_limit(mut self, limit: usize) -> Self {
        self.settings.cgroup_limit = limit;
        self
    }

    /// The most containers that are remembered. Default [`DEFAULT_CONTAINER_LIMIT`].
    pub fn container_limit(mut self, limit: usize) -> Self {
        self.settings.container_limit = limit;
        self
    }

    /// How long a runtime and an engine may take to write what they know of a container. Default
    /// [`DEFAULT_CONTAINER_PATIENCE`].
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Inode of the host's mount namespace: a program that runs in it belongs to the runtime, not to the container.
    pub fn host_mount_namespace(mut self, inode: Option<u32>) -> Self {
        self.settings.host_mount_namespace = inode;
        self
    }

    /// Whether to tell of starts and stops. Default yes.
    pub fn events(mut self, on: bool) -> Self {
        self.settings.events = on;
        self
    }

    /// Starts the thread that reads the details. It ends when the [`Containers`] are dropped.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(self) -> io::Result<Containers> {
        Ok(Containers::new(Worker::start(self.states, self.patience)?, self.settings))
    }
}

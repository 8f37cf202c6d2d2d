//! Containers: which one a cgroup belongs to, what their runtimes and engines say of them, and when they start and stop.

mod builder;
mod cgroup;
mod engine;
mod files;
mod find;
mod hierarchy;
mod http;
mod info;
mod oci;
mod registry;
mod states;
mod worker;

pub use builder::{ContainersBuilder, DEFAULT_CGROUP_LIMIT, DEFAULT_CONTAINER_LIMIT};
pub use cgroup::{ContainerCgroup, ContainerRuntime, MAX_CGROUP_DEPTH, MAX_CONTAINER_ID_BYTES};
pub use files::{MAX_STATE_DIR_ENTRIES, MAX_STATE_FILE_BYTES};
pub use find::{FoundContainer, find_containers};
pub(crate) use hierarchy::Legacy;
pub use hierarchy::{CgroupMaker, Hierarchy};
pub use http::ENGINE_TIMEOUT;
#[cfg(fuzzing)]
pub(crate) use http::answer as engine_answer;
pub use info::{ContainerInfo, ContainerMount, MAX_CONTAINER_BYTES, MAX_CONTAINER_TEXT_BYTES};
pub use registry::{ContainerStats, Containers, MAX_AWAITED_CONTAINER_EVENTS};
pub use states::ContainerStates;
pub use worker::DEFAULT_CONTAINER_PATIENCE;

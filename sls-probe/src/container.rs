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
pub(crate) use info::IDENTITY_FIELDS;
pub use info::{ContainerInfo, ContainerMount, MAX_CONTAINER_BYTES, MAX_CONTAINER_TEXT_BYTES};
pub use registry::{ContainerStats, Containers, MAX_AWAITED_CONTAINER_EVENTS};
pub use states::ContainerStates;
pub use worker::DEFAULT_CONTAINER_PATIENCE;

/// Everything that reads what a runtime or an engine wrote, for fuzzing. Panics where it breaks a promise.
#[doc(hidden)]
#[allow(clippy::panic)]
pub fn fuzz_documents(bytes: &[u8]) {
    if let Some(cgroup) = ContainerCgroup::parse(bytes) {
        assert!(bytes.starts_with(cgroup.path) && cgroup.id.len() <= MAX_CONTAINER_ID_BYTES);
    }
    let spec = files::json::<oci::Spec>(bytes).map(oci::Spec::setup);
    let state = files::json::<oci::RuncState>(bytes).map(oci::RuncState::setup);
    for setup in spec.into_iter().chain(state) {
        let _ = engine::annotations(&setup.annotations);
    }
    if let Some(status) = files::json::<oci::CrunStatus>(bytes) {
        let _ = status.cgroups();
    }
    let _ = files::json::<oci::RuncCgroupPaths>(bytes).map(oci::RuncCgroupPaths::cgroups);
    let _ = files::json::<engine::Inspection>(bytes).map(|inspection| inspection.describe(None, None));
    let _ = files::json::<engine::Stored>(bytes).map(engine::Stored::describe);
    if let Ok(body) = http::answer(&mut &*bytes) {
        assert!(body.len() <= bytes.len());
    }
}

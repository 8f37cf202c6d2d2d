//! The containers that there are now, for who has a container's id and wants its cgroup.

use super::builder::DEFAULT_CGROUP_LIMIT;
use super::cgroup::ContainerCgroup;
use super::hierarchy::{Hierarchy, scan};
use super::states::{ContainerStates, Unnamed};

/// A container that has a cgroup of version 2.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FoundContainer {
    /// The container's id.
    pub id: String,
    /// Id of its own cgroup, which is the inode of that directory.
    pub cgroup_id: u64,
    /// Path of that cgroup, from the root of the hierarchy.
    pub cgroup_path: Vec<u8>,
    /// The user whose service manager has this part of the tree, unless it is root: the id is then that user's word.
    pub user: Option<u32>,
}

/// The containers of this host that have a cgroup of version 2, also those without processes. At most
/// [`DEFAULT_CGROUP_LIMIT`] cgroups are looked at. None where version 2 is not mounted.
///
/// ```
/// for container in sls_probe::find_containers().unwrap_or_default() {
///     println!("{} has the cgroup {}", container.id, container.cgroup_id);
/// }
/// ```
#[must_use]
pub fn find_containers() -> Option<Vec<FoundContainer>> {
    let mut states = ContainerStates::host().ask_engines(false);
    let mut found = scan(DEFAULT_CGROUP_LIMIT);
    found.retain(|cgroup| cgroup.hierarchy == Hierarchy::Unified);
    if found.is_empty() {
        // Not even the root.
        return None;
    }
    let mut container = |path: &[u8]| match ContainerCgroup::parse(path) {
        Some(cgroup) => (cgroup.path.len() == path.len()).then(|| (cgroup.id.to_owned(), cgroup.user)),
        None => match states.unnamed(path) {
            Unnamed::Container(info, own) if own == path.len() => Some((info.id, None)),
            _ => None,
        },
    };
    let containers = found.into_iter().filter_map(|cgroup| {
        let (id, user) = container(&cgroup.path)?;
        Some(FoundContainer { id, cgroup_id: cgroup.id, cgroup_path: cgroup.path, user })
    });
    Some(containers.collect())
}

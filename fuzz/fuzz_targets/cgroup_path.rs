//! The container of a cgroup, by its path: components that containers and users choose.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sls_probe::{ContainerCgroup, MAX_CONTAINER_ID_BYTES};

fuzz_target!(|path: &[u8]| {
    let Some(cgroup) = ContainerCgroup::parse(path) else { return };
    assert!(!cgroup.id.is_empty() && cgroup.id.len() <= MAX_CONTAINER_ID_BYTES);
    assert!(path.starts_with(cgroup.path));
    let rest = &path[cgroup.path.len()..];
    assert!(rest.is_empty() || rest[0] == b'/', "the container's own cgroup ends within a name");
    let name = cgroup.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    assert!(name.windows(cgroup.id.len()).any(|part| part == cgroup.id.as_bytes()), "the id is not in the name");
    assert!(cgroup.id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte)));
    assert!(cgroup.user != Some(0), "root's word is the host's");
    // What is made below a container says nothing about it.
    assert_eq!(ContainerCgroup::parse(cgroup.path), Some(cgroup));
    let below = [cgroup.path, b"/docker/", &[b'a'; 64]].concat();
    assert_eq!(ContainerCgroup::parse(&below), Some(cgroup));
});

//! Which container a cgroup belongs to, by its path.

/// Longest id that is taken for one. Ids of runc and crun are file names; all others have 64 hexadecimal digits.
pub const MAX_CONTAINER_ID_BYTES: usize = 255;

/// Components of a path that are looked at. The kernel's limit on the depth of cgroups can be higher.
pub const MAX_CGROUP_DEPTH: usize = 64;

/// Digits of an id that an engine makes.
const ENGINE_ID_DIGITS: usize = 64;

/// What runs a container, as far as is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ContainerRuntime {
    /// Nothing says what.
    #[default]
    Unknown,
    /// Docker Engine.
    Docker,
    /// containerd: as Kubernetes uses it, or through nerdctl and ctr.
    Containerd,
    /// CRI-O.
    CriO,
    /// Podman.
    Podman,
    /// runc, with no engine above it that is known.
    Runc,
    /// crun, with no engine above it that is known.
    Crun,
}

impl ContainerRuntime {
    /// The name of the project.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Docker => "docker",
            Self::Containerd => "containerd",
            Self::CriO => "cri-o",
            Self::Podman => "podman",
            Self::Runc => "runc",
            Self::Crun => "crun",
        }
    }
}

/// What the path of a cgroup says about the container that it belongs to.
///
/// A container in a container belongs to the outer one: what is made inside a container says nothing to the host, and
/// its names are those that the container chose. The process that watches a container (conmon) is in none.
///
/// ```
/// use sls_probe::{ContainerCgroup, ContainerRuntime};
///
/// let id = "e01a26336924e2fb8089bcf4cf943954fd9ea616cc5678f38f65928307979459";
/// let path = format!("/kubepods.slice/kubepods-pod2d5133c0_65f3_40b2_b375_c04866d418e1.slice/cri-containerd-{id}.scope/init");
/// let cgroup = ContainerCgroup::parse(path.as_bytes()).unwrap();
/// assert_eq!((cgroup.id, cgroup.runtime), (id, ContainerRuntime::Containerd));
/// assert_eq!(cgroup.pod_uid, Some("2d5133c0_65f3_40b2_b375_c04866d418e1"));
/// assert_eq!(cgroup.path, path.strip_suffix("/init").unwrap().as_bytes());
/// assert_eq!(ContainerCgroup::parse(b"/system.slice/docker.service"), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ContainerCgroup<'p> {
    /// The container's id.
    pub id: &'p str,
    /// What runs it, if the path says so.
    pub runtime: ContainerRuntime,
    /// The uid of its Kubernetes pod, as the path has it: with systemd there are `_` for `-`.
    pub pod_uid: Option<&'p str>,
    /// The user whose service manager has this part of the tree, unless it is root: the names there are the user's choice,
    /// whether there is a container or not.
    pub user: Option<u32>,
    /// The part of the path that is the container's own cgroup. What lies below was made inside the container, or by its
    /// runtime for it.
    pub path: &'p [u8],
}

impl<'p> ContainerCgroup<'p> {
    /// Looks at a path from the root of its hierarchy. `None` if it names no container: containers of bare runc and crun
    /// can have any path, and only their state tells (see [`ContainerStates`](crate::ContainerStates)).
    #[must_use]
    pub fn parse(path: &'p [u8]) -> Option<Self> {
        let mut pod_uid = None;
        let mut user = None;
        let mut parent: &[u8] = b"";
        let mut grandparent: &[u8] = b"";
        let mut end = 0;
        for component in path.split(|byte| *byte == b'/').take(MAX_CGROUP_DEPTH) {
            end += component.len();
            pod_uid = pod(component).or(pod_uid);
            user = user.or_else(|| manager(component));
            if let Some((id, runtime)) = container(component, parent, grandparent) {
                return Some(Self { id, runtime, pod_uid, user, path: &path[..end] });
            }
            (grandparent, parent) = (parent, component);
            // The slash.
            end += 1;
        }
        None
    }
}

/// Whether the cgroup at `path` can be that of a container whose path says nothing: the root cannot, nor can units of
/// systemd, but for scopes that others ask it for.
pub(crate) fn may_be_bare(path: &[u8]) -> bool {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let own = [&b"session-"[..], b"init.scope", b"run-", b"app-"];
    let units = [&b".service"[..], b".slice", b".socket", b".mount", b".swap"];
    let scope = name.ends_with(b".scope") && own.iter().any(|prefix| name.starts_with(prefix));
    !(name.is_empty() || scope || units.iter().any(|kind| name.ends_with(kind)))
}

/// The container that a component names.
fn container<'p>(name: &'p [u8], parent: &[u8], grandparent: &[u8]) -> Option<(&'p str, ContainerRuntime)> {
    use ContainerRuntime::{Containerd, CriO, Crun, Docker, Podman, Runc, Unknown};

    if let Some(id) = engine_id(name) {
        let runtime = if parent == b"docker" { Docker } else { Unknown };
        return Some((id, runtime));
    }
    // The steps of a build have ids of another kind.
    if parent == b"buildkit" && grandparent == b"docker" {
        return runtime_id(name).map(|id| (id, Docker));
    }
    // A systemd path given to the driver for plain cgroups: slice:prefix:id.
    let mut parts = name.splitn(3, |byte| *byte == b':');
    if let (Some(_slice), Some(prefix), Some(id)) = (parts.next(), parts.next(), parts.next()) {
        let engine = engine_of(prefix);
        return engine_id(id).map(|id| (id, engine.unwrap_or(Unknown)));
    }
    let (unit, scope) = match name.strip_suffix(b".scope") {
        Some(unit) => (unit, true),
        None => (name, false),
    };
    if scope {
        for (prefix, runtime) in [(&b"runc-"[..], Runc), (b"crun-", Crun)] {
            if let Some(id) = unit.strip_prefix(prefix) {
                return runtime_id(id).map(|id| (id, runtime));
            }
        }
    }
    let (prefix, id) = unit.split_at_checked(unit.len().checked_sub(ENGINE_ID_DIGITS)?)?;
    let id = engine_id(id)?;
    match (engine_of(prefix.strip_suffix(b"-")?), scope) {
        (Some(engine @ (Docker | Containerd)), true) => Some((id, engine)),
        (Some(engine @ (Podman | CriO)), _) => Some((id, engine)),
        _ => None,
    }
}

/// The engine that names the cgroups of its containers so. `crio-conmon` and `libpod-conmon` are not containers.
fn engine_of(prefix: &[u8]) -> Option<ContainerRuntime> {
    match prefix {
        b"docker" => Some(ContainerRuntime::Docker),
        b"cri-containerd" | b"nerdctl" => Some(ContainerRuntime::Containerd),
        b"crio" => Some(ContainerRuntime::CriO),
        b"libpod" | b"libpod-payload" => Some(ContainerRuntime::Podman),
        _ => None,
    }
}

/// The uid of the pod in a component: `pod<uid>`, `kubepods-burstable-pod<uid>.slice`.
fn pod(name: &[u8]) -> Option<&str> {
    const UID: usize = 36;
    const HASH: usize = 32;
    let name = name.split(|byte| *byte == b':').next().unwrap_or_default();
    let name = name.strip_suffix(b".slice").unwrap_or(name);
    // Static pods have a hash instead of a uid.
    [UID, HASH].into_iter().find_map(|len| {
        let (prefix, uid) = name.split_at_checked(name.len().checked_sub(len)?)?;
        let whole = prefix == b"pod" || prefix.starts_with(b"kube") && prefix.ends_with(b"-pod");
        let digits = uid.iter().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b'-' | b'_'));
        (whole && digits).then(|| str::from_utf8(uid).ok()).flatten()
    })
}

/// The user of `user@UID.service`.
fn manager(name: &[u8]) -> Option<u32> {
    let uid = name.strip_prefix(b"user@")?.strip_suffix(b".service")?;
    str::from_utf8(uid).ok()?.parse().ok().filter(|uid| *uid != 0)
}

/// The ids that engines make.
pub(crate) fn engine_id(id: &[u8]) -> Option<&str> {
    let digits = id.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (id.len() == ENGINE_ID_DIGITS && digits).then(|| str::from_utf8(id).ok()).flatten()
}

/// The ids that runc and crun accept: letters, digits and `_+-.`.
pub(crate) fn runtime_id(id: &[u8]) -> Option<&str> {
    let known = id.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'+' | b'-' | b'.'));
    let path = matches!(id, b"" | b"." | b"..");
    (known && !path && id.len() <= MAX_CONTAINER_ID_BYTES).then(|| str::from_utf8(id).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::ContainerRuntime::{Containerd, CriO, Crun, Docker, Podman, Runc, Unknown};
    use super::*;

    const A: &str = "e01a26336924e2fb8089bcf4cf943954fd9ea616cc5678f38f65928307979459";
    const B: &str = "80d85a3a585f1575028ebe468d83093c301eda20d37d1671ff2a0be50fc0e460";

    /// Paths as hosts have them; `A` and `B` stand for ids. What is in brackets is the container's own cgroup.
    #[test]
    fn paths_of_containers() {
        let table = [
            // Docker.
            ("[/docker/A]", "A", Docker, None),
            ("[/docker/A]/kubelet.slice", "A", Docker, None),
            ("[/system.slice/docker-A.scope]", "A", Docker, None),
            ("[/system.slice/docker-A.scope]/init.scope", "A", Docker, None),
            ("[/my-parent/A]", "A", Unknown, None),
            ("[/my.slice/docker-A.scope]", "A", Docker, None),
            ("[/actions_job/A]", "A", Unknown, None),
            ("[/ecs/0410eff2-7e59-4111-823e-1e0d98ef7f30/A]", "A", Unknown, None),
            ("[/docker/buildkit/t4967jvf8rbufklrhkicskyes]", "t4967jvf8rbufklrhkicskyes", Docker, None),
            ("[/system.slice/system.slice:docker:A]", "A", Docker, None),
            // A node of kind or minikube, and DinD: the outer one.
            ("[/docker/A]/kubelet/kubepods/burstable/podf6adb0af-0855-4bab-b25b-c853f18d0ce2/B", "A", Docker, None),
            (
                "[/system.slice/docker-A.scope]/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/\
                 kubelet-kubepods-burstable-pod26822839_8c92_4c60_a921_ffc5991fa00f.slice/cri-containerd-B.scope",
                "A",
                Docker,
                None,
            ),
            ("[/docker/A]/docker/B", "A", Docker, None),
            // Kubernetes.
            (
                "[/kubepods/burstable/pod31dd0274-bb43-4975-bdbc-7e10047a23f8/A]",
                "A",
                Unknown,
                Some("31dd0274-bb43-4975-bdbc-7e10047a23f8"),
            ),
            (
                "[/kubepods/pod31dd0274-bb43-4975-bdbc-7e10047a23f8/A]",
                "A",
                Unknown,
                Some("31dd0274-bb43-4975-bdbc-7e10047a23f8"),
            ),
            (
                "[/kubepods/burstable/pod8c7e0bc3f3e1ac6e9c1b8a0b9a7a1c52/A]",
                "A",
                Unknown,
                Some("8c7e0bc3f3e1ac6e9c1b8a0b9a7a1c52"),
            ),
            (
                "[/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod5759a1ae_36ca_48a8_b20a_b0b5c8a90fb8.slice/\
                 docker-A.scope]",
                "A",
                Docker,
                Some("5759a1ae_36ca_48a8_b20a_b0b5c8a90fb8"),
            ),
            (
                "[/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod2d5133c0_65f3_40b2_b375_c04866d418e1.slice/\
                 cri-containerd-A.scope]",
                "A",
                Containerd,
                Some("2d5133c0_65f3_40b2_b375_c04866d418e1"),
            ),
            (
                "[/kubepods.slice/kubepods-pod12345678_1234_1234_1234_123456789012.slice/crio-A.scope]/container",
                "A",
                CriO,
                Some("12345678_1234_1234_1234_123456789012"),
            ),
            (
                "[/kubepods/besteffort/pod31dd0274-bb43-4975-bdbc-7e10047a23f8/crio-A]",
                "A",
                CriO,
                Some("31dd0274-bb43-4975-bdbc-7e10047a23f8"),
            ),
            (
                "[/system.slice/containerd.service/kubepods-burstable-podff49d0be_16b7_4a49_bb9e_8ec1f1f4e27f.slice:\
                 cri-containerd:A]",
                "A",
                Containerd,
                Some("ff49d0be_16b7_4a49_bb9e_8ec1f1f4e27f"),
            ),
            (
                "[/kubepods-besteffort-pod0125ec2f_b64a_4868_8f5b_94b56cbab864.slice:cri-containerd:A]",
                "A",
                Containerd,
                Some("0125ec2f_b64a_4868_8f5b_94b56cbab864"),
            ),
            // containerd on its own.
            ("[/default/A]", "A", Unknown, None),
            ("[/system.slice/nerdctl-A.scope]", "A", Containerd, None),
            // Podman.
            ("[/machine.slice/libpod-A.scope]", "A", Podman, None),
            ("[/machine.slice/libpod-A.scope]/container", "A", Podman, None),
            ("[/machine.slice/machine-libpod_pod_B.slice/libpod-A.scope]/container", "A", Podman, None),
            ("[/libpod_parent/libpod-A]", "A", Podman, None),
            ("[/system.slice/container-web.service/libpod-payload-A]", "A", Podman, None),
            ("[/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-A.scope]/container", "A", Podman, None),
            // runc and crun under systemd.
            ("[/system.slice/runc-web_1.scope]", "web_1", Runc, None),
            ("[/system.slice/crun-web.scope]/container", "web", Crun, None),
        ];
        for (path, id, runtime, pod_uid) in table {
            let path = path.replace('A', A).replace('B', B);
            let own = path.strip_prefix('[').unwrap().split(']').next().unwrap();
            let whole = path.replace(['[', ']'], "");
            let cgroup = ContainerCgroup::parse(whole.as_bytes()).unwrap_or_else(|| panic!("{whole}"));
            assert_eq!((cgroup.id, cgroup.runtime), (&*id.replace('A', A), runtime), "{whole}");
            assert_eq!(cgroup.pod_uid, pod_uid, "{whole}");
            assert_eq!(cgroup.path, own.as_bytes(), "{whole}");
        }
    }

    #[test]
    fn containers_of_users() {
        let user = |path: &str| ContainerCgroup::parse(path.replace('A', A).as_bytes()).unwrap().user;
        assert_eq!(user("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-A.scope"), Some(1000));
        assert_eq!(user("/user.slice/user-0.slice/user@0.service/user.slice/libpod-A.scope"), None);
        assert_eq!(user("/machine.slice/libpod-A.scope/user@1000.service"), None);
    }

    #[test]
    fn paths_of_others() {
        let table = [
            "",
            "/",
            "/init.scope",
            "/system.slice/docker.service",
            "/system.slice/containerd.service",
            "/system.slice/docker-compose-app.scope",
            "/system.slice/docker-A.service",
            "/system.slice/var-lib-docker-containers-A-mounts-shm.mount",
            "/docker",
            "/docker/buildkit",
            "/kubepods.slice",
            "/kubepods/burstable/pod31dd0274-bb43-4975-bdbc-7e10047a23f8",
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod2d5133c0_65f3_40b2_b375_c04866d418e1.slice",
            // What watches containers is in none.
            "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-conmon-A.scope",
            "/machine.slice/libpod-conmon-A.scope",
            "/machine.slice/machine-libpod_pod_A.slice",
            "/libpod_parent/conmon",
            "/kubepods.slice/kubepods-pod12345678_1234_1234_1234_123456789012.slice/crio-conmon-A.scope",
            "/kubepods/besteffort/pod31dd0274-bb43-4975-bdbc-7e10047a23f8/crio-conmon-A",
            "/process_api/2714a192a7380d66c0bc0a2c62bf0f38",
            "/system.slice/runc-.scope",
            "/system.slice/runc-...scope",
            "/system.slice/runc-a b.scope",
            "/system.slice/crun-web.service",
            "/Ax",
            "/docker/0A",
            "/lab1",
        ];
        for path in table {
            let path = path.replace('A', A);
            assert_eq!(ContainerCgroup::parse(path.as_bytes()), None, "{path}");
        }
        assert_eq!(ContainerCgroup::parse(format!("/docker/{}", A.to_uppercase()).as_bytes()), None);
        let deep = format!("{}/{A}", "/x".repeat(MAX_CGROUP_DEPTH));
        assert_eq!(ContainerCgroup::parse(deep.as_bytes()), None);
        let long = format!("/system.slice/runc-{}.scope", "x".repeat(MAX_CONTAINER_ID_BYTES + 1));
        assert_eq!(ContainerCgroup::parse(long.as_bytes()), None);
    }

    proptest! {
        /// Whatever the path, the id is a file name and its cgroup a part of the path.
        #[test]
        fn hostile_paths(path in proptest::collection::vec(
            prop_oneof![Just(A.as_bytes().to_vec()), Just(b"/".to_vec()), Just(b"docker".to_vec()), Just(b"runc-".to_vec()),
                        Just(b".scope".to_vec()), Just(b":".to_vec()), any::<[u8; 3]>().prop_map(Vec::from)], 0..12)) {
            let path = path.concat();
            if let Some(cgroup) = ContainerCgroup::parse(&path) {
                prop_assert!(path.starts_with(cgroup.path));
                prop_assert_eq!(runtime_id(cgroup.id.as_bytes()), Some(cgroup.id));
            }
        }
    }
}

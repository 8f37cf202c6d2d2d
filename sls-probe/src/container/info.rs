//! What is known of a container.

use std::collections::BTreeMap;

use sls_core::{CONTAINER_FIELDS, Event, Field, FieldSet};

use super::cgroup::ContainerRuntime;

/// The fields of container events that the state of the runtime tells.
const SETUP_FIELDS: [Field; 4] =
    [Field::ContainerPrivileged, Field::ContainerHostPid, Field::ContainerHostNetwork, Field::ContainerMounts];

/// A container, as its runtime and its engine describe it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ContainerInfo {
    /// Its id.
    pub id: String,
    /// What runs it.
    pub runtime: ContainerRuntime,
    /// Its name: in Kubernetes that of the container in its pod, and the id where it has no other.
    pub name: String,
    /// The image, as the one who started the container called it.
    pub image_name: Option<String>,
    /// The image's id: `sha256:` and the digest of its configuration.
    pub image_id: Option<String>,
    /// Name of the Kubernetes pod.
    pub pod: Option<String>,
    /// Kubernetes namespace of the pod.
    pub namespace: Option<String>,
    /// Labels of the container, or of its pod.
    pub labels: BTreeMap<String, String>,
    /// Whether it has all capabilities and may use all devices. `None` if that is not known.
    pub privileged: Option<bool>,
    /// Whether it shares the host's PID namespace. `None` if that is not known.
    pub host_pid: Option<bool>,
    /// Whether it shares the host's network namespace. `None` if that is not known.
    pub host_network: Option<bool>,
    /// What the runtime mounted into it, in the order of mounting. `None` if that is not known.
    pub mounts: Option<Vec<ContainerMount>>,
    /// Path of its root directory on the host.
    pub root: Option<Vec<u8>>,
    /// Inode of its mount namespace, if it had one when it was looked at.
    pub mount_namespace: Option<u32>,
    /// Whether everything was there that its runtime and its engine write.
    pub complete: bool,
    /// Where its root directory is, and which process is its first, is yet to be written.
    pub(crate) early: bool,
    /// Fields whose value was cut, because it was longer than [`MAX_CONTAINER_TEXT_BYTES`]
    /// or [`MAX_CONTAINER_BYTES`].
    pub truncated: FieldSet,
}

/// A mount of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ContainerMount {
    /// Where it is mounted in the container, without links as far as could be told.
    pub destination: Vec<u8>,
    /// The directory or file of the host that is mounted, as the runtime was told. `None` for file systems of their own:
    /// tmpfs, proc and the like.
    pub source: Option<Vec<u8>>,
    /// The same without links, where it could be resolved.
    pub resolved: Option<Vec<u8>>,
}

/// Longest name that is kept of a container, its image or its pod; what is longer is cut and marked so.
pub const MAX_CONTAINER_TEXT_BYTES: usize = 1024;

/// Bytes of mounts that are kept of a container, and the same of labels. More mounts are cut and marked so.
pub const MAX_CONTAINER_BYTES: usize = 32 * 1024;

impl ContainerInfo {
    /// A container of which nothing is known but its id.
    #[must_use]
    pub fn of_id(id: &str, runtime: ContainerRuntime) -> Self {
        Self { id: id.to_owned(), runtime, name: id.to_owned(), ..Self::default() }
    }

    /// Where a file of the container lies on the host. `path` is a path from the container's root, without links, as the
    /// kernel gives it. `None` if it is on no file system of the host (tmpfs, proc), or the container's root and mounts
    /// are not known. What is mounted later, inside the container, is not known here.
    ///
    /// ```
    /// use sls_probe::{ContainerInfo, ContainerMount, ContainerRuntime};
    ///
    /// let mut mount = ContainerMount::default();
    /// mount.destination = b"/data".to_vec();
    /// mount.source = Some(b"/srv/web".to_vec());
    /// let mut container = ContainerInfo::of_id("web", ContainerRuntime::Runc);
    /// container.root = Some(b"/var/lib/web/rootfs".to_vec());
    /// container.mounts = Some(vec![mount]);
    /// assert_eq!(container.host_path(b"/etc/passwd").unwrap(), b"/var/lib/web/rootfs/etc/passwd");
    /// assert_eq!(container.host_path(b"/data/index.html").unwrap(), b"/srv/web/index.html");
    /// assert_eq!(container.host_path(b"../etc/passwd"), None);
    /// ```
    #[must_use]
    pub fn host_path(&self, path: &[u8]) -> Option<Vec<u8>> {
        match self.place_of(path) {
            Place::Host(directory, rest) => Some([directory, rest].concat()),
            Place::Nowhere | Place::Unknown => None,
        }
    }

    /// The same in two parts.
    pub(crate) fn place_of<'a>(&'a self, path: &'a [u8]) -> Place<'a> {
        let plain = path.first() == Some(&b'/') && path.split(|byte| *byte == b'/').all(|name| name != b"..");
        let Some(mounts) = self.mounts.as_ref().filter(|_| plain) else { return Place::Unknown };
        // What is mounted later covers what was there.
        let covering = mounts.iter().rev().find_map(|mount| Some((mount, below(path, &mount.destination)?)));
        match (covering, &self.root) {
            (Some((mount, rest)), _) => match mount.resolved.as_ref().or(mount.source.as_ref()) {
                Some(source) if replaced(source) => Place::Unknown,
                Some(source) => Place::Host(source, rest),
                None => Place::Nowhere,
            },
            (None, Some(root)) => Place::Host(root, path),
            (None, None) => Place::Unknown,
        }
    }

    /// Sets the fields that say in which container an event happened.
    pub fn fill(&self, event: &mut Event) {
        event.set_text(Field::ContainerId, self.id.as_bytes()).set_text(Field::ContainerName, self.name.as_bytes());
        let others = [
            (Field::ImageName, &self.image_name),
            (Field::ImageId, &self.image_id),
            (Field::KubernetesPod, &self.pod),
            (Field::KubernetesNamespace, &self.namespace),
        ];
        for (field, text) in others {
            if let Some(text) = text {
                event.set_text(field, text.as_bytes());
            }
        }
        if !self.truncated.is_empty() {
            CONTAINER_FIELDS.iter().filter(|field| self.truncated.contains(**field)).for_each(|field| {
                event.mark_truncated(*field);
            });
        }
    }

    /// Sets the fields of container events that say how the container is set up.
    pub fn fill_setup(&self, event: &mut Event) {
        let flags = [self.privileged, self.host_pid, self.host_network];
        for (field, flag) in SETUP_FIELDS.into_iter().zip(flags) {
            match flag {
                Some(flag) => event.set_bool(field, flag),
                None => event.mark_unknown(field),
            };
        }
        match &self.mounts {
            // Both names: a rule must not be blind to a path because of a link in it.
            Some(mounts) => {
                let names = mounts.iter().flat_map(|mount| {
                    let other = mount.resolved.as_ref().filter(|resolved| mount.source.as_ref() != Some(*resolved));
                    mount.source.iter().chain(other)
                });
                event.set_texts(Field::ContainerMounts, names.map(Vec::as_slice));
            }
            None => {
                event.mark_unknown(Field::ContainerMounts);
            }
        }
        if self.truncated.contains(Field::ContainerMounts) {
            event.mark_truncated(Field::ContainerMounts);
        }
    }
}

/// Where a path of a container leads.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place<'a> {
    /// To what has this name in this directory of the host.
    Host(&'a [u8], &'a [u8]),
    /// To a file system that is mounted nowhere on the host.
    Nowhere,
    /// That is not known.
    Unknown,
}

/// Whether a byte of a path was no text and had to be replaced.
pub(crate) fn replaced(path: &[u8]) -> bool {
    let replacement = "\u{fffd}".as_bytes();
    path.windows(replacement.len()).any(|bytes| bytes == replacement)
}

/// What of `path` lies below `directory`: nothing, or something that begins with a slash.
pub(crate) fn below<'p>(path: &'p [u8], directory: &[u8]) -> Option<&'p [u8]> {
    let directory = directory.strip_suffix(b"/").unwrap_or(directory);
    let rest = path.strip_prefix(directory)?;
    (rest.is_empty() || rest[0] == b'/').then_some(rest)
}

#[cfg(test)]
mod tests {
    use sls_core::{EventKind, Value};

    use super::*;

    fn mount(destination: &str, source: Option<&str>, resolved: Option<&str>) -> ContainerMount {
        let bytes = |text: &str| text.as_bytes().to_vec();
        ContainerMount { destination: bytes(destination), source: source.map(bytes), resolved: resolved.map(bytes) }
    }

    fn container() -> ContainerInfo {
        ContainerInfo {
            root: Some(b"/root".to_vec()),
            mounts: Some(vec![
                mount("/proc", None, None),
                mount("/a/b", Some("/hidden"), None),
                mount("/a", Some("/link"), Some("/real")),
                mount("/a/c/", Some("/srv/c"), None),
                mount("/tmp", None, None),
                mount("/tmp/file", Some("/srv/file"), None),
            ]),
            ..ContainerInfo::of_id("x", ContainerRuntime::Runc)
        }
    }

    #[test]
    fn paths_on_the_host() {
        let table = [
            ("/", Some("/root/")),
            ("/etc/passwd", Some("/root/etc/passwd")),
            ("/ab", Some("/root/ab")),
            ("/a", Some("/real")),
            ("/a/x", Some("/real/x")),
            ("/a/b/x", Some("/real/b/x")),
            ("/a/c/d", Some("/srv/c/d")),
            ("/a/cd", Some("/real/cd")),
            ("/proc/1/mem", None),
            ("/tmp/x", None),
            ("/tmp/file", Some("/srv/file")),
            ("/etc/../proc/1", None),
            ("etc", None),
            ("", None),
        ];
        for (path, host) in table {
            let found = container().host_path(path.as_bytes());
            assert_eq!(found.as_deref(), host.map(str::as_bytes), "{path}");
        }
        assert_eq!(ContainerInfo::of_id("x", ContainerRuntime::Runc).host_path(b"/etc"), None);
    }

    #[test]
    fn what_is_not_known_is_marked() {
        let mut event = Event::new(EventKind::Container);
        let mut info = ContainerInfo::of_id("x", ContainerRuntime::Docker);
        info.fill(&mut event);
        info.fill_setup(&mut event);
        assert_eq!([event.text(Field::ContainerId), event.text(Field::ContainerName)], [b"x"; 2]);
        assert_eq!(event.value(Field::ImageName), Value::Absent);
        for field in SETUP_FIELDS {
            assert_eq!(event.value(field), Value::Unknown, "{field}");
        }
        info = ContainerInfo { privileged: Some(true), host_pid: Some(false), ..container() };
        info.truncated.insert(Field::ContainerName);
        event.reset(EventKind::Container);
        info.fill(&mut event);
        info.fill_setup(&mut event);
        assert_eq!(event.value(Field::ContainerPrivileged), Value::Bool(true));
        assert_eq!(event.value(Field::ContainerHostPid), Value::Bool(false));
        assert!(event.truncated().contains(Field::ContainerName));
        let Value::Many { items, truncated: false } = event.value(Field::ContainerMounts) else { panic!("not many") };
        let items: Vec<_> = items.iter().collect();
        assert_eq!(items, [&b"/hidden"[..], b"/link", b"/real", b"/srv/c", b"/srv/file"]);
    }
}

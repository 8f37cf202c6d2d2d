//! What the engines above the runtimes write about their containers: names, images, pods, labels.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::cgroup::ContainerRuntime;
use super::files::json;

/// What an engine says of a container. Each file says a part; what is said first stands.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Description {
    pub(crate) runtime: Option<ContainerRuntime>,
    pub(crate) name: Option<String>,
    pub(crate) image_name: Option<String>,
    pub(crate) image_id: Option<String>,
    pub(crate) pod: Option<String>,
    pub(crate) namespace: Option<String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) privileged: Option<bool>,
    /// Whether nothing is missing that the engine could say.
    pub(crate) complete: bool,
}

impl Description {
    /// Adds what `other` says and this does not.
    pub(crate) fn or(self, other: Self) -> Self {
        let mut labels = other.labels;
        labels.extend(self.labels);
        Self {
            runtime: self.runtime.or(other.runtime),
            name: self.name.or(other.name),
            image_name: self.image_name.or(other.image_name),
            image_id: self.image_id.or(other.image_id),
            pod: self.pod.or(other.pod),
            namespace: self.namespace.or(other.namespace),
            labels,
            privileged: self.privileged.or(other.privileged),
            complete: self.complete || other.complete,
        }
    }
}

type Texts = BTreeMap<String, String>;

/// Takes the first of `names` that is there and not empty.
fn first(texts: &Texts, names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| texts.get(*name)).filter(|text| !text.is_empty()).cloned()
}

fn not_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// Digests are written with their algorithm.
fn digest(id: String) -> Option<String> {
    let bare = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    not_empty(if bare { format!("sha256:{id}") } else { id })
}

/// Annotations of the OCI runtime, in which containerd, CRI-O, nerdctl and Podman tell what they know.
pub(crate) fn annotations(texts: &Texts) -> Description {
    let sandbox = ["io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType"]
        .iter()
        .any(|name| texts.get(*name).is_some_and(|kind| kind == "sandbox"));
    let manager = texts.get("io.container.manager").map(String::as_str);
    let runtime = match manager {
        Some("libpod") => Some(ContainerRuntime::Podman),
        Some("cri-o") => Some(ContainerRuntime::CriO),
        _ if texts.contains_key("io.kubernetes.cri.container-type") => Some(ContainerRuntime::Containerd),
        _ if texts.contains_key("nerdctl/name") => Some(ContainerRuntime::Containerd),
        _ if texts.contains_key("io.kubernetes.cri-o.ContainerType") => Some(ContainerRuntime::CriO),
        _ => None,
    };
    let labels = ["io.kubernetes.cri-o.Labels"].iter().find_map(|name| json::<Texts>(texts.get(*name)?.as_bytes()));
    // The process that holds a pod's namespaces has no name of its own; CRI-O and Docker call it POD.
    let name = first(texts, &["io.kubernetes.cri.container-name", "io.kubernetes.container.name", "nerdctl/name"])
        .or_else(|| sandbox.then(|| "POD".to_owned()));
    Description {
        // Podman's have neither name nor image.
        complete: !matches!(runtime, None | Some(ContainerRuntime::Podman)) && name.is_some(),
        runtime,
        name,
        image_name: first(
            texts,
            &[
                "io.kubernetes.cri.image-name",
                "io.kubernetes.cri.podsandbox.image-name",
                "io.kubernetes.cri-o.ImageName",
                "io.kubernetes.cri-o.Image",
            ],
        ),
        image_id: first(texts, &["io.kubernetes.cri-o.ImageRef"]).and_then(digest),
        pod: first(texts, &["io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"]),
        namespace: first(texts, &["io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace"]),
        labels: labels.unwrap_or_default(),
        privileged: first(texts, &["io.podman.annotations.privileged"])
            .and_then(|value| value.eq_ignore_ascii_case("true").then_some(true)),
    }
}

/// Labels that the kubelet has Docker put on containers.
fn from_labels(labels: Texts) -> Description {
    Description {
        name: first(&labels, &["io.kubernetes.container.name"]),
        pod: first(&labels, &["io.kubernetes.pod.name"]),
        namespace: first(&labels, &["io.kubernetes.pod.namespace"]),
        labels,
        ..Description::default()
    }
}

/// `config.v2.json` of Docker, and the answer of `GET /containers/ID/json` of Docker and Podman.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct Inspection {
    name: String,
    image: String,
    config: Option<InspectedConfig>,
    /// In the answer only; Docker's file has it beside.
    host_config: Option<HostConfig>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct InspectedConfig {
    image: String,
    labels: Option<Texts>,
}

/// `hostconfig.json` of Docker.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct HostConfig {
    privileged: bool,
}

impl Inspection {
    pub(crate) fn describe(self, beside: Option<HostConfig>, runtime: Option<ContainerRuntime>) -> Description {
        let config = self.config.unwrap_or_default();
        let host = self.host_config.or(beside);
        let own = Description {
            runtime,
            name: not_empty(self.name.strip_prefix('/').unwrap_or(&self.name).to_owned()),
            image_name: not_empty(config.image),
            image_id: digest(self.image),
            privileged: host.map(|host| host.privileged),
            complete: true,
            ..Description::default()
        };
        from_labels(config.labels.unwrap_or_default()).or(own)
    }
}

/// An entry of `containers.json`, the list that Podman and CRI-O share.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Stored {
    pub(crate) id: String,
    names: Option<Vec<String>>,
    image: Option<String>,
    /// JSON in JSON.
    metadata: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Metadata {
    name: String,
    image_name: String,
    image_id: String,
    /// CRI-O's.
    pod_name: String,
    namespace: String,
    metadata_name: String,
}

impl Stored {
    pub(crate) fn describe(self) -> Description {
        let metadata: Metadata = self.metadata.and_then(|metadata| json(metadata.as_bytes())).unwrap_or_default();
        // CRI-O names a pod by its name, namespace and more; its annotations have the pod's own.
        let pod = metadata.pod_name;
        let name = if pod.is_empty() { metadata.name } else { metadata.metadata_name };
        Description {
            name: not_empty(name).or_else(|| self.names?.into_iter().next()),
            image_name: not_empty(metadata.image_name),
            image_id: not_empty(metadata.image_id).or(self.image).and_then(digest),
            namespace: not_empty(metadata.namespace),
            complete: true,
            ..Description::default()
        }
    }
}

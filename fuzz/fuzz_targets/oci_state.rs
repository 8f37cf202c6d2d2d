//! What runtimes and engines write about containers, read from a host's directories. An input is up to three documents with
//! a line `===` between them: what the runtime wrote, what the engine wrote, and the `stat` of the container's first process.

#![no_main]

#[path = "common/sandbox.rs"]
mod sandbox;

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sls_core::{Event, EventKind, UnknownKeys};
use sls_probe::{ContainerInfo, ContainerStates, MAX_CONTAINER_BYTES, MAX_CONTAINER_TEXT_BYTES};

use sandbox::sections;

const ENGINE: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const CRUN: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
const CONTAINERD: &str = "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc";
const CRIO: &str = "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd";

/// The first process of the containers in the seeds.
const INIT: u32 = 7;

/// Which of the documents is at each place.
fn places() -> [(usize, String); 14] {
    let storage = "var/lib/containers/storage/overlay-containers";
    [
        (0, format!("run/runc/{ENGINE}/state.json")),
        (1, format!("var/lib/docker/containers/{ENGINE}/config.v2.json")),
        (1, format!("var/lib/docker/containers/{ENGINE}/hostconfig.json")),
        (0, format!("run/crun/{CRUN}/status")),
        (0, format!("run/crun/{CRUN}/config.json")),
        (0, format!("run/containerd/io.containerd.runtime.v2.task/k8s.io/{CONTAINERD}/config.json")),
        (0, format!("{storage}/{CRIO}/userdata/config.json")),
        (1, format!("{storage}/containers.json")),
        (0, "run/runc/bare/state.json".to_owned()),
        (0, "run/crun/bare/status".to_owned()),
        (1, "run/crun/bare/config.json".to_owned()),
        (1, "run/crun/early/config.json".to_owned()),
        (2, format!("proc/{INIT}/stat")),
        (1, "srv/data/file".to_owned()),
    ]
}

/// A host's root directory, in which each document is one file with many names.
struct Host {
    root: PathBuf,
    documents: [PathBuf; 3],
}

static HOST: LazyLock<Host> = LazyLock::new(|| {
    let directory = sandbox::directory("oci-state");
    let root = directory.join("root");
    let documents = [0, 1, 2].map(|number| directory.join(number.to_string()));
    for document in &documents {
        fs::write(document, "").expect("a file of the sandbox");
    }
    for (document, place) in places() {
        let place = root.join(place);
        fs::create_dir_all(place.parent().expect("a place is below the root")).expect("a directory of the sandbox");
        fs::hard_link(&documents[document], place).expect("a name in the sandbox");
    }
    Host { root, documents }
});

fuzz_target!(|input: &[u8]| {
    for (document, text) in HOST.documents.iter().zip(sections::<3>(input)) {
        fs::write(document, text).expect("a file of the sandbox");
    }
    let cgroups = [
        format!("/docker/{ENGINE}"),
        format!("/machine.slice/libpod-{CRUN}.scope/container"),
        format!("/kubepods/burstable/pod31dd0274-bb43-4975-bdbc-7e10047a23f8/{CONTAINERD}"),
        format!("/kubepods.slice/crio-{CRIO}.scope"),
        "/a".to_owned(),
        "/early".to_owned(),
    ];
    let mut states = ContainerStates::under(&HOST.root).ask_engines(false);
    for cgroup in cgroups {
        if let Some(info) = states.read(cgroup.as_bytes()) {
            bounded(&info);
            told(&info);
        }
    }
});

/// However much the files say, what is kept of it is not more than was promised.
fn bounded(info: &ContainerInfo) {
    let texts = [&info.image_name, &info.image_id, &info.pod, &info.namespace];
    for text in texts.into_iter().flatten().chain([&info.name]) {
        assert!(text.len() <= MAX_CONTAINER_TEXT_BYTES, "{} bytes of text", text.len());
    }
    let labels: usize = info.labels.iter().map(|(name, value)| name.len() + value.len()).sum();
    assert!(labels <= MAX_CONTAINER_BYTES, "{labels} bytes of labels");
    let mounts = info.mounts.iter().flatten();
    let mounts: usize = mounts
        .flat_map(|mount| [Some(&mount.destination), mount.source.as_ref(), mount.resolved.as_ref()])
        .flatten()
        .map(Vec::len)
        .sum();
    assert!(mounts <= MAX_CONTAINER_BYTES, "{mounts} bytes of mounts");
}

/// It becomes an event that can be recorded, and leads to no place outside of the container.
fn told(info: &ContainerInfo) {
    let mut event = Event::new(EventKind::Container);
    info.fill(&mut event);
    info.fill_setup(&mut event);
    let json = event.to_json();
    let again = Event::from_json(&json, UnknownKeys::Reject).map(|(event, _)| event.to_json());
    assert_eq!(again.as_deref(), Ok(&*json));

    if let Some(root) = &info.root {
        assert!(root.starts_with(b"/") && !root.split(|byte| *byte == b'/').any(|name| name == b".."));
    }
    assert_eq!(info.host_path(b"/etc/../../x"), None);
    assert_eq!(info.host_path(b"etc"), None);
    let _ = info.host_path(b"/etc/passwd");
}

//! What is read of containers from the files that runtimes and engines write. `hosts` has one host for each engine, with
//! such files. Needs no root, and no engine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;

use sls_core::Field;
use sls_probe::{ContainerInfo, ContainerRuntime, ContainerStates, MAX_CONTAINER_BYTES, MAX_CONTAINER_TEXT_BYTES};

const WEB: &str = "4f1e0c6d9a7b58e3f2d1c0b9a8e7d6c5b4a39281706f5e4d3c2b1a0918273645";
const AGENT: &str = "9c8b7a6f5e4d3c2b1a09182736455463728190afbecd0e1f2a3b4c5d6e7f8091";
const POD: &str =
    "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod2d5133c0_65f3_40b2_b375_c04866d418e1.slice";
const CONTAINER: &str = "b7c1d2e3f4a5968778695a4b3c2d1e0f00112233445566778899aabbccddeeff";
const SANDBOX: &str = "0011aabbccddeeff2233445566778899b7c1d2e3f4a5968778695a4b3c2d1e0f";
const NERDCTL: &str = "5566778899aabbccddeeff00112233445566778899aabbccddeeff0011223344";
const PROXY: &str = "a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f90";
const WEBBY: &str = "6c753d6d16f938b890eb49000d11c6e8fb9985539378b4603470606475d49bd8";
const BRIEF: &str = "7d864e7e27fa49c9a1fc5a111e22d7f90ca09664a489c57145817171586e5ace";

fn host(name: &str) -> ContainerStates {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hosts").join(name);
    ContainerStates::under(root).ask_engines(false)
}

fn read(name: &str, path: &str) -> ContainerInfo {
    host(name).read(path.as_bytes()).unwrap_or_else(|| panic!("{path}"))
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).unwrap()
}

fn on_host(container: &ContainerInfo, path: &str) -> Option<String> {
    container.host_path(path.as_bytes()).map(|path| text(&path).to_owned())
}

/// Where binds come from, in order.
fn sources(container: &ContainerInfo) -> Vec<&str> {
    container.mounts.iter().flatten().filter_map(|mount| Some(text(mount.source.as_ref()?))).collect()
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn docker() {
    for path in [format!("/system.slice/docker-{WEB}.scope"), format!("/docker/{WEB}"), format!("/mine/{WEB}/below")] {
        let web = read("docker", &path);
        assert_eq!((&*web.id, &*web.name, web.runtime), (WEB, "web", ContainerRuntime::Docker), "{path}");
        assert_eq!(web.image_name.as_deref(), Some("nginx:1.27"));
        let digest = "sha256:3b25b682ea82b2db3cc4fd48db818be788ee3f902ac7378090cf2624ec2442df";
        assert_eq!(web.image_id.as_deref(), Some(digest));
        assert_eq!(
            web.labels,
            labels(&[("com.docker.compose.service", "web"), ("maintainer", "NGINX Docker Maintainers")])
        );
        assert_eq!((&web.pod, &web.namespace), (&None, &None));
        assert_eq!([web.privileged, web.host_pid, web.host_network], [Some(false); 3]);
        let of_docker = format!("/var/lib/docker/containers/{WEB}");
        let volume = "/var/lib/docker/volumes/web-data/_data";
        assert_eq!(sources(&web), [&format!("{of_docker}/resolv.conf"), &format!("{of_docker}/hostname"), volume]);
        let merged = format!("/var/lib/docker/overlay2/{}/merged", &digest[7..]);
        assert_eq!(on_host(&web, "/etc/passwd"), Some(format!("{merged}/etc/passwd")));
        assert_eq!(on_host(&web, "/data/a/b"), Some(format!("{volume}/a/b")));
        assert_eq!(on_host(&web, "/proc/1/mem"), None);
        assert!(web.complete && web.truncated.is_empty());
    }
    let agent = read("docker", &format!("/system.slice/docker-{AGENT}.scope"));
    assert_eq!((&*agent.name, agent.privileged, agent.host_pid), ("agent", Some(true), Some(true)));
    // The namespace that it joins has a name, and what is behind it is not there.
    assert_eq!(agent.host_network, None);
    assert!(sources(&agent).contains(&"/var/run/docker.sock"));
}

#[test]
fn containerd() {
    let web = read("containerd", &format!("/{POD}/cri-containerd-{CONTAINER}.scope"));
    assert_eq!((&*web.id, &*web.name, web.runtime), (CONTAINER, "web", ContainerRuntime::Containerd));
    assert_eq!((web.pod.as_deref(), web.namespace.as_deref()), (Some("web-7d4b9c6f5-x2x9p"), Some("shop")));
    assert_eq!((web.image_name.as_deref(), web.image_id), (Some("docker.io/library/nginx:1.27"), None));
    assert_eq!((web.privileged, web.host_pid, web.complete), (Some(false), Some(false), true));
    let by_name =
        read("containerd", &format!("/kubepods/burstable/pod2d5133c0-65f3-40b2-b375-c04866d418e1/{CONTAINER}"));
    assert_eq!((&*by_name.name, by_name.runtime), ("web", ContainerRuntime::Containerd));
    // runc has not started this one yet.
    let sandbox = read("containerd", &format!("/{POD}/cri-containerd-{SANDBOX}.scope"));
    assert_eq!((&*sandbox.name, sandbox.pod.as_deref()), ("POD", Some("web-7d4b9c6f5-x2x9p")));
    assert_eq!(sandbox.image_name.as_deref(), Some("registry.k8s.io/pause:3.10"));
    assert_eq!((sandbox.host_pid, sandbox.host_network, sandbox.complete), (Some(false), Some(true), true));
    let root = format!("/run/containerd/io.containerd.runtime.v2.task/k8s.io/{SANDBOX}/rootfs");
    assert_eq!(on_host(&sandbox, "/pause"), Some(format!("{root}/pause")));
    let cache = read("containerd", &format!("/system.slice/nerdctl-{NERDCTL}.scope"));
    assert_eq!((&*cache.name, cache.runtime, cache.complete), ("cache", ContainerRuntime::Containerd, true));
    for path in ["/default/redis", "/default/redis/below"] {
        let redis = read("containerd", path);
        assert_eq!((&*redis.id, &*redis.name, redis.runtime), ("redis", "redis", ContainerRuntime::Containerd));
        assert_eq!((redis.image_name, redis.complete), (None, true));
    }
    assert!(host("containerd").read(b"/default/redis2").is_none());
}

#[test]
fn cri_o() {
    let pod = "kubepods-pod12345678_1234_1234_1234_123456789012.slice";
    let proxy = read("crio", &format!("/kubepods.slice/{pod}/crio-{PROXY}.scope/container"));
    assert_eq!((&*proxy.id, &*proxy.name, proxy.runtime), (PROXY, "proxy", ContainerRuntime::CriO));
    assert_eq!((proxy.pod.as_deref(), proxy.namespace.as_deref()), (Some("kube-proxy-9wz7q"), Some("kube-system")));
    assert_eq!(proxy.image_name.as_deref(), Some("registry.k8s.io/kube-proxy:v1.33.1"));
    let id = "sha256:9f02a6b0c1d2e3f405162738495a6b7c8d9eaf0b1c2d3e4f5061728394a5b6c7";
    assert_eq!(proxy.image_id.as_deref(), Some(id));
    assert_eq!(proxy.labels["io.kubernetes.container.name"], "proxy");
    assert_eq!([proxy.privileged, proxy.host_pid, proxy.host_network], [Some(true); 3]);
    assert_eq!(sources(&proxy), ["/lib/modules"]);
    assert!(proxy.complete);
}

#[test]
fn podman() {
    for path in [format!("/machine.slice/libpod-{WEBBY}.scope/container"), format!("/libpod_parent/libpod-{WEBBY}")] {
        let webby = read("podman", &path);
        assert_eq!((&*webby.id, &*webby.name, webby.runtime), (WEBBY, "webby", ContainerRuntime::Podman), "{path}");
        assert_eq!(webby.image_name.as_deref(), Some("localhost/lab:1"));
        let id = "sha256:0766a7adc9cb93e1c1d7b6ec286a2af9d870dd3fefa4e6005a18b37635721922";
        assert_eq!(webby.image_id.as_deref(), Some(id));
        assert_eq!([webby.privileged, webby.host_pid, webby.host_network], [Some(false); 3]);
        assert_eq!(on_host(&webby, "/mnt/x/doc"), some("/usr/share/doc"));
        assert_eq!(on_host(&webby, "/bin/sh"), some("/var/lib/containers/storage/overlay/2c83/merged/bin/sh"));
        assert!(webby.complete);
    }
    // Its list is known, its runtime has written nothing yet.
    let brief = read("podman", &format!("/libpod_parent/libpod-{BRIEF}"));
    assert_eq!((&*brief.name, brief.privileged, brief.complete), ("brief", None, false));
}

#[test]
fn bare_runtimes() {
    for path in ["/jobs/job_1", "/jobs/job_1/below"] {
        let job = read("bare", path);
        assert_eq!((&*job.id, &*job.name, job.runtime), ("job_1", "job_1", ContainerRuntime::Runc));
        assert_eq!([job.privileged, job.host_pid, job.host_network], [Some(true); 3]);
        assert_eq!(on_host(&job, "/mnt/x/doc"), some("/usr/share/doc"));
        assert_eq!(on_host(&job, "/etc/passwd"), some("/srv/jobs/rootfs/etc/passwd"));
        assert!(job.complete);
    }
    let batch = read("bare", "/user.slice/mine-batch.scope");
    assert_eq!((&*batch.id, batch.runtime, batch.privileged), ("batch", ContainerRuntime::Crun, Some(false)));
    assert_eq!(on_host(&batch, "/in/x"), some("/srv/batch/data/x"));
    for path in
        ["/jobs", "/jobs/job_10", "/job_1", "/unified/jobs/job_1", "/", "", "/user.slice", "/system.slice/x.service"]
    {
        assert!(host("bare").read(path.as_bytes()).is_none(), "{path}");
    }
}

#[test]
fn the_word_of_a_user_is_not_taken() {
    // A user can give a cgroup any name below that of the user's own service manager.
    let path = format!("/user.slice/user-1000.slice/user@1000.service/docker-{WEB}.scope");
    let claimed = read("docker", &path);
    assert_eq!((&*claimed.id, &*claimed.name, claimed.image_name), (WEB, WEB, None));
    assert_eq!(claimed.mounts, None);
}

/// A host with one container of crun, whose root directory is `rootfs`.
struct Made {
    _dir: tempfile::TempDir,
    root: PathBuf,
}

impl Made {
    fn new(spec: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_owned();
        let state = root.join("run/crun/made");
        fs::create_dir_all(&state).unwrap();
        fs::write(state.join("status"), r#"{"pid": 0, "cgroup-path": "/made", "bundle": "/bundle"}"#).unwrap();
        fs::write(state.join("config.json"), spec).unwrap();
        fs::create_dir_all(root.join("bundle/rootfs")).unwrap();
        Self { _dir: dir, root }
    }

    fn read(&self) -> Option<ContainerInfo> {
        ContainerStates::under(&self.root).ask_engines(false).read(b"/made")
    }
}

#[test]
fn links_are_resolved_where_the_mount_is() {
    let made = Made::new(
        r#"{"root": {"path": "rootfs"}, "mounts": [
            {"destination": "/var/run/secrets/token", "type": "bind", "source": "/etc/token-link"},
            {"destination": "/escape/x", "type": "bind", "source": "/srv/x"}]}"#,
    );
    fs::create_dir_all(made.root.join("bundle/rootfs/run")).unwrap();
    fs::create_dir_all(made.root.join("bundle/rootfs/var")).unwrap();
    symlink("/run", made.root.join("bundle/rootfs/var/run")).unwrap();
    // Out of the container, if the container had its way.
    symlink("../../../../../../etc", made.root.join("bundle/rootfs/escape")).unwrap();
    fs::create_dir_all(made.root.join("etc")).unwrap();
    fs::write(made.root.join("etc/token"), "secret").unwrap();
    symlink("token", made.root.join("etc/token-link")).unwrap();
    let container = made.read().unwrap();
    assert_eq!(on_host(&container, "/run/secrets/token"), some("/etc/token"));
    assert_eq!(on_host(&container, "/run/secrets/other"), some("/bundle/rootfs/run/secrets/other"));
    let mounts = container.mounts.unwrap();
    assert_eq!(text(mounts[0].source.as_ref().unwrap()), "/etc/token-link");
    // Where a link does not lead anywhere inside, its name stays.
    assert!(text(&mounts[1].destination).ends_with("/x"));
    assert!(!mounts[1].destination.starts_with(made.root.as_os_str().as_encoded_bytes()));
}

#[test]
fn hostile_states() {
    // What is no JSON, not of the right type, or nested too deep.
    for spec in ["", "{", "7", r#"{"mounts": 7}"#, &"[".repeat(100_000), &format!(r#"{{"x": {}"#, "[".repeat(100_000))]
    {
        assert!(Made::new(spec).read().is_none(), "{}", &spec[..spec.len().min(20)]);
    }
    let made = Made::new("{}");
    let bare = made.read().unwrap();
    assert_eq!((bare.mounts, bare.root, bare.privileged), (Some(vec![]), None, Some(false)));

    // More mounts than are kept, and a long name.
    let mounts: Vec<String> = (0..MAX_CONTAINER_BYTES / 50)
        .map(|n| format!(r#"{{"destination": "/{n:060}", "type": "bind", "source": "/srv"}}"#))
        .collect();
    let name = "n".repeat(MAX_CONTAINER_TEXT_BYTES - 1) + "é";
    let spec = format!(
        r#"{{"root": {{"path": "rootfs"}}, "mounts": [{}],
            "annotations": {{"nerdctl/name": "{name}", "io.kubernetes.cri.container-type": "container"}}}}"#,
        mounts.join(",")
    );
    let crowded = Made::new(&spec).read().unwrap();
    let kept = crowded.mounts.as_ref().unwrap();
    let bytes: usize = kept.iter().map(|mount| mount.destination.len() + 4).sum();
    assert!(bytes <= MAX_CONTAINER_BYTES && bytes > MAX_CONTAINER_BYTES / 2, "{bytes}");
    assert!(crowded.truncated.contains(Field::ContainerMounts) && crowded.truncated.contains(Field::ContainerName));
    assert_eq!(crowded.name.len(), MAX_CONTAINER_TEXT_BYTES - 1);
    // A mount that is not known could be over any path.
    assert_eq!(on_host(&crowded, "/etc/passwd"), None);

    // A byte that is no text: what lies below it, or beside it, is not known.
    let made = Made::new(r#"{"root": {"path": "rootfs"}, "mounts": []}"#);
    let state = made.root.join("run/crun/made/config.json");
    let mut spec = br#"{"root": {"path": "rootfs"}, "mounts": [{"destination": "/d"#.to_vec();
    spec.extend_from_slice(b"\xff\", \"type\": \"bind\", \"source\": \"/srv\"}]}");
    fs::write(state, spec).unwrap();
    assert_eq!(on_host(&made.read().unwrap(), "/etc/passwd"), None);

    // A directory that leads elsewhere by a link.
    let made = Made::new("{}");
    fs::rename(made.root.join("run/crun/made"), made.root.join("run/crun/other")).unwrap();
    symlink("/run/crun/other", made.root.join("run/crun/link")).unwrap();
    assert!(made.read().is_some());
}

#[test]
fn a_runtime_that_has_not_written_yet() {
    let dir = tempfile::tempdir().unwrap();
    let mut states = ContainerStates::under(dir.path());
    assert!(states.read(b"/job").is_none());
    let state = dir.path().join("run/runc/job");
    fs::create_dir_all(&state).unwrap();
    assert!(states.read(b"/slot").is_none());
    // Unless told otherwise, runtimes name the cgroup as the container.
    let early = states.read(b"/some/job").unwrap();
    assert_eq!((&*early.id, early.complete, early.mounts), ("job", false, None));
    fs::write(state.join("state.json"), r#"{"cgroup_paths": {"": "/sys/fs/cgroup/slot"}}"#).unwrap();
    assert!(states.read(b"/some/job").is_none());
    let whole = states.read(b"/slot").unwrap();
    assert_eq!((&*whole.id, whole.complete), ("job", true));
    fs::remove_file(state.join("state.json")).unwrap();
    assert!(states.read(b"/slot").is_none());
}

#[test]
fn crun_says_where_its_cgroup_is_before_it_has_started() {
    let made = Made::new(
        r#"{"root": {"path": "rootfs"}, "mounts": [], "linux": {"cgroupsPath": "/made", "namespaces": [{"type": "pid"}]}}"#,
    );
    fs::rename(made.root.join("run/crun/made/status"), made.root.join("status")).unwrap();
    let early = made.read().unwrap();
    assert_eq!((&*early.id, early.host_pid, early.complete), ("made", Some(false), false));
    // Relative to what is not written yet.
    assert_eq!(on_host(&early, "/x"), None);
    fs::rename(made.root.join("status"), made.root.join("run/crun/made/status")).unwrap();
    let whole = made.read().unwrap();
    assert_eq!((on_host(&whole, "/x"), whole.complete), (some("/bundle/rootfs/x"), true));
}

/// Answers questions at `socket` as an engine does, and returns them. Any other question ends it.
fn engine(socket: PathBuf, answer: &'static str) -> thread::JoinHandle<String> {
    fs::create_dir_all(socket.parent().unwrap()).unwrap();
    let listener = UnixListener::bind(socket).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut question = Vec::new();
        let mut buffer = [0; 1024];
        while !question.ends_with(b"\r\n\r\n") {
            let read = stream.read(&mut buffer).unwrap();
            question.extend_from_slice(&buffer[..read]);
        }
        let head =
            "HTTP/1.1 200 OK\r\nApi-Version: 1.51\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked";
        write!(stream, "{head}\r\n\r\n{:x}\r\n{answer}\r\n0\r\n\r\n", answer.len()).unwrap();
        String::from_utf8(question).unwrap()
    })
}

const ANSWER: &str = r#"{"Id": "x", "Created": "2026-03-02T09:14:05.602120188Z", "Path": "nginx", "State": {"Status": "running"},
    "Image": "sha256:3b25b682ea82b2db3cc4fd48db818be788ee3f902ac7378090cf2624ec2442df", "Name": "/asked", "Driver": "overlay2",
    "HostConfig": {"Binds": null, "NetworkMode": "bridge", "Privileged": true, "PidMode": ""},
    "Config": {"Image": "nginx:1.27", "Labels": {"a": "b", "io.kubernetes.pod.name": "pod-1",
        "io.kubernetes.pod.namespace": "shop", "io.kubernetes.container.name": "web"}}}"#;

#[test]
fn engines_are_asked_where_their_files_say_nothing() {
    for (socket, path, runtime) in [
        ("run/docker.sock", format!("/docker/{WEB}"), ContainerRuntime::Docker),
        ("run/podman/podman.sock", format!("/libpod_parent/libpod-{WEB}"), ContainerRuntime::Podman),
        ("run/podman/podman.sock", format!("/somewhere/{WEB}"), ContainerRuntime::Podman),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let asked = engine(dir.path().join(socket), ANSWER);
        let container = ContainerStates::under(dir.path()).read(path.as_bytes()).unwrap();
        assert!(asked.join().unwrap().starts_with(&format!("GET /containers/{WEB}/json HTTP/1.1\r\n")));
        assert_eq!((&*container.name, container.runtime), ("web", runtime));
        assert_eq!((container.pod.as_deref(), container.namespace.as_deref()), (Some("pod-1"), Some("shop")));
        assert_eq!(container.image_name.as_deref(), Some("nginx:1.27"));
        assert_eq!((container.privileged, container.complete), (Some(true), false));
        assert_eq!(container.labels["a"], "b");
    }
}

//! Where runtimes and engines keep what they know of their containers, and how it comes together.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sls_core::{Field, FieldSet, HOST_PID_NAMESPACE};

use super::cgroup::{ContainerCgroup, ContainerRuntime, engine_id, may_be_bare, runtime_id};
use super::engine::{self, Description, HostConfig, Inspection, Stored};
use super::files::{MAX_STATE_DIR_ENTRIES, Root, json};
use super::http;
use super::info::{ContainerInfo, ContainerMount, MAX_CONTAINER_BYTES, MAX_CONTAINER_TEXT_BYTES, below, replaced};
use super::oci::{ALL_CAPABILITIES, CrunStatus, Namespace, RuncCgroupPaths, RuncState, Setup, Spec};

/// Directories with one for each container, as runc and crun make them.
const RUNTIME_DIRS: [&str; 3] = ["run/runc", "run/crun", "run/youki"];

/// The same, one level up: for each namespace of an engine.
const RUNTIME_DIRS_BY_NAMESPACE: [&str; 2] = ["run/docker/runtime-runc", "run/containerd/runc"];

/// Where containerd has the bundles of its containers, by namespace.
const BUNDLE_DIRS_BY_NAMESPACE: [&str; 3] = [
    "run/containerd/io.containerd.runtime.v2.task",
    "run/docker/containerd/daemon/io.containerd.runtime.v2.task",
    "run/k3s/containerd/io.containerd.runtime.v2.task",
];

/// Where Podman and CRI-O have theirs, by storage driver.
const STORAGE_DIRS: [&str; 2] = ["var/lib/containers/storage", "run/containers/storage"];

const STORAGE_DRIVERS: [&str; 4] = ["overlay", "vfs", "btrfs", "zfs"];

/// Where Docker has one directory for each container.
const DOCKER_DIRS: [&str; 2] = ["var/lib/docker/containers", "var/snap/docker/common/var-lib-docker/containers"];

/// Engines that answer questions, if their files say nothing.
const SOCKETS: [(&str, ContainerRuntime); 2] =
    [("run/docker.sock", ContainerRuntime::Docker), ("run/podman/podman.sock", ContainerRuntime::Podman)];

/// Namespaces of one engine that are looked into.
const MAX_NAMESPACES: usize = 64;

/// How long an engine is left alone that did not answer.
const SILENCE: Duration = Duration::from_secs(60);

/// A runtime that has made a directory and written nothing into it for so long is not about to.
const STALE: Duration = Duration::from_secs(60);

/// Reads what runtimes and engines wrote about containers: runc, crun, Docker, containerd, CRI-O, Podman. It reads
/// files, and asks Docker and Podman only where their files say nothing; so it can block, and belongs on a thread where
/// that is no harm. [`Containers`](crate::Containers) does that.
///
/// ```no_run
/// use sls_probe::ContainerStates;
///
/// let mut states = ContainerStates::host();
/// let cgroup = b"/docker/e01a26336924e2fb8089bcf4cf943954fd9ea616cc5678f38f65928307979459";
/// if let Some(container) = states.read(cgroup) {
///     println!("{} runs {:?}", container.name, container.image_name);
/// }
/// ```
#[derive(Debug)]
pub struct ContainerStates {
    root: Option<Root>,
    ask_engines: bool,
    /// When each of [`SOCKETS`] last gave no answer.
    silent: [Cell<Option<Instant>>; SOCKETS.len()],
    capabilities: u64,
    /// The cgroups of containers whose ids are no engine's, by the directory of their state.
    bare: HashMap<PathBuf, Bare>,
}

#[derive(Debug)]
struct Bare {
    version: (u64, i64, i64),
    cgroups: Vec<String>,
    engine: Option<ContainerRuntime>,
    seen: bool,
}

/// What is known of a cgroup whose path names no container.
#[derive(Debug)]
pub(crate) enum Unnamed {
    /// It belongs to a container, whose own cgroup has a path of so many bytes.
    Container(Box<ContainerInfo>, usize),
    /// A runtime is about to start a container, and has not said where.
    Undecided,
    /// It belongs to none.
    Host,
}

impl ContainerStates {
    /// The containers of this host.
    #[must_use]
    pub fn host() -> Self {
        Self::under("/")
    }

    /// The containers of a host whose root directory is at `root`: for a sensor that runs in a container itself.
    #[must_use]
    pub fn under(root: impl AsRef<Path>) -> Self {
        let root = Root::open(root.as_ref());
        // Nobody has what the host itself was started without.
        // The name of the process, which comes first, may be no text.
        let bounds = fs::read("/proc/1/status").ok().and_then(|status| {
            let status = String::from_utf8_lossy(&status);
            let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"))?;
            u64::from_str_radix(line.trim(), 16).ok()
        });
        let capabilities = ALL_CAPABILITIES & bounds.unwrap_or(ALL_CAPABILITIES);
        Self { root, ask_engines: true, silent: Default::default(), capabilities, bare: HashMap::new() }
    }

    /// Whether to ask Docker and Podman where their files say nothing. Default yes.
    #[must_use]
    pub fn ask_engines(mut self, on: bool) -> Self {
        self.ask_engines = on;
        self
    }

    /// What is known of the container that the cgroup at `path`, from the root of its hierarchy, belongs to. `None` if
    /// it belongs to none, or to one of bare runc or crun that they have not written about yet.
    /// [`ContainerInfo::complete`] says whether more is to come.
    pub fn read(&mut self, path: &[u8]) -> Option<ContainerInfo> {
        match ContainerCgroup::parse(path) {
            Some(cgroup) => Some(self.named(&cgroup, true)),
            None => match self.unnamed(path) {
                Unnamed::Container(info, _) => Some(*info),
                Unnamed::Undecided | Unnamed::Host => None,
            },
        }
    }

    /// The container that a path names. Its engine is asked where its files say nothing, if it may be.
    pub(crate) fn named(&self, cgroup: &ContainerCgroup<'_>, ask: bool) -> ContainerInfo {
        let mut info = ContainerInfo::of_id(cgroup.id, cgroup.runtime);
        if cgroup.user.is_some() {
            // What a user writes about containers is the user's word.
            info.complete = true;
            return info;
        }
        let Some(root) = &self.root else { return info };
        let (setup, runtime) = match setup_of(root, cgroup.id) {
            Some((setup, runtime)) => (Some(setup), runtime),
            None => (None, None),
        };
        if info.runtime == ContainerRuntime::Unknown {
            info.runtime = runtime.unwrap_or_default();
        }
        self.finish(root, setup, info, ask)
    }

    /// The container of bare runc or crun that has the cgroup at `path`, or one above it.
    pub(crate) fn unnamed(&mut self, path: &[u8]) -> Unnamed {
        let Some(root) = self.root.as_ref().filter(|_| may_be_bare(path)) else { return Unnamed::Host };
        let in_the_making = refresh(root, &mut self.bare);
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let owner = self.bare.iter().find_map(|(dir, bare)| {
            let own =
                bare.cgroups.iter().find(|cgroup| cgroup.len() > 1 && below(path, cgroup.as_bytes()).is_some())?;
            Some((dir, own.len(), bare.engine))
        });
        let found = owner.and_then(|(dir, own, engine)| {
            let id = runtime_id(dir.file_name()?.as_bytes())?;
            let (setup, runtime) = read_state(root, dir)?;
            let info = ContainerInfo::of_id(id, engine.unwrap_or(runtime));
            Some(Unnamed::Container(Box::new(self.finish(root, Some(setup), info, false)), own))
        });
        found.unwrap_or_else(|| match in_the_making.iter().find(|(id, _)| id.as_bytes() == name) {
            // Unless told otherwise, a runtime names the cgroup as the directory that it has just made.
            Some((id, runtime)) => {
                let mut info = ContainerInfo::of_id(id, *runtime);
                info.early = true;
                Unnamed::Container(Box::new(info), path.len())
            }
            None if in_the_making.is_empty() => Unnamed::Host,
            None => Unnamed::Undecided,
        })
    }

    fn finish(&self, root: &Root, setup: Option<Setup>, mut info: ContainerInfo, ask: bool) -> ContainerInfo {
        let told = setup.as_ref().map(|setup| engine::annotations(&setup.annotations)).unwrap_or_default();
        let bare = matches!(info.runtime, ContainerRuntime::Runc | ContainerRuntime::Crun) && told.runtime.is_none();
        let bundle = setup.as_ref().and_then(|setup| setup.bundle.as_deref());
        let told = match told.complete || bare {
            true => told,
            false => {
                let runtime = told.runtime.unwrap_or(info.runtime);
                let described = describe(root, &info.id, runtime, bundle);
                told.or(described.unwrap_or_else(|| match ask && self.ask_engines {
                    true => self.ask(root, &info.id, runtime),
                    false => Description::default(),
                }))
            }
        };
        // containerd alone knows no more than the runtime.
        let told_all = told.complete || bare || told.runtime.unwrap_or(info.runtime) == ContainerRuntime::Containerd;
        info.complete = setup.is_some() && told_all;
        // The engine is what a person knows, rather than the runtime below it.
        if let Some(runtime) = told.runtime {
            info.runtime = runtime;
        }
        if let Some(setup) = setup {
            self.apply(root, setup, &mut info);
        }
        if let Some(privileged) = told.privileged {
            info.privileged = Some(privileged || info.privileged == Some(true));
        }
        let mut cut = |text: Option<String>, field| text.map(|text| shortened(text, field, &mut info.truncated));
        let name = cut(told.name, Field::ContainerName);
        info.image_name = cut(told.image_name, Field::ImageName);
        info.image_id = cut(told.image_id, Field::ImageId);
        info.pod = cut(told.pod, Field::KubernetesPod);
        info.namespace = cut(told.namespace, Field::KubernetesNamespace);
        if let Some(name) = name {
            info.name = name;
        }
        let mut left = MAX_CONTAINER_BYTES;
        info.labels = told
            .labels
            .into_iter()
            .take_while(|(name, value)| {
                let bytes = name.len() + value.len();
                let fits = bytes <= left;
                left -= bytes.min(left);
                fits
            })
            .collect();
        info
    }

    /// Asks the engines. One that does not answer is left alone for a while: others wait.
    fn ask(&self, root: &Root, id: &str, runtime: ContainerRuntime) -> Description {
        if matches!(runtime, ContainerRuntime::Containerd | ContainerRuntime::CriO) {
            return Description::default();
        }
        for (index, (socket, engine)) in SOCKETS.into_iter().enumerate() {
            let silent = self.silent[index].get().is_some_and(|since| since.elapsed() < SILENCE);
            if silent || runtime != engine && runtime != ContainerRuntime::Unknown {
                continue;
            }
            match http::get(&root.path().join(socket), &format!("/containers/{id}/json")) {
                Ok(answer) => {
                    if let Some(inspection) = json::<Inspection>(&answer) {
                        return inspection.describe(None, Some(engine));
                    }
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) => {
                    self.silent[index].set(Some(Instant::now()));
                }
                Err(_) => {}
            }
        }
        Description::default()
    }

    fn apply(&self, root: &Root, setup: Setup, info: &mut ContainerInfo) {
        info.early = setup.early && info.complete;
        info.complete &= !setup.early;
        info.privileged = Some(setup.all_devices && setup.capabilities & self.capabilities == self.capabilities);
        let init = setup.init.filter(|(pid, start)| start_ticks(root, *pid) == Some(*start)).map(|(pid, _)| pid);
        info.host_pid = shared(root, &setup.pid, "pid", init);
        info.host_network = shared(root, &setup.network, "net", init);
        let own = init.and_then(|pid| root.namespace(Path::new(&format!("proc/{pid}/ns/mnt"))));
        info.mount_namespace = own.and_then(|inode| u32::try_from(inode).ok());

        let whole = |path: &str| match (&setup.bundle, path.starts_with('/')) {
            (_, true) => Some(PathBuf::from(path)),
            (Some(bundle), false) => Some(bundle.join(path)),
            (None, false) => None,
        };
        let directory = setup.root.as_deref().and_then(whole);
        let inside = directory.as_deref().and_then(|directory| root.sub(directory));
        info.root = directory.and_then(|directory| root.resolve(&directory));

        let mut left = MAX_CONTAINER_BYTES;
        let mut mounts = Vec::new();
        for mount in setup.mounts {
            let source = mount.source.map(|source| whole(&source).unwrap_or_else(|| source.into()));
            let destination = Path::new("/").join(&mount.destination);
            let resolved = inside.as_ref().and_then(|inside| inside.resolve(&destination));
            let mount = ContainerMount {
                destination: resolved.unwrap_or_else(|| destination.as_os_str().as_bytes().to_vec()),
                resolved: source.as_deref().and_then(|source| root.resolve(source)),
                source: source.map(|source| source.as_os_str().as_bytes().to_vec()),
            };
            let texts = [Some(&mount.destination), mount.source.as_ref(), mount.resolved.as_ref()];
            let bytes = texts.into_iter().flatten().map(Vec::len).sum::<usize>();
            if bytes > left {
                info.truncated.insert(Field::ContainerMounts);
                break;
            }
            left -= bytes;
            mounts.push(mount);
        }
        // A path of which a byte was replaced leads to another place; and what a missing mount covers is not known.
        let exact = mounts.iter().all(|mount| !replaced(&mount.destination));
        if !exact || info.truncated.contains(Field::ContainerMounts) {
            info.root = None;
        }
        info.mounts = Some(mounts);
    }
}

/// What the files of the engines say.
fn describe(root: &Root, id: &str, runtime: ContainerRuntime, bundle: Option<&Path>) -> Option<Description> {
    use ContainerRuntime::{CriO, Docker, Podman, Unknown};
    if matches!(runtime, Docker | Unknown) {
        for dir in DOCKER_DIRS {
            let dir = Path::new(dir).join(id);
            if let Some(inspection) = root.json::<Inspection>(&dir.join("config.v2.json")) {
                let host = root.json::<HostConfig>(&dir.join("hostconfig.json"));
                return Some(inspection.describe(host, Some(Docker)));
            }
        }
    }
    let shares_storage = matches!(runtime, Podman | CriO | Unknown);
    shares_storage.then(|| stored(root, id, bundle)).flatten().map(Stored::describe)
}

fn shortened(mut text: String, field: Field, truncated: &mut FieldSet) -> String {
    if text.len() > MAX_CONTAINER_TEXT_BYTES {
        let mut end = MAX_CONTAINER_TEXT_BYTES;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        truncated.insert(field);
    }
    text
}

/// Whether the namespace is the host's. `init` is the container's first process, if it lives.
fn shared(root: &Root, namespace: &Namespace, name: &str, init: Option<u32>) -> Option<bool> {
    let host = || host_namespace(root, name);
    if let Some(own) = init.and_then(|pid| root.namespace(Path::new(&format!("proc/{pid}/ns/{name}")))) {
        return Some(own == host()?);
    }
    match namespace {
        Namespace::Own => Some(false),
        // The runtime's own, which is the host's as far as is known.
        Namespace::Shared => Some(true),
        Namespace::Joined(path) => Some(root.namespace(path)? == host()?),
    }
}

/// The inode of the host's namespace: that of PID 1, or else the sensor's own. That of the PID namespace is a constant.
fn host_namespace(root: &Root, name: &str) -> Option<u64> {
    let of = |process: &str| root.namespace(Path::new(&format!("proc/{process}/ns/{name}")));
    match name {
        "pid" => Some(HOST_PID_NAMESPACE.into()),
        _ => of("1").or_else(|| of("self")),
    }
}

/// Field 22 of `/proc/PID/stat`.
fn start_ticks(root: &Root, pid: u32) -> Option<u64> {
    let stat = root.read(Path::new(&format!("proc/{pid}/stat")))?;
    let after = stat.iter().rposition(|byte| *byte == b')')?;
    let ticks = stat[after + 1..].split(|byte| *byte == b' ').filter(|word| !word.is_empty()).nth(19)?;
    str::from_utf8(ticks).ok()?.trim().parse().ok()
}

/// The state of a container in `dir`, from runc or from crun.
fn read_state(root: &Root, dir: &Path) -> Option<(Setup, ContainerRuntime)> {
    if let Some(state) = root.json::<RuncState>(&dir.join("state.json")) {
        return Some((state.setup(), ContainerRuntime::Runc));
    }
    // crun puts a copy of this there before it makes the cgroup, and writes the rest after the program has started.
    let spec = root.json::<Spec>(&dir.join("config.json"))?;
    let setup = match root.json::<CrunStatus>(&dir.join("status")) {
        Some(status) => status.setup(spec),
        None => Setup { early: true, ..spec.setup() },
    };
    Some((setup, ContainerRuntime::Crun))
}

/// How the container with this id is set up, and what runs it as far as the place tells.
fn setup_of(root: &Root, id: &str) -> Option<(Setup, Option<ContainerRuntime>)> {
    let mut early = None;
    for (dir, engine) in runtime_dirs(root) {
        if let Some((setup, runtime)) = read_state(root, &dir.join(id)) {
            let found = Some((setup, engine.or(Some(runtime))));
            match &found {
                Some((setup, _)) if setup.early => early = found,
                _ => return found,
            }
        }
    }
    // Before the runtime has written anything, there is what the engine told it to do.
    for parent in BUNDLE_DIRS_BY_NAMESPACE {
        for namespace in namespaces(root, parent) {
            let bundle = Path::new(parent).join(&namespace).join(id);
            if let Some(spec) = root.json::<Spec>(&bundle.join("config.json")) {
                return Some((
                    Setup { bundle: Some(Path::new("/").join(bundle)), ..spec.setup() },
                    engine_of(&namespace),
                ));
            }
        }
    }
    for parent in STORAGE_DIRS {
        for driver in STORAGE_DRIVERS {
            let bundle = Path::new(parent).join(format!("{driver}-containers")).join(id).join("userdata");
            if let Some(spec) = root.json::<Spec>(&bundle.join("config.json")) {
                return Some((Setup { bundle: Some(Path::new("/").join(bundle)), ..spec.setup() }, None));
            }
        }
    }
    early
}

/// Every directory of runtimes, with the engine that it belongs to.
fn runtime_dirs(root: &Root) -> impl Iterator<Item = (PathBuf, Option<ContainerRuntime>)> {
    let plain = RUNTIME_DIRS.iter().map(|dir| (PathBuf::from(dir), None));
    let by_namespace = RUNTIME_DIRS_BY_NAMESPACE.into_iter().flat_map(|parent| {
        namespaces(root, parent).into_iter().map(move |name| (Path::new(parent).join(&name), engine_of(&name)))
    });
    plain.chain(by_namespace)
}

fn namespaces(root: &Root, parent: &str) -> Vec<PathBuf> {
    let mut names = root.names(Path::new(parent));
    names.truncate(MAX_NAMESPACES);
    names
}

/// The engine that has a namespace of containerd.
fn engine_of(namespace: &Path) -> Option<ContainerRuntime> {
    Some(if namespace == Path::new("moby") { ContainerRuntime::Docker } else { ContainerRuntime::Containerd })
}

/// The container's entry in the lists that Podman and CRI-O share. `bundle` leads to where else they are.
fn stored(root: &Root, id: &str, bundle: Option<&Path>) -> Option<Stored> {
    let beside = bundle
        .filter(|bundle| bundle.ends_with(Path::new(id).join("userdata")))
        .and_then(|bundle| bundle.parent()?.parent())
        .map(Path::to_owned);
    let usual = STORAGE_DIRS.into_iter().flat_map(|parent| {
        STORAGE_DRIVERS.into_iter().map(move |driver| Path::new(parent).join(format!("{driver}-containers")))
    });
    for dir in beside.into_iter().chain(usual) {
        for list in ["containers.json", "volatile-containers.json"] {
            let list = root.json::<Vec<Stored>>(&dir.join(list)).unwrap_or_default();
            if let Some(stored) = list.into_iter().find(|stored| stored.id == id) {
                return Some(stored);
            }
        }
    }
    None
}

/// Looks for containers of bare runtimes, and reads of each new one in which cgroups it is. Returns those that a runtime is
/// about to start: it makes the directory first, then the cgroup, and then writes into the directory.
fn refresh(root: &Root, known: &mut HashMap<PathBuf, Bare>) -> Vec<(String, ContainerRuntime)> {
    let mut in_the_making = Vec::new();
    known.values_mut().for_each(|bare| bare.seen = false);
    for (dir, engine) in runtime_dirs(root) {
        for id in root.names(&dir) {
            // Those of engines are found by their paths.
            let Some(id) = runtime_id(id.as_os_str().as_bytes()).filter(|id| engine_id(id.as_bytes()).is_none()) else {
                continue;
            };
            let state = dir.join(id);
            let runtime =
                engine.unwrap_or(if dir.ends_with("crun") { ContainerRuntime::Crun } else { ContainerRuntime::Runc });
            let version =
                ["state.json", "status", "config.json"].iter().find_map(|file| root.version(&state.join(file)));
            let Some(version) = version else {
                if root.age(&state).is_some_and(|age| age < STALE) {
                    in_the_making.push((id.to_owned(), runtime));
                }
                continue;
            };
            if let Some(bare) = known.get_mut(&state)
                && bare.version == version
            {
                bare.seen = true;
                continue;
            }
            let runc = || root.json::<RuncCgroupPaths>(&state.join("state.json")).map(RuncCgroupPaths::cgroups);
            let crun = || root.json::<CrunStatus>(&state.join("status")).map(CrunStatus::cgroups);
            let early = || Some(vec![root.json::<Spec>(&state.join("config.json"))?.cgroup()?.to_owned()]);
            let cgroups = runc().or_else(crun).or_else(early);
            if known.len() < MAX_STATE_DIR_ENTRIES || known.contains_key(&state) {
                // What cannot be read now may be about to be written.
                let Some(cgroups) = cgroups else {
                    in_the_making.push((id.to_owned(), runtime));
                    continue;
                };
                known.insert(state, Bare { version, cgroups, engine, seen: true });
            }
        }
    }
    known.retain(|_, bare| bare.seen);
    in_the_making
}

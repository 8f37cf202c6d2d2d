//! The containers of a host, told of cgroups one by one. Needs no root: the files of the runtimes are made here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use sls_core::{CONTAINER_FIELDS, Event, EventKind, Field, Value};
use sls_probe::{CgroupMaker, ContainerStates, Containers, ContainersBuilder, Hierarchy};
use tempfile::TempDir;

const HOST: u32 = 4_026_531_841;
const INSIDE: u32 = 4_026_532_500;
fn id(number: usize) -> String {
    format!("{number:064x}")
}

fn builder(root: &Path) -> ContainersBuilder {
    let states = ContainerStates::under(root).ask_engines(false);
    Containers::builder().states(states).patience(Duration::from_secs(30)).host_mount_namespace(Some(HOST))
}

/// What Docker and its runtime write about a container.
fn write_docker(root: &Path, id: &str, name: &str) {
    let dir = root.join("var/lib/docker/containers").join(id);
    fs::create_dir_all(&dir).unwrap();
    let config = format!(r#"{{"Name": "/{name}", "Image": "sha256:00", "Config": {{"Image": "{name}:1"}}}}"#);
    fs::write(dir.join("config.v2.json"), config).unwrap();
    let bundle = root.join("run/containerd/io.containerd.runtime.v2.task/moby").join(id);
    fs::create_dir_all(&bundle).unwrap();
    let spec = r#"{"root": {"path": "/merged"}, "mounts": [{"destination": "/data", "type": "bind", "source": "/srv"}],
        "linux": {"namespaces": [{"type": "pid"}]}}"#;
    fs::write(bundle.join("config.json"), spec).unwrap();
}

fn write_runc(root: &Path, id: &str, cgroup: &str) {
    let dir = root.join("run/runc").join(id);
    fs::create_dir_all(&dir).unwrap();
    let state = format!(r#"{{"cgroup_paths": {{"": "/sys/fs/cgroup{cgroup}"}}, "config": {{"rootfs": "/srv"}}}}"#);
    // Whole or not at all, as runc does it.
    fs::write(dir.join("new"), state).unwrap();
    fs::rename(dir.join("new"), dir.join("state.json")).unwrap();
}

fn exec(cgroup: u64, mount_namespace: u32) -> Event {
    let mut event = Event::new(EventKind::Exec);
    event.time = 1000;
    event.process.pid = 4711;
    event.cgroup_id = Some(cgroup);
    event.mount_namespace = Some(mount_namespace);
    event.set_text(Field::ProgramName, b"/bin/sh");
    event
}

fn filled(containers: &mut Containers, mut event: Event) -> Event {
    containers.fill(&mut event, None);
    event
}

fn create(containers: &mut Containers, cgroup: u64, path: &str) {
    let maker = CgroupMaker::new(0).mount_namespace(Some(HOST));
    containers.created(Hierarchy::Unified, cgroup, path.as_bytes(), maker);
}

/// Waits until the container of the cgroup is known.
fn known(containers: &Containers, cgroup: u64) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while containers.container(Hierarchy::Unified, cgroup).is_none() {
        assert!(Instant::now() < deadline, "cgroup {cgroup} stays unknown");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn polled(containers: &mut Containers) -> Vec<Event> {
    let mut events = Vec::new();
    containers.poll(&mut |event| events.push(event.clone()));
    events
}

/// Polls until nothing is awaited any more.
fn all(containers: &mut Containers) -> Vec<Event> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut events = polled(containers);
    while containers.is_awaiting() {
        assert!(Instant::now() < deadline, "{:?}", containers.stats());
        std::thread::sleep(Duration::from_millis(1));
        events.extend(polled(containers));
    }
    events
}

#[test]
fn an_engine_that_wrote_first() {
    let dir = TempDir::new().unwrap();
    write_docker(dir.path(), &id(1), "web");
    let mut containers = builder(dir.path()).start().unwrap();
    create(&mut containers, 1, "/");
    create(&mut containers, 10, "/system.slice/docker.service");
    let path = format!("/system.slice/docker-{}.scope", id(1));
    create(&mut containers, 11, &path);
    create(&mut containers, 12, &format!("{path}/below"));
    known(&containers, 11);

    for host in [1, 10] {
        let event = filled(&mut containers, exec(host, HOST));
        assert_eq!(event.container_cgroup_id, None);
        assert!(CONTAINER_FIELDS.iter().all(|field| event.value(*field) == Value::Absent));
    }
    // The runtime's own program is in the container's cgroup already, and starts nothing.
    let own = filled(&mut containers, exec(11, HOST));
    assert_eq!(own.text(Field::ContainerId), id(1).as_bytes());
    assert!(!containers.is_awaiting());

    let first = filled(&mut containers, exec(12, INSIDE));
    assert_eq!(first.text(Field::ContainerId), id(1).as_bytes());
    // What acts on the container acts on all of it.
    assert_eq!((first.cgroup_id, first.container_cgroup_id), (Some(12), Some(11)));
    assert_eq!([first.text(Field::ContainerName), first.text(Field::ImageName)], [&b"web"[..], b"web:1"]);
    assert_eq!(first.value(Field::KubernetesPod), Value::Absent);
    filled(&mut containers, exec(11, INSIDE));
    let [start] = &polled(&mut containers)[..] else { panic!("not one start") };
    assert_eq!((start.kind, start.time, start.process.pid), (EventKind::Container, 1000, 4711));
    assert_eq!([start.text(Field::ContainerOperation), start.text(Field::ProgramName)], [&b"START"[..], b"/bin/sh"]);
    assert_eq!(start.value(Field::ContainerHostPid), Value::Bool(false));
    assert_eq!(start.value(Field::ContainerHostNetwork), Value::Bool(true));
    let Value::Many { items, truncated: false } = start.value(Field::ContainerMounts) else { panic!("{start:?}") };
    assert_eq!(items.iter().collect::<Vec<_>>(), [b"/srv"]);

    containers.removed(Hierarchy::Unified, 12, 2000);
    assert!(!containers.is_awaiting());
    containers.removed(Hierarchy::Unified, 11, 3000);
    let [stop] = &polled(&mut containers)[..] else { panic!("not one stop") };
    assert_eq!([stop.text(Field::ContainerOperation), stop.text(Field::ContainerName)], [&b"STOP"[..], b"web"]);
    assert_eq!((stop.time, stop.process.pid, stop.cgroup_id), (3000, 0, Some(11)));
    // Its cgroup is unknown now, so in which container it is is unknown too.
    let late = filled(&mut containers, exec(11, INSIDE));
    assert!(CONTAINER_FIELDS.iter().all(|field| late.value(*field) == Value::Unknown));
    assert_eq!((containers.stats().cgroups, containers.stats().containers), (2, 0));
}

#[test]
fn an_engine_that_writes_late() {
    let dir = TempDir::new().unwrap();
    let mut containers = builder(dir.path()).start().unwrap();
    create(&mut containers, 11, &format!("/docker/{}", id(1)));
    let first = filled(&mut containers, exec(11, INSIDE));
    assert_eq!(first.text(Field::ContainerId), id(1).as_bytes());
    assert!(CONTAINER_FIELDS[1..].iter().all(|field| first.value(*field) == Value::Unknown));
    // An action on the container need not wait for the engine.
    assert_eq!(first.container_cgroup_id, Some(11));
    assert!(polled(&mut containers).is_empty() && containers.is_awaiting());
    write_docker(dir.path(), &id(1), "late");
    let [start] = &all(&mut containers)[..] else { panic!("not one start") };
    assert_eq!(start.text(Field::ContainerName), b"late");
    assert!(start.unknown().is_empty(), "{start:?}");
}

#[test]
fn an_engine_that_never_writes() {
    let dir = TempDir::new().unwrap();
    let mut containers = builder(dir.path()).patience(Duration::from_millis(50)).start().unwrap();
    create(&mut containers, 11, &format!("/docker/{}", id(1)));
    filled(&mut containers, exec(11, INSIDE));
    let [start] = &all(&mut containers)[..] else { panic!("not one start") };
    assert_eq!([start.text(Field::ContainerId), start.text(Field::ContainerName)], [id(1).as_bytes(); 2]);
    assert_eq!(start.value(Field::ImageName), Value::Absent);
    assert_eq!(start.value(Field::ContainerPrivileged), Value::Unknown);
    assert_eq!(containers.stats().given_up, 1);
}

#[test]
fn a_bare_runtime() {
    let dir = TempDir::new().unwrap();
    fs::create_dir_all(dir.path().join("run/runc/job")).unwrap();
    let mut containers = builder(dir.path()).start().unwrap();
    create(&mut containers, 10, "/batch");
    create(&mut containers, 11, "/batch/slot");
    create(&mut containers, 12, "/batch/slot/below");
    create(&mut containers, 13, "/batch/other");
    // It has made its directory, so either may be its container.
    let early = filled(&mut containers, exec(11, HOST));
    assert!(CONTAINER_FIELDS.iter().all(|field| early.value(*field) == Value::Unknown));
    write_runc(dir.path(), "job", "/batch/slot");
    known(&containers, 11);
    known(&containers, 12);
    let first = filled(&mut containers, exec(12, INSIDE));
    assert_eq!([first.text(Field::ContainerId), first.text(Field::ContainerName)], [b"job"; 2]);
    assert_eq!(first.container_cgroup_id, Some(11));
    filled(&mut containers, exec(11, INSIDE));
    let [start] = &all(&mut containers)[..] else { panic!("not one start") };
    assert_eq!([start.text(Field::ContainerOperation), start.text(Field::ContainerId)], [&b"START"[..], b"job"]);
    for cgroup in [12, 11, 13, 10] {
        containers.removed(Hierarchy::Unified, cgroup, 0);
    }
    let [stop] = &all(&mut containers)[..] else { panic!("not one stop") };
    assert_eq!([stop.text(Field::ContainerOperation), stop.text(Field::ContainerId)], [&b"STOP"[..], b"job"]);
    assert_eq!((containers.stats().cgroups, containers.stats().containers), (0, 0));
}

#[test]
fn a_bare_runtime_that_names_the_cgroup_as_the_container() {
    let dir = TempDir::new().unwrap();
    fs::create_dir_all(dir.path().join("run/runc/job")).unwrap();
    let mut containers = builder(dir.path()).start().unwrap();
    create(&mut containers, 11, "/batch/job");
    known(&containers, 11);
    let first = filled(&mut containers, exec(11, INSIDE));
    assert_eq!([first.text(Field::ContainerId), first.text(Field::ContainerName)], [b"job"; 2]);
    // How it is set up is yet to be written.
    assert!(polled(&mut containers).is_empty());
    write_runc(dir.path(), "job", "/batch/job");
    let [start] = &all(&mut containers)[..] else { panic!("not one start") };
    assert_eq!(start.value(Field::ContainerHostPid), Value::Bool(true));
    let container = containers.container(Hierarchy::Unified, 11).unwrap();
    assert_eq!(container.host_path(b"/x").unwrap(), b"/srv/x");
}

#[test]
fn a_bare_runtime_is_known_by_its_first_program_or_never() {
    let dir = TempDir::new().unwrap();
    fs::create_dir_all(dir.path().join("run/runc/job")).unwrap();
    let mut containers = builder(dir.path()).start().unwrap();
    create(&mut containers, 11, "/batch/job");
    create(&mut containers, 12, "/batch/other");
    // Both run something before it is known which is the container.
    filled(&mut containers, exec(11, INSIDE));
    filled(&mut containers, exec(12, INSIDE));
    write_runc(dir.path(), "job", "/batch/job");
    let [start] = &all(&mut containers)[..] else { panic!("not one start") };
    assert_eq!(start.text(Field::ContainerId), b"job");
    let event = filled(&mut containers, exec(12, INSIDE));
    assert_eq!(event.value(Field::ContainerId), Value::Absent);
    containers.removed(Hierarchy::Unified, 12, 0);
    assert!(all(&mut containers).is_empty());
}

#[test]
fn a_start_that_is_seen_below_is_the_containers() {
    let dir = TempDir::new().unwrap();
    fs::create_dir_all(dir.path().join("run/runc/job")).unwrap();
    let mut containers = builder(dir.path()).start().unwrap();
    create(&mut containers, 11, "/job");
    create(&mut containers, 12, "/job/a");
    create(&mut containers, 13, "/job/b");
    filled(&mut containers, exec(12, INSIDE));
    filled(&mut containers, exec(13, INSIDE));
    containers.removed(Hierarchy::Unified, 13, 0);
    write_runc(dir.path(), "job", "/job");
    let events = all(&mut containers);
    let operations: Vec<_> = events.iter().map(|event| event.text(Field::ContainerOperation)).collect();
    assert_eq!(operations, [b"START"]);
}

#[test]
fn a_bare_runtime_that_was_too_fast() {
    let dir = TempDir::new().unwrap();
    let mut containers = builder(dir.path()).start().unwrap();
    let maker = CgroupMaker::new(0).mount_namespace(Some(HOST)).name(b"crun");
    for (cgroup, path) in [(10, &b"/batch"[..]), (11, b"/batch/job")] {
        containers.created(Hierarchy::Unified, cgroup, path, maker);
    }
    let first = filled(&mut containers, exec(11, INSIDE));
    assert!(CONTAINER_FIELDS.iter().all(|field| first.value(*field) == Value::Unknown));
    for cgroup in [11, 10] {
        containers.removed(Hierarchy::Unified, cgroup, 0);
    }
    let events = all(&mut containers);
    let told: Vec<_> = events
        .iter()
        .map(|event| [Field::ContainerOperation, Field::ContainerId].map(|field| event.text(field)))
        .collect();
    assert_eq!(told, [[&b"START"[..], b"job"], [b"STOP", b"job"]]);
    assert_eq!(events[0].value(Field::ContainerPrivileged), Value::Unknown);
    assert_eq!(containers.stats().containers, 0);
}

/// An event about a file: in a process with this cgroup and this mount namespace.
fn file(cgroup: u64, mount_namespace: u32, old: &[u8], new: Option<&[u8]>) -> Event {
    let mut event = Event::new(EventKind::File);
    event.cgroup_id = Some(cgroup);
    event.mount_namespace = Some(mount_namespace);
    event.set_text(Field::FilePath, old);
    if let Some(new) = new {
        event.set_text(Field::NewFilePath, new);
    }
    event
}

#[test]
fn paths_on_the_host() {
    let dir = TempDir::new().unwrap();
    write_docker(dir.path(), &id(1), "web");
    let mut containers = builder(dir.path()).start().unwrap();
    create(&mut containers, 1, "/");
    create(&mut containers, 11, &format!("/docker/{}", id(1)));
    known(&containers, 11);
    // Until its first program tells which mount namespace is the container's, no path is sure.
    let early = filled(&mut containers, file(11, INSIDE, b"/data/x", None));
    assert_eq!(early.value(Field::HostFilePath), Value::Unknown);
    filled(&mut containers, exec(11, INSIDE));

    let host = |containers: &mut Containers, event| {
        let event = filled(containers, event);
        [Field::HostFilePath, Field::NewHostFilePath].map(|field| match event.value(field) {
            Value::Text { bytes, truncated: false } => String::from_utf8(bytes.to_vec()).unwrap(),
            other => format!("{other:?}"),
        })
    };
    let table = [
        (file(11, INSIDE, b"/data/x", Some(b"/etc/x")), ["/srv/x", "/merged/etc/x"]),
        (file(11, INSIDE, b"/etc/x", None), ["/merged/etc/x", "Absent"]),
        // The runtime, on its way into the container; somebody who went further; a host process.
        (file(11, HOST, b"/etc/x", None), ["/etc/x", "Absent"]),
        (file(11, INSIDE + 1, b"/etc/x", Some(b"/etc/y")), ["Unknown", "Unknown"]),
        (file(1, HOST, b"/etc/x", Some(b"/etc/y")), ["/etc/x", "/etc/y"]),
        (file(1, INSIDE + 1, b"/etc/x", None), ["/etc/x", "Absent"]),
        // A cgroup that is not known.
        (file(5, HOST, b"/etc/x", None), ["Unknown", "Absent"]),
    ];
    for (event, expected) in table {
        let told = format!("{event:?}");
        assert_eq!(host(&mut containers, event), expected, "{told}");
    }
    let mut cut = file(11, INSIDE, b"/x", None);
    cut.mark_truncated(Field::FilePath);
    assert_eq!(host(&mut containers, cut), ["Unknown", "Absent"]);
    let mut unknown = file(11, INSIDE, b"/x", None);
    unknown.mark_unknown(Field::FilePath);
    assert_eq!(host(&mut containers, unknown), ["Unknown", "Absent"]);
}

#[test]
fn what_users_make_is_no_container_of_the_host() {
    let dir = TempDir::new().unwrap();
    write_docker(dir.path(), &id(1), "web");
    write_runc(dir.path(), "job", "/job");
    let mut containers = builder(dir.path()).start().unwrap();
    containers.created(
        Hierarchy::Unified,
        11,
        format!("/mine/docker-{}.scope", id(1)).as_bytes(),
        CgroupMaker::new(1000),
    );
    containers.created(Hierarchy::Unified, 12, b"/job", CgroupMaker::new(1000));
    let event = filled(&mut containers, exec(11, INSIDE));
    assert_eq!([event.text(Field::ContainerId), event.text(Field::ContainerName)], [id(1).as_bytes(); 2]);
    assert_eq!(event.value(Field::ImageName), Value::Absent);
    assert_eq!(filled(&mut containers, exec(12, INSIDE)).value(Field::ContainerId), Value::Absent);
}

#[test]
fn two_hierarchies_have_one_container() {
    let dir = TempDir::new().unwrap();
    write_docker(dir.path(), &id(1), "web");
    let mut containers = builder(dir.path()).start().unwrap();
    let path = format!("/docker/{}", id(1));
    create(&mut containers, 1, "/");
    create(&mut containers, 11, &path);
    // Each hierarchy counts for itself.
    containers.created(Hierarchy::Legacy, 11, path.as_bytes(), CgroupMaker::new(0));
    containers.created(Hierarchy::Legacy, 1, b"/", CgroupMaker::new(0));
    known(&containers, 11);
    let mut event = exec(1, INSIDE);
    containers.fill(&mut event, Some(11));
    assert_eq!(event.text(Field::ContainerName), b"web");
    assert_eq!((event.cgroup_id, event.container_cgroup_id), (Some(1), Some(11)));
    let mut event = exec(1, INSIDE);
    containers.fill(&mut event, Some(1));
    assert_eq!(event.value(Field::ContainerName), Value::Absent);
    let mut event = exec(1, INSIDE);
    containers.fill(&mut event, Some(2));
    assert_eq!(event.value(Field::ContainerName), Value::Unknown);
    containers.removed(Hierarchy::Unified, 11, 0);
    containers.removed(Hierarchy::Legacy, 11, 0);
    let operations: Vec<_> =
        all(&mut containers).iter().map(|event| event.text(Field::ContainerOperation).to_owned()).collect();
    assert_eq!(operations, [&b"START"[..], b"STOP"]);
}

#[test]
fn what_does_not_fit_is_unknown_and_counted() {
    let dir = TempDir::new().unwrap();
    let mut containers = builder(dir.path()).cgroup_limit(3).container_limit(1).start().unwrap();
    for number in 0..4 {
        create(&mut containers, number, &format!("/docker/{}", id(number as usize)));
    }
    assert_eq!(filled(&mut containers, exec(0, INSIDE)).text(Field::ContainerId), id(0).as_bytes());
    for cgroup in 1..4 {
        let event = filled(&mut containers, exec(cgroup, INSIDE));
        assert!(CONTAINER_FIELDS.iter().all(|field| event.value(*field) == Value::Unknown), "{cgroup}");
    }
    let stats = containers.stats();
    assert_eq!((stats.cgroups, stats.containers, stats.untracked), (3, 1, 3));
    // Nothing is left behind, and there is room again.
    for number in 0..4 {
        containers.removed(Hierarchy::Unified, number, 0);
    }
    assert_eq!((containers.stats().cgroups, containers.stats().containers), (0, 0));
    create(&mut containers, 9, &format!("/docker/{}", id(9)));
    assert_eq!(filled(&mut containers, exec(9, INSIDE)).text(Field::ContainerId), id(9).as_bytes());
}

#[test]
fn many_short_containers_leave_nothing() {
    let dir = TempDir::new().unwrap();
    let mut containers = builder(dir.path()).start().unwrap();
    let mut starts = 0;
    for number in 0..1000 {
        let (cgroup, id) = (number + 100, id(number as usize));
        write_docker(dir.path(), &id, "short");
        create(&mut containers, cgroup, &format!("/docker/{id}"));
        filled(&mut containers, exec(cgroup, INSIDE));
        containers.removed(Hierarchy::Unified, cgroup, 0);
        starts += polled(&mut containers).len();
    }
    starts += all(&mut containers).len();
    assert_eq!(starts, 2000, "each start and each stop is told, {:?}", containers.stats());
    let stats = containers.stats();
    assert_eq!((stats.cgroups, stats.containers, stats.awaited), (0, 0, 0));
    assert_eq!((stats.untracked, stats.unasked, stats.given_up), (0, 0, 0));
}

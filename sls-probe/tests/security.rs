//! SELinux that is really switched off, and a kernel function that is really called from the memory of a process. Both only
//! where the kernel has what it takes: the lab's kernels, started for it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod common;

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::kmod::{DeleteModuleFlags, ModuleInitFlags, delete_module, finit_module};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use sls_core::{Event, EventKind, Field, Interest, PolicyType};
use sls_probe::{Probe, ProbeBuilder};

use common::{Watch, family, not_offered, open_dir};

/// Allows everything: `tests/selinux/minimal.conf`.
const POLICY: &[u8] = include_bytes!("selinux/minimal.policy");

fn builder() -> ProbeBuilder {
    let mut interest = Interest::default();
    interest.add_kind(EventKind::Security);
    Probe::builder().exec(false).fork(false).exit(true).snapshot(false).interest(interest).hooks(family())
}

fn offered(policy_type: PolicyType) -> bool {
    match builder().unavailable(policy_type) {
        None => true,
        Some(reason) => {
            let selinux = policy_type == PolicyType::Selinux && !selinux_is_active();
            not_offered(if selinux { "selinux" } else { "kprobe" }, &reason.to_string());
            false
        }
    }
}

fn selinux_is_active() -> bool {
    fs::read_to_string("/proc/filesystems").unwrap().contains("selinuxfs")
}

fn changes(events: &[Event]) -> Vec<String> {
    let own = events.iter().filter(|event| event.process.pid == std::process::id());
    let changes = own.filter(|event| event.kind == EventKind::Security);
    changes.map(|event| common::text(event, Field::SecurityChange)).collect()
}

/// The file system through which SELinux is told what to do.
struct SelinuxFs(#[allow(dead_code)] tempfile::TempDir, std::path::PathBuf);

impl SelinuxFs {
    fn mount() -> Self {
        let (guard, directory) = open_dir();
        let none: Option<&str> = None;
        mount(Some("selinuxfs"), &directory, Some("selinuxfs"), MsFlags::empty(), none).unwrap();
        Self(guard, directory)
    }

    fn write(&self, file: &str, bytes: &[u8]) {
        fs::write(self.1.join(file), bytes).unwrap();
    }
}

impl Drop for SelinuxFs {
    fn drop(&mut self) {
        let _ = umount2(&self.1, MntFlags::MNT_DETACH);
    }
}

#[test]
fn selinux_that_becomes_permissive_or_gets_another_policy() {
    if !offered(PolicyType::Selinux) {
        return;
    }
    if std::env::var_os("SLS_LAB_GUEST").is_none() {
        return not_offered("guest", "a machine to be thrown away, such as one of the lab");
    }
    let selinux = SelinuxFs::mount();
    let mut watch = Watch::with(builder());
    selinux.write("enforce", b"1");
    // The same again is no change.
    for _ in 0..2 {
        selinux.write("enforce", b"0");
    }
    selinux.write("load", POLICY);
    selinux.write("enforce", b"1");
    selinux.write("enforce", b"0");
    watch.until("three changes", |events| changes(events).len() >= 3);
    assert_eq!(changes(&watch.events), ["SELINUX_PERMISSIVE", "SELINUX_POLICY_LOADED", "SELINUX_PERMISSIVE"]);
}

#[test]
fn what_the_kernel_itself_does_is_no_payload() {
    if !offered(PolicyType::KernelPayload) {
        return;
    }
    let mut watch = Watch::with(builder());
    // Credentials of others, and of programs.
    let child = Command::new("/bin/true").uid(65_534).gid(65_534).spawn().unwrap();
    let pid = child.id();
    common::Running(child).0.wait().unwrap();
    watch.until("the end", |events| common::has(events, pid, EventKind::Exit));
    let security: Vec<_> = watch.events.iter().filter(|event| event.kind == EventKind::Security).collect();
    assert!(security.is_empty(), "{security:?}");
}

#[test]
fn a_payload_in_the_memory_of_a_process() {
    if !offered(PolicyType::KernelPayload) {
        return;
    }
    let Some(module) = std::env::var_os("SLS_PAYLOAD_MODULE") else {
        return not_offered("payload", ".ci/lab/payload, nopti");
    };
    let mut watch = Watch::with(builder());
    finit_module(File::open(module).unwrap(), c"", ModuleInitFlags::empty()).unwrap();
    watch.until("the payload", |events| !changes(events).is_empty());
    delete_module(c"payload", DeleteModuleFlags::O_NONBLOCK).unwrap();
    assert_eq!(changes(&watch.events), ["KERNEL_PAYLOAD"]);
}

#[test]
fn what_is_not_offered_has_a_reason() {
    let builder = builder();
    assert!(builder.unavailable(PolicyType::SmepSmap).unwrap().contains("native_write_cr4"));
    let kprobes = Path::new("/sys/bus/event_source/devices/kprobe").exists();
    assert_eq!(builder.unavailable(PolicyType::KernelPayload).is_none(), kprobes);
    let active = selinux_is_active();
    assert_eq!(builder.unavailable(PolicyType::Selinux).is_none(), active && family().sees_objects());
    let offered = kprobes || (active && family().sees_objects());
    assert_eq!(builder.provides(EventKind::Security).is_empty(), !offered);
}

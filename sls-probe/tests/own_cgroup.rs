//! The cgroup that the kernel keeps the sensor in. Needs root, and a memory controller in the v2 hierarchy.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use sls_probe::{OwnCgroup, cgroup_root};

use common::not_offered;

/// A cgroup with a memory controller that this process is in until it is dropped.
struct Inside {
    root: PathBuf,
    path: PathBuf,
    /// Whether the controller was switched on for it.
    controller: bool,
}

impl Inside {
    fn enter(root: PathBuf) -> Self {
        let control = root.join("cgroup.subtree_control");
        let controller = !has_word(&control, "memory");
        if controller {
            fs::write(&control, "+memory").unwrap();
        }
        let path = root.join(format!("sls-test-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        let inside = Self { root, path, controller };
        move_to(&inside.path);
        inside
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        move_to(&self.root);
        fs::remove_dir(&self.path).unwrap();
        if self.controller {
            fs::write(self.root.join("cgroup.subtree_control"), "-memory").unwrap();
        }
    }
}

fn move_to(cgroup: &Path) {
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string()).unwrap();
}

fn has_word(file: &Path, word: &str) -> bool {
    fs::read_to_string(file).unwrap().split_whitespace().any(|found| found == word)
}

#[test]
fn hard_limit_is_set_once_and_by_its_only_process() {
    let Some(root) = cgroup_root().filter(|root| has_word(&root.join("cgroup.controllers"), "memory")) else {
        return not_offered("cgroup2-memory", "the memory controller in the cgroup v2 hierarchy");
    };
    if fs::read_to_string("/proc/self/cgroup").unwrap().lines().all(|line| line != "0::/") {
        return not_offered("cgroup2-root", "a process at the root of the cgroup v2 hierarchy");
    }
    assert!(OwnCgroup::find().is_none(), "the root is nobody's own");
    let inside = Inside::enter(root);
    let cgroup = OwnCgroup::find().unwrap();
    assert_eq!((cgroup.path(), cgroup.memory_max()), (&*inside.path, None));

    let other = std::process::Command::new("sleep").arg("100").spawn().unwrap();
    let other = common::Running(other);
    assert!(!cgroup.set_memory_max(1 << 30).unwrap(), "somebody else is in it");
    drop(other);
    assert!(cgroup.set_memory_max(1 << 30).unwrap());
    assert_eq!(cgroup.memory_max(), Some(1 << 30));
    assert!(!cgroup.set_memory_max(1 << 29).unwrap(), "who set it before knows better");
    assert_eq!(cgroup.memory_max(), Some(1 << 30));
}

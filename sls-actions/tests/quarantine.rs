//! Attackers who change names while files are taken from them.

#![allow(clippy::unwrap_used, clippy::panic)]

mod files;
#[path = "../../.ci/lab/for_tests.rs"]
mod for_tests;

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use files::{Place, SUCCESSFUL, Tmpfs, act, event, identity, on, said};
use for_tests::rounds;
use rustix::fs::{CWD, RenameFlags};
use sls_actions::{FileResponder, QuarantineError, QuarantineStore, RestoreOptions};
use sls_core::Action;

/// Rounds of the race, for each action and file system.
const RACES: usize = 500;

/// One attacker's moves, by what they do to `path`.
fn attack(random: u64, directory: &Path, victim: &Path) {
    let (path, sub) = (directory.join("d/evil"), directory.join("d"));
    let (aside, away) = (directory.join("aside"), directory.join("away"));
    // The attacker loses no file by its own hand: then one that is missing is the sensor's doing.
    let rename =
        |from: &Path, to: &Path, flags| rustix::fs::renameat_with(CWD, from, CWD, to, flags).map_err(Into::into);
    // Each may fail: the other attacker, or the sensor, was faster.
    let _: std::io::Result<()> = match random % 7 {
        0 => rename(&path, &aside, RenameFlags::NOREPLACE),
        1 => rename(&aside, &path, RenameFlags::NOREPLACE),
        2 => symlink(victim, &path),
        3 => fs::hard_link(victim, &path),
        4 => rename(&sub, &away, RenameFlags::NOREPLACE).and_then(|()| symlink(directory.join("trap"), &sub)),
        5 => fs::remove_file(&sub).and_then(|()| rename(&away, &sub, RenameFlags::NOREPLACE)),
        _ => rename(&path, &directory.join("bait"), RenameFlags::EXCHANGE),
    };
}

/// Everything below a directory, by inode.
fn contents(directory: &Path) -> HashMap<u64, Vec<u8>> {
    let mut found = HashMap::new();
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(contents(&entry.path()));
        } else if kind.is_file() {
            found.insert(entry.metadata().unwrap().ino(), fs::read(entry.path()).unwrap());
        }
    }
    found
}

fn race(place: &Place, at: &Path, action: Action, rounds: usize) -> usize {
    let store = QuarantineStore::open(place.path("store")).unwrap();
    let mut responder = FileResponder::builder().store(store).build().unwrap();
    let mut won = 0;
    for round in 0..rounds {
        let directory: PathBuf = at.join(format!("{round}"));
        fs::create_dir_all(directory.join("d")).unwrap();
        fs::create_dir(directory.join("trap")).unwrap();
        let others = ["victim", "bait", "trap/evil"].map(|name| directory.join(name));
        for other in &others {
            fs::write(other, b"good").unwrap();
        }
        let path = directory.join("d/evil");
        fs::write(&path, b"evil").unwrap();
        let (target, event) = (identity(&path), event(&path));
        let evil = fs::metadata(&path).unwrap().ino();
        let good = others.clone().map(|other| fs::metadata(other).unwrap().ino());
        let done = AtomicBool::new(false);
        let (name, details) = std::thread::scope(|scope| {
            for attacker in 0..2_u64 {
                let (done, directory, victim) = (&done, &directory, &others[0]);
                scope.spawn(move || {
                    let mut random = (round as u64 * 2 + attacker + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    while !done.load(Ordering::Relaxed) {
                        random ^= random << 13;
                        random ^= random >> 7;
                        random ^= random << 17;
                        attack(random, directory, victim);
                    }
                });
            }
            let result = said(&act(&mut responder, action, target, &event));
            done.store(true, Ordering::Relaxed);
            result
        });
        let outside = contents(&directory);
        for inode in good {
            assert_eq!(outside.get(&inode).map(Vec::as_slice), Some(&b"good"[..]), "{action}: {name} {details}");
        }
        let entries = responder.store().list().unwrap();
        let inside = entries.first().map(|entry| fs::read(place.path("store").join(&entry.entry)).unwrap());
        if name == "successful" {
            won += 1;
            // A copy of it has another inode, and the old one may be used again only for nothing that was here.
            assert!(!outside.contains_key(&evil), "{action}: {details}");
            assert_eq!(inside.as_deref(), (action == Action::Quarantine).then_some(&b"evil"[..]));
        } else {
            assert_eq!(outside.get(&evil).map(Vec::as_slice), Some(&b"evil"[..]), "{action}: {name} {details}");
            assert_eq!(inside, None, "{action}: {name} {details}");
        }
        for entry in entries {
            responder.store().purge(entry.id).unwrap();
        }
        assert_eq!(fs::read_dir(place.path("store")).unwrap().count(), 0);
        fs::remove_dir_all(&directory).unwrap();
    }
    won
}

#[test]
fn quarantine_symlink_race() {
    let place = Place::new();
    let other = Tmpfs::mount(place.path("other"));
    fs::create_dir(place.path("same")).unwrap();
    let (mut won, races) = (0, rounds(RACES));
    for action in [Action::Quarantine, Action::Delete] {
        for at in [&place.path("same"), &other.0] {
            won += race(&place, at, action, races);
        }
    }
    // Else nothing was tried.
    assert!(won > races / 10, "{won}");
    println!("{won} of {} files taken", races * 4);
}

#[test]
fn restoring_replaces_nothing_and_follows_nothing() {
    let place = Place::new();
    let path = place.file("evil", b"evil");
    assert_eq!(on(&mut place.responder(), Action::Quarantine, &path), SUCCESSFUL);
    let store = place.store();
    let id = store.list().unwrap()[0].id;
    let said = |options: &RestoreOptions| store.restore(id, options).unwrap_err().to_string();
    fs::write(&path, b"new").unwrap();
    assert_eq!(said(&RestoreOptions::new()), format!("unable to open original path {}: file exists", path.display()));
    assert_eq!(fs::read(&path).unwrap(), b"new");
    fs::create_dir(place.path("real")).unwrap();
    symlink(place.path("real"), place.path("link")).unwrap();
    symlink(place.path("real/absent"), place.path("dangling")).unwrap();
    for to in ["link/evil", "dangling", "absent/evil"] {
        assert!(said(&RestoreOptions::new().to(place.path(to))).starts_with("unable to open original path"), "{to}");
    }
    assert_eq!(fs::read_dir(place.path("real")).unwrap().count(), 0);
    store.restore(id, &RestoreOptions::new().to(place.path("real/evil"))).unwrap();
    assert_eq!(fs::read(place.path("real/evil")).unwrap(), b"evil");
    assert!(matches!(store.restore(id, &RestoreOptions::new()), Err(QuarantineError::NotFound { .. })));
}

#[test]
fn a_changed_content_is_not_restored_unasked() {
    use std::io::Write;
    let place = Place::new();
    let path = place.file("evil", b"evil");
    let mut open = fs::OpenOptions::new().append(true).open(&path).unwrap();
    assert_eq!(on(&mut place.responder(), Action::Quarantine, &path), SUCCESSFUL);
    open.write_all(b"more").unwrap();
    let store = place.store();
    let id = store.list().unwrap()[0].id;
    assert!(matches!(store.restore(id, &RestoreOptions::new()), Err(QuarantineError::Changed { .. })));
    assert!(!path.exists());
    store.restore(id, &RestoreOptions::new().accept_changed()).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"evilmore");
}

#[test]
fn purging() {
    let place = Place::new();
    for name in ["a", "b"] {
        assert_eq!(on(&mut place.responder(), Action::Quarantine, &place.file(name, b"x")), SUCCESSFUL);
    }
    let store = place.store();
    let ids: Vec<_> = store.list().unwrap().iter().map(|entry| entry.id).collect();
    assert!(store.purge_older_than(Duration::from_secs(3600)).unwrap().is_empty());
    store.purge(ids[0]).unwrap();
    assert!(matches!(store.purge(ids[0]), Err(QuarantineError::NotFound { .. })));
    assert_eq!(store.purge_older_than(Duration::ZERO).unwrap(), [ids[1]]);
    assert_eq!(fs::read_dir(place.path("store")).unwrap().count(), 0);
}

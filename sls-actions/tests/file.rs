//! `quarantine` and `delete` on real files.

#![allow(clippy::unwrap_used, clippy::panic)]

mod files;
#[path = "../../.ci/lab/for_tests.rs"]
mod for_tests;

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use files::{Place, SUCCESSFUL, Tmpfs, act, event, identity, on, peculiar, run, said, whole};
use for_tests::not_offered;
use sls_actions::{FileResponder, QuarantineState, RestoreOptions};
use sls_core::{
    Action, ActionContext, ActionPlanner, Field, GuardedPlanner, Guards, Permission, PlannedAction, Refusal, Responder,
    Target,
};

const BOTH: [Action; 2] = [Action::Quarantine, Action::Delete];

/// The files of a store, without manifests.
fn stored(place: &Place) -> Vec<OsString> {
    let names = fs::read_dir(place.path("store")).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| !name.to_string_lossy().ends_with(".json")).collect()
}

#[test]
fn a_file_is_moved_and_comes_back_as_it_was() {
    let place = Place::new();
    let other = Tmpfs::mount(place.path("other"));
    for path in [place.path("evil"), other.0.join("evil")] {
        peculiar(&path);
        let before = whole(&path);
        peculiar(&path);
        let mut responder = place.responder();
        assert_eq!(on(&mut responder, Action::Quarantine, &path), SUCCESSFUL);
        assert!(!path.exists());
        let store = place.store();
        let [entry] = &store.list().unwrap()[..] else { panic!("not one entry") };
        assert_eq!((entry.state, &entry.path), (QuarantineState::Complete, &path));
        let inside = place.path("store").join(&entry.entry);
        let metadata = fs::metadata(&inside).unwrap();
        assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o7777), (0, 0, 0o400));
        assert_eq!(entry.entry, format!("{}-evil", entry.id));
        let modes = fs::metadata(place.path("store")).unwrap().mode() & 0o7777;
        assert_eq!(modes, 0o700);
        assert_eq!(store.restore(entry.id, &RestoreOptions::new()).unwrap(), path);
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.atime(), metadata.atime_nsec()), (1_000_000_001, 7));
        assert_eq!(whole(&path), before);
        assert_eq!((store.list().unwrap(), stored(&place)), (vec![], vec![]));
        fs::remove_file(&path).unwrap();
    }
    // From the store to another file system, too.
    let path = place.path("evil");
    peculiar(&path);
    let before = whole(&path);
    peculiar(&path);
    assert_eq!(on(&mut place.responder(), Action::Quarantine, &path), SUCCESSFUL);
    let store = place.store();
    let to = other.0.join("back");
    store.restore(store.list().unwrap()[0].id, &RestoreOptions::new().to(&to)).unwrap();
    assert_eq!(whole(&to), before);
    assert_eq!(fs::read_dir(&other.0).unwrap().count(), 1);
    assert_eq!(stored(&place), [""; 0]);
}

#[test]
fn a_file_is_deleted() {
    let place = Place::new();
    let other = Tmpfs::mount(place.path("other"));
    for path in [place.file("evil", b"x"), other.0.join("evil")] {
        fs::write(&path, b"x").unwrap();
        let open = File::open(&path).unwrap();
        assert_eq!(on(&mut place.responder(), Action::Delete, &path), SUCCESSFUL);
        assert_eq!(open.metadata().unwrap().nlink(), 0);
        assert!(!path.exists());
        assert_eq!(fs::read_dir(place.path("store")).unwrap().count(), 0);
    }
    assert_eq!(fs::read_dir(&other.0).unwrap().count(), 0);
}

#[test]
fn nothing_without_permission() {
    let place = Place::new();
    let path = place.file("good", b"x");
    for action in BOTH {
        for (permission, result) in [
            (Permission::DryRun, ("dry run", String::new())),
            (Permission::Refused(Refusal::new("guard", "no")), ("refused", "guard: no".to_owned())),
        ] {
            let planned = PlannedAction::new(action, identity(&path), permission);
            let outcome = place.responder().execute(&planned, &ActionContext::new(&event(&path))).finish();
            assert_eq!(said(&outcome), result);
            assert!(path.exists());
        }
    }
}

#[test]
fn a_file_that_was_renamed_is_found() {
    for action in BOTH {
        let place = Place::new();
        let path = place.file("evil", b"evil");
        let (target, event) = (identity(&path), event(&path));
        // In the same directory.
        fs::rename(&path, place.path("renamed")).unwrap();
        assert_eq!(said(&act(&mut place.responder(), action, target, &event)), SUCCESSFUL);
        assert!(!place.path("renamed").exists());
        // Elsewhere, and open in the acting process; another file has its name.
        let path = place.file("evil", b"evil");
        let target = identity(&path);
        let open = File::open(&path).unwrap();
        fs::create_dir(place.path("sub")).unwrap();
        fs::rename(&path, place.path("sub/x")).unwrap();
        place.file("evil", b"good");
        assert_eq!(said(&act(&mut place.responder(), action, target, &event)), SUCCESSFUL);
        assert!(!place.path("sub/x").exists());
        assert_eq!(fs::read(&path).unwrap(), b"good");
        drop(open);
    }
}

/// The planner saw the name of the event; the guards are asked again about the one that was found.
#[test]
fn a_file_that_was_renamed_to_a_protected_name_stays() {
    for action in BOTH {
        let place = Place::new();
        let path = place.file("evil", b"evil");
        let guards = Guards::none().protect_path(place.path("protected").to_str().unwrap());
        let planner: Arc<dyn ActionPlanner> = Arc::new(GuardedPlanner::new(guards));
        let (target, event) = (identity(&path), event(&path));
        fs::rename(&path, place.path("protected")).unwrap();
        let planned = PlannedAction::new(action, target, Permission::Granted);
        let context = ActionContext::new(&event).planner(&planner);
        let outcome = place.responder().execute(&planned, &context).finish();
        let reason = "protected-path: the operator protects this file".to_owned();
        assert_eq!(said(&outcome), ("refused", reason));
        assert_eq!(fs::read(place.path("protected")).unwrap(), b"evil");
    }
}

#[test]
fn the_guards_are_asked_for_the_new_name() {
    let place = Place::new();
    fs::create_dir(place.path("guarded")).unwrap();
    let guards = Guards::none().protect_path(format!("{}/*", place.path("guarded").display()));
    let planner: Arc<dyn ActionPlanner> = Arc::new(GuardedPlanner::new(guards));
    for action in BOTH {
        let path = place.file("evil", b"evil");
        let (target, event) = (identity(&path), event(&path));
        let open = File::open(&path).unwrap();
        fs::rename(&path, place.path("guarded/evil")).unwrap();
        let planned = PlannedAction::new(action, target, Permission::Granted);
        let context = ActionContext::new(&event).planner(&planner);
        let (name, details) = said(&place.responder().execute(&planned, &context).finish());
        assert_eq!((name, &*details), ("refused", "protected-path: the operator protects this file"));
        assert!(place.path("guarded/evil").exists());
        drop(open);
    }
}

#[test]
fn another_file_of_the_name_is_not_touched() {
    for action in BOTH {
        let place = Place::new();
        let path = place.file("evil", b"evil");
        let (target, event) = (identity(&path), event(&path));
        fs::create_dir(place.path("sub")).unwrap();
        fs::rename(&path, place.path("sub/evil")).unwrap();
        place.file("evil", b"good");
        let details = format!("file-identity: {} now names another file", path.display());
        assert_eq!(said(&act(&mut place.responder(), action, target, &event)), ("refused", details));
        fs::remove_file(&path).unwrap();
        let details = format!("unable to open original path {}: no such file or directory", path.display());
        assert_eq!(said(&act(&mut place.responder(), action, target, &event)), ("not successful", details));
        assert_eq!(fs::read(place.path("sub/evil")).unwrap(), b"evil");
        assert_eq!(stored(&place), [""; 0]);
    }
}

#[test]
fn symbolic_links_are_not_followed() {
    for action in BOTH {
        let place = Place::new();
        fs::create_dir(place.path("real")).unwrap();
        let victim = place.file("real/victim", b"good");
        symlink(&victim, place.path("link")).unwrap();
        symlink(place.path("real"), place.path("linked")).unwrap();
        for path in [place.path("link"), place.path("linked/victim")] {
            let (name, _) = said(&act(&mut place.responder(), action, identity(&victim), &event(&path)));
            assert_ne!(name, "successful", "{path:?}");
            assert!(victim.exists());
        }
        let (name, details) = on(&mut place.responder(), action, &place.path("link"));
        assert_eq!(name, "not successful");
        assert!(details.ends_with("is a symbolic link, not a regular file"), "{details}");
    }
}

#[test]
fn only_regular_files() {
    let place = Place::new();
    fs::create_dir(place.path("directory")).unwrap();
    run("mkfifo", &[place.path("fifo").as_os_str()]);
    run("mknod", &[place.path("device").as_os_str(), "c".as_ref(), "1".as_ref(), "3".as_ref()]);
    for (name, kind) in [("directory", "a directory"), ("fifo", "a FIFO"), ("device", "a device")] {
        for action in BOTH {
            let path = place.path(name);
            let details = format!("{} is {kind}, not a regular file", path.display());
            assert_eq!(on(&mut place.responder(), action, &path), ("not successful", details));
            assert!(path.symlink_metadata().is_ok());
        }
    }
}

#[test]
fn other_names_are_told_of() {
    let place = Place::new();
    let path = place.file("evil", b"evil");
    fs::hard_link(&path, place.path("second")).unwrap();
    let (name, details) = on(&mut place.responder(), Action::Quarantine, &path);
    assert_eq!(name, "not successful");
    assert!(details.ends_with("but 1 other name of the file remains"), "{details}");
    assert!(!path.exists());
    // Its mode is that of the other name as well.
    assert_ne!(fs::metadata(place.path("second")).unwrap().mode() & 0o777, 0o400);

    fs::hard_link(place.path("second"), place.path("third")).unwrap();
    let (name, details) = on(&mut place.responder(), Action::Delete, &place.path("third"));
    assert_eq!((name, &*details), ("not successful", "the name is gone, but 2 other names of the file remain"));
}

#[test]
fn odd_names_and_odd_files() {
    let place = Place::new();
    let other = Tmpfs::mount(place.path("other"));
    let odd = OsString::from_vec(b"\xff\n;$(x) ..%".to_vec());
    let long = OsString::from_vec(vec![0xfe; 255]);
    let names = [odd.as_os_str(), long.as_os_str(), OsStr::new("-rf"), OsStr::new(".json")];
    for directory in [place.directory.path(), &other.0] {
        for name in names {
            let path = directory.join(name);
            fs::write(&path, b"").unwrap();
            assert_eq!(on(&mut place.responder(), Action::Quarantine, &path), SUCCESSFUL);
            let store = place.store();
            let entry = store.list().unwrap().pop().unwrap();
            assert_eq!(entry.path, path);
            store.restore(entry.id, &RestoreOptions::new()).unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"");
            assert_eq!(on(&mut place.responder(), Action::Delete, &path), SUCCESSFUL);
        }
    }
    // A sparse file stays sparse, and whole.
    let path = other.0.join("sparse");
    let mut file = File::create(&path).unwrap();
    file.seek(SeekFrom::Start(16 << 20)).unwrap();
    file.write_all(b"end").unwrap();
    assert_eq!(on(&mut place.responder(), Action::Quarantine, &path), SUCCESSFUL);
    let store = place.store();
    let entry = store.list().unwrap().pop().unwrap();
    assert_eq!(entry.size, (16 << 20) + 3);
    assert!(fs::metadata(place.path("store").join(&entry.entry)).unwrap().blocks() < 4096);
    store.restore(entry.id, &RestoreOptions::new()).unwrap();
    let mut file = File::open(&path).unwrap();
    file.seek(SeekFrom::End(-4)).unwrap();
    let mut end = Vec::new();
    file.read_to_end(&mut end).unwrap();
    assert_eq!(end, b"\0end");
}

#[test]
fn limits_are_kept() {
    let place = Place::new();
    let other = Tmpfs::mount(place.path("other"));
    let path = other.0.join("big");
    fs::write(&path, [1; 101]).unwrap();
    let store = place.store().max_files(1);
    let mut responder = FileResponder::builder().store(store).max_copy_bytes(100).build().unwrap();
    let (name, details) = on(&mut responder, Action::Quarantine, &path);
    assert_eq!(name, "not successful");
    assert!(details.ends_with("to the store: it has more than 100 bytes"), "{details}");
    assert!(path.exists());
    assert_eq!(fs::read_dir(place.path("store")).unwrap().count(), 0);
    // On the store's own file system nothing is copied.
    assert_eq!(on(&mut responder, Action::Quarantine, &place.file("big", &[1; 101])), SUCCESSFUL);
    let path = place.file("second", b"x");
    let (name, details) = on(&mut responder, Action::Quarantine, &path);
    assert_eq!((name, &*details), ("not successful", "the quarantine store is full: its limit is 1 files"));
    assert_eq!(responder.store().turned_away(), 1);
    assert!(path.exists());
    // What is not known cannot be verified.
    let store = place.store();
    let id = store.list().unwrap()[0].id;
    assert!(store.restore(id, &RestoreOptions::new()).is_err());
    store.restore(id, &RestoreOptions::new().accept_changed()).unwrap();
    assert_eq!(on(&mut responder, Action::Quarantine, &path), SUCCESSFUL);
}

#[test]
fn what_the_kernel_refuses_is_told() {
    let place = Place::new();
    let other = Tmpfs::mount(place.path("other"));
    let path = other.0.join("fixed");
    fs::write(&path, b"x").unwrap();
    other.set_readonly();
    for action in BOTH {
        let (name, details) = on(&mut place.responder(), action, &path);
        assert_eq!(name, "not successful");
        assert!(details.ends_with("read-only file system"), "{details}");
        assert!(path.exists());
    }
    assert_eq!(fs::read_dir(place.path("store")).unwrap().count(), 0);
}

#[test]
fn an_immutable_file_stays() {
    let place = Place::new();
    let path = place.file("fixed", b"x");
    // Not every file system knows the flag.
    if !std::process::Command::new("chattr").arg("+i").arg(&path).status().is_ok_and(|status| status.success()) {
        return not_offered("tmpfs-flags", "Linux 6.0, for files on tmpfs");
    }
    let said = BOTH.map(|action| on(&mut place.responder(), action, &path));
    run("chattr", &["-i".as_ref(), path.as_os_str()]);
    for (name, details) in said {
        assert_eq!(name, "not successful");
        assert!(details.ends_with("operation not permitted"), "{details}");
    }
    assert_eq!(fs::read(&path).unwrap(), b"x");
    assert_eq!(fs::read_dir(place.path("store")).unwrap().count(), 0);
}

#[test]
fn the_store_itself_is_not_taken() {
    let place = Place::new();
    assert_eq!(on(&mut place.responder(), Action::Quarantine, &place.file("evil", b"x")), SUCCESSFUL);
    let inside = place.path("store").join(&stored(&place)[0]);
    for action in BOTH {
        let (name, details) = on(&mut place.responder(), action, &inside);
        assert_eq!((name, &*details), ("refused", "quarantine-store: the file is in the quarantine store"));
    }
    assert!(inside.exists());
}

#[test]
fn a_cut_path_is_no_path() {
    let place = Place::new();
    let path = place.file("evil", b"x");
    let mut event = event(&path);
    event.mark_truncated(Field::FilePath);
    let (name, details) = said(&act(&mut place.responder(), Action::Delete, identity(&path), &event));
    assert_eq!((name, &*details), ("not successful", "the event does not tell the path of the file"));
    let unknown = Target::Unidentified;
    assert_eq!(said(&act(&mut place.responder(), Action::Delete, unknown, &event)).0, "not successful");
    assert!(path.exists());
}

#[test]
fn a_directory_that_others_can_use_is_no_store() {
    let place = Place::new();
    let refused = |path: &Path| FileResponder::builder().store(path).build().unwrap_err().to_string();
    fs::create_dir(place.path("wide")).unwrap();
    for mode in [0o777, 0o702, 0o750, 0o1777] {
        fs::set_permissions(place.path("wide"), PermissionsExt::from_mode(mode)).unwrap();
        assert!(refused(&place.path("wide")).ends_with("its mode lets others in"));
    }
    fs::set_permissions(place.path("wide"), PermissionsExt::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(place.path("wide"), Some(65534), None).unwrap();
    assert!(refused(&place.path("wide")).ends_with("it belongs to another user"));
    symlink(place.directory.path(), place.path("link")).unwrap();
    place.file("file", b"");
    for path in [place.path("link"), place.path("link/store"), place.path("file"), place.path("none/store")] {
        assert!(refused(&path).starts_with("cannot open the quarantine store"), "{path:?}");
    }
}

/// There stat(2) gives another device than the file system's own, which is that of events.
#[test]
fn the_device_of_an_overlay_is_the_file_systems() {
    let place = Place::new();
    let other = Tmpfs::mount(place.path("layers"));
    let upper = Tmpfs::mount(place.path("upper"));
    for path in [other.0.join("lower"), upper.0.join("up"), upper.0.join("work"), place.path("merged")] {
        fs::create_dir(path).unwrap();
    }
    fs::write(other.0.join("lower/evil"), b"evil").unwrap();
    let options = format!(
        "lowerdir={},upperdir={},workdir={},xino=off",
        other.0.join("lower").display(),
        upper.0.join("up").display(),
        upper.0.join("work").display()
    );
    let options = std::ffi::CString::new(options).unwrap();
    let merged = place.path("merged");
    rustix::mount::mount(c"overlay", &merged, c"overlay", rustix::mount::MountFlags::empty(), Some(&*options)).unwrap();
    let path = merged.join("evil");
    let device = fs::metadata(&merged).unwrap().dev();
    let file = fs::metadata(&path).unwrap();
    let target = Target::File { device, inode: file.ino() };
    let refused = Target::File { device: device + 1, inode: file.ino() };
    let said =
        [refused, target].map(|target| said(&act(&mut place.responder(), Action::Quarantine, target, &event(&path))));
    let exists = path.exists();
    rustix::mount::unmount(&merged, rustix::mount::UnmountFlags::DETACH).unwrap();
    assert_ne!(file.dev(), device);
    assert_eq!(said[0].0, "refused");
    assert_eq!(said[1], SUCCESSFUL);
    assert!(!exists);
}

//! A process that is ended after any step leaves each file whole, and in one place.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{Signal, getpid, kill_process};
use sls_core::{Event, EventKind, Field, Permission};
use uuid::Uuid;

use super::*;
use crate::file::steps::Steps;

/// Tells the child what to do: the directory, the scenario and the number of the step after which it ends.
const ORDER: &str = "SLS_TEST_INTERRUPTED";

const CONTENT: &[u8] = b"whole content";

/// More steps than any action has.
const MAX_STEPS: usize = 32;

struct Place {
    directory: tempfile::TempDir,
    mount: PathBuf,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("sls-crash-").tempdir().unwrap();
        let mount = directory.path().join("other");
        fs::create_dir(&mount).unwrap();
        rustix::mount::mount(c"tmpfs", &mount, c"tmpfs", MountFlags::empty(), None).unwrap();
        fs::create_dir(directory.path().join("same")).unwrap();
        Self { directory, mount }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.mount, UnmountFlags::DETACH);
    }
}

fn open(directory: &Path, steps: Steps) -> Arc<QuarantineStore> {
    Arc::new(QuarantineStore::open_unrecovered(&directory.join("store"), steps).unwrap())
}

fn ending_after(count: usize) -> Steps {
    let done = AtomicUsize::new(0);
    Steps {
        observer: Some(Arc::new(move |_| {
            if done.fetch_add(1, Ordering::SeqCst) == count {
                kill_process(getpid(), Signal::KILL).unwrap();
                std::thread::park();
            }
        })),
    }
}

fn act(store: Arc<QuarantineStore>, action: Action, path: &Path) -> ActionOutcome {
    use std::os::unix::ffi::OsStrExt;
    let metadata = fs::metadata(path).unwrap();
    let target = Target::File { device: metadata.dev(), inode: metadata.ino() };
    let mut event = Event::new(EventKind::File);
    event.set_text(Field::FilePath, path.as_os_str().as_bytes());
    let id = || Uuid::from_u128(77);
    let context = ActionContext::new(&event).alert_id(&id);
    let mut responder = FileResponder::builder().store(store).build().unwrap();
    responder.execute(&PlannedAction::new(action, target, Permission::Granted), &context).finish()
}

/// `same quarantine`: where the file is, and what is done.
fn carry_out(directory: &Path, scenario: &str, steps: Steps) {
    let (place, action) = scenario.split_once(' ').unwrap();
    let path = directory.join(place).join("evil");
    let store = open(directory, steps);
    match action {
        "quarantine" => assert_eq!(act(store, Action::Quarantine, &path).result, ActionResult::Successful),
        "delete" => assert_eq!(act(store, Action::Delete, &path).result, ActionResult::Successful),
        "restore" => {
            store.restore(Uuid::from_u128(77), &RestoreOptions::new()).unwrap();
        }
        _ => panic!("no scenario {scenario}"),
    }
}

/// The child of the other tests.
#[test]
#[ignore = "is run by others"]
fn child() {
    let order = std::env::var(ORDER).unwrap();
    let [directory, scenario, count] = order.split('\n').collect::<Vec<_>>().try_into().unwrap();
    carry_out(Path::new(directory), scenario, ending_after(count.parse().unwrap()));
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Interrupts the scenario after each of its steps, and gives how many there are.
fn interrupted_everywhere(scenario: &str) -> usize {
    for count in 0..MAX_STEPS {
        let place = Place::new();
        let directory = place.directory.path();
        let origin = directory.join(scenario.split(' ').next().unwrap());
        let path = origin.join("evil");
        fs::write(&path, CONTENT).unwrap();
        if scenario.ends_with("restore") {
            assert_eq!(act(open(directory, Steps::default()), Action::Quarantine, &path).result.name(), "successful");
        }
        let order = [directory.to_str().unwrap(), scenario, &count.to_string()].join("\n");
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "file::tests::child", "--ignored"]).env(ORDER, order);
        let output = child.output().unwrap();
        let killed = output.status.signal() == Some(Signal::KILL.as_raw());
        assert!(killed || output.status.success(), "{scenario} {count}: {output:?}");

        let store = QuarantineStore::open(directory.join("store")).unwrap();
        let at_origin = path.exists();
        assert_eq!(names(&origin), if at_origin { vec!["evil"] } else { vec![] }, "{scenario} {count}");
        if at_origin {
            assert_eq!(fs::read(&path).unwrap(), CONTENT);
            assert_ne!(fs::metadata(&path).unwrap().mode() & 0o777, 0o400, "{scenario} {count}");
            assert_eq!(names(store.path()), [""; 0], "{scenario} {count}");
        } else if scenario.ends_with("delete") {
            assert_eq!(names(store.path()), [""; 0], "{scenario} {count}");
        } else {
            let [entry] = &store.list().unwrap()[..] else { panic!("{scenario} {count}: not one entry") };
            assert_eq!((entry.state, &entry.path), (QuarantineState::Complete, &path));
            assert_eq!(names(store.path()), [entry.entry.clone(), format!("{}.json", entry.id)], "{scenario} {count}");
            assert_eq!(fs::read(store.path().join(&entry.entry)).unwrap(), CONTENT);
            assert_eq!(store.restore(entry.id, &RestoreOptions::new()).unwrap(), path);
            assert_eq!(fs::read(&path).unwrap(), CONTENT);
            assert_ne!(fs::metadata(&path).unwrap().mode() & 0o777, 0o400, "{scenario} {count}");
        }
        if !killed {
            return count;
        }
    }
    panic!("{scenario} has no end");
}

#[test]
fn an_interrupted_move_leaves_the_file_in_one_place() {
    assert_eq!(interrupted_everywhere("same quarantine"), 5);
}

#[test]
fn an_interrupted_copy_leaves_the_file_in_one_place() {
    assert_eq!(interrupted_everywhere("other quarantine"), 11);
}

#[test]
fn an_interrupted_deletion_leaves_the_file_or_nothing() {
    assert_eq!(interrupted_everywhere("same delete"), 4);
    assert_eq!(interrupted_everywhere("other delete"), 4);
}

#[test]
fn an_interrupted_restoration_leaves_the_file_in_one_place() {
    assert_eq!(interrupted_everywhere("same restore"), 3);
    assert_eq!(interrupted_everywhere("other restore"), 4);
}

#[test]
fn another_file_in_the_store_goes_back_where_it_was() {
    let place = Place::new();
    let directory = place.directory.path();
    let path = directory.join("same/evil");
    fs::write(&path, CONTENT).unwrap();
    let stat = rustix::fs::stat(&path).unwrap();
    let store = open(directory, Steps::default());
    let id = Uuid::from_u128(5);
    let entry = QuarantineEntry {
        inode: stat.st_ino + 1,
        ..QuarantineEntry::new(id, QuarantineState::Moving, path.to_str().unwrap().as_bytes(), &stat)
    };
    store.write_manifest(&entry, true).unwrap();
    fs::rename(&path, store.path().join(&entry.entry)).unwrap();
    assert_eq!(store.recover().unwrap(), 1);
    assert_eq!(fs::read(&path).unwrap(), CONTENT);
    assert_eq!(names(store.path()), [""; 0]);
}

#[test]
fn a_file_without_a_manifest_is_not_lost() {
    let place = Place::new();
    let store = open(place.directory.path(), Steps::default());
    let id = Uuid::from_u128(5);
    for manifest in [None, Some("")] {
        fs::write(store.path().join(format!("{id}-evil")), CONTENT).unwrap();
        if let Some(text) = manifest {
            fs::write(store.path().join(format!("{id}.json")), text).unwrap();
        }
        store.recover().unwrap();
        assert_eq!(store.get(id).unwrap().state, QuarantineState::Complete);
        assert!(store.restore(id, &RestoreOptions::new()).is_err());
        let to = place.directory.path().join("back");
        store.restore(id, &RestoreOptions::new().to(&to)).unwrap();
        assert_eq!(fs::read(&to).unwrap(), CONTENT);
        fs::remove_file(to).unwrap();
    }
}

#[test]
fn what_another_works_on_is_left_alone() {
    let place = Place::new();
    let directory = place.directory.path();
    let path = directory.join("same/evil");
    fs::write(&path, CONTENT).unwrap();
    let store = open(directory, Steps::default());
    let id = Uuid::from_u128(5);
    let lock = store.lock(id).unwrap();
    let stat = rustix::fs::stat(&path).unwrap();
    let entry = QuarantineEntry::new(id, QuarantineState::Moving, path.to_str().unwrap().as_bytes(), &stat);
    store.write_manifest(&entry, true).unwrap();
    let second = QuarantineStore::open(store.path()).unwrap();
    assert_eq!(second.get(id).unwrap(), entry);
    assert!(matches!(second.purge(id), Err(QuarantineError::Busy { .. })));
    lock.release(&store);
    assert_eq!(second.recover().unwrap(), 1);
    assert!(matches!(second.get(id), Err(QuarantineError::NotFound { .. })));
}

//! `sls quarantine` on a real store.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;
use sls_actions::FileResponder;
use sls_core::{
    Action, ActionContext, Event, EventKind, Field, Permission, PlannedAction, ProcessKey, Responder, Target, Uuid,
};

use support::{directory, sls, text};

/// Quarantines a new file, under an alert with this number.
fn quarantine(store: &Path, path: &Path, alert: u128) -> Uuid {
    use std::os::unix::ffi::OsStrExt;
    fs::write(path, b"evil").unwrap();
    let metadata = fs::metadata(path).unwrap();
    let mut event = Event::new(EventKind::File);
    event.process = ProcessKey { pid: std::process::id(), start: 1 };
    event.set_text(Field::FilePath, path.as_os_str().as_bytes());
    let id = Uuid::from_u128(alert);
    let alert_id = || id;
    let target = Target::File { device: metadata.dev(), inode: metadata.ino() };
    let planned = PlannedAction::new(Action::Quarantine, target, Permission::Granted);
    let context = ActionContext::new(&event).alert_id(&alert_id);
    let outcome = FileResponder::builder().store(store).build().unwrap().execute(&planned, &context).finish();
    assert_eq!(outcome.result.name(), "successful", "{outcome:?}");
    assert!(!path.exists());
    id
}

struct Store(tempfile::TempDir);

impl Store {
    fn path(&self) -> PathBuf {
        self.0.path().join("store")
    }

    fn run(&self, arguments: &[&str]) -> Output {
        sls(&["quarantine"]).args(arguments).arg("--store").arg(self.path()).output().unwrap()
    }

    /// Standard output of a run that ends with `status`; of one that fails, standard error.
    fn said(&self, status: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        text(if status == 0 { &output.stdout } else { &output.stderr }).to_owned()
    }
}

#[test]
fn files_are_listed_shown_restored_and_purged() {
    let store = Store(directory());
    let paths = ["evil", "odd\nname", "third"].map(|name| store.0.path().join(name));
    let ids: Vec<_> =
        (0..3).map(|n| quarantine(&store.path(), &paths[n], ((n as u128) << 124) + 1).to_string()).collect();

    let lines = store.said(0, &["list", "--format", "json"]);
    let listed: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(listed.iter().map(|entry| entry["id"].as_str().unwrap()).collect::<Vec<_>>(), ids);
    assert_eq!(listed[0]["path"], paths[0].to_str().unwrap());
    assert_eq!((&listed[0]["state"], &listed[0]["size"]), (&"complete".into(), &4.into()));
    let human = store.said(0, &["list", "--format", "human"]);
    assert_eq!(human.lines().count(), 3, "{human}");

    // The beginning of an id, if only one begins so.
    let shown: Value = serde_json::from_str(&store.said(0, &["show", &ids[1][..1], "--format", "json"])).unwrap();
    assert_eq!(shown["id"], ids[1]);
    assert!(store.said(0, &["show", &ids[0], "--format", "human"]).contains("sha256    b5c1fb2e"), "sha256 of evil");
    assert!(store.said(1, &["show", ""]).contains("3 ids begin with"));
    assert!(store.said(1, &["show", "f"]).contains("no entry f in the quarantine store"));

    assert_eq!(store.said(0, &["restore", &ids[0], "--format", "human"]), format!("restored {}\n", paths[0].display()));
    assert_eq!(fs::read(&paths[0]).unwrap(), b"evil");
    let to = store.0.path().join("back");
    fs::write(&to, b"here first").unwrap();
    let refused = store.said(1, &["restore", &ids[1], "--to", to.to_str().unwrap()]);
    assert_eq!(refused, format!("sls: unable to open original path {}: file exists\n", to.display()));
    fs::remove_file(&to).unwrap();
    store.said(0, &["restore", &ids[1], "--to", to.to_str().unwrap()]);
    assert_eq!(fs::read(&to).unwrap(), b"evil");

    assert_eq!(store.said(0, &["purge", "--older-than", "30d", "--format", "human"]), "purged 0 files\n");
    assert!(store.said(2, &["purge"]).contains("required"));
    assert!(store.said(1, &["purge", "f", "2"]).contains("no entry f"));
    assert_eq!(store.said(0, &["list"]), "");
    quarantine(&store.path(), &paths[0], 9);
    assert_eq!(store.said(0, &["purge", "--all", "--format", "human"]), "purged 1 file\n");
    assert_eq!(fs::read_dir(store.path()).unwrap().count(), 0);
}

#[test]
fn a_store_that_others_can_use_is_refused() {
    let store = Store(directory());
    fs::create_dir(store.path()).unwrap();
    fs::set_permissions(store.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let said = store.said(2, &["list"]);
    assert!(said.contains("is not safe: its mode lets others in"), "{said}");
}

#[test]
fn the_configuration_names_the_store() {
    let store = Store(directory());
    let id = quarantine(&store.path(), &store.0.path().join("evil"), 7);
    let config = store.0.path().join("sls.yaml");
    fs::write(&config, "quarantineDirectory: store\n").unwrap();
    let output = sls(&["quarantine", "list", "--config"]).arg(&config).output().unwrap();
    assert!(text(&output.stdout).contains(&id.to_string()), "{output:?}");
}

//! The manifest of a quarantined file, and what opening the store makes of one that is half done. An input is a manifest,
//! and after a line `===` the content of the file in the store, if there is one.

#![no_main]

#[path = "common/sandbox.rs"]
mod sandbox;

use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use sls_actions::{QuarantineEntry, QuarantineState, QuarantineStore};
use uuid::Uuid;

/// The entry of the seeds.
const ID: Uuid = Uuid::from_u128(0x018f_5d3c_7a10_7000_8000_0000_0000_0001);
const ORIGINAL: &[u8] = b"original";

struct Sandbox {
    host: PathBuf,
    store: QuarantineStore,
}

static SANDBOX: LazyLock<Sandbox> = LazyLock::new(|| {
    let directory = sandbox::directory("quarantine");
    let store = QuarantineStore::open(directory.join("store")).expect("an empty store opens");
    Sandbox { host: directory.join("host"), store }
});

fuzz_target!(|input: &[u8]| {
    let Sandbox { host, store } = &*SANDBOX;
    let [manifest, content] = sandbox::sections(input);
    empty(store.path());
    let _ = fs::remove_dir_all(host);
    write(&host.join("tmp/file"), ORIGINAL);
    write(&store.path().join(format!("{ID}.json")), manifest);

    let entry = match store.get(ID) {
        Ok(entry) => entry,
        Err(error) => {
            assert!(error.to_string().len() < 1024, "{} bytes of text", error.to_string().len());
            assert!(store.list().is_ok_and(|entries| entries.is_empty()));
            return;
        }
    };
    assert_eq!(entry.id, ID);
    assert!(!entry.entry.contains('/') && entry.entry.starts_with(&ID.to_string()));
    let listed = store.list().expect("the store can be read");
    assert_eq!(listed.is_empty(), entry.state == QuarantineState::Deleting);

    // What it says is done is done to files: from here on only to those of the sandbox.
    let Some(confined) = confined(&entry, host) else { return };
    let again: QuarantineEntry = serde_json::from_value(confined.clone()).expect("what was written reads");
    assert_eq!(serde_json::to_value(&again).expect("an entry is serializable"), confined);
    write(&store.path().join(format!("{ID}.json")), confined.to_string().as_bytes());
    if !content.is_empty() && !entry.entry.contains('\0') && entry.entry.len() < 256 {
        write(&store.path().join(&entry.entry), content);
    }
    if store.recover().is_ok() {
        assert_eq!(store.recover().ok(), Some(0), "what was put in order is in order");
    }
    for entry in store.list().expect("the store can be read") {
        let left = matches!(entry.state, QuarantineState::Complete | QuarantineState::Removing);
        assert!(left || entry.id == ID, "{:?}", entry.state);
        let _ = store.purge(entry.id);
    }
});

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("a file is in a directory")).expect("a directory of the sandbox");
    fs::write(path, bytes).expect("a file of the sandbox");
}

fn empty(directory: &Path) {
    for file in fs::read_dir(directory).expect("the store can be read").flatten() {
        fs::remove_file(file.path()).expect("what is in the store is ours");
    }
}

/// The entry with every path below `host`. None if a path leads out of where it is, or holds what no path can.
fn confined(entry: &QuarantineEntry, host: &Path) -> Option<Value> {
    let mut value = serde_json::to_value(entry).expect("an entry is serializable");
    if entry.path.components().any(|component| component == Component::ParentDir) {
        return None;
    }
    for key in ["path", "target"] {
        let Some(Value::String(path)) = value.get_mut(key) else { continue };
        let leads_out = path.contains("..") || path.to_ascii_lowercase().contains("%2e");
        if leads_out {
            return None;
        }
        path.insert(0, '/');
        path.insert_str(0, host.to_str().expect("the sandbox has a plain name"));
        // As an entry writes it.
        *path = path.replace("//", "/");
    }
    Some(value)
}

//! Names of users and groups, from the host's own files.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sls_core::{Event, Field};

/// A database larger than this is not read: its names are unknown.
pub const MAX_ACCOUNT_FILE_BYTES: u64 = 16 * 1024 * 1024;

/// The most entries that are kept of one database; the names of later ones are unknown.
pub const MAX_ACCOUNTS: usize = 65_536;

/// How often the files are looked at for changes.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The names behind user and group ids. Only `/etc/passwd` and `/etc/group` are read: a name service that asks the
/// network could hang the sensor, and loads foreign code into it.
#[derive(Debug)]
pub struct Accounts {
    users: Database,
    groups: Database,
    checked: Option<Instant>,
}

impl Accounts {
    /// The accounts of this host.
    #[must_use]
    pub fn host() -> Self {
        Self::from_files("/etc/passwd", "/etc/group")
    }

    /// Accounts from files in the form of passwd(5) and group(5).
    #[must_use]
    pub fn from_files(passwd: impl Into<PathBuf>, group: impl Into<PathBuf>) -> Self {
        let (users, groups) = (Database::new(passwd.into()), Database::new(group.into()));
        let mut accounts = Self { users, groups, checked: None };
        accounts.refresh();
        accounts
    }

    /// Reads what changed, if the last look is a second or more ago.
    pub fn refresh(&mut self) {
        let now = Instant::now();
        if self.checked.is_some_and(|at| now.saturating_duration_since(at) < CHECK_INTERVAL) {
            return;
        }
        self.checked = Some(now);
        self.users.refresh();
        self.groups.refresh();
    }

    /// How many entries of both files have no room here, by the last look ([`MAX_ACCOUNTS`] for each).
    #[must_use]
    pub fn omitted(&self) -> u64 {
        self.users.omitted + self.groups.omitted
    }

    /// The name of a user.
    #[must_use]
    pub fn user(&self, uid: u32) -> Option<&[u8]> {
        self.users.name(uid)
    }

    /// The name of a group.
    #[must_use]
    pub fn group(&self, gid: u32) -> Option<&[u8]> {
        self.groups.name(gid)
    }

    /// Sets `userName` and `groupName` from `uid` and `gid`. An id without a name leaves its field without a value; it
    /// is marked unknown only if the database could not be read.
    pub fn fill(&self, event: &mut Event) {
        let pairs = [(Field::Uid, Field::UserName, &self.users), (Field::Gid, Field::GroupName, &self.groups)];
        for (id, name, database) in pairs {
            let Some(id) = event.number(id).and_then(|id| u32::try_from(id).ok()) else { continue };
            if let Some(found) = database.name(id) {
                event.set_text(name, found);
            } else if !database.complete {
                event.mark_unknown(name);
            }
        }
    }
}

/// What tells one state of a file from another.
type Version = (u64, u64, u64, i64, i64, i64, i64);

#[derive(Debug)]
struct Database {
    path: PathBuf,
    version: Option<Version>,
    names: HashMap<u32, Box<[u8]>>,
    /// Whether every name of the file is in `names`.
    complete: bool,
    /// Entries of the file that had no room there.
    omitted: u64,
}

impl Database {
    fn new(path: PathBuf) -> Self {
        Self { path, version: None, names: HashMap::new(), complete: false, omitted: 0 }
    }

    fn name(&self, id: u32) -> Option<&[u8]> {
        self.names.get(&id).map(|name| &**name)
    }

    fn refresh(&mut self) {
        let version = fs::metadata(&self.path).ok().map(|meta| {
            (meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec())
        });
        if version.is_some() && version == self.version {
            return;
        }
        self.version = version;
        self.complete = false;
        self.omitted = 0;
        let Some(text) = read(&self.path) else {
            self.names.clear();
            return;
        };
        self.names.clear();
        self.complete = true;
        for (id, name) in text.split(|byte| *byte == b'\n').filter_map(parse) {
            if self.names.len() == MAX_ACCOUNTS {
                self.complete = false;
                self.omitted += 1;
                continue;
            }
            // The first entry of an id is the one that getpwuid(3) gives.
            self.names.entry(id).or_insert_with(|| name.into());
        }
    }
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path).ok()?.take(MAX_ACCOUNT_FILE_BYTES + 1).read_to_end(&mut text).ok()?;
    (text.len() as u64 <= MAX_ACCOUNT_FILE_BYTES).then_some(text)
}

/// `name:password:id:…`. Both files begin so.
fn parse(line: &[u8]) -> Option<(u32, &[u8])> {
    let mut columns = line.split(|byte| *byte == b':');
    let name = columns.next().filter(|name| !name.is_empty() && !matches!(name[0], b'#' | b'+' | b'-'))?;
    let id = columns.nth(1)?;
    Some((std::str::from_utf8(id).ok()?.parse().ok()?, name))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use sls_core::{EventKind, Value};

    use super::*;

    #[test]
    fn names_follow_the_files() {
        let dir = tempfile::tempdir().unwrap();
        let (passwd, group) = (dir.path().join("passwd"), dir.path().join("group"));
        fs::write(&passwd, "# comment\nroot:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/:/bin/sh\n\nbad:x:nine\n+::::::\n")
            .unwrap();
        let mut accounts = Accounts::from_files(&passwd, &group);
        assert_eq!(accounts.user(0), Some(&b"root"[..]));

        let mut event = Event::new(EventKind::Exec);
        event.set_number(Field::Uid, 0).set_number(Field::Gid, 0);
        accounts.fill(&mut event);
        assert_eq!(event.text(Field::UserName), b"root");
        assert_eq!(event.value(Field::GroupName), Value::Unknown);

        fs::write(&group, "staff:x:50:\n").unwrap();
        File::options().append(true).open(&passwd).unwrap().write_all(b"m\xffller:x:7:\n").unwrap();
        accounts.refresh();
        assert_eq!(accounts.user(7), None, "looked at the files again within a second");
        accounts.checked = None;
        accounts.refresh();
        assert_eq!(accounts.user(7), Some(&b"m\xffller"[..]));
        event.reset(EventKind::Exec);
        event.set_number(Field::Uid, 12345).set_number(Field::Gid, 50);
        accounts.fill(&mut event);
        assert_eq!(event.value(Field::UserName), Value::Absent);
        assert_eq!(event.text(Field::GroupName), b"staff");
    }

    #[test]
    fn what_does_not_fit_is_unknown() {
        let dir = tempfile::tempdir().unwrap();
        let passwd = dir.path().join("passwd");
        let mut text = String::new();
        for id in 0..=MAX_ACCOUNTS {
            text.push_str(&format!("u{id}:x:{id}:\n"));
        }
        fs::write(&passwd, text).unwrap();
        let accounts = Accounts::from_files(&passwd, dir.path().join("group"));
        assert_eq!(accounts.omitted(), 1);
        let mut event = Event::new(EventKind::Exec);
        event.set_number(Field::Uid, MAX_ACCOUNTS as u64);
        accounts.fill(&mut event);
        assert_eq!(event.value(Field::UserName), Value::Unknown);
    }

    #[test]
    fn the_host_has_root() {
        assert_eq!(Accounts::host().user(0), Some(&b"root"[..]));
        assert_eq!(Accounts::host().group(0), Some(&b"root"[..]));
    }
}

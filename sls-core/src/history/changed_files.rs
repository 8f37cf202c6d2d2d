//! Which files were created or modified lately.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use lru::LruCache;

use super::{hash, within};
use crate::event::{Event, EventKind, Value};
use crate::schema::Field;

/// Operations after which a file's content, or the name of a file with new content, is another.
pub(crate) const CHANGES: &[&str] = &["CREATE", "OPEN_WRITE", WRITE, "TRUNCATE", "RENAME", "LINK"];

const WRITE: &str = "WRITE";

/// The most that is forgotten with one event.
const FORGOTTEN_AT_ONCE: usize = 8;

/// Changed files by identity and by path, the latest change last. Both, for a source may not know the one, and a script
/// has only the other.
#[derive(Debug)]
pub(super) struct ChangedFiles {
    times: LruCache<u64, u64>,
    limit: usize,
    /// The limit while memory is not short.
    full_limit: usize,
    /// The time of the last change.
    now: u64,
    /// None if nobody asks.
    longest: Option<Duration>,
}

impl ChangedFiles {
    pub(super) fn new(limit: usize) -> Self {
        Self { times: LruCache::unbounded(), limit, full_limit: limit, now: 0, longest: None }
    }

    /// How long a change matters; none if no policy asks, which forgets all.
    pub(super) fn remember_for(&mut self, longest: Option<Duration>) {
        self.longest = longest;
        if longest.is_none() {
            self.times.clear();
        }
    }

    /// Sets `fileAge` of the execution of a file that was seen to change, and which file that is. Without a name and
    /// without an identity of the program its age is unknown.
    pub(super) fn enrich(&self, event: &mut Event, hasher: &RandomState) {
        if event.kind != EventKind::Exec || self.longest.is_none() || event.value(Field::FileAge) != Value::Absent {
            return;
        }
        let by_inode = inode(event, hasher, Field::ProgramDevice, Field::ProgramInode);
        let by_path = path(event, hasher, Field::ProgramName);
        let program = by_inode.and_then(|key| self.times.peek(&key)).or_else(|| self.times.peek(&by_path?));
        let script = path(event, hasher, Field::ScriptName).and_then(|key| self.times.peek(&key));
        let Some(time) = program.max(script).copied() else {
            if by_inode.is_none() && by_path.is_none() {
                event.mark_unknown(Field::FileAge);
            }
            return;
        };
        let executed = if script > program { Field::ScriptName } else { Field::ProgramName };
        event.set_number(Field::FileAge, event.time.saturating_sub(time) / 1_000_000_000);
        if event.value(Field::FilePath) == Value::Absent {
            event.copy_text(executed, Field::FilePath);
        }
        if executed == Field::ProgramName && event.value(Field::FileInode) == Value::Absent {
            for (from, to) in [(Field::ProgramInode, Field::FileInode), (Field::ProgramDevice, Field::FileDevice)] {
                if let Some(number) = event.number(from) {
                    event.set_number(to, number);
                }
            }
        }
    }

    /// Remembers a change, and says how many others were forgotten for it that still mattered.
    pub(super) fn observe(&mut self, event: &Event, hasher: &RandomState) -> u64 {
        let Some(longest) = self.longest.filter(|_| event.kind == EventKind::File) else { return 0 };
        let operation = match event.value(Field::FileOperation) {
            Value::Text { bytes, .. } => bytes,
            // Better one file too many.
            Value::Unknown => WRITE.as_bytes(),
            _ => return 0,
        };
        if !CHANGES.iter().any(|change| change.as_bytes() == operation) {
            return 0;
        }
        let by_path = path(event, hasher, Field::FilePath);
        let by_new_path = path(event, hasher, Field::NewFilePath);
        if matches!(operation, b"RENAME" | b"LINK") {
            // A new name makes no new content: it is as new as under the old name.
            if let (Some(time), Some(new)) = (by_path.and_then(|key| self.times.peek(&key)).copied(), by_new_path) {
                self.times.push(new, time);
            }
        } else {
            for key in [inode(event, hasher, Field::FileDevice, Field::FileInode), by_path].into_iter().flatten() {
                self.times.push(key, event.time);
            }
        }
        self.now = event.time;
        self.make_room(longest)
    }

    /// Remembers a quarter, if `few`.
    pub(super) fn keep_few(&mut self, few: bool) {
        self.limit = if few { self.full_limit / 4 } else { self.full_limit };
    }

    /// Forgets at most `steps` that are too much: how many of them still mattered, and whether there are more.
    pub(super) fn shrink(&mut self, steps: usize) -> (u64, bool) {
        let longest = self.longest.unwrap_or_default();
        let surplus = self.times.len().saturating_sub(self.limit);
        let gone = (0..surplus.min(steps)).map_while(|_| self.times.pop_lru());
        let forgotten = gone.filter(|(_, time)| within(*time, self.now, longest)).count();
        (forgotten as u64, surplus > steps)
    }

    /// An event brings at most two; so this keeps up, also with a limit that was lowered, and never takes long.
    fn make_room(&mut self, longest: Duration) -> u64 {
        let mut forgotten = 0;
        for _ in 0..FORGOTTEN_AT_ONCE {
            let Some((_, time)) = self.times.peek_lru() else { break };
            let matters = within(*time, self.now, longest);
            if matters && self.times.len() <= self.limit {
                break;
            }
            self.times.pop_lru();
            forgotten += u64::from(matters);
        }
        forgotten
    }
}

/// The identity that links and renames keep.
fn inode(event: &Event, hasher: &RandomState, device: Field, inode: Field) -> Option<u64> {
    Some(hasher.hash_one((event.number(device)?, event.number(inode)?)))
}

/// A whole path.
fn path(event: &Event, hasher: &RandomState, field: Field) -> Option<u64> {
    match event.value(field) {
        Value::Text { bytes, truncated: false } if !bytes.is_empty() => Some(hash(hasher, event, field)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    struct Files(ChangedFiles, RandomState);

    impl Files {
        fn new(limit: usize) -> Self {
            let mut files = ChangedFiles::new(limit);
            files.remember_for(Some(Duration::from_secs(60)));
            Self(files, RandomState::new())
        }

        fn change(&mut self, operation: &str, path: &str, time: u64, prepare: impl Fn(&mut Event)) -> u64 {
            let mut event = Event::new(EventKind::File);
            event.time = time * SECOND;
            event.set_text(Field::FileOperation, operation.as_bytes()).set_text(Field::FilePath, path.as_bytes());
            prepare(&mut event);
            self.0.observe(&event, &self.1)
        }

        fn execute(&self, program: &str, time: u64, prepare: impl Fn(&mut Event)) -> Event {
            let mut event = Event::new(EventKind::Exec);
            event.time = time * SECOND;
            event.set_text(Field::ProgramName, program.as_bytes());
            prepare(&mut event);
            self.0.enrich(&mut event, &self.1);
            event
        }
    }

    fn identity(device: Field, inode: Field) -> impl Fn(&mut Event) {
        move |event| {
            event.set_number(device, 8).set_number(inode, 77);
        }
    }

    #[test]
    fn what_was_written_is_new() {
        let mut files = Files::new(8);
        files.change("CREATE", "/tmp/x", 100, |_| ());
        let event = files.execute("/tmp/x", 103, |_| ());
        assert_eq!(event.number(Field::FileAge), Some(3));
        assert_eq!(event.text(Field::FilePath), b"/tmp/x");
        assert_eq!(files.execute("/tmp/y", 103, |_| ()).value(Field::FileAge), Value::Absent);
        files.change("CHMOD", "/tmp/y", 103, |_| ());
        assert_eq!(files.execute("/tmp/y", 103, |_| ()).value(Field::FileAge), Value::Absent);
    }

    #[test]
    fn renames_and_links_do_not_shed_it() {
        let mut files = Files::new(8);
        files.change("CREATE", "/tmp/x", 100, identity(Field::FileDevice, Field::FileInode));
        let event = files.execute("/usr/bin/x", 110, identity(Field::ProgramDevice, Field::ProgramInode));
        assert_eq!((event.number(Field::FileAge), event.number(Field::FileInode)), (Some(10), Some(77)));
        files.change("CREATE", "/tmp/y", 100, |_| ());
        files.change("RENAME", "/tmp/y", 120, |event| {
            event.set_text(Field::NewFilePath, b"/opt/y");
        });
        assert_eq!(files.execute("/opt/y", 130, |_| ()).number(Field::FileAge), Some(30));
        // An old file under a new name is old.
        files.change("RENAME", "/usr/bin/old", 120, |event| {
            event.set_text(Field::NewFilePath, b"/opt/old");
        });
        assert_eq!(files.execute("/opt/old", 130, |_| ()).value(Field::FileAge), Value::Absent);
    }

    #[test]
    fn scripts_count() {
        let mut files = Files::new(8);
        files.change("OPEN_WRITE", "/tmp/x.sh", 100, |_| ());
        let event = files.execute("/bin/sh", 101, |event| {
            event.set_text(Field::ScriptName, b"/tmp/x.sh");
        });
        assert_eq!(event.number(Field::FileAge), Some(1));
        assert_eq!(event.text(Field::FilePath), b"/tmp/x.sh");
    }

    #[test]
    fn a_program_without_name_and_identity_is_in_doubt() {
        let files = Files::new(8);
        let event = files.execute("", 1, |event| {
            event.mark_unknown(Field::ProgramName);
        });
        assert_eq!(event.value(Field::FileAge), Value::Unknown);
    }

    #[test]
    fn the_memory_is_bounded_and_expires() {
        let mut files = Files::new(4);
        for file in 0..4 {
            assert_eq!(files.change("CREATE", &format!("/{file}"), 100, |_| ()), 0);
        }
        assert_eq!(files.change("CREATE", "/4", 100, |_| ()), 1);
        assert_eq!(files.execute("/0", 100, |_| ()).value(Field::FileAge), Value::Absent);
        // What is too old to matter is no loss.
        assert_eq!(files.change("CREATE", "/5", 200, |_| ()), 0);
        assert_eq!(files.0.times.len(), 1);
    }
}

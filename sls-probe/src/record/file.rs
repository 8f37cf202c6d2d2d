//! What records say about files.

use sls_core::{Event, Field};

use super::path;
use super::{Body, Header, RecordError, flag};

/// In the order of `enum file_operation` in `bpf/file.h`.
pub(crate) const OPERATIONS: [&str; 12] = [
    "CREATE",
    "OPEN_WRITE",
    "OPEN_READ",
    "WRITE",
    "RENAME",
    "LINK",
    "SYMLINK",
    "UNLINK",
    "TRUNCATE",
    "CHMOD",
    "CHOWN",
    "SETXATTR",
];

/// `enum file_bit`.
const ATTRIBUTES: u32 = 1 << 0;
const SECOND: u32 = 1 << 1;
const PASSED: u32 = 1 << 2;
const PASSED2: u32 = 1 << 3;
const FOLLOW: u32 = 1 << 4;
const MODE_ASKED_FOR: u32 = 1 << 5;

/// Permission bits, set-id and sticky bits included.
const MODE: u32 = 0o7777;

const OWNED: [Field; 3] = [Field::FileMode, Field::FileUid, Field::FileGid];
const IDENTITY: [Field; 2] = [Field::FileInode, Field::FileDevice];

/// `struct file_detail`.
struct Detail {
    operation: u32,
    bits: u32,
    mode: u32,
    uid: u32,
    gid: u32,
}

impl Detail {
    fn read(bytes: &[u8]) -> Option<Self> {
        let (numbers, _) = bytes.as_chunks::<4>();
        let [operation, bits, mode, uid, gid, ..] = *numbers else { return None };
        let [operation, bits, mode, uid, gid] = [operation, bits, mode, uid, gid].map(u32::from_le_bytes);
        Some(Self { operation, bits, mode, uid, gid })
    }

    fn has(&self, bit: u32) -> bool {
        self.bits & bit != 0
    }
}

/// A name as it was passed to a system call, and the directory that it starts from: components from leaf to root, each
/// with a NUL. For a name that begins with `/`, that is the root of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Passed<'r> {
    pub(crate) field: Field,
    pub(crate) directory: &'r [u8],
    pub(crate) name: &'r [u8],
    /// The call acted upon what the name links to.
    pub(crate) follow: bool,
}

pub(super) fn file(header: &Header, body: &Body<'_>, event: &mut Event) {
    let Some(detail) = Detail::read(body.detail) else {
        event.mark_unknown(Field::FileOperation).mark_unknown(Field::FilePath);
        return;
    };
    match OPERATIONS.get(detail.operation as usize) {
        Some(name) => event.set_text(Field::FileOperation, name.as_bytes()),
        None => event.mark_unknown(Field::FileOperation),
    };
    if detail.has(ATTRIBUTES) {
        event.set_number(Field::FileMode, (detail.mode & MODE).into());
        event.set_number(Field::FileUid, detail.uid.into()).set_number(Field::FileGid, detail.gid.into());
    } else {
        for field in OWNED {
            event.mark_unknown(field);
        }
        if detail.has(MODE_ASKED_FOR) {
            event.set_number(Field::FileMode, (detail.mode & MODE).into());
        }
    }
    if header.has(flag::FILE) {
        event.set_number(Field::FileInode, header.inode);
        event.set_number(Field::FileDevice, path::st_dev(header.device));
    } else {
        for field in IDENTITY {
            event.mark_unknown(field);
        }
    }
    let first = Slot { field: Field::FilePath, path: body.path, name: body.name, passed: detail.has(PASSED) };
    first.set(header, [flag::PATH_UNKNOWN, flag::PATH_CUT, flag::NAME_UNKNOWN], event);
    if detail.has(SECOND) {
        let second = Slot { field: Field::NewFilePath, path: body.path2, name: body.text, passed: detail.has(PASSED2) };
        second.set(header, [flag::PATH2_UNKNOWN, flag::PATH2_CUT, flag::TEXT_UNKNOWN], event);
    }
}

/// The names in a record that the kernel did not resolve.
pub(crate) fn passed_names(record: &[u8]) -> Result<[Option<Passed<'_>>; 2], RecordError> {
    let (header, body) = Header::split(record)?;
    let bits = Detail::read(body.detail).map_or(0, |detail| detail.bits);
    let passed = |bit, lacks: u16, field, directory, name| {
        let follow = bit == PASSED && bits & FOLLOW != 0;
        (bits & bit != 0 && !header.has(lacks)).then_some(Passed { field, directory, name, follow })
    };
    let first = flag::PATH_UNKNOWN | flag::PATH_CUT | flag::NAME_UNKNOWN;
    let second = flag::PATH2_UNKNOWN | flag::PATH2_CUT | flag::TEXT_UNKNOWN;
    Ok([
        passed(PASSED, first, Field::FilePath, body.path, body.name),
        passed(PASSED2, second, Field::NewFilePath, body.path2, body.text),
    ])
}

/// One of the two names of a record.
struct Slot<'r> {
    field: Field,
    path: &'r [u8],
    name: &'r [u8],
    passed: bool,
}

impl Slot<'_> {
    fn set(&self, header: &Header, [unknown, cut, nameless]: [u16; 3], event: &mut Event) {
        if header.has(unknown) || self.passed && header.has(nameless) {
            event.mark_unknown(self.field);
        } else if self.passed {
            path::set_passed(self.field, self.name, self.path, header.has(cut), event);
        } else {
            path::set(self.field, self.path, header.has(cut), event);
        }
        if self.passed {
            event.mark_untrusted(self.field);
        }
    }
}

#[cfg(test)]
mod tests {
    use sls_core::{EventKind, Value};

    use super::super::{decode, tests};
    use super::*;

    fn record(flags: u16, numbers: [u32; 6], strings: [&[u8]; 5]) -> Vec<u8> {
        let detail: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        tests::detailed(4, flags, &detail, strings)
    }

    fn decoded(flags: u16, numbers: [u32; 6], strings: [&[u8]; 5]) -> Event {
        let mut event = Event::new(EventKind::Exec);
        decode(&record(flags, numbers, strings), &mut event).unwrap();
        event
    }

    #[test]
    fn every_value_is_read() {
        let numbers = [4, ATTRIBUTES | SECOND, 0o104_755, 7, 8, 0];
        let event = decoded(flag::FILE, numbers, [b"old\0tmp\0", b"new\0etc\0", b"", b"", b""]);
        assert_eq!(event.text(Field::FileOperation), b"RENAME");
        assert_eq!(
            [Field::FilePath, Field::NewFilePath].map(|field| event.text(field)),
            [&b"/tmp/old"[..], b"/etc/new"]
        );
        assert_eq!(OWNED.map(|field| event.number(field)), [Some(0o4755), Some(7), Some(8)]);
        assert_eq!(IDENTITY.map(|field| event.number(field)), [Some(60), Some(0x10_0823)]);
        assert!(event.untrusted().is_empty() && event.unknown().is_empty());
    }

    #[test]
    fn operations_are_those_of_the_schema() {
        for (number, name) in (0..).zip(OPERATIONS) {
            let event = decoded(0, [number, 0, 0, 0, 0, 0], [b"a\0", b"", b"", b"", b""]);
            assert_eq!(event.text(Field::FileOperation), name.as_bytes());
        }
        assert_eq!(decoded(0, [31, 0, 0, 0, 0, 0], [b""; 5]).value(Field::FileOperation), Value::Unknown);
    }

    #[test]
    fn passed_names_start_from_their_directory() {
        let name = |directory: &[u8], name: &[u8]| {
            let event = decoded(0, [7, PASSED, 0, 0, 0, 0], [directory, b"", name, b"", b""]);
            assert!(event.untrusted().contains(Field::FilePath));
            event.text(Field::FilePath).to_vec()
        };
        assert_eq!(name(b"b\0a\0", b"x"), b"/a/b/x");
        assert_eq!(name(b"b\0a\0", b"../x"), b"/a/x");
        assert_eq!(name(b"", b"/etc//x"), b"/etc/x");
        // In another root, which `..` does not leave.
        assert_eq!(name(b"jail\0", b"/../x"), b"/jail/x");
    }

    #[test]
    fn what_is_missing_is_marked() {
        let flags = flag::NAME_UNKNOWN | flag::PATH2_UNKNOWN;
        let event = decoded(flags, [4, PASSED | PASSED2 | SECOND, 0, 0, 0, 0], [b"", b"", b"", b"x", b""]);
        for field in [Field::FilePath, Field::NewFilePath].into_iter().chain(OWNED).chain(IDENTITY) {
            assert_eq!(event.value(field), Value::Unknown, "{field}");
        }
        let event = decoded(flag::PATH_CUT, [7, 0, 0, 0, 0, 0], [b"b\0", b"", b"", b"", b""]);
        assert_eq!(event.value(Field::FilePath), Value::Text { bytes: b"/b", truncated: true });
        assert_eq!(event.value(Field::NewFilePath), Value::Absent);
        let mut event = Event::new(EventKind::Exec);
        decode(&tests::detailed(4, 0, b"short", [b""; 5]), &mut event).unwrap();
        assert_eq!(event.value(Field::FileOperation), Value::Unknown);
    }

    #[test]
    fn passed_names_are_found_again() {
        let bytes = record(0, [4, PASSED2 | SECOND, 0, 0, 0, 0], [b"o\0", b"d\0", b"", b"n", b""]);
        let second = Passed { field: Field::NewFilePath, directory: b"d\0", name: b"n", follow: false };
        assert_eq!(passed_names(&bytes), Ok([None, Some(second)]));
    }
}

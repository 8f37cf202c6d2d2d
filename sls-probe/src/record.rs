//! Turns a record of `bpf/record.h` into an event.

use sls_core::{Event, EventKind, Field, ProcessKey};
use thiserror::Error;

/// The layout that this decoder reads.
const VERSION: u8 = 5;

/// The kinds of records, in the order of `enum record_kind`.
pub(crate) const KINDS: [EventKind; 15] = [
    EventKind::Exec,
    EventKind::Fork,
    EventKind::Exit,
    EventKind::Baseline,
    EventKind::File,
    EventKind::Connect,
    EventKind::Accept,
    EventKind::Listen,
    EventKind::Ptrace,
    EventKind::Memory,
    EventKind::Credentials,
    EventKind::Module,
    EventKind::Userfaultfd,
    EventKind::Security,
    EventKind::Probe,
];

/// The number of records about cgroups, which are no events: one more than those of [`KINDS`].
pub(crate) const CGROUP: u8 = KINDS.len() as u8;

/// The number of records of operations that were refused. Each is an event of the kind that it would have been.
const REFUSED: u8 = CGROUP + 1;

/// Where a record has its kind.
const KIND_AT: usize = 4;

/// The number of records of executions.
const EXEC: u8 = 0;

/// Bytes of the fixed part of a record.
pub(crate) const HEADER_BYTES: usize = 152;

/// `comm` with its NUL.
const COMM_BYTES: usize = 16;

/// The audit login uid of a process that never logged in.
const LOGIN_UID_UNSET: u32 = u32::MAX;

mod cgroup;
pub(crate) mod crash;
mod credentials;
mod file;
mod memory;
mod module;
mod network;
mod path;
mod process;
mod ptrace;
mod refused;
mod security;

pub(crate) use cgroup::CgroupRecord;
pub(crate) use file::{OPERATIONS as FILE_OPERATIONS, Passed, passed_names};
pub(crate) use memory::REGIONS;
pub(crate) use network::PROTOCOLS;
pub(crate) use path::path_of;
pub(crate) use process::arguments;

mod flag {
    pub(super) const PATH_CUT: u16 = 1 << 0;
    pub(super) const PATH2_CUT: u16 = 1 << 1;
    pub(super) const TEXT_CUT: u16 = 1 << 2;
    pub(super) const PATH_UNKNOWN: u16 = 1 << 3;
    pub(super) const PATH2_UNKNOWN: u16 = 1 << 4;
    pub(super) const TEXT_UNKNOWN: u16 = 1 << 5;
    pub(super) const NAME_UNKNOWN: u16 = 1 << 6;
    pub(super) const SCRIPT: u16 = 1 << 7;
    pub(super) const MEMFD: u16 = 1 << 8;
    pub(super) const DELETED: u16 = 1 << 9;
    pub(super) const KERNEL_THREAD: u16 = 1 << 10;
    pub(super) const FILE: u16 = 1 << 11;
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RecordError {
    /// Not even a header.
    #[error("record of {have} bytes is shorter than its header")]
    Short {
        /// Bytes that there are.
        have: usize,
    },
    /// The lengths in the header do not add up to what there is.
    #[error("record of {have} bytes says that it has {stated}")]
    Length {
        /// Bytes that there are.
        have: usize,
        /// Bytes that the header speaks of.
        stated: usize,
    },
    /// From another version of the BPF object.
    #[error("record layout {version} is not known")]
    Version {
        /// The layout that it says it has.
        version: u8,
    },
    /// A kind that does not exist.
    #[error("record kind {kind} is not known")]
    Kind {
        /// The kind that it says it is.
        kind: u8,
    },
}

/// Makes `event` what `record` says, whatever it was before. Total over all bytes; allocates nothing once `event` has
/// seen its longest record. After an error the event has no meaning.
///
/// Two values are still the kernel's: [`Event::time`] is on the boot clock, and [`Event::lost`] counts all records of
/// the kind that were lost since the start.
///
/// # Errors
/// When the bytes are not a record of this version.
pub fn decode(record: &[u8], event: &mut Event) -> Result<(), RecordError> {
    match decode_any(record, event)? {
        Decoded::Event { .. } => Ok(()),
        Decoded::Cgroup(_) => Err(RecordError::Kind { kind: CGROUP }),
    }
}

/// What a record is about.
#[derive(Debug)]
pub(crate) enum Decoded<'r> {
    /// What the event says now. With it comes the lower half of the id that the process's cgroup has in the hierarchy of
    /// version 1, where one is looked at.
    Event { legacy_cgroup: Option<u64> },
    /// A cgroup: the event is as it was.
    Cgroup(CgroupRecord<'r>),
}

/// The same as [`decode`] for records of every kind.
pub(crate) fn decode_any<'r>(record: &'r [u8], event: &mut Event) -> Result<Decoded<'r>, RecordError> {
    let (header, body) = Header::split(record)?;
    let Some(kind) = KINDS.get(usize::from(header.kind)).copied() else {
        return match header.kind {
            CGROUP => CgroupRecord::new(&header, &body).map(Decoded::Cgroup),
            REFUSED => {
                refused::refused(&header, &body, event)?;
                let legacy_cgroup = (header.legacy_cgroup != 0).then_some(header.legacy_cgroup.into());
                Ok(Decoded::Event { legacy_cgroup })
            }
            kind => Err(RecordError::Kind { kind }),
        };
    };
    event.reset(kind);
    header.apply(event);
    match kind {
        EventKind::Exec => process::exec(&header, &body, event),
        EventKind::Baseline => process::baseline(&header, &body, event),
        EventKind::Security => security::security(&body, event),
        EventKind::File => file::file(&header, &body, event),
        EventKind::Module => module::module(&header, &body, event),
        EventKind::Credentials => credentials::credentials(&body, event),
        EventKind::Memory => memory::memory(&body, event),
        EventKind::Ptrace => ptrace::ptrace(&header, &body, event),
        EventKind::Connect | EventKind::Accept | EventKind::Listen => network::network(&header, &body, event),
        _ => {}
    }
    process::terminal(body.tty, event);
    let legacy_cgroup = (header.legacy_cgroup != 0).then_some(header.legacy_cgroup.into());
    Ok(Decoded::Event { legacy_cgroup })
}

/// What only its kind has in a record that was decoded.
pub(crate) fn detail(record: &[u8]) -> &[u8] {
    match Header::split(record) {
        Ok((_, body)) => body.detail,
        Err(_) => &[],
    }
}

/// Whether a record tells of an operation that was refused.
pub(crate) fn is_refused(record: &[u8]) -> bool {
    record.get(KIND_AT) == Some(&REFUSED)
}

/// What the kernel tier says in a record: behind the rest of the detail of an exec, or first if it refused.
pub(crate) fn verdicts(record: &[u8]) -> &[u8] {
    match Header::split(record) {
        Ok((header, body)) if header.kind == REFUSED => body.detail,
        Ok((header, body)) if header.kind == EXEC => body.detail.get(process::EXEC_DETAIL_BYTES..).unwrap_or_default(),
        _ => &[],
    }
}

struct Header {
    kind: u8,
    flags: u16,
    time: u64,
    lost: u64,
    process: ProcessKey,
    parent: ProcessKey,
    creator: ProcessKey,
    pidfd_inode: u64,
    cgroup_id: u64,
    inode: u64,
    pid_namespace: u32,
    mount_namespace: u32,
    uid: u32,
    gid: u32,
    euid: u32,
    egid: u32,
    login_uid: u32,
    device: u32,
    exit_status: u32,
    legacy_cgroup: u32,
    comm: [u8; COMM_BYTES],
}

/// The variable part. Paths are components from leaf to root, each with a NUL.
struct Body<'r> {
    /// What only this kind of record has.
    detail: &'r [u8],
    /// Of an exec, the executable.
    path: &'r [u8],
    /// Of an exec, the working directory.
    path2: &'r [u8],
    /// Of an exec, the path as it was passed.
    name: &'r [u8],
    /// Of an exec, the arguments, each with a NUL.
    text: &'r [u8],
    tty: &'r [u8],
}

impl Header {
    fn split(record: &[u8]) -> Result<(Self, Body<'_>), RecordError> {
        let short = RecordError::Short { have: record.len() };
        let (fixed, rest) = record.split_first_chunk::<HEADER_BYTES>().ok_or(short)?;
        let mut fields = Fields(fixed);
        // In the order of `struct record`.
        let stated = fields.u32() as usize;
        let [kind, version] = fields.take();
        if version != VERSION {
            return Err(RecordError::Version { version });
        }
        let flags = fields.u16();
        let [time, lost, start, parent_start, creator_start] = [(); 5].map(|()| fields.u64());
        let [pidfd_inode, cgroup_id, inode] = [(); 3].map(|()| fields.u64());
        let [pid, parent_pid, creator_pid] = [(); 3].map(|()| fields.u32());
        let [pid_namespace, mount_namespace] = [(); 2].map(|()| fields.u32());
        let [uid, gid, euid, egid, login_uid, device, exit_status] = [(); 7].map(|()| fields.u32());
        let [path, path2, name, text, tty, detail] = [(); 6].map(|()| usize::from(fields.u16()));
        let lengths = [detail, path, path2, name, text, tty];
        let legacy_cgroup = fields.u32();
        let comm = fields.take();

        let have = record.len();
        let total = HEADER_BYTES + lengths.iter().sum::<usize>();
        if stated != have || total != have {
            return Err(RecordError::Length { have, stated: if stated == have { total } else { stated } });
        }
        let mut rest = rest;
        let [detail, path, path2, name, text, tty] = lengths.map(|len| {
            // The sum was checked, so nothing is cut here.
            let (part, after) = rest.split_at(len.min(rest.len()));
            rest = after;
            part
        });
        let parent = ProcessKey { pid: parent_pid, start: parent_start };
        let creator = ProcessKey { pid: creator_pid, start: creator_start };
        let header = Self {
            kind,
            flags,
            time,
            lost,
            process: ProcessKey { pid, start },
            // The idle task is nobody's parent.
            parent: if parent_pid == 0 { ProcessKey::default() } else { parent },
            // It goes without saying where it is the parent.
            creator: if creator_pid == 0 || creator == parent { ProcessKey::default() } else { creator },
            pidfd_inode,
            cgroup_id,
            inode,
            pid_namespace,
            mount_namespace,
            uid,
            gid,
            euid,
            egid,
            login_uid,
            device,
            exit_status,
            legacy_cgroup,
            comm,
        };
        Ok((header, Body { detail, path, path2, name, text, tty }))
    }

    fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// Sets what every kind of record has.
    fn apply(&self, event: &mut Event) {
        event.time = self.time;
        event.lost = self.lost;
        event.process = self.process;
        event.parent = self.parent;
        event.creator = self.creator;
        event.pidfd_inode = (self.pidfd_inode != 0).then_some(self.pidfd_inode);
        event.cgroup_id = (self.cgroup_id != 0).then_some(self.cgroup_id);
        event.pid_namespace = (self.pid_namespace != 0).then_some(self.pid_namespace);
        event.mount_namespace = (self.mount_namespace != 0).then_some(self.mount_namespace);
        event.kernel_thread = self.has(flag::KERNEL_THREAD);
        event.exit_status = (event.kind == EventKind::Exit).then_some(self.exit_status);
        event.set_text(Field::ProcessName, self.comm.split(|byte| *byte == 0).next().unwrap_or_default());
        event.set_number(Field::Uid, self.uid.into()).set_number(Field::Gid, self.gid.into());
        event.set_number(Field::Euid, self.euid.into()).set_number(Field::Egid, self.egid.into());
        if self.login_uid != LOGIN_UID_UNSET {
            event.set_number(Field::LoginUid, self.login_uid.into());
        }
    }
}

/// Reads the header's members one after another.
struct Fields<'r>(&'r [u8]);

impl Fields<'_> {
    /// The next `N` bytes; zeros behind the end, which the fixed size of the header rules out.
    fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk() {
            Some((chunk, rest)) => {
                self.0 = rest;
                *chunk
            }
            None => [0; N],
        }
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sls_core::Value;

    use super::*;
    use crate::container::{CgroupMaker, Hierarchy};

    /// A record with these strings: exe, cwd, invoked, argv, tty.
    fn record(kind: u8, flags: u16, strings: [&[u8]; 5]) -> Vec<u8> {
        let mut bytes = vec![0; 4];
        bytes.extend([kind, VERSION]);
        bytes.extend(flags.to_le_bytes());
        for number in [10_u64, 0, 20, 30, 35, 40, 50, 60] {
            bytes.extend(number.to_le_bytes());
        }
        for number in [4242_u32, 4200, 4199, 1, 6, 2, 3, 4, 5, LOGIN_UID_UNSET, 8 << 20 | 0x123, 9] {
            bytes.extend(number.to_le_bytes());
        }
        for string in strings {
            bytes.extend((string.len() as u16).to_le_bytes());
        }
        bytes.extend([0; 6]); // no detail
        bytes.extend(b"comm\0rest of it\0");
        assert_eq!(bytes.len(), HEADER_BYTES);
        bytes.extend(strings.concat());
        let len = bytes.len() as u32;
        bytes[..4].copy_from_slice(&len.to_le_bytes());
        bytes
    }

    /// The same with a detail.
    pub(super) fn detailed(kind: u8, flags: u16, detail: &[u8], strings: [&[u8]; 5]) -> Vec<u8> {
        let mut bytes = record(kind, flags, strings);
        bytes.splice(HEADER_BYTES..HEADER_BYTES, detail.iter().copied());
        let len = bytes.len() as u32;
        bytes[..4].copy_from_slice(&len.to_le_bytes());
        // Behind the lengths of the strings.
        bytes[130..132].copy_from_slice(&(detail.len() as u16).to_le_bytes());
        bytes
    }

    fn decoded(kind: u8, flags: u16, strings: [&[u8]; 5]) -> Event {
        let mut event = Event::new(EventKind::File);
        decode(&record(kind, flags, strings), &mut event).unwrap();
        event
    }

    #[test]
    fn exec_has_every_value() {
        let strings = [&b"wget\0bin\0usr\0"[..], b"root\0", b"./wget", b"wget\0\0-q\0", b"pts1"];
        let event = decoded(0, flag::FILE | flag::DELETED, strings);
        assert_eq!(event.process, ProcessKey { pid: 4242, start: 20 });
        assert_eq!(event.parent, ProcessKey { pid: 4200, start: 30 });
        assert_eq!((event.pidfd_inode, event.cgroup_id, event.pid_namespace), (Some(40), Some(50), Some(1)));
        assert_eq!(event.creator, ProcessKey { pid: 4199, start: 35 });
        assert_eq!(event.mount_namespace, Some(6));
        assert_eq!(event.text(Field::ProgramName), b"/usr/bin/wget");
        assert_eq!(event.text(Field::ProgramDirectory), b"/root");
        assert_eq!(event.text(Field::InvokedName), b"./wget");
        assert_eq!(event.text(Field::Terminal), b"pts/1");
        assert_eq!(event.text(Field::ProcessName), b"comm");
        assert_eq!(event.arguments().collect::<Vec<_>>(), [&b"wget"[..], b"", b"-q"]);
        assert_eq!(event.number(Field::ProgramInode), Some(60));
        assert_eq!(event.number(Field::ProgramDevice), Some(0x10_0823));
        assert_eq!(event.value(Field::ProgramIsDeleted), Value::Bool(true));
        assert_eq!(event.value(Field::ProgramIsMemfd), Value::Bool(false));
        assert_eq!(event.value(Field::LoginUid), Value::Absent);
        assert_eq!(event.value(Field::ScriptName), Value::Absent);
        assert_eq!([Field::Uid, Field::Gid, Field::Euid, Field::Egid].map(|f| event.number(f)), [2, 3, 4, 5].map(Some));
    }

    #[test]
    fn script_is_made_absolute() {
        let name = |flags, cwd, invoked| {
            let event = decoded(0, flags, [b"sh\0bin\0", cwd, invoked, b"", b""]);
            format!("{:?}", event.value(Field::ScriptName))
        };
        let text = |bytes: &[u8], truncated| format!("{:?}", Value::Text { bytes, truncated });
        assert_eq!(name(flag::SCRIPT, b"b\0a\0", b"./s"), text(b"/a/b/s", false));
        assert_eq!(name(flag::SCRIPT, b"", b"s"), text(b"/s", false));
        assert_eq!(name(flag::SCRIPT, b"a\0", b"/x/s"), text(b"/x/s", false));
        assert_eq!(name(flag::SCRIPT | flag::PATH2_CUT, b"b\0", b"s"), text(b"/b/s", true));
        assert_eq!(name(flag::SCRIPT | flag::PATH2_UNKNOWN, b"", b"s"), "Unknown");
        assert_eq!(name(flag::SCRIPT | flag::NAME_UNKNOWN, b"", b""), "Unknown");
    }

    #[test]
    fn spelling_of_the_script_is_normalised() {
        let name = |flags, cwd, invoked| {
            let event = decoded(0, flags | flag::SCRIPT, [b"sh\0bin\0", cwd, invoked, b"", b""]);
            format!("{:?}", event.value(Field::ScriptName))
        };
        let text = |bytes: &[u8], truncated| format!("{:?}", Value::Text { bytes, truncated });
        assert_eq!(name(0, b"", b"//x///./y/./s"), text(b"/x/y/s", false));
        assert_eq!(name(0, b"", b"/../.././s"), text(b"/s", false));
        assert_eq!(name(0, b"", b"/...//..s"), text(b"/.../..s", false));
        // The working directory has no links in it.
        assert_eq!(name(0, b"b\0a\0", b"../s"), text(b"/a/s", false));
        assert_eq!(name(0, b"b\0a\0", b".././/../../../x/s"), text(b"/x/s", false));
        assert_eq!(name(flag::PATH2_CUT, b"b\0a\0", b"../s"), text(b"/a/s", true));
        assert_eq!(name(flag::PATH2_CUT, b"b\0", b"../../s"), text(b"/s", true));
        // `link` may lead anywhere.
        assert_eq!(name(0, b"", b"/tmp/link/../s"), text(b"/s", true));
        assert_eq!(name(0, b"b\0a\0", b"../link/../x/../y//s"), text(b"/y/s", true));
    }

    #[test]
    fn what_is_missing_is_marked() {
        let flags = flag::PATH_CUT | flag::TEXT_CUT | flag::PATH2_UNKNOWN | flag::FILE;
        let event = decoded(0, flags, [b"c\0b\0", b"", b"x", b"x\0y", b""]);
        assert_eq!(event.value(Field::ProgramName), Value::Text { bytes: b"/b/c", truncated: true });
        assert_eq!(event.value(Field::ProgramArguments), Value::Text { bytes: b"x y", truncated: true });
        assert_eq!(event.value(Field::ProgramDirectory), Value::Unknown);
        let event = decoded(0, flag::PATH_UNKNOWN | flag::TEXT_UNKNOWN, [b""; 5]);
        for field in [Field::ProgramName, Field::ProgramArguments, Field::ProgramInode, Field::ProgramIsMemfd] {
            assert_eq!(event.value(field), Value::Unknown);
        }
        let event = decoded(3, flag::KERNEL_THREAD, [b""; 5]);
        assert!(event.kernel_thread && event.unknown().is_empty());
        assert_eq!(event.value(Field::ProgramName), Value::Absent);
    }

    #[test]
    fn what_is_no_record_is_refused() {
        let good = record(1, 0, [b""; 5]);
        let mut event = Event::new(EventKind::Exec);
        assert_eq!(decode(&good, &mut event), Ok(()));
        assert_eq!(decode(&good[1..], &mut event), Err(RecordError::Short { have: HEADER_BYTES - 1 }));
        let changed = |at: usize, value| {
            let mut bytes = good.clone();
            bytes[at] = value;
            decode(&bytes, &mut Event::new(EventKind::Exec)).unwrap_err()
        };
        assert_eq!(changed(0, 0), RecordError::Length { have: HEADER_BYTES, stated: 0 });
        assert_eq!(changed(4, 16), RecordError::Kind { kind: 16 });
        assert_eq!(changed(5, 9), RecordError::Version { version: 9 });
        assert_eq!(changed(120, 1), RecordError::Length { have: HEADER_BYTES, stated: HEADER_BYTES + 1 });
    }

    #[test]
    fn cgroups_are_no_events() {
        let mut bytes = record(CGROUP, flag::TEXT_CUT, [b"", b"", b"", b"/docker/0123", b""]);
        // With 16 bytes of its own in front of the path.
        bytes.splice(HEADER_BYTES..HEADER_BYTES, [77, 0, 0, 0, 1, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0]);
        bytes[130] = 16;
        bytes[0] += 16;
        let mut event = Event::new(EventKind::Exec);
        let Ok(Decoded::Cgroup(cgroup)) = decode_any(&bytes, &mut event) else { panic!("not a cgroup") };
        assert_eq!((cgroup.id, cgroup.hierarchy, cgroup.removed), (1 << 32 | 77, Hierarchy::Legacy, true));
        assert_eq!((cgroup.path, cgroup.cut, cgroup.time), (Some(&b"/docker/0123"[..]), true, 10));
        assert_eq!(cgroup.maker, CgroupMaker::new(2).mount_namespace(Some(6)).name(b"comm"));
        assert_eq!(decode(&bytes, &mut event), Err(RecordError::Kind { kind: CGROUP }));
        let short = record(CGROUP, 0, [b""; 5]);
        assert_eq!(decode(&short, &mut event), Err(RecordError::Length { have: 0, stated: 16 }));
    }

    #[test]
    fn the_cgroup_of_version_1_comes_along() {
        let mut bytes = record(1, 0, [b""; 5]);
        let mut event = Event::new(EventKind::Exec);
        let of = |bytes: &[u8], event: &mut Event| match decode_any(bytes, event) {
            Ok(Decoded::Event { legacy_cgroup }) => legacy_cgroup,
            other => panic!("{other:?}"),
        };
        assert_eq!(of(&bytes, &mut event), None);
        bytes[132] = 9;
        assert_eq!(of(&bytes, &mut event), Some(9));
    }

    proptest! {
        #[test]
        fn total_over_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode(&bytes, &mut Event::new(EventKind::Exec));
        }

        #[test]
        fn total_over_any_strings(
            kind in 0_u8..15,
            flags: u16,
            strings in prop::array::uniform5(prop::collection::vec(prop_oneof![Just(0_u8), any::<u8>()], 0..80)),
        ) {
            let bytes = record(kind, flags, [0, 1, 2, 3, 4].map(|index| &strings[index][..]));
            let mut event = Event::new(EventKind::Exec);
            prop_assert_eq!(decode(&bytes, &mut event), Ok(()));
            for field in Field::all() {
                let _ = event.value(field);
            }
            prop_assert!(event.arguments().count() <= strings[3].len().max(1));
        }
    }
}

//! Turns a record of `bpf/record.h` into an event.

use sls_core::{Event, EventKind, Field, ProcessKey};
use thiserror::Error;

/// The layout that this decoder reads.
const VERSION: u8 = 3;

/// Bytes of the fixed part of a record.
const HEADER_BYTES: usize = 152;

/// `comm` with its NUL.
const COMM_BYTES: usize = 16;

/// The audit login uid of a process that never logged in.
const LOGIN_UID_UNSET: u32 = u32::MAX;

mod flag {
    pub(super) const EXE_CUT: u16 = 1 << 0;
    pub(super) const CWD_CUT: u16 = 1 << 1;
    pub(super) const ARGV_CUT: u16 = 1 << 2;
    pub(super) const EXE_UNKNOWN: u16 = 1 << 3;
    pub(super) const CWD_UNKNOWN: u16 = 1 << 4;
    pub(super) const ARGV_UNKNOWN: u16 = 1 << 5;
    pub(super) const INVOKED_UNKNOWN: u16 = 1 << 6;
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
    let (header, strings) = Header::split(record)?;
    event.reset(header.kind);
    header.apply(event);
    match header.kind {
        EventKind::Exec => {
            file(&header, strings.exe, event);
            directory(&header, strings.cwd, event);
            invocation(&header, &strings, event);
            if header.has(flag::ARGV_UNKNOWN) {
                event.mark_unknown(Field::ProgramArguments);
            } else {
                arguments(strings.argv, header.has(flag::ARGV_CUT), event);
            }
        }
        EventKind::Baseline => {
            if !event.kernel_thread {
                file(&header, strings.exe, event);
            }
            directory(&header, strings.cwd, event);
        }
        _ => {}
    }
    terminal(strings.tty, event);
    Ok(())
}

/// Sets `programArguments` from arguments that each end in a NUL. The last may lack it.
pub(crate) fn arguments(argv: &[u8], cut: bool, event: &mut Event) {
    if argv.is_empty() {
        event.set_arguments([]);
    } else {
        event.set_arguments(argv.strip_suffix(&[0]).unwrap_or(argv).split(|byte| *byte == 0));
    }
    if cut {
        event.mark_truncated(Field::ProgramArguments);
    }
}

struct Header {
    kind: EventKind,
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
    comm: [u8; COMM_BYTES],
}

/// The variable part. Paths are components from leaf to root, each with a NUL.
struct Strings<'r> {
    exe: &'r [u8],
    cwd: &'r [u8],
    invoked: &'r [u8],
    argv: &'r [u8],
    tty: &'r [u8],
}

impl Header {
    fn split(record: &[u8]) -> Result<(Self, Strings<'_>), RecordError> {
        let short = RecordError::Short { have: record.len() };
        let (fixed, rest) = record.split_first_chunk::<HEADER_BYTES>().ok_or(short)?;
        let mut fields = Fields(fixed);
        // In the order of `struct record`.
        let stated = fields.u32() as usize;
        let [kind, version] = fields.take();
        if version != VERSION {
            return Err(RecordError::Version { version });
        }
        let kind = match kind {
            0 => EventKind::Exec,
            1 => EventKind::Fork,
            2 => EventKind::Exit,
            3 => EventKind::Baseline,
            _ => return Err(RecordError::Kind { kind }),
        };
        let flags = fields.u16();
        let [time, lost, start, parent_start, creator_start] = [(); 5].map(|()| fields.u64());
        let [pidfd_inode, cgroup_id, inode] = [(); 3].map(|()| fields.u64());
        let [pid, parent_pid, creator_pid] = [(); 3].map(|()| fields.u32());
        let [pid_namespace, mount_namespace] = [(); 2].map(|()| fields.u32());
        let [uid, gid, euid, egid, login_uid, device, exit_status] = [(); 7].map(|()| fields.u32());
        let lengths = [(); 5].map(|()| usize::from(fields.u16()));
        let _padding: [u8; 6] = fields.take();
        let comm = fields.take();

        let have = record.len();
        let total = HEADER_BYTES + lengths.iter().sum::<usize>();
        if stated != have || total != have {
            return Err(RecordError::Length { have, stated: if stated == have { total } else { stated } });
        }
        let mut rest = rest;
        let [exe, cwd, invoked, argv, tty] = lengths.map(|len| {
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
            comm,
        };
        Ok((header, Strings { exe, cwd, invoked, argv, tty }))
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
        event.exit_status = (self.kind == EventKind::Exit).then_some(self.exit_status);
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

fn file(header: &Header, exe: &[u8], event: &mut Event) {
    if header.has(flag::EXE_UNKNOWN) {
        event.mark_unknown(Field::ProgramName);
    } else {
        path(Field::ProgramName, exe, header.has(flag::EXE_CUT), event);
    }
    if header.has(flag::FILE) {
        event.set_number(Field::ProgramInode, header.inode).set_number(Field::ProgramDevice, st_dev(header.device));
        event.set_bool(Field::ProgramIsMemfd, header.has(flag::MEMFD));
        event.set_bool(Field::ProgramIsDeleted, header.has(flag::DELETED));
    } else {
        for field in [Field::ProgramInode, Field::ProgramDevice, Field::ProgramIsMemfd, Field::ProgramIsDeleted] {
            event.mark_unknown(field);
        }
    }
}

fn directory(header: &Header, cwd: &[u8], event: &mut Event) {
    if header.has(flag::CWD_UNKNOWN) {
        event.mark_unknown(Field::ProgramDirectory);
    } else {
        path(Field::ProgramDirectory, cwd, header.has(flag::CWD_CUT), event);
    }
}

/// The passed path, and the script if the kernel put an interpreter in front of it.
fn invocation(header: &Header, strings: &Strings<'_>, event: &mut Event) {
    let script = header.has(flag::SCRIPT);
    if header.has(flag::INVOKED_UNKNOWN) {
        event.mark_unknown(Field::InvokedName);
        if script {
            event.mark_unknown(Field::ScriptName);
        }
        return;
    }
    event.set_text(Field::InvokedName, strings.invoked);
    if !script {
        return;
    }
    let absolute = strings.invoked.starts_with(b"/");
    if !absolute && header.has(flag::CWD_UNKNOWN) {
        event.mark_unknown(Field::ScriptName);
    } else {
        let (cwd, cut) = if absolute { (&b""[..], false) } else { (strings.cwd, header.has(flag::CWD_CUT)) };
        script_path(strings.invoked, cwd, cut, event);
    }
}

/// Sets `scriptName` from the passed path and the directory that it starts from. `..` is resolved where what it leaves is
/// a directory's own name. What the caller wrote may be a link, and then `..` leads out of where that points: what is in
/// front of such a `..` is not known.
fn script_path(invoked: &[u8], cwd: &[u8], cut: bool, event: &mut Event) {
    let names = invoked.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
    let ups = names.clone().take_while(|name| *name == b"..").count();
    let below = names.skip(ups);
    let unsure = below.clone().enumerate().filter(|(_, name)| *name == b"..").last().map(|(index, _)| index + 1);
    // At the root, `..` is the root.
    let start = if unsure.is_some() { b"" } else { without_leaves(cwd, ups) };
    let rest = below.skip(unsure.unwrap_or(0)).flat_map(|name| [&b"/"[..], name]);
    event.set_text_parts(Field::ScriptName, components(start).chain(rest));
    if cut || unsure.is_some() {
        event.mark_truncated(Field::ScriptName);
    }
}

/// The name below `/dev`. It is the kernel's own name, but for pseudo terminals, which live in a directory.
fn terminal(tty: &[u8], event: &mut Event) {
    match tty.strip_prefix(b"pts") {
        Some(number) if number.first().is_some_and(u8::is_ascii_digit) => {
            event.set_text_parts(Field::Terminal, [&b"pts/"[..], number]);
        }
        _ if tty.is_empty() => {}
        _ => {
            event.set_text(Field::Terminal, tty);
        }
    }
}

fn path(field: Field, leaf_first: &[u8], cut: bool, event: &mut Event) {
    if leaf_first.is_empty() && !cut {
        event.set_text(field, b"/");
    } else {
        event.set_text_parts(field, components(leaf_first));
    }
    if cut {
        event.mark_truncated(field);
    }
}

/// `c\0b\0a\0` as `b\0a\0`, so many times.
fn without_leaves(mut leaf_first: &[u8], count: usize) -> &[u8] {
    for _ in 0..count {
        let end = leaf_first.iter().position(|byte| *byte == 0);
        leaf_first = end.map_or(&[], |end| &leaf_first[end + 1..]);
    }
    leaf_first
}

/// `c\0b\0a\0` as `/`, `a`, `/`, `b`, `/`, `c`.
fn components(leaf_first: &[u8]) -> impl Iterator<Item = &[u8]> {
    let parts = leaf_first.strip_suffix(&[0]).unwrap_or(leaf_first).rsplit(|byte| *byte == 0);
    parts.filter(|part| !part.is_empty()).flat_map(|part| [&b"/"[..], part])
}

/// The number that stat(2) gives for a device that the kernel knows as `major << 20 | minor`.
fn st_dev(device: u32) -> u64 {
    let (major, minor) = (device >> 20, device & 0xf_ffff);
    u64::from(minor & 0xff | major << 8 | (minor & !0xff) << 12)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sls_core::Value;

    use super::*;

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
        bytes.extend([0; 6]);
        bytes.extend(b"comm\0rest of it\0");
        assert_eq!(bytes.len(), HEADER_BYTES);
        bytes.extend(strings.concat());
        let len = bytes.len() as u32;
        bytes[..4].copy_from_slice(&len.to_le_bytes());
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
        assert_eq!(name(flag::SCRIPT | flag::CWD_CUT, b"b\0", b"s"), text(b"/b/s", true));
        assert_eq!(name(flag::SCRIPT | flag::CWD_UNKNOWN, b"", b"s"), "Unknown");
        assert_eq!(name(flag::SCRIPT | flag::INVOKED_UNKNOWN, b"", b""), "Unknown");
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
        assert_eq!(name(flag::CWD_CUT, b"b\0a\0", b"../s"), text(b"/a/s", true));
        assert_eq!(name(flag::CWD_CUT, b"b\0", b"../../s"), text(b"/s", true));
        // `link` may lead anywhere.
        assert_eq!(name(0, b"", b"/tmp/link/../s"), text(b"/s", true));
        assert_eq!(name(0, b"b\0a\0", b"../link/../x/../y//s"), text(b"/y/s", true));
    }

    #[test]
    fn what_is_missing_is_marked() {
        let flags = flag::EXE_CUT | flag::ARGV_CUT | flag::CWD_UNKNOWN | flag::FILE;
        let event = decoded(0, flags, [b"c\0b\0", b"", b"x", b"x\0y", b""]);
        assert_eq!(event.value(Field::ProgramName), Value::Text { bytes: b"/b/c", truncated: true });
        assert_eq!(event.value(Field::ProgramArguments), Value::Text { bytes: b"x y", truncated: true });
        assert_eq!(event.value(Field::ProgramDirectory), Value::Unknown);
        let event = decoded(0, flag::EXE_UNKNOWN | flag::ARGV_UNKNOWN, [b""; 5]);
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
        assert_eq!(changed(4, 4), RecordError::Kind { kind: 4 });
        assert_eq!(changed(5, 9), RecordError::Version { version: 9 });
        assert_eq!(changed(120, 1), RecordError::Length { have: HEADER_BYTES, stated: HEADER_BYTES + 1 });
    }

    proptest! {
        #[test]
        fn total_over_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode(&bytes, &mut Event::new(EventKind::Exec));
        }

        #[test]
        fn total_over_any_strings(
            kind in 0_u8..4,
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

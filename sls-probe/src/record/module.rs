//! What records say about code that is loaded into the kernel.

use sls_core::{Event, Field};

use super::path;
use super::{Body, Header, flag};

/// In the order of `enum operation` in `bpf/module.bpf.c`.
pub(super) const OPERATIONS: [&str; 3] = ["MODULE_LOAD", "BPF_LOAD", "KEXEC"];
const KEXEC: u32 = 2;

pub(super) fn module(header: &Header, body: &Body<'_>, event: &mut Event) {
    // `struct module_detail`.
    let Some((operation, from_file)) = two_numbers(body.detail) else {
        event.mark_unknown(Field::ModuleOperation).mark_unknown(Field::ModuleName).mark_unknown(Field::FilePath);
        return;
    };
    match OPERATIONS.get(operation as usize) {
        Some(name) => event.set_text(Field::ModuleOperation, name.as_bytes()),
        None => event.mark_unknown(Field::ModuleOperation),
    };
    if operation != KEXEC {
        if header.has(flag::NAME_UNKNOWN) {
            event.mark_unknown(Field::ModuleName);
        } else {
            event.set_text(Field::ModuleName, body.name);
        }
    }
    if header.has(flag::PATH_UNKNOWN) {
        event.mark_unknown(Field::FilePath);
    } else if from_file != 0 {
        path::set(Field::FilePath, body.path, header.has(flag::PATH_CUT), event);
    }
}

/// The first two numbers of a detail.
pub(super) fn two_numbers(detail: &[u8]) -> Option<(u32, u32)> {
    let (first, rest) = detail.split_first_chunk()?;
    let (second, _) = rest.split_first_chunk()?;
    Some((u32::from_le_bytes(*first), u32::from_le_bytes(*second)))
}

#[cfg(test)]
mod tests {
    use sls_core::{EventKind, Value};

    use super::super::{decode, tests};
    use super::*;

    fn decoded(flags: u16, numbers: [u32; 2], strings: [&[u8]; 5]) -> Event {
        let detail: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let mut event = Event::new(EventKind::File);
        decode(&tests::detailed(11, flags, &detail, strings), &mut event).unwrap();
        event
    }

    #[test]
    fn a_module_from_a_file() {
        let event = decoded(0, [0, 1], [b"dummy.ko\0lib\0", b"", b"dummy", b"", b""]);
        assert_eq!(event.text(Field::ModuleOperation), b"MODULE_LOAD");
        assert_eq!(event.text(Field::ModuleName), b"dummy");
        assert_eq!(event.text(Field::FilePath), b"/lib/dummy.ko");
    }

    #[test]
    fn what_there_is_not_and_what_is_not_known() {
        let memory = decoded(0, [0, 0], [b"", b"", b"dummy", b"", b""]);
        assert_eq!(memory.value(Field::FilePath), Value::Absent);
        let unknown = decoded(flag::PATH_UNKNOWN | flag::NAME_UNKNOWN, [1, 1], [b""; 5]);
        assert_eq!(unknown.text(Field::ModuleOperation), b"BPF_LOAD");
        assert_eq!([Field::FilePath, Field::ModuleName].map(|field| unknown.value(field)), [Value::Unknown; 2]);
        let kexec = decoded(0, [2, 1], [b"vmlinuz\0boot\0", b"", b"", b"", b""]);
        assert_eq!(kexec.text(Field::FilePath), b"/boot/vmlinuz");
        assert_eq!(kexec.value(Field::ModuleName), Value::Absent);
        assert_eq!(decoded(0, [9, 0], [b""; 5]).value(Field::ModuleOperation), Value::Unknown);
    }
}

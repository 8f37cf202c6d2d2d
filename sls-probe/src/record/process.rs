//! What records say about processes and the programs that they run.

use sls_core::{Event, Field};

use super::path;
use super::{Body, Header, flag};

/// In the order of `enum standard_input` in `bpf/process.bpf.c`. The first is none.
const INPUTS: [&[u8]; 5] = [b"TERMINAL", b"SOCKET", b"PIPE", b"FILE", b"DEVICE"];

/// `struct exec_detail`.
pub(super) const EXEC_DETAIL_BYTES: usize = 8;

pub(super) fn exec(header: &Header, body: &Body<'_>, event: &mut Event) {
    file(header, body.path, event);
    standard_input(body.detail, event);
    directory(header, body.path2, event);
    invocation(header, body, event);
    if header.has(flag::TEXT_UNKNOWN) {
        event.mark_unknown(Field::ProgramArguments);
    } else {
        arguments(body.text, header.has(flag::TEXT_CUT), event);
    }
}

pub(super) fn baseline(header: &Header, body: &Body<'_>, event: &mut Event) {
    if !event.kernel_thread {
        file(header, body.path, event);
        standard_input(body.detail, event);
    }
    directory(header, body.path2, event);
}

/// From `struct exec_detail`.
fn standard_input(detail: &[u8], event: &mut Event) {
    match detail.first_chunk().map(|number| u32::from_le_bytes(*number)) {
        Some(0) => {}
        Some(number) if (number as usize) <= INPUTS.len() => {
            event.set_text(Field::StandardInput, INPUTS[number as usize - 1]);
        }
        _ => {
            event.mark_unknown(Field::StandardInput);
        }
    }
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

pub(super) fn file(header: &Header, exe: &[u8], event: &mut Event) {
    if header.has(flag::PATH_UNKNOWN) {
        event.mark_unknown(Field::ProgramName);
    } else {
        path::set(Field::ProgramName, exe, header.has(flag::PATH_CUT), event);
    }
    if header.has(flag::FILE) {
        event
            .set_number(Field::ProgramInode, header.inode)
            .set_number(Field::ProgramDevice, path::st_dev(header.device));
        event.set_bool(Field::ProgramIsMemfd, header.has(flag::MEMFD));
        event.set_bool(Field::ProgramIsDeleted, header.has(flag::DELETED));
    } else {
        for field in [Field::ProgramInode, Field::ProgramDevice, Field::ProgramIsMemfd, Field::ProgramIsDeleted] {
            event.mark_unknown(field);
        }
    }
}

fn directory(header: &Header, cwd: &[u8], event: &mut Event) {
    if header.has(flag::PATH2_UNKNOWN) {
        event.mark_unknown(Field::ProgramDirectory);
    } else {
        path::set(Field::ProgramDirectory, cwd, header.has(flag::PATH2_CUT), event);
    }
}

/// The passed path, and the script if the kernel put an interpreter in front of it.
fn invocation(header: &Header, body: &Body<'_>, event: &mut Event) {
    let script = header.has(flag::SCRIPT);
    if header.has(flag::NAME_UNKNOWN) {
        event.mark_unknown(Field::InvokedName);
        if script {
            event.mark_unknown(Field::ScriptName);
        }
        return;
    }
    event.set_text(Field::InvokedName, body.name);
    if !script {
        return;
    }
    let absolute = body.name.starts_with(b"/");
    if !absolute && header.has(flag::PATH2_UNKNOWN) {
        event.mark_unknown(Field::ScriptName);
    } else {
        let (cwd, cut) = if absolute { (&b""[..], false) } else { (body.path2, header.has(flag::PATH2_CUT)) };
        path::set_passed(Field::ScriptName, body.name, cwd, cut, event);
    }
}

/// The name below `/dev`. It is the kernel's own name, but for pseudo terminals, which live in a directory.
pub(super) fn terminal(tty: &[u8], event: &mut Event) {
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

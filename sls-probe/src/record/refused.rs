//! What records say about operations that were refused.

use std::net::Ipv6Addr;

use sls_core::{Event, EventKind, Field};

use super::network::PROTOCOLS;
use super::{Body, Header, RecordError, file, flag, module, path, process};
use crate::tier::layout::{self, event as tier_event};

/// `struct refused_detail`, behind the verdicts.
struct Detail {
    host: u128,
    event: u32,
    operation: u32,
    protocol: u32,
    port: u32,
    has_host: bool,
    target_pid: u32,
}

impl Detail {
    fn read(bytes: &[u8]) -> Option<Self> {
        let (high, rest) = bytes.get(layout::DETAIL_BYTES..)?.split_first_chunk()?;
        let (low, rest) = rest.split_first_chunk()?;
        let (numbers, _) = rest.as_chunks::<4>();
        let [event, operation, protocol, port, has_host, target_pid, ..] = *numbers else { return None };
        let [event, operation, protocol, port, has_host, target_pid] =
            [event, operation, protocol, port, has_host, target_pid].map(u32::from_le_bytes);
        let host = u128::from(u64::from_le_bytes(*high)) << 64 | u128::from(u64::from_le_bytes(*low));
        Some(Self { host, event, operation, protocol, port, has_host: has_host != 0, target_pid })
    }
}

/// Makes `event` one of the kind that it would have been. What its program is follows from who it is.
pub(super) fn refused(header: &Header, body: &Body<'_>, event: &mut Event) -> Result<(), RecordError> {
    let detail = Detail::read(body.detail).ok_or(RecordError::Kind { kind: header.kind })?;
    let kind = match detail.event {
        tier_event::EXEC_ASKED => EventKind::Exec,
        tier_event::FILE => EventKind::File,
        tier_event::CONNECT => EventKind::Connect,
        tier_event::PTRACE => EventKind::Ptrace,
        tier_event::MODULE => EventKind::Module,
        _ => return Err(RecordError::Kind { kind: header.kind }),
    };
    event.reset(kind);
    header.apply(event);
    let cut = header.has(flag::PATH_CUT);
    match kind {
        EventKind::Exec => {
            process::file(header, body.path, event);
            for field in [Field::ProgramArguments, Field::ProgramDirectory, Field::InvokedName, Field::ScriptName] {
                event.mark_unknown(field);
            }
        }
        EventKind::File => {
            named(Field::FileOperation, &file::OPERATIONS, detail.operation, event);
            path::set(Field::FilePath, body.path, cut, event);
            if !body.text.is_empty() {
                path::set(Field::NewFilePath, body.text, cut, event);
            }
            for field in [Field::FileMode, Field::FileUid, Field::FileGid, Field::FileInode, Field::FileDevice] {
                event.mark_unknown(field);
            }
        }
        EventKind::Connect => {
            named(Field::Protocol, &PROTOCOLS, detail.protocol, event);
            if detail.has_host {
                event.set_host(Field::RemoteHost, Ipv6Addr::from(detail.host).to_canonical());
                event.set_number(Field::RemotePort, detail.port.into());
            } else {
                event.mark_unknown(Field::SocketPath);
            }
            for field in [Field::LocalHost, Field::LocalPort] {
                event.mark_unknown(field);
            }
        }
        EventKind::Ptrace => {
            event.set_number(Field::TargetPid, detail.target_pid.into());
            path::set(Field::TargetProgramName, body.path, cut, event);
            event.mark_unknown(Field::PtraceRequest);
        }
        _ => {
            named(Field::ModuleOperation, &module::OPERATIONS, detail.operation, event);
            event.mark_unknown(Field::ModuleName);
        }
    }
    Ok(())
}

/// Sets a field to the name that a bit stands for.
fn named(field: Field, names: &[&str], bit: u32, event: &mut Event) {
    match names.get(bit.trailing_zeros() as usize) {
        Some(name) => event.set_text(field, name.as_bytes()),
        None => event.mark_unknown(field),
    };
}

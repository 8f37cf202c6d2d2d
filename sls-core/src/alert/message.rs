//! What a policy saw, in words.

use std::net::SocketAddr;

use super::build::MAX_ANCESTOR_TEXT;
use crate::bytes::display_at_most;
use crate::event::{Event, EventKind, Value};
use crate::policy::{Policy, PolicyType};
use crate::schema::Field;
use crate::trigger::TypeOptions;

/// The message of a detection.
pub(super) fn detection_message(policy: &Policy, event: &Event) -> String {
    let title = policy.policy_type.title();
    format!("{}, which violated the \"{}\" {title} Policy.", what_happened(policy, event), policy.name)
}

fn what_happened(policy: &Policy, event: &Event) -> String {
    let program = format!("The program \"{}\"", text(event, Field::ProgramName));
    match policy.policy_type {
        PolicyType::File | PolicyType::FileMonitor | PolicyType::Chmod => format!("{program} {}", file_change(event)),
        PolicyType::NewFileExec => match event.number(Field::FileAge) {
            Some(age) => format!("{program} was executed {age} s after \"{}\" was created or modified", file(event)),
            None => format!("{program} was executed"),
        },
        PolicyType::InteractiveShell => format!("{program} was started as an interactive shell"),
        PolicyType::Connect | PolicyType::NetworkService if !event.text(Field::SocketPath).is_empty() => {
            let done = match event.kind {
                EventKind::Listen => "listens on",
                EventKind::Accept => "accepted a connection to",
                _ => "connected to",
            };
            format!("{program} {done} the socket \"{}\"", text(event, Field::SocketPath))
        }
        PolicyType::Connect => {
            format!("{program} connected to {}", address(event, Field::RemoteHost, Field::RemotePort))
        }
        PolicyType::NetworkService if event.kind == EventKind::Listen => {
            format!("{program} listens on {}", address(event, Field::LocalHost, Field::LocalPort))
        }
        PolicyType::NetworkService => {
            let peer = host(event, Field::InboundHost);
            format!("{program} accepted a connection from {peer} to port {}", number(event, Field::InboundPort))
        }
        PolicyType::Ptrace => {
            let target = text(event, Field::TargetProgramName);
            format!("{program} reached into the process {} (\"{target}\")", number(event, Field::TargetPid))
        }
        PolicyType::MemoryProtection => match text(event, Field::MemoryRegion) {
            region if region.is_empty() => format!("{program} made memory executable"),
            region => format!("{program} made memory executable ({region})"),
        },
        PolicyType::Segfault => match policy.options {
            TypeOptions::Segfault { tolerance, duration } => {
                format!("{program} crashed more than {tolerance} times in {} s", duration.as_secs_f64())
            }
            _ => format!("{program} crashed"),
        },
        PolicyType::PrivilegeEscalation => format!("{program} gained credentials that nothing gave it"),
        PolicyType::KernelModule => {
            let name = text(event, Field::ModuleName);
            match event.text(Field::ModuleOperation) {
                b"BPF_LOAD" => format!("{program} loaded the BPF program \"{name}\""),
                b"KEXEC" => format!("{program} loaded another kernel"),
                _ => format!("{program} loaded the kernel module \"{name}\""),
            }
        }
        PolicyType::Userfaultfd => format!("{program} created a userfaultfd"),
        PolicyType::Container => {
            let name = match text(event, Field::ContainerName) {
                name if name.is_empty() => text(event, Field::ContainerId),
                name => name,
            };
            let became = if event.text(Field::ContainerOperation) == b"STOP" { "stopped" } else { "was started" };
            format!("The container \"{name}\" {became}")
        }
        PolicyType::Selinux | PolicyType::SmepSmap | PolicyType::KernelPayload => protection_change(event).to_owned(),
        PolicyType::Kprobe | PolicyType::Uprobe => {
            format!("{program} came to the probe \"{}\"", text(event, Field::ProbeSymbol))
        }
        PolicyType::Program => format!("{program} was executed"),
    }
}

fn file_change(event: &Event) -> String {
    let (old, new) = (text(event, Field::FilePath), text(event, Field::NewFilePath));
    match event.text(Field::FileOperation) {
        b"CREATE" => format!("created the file \"{old}\""),
        b"OPEN_WRITE" => format!("opened the file \"{old}\" for writing"),
        b"WRITE" => format!("wrote to the file \"{old}\""),
        b"RENAME" => format!("renamed the file \"{old}\" to \"{new}\""),
        b"LINK" => format!("linked the file \"{old}\" to \"{new}\""),
        b"SYMLINK" => format!("created the symbolic link \"{old}\""),
        b"UNLINK" => format!("removed the file \"{old}\""),
        b"TRUNCATE" => format!("truncated the file \"{old}\""),
        b"CHMOD" => match event.number(Field::FileMode) {
            Some(mode) => format!("changed the mode of the file \"{old}\" to {mode:04o}"),
            None => format!("changed the mode of the file \"{old}\""),
        },
        b"CHOWN" => format!("changed the owner of the file \"{old}\""),
        b"SETXATTR" => format!("changed an extended attribute of the file \"{old}\""),
        _ => format!("changed the file \"{old}\""),
    }
}

fn protection_change(event: &Event) -> &'static str {
    match event.text(Field::SecurityChange) {
        b"SELINUX_DISABLED" => "SELinux was switched off",
        b"SELINUX_PERMISSIVE" => "SELinux was made permissive",
        b"SELINUX_POLICY_LOADED" => "The policy of SELinux was replaced",
        b"SMEP_DISABLED" => "SMEP was switched off",
        b"SMAP_DISABLED" => "SMAP was switched off",
        b"WRITE_PROTECT_DISABLED" => "Write protection of the kernel was switched off",
        b"KERNEL_PAYLOAD" => "A function of the kernel returned into user memory",
        _ => "A protection of the kernel was changed",
    }
}

fn file(event: &Event) -> String {
    text(event, Field::FilePath)
}

/// A text, of which as much as a message needs.
fn text(event: &Event, field: Field) -> String {
    display_at_most(event.text(field), 4 * MAX_ANCESTOR_TEXT).0
}

fn number(event: &Event, field: Field) -> String {
    event.number(field).map_or_else(|| "?".to_owned(), |number| number.to_string())
}

fn host(event: &Event, field: Field) -> String {
    match event.value(field) {
        Value::Host(address) => address.to_string(),
        _ => "?".to_owned(),
    }
}

fn address(event: &Event, host_field: Field, port_field: Field) -> String {
    match (event.value(host_field), event.number(port_field).and_then(|port| u16::try_from(port).ok())) {
        (Value::Host(address), Some(port)) => SocketAddr::new(address, port).to_string(),
        _ => format!("{} port {}", host(event, host_field), number(event, port_field)),
    }
}

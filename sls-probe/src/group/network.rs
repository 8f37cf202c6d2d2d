//! Connections that are made and accepted, and sockets that wait for them.

use std::collections::BTreeSet;

use libbpf_rs::{MapCore, Object};
use sls_core::{EventKind, Field, FieldSet};

use super::{Attach, Group, Hook, Wanted, no_configuration};
use crate::error::ProbeError;
use crate::hooks::HookFamily;
use crate::kernel::Kernel;
use crate::loader::{Aligned, map_of, set_entry};
use crate::record::PROTOCOLS;

pub(crate) const GROUP: Group = Group {
    name: "network",
    object: &Aligned(*include_bytes!("../../bpf/network.bpf.o")),
    hooks,
    configure: no_configuration,
    filter,
    fields,
};

const FILTER: &str = "filter";
const PORTS: &str = "ports";

/// In the order of `struct filter`.
const KINDS: [EventKind; 3] = [EventKind::Connect, EventKind::Accept, EventKind::Listen];

fn hooks(wanted: &Wanted<'_>) -> Vec<Hook> {
    use EventKind::{Accept, Connect, Listen};
    let mut hooks = Vec::new();
    if wanted.value(Connect, "TCP") {
        hooks.push(of_cgroup("tcp_connect", Connect));
    }
    if wanted.value(Listen, "TCP") {
        hooks.push(of_cgroup("tcp_listen", Listen));
    }
    if wanted.value(Connect, "UDP") {
        if wanted.family == HookFamily::Trampoline && Kernel::running().datagram_connect {
            hooks.extend(of(Connect, &["fexit_connect4", "fexit_connect6"]));
        } else {
            hooks.extend(["connect4", "connect6"].map(|name| of_cgroup(name, Connect)));
        }
        hooks.extend(["sendmsg4", "sendmsg6"].map(|name| of_cgroup(name, Connect)));
    }
    if wanted.value(Listen, "UDP") {
        hooks.extend(["bind4", "bind6", "bound4", "bound6"].map(|name| of_cgroup(name, Listen)));
    }
    let family = if Kernel::running().security_network { wanted.family } else { HookFamily::Tracepoint };
    if wanted.value(Accept, "TCP") || wanted.value(Accept, "UNIX") {
        hooks.extend(of(
            Accept,
            match family {
                HookFamily::Trampoline => &["fentry_sock_graft"],
                HookFamily::Kprobe => &["kprobe_sock_graft"],
                HookFamily::Tracepoint => &["exit_accept", "exit_accept4"],
            },
        ));
    }
    if wanted.value(Connect, "UNIX") {
        if family == HookFamily::Tracepoint && Kernel::running().cgroup_unix {
            hooks.extend(["connect_unix", "sendmsg_unix"].map(|name| of_cgroup(name, Connect)));
        }
        hooks.extend(of(
            Connect,
            match family {
                HookFamily::Trampoline => &["fentry_unix_connect", "fentry_unix_send"],
                HookFamily::Kprobe => &["kprobe_unix_connect", "kprobe_unix_send"],
                HookFamily::Tracepoint => &["enter_connect", "exit_connect"],
            },
        ));
    }
    if wanted.value(Listen, "UNIX") {
        hooks.extend(of(
            Listen,
            match family {
                HookFamily::Trampoline => &["fentry_listen"],
                HookFamily::Kprobe => &["kprobe_listen"],
                HookFamily::Tracepoint => &["enter_listen", "exit_listen"],
            },
        ));
    }
    hooks
}

fn of_cgroup(program: &'static str, kind: EventKind) -> Hook {
    Hook { program, kind, attach: Attach::Cgroup }
}

fn of(kind: EventKind, programs: &'static [&'static str]) -> impl Iterator<Item = Hook> {
    programs.iter().map(move |program| Hook::new(program, kind))
}

fn filter(object: &Object, wanted: &Wanted<'_>) -> Result<(), ProbeError> {
    let ports = wanted.settings.interest.ports();
    // `struct filter`.
    let mut value = Vec::with_capacity(16);
    for kind in KINDS {
        let bits = (0_u32..).zip(PROTOCOLS).filter(|(_, protocol)| wanted.value(kind, protocol));
        value.extend(bits.fold(0, |mask, (bit, _)| mask | 1_u32 << bit).to_ne_bytes());
    }
    value.extend(u32::from(ports.is_none()).to_ne_bytes());
    let no_ports = BTreeSet::new();
    let ports = ports.unwrap_or(&no_ports);

    let map = map_of(object, PORTS)?;
    // What was wanted and is wanted still is let through at every moment.
    for port in ports {
        set_entry(&map, PORTS, &u32::from(*port).to_ne_bytes(), &1_u32.to_ne_bytes())?;
    }
    set_entry(&map_of(object, FILTER)?, FILTER, &0_u32.to_ne_bytes(), &value)?;
    for key in map.keys().collect::<Vec<_>>() {
        let port = key.first_chunk().map_or(0, |port| u32::from_ne_bytes(*port));
        if !ports.iter().any(|wanted| u32::from(*wanted) == port) {
            map.delete(&key).map_err(|source| ProbeError::Map { map: PORTS, source })?;
        }
    }
    Ok(())
}

fn fields(kind: EventKind, _: HookFamily) -> FieldSet {
    use Field as F;
    match kind {
        EventKind::Connect => {
            [F::RemoteHost, F::RemotePort, F::LocalHost, F::LocalPort, F::Protocol, F::SocketPath].into_iter().collect()
        }
        EventKind::Accept => [F::InboundHost, F::InboundPort, F::LocalHost, F::LocalPort, F::Protocol, F::SocketPath]
            .into_iter()
            .collect(),
        EventKind::Listen => {
            [F::InboundPort, F::LocalHost, F::LocalPort, F::Protocol, F::SocketPath].into_iter().collect()
        }
        _ => FieldSet::EMPTY,
    }
}

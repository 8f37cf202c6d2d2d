//! What records say about connections and about sockets that wait for them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sls_core::{Event, EventKind, Field};

use super::path;
use super::{Body, Header, flag};

/// In the order of `enum protocol` in `bpf/network.h`.
pub(crate) const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "UNIX"];
const UNIX: u8 = 2;

/// Of Linux.
const AF_INET6: u16 = 10;

/// `enum network_flag`.
mod network_flag {
    pub(super) const REMOTE_UNKNOWN: u8 = 1 << 0;
    pub(super) const LOCAL_HOST_UNKNOWN: u8 = 1 << 1;
    pub(super) const LOCAL_PORT_UNKNOWN: u8 = 1 << 2;
    pub(super) const ABSTRACT: u8 = 1 << 3;
    pub(super) const AS_PASSED: u8 = 1 << 4;
}

/// `struct network_detail`.
struct Detail {
    remote: [u8; 16],
    local: [u8; 16],
    remote_port: u16,
    local_port: u16,
    family: u16,
    protocol: u8,
    flags: u8,
}

impl Detail {
    fn of(bytes: &[u8]) -> Option<Self> {
        let (remote, rest) = bytes.split_first_chunk()?;
        let (local, rest) = rest.split_first_chunk()?;
        let &[a, b, c, d, e, f, protocol, flags] = rest.first_chunk()?;
        let [remote_port, local_port, family] = [[a, b], [c, d], [e, f]].map(u16::from_le_bytes);
        Some(Self { remote: *remote, local: *local, remote_port, local_port, family, protocol, flags })
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// IPv4 that is written as IPv6 is IPv4.
    fn address(&self, bytes: [u8; 16]) -> IpAddr {
        if self.family == AF_INET6 {
            return Ipv6Addr::from(bytes).to_canonical();
        }
        let [a, b, c, d, ..] = bytes;
        Ipv4Addr::new(a, b, c, d).into()
    }
}

pub(super) fn network(header: &Header, body: &Body<'_>, event: &mut Event) {
    let Some(detail) = Detail::of(body.detail) else {
        for field in FIELDS {
            event.mark_unknown(field);
        }
        return;
    };
    match PROTOCOLS.get(usize::from(detail.protocol)) {
        Some(name) => event.set_text(Field::Protocol, name.as_bytes()),
        None => event.mark_unknown(Field::Protocol),
    };
    if detail.protocol == UNIX {
        socket_path(header, body, &detail, event);
    } else {
        addresses(event.kind, &detail, event);
    }
}

/// What can be set, for a record that cannot be read.
const FIELDS: [Field; 8] = [
    Field::Protocol,
    Field::RemoteHost,
    Field::RemotePort,
    Field::InboundHost,
    Field::InboundPort,
    Field::LocalHost,
    Field::LocalPort,
    Field::SocketPath,
];

fn addresses(kind: EventKind, detail: &Detail, event: &mut Event) {
    use network_flag::{LOCAL_HOST_UNKNOWN, LOCAL_PORT_UNKNOWN, REMOTE_UNKNOWN};
    let (remote_known, local_known) = (!detail.has(REMOTE_UNKNOWN), !detail.has(LOCAL_PORT_UNKNOWN));
    set_host(Field::LocalHost, (!detail.has(LOCAL_HOST_UNKNOWN)).then(|| detail.address(detail.local)), event);
    set_port(Field::LocalPort, local_known.then_some(detail.local_port), event);
    let remote = remote_known.then(|| detail.address(detail.remote));
    if kind == EventKind::Connect {
        set_host(Field::RemoteHost, remote, event);
        set_port(Field::RemotePort, remote_known.then_some(detail.remote_port), event);
        return;
    }
    set_port(Field::InboundPort, local_known.then_some(detail.local_port), event);
    if kind == EventKind::Accept {
        set_host(Field::InboundHost, remote, event);
    }
}

fn set_host(field: Field, address: Option<IpAddr>, event: &mut Event) {
    match address {
        Some(address) => event.set_host(field, address),
        None => event.mark_unknown(field),
    };
}

fn set_port(field: Field, port: Option<u16>, event: &mut Event) {
    match port {
        Some(port) => event.set_number(field, port.into()),
        None => event.mark_unknown(field),
    };
}

fn socket_path(header: &Header, body: &Body<'_>, detail: &Detail, event: &mut Event) {
    let field = Field::SocketPath;
    if detail.has(network_flag::ABSTRACT) {
        event.set_text_parts(field, [&b"@"[..], body.name]);
    } else if detail.has(network_flag::AS_PASSED) {
        // Relative to a directory that is not known any more, perhaps.
        event.set_text(field, body.name).mark_untrusted(field);
    } else {
        path::set(field, body.path, header.has(flag::PATH_CUT), event);
    }
}

#[cfg(test)]
mod tests {
    use sls_core::Value;

    use super::super::{decode, tests};
    use super::*;

    const CONNECT: u8 = 5;
    const ACCEPT: u8 = 6;
    const LISTEN: u8 = 7;
    const AF_INET: u16 = 2;

    fn detail(family: u16, protocol: u8, flags: u8, remote: [u8; 16], local: [u8; 16]) -> Vec<u8> {
        let mut bytes = [remote, local].concat();
        bytes.extend([443_u16, 50_000, family].map(u16::to_le_bytes).concat());
        bytes.extend([protocol, flags]);
        bytes
    }

    fn decoded(kind: u8, detail: &[u8], strings: [&[u8]; 5]) -> Event {
        let mut event = Event::new(EventKind::File);
        decode(&tests::detailed(kind, 0, detail, strings), &mut event).unwrap();
        event
    }

    fn four(last: u8) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&[192, 0, 2, last]);
        bytes
    }

    fn host(text: &str) -> Value<'static> {
        Value::Host(text.parse().unwrap())
    }

    #[test]
    fn connections_have_both_ends() {
        let event = decoded(CONNECT, &detail(AF_INET, 0, 0, four(1), four(2)), [b""; 5]);
        assert_eq!(event.kind, EventKind::Connect);
        assert_eq!(event.text(Field::Protocol), b"TCP");
        assert_eq!(event.value(Field::RemoteHost), host("192.0.2.1"));
        assert_eq!(event.value(Field::LocalHost), host("192.0.2.2"));
        assert_eq!([Field::RemotePort, Field::LocalPort].map(|field| event.number(field)), [443, 50_000].map(Some));
        assert_eq!(event.value(Field::InboundPort), Value::Absent);
    }

    #[test]
    fn inbound_is_the_peer_and_the_port_here() {
        let event = decoded(ACCEPT, &detail(AF_INET, 0, 0, four(1), four(2)), [b""; 5]);
        assert_eq!(event.value(Field::InboundHost), host("192.0.2.1"));
        assert_eq!([Field::InboundPort, Field::LocalPort].map(|field| event.number(field)), [Some(50_000); 2]);
        assert_eq!(event.value(Field::RemotePort), Value::Absent);
        let event = decoded(LISTEN, &detail(AF_INET, 1, 0, four(0), four(2)), [b""; 5]);
        assert_eq!(event.text(Field::Protocol), b"UDP");
        assert_eq!(event.value(Field::InboundHost), Value::Absent);
        assert_eq!(event.number(Field::InboundPort), Some(50_000));
    }

    #[test]
    fn mapped_addresses_are_of_the_older_protocol() {
        let mapped = "::ffff:192.0.2.7".parse::<Ipv6Addr>().unwrap().octets();
        let six = "2001:db8::1".parse::<Ipv6Addr>().unwrap().octets();
        let event = decoded(CONNECT, &detail(AF_INET6, 0, 0, mapped, six), [b""; 5]);
        assert_eq!(event.value(Field::RemoteHost), host("192.0.2.7"));
        assert_eq!(event.value(Field::LocalHost), host("2001:db8::1"));
    }

    #[test]
    fn what_is_not_chosen_yet_is_unknown() {
        let flags = network_flag::LOCAL_HOST_UNKNOWN | network_flag::LOCAL_PORT_UNKNOWN;
        let event = decoded(CONNECT, &detail(AF_INET, 1, flags, four(1), [0; 16]), [b""; 5]);
        assert_eq!([Field::LocalHost, Field::LocalPort].map(|field| event.value(field)), [Value::Unknown; 2]);
        assert_eq!(event.number(Field::RemotePort), Some(443));
        let event = decoded(ACCEPT, &[0; 39], [b""; 5]);
        assert_eq!([Field::InboundHost, Field::Protocol].map(|field| event.value(field)), [Value::Unknown; 2]);
    }

    #[test]
    fn unix_sockets_have_a_path_or_a_name() {
        let unix = |flags, strings| decoded(CONNECT, &detail(1, UNIX, flags, [0; 16], [0; 16]), strings);
        let file = unix(0, [b"docker.sock\0run\0", b"", b"", b"", b""]);
        assert_eq!(file.text(Field::SocketPath), b"/run/docker.sock");
        assert_eq!(file.text(Field::Protocol), b"UNIX");
        assert_eq!([Field::RemoteHost, Field::RemotePort].map(|field| file.value(field)), [Value::Absent; 2]);
        let name = unix(network_flag::ABSTRACT, [b"", b"", b"a\0b", b"", b""]);
        assert_eq!(name.text(Field::SocketPath), b"@a\0b");
        assert!(!name.untrusted().contains(Field::SocketPath));
        let passed = unix(network_flag::AS_PASSED, [b"", b"", b"./x", b"", b""]);
        assert_eq!(passed.text(Field::SocketPath), b"./x");
        assert!(passed.untrusted().contains(Field::SocketPath));
    }
}

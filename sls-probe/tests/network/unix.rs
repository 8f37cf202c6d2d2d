//! UNIX sockets.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram, UnixListener, UnixStream};

use io_uring::{IoUring, opcode, types};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrLike, socket};
use sls_core::{EventKind, Field, Value};

use super::common::{actor, family, not_offered, open_dir, role};
use super::{KINDS, own, perform, watch};

#[test]
fn unix_sockets_with_a_path() {
    let mut watch = watch();
    let (_guard, directory) = open_dir();
    let path = directory.join("stream");
    // However it was named, the file is where it is.
    let opened = fs::File::open(&directory).unwrap();
    let listener = UnixListener::bind(format!("/proc/self/fd/{}/stream", opened.as_raw_fd())).unwrap();
    let path = path.to_str().unwrap();
    let client = UnixStream::connect(path).unwrap();
    let server = listener.accept().unwrap();
    for kind in KINDS {
        let event = watch.until_unix(kind, path);
        assert_eq!(event.text(Field::Protocol), b"UNIX");
        assert_eq!(event.process.pid, own());
        for field in [Field::RemoteHost, Field::RemotePort, Field::InboundPort, Field::LocalHost, Field::LocalPort] {
            assert_eq!(event.value(field), Value::Absent);
        }
        assert_eq!(watch.unix(kind, path).len(), 1);
    }
    // Nobody listens any more; the file is there still.
    drop((listener, client, server));
    assert_eq!(UnixStream::connect(path).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    watch.settle();
    assert_eq!(watch.unix(EventKind::Connect, path).len(), 1);
}

#[test]
fn unix_sockets_with_an_abstract_name() {
    let mut watch = watch();
    let name = format!("sls-\0test-{}", own());
    let listener = UnixListener::bind_addr(&UnixAddr::from_abstract_name(&name).unwrap()).unwrap();
    let _client = UnixStream::connect_addr(&listener.local_addr().unwrap()).unwrap();
    let _server = listener.accept().unwrap();
    for kind in KINDS {
        watch.until_unix(kind, &format!("@{name}"));
    }
}

#[test]
fn unix_datagrams_are_reported_once() {
    let mut watch = watch();
    let (_guard, directory) = open_dir();
    let path = directory.join("datagram");
    let server = UnixDatagram::bind(&path).unwrap();
    let client = UnixDatagram::unbound().unwrap();
    if family().sees_objects() {
        client.send_to(b"x", &path).unwrap();
        client.send_to(b"x", &path).unwrap();
    }
    client.connect(&path).unwrap();
    client.send(b"x").unwrap();
    let path = path.to_str().unwrap();
    assert_eq!(watch.until_unix(EventKind::Connect, path).process.pid, own());
    watch.settle();
    assert_eq!(watch.unix(EventKind::Connect, path).len(), 1);
    // There is no listen and no accept of datagrams.
    drop(server);
    assert!(watch.unix(EventKind::Listen, path).is_empty() && watch.unix(EventKind::Accept, path).is_empty());
}

/// Whether UNIX sockets are seen where no system call tells of them.
fn sees_all_of_unix() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|number| number.parse().unwrap_or(0));
    let sees = family().sees_objects() || [numbers.next().unwrap(), numbers.next().unwrap()] >= [6, 7];
    if !sees {
        not_offered("kprobe", "CONFIG_KPROBES, CONFIG_KPROBE_EVENTS, or Linux 6.7");
    }
    sees
}

#[test]
fn datagrams_to_an_address() {
    if !sees_all_of_unix() {
        return;
    }
    let mut watch = watch();
    let (_guard, directory) = open_dir();
    let path = directory.join("datagram");
    let _server = UnixDatagram::bind(&path).unwrap();
    let name = format!("sls-datagram\0{}", own());
    let address = UnixAddr::from_abstract_name(&name).unwrap();
    let _named = UnixDatagram::bind_addr(&address).unwrap();
    let client = UnixDatagram::unbound().unwrap();
    for _ in 0..3 {
        client.send_to(b"x", &path).unwrap();
        client.send_to_addr(b"x", &address).unwrap();
    }
    for (path, resolved) in [(path.to_str().unwrap(), family().sees_objects()), (&*format!("@{name}"), true)] {
        let event = watch.until_unix(EventKind::Connect, path);
        assert_eq!(event.process.pid, own());
        assert_eq!(event.untrusted().contains(Field::SocketPath), !resolved);
        watch.settle();
        assert_eq!(watch.unix(EventKind::Connect, path).len(), 1);
    }
}

#[test]
fn unix_connections_through_io_uring() {
    let Ok(mut ring) = IoUring::new(4) else {
        return not_offered("io_uring", "CONFIG_IO_URING, kernel.io_uring_disabled=0");
    };
    if !sees_all_of_unix() {
        return;
    }
    let mut watch = watch();
    let (_guard, directory) = open_dir();
    let path = directory.join("stream");
    let _listener = UnixListener::bind(&path).unwrap();
    let client = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    let address = nix::sys::socket::UnixAddr::new(&path).unwrap();
    let request = opcode::Connect::new(types::Fd(client.as_raw_fd()), address.as_ptr().cast(), address.len()).build();
    assert_eq!(perform(&mut ring, &request), 0);
    let event = watch.until_unix(EventKind::Connect, path.to_str().unwrap());
    assert_eq!(event.process.pid, own());
    assert_eq!(event.untrusted().contains(Field::SocketPath), !family().sees_objects());
}

#[test]
fn pairs_of_sockets_are_no_connections() {
    if role().is_some() {
        let (mut a, mut b) = UnixStream::pair().unwrap();
        a.write_all(b"x").unwrap();
        b.read_exact(&mut [0]).unwrap();
        let (a, b) = UnixDatagram::pair().unwrap();
        a.send(b"x").unwrap();
        b.recv(&mut [0]).unwrap();
        return;
    }
    let mut watch = watch();
    let mut child = actor("unix::pairs_of_sockets_are_no_connections", "pairs").spawn().unwrap();
    assert!(child.wait().unwrap().success());
    watch.settle();
    let of_child = watch.of(child.id());
    assert!(of_child.is_empty(), "{of_child:?}");
}

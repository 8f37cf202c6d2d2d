//! Connections over loopback and UNIX sockets, as the running kernel sees them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

#[path = "../common/mod.rs"]
mod common;
mod unix;

use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode, types};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrIn,
    SockaddrLike, bind, connect, listen, recvmsg, sendmsg, sendto, socket,
};
use sls_core::{Event, EventKind, Field, Interest, PolicySet, Value};
use sls_probe::{HookFamily, Probe};

use common::{Watch, actor, family, not_offered, open_dir, role, without};

const KINDS: [EventKind; 3] = [EventKind::Connect, EventKind::Accept, EventKind::Listen];

fn interest(kinds: &[EventKind]) -> Interest {
    let mut interest = Interest::default();
    for kind in kinds {
        interest.add_kind(*kind);
    }
    interest
}

fn watching(interest: Interest) -> Watch {
    let builder = Probe::builder().exec(false).fork(false).exit(false).snapshot(false);
    Watch::with(builder.interest(interest).hooks(family()))
}

fn watch() -> Watch {
    watching(interest(&KINDS))
}

/// The port that a test looks at: tests run at once, in one process.
fn is(event: &Event, kind: EventKind, protocol: &str, field: Field, port: u16) -> bool {
    event.kind == kind && event.text(Field::Protocol) == protocol.as_bytes() && event.number(field) == Some(port.into())
}

fn matching<'w>(watch: &'w Watch, kind: EventKind, protocol: &str, field: Field, port: u16) -> Vec<&'w Event> {
    watch.events.iter().filter(|event| is(event, kind, protocol, field, port)).collect()
}

impl Watch {
    /// The one event of the kind at this port.
    fn one(&mut self, kind: EventKind, protocol: &str, field: Field, port: u16) -> Event {
        self.until("an event", |events| events.iter().any(|event| is(event, kind, protocol, field, port)));
        let found = matching(self, kind, protocol, field, port);
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].clone()
    }

    fn connect(&mut self, protocol: &str, port: u16) -> Event {
        self.one(EventKind::Connect, protocol, Field::RemotePort, port)
    }

    fn accept(&mut self, port: u16) -> Event {
        self.one(EventKind::Accept, "TCP", Field::InboundPort, port)
    }

    fn listen(&mut self, protocol: &str, port: u16) -> Event {
        self.one(EventKind::Listen, protocol, Field::InboundPort, port)
    }

    /// Waits until all that happened before is known to have been seen.
    fn settle(&mut self) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let _connection = TcpStream::connect(("127.0.0.1", port)).unwrap();
        self.until("the last connection", |events| {
            events.iter().any(|event| is(event, EventKind::Connect, "TCP", Field::RemotePort, port))
        });
    }

    fn unix(&self, kind: EventKind, path: &str) -> Vec<&Event> {
        let named = |event: &&Event| event.kind == kind && event.text(Field::SocketPath) == path.as_bytes();
        self.events.iter().filter(named).collect()
    }

    fn until_unix(&mut self, kind: EventKind, path: &str) -> Event {
        self.until(&format!("{kind:?} of {path}"), |events| {
            events.iter().any(|event| event.kind == kind && event.text(Field::SocketPath) == path.as_bytes())
        });
        self.unix(kind, path)[0].clone()
    }
}

fn host(event: &Event, field: Field) -> IpAddr {
    match event.value(field) {
        Value::Host(address) => address,
        other => panic!("{field} is {other:?} in {event:?}"),
    }
}

const FOUR: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const SIX: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// Some machines have no IPv6.
fn hosts() -> Vec<IpAddr> {
    let six = TcpListener::bind((SIX, 0)).is_ok();
    if !six {
        without("ipv6", "IPv6");
    }
    [FOUR].into_iter().chain(six.then_some(SIX)).collect()
}

fn own() -> u32 {
    std::process::id()
}

#[test]
fn tcp_has_both_ends_on_both_sides() {
    let mut watch = watch();
    for address in hosts() {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect((address, port)).unwrap();
        let client_port = client.local_addr().unwrap().port();
        let (_server, peer) = listener.accept().unwrap();
        assert_eq!(peer.port(), client_port);

        let event = watch.listen("TCP", port);
        assert_eq!((host(&event, Field::LocalHost), event.number(Field::LocalPort)), (address, Some(port.into())));
        assert_eq!(event.value(Field::InboundHost), Value::Absent);
        let event = watch.connect("TCP", port);
        assert_eq!((host(&event, Field::RemoteHost), host(&event, Field::LocalHost)), (address, address));
        assert_eq!(event.number(Field::LocalPort), Some(client_port.into()));
        assert_eq!((event.process.pid, event.kernel_thread), (own(), false));
        assert_eq!(event.value(Field::SocketPath), Value::Absent);
        let event = watch.accept(port);
        assert_eq!((host(&event, Field::InboundHost), host(&event, Field::LocalHost)), (address, address));
        assert_eq!(event.number(Field::LocalPort), Some(port.into()));
        assert_eq!(event.process.pid, own());
        assert_eq!(event.text(Field::ProcessName), comm().as_bytes());
    }
    for kind in KINDS {
        assert_eq!(watch.probe.lost(kind).unwrap(), 0);
    }
}

/// Of this thread.
fn comm() -> String {
    fs::read_to_string("/proc/thread-self/comm").unwrap().trim_end().to_owned()
}

/// A port at which nobody listens. It is bound, so that nobody else gets it.
fn closed_port() -> (OwnedFd, u16) {
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(fd.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
    let name: SockaddrIn = nix::sys::socket::getsockname(fd.as_raw_fd()).unwrap();
    (fd, name.port())
}

#[test]
fn refused_and_non_blocking_connections_are_attempts() {
    let mut watch = watch();
    let (_fd, port) = closed_port();
    assert_eq!(TcpStream::connect((FOUR, port)).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    assert_eq!(host(&watch.connect("TCP", port), Field::RemoteHost), FOUR);

    let listener = TcpListener::bind((FOUR, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_NONBLOCK, None).unwrap();
    let result = connect(fd.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, port));
    assert_eq!(result, Err(nix::errno::Errno::EINPROGRESS));
    let event = watch.connect("TCP", port);
    assert!(event.number(Field::LocalPort).unwrap() > 0);
    listener.set_nonblocking(true).unwrap();
    while listener.accept().is_err() {}
    watch.accept(port);
}

#[test]
fn ipv4_through_an_ipv6_socket_is_ipv4() {
    if hosts().len() < 2 {
        return not_offered("ipv6", "CONFIG_IPV6, net.ipv6.conf.lo.disable_ipv6=0");
    }
    let mut watch = watch();
    let mapped = IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped());
    let listener = TcpListener::bind((IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let _client = TcpStream::connect((mapped, port)).unwrap();
    drop(listener.accept().unwrap());
    assert_eq!(host(&watch.listen("TCP", port), Field::LocalHost), IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    let event = watch.connect("TCP", port);
    assert_eq!((host(&event, Field::RemoteHost), host(&event, Field::LocalHost)), (FOUR, FOUR));
    let event = watch.accept(port);
    assert_eq!((host(&event, Field::InboundHost), host(&event, Field::LocalHost)), (FOUR, FOUR));

    let server = UdpSocket::bind((FOUR, 0)).unwrap();
    let port = server.local_addr().unwrap().port();
    let client = UdpSocket::bind((IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0)).unwrap();
    client.send_to(b"x", (mapped, port)).unwrap();
    assert_eq!(host(&watch.connect("UDP", port), Field::RemoteHost), FOUR);
    let other = UdpSocket::bind((FOUR, 0)).unwrap();
    let port = other.local_addr().unwrap().port();
    client.connect((mapped, port)).unwrap();
    assert_eq!(host(&watch.connect("UDP", port), Field::RemoteHost), FOUR);
}

#[test]
fn udp_connects_and_sends() {
    let mut watch = watch();
    for address in hosts() {
        // Without a port of its own: nobody waits for datagrams there.
        let server = UdpSocket::bind((address, 0)).unwrap();
        let port = server.local_addr().unwrap().port();
        let client = UdpSocket::bind((address, 0)).unwrap();
        let client_port = client.local_addr().unwrap().port();
        for _ in 0..20 {
            client.send_to(b"x", (address, port)).unwrap();
        }
        let event = watch.connect("UDP", port);
        assert_eq!((host(&event, Field::RemoteHost), host(&event, Field::LocalHost)), (address, address));
        assert_eq!(event.number(Field::LocalPort), Some(client_port.into()));
        assert_eq!(event.process.pid, own());
        assert!(matching(&watch, EventKind::Listen, "UDP", Field::InboundPort, port).is_empty());

        // Each address once, and the same from another socket again.
        let other = UdpSocket::bind((address, 0)).unwrap();
        let other_port = other.local_addr().unwrap().port();
        client.send_to(b"x", (address, other_port)).unwrap();
        watch.connect("UDP", other_port);
        other.send_to(b"x", (address, port)).unwrap();
        watch.settle();
        assert_eq!(matching(&watch, EventKind::Connect, "UDP", Field::RemotePort, port).len(), 2);

        let target = UdpSocket::bind((address, 0)).unwrap();
        let port = target.local_addr().unwrap().port();
        let client = unbound_udp(address);
        client.connect((address, port)).unwrap();
        for _ in 0..3 {
            client.send(b"x").unwrap();
        }
        watch.settle();
        let event = watch.connect("UDP", port);
        assert_eq!(host(&event, Field::RemoteHost), address);
        if family() == HookFamily::Trampoline {
            assert_eq!(host(&event, Field::LocalHost), address);
            assert_eq!(event.number(Field::LocalPort), Some(client.local_addr().unwrap().port().into()));
        } else {
            // The kernel chooses both only afterwards.
            assert_eq!([Field::LocalHost, Field::LocalPort].map(|field| event.value(field)), [Value::Unknown; 2]);
        }
    }
}

fn unbound_udp(address: IpAddr) -> UdpSocket {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).unwrap().into()
}

#[test]
fn udp_sockets_that_are_bound_to_a_port_listen() {
    let mut watch = watch();
    for address in hosts() {
        let free = UdpSocket::bind((address, 0)).unwrap().local_addr().unwrap().port();
        let bound = UdpSocket::bind((address, free)).unwrap();
        let event = watch.listen("UDP", free);
        assert_eq!(host(&event, Field::LocalHost), address);
        // A port that is taken is not had.
        assert!(UdpSocket::bind((address, free)).is_err());
        // Nor is one that the kernel chooses named, even by the thread whose last one failed.
        let chosen = UdpSocket::bind((address, 0)).unwrap().local_addr().unwrap().port();
        watch.settle();
        assert_eq!(matching(&watch, EventKind::Listen, "UDP", Field::InboundPort, free).len(), 1);
        assert!(matching(&watch, EventKind::Listen, "UDP", Field::InboundPort, chosen).is_empty());
        drop(bound);
    }
}

/// Standard input as the socket that it is.
fn stdin<T: From<OwnedFd>>() -> T {
    let fd = nix::unistd::dup(io::stdin()).unwrap();
    T::from(fd)
}

#[test]
fn who_accepts_is_who_is_reported() {
    if role().is_some() {
        drop(stdin::<TcpListener>().accept().unwrap());
        return;
    }
    let mut watch = watch();
    let listener = TcpListener::bind((FOUR, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut child = actor("who_accepts_is_who_is_reported", "accept");
    let mut child = child.stdin(Stdio::from(OwnedFd::from(listener))).spawn().unwrap();
    let _client = TcpStream::connect((FOUR, port)).unwrap();
    assert!(child.wait().unwrap().success());
    let (listened, connected, accepted) = (watch.listen("TCP", port), watch.connect("TCP", port), watch.accept(port));
    assert_eq!([listened, connected].map(|event| event.process.pid), [own(); 2]);
    assert_eq!((accepted.process.pid, accepted.parent.pid), (child.id(), own()));
}

#[test]
fn a_listening_socket_that_was_passed() {
    if role().is_some() {
        let channel: UnixStream = stdin();
        let mut space = nix::cmsg_space!([i32; 1]);
        let mut byte = [0];
        let mut iov = [IoSliceMut::new(&mut byte)];
        let message = recvmsg::<()>(channel.as_raw_fd(), &mut iov, Some(&mut space), MsgFlags::empty()).unwrap();
        let fds = message.cmsgs().unwrap().find_map(|message| match message {
            ControlMessageOwned::ScmRights(fds) => Some(fds),
            _ => None,
        });
        // SAFETY: the kernel has just made it for this process.
        let fd = unsafe { OwnedFd::from_raw_fd(fds.unwrap()[0]) };
        drop(TcpListener::from(fd).accept().unwrap());
        return;
    }
    let mut watch = watch();
    let (here, there) = UnixStream::pair().unwrap();
    let mut child = actor("a_listening_socket_that_was_passed", "receive");
    let mut child = child.stdin(Stdio::from(OwnedFd::from(there))).spawn().unwrap();
    let listener = TcpListener::bind((FOUR, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let fds = [listener.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(here.as_raw_fd(), &[IoSlice::new(b"x")], &rights, MsgFlags::empty(), None).unwrap();
    drop(listener);
    let _client = TcpStream::connect((FOUR, port)).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(watch.accept(port).process.pid, child.id());
}

#[test]
fn connections_through_io_uring() {
    let Ok(mut ring) = IoUring::new(4) else {
        return not_offered("io_uring", "CONFIG_IO_URING, kernel.io_uring_disabled=0");
    };
    let mut watch = watch();
    let listener = TcpListener::bind((FOUR, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    let address = SockaddrIn::new(127, 0, 0, 1, port);
    let request = opcode::Connect::new(types::Fd(client.as_raw_fd()), address.as_ptr().cast(), address.len()).build();
    assert_eq!(perform(&mut ring, &request), 0);
    let event = watch.connect("TCP", port);
    assert_eq!((event.process.pid, host(&event, Field::RemoteHost)), (own(), FOUR));

    let accept = opcode::Accept::new(types::Fd(listener.as_raw_fd()), std::ptr::null_mut(), std::ptr::null_mut());
    let accepted = perform(&mut ring, &accept.build());
    assert!(accepted >= 0);
    // SAFETY: the kernel has just made it for this process.
    drop(unsafe { OwnedFd::from_raw_fd(accepted) });
    if !family().sees_objects() {
        without("kprobe", "connections that io_uring accepts");
    } else {
        assert_eq!(watch.accept(port).process.pid, own());
    }
}

/// Submits one request whose memory outlives it, and returns its result.
fn perform(ring: &mut IoUring, request: &io_uring::squeue::Entry) -> i32 {
    // SAFETY: it is waited for here, and what it points to lives in the caller.
    unsafe { ring.submission().push(request).unwrap() };
    ring.submit_and_wait(1).unwrap();
    ring.completion().next().unwrap().result()
}

#[test]
fn connections_without_a_call_to_connect() {
    let mut watch = watch();
    let listener = TcpListener::bind((FOUR, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    let address = SockaddrIn::new(127, 0, 0, 1, port);
    match sendto(client.as_raw_fd(), b"x", &address, MsgFlags::from_bits_retain(libc::MSG_FASTOPEN)) {
        Ok(sent) => assert_eq!(sent, 1),
        Err(error) => {
            return not_offered("tcp_fastopen", &format!("net.ipv4.tcp_fastopen=1: {error}"));
        }
    }
    drop(listener.accept().unwrap());
    assert_eq!(host(&watch.connect("TCP", port), Field::RemoteHost), FOUR);
    assert_eq!(watch.accept(port).process.pid, own());
}

#[test]
fn several_paths_are_one_connection() {
    let Some(listener) = mptcp() else {
        return not_offered("mptcp", "CONFIG_MPTCP, net.mptcp.enabled=1");
    };
    let mut watch = watch();
    bind(listener.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
    listen(&listener, Backlog::new(8).unwrap()).unwrap();
    let listener = TcpListener::from(listener);
    let port = listener.local_addr().unwrap().port();
    let client = mptcp().unwrap();
    connect(client.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, port)).unwrap();
    drop(listener.accept().unwrap());
    assert_eq!(watch.listen("TCP", port).process.pid, own());
    assert_eq!(watch.connect("TCP", port).process.pid, own());
    assert_eq!(host(&watch.accept(port), Field::InboundHost), FOUR);
}

fn mptcp() -> Option<OwnedFd> {
    // SAFETY: it takes numbers only.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, libc::IPPROTO_MPTCP) };
    // SAFETY: the kernel has just made it for this process.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

#[test]
fn processes_in_another_network_namespace() {
    if role().is_some() {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        raise_loopback();
        let listener = TcpListener::bind((FOUR, 0)).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        drop(listener.accept().unwrap());
        return;
    }
    let mut watch = watch();
    let mut child = actor("processes_in_another_network_namespace", "elsewhere").spawn().unwrap();
    assert!(child.wait().unwrap().success());
    let pid = child.id();
    watch.until("all three", |events| {
        KINDS.iter().all(|kind| events.iter().any(|event| event.process.pid == pid && event.kind == *kind))
    });
    assert_eq!(host(&watch.last(pid, EventKind::Connect), Field::RemoteHost), FOUR);
}

fn raise_loopback() {
    let fd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).unwrap();
    // SAFETY: all zeros are a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[..2].copy_from_slice(&[b'l' as libc::c_char, b'o' as libc::c_char]);
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the kernel only reads the request.
    assert_eq!(unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCSIFFLAGS, &request) }, 0);
}

#[test]
fn processes_that_are_gone_at_once() {
    if let Some(port) = role() {
        drop(TcpStream::connect((FOUR, port.parse().unwrap())).unwrap());
        std::process::exit(0);
    }
    let mut watch = watch();
    let listener = TcpListener::bind((FOUR, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut child = actor("processes_that_are_gone_at_once", &port.to_string()).spawn().unwrap();
    assert!(child.wait().unwrap().success());
    let event = watch.connect("TCP", port);
    assert_eq!((event.process.pid, event.parent.pid), (child.id(), own()));
    assert_eq!(event.number(Field::Uid), Some(0));
}

/// A TCP, a UDP and a UNIX connection with all that belongs to them. The ports are those of TCP and UDP.
fn make_one_of_each(directory: &Path) -> (u16, u16, String) {
    let listener = TcpListener::bind((FOUR, 0)).unwrap();
    let tcp = listener.local_addr().unwrap().port();
    let _client = TcpStream::connect((FOUR, tcp)).unwrap();
    drop(listener.accept().unwrap());
    let udp = UdpSocket::bind((FOUR, 0)).unwrap().local_addr().unwrap().port();
    let _bound = UdpSocket::bind((FOUR, udp)).unwrap();
    UdpSocket::bind((FOUR, 0)).unwrap().send_to(b"x", (FOUR, udp)).unwrap();
    let path = directory.join(format!("{tcp}"));
    let listener = UnixListener::bind(&path).unwrap();
    let _client = UnixStream::connect(&path).unwrap();
    drop(listener.accept().unwrap());
    (tcp, udp, path.to_str().unwrap().to_owned())
}

#[test]
fn what_is_not_wanted_is_not_given() {
    let (_guard, directory) = open_dir();
    let mut none = watching(Interest::default());
    make_one_of_each(&directory);
    none.poll(Duration::from_millis(100));
    assert!(none.events.is_empty());

    // Each kind alone.
    for kind in KINDS {
        let mut watch = watching(interest(&[kind]));
        let (tcp, udp, path) = make_one_of_each(&directory);
        let port = if kind == EventKind::Connect { Field::RemotePort } else { Field::InboundPort };
        watch.until_unix(kind, &path);
        watch.one(kind, "TCP", port, tcp);
        if kind != EventKind::Accept {
            watch.one(kind, "UDP", port, udp);
        }
        assert!(watch.events.iter().all(|event| event.kind == kind));
    }
}

fn policies(rule: &str) -> Interest {
    let text = format!("A:\n  policy: connect\n  rules:\n    - match {rule}\n    - default ignore\n");
    PolicySet::from_yaml("policy.yaml", text).unwrap().interest()
}

#[test]
fn ports_and_protocols_are_filtered_and_can_change() {
    let (_guard, directory) = open_dir();
    let listener = TcpListener::bind((FOUR, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let connect = || drop(TcpStream::connect((FOUR, port)).unwrap());
    let mut watch = watching(policies(&format!("protocol == \"TCP\" and remotePort == {port}")));
    make_one_of_each(&directory);
    connect();
    watch.until("the connection", |events| !events.is_empty());
    watch.poll(Duration::from_millis(50));
    assert_eq!(
        (watch.events.len(), matching(&watch, EventKind::Connect, "TCP", Field::RemotePort, port).len()),
        (1, 1)
    );

    // Another port.
    let other = TcpListener::bind((FOUR, 0)).unwrap();
    let other_port = other.local_addr().unwrap().port();
    watch.probe.set_interest(policies(&format!("protocol == \"TCP\" and remotePort == {other_port}"))).unwrap();
    watch.events.clear();
    connect();
    drop(TcpStream::connect((FOUR, other_port)).unwrap());
    watch.connect("TCP", other_port);
    watch.poll(Duration::from_millis(50));
    assert_eq!(watch.events.len(), 1);

    // Another protocol, of any name.
    watch.probe.set_interest(policies("protocol == \"UNIX\"")).unwrap();
    watch.events.clear();
    connect();
    let (_, _, path) = make_one_of_each(&directory);
    watch.until_unix(EventKind::Connect, &path);
    assert!(watch.events.iter().all(|event| event.text(Field::Protocol) == b"UNIX"));

    // Any port.
    watch.probe.set_interest(policies("remoteHost == \"127.0.0.0/8\"")).unwrap();
    connect();
    let (_, udp, _) = make_one_of_each(&directory);
    watch.connect("TCP", port);
    watch.connect("UDP", udp);
}

#[test]
fn nothing_stays_attached() {
    if role().is_some() {
        let probe = Probe::builder().interest(interest(&KINDS)).hooks(family()).load().unwrap().attach().unwrap();
        let programs = own_programs();
        assert!(programs.len() > 10, "{programs:?}");
        let links = links();
        assert!(programs.iter().all(|id| links.contains(&format!("  prog {id}  "))), "{links}");
        drop(probe);
        // Programs are freed a moment after their links are gone.
        let deadline = Instant::now() + Duration::from_secs(10);
        while programs.iter().any(|id| bpftool(&["prog", "show", "id", id]).is_some()) {
            assert!(Instant::now() < deadline, "programs remain");
            thread::sleep(Duration::from_millis(20));
        }
        return;
    }
    if bpftool(&["version"]).is_none() {
        return not_offered("bpftool", "bpftool of Debian");
    }
    let status = actor("nothing_stays_attached", "attach").status().unwrap();
    assert!(status.success());
}

fn bpftool(arguments: &[&str]) -> Option<String> {
    let output = Command::new("bpftool").args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

fn links() -> String {
    bpftool(&["link", "show"]).unwrap().replace('\n', "  \n")
}

/// Of the programs for which this process has a descriptor, those that are attached by a link: all but the iterator.
fn own_programs() -> Vec<String> {
    let mut ids = Vec::new();
    for entry in fs::read_dir("/proc/self/fdinfo").unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
        let of = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(|value| value.trim().to_owned());
        if of("link_id:").is_some() && of("link_type:").as_deref() != Some("iter") {
            ids.extend(of("prog_id:"));
        }
    }
    ids
}

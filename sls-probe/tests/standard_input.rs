//! What the standard input of real programs is. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use nix::sys::memfd::{MFdFlags, memfd_create};
use sls_core::{EventKind, Field, Value};
use sls_probe::Probe;

use common::{Running, Watch, has, text};

fn of(watch: &mut Watch, input: impl Into<Stdio>) -> String {
    text(&watch.exec_of(Command::new("/bin/true").stdin(input.into())), Field::StandardInput)
}

#[test]
fn each_kind_of_standard_input_is_told() {
    let mut watch = Watch::start();
    assert_eq!(of(&mut watch, Stdio::null()), "DEVICE");
    assert_eq!(of(&mut watch, File::open("/dev/zero").unwrap()), "DEVICE");
    assert_eq!(of(&mut watch, Stdio::piped()), "PIPE");
    assert_eq!(of(&mut watch, tempfile::tempfile().unwrap()), "FILE");
    assert_eq!(of(&mut watch, File::open("/").unwrap()), "FILE");
    assert_eq!(of(&mut watch, memfd_create(c"input", MFdFlags::empty()).unwrap()), "FILE");
    assert_eq!(of(&mut watch, OwnedFd::from(UnixStream::pair().unwrap().0)), "SOCKET");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    assert_eq!(of(&mut watch, OwnedFd::from(stream)), "SOCKET");
    let terminal = nix::pty::openpty(None, None).unwrap();
    assert_eq!(of(&mut watch, terminal.slave), "TERMINAL");
    assert_eq!(of(&mut watch, terminal.master), "TERMINAL");
}

#[test]
fn terminal_by_the_name_of_every_terminal() {
    let mut watch = Watch::start();
    let terminal = nix::pty::openpty(None, None).unwrap();
    let mut command = Command::new("setsid");
    command.args(["--ctty", "sh", "-c", "exec /bin/true < /dev/tty"]).stdin(terminal.slave);
    assert_eq!(text(&watch.exec_of(&mut command), Field::StandardInput), "TERMINAL");
}

#[test]
fn closed_input_has_no_value() {
    let event = Watch::start().exec_of(Command::new("sh").args(["-c", "exec /bin/true <&-"]));
    assert_eq!(event.value(Field::StandardInput), Value::Absent);
    assert!(event.unknown().is_empty());
}

#[test]
fn running_processes_have_it_too() {
    let sleeper = Running(Command::new("sleep").arg("60").stdin(Stdio::piped()).spawn().unwrap());
    let mut watch = Watch::with(Probe::builder().exec(false).fork(false).exit(false));
    let pid = sleeper.0.id();
    watch.until("the baseline", |events| has(events, pid, EventKind::Baseline));
    assert_eq!(text(&watch.last(pid, EventKind::Baseline), Field::StandardInput), "PIPE");
}

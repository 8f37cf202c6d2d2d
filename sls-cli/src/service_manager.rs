//! What the service manager is told (`sd_notify(3)`): when the sensor watches, reloads and stops, and that it still turns.

use std::env;
use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

const SOCKET: &str = "NOTIFY_SOCKET";

/// A socket to the service manager, if there is one that wants to know. Clones have the same.
#[derive(Clone, Debug)]
pub(crate) struct ServiceManager(Option<Arc<Socket>>);

#[derive(Debug)]
struct Socket {
    socket: UnixDatagram,
    address: SocketAddr,
}

impl ServiceManager {
    /// That of the environment. To be called while the sensor may still open whatever it likes.
    pub(crate) fn of_environment() -> Self {
        let Some(address) = env::var_os(SOCKET).filter(|address| !address.is_empty()) else { return Self(None) };
        match Socket::open(&address) {
            Ok(socket) => Self(Some(Arc::new(socket))),
            Err(error) => {
                tracing::warn!(%error, address = %address.display(), "the service manager cannot be told anything");
                Self(None)
            }
        }
    }

    /// Everything is attached, and the policies are in force; or those of a reload are, or stayed.
    pub(crate) fn ready(&self, status: &str) {
        self.tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// The policies are being loaded again. [`ServiceManager::ready`] has to follow.
    pub(crate) fn reloading(&self) {
        // Managers that know of this want to know when it began; for others it is one line more.
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now, NotifyState::Status("loading the policies")]),
            Err(error) => tracing::warn!(%error, "the service manager is not told of the reload"),
        }
    }

    pub(crate) fn stopping(&self) {
        self.tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    }

    /// The watchdog, if the service manager has one.
    pub(crate) fn watchdog(&self) -> Watchdog {
        let interval = sd_notify::watchdog_enabled().filter(|interval| self.0.is_some() && !interval.is_zero());
        Watchdog { manager: self.clone(), interval: interval.map(|interval| interval / 2), last: None }
    }

    fn tell(&self, states: &[NotifyState<'_>]) {
        let Some(socket) = &self.0 else { return };
        let message: String = states.iter().map(|state| format!("{state}\n")).collect();
        if let Err(error) = socket.send(message.as_bytes()) {
            tracing::warn!(%error, "the service manager could not be told");
        }
    }
}

impl Socket {
    fn open(address: &OsStr) -> io::Result<Self> {
        let address = match address.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(address)?,
        };
        let socket = UnixDatagram::unbound()?;
        // A service manager that is stuck itself must not stop the sensor.
        socket.set_nonblocking(true)?;
        socket.connect_addr(&address)?;
        Ok(Self { socket, address })
    }

    fn send(&self, message: &[u8]) -> io::Result<()> {
        match self.socket.send(message) {
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotConnected) => {
                // The manager has been renewed, and has another socket of the same name.
                self.socket.connect_addr(&self.address)?;
                self.socket.send(message)
            }
            result => result,
        }
        .map(drop)
    }
}

/// Tells the service manager that the loop of events turns. Nothing else may call it: the manager kills a sensor of which it
/// hears nothing.
#[derive(Debug)]
pub(crate) struct Watchdog {
    manager: ServiceManager,
    /// Half of what the manager waits.
    interval: Option<Duration>,
    last: Option<Instant>,
}

impl Watchdog {
    /// The longest that the loop may rest: a manager that is impatient wants it to turn more often.
    pub(crate) fn longest_rest(&self, usual: Duration) -> Duration {
        self.interval.map_or(usual, |interval| usual.min(interval / 2))
    }

    /// The loop has turned once more. `status` says in a line how the sensor does.
    pub(crate) fn turned(&mut self, status: impl FnOnce() -> String) {
        let Some(interval) = self.interval else { return };
        let now = Instant::now();
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < interval) {
            return;
        }
        self.last = Some(now);
        self.manager.tell(&[NotifyState::Watchdog, NotifyState::Status(&status())]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_holds_nobody_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let socket = Socket::open(path.as_os_str()).unwrap();
        let error = (0..100_000).find_map(|_| socket.send(b"WATCHDOG=1\n").err()).expect("the queue has no end");
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        drop(manager);
        assert!(socket.send(b"WATCHDOG=1\n").is_err());
        std::fs::remove_file(&path).unwrap();
        let renewed = UnixDatagram::bind(&path).unwrap();
        socket.send(b"READY=1\n").unwrap();
        let mut message = [0; 64];
        let length = renewed.recv(&mut message).unwrap();
        assert_eq!(&message[..length], b"READY=1\n");
    }

    #[test]
    fn names_without_a_file_are_names_too() {
        let name = format!("sls-test-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        Socket::open(OsStr::new(&format!("@{name}"))).unwrap().send(b"STOPPING=1\n").unwrap();
        let mut message = [0; 64];
        let length = manager.recv(&mut message).unwrap();
        assert_eq!(&message[..length], b"STOPPING=1\n");
    }
}

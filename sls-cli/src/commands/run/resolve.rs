//! Resolves the domain names in lists of hosts, at load and whenever they are due, away from the thread that reads events.

use std::collections::HashMap;
use std::net::ToSocketAddrs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use sls_core::{HostName, PolicySet};

/// The thread that resolves names. Of policies that it has no time for, only the newest wait.
pub(super) struct Resolver {
    sender: Sender<Arc<PolicySet>>,
    waiting: Receiver<Arc<PolicySet>>,
}

impl Resolver {
    pub(super) fn start() -> anyhow::Result<Self> {
        let (sender, receiver) = bounded(1);
        let waiting = receiver.clone();
        std::thread::Builder::new().name("sls-resolve".into()).spawn(move || run(&receiver))?;
        Ok(Self { sender, waiting })
    }

    /// Resolves the names of these policies from now on, and no others.
    pub(super) fn resolve(&self, policies: &Arc<PolicySet>) {
        if let Err(TrySendError::Full(policies)) = self.sender.try_send(policies.clone()) {
            let _ = self.waiting.try_recv();
            // Nobody else sends, so there is room now.
            let _ = self.sender.try_send(policies);
        }
    }
}

/// With nothing to resolve it waits for policies.
const IDLE: Duration = Duration::from_secs(24 * 60 * 60);

fn run(policies: &Receiver<Arc<PolicySet>>) {
    let Ok(mut current) = policies.recv() else { return };
    let mut resolutions = HashMap::new();
    loop {
        // The same name may stand in several lists.
        let mut names: HashMap<&str, Vec<&HostName>> = HashMap::new();
        for name in current.host_names() {
            names.entry(name.name()).or_default().push(name);
        }
        resolutions.retain(|name: &String, _| names.contains_key(&**name));
        for (name, places) in &names {
            // A slow name must not keep new policies waiting.
            if !policies.is_empty() {
                break;
            }
            resolutions.entry((*name).to_owned()).or_insert_with(Resolution::default).refresh(name, places);
        }
        let next = resolutions.values().filter_map(|resolution| resolution.due).min();
        let wait = next.map_or(IDLE, |due| due.saturating_duration_since(Instant::now()));
        match policies.recv_timeout(wait) {
            Ok(newer) => {
                current = newer;
                // Names of a new set are resolved at once.
                resolutions.values_mut().for_each(|resolution| resolution.due = None);
            }
            Err(error) if error.is_disconnected() => return,
            Err(_) => {}
        }
    }
}

/// How one name fares.
#[derive(Default)]
struct Resolution {
    due: Option<Instant>,
    failed: bool,
}

impl Resolution {
    fn refresh(&mut self, name: &str, places: &[&HostName]) {
        let now = Instant::now();
        if self.due.is_some_and(|due| due > now) {
            return;
        }
        match (name, 0).to_socket_addrs() {
            Ok(addresses) => {
                let addresses: Vec<_> = addresses.map(|address| address.ip()).collect();
                tracing::debug!(name, ?addresses, "resolved");
                places.iter().for_each(|place| place.set_addresses(addresses.iter().copied()));
                self.failed = false;
            }
            // Once for each change: what it resolved to before stays.
            Err(error) if !self.failed => {
                tracing::warn!(name, %error, "cannot resolve a name in a list of hosts");
                self.failed = true;
            }
            Err(_) => {}
        }
        self.due = places.iter().map(|place| now + place.resolve_every()).min();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_policies_wait() {
        let (sender, waiting) = bounded(1);
        let resolver = Resolver { sender, waiting };
        let [first, second] = [(); 2].map(|()| Arc::new(PolicySet::default()));
        resolver.resolve(&first);
        resolver.resolve(&second);
        assert!(Arc::ptr_eq(&resolver.waiting.try_recv().unwrap(), &second));
        assert!(resolver.waiting.is_empty());
    }

    #[test]
    fn names_are_resolved_and_resolved_again_after_a_reload() {
        let load = |text: &str| Arc::new(PolicySet::from_yaml("p.yaml", text).unwrap());
        let resolver = Resolver::start().unwrap();
        for list in ["[localhost]", "[nowhere.invalid, localhost]"] {
            let policies = load(&format!("Here: {{type: hosts, list: {list}}}"));
            resolver.resolve(&policies);
            let here = policies.host_names().find(|name| name.name() == "localhost").unwrap();
            let deadline = Instant::now() + Duration::from_secs(30);
            while here.addresses().is_empty() {
                assert!(Instant::now() < deadline, "localhost was not resolved");
                std::thread::sleep(Duration::from_millis(10));
            }
            assert!(here.addresses().iter().all(std::net::IpAddr::is_loopback));
        }
    }
}

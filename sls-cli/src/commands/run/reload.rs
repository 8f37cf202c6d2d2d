//! Loads the policies again when their files change or SIGHUP arrives, away from the thread that reads events.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use signal_hook::consts::SIGHUP;
use signal_hook::iterator::Signals;
use sls_core::{Capabilities, PolicySet};

use super::trials::Trials;
use crate::exit::show;
use crate::policies::Documents;
use crate::service_manager::ServiceManager;

/// How often the files are looked at.
const INTERVAL: Duration = Duration::from_millis(500);

/// Looks after the files of the policies.
pub(super) struct Watch {
    documents: Documents,
    capabilities: Capabilities,
    manager: ServiceManager,
    hangups: Signals,
    seen: Fingerprint,
}

impl Watch {
    /// Takes note of how the files are now, and of SIGHUP from now on.
    pub(super) fn new(
        documents: Documents,
        capabilities: Capabilities,
        manager: ServiceManager,
    ) -> anyhow::Result<Self> {
        let hangups = Signals::new([SIGHUP])?;
        let seen = fingerprint(&documents.files);
        Ok(Self { documents, capabilities, manager, hangups, seen })
    }

    /// Starts looking; every set that loads is sent. One that does not is explained, and the policies stay as they are.
    pub(super) fn start(self, trials: Trials) -> anyhow::Result<Receiver<PolicySet>> {
        let (reloads, receiver) = bounded(1);
        std::thread::Builder::new().name("sls-reload".into()).spawn(move || self.run(&reloads, trials))?;
        Ok(receiver)
    }

    fn run(mut self, reloads: &Sender<PolicySet>, mut trials: Trials) {
        let mut last = self.seen.clone();
        loop {
            std::thread::sleep(INTERVAL);
            let now = fingerprint(&self.documents.files);
            // A file that is being written is left alone until it has been still for an interval.
            let still = now == last;
            last.clone_from(&now);
            let asked = self.hangups.pending().count() > 0;
            if !asked && (now == self.seen || !still) {
                continue;
            }
            self.seen = now;
            self.manager.reloading();
            match self.documents.load_for_this_host(self.capabilities.clone()) {
                Ok(policies) => {
                    super::log_warnings(&policies);
                    if let Err(error) = trials.of(&policies) {
                        tracing::error!("cannot try the actions of the new policies: {error:#}");
                    }
                    if reloads.send(policies).is_err() {
                        return;
                    }
                }
                Err(diagnostics) => {
                    show(&diagnostics);
                    let reason = "the policies are invalid: those loaded before stay in force";
                    tracing::error!("{reason}");
                    self.manager.ready(reason);
                }
            }
        }
    }
}

/// What tells that a file was replaced or rewritten.
type Fingerprint = Vec<Option<(u64, u64, u64, i64, i64)>>;

fn fingerprint(files: &[PathBuf]) -> Fingerprint {
    files
        .iter()
        .map(|file| {
            fs::metadata(file).ok().map(|meta| (meta.dev(), meta.ino(), meta.size(), meta.ctime(), meta.ctime_nsec()))
        })
        .collect()
}

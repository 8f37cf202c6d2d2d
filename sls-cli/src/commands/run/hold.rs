//! Operations that wait for the engine, if a policy wants to decide before they happen.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use sls_core::{Engine, Event, EventKind, PendingAlert, PolicySet, Responder};
use sls_probe::{Fanotify, FanotifyStats, FanotifyWatch, HeldQueue, Probe};

/// Mount namespaces that are remembered as known to the listener. Then it is told of them anew.
const MAX_NAMESPACES: usize = 1024;

/// The listener, and the way from it to the engine. It is started when the first policy needs it.
pub(super) struct Holding {
    can_act: bool,
    listener: Option<Listener>,
}

struct Listener {
    fanotify: Fanotify,
    queue: HeldQueue,
    namespaces: HashSet<u32>,
    reported: FanotifyStats,
    /// Namespaces that were forgotten.
    forgotten: u64,
}

impl Holding {
    /// Where the sensor `can_act` on nothing, nothing waits for it: who waits could not be told from others.
    pub(super) fn new(can_act: bool) -> Self {
        Self { can_act, listener: None }
    }

    /// Holds what these policies want to decide about from now on.
    ///
    /// # Errors
    /// When the listener is needed for the first time, and cannot be had.
    pub(super) fn set_policies(&mut self, policies: &Arc<PolicySet>, probe: &mut Probe) -> anyhow::Result<()> {
        if !self.can_act {
            return Ok(());
        }
        let watches = FanotifyWatch::of(policies);
        if self.listener.is_none() && !watches.is_empty() {
            let (queue, decider) = HeldQueue::new(policies)?;
            let fanotify = Fanotify::builder().start(decider)?;
            probe.return_on(&queue).context("cannot wait for held operations")?;
            let (namespaces, reported) = (HashSet::new(), FanotifyStats::default());
            self.listener = Some(Listener { fanotify, queue, namespaces, reported, forgotten: 0 });
        }
        if let Some(listener) = &self.listener {
            listener.queue.set_policies(policies);
            listener.fanotify.watch(&watches);
            for unwatched in listener.fanotify.unwatched() {
                tracing::warn!(path = %unwatched.path.display(), reason = unwatched.reason, "not held there");
            }
            tracing::info!(places = watches.len(), "holding operations until the policies have decided");
        }
        Ok(())
    }

    /// What the listener has done, and how many mount namespaces were forgotten here.
    pub(super) fn stats(&self) -> (FanotifyStats, u64) {
        let stats = |listener: &Listener| (listener.fanotify.stats(), listener.forgotten);
        self.listener.as_ref().map_or_else(Default::default, stats)
    }

    /// Tells the listener of mount namespaces that it may not know.
    pub(super) fn see(&mut self, event: &Event) {
        if let (Some(listener), EventKind::Exec, Some(namespace)) =
            (&mut self.listener, event.kind, event.mount_namespace)
            && !listener.namespaces.contains(&namespace)
        {
            if listener.namespaces.len() >= MAX_NAMESPACES {
                listener.forgotten += listener.namespaces.len() as u64;
                listener.namespaces.clear();
            }
            listener.namespaces.insert(namespace);
            listener.fanotify.see_namespace_of(event.process.pid);
        }
    }

    /// Decides about everything that waits. `catch_up` processes the events that came before.
    pub(super) fn decide(
        &mut self,
        probe: &mut Probe,
        engine: &mut Engine,
        responder: &mut dyn Responder,
        alert: &mut dyn FnMut(PendingAlert),
    ) -> anyhow::Result<()> {
        let Some(listener) = &mut self.listener else { return Ok(()) };
        while let Some(mut held) = listener.queue.take() {
            // The process may have been made a moment ago.
            super::poll(probe, Duration::ZERO, |event| engine.process(event, responder, alert))?;
            probe.complete(held.event_mut());
            held.identify(engine.processes());
            held.decide(|event| engine.decide_held(event, responder, alert));
        }
        listener.report();
        Ok(())
    }
}

impl Listener {
    /// Says what went by without a decision, when it happens.
    fn report(&mut self) {
        let stats = self.fanotify.stats();
        let (late, overflowed) = (stats.late - self.reported.late, stats.overflowed - self.reported.overflowed);
        if late + overflowed > 0 {
            tracing::error!(
                late,
                overflowed,
                "operations were not decided in time: each went by the choice of its policy"
            );
        }
        self.reported = stats;
    }
}

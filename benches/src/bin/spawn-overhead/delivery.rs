//! Whether every spawn arrives: the probe and the engine in this process, counted one by one.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::anyhow;
use sls_core::{DryRunResponder, Engine, Event, EventKind, EventSource, Field, PolicySet, ProcessKey};
use sls_probe::Probe;

use crate::spawner::Spawner;

/// How long to wait for what comes after the last spawn; the reader naps for 2 ms at most.
const TAIL: Duration = Duration::from_millis(100);

/// What arrived of the spawned processes. Other processes of the machine are not in it, but for the losses.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Delivered {
    /// Executions of the victim.
    pub(crate) execs: u64,
    /// Those of them whose process was seen to be created before.
    pub(crate) forks: u64,
    /// Those of them that were seen to end after.
    pub(crate) exits: u64,
    /// Losses that the probe reported, of all kinds and programs.
    pub(crate) lost: u64,
}

impl Delivered {
    pub(crate) fn is_complete(&self, spawns: u64) -> bool {
        self.lost == 0 && [self.execs, self.forks, self.exits] == [spawns; 3]
    }
}

/// Spawns `victim` `spawns` times under a probe and an engine with `policies`, and counts what arrives.
pub(crate) fn count(policies: PolicySet, victim: &Path, spawns: u32) -> anyhow::Result<Delivered> {
    let spawner = Spawner::new(victim)?;
    let mut probe = Probe::builder().load()?.attach()?;
    let mut engine = Engine::builder(policies).dry_run(true).build();
    let mut counter = Counter { victim: victim.as_os_str().as_bytes(), ..Counter::default() };
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| -> anyhow::Result<()> {
            let mut last = false;
            while !last {
                last = done.load(Ordering::Relaxed);
                let wait = if last { Duration::ZERO } else { TAIL / 2 };
                let taken = probe.poll(wait, &mut |event| {
                    engine.process(event, &mut DryRunResponder, &mut |_| {});
                    counter.take(event);
                });
                taken.map_err(anyhow::Error::from_boxed)?;
            }
            for kind in [EventKind::Exec, EventKind::Fork, EventKind::Exit] {
                counter.delivered.lost += probe.lost(kind)?;
            }
            Ok(())
        });
        let spawned = spawner.run(spawns);
        thread::sleep(TAIL);
        done.store(true, Ordering::Relaxed);
        reader.join().map_err(|_| anyhow!("the reader panicked"))??;
        spawned
    })?;
    Ok(counter.delivered)
}

#[derive(Default)]
struct Counter<'v> {
    victim: &'v [u8],
    created: HashSet<ProcessKey>,
    executed: HashSet<ProcessKey>,
    delivered: Delivered,
}

impl Counter<'_> {
    fn take(&mut self, event: &Event) {
        match event.kind {
            EventKind::Fork => {
                self.created.insert(event.process);
            }
            EventKind::Exec if event.text(Field::ProgramName) == self.victim => {
                self.delivered.execs += 1;
                self.delivered.forks += u64::from(self.created.contains(&event.process));
                self.executed.insert(event.process);
            }
            EventKind::Exit => {
                self.created.remove(&event.process);
                self.delivered.exits += u64::from(self.executed.remove(&event.process));
            }
            _ => {}
        }
    }
}

//! What a kernel tier did while its process was gone.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use libbpf_rs::query::LinkInfoIter;
use libbpf_rs::{Link, MapCore, MapFlags, MapHandle, RingBufferBuilder};
use sls_core::{Enforced, Event, EventKind, ProcessKey};

use super::{MAX_INHERITED_EVENTS, PinError, PinnedTier, RING, TakenOver, remove_base};
use crate::record;
use crate::tier::layout::{self, Verdicts};
use crate::tier::{self, KernelTier};

/// How long it is waited for the kernel to take a link apart.
const LONGEST_DETACHING: Duration = Duration::from_secs(2);

/// No program that is still under way then takes that long.
const LONGEST_PROGRAM: Duration = Duration::from_millis(50);

/// Two programs that see the same are not further apart.
const SAME_MOMENT: u64 = 100_000_000;

/// Records of decisions that an earlier process did not read.
#[derive(Debug, Default)]
pub(crate) struct Inheritance {
    records: VecDeque<(Vec<u8>, Enforced)>,
    /// What the programs of this process saw as well.
    twice: Vec<(EventKind, ProcessKey, u64)>,
}

impl Inheritance {
    pub(crate) fn next(&mut self) -> Option<(Vec<u8>, Enforced)> {
        self.records.pop_front()
    }

    /// Whether an event that this process's programs tell of was inherited, too. Its time is that of the boot clock.
    pub(crate) fn repeats(&mut self, event: &Event) -> bool {
        if self.twice.is_empty() {
            return false;
        }
        self.twice.retain(|(.., time)| time.saturating_add(SAME_MOMENT) >= event.time);
        let same = |(kind, process, time): &(EventKind, ProcessKey, u64)| {
            (*kind, *process) == (event.kind, event.process) && time.abs_diff(event.time) < SAME_MOMENT
        };
        self.twice.iter().position(same).is_some_and(|at| {
            self.twice.swap_remove(at);
            true
        })
    }
}

/// Removes the pins of processes that ended, and reads what they did. The programs of this process are in force; in
/// the time `coming_into_force` on the boot clock they were attached, and got their policies.
pub(crate) fn take_over(
    base: &Path,
    own: &Path,
    tier: &KernelTier,
    coming_into_force: &Range<u64>,
) -> Result<(TakenOver, Inheritance), PinError> {
    let (mut taken, mut inheritance) = (TakenOver::default(), Inheritance::default());
    for pinned in KernelTier::pinned(base)? {
        if pinned.path == own {
            continue;
        }
        if pinned.running {
            tracing::warn!(path = %pinned.path.display(), pid = pinned.pid, "the sensor that pinned this still runs");
            continue;
        }
        taken.tiers += 1;
        let estate = pinned.readable.then(|| Estate::open(&pinned)).transpose().unwrap_or_else(|error| {
            tracing::warn!(%error, "it is not known what the kernel tier did while it was alone");
            None
        });
        let links = links_of(&pinned);
        pinned.remove()?;
        match estate {
            Some(estate) => {
                await_end(&links);
                estate.read(tier, coming_into_force, &mut taken, &mut inheritance)?;
            }
            None => taken.unreadable += 1,
        }
    }
    remove_base(base)?;
    Ok((taken, inheritance))
}

/// The ids of the links, as far as they can be told.
fn links_of(pinned: &PinnedTier) -> Vec<u32> {
    let links = pinned.programs.iter().filter_map(|name| Link::open(pinned.path.join(name)).ok());
    links.filter_map(|link| Some(link.info().ok()?.id)).collect()
}

/// Waits until no program of these links runs any more: the kernel takes them apart when it comes to it.
fn await_end(links: &[u32]) {
    let start = Instant::now();
    while start.elapsed() < LONGEST_DETACHING && LinkInfoIter::default().any(|link| links.contains(&link.id)) {
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(LONGEST_PROGRAM);
}

/// The maps that a tier has left.
struct Estate {
    ring: MapHandle,
    names: MapHandle,
    away: MapHandle,
}

impl Estate {
    fn open(pinned: &PinnedTier) -> Result<Self, PinError> {
        let map = |name: &str| {
            let path = pinned.path.join(name);
            MapHandle::from_pinned_path(&path).map_err(|source| PinError::Pin { path, source })
        };
        Ok(Self { ring: map(RING)?, names: map(tier::NAMES)?, away: map(tier::AWAY)? })
    }

    fn read(
        &self,
        tier: &KernelTier,
        coming_into_force: &Range<u64>,
        taken: &mut TakenOver,
        inheritance: &mut Inheritance,
    ) -> Result<(), PinError> {
        let mut event = Event::new(EventKind::Exec);
        for bytes in self.records()? {
            let Some(verdicts) = Verdicts::of(record::verdicts(&bytes)) else { continue };
            if record::decode_any(&bytes, &mut event).is_err() {
                continue;
            }
            let is_new = event.time >= coming_into_force.start;
            let Some(verdict) = verdicts.acted() else {
                // What the programs of this process saw, it deals with.
                taken.left_alone += u64::from(!is_new);
                continue;
            };
            let name = self.names.lookup(&layout::number_key(verdicts.generation, verdict.policy), MapFlags::ANY);
            let enforced = name.ok().flatten().and_then(|name| tier.enforced_before(&name, verdict));
            match enforced {
                Some(enforced) if inheritance.records.len() < MAX_INHERITED_EVENTS => {
                    taken.told += 1;
                    if is_new {
                        inheritance.twice.push((event.kind, event.process, event.time));
                    }
                    inheritance.records.push_back((bytes, enforced));
                }
                // The programs of this process tell it.
                Some(_) if event.time >= coming_into_force.end => {}
                _ => taken.untold += 1,
            }
        }
        let away = self.away.lookup(&0_u32.to_ne_bytes(), MapFlags::ANY).ok().flatten().unwrap_or_default();
        let lost = away.get(4..).and_then(|lost| lost.first_chunk()).map_or(0, |lost| u32::from_ne_bytes(*lost));
        taken.lost += u64::from(lost);
        Ok(())
    }

    /// Everything that is in the ring. It is no more than the ring has room for.
    fn records(&self) -> Result<Vec<Vec<u8>>, PinError> {
        let error = |source| PinError::Probe(crate::ProbeError::Ring { source });
        let records = Arc::new(Mutex::new(Vec::new()));
        let filled = Arc::clone(&records);
        let mut rings = RingBufferBuilder::new();
        let take = move |bytes: &[u8]| {
            filled.lock().unwrap_or_else(PoisonError::into_inner).push(bytes.to_vec());
            0
        };
        rings.add(&self.ring, take).map_err(error)?;
        rings.build().and_then(|ring| ring.consume()).map_err(error)?;
        let mut records = records.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::take(&mut records))
    }
}

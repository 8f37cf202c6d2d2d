//! What did not arrive.

use std::fs;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use libbpf_rs::{MapCore, MapFlags, MapHandle};
use sls_core::{Event, EventKind};

use crate::error::ProbeError;
use crate::loader::{LOST, LoadedObject};
use crate::record;

/// Counts what did not arrive. Indices are those of [`record::KINDS`].
#[derive(Debug)]
pub(crate) struct Losses {
    counters: MapHandle,
    programs: Vec<Runs>,
    /// What was told of the ring's losses.
    told: [u64; record::KINDS.len()],
    /// How often programs were not run.
    misses: [u64; record::KINDS.len()],
    untold_misses: [u64; record::KINDS.len()],
}

/// A program that the kernel is asked about.
#[derive(Debug)]
struct Runs {
    group: &'static str,
    /// Of the kind that it reports.
    index: usize,
    program: OwnedFd,
    /// What was counted of its misses.
    misses: u64,
}

impl Losses {
    pub(crate) fn new(counters: MapHandle) -> Self {
        let none = [0; record::KINDS.len()];
        Self { counters, programs: Vec::new(), told: none, misses: none, untold_misses: none }
    }

    /// Counts what the programs of `object` miss, too.
    pub(crate) fn add(&mut self, object: &LoadedObject) -> Result<(), ProbeError> {
        for hook in object.loaded.iter().filter(|hook| !hook.is_iterator()) {
            let program = object.object.progs().find(|program| program.name() == hook.program);
            if let (Some(program), Some(index)) = (program, index_of(hook.kind)) {
                let program = program.as_fd().try_clone_to_owned();
                let program = program.map_err(|error| ProbeError::Ring { source: error.into() })?;
                self.programs.push(Runs { group: object.group.name, index, program, misses: 0 });
            }
        }
        Ok(())
    }

    /// Keeps the count of the programs of a group, and not the programs.
    pub(crate) fn remove(&mut self, group: &str) {
        self.refresh();
        self.programs.retain(|runs| runs.group != group);
    }

    /// What was lost just before `event`, whose `lost` is the kernel's count.
    pub(crate) fn before(&mut self, event: &Event) -> u64 {
        let Some(index) = index_of(event.kind) else { return 0 };
        // Records of different CPUs can overtake each other: the count never goes back.
        let lost = event.lost.saturating_sub(self.told[index]);
        self.told[index] += lost;
        lost + mem::take(&mut self.untold_misses[index])
    }

    pub(crate) fn refresh(&mut self) {
        for runs in &mut self.programs {
            let misses = recursion_misses(&runs.program);
            let new = misses.saturating_sub(runs.misses);
            runs.misses = misses;
            self.misses[runs.index] += new;
            self.untold_misses[runs.index] += new;
        }
    }

    /// How many events of `kind` were lost since the start.
    pub(crate) fn of(&self, kind: EventKind) -> Result<u64, ProbeError> {
        match index_of(kind) {
            Some(index) => Ok(self.in_ring(index)? + self.not_run(index)),
            None => Ok(0),
        }
    }

    /// Records about cgroups that found the ring full.
    pub(crate) fn of_cgroups(&self) -> Result<u64, ProbeError> {
        self.in_ring(record::CGROUP.into())
    }

    fn in_ring(&self, index: usize) -> Result<u64, ProbeError> {
        let value = self.counters.lookup(&(index as u32).to_ne_bytes(), MapFlags::ANY);
        let value = value.map_err(|source| ProbeError::Map { map: LOST, source })?;
        let bytes = value.and_then(|value| value.try_into().ok());
        Ok(bytes.map_or(0, u64::from_ne_bytes))
    }

    /// Misses that were counted and those that were not yet.
    fn not_run(&self, index: usize) -> u64 {
        let programs = self.programs.iter().filter(|runs| runs.index == index);
        let new: u64 = programs.map(|runs| recursion_misses(&runs.program).saturating_sub(runs.misses)).sum();
        self.misses[index] + new
    }
}

/// How often the kernel did not run a program because it was already running on the CPU. Linux tells since 5.12.
fn recursion_misses(program: &OwnedFd) -> u64 {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd())).unwrap_or_default();
    let count = info.lines().find_map(|line| line.strip_prefix("recursion_misses:"));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

fn index_of(kind: EventKind) -> Option<usize> {
    record::KINDS.iter().position(|other| *other == kind)
}

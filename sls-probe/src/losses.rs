//! What did not arrive.

use std::fs;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use libbpf_rs::{MapCore, MapFlags, MapHandle};
use sls_core::{Event, EventKind, Lane, Loss, LossCause};

use crate::error::ProbeError;
use crate::lanes::lane_of;
use crate::loader::{LOST, LoadedObject};
use crate::record;

/// Kinds of records: those of [`record::KINDS`], records about cgroups, and of what was refused.
const RECORD_KINDS: usize = record::KINDS.len() + 2;

/// The index of records about cgroups.
const CGROUP: usize = record::CGROUP as usize;

/// In the order of `enum lost_cause` in `bpf/record.h`.
const CAUSES: [LossCause; 5] =
    [LossCause::LaneFull, LossCause::OverBudget, LossCause::Shed, LossCause::NotRun, LossCause::Untracked];

/// Where what the kernel does not run is counted with the rest.
const NOT_RUN: usize = 3;

/// Counts by cause.
type Counts = [u64; CAUSES.len()];

/// `struct losses` of `bpf/common.h`: by kind of record, first those of what happened and then those of what was refused.
type Counters = [[Counts; RECORD_KINDS]; 2];

/// Counts what did not arrive. Indices are those of [`record::KINDS`].
#[derive(Debug)]
pub(crate) struct Losses {
    counters: MapHandle,
    programs: Vec<Runs>,
    /// What was told with events, of what happened and of what was refused.
    told: [[u64; record::KINDS.len()]; 2],
    /// How often programs were not run.
    misses: [u64; record::KINDS.len()],
    untold_misses: [u64; record::KINDS.len()],
    /// What was reported, with what was not run.
    reported: Counters,
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
        Self {
            counters,
            programs: Vec::new(),
            told: [none; 2],
            misses: none,
            untold_misses: none,
            reported: Counters::default(),
        }
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

    /// What was lost just before `event`, which `record` told of, and whose `lost` is the kernel's count.
    pub(crate) fn before(&mut self, record: &[u8], event: &Event) -> u64 {
        let Some(index) = index_of(event.kind) else { return 0 };
        let told = &mut self.told[usize::from(record::is_refused(record))][index];
        // Records of different CPUs can overtake each other: the count never goes back.
        let lost = event.lost.saturating_sub(*told);
        *told += lost;
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
        if kind == EventKind::Container {
            return self.of_cgroups();
        }
        let Some(index) = index_of(kind) else { return Ok(0) };
        let counters = self.counters()?;
        let counted: u64 = counters.iter().flat_map(|kinds| kinds[index]).sum();
        Ok(counted + self.not_run(index))
    }

    /// Records about cgroups that found no room.
    pub(crate) fn of_cgroups(&self) -> Result<u64, ProbeError> {
        Ok(self.counters()?[0][CGROUP].iter().sum())
    }

    /// Gives what was lost since it last did, at some time from `since` to `until`.
    pub(crate) fn report(&mut self, since: u64, until: u64, handle: &mut dyn FnMut(Loss)) -> Result<(), ProbeError> {
        let mut counters = self.counters()?;
        for (index, misses) in self.misses.iter().enumerate() {
            counters[0][index][NOT_RUN] += misses;
        }
        let before = mem::replace(&mut self.reported, counters);
        let kinds = record::KINDS.into_iter().enumerate().chain([(CGROUP, EventKind::Container)]);
        for (index, kind) in kinds {
            for (number, cause) in CAUSES.into_iter().enumerate() {
                let new =
                    |refused: usize| counters[refused][index][number].saturating_sub(before[refused][index][number]);
                let mut tell = |lane, count| {
                    if count > 0 {
                        handle(Loss::new(lane, kind, cause, count, since, until));
                    }
                };
                // What was refused comes by the first lane, whatever it is.
                if lane_of(kind) == Lane::Process {
                    tell(Lane::Process, new(0) + new(1));
                } else {
                    tell(Lane::Process, new(1));
                    tell(lane_of(kind), new(0));
                }
            }
        }
        Ok(())
    }

    fn counters(&self) -> Result<Counters, ProbeError> {
        let value = self.counters.lookup(&0_u32.to_ne_bytes(), MapFlags::ANY);
        let value = value.map_err(|source| ProbeError::Map { map: LOST, source })?.unwrap_or_default();
        let (numbers, _) = value.as_chunks();
        let mut numbers = numbers.iter().map(|number| u64::from_ne_bytes(*number));
        let mut counters = Counters::default();
        for count in counters.iter_mut().flatten().flatten() {
            *count = numbers.next().unwrap_or(0);
        }
        Ok(counters)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_count_by_the_same_causes() {
        let source = include_str!("../bpf/record.h");
        let names = ["FULL", "OVER_BUDGET", "SHED", "NOT_RUN", "UNTRACKED"];
        for (number, name) in names.iter().enumerate() {
            assert!(source.contains(&format!("LOST_{name} = {number},")), "{name}");
        }
        assert!(source.contains(&format!("LOST_CAUSES = {},", CAUSES.len())));
        assert!(source.contains(&format!("RECORD_KINDS = {RECORD_KINDS},")));
        assert_eq!(CAUSES[NOT_RUN], LossCause::NotRun);
    }
}

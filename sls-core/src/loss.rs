//! Events that a source could not give, and what it leaves out first when it has to.

use std::fmt;

use serde::Serialize;

use crate::event::EventKind;

/// A way from the kernel to the sensor with room of its own, so that what fills one does not push out what is in another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Lane {
    /// Processes that begin, end, or become another program or user, and whatever the kernel has already decided.
    Process,
    /// What processes do: files, connections, memory, and the rest.
    Activity,
}

impl Lane {
    /// Every lane, the most important first.
    pub const ALL: &'static [Self] = &[Self::Process, Self::Activity];

    /// The name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Activity => "activity",
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why events did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LossCause {
    /// The lane was full.
    LaneFull,
    /// The lane was filling up, and the event's cgroup, or what tells of such events, had used its share of it.
    OverBudget,
    /// The kernel did not run the program that would have told: it was already running on the same CPU.
    NotRun,
    /// The sensor had reached a limit of its own, and sheds load ([`Shedding`]).
    Shed,
    /// What begins and ends at different places was not followed from one to the other: there was no room to remember it.
    Untracked,
}

impl LossCause {
    /// Every cause.
    pub const ALL: &'static [Self] = &[Self::LaneFull, Self::OverBudget, Self::NotRun, Self::Shed, Self::Untracked];

    /// The name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::LaneFull => "lane_full",
            Self::OverBudget => "over_budget",
            Self::NotRun => "not_run",
            Self::Shed => "shed",
            Self::Untracked => "untracked",
        }
    }
}

impl fmt::Display for LossCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Events of one kind that did not arrive for one cause, within a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Loss {
    /// Where they would have come.
    pub lane: Lane,
    /// What they would have told of.
    pub kind: EventKind,
    /// Why they did not come.
    pub cause: LossCause,
    /// How many.
    pub count: u64,
    /// Not before this, in nanoseconds since the epoch.
    pub since: u64,
    /// Not after this, in nanoseconds since the epoch.
    pub until: u64,
}

impl Loss {
    /// `count` events that were lost some time from `since` to `until`.
    #[must_use]
    pub fn new(lane: Lane, kind: EventKind, cause: LossCause, count: u64, since: u64, until: u64) -> Self {
        Self { lane, kind, cause, count, since, until }
    }
}

/// What a source leaves out so that the rest still comes. Each step leaves out what those before it do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Shedding {
    /// Nothing.
    #[default]
    Nothing,
    /// What no loaded policy looks at.
    Telemetry,
    /// What comes by [`Lane::Activity`]. Executions, and what the kernel decides, are never left out.
    Activity,
}

impl Shedding {
    /// Every step, the mildest first.
    pub const ALL: &'static [Self] = &[Self::Nothing, Self::Telemetry, Self::Activity];

    /// The name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Telemetry => "telemetry",
            Self::Activity => "activity",
        }
    }
}

impl fmt::Display for Shedding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

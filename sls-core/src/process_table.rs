//! The process table: who runs, what it runs, and where it came from.

mod forest;
mod image;
mod record;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

use crate::event::{Event, EventKind, MAX_ANCESTORS, ProcessKey, Value};
use crate::schema::{Field, FieldSet};
use forest::{Forest, NIL, Origin, State};
use image::ProcessImage;

pub(crate) use image::OF_PROGRAM;

pub use forest::{LATE_EVENT_TIME, MAX_LINGERING};
pub use image::{MAX_STORED_ARGUMENTS, MAX_STORED_BYTES, MAX_STORED_TEXT, SPARE_STORED_TEXT};
pub use record::ProcessRecord;

/// How many processes a table holds unless told otherwise.
pub const DEFAULT_PROCESS_LIMIT: usize = 32_768;

/// What the table tells of a process's parent and ancestors.
pub(crate) const OF_LINEAGE: FieldSet = FieldSet::of(&[
    Field::ParentPid,
    Field::ParentProgramName,
    Field::ParentProgramArguments,
    Field::AncestorProgramName,
    Field::Lineage,
]);

/// The pid of init in the host's PID namespace.
const INIT: u32 = 1;

/// Processes by identity, with their lineage, kept up to date by events and bounded.
///
/// # What it learns from
/// `fork` (whose acting process is the child), `exec`, `exit` and `baseline` events keep it. Every other event makes its
/// acting process known as far as the event tells. A parent that is only named is remembered without a program, so that
/// its children still share it.
///
/// # Identity
/// A pid with another start time is another process. A start time of 0 means that the source does not know it; such an
/// event is matched by pid alone, with the process seen last under it. All sources of one table must read start times
/// from the same clock, to the nanosecond.
///
/// # Order
/// A source whose events can overtake each other says when each happened ([`Event::since_boot`]). Then an event that comes
/// after the next exec of its process, of its parent or of an ancestor is told of the program that was in force before. Of
/// each process one program before the last is remembered; of what was earlier still, the program is unknown. For
/// [`LATE_EVENT_TIME`], and as long as no more than [`MAX_LINGERING`] have ended since, a process that has ended is still known.
/// Without that, events are taken to come in the order in which they happened.
///
/// # Loss
/// Where events were lost, the table is put right by a pass over all processes that run: [`ProcessTable::begin_repair`]. A
/// lineage that a fork told stays as it is. A program that executed its own file again unseen keeps what was known of it,
/// its arguments included.
///
/// # Lineage
/// The lineage follows the process that **created** each process, also when that has exited and another has adopted the
/// child, or when it made the child a sibling ([`Event::creator`]): daemonizing does not shed a past. `parentPid`, `parentProgramName` and `parentProgramArguments` tell of the
/// parent that the event names. An exited process stays while it has descendants in the table. Of exited
/// processes that follow each other without another branch, [`MAX_ANCESTORS`] are kept.
///
/// # Bounds
/// The table holds at most the given number of processes, exited ones included. A new one then takes the place of the
/// process that exited longest ago, or else of the oldest without children, or else of the oldest; what was descended
/// from it loses that part of its lineage, and is marked so. An entry takes some 200 bytes and shares what is known of
/// its program (some 200 bytes and its texts, each at most [`MAX_STORED_TEXT`], arguments [`MAX_STORED_ARGUMENTS`]) with
/// the children that it forked. Once all texts together have [`MAX_STORED_BYTES`], new ones are cut to
/// [`SPARE_STORED_TEXT`], so that nobody can fill the memory with long arguments. An event costs constant time, plus at most twice [`MAX_ANCESTORS`] steps at an exit.
///
/// ```
/// use sls_core::{Event, EventKind, Field, ProcessKey, ProcessTable, Value};
///
/// let shell = ProcessKey { pid: 4200, start: 70_000 };
/// let child = ProcessKey { pid: 4242, start: 77_000 };
/// let mut table = ProcessTable::default();
///
/// let mut event = Event::new(EventKind::Baseline);
/// event.process = shell;
/// event.set_text(Field::ProgramName, b"/usr/bin/bash").set_arguments([&b"bash"[..], b"-i"]);
/// table.observe(&event);
///
/// event.reset(EventKind::Fork);
/// (event.process, event.parent) = (child, shell);
/// table.observe(&event);
///
/// event.reset(EventKind::Exec);
/// event.process = child;
/// event.set_text(Field::ProgramName, b"/usr/bin/wget");
/// table.enrich(&mut event);
/// table.observe(&event);
/// assert_eq!(event.value(Field::ParentPid), Value::Number(4200));
/// assert_eq!(event.text(Field::ParentProgramName), b"/usr/bin/bash");
/// assert_eq!(event.text(Field::ParentProgramArguments), b"bash -i");
/// assert_eq!(table.lineage(child).next().map(|parent| parent.key()), Some(shell));
/// ```
pub struct ProcessTable {
    forest: Forest,
    /// What was put right so far, while all processes are gone through.
    repair: Option<ProcessRepair>,
}

/// What was put right in a [`ProcessTable`] after one pass over all processes that run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessRepair {
    /// Processes that had ended unseen.
    pub ended: usize,
    /// Processes that had begun unseen.
    pub found: usize,
    /// Processes that had executed another program unseen.
    pub corrected: usize,
}

impl Default for ProcessTable {
    fn default() -> Self {
        Self::new(DEFAULT_PROCESS_LIMIT)
    }
}

impl ProcessTable {
    /// A table for at most `limit` processes, but at least two: a process and its parent.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { forest: Forest::new(limit.clamp(2, NIL as usize)), repair: None }
    }

    /// Takes in what `event` tells about its acting process.
    ///
    /// A process that ended without descendants stays until the next event is observed, or for [`LATE_EVENT_TIME`] if its
    /// source says when events happened: [`ProcessTable::enrich`] and alerts can still look it up.
    pub fn observe(&mut self, event: &Event) {
        self.forest.flush(event.since_boot);
        if event.process.pid == 0 {
            return;
        }
        let actor = match self.find_actor(event) {
            Some(actor) => {
                self.update(actor, event);
                Some(actor)
            }
            None => self.admit(event),
        };
        let Some(actor) = actor else { return };
        match event.kind {
            EventKind::Exit => self.forest.exit(actor, event.since_boot),
            EventKind::Baseline => self.forest.find_in_pass(actor),
            _ => {}
        }
    }

    /// Begins to put the table right after events were lost. To be called before a source goes through all processes that
    /// run ([`EventSource::reread_processes`](crate::EventSource::reread_processes)) and gives a `baseline` event for each;
    /// other events may come in between. A repair that was not finished begins anew.
    ///
    /// ```
    /// use sls_core::{Event, EventKind, Field, ProcessKey, ProcessTable};
    ///
    /// let [shell, child] = [ProcessKey { pid: 4200, start: 70_000 }, ProcessKey { pid: 4242, start: 77_000 }];
    /// let mut table = ProcessTable::default();
    /// let mut event = Event::new(EventKind::Exec);
    /// event.process = shell;
    /// event.set_text(Field::ProgramName, b"/usr/bin/bash");
    /// table.observe(&event);
    ///
    /// // It ended, and another began: neither was told.
    /// table.begin_repair();
    /// event.reset(EventKind::Baseline);
    /// event.process = child;
    /// event.set_text(Field::ProgramName, b"/usr/bin/wget");
    /// table.observe(&event);
    /// let repair = table.finish_repair();
    /// assert_eq!((repair.ended, repair.found, repair.corrected), (1, 1, 0));
    /// assert!(table.process(shell).unwrap().exited());
    /// ```
    pub fn begin_repair(&mut self) {
        self.forest.begin_pass();
        self.repair = Some(ProcessRepair::default());
    }

    /// Finishes the repair after the last of the `baseline` events: processes that were in the table when it began and of
    /// which none told have ended. What came meanwhile stays. It takes time with the size of the table; without a repair it does
    /// nothing.
    pub fn finish_repair(&mut self) -> ProcessRepair {
        let Some(repair) = self.repair.take() else { return ProcessRepair::default() };
        ProcessRepair { ended: self.forest.finish_pass(), ..repair }
    }

    /// Gives a repair up, for not all processes could be gone through. What was found stays.
    pub fn abandon_repair(&mut self) {
        self.repair = None;
    }

    /// Fills what the table knows and `event` lacks: the parent's identity, `parentProgramName`,
    /// `parentProgramArguments` and `ancestorProgramName`, and of a program that executes its own file again the
    /// `programName`.
    ///
    /// It is called before [`ProcessTable::observe`] takes the event in, so that nothing comes between an event and the
    /// decision about it, and a parent that ended with the event before is still there. Called after, it gives the same,
    /// unless observing pushes something out of a full table. A process that the table does not have yet gets what is known
    /// of the parent, or of the creator, that the event names.
    ///
    /// A value or mark that the event has stays. A field whose value is not in the table is marked unknown, a lineage of
    /// which a part is missing truncated; a process without a parent gets none. Nothing is allocated once the event's
    /// memory has seen its longest.
    pub fn enrich(&self, event: &mut Event) {
        let actor = self.find_actor(event);
        if let Some(actor) = actor {
            self.name_program(event, actor);
        }
        // A source that names the program has said what it knows of it.
        let is_described = tells_of_process(event.kind) || event.value(Field::ProgramName) != Value::Absent;
        if !is_described && event.process.pid != 0 && !event.kernel_thread {
            match actor {
                Some(actor) => self.forest.image_at(actor, event.since_boot).describe(event),
                None => ProcessImage::default().describe(event),
            }
        }
        if event.parent.pid == 0 {
            event.parent = actor.map_or_else(ProcessKey::default, |actor| self.forest[actor].reported_parent);
        }
        if event.parent.pid == 0 || event.parent.pid == event.process.pid {
            return;
        }
        let parent = self.forest.find(event.parent);
        let origin = match actor.map(|actor| (self.forest[actor].origin, self.forest[actor].parent)) {
            _ if event.creator.pid != 0 => self.forest.find(event.creator),
            Some((Origin::Linked, origin)) => Some(origin),
            Some((Origin::Lost, _)) => None,
            Some((Origin::Untold, _)) | None => parent,
        };
        let image = parent.map(|parent| &**self.forest.image_at(parent, event.since_boot));
        for (field, source) in
            [(Field::ParentProgramName, Field::ProgramName), (Field::ParentProgramArguments, Field::ProgramArguments)]
        {
            if event.value(field) != Value::Absent {
                continue;
            }
            event.set_value(field, image.map_or(Value::Unknown, |image| image.value(source)));
        }
        if event.value(Field::AncestorProgramName) == Value::Absent {
            self.fill_ancestors(event, origin);
        }
    }

    /// A program that executes its own file again, through a mount that no directory leads to, as container runtimes do,
    /// has no path there. It is the same file: so it has the path that it had.
    fn name_program(&self, event: &mut Event, actor: u32) {
        let named = matches!(event.value(Field::ProgramName), Value::Text { truncated: false, .. });
        if event.kind == EventKind::Exec
            && !named
            && let Some(path) = self.forest.image_at(actor, event.since_boot).path_of_program(event)
        {
            event.set_text(Field::ProgramName, path);
        }
    }

    /// The process `key`, if the table has it.
    #[must_use]
    pub fn process(&self, key: ProcessKey) -> Option<ProcessRecord<'_>> {
        self.forest.find(key).map(|index| self.record(index))
    }

    /// The ancestors of the process `key` as far as they are known, parent first, at most [`MAX_ANCESTORS`].
    pub fn lineage(&self, key: ProcessKey) -> impl Iterator<Item = ProcessRecord<'_>> {
        let start = self.forest.find(key).map_or(NIL, |index| self.forest[index].parent);
        self.forest.upwards(start).take(MAX_ANCESTORS).map(|index| self.record(index))
    }

    /// The living processes that descend from the process `key`, as far as that is known, each after its parent. It
    /// allocates.
    pub fn descendants(&self, key: ProcessKey) -> impl Iterator<Item = ProcessKey> {
        let mut left: Vec<u32> = self.forest.find(key).into_iter().collect();
        let all = std::iter::from_fn(move || {
            let next = left.pop()?;
            left.extend(self.forest.children(next));
            Some(next)
        });
        all.skip(1).map(|index| self.record(index)).filter(|record| !record.exited()).map(ProcessRecord::key)
    }

    /// Every process in the table, in no particular order.
    pub fn processes(&self) -> impl Iterator<Item = ProcessRecord<'_>> {
        self.forest.indexes().map(|index| self.record(index))
    }

    /// The alert group of the process `key`: its own, or that of its nearest ancestor that has one. It is found however
    /// far away that ancestor is, and also after it has exited; the time taken grows with the distance.
    #[must_use]
    pub fn alert_group(&self, key: ProcessKey) -> Option<Uuid> {
        self.forest.alert_group(self.forest.find(key)?)
    }

    /// Makes `group` the alert group of the process `key` and of its descendants that have no nearer one, and keep the one
    /// that they were born with; false if the process is not in the table.
    pub fn set_alert_group(&mut self, key: ProcessKey, group: Uuid) -> bool {
        let index = self.forest.find(key);
        if let Some(index) = index {
            self.forest.set_alert_group(index, group);
        }
        index.is_some()
    }

    /// How many processes are in the table: running, exited but still an ancestor, or only named as a parent.
    #[must_use]
    pub fn len(&self) -> usize {
        self.forest.len()
    }

    /// Whether no process is in the table.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The most processes that the table holds.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.forest.limit()
    }

    /// How many processes had to leave because the table was full.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.forest.evicted()
    }

    fn record(&self, index: u32) -> ProcessRecord<'_> {
        ProcessRecord::new(&self.forest[index])
    }

    /// The entry of the event's acting process; none if the event tells that a new process has that pid.
    fn find_actor(&self, event: &Event) -> Option<u32> {
        let index = self.forest.find(event.process)?;
        let entry = &self.forest[index];
        let certain = event.process.start != 0 && entry.key == event.process;
        let replaced = match event.kind {
            EventKind::Fork => true,
            EventKind::Exec | EventKind::Baseline => entry.state == State::Exited,
            _ => false,
        };
        (certain || !replaced).then_some(index)
    }

    /// Brings the entry of the event's acting process up to date.
    fn update(&mut self, actor: u32, event: &Event) {
        if self.forest.revive(actor)
            && let Some(repair) = self.repair.as_mut().filter(|_| event.kind == EventKind::Baseline)
        {
            repair.found += 1;
        }
        self.forest.learn_start(actor, event.process.start);
        if let Some(origin) = told_origin(event) {
            self.forest.learn_origin(actor, origin, event.creator.pid != 0);
        }
        let image = &self.forest[actor].image;
        // A program that was found before the event of its exec came.
        let was_found = event.kind == EventKind::Exec && image.is_of_program(event) == Some(true);
        if event.since_boot != 0 && event.since_boot < image.since() && !was_found {
            return self.learn_of_past(actor, event);
        }
        if event.parent.pid != 0 {
            self.forest.set_reported_parent(actor, event.parent);
        }
        match event.kind {
            EventKind::Exec => self.execute(actor, event),
            EventKind::Baseline => self.confirm(actor, event),
            _ => self.refine(actor, event),
        }
    }

    /// An event of a kind that tells of no program knows something better.
    fn refine(&mut self, actor: u32, event: &Event) {
        let entry = &self.forest[actor];
        // A fork told late: until then the process was only named.
        let late = event.kind == EventKind::Fork && !entry.image.is_told() && entry.parent != NIL;
        let base = if late { self.forest.image_at(entry.parent, event.since_boot) } else { &entry.image };
        if let Some(image) = base.with(event).or_else(|| late.then(|| Arc::clone(base))) {
            self.forest.set_image(actor, image);
        }
    }

    /// The process runs another program from the event on.
    fn execute(&mut self, actor: u32, event: &Event) {
        let before = &self.forest[actor].image;
        let Some(image) = before.with(event) else { return };
        // What was told of the time after the exec does not say what was before it.
        let is_former = event.since_boot != 0 && before.told_at() <= event.since_boot;
        let remembered = self.forest.former_image(actor);
        let former = match is_former {
            true => before,
            false if remembered.is_told() && remembered.since() <= event.since_boot => remembered,
            false => self.forest.unknown_image(),
        };
        let former = Arc::clone(former);
        self.forest.replace_image(actor, image, former);
    }

    /// A process that runs was found.
    fn confirm(&mut self, actor: u32, event: &Event) {
        let entry = &self.forest[actor];
        let image = &entry.image;
        let confirmed = match image.is_of_program(event) {
            Some(false) => {
                let image = image.replaced_by(event);
                if let Some(repair) = self.repair.as_mut().filter(|_| entry.state == State::Living) {
                    repair.corrected += 1;
                }
                // When it began to run the other is not known, nor whether it ran a third in between.
                let former = Arc::clone(self.forest.unknown_image());
                return self.forest.replace_image(actor, image, former);
            }
            None if !image.is_told() => image.with(event),
            Some(true) | None => image.confirmed_by(event),
        };
        if let Some(image) = confirmed {
            self.forest.set_image(actor, image);
        }
    }

    /// An event is older than the program that its process runs by now.
    fn learn_of_past(&mut self, actor: u32, event: &Event) {
        let former = self.forest.former_image(actor);
        let tells_more = event.kind == EventKind::Exec && event.since_boot >= former.since()
            || event.kind == EventKind::Baseline && !former.is_told();
        if let Some(former) = former.with(event).filter(|_| tells_more) {
            self.forest.set_former_image(actor, former);
        }
    }

    /// Makes an entry for an acting process that has none.
    fn admit(&mut self, event: &Event) -> Option<u32> {
        // An exit is all that is left to hear of a process, and an older start is of one that is long gone.
        if event.kind == EventKind::Exit || self.forest.is_stale(event.process) {
            return None;
        }
        let parent = told_origin(event).map_or(NIL, |origin| self.forest.find_or_name(origin, NIL));
        let base = match event.kind {
            EventKind::Fork if parent != NIL => self.forest.image_at(parent, event.since_boot),
            _ => self.forest.unknown_image(),
        };
        let image = base.with(event).unwrap_or_else(|| Arc::clone(base));
        let actor = self.forest.insert(event.process, image, State::Living, parent);
        self.forest.set_reported_parent(actor, event.parent);
        if let Some(repair) = self.repair.as_mut().filter(|_| event.kind == EventKind::Baseline) {
            repair.found += 1;
        }
        Some(actor)
    }

    fn fill_ancestors(&self, event: &mut Event, parent: Option<u32>) {
        let mut complete = parent.is_some() || event.parent.pid == INIT;
        let mut known = 0;
        let mut steps = 0;
        let time = event.since_boot;
        let upwards = self.forest.upwards(parent.unwrap_or(NIL));
        event.set_ancestors(
            upwards
                .map_while(|index| {
                    if steps == MAX_ANCESTORS {
                        complete = false;
                        return None;
                    }
                    steps += 1;
                    let entry = &self.forest[index];
                    // Init is the root of every ancestry, also where a sandbox hides it.
                    let init = entry.key.pid == INIT;
                    complete &=
                        init || entry.parent != NIL || entry.origin == Origin::Untold && entry.state != State::Named;
                    match self.forest.image_at(index, time).value(Field::ProgramName) {
                        Value::Text { bytes, truncated: false } => {
                            known += 1;
                            Some(Some(bytes))
                        }
                        // A kernel thread: it has no program.
                        Value::Absent => Some(None),
                        Value::Unknown if init => Some(None),
                        // A part of a path would pass for another path.
                        _ => {
                            complete = false;
                            Some(None)
                        }
                    }
                })
                .flatten(),
        );
        if !complete {
            if known == 0 {
                event.mark_unknown(Field::AncestorProgramName);
            } else {
                event.mark_truncated(Field::AncestorProgramName);
            }
        }
    }
}

/// The process that, as far as the event tells, made its acting process.
fn told_origin(event: &Event) -> Option<ProcessKey> {
    let origin = if event.creator.pid == 0 { event.parent } else { event.creator };
    (origin.pid != 0 && origin.pid != event.process.pid).then_some(origin)
}

impl fmt::Debug for ProcessTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessTable")
            .field("len", &self.len())
            .field("limit", &self.limit())
            .field("evicted", &self.evicted())
            .finish_non_exhaustive()
    }
}

/// Whether events of `kind` keep the table: they say themselves what there is to say about the program.
pub(crate) fn tells_of_process(kind: EventKind) -> bool {
    matches!(kind, EventKind::Exec | EventKind::Fork | EventKind::Exit | EventKind::Baseline)
}

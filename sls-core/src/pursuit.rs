//! The pursuit of what escapes from a tree that is killed. A process can be made and lose its parent between two looks of
//! whoever kills the tree, so that nothing leads to it any more. The event that tells of it still does, a moment later.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::action::{Action, Permission, PlannedAction, Target};
use crate::event::{Event, EventKind, MAX_ANCESTORS, ProcessKey};
use crate::planner::{ActionPlanner, Plan};
use crate::plugin::{ActionContext, Execution, Responder};
use crate::process_table::{ProcessRecord, ProcessTable};
use crate::schema::Field;

/// The most killed trees whose remains are pursued at a time. One more takes the place of the oldest, which is counted in
/// [`EngineStats::pursuits_cut`](crate::EngineStats::pursuits_cut).
pub const MAX_PURSUITS: usize = 64;

/// How long what is left of a killed tree is pursued, in nanoseconds of event time: 5 seconds.
pub const PURSUIT_TIME: u64 = 5_000_000_000;

/// The most descendants that stand in for one root: the table forgets what is far above a process, so one that was pursued
/// far below becomes a place to be found from.
const MAX_RELAYS: usize = 16;

/// From how far below.
const RELAY_DISTANCE: usize = MAX_ANCESTORS / 2;

/// The roots of trees that were killed a moment ago.
#[derive(Debug, Default)]
pub(crate) struct Pursuits {
    roots: Vec<Root>,
    begun: u64,
    cut: u64,
}

#[derive(Debug)]
struct Root {
    key: ProcessKey,
    relays: VecDeque<ProcessKey>,
    until: u64,
    pid_namespace: Option<u32>,
    mount_namespace: Option<u32>,
}

impl Pursuits {
    pub(crate) fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    /// How many there were.
    pub(crate) fn begun(&self) -> u64 {
        self.begun
    }

    /// How many were ended before their time, for want of room.
    pub(crate) fn cut(&self) -> u64 {
        self.cut
    }

    /// Begins a pursuit if `plan`, the answer to `event`, kills the tree of its process for real.
    pub(crate) fn begin(&mut self, event: &Event, plan: &Plan) {
        let kills =
            |planned: &&PlannedAction| planned.action == Action::KillTree && planned.permission == Permission::Granted;
        let Some(Target::Process { key, .. }) = plan.actions().find(kills).map(|planned| planned.target) else {
            return;
        };
        self.begun += 1;
        self.roots.retain(|root| root.key != key);
        if self.roots.len() >= MAX_PURSUITS {
            self.roots.remove(0);
            self.cut += 1;
        }
        self.roots.push(Root {
            key,
            relays: VecDeque::new(),
            until: event.time.saturating_add(PURSUIT_TIME),
            pid_namespace: event.pid_namespace,
            mount_namespace: event.mount_namespace,
        });
    }

    /// Kills the process of `event`, which the table has taken in, if it comes from one of the trees; whether it tried.
    pub(crate) fn pursue(
        &mut self,
        event: &Event,
        processes: &ProcessTable,
        planner: &Arc<dyn ActionPlanner>,
        responder: &mut dyn Responder,
    ) -> bool {
        self.roots.retain(|root| event.time <= root.until);
        if !matches!(event.kind, EventKind::Fork | EventKind::Exec | EventKind::Baseline) {
            return false;
        }
        let lineage = || processes.lineage(event.process).map(ProcessRecord::key).enumerate();
        let found = |(distance, ancestor)| {
            self.roots.iter().position(|root| root.leads_from(ancestor)).map(|place| (place, distance))
        };
        let Some((place, distance)) = lineage().find_map(found) else { return false };
        let root = &mut self.roots[place];
        if planner.protects(event).is_some() || is_below_protected(event.process, root, processes, &**planner) {
            return false;
        }
        if distance + 1 >= RELAY_DISTANCE {
            if root.relays.len() == MAX_RELAYS {
                root.relays.pop_front();
            }
            root.relays.push_back(event.process);
        }
        let target = Target::Process { key: event.process, pidfd_inode: event.pidfd_inode };
        let kill = PlannedAction::new(Action::Kill, target, Permission::Granted);
        let context = ActionContext::new(event).planner(planner).processes(processes);
        // Its alert was made when the tree was killed. That the signal was sent is all that there is to do.
        let _: Execution = responder.execute(&kill, &context);
        true
    }
}

impl Root {
    fn leads_from(&self, ancestor: ProcessKey) -> bool {
        self.key == ancestor || self.relays.contains(&ancestor)
    }
}

/// Whether there is a protected process between `process` and `root`. The table knows no namespaces; so each is looked at
/// as if it were in those of the root, from which most never leave. In doubt, that spares rather than kills.
fn is_below_protected(process: ProcessKey, root: &Root, processes: &ProcessTable, planner: &dyn ActionPlanner) -> bool {
    processes.lineage(process).take_while(|ancestor| !root.leads_from(ancestor.key())).any(|ancestor| {
        let mut known = Event::new(EventKind::Baseline);
        known.process = ancestor.key();
        known.pid_namespace = root.pid_namespace;
        known.mount_namespace = root.mount_namespace;
        known.set_text(Field::ProgramName, ancestor.program_name());
        planner.protects(&known).is_some()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::{ActionSet, Refusal};
    use crate::breaker::BreakerLimits;
    use crate::engine::{DryRunResponder, Engine};
    use crate::guard::Guards;
    use crate::planner::GuardedPlanner;
    use crate::policy::PolicySet;

    const POLICY: &str = "Kill: {policy: program, responseActions: [alert, kill-tree], \
                          rules: ['match programName == \"/bin/evil\"', default ignore]}";

    #[derive(Debug, Default)]
    struct Recording(Vec<(Action, u32)>);

    impl Responder for Recording {
        fn supports(&self) -> ActionSet {
            DryRunResponder.supports()
        }

        fn execute(&mut self, planned: &PlannedAction, context: &ActionContext<'_>) -> Execution {
            let Target::Process { key, .. } = planned.target else { panic!("not a process") };
            assert_eq!(key, context.event().process);
            self.0.push((planned.action, key.pid));
            DryRunResponder.execute(planned, context)
        }
    }

    fn key(pid: u32) -> ProcessKey {
        ProcessKey { pid, start: u64::from(pid) }
    }

    struct Scene {
        engine: Engine,
        responder: Recording,
        time: u64,
    }

    impl Scene {
        fn new(guards: Guards, dry_run: bool) -> Self {
            let policies = PolicySet::from_yaml("p.yaml", POLICY).unwrap();
            let no_breaker = BreakerLimits::default().policy_targets(0).sensor_targets(0);
            let planner = GuardedPlanner::new(guards);
            let engine = Engine::builder(policies).planner(planner).dry_run(dry_run).breaker(no_breaker).build();
            Self { engine, responder: Recording::default(), time: 1_000 }
        }

        fn event(&mut self, kind: EventKind, pid: u32, parent: u32, program: &str) {
            let mut event = Event::new(kind);
            (event.process, event.parent, event.time) = (key(pid), key(parent), self.time);
            if !program.is_empty() {
                event.set_text(Field::ProgramName, program.as_bytes());
            }
            self.engine.process(&mut event, &mut self.responder, &mut |_| {});
        }

        fn acted(&mut self) -> Vec<(Action, u32)> {
            std::mem::take(&mut self.responder.0)
        }
    }

    #[test]
    fn orphans_of_a_killed_tree_are_killed() {
        let mut scene = Scene::new(Guards::default(), false);
        scene.event(EventKind::Exec, 10, 2, "/bin/evil");
        assert_eq!(scene.acted(), [(Action::KillTree, 10)]);
        scene.event(EventKind::Fork, 11, 10, "");
        scene.event(EventKind::Fork, 12, 11, "");
        scene.event(EventKind::Exit, 11, 10, "");
        // By now it is another's child.
        scene.event(EventKind::Exec, 12, 1, "/bin/next");
        scene.event(EventKind::File, 12, 1, "/bin/next");
        assert_eq!(scene.acted(), [(Action::Kill, 11), (Action::Kill, 12), (Action::Kill, 12)]);
        assert_eq!(scene.engine.stats().pursued, 3);
        // A process of another origin.
        scene.event(EventKind::Fork, 20, 2, "");
        assert_eq!(scene.acted(), []);
    }

    #[test]
    fn no_chain_of_orphans_is_too_long() {
        let mut scene = Scene::new(Guards::default(), false);
        scene.event(EventKind::Exec, 10, 2, "/bin/evil");
        scene.acted();
        let last = 11 + 10 * MAX_ANCESTORS as u32;
        for pid in 11..last {
            scene.event(EventKind::Fork, pid, pid - 1, "");
            scene.event(EventKind::Exit, pid - 1, 1, "");
            assert_eq!(scene.acted(), [(Action::Kill, pid)]);
        }
    }

    #[test]
    fn it_ends_with_its_time() {
        let mut scene = Scene::new(Guards::default(), false);
        scene.event(EventKind::Exec, 10, 2, "/bin/evil");
        scene.acted();
        scene.time += PURSUIT_TIME;
        scene.event(EventKind::Fork, 11, 10, "");
        assert_eq!(scene.acted(), [(Action::Kill, 11)]);
        scene.time += 1;
        scene.event(EventKind::Fork, 12, 10, "");
        assert_eq!(scene.acted(), []);
    }

    #[test]
    fn in_dry_run_nobody_is_pursued() {
        let mut scene = Scene::new(Guards::default(), true);
        scene.event(EventKind::Exec, 10, 2, "/bin/evil");
        scene.event(EventKind::Fork, 11, 10, "");
        assert_eq!(scene.acted(), []);
        assert_eq!(scene.engine.stats().pursued, 0);
    }

    #[test]
    fn protected_processes_and_those_below_are_spared() {
        let mut scene = Scene::new(Guards::default().protect_program("/opt/db"), false);
        scene.event(EventKind::Exec, 11, 10, "/opt/db");
        scene.event(EventKind::Exec, 10, 2, "/bin/evil");
        scene.acted();
        scene.event(EventKind::Exec, 11, 10, "/opt/db");
        scene.event(EventKind::Fork, 12, 11, "");
        scene.event(EventKind::Exec, 12, 11, "/bin/helper");
        scene.event(EventKind::Fork, 13, 12, "");
        assert_eq!(scene.acted(), []);
        scene.event(EventKind::Fork, 14, 10, "");
        assert_eq!(scene.acted(), [(Action::Kill, 14)]);
    }

    #[test]
    fn too_many_pursuits_cut_the_oldest() {
        let mut scene = Scene::new(Guards::default(), false);
        for pid in 0..=MAX_PURSUITS as u32 {
            scene.event(EventKind::Exec, 100 + pid, 2, "/bin/evil");
            // The same again is no other.
            scene.event(EventKind::Exec, 100 + pid, 2, "/bin/evil");
        }
        scene.acted();
        assert_eq!(scene.engine.stats().pursuits_cut, 1);
        scene.event(EventKind::Fork, 500, 100, "");
        assert_eq!(scene.acted(), []);
        scene.event(EventKind::Fork, 501, 101, "");
        assert_eq!(scene.acted(), [(Action::Kill, 501)]);
    }

    #[test]
    fn a_plan_that_was_refused_begins_none() {
        let mut event = Event::new(EventKind::Exec);
        event.process = key(7);
        let target = Target::Process { key: event.process, pidfd_inode: None };
        let guard = Refusal::new("g", "r");
        for permission in [Permission::DryRun, Permission::Held(guard.clone()), Permission::Refused(guard)] {
            let mut plan = Plan::default();
            plan.push(PlannedAction::new(Action::KillTree, target, permission));
            let mut pursuits = Pursuits::default();
            pursuits.begin(&event, &plan);
            assert!(pursuits.is_empty());
        }
    }
}

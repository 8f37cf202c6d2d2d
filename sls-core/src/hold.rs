//! Which operations user space has to hold while it decides: where permission events are needed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::event::EventKind;
use crate::hook::Hook;
use crate::interest::{Narrow, needs};
use crate::lowering::Obstacle;
use crate::policy::{OnDeadline, Policy, PolicyType};
use crate::rule::{Comparison, Condition};
use crate::schema::Field;

/// The most paths that a hold names; more are any path.
pub const MAX_HELD_PATHS: usize = 256;

/// What a policy has held: executions, or the opening of files.
///
/// ```
/// use sls_core::{EventKind, HeldPath, HeldPaths, PolicySet};
///
/// let policies = PolicySet::from_yaml("p.yaml", r#"
/// No miners:
///   policy: program
///   responseActions: [block, alert]
///   rules: ['match programName in ["/opt/miner", "/tmp/*"] and containerName == "web"', default ignore]
/// "#)?;
/// let [hold] = policies.tiers().holds() else { panic!("not held") };
/// assert_eq!((hold.kind, hold.deadline().as_millis()), (EventKind::Exec, 50));
/// let HeldPaths::Of(paths) = &hold.paths else { panic!("everywhere") };
/// let expected = [HeldPath::File(b"/opt/miner"[..].into()), HeldPath::Under(b"/tmp"[..].into())];
/// assert!(paths.iter().eq(&expected));
/// # Ok::<(), sls_core::Diagnostics>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Hold {
    /// The policy.
    pub policy: Arc<Policy>,
    /// `Exec` or `File`.
    pub kind: EventKind,
    /// Of files: what is done to them. Empty for executions.
    pub operations: Vec<&'static str>,
    /// The files outside which the policy never responds.
    pub paths: HeldPaths,
}

impl Hold {
    /// How long the operation waits at most for the policy.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        self.policy.decision_deadline
    }

    /// What becomes of it then.
    #[must_use]
    pub fn on_deadline(&self) -> OnDeadline {
        self.policy.on_deadline
    }

    /// How long an operation on the file with this resolved path may wait, and what becomes of it when that time is over;
    /// none if no policy looks at it, so that it need not wait at all. What several policies wait for ends with the longest
    /// of their deadlines, and is denied if one of them denies it.
    #[must_use]
    pub fn wait(holds: &[Self], kind: EventKind, path: &[u8]) -> Option<(Duration, OnDeadline)> {
        let holds = holds.iter().filter(|hold| hold.kind == kind && hold.paths.includes(path));
        holds.fold(None, |all: Option<(Duration, OnDeadline)>, hold| {
            let (deadline, on_deadline) = all.unwrap_or((Duration::ZERO, OnDeadline::Allow));
            let denies = [on_deadline, hold.on_deadline()].contains(&OnDeadline::Deny);
            let on_deadline = if denies { OnDeadline::Deny } else { OnDeadline::Allow };
            Some((deadline.max(hold.deadline()), on_deadline))
        })
    }
}

/// Files whose opening is held.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeldPaths {
    /// Any.
    Any,
    /// These.
    Of(BTreeSet<HeldPath>),
}

/// A file, or all files of a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum HeldPath {
    /// The file with this resolved path.
    File(Box<[u8]>),
    /// What is in this directory, however deep. It has no slash at its end.
    Under(Box<[u8]>),
}

impl HeldPath {
    /// Whether the file with this resolved path is held.
    #[must_use]
    pub fn includes(&self, path: &[u8]) -> bool {
        match self {
            Self::File(file) => **file == *path,
            Self::Under(directory) => path.strip_prefix(&**directory).is_some_and(|rest| rest.starts_with(b"/")),
        }
    }
}

impl HeldPaths {
    /// None at all.
    pub const NONE: Self = Self::Of(BTreeSet::new());

    /// Whether the file with this resolved path is held.
    #[must_use]
    pub fn includes(&self, path: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Of(paths) => paths.iter().any(|held| held.includes(path)),
        }
    }

    /// Those in which the policy can respond to an event of `kind` in which `operation` happens.
    pub(crate) fn of(policy: &Policy, kind: EventKind, operation: Option<&'static str>) -> Self {
        if kind == EventKind::Exec {
            return needs::<Programs>(policy, kind, operation).0;
        }
        needs::<Files>(policy, kind, operation).0
    }

    /// Takes the paths of `other`, too.
    pub fn add(&mut self, other: &Self) {
        match (&mut *self, other) {
            (Self::Of(all), Self::Of(more)) => {
                all.extend(more.iter().cloned());
                if all.len() > MAX_HELD_PATHS {
                    *self = Self::Any;
                }
            }
            _ => *self = Self::Any,
        }
    }

    fn passing(comparison: &Comparison) -> Self {
        let mut all = Self::NONE;
        let told = comparison.each_start(&mut |start, whole| all.add(&Self::from_start(start, whole)));
        if told { all } else { Self::Any }
    }

    /// The paths that begin like this, or the one that is this.
    fn from_start(start: &[u8], whole: bool) -> Self {
        let held = if whole {
            HeldPath::File(start.into())
        } else {
            // The directory that the start leads into.
            match start.iter().rposition(|byte| *byte == b'/') {
                None | Some(0) => return Self::Any,
                Some(slash) => HeldPath::Under(start[..slash].into()),
            }
        };
        Self::Of(BTreeSet::from([held]))
    }
}

/// Why the compiled matcher cannot decide the policy while the operation waits: what is not known before it has happened.
pub(crate) fn obstacles(policy: &Policy, hook: &Hook) -> Vec<Obstacle> {
    let mut obstacles = Vec::new();
    match policy.policy_type {
        PolicyType::InteractiveShell => {
            obstacles.push(Obstacle::new(
                "whether a shell is interactive follows from its arguments, which are not known before it runs",
            ));
        }
        PolicyType::Chmod => obstacles.push(Obstacle::new("a change of mode opens no file")),
        _ => {}
    }
    let conditions = policy.rules.iter().filter_map(|rule| rule.condition.as_ref());
    conditions.for_each(|condition| add_unknown(condition, hook, &mut obstacles));
    obstacles
}

fn add_unknown(condition: &Condition, hook: &Hook, obstacles: &mut Vec<Obstacle>) {
    match condition {
        Condition::And(terms) | Condition::Or(terms) => {
            terms.iter().for_each(|term| add_unknown(term, hook, obstacles));
        }
        Condition::Not(inner) => add_unknown(inner, hook, obstacles),
        Condition::Test(test) if hook.fields().contains(test.field) => {}
        Condition::Test(test) => {
            obstacles.push(Obstacle::of(&test.text, format!("`{}` is not known before it has happened", test.field)));
        }
    }
}

/// Paths of programs outside which a policy does not respond.
struct Programs(HeldPaths);

/// The same of files.
struct Files(HeldPaths);

macro_rules! narrow {
    ($name:ident, $fields:expr) => {
        impl Narrow for $name {
            const NONE: Self = Self(HeldPaths::NONE);
            const ANY: Self = Self(HeldPaths::Any);
            const FIELDS: &'static [Field] = $fields;

            fn of(comparison: &Comparison) -> Self {
                Self(HeldPaths::passing(comparison))
            }

            fn add(&mut self, other: &Self) {
                self.0.add(&other.0);
            }

            fn breadth(&self) -> usize {
                match &self.0 {
                    HeldPaths::Any => usize::MAX,
                    HeldPaths::Of(paths) => paths.len(),
                }
            }
        }
    };
}

narrow!(Programs, &[Field::ProgramName]);
narrow!(Files, &[Field::FilePath]);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::PolicySet;

    fn paths(policy_type: &str, rules: &str, operation: Option<&'static str>) -> Vec<String> {
        let text = format!("P: {{policy: {policy_type}, rules: [{rules}]}}");
        let set = PolicySet::from_yaml("p.yaml", text).unwrap();
        let kind = if operation.is_some() { EventKind::File } else { EventKind::Exec };
        match HeldPaths::of(set.policy("P").unwrap(), kind, operation) {
            HeldPaths::Any => vec!["*".to_owned()],
            HeldPaths::Of(paths) => paths
                .iter()
                .map(|path| match path {
                    HeldPath::File(file) => String::from_utf8_lossy(file).into_owned(),
                    HeldPath::Under(directory) => format!("{}/", String::from_utf8_lossy(directory)),
                })
                .collect(),
        }
    }

    #[test]
    fn only_what_policies_look_at_is_held() {
        let exec = |rules| paths("program", rules, None);
        assert_eq!(
            exec("'match programName == \"/usr/bin/wget\" and containerName == \"x\"', default ignore"),
            ["/usr/bin/wget"]
        );
        assert_eq!(
            exec("'match programName == \"/opt/x*\" or programName == \"/a/b/*\"', default ignore"),
            ["/a/b/", "/opt/"]
        );
        assert_eq!(exec("'match programName == \"*/wget\"', default ignore"), ["*"]);
        assert_eq!(exec("'match containerName == \"x\"', default ignore"), ["*"]);
        assert_eq!(exec("'ignore programName != \"/srv/*\"', default match"), ["/srv/"]);
        assert_eq!(exec("'match programName like \"/(opt|srv)/.*\"', default ignore"), ["/opt/", "/srv/"]);
        let file = |rules| paths("file", rules, Some("OPEN_WRITE"));
        assert_eq!(
            file("'match filePath == \"/etc/passwd\" and programName == \"/x\"', default ignore"),
            ["/etc/passwd"]
        );
        assert_eq!(file("'match fileOperation == \"CREATE\"', default ignore"), [""; 0]);
    }

    #[test]
    fn a_directory_holds_what_is_in_it() {
        let under = HeldPath::Under(b"/etc"[..].into());
        for (path, held) in
            [("/etc/x", true), ("/etc/a/b", true), ("/etc", false), ("/etcetera/x", false), ("/x/etc/y", false)]
        {
            assert_eq!(under.includes(path.as_bytes()), held, "{path}");
        }
    }

    #[test]
    fn an_operation_waits_for_the_most_patient_and_the_strictest() {
        let text = "
A: {policy: program, tier: fanotify, responseActions: [kill], decisionDeadline: 200, rules: ['match programName == \"/a/*\" and imageId == \"x\"', default ignore]}
B: {policy: program, responseActions: [block], onDeadline: deny, rules: ['match programName == \"/a/b\" and imageId == \"y\"', default ignore]}
";
        let set = PolicySet::from_yaml("p.yaml", text).unwrap();
        let wait = |path: &str| {
            let wait = Hold::wait(set.tiers().holds(), EventKind::Exec, path.as_bytes());
            wait.map(|(deadline, on_deadline)| (deadline.as_millis(), on_deadline))
        };
        assert_eq!(wait("/a/c"), Some((200, OnDeadline::Allow)));
        assert_eq!(wait("/a/b"), Some((200, OnDeadline::Deny)));
        assert_eq!(wait("/c"), None);
        assert_eq!(Hold::wait(set.tiers().holds(), EventKind::File, b"/a/b"), None);
    }
}

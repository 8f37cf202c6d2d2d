//! The keys of policies and lists: one table that the loader, `sls fields`, the JSON Schema and the documentation read.

use std::fmt;

use serde_json::Value;

use crate::action::Tier;
use crate::list::ListType;
use crate::policy::{Confidence, OnDeadline, OnUnknown, PolicyType as P, Priority};
use crate::schema::Offered::{self, Everywhere, To};

/// What a key takes.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum KeyKind {
    /// A string.
    Text,
    /// `true` or `false`.
    Bool,
    /// An integer in this range.
    Integer {
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// A number of seconds from 0 to this, fractions allowed.
    Seconds {
        /// The most.
        max: u64,
    },
    /// One of these strings.
    OneOf(&'static [&'static str]),
    /// A sequence of strings.
    Texts,
    /// A mapping of strings to strings.
    TextMap,
    /// The rules of a policy.
    Rules,
    /// A response action.
    Action,
    /// A sequence of response actions.
    Actions,
    /// The entries of a list.
    Entries,
}

impl KeyKind {
    /// The name that `sls fields` and the documentation use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "string",
            Self::Bool => "bool",
            Self::Integer { .. } => "integer",
            Self::Seconds { .. } => "number",
            Self::OneOf(_) => "enum",
            Self::Texts => "strings",
            Self::TextMap => "strings by name",
            Self::Rules => "rules",
            Self::Action => "action",
            Self::Actions => "actions",
            Self::Entries => "entries",
        }
    }
}

/// The name with the values or the range.
impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::Integer { min, max } => write!(f, " from {min} to {max}"),
            Self::Seconds { max } => write!(f, " from 0 to {max}"),
            Self::OneOf(values) => write!(f, ": {}", values.join(" ")),
            _ => Ok(()),
        }
    }
}

/// One key of a policy or a list.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct KeySpec {
    /// The key.
    pub name: &'static str,
    /// What it takes.
    pub kind: KeyKind,
    /// Its value when it is left out, as YAML; none if it is required or if leaving it out has a meaning of its own.
    pub default: Option<&'static str>,
    /// Whether it has to be there.
    pub required: bool,
    /// Which policy types have it.
    pub offered: Offered,
    /// What it means.
    pub meaning: &'static str,
}

impl KeySpec {
    /// Whether policies of type `policy_type` may have the key.
    #[must_use]
    pub fn offered_to(&self, policy_type: P) -> bool {
        match self.offered {
            Everywhere => true,
            To(types) => types.contains(&policy_type),
        }
    }

    /// The value that `default` stands for.
    #[must_use]
    pub fn default_value(&self) -> Option<Value> {
        // A test sees to it that each can be read.
        self.default.and_then(|default| serde_yaml::from_str(default).ok())
    }
}

const fn key(name: &'static str, kind: KeyKind, default: Option<&'static str>, meaning: &'static str) -> KeySpec {
    KeySpec { name, kind, default, required: false, offered: Everywhere, meaning }
}

const fn required(name: &'static str, kind: KeyKind, meaning: &'static str) -> KeySpec {
    KeySpec { required: true, ..key(name, kind, None, meaning) }
}

const fn own(types: &'static [P], key: KeySpec) -> KeySpec {
    KeySpec { offered: To(types), ..key }
}

const fn mode_bit(name: &'static str, meaning: &'static str) -> KeySpec {
    own(&[P::Chmod], key(name, KeyKind::Bool, Some("false"), meaning))
}

/// A day, in seconds.
const DAY: u64 = 24 * 60 * 60;

/// Of `file`.
pub(crate) const TIMEOUT: KeySpec = own(
    &[P::File],
    key(
        "timeout",
        KeyKind::Seconds { max: DAY },
        Some("0"),
        "seconds for which a file is not reported again; a policy with an active action responds each time",
    ),
);

/// Of what can be held while it is decided.
pub(crate) const DECISION_DEADLINE: KeySpec = own(
    &[P::Program, P::NewFileExec, P::File, P::FileMonitor],
    key(
        "decisionDeadline",
        KeyKind::Integer { min: 1, max: 10_000 },
        Some("50"),
        "milliseconds for which an operation waits at most for its decision in the tier `fanotify`",
    ),
);

/// The same.
const ON_DEADLINE: KeySpec = own(
    &[P::Program, P::NewFileExec, P::File, P::FileMonitor],
    key("onDeadline", KeyKind::OneOf(OnDeadline::NAMES), Some("allow"), "what becomes of the operation then"),
);

/// Of `newFileExec`; at most a week.
pub(crate) const FILE_TIMEOUT: KeySpec = own(
    &[P::NewFileExec],
    key(
        "fileTimeout",
        KeyKind::Integer { min: 1, max: 7 * 24 * 60 },
        Some("30"),
        "minutes for which a file is new after it was created or modified",
    ),
);

/// Of `segfault`. So many crashes have to be remembered for each program.
pub(crate) const TOLERANCE: KeySpec = own(
    &[P::Segfault],
    key(
        "tolerance",
        KeyKind::Integer { min: 0, max: 1_000 },
        Some("20"),
        "how many crashes of one program are tolerated in `duration`",
    ),
);

/// Of `segfault`.
pub(crate) const DURATION: KeySpec = own(
    &[P::Segfault],
    key("duration", KeyKind::Seconds { max: DAY }, Some("60.0"), "seconds in which crashes are counted"),
);

/// Of lists of hosts.
pub(crate) const RESOLVE_EVERY: KeySpec = key(
    "resolveEvery",
    KeyKind::Integer { min: 10, max: DAY },
    Some("300"),
    "of `hosts`: seconds after which domain names are resolved again",
);

/// The keys of policies; those that only some types have come last.
pub const POLICY_KEYS: &[KeySpec] = &[
    required("policy", KeyKind::OneOf(P::NAMES), "the policy type: what raises the policy's events"),
    key("enabled", KeyKind::Bool, Some("true"), "whether the policy takes part"),
    key("alertMessage", KeyKind::Text, None, "the alert's description; the policy's name if left out"),
    key("comments", KeyKind::Text, Some("\"\""), "the alert's comments"),
    key("priority", KeyKind::OneOf(Priority::NAMES), Some("Medium"), "how much the alert matters"),
    key("confidence", KeyKind::OneOf(Confidence::NAMES), Some("Medium"), "how sure a match is no false positive"),
    key("categories", KeyKind::Texts, Some("[]"), "`MITRE.<Tactic>.<Technique>[.<Sub-technique>]`, or free"),
    key("alertLabels", KeyKind::TextMap, Some("{}"), "labels that each alert carries"),
    key("group", KeyKind::Text, None, "dotted content group, which `enabled_content_groups` selects"),
    required("rules", KeyKind::Rules, "the rules from the top; the last one is the default"),
    key("responseActions", KeyKind::Actions, Some("[alert]"), "what is done about a match; nothing is implied"),
    key("responseAction", KeyKind::Action, None, "the older form: `X` means `responseActions: [alert, X]`"),
    key("dryRun", KeyKind::Bool, Some("false"), "plan, guard and report the actions, carry none out"),
    key("onUnknown", KeyKind::OneOf(OnUnknown::NAMES), Some("alert"), "what an event does that a rule cannot decide"),
    key(
        "tier",
        KeyKind::OneOf(Tier::NAMES),
        None,
        "the weakest tier that may decide it; the strongest that there is if left out",
    ),
    key("silence", KeyKind::Texts, Some("[]"), "codes of warnings that are not given about it, such as `SLS112`"),
    DECISION_DEADLINE,
    ON_DEADLINE,
    TIMEOUT,
    FILE_TIMEOUT,
    mode_bit("suid", "set-user-id"),
    mode_bit("sgid", "set-group-id"),
    mode_bit("svtx", "sticky"),
    mode_bit("rusr", "readable by its owner"),
    mode_bit("wusr", "writable by its owner"),
    mode_bit("xusr", "executable by its owner"),
    mode_bit("rgrp", "readable by its group"),
    mode_bit("wgrp", "writable by its group"),
    mode_bit("xgrp", "executable by its group"),
    mode_bit("roth", "readable by others"),
    mode_bit("woth", "writable by others"),
    mode_bit("xoth", "executable by others"),
    own(
        &[P::InteractiveShell],
        key(
            "alertOnIncompleteData",
            KeyKind::Bool,
            None,
            "the older form of `onUnknown`: `true` means `alert`, `false` means `ignore`",
        ),
    ),
    TOLERANCE,
    DURATION,
    own(&[P::Selinux], key("default", KeyKind::Bool, Some("false"), "accepted for compatibility; has no effect")),
    own(
        &[P::KernelPayload],
        key(
            "extraLargeMemorySystems",
            KeyKind::Bool,
            Some("false"),
            "for hosts with so much memory that user addresses may look like the kernel's",
        ),
    ),
    own(&[P::Kprobe, P::Uprobe], required("symbol", KeyKind::Text, "the function that the probe is on")),
    own(&[P::Uprobe], required("executable", KeyKind::Text, "path of the executable or library that the probe is on")),
    own(
        &[P::Kprobe, P::Uprobe],
        key(
            "arguments",
            KeyKind::TextMap,
            Some("{}"),
            "what to fetch at the probe, by the name that rules see: `arg0:string`, `+8(arg1):u32`, `ret`",
        ),
    ),
];

/// The keys of lists.
pub const LIST_KEYS: &[KeySpec] = &[
    required("type", KeyKind::OneOf(ListType::NAMES), "what the list holds"),
    key("description", KeyKind::Text, Some("\"\""), "free text"),
    required("list", KeyKind::Entries, "the entries"),
    RESOLVE_EVERY,
    key("silence", KeyKind::Texts, Some("[]"), "codes of warnings that are not given about it, such as `SLS112`"),
];

/// The keys with which an override extends a list or a policy of an earlier document, in the order in which they act.
pub const OVERRIDE_KEYS: &[KeySpec] = &[
    key("listRemove", KeyKind::Entries, None, "entries to take out of the list"),
    key("listAdd", KeyKind::Entries, None, "entries to put at the end of the list"),
    key("rulesBefore", KeyKind::Texts, None, "rules to put before the policy's own"),
];

/// The names of [`POLICY_KEYS`].
pub(crate) const POLICY_KEY_NAMES: &[&str] = &names::<{ POLICY_KEYS.len() }>(POLICY_KEYS);

/// The names of [`LIST_KEYS`].
pub(crate) const LIST_KEY_NAMES: &[&str] = &names::<{ LIST_KEYS.len() }>(LIST_KEYS);

const fn names<const N: usize>(keys: &[KeySpec]) -> [&'static str; N] {
    let mut names = [""; N];
    let mut index = 0;
    while index < N {
        names[index] = keys[index].name;
        index += 1;
    }
    names
}

/// The mode bits that `chmod` policies choose by name.
pub(crate) const MODE_BITS: &[(&str, u16)] = &[
    ("suid", 0o4000),
    ("sgid", 0o2000),
    ("svtx", 0o1000),
    ("rusr", 0o400),
    ("wusr", 0o200),
    ("xusr", 0o100),
    ("rgrp", 0o040),
    ("wgrp", 0o020),
    ("xgrp", 0o010),
    ("roth", 0o004),
    ("woth", 0o002),
    ("xoth", 0o001),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_there_once_and_its_default_can_be_read() {
        for keys in [POLICY_KEYS, LIST_KEYS] {
            for (index, key) in keys.iter().enumerate() {
                assert!(keys[..index].iter().all(|other| other.name != key.name), "{}", key.name);
            }
        }
        for key in POLICY_KEYS.iter().chain(LIST_KEYS) {
            assert_eq!(key.default.is_some(), key.default_value().is_some(), "{}", key.name);
        }
        let bits = MODE_BITS.iter().map(|(name, _)| *name);
        assert!(bits.eq(POLICY_KEYS.iter().filter(|key| key.offered == To(&[P::Chmod])).map(|key| key.name)));
    }
}

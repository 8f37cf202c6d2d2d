//! Guards as operators write them.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};

use super::{Guard, Protected};
use crate::action::Action;

/// A guard in a configuration: what it protects under one of the last keys, and why.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, rename = "a guard")]
struct DeclaredGuard {
    name: Option<String>,
    reason: Option<String>,
    program: Option<String>,
    path: Option<String>,
    cgroup: Option<u64>,
    pid: Option<u32>,
    action: Option<String>,
}

/// What is wrong with one.
#[derive(Debug, thiserror::Error)]
enum GuardError {
    #[error(
        "a guard protects one thing: it takes exactly one of `program`, `path`, `cgroup`, `pid` and `action`, not {count}"
    )]
    Things { count: usize },
    #[error("`{pattern}` matches no absolute path: it begins neither with `/` nor with `*`")]
    Relative { pattern: String },
    #[error("`{token}` is no action, so nothing would be forbidden")]
    UnknownAction { token: String },
    #[error("the {key} of a guard must not be empty")]
    Empty { key: &'static str },
}

impl TryFrom<DeclaredGuard> for Guard {
    type Error = GuardError;

    fn try_from(declared: DeclaredGuard) -> Result<Self, GuardError> {
        let DeclaredGuard { name, reason, program, path, cgroup, pid, action } = declared;
        for (key, text) in [("name", &name), ("reason", &reason)] {
            if text.as_ref().is_some_and(|text| text.trim().is_empty()) {
                return Err(GuardError::Empty { key });
            }
        }
        for pattern in program.iter().chain(&path) {
            if !pattern.starts_with(['/', '*']) {
                return Err(GuardError::Relative { pattern: pattern.clone() });
            }
        }
        // A slip of the pen must not leave the action allowed.
        if let Some(token) = action.as_ref().filter(|token| Action::from_token(token).is_none()) {
            return Err(GuardError::UnknownAction { token: token.clone() });
        }
        let things = [
            program.map(|pattern| {
                ("protected-program", "the operator protects this program", Protected::Program(pattern))
            }),
            path.map(|pattern| ("protected-path", "the operator protects this file", Protected::Path(pattern))),
            cgroup.map(|id| ("protected-cgroup", "the operator protects this cgroup", Protected::Cgroup(id))),
            pid.map(|pid| ("protected-pid", "the operator protects this process", Protected::Pid(pid))),
            action.map(|token| ("forbidden-action", "the operator forbids this action", Protected::Action(token))),
        ];
        let mut things = things.into_iter().flatten();
        let (first, more) = (things.next(), things.count());
        match first {
            Some((default_name, default_reason, protects)) if more == 0 => Ok(Self {
                name: name.map_or(Cow::Borrowed(default_name), Cow::Owned),
                reason: reason.map_or(Cow::Borrowed(default_reason), Cow::Owned),
                protects,
            }),
            first => Err(GuardError::Things { count: more + usize::from(first.is_some()) }),
        }
    }
}

/// From a mapping with exactly one of `program` and `path` (patterns of resolved paths), `cgroup` (its id), `pid` and
/// `action` (a token of SLS's own; for an embedder's there is [`Guards::forbid_action`](super::Guards::forbid_action)), and
/// perhaps `name` and `reason`.
impl<'de> Deserialize<'de> for Guard {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        DeclaredGuard::deserialize(deserializer)?.try_into().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Guard, String> {
        serde_yaml::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn what_operators_write_is_a_guard() {
        let guard = read("{name: db, reason: it is the database, program: /opt/db/*}").unwrap();
        assert_eq!((&*guard.name, &*guard.reason), ("db", "it is the database"));
        assert!(matches!(guard.protects, Protected::Program(pattern) if pattern == "/opt/db/*"));
        let guard = read("path: /srv/*").unwrap();
        assert_eq!((&*guard.name, guard.protects.to_string()), ("protected-path", "file /srv/*".into()));
        assert!(matches!(read("cgroup: 77").unwrap().protects, Protected::Cgroup(77)));
        assert!(matches!(read("action: suspend").unwrap().protects, Protected::Action(token) if token == "suspend"));
        assert!(matches!(read("pid: 77").unwrap().protects, Protected::Pid(77)));
    }

    #[test]
    fn what_protects_nothing_is_refused() {
        for (text, wanted) in [
            ("{name: x}", "exactly one of"),
            ("{pid: 1, path: /x}", "not 2"),
            ("{program: nginx}", "`nginx` matches no absolute path"),
            ("{name: '', pid: 1}", "name of a guard must not be empty"),
            ("{action: kill-contianer}", "`kill-contianer` is no action"),
            ("{progam: /x}", "unknown field `progam`"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(wanted), "{error}");
        }
    }
}

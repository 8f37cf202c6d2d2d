//! Where files are that policies look at.

use std::collections::BTreeSet;

use crate::rule::Comparison;

/// The most beginnings of paths that an interest names; more are any path.
pub const MAX_INTEREST_PATHS: usize = 256;

/// Bytes of the longest beginning.
const LONGEST: usize = 63;

/// The paths of files that policies look at.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PathInterest {
    /// Any.
    Any,
    /// Those whose first component, or whose first two, are among these: `etc`, `usr/bin`.
    Under(BTreeSet<Box<[u8]>>),
}

impl PathInterest {
    /// No path at all.
    pub(super) const NONE: Self = Self::Under(BTreeSet::new());

    /// Whether `path` is among them. Not every one that is, is looked at.
    #[must_use]
    pub fn includes(&self, path: &[u8]) -> bool {
        let Self::Under(beginnings) = self else { return true };
        let mut components = path.split(|byte| *byte == b'/').skip(1);
        // Without a root it is no whole path.
        let (true, Some(first)) = (path.first() == Some(&b'/'), components.next()) else { return true };
        let both = first.len() + 1 + components.next().map_or(0, <[u8]>::len);
        beginnings.contains(first) || path.get(1..=both).is_some_and(|both| beginnings.contains(both))
    }

    /// Takes the paths of `other`, too.
    pub(super) fn add(&mut self, other: &Self) {
        match (&mut *self, other) {
            (Self::Under(all), Self::Under(more)) => {
                all.extend(more.iter().cloned());
                if all.len() > MAX_INTEREST_PATHS {
                    *self = Self::Any;
                }
            }
            _ => *self = Self::Any,
        }
    }

    /// The paths that can pass a comparison.
    pub(super) fn of(comparison: &Comparison) -> Self {
        let mut all = Self::NONE;
        let told = comparison.each_start(&mut |start, whole| all.add(&Self::from_start(start, whole)));
        if told { all } else { Self::Any }
    }

    /// The paths that begin like this, or the one that is this.
    fn from_start(start: &[u8], whole: bool) -> Self {
        match beginning(start, whole) {
            Some(beginning) => Self::Under(BTreeSet::from([beginning.into()])),
            None => Self::Any,
        }
    }
}

/// The first component of all those paths, or the first two; none if they differ.
fn beginning(start: &[u8], whole: bool) -> Option<&[u8]> {
    let path = start.strip_prefix(b"/")?;
    let mut ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    let (first, second) = (ends.next(), ends.next());
    // What is not followed by a slash is a whole component only if the path ends there.
    let end = second.or(whole.then_some(path.len())).or(first)?;
    let fits = |part: &&[u8]| part.len() <= LONGEST && part.split(|byte| *byte == b'/').all(|part| !part.is_empty());
    path.get(..end).filter(fits).or_else(|| path.get(..first?).filter(fits))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::{Like, Pattern};

    fn of_pattern(text: &str) -> PathInterest {
        PathInterest::of(&Comparison::Pattern { pattern: Pattern::new(text), fold: false })
    }

    #[test]
    fn beginnings_are_whole_components() {
        let beginning = |text: &str| match of_pattern(text) {
            PathInterest::Under(paths) => paths.first().map(|bytes| String::from_utf8_lossy(bytes).into_owned()),
            PathInterest::Any => None,
        };
        for (pattern, expected) in [
            ("/etc/passwd", Some("etc/passwd")),
            ("/etc/ssh/*", Some("etc/ssh")),
            ("/etc/cron*", Some("etc")),
            ("/etc/*", Some("etc")),
            ("/vmlinuz", Some("vmlinuz")),
            ("/usr/bin/env", Some("usr/bin")),
            ("/etc*", None),
            ("/*", None),
            ("*/passwd", None),
            ("passwd", None),
            ("//etc", None),
            ("/etc//x", Some("etc")),
            ("/etc/", Some("etc")),
        ] {
            assert_eq!(beginning(pattern).as_deref(), expected, "{pattern}");
        }
        let long = format!("/{}/x", "a".repeat(70));
        assert_eq!(beginning(&long), None);
    }

    #[test]
    fn expressions_begin_with_one_of_few_texts() {
        let of = |text: &str| match PathInterest::of(&Comparison::Like(Box::new(Like::new(text, 1 << 20).unwrap()))) {
            PathInterest::Under(paths) => {
                paths.iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect::<Vec<_>>().join(" ")
            }
            PathInterest::Any => "any".to_owned(),
        };
        for (expression, expected) in [
            ("/etc/ssh/.*", "etc/ssh"),
            ("/etc/cron.*", "etc"),
            ("/(etc|root)/.*", "etc root"),
            ("/etc/passwd|/boot/[a-c]/.*", "boot/a boot/b boot/c etc/passwd"),
            ("(?i)/a/x", "A/X A/x a/X a/x"),
            ("^/etc/passwd$", "etc/passwd"),
            ("/etc/(passwd)?", "etc etc/passwd"),
            ("/etc?/x", "et/x etc/x"),
            ("/etc.?/x", "any"),
            (".*/passwd", "any"),
            ("(/etc/.*)?", "any"),
            ("/[^/]+/.*", "any"),
            ("", "any"),
        ] {
            assert_eq!(of(expression), expected, "{expression}");
        }
    }

    #[test]
    fn includes_what_begins_so() {
        let mut interest = of_pattern("/etc/ssh/*");
        interest.add(&of_pattern("/root/*"));
        for (path, expected) in [
            ("/etc/ssh/sshd_config", true),
            ("/etc/sshd", false),
            ("/etc", false),
            ("/etc/ssh", true),
            ("/root", true),
            ("/root/.bashrc", true),
            ("/rootless", false),
            ("relative", true),
            ("/", false),
        ] {
            assert_eq!(interest.includes(path.as_bytes()), expected, "{path}");
        }
    }
}

//! Regular expressions of which no text is known that they need: one automaton for all of them.

use std::cell::RefCell;

use regex_automata::meta::Regex;
use regex_automata::{Input, MatchKind, PatternSet};
use regex_syntax::hir::{Class, ClassBytes, Hir, HirKind, Look};

use super::literals;
use super::table::Target;
use crate::pattern::Like;

/// The most bytes of the automaton that is built from what is seen.
const DFA_CACHE: usize = 4 << 20;

thread_local! {
    /// Which expressions match. Allocated when there is the first match, and when there are more expressions than before.
    static MATCHING: RefCell<PatternSet> = RefCell::new(PatternSet::new(0));
}

/// Expressions over whole values, each with a target.
#[derive(Clone, Debug)]
pub(super) struct Regexes {
    /// None if they cannot be compiled together.
    together: Option<Regex>,
    targets: Box<[Target]>,
    /// A byte that every expression needs, folded, and how often each does at least.
    needed: Option<(u8, usize)>,
}

impl Regexes {
    /// Which is none if there are no expressions.
    pub(super) fn new(likes: &[(Like, Target)]) -> Option<Self> {
        if likes.is_empty() {
            return None;
        }
        let hirs: Option<Vec<Hir>> = likes.iter().map(|(like, _)| like.hir()).collect();
        let config = Regex::config()
            .match_kind(MatchKind::All)
            .utf8_empty(false)
            .hybrid_cache_capacity(DFA_CACHE)
            .which_captures(regex_automata::nfa::thompson::WhichCaptures::None)
            .nfa_size_limit(None);
        let needed = hirs.as_ref().and_then(|hirs| {
            let byte = needed_byte(hirs)?;
            Some((byte, hirs.iter().map(|hir| least(hir, byte)).min()?))
        });
        let hirs = hirs.map(|hirs| hirs.into_iter().map(float).collect::<Vec<_>>());
        let together = hirs.and_then(|hirs| Regex::builder().configure(config).build_many_from_hir(&hirs).ok());
        Some(Self { together, targets: likes.iter().map(|(_, target)| *target).collect(), needed })
    }

    /// Calls `found` for each expression that matches `value`.
    pub(super) fn each(&self, value: &[u8], mut found: impl FnMut(Target)) {
        if let Some((byte, times)) = self.needed
            && count(byte, value) < times
        {
            return;
        }
        let Some(together) = &self.together else {
            self.targets.iter().for_each(|target| found(*target));
            return;
        };
        let input = Input::new(value);
        if !together.is_match(input.clone().earliest(true)) {
            return;
        }
        MATCHING.with(|matching| match matching.try_borrow_mut() {
            Ok(mut matching) => {
                if matching.capacity() < together.pattern_len() {
                    *matching = PatternSet::new(together.pattern_len());
                }
                matching.clear();
                together.which_overlapping_matches(&input, &mut matching);
                matching
                    .iter()
                    .filter_map(|pattern| self.targets.get(pattern.as_usize()))
                    .for_each(|target| found(*target));
            }
            // `found` matches something itself.
            Err(_) => self.targets.iter().for_each(|target| found(*target)),
        });
    }
}

/// How often a byte, folded, is in a value. Sums of bytes are what a processor adds up many of at once.
fn count(byte: u8, value: &[u8]) -> usize {
    let sum = |chunk: &[u8]| chunk.iter().map(|other| u8::from(other | 0x20 == byte)).sum::<u8>();
    value.chunks(u8::MAX.into()).map(|chunk| usize::from(sum(chunk))).sum()
}

/// The folded byte that every expression needs.
fn needed_byte(hirs: &[Hir]) -> Option<u8> {
    let mut needed = hirs.iter().map(|hir| match &literals::required(hir)?[..] {
        [literal] => literal.first().copied(),
        _ => None,
    });
    let first = needed.next()??;
    needed.all(|byte| byte == Some(first)).then_some(first)
}

/// How often a byte, folded, is in every match at least.
fn least(hir: &Hir, byte: u8) -> usize {
    let is = |other: u8| other | 0x20 == byte;
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => 0,
        HirKind::Literal(literal) => literal.0.iter().filter(|other| is(**other)).count(),
        HirKind::Class(Class::Bytes(class)) => {
            class.ranges().iter().all(|range| (range.start()..=range.end()).all(is)).into()
        }
        HirKind::Class(Class::Unicode(_)) => 0,
        HirKind::Repetition(repetition) => least(&repetition.sub, byte).saturating_mul(repetition.min as usize),
        HirKind::Capture(capture) => least(&capture.sub, byte),
        HirKind::Concat(parts) => parts.iter().fold(0, |sum: usize, part| sum.saturating_add(least(part, byte))),
        HirKind::Alternation(parts) => parts.iter().map(|part| least(part, byte)).min().unwrap_or_default(),
    }
}

/// The expression without the `.*` at its ends, so that a search can stop at the first match.
fn float(hir: Hir) -> Hir {
    let HirKind::Concat(parts) = hir.kind() else { return hir };
    let anything = |hir: &Hir| match hir.kind() {
        HirKind::Repetition(repetition) => {
            repetition.min == 0
                && repetition.max.is_none()
                && matches!(repetition.sub.kind(), HirKind::Class(Class::Bytes(class)) if is_any_byte(class))
        }
        _ => false,
    };
    let look = |hir: &Hir, look: Look| matches!(hir.kind(), HirKind::Look(other) if *other == look);
    let mut parts = &parts[..];
    if let [start, any, rest @ ..] = parts
        && look(start, Look::Start)
        && anything(any)
    {
        parts = rest;
    }
    if let [rest @ .., any, end] = parts
        && look(end, Look::End)
        && anything(any)
    {
        parts = rest;
    }
    Hir::concat(parts.to_vec())
}

fn is_any_byte(class: &ClassBytes) -> bool {
    matches!(class.ranges(), [all] if all.start() == 0 && all.end() == u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(expressions: &[&str], value: &str) -> Vec<Target> {
        let likes: Vec<_> = expressions.iter().map(|text| Like::new(text, 1 << 20).unwrap()).zip(0..).collect();
        let mut found = Vec::new();
        Regexes::new(&likes).unwrap().each(value.as_bytes(), |target| found.push(target));
        found
    }

    #[test]
    fn finds_all_that_match() {
        let expressions = [r".*(?:[0-9]{2}:){2,}.*", r"[0-9:]+:[0-9]", ".*[0-9]:[0-9].*"];
        assert_eq!(found(&expressions, "12:34:"), [0, 2]);
        assert_eq!(found(&expressions, "1:2"), [1, 2]);
        assert_eq!(found(&expressions, "12:34:5"), [0, 1, 2]);
        assert!(found(&expressions, "1234").is_empty());
        assert_eq!(found(&[".*[0-9]", "|[a-z]*?"], "1"), [0]);
        assert_eq!(found(&[".*[0-9]", "|[a-z]*?"], ""), [1]);
    }

    #[test]
    fn counts_bytes() {
        assert_eq!(count(b'a', &b"Aab".repeat(300)), 600);
        assert_eq!(count(b'a', b""), 0);
    }

    #[test]
    fn counts_what_every_match_has() {
        let times = |expression: &str| {
            let like = Like::new(expression, 1 << 20).unwrap();
            Regexes::new(&[(like, 0)]).unwrap().needed
        };
        assert_eq!(times("(?:[0-9a-f]{2}:){6,}[0-9a-f]{2}"), Some((b':', 6)));
        assert_eq!(times("(?:[0-9]:|:[a-z]:){2}"), Some((b':', 2)));
        // The other byte that folds to a colon.
        assert_eq!(times(r"[0-9](?:\x1a|[:\x1a])[0-9]"), Some((b':', 1)));
        assert_eq!(times("[0-9]+"), None);
    }
}

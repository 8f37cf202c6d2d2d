//! Texts of which every match of a regular expression holds one.
//!
//! All bytes are folded (see [`super::hash`]), so that `(?i)` costs nothing. What is found is necessary for a match, never
//! sufficient: an assertion is taken to hold everywhere, and a repetition to go on for ever.

use regex_syntax::hir::{Class, Hir, HirKind};

/// The most alternatives that are kept apart.
const MAX_ALTERNATIVES: usize = 64;

/// The longest text that is put together.
const MAX_LENGTH: usize = 64;

/// A class of more bytes, folded, counts as any byte.
const MAX_CLASS: usize = 4;

/// One of these is in every match.
pub(super) type Literals = Vec<Vec<u8>>;

/// The literals of an expression that tell most, none of which is empty; none if there are no such.
pub(super) fn required(hir: &Hir) -> Option<Literals> {
    Part::of(hir).literals()
}

/// The length of the shortest.
pub(super) fn shortest(literals: &Literals) -> usize {
    literals.iter().map(Vec::len).min().unwrap_or_default()
}

/// What is known of the matches of a part.
#[derive(Clone)]
enum Part {
    /// They are these.
    Exact(Literals),
    /// They hold one of these.
    Holds(Literals),
    Any,
}

impl Part {
    fn of(hir: &Hir) -> Self {
        match hir.kind() {
            HirKind::Empty | HirKind::Look(_) => Self::Exact(vec![Vec::new()]),
            HirKind::Literal(literal) => Self::Exact(vec![literal.0.iter().map(|byte| byte | 0x20).collect()]),
            HirKind::Class(class) => bytes_of(class).map_or(Self::Any, Self::Exact),
            HirKind::Capture(capture) => Self::of(&capture.sub),
            HirKind::Repetition(repetition) => Self::of(&repetition.sub).repeat(repetition.min, repetition.max),
            HirKind::Concat(parts) => Self::one_after_the_other(parts.iter().map(Self::of)),
            HirKind::Alternation(parts) => Self::one_of(parts.iter().map(Self::of).collect()),
        }
    }

    fn one_after_the_other(parts: impl Iterator<Item = Self>) -> Self {
        // What the end of a match is, as far as that is known; and whether that is the whole match.
        let (mut end, mut whole) = (vec![Vec::new()], true);
        let mut best = None;
        for part in parts {
            match part {
                Self::Exact(literals) if joins(&end, &literals) => end = joined(&end, &literals),
                Self::Exact(literals) => {
                    best = better(best, Some(std::mem::replace(&mut end, literals)));
                    whole = false;
                }
                Self::Holds(_) | Self::Any => {
                    best = better(best, Some(std::mem::replace(&mut end, vec![Vec::new()])));
                    best = better(best, part.literals());
                    whole = false;
                }
            }
        }
        if whole { Self::Exact(end) } else { better(best, Some(end)).map_or(Self::Any, Self::Holds) }
    }

    fn one_of(parts: Vec<Self>) -> Self {
        let exact = parts.iter().all(|part| matches!(part, Self::Exact(_)));
        let each = parts.into_iter().map(|part| if let Self::Exact(all) = part { Some(all) } else { part.literals() });
        match each.collect::<Option<Vec<_>>>().map(|each| unique(each.concat())) {
            Some(all) if all.len() > MAX_ALTERNATIVES => Self::Any,
            Some(all) if exact => Self::Exact(all),
            Some(all) => Self::holds(all),
            None => Self::Any,
        }
    }

    fn repeat(self, min: u32, max: Option<u32>) -> Self {
        match self {
            _ if max == Some(0) => Self::Exact(vec![Vec::new()]),
            Self::Exact(mut literals) if min == 0 && max == Some(1) => {
                literals.push(Vec::new());
                Self::Exact(unique(literals))
            }
            _ if min == 0 => Self::Any,
            Self::Exact(literals) => {
                let mut times = 1;
                let mut repeated = literals.clone();
                while times < min && joins(&repeated, &literals) && !repeated.iter().any(Vec::is_empty) {
                    repeated = joined(&repeated, &literals);
                    times += 1;
                }
                if max == Some(times) && times == min { Self::Exact(repeated) } else { Self::holds(repeated) }
            }
            part => part,
        }
    }

    fn holds(literals: Literals) -> Self {
        if shortest(&literals) > 0 { Self::Holds(literals) } else { Self::Any }
    }

    fn literals(self) -> Option<Literals> {
        match self {
            Self::Exact(literals) | Self::Holds(literals) => Some(literals).filter(|all| shortest(all) > 0),
            Self::Any => None,
        }
    }
}

/// The bytes of a class, folded, if they are few.
fn bytes_of(class: &Class) -> Option<Literals> {
    let Class::Bytes(class) = class else { return None };
    // A class that is case-insensitive has twice as many bytes before they are folded.
    let size: usize = class.ranges().iter().map(|range| usize::from(range.end() - range.start()) + 1).sum();
    if size > 2 * MAX_CLASS {
        return None;
    }
    let bytes = class.ranges().iter().flat_map(|range| range.start()..=range.end());
    let bytes = unique(bytes.map(|byte| vec![byte | 0x20]).collect());
    (1..=MAX_CLASS).contains(&bytes.len()).then_some(bytes)
}

/// Whether it is worth it to put these together.
fn joins(heads: &Literals, tails: &Literals) -> bool {
    let longest = |literals: &Literals| literals.iter().map(Vec::len).max().unwrap_or_default();
    heads.len() * tails.len() <= MAX_ALTERNATIVES && longest(heads) + longest(tails) <= MAX_LENGTH
}

fn joined(heads: &Literals, tails: &Literals) -> Literals {
    unique(heads.iter().flat_map(|head| tails.iter().map(|tail| [&head[..], tail].concat())).collect())
}

fn unique(mut literals: Literals) -> Literals {
    literals.sort_unstable();
    literals.dedup();
    literals
}

/// Those that tell more: the longer, and of the same length the fewer.
fn better(a: Option<Literals>, b: Option<Literals>) -> Option<Literals> {
    let rank = |literals: &Literals| (shortest(literals).min(8), std::cmp::Reverse(literals.len()));
    [a, b].into_iter().flatten().filter(|literals| shortest(literals) > 0).max_by_key(rank)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex_syntax::ParserBuilder;

    use super::*;

    fn of(expression: &str) -> Option<Vec<String>> {
        let mut parser = ParserBuilder::new().unicode(false).utf8(false).dot_matches_new_line(true).build();
        let literals = required(&parser.parse(expression).unwrap())?;
        Some(literals.into_iter().map(|literal| String::from_utf8(literal).unwrap()).collect())
    }

    #[test]
    fn finds_what_every_match_holds() {
        let some = |literals: &[&str]| Some(literals.iter().map(|literal| (*literal).to_owned()).collect::<Vec<_>>());
        for (expression, expected) in [
            (r"\A(?:.*curl .*\|\s*sh)\z", some(&["curl "])),
            ("(?i).*Wget.*", some(&["wget"])),
            ("ab?c", some(&["abc", "ac"])),
            ("(?:foo|bar)[0-9]+baz", some(&["baz"])),
            ("(?:evil|bad[0-9])", some(&["bad", "evil"])),
            ("(?:evil|[0-9])", None),
            ("(?:abc){2,}", some(&["abcabc"])),
            ("(?:abc){2}x", some(&["abcabcx"])),
            ("(?:abc)*", None),
            ("(?:[0-9a-f]{2}:){4,}[0-9a-f]{2}", some(&[":"])),
            (r"\bnc\b", some(&["nc"])),
            ("(?:a{0}b){3}", some(&["bbb"])),
            ("[^a]*", None),
            ("", None),
        ] {
            assert_eq!(of(expression), expected, "{expression}");
        }
    }

    proptest! {
        /// Whatever matches holds a literal.
        #[test]
        fn every_match_holds_one(
            pieces in prop::collection::vec(
                (
                    prop::sample::select(&["ab", "c", "[ab]", "[a-f]", "(?:a|bc)", "(?i:B)", ".", r"\b", "(?:ab?|c)"][..]),
                    prop::sample::select(&["", "", "?", "*", "+", "{2}", "{1,3}", "{0}"][..]),
                ),
                1..6,
            ),
            value in "[abcABC.]{0,12}",
        ) {
            let expression: String = pieces.iter().flat_map(|(piece, repeated)| [*piece, *repeated]).collect();
            let Ok(regex) = regex::bytes::Regex::new(&format!("(?s-u){expression}")) else { return Ok(()) };
            if let (Some(literals), Some(found)) = (of(&expression), regex.find(value.as_bytes())) {
                let folded: Vec<u8> = found.as_bytes().iter().map(|byte| byte | 0x20).collect();
                let holds = literals.iter().any(|one| folded.windows(one.len()).any(|part| part == one.as_bytes()));
                prop_assert!(holds, "{:?} in {:?}", literals, found);
            }
        }
    }
}

//! The two kinds of text comparison: wildcards and regular expressions, both over bytes and both able to say "unknown"
//! when only a part of the value is known.

use regex::bytes::Regex;
use regex_syntax::ast::{self, Ast, Flag, GroupKind};
use regex_syntax::hir::literal::Extractor;
use regex_syntax::hir::translate::TranslatorBuilder;
use regex_syntax::hir::{Hir, HirKind};

use crate::diagnostic::Span;
use crate::truth::Truth;

/// Which part of a value is at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// All of it.
    Whole,
    /// Its start; the end was cut off.
    Start,
    /// Its end; the start was cut off.
    End,
}

/// A wildcard pattern: `*` stands for any bytes, `/` included, and the pattern covers the whole value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Pattern {
    /// The literal pieces between the stars: one more than there are stars.
    pieces: Vec<Box<[u8]>>,
}

impl Pattern {
    /// Compiles pattern text in which `\*` is a star and `\\` a backslash. Any other backslash stands for itself.
    pub(crate) fn new(text: &str) -> Self {
        let mut pieces = Vec::new();
        let mut piece = Vec::new();
        let mut bytes = text.bytes().peekable();
        while let Some(byte) = bytes.next() {
            match byte {
                b'*' => pieces.push(std::mem::take(&mut piece).into_boxed_slice()),
                b'\\' => match bytes.next_if(|next| matches!(next, b'*' | b'\\')) {
                    Some(escaped) => piece.push(escaped),
                    None => piece.push(b'\\'),
                },
                _ => piece.push(byte),
            }
        }
        pieces.push(piece.into_boxed_slice());
        // Neighbouring stars are one star.
        let last = pieces.len() - 1;
        let mut index = 0;
        pieces.retain(|piece| {
            let keep = index == 0 || index == last || !piece.is_empty();
            index += 1;
            keep
        });
        Self { pieces }
    }

    /// The fewest bytes that a value needs to match.
    pub(crate) fn min_len(&self) -> usize {
        self.pieces.iter().map(|piece| piece.len()).sum()
    }

    /// The literal pieces between the stars, which the first and the last are the ends of.
    pub(crate) fn pieces(&self) -> &[Box<[u8]>] {
        &self.pieces
    }

    /// The one text that it matches, if it has no star.
    pub(crate) fn literal(&self) -> Option<&[u8]> {
        match &*self.pieces {
            [whole] => Some(whole),
            _ => None,
        }
    }

    /// The bytes that every match begins with.
    pub(crate) fn literal_start(&self) -> &[u8] {
        &self.pieces[0]
    }

    /// The bytes that every match ends with.
    pub(crate) fn literal_end(&self) -> &[u8] {
        &self.pieces[self.pieces.len() - 1]
    }

    /// Whether it matches everything.
    pub(crate) fn is_universal(&self) -> bool {
        self.pieces.len() > 1 && self.min_len() == 0
    }

    /// Whether the pattern names something by a path and not just by its last component.
    pub(crate) fn has_slash(&self) -> bool {
        self.pieces.iter().any(|piece| piece.contains(&b'/'))
    }

    /// Compares with `value`, of which the part `known` is at hand.
    pub(crate) fn matches(&self, value: &[u8], known: Known, fold: bool) -> Truth {
        match known {
            Known::Whole => self.matches_whole(value, fold).into(),
            // Whatever follows is taken by a trailing star; without one it may or may not fit.
            Known::Start if self.ends_open() && self.matches_whole(value, fold) => Truth::True,
            Known::Start if self.may_start(value, fold) => Truth::Unknown,
            Known::End if self.starts_open() && self.matches_whole(value, fold) => Truth::True,
            Known::End if self.may_end(value, fold) => Truth::Unknown,
            Known::Start | Known::End => Truth::False,
        }
    }

    fn matches_whole(&self, value: &[u8], fold: bool) -> bool {
        let [first, middle @ .., last] = &*self.pieces else {
            // Without a star there is one piece, and it is the whole value.
            return equal(&self.pieces[0], value, fold);
        };
        if value.len() < first.len() + last.len() {
            return false;
        }
        let (start, rest) = value.split_at(first.len());
        let (mut rest, end) = rest.split_at(rest.len() - last.len());
        equal(first, start, fold)
            && equal(last, end, fold)
            && middle.iter().all(|piece| match find(piece, rest, fold) {
                Some(at) => {
                    rest = &rest[at + piece.len()..];
                    true
                }
                None => false,
            })
    }

    /// Whether some continuation of `start` matches.
    fn may_start(&self, start: &[u8], fold: bool) -> bool {
        let first = &*self.pieces[0];
        let common = first.len().min(start.len());
        equal(&first[..common], &start[..common], fold) && (self.pieces.len() > 1 || start.len() <= first.len())
    }

    /// Whether something before `end` makes it match.
    fn may_end(&self, end: &[u8], fold: bool) -> bool {
        let last = &*self.pieces[self.pieces.len() - 1];
        let common = last.len().min(end.len());
        equal(&last[last.len() - common..], &end[end.len() - common..], fold)
            && (self.pieces.len() > 1 || end.len() <= last.len())
    }

    fn ends_open(&self) -> bool {
        self.pieces.len() > 1 && self.pieces[self.pieces.len() - 1].is_empty()
    }

    fn starts_open(&self) -> bool {
        self.pieces.len() > 1 && self.pieces[0].is_empty()
    }
}

/// Whether two texts are the same. The last bytes go first: paths differ there most, and the call of memcmp that this
/// saves was half of the cost of a miss.
fn equal(a: &[u8], b: &[u8], fold: bool) -> bool {
    match (a, b) {
        ([], []) => true,
        ([a_start @ .., a_last], [b_start @ .., b_last]) if fold => {
            a_last.eq_ignore_ascii_case(b_last) && a_start.eq_ignore_ascii_case(b_start)
        }
        ([a_start @ .., a_last], [b_start @ .., b_last]) => a_last == b_last && a_start == b_start,
        _ => false,
    }
}

fn find(needle: &[u8], haystack: &[u8], fold: bool) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| equal(needle, window, fold))
}

/// A regular expression over the whole value. It works on bytes, and `.` matches every byte, line breaks and invalid
/// UTF-8 included: an argument must not be able to hide behind one.
#[derive(Clone, Debug)]
pub(crate) struct Like {
    regex: Regex,
    cost: usize,
    starts_open: bool,
    ends_open: bool,
}

/// Why a regular expression was refused.
#[derive(Debug)]
pub(crate) struct LikeError {
    pub(crate) message: String,
    /// The place in the expression.
    pub(crate) span: Option<Span>,
    /// Whether it is well-formed, but too large.
    pub(crate) too_large: bool,
}

/// How deeply groups and repetitions of a regular expression may nest.
const REGEX_NESTING: u32 = 64;

/// The most bytes that a regular expression keeps of the automaton that it builds from what it sees. An attacker chooses
/// what that is.
const DFA_CACHE: usize = 256 << 10;

/// The program size that is tried first.
const SMALLEST_PROGRAM: usize = 4 << 10;

impl Like {
    /// Compiles `text`, to a program of at most `size_limit` bytes.
    pub(crate) fn new(text: &str, size_limit: usize) -> Result<Self, LikeError> {
        let (ast, plain) = Plain::parse(text)?;
        let hir = TranslatorBuilder::new()
            .unicode(false)
            .utf8(false)
            .dot_matches_new_line(true)
            .build()
            .translate(text, &ast)
            .map_err(|error| LikeError::syntax(&error.into()))?;
        // The size of the smallest program that is large enough is not told, so sizes are tried.
        let mut size = SMALLEST_PROGRAM.min(size_limit);
        let regex = loop {
            let result = regex::bytes::RegexBuilder::new(&plain.text)
                .unicode(false)
                .dot_matches_new_line(true)
                .nest_limit(REGEX_NESTING + 2)
                .size_limit(size)
                .dfa_size_limit(DFA_CACHE)
                .build();
            match result {
                Ok(regex) => break regex,
                Err(regex::Error::CompiledTooBig(_)) if size < size_limit => size = (size * 4).min(size_limit),
                Err(error) => {
                    return Err(LikeError {
                        too_large: matches!(error, regex::Error::CompiledTooBig(_)),
                        message: error.to_string(),
                        span: None,
                    });
                }
            }
        };
        // What an assertion says of the end of the part may not hold of the whole.
        let asserts = !hir.properties().look_set().is_empty();
        let opens = |end| !asserts && opens(&hir, end);
        Ok(Self { regex, cost: size, starts_open: opens(End::Start), ends_open: opens(End::End) })
    }

    /// The expression as it was compiled, which equals that of another if both match the same for being written the same.
    pub(crate) fn compiled(&self) -> &str {
        self.regex.as_str()
    }

    /// The expression's syntax.
    pub(crate) fn hir(&self) -> Option<Hir> {
        let mut parser =
            regex_syntax::ParserBuilder::new().unicode(false).utf8(false).dot_matches_new_line(true).build();
        parser.parse(self.regex.as_str()).ok()
    }

    /// What every match begins with: one of these, which is the whole match where it says so. None if there are many.
    pub(crate) fn starts(&self) -> Option<Vec<(Vec<u8>, bool)>> {
        Self::starts_of(&self.hir()?)
    }

    /// The same, of an expression that is parsed already.
    pub(crate) fn starts_of(hir: &Hir) -> Option<Vec<(Vec<u8>, bool)>> {
        let starts = Extractor::new().extract(hir);
        Some(starts.literals()?.iter().map(|start| (start.as_bytes().to_vec(), start.is_exact())).collect())
    }

    /// Bytes that the program has at most.
    pub(crate) fn cost(&self) -> usize {
        self.cost
    }

    /// Compares with `value`, of which the part `known` is at hand.
    pub(crate) fn matches(&self, value: &[u8], known: Known) -> Truth {
        let matches = self.regex.is_match(value);
        match known {
            Known::Whole => matches.into(),
            Known::Start if self.ends_open && matches => Truth::True,
            Known::End if self.starts_open && matches => Truth::True,
            Known::Start | Known::End => Truth::Unknown,
        }
    }
}

/// An expression as it is compiled: over the whole value, and without captures, which nobody asks for and for which
/// the engine would build tables of up to 1 MiB beside the program.
struct Plain {
    text: String,
    /// Where captures begin, in the original text.
    captures: Vec<std::ops::Range<usize>>,
}

impl Plain {
    fn parse(text: &str) -> Result<(Ast, Self), LikeError> {
        let parsed = ast::parse::ParserBuilder::new().nest_limit(REGEX_NESTING).build().parse_with_comments(text);
        let parsed = parsed.map_err(|error| LikeError::syntax(&error.into()))?;
        let captures = ast::visit(&parsed.ast, Self { text: String::new(), captures: Vec::new() })?;
        let mut plain = String::from(r"\A(?:");
        let mut done = 0;
        for capture in captures {
            plain.push_str(&text[done..capture.start]);
            plain.push_str("(?:");
            done = capture.end;
        }
        plain.push_str(&text[done..]);
        // A comment would go on to the end of the line.
        if parsed.comments.last().is_some_and(|comment| comment.span.end.offset == text.len()) {
            plain.push('\n');
        }
        plain.push_str(r")\z");
        Ok((parsed.ast, Self { text: plain, captures: Vec::new() }))
    }
}

impl ast::Visitor for Plain {
    type Output = Vec<std::ops::Range<usize>>;
    type Err = LikeError;

    fn finish(self) -> Result<Self::Output, LikeError> {
        Ok(self.captures)
    }

    fn visit_pre(&mut self, ast: &Ast) -> Result<(), LikeError> {
        let flags = match ast {
            Ast::Flags(set) => Some(&set.flags),
            Ast::Group(group) => {
                let start = group.span.start.offset;
                match &group.kind {
                    GroupKind::CaptureIndex(_) => self.captures.push(start..start + 1),
                    // The name and its closing bracket.
                    GroupKind::CaptureName { name, .. } => self.captures.push(start..name.span.end.offset + 1),
                    GroupKind::NonCapturing(_) => {}
                }
                group.flags()
            }
            _ => None,
        };
        // Tables of Unicode make small expressions large and slow to compile, and values are bytes.
        if let Some(flags) = flags.filter(|flags| flags.flag_state(Flag::Unicode) == Some(true)) {
            let message = "the flag `u` is not available: expressions work on bytes".to_owned();
            let span = Span::new(flags.span.start.offset, flags.span.end.offset);
            return Err(LikeError { message, span: Some(span), too_large: false });
        }
        Ok(())
    }
}

impl LikeError {
    fn syntax(error: &regex_syntax::Error) -> Self {
        let (message, span) = match error {
            regex_syntax::Error::Parse(error) => (error.kind().to_string(), Some(error.span())),
            regex_syntax::Error::Translate(error) => (error.kind().to_string(), Some(error.span())),
            error => (error.to_string(), None),
        };
        let span = span.map(|span| Span::new(span.start.offset, span.end.offset));
        Self { message, span, too_large: false }
    }
}

#[derive(Clone, Copy)]
enum End {
    Start,
    End,
}

/// Whether an expression begins or ends with `.*`, so that anything may come before or after a match.
///
/// The walk goes down one path only and the parser bounds the depth.
fn opens(hir: &Hir, end: End) -> bool {
    match hir.kind() {
        HirKind::Concat(parts) => match end {
            End::Start => parts.first().is_some_and(|part| opens(part, end)),
            End::End => parts.last().is_some_and(|part| opens(part, end)),
        },
        HirKind::Capture(capture) => opens(&capture.sub, end),
        HirKind::Repetition(repetition) => {
            repetition.min == 0 && repetition.max.is_none() && is_any_byte(&repetition.sub)
        }
        _ => false,
    }
}

fn is_any_byte(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Class(regex_syntax::hir::Class::Bytes(class)) => {
            matches!(class.ranges(), [range] if range.start() == 0 && range.end() == u8::MAX)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(pattern: &str, value: &str) -> bool {
        Pattern::new(pattern).matches(value.as_bytes(), Known::Whole, false) == Truth::True
    }

    #[test]
    fn wildcards() {
        assert!(whole("/usr/bin/wget", "/usr/bin/wget"));
        assert!(!whole("/usr/bin/wget", "/usr/bin/wget2"));
        assert!(whole("*/wget", "/usr/bin/wget"));
        assert!(whole("/bin/*/bash", "/bin/a/b/bash"));
        assert!(!whole("/bin/*/bash", "/bin/bash"));
        assert!(whole("*bookmarker*", "bookmarker"));
        assert!(whole("a**b", "ab"));
        assert!(!whole("aba*aba", "aba"));
        assert!(whole("*", "") && whole("", "") && !whole("", "x"));
        assert!(whole(r"a\*b", "a*b") && !whole(r"a\*b", "axb"));
        assert!(whole(r"a\\*", r"a\x"));
    }

    #[test]
    fn folding_is_ascii() {
        let pattern = Pattern::new("*/WGET");
        assert_eq!(pattern.matches(b"/usr/bin/wget", Known::Whole, true), Truth::True);
        assert_eq!(pattern.matches(b"/usr/bin/wget", Known::Whole, false), Truth::False);
    }

    #[test]
    fn regexes_cover_the_whole_value_and_every_byte() {
        let like = Like::new(r".*nc(at)? -e.*", 1 << 20).unwrap();
        assert_eq!(like.matches(b"x\n\xff nc -e /bin/sh", Known::Whole), Truth::True);
        assert_eq!(like.matches(b"nc -l", Known::Whole), Truth::False);
        assert_eq!(like.matches(b"nc -e /bin", Known::Start), Truth::True);
        assert_eq!(like.matches(b"nc", Known::Start), Truth::Unknown);
        assert_eq!(Like::new("abc", 1 << 20).unwrap().matches(b"abcd", Known::Whole), Truth::False);
        let error = Like::new("a(b", 1 << 20).unwrap_err();
        assert_eq!(error.span, Some(Span::new(1, 2)));
        assert!(Like::new(r"(\w{50}){500}", 1 << 16).unwrap_err().too_large);
    }

    #[test]
    fn assertions_are_about_what_is_known() {
        for (pattern, start) in [(r"a\b.*", "a"), (r"a$.*", "a"), (r"a\z.*", "a"), (r"(?:ab|a$).*", "a")] {
            let like = Like::new(pattern, 1 << 20).unwrap();
            assert_eq!(like.matches(start.as_bytes(), Known::Whole), Truth::True, "{pattern}");
            assert_eq!(like.matches(start.as_bytes(), Known::Start), Truth::Unknown, "{pattern}");
        }
        assert_eq!(Like::new(r".*\ba", 1 << 20).unwrap().matches(b"a", Known::End), Truth::Unknown);
    }

    #[test]
    fn captures_are_not_made() {
        let plain = |text| Plain::parse(text).unwrap().1.text;
        assert_eq!(plain(r"(a)\((?P<n>b|(c))(?i:d)[(]"), r"\A(?:(?:a)\((?:b|(?:c))(?i:d)[(])\z");
        assert_eq!(plain("(?<n>a)"), r"\A(?:(?:a))\z");
        assert_eq!(plain("(?x) (a) # b"), "\\A(?:(?x) (?:a) # b\n)\\z");
        let error = Like::new(r"a(?i-s:b(?su)\w)", 1 << 20).unwrap_err();
        assert_eq!(error.span, Some(Span::new(10, 12)));
        assert!(Like::new(r"(?-u:\w)", 1 << 20).is_ok());
    }

    proptest! {
        /// A partial answer never contradicts the whole one.
        #[test]
        fn partial_knowledge_is_sound(pattern in "[ab*]{0,8}", value in "[ab]{0,10}", cut in 0usize..10) {
            let pattern = Pattern::new(&pattern);
            let bytes = value.as_bytes();
            let cut = cut.min(bytes.len());
            let truth = pattern.matches(bytes, Known::Whole, false);
            for partial in [
                pattern.matches(&bytes[..cut], Known::Start, false),
                pattern.matches(&bytes[cut..], Known::End, false),
            ] {
                prop_assert!(partial == Truth::Unknown || partial == truth, "{partial:?} but {truth:?}");
            }
        }

        /// The wildcard matcher agrees with the regex that says the same.
        #[test]
        fn wildcards_agree_with_regex(pattern in "[ab*]{0,8}", value in "[ab]{0,12}") {
            let regex = Regex::new(&format!("^(?s-u:{})$", pattern.replace('*', ".*"))).unwrap();
            prop_assert_eq!(whole(&pattern, &value), regex.is_match(value.as_bytes()));
        }

        #[test]
        fn partial_regexes_are_sound(pattern in "(\\.\\*)?(\\\\b|[ab$^]){0,3}(\\.\\*|b\\*)?", value in "[ab]{0,8}", cut in 0usize..8) {
            let like = Like::new(&pattern, 1 << 20).unwrap();
            let bytes = value.as_bytes();
            let cut = cut.min(bytes.len());
            let truth = like.matches(bytes, Known::Whole);
            for partial in [like.matches(&bytes[..cut], Known::Start), like.matches(&bytes[cut..], Known::End)] {
                prop_assert!(partial == Truth::Unknown || partial == truth);
            }
        }
    }
}

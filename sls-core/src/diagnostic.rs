//! Diagnostics of the policy language: a stable code, a place, a caret under it, and what to write instead.

mod visible;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Level, Origin, Patch, Renderer, Snippet};
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

/// A range of bytes in a text.
// Exhaustive: a range is its two ends.
#[allow(clippy::exhaustive_structs)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

impl Span {
    /// The bytes from `start` up to, not including, `end`.
    #[must_use]
    pub const fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }

    /// The smallest span that covers both.
    #[must_use]
    pub fn to(self, other: Self) -> Self {
        Self { start: self.start.min(other.start), end: self.end.max(other.end) }
    }

    /// The span `offset` bytes further on.
    #[must_use]
    pub fn shifted(self, offset: usize) -> Self {
        Self { start: self.start + offset, end: self.end + offset }
    }
}

macro_rules! codes {
    ($( $variant:ident $code:literal $meaning:literal; )+) => {
        /// The stable code of a diagnostic.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Code { $( #[doc = $meaning] $variant, )+ }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Self] = &[ $( Self::$variant, )+ ];

            /// The code as printed.
            #[must_use]
            pub fn id(self) -> &'static str {
                match self { $( Self::$variant => $code, )+ }
            }

            /// What it means.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $( Self::$variant => $meaning, )+ }
            }
        }
    };
}

codes! {
    Encoding "SLS001" "The document is not UTF-8 text.";
    Yaml "SLS002" "The document is not well-formed YAML.";
    Limit "SLS003" "A limit is exceeded; the message names it.";
    UnknownKey "SLS004" "A key has no meaning here.";
    DuplicateKey "SLS005" "A key or name is given twice.";
    WrongType "SLS006" "A value has the wrong type.";
    MissingKey "SLS007" "A required key is missing.";
    UnknownName "SLS008" "A value is none of the names that are allowed here.";
    NotAnObject "SLS009" "An entry of the document is neither a policy nor a list.";
    RuleSyntax "SLS010" "A rule does not follow the grammar.";
    UnknownField "SLS011" "A rule names a field that does not exist.";
    FieldNotOffered "SLS012" "The policy type does not offer the field.";
    WrongOperator "SLS013" "The operator does not fit the field's type.";
    WrongLiteral "SLS014" "The literal does not fit the field's type.";
    LiteralTooLong "SLS015" "The literal is longer than any value of the field, so it could never match.";
    BadRegex "SLS016" "A regular expression is invalid.";
    UnknownList "SLS017" "A rule names a list that does not exist.";
    WrongList "SLS018" "The list's type does not fit the field's type.";
    MissingDefault "SLS019" "The policy has no default rule.";
    MisplacedDefault "SLS020" "The default rule is not the last one, or there are several.";
    Conflict "SLS021" "Two keys exclude each other.";
    WrongAction "SLS022" "The policy type cannot have the action.";
    Unsupported "SLS023" "This sensor cannot do what the policy asks for.";
    BadEntry "SLS024" "A list entry is invalid.";
    Unreadable "SLS025" "A file cannot be read.";
    KeyNotOffered "SLS026" "The policy type does not have the key.";
    NothingToExtend "SLS027" "An override extends something that no earlier document defines.";
    NoTier "SLS028" "No tier of this sensor decides what the policy asks for.";

    UnreachableRule "SLS101" "A rule never decides: an earlier one is true whenever it is.";
    NeverTrue "SLS102" "A rule, or a part of it, is true for no event.";
    AlwaysTrue "SLS103" "A rule, or a part of it, is true for every event.";
    ImpossiblePath "SLS104" "A path that the kernel never reports: relative, with `//`, `.`, `..` or a trailing `/`, or too long.";
    WildcardInRegex "SLS105" "A regular expression that was probably meant as a wildcard pattern.";
    PlainRegex "SLS106" "A regular expression without any operator.";
    UnanchoredSearch "SLS107" "A regular expression that looks for a part, but has to cover the whole value.";
    RegexInWildcard "SLS108" "A wildcard pattern that was probably meant as a regular expression.";
    SymbolicLink "SLS109" "A path that leads through a symbolic link on this host; the kernel reports where it ends.";
    EmptyList "SLS110" "A rule matches nothing because the list that it names is empty.";
    UnsetNumber "SLS111" "A number that stands for \"not set\" in the kernel; such a field has no value here.";
    MatchesEverything "SLS112" "A policy responds to every event of its type.";
    NoAction "SLS113" "A policy has no action, not even `alert`.";
    ConflictingActions "SLS114" "Two policies match the same events, and one destroys what the other keeps.";
    UnusedSelector "SLS115" "A selector of `enabled_content_groups` selects no policy.";
    UnusedList "SLS116" "A list of the last document is named by no rule.";
    ExpensiveRule "SLS117" "A rule of a frequent type that costs something for every event: nothing in it can be looked up.";
}

impl Code {
    /// The code printed as `id`.
    #[must_use]
    pub fn from_id(id: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.id() == id)
    }

    /// How grave a finding with this code is: errors are numbered below 100, warnings from there.
    #[must_use]
    pub fn severity(self) -> Severity {
        if self.id().starts_with("SLS0") { Severity::Error } else { Severity::Warning }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

/// How grave a diagnostic is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Severity {
    /// The document is refused.
    Error,
    /// The document loads; something in it is probably not meant.
    Warning,
}

impl Severity {
    /// The name in the machine form.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// Text to put in the place of a span.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Suggestion {
    /// What to replace.
    pub span: Span,
    /// What to write there.
    pub replacement: String,
}

/// A document as it was given.
#[derive(Debug)]
pub(crate) struct SourceText {
    pub(crate) name: String,
    pub(crate) text: String,
    line_starts: Vec<usize>,
}

impl SourceText {
    pub(crate) fn new(name: impl Into<String>, text: impl Into<String>) -> Arc<Self> {
        let text = text.into();
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Arc::new(Self { name: name.into(), text, line_starts })
    }

    /// The line of a byte, from 1.
    pub(crate) fn line(&self, at: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= at)
    }

    /// Line and column of a byte, both from 1, the column in characters.
    fn position(&self, at: usize) -> (usize, usize) {
        let line = self.line(at);
        let start = self.line_starts[line - 1];
        let column = self.text.get(start..at.min(self.text.len())).map_or(0, |text| text.chars().count());
        (line, column + 1)
    }

    fn starts_line(&self, at: usize) -> bool {
        self.line_starts.binary_search(&at).is_ok()
    }

    /// The last boundary between characters up to `at`.
    fn floor(&self, at: usize) -> usize {
        let at = at.min(self.text.len());
        (0..=at).rev().find(|at| self.text.is_char_boundary(*at)).unwrap_or(0)
    }

    /// The first boundary between characters from `at` on.
    fn ceil(&self, at: usize) -> usize {
        (at..self.text.len()).find(|at| self.text.is_char_boundary(*at)).unwrap_or(self.text.len())
    }

    /// The whole lines that cover a span. Where those are long, what is near its start.
    fn lines(&self, span: Span) -> Range<usize> {
        let line_end = |line: usize| self.line_starts.get(line).copied().unwrap_or(self.text.len());
        let first = self.line(span.start);
        let lines = self.line_starts[first - 1]..line_end(self.line(span.end.max(span.start)));
        if lines.len() <= MAX_SHOWN {
            return lines;
        }
        let start = self.floor(span.start.saturating_sub(MAX_SHOWN / 4)).max(lines.start);
        start..self.ceil(span.start + MAX_SHOWN / 2).min(line_end(first))
    }
}

/// The most bytes of a document that a finding shows.
const MAX_SHOWN: usize = 1024;

/// The most bytes of a message, which may quote the document.
const MAX_MESSAGE: usize = 1024;

fn cut(mut message: String) -> String {
    if message.len() > MAX_MESSAGE {
        let end = (0..=MAX_MESSAGE - '…'.len_utf8()).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
        message.truncate(end);
        message.push('…');
    }
    message
}

/// One finding in a policy document.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Diagnostic {
    /// The stable code.
    pub code: Code,
    /// How grave it is.
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// Where, in bytes.
    pub span: Span,
    /// What stands at the caret; may be empty.
    pub label: String,
    /// How to put it right.
    pub help: Option<String>,
    /// What to write instead.
    pub suggestion: Option<Suggestion>,
    source: Arc<SourceText>,
}

impl Diagnostic {
    pub(crate) fn error(code: Code, source: &Arc<SourceText>, span: Span, message: impl Into<String>) -> Self {
        debug_assert_eq!(code.severity(), Severity::Error);
        Self::new(code, source, span, message.into())
    }

    pub(crate) fn warning(code: Code, source: &Arc<SourceText>, span: Span, message: impl Into<String>) -> Self {
        debug_assert_eq!(code.severity(), Severity::Warning);
        Self::new(code, source, span, message.into())
    }

    fn new(code: Code, source: &Arc<SourceText>, span: Span, message: String) -> Self {
        let start = source.floor(span.start);
        let span = Span::new(start, source.ceil(span.end.max(start)));
        Self {
            code,
            severity: code.severity(),
            message: cut(message),
            span,
            label: String::new(),
            help: None,
            suggestion: None,
            source: source.clone(),
        }
    }

    /// The same, without refusing the document for it.
    pub(crate) fn as_warning(&self) -> Self {
        Self { severity: Severity::Warning, ..self.clone() }
    }

    pub(crate) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(crate) fn suggest(mut self, span: Span, replacement: impl Into<String>) -> Self {
        self.suggestion = Some(Suggestion { span, replacement: replacement.into() });
        self
    }

    /// An error about a file that could not be read at all.
    #[must_use]
    pub fn unreadable(file: &str, reason: impl fmt::Display) -> Self {
        let source = SourceText::new(file, "");
        Self::error(Code::Unreadable, &source, Span::default(), format!("cannot read the file: {reason}"))
    }

    /// The document's name.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.source.name
    }

    /// Line and column of the place, both from 1, the column in characters.
    #[must_use]
    pub fn position(&self) -> (usize, usize) {
        self.source.position(self.span.start)
    }

    /// The finding as text, with the lines that it is about. Whatever the document holds, the text has no control characters
    /// but newlines: those are shown as pictures, such as `␛`, and what changes the direction of text as `�`. With `color`,
    /// there are the escape sequences of the colors.
    #[must_use]
    pub fn render(&self, color: bool) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        // Only the lines concerned are handed over: a document may be megabytes long, and so may one line of it.
        let lines = self.source.lines(self.span);
        let (line, column) = self.position();
        let text = &self.source.text[lines.clone()];
        let shown = visible::source(text);
        let in_lines = |span: Span| {
            let end = span.end.min(lines.end).max(lines.start);
            let [start, end] = [span.start.clamp(lines.start, end), end].map(|at| at - lines.start);
            visible::place(text, start)..visible::place(text, end)
        };
        let file = visible::line(&self.source.name);
        let title = level.primary_title(visible::line(&self.message)).id(self.code.id());
        let origin = Origin::path(&*file);
        let mut group = if text.is_empty() {
            title.element(origin)
        } else {
            let mut annotation = AnnotationKind::Primary.span(in_lines(self.span));
            if !self.label.is_empty() {
                annotation = annotation.label(visible::line(&self.label));
            }
            let snippet = Snippet::source(&*shown).line_start(line).annotation(annotation);
            if self.source.starts_line(lines.start) {
                title.element(snippet.path(&*file))
            } else {
                // The renderer would count columns from where the line was cut.
                title.element(origin.line(line).char_column(column)).element(snippet)
            }
        };
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(visible::line(help)));
        }
        let mut report = vec![group];
        if let Some(suggestion) = &self.suggestion {
            let patch = Patch::new(in_lines(suggestion.span), visible::source(&suggestion.replacement));
            report.push(
                Level::HELP.secondary_title("write").element(Snippet::source(&*shown).line_start(line).patch(patch)),
            );
        }
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        renderer.term_width(120).render(&report)
    }
}

impl Serialize for Diagnostic {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (line, column) = self.position();
        let (end_line, end_column) = self.source.position(self.span.end);
        let mut out = serializer.serialize_struct("Diagnostic", 11)?;
        out.serialize_field("code", self.code.id())?;
        out.serialize_field("severity", self.severity.name())?;
        out.serialize_field("message", &self.message)?;
        out.serialize_field("file", self.file())?;
        out.serialize_field("line", &line)?;
        out.serialize_field("column", &column)?;
        out.serialize_field("endLine", &end_line)?;
        out.serialize_field("endColumn", &end_column)?;
        out.serialize_field("label", &self.label)?;
        out.serialize_field("help", &self.help)?;
        out.serialize_field("suggestion", &self.suggestion.as_ref().map(|suggestion| &suggestion.replacement))?;
        out.end()
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

/// All findings of one load.
#[derive(Clone, Debug)]
pub struct Diagnostics {
    findings: Vec<Diagnostic>,
    limit: usize,
}

impl Diagnostics {
    /// Findings of which `limit` are kept. One more says that there were others.
    pub(crate) fn limited(limit: usize) -> Self {
        Self { findings: Vec::new(), limit }
    }

    /// The findings, in document order.
    #[must_use]
    pub fn as_slice(&self) -> &[Diagnostic] {
        &self.findings
    }

    /// Whether there is an error among them.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.findings.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.findings.is_empty()
    }

    /// Whether no further finding would be kept.
    pub(crate) fn is_full(&self) -> bool {
        self.findings.len() > self.limit
    }

    /// Adds a finding.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        match self.findings.len().checked_sub(self.limit) {
            None => self.findings.push(diagnostic),
            Some(0) => {
                let message = format!("more findings follow: the limit `diagnostics` is {}", self.limit);
                let note = Diagnostic::error(Code::Limit, &diagnostic.source, diagnostic.span, message);
                self.findings.push(Diagnostic { severity: diagnostic.severity, ..note });
            }
            // An error among those left out is still one.
            Some(_) if diagnostic.severity == Severity::Error => {
                if let Some(note) = self.findings.last_mut() {
                    note.severity = Severity::Error;
                }
            }
            Some(_) => {}
        }
    }

    /// Brings the findings into the order of the documents and of the places in them.
    pub(crate) fn sort(&mut self, documents: &[String]) {
        let layer = |diagnostic: &Diagnostic| documents.iter().position(|name| name == diagnostic.file());
        // Without the note that others follow, which stays the last.
        let findings = self.findings.len().min(self.limit);
        self.findings[..findings].sort_by_key(|diagnostic| (layer(diagnostic), diagnostic.span.start));
    }

    /// All findings as text.
    #[must_use]
    pub fn render(&self, color: bool) -> String {
        self.findings.iter().map(|diagnostic| diagnostic.render(color)).collect::<Vec<_>>().join("\n\n")
    }
}

/// Without a limit.
impl Default for Diagnostics {
    fn default() -> Self {
        Self::limited(usize::MAX)
    }
}

impl From<Diagnostic> for Diagnostics {
    fn from(diagnostic: Diagnostic) -> Self {
        Self::from_iter([diagnostic])
    }
}

impl FromIterator<Diagnostic> for Diagnostics {
    fn from_iter<I: IntoIterator<Item = Diagnostic>>(diagnostics: I) -> Self {
        Self { findings: diagnostics.into_iter().collect(), limit: usize::MAX }
    }
}

impl IntoIterator for Diagnostics {
    type Item = Diagnostic;
    type IntoIter = std::vec::IntoIter<Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.findings.into_iter()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

/// The longest name, in bytes, that a better one is looked for.
const MAX_NEAR: usize = 128;

/// How many names are looked at for a better one.
const MAX_NAMES: usize = 10_000;

/// The name among `names` that `wrong` was probably meant to be. Names may come from a document, so that their length
/// is looked at before they are compared, which takes time and memory by the product of the lengths.
pub(crate) fn nearest<'n>(wrong: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    if wrong.len() > MAX_NEAR {
        return None;
    }
    let lower = wrong.to_lowercase();
    names
        .into_iter()
        .take(MAX_NAMES)
        .filter(|name| name.len() <= MAX_NEAR && name.len().abs_diff(wrong.len()) <= MAX_NEAR / 4)
        .map(|name| (strsim::damerau_levenshtein(&lower, &name.to_lowercase()), name))
        .filter(|(distance, name)| *distance <= (name.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_characters() {
        let source = SourceText::new("x.yaml", "a: é\nb: ü!\n");
        assert_eq!(source.position(0), (1, 1));
        assert_eq!(source.position(source.text.find('!').unwrap()), (2, 5));
        assert_eq!(source.position(source.text.len()), (3, 1));
    }

    #[test]
    fn a_span_beyond_the_text_is_clamped() {
        let source = SourceText::new("x.yaml", "ab");
        let diagnostic = Diagnostic::error(Code::Yaml, &source, Span::new(7, 9), "odd");
        assert_eq!(diagnostic.span, Span::new(2, 2));
        assert!(diagnostic.render(false).contains("error[SLS002]: odd"));
    }

    #[test]
    fn every_part_shows_control_characters_as_pictures() {
        let text = "a: \u{1b}[31m\u{9b}\rred\u{7f}\nb: c\n";
        let source = SourceText::new("x\u{1b}\n.yaml", text);
        let at = text.find("red").unwrap();
        let span = Span::new(at, at + 3);
        let hostile = "\u{1b}\u{9b}\u{7f}\u{8}\r\t";
        let own = |part: &str| format!("{part}{hostile}");
        let diagnostic = Diagnostic::error(Code::Yaml, &source, span, own("message") + "\nerror[SLS001]: forged")
            .label(own("label"))
            .help(own("help"))
            .suggest(span, own("suggestion"));
        let plain = diagnostic.render(false);
        let controls = |text: &str| text.contains(|char: char| char.is_control() && char != '\n');
        assert!(!controls(&plain), "{plain:?}");
        assert!(!plain.contains("\nerror"), "{plain}");
        let shown = "␛\u{fffd}␡␈␍";
        for part in ["message", "label", "help", "suggestion"] {
            assert!(plain.contains(&format!("{part}{shown}")), "{part} is gone:\n{plain}");
        }
        assert!(plain.contains("x␛␊.yaml:1:11"), "{plain}");
        // The caret is under what it points at, and what is replaced is the same.
        let lines: Vec<_> = plain.lines().collect();
        let snippet = lines.iter().position(|line| line.starts_with("1 |")).unwrap();
        let column = |line: &str, what: &str| line[..line.find(what).unwrap()].chars().count();
        assert_eq!(column(lines[snippet], "red"), column(lines[snippet + 1], "^^^"), "{plain}");
        assert!(lines[snippet].ends_with("a: ␛[31m\u{fffd}␍red␡"), "{plain}");
        assert!(plain.contains(&format!("␍suggestion{shown}")), "{plain}");

        // In colour, there are the renderer's sequences alone.
        let styled = diagnostic.render(true);
        let mut pieces = styled.split('\u{1b}');
        assert!(!controls(pieces.next().unwrap()));
        for piece in pieces {
            let (style, rest) = piece.split_once('m').unwrap();
            assert!(
                style.strip_prefix('[').is_some_and(|style| style.bytes().all(|byte| b"0123456789;".contains(&byte)))
            );
            assert!(!controls(rest), "{rest:?}");
        }
    }

    /// Also where YAML writes them as escapes, so that they are in names and values only.
    #[test]
    fn documents_cannot_reach_the_terminal() {
        let rule = "rules: ['match programName == \"/bin/x\"', default ignore]";
        for control in ["\u{1b}", "\u{9b}", "\u{7f}", "\r", "\\e", "\\x9b", "\\x7f", "\\a", "\\r", "\\n"] {
            for document in [
                format!("\"P{control}\": {{policy: program, {rule}, \"priori{control}ty\": High}}"),
                format!("\"P{control}\": {{policy: \"program{control}\", {rule}}}"),
                format!("\"P{control}\": {{policy: program, {rule}, responseActions: [\"kil{control}\"]}}"),
                format!("\"P{control}\": {{policy: program, {rule}, \"a{control}\": 1, \"a{control}\": 2}}"),
                format!("\"P{control}\": {{{rule}}}\n\"P{control}{control}\": {{policy: program, {rule}}}"),
                format!("P: {{policy: program, rules: [\"match x{control} == 1\", default ignore]}}"),
                format!("P: {{policy: program, rules: ['match programName == \"a{control}\" or \"', default ignore]}}"),
                format!("P: {{policy: program, rules: [\"match programName in $L{control}\", default ignore]}}"),
                format!("L: {{type: \"path{control}\", list: []}}"),
                format!("L: {{type: hosts, list: [\"1.2.3.{control}\"]}}"),
                format!("L: [{control}"),
            ] {
                let Err(findings) = crate::policy::PolicySet::from_yaml("x.yaml", &*document) else { continue };
                let plain = findings.to_string();
                assert!(!plain.contains(|char: char| char.is_control() && char != '\n'), "{document:?}\n{plain:?}");
            }
        }
    }

    #[test]
    fn nearest_names() {
        assert_eq!(nearest("programname", ["processName", "programName"]), Some("programName"));
        assert_eq!(nearest("zzz", ["processName", "programName"]), None);
    }
}

//! Literals and list entries that no value can equal, or that are written in the other pattern language.

use super::Finding;
use crate::diagnostic::{Code, Span};
use crate::pattern::Pattern;
use crate::rule::{Comparison, Test};
use crate::schema::{Field, FieldKind};

/// The most bytes of a path that the kernel reports.
const PATH_MAX: usize = 4096;

/// Whether the values of a field are absolute paths without `.`, `..` and links, as the kernel resolves them. What was passed
/// to execve, and what stands behind `#!`, may be anything.
pub(super) fn is_resolved(field: Field) -> bool {
    field.kind() == FieldKind::Path && !matches!(field, Field::InvokedName | Field::ScriptName)
}

/// The string literals of a test, without their quotes, and their places in the rule.
pub(super) fn literals(test: &Test) -> Vec<(Span, &str)> {
    if matches!(test.comparison, Comparison::List { .. }) {
        return Vec::new();
    }
    let mut literals = Vec::new();
    let mut start = None;
    let mut chars = test.text.char_indices();
    while let Some((at, char)) = chars.next() {
        match (char, start) {
            ('"', None) => start = Some(at + 1),
            ('"', Some(from)) => {
                literals.push((Span::new(from, at).shifted(test.span.start), &test.text[from..at]));
                start = None;
            }
            ('\\', Some(_)) => {
                chars.next();
            }
            _ => {}
        }
    }
    literals
}

/// What is odd about the literals of a test.
pub(super) fn check_test(test: &Test, found: &mut Vec<Finding>) {
    let kind = test.field.kind();
    if !matches!(kind, FieldKind::Path | FieldKind::Name | FieldKind::Text) {
        return;
    }
    for (span, text) in literals(test) {
        let finding = match test.comparison {
            Comparison::Like(_) => check_like(test, span, text),
            _ => looks_like_regex(kind, text)
                .then(|| regex_in_wildcard(test, span))
                .or_else(|| is_resolved(test.field).then(|| check_path(span, text, test.field.name())).flatten()),
        };
        found.extend(finding);
    }
}

/// What is odd about an entry of a list. `fields` names what it is compared with.
pub(super) fn check_entry(kind: FieldKind, resolved: bool, fields: &str, text: &str) -> Option<Finding> {
    let span = Span::new(0, text.len());
    if looks_like_regex(kind, text) {
        let message = "this entry looks like a regular expression, but `*` alone is special in a list".to_owned();
        return Some(
            Finding::new(Code::RegexInWildcard, span, message)
                .help("`*` stands for any bytes; use `like` in the rule for a regular expression"),
        );
    }
    resolved.then(|| check_path(span, text, fields)).flatten()
}

/// Whether a path can be the value of a field that has resolved paths.
fn check_path(span: Span, text: &str, field: &str) -> Option<Finding> {
    let finding = |message: String| Finding::new(Code::ImpossiblePath, span, message);
    if text.len() > PATH_MAX && Pattern::new(text).min_len() > PATH_MAX {
        return Some(finding(format!("no path is longer than {PATH_MAX} bytes")));
    }
    if text.is_empty() || text == "/" {
        return None;
    }
    if !text.starts_with(['/', '*', '\\']) {
        let message = format!("`{field}` is an absolute path: it begins with `/`");
        return Some(finding(message).suggest(span, format!("*/{text}")));
    }
    if text.contains("//") || text.split('/').any(|part| part == "." || part == "..") {
        let message = format!("`{field}` is a resolved path, which has no `//`, `.` or `..`");
        return Some(finding(message));
    }
    if let Some(directory) = text.strip_suffix('/') {
        return Some(
            finding(format!("`{field}` never ends with `/`"))
                .help(format!("`{directory}` is the directory itself, `{text}*` all that is below it"))
                .suggest(
                    span,
                    if field == Field::ProgramDirectory.name() { directory.to_owned() } else { format!("{text}*") },
                ),
        );
    }
    None
}

/// Whether a wildcard pattern has the operators of regular expressions. Stars after dots are common in file names.
fn looks_like_regex(kind: FieldKind, text: &str) -> bool {
    if text.starts_with(".*") || text.starts_with('^') {
        return true;
    }
    // Command lines have brackets of their own.
    kind != FieldKind::Text && (has_group(text) || has_range(text))
}

/// `(a|b)`
fn has_group(text: &str) -> bool {
    let Some(open) = text.find('(') else { return false };
    let Some(bar) = text[open..].find('|') else { return false };
    text[open + bar..].contains(')')
}

/// `[a-z]`
fn has_range(text: &str) -> bool {
    text.as_bytes().windows(5).any(|bytes| {
        matches!(bytes, [b'[', from, b'-', to, b']'] if from.is_ascii_alphanumeric() && to.is_ascii_alphanumeric())
    })
}

fn regex_in_wildcard(test: &Test, span: Span) -> Finding {
    let message = "this looks like a regular expression, but `*` alone is special here".to_owned();
    let finding = Finding::new(Code::RegexInWildcard, span, message);
    match test.comparison {
        Comparison::Pattern { fold: false, .. } => {
            finding.suggest(operator(test), if test.negated { "not like" } else { "like" }.to_owned())
        }
        _ => finding.help("`like` takes a regular expression; `*` stands for any bytes here"),
    }
}

fn check_like(test: &Test, span: Span, text: &str) -> Option<Finding> {
    let equals = if test.negated { "!=" } else { "==" }.to_owned();
    if text.contains("/*/") || text.ends_with("/*") {
        let message = "`/*` is any number of slashes in a regular expression".to_owned();
        let finding = Finding::new(Code::WildcardInRegex, span, message);
        let is_wildcard = !text.replace("/*", "").contains(OPERATORS);
        return Some(if is_wildcard {
            finding.help("`==` takes `*` as a wildcard").suggest(operator(test), equals)
        } else {
            finding.help("write `/.*` for all that is below a directory")
        });
    }
    if !text.contains(OPERATORS) && !text.is_empty() {
        // What looks for a part of a command line is written like this, too.
        if test.field.kind() == FieldKind::Text {
            return Some(search(span, text).suggest(span, format!(".*{text}.*")));
        }
        let message = "this regular expression is plain text".to_owned();
        return Some(
            Finding::new(Code::PlainRegex, span, message)
                .help("`==` compares texts, at less cost")
                .suggest(operator(test), equals),
        );
    }
    let starts = text.strip_prefix('^').filter(|rest| !rest.ends_with('$') && !is_open(rest));
    let ends = text.strip_suffix('$').filter(|rest| {
        let escaped = rest.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1;
        !escaped && !rest.starts_with(['^', '.', '(', '[']) && !rest.contains("|^")
    });
    match (starts, ends) {
        (Some(rest), _) => Some(search(span, text).suggest(span, format!("{rest}.*"))),
        (_, Some(rest)) => Some(search(span, text).suggest(span, format!(".*{rest}"))),
        _ => None,
    }
}

/// What a regular expression has that plain text has not. A dot alone is common in names.
const OPERATORS: [char; 12] = ['\\', '+', '*', '?', '(', ')', '|', '[', ']', '{', '^', '$'];

/// Whether an expression ends with something that takes any number of bytes, or that cannot be seen through here.
fn is_open(text: &str) -> bool {
    text.ends_with(['*', '+', ')', '}', '|'])
}

fn search(span: Span, text: &str) -> Finding {
    let message = format!("`like` is over the whole value, and this looks for a part of it: {}", quoted(text));
    Finding::new(Code::UnanchoredSearch, span, message).help("write `.*` at both ends to find it anywhere")
}

fn quoted(text: &str) -> String {
    let mut short: String = text.chars().take(40).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("`{short}`")
}

/// The place of the operator of a test with one literal.
fn operator(test: &Test) -> Span {
    let text = &*test.text;
    let field = test.field.name().len();
    let quote = text.find('"').unwrap_or(text.len());
    let between = text.get(field..quote).unwrap_or_default();
    let start = field + (between.len() - between.trim_start().len());
    Span::new(start, start + between.trim().len()).shifted(test.span.start)
}

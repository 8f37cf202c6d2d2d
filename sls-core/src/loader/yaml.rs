//! YAML as a tree whose every node knows its place. Anchors are expanded under a budget, so that an alias bomb is an
//! error and not a heap full of copies.

use std::collections::HashMap;
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};

use super::object::plain_bool;
use crate::diagnostic::{Code, Diagnostic, SourceText, Span};
use crate::limits::Limits;

/// A place in one of the documents.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) source: Arc<SourceText>,
    pub(crate) span: Span,
}

impl Place {
    /// The line that it begins on, from 1.
    pub(crate) fn line(&self) -> usize {
        self.source.line(self.span.start)
    }

    pub(crate) fn error(&self, code: Code, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(code, &self.source, self.span, message)
    }

    /// Its first line, for what is wrong with something long as a whole.
    pub(crate) fn first_line(&self) -> Self {
        let text = self.source.text.get(self.span.start..self.span.end).unwrap_or_default();
        let len = text.find('\n').unwrap_or(text.len());
        Self { source: self.source.clone(), span: Span::new(self.span.start, self.span.start + len) }
    }

    pub(crate) fn warning(&self, code: Code, message: impl Into<String>) -> Diagnostic {
        Diagnostic::warning(code, &self.source, self.span, message)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) value: Yaml,
}

#[derive(Clone, Debug)]
pub(crate) enum Yaml {
    Scalar { text: Box<str>, style: ScalarStyle },
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: Node,
    pub(crate) value: Node,
}

/// The entry with this key.
pub(crate) fn attribute<'n>(entries: &'n [Entry], key: &str) -> Option<&'n Entry> {
    entries.iter().find(|entry| entry.key.scalar() == Some(key))
}

impl Node {
    /// The text of a scalar.
    pub(crate) fn scalar(&self) -> Option<&str> {
        match &self.value {
            Yaml::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// What the node is, for messages.
    pub(crate) fn describe(&self) -> &'static str {
        match &self.value {
            Yaml::Sequence(_) => "a sequence",
            Yaml::Mapping(_) => "a mapping",
            Yaml::Scalar { style: ScalarStyle::Plain, text } => match &**text {
                "" | "~" | "null" => "nothing",
                text if plain_bool(text).is_some() => "a bool",
                text if text.parse::<i128>().is_ok() => "an integer",
                text if text.parse::<f64>().is_ok() => "a number",
                _ => "a string",
            },
            Yaml::Scalar { .. } => "a string",
        }
    }

    /// The place of `span`, a part of this scalar's text, in the document. Where quoting or folding makes it uncertain,
    /// the whole scalar's.
    pub(crate) fn part(&self, span: Span) -> Place {
        let whole = self.place.clone();
        let Yaml::Scalar { text, style } = &self.value else { return whole };
        let Some(raw) = whole.source.text.get(whole.span.start..whole.span.end) else { return whole };
        let offset = |at: usize| match style {
            ScalarStyle::Plain => (*raw == **text).then_some(at),
            ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => offset_in_quotes(raw, at),
            _ => None,
        };
        match (offset(span.start), offset(span.end)) {
            (Some(start), Some(end)) => Place { span: Span::new(start, end).shifted(whole.span.start), ..whole },
            _ => whole,
        }
    }
}

/// Where byte `at` of a quoted scalar's text stands in its source, if that has only the commonest escapes.
fn offset_in_quotes(raw: &str, at: usize) -> Option<usize> {
    // An alias of a quoted scalar has its place elsewhere.
    let quote = raw.chars().next().filter(|char| matches!(char, '\'' | '"'))?;
    let mut text = 0;
    let mut chars = raw.char_indices().skip(1).peekable();
    while let Some((index, char)) = chars.next() {
        if text >= at {
            return Some(index);
        }
        text += match char {
            '\n' => return None,
            '\'' if quote == '\'' => chars.next().map(|_| 1)?,
            '\\' if quote == '"' => match chars.next()?.1 {
                '"' | '\\' | '/' | 'n' | 't' => 1,
                _ => return None,
            },
            char => char.len_utf8(),
        };
    }
    None
}

/// Parses one document.
pub(crate) fn parse(source: &Arc<SourceText>, limits: &Limits) -> Result<Node, Diagnostic> {
    let text = &*source.text;
    if text.len() > limits.document_bytes {
        return Err(over(
            source,
            Span::new(0, 0),
            "document_bytes",
            limits.document_bytes,
            "the document is too large",
        ));
    }
    if let Some(at) = text.find('\0') {
        return Err(Diagnostic::error(Code::Encoding, source, Span::new(at, at + 1), "the document has a NUL byte"));
    }
    Builder::new(source, limits).build()
}

fn over(source: &Arc<SourceText>, span: Span, name: &str, limit: usize, message: &str) -> Diagnostic {
    Diagnostic::error(Code::Limit, source, span, format!("{message}: the limit `{name}` is {limit}"))
}

/// A collection that is still open.
struct Open {
    node: Node,
    anchor: usize,
    /// A mapping's key that waits for its value.
    key: Option<Node>,
    /// What is in it so far, itself included.
    size: Size,
}

/// What a node costs, its aliases counted as what they stand for.
#[derive(Clone, Copy)]
struct Size {
    nodes: usize,
    /// Bytes of its texts.
    bytes: usize,
    /// Collections that lie in each other.
    depth: usize,
}

struct Builder<'a> {
    source: &'a Arc<SourceText>,
    limits: &'a Limits,
    /// Byte offset of each character; empty for ASCII, where they are the same.
    offsets: Vec<usize>,
    open: Vec<Open>,
    anchors: HashMap<usize, (Node, Size)>,
    nodes: usize,
    bytes: usize,
    root: Option<Node>,
}

impl<'a> Builder<'a> {
    fn new(source: &'a Arc<SourceText>, limits: &'a Limits) -> Self {
        let text = &*source.text;
        let offsets = if text.is_ascii() { Vec::new() } else { text.char_indices().map(|(at, _)| at).collect() };
        Self { source, limits, offsets, open: Vec::new(), anchors: HashMap::new(), nodes: 0, bytes: 0, root: None }
    }

    fn build(mut self) -> Result<Node, Diagnostic> {
        let mut documents = 0;
        for item in Parser::new_from_str(&self.source.text) {
            let (event, span) = item.map_err(|error| {
                let at = self.byte(error.marker().index());
                // The parser looks ahead, and has a limit of its own above ours.
                if error.info().contains("recursion limit") {
                    return self.too_deep(Span::new(at, at + 1));
                }
                Diagnostic::error(Code::Yaml, self.source, Span::new(at, at + 1), error.info())
            })?;
            let span = Span::new(self.byte(span.start.index()), self.byte(span.end.index()));
            match event {
                Event::DocumentStart(_) => {
                    documents += 1;
                    if documents > 1 {
                        return Err(self.error(Code::Yaml, span, "a file holds one document"));
                    }
                }
                Event::Scalar(text, style, anchor, tag) => {
                    self.check_tag(tag.as_deref(), span)?;
                    let span = self.trimmed(span, style);
                    let size = Size { nodes: 1, bytes: text.len(), depth: 0 };
                    let node = self.node(span, Yaml::Scalar { text: text.into(), style });
                    self.count(size, span)?;
                    self.keep(&node, anchor, size)?;
                    self.attach(node, size);
                }
                Event::SequenceStart(anchor, tag) => {
                    self.check_tag(tag.as_deref(), span)?;
                    self.enter(span, Yaml::Sequence(Vec::new()), anchor)?;
                }
                Event::MappingStart(anchor, tag) => {
                    self.check_tag(tag.as_deref(), span)?;
                    self.enter(span, Yaml::Mapping(Vec::new()), anchor)?;
                }
                Event::SequenceEnd | Event::MappingEnd => self.leave(span)?,
                Event::Alias(anchor) => {
                    let Some((_, size)) = self.anchors.get(&anchor) else {
                        return Err(self.error(Code::Yaml, span, "an alias cannot stand inside what it stands for"));
                    };
                    // Counted before it is copied.
                    let size = *size;
                    self.count(size, span)?;
                    let mut node = self.anchors[&anchor].0.clone();
                    node.place.span = span;
                    self.attach(node, size);
                }
                _ => {}
            }
        }
        self.root.take().filter(|root| root.describe() != "nothing").ok_or_else(|| {
            Diagnostic::error(Code::Yaml, self.source, Span::new(0, 0), "the document is empty")
                .help("write `{}` for a document without policies")
        })
    }

    fn enter(&mut self, span: Span, value: Yaml, anchor: usize) -> Result<(), Diagnostic> {
        let size = Size { nodes: 1, bytes: 0, depth: 1 };
        self.count(size, span)?;
        let node = self.node(span, value);
        self.open.push(Open { node, anchor, key: None, size });
        Ok(())
    }

    fn too_deep(&self, span: Span) -> Diagnostic {
        over(self.source, span, "nesting", self.limits.nesting, "the document is nested too deeply")
    }

    fn leave(&mut self, end: Span) -> Result<(), Diagnostic> {
        let Some(mut open) = self.open.pop() else { return Ok(()) };
        // The parser's buffers are several times as large as what is in them, and so are those that grew.
        match &mut open.node.value {
            Yaml::Sequence(items) => items.shrink_to_fit(),
            Yaml::Mapping(entries) => entries.shrink_to_fit(),
            Yaml::Scalar { .. } => {}
        }
        let start = open.node.place.span.start;
        open.node.place.span = self.trimmed(Span::new(start, end.end.max(start)), ScalarStyle::Plain);
        self.keep(&open.node, open.anchor, open.size)?;
        self.attach(open.node, open.size);
        Ok(())
    }

    /// Keeps a copy of an anchored node.
    fn keep(&mut self, node: &Node, anchor: usize, size: Size) -> Result<(), Diagnostic> {
        if anchor > 0 {
            self.count(size, node.place.span)?;
            self.anchors.insert(anchor, (node.clone(), size));
        }
        Ok(())
    }

    fn attach(&mut self, node: Node, size: Size) {
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return;
        };
        open.size.nodes += size.nodes;
        open.size.bytes += size.bytes;
        open.size.depth = open.size.depth.max(size.depth + 1);
        match &mut open.node.value {
            Yaml::Sequence(items) => items.push(node),
            Yaml::Mapping(entries) => match open.key.take() {
                Some(key) => entries.push(Entry { key, value: node }),
                None => open.key = Some(node),
            },
            Yaml::Scalar { .. } => {}
        }
    }

    /// Counts what is about to be attached to the innermost open collection.
    fn count(&mut self, size: Size, span: Span) -> Result<(), Diagnostic> {
        let Limits { nesting, nodes, document_bytes, .. } = *self.limits;
        if self.open.len() + size.depth > nesting {
            return Err(over(self.source, span, "nesting", nesting, "the document is nested too deeply"));
        }
        self.nodes = self.nodes.saturating_add(size.nodes);
        if self.nodes > nodes {
            return Err(over(self.source, span, "nodes", nodes, "the document has too many values"));
        }
        self.bytes = self.bytes.saturating_add(size.bytes);
        if self.bytes > document_bytes {
            let message = "the document is too large with its aliases";
            return Err(over(self.source, span, "document_bytes", document_bytes, message));
        }
        Ok(())
    }

    fn check_tag(&self, tag: Option<&Tag>, span: Span) -> Result<(), Diagnostic> {
        match tag {
            None => Ok(()),
            Some(_) => Err(self.error(Code::Yaml, span, "tags have no meaning in a policy document")),
        }
    }

    fn node(&self, span: Span, value: Yaml) -> Node {
        Node { place: Place { source: self.source.clone(), span }, value }
    }

    fn error(&self, code: Code, span: Span, message: &str) -> Diagnostic {
        Diagnostic::error(code, self.source, span, message)
    }

    /// The parser ends some spans after the white space that follows.
    fn trimmed(&self, span: Span, style: ScalarStyle) -> Span {
        match self.source.text.get(span.start..span.end) {
            Some(text) if !matches!(style, ScalarStyle::Literal | ScalarStyle::Folded) => {
                Span::new(span.start, span.start + text.trim_end().len())
            }
            _ => span,
        }
    }

    fn byte(&self, character: usize) -> usize {
        if self.offsets.is_empty() {
            return character.min(self.source.text.len());
        }
        self.offsets.get(character).copied().unwrap_or(self.source.text.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_text(text: &str) -> Result<Node, Diagnostic> {
        parse(&SourceText::new("t.yaml", text), &Limits::default())
    }

    fn first_value(text: &str) -> Node {
        match parse_text(text).unwrap().value {
            Yaml::Mapping(entries) => entries.into_iter().next().unwrap().value,
            _ => panic!("no mapping"),
        }
    }

    #[test]
    fn places_of_parts() {
        for (text, wanted) in
            [("é: match uid == 0", "uid"), ("a: 'match uid == ''x'''", "uid"), (r#"a: "match \"b\" uid == 0""#, "uid")]
        {
            let node = first_value(text);
            let Yaml::Scalar { text: scalar, .. } = &node.value else { panic!("no scalar") };
            let at = scalar.find(wanted).unwrap();
            let place = node.part(Span::new(at, at + wanted.len()));
            assert_eq!(&text[place.span.start..place.span.end], wanted);
        }
    }

    #[test]
    fn folded_text_points_at_the_whole() {
        let text = "a: >\n  match\n  uid\nb: 1\n";
        let node = first_value(text);
        assert_eq!(node.part(Span::new(0, 1)).span, node.place.span);
    }

    #[test]
    fn alias_bombs_are_refused() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let aliases = vec![format!("*a{}", level - 1); 9].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
        }
        assert_eq!(parse_text(&text).unwrap_err().code, Code::Limit);
    }

    #[test]
    fn aliases_within_the_budget_are_copies() {
        let node = parse_text("a: &x [1, 2]\nb: *x\n").unwrap();
        let Yaml::Mapping(entries) = node.value else { panic!("no mapping") };
        assert!(matches!(&entries[1].value.value, Yaml::Sequence(items) if items.len() == 2));
        assert!(parse_text("a: &x [*x]").is_err());
    }

    #[test]
    fn empty_documents_are_errors() {
        for text in ["", "# only a comment\n", "---\n", "~"] {
            assert!(parse_text(text).is_err(), "{text:?}");
        }
        assert!(parse_text("{}").is_ok());
    }
}

//! What the engines' rule languages have in common.

use regex::bytes::Regex;
use sls_benches::workload::{Condition, TextField, TextTest};

/// How a language writes conditions.
pub(super) struct Notation {
    pub(super) and: &'static str,
    pub(super) or: &'static str,
    pub(super) not: &'static str,
}

impl Notation {
    /// Writes a condition; `test` writes its tests.
    pub(super) fn write(&self, condition: &Condition, test: &mut dyn FnMut(&Condition) -> String) -> String {
        let mut joined = |terms: &[Condition], with: &str| {
            let terms: Vec<_> = terms.iter().map(|term| format!("({})", self.write(term, test))).collect();
            terms.join(with)
        };
        match condition {
            Condition::And(terms) => joined(terms, self.and),
            Condition::Or(terms) => joined(terms, self.or),
            Condition::Not(inner) => format!("{}({})", self.not, self.write(inner, test)),
            Condition::Text(..) | Condition::Uid(_) => test(condition),
        }
    }
}

/// What every engine calls the texts of an execution.
pub(super) fn name(field: TextField) -> &'static str {
    match field {
        TextField::Exe => "exe",
        TextField::Name => "name",
        TextField::Arguments => "args",
        TextField::Parent => "parent",
    }
}

/// The regular expression of a test, for engines that have no better way to express it.
pub(super) fn pattern(test: &TextTest) -> String {
    match test {
        TextTest::Equals(text) => format!("^{}$", regex::escape(text)),
        TextTest::Prefix(text) => format!("^{}", regex::escape(text)),
        TextTest::Glob(text) => {
            let pieces: Vec<_> = text.split('*').map(regex::escape).collect();
            format!("^{}$", pieces.join(".*"))
        }
        TextTest::In(texts) => {
            let texts: Vec<_> = texts.iter().map(|text| regex::escape(text)).collect();
            format!("^(?:{})$", texts.join("|"))
        }
        TextTest::Regex(regex) => regex.pattern.clone(),
    }
}

/// The same, compiled.
pub(super) fn compiled(test: &TextTest) -> Result<Regex, regex::Error> {
    Regex::new(&format!("(?-u){}", pattern(test)))
}

/// The texts in double quotes, with commas between them.
pub(super) fn quoted(texts: &[String], with: &str) -> String {
    format!("\"{}\"", texts.join(&format!("\"{with}\"")))
}

//! What the rules mean, as plainly as it can be said: every engine is compared with this.

use regex::bytes::Regex;
use sls_benches::workload::{Condition, Execution, TextField, TextTest, UidTest};

use crate::engine::Matched;

/// Every rule, evaluated one after the other.
pub(crate) struct Reference {
    rules: Vec<Compiled>,
}

enum Compiled {
    And(Vec<Compiled>),
    Or(Vec<Compiled>),
    Not(Box<Compiled>),
    Equals(TextField, String),
    Prefix(TextField, String),
    Glob(TextField, Vec<String>),
    In(TextField, Vec<String>),
    Regex(TextField, Regex),
    Uid(UidTest),
}

impl Reference {
    pub(crate) fn new(rules: &[Condition]) -> anyhow::Result<Self> {
        Ok(Self { rules: rules.iter().map(Compiled::new).collect::<Result<_, _>>()? })
    }

    /// The rules among those that `expressible` lets through which the execution satisfies.
    pub(crate) fn matched(&self, execution: &Execution, expressible: impl Fn(usize) -> bool) -> Matched {
        let arguments = execution.joined_arguments();
        let mut matched = Matched::default();
        for (index, rule) in self.rules.iter().enumerate() {
            if expressible(index) && rule.holds(execution, &arguments) {
                matched.add(index);
            }
        }
        matched
    }
}

impl Compiled {
    fn new(condition: &Condition) -> Result<Self, regex::Error> {
        let all = |terms: &[Condition]| terms.iter().map(Self::new).collect::<Result<Vec<_>, _>>();
        Ok(match condition {
            Condition::And(terms) => Self::And(all(terms)?),
            Condition::Or(terms) => Self::Or(all(terms)?),
            Condition::Not(inner) => Self::Not(Box::new(Self::new(inner)?)),
            Condition::Uid(test) => Self::Uid(*test),
            Condition::Text(field, test) => match test {
                TextTest::Equals(text) => Self::Equals(*field, text.clone()),
                TextTest::Prefix(text) => Self::Prefix(*field, text.clone()),
                TextTest::Glob(text) => Self::Glob(*field, text.split('*').map(str::to_owned).collect()),
                TextTest::In(texts) => Self::In(*field, texts.clone()),
                TextTest::Regex(regex) => Self::Regex(*field, Regex::new(&regex.pattern)?),
            },
        })
    }

    fn holds(&self, execution: &Execution, arguments: &str) -> bool {
        let text = |field: TextField| match field {
            TextField::Exe => &*execution.exe,
            TextField::Name => &*execution.name,
            TextField::Arguments => arguments,
            TextField::Parent => &*execution.parent,
        };
        match self {
            Self::And(terms) => terms.iter().all(|term| term.holds(execution, arguments)),
            Self::Or(terms) => terms.iter().any(|term| term.holds(execution, arguments)),
            Self::Not(inner) => !inner.holds(execution, arguments),
            Self::Equals(field, wanted) => text(*field) == wanted,
            Self::Prefix(field, wanted) => text(*field).starts_with(wanted),
            Self::Glob(field, pieces) => glob(pieces, text(*field)),
            Self::In(field, wanted) => wanted.iter().any(|wanted| text(*field) == wanted),
            Self::Regex(field, regex) => regex.is_match(text(*field).as_bytes()),
            Self::Uid(UidTest::Equals(uid)) => execution.uid == *uid,
            Self::Uid(UidTest::AtLeast(uid)) => execution.uid >= *uid,
        }
    }
}

/// Whether `text` consists of the pieces, with any bytes between them.
fn glob(pieces: &[String], text: &str) -> bool {
    let [first, between @ .., last] = pieces else { return pieces.iter().any(|whole| whole == text) };
    let Some(rest) = text.strip_prefix(&**first).and_then(|rest| rest.strip_suffix(&**last)) else { return false };
    between.iter().try_fold(rest, |rest, piece| Some(rest.split_once(&**piece)?.1)).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_cover_the_whole_text() {
        let matches = |pattern: &str, text| glob(&pattern.split('*').map(str::to_owned).collect::<Vec<_>>(), text);
        assert!(matches("/a/*/b", "/a/x/y/b"));
        assert!(matches("/a/*x*/b", "/a/yxz/b"));
        assert!(matches("*", ""));
        assert!(matches("a", "a"));
        assert!(!matches("/a/*/b", "/a/b"));
        assert!(!matches("/a/*x*/b", "/a/yz/b"));
        assert!(!matches("a*", "ba"));
    }
}

//! Decisions under partial knowledge: what is decided for certain about an event of which values are cut or missing
//! stays decided, whatever the values turn out to be.

#![no_main]

use std::sync::Arc;

use libfuzzer_sys::arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use sls_core::{Event, EventKind, Field, FieldKind, Matcher, PolicySet, TreeMatcher};

#[derive(Arbitrary, Debug)]
struct Case {
    rules: Vec<Rule>,
    default_matches: bool,
    list: Vec<Word>,
    lineage: Vec<Word>,
    values: [State; FIELDS.len()],
}

#[derive(Arbitrary, Debug)]
struct Rule {
    matches: bool,
    condition: Expr,
}

#[derive(Arbitrary, Debug)]
enum Expr {
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    Not(Box<Expr>),
    Test(Test),
}

#[derive(Arbitrary, Debug)]
struct Test {
    field: u8,
    operator: u8,
    operand: Word,
}

/// A few letters, and whatever has a meaning in patterns and regular expressions.
#[derive(Arbitrary, Debug)]
struct Word(Vec<u8>);

/// Each is a regular expression, and so is any row of them: most documents shall load.
const PARTS: [&str; 16] =
    ["a", "b", ".*", "ab", "A", "/", " ", "a?", "[ab]+", "(b|a$)", "$", "^", "\\b", "\\B", "(?i)", "|"];

/// What an event has in a field, and what is known of it.
#[derive(Arbitrary, Debug)]
enum State {
    Absent,
    Known(Word),
    /// The part known and the part lost.
    Cut(Word, Word),
    /// Nothing known of it, not even that it has a value.
    Unknown(Option<Word>),
}

/// One or two fields of each kind that programs have.
const FIELDS: [Field; 8] = [
    Field::ProgramName,
    Field::ParentProgramName,
    Field::ProgramArguments,
    Field::UserName,
    Field::AncestorProgramName,
    Field::Uid,
    Field::ParentPid,
    Field::ProgramIsMemfd,
];

fuzz_target!(|case: Case| {
    let Ok(policies) = PolicySet::from_yaml("case.yaml", document(&case)) else { return };
    let (mut partial, mut whole) = (Event::new(EventKind::Exec), Event::new(EventKind::Exec));
    for (field, state) in FIELDS.into_iter().zip(&case.values) {
        set(field, state, &mut partial, &mut whole);
    }
    let matcher = TreeMatcher::new(Arc::new(policies));
    let about = || format!("{case:?}\n{}\n{partial:?}\n{whole:?}", document(&case));
    let truth = decide(&matcher, &whole);
    assert!(truth != Decided::Open, "undecided although everything is known: {}", about());
    let guess = decide(&matcher, &partial);
    assert!(guess == truth || guess == Decided::Open, "{guess:?}, but it is {truth:?}: {}", about());
});

#[derive(Clone, Copy, Debug, PartialEq)]
enum Decided {
    Match,
    Ignore,
    Open,
}

fn decide(matcher: &TreeMatcher, event: &Event) -> Decided {
    let mut decided = Decided::Ignore;
    matcher.decide(event, &mut |decision| {
        assert_eq!(decision.certain, decision.uncertain.is_empty(), "an open decision names its fields");
        decided = if decision.certain { Decided::Match } else { Decided::Open };
    });
    decided
}

fn document(case: &Case) -> String {
    let words = |words: &[Word]| words.iter().map(|word| quote(&word.text())).collect::<Vec<_>>().join(", ");
    let mut document = format!(
        "paths: {{type: paths, list: [{list}]}}\nnames: {{type: names, list: [{list}]}}\n\
         numbers: {{type: numbers, list: [1, 3-5]}}\nlineage: {{type: lineage, list: [[sh, {lineage}]]}}\n\
         P:\n  policy: program\n  rules:\n",
        list = words(&case.list),
        lineage = words(&case.lineage)
    );
    for rule in &case.rules {
        let verdict = if rule.matches { "match" } else { "ignore" };
        document.push_str(&format!("  - {}\n", quote(&format!("{verdict} {}", rule.condition.text(0)))));
    }
    document.push_str(if case.default_matches { "  - default match\n" } else { "  - default ignore\n" });
    document
}

fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

impl Word {
    fn text(&self) -> String {
        self.0.iter().take(4).map(|byte| PARTS[usize::from(byte % 16)]).collect()
    }

    /// A value, short and of few letters, so that patterns often meet it.
    fn letters(&self) -> String {
        self.0.iter().take(3).map(|byte| ["a", "b", "ab", "/", " ", ""][usize::from(byte % 6)]).collect()
    }

    fn number(&self) -> u64 {
        u64::from(self.0.first().copied().unwrap_or(0) % 8)
    }
}

impl Expr {
    fn text(&self, depth: usize) -> String {
        match self {
            Self::And(a, b) => format!("({} and {})", a.text(depth + 1), b.text(depth + 1)),
            Self::Or(a, b) => format!("({} or {})", a.text(depth + 1), b.text(depth + 1)),
            Self::Not(inner) => format!("not {}", inner.text(depth + 1)),
            Self::Test(test) => test.text(),
        }
    }
}

impl Test {
    /// A test that its field allows, so that most documents load.
    fn text(&self) -> String {
        let index = usize::from(self.field) % (FIELDS.len() + 1);
        // `lineage` is another view of the ancestors.
        let field = FIELDS.get(index).copied().unwrap_or(Field::Lineage);
        let operators = field.kind().operators();
        let operator = operators[usize::from(self.operator) % operators.len()];
        let text = self.operand.text();
        let literal = match field.kind() {
            FieldKind::Number => self.operand.number().to_string(),
            FieldKind::Bool => (self.operand.number() % 2 == 0).to_string(),
            // In an expression a backslash is the expression's; elsewhere it has to escape something.
            _ if operator.ends_with("like") => format!("\"{text}\""),
            _ => format!("\"{}\"", text.replace(".*", "*").replace('\\', r"\*")),
        };
        let named = self.operator >= 128 || field == Field::Lineage;
        let operand = match field.kind() {
            _ if !operator.contains("in") => literal,
            _ if !named => format!("[{literal}, {literal}]"),
            FieldKind::Path => "$paths".to_owned(),
            FieldKind::Number => "$numbers".to_owned(),
            FieldKind::Lineage => "$lineage".to_owned(),
            _ => "$names".to_owned(),
        };
        format!("{field} {operator} {operand}")
    }
}

/// Sets the field in the event as it is, and in the event as far as it is known.
fn set(field: Field, state: &State, partial: &mut Event, whole: &mut Event) {
    match (field.kind(), state) {
        (_, State::Absent) => {}
        (_, State::Known(word)) => {
            value(field, &word.letters(), word.number(), partial);
            value(field, &word.letters(), word.number(), whole);
        }
        (_, State::Unknown(word)) => {
            if let Some(word) = word {
                value(field, &word.letters(), word.number(), whole);
            }
            partial.mark_unknown(field);
        }
        // These are known or not.
        (FieldKind::Number | FieldKind::Bool, State::Cut(_, lost)) => {
            value(field, "", lost.number(), whole);
            partial.mark_unknown(field);
        }
        (_, State::Cut(known, lost)) => {
            let (known, lost) = (known.letters(), lost.letters());
            let all = match field.kind() {
                FieldKind::Path if !field.spec().many => format!("{lost}{known}"),
                // Of several paths each is known whole or not at all.
                FieldKind::Path => format!("{known} {lost}"),
                _ => format!("{known}{lost}"),
            };
            value(field, &known, 0, partial);
            partial.mark_truncated(field);
            value(field, &all, 0, whole);
        }
    }
}

fn value(field: Field, text: &str, number: u64, event: &mut Event) {
    match field.kind() {
        _ if field == Field::ParentPid => event.parent.pid = number as u32,
        _ if field == Field::ProgramArguments => drop(event.set_arguments([text.as_bytes()])),
        _ if field.spec().many => drop(event.set_ancestors(text.split(' ').map(str::as_bytes))),
        FieldKind::Number => drop(event.set_number(field, number)),
        FieldKind::Bool => drop(event.set_bool(field, number % 2 == 0)),
        _ => drop(event.set_text(field, text.as_bytes())),
    }
}

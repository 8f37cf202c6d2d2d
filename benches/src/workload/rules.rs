//! Rules about executions, whatever engine they are written for.

use super::executions::{DIRECTORIES, Execution, Parity, hex, path, word};
use super::random::Random;
use super::{KINDS_REPEAT, Regexes, WITHOUT_LITERAL};

/// What an execution has to be like.
#[derive(Clone, Debug)]
// Exhaustive: whoever translates rules has to translate them all.
#[allow(clippy::exhaustive_enums)]
pub enum Condition {
    /// All of these.
    And(Vec<Condition>),
    /// One of these.
    Or(Vec<Condition>),
    /// Not this.
    Not(Box<Condition>),
    /// A text of the execution passes a test.
    Text(TextField, TextTest),
    /// The user id passes a test.
    Uid(UidTest),
}

/// A text of an execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
// Exhaustive: as `Condition`.
#[allow(clippy::exhaustive_enums)]
pub enum TextField {
    /// Path of the executable.
    Exe,
    /// `comm`.
    Name,
    /// The joined arguments.
    Arguments,
    /// Path of the parent's executable.
    Parent,
}

/// A test of a text. No text has a star, a quote or a backslash in it.
#[derive(Clone, Debug)]
// Exhaustive: as `Condition`.
#[allow(clippy::exhaustive_enums)]
pub enum TextTest {
    /// It is this.
    Equals(String),
    /// It begins with this.
    Prefix(String),
    /// It is this, where each star stands for any bytes.
    Glob(String),
    /// It is one of these.
    In(Vec<String>),
    /// It contains a match.
    Regex(Regex),
}

/// A test of the user id.
#[derive(Clone, Copy, Debug)]
// Exhaustive: as `Condition`.
#[allow(clippy::exhaustive_enums)]
pub enum UidTest {
    /// It is this.
    Equals(u32),
    /// It is this or more.
    AtLeast(u32),
}

/// A regular expression.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Regex {
    /// The expression, to be searched for.
    pub pattern: String,
    /// What every match contains.
    pub literal: Option<String>,
    /// A match.
    sample: String,
}

impl Condition {
    /// Changes an execution so that it satisfies the condition.
    pub(super) fn satisfy(&self, execution: &mut Execution, random: &mut Random) {
        match self {
            Self::And(terms) => terms.iter().for_each(|term| term.satisfy(execution, random)),
            Self::Or(terms) => random.pick(terms).satisfy(execution, random),
            Self::Not(inner) => {
                if let Self::Uid(UidTest::Equals(uid)) = **inner {
                    execution.uid = uid + 1000;
                }
                // No ordinary execution has the texts that rules exclude.
            }
            Self::Uid(UidTest::Equals(uid) | UidTest::AtLeast(uid)) => execution.uid = *uid,
            Self::Text(field, test) => {
                let text = test.sample(random);
                match field {
                    TextField::Exe => execution.set_exe(&text),
                    TextField::Name => execution.name = text,
                    TextField::Parent => execution.parent = text,
                    TextField::Arguments => execution.arguments.extend(text.split(' ').map(str::to_owned)),
                }
            }
        }
    }
}

impl TextTest {
    /// A text that passes.
    fn sample(&self, random: &mut Random) -> String {
        match self {
            Self::Equals(text) => text.clone(),
            Self::Prefix(text) => format!("{text}{}", word(random, Parity::Odd)),
            Self::Glob(pattern) => pattern.replace('*', &word(random, Parity::Even)),
            Self::In(texts) => random.pick(texts).clone(),
            Self::Regex(regex) => regex.sample.clone(),
        }
    }
}

pub(super) fn rules(count: usize, regexes: Regexes) -> Vec<Condition> {
    let mut random = Random::new(0);
    (0..count).map(|index| rule(index, regexes, &mut random)).collect()
}

fn rule(index: usize, regexes: Regexes, random: &mut Random) -> Condition {
    use Condition::Text;
    use TextField::{Arguments, Exe};

    let repeat = index / KINDS_REPEAT;
    let odd = Parity::Odd;
    match index % KINDS_REPEAT {
        3 => Text(Exe, TextTest::Prefix(format!("/opt/{}/", word(random, odd)))),
        6 | 15 => {
            let paths = (0..20 + random.below(31)).map(|_| path(random, odd)).collect();
            Text(Exe, TextTest::In(paths))
        }
        9 => {
            let without = regexes == Regexes::SomeWithoutLiteral && repeat % WITHOUT_LITERAL == WITHOUT_LITERAL / 2;
            let regex = if without { without_literal(repeat, random) } else { with_literal(repeat, random) };
            Text(Arguments, TextTest::Regex(regex))
        }
        12 => Text(Exe, TextTest::Glob(format!("{}*/bin/{}", random.pick(&DIRECTORIES), word(random, odd)))),
        17 => combination(repeat, random),
        _ => Text(Exe, TextTest::Equals(path(random, odd))),
    }
}

fn combination(repeat: usize, random: &mut Random) -> Condition {
    use Condition::{And, Not, Or, Text, Uid};
    use TextField::{Exe, Name, Parent};

    let mut equals = |field| {
        let text = if field == Name { word(random, Parity::Odd) } else { path(random, Parity::Odd) };
        Text(field, TextTest::Equals(text))
    };
    let not = |condition| Not(Box::new(condition));
    And(match repeat % 3 {
        0 => vec![equals(Exe), not(Uid(UidTest::Equals(0)))],
        1 => vec![Or(vec![equals(Exe), equals(Exe)]), Uid(UidTest::Equals(0)), not(equals(Parent))],
        _ => {
            let prefix = TextTest::Prefix("/usr/lib/debug/".to_owned());
            vec![equals(Name), Uid(UidTest::AtLeast(1000)), not(Text(Exe, prefix))]
        }
    })
}

/// As people write them about downloads, encodings and listeners.
fn with_literal(repeat: usize, random: &mut Random) -> Regex {
    let word = word(random, Parity::Odd);
    let (pattern, sample) = match repeat % 3 {
        0 => (
            format!(r"curl [^|]*https?://[a-z0-9.]+/{word}\.(?:sh|bin)"),
            format!("curl -s https://a1.example.org/{word}.sh"),
        ),
        1 => (
            format!(r"(?:base64|openssl) (?:-d|enc) [^|]*/{word}\.b64"),
            format!("base64 -d /tmp/{word}.b64"), //
        ),
        _ => (format!(r"nc (?:-[a-z]+ )*{word} [0-9]{{2,5}}"), format!("nc -l -p {word} 4444")),
    };
    Regex { pattern, literal: Some(word), sample }
}

/// Bytes in hexadecimal, more than ordinary arguments have.
fn without_literal(repeat: usize, random: &mut Random) -> Regex {
    let pairs = 6 + repeat / WITHOUT_LITERAL;
    let sample: Vec<_> = (0..=pairs).map(|_| format!("{}{}", hex(random), hex(random))).collect();
    Regex {
        pattern: format!("(?:[0-9a-f]{{2}}:){{{pairs},}}[0-9a-f]{{2}}"),
        literal: None,
        sample: sample.join(":"), //
    }
}

//! Literals of every form, each with a value that it matches.

use std::net::IpAddr;

use super::choices::Choices;

/// A literal as rules or lists write it, and a value that it matches.
pub(crate) struct Literal<T> {
    pub(crate) text: String,
    pub(crate) value: T,
}

/// Texts that literals and values are made of, the same few in a whole case: policies share literals and parts of them.
pub(crate) struct Words(Vec<String>);

const STEMS: &[&str] = &[
    "sh",
    "/bin/sh",
    "/usr/bin/wget",
    "wget",
    "/tmp/x",
    "/etc/passwd",
    "WGET",
    "Ab",
    "aba",
    "aaab",
    "abcabc",
    "nc -e",
    "a.b",
    "\u{e9}",
    "\\",
    "*",
    "\"",
    "/",
    " ",
    "K",
    "k",
    "abcd",
    "abc",
    "-",
    "[x]",
];

impl Words {
    pub(crate) fn new(choices: &mut Choices<'_>) -> Self {
        let word = |_| {
            let stem = *choices.pick(STEMS);
            match choices.below(12) {
                0..=6 => stem.to_owned(),
                7 => format!("{stem}{}", choices.pick(STEMS)),
                8 => stem.repeat(64 / stem.len() + choices.below(3)),
                9 => stem.repeat(256 / stem.len() + choices.below(3)),
                10 => String::new(),
                _ => stem.to_ascii_uppercase(),
            }
        };
        Self((0..10).map(word).collect())
    }

    pub(crate) fn pick(&self, choices: &mut Choices<'_>) -> String {
        choices.pick(&self.0).clone()
    }

    /// What stands where a pattern takes anything.
    pub(crate) fn anything(&self, choices: &mut Choices<'_>) -> Vec<u8> {
        match choices.below(9) {
            0..=2 => Vec::new(),
            3 => b"x".to_vec(),
            4 => b"/".to_vec(),
            5 => b"/usr/bin/".to_vec(),
            6 => self.pick(choices).into_bytes(),
            7 => b"\xff\n\xc3".to_vec(),
            _ => vec![b'y'; 300],
        }
    }

    /// A pattern with stars in any place. `quoted` for a rule, where a quote needs a backslash.
    pub(crate) fn pattern(&self, choices: &mut Choices<'_>, quoted: bool, max: Option<usize>) -> Literal<Vec<u8>> {
        let mut word = || cut(self.pick(choices), max);
        // The pieces between the stars.
        let (one, two, three, empty) = (word(), word(), word(), String::new);
        let pieces = match choices.below(14) {
            0..=3 => vec![one],
            4 | 5 => vec![empty(), one],
            6 | 7 => vec![one, empty()],
            8 => vec![empty(), one, empty()],
            9 => vec![one, two],
            10 => vec![empty(), one, two, empty()],
            11 => vec![empty(), empty()],
            12 => vec![empty(), empty(), one],
            _ => vec![one, two, three],
        };
        // Pieces of at most 15 bytes in all.
        let pieces: Vec<_> = match max {
            Some(_) if pieces.len() > 1 => pieces.into_iter().map(|piece| cut(piece, Some(5))).collect(),
            _ => pieces,
        };
        let escaped = pieces.iter().map(|piece| {
            let piece = piece.replace('\\', r"\\").replace('*', r"\*");
            if quoted { piece.replace('"', "\\\"") } else { piece }
        });
        let text = escaped.collect::<Vec<_>>().join("*");
        let mut value = pieces[0].clone().into_bytes();
        for piece in &pieces[1..] {
            value.extend(self.anything(choices));
            value.extend(piece.bytes());
        }
        Literal { text, value }
    }

    /// A regular expression as a rule writes it.
    pub(crate) fn regex(&self, choices: &mut Choices<'_>) -> Literal<Vec<u8>> {
        let Literal { text, value } = self.part_of_regex(choices, 3);
        match choices.below(8) {
            0 => Literal { text: format!("(?i){text}"), value: swap_case(&value) },
            1 => Literal { text: format!("^{text}$"), value },
            2 => {
                let (before, after) = (self.anything(choices), self.anything(choices));
                Literal { text: format!(".*{text}.*"), value: [before, value, after].concat() }
            }
            _ => Literal { text, value },
        }
    }

    fn part_of_regex(&self, choices: &mut Choices<'_>, depth: usize) -> Literal<Vec<u8>> {
        const ATOMS: &[(&str, &[u8])] = &[
            (".", b"\n"),
            ("[a-c]", b"b"),
            ("[^a]", b"\xff"),
            (r"\d", b"7"),
            (r"\w+", b"ab"),
            ("[[:alpha:]]", b"a"),
            (r"\xff", b"\xff"),
            (r"\x2f", b"/"),
            ("", b""),
            ("^", b""),
            ("$", b""),
            (r"\b", b""),
            (r"\B", b""),
            (r"\A", b""),
            (r"\z", b""),
            ("[aA]", b"A"),
            ("a?", b""),
            ("b*", b"bb"),
            ("(?-s:.)", b"q"),
            (r"[^\x00]", b"z"),
        ];
        const REPETITIONS: &[(&str, usize)] = &[
            ("?", 0),
            ("?", 1),
            ("*", 0),
            ("*", 2),
            ("+", 1),
            ("+", 3),
            ("{2}", 2),
            ("{1,3}", 2),
            ("{0}", 0),
            ("{2,}", 3),
            ("*?", 1),
        ];
        let word = self.pick(choices);
        let mut inner = || self.part_of_regex(choices, depth.saturating_sub(1));
        let (one, two) = if depth == 0 { (literal(&word), literal(&word)) } else { (inner(), inner()) };
        match choices.below(14) {
            0 | 1 => literal(&word),
            2 => Literal { text: ".*".to_owned(), value: self.anything(choices) },
            3 => {
                let (text, value) = *choices.pick(ATOMS);
                Literal { text: text.to_owned(), value: value.to_vec() }
            }
            4 => Literal { text: format!("(?i:{})", literal(&word).text), value: swap_case(word.as_bytes()) },
            5..=8 => Literal { text: one.text + &two.text, value: [one.value, two.value].concat() },
            9 | 10 => {
                let value = if choices.once_in(2) { one.value } else { two.value };
                Literal { text: format!("({}|{})", one.text, two.text), value }
            }
            11 => Literal { text: format!("(?:{}|)", one.text), value: one.value },
            12 => Literal { text: format!("(?:|{})", one.text), value: Vec::new() },
            _ => {
                let (repetition, times) = *choices.pick(REPETITIONS);
                Literal { text: format!("(?:{}){repetition}", one.text), value: one.value.repeat(times) }
            }
        }
    }
}

/// An expression that matches the word only.
fn literal(word: &str) -> Literal<Vec<u8>> {
    let mut text = String::new();
    for char in word.chars() {
        if r#"\.+*?()|[]{}^$#&-~""#.contains(char) {
            text.push('\\');
        }
        text.push(char);
    }
    Literal { text, value: word.as_bytes().to_vec() }
}

/// The first characters, of at most so many bytes.
fn cut(mut word: String, max: Option<usize>) -> String {
    while max.is_some_and(|max| word.len() > max) {
        word.pop();
    }
    word
}

pub(crate) fn swap_case(text: &[u8]) -> Vec<u8> {
    text.iter().map(|byte| if byte.is_ascii_alphabetic() { byte ^ 0x20 } else { *byte }).collect()
}

/// Integers at the borders of what fields and rules can have.
const INTEGERS: &[i128] = &[
    0,
    1,
    2,
    22,
    1000,
    65_535,
    65_536,
    1 << 32,
    (1 << 63) - 1,
    1 << 63,
    u64::MAX as i128 - 1,
    u64::MAX as i128,
    u64::MAX as i128 + 1,
    i128::MAX / 10,
    -1,
    i64::MIN as i128,
];

/// An integer, and a number that is in the order to it that `operator` asks for, if there is one.
pub(crate) fn integer(choices: &mut Choices<'_>, operator: &str) -> Literal<u64> {
    let integer = *choices.pick(INTEGERS);
    let wanted = match operator {
        "<" => integer - 1,
        ">" => integer + 1,
        _ => integer,
    };
    Literal { text: integer.to_string(), value: wanted.clamp(0, u64::MAX.into()) as u64 }
}

/// A range as a list of numbers writes it.
pub(crate) fn range(choices: &mut Choices<'_>) -> Literal<u64> {
    let mut number = || integer(choices, "==").value;
    let (one, two) = (number(), number());
    let (from, to) = (one.min(two), one.max(two));
    match choices.below(3) {
        0 => Literal { text: from.to_string(), value: from },
        1 => Literal { text: format!("{from}-{to}"), value: from },
        _ => Literal { text: format!("{from}-{to}"), value: to },
    }
}

/// Networks with addresses in them.
const NETWORKS: &[(&str, &[&str])] = &[
    ("10.0.0.0/8", &["10.0.0.0", "10.255.255.255"]),
    ("10.1.2.3/8", &["10.0.0.0", "10.1.2.3"]),
    ("10.0.0.1", &["10.0.0.1"]),
    ("192.0.2.128/25", &["192.0.2.128", "192.0.2.255"]),
    ("192.0.2.129/32", &["192.0.2.129"]),
    ("0.0.0.0/0", &["0.0.0.0", "255.255.255.255"]),
    ("255.255.255.255/32", &["255.255.255.255"]),
    ("::/0", &["::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::ffff:10.0.0.1"]),
    ("::1", &["::1"]),
    ("::ffff:10.0.0.0/104", &["::ffff:10.0.0.0", "::ffff:10.255.255.255"]),
    ("::ffff:10.0.0.1", &["::ffff:10.0.0.1"]),
    ("2001:db8::/32", &["2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"]),
    ("2001:db8::1/128", &["2001:db8::1"]),
];

/// Addresses just outside of networks.
const STRANGERS: &[&str] =
    &["9.255.255.255", "11.0.0.0", "192.0.2.127", "::2", "::ffff:11.0.0.0", "2001:db9::", "198.51.100.7"];

pub(crate) fn network(choices: &mut Choices<'_>) -> Literal<IpAddr> {
    let (text, addresses) = *choices.pick(NETWORKS);
    Literal { text: text.to_owned(), value: choices.pick(addresses).parse().unwrap() }
}

pub(crate) fn address(choices: &mut Choices<'_>) -> IpAddr {
    if choices.once_in(2) { network(choices).value } else { choices.pick(STRANGERS).parse().unwrap() }
}

//! What came of a test.

use std::fmt;
use std::str::FromStr;

use anyhow::bail;
use serde::{Deserialize, Serialize};

/// The result of one test in one guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) enum Outcome {
    Ok,
    Failed,
    /// The kernel lacks what the test is about: a short name of it, and what would bring it.
    NotOffered {
        hook: String,
        option: String,
    },
    /// Good, but without a part, because the kernel lacks something: its short name, and what is not shown.
    Without {
        hook: String,
        part: String,
    },
    /// Marked `#[ignore]`, with the reason.
    Ignored(String),
}

/// What `not_offered` and `without` of `for_tests.rs` print before the two values.
const NOT_OFFERED: &str = "not offered: ";
const WITHOUT: &str = "without: ";

/// What tests must not say in their stead.
const NOT_TESTED: &str = "not tested";

impl Outcome {
    /// From the output of a test binary that ran one test, and whether it ended with success.
    pub(crate) fn of_test(output: &str, success: bool) -> Self {
        if !success {
            return Self::Failed;
        }
        if let Some(missing) = output.lines().find_map(Self::not_offered) {
            return missing;
        }
        if output.lines().any(|line| line.starts_with(NOT_TESTED)) {
            return Self::Failed;
        }
        let ignored =
            |line: &'_ str| line.strip_prefix("test ")?.split_once(" ... ignored").map(|(_, why)| why.to_owned());
        if let Some(reason) = output.lines().find_map(ignored) {
            let reason = reason.trim_start_matches(", ").trim();
            return Self::Ignored(if reason.is_empty() { "no reason given" } else { reason }.to_owned());
        }
        // A binary that does not know the test runs none, and succeeds.
        if !output.contains("\ntest result: ok. 1 passed;") {
            return Self::Failed;
        }
        output.lines().find_map(Self::without).unwrap_or(Self::Ok)
    }

    /// What the kernel lacks, if that is why not everything was shown.
    pub(crate) fn missing(&self) -> Option<(&str, &str)> {
        match self {
            Self::NotOffered { hook, option: why } | Self::Without { hook, part: why } => Some((hook, why)),
            _ => None,
        }
    }

    fn not_offered(line: &str) -> Option<Self> {
        let (hook, option) = hook(line.strip_prefix(NOT_OFFERED)?)?;
        Some(Self::NotOffered { hook, option })
    }

    fn without(line: &str) -> Option<Self> {
        let (hook, part) = hook(line.strip_prefix(WITHOUT)?)?;
        Some(Self::Without { hook, part })
    }
}

/// A name, and the rest in parentheses.
fn hook(text: &str) -> Option<(String, String)> {
    let (hook, rest) = text.split_once(" (")?;
    let valid = !hook.is_empty() && !hook.contains(char::is_whitespace);
    valid.then_some(())?;
    Some((hook.to_owned(), rest.strip_suffix(')')?.to_owned()))
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => f.write_str("ok"),
            Self::Failed => f.write_str("failed"),
            Self::NotOffered { hook, option } => write!(f, "{NOT_OFFERED}{hook} ({option})"),
            Self::Without { hook, part } => write!(f, "{WITHOUT}{hook} ({part})"),
            Self::Ignored(reason) => write!(f, "ignored: {reason}"),
        }
    }
}

impl From<Outcome> for String {
    fn from(outcome: Outcome) -> Self {
        outcome.to_string()
    }
}

impl FromStr for Outcome {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        match text {
            "ok" => return Ok(Self::Ok),
            "failed" => return Ok(Self::Failed),
            _ => {}
        }
        if let Some(reason) = text.strip_prefix("ignored: ") {
            return Ok(Self::Ignored(reason.to_owned()));
        }
        let Some(missing) = Self::not_offered(text).or_else(|| Self::without(text)) else {
            bail!("{text:?} is no result of a test")
        };
        Ok(missing)
    }
}

impl TryFrom<String> for Outcome {
    type Error = anyhow::Error;

    fn try_from(text: String) -> anyhow::Result<Self> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(body: &str, verdict: &str, passed: u32) -> String {
        format!(
            "\nrunning 1 test\ntest a_test ... {body}{verdict}\n\ntest result: ok. {passed} passed; 0 failed; 0 ignored\n"
        )
    }

    #[test]
    fn verdicts_are_read() {
        assert_eq!(Outcome::of_test(&output("", "ok", 1), true), Outcome::Ok);
        assert_eq!(Outcome::of_test(&output("", "ok", 1), false), Outcome::Failed);
        assert_eq!(
            Outcome::of_test(&output("", "ignored, takes long", 0), true),
            Outcome::Ignored("takes long".into())
        );
        assert_eq!(Outcome::of_test(&output("", "ignored", 0), true), Outcome::Ignored("no reason given".into()));
    }

    #[test]
    fn what_is_not_offered_is_not_ok() {
        let missing = Outcome::NotOffered { hook: "io_uring".into(), option: "CONFIG_IO_URING (5.1)".into() };
        let text = output("\nnot offered: io_uring (CONFIG_IO_URING (5.1))\n", "ok", 1);
        assert_eq!(Outcome::of_test(&text, true), missing);
        assert_eq!(Outcome::of_test(&text, false), Outcome::Failed);
        let text = output("\nwithout: ipv6 (IPv6)\n", "ok", 1);
        assert_eq!(Outcome::of_test(&text, true), Outcome::Without { hook: "ipv6".into(), part: "IPv6".into() });
        assert_eq!(Outcome::of_test(&output("\nnot tested: no IPv6\n", "ok", 1), true), Outcome::Failed);
    }

    #[test]
    fn no_test_is_no_success() {
        let text = "\nrunning 0 tests\n\ntest result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out\n";
        assert_eq!(Outcome::of_test(text, true), Outcome::Failed);
        assert_eq!(Outcome::of_test("", true), Outcome::Failed);
    }

    #[test]
    fn results_are_read_back() {
        let missing = Outcome::NotOffered { hook: "pidfs".into(), option: "Linux 6.9".into() };
        let without = Outcome::Without { hook: "trampoline".into(), part: "io_uring (accept)".into() };
        for outcome in [Outcome::Ok, Outcome::Failed, missing, without, Outcome::Ignored("why".into())] {
            assert_eq!(outcome.to_string().parse::<Outcome>().unwrap(), outcome);
        }
        assert!("fine".parse::<Outcome>().is_err());
        assert!("not offered: two words (x)".parse::<Outcome>().is_err());
    }
}

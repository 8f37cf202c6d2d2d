//! What a probe of the user's own fetches: the language of the key `arguments`.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// The most arguments that a probe can have.
pub const MAX_PROBE_ARGUMENTS: usize = 8;

/// The most pointers that an argument can follow.
pub const MAX_PROBE_STEPS: usize = 3;

/// Arguments of a function that come in registers.
const REGISTER_ARGUMENTS: u8 = 6;

/// Where the registers of arguments have names: x86_64, then arm64.
const REGISTERS: [[&str; REGISTER_ARGUMENTS as usize]; 2] =
    [["di", "si", "dx", "cx", "r8", "r9"], ["x0", "x1", "x2", "x3", "x4", "x5"]];

/// A value that a probe fetches, as the kernel's own probe events write it: `$arg1`, `%di`, `+8(%di):u32`,
/// `+0($arg2):string`, `$retval`; and shorter, `arg0` and `ret`.
///
/// ```
/// use sls_core::{ProbeArgument, ProbeForm, ProbePlace};
///
/// let argument: ProbeArgument = "+4(arg0):u32".parse()?;
/// assert_eq!(argument.place, ProbePlace::Argument(0));
/// assert_eq!(argument.steps.len(), 1);
/// assert_eq!(argument.form, ProbeForm::Unsigned { bytes: 4 });
/// # Ok::<(), sls_core::ProbeArgumentError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ProbeArgument {
    /// Where to begin.
    pub place: ProbePlace,
    /// The pointers to follow from there, at most [`MAX_PROBE_STEPS`].
    pub steps: Vec<ProbeStep>,
    /// What is at the end of it.
    pub form: ProbeForm,
}

/// A value that the processor has at the probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProbePlace {
    /// An argument of the function, from 0 to 5: those that come in registers.
    Argument(u8),
    /// What the function returns. The probe is at its end then.
    Return,
}

/// The value so far is a pointer: what is behind it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ProbeStep {
    /// Bytes to add to the pointer first.
    pub offset: i32,
    /// Whether it points into the memory of the process, also in the kernel.
    pub user: bool,
}

/// How a value is read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProbeForm {
    /// A number of so many bytes: 1, 2, 4 or 8.
    Unsigned {
        /// Its size.
        bytes: u8,
    },
    /// The same with a sign.
    Signed {
        /// Its size.
        bytes: u8,
    },
    /// The same, written as `0x…`.
    Hexadecimal {
        /// Its size.
        bytes: u8,
    },
    /// The text behind a pointer, up to its NUL.
    String {
        /// Whether it is in the memory of the process, also in the kernel.
        user: bool,
    },
}

/// Why a text is no [`ProbeArgument`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ProbeArgumentError {
    /// It begins with something else than a place.
    #[error(
        "`{place}` is no place: write `arg0` to `arg5`, `ret`, `$arg1` to `$arg6`, `$retval`, `%di` or such, or `+8(arg0)`"
    )]
    Place {
        /// What stands there.
        place: String,
    },
    /// It ends with something else than a form.
    #[error("`{form}` is no type: write `u8` to `u64`, `s8` to `s64`, `x8` to `x64`, `string` or `ustring`")]
    Form {
        /// What stands there.
        form: String,
    },
    /// A step is not `+OFFSET(…)`.
    #[error(
        "`{step}` is no step to what is behind a pointer: write `+8(arg0)`, or `+u8(arg0)` for memory of the process"
    )]
    Step {
        /// What stands there.
        step: String,
    },
    /// There are too many steps.
    #[error("more than {MAX_PROBE_STEPS} pointers to follow")]
    Steps,
}

impl FromStr for ProbeArgument {
    type Err = ProbeArgumentError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (mut rest, form) = match text.rsplit_once(':') {
            Some((rest, form)) => {
                (rest, ProbeForm::parse(form).ok_or_else(|| ProbeArgumentError::Form { form: form.to_owned() })?)
            }
            None => (text, ProbeForm::Unsigned { bytes: 8 }),
        };
        let mut steps = Vec::new();
        while rest.starts_with(['+', '-']) {
            let (step, inner) = ProbeStep::split(rest)?;
            if steps.len() == MAX_PROBE_STEPS {
                return Err(ProbeArgumentError::Steps);
            }
            // The innermost is taken first.
            steps.insert(0, step);
            rest = inner;
        }
        let place = ProbePlace::parse(rest).ok_or_else(|| ProbeArgumentError::Place { place: rest.to_owned() })?;
        Ok(Self { place, steps, form })
    }
}

impl ProbePlace {
    fn parse(text: &str) -> Option<Self> {
        if matches!(text, "ret" | "$retval") {
            return Some(Self::Return);
        }
        if let Some(register) = text.strip_prefix('%') {
            let found = REGISTERS.iter().find_map(|names| names.iter().position(|name| *name == register));
            return found.map(|index| Self::Argument(index as u8));
        }
        // The kernel counts from one.
        let number = match (text.strip_prefix("$arg"), text.strip_prefix("arg")) {
            (Some(number), _) => digit(number)?.checked_sub(1)?,
            (None, number) => digit(number?)?,
        };
        (number < REGISTER_ARGUMENTS).then_some(Self::Argument(number))
    }
}

fn digit(text: &str) -> Option<u8> {
    match text.as_bytes() {
        [digit @ b'0'..=b'9'] => Some(digit - b'0'),
        _ => None,
    }
}

impl ProbeStep {
    /// `+8(rest)` as the step and `rest`.
    fn split(text: &str) -> Result<(Self, &str), ProbeArgumentError> {
        let wrong = || ProbeArgumentError::Step { step: text.to_owned() };
        let (offset, inner) = text.strip_suffix(')').and_then(|text| text.split_once('(')).ok_or_else(wrong)?;
        let (sign, digits) = offset.split_at(1);
        let (user, digits) = match digits.strip_prefix('u') {
            Some(digits) => (true, digits),
            None => (false, digits),
        };
        let (radix, digits) = match digits.strip_prefix("0x") {
            Some(digits) => (16, digits),
            None => (10, digits),
        };
        if !digits.starts_with(|first: char| first.is_digit(radix)) {
            return Err(wrong());
        }
        let offset = i32::from_str_radix(digits, radix).map_err(|_| wrong())?;
        Ok((Self { offset: if sign == "-" { -offset } else { offset }, user }, inner))
    }
}

impl ProbeForm {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "string" => return Some(Self::String { user: false }),
            "ustring" => return Some(Self::String { user: true }),
            _ => {}
        }
        let (kind, bits) = text.split_at_checked(1)?;
        let bytes = match bits {
            "8" => 1,
            "16" => 2,
            "32" => 4,
            "64" => 8,
            _ => return None,
        };
        match kind {
            "u" => Some(Self::Unsigned { bytes }),
            "s" => Some(Self::Signed { bytes }),
            "x" => Some(Self::Hexadecimal { bytes }),
            _ => None,
        }
    }
}

impl fmt::Display for ProbeArgument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in self.steps.iter().rev() {
            let user = if step.user { "u" } else { "" };
            let sign = if step.offset < 0 { '-' } else { '+' };
            write!(f, "{sign}{user}{}(", step.offset.unsigned_abs())?;
        }
        match self.place {
            ProbePlace::Argument(number) => write!(f, "arg{number}")?,
            ProbePlace::Return => f.write_str("ret")?,
        }
        for _ in &self.steps {
            f.write_str(")")?;
        }
        let bits = |bytes: u8| u32::from(bytes) * 8;
        match self.form {
            ProbeForm::Unsigned { bytes } => write!(f, ":u{}", bits(bytes)),
            ProbeForm::Signed { bytes } => write!(f, ":s{}", bits(bytes)),
            ProbeForm::Hexadecimal { bytes } => write!(f, ":x{}", bits(bytes)),
            ProbeForm::String { user } => f.write_str(if user { ":ustring" } else { ":string" }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str) -> String {
        match text.parse::<ProbeArgument>() {
            Ok(argument) => argument.to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn both_ways_to_write_places() {
        for (text, same) in [
            ("arg0", "arg0:u64"),
            ("$arg1", "arg0:u64"),
            ("%di:s32", "arg0:s32"),
            ("%x5", "arg5:u64"),
            ("ret", "ret:u64"),
            ("$retval:s64", "ret:s64"),
            ("arg1:string", "arg1:string"),
            ("+4(%di):u32", "+4(arg0):u32"),
            ("+0(+0x10($arg2)):ustring", "+0(+16(arg1)):ustring"),
            ("-u8(arg5):x8", "-u8(arg5):x8"),
        ] {
            assert_eq!(shown(text), same);
        }
    }

    #[test]
    fn what_is_meant_by_nothing_is_refused() {
        for text in ["", "1", "arg6", "$arg0", "$arg7", "arg", "arg00", "%ax", "%", "stack", "arg0:", "+4(arg0"] {
            assert!(text.parse::<ProbeArgument>().is_err(), "{text}");
        }
        for text in ["arg0:u7", "arg0:é8", "+(arg0)", "++4(arg0)", "+u(arg0)", "+99999999999(arg0)", "+4()", "+é(arg0)"]
        {
            assert!(text.parse::<ProbeArgument>().is_err(), "{text}");
        }
        assert!(shown("rdi").starts_with("`rdi` is no place: write `arg0` to"));
        assert!(shown("arg0:int").starts_with("`int` is no type"));
        assert_eq!(shown("+1(+1(+1(+1(arg0))))"), "more than 3 pointers to follow");
    }

    proptest! {
        #[test]
        fn any_text_is_an_argument_or_an_error(text in "[-+$%()a-z0-9:]{0,24}|.{0,12}") {
            if let Ok(argument) = text.parse::<ProbeArgument>() {
                prop_assert_eq!(argument.to_string().parse::<ProbeArgument>(), Ok(argument));
            }
        }
    }
}

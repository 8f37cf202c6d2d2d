//! Exit statuses: 0 done, 1 the answer is "no", 2 it could not run.

use std::io::{self, Write};
use std::process::ExitCode;

use sls_core::{BoxError, Code, Diagnostics};

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Done, or yes.
    Yes,
    /// No: an invalid policy, a failed test.
    No,
}

/// Policies that could not be used; they are already explained on standard error.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnusablePolicies {
    /// They were read, and they are wrong.
    #[error("the policies are invalid")]
    Invalid,
    /// One of the files could not be read.
    #[error("the policies could not be read")]
    Unreadable,
}

impl UnusablePolicies {
    /// Explains them on standard error.
    pub(crate) fn shown(diagnostics: &Diagnostics) -> Self {
        show(diagnostics);
        Self::of(diagnostics)
    }

    /// Which of both it is.
    pub(crate) fn of(diagnostics: &Diagnostics) -> Self {
        let unreadable = diagnostics.as_slice().iter().any(|diagnostic| diagnostic.code == Code::Unreadable);
        if unreadable { Self::Unreadable } else { Self::Invalid }
    }
}

/// The exit status of a result, with the error on standard error. A reader that went away is no failure.
pub(crate) fn exit_code(result: anyhow::Result<Answer>) -> ExitCode {
    match result {
        Ok(Answer::Yes) => ExitCode::SUCCESS,
        Ok(Answer::No) => ExitCode::from(1),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => match error.downcast_ref() {
            Some(UnusablePolicies::Invalid) => ExitCode::from(1),
            Some(UnusablePolicies::Unreadable) => ExitCode::from(2),
            None => {
                say(&format!("{error:#}"));
                ExitCode::from(2)
            }
        },
    }
}

/// Says something on standard error, or to nobody if that is closed: no reason to stop.
pub(crate) fn say(message: &str) {
    let _ = writeln!(anstream::stderr(), "sls: {message}");
}

/// Whether it is that whoever read what we write has gone.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    // What came in a box is behind another type in the chain.
    let boxed = error.downcast_ref::<BoxError>().and_then(|boxed| boxed.downcast_ref::<io::Error>());
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).chain(boxed);
    causes.any(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Shows diagnostics on standard error, coloured on a terminal.
pub(crate) fn show(diagnostics: &Diagnostics) {
    // In one piece, and to nobody if standard error is closed: no reason to stop.
    let _ = anstream::stderr().write_all(format!("{}\n\n", diagnostics.render(true)).as_bytes());
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn a_broken_pipe_is_known_in_every_wrapping() {
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(is_broken_pipe(&broken().into()));
        assert!(is_broken_pipe(&Err::<(), _>(broken()).context("writing").unwrap_err()));
        assert!(is_broken_pipe(&anyhow::Error::from_boxed(broken().into())));
        let emitted = anyhow::Error::from(broken()).reallocate_into_boxed_dyn_error_without_backtrace();
        assert!(is_broken_pipe(&anyhow::Error::from_boxed(emitted)));
        assert!(!is_broken_pipe(&io::Error::from(io::ErrorKind::StorageFull).into()));
    }
}

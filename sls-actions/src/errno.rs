//! The words for a kernel error, as alerts carry them.

use std::io;

use rustix::io::Errno;

/// What a process that cannot be found is called; the same words as the kernel error of that name.
pub(crate) const NO_SUCH_PROCESS: &str = "no such process";

/// The C library's text for `errno` in lower case, such as `operation not permitted`.
pub(crate) fn text(errno: Errno) -> String {
    io_text(&io::Error::from(errno))
}

/// The same for an error of the standard library, which adds the number to the text.
pub(crate) fn io_text(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_alerts() {
        assert_eq!(text(Errno::SRCH), NO_SUCH_PROCESS);
        assert_eq!(text(Errno::PERM), "operation not permitted");
        assert_eq!(text(Errno::MFILE), "too many open files");
        assert_eq!(io_text(&io::Error::other("no number here")), "no number here");
    }
}

//! What libbpf prints, kept for the error that it belongs to.

use std::cell::RefCell;
use std::sync::{Mutex, PoisonError};

use libbpf_rs::{ErrorKind, PrintCallback, PrintLevel, set_print};
use nix::sys::signal::{SigSet, SigmaskHow};

use crate::error::MAX_LOG_BYTES;

/// How often programs are loaded again when the kernel was interrupted.
const LOAD_RETRIES: usize = 16;

thread_local! {
    /// libbpf prints in the thread that called it.
    static LOG: RefCell<String> = const { RefCell::new(String::new()) };
}

/// libbpf has one printing function for the whole process. The first who needs it sets it, the last puts back what was there.
static PRINTING: Mutex<Printing> = Mutex::new(Printing { users: 0, before: None });

struct Printing {
    users: usize,
    before: Option<(PrintLevel, PrintCallback)>,
}

struct Printer;

impl Printer {
    fn new() -> Self {
        let mut printing = PRINTING.lock().unwrap_or_else(PoisonError::into_inner);
        if printing.users == 0 {
            printing.before = set_print(Some((PrintLevel::Info, keep)));
        }
        printing.users += 1;
        Self
    }
}

impl Drop for Printer {
    fn drop(&mut self) {
        let mut printing = PRINTING.lock().unwrap_or_else(PoisonError::into_inner);
        printing.users -= 1;
        if printing.users == 0 {
            set_print(printing.before.take());
        }
    }
}

/// Loads an object as `load` does. The verifier gives up when a signal is pending, and libbpf tries again a few times only: so
/// signals wait meanwhile, or go to other threads. What the kernel interrupts all the same is loaded again.
pub(crate) fn loaded<T>(load: impl Fn() -> libbpf_rs::Result<T>) -> Result<T, (libbpf_rs::Error, String)> {
    let _quiet = Quiet::new();
    let mut result = with_log(&load);
    for _ in 0..LOAD_RETRIES {
        match result {
            Err((ref error, _)) if error.kind() == ErrorKind::WouldBlock => result = with_log(&load),
            _ => break,
        }
    }
    result
}

/// As long as it is there, this thread gets no signal. Without it, whoever starts many programs beside, whose ends are signals, may
/// never get a large program verified.
struct Quiet(Option<SigSet>);

impl Quiet {
    fn new() -> Self {
        Self(SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK).ok())
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // Fails only with a wrong number of what to do.
            let _ = before.thread_set_mask();
        }
    }
}

/// Runs `load` and returns what libbpf printed along with an error, instead of having it on standard error.
pub(crate) fn with_log<T>(load: impl FnOnce() -> libbpf_rs::Result<T>) -> Result<T, (libbpf_rs::Error, String)> {
    let printer = Printer::new();
    let result = load();
    drop(printer);
    let mut log = LOG.take();
    trim(&mut log);
    result.map_err(|error| (error, log))
}

fn keep(_level: PrintLevel, text: String) {
    LOG.with_borrow_mut(|log| {
        log.push_str(&text);
        if log.len() > 4 * MAX_LOG_BYTES {
            trim(log);
        }
    });
}

fn trim(log: &mut String) {
    let mut from = log.len().saturating_sub(MAX_LOG_BYTES);
    while !log.is_char_boundary(from) {
        from += 1;
    }
    log.drain(..from);
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use libbpf_rs::ObjectBuilder;
    use nix::sys::signal::Signal;

    use super::*;

    #[test]
    fn log_keeps_its_end() {
        let mut log = "é".repeat(MAX_LOG_BYTES) + "end";
        trim(&mut log);
        assert!(log.len() <= MAX_LOG_BYTES && log.ends_with("éend"));
    }

    #[test]
    fn no_signal_interrupts_a_load() {
        let blocked = || SigSet::thread_get_mask().unwrap().contains(Signal::SIGCHLD);
        assert!(!blocked());
        assert!(loaded(|| Ok(blocked())).unwrap());
        assert!(!blocked());
    }

    #[test]
    fn each_thread_has_the_log_of_its_own_error() {
        let together = Barrier::new(2);
        let names = ["first-object", "second-object"];
        thread::scope(|scope| {
            for (name, other) in [(names[0], names[1]), (names[1], names[0])] {
                let together = &together;
                scope.spawn(move || {
                    let open = || {
                        together.wait();
                        let result = ObjectBuilder::default().name(name)?.open_memory(b"this is no object");
                        together.wait();
                        result
                    };
                    let (_, log) = with_log(open).map(drop).unwrap_err();
                    assert!(log.contains(name) && !log.contains(other), "{log}");
                });
            }
        });
    }
}

//! What raises a policy's events, beside their kind: the type with its own keys.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::bytes::file_name;
use crate::event::{Event, EventKind, Value};
use crate::policy::{Policy, PolicyType};
use crate::schema::{Field, FieldSet};
use crate::truth::Truth;

/// The keys that only some policy types have, as checked values.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum TypeOptions {
    /// The type has none.
    None,
    /// Of `file`.
    File {
        /// How long a file is not reported again; zero reports it each time. Policies that act respond each time.
        timeout: Duration,
    },
    /// Of `newFileExec`.
    NewFileExec {
        /// How long a file is new after it was created or modified.
        file_timeout: Duration,
    },
    /// Of `chmod`.
    Chmod {
        /// The chosen mode bits, of which one has to be set in the new mode.
        bits: u16,
    },
    /// Of `segfault`.
    Segfault {
        /// How many crashes of one program are tolerated in `duration`.
        tolerance: u32,
        /// The window.
        duration: Duration,
    },
    /// Of `selinux`.
    Selinux {
        /// The key `default`, which is kept and has no effect.
        default: bool,
    },
    /// Of `kernelPayload`.
    KernelPayload {
        /// Whether the host has so much memory that user addresses may look like the kernel's.
        extra_large_memory_systems: bool,
    },
    /// Of `kprobe` and `uprobe`.
    Probe {
        /// The function that the probe is on.
        symbol: String,
        /// The executable or library; always there for `uprobe`.
        executable: Option<String>,
        /// Where the probe's arguments are, by name.
        arguments: BTreeMap<String, String>,
    },
}

/// Whether events of `kind` can raise policies of type `policy_type`.
#[must_use]
pub fn raises(policy_type: PolicyType, kind: EventKind) -> bool {
    use EventKind as E;
    use PolicyType as P;
    match policy_type {
        P::Program | P::NewFileExec | P::InteractiveShell => kind == E::Exec,
        P::File | P::FileMonitor | P::Chmod => kind == E::File,
        P::Connect => kind == E::Connect,
        P::NetworkService => matches!(kind, E::Accept | E::Listen),
        P::Ptrace => kind == E::Ptrace,
        P::MemoryProtection => kind == E::Memory,
        P::Segfault => kind == E::Crash,
        P::PrivilegeEscalation => kind == E::Credentials,
        P::KernelModule => kind == E::Module,
        P::Userfaultfd => kind == E::Userfaultfd,
        P::Container => kind == E::Container,
        P::Selinux | P::KernelPayload | P::SmepSmap => kind == E::Security,
        P::Kprobe | P::Uprobe => kind == E::Probe,
    }
}

impl Policy {
    /// Whether `event` raises the policy, before any rule is looked at. [`Truth::Unknown`] if that depends on a field
    /// whose value is not known.
    #[must_use]
    pub fn is_raised_by(&self, event: &Event) -> Truth {
        self.trigger(event, &mut FieldSet::default())
    }

    /// The same; the fields that an unknown answer depends on are added to `unknown`.
    pub(crate) fn trigger(&self, event: &Event, unknown: &mut FieldSet) -> Truth {
        if !raises(self.policy_type, event.kind) {
            return Truth::False;
        }
        let mut check = Check { event, unknown };
        match (self.policy_type, &self.options) {
            (PolicyType::File, _) => {
                let truth = check.is_one_of(Field::FileOperation, CREATIONS);
                // What was created is the new name.
                let old_name = !event.is_under_new_name() && event.value(Field::NewFilePath) != Value::Absent;
                if old_name { Truth::False } else { truth }
            }
            (PolicyType::FileMonitor, _) => !check.is_one_of(Field::FileOperation, &["OPEN_READ"]),
            (_, TypeOptions::NewFileExec { file_timeout }) => {
                check.number(Field::FileAge, |age| age <= file_timeout.as_secs())
            }
            (_, TypeOptions::Chmod { bits }) => check
                .is_one_of(Field::FileOperation, MODE_CHANGES)
                .and(check.number(Field::FileMode, |mode| mode & u64::from(*bits) != 0)),
            (PolicyType::InteractiveShell, _) => check.interactive_shell(),
            (PolicyType::Selinux, _) => check.is_one_of(Field::SecurityChange, SELINUX_CHANGES),
            (PolicyType::SmepSmap, _) => check.is_one_of(Field::SecurityChange, PROCESSOR_CHANGES),
            (PolicyType::KernelPayload, _) => check.is_one_of(Field::SecurityChange, PAYLOADS),
            (_, TypeOptions::Probe { symbol, executable, .. }) => {
                let on_executable = match executable {
                    Some(executable) => check.is_one_of(Field::ProbeExecutable, &[executable]),
                    // A kernel probe's event has no executable, a program's may be on a function of the same name.
                    None => check.has_none(Field::ProbeExecutable),
                };
                check.is_one_of(Field::ProbeSymbol, &[symbol]).and(on_executable)
            }
            _ => Truth::True,
        }
    }
}

impl Policy {
    /// A field and texts of which it has one in every event that raises the policy; of a path, as its file name. None if
    /// that depends on no text.
    pub(crate) fn trigger_texts(&self) -> Option<(Field, Vec<Vec<u8>>)> {
        let names = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect();
        match (self.policy_type, &self.options) {
            (PolicyType::File, _) => Some((Field::FileOperation, names(CREATIONS))),
            (PolicyType::Chmod, _) => Some((Field::FileOperation, names(MODE_CHANGES))),
            (PolicyType::Selinux, _) => Some((Field::SecurityChange, names(SELINUX_CHANGES))),
            (PolicyType::SmepSmap, _) => Some((Field::SecurityChange, names(PROCESSOR_CHANGES))),
            (PolicyType::KernelPayload, _) => Some((Field::SecurityChange, names(PAYLOADS))),
            (PolicyType::InteractiveShell, _) => {
                let programs = SHELLS.iter().copied().chain([BUSYBOX]);
                Some((Field::ProgramName, programs.map(<[u8]>::to_vec).collect()))
            }
            (_, TypeOptions::Probe { symbol, .. }) => Some((Field::ProbeSymbol, names(&[symbol]))),
            _ => None,
        }
    }
}

/// Operations that give a file a name or new content.
const CREATIONS: &[&str] = &["CREATE", "OPEN_WRITE", "RENAME", "LINK", "SYMLINK"];

const MODE_CHANGES: &[&str] = &["CHMOD"];

const SELINUX_CHANGES: &[&str] = &["SELINUX_DISABLED", "SELINUX_PERMISSIVE", "SELINUX_POLICY_LOADED"];

const PROCESSOR_CHANGES: &[&str] = &["SMEP_DISABLED", "SMAP_DISABLED", "WRITE_PROTECT_DISABLED"];

const PAYLOADS: &[&str] = &["KERNEL_PAYLOAD"];

/// It is every shell.
const BUSYBOX: &[u8] = b"busybox";

/// Programs that are interactive command interpreters when they are started without a command or script. Busybox counts
/// when it is called by one of these names.
const SHELLS: &[&[u8]] =
    &[b"sh", b"bash", b"dash", b"rbash", b"zsh", b"ksh", b"ksh93", b"mksh", b"csh", b"tcsh", b"fish", b"ash"];

/// Options of shells that are followed by a value.
const WITH_VALUE: &[&[u8]] = &[b"--rcfile", b"--init-file", b"-o", b"+o", b"-O", b"+O", b"-C", b"--init-command"];

struct Check<'a> {
    event: &'a Event,
    unknown: &'a mut FieldSet,
}

impl Check<'_> {
    /// Without a value it is none of them.
    fn is_one_of(&mut self, field: Field, texts: &[&str]) -> Truth {
        match self.event.value(field) {
            Value::Text { bytes, truncated: false } => texts.iter().any(|text| text.as_bytes() == bytes).into(),
            Value::Absent => Truth::False,
            _ => self.in_doubt(field),
        }
    }

    fn has_none(&mut self, field: Field) -> Truth {
        match self.event.value(field) {
            Value::Absent => Truth::True,
            Value::Unknown => self.in_doubt(field),
            _ => Truth::False,
        }
    }

    fn number(&mut self, field: Field, test: impl Fn(u64) -> bool) -> Truth {
        match self.event.value(field) {
            Value::Number(number) => test(number).into(),
            Value::Absent => Truth::False,
            _ => self.in_doubt(field),
        }
    }

    fn in_doubt(&mut self, field: Field) -> Truth {
        self.unknown.insert(field);
        Truth::Unknown
    }

    /// A shell, told to take its commands from a terminal or a socket.
    fn interactive_shell(&mut self) -> Truth {
        let shell = self.is_shell();
        if shell == Truth::False {
            return shell;
        }
        let input = self.has_interactive_input();
        if input == Truth::False {
            return input;
        }
        shell.and(input).and(self.takes_commands_from_input())
    }

    fn is_shell(&mut self) -> Truth {
        // A path that was cut keeps its end, but perhaps not a whole component of it.
        let program = match self.event.value(Field::ProgramName) {
            Value::Text { bytes, truncated } if !truncated || bytes.contains(&b'/') => file_name(bytes),
            Value::Absent => return Truth::False,
            _ => return self.in_doubt(Field::ProgramName),
        };
        if program != BUSYBOX {
            return SHELLS.contains(&program).into();
        }
        match self.event.arguments().next() {
            // A login shell's name begins with a dash.
            Some(name) => SHELLS.contains(&file_name(name.strip_prefix(b"-").unwrap_or(name))).into(),
            None if self.event.value(Field::ProgramArguments) == Value::Unknown => {
                self.in_doubt(Field::ProgramArguments)
            }
            None => Truth::False,
        }
    }

    fn has_interactive_input(&mut self) -> Truth {
        match self.event.value(Field::StandardInput) {
            Value::Text { bytes, .. } => matches!(bytes, b"TERMINAL" | b"SOCKET").into(),
            // The next best sign.
            Value::Absent => (!self.event.text(Field::Terminal).is_empty()).into(),
            _ => self.in_doubt(Field::StandardInput),
        }
    }

    fn takes_commands_from_input(&mut self) -> Truth {
        if self.event.value(Field::ProgramArguments) == Value::Unknown {
            return self.in_doubt(Field::ProgramArguments);
        }
        let truncated = self.event.truncated().contains(Field::ProgramArguments);
        let mut arguments = self.event.arguments().skip(1).peekable();
        while let Some(argument) = arguments.next() {
            // The last argument may have been cut, and so may what follows it.
            if truncated && arguments.peek().is_none() {
                return self.in_doubt(Field::ProgramArguments);
            }
            match argument {
                b"-" | b"--" => return arguments.next().is_none().into(),
                b"--version" | b"--help" | b"--command" => return Truth::False,
                _ if WITH_VALUE.contains(&argument) => {
                    arguments.next();
                }
                [b'-', b'-', ..] | [b'+', ..] => {}
                [b'-', flags @ ..] if flags.contains(&b'c') => return Truth::False,
                [b'-', flags @ ..] if flags.contains(&b's') => return Truth::True,
                [b'-', ..] => {}
                // A script.
                _ => return Truth::False,
            }
        }
        Truth::True
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interactive(arguments: &[&str], prepare: impl Fn(&mut Event)) -> Truth {
        let mut event = Event::new(EventKind::Exec);
        event.set_text(Field::ProgramName, b"/usr/bin/bash").set_text(Field::StandardInput, b"TERMINAL");
        event.set_arguments(arguments.iter().map(|argument| argument.as_bytes()));
        prepare(&mut event);
        Check { event: &event, unknown: &mut FieldSet::default() }.interactive_shell()
    }

    #[test]
    fn shells_that_wait_for_commands_are_interactive() {
        for arguments in [
            &["bash"][..],
            &["-bash"],
            &["bash", "-i"],
            &["bash", "--login", "--rcfile", "/dev/null"],
            &["bash", "-o", "vi"],
            &["bash", "-s", "argument"],
            &["bash", "-"],
            &[],
        ] {
            assert_eq!(interactive(arguments, |_| ()), Truth::True, "{arguments:?}");
        }
        for arguments in [
            &["bash", "-c", "id"][..],
            &["bash", "-lc", "id"],
            &["sh", "x.sh"],
            &["sh", "--", "x"],
            &["sh", "--version"],
        ] {
            assert_eq!(interactive(arguments, |_| ()), Truth::False, "{arguments:?}");
        }
    }

    #[test]
    fn input_and_program_decide_too() {
        let input = |input: &'static [u8]| {
            move |event: &mut Event| {
                event.set_text(Field::StandardInput, input);
            }
        };
        assert_eq!(interactive(&["sh"], input(b"SOCKET")), Truth::True);
        assert_eq!(interactive(&["sh"], input(b"PIPE")), Truth::False);
        let unknown = |event: &mut Event| {
            event.mark_unknown(Field::StandardInput);
        };
        assert_eq!(interactive(&["sh"], unknown), Truth::Unknown);
        assert_eq!(interactive(&["sh", "-c", "id"], unknown), Truth::False);
        let program = |name: &'static [u8]| {
            move |event: &mut Event| {
                event.set_text(Field::ProgramName, name);
            }
        };
        assert_eq!(interactive(&["python3"], program(b"/usr/bin/python3")), Truth::False);
        assert_eq!(interactive(&["-sh"], program(b"/bin/busybox")), Truth::True);
        assert_eq!(interactive(&["ls"], program(b"/bin/busybox")), Truth::False);
        let terminal = |event: &mut Event| {
            event.clear(Field::StandardInput).set_text(Field::Terminal, b"pts/0");
        };
        assert_eq!(interactive(&["sh"], terminal), Truth::True);
        let cut = |event: &mut Event| {
            event.mark_truncated(Field::ProgramArguments);
        };
        assert_eq!(interactive(&["bash", "-l"], cut), Truth::Unknown);
    }
}

//! Probes of the user's own: loading them, and what they tell.

use std::fmt;
use std::io::Write;

use libbpf_rs::{ErrorKind, Link, Object, ObjectBuilder, UprobeOpts};
use sls_core::{Event, Field, MAX_PROBE_ARGUMENTS, MAX_PROBE_STEPS, ProbeArgument, ProbeForm, ProbePlace, ProbePoint};

use crate::builder::ProbeBuilder;
use crate::error::ProbeError;
use crate::kernel;
use crate::loader::{self, Aligned, SharedMaps, with_log};
use crate::record;

/// The most functions that can be probed at once.
pub const MAX_PROBES: usize = 64;

/// The longest text that a probe fetches, in bytes; what is longer is cut.
pub const MAX_PROBE_TEXT_BYTES: usize = TEXT_BYTES - 1;

static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!("../bpf/probe.bpf.o"));

// Of bpf/probe.bpf.c.
const PROBE: &str = ".rodata.probe";
const PROGRAM: &str = "on_probe";
const TEXT_BYTES: usize = 256;
const TEXTS_AT: usize = 8 + 8 * MAX_PROBE_ARGUMENTS;
const PLACE_RETURN: u8 = 6;
const FORM_NUMBER: u8 = 0;
const FORM_KERNEL_TEXT: u8 = 1;
const FORM_USER_TEXT: u8 = 2;

/// The probes that are in the kernel.
#[derive(Debug, Default)]
pub(crate) struct Points {
    points: Vec<Point>,
    /// None is given twice: records of a probe that is gone are not taken for another's.
    next_id: u32,
    /// The arguments of the event under way.
    text: Vec<u8>,
}

/// One of them. Dropping it detaches it.
#[derive(Debug)]
pub(crate) struct Point {
    link: Option<Link>,
    object: Object,
    id: u32,
    wanted: ProbePoint,
    fetches: Vec<Fetch>,
}

#[derive(Debug)]
struct Fetch {
    name: String,
    form: ProbeForm,
    /// Where its text is in the detail.
    text_at: Option<usize>,
    /// It was in memory that the process can change.
    untrusted: bool,
    /// `struct fetch`.
    bytes: [u8; 24],
}

impl Points {
    /// Loads and attaches the probes of `settings` that are not there yet; [`Points::replace`] makes them the current
    /// ones. What is there is not touched.
    pub(crate) fn prepare(&mut self, settings: &ProbeBuilder, shared: &SharedMaps) -> Result<Vec<Point>, ProbeError> {
        let wanted = settings.interest.probes();
        check(wanted, settings)?;
        let new = wanted.iter().filter(|wanted| !self.points.iter().any(|point| point.wanted.gives_same_as(wanted)));
        new.map(|wanted| {
            self.next_id += 1;
            Point::load(wanted, self.next_id, settings, shared)
        })
        .collect()
    }

    /// Takes the `prepared` ones, and lets those go that `settings` does not name.
    pub(crate) fn replace(&mut self, prepared: Vec<Point>, settings: &ProbeBuilder) {
        let wanted = settings.interest.probes();
        self.points.retain(|point| wanted.iter().any(|wanted| point.wanted.gives_same_as(wanted)));
        self.points.extend(prepared);
    }

    /// The objects of the probes.
    pub(crate) fn objects(&self) -> impl Iterator<Item = &Object> {
        self.points.iter().map(|point| &point.object)
    }

    /// What attaches them.
    pub(crate) fn links(&self) -> impl Iterator<Item = &Link> {
        self.points.iter().filter_map(|point| point.link.as_ref())
    }

    /// Attaches what is not attached.
    pub(crate) fn attach(&mut self) -> Result<(), ProbeError> {
        self.points.iter_mut().try_for_each(Point::attach)
    }

    /// Says in `event` what the record of a probe tells. No if the probe is gone, and so is who wanted it.
    pub(crate) fn fill(&mut self, record: &[u8], event: &mut Event) -> bool {
        let detail = record::detail(record);
        let number = |at: usize| detail.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
        // `struct probe_detail`: two numbers of 32 bits.
        let Some(head) = number(0) else { return false };
        let (id, unreadable) = (head as u32, head >> 32);
        let Some(point) = self.points.iter().find(|point| point.id == id) else { return false };
        event.set_text(Field::ProbeSymbol, point.wanted.symbol.as_bytes());
        if let Some(executable) = &point.wanted.executable {
            event.set_text(Field::ProbeExecutable, executable.as_bytes());
        }
        self.text.clear();
        let (mut cut, mut untrusted) = (false, false);
        for (index, fetch) in point.fetches.iter().enumerate() {
            let separator = if index == 0 { "" } else { " " };
            // Writing to memory does not fail.
            let _ = write!(self.text, "{separator}{}=", fetch.name);
            untrusted |= fetch.untrusted;
            match number(8 + 8 * index) {
                Some(value) if unreadable & (1 << index) == 0 => cut |= fetch.write(value, detail, &mut self.text),
                _ => cut = true,
            }
        }
        event.set_text(Field::ProbeArguments, &self.text);
        if cut {
            event.mark_truncated(Field::ProbeArguments);
        }
        if untrusted {
            event.mark_untrusted(Field::ProbeArguments);
        }
        true
    }
}

/// What can be said of them without the kernel.
fn check(wanted: &[ProbePoint], settings: &ProbeBuilder) -> Result<(), ProbeError> {
    let Some(first) = wanted.first() else { return Ok(()) };
    if !settings.unsafe_probes {
        return Err(refused(first, "this sensor does not allow probes of the user's own".to_owned()));
    }
    if let Some(over) = wanted.get(MAX_PROBES) {
        return Err(refused(over, format!("there are {} probes: the limit is {MAX_PROBES}", wanted.len())));
    }
    for (index, point) in wanted.iter().enumerate() {
        // An event raises every policy with the probe's function: it has to have what all of them fetch.
        if let Some(other) = wanted[..index].iter().find(|other| other.has_place_of(point)) {
            let reason = format!("the policy \"{}\" fetches other arguments there: make them the same", other.policy);
            return Err(refused(point, reason));
        }
    }
    Ok(())
}

fn refused(point: &ProbePoint, reason: String) -> ProbeError {
    let executable = point.executable.as_ref().map(|executable| format!(" in {executable}")).unwrap_or_default();
    ProbeError::UserProbe { policy: point.policy.to_string(), probe: format!("{}{executable}", point.symbol), reason }
}

impl Point {
    fn load(wanted: &ProbePoint, id: u32, settings: &ProbeBuilder, shared: &SharedMaps) -> Result<Self, ProbeError> {
        let fetches = fetches(wanted).map_err(|reason| refused(wanted, reason))?;
        let constants = constants(id, &fetches);
        let loaded = loader::loaded(|| {
            let mut open = ObjectBuilder::default().open_memory(&OBJECT.0)?;
            loader::configure(&mut open, settings, shared)?;
            kernel::set_self(&mut open)?;
            loader::set_constant(&mut open, PROBE, &constants)?;
            open.load()
        });
        let object = loaded.map_err(|(source, log)| ProbeError::Load { object: "probe", source, log })?;
        Ok(Self { link: None, object, id, wanted: wanted.clone(), fetches })
    }

    /// At the end of the function: what it returns is asked for.
    fn at_return(&self) -> bool {
        self.fetches.first().is_some_and(|fetch| fetch.bytes[0] == PLACE_RETURN)
    }

    pub(crate) fn attach(&mut self) -> Result<(), ProbeError> {
        if self.link.is_some() {
            return Ok(());
        }
        let program = self.object.progs_mut().find(|program| program.name() == PROGRAM);
        let program = program.ok_or(ProbeError::Object { what: "program", name: PROGRAM })?;
        let ProbePoint { symbol, executable, .. } = &self.wanted;
        let attached = match executable {
            None => with_log(|| program.attach_kprobe(self.at_return(), symbol)),
            Some(executable) if !executable.starts_with('/') => {
                return Err(refused(&self.wanted, "the path of the executable has to begin with `/`".to_owned()));
            }
            Some(executable) => {
                let at_return = self.at_return();
                let options =
                    UprobeOpts { retprobe: at_return, func_name: Some(symbol.clone()), ..UprobeOpts::default() };
                // Of every process.
                with_log(|| program.attach_uprobe_with_opts(-1, executable, 0, options))
            }
        };
        match attached {
            Ok(link) => {
                self.link = Some(link);
                Ok(())
            }
            Err((error, _)) => Err(refused(&self.wanted, self.why_not(&error))),
        }
    }

    fn why_not(&self, error: &libbpf_rs::Error) -> String {
        let Some(executable) = &self.wanted.executable else {
            return match error.kind() {
                _ if !kernel::has_kprobes() => kernel::NO_KPROBES.to_owned(),
                ErrorKind::NotFound => "the kernel has no such function, or none that can be probed".to_owned(),
                _ => format!("the function cannot be probed: {error}"),
            };
        };
        match std::fs::metadata(executable) {
            Err(error) => format!("the executable cannot be opened: {error}"),
            Ok(_) if !kernel::has_uprobes() => kernel::NO_UPROBES.to_owned(),
            Ok(_) if error.kind() == ErrorKind::NotFound => {
                "the executable has no such function in its symbols".to_owned()
            }
            Ok(_) => format!("the function cannot be probed: {error}"),
        }
    }
}

/// What to fetch, in the order of names.
fn fetches(wanted: &ProbePoint) -> Result<Vec<Fetch>, String> {
    if wanted.arguments.len() > MAX_PROBE_ARGUMENTS {
        return Err(format!("it has {} arguments: the limit is {MAX_PROBE_ARGUMENTS}", wanted.arguments.len()));
    }
    let mut texts = 0;
    let mut fetches = Vec::new();
    for (name, text) in &wanted.arguments {
        let argument = text.parse().map_err(|error| format!("the argument `{name}` cannot be fetched: {error}"))?;
        fetches.push(Fetch::new(name, &argument, wanted.executable.is_some(), &mut texts));
    }
    let at_return = fetches.iter().filter(|fetch| fetch.bytes[0] == PLACE_RETURN).count();
    if at_return != 0 && at_return != fetches.len() {
        return Err("what a function returns cannot be had together with its arguments".to_owned());
    }
    Ok(fetches)
}

/// `struct probe`.
fn constants(id: u32, fetches: &[Fetch]) -> Vec<u8> {
    let texts = fetches.iter().filter(|fetch| fetch.text_at.is_some()).count();
    let record_bytes = record::HEADER_BYTES + TEXTS_AT + TEXT_BYTES * texts;
    let mut bytes = Vec::new();
    for number in [id, record_bytes as u32, fetches.len() as u32, 0] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(fetches.iter().flat_map(|fetch| fetch.bytes));
    bytes.resize(16 + MAX_PROBE_ARGUMENTS * 24, 0);
    bytes
}

impl Fetch {
    /// `texts` counts those before it. In a user probe all memory is the process's.
    fn new(name: &str, argument: &ProbeArgument, in_user: bool, texts: &mut usize) -> Self {
        let mut bytes = [0; 24];
        bytes[0] = match argument.place {
            ProbePlace::Argument(number) => number,
            _ => PLACE_RETURN,
        };
        let steps = argument.steps.iter().take(MAX_PROBE_STEPS);
        bytes[3] = steps.len() as u8;
        let mut untrusted = false;
        for (index, step) in steps.enumerate() {
            let user = in_user || step.user;
            untrusted |= user;
            bytes[4 + index] = user.into();
            bytes[8 + 4 * index..12 + 4 * index].copy_from_slice(&step.offset.to_le_bytes());
        }
        let mut text_at = None;
        match argument.form {
            ProbeForm::Unsigned { bytes: size }
            | ProbeForm::Signed { bytes: size }
            | ProbeForm::Hexadecimal { bytes: size } => {
                bytes[1] = FORM_NUMBER;
                bytes[2] = size;
            }
            form => {
                let user = in_user
                    || form == ProbeForm::String { user: true }
                    || argument.steps.last().is_some_and(|step| step.user);
                untrusted |= user;
                bytes[1] = if user { FORM_USER_TEXT } else { FORM_KERNEL_TEXT };
                let at = TEXTS_AT + TEXT_BYTES * *texts;
                bytes[20..].copy_from_slice(&(at as u32).to_le_bytes());
                text_at = Some(at);
                *texts += 1;
            }
        }
        Self { name: name.to_owned(), form: argument.form, text_at, untrusted, bytes }
    }

    /// Writes the value; whether a part is missing.
    fn write(&self, value: u64, detail: &[u8], text: &mut Vec<u8>) -> bool {
        let unused = |size: u8| 64 - 8 * u32::from(size.clamp(1, 8));
        // Writing to memory does not fail.
        let _ = match self.form {
            ProbeForm::Unsigned { bytes } => write!(text, "{}", value << unused(bytes) >> unused(bytes)),
            ProbeForm::Signed { bytes } => write!(text, "{}", (value << unused(bytes)) as i64 >> unused(bytes)),
            ProbeForm::Hexadecimal { bytes } => write!(text, "{:#x}", value << unused(bytes) >> unused(bytes)),
            _ => {
                // With its NUL.
                let len = usize::try_from(value).unwrap_or(0).clamp(1, TEXT_BYTES) - 1;
                let found = self.text_at.and_then(|at| detail.get(at..at + len));
                quote(found.unwrap_or_default(), text);
                return found.is_none() || len == MAX_PROBE_TEXT_BYTES;
            }
        };
        false
    }
}

/// Writes `value` so that what stands behind it cannot be taken for a part of it, nor the other way round.
fn quote(value: &[u8], text: &mut Vec<u8>) {
    let plain = |byte: &u8| !byte.is_ascii_whitespace() && !byte.is_ascii_control() && !matches!(byte, b'"' | b'\\');
    if !value.is_empty() && value.iter().all(plain) {
        text.extend_from_slice(value);
        return;
    }
    text.push(b'"');
    for byte in value {
        if matches!(byte, b'"' | b'\\') {
            text.push(b'\\');
        }
        text.push(*byte);
    }
    text.push(b'"');
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.wanted.symbol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(form: &str, value: u64, text: &[u8]) -> (String, bool) {
        let fetch = Fetch::new("a", &form.parse().unwrap(), true, &mut 0);
        let mut detail = vec![0; TEXTS_AT];
        detail.extend(text);
        detail.resize(TEXTS_AT + TEXT_BYTES, 0);
        let mut out = Vec::new();
        let cut = fetch.write(value, &detail, &mut out);
        (String::from_utf8(out).unwrap(), cut)
    }

    #[test]
    fn values_are_as_wide_as_their_type() {
        let number = |form, value| written(form, value, b"").0;
        assert_eq!(number("arg0", u64::MAX), "18446744073709551615");
        assert_eq!(number("arg0:u32", 0xffff_ffff_0000_0007), "7");
        assert_eq!(number("arg0:s32", 0xffff_fffe), "-2");
        assert_eq!(number("arg0:s8", 0x17f), "127");
        assert_eq!(number("arg0:x16", 0x1_2345), "0x2345");
    }

    #[test]
    fn texts_cannot_pretend_to_be_more_arguments() {
        assert_eq!(written("arg0:string", 5, b"/etc"), ("/etc".to_owned(), false));
        assert_eq!(written("arg0:string", 6, b"x b=1"), ("\"x b=1\"".to_owned(), false));
        assert_eq!(written("arg0:string", 4, b"\"\\\n"), ("\"\\\"\\\\\n\"".to_owned(), false));
        assert_eq!(written("arg0:string", 1, b""), ("\"\"".to_owned(), false));
        let long = written("arg0:string", 256, &[b'x'; 256]);
        assert_eq!((long.0.len(), long.1), (255, true));
    }

    #[test]
    fn what_the_kernel_gets() {
        let point = ProbePoint::kernel("P", "f").argument("a", "+4(+8($arg2)):u32").argument("b", "arg0:ustring");
        let fetches = fetches(&point).unwrap();
        let bytes = constants(7, &fetches);
        assert_eq!(bytes.len(), 16 + 8 * 24);
        assert_eq!(bytes[..12], [7, 0, 0, 0, 224, 1, 0, 0, 2, 0, 0, 0]);
        assert_eq!(bytes[16..40], [1, 0, 4, 2, 0, 0, 0, 0, 8, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[40..44], [0, 2, 0, 0]);
        assert_eq!(bytes[60..64], [72, 0, 0, 0]);
        assert!(!fetches[0].untrusted && fetches[1].untrusted);
        let mixed = ProbePoint::kernel("P", "f").argument("a", "ret").argument("b", "arg0");
        assert!(super::fetches(&mixed).unwrap_err().contains("returns"));
    }
}

//! Where alerts go.

use std::fs::{self, File, OpenOptions};
use std::io::{Write, stdout};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Context;
use serde::{Deserialize, Deserializer};
use sls_core::{Alert, AlertSink, BoxError, MessageType};

use crate::args::Format;
use crate::exit::is_broken_pipe;
use crate::render;

/// An output, as the command line and the configuration name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OutputSpec {
    /// Standard output; without a format, for a person on a terminal and for a program elsewhere.
    Stdout(Option<Format>),
    /// JSON lines, appended to a file.
    File(PathBuf),
}

impl FromStr for OutputSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "stdout" => Ok(Self::Stdout(None)),
            Some(("stdout", "human")) => Ok(Self::Stdout(Some(Format::Human))),
            Some(("stdout", "json")) => Ok(Self::Stdout(Some(Format::Json))),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            _ => Err("expected `stdout`, `stdout:human`, `stdout:json` or `file:PATH`".to_owned()),
        }
    }
}

impl<'de> Deserialize<'de> for OutputSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// All outputs of a run. An alert that one of them does not take still goes to the others. Standard output is given up
/// when whoever read it has gone.
#[derive(Debug)]
pub(crate) struct Outputs {
    outputs: Vec<Output>,
    message_types: Vec<MessageType>,
}

#[derive(Debug)]
enum Output {
    Human,
    Json,
    File { path: PathBuf, file: File },
}

impl Outputs {
    /// Opens the outputs; standard output in `format` if there are none. They take the message types given, or the
    /// usual ones.
    pub(crate) fn open(specs: &[OutputSpec], format: Format, message_types: &[MessageType]) -> anyhow::Result<Self> {
        let default = [OutputSpec::Stdout(None)];
        let specs = if specs.is_empty() { &default[..] } else { specs };
        let outputs = specs.iter().map(|spec| Output::open(spec, format)).collect::<anyhow::Result<_>>()?;
        let message_types = if message_types.is_empty() { MessageType::DEFAULT } else { message_types };
        Ok(Self { outputs, message_types: message_types.to_vec() })
    }

    /// Whether nobody takes alerts any more.
    pub(crate) fn is_empty(&self) -> bool {
        self.outputs.is_empty()
    }
}

impl AlertSink for Outputs {
    fn emit(&mut self, alert: &Alert) -> Result<(), BoxError> {
        if !alert.message_type.is_some_and(|message_type| self.message_types.contains(&message_type)) {
            return Ok(());
        }
        let mut failed = None;
        self.outputs.retain_mut(|output| match output.write(alert) {
            Ok(()) => true,
            Err(error) => {
                let gone = output.is_stdout() && is_broken_pipe(&error);
                failed = Some(error);
                !gone
            }
        });
        // The way that keeps the cause, which decides about the exit status.
        failed.map_or(Ok(()), |error| Err(error.reallocate_into_boxed_dyn_error_without_backtrace()))
    }
}

impl Output {
    fn open(spec: &OutputSpec, format: Format) -> anyhow::Result<Self> {
        Ok(match spec {
            OutputSpec::Stdout(own) => match own.unwrap_or(format) {
                Format::Human => Self::Human,
                Format::Json => Self::Json,
            },
            OutputSpec::File(path) => Self::File { path: path.clone(), file: open_file(path)? },
        })
    }

    fn is_stdout(&self) -> bool {
        matches!(self, Self::Human | Self::Json)
    }

    fn write(&mut self, alert: &Alert) -> anyhow::Result<()> {
        match self {
            Self::Human => anstream::stdout().write_all(render::alert(alert).as_bytes())?,
            Self::Json => writeln!(stdout(), "{}", render::json(&alert.to_json()))?,
            // One write a line, so that a reader never sees half of one.
            Self::File { path, file } => {
                if !is_file_at(file, path) {
                    *file = open_file(path)?;
                }
                file.write_all(format!("{}\n", render::json(&alert.to_json())).as_bytes())
                    .with_context(|| format!("cannot write to {}", path.display()))?;
            }
        }
        Ok(())
    }
}

/// Opens a file of alerts. Only its owner may read it: arguments of programs hold secrets.
fn open_file(path: &Path) -> anyhow::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o600);
    options.open(path).with_context(|| format!("cannot open the output {}", path.display()))
}

/// Whether the open file is still the one that its path names, and was not rotated away.
fn is_file_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs() {
        assert_eq!("stdout".parse(), Ok(OutputSpec::Stdout(None)));
        assert_eq!("stdout:json".parse(), Ok(OutputSpec::Stdout(Some(Format::Json))));
        assert_eq!("file:/a:b".parse(), Ok(OutputSpec::File("/a:b".into())));
        for bad in ["", "file:", "stdout:xml", "webhook:x"] {
            assert!(bad.parse::<OutputSpec>().is_err(), "{bad}");
        }
    }
}

//! Where alerts go.

use std::io::{Write, stdout};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Context;
use serde::{Deserialize, Deserializer};
use sls_actions::{Delivery, FileTransport, Spool, SpoolError, SpoolLimits, UnixTransport};
use sls_core::{Alert, AlertSink, AlertTransport, BoxError, EncodedAlert, MessageType, Uuid};

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
    /// JSON lines, to a listening UNIX stream socket.
    Unix(PathBuf),
}

impl FromStr for OutputSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "stdout" => Ok(Self::Stdout(None)),
            Some(("stdout", "human")) => Ok(Self::Stdout(Some(Format::Human))),
            Some(("stdout", "json")) => Ok(Self::Stdout(Some(Format::Json))),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("unix", path)) if !path.is_empty() => Ok(Self::Unix(path.into())),
            _ => Err("expected `stdout`, `stdout:human`, `stdout:json`, `file:PATH` or `unix:PATH`".to_owned()),
        }
    }
}

impl<'de> Deserialize<'de> for OutputSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Where the outputs that can fail keep what they do not get rid of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SpoolSettings {
    /// Has a directory for each output.
    pub(crate) directory: PathBuf,
    /// Of each output.
    pub(crate) limits: SpoolLimits,
}

/// All outputs of a run.
#[derive(Debug)]
pub(crate) struct Outputs {
    pub(crate) stdout: StandardOutputs,
    pub(crate) deliveries: Vec<Output>,
    message_types: Vec<MessageType>,
}

/// An output that can fail, with threads of its own.
#[derive(Debug)]
pub(crate) struct Output {
    /// As the configuration names it.
    pub(crate) name: String,
    pub(crate) delivery: Delivery,
}

impl Outputs {
    /// Opens the outputs; standard output in `format` if there are none. They take the message types given, or the
    /// usual ones.
    pub(crate) fn open(
        specs: &[OutputSpec],
        format: Format,
        message_types: &[MessageType],
        spool: Option<&SpoolSettings>,
    ) -> anyhow::Result<Self> {
        let default = [OutputSpec::Stdout(None)];
        let specs = if specs.is_empty() { &default[..] } else { specs };
        let mut stdout = Vec::new();
        let mut deliveries = Vec::new();
        for spec in specs {
            match spec {
                OutputSpec::Stdout(own) => stdout.push(own.unwrap_or(format)),
                OutputSpec::File(path) => {
                    let mut transport = FileTransport::new(path);
                    if let Err(error) = transport.open() {
                        let error = anyhow::Error::from(error);
                        let error = error.context(format!("cannot open the output {}", path.display()));
                        // What is kept on disk can wait for it.
                        if spool.is_none() {
                            return Err(error);
                        }
                        tracing::error!("{error:#}");
                    }
                    deliveries.push(Output::start("file", path, transport, spool)?);
                }
                OutputSpec::Unix(path) => {
                    deliveries.push(Output::start("unix", path, UnixTransport::new(path), spool)?);
                }
            }
        }
        let message_types = if message_types.is_empty() { MessageType::DEFAULT } else { message_types };
        Ok(Self { stdout: StandardOutputs(stdout), deliveries, message_types: message_types.to_vec() })
    }

    /// Whether the outputs want the alert.
    pub(crate) fn want(&self, alert: &Alert) -> bool {
        alert.message_type.is_some_and(|message_type| self.message_types.contains(&message_type))
    }
}

impl Output {
    fn start(
        kind: &str,
        path: &Path,
        transport: impl AlertTransport + 'static,
        spool: Option<&SpoolSettings>,
    ) -> anyhow::Result<Self> {
        let name = format!("{kind}:{}", std::path::absolute(path)?.display());
        let mut builder = Delivery::builder(transport);
        if let Some(spool) = spool {
            // What the name stands for stays the same.
            let id = Uuid::new_v5(&Uuid::NAMESPACE_URL, name.as_bytes());
            let directory = spool.directory.join(format!("{kind}-{id}"));
            match Spool::open(&directory, spool.limits) {
                Ok(spool) => {
                    let stats = spool.stats();
                    if stats.found > 0 {
                        tracing::info!(output = name, alerts = stats.found, "the spool has alerts that go first");
                    }
                    if stats.corrupt > 0 {
                        tracing::error!(output = name, records = stats.corrupt, "records of the spool were corrupt");
                    }
                    let dropped = stats.dropped_for_size + stats.dropped_for_age;
                    if dropped > 0 {
                        tracing::error!(output = name, dropped, "the spool dropped alerts that were over its limits");
                    }
                    let output = name.clone();
                    builder = builder.spool(spool).on_spooled(move |uuid| tracing::debug!(%uuid, output, "spooled"));
                }
                // Who may read the spool may read alerts, or forge them.
                Err(error @ SpoolError::Unsafe { .. }) => return Err(error.into()),
                Err(error) => {
                    tracing::error!(output = name, "{error}: its alerts wait in memory, and are gone with the sensor");
                }
            }
        }
        let delivery = builder.start().context("cannot start a thread for an output")?;
        Ok(Self { name, delivery })
    }
}

/// The alert as outputs have it: one line without control characters.
pub(crate) fn encode(alert: &Alert) -> EncodedAlert {
    EncodedAlert::new(alert.uuid, render::json(&alert.to_json()))
}

/// Standard output, once or more. It is given up when whoever read it has gone.
#[derive(Debug)]
pub(crate) struct StandardOutputs(Vec<Format>);

impl StandardOutputs {
    /// In this format, once.
    pub(crate) fn one(format: Format) -> Self {
        Self(vec![format])
    }

    /// Takes them out.
    pub(crate) fn take(&mut self) -> Self {
        Self(std::mem::take(&mut self.0))
    }

    /// Whether nobody takes alerts here, or not any more.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl AlertSink for StandardOutputs {
    fn emit(&mut self, alert: &Alert) -> Result<(), BoxError> {
        if alert.message_type.is_none() {
            return Ok(());
        }
        let mut failed = None;
        self.0.retain(|format| {
            let Err(error) = write(*format, alert) else { return true };
            let gone = is_broken_pipe(&error);
            failed = Some(error);
            !gone
        });
        // The way that keeps the cause, which decides about the exit status.
        failed.map_or(Ok(()), |error| Err(error.reallocate_into_boxed_dyn_error_without_backtrace()))
    }
}

fn write(format: Format, alert: &Alert) -> anyhow::Result<()> {
    match format {
        Format::Human => anstream::stdout().write_all(render::alert(alert).as_bytes())?,
        Format::Json => writeln!(stdout(), "{}", encode(alert).json)?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs() {
        assert_eq!("stdout".parse(), Ok(OutputSpec::Stdout(None)));
        assert_eq!("stdout:json".parse(), Ok(OutputSpec::Stdout(Some(Format::Json))));
        assert_eq!("file:/a:b".parse(), Ok(OutputSpec::File("/a:b".into())));
        assert_eq!("unix:/run/alerts".parse(), Ok(OutputSpec::Unix("/run/alerts".into())));
        for bad in ["", "file:", "unix:", "stdout:xml", "webhook:x"] {
            assert!(bad.parse::<OutputSpec>().is_err(), "{bad}");
        }
    }
}

//! `sls resume`: undoes the action `stop`.

use std::io::{self, Write, stdout};

use anyhow::Context;
use serde_json::json;
use sls_actions::{ProcessResponder, process_target};
use sls_core::ActionResult;

use super::check::default_format;
use crate::args::{Format, ResumeArgs};
use crate::exit::{Answer, say};
use crate::render;

/// The error of a process that is not there.
const NO_SUCH_PROCESS: i32 = 3;

pub(crate) fn run(args: &ResumeArgs, format: Option<Format>) -> anyhow::Result<Answer> {
    let pid = args.pid;
    let responder = ProcessResponder::builder().build()?;
    // The process that has the pid now is meant; from here on it cannot become another.
    let result = match process_target(pid) {
        Ok(target) => responder.resume(&target),
        Err(error) if is_no_process(&error) => ActionResult::not_successful("no such process"),
        Err(error) => return Err(error).with_context(|| format!("cannot look at process {pid}")),
    };
    let resumed = result == ActionResult::Successful;
    match format.unwrap_or(default_format()) {
        Format::Json => {
            let answer = json!({"pid": pid, "result": result.name(), "details": result.details()});
            writeln!(stdout(), "{}", render::json(&answer.to_string()))?;
        }
        Format::Human if resumed => writeln!(stdout(), "resumed process {pid}")?,
        Format::Human => say(&format!("unable to resume process {pid}: {}", result.details())),
    }
    Ok(if resumed { Answer::Yes } else { Answer::No })
}

fn is_no_process(error: &io::Error) -> bool {
    error.raw_os_error() == Some(NO_SUCH_PROCESS)
}

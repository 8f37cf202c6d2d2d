//! The `sls` command: wiring, configuration and outputs around the SLS libraries.

#![forbid(unsafe_code)]

mod args;
mod commands;
mod config;
mod content;
mod exit;
mod guards;
mod output;
mod policies;
mod privileges;
mod render;
mod responders;
mod service_manager;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Args, Command};
use crate::exit::{Answer, exit_code};

fn main() -> ExitCode {
    let args = Args::parse();
    let format = args.format;
    let result = match args.command {
        Command::Run(run) => commands::run::run(run, format),
        Command::Check(check) => commands::check::run(&check, format),
        Command::Fields(fields) => commands::fields::run(&fields, format),
        Command::Schema => commands::schema::run(),
        Command::Explain(explain) => commands::explain::run(&explain, format),
        Command::Replay(replay) => commands::replay::run(&replay, format),
        Command::Test(test) => commands::test::run(&test, format),
        Command::Record(record) => commands::record::run(&record),
        Command::Thaw(thaw) => commands::thaw::run(&thaw, format),
        Command::Guards(guards) => commands::guards::run(&guards, format),
        Command::Unpin(unpin) => commands::unpin::run(&unpin, format),
        Command::Rearm(rearm) => commands::rearm::run(&rearm),
        Command::Resume(resume) => commands::resume::run(&resume, format),
        Command::Doctor(doctor) => commands::doctor::run(&doctor, format),
        Command::Quarantine(quarantine) => commands::quarantine::run(&quarantine, format),
        Command::Sacrifice => {
            responders::sacrifice();
            Ok(Answer::Yes)
        }
    };
    exit_code(result)
}

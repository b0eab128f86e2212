//! `geo-rep`: the operator's command.
//!
//! Layout
//! - [`cli`]: what can be typed; [`exit`]: how it ends, errors and hints
//! - [`address`]: which session is meant; [`monitor`]: reaching the monitor, starting it when there is none
//! - [`create`]: declaring a session; everything is checked before anything is changed
//! - [`checks`], [`usage`], [`assess`]: this side, what it holds, and what stands in the way
//! - [`door`], [`pairing`]: asking the agent of the secondary; access to another machine
//! - [`lifecycle`]: start, stop, pause, resume, delete
//! - [`status`], [`config`]: looking and tuning
//! - [`verifying`]: comparing both trees; [`journal`]: looking into changelogs
//! - [`quickstart`], [`sample`]: showing it

#![forbid(unsafe_code)]

mod address;
mod assess;
mod checks;
mod cli;
mod config;
mod create;
mod door;
mod exit;
mod journal;
mod lifecycle;
mod monitor;
mod pairing;
mod quickstart;
mod sample;
mod status;
mod usage;
mod verifying;

use std::process::ExitCode;

use clap::Parser;
use cluster::Transition;

use crate::cli::{Arguments, ChangelogCommand, Command};
use crate::exit::Exit;
use crate::monitor::Monitor;

fn main() -> ExitCode {
    let arguments = Arguments::parse_from(cli::mark_value(std::env::args_os()));
    match run(arguments) {
        Ok(exit) => exit.into(),
        Err(error) => {
            exit::print_error(&error);
            Exit::Failed.into()
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    let monitor = Monitor::new(&arguments.global);
    match arguments.command {
        Command::Create(create) => create::run(&monitor, &create),
        Command::Start(which) => lifecycle::run(&monitor, &which, Transition::Start),
        Command::Stop(which) => lifecycle::run(&monitor, &which, Transition::Stop),
        Command::Pause(which) => lifecycle::run(&monitor, &which, Transition::Pause),
        Command::Resume(resume) => lifecycle::resume(&monitor, &resume),
        Command::Resync(which) => lifecycle::resync(&monitor, &which),
        Command::Delete(which) => lifecycle::delete(&monitor, &which),
        Command::Status(look) => status::run(&monitor, &look),
        Command::Config(config) => config::run(&monitor, &config),
        Command::Verify(verify) => verifying::run(&monitor, &verify),
        Command::Changelog { command: ChangelogCommand::Dump { files } } => journal::dump(&files),
        Command::Changelog { command: ChangelogCommand::History { brick, json } } => {
            journal::history(&monitor, &brick, json)
        }
        Command::Quickstart(quickstart) => quickstart::run(&monitor, &quickstart),
    }
}

//! The program `chimaera`: the daemon, its operator's commands, and a demo.

#![forbid(unsafe_code)]

mod args;
mod bench;
mod chimod;
mod connection;
mod daemon;
mod demo;
mod failure;
mod input_file;
mod output;
mod output_file;
mod pool;
mod program;
mod runtime;
mod session;
mod size;
mod unreachable;
mod users;
mod verify;
mod wait_notice;

use std::process::ExitCode;

use clap::Parser;
use nix::sys::signal::{SigSet, Signal};

use args::{Arguments, ChimaeraCommand, GlobalArguments};
use failure::CommandFailure;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        // Whatever was not understood, `--json` may stand among it.
        Err(error) => {
            return output::usage(error, std::env::args_os().any(|word| word == "--json"));
        }
    };
    // A write beyond the limit on file sizes then fails with an error that says so, and does not kill the process.
    let mut file_size = SigSet::empty();
    file_size.add(Signal::SIGXFSZ);
    let _ = file_size.thread_block();
    let global = &arguments.global;
    if global.json {
        output::say_notes_in_json();
    }
    match run(&arguments.command, global).and_then(|()| output::finish()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.is_reported() => failure.exit_code(),
        Err(failure) => output::error(&failure, global.json),
    }
}

fn run(command: &ChimaeraCommand, global: &GlobalArguments) -> Result<(), CommandFailure> {
    match command {
        ChimaeraCommand::Runtime(command) => runtime::run(command, global),
        ChimaeraCommand::Session(command) => session::run(command, global),
        ChimaeraCommand::Pool(command) => pool::run(command, global),
        ChimaeraCommand::Chimod(command) => chimod::run(command, global),
        ChimaeraCommand::Verify(command) => verify::run(command, global),
        ChimaeraCommand::Demo { json } if *json || global.json => Err(CommandFailure::usage(
            "the demo is for people: it prints no JSON",
        )),
        ChimaeraCommand::Demo { .. } => demo::run(),
        ChimaeraCommand::Bench(arguments) => bench::run(arguments, global),
        ChimaeraCommand::BenchPartner { processor } => bench::partner(*processor),
    }
}

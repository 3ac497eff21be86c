//! The program `chimaera`: the daemon, its operator's commands, and a demo.

#![forbid(unsafe_code)]

mod args;
mod bench;
mod daemon;
mod demo;
mod failure;
mod map;
mod offline;
mod output;
mod pool;
mod runtime;
mod size;
mod verify;

use std::process::ExitCode;

use clap::Parser;

use args::{Arguments, Command};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let socket = arguments.socket.as_deref();
    let result = match arguments.command {
        Command::Runtime(command) => runtime::run(&command, socket),
        Command::Pool(command) => pool::run(&command, socket),
        Command::Verify(command) => verify::run(&command, socket),
        Command::Demo => demo::run(),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::BenchPartner { processor } => bench::partner(processor),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::error(&failure);
            failure.exit_code()
        }
    }
}

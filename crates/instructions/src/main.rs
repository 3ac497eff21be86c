//! Counts the instructions that tasks take, prints them, and fails where one takes too many.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "writing to the terminal is what it is for"
)]

use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use chimaera_instructions::{Limits, NotPossible, Result, count_all, play, subject};
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

/// Five times what counting takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        [] if cfg!(debug_assertions) => Err(NotPossible(
            "the limits are those of release builds (cargo run --release -p \
             chimaera-instructions)"
                .to_owned(),
        )
        .into()),
        [] => check(),
        [subject::ARGUMENT, role] => play(role).map(|()| true),
        _ => Err("it takes no arguments: it counts all cases".into()),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) if error.is::<NotPossible>() => {
            eprintln!("instructions per task: not checked: {error}");
            // A guard that does not look must not look as if it had.
            let must_check = cfg!(target_arch = "x86_64") && std::env::var_os("CI").is_some();
            ExitCode::from(u8::from(must_check))
        }
        Err(error) => {
            eprintln!("instructions per task: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all cases are within their limits.
fn check() -> Result<bool> {
    let (_counting, done) = channel();
    thread::Builder::new().spawn(move || end_when_it_hangs(&done))?;
    share_a_processor()?;
    let limits = Limits::current()?;
    let figures = count_all(&std::env::current_exe()?)?;
    println!(
        "{:<20}{:>10}{:>8}{:>8}",
        "case", "per task", "limit", "room"
    );
    for figure in &figures {
        print!("{:<20}{:>10.1}", figure.case, figure.per_task);
        match limits.of(figure.case) {
            Some(limit) => {
                let room = 100.0 * (f64::from(limit) / figure.per_task - 1.0);
                println!("{limit:>8}{room:>7.0}%");
            }
            None => println!("{:>8}", "none"),
        }
    }
    let complaints = limits.complaints(&figures);
    for complaint in &complaints {
        eprintln!("{complaint}");
    }
    Ok(complaints.is_empty())
}

/// Keeps this process, and those that it starts, on one processor: they take turns, and a turn that passes
/// from one processor to another takes twice as long.
fn share_a_processor() -> Result<()> {
    let mut set = CpuSet::new();
    set.set(sched_getcpu()?)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// Ends the process, and with it those that it traces, when counting takes far too long.
fn end_when_it_hangs(done: &Receiver<()>) {
    if done.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
        eprintln!("instructions per task: counting hangs");
        std::process::exit(1);
    }
}

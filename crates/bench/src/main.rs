//! Measures a task's way against the machine's own limits.
//!
//! `cargo build --release --workspace && cargo run --release -p chimaera-bench`
//!
//! One round trip of an empty task, from this process to a daemon and back at queue depth 1, stands
//! beside a bare ping-pong of one cache line between the same two processors, measured before and
//! after in the same run. Ratios hold where absolute figures do not: on a shared machine the
//! floor itself moves.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "figures are what this program is for")]

mod daemon;
mod floor;
mod round_trip;

use std::error::Error;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Rounds, each with a floor of its own.
const ROUNDS: usize = 11;

/// A round whose floor changes by more than this factor from before to after says nothing.
const STEADY: f64 = 1.25;

fn main() -> Result<(), Box<dyn Error>> {
    let (ours, theirs) = two_processors()?;
    pin_to(ours)?;
    let daemon = daemon::Daemon::start(theirs)?;
    let trip = round_trip::RoundTrip::new(daemon.socket())?;
    println!("this process on processor {ours}, the daemon's worker on processor {theirs}\n");
    println!(
        "{:>5}  {:>12}  {:>12}  {:>8}",
        "round", "ping-pong", "empty task", "ratio"
    );
    let mut kept: Vec<(f64, f64, f64)> = Vec::new();
    for round in 1..=ROUNDS {
        let before = floor::ping_pong(theirs)?;
        let task = trip.measure()?;
        let after = floor::ping_pong(theirs)?;
        let floor = f64::midpoint(before, after);
        let is_steady = before.max(after) <= STEADY * before.min(after);
        let note = if is_steady {
            ""
        } else {
            "  dropped: the floor moved"
        };
        println!(
            "{round:>5}  {floor:>9.0} ns  {task:>9.0} ns  {:>8.2}{note}",
            task / floor
        );
        if is_steady {
            kept.push((floor, task, task / floor));
        }
    }
    let median = |pick: fn(&(f64, f64, f64)) -> f64| {
        let mut values: Vec<f64> = kept.iter().map(pick).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    };
    match (
        median(|row| row.0),
        median(|row| row.1),
        median(|row| row.2),
    ) {
        (Some(floor), Some(task), Some(ratio)) => println!(
            "\nmedian of {} rounds ({} dropped): ping-pong {floor:.0} ns, empty task {task:.0} ns, \
             ratio {ratio:.2}",
            kept.len(),
            ROUNDS - kept.len(),
        ),
        _ => println!("\nno round kept: others use this machine"),
    }
    Ok(())
}

/// Two processors that this process may use.
fn two_processors() -> Result<(usize, usize), Box<dyn Error>> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    let mut processors = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false));
    match (processors.next(), processors.next()) {
        (Some(first), Some(second)) => Ok((first, second)),
        _ => Err("this needs two processors".into()),
    }
}

/// Pins the calling thread.
fn pin_to(processor: usize) -> nix::Result<()> {
    let mut set = CpuSet::new();
    set.set(processor)?;
    sched_setaffinity(Pid::from_raw(0), &set)
}

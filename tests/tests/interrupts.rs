//! Signal handlers that make calls: what they ask for is done or refused, and what they interrupt goes on
//! as if nothing had been.

use std::process::Command;

use chimaera_tests::{ClientProcess, Daemon, MIB, memory, program};

const POOL_BYTES: u64 = 64 * MIB;

fn run(lane: &str) {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let _pool = memory(&runtime, POOL_BYTES);
    let mut command = Command::new(program("chimaera-test-interrupts"));
    command
        .args([lane, "memory"])
        .env("CHIMAERA_SOCKET", daemon.socket());
    let mut client = ClientProcess::run(command);
    let calls = client.expect("calls");
    let calls = calls.split_once(' ').expect("two numbers");
    let [done, refused] = [calls.0, calls.1].map(|number| number.parse::<u64>().expect("a number"));
    assert!(done > 0 && refused > 0, "{done} done, {refused} refused");
    client.expect("done");
    client.succeed();
}

#[test]
fn a_handler_that_interrupts_a_thread_on_its_own_lane_spoils_nothing() {
    run("own");
}

#[test]
fn a_handler_that_interrupts_a_thread_on_a_shared_lane_spoils_nothing() {
    run("shared");
}

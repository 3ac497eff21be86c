//! A process for tests that forks itself: connects to the daemon of `CHIMAERA_SOCKET`, forks, and
//! lets parent and child do what the test asks for. It says in lines how far it is, and waits for a
//! line where the test decides when it goes on.
//!
//! This is the only program of the tests with `unsafe`: forking needs it.

use std::io::Write;

use chimaera_bdev_client::Runtime;

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["leave-a-raw-child"] => leave_a_raw_child(),
        _ => panic!("no such command: {arguments:?}"),
    }
}

fn say(line: &str) {
    // The test may be gone; then nobody needs this process.
    if writeln!(std::io::stdout(), "{line}").is_err() {
        exit_at_once(1);
    }
}

/// Waits until the test says to go on. If it is gone, so is the reason to be here.
fn wait_for_the_test() {
    let mut line = String::new();
    if !std::io::stdin()
        .read_line(&mut line)
        .is_ok_and(|len| len > 0)
    {
        exit_at_once(1);
    }
}

/// Ends this process without running anything of it.
fn exit_at_once(code: i32) -> ! {
    // SAFETY: it ends the process, and nothing else.
    unsafe { libc::_exit(code) }
}

/// Makes a child by the bare system call, so that no handler of the process runs. Returns 0 in the
/// child, else the child's process id.
fn raw_clone() -> i32 {
    // SAFETY: as `fork` of a process whose other threads hold no lock that the child needs: the
    // child gets a copy of this thread and of all memory, and this thread's stack goes on.
    let id = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
    assert!(id >= 0, "{}", std::io::Error::last_os_error());
    id as i32
}

/// Leaves a child behind that holds a copy of everything, until the test lets it go.
fn leave_a_raw_child() {
    let runtime = Runtime::connect().expect("the daemon is there");
    runtime.admin().ping().expect("the daemon answers");
    match raw_clone() {
        0 => {
            wait_for_the_test();
            exit_at_once(0);
        }
        child => {
            say(&format!("child {child}"));
            loop {
                std::thread::park();
            }
        }
    }
}

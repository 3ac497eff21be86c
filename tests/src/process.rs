//! Client processes: `chimaera-test-client` with one of its commands.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use chimaera_bdev_client::{Block, BlockType};
use nix::sys::signal::Signal;

use crate::build::program;
use chimaera_testing::PATIENCE;

/// A client process, killed on drop if it still runs then. It says in lines how far it is, and
/// goes on when it is told.
#[derive(Debug)]
pub struct ClientProcess {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl ClientProcess {
    /// Starts a client that uses the daemon at this socket.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start<S: AsRef<OsStr>>(socket: &Path, arguments: &[S]) -> Self {
        let mut command = Command::new(program("chimaera-test-client"));
        command.args(arguments).env("CHIMAERA_SOCKET", socket);
        Self::run(command)
    }

    /// Starts a client that was set up otherwise.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn run(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the client starts");
        let stdin = child.stdin.take().expect("piped");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (line, lines) = channel();
        thread::spawn(move || {
            for text in stdout.lines().map_while(Result::ok) {
                if line.send(text).is_err() {
                    break;
                }
            }
        });
        Self {
            child,
            stdin,
            lines,
        }
    }

    /// Waits for the client's next line, which must begin with this word, and gives the rest.
    ///
    /// # Panics
    /// If it says something else, or nothing in time.
    pub fn expect(&mut self, word: &str) -> String {
        let line = self
            .lines
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|_| panic!("the client ended or hangs instead of saying {word:?}"));
        match line.split_once(' ').unwrap_or((&line, "")) {
            (first, rest) if first == word => rest.to_owned(),
            _ => panic!("the client says {line:?} instead of {word:?}"),
        }
    }

    /// Waits for the client's next line.
    ///
    /// # Panics
    /// If there is none in time.
    pub fn line(&mut self) -> String {
        let line = self.lines.recv_timeout(PATIENCE);
        line.unwrap_or_else(|_| panic!("the client ended or hangs instead of saying something"))
    }

    /// The client's process id.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// Tells the client to go on.
    ///
    /// # Panics
    /// If it is gone.
    pub fn go_on(&mut self) {
        self.stdin
            .write_all(b"go on\n")
            .expect("the client listens");
    }

    /// Ends the client with SIGKILL, and waits until it is gone.
    ///
    /// # Panics
    /// If it had ended by itself.
    pub fn kill(mut self) {
        let ended = self.child.try_wait().expect("the client was started");
        assert_eq!(ended, None, "the client ended before it was killed");
        self.child.kill().expect("the client can be killed");
        self.child.wait().expect("the client was started");
    }

    /// Waits for the client to end, which must have succeeded.
    ///
    /// # Panics
    /// If it failed, or says more, or does not end in time.
    pub fn succeed(mut self) {
        if let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            panic!("the client says {line:?} instead of ending");
        }
        let status = self.child.wait().expect("the client was started");
        assert!(status.success(), "the client ended with {status}");
    }
}

impl Drop for ClientProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Blocks in a line of a client's.
#[must_use]
pub fn show_blocks(blocks: impl IntoIterator<Item = Block>) -> String {
    let texts: Vec<_> = blocks
        .into_iter()
        .map(|block| format!("{}:{}", block.offset, block.block_type as u32))
        .collect();
    texts.join(" ")
}

/// Reads what [`show_blocks`] wrote.
///
/// # Panics
/// If it is something else.
#[must_use]
pub fn parse_blocks(text: &str) -> Vec<Block> {
    let parse = |text: &str| {
        let (offset, block_type) = text.split_once(':')?;
        let block_type = BlockType::from_number(block_type.parse().ok()?)?;
        Some(Block::new(offset.parse().ok()?, block_type))
    };
    text.split_whitespace()
        .map(|text| parse(text).unwrap_or_else(|| panic!("{text:?} is no block")))
        .collect()
}

/// Whether this test was started with the signal ignored, as its daemons are then.
///
/// # Panics
/// If the system does not say.
#[must_use]
pub fn is_ignored(signal: Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc");
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .expect("a mask");
    let mask = u64::from_str_radix(mask.trim(), 16).expect("a number");
    mask & 1 << (signal as u32 - 1) != 0
}

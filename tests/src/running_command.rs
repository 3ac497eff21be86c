//! Commands that say something while they work.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use chimaera_testing::PATIENCE;
use chimaera_testing::within;

/// A command of the program whose words on standard error are read as they come.
#[derive(Debug)]
pub struct RunningCommand {
    child: Child,
    lines: Receiver<String>,
}

impl RunningCommand {
    /// Starts it.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start(mut command: Command) -> Self {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let (line, lines) = channel();
        std::thread::spawn(move || {
            for text in stderr.lines().map_while(Result::ok) {
                let _ = line.send(text);
            }
        });
        Self { child, lines }
    }

    /// Waits for a line that has all of these words.
    ///
    /// # Panics
    /// If there is none.
    pub fn wait_for(&self, words: &[&str]) -> String {
        let mut told = Vec::new();
        loop {
            let line = self.lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("{words:?} is not in {told:#?}"));
            if words.iter().all(|word| line.contains(word)) {
                return line;
            }
            told.push(line);
        }
    }

    /// Waits for its end, and gives its exit code.
    ///
    /// # Panics
    /// If it does not end.
    #[must_use]
    pub fn exit_code(mut self) -> Option<i32> {
        within("the end of the program", move || {
            self.child.wait().expect("it was started").code()
        })
    }
}

//! A daemon in a process of its own.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::error::Result;
use crate::machine::unpin;

/// A daemon with one pinned worker and the default policy; it ends with this value.
pub(crate) struct Daemon {
    child: Child,
    socket: PathBuf,
    start: Duration,
    _folder: TempDir,
}

impl Daemon {
    /// Starts this program as a daemon, and waits until it serves.
    pub(crate) fn start(processor: usize) -> Result<Self> {
        let folder = TempDir::new()?;
        let socket = folder.path().join("chimaera.sock");
        let begin = Instant::now();
        let mut child = Command::new(std::env::current_exe()?)
            .args(["runtime", "start", "--workers", "1"])
            .args(["--pin", &processor.to_string()])
            .args(["--with-parent", &std::process::id().to_string()])
            .arg("--socket")
            .arg(&socket)
            .env("CHIMAERA_LOG", "error")
            // An interrupt at the terminal should not reach the daemon.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        // This comes long before it makes its threads. Its worker pins itself.
        unpin(child.id())?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let daemon = Self {
            child,
            socket,
            start: begin.elapsed(),
            _folder: folder,
        };
        if line.starts_with("ready") {
            Ok(daemon)
        } else {
            Err("the daemon did not start".into())
        }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// How long it took from the program's start until it said that it is ready.
    pub(crate) fn start_time(&self) -> Duration {
        self.start
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

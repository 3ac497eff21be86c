//! A daemon in a process of its own.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// A daemon with one pinned worker; it ends with this value.
pub(crate) struct Daemon {
    child: Child,
    socket: PathBuf,
    _folder: TempDir,
}

impl Daemon {
    /// Starts the program that lies beside this one, and waits until it serves.
    pub(crate) fn start(processor: usize) -> Result<Self, Box<dyn Error>> {
        let program = std::env::current_exe()?.with_file_name("chimaera");
        let folder = TempDir::new()?;
        let socket = folder.path().join("chimaera.sock");
        let mut child = Command::new(&program)
            .args([
                "runtime",
                "start",
                "--workers",
                "1",
                "--polling",
                "performance",
            ])
            .args(["--pin", &processor.to_string()])
            .arg("--socket")
            .arg(&socket)
            .env("CHIMAERA_LOG", "warn")
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| {
                format!(
                    "cannot start {}: {error}; build it with cargo build --release --workspace",
                    program.display()
                )
            })?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let daemon = Self {
            child,
            socket,
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
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

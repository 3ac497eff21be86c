//! A daemon in the background.

use std::path::Path;

use chimaera_testing::is_in_state;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{chimaera, json, text};

/// A daemon in the background, killed on drop if it still runs then.
#[derive(Debug)]
pub struct BackgroundDaemon {
    /// Its process id.
    pub process_id: i32,
}

impl BackgroundDaemon {
    /// The one that serves this socket.
    ///
    /// # Panics
    /// If none does.
    #[must_use]
    pub fn at(socket: &Path) -> Self {
        let status = chimaera(&["runtime", "status", "--json", "--socket", text(socket)]);
        let process_id = json(&status.success())["process_id"].as_i64();
        Self {
            process_id: process_id.expect("a number") as i32,
        }
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        let folder = format!("/proc/{}", self.process_id);
        // Where nobody collects orphans, what is left of one is a zombie.
        !Path::new(&folder).exists() || is_in_state(&folder, 'Z')
    }
}

impl Drop for BackgroundDaemon {
    fn drop(&mut self) {
        if !self.is_gone() {
            let _ = kill(Pid::from_raw(self.process_id), Signal::SIGKILL);
        }
    }
}

//! A daemon with many clients that do nothing.

use std::time::Duration;

use chimaera_client::Runtime;

use crate::connection::{connect, connect_to, echo_over};
use crate::daemon::Daemon;
use crate::error::Result;
use crate::machine::{processor_time_ns, resident_bytes};

/// Clients that have used a lane, and do nothing now.
pub(crate) struct Crowd {
    pub(crate) clients: Vec<Runtime>,
    daemon: Daemon,
    /// How much the daemon's memory grew.
    pub(crate) grown_bytes: u64,
}

impl Crowd {
    /// Starts the daemon on a processor, and connects so many clients to it, and one before them.
    pub(crate) fn make(processor: usize, count: usize) -> Result<Self> {
        let daemon = Daemon::start(processor)?;
        // The first client pays for what all share.
        let first = connect(&daemon)?;
        echo_over(&first)?.echo(7)?;
        let before = resident_bytes(daemon.process())?;
        let mut clients = vec![first];
        for _ in 0..count {
            let client = connect_to(daemon.socket(), 0)?;
            echo_over(&client)?.echo(7)?;
            clients.push(client);
        }
        let after = resident_bytes(daemon.process())?;
        Ok(Self {
            clients,
            daemon,
            grown_bytes: after.saturating_sub(before),
        })
    }

    /// Processor time that the daemon uses while its clients do nothing, in nanoseconds.
    pub(crate) fn time_used_ns(&self, window: Duration) -> Result<u64> {
        let before = processor_time_ns(self.daemon.process())?;
        std::thread::sleep(window);
        Ok(processor_time_ns(self.daemon.process())? - before)
    }
}

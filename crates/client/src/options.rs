//! How to connect.

use std::any::Any;
use std::time::Duration;

use chimaera_proto::limits::{
    DATA_OFFSET_BYTES, MAX_SEGMENT_BYTES, MIN_SEGMENT_BYTES, SEGMENT_GRANULE_BYTES,
};

use crate::control::DEFAULT_REPLY_TIMEOUT;
use crate::finding::Trust;

/// Something that a connection keeps alive, and that is dropped after the connection is closed.
pub type KeepAlive = Box<dyn Any + Send + Sync>;

/// How to connect to a runtime. The defaults suit most programs.
pub struct ConnectOptions {
    pub(crate) buffer_bytes: u64,
    pub(crate) spin: Option<Duration>,
    pub(crate) client_name: Option<String>,
    pub(crate) keep_alive: Option<KeepAlive>,
    pub(crate) control_patience: Duration,
    pub(crate) trust: Trust,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            buffer_bytes: 256 << 20,
            spin: None,
            client_name: None,
            keep_alive: None,
            control_patience: DEFAULT_REPLY_TIMEOUT,
            trust: Trust::default(),
        }
    }
}

impl ConnectOptions {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes of address space for buffers with which to begin, and by which to grow (256 MiB).
    /// Memory is used only where it is touched.
    #[must_use]
    pub fn buffer_bytes(mut self, bytes: u64) -> Self {
        self.buffer_bytes = bytes;
        self
    }

    /// How long a thread that waits for a task looks for its completion before it sleeps. Without
    /// this it is 100 µs, and up to 1 ms where tasks turn out to take longer than the one and less
    /// than the other. On a machine with one processor it sleeps at once.
    #[must_use]
    pub fn spin(mut self, duration: Duration) -> Self {
        self.spin = Some(duration);
        self
    }

    /// The name under which the daemon's operator sees this client; the program's by default.
    #[must_use]
    pub fn client_name(mut self, name: impl Into<String>) -> Self {
        self.client_name = Some(name.into());
        self
    }

    /// Keeps something alive until the connection is closed: a runtime that this process embeds.
    #[must_use]
    pub fn keep_alive(mut self, what: KeepAlive) -> Self {
        self.keep_alive = Some(what);
        self
    }

    /// How long the daemon may take for the answer to a request. For tests of what comes after.
    #[doc(hidden)]
    #[must_use]
    pub fn control_patience(mut self, patience: Duration) -> Self {
        self.control_patience = patience;
        self
    }

    /// Accepts a daemon that this user runs. A daemon is given what clients write and decides what they
    /// read, so without this only root's and the calling user's own are accepted.
    #[must_use]
    pub fn trust_user(mut self, uid: u32) -> Self {
        self.trust.add(uid);
        self
    }

    /// Accepts a daemon whoever runs it; see [`Self::trust_user`].
    #[must_use]
    pub fn trust_any_user(mut self) -> Self {
        self.trust = Trust::Anybody;
        self
    }

    /// Bytes of a segment for the buffers alone.
    pub(crate) fn segment_bytes(&self) -> u64 {
        let max = MAX_SEGMENT_BYTES - DATA_OFFSET_BYTES as u64;
        self.buffer_bytes
            .clamp(MIN_SEGMENT_BYTES, max)
            .next_multiple_of(SEGMENT_GRANULE_BYTES)
    }

    /// The name under which the daemon's operator sees this client.
    pub(crate) fn name(&self) -> String {
        let mut name = self.client_name.clone().unwrap_or_else(|| {
            std::env::current_exe()
                .ok()
                .and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
                .unwrap_or_else(|| "unnamed".to_owned())
        });
        // A longer name is of no use, and would not fit the message at some length.
        name.truncate(name.floor_char_boundary(256));
        name
    }
}

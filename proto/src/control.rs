//! Messages on the Unix socket: handshake, lanes, segments.
//!
//! The socket is of type `SOCK_SEQPACKET`, so a message is a packet. Each starts with
//! [`PREAMBLE_BYTES`] bytes that never change between versions, so that two programs of
//! different versions can tell each other so. Files (a segment, a doorbell) travel beside their
//! message. A client sends one request at a time and waits for its reply.

use serde::{Deserialize, Serialize};

use crate::codec::{self, CodecError};
use crate::limits::{LAYOUT_VERSION, MAX_CONTROL_MESSAGE_BYTES, PROTOCOL_VERSION};
use crate::status::Status;

/// First bytes of every message: "CHIM".
const MAGIC: u32 = u32::from_le_bytes(*b"CHIM");

/// Length of the part of a message that is the same in every version.
pub const PREAMBLE_BYTES: usize = 12;

/// What a client asks of the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Opens the session. Beside it: the memfd of the client's first segment.
    Hello {
        /// Name of the program, for logs and status.
        client_name: String,
    },
    /// Hands a lane of the first segment to a worker. The lane must not be open yet.
    OpenLane {
        /// Index of the lane.
        lane: u32,
    },
    /// Registers one more segment. Beside it: its memfd.
    AddSegment {
        /// The index it gets: the number of segments registered so far.
        segment: u32,
    },
}

/// What the daemon answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// To [`Request::Hello`].
    Welcome {
        /// Version of the daemon's program.
        version: String,
        /// Process id of the daemon.
        process_id: u32,
        /// Number of workers.
        worker_count: u32,
        /// Whether the daemon orders parking a lane against its client's publishing for both, by
        /// a barrier on registered processes (`membarrier(2)`, global expedited). A client may
        /// then do without a fence per task.
        parks_with_barrier: bool,
    },
    /// To [`Request::OpenLane`]. Beside it: the eventfd that rings the lane's worker.
    LaneOpened,
    /// To [`Request::AddSegment`].
    SegmentAdded,
    /// To any request that was not carried out. After a refused hello the session ends.
    Refused {
        /// What kind of refusal.
        status: Status,
        /// What happened, to what, and what to do.
        reason: String,
    },
}

/// A packet that is not a message of this version.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Not of this protocol at all.
    #[error("the other side does not speak Chimaera's protocol")]
    NotOurs,
    /// Another version.
    #[error(
        "the other side speaks protocol version {protocol} with layout version {layout}, this \
         program speaks {PROTOCOL_VERSION} with {LAYOUT_VERSION}: use programs of one release"
    )]
    Version {
        /// The other side's protocol version.
        protocol: u32,
        /// The other side's layout version.
        layout: u32,
    },
    /// Longer than [`MAX_CONTROL_MESSAGE_BYTES`].
    #[error("a control message of {0} bytes is longer than {MAX_CONTROL_MESSAGE_BYTES}")]
    TooLong(usize),
    /// The body cannot be read or written.
    #[error(transparent)]
    Body(#[from] CodecError),
}

/// Encodes a [`Request`] or [`Reply`] as a packet.
///
/// # Errors
/// [`ControlError::TooLong`] or [`ControlError::Body`].
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, ControlError> {
    encode_versions(message, PROTOCOL_VERSION, LAYOUT_VERSION)
}

/// Like [`encode`], in the name of other versions: for tests of version checks.
///
/// # Errors
/// As [`encode`].
pub fn encode_versions<T: Serialize>(
    message: &T,
    protocol: u32,
    layout: u32,
) -> Result<Vec<u8>, ControlError> {
    let mut packet = Vec::with_capacity(256);
    for word in [MAGIC, protocol, layout] {
        packet.extend_from_slice(&word.to_le_bytes());
    }
    packet.extend_from_slice(&codec::encode(message)?);
    if packet.len() > MAX_CONTROL_MESSAGE_BYTES {
        return Err(ControlError::TooLong(packet.len()));
    }
    Ok(packet)
}

/// Decodes a packet as a [`Request`] or [`Reply`].
///
/// # Errors
/// See [`ControlError`].
pub fn decode<T: serde::de::DeserializeOwned>(packet: &[u8]) -> Result<T, ControlError> {
    if packet.len() > MAX_CONTROL_MESSAGE_BYTES {
        return Err(ControlError::TooLong(packet.len()));
    }
    let (preamble, body) = packet
        .split_at_checked(PREAMBLE_BYTES)
        .ok_or(ControlError::NotOurs)?;
    let word =
        |index: usize| u32::from_le_bytes(std::array::from_fn(|byte| preamble[index * 4 + byte]));
    let (magic, protocol, layout) = (word(0), word(1), word(2));
    if magic != MAGIC {
        return Err(ControlError::NotOurs);
    }
    if (protocol, layout) != (PROTOCOL_VERSION, LAYOUT_VERSION) {
        return Err(ControlError::Version { protocol, layout });
    }
    Ok(codec::decode(body)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_as_they_are_written() {
        let request = Request::Hello {
            client_name: "test".to_owned(),
        };
        let packet = encode(&request).expect("encodes");
        assert_eq!(decode::<Request>(&packet).expect("decodes"), request);
    }

    #[test]
    fn strangers_and_other_versions_are_told_apart() {
        let packet = encode_versions(&Reply::LaneOpened, 7, 9).expect("encodes");
        let error = decode::<Reply>(&packet).expect_err("another version");
        assert!(matches!(
            error,
            ControlError::Version {
                protocol: 7,
                layout: 9
            }
        ));
        assert!(error.to_string().contains("protocol version 7"));
        assert!(matches!(
            decode::<Reply>(b"GET / HTTP/1.1\r\n"),
            Err(ControlError::NotOurs)
        ));
        assert!(matches!(decode::<Reply>(b""), Err(ControlError::NotOurs)));
    }

    #[test]
    fn a_message_that_would_not_fit_is_refused_by_its_sender() {
        let request = Request::Hello {
            client_name: "x".repeat(MAX_CONTROL_MESSAGE_BYTES),
        };
        assert!(matches!(encode(&request), Err(ControlError::TooLong(_))));
    }
}

//! Messages on the Unix socket: handshake, lanes, segments.
//!
//! The socket is of type `SOCK_SEQPACKET`, so a message is a packet. Each starts with
//! [`PREAMBLE_BYTES`] bytes that never change between versions, so that two programs of
//! different versions can tell each other so. The number of the request follows, then the message. Files
//! (a segment, a doorbell) travel beside their message.
//!
//! A client numbers its requests upwards from 1, and each reply has the number of its request. So a
//! client may give up waiting for a reply: it recognises one that comes late, and throws it away. By repeating a
//! request that it gave up, it learns what became of it: after the hello, a request that was carried out already is
//! answered as it was the first time, and nothing is done twice. A reply with the number [`NO_REQUEST`] is about the
//! connection, which the daemon then ends.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::admin::RuntimeStatus;
use crate::codec::{self, CodecError};
use crate::limits::{LAYOUT_VERSION, MAX_CONTROL_MESSAGE_BYTES, PROTOCOL_VERSION};
use crate::status::Status;

/// First bytes of every message: "CHIM".
const MAGIC: u32 = u32::from_le_bytes(*b"CHIM");

/// Length of the part of a message that is the same in every version.
pub const PREAMBLE_BYTES: usize = 12;

/// Length of the preamble and the request's number.
const HEAD_BYTES: usize = PREAMBLE_BYTES + size_of::<u64>();

/// Stands for no request: the reply is about the connection itself, or about a packet whose number cannot be read.
pub const NO_REQUEST: u64 = 0;

/// What a client asks of the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControlRequest {
    /// Opens the session. Beside it: the memfd of the client's first segment.
    Hello {
        /// Name of the program, for logs and status.
        client_name: String,
    },
    /// Hands a lane of the first segment to a worker. For a lane that is open already the answer is the
    /// same, with the same eventfd.
    OpenLane {
        /// Index of the lane.
        lane: u32,
    },
    /// Registers one more segment. Beside it: its memfd.
    AddSegment {
        /// The segment's index: the number of segments registered so far; or, if this very memory is registered
        /// already, the index that it has.
        segment: u32,
    },
    /// Offers a file that this process has opened, for a pool that a later request asks for
    /// ([`GetOrCreatePool::file`](crate::admin::GetOrCreatePool::file)). Beside it: the file. It takes the place of one
    /// that was offered under the same number and not used. A session has at most [`MAX_OFFERED_FILES`] of them at a
    /// time; further ones are refused with [`Status::Busy`].
    OfferFile {
        /// The file's number, of the client's choice.
        number: u64,
    },
    /// Asks for the daemon's status. For operators, on a connection through their socket that opens no session: there
    /// it comes in the place of the hello, and only [`Self::Stop`] may come besides.
    GetStatus {
        /// Whether the answer is to wait until the modules' files were looked at, which may take as long as a file
        /// system likes. Else it says what was seen last.
        looks_at_files: bool,
    },
    /// Stops the daemon: it takes no more tasks, completes those in flight, flushes and ends its pools, and answers
    /// when that is done or was given up. For operators, as [`Self::GetStatus`], which may be asked meanwhile: so this
    /// answer may come after those of later requests.
    Stop,
}

/// The most files that a session can have offered that are not used yet.
pub const MAX_OFFERED_FILES: usize = 8;

/// What the daemon answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControlReply {
    /// To [`ControlRequest::Hello`].
    Welcome {
        /// Version of the daemon's program.
        version: String,
        /// Process id of the daemon.
        process_id: u32,
        /// Number of workers.
        worker_count: u32,
        /// Whether the daemon, when it parks a lane, calls a barrier on registered processes
        /// (`membarrier(2)`, global expedited), which orders the parking against what the client publishes. A client
        /// may then do without a fence per task.
        parks_with_barrier: bool,
    },
    /// To [`ControlRequest::OpenLane`]. Beside it: the eventfd that rings the lane's worker.
    LaneOpened,
    /// To [`ControlRequest::AddSegment`].
    SegmentAdded,
    /// To [`ControlRequest::OfferFile`].
    FileOffered,
    /// To [`ControlRequest::GetStatus`].
    Status(Box<RuntimeStatus>),
    /// To [`ControlRequest::Stop`]: every pool was flushed and has ended. The answer that some were not is a refusal.
    Stopped,
    /// To any request that was not carried out. After a refused hello, and with [`NO_REQUEST`], the connection ends.
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
         program speaks {PROTOCOL_VERSION} with {LAYOUT_VERSION}: use a daemon and clients of one release; {} has the \
         older one",
        if (*protocol, *layout) < (PROTOCOL_VERSION, LAYOUT_VERSION) { "the other side" } else { "this program" }
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

/// Encodes a [`ControlRequest`] with its number, or the [`ControlReply`] to it, as a packet.
///
/// # Errors
/// [`ControlError::TooLong`] or [`ControlError::Body`].
pub fn encode<T: Serialize>(number: u64, message: &T) -> Result<Vec<u8>, ControlError> {
    encode_versions(number, message, PROTOCOL_VERSION, LAYOUT_VERSION)
}

/// Like [`encode`], in the name of other versions: for tests of version checks.
///
/// # Errors
/// As [`encode`].
pub fn encode_versions<T: Serialize>(
    number: u64,
    message: &T,
    protocol: u32,
    layout: u32,
) -> Result<Vec<u8>, ControlError> {
    let mut packet = Vec::with_capacity(256);
    for word in [MAGIC, protocol, layout] {
        packet.extend_from_slice(&word.to_le_bytes());
    }
    packet.extend_from_slice(&number.to_le_bytes());
    packet.extend_from_slice(&codec::encode(message)?);
    if packet.len() > MAX_CONTROL_MESSAGE_BYTES {
        return Err(ControlError::TooLong(packet.len()));
    }
    Ok(packet)
}

/// Decodes a packet as a [`ControlRequest`] or [`ControlReply`], with the request's number.
///
/// # Errors
/// See [`ControlError`].
pub fn decode<T: DeserializeOwned>(packet: &[u8]) -> Result<(u64, T), ControlError> {
    let (number, body) = split(packet)?;
    Ok((number, codec::decode(body)?))
}

/// The number of the request that a packet belongs to, even if the rest cannot be read.
#[must_use]
pub fn number_of(packet: &[u8]) -> u64 {
    split(packet).map_or(NO_REQUEST, |(number, _)| number)
}

/// Checks what comes before a message.
fn split(packet: &[u8]) -> Result<(u64, &[u8]), ControlError> {
    if packet.len() > MAX_CONTROL_MESSAGE_BYTES {
        return Err(ControlError::TooLong(packet.len()));
    }
    let (preamble, _) = packet
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
    let (head, body) = packet
        .split_at_checked(HEAD_BYTES)
        .ok_or(ControlError::NotOurs)?;
    let number = u64::from_le_bytes(std::array::from_fn(|byte| head[PREAMBLE_BYTES + byte]));
    Ok((number, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_as_they_are_written() {
        let request = ControlRequest::Hello {
            client_name: "test".to_owned(),
        };
        let packet = encode(7, &request).expect("encodes");
        assert_eq!(
            decode::<ControlRequest>(&packet).expect("decodes"),
            (7, request)
        );
    }

    #[test]
    fn a_message_that_cannot_be_read_still_names_its_request() {
        let mut packet = encode(u64::MAX - 1, &ControlReply::LaneOpened).expect("encodes");
        packet.push(0);
        assert!(matches!(
            decode::<ControlReply>(&packet),
            Err(ControlError::Body(_))
        ));
        assert_eq!(number_of(&packet), u64::MAX - 1);
        packet.truncate(HEAD_BYTES - 1);
        assert!(matches!(
            decode::<ControlReply>(&packet),
            Err(ControlError::NotOurs)
        ));
        let other = encode_versions(7, &ControlReply::LaneOpened, 7, 9).expect("encodes");
        for nameless in [&packet, &other] {
            assert_eq!(number_of(nameless), NO_REQUEST);
        }
    }

    #[test]
    fn strangers_and_other_versions_are_told_apart() {
        let newer = PROTOCOL_VERSION + 1;
        let packet = encode_versions(1, &ControlReply::LaneOpened, newer, 9).expect("encodes");
        let error = decode::<ControlReply>(&packet).expect_err("another version");
        assert!(matches!(
            error,
            ControlError::Version { protocol, layout: 9 } if protocol == newer
        ));
        let own = format!("this program speaks {PROTOCOL_VERSION} with {LAYOUT_VERSION}");
        for words in [
            &format!("protocol version {newer} with layout version 9"),
            &own,
            "of one release",
            "this program has the older one",
        ] {
            assert!(error.to_string().contains(words), "{error}");
        }
        let older = encode_versions(1, &ControlReply::LaneOpened, 1, 9).expect("encodes");
        let error = decode::<ControlReply>(&older).expect_err("another version");
        let said = error.to_string();
        assert!(said.contains("the other side has the older one"), "{said}");
        assert!(matches!(
            decode::<ControlReply>(b"GET / HTTP/1.1\r\n"),
            Err(ControlError::NotOurs)
        ));
        assert!(matches!(
            decode::<ControlReply>(b""),
            Err(ControlError::NotOurs)
        ));
    }

    #[test]
    fn a_message_that_would_not_fit_is_refused_by_its_sender() {
        let request = ControlRequest::Hello {
            client_name: "x".repeat(MAX_CONTROL_MESSAGE_BYTES),
        };
        assert!(matches!(encode(1, &request), Err(ControlError::TooLong(_))));
    }
}

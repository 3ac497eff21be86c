//! Encoding of structured messages: the one place that knows their format.
//!
//! The format is bincode 2 with its standard configuration (little endian, variable-length
//! integers). That crate is no longer developed; only bytes leave this module, so another format
//! can take its place here.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::limits::ADMIN_BUFFER_BYTES;

/// The longest message, and the most that a decoder allocates for one.
const MAX_MESSAGE_BYTES: usize = ADMIN_BUFFER_BYTES as usize;

const FORMAT: bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<MAX_MESSAGE_BYTES>,
> = bincode::config::standard().with_limit::<MAX_MESSAGE_BYTES>();

/// A message that cannot be encoded or decoded.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The message is too long, or holds what the format cannot express.
    #[error("the message cannot be encoded: {0}")]
    Encode(String),
    /// The bytes are not a message of the expected kind.
    #[error("the message cannot be read: {0}")]
    Decode(String),
    /// The bytes hold a message and then something else.
    #[error("the message is followed by {0} bytes that do not belong to it")]
    Trailing(usize),
}

/// Encodes a message.
///
/// # Errors
/// [`CodecError::Encode`] if it is longer than [`ADMIN_BUFFER_BYTES`].
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, CodecError> {
    let bytes = bincode::serde::encode_to_vec(message, FORMAT)
        .map_err(|error| CodecError::Encode(error.to_string()))?;
    if bytes.len() > MAX_MESSAGE_BYTES {
        return Err(CodecError::Encode(format!(
            "{} bytes, at most {MAX_MESSAGE_BYTES}",
            bytes.len()
        )));
    }
    Ok(bytes)
}

/// Decodes a message that fills `bytes` exactly.
///
/// # Errors
/// [`CodecError::Decode`] or [`CodecError::Trailing`]. Memory beyond [`ADMIN_BUFFER_BYTES`] is
/// never allocated, whatever lengths the bytes claim.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let (message, used) = bincode::serde::decode_from_slice(bytes, FORMAT)
        .map_err(|error| CodecError::Decode(error.to_string()))?;
    match bytes.len() - used {
        0 => Ok(message),
        trailing => Err(CodecError::Trailing(trailing)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claimed_lengths_do_not_allocate() {
        let mut bytes = vec![253];
        bytes.extend_from_slice(&u64::MAX.to_le_bytes());
        assert!(decode::<Vec<u8>>(&bytes).is_err());
        assert!(decode::<String>(&bytes).is_err());
    }

    #[test]
    fn a_message_must_fill_its_bytes() {
        let mut bytes = encode(&(1u32, "name".to_owned())).expect("encodes");
        assert!(decode::<(u32, String)>(&bytes).is_ok());
        bytes.push(0);
        assert!(matches!(
            decode::<(u32, String)>(&bytes),
            Err(CodecError::Trailing(1))
        ));
        assert!(decode::<(u32, String)>(&bytes[..2]).is_err());
    }
}

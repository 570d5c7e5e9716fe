//! Keys and values of the index, one tree whose keys begin with a letter.
//!
//! ```text
//! key          value
//! "v"          version of everything in the index, 1 byte: 3
//! "c"          checkpoint: up to where in the journal the index is true
//! "m" + id     a message; the id in big-endian, so that keys sort as ids do
//! ```
//!
//! Each value is a CRC32C (little-endian) and a postcard encoding: the database below does not
//! always notice damage. The index can be made again from the journal at any time, so a version
//! that is not known is no error but a reason to do so.

use serde::{Deserialize, Serialize};

use crate::older::{Message1, Message2};
use crate::record::append;
use crate::{Message, QueueId, RecordError};

/// Key of the index's version.
pub const VERSION_KEY: &[u8] = b"v";
/// Its value.
pub const INDEX_VERSION: &[u8] = &[3];
/// Key of the [`Checkpoint`].
pub const CHECKPOINT_KEY: &[u8] = b"c";
/// First byte of a message's key.
pub const MESSAGE_PREFIX: &[u8] = b"m";

/// Up to where in the journal the index is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Every record before this offset of `segment`, and all of the segments before, is applied.
    pub segment: u64,
    /// See `segment`.
    pub offset: u64,
    /// The segment's salt: an index of another journal is not mistaken for this one's.
    pub salt: u32,
    /// The highest id the journal named so far.
    pub highest: QueueId,
}

/// A value that is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a value of the index is damaged")]
pub struct ValueError;

/// The key of a message.
pub fn message_key(id: QueueId) -> [u8; 9] {
    let mut key = [b'm'; 9];
    key[1..].copy_from_slice(&id.0.to_be_bytes());
    key
}

/// The id in a message's key.
pub fn message_id(key: &[u8]) -> Option<QueueId> {
    let digits = key.strip_prefix(MESSAGE_PREFIX)?;
    Some(QueueId(u64::from_be_bytes(digits.try_into().ok()?)))
}

/// The value of a message.
pub fn encode_message(message: &Message) -> Result<Vec<u8>, RecordError> {
    encode(message)
}

/// A message from its value, which may be one of version 1 or 2.
pub fn decode_message(value: &[u8]) -> Result<Message, ValueError> {
    decode(value)
        .or_else(|_| decode::<Message2>(value).map(Message::from))
        .or_else(|_| decode::<Message1>(value).map(Message::from))
}

/// The value of the checkpoint.
pub fn encode_checkpoint(checkpoint: &Checkpoint) -> Result<Vec<u8>, RecordError> {
    encode(checkpoint)
}

/// The checkpoint from its value.
pub fn decode_checkpoint(value: &[u8]) -> Result<Checkpoint, ValueError> {
    decode(value)
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, RecordError> {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(&[0; 4]);
    append(&mut out, value)?;
    let check = crc32c::crc32c(&out[4..]);
    out[..4].copy_from_slice(&check.to_le_bytes());
    Ok(out)
}

fn decode<T: for<'de> Deserialize<'de>>(value: &[u8]) -> Result<T, ValueError> {
    let (check, rest) = value.split_first_chunk::<4>().ok_or(ValueError)?;
    if crc32c::crc32c(rest).to_le_bytes() != *check {
        return Err(ValueError);
    }
    match postcard::take_from_bytes(rest) {
        Ok((decoded, [])) => Ok(decoded),
        _ => Err(ValueError),
    }
}

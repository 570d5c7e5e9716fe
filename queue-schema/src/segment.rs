//! The header of a segment file.
//!
//! ```text
//! offset  size
//!  0      8    "chaparJ\n"
//!  8      4    version, 1
//! 12      4    CRC32C of bytes 0 to 12 and 16 to 64
//! 16      8    segment number
//! 24      8    id floor: every id issued before the segment began is at most this
//! 32      4    salt of the frames' checksums
//! 36      4    0
//! 40      8    when it was begun, in milliseconds since 1970
//! 48     16    0
//! ```
//!
//! Numbers are little-endian. The header is written twice, 4096 bytes apart, so that one lost
//! block does not take the salt away; frames begin at 8192.

use crate::{Millis, QueueId, Stamp};

/// Bytes of one copy of the header.
pub const SEGMENT_HEADER: usize = 64;
/// Where the second copy is.
pub const SECOND_HEADER: usize = 4096;
/// Where the frames begin.
pub const SEGMENT_START: usize = 8192;

const MAGIC: [u8; 8] = *b"chaparJ\n";
const VERSION: u32 = 1;

/// What a segment says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// What its frames are checked with.
    pub stamp: Stamp,
    /// Every id issued before it began is at most this.
    pub id_floor: QueueId,
    /// When it was begun.
    pub created: Millis,
}

/// Why a file is no segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// Both copies of the header are damaged or cut off.
    #[error("both copies of the segment's header are damaged")]
    Damaged,
    /// Written by a newer chapar.
    #[error("the segment has version {0}, this chapar knows only version 1")]
    Newer(u32),
}

impl SegmentHeader {
    /// The first [`SEGMENT_START`] bytes of the file.
    pub fn encode(&self) -> Vec<u8> {
        let mut copy = [0u8; SEGMENT_HEADER];
        copy[0..8].copy_from_slice(&MAGIC);
        copy[8..12].copy_from_slice(&VERSION.to_le_bytes());
        copy[16..24].copy_from_slice(&self.stamp.segment.to_le_bytes());
        copy[24..32].copy_from_slice(&self.id_floor.0.to_le_bytes());
        copy[32..36].copy_from_slice(&self.stamp.salt.to_le_bytes());
        copy[40..48].copy_from_slice(&self.created.to_le_bytes());
        let check = check(&copy);
        copy[12..16].copy_from_slice(&check.to_le_bytes());
        let mut out = vec![0u8; SEGMENT_START];
        out[..SEGMENT_HEADER].copy_from_slice(&copy);
        out[SECOND_HEADER..SECOND_HEADER + SEGMENT_HEADER].copy_from_slice(&copy);
        out
    }

    /// Reads the header from the beginning of the file, or its second copy.
    pub fn decode(bytes: &[u8]) -> Result<SegmentHeader, SegmentError> {
        let second = bytes.get(SECOND_HEADER..).unwrap_or_default();
        match decode_copy(bytes) {
            Err(SegmentError::Damaged) => decode_copy(second),
            other => other,
        }
    }
}

fn check(copy: &[u8; SEGMENT_HEADER]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&copy[..12]), &copy[16..])
}

fn decode_copy(bytes: &[u8]) -> Result<SegmentHeader, SegmentError> {
    let copy = bytes
        .first_chunk::<SEGMENT_HEADER>()
        .ok_or(SegmentError::Damaged)?;
    let word = |at: usize| {
        let mut word = [0u8; 8];
        word.copy_from_slice(&copy[at..at + 8]);
        u64::from_le_bytes(word)
    };
    let half = |at: usize| u32::from_le_bytes([copy[at], copy[at + 1], copy[at + 2], copy[at + 3]]);
    if copy[..8] != MAGIC || half(12) != check(copy) {
        return Err(SegmentError::Damaged);
    }
    if half(8) != VERSION {
        return Err(SegmentError::Newer(half(8)));
    }
    Ok(SegmentHeader {
        stamp: Stamp {
            segment: word(16),
            salt: half(32),
        },
        id_floor: QueueId(word(24)),
        created: word(40),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            stamp: Stamp {
                segment: 12,
                salt: 0xDEAD_BEEF,
            },
            id_floor: QueueId(1 << 60),
            created: 1_700_000_000_000,
        }
    }

    #[test]
    fn one_damaged_copy_is_no_loss_and_a_newer_version_is_told() {
        let whole = header().encode();
        assert_eq!(whole.len(), SEGMENT_START);
        assert_eq!(SegmentHeader::decode(&whole), Ok(header()));
        let mut bytes = whole.clone();
        bytes[..512].fill(0);
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header()));
        bytes[SECOND_HEADER + 20] ^= 1;
        assert_eq!(SegmentHeader::decode(&bytes), Err(SegmentError::Damaged));
        let mut newer = whole;
        newer[8] = 2;
        let copy: [u8; SEGMENT_HEADER] = newer[..SEGMENT_HEADER].try_into().unwrap();
        newer[12..16].copy_from_slice(&check(&copy).to_le_bytes());
        assert_eq!(SegmentHeader::decode(&newer), Err(SegmentError::Newer(2)));
    }

    proptest! {
        #[test]
        fn random_bytes_are_no_segment(bytes: Vec<u8>) {
            prop_assert_eq!(SegmentHeader::decode(&bytes), Err(SegmentError::Damaged));
        }

        #[test]
        fn a_flipped_bit_of_a_copy_is_seen(place in 0..SEGMENT_HEADER, bit in 0..8u32) {
            let mut bytes = header().encode();
            bytes.truncate(SEGMENT_HEADER);
            bytes[place] ^= 1 << bit;
            prop_assert_eq!(SegmentHeader::decode(&bytes), Err(SegmentError::Damaged));
        }
    }
}

//! Frames: what makes a record of the journal recognisable, whole and ours.
//!
//! ```text
//! offset  size
//!  0      4    magic C5 68 71 01, where a scan finds its footing again after damage
//!  4      4    CRC32C of bytes 8 to 32, seeded with the segment's salt
//!  8      1    version, 3; 1 and 2 are read too
//!  9      1    kind
//! 10      2    flags: 1 = part of a group
//! 12      4    length of the payload in bytes
//! 16      8    queue id; 0 for a group
//! 24      4    CRC32C of the payload, seeded with the segment's salt
//! 28      4    lower 32 bits of the segment's number
//! 32           payload
//! ```
//!
//! Numbers are little-endian. The salt is random and secret to the store: a mail whose body looks
//! like a record can not become one when a damaged neighbour makes a scan look inside it. The
//! header has a checksum of its own so that such a look costs a header, not a payload.

use crate::QueueId;

/// First bytes of each frame.
pub const MAGIC: [u8; 4] = [0xC5, b'h', b'q', 1];
/// Bytes of a frame before its payload.
pub const FRAME_HEADER: usize = 32;
/// The version this code writes.
pub const VERSION: u8 = 3;

const GROUPED: u16 = 1;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A message with its present state and its bytes.
    Accepted = 1,
    /// New states of some recipients, from delivery.
    Progress = 2,
    /// New states by an operator: hold, release, replay, redirect.
    Control = 3,
    /// The last recipients' ends; the message is gone.
    Done = 4,
    /// Frames that hold together or not at all.
    Group = 5,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Accepted,
            2 => Kind::Progress,
            3 => Kind::Control,
            4 => Kind::Done,
            5 => Kind::Group,
            _ => return None,
        })
    }
}

/// What ties a frame to its segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The segment's number.
    pub segment: u64,
    /// The segment's salt.
    pub salt: u32,
}

impl Stamp {
    fn low(self) -> [u8; 4] {
        let bytes = self.segment.to_le_bytes();
        [bytes[0], bytes[1], bytes[2], bytes[3]]
    }
}

/// One whole, checked frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The version of its payload, 1 to 3.
    pub version: u8,
    /// What it holds.
    pub kind: Kind,
    /// Whether it was written as part of a group.
    pub grouped: bool,
    /// The message it is about.
    pub id: QueueId,
    /// The record's body.
    pub payload: &'a [u8],
}

impl Frame<'_> {
    /// Bytes of the whole frame.
    pub fn len(&self) -> usize {
        FRAME_HEADER + self.payload.len()
    }

    /// Never: a frame has a header.
    pub fn is_empty(&self) -> bool {
        false
    }
}

/// Why there is no frame at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The header is all zero: nothing was written here yet.
    #[error("nothing was written here")]
    Blank,
    /// The bytes end before the frame does.
    #[error("the record is cut short")]
    Truncated,
    /// No frame begins here, its header is damaged, or it belongs to another segment.
    #[error("the record's header is damaged")]
    Header,
    /// The header is sound, the payload is not.
    #[error("the record's content is damaged")]
    Payload,
    /// Written by a newer chapar.
    #[error("the record has version {version} and kind {kind}, which this chapar does not know")]
    Newer {
        /// Its version.
        version: u8,
        /// Its kind.
        kind: u8,
    },
}

/// Opens a frame at the end of `out`; its payload is what follows until [`finish`].
pub fn begin(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_HEADER]);
    start
}

/// Closes the frame opened at `start`: writes its header.
///
/// The payload must be shorter than 4 GiB; `false` means it is not, and the frame was taken back.
#[must_use]
pub fn finish(
    out: &mut Vec<u8>,
    start: usize,
    kind: Kind,
    id: QueueId,
    grouped: bool,
    stamp: Stamp,
) -> bool {
    let Some((head, payload)) = out
        .get_mut(start..)
        .and_then(|frame| frame.split_first_chunk_mut::<FRAME_HEADER>())
    else {
        return false;
    };
    let Ok(length) = u32::try_from(payload.len()) else {
        out.truncate(start);
        return false;
    };
    let flags = if grouped { GROUPED } else { 0 };
    head[0..4].copy_from_slice(&MAGIC);
    head[8] = VERSION;
    head[9] = kind as u8;
    head[10..12].copy_from_slice(&flags.to_le_bytes());
    head[12..16].copy_from_slice(&length.to_le_bytes());
    head[16..24].copy_from_slice(&id.0.to_le_bytes());
    head[24..28].copy_from_slice(&crc32c::crc32c_append(stamp.salt, payload).to_le_bytes());
    head[28..32].copy_from_slice(&stamp.low());
    let check = crc32c::crc32c_append(stamp.salt, &head[8..]);
    head[4..8].copy_from_slice(&check.to_le_bytes());
    true
}

/// What a frame's header says of it. Nothing is known of the payload yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The version of the payload, 1 to 3.
    pub version: u8,
    /// What the frame holds.
    pub kind: Kind,
    /// Whether it was written as part of a group.
    pub grouped: bool,
    /// The message it is about.
    pub id: QueueId,
    /// Bytes of the payload, which follows.
    pub length: u32,
    crc: [u8; 4],
}

/// Reads the header of a frame alone, to step over its payload.
pub fn header(head: &[u8; FRAME_HEADER], stamp: Stamp) -> Result<Header, FrameError> {
    if head.iter().all(|byte| *byte == 0) {
        return Err(FrameError::Blank);
    }
    let check = crc32c::crc32c_append(stamp.salt, &head[8..]);
    if head[0..4] != MAGIC || head[4..8] != check.to_le_bytes() || head[28..32] != stamp.low() {
        return Err(FrameError::Header);
    }
    let newer = FrameError::Newer {
        version: head[8],
        kind: head[9],
    };
    let flags = u16::from_le_bytes([head[10], head[11]]);
    let kind = Kind::from_byte(head[9]).ok_or(newer)?;
    if !(1..=VERSION).contains(&head[8]) || flags & !GROUPED != 0 {
        return Err(newer);
    }
    let id = [
        head[16], head[17], head[18], head[19], head[20], head[21], head[22], head[23],
    ];
    Ok(Header {
        version: head[8],
        kind,
        grouped: flags & GROUPED != 0,
        id: QueueId(u64::from_le_bytes(id)),
        length: u32::from_le_bytes([head[12], head[13], head[14], head[15]]),
        crc: [head[24], head[25], head[26], head[27]],
    })
}

/// Reads the frame that begins at `bytes[0]`; what follows it is not looked at.
pub fn read(bytes: &[u8], stamp: Stamp) -> Result<Frame<'_>, FrameError> {
    let Some((head, rest)) = bytes.split_first_chunk::<FRAME_HEADER>() else {
        let blank = bytes.iter().all(|byte| *byte == 0);
        return Err(if blank {
            FrameError::Blank
        } else {
            FrameError::Truncated
        });
    };
    let header = header(head, stamp)?;
    let payload = usize::try_from(header.length)
        .ok()
        .and_then(|length| rest.get(..length))
        .ok_or(FrameError::Truncated)?;
    if header.crc != crc32c::crc32c_append(stamp.salt, payload).to_le_bytes() {
        return Err(FrameError::Payload);
    }
    Ok(Frame {
        version: header.version,
        kind: header.kind,
        grouped: header.grouped,
        id: header.id,
        payload,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(payload: &[u8], id: u64, grouped: bool, stamp: Stamp) -> Vec<u8> {
        let mut out = b"before".to_vec();
        let start = begin(&mut out);
        out.extend_from_slice(payload);
        assert!(finish(
            &mut out,
            start,
            Kind::Progress,
            QueueId(id),
            grouped,
            stamp
        ));
        out.split_off(start)
    }

    #[test]
    fn a_newer_version_or_kind_is_told_apart_from_damage() {
        let stamp = Stamp {
            segment: 7,
            salt: 9,
        };
        for (place, value) in [(8, 4), (8, 0), (9, 77), (11, 0x80)] {
            let mut bytes = frame(b"x", 1, false, stamp);
            bytes[place] = value;
            let check = crc32c::crc32c_append(stamp.salt, &bytes[8..FRAME_HEADER]);
            bytes[4..8].copy_from_slice(&check.to_le_bytes());
            let newer = FrameError::Newer {
                version: bytes[8],
                kind: bytes[9],
            };
            assert_eq!(read(&bytes, stamp), Err(newer));
        }
    }

    #[test]
    fn blank_space_and_foreign_frames_are_no_frames() {
        let stamp = Stamp {
            segment: 7,
            salt: 9,
        };
        assert_eq!(read(&[0; 100], stamp), Err(FrameError::Blank));
        assert_eq!(read(&[], stamp), Err(FrameError::Blank));
        assert_eq!(read(&MAGIC, stamp), Err(FrameError::Truncated));
        let bytes = frame(b"x", 1, false, stamp);
        for other in [
            Stamp {
                segment: 8,
                salt: 9,
            },
            Stamp {
                segment: 7,
                salt: 8,
            },
        ] {
            assert_eq!(read(&bytes, other), Err(FrameError::Header));
        }
    }

    proptest! {
        #[test]
        fn frames_round_trip(payload: Vec<u8>, id: u64, grouped: bool, segment: u64, salt: u32) {
            let stamp = Stamp { segment, salt };
            let mut bytes = frame(&payload, id, grouped, stamp);
            let len = bytes.len();
            bytes.extend_from_slice(b"what follows");
            let read = read(&bytes, stamp).unwrap();
            prop_assert_eq!(read.payload, &payload[..]);
            prop_assert_eq!((read.id, read.grouped, read.kind), (QueueId(id), grouped, Kind::Progress));
            prop_assert_eq!(read.len(), len);
        }

        #[test]
        fn any_flipped_bit_and_any_cut_is_seen(
            payload in proptest::collection::vec(any::<u8>(), 0..200),
            at: proptest::sample::Index,
            bit in 0..8u32,
            salt: u32,
        ) {
            let stamp = Stamp { segment: 3, salt };
            let whole = frame(&payload, 42, false, stamp);
            let place = at.index(whole.len());
            let mut flipped = whole.clone();
            flipped[place] ^= 1 << bit;
            prop_assert!(read(&flipped, stamp).is_err());
            prop_assert!(read(&whole[..place], stamp).is_err());
        }

        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>, salt: u32, segment: u64) {
            let stamp = Stamp { segment, salt };
            prop_assert!(read(&bytes, stamp).is_err());
        }
    }
}

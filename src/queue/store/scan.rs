//! Finding the records of a segment, and finding the way again behind damage. Pure.

use std::ops::Range;

use queue_schema::frame::{self, MAGIC};
use queue_schema::{Frame, FrameError, Stamp};

/// What a scan met.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// A whole record.
    Frame {
        /// Where its first byte is in the segment.
        offset: usize,
        /// The record.
        frame: Frame<'a>,
    },
    /// Bytes that are no record, with records after them.
    Damage {
        /// Where they are.
        range: Range<usize>,
        /// What the first of them look like.
        reason: FrameError,
    },
}

/// How a segment ends.
#[derive(Debug, PartialEq, Eq)]
pub struct End {
    /// Where the last whole record ends.
    pub offset: usize,
    /// Bytes behind it that are no record, up to the last that is not zero: a write that was cut
    /// off, or damage.
    pub torn: Option<Range<usize>>,
}

/// Calls `each` with everything in `bytes` from `start`, in order. Stops early only at a record of
/// a newer version, which is the error.
pub fn scan<'a>(
    bytes: &'a [u8],
    start: usize,
    stamp: Stamp,
    mut each: impl FnMut(Found<'a>),
) -> Result<End, FrameError> {
    let mut offset = start;
    loop {
        let rest = bytes.get(offset..).unwrap_or_default();
        match frame::read(rest, stamp) {
            Ok(frame) => {
                each(Found::Frame { offset, frame });
                offset += frame.len();
            }
            Err(newer @ FrameError::Newer { .. }) => return Err(newer),
            Err(reason) => {
                let Some(used) = rest.iter().rposition(|byte| *byte != 0) else {
                    return Ok(End { offset, torn: None });
                };
                let Some(next) = resync(bytes, offset + 1, stamp) else {
                    let torn = Some(offset..offset + used + 1);
                    return Ok(End { offset, torn });
                };
                each(Found::Damage {
                    range: offset..next,
                    reason,
                });
                offset = next;
            }
        }
    }
}

/// The frames within a group's payload, which begins at `offset` of the segment.
pub fn group<'a>(
    payload: &'a [u8],
    offset: usize,
    stamp: Stamp,
) -> Option<Vec<(usize, Frame<'a>)>> {
    let mut frames = Vec::new();
    let mut at = 0;
    while at < payload.len() {
        let frame = frame::read(payload.get(at..)?, stamp).ok()?;
        frames.push((offset + at, frame));
        at += frame.len();
    }
    Some(frames)
}

fn resync(bytes: &[u8], from: usize, stamp: Stamp) -> Option<usize> {
    memchr::memmem::find_iter(bytes.get(from..)?, &MAGIC)
        .map(|at| from + at)
        .find(|at| {
            let rest = bytes.get(*at..).unwrap_or_default();
            matches!(
                frame::read(rest, stamp),
                Ok(_) | Err(FrameError::Newer { .. })
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use queue_schema::{Kind, QueueId};

    const STAMP: Stamp = Stamp {
        segment: 1,
        salt: 5,
    };

    fn journal(payloads: &[Vec<u8>]) -> (Vec<u8>, Vec<usize>) {
        let mut out = Vec::new();
        let mut offsets = Vec::new();
        for (id, payload) in (1..).zip(payloads) {
            let start = frame::begin(&mut out);
            offsets.push(start);
            out.extend_from_slice(payload);
            assert!(frame::finish(
                &mut out,
                start,
                Kind::Progress,
                QueueId(id),
                false,
                STAMP
            ));
        }
        (out, offsets)
    }

    fn ids(bytes: &[u8]) -> (Vec<u64>, Vec<Range<usize>>, End) {
        let (mut ids, mut damage) = (Vec::new(), Vec::new());
        let end = scan(bytes, 0, STAMP, |found| match found {
            Found::Frame { frame, .. } => ids.push(frame.id.0),
            Found::Damage { range, .. } => damage.push(range),
        });
        (ids, damage, end.unwrap())
    }

    #[test]
    fn a_record_inside_a_body_is_not_found_behind_damage_without_the_salt() {
        let foreign = Stamp { salt: 6, ..STAMP };
        let mut inner = Vec::new();
        let start = frame::begin(&mut inner);
        assert!(frame::finish(
            &mut inner,
            start,
            Kind::Done,
            QueueId(9),
            false,
            foreign
        ));
        let (mut bytes, offsets) = journal(&[inner, b"next".to_vec()]);
        bytes[5] ^= 1;
        let (found, damage, _) = ids(&bytes);
        assert_eq!(found, [2]);
        assert!(
            damage.len() == 1 && damage[0] == (0..offsets[1]),
            "{damage:?}"
        );
    }

    proptest! {
        /// Whatever bit flips in one record, all others are found and the damage is its range.
        #[test]
        fn one_damaged_record_costs_no_other(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 2..8),
            victim: proptest::sample::Index,
            place: proptest::sample::Index,
            bit in 0..8u32,
        ) {
            let (mut bytes, offsets) = journal(&payloads);
            let victim = victim.index(payloads.len() - 1);
            let range = offsets[victim]..offsets[victim + 1];
            bytes[range.start + place.index(range.len())] ^= 1 << bit;
            let (found, damage, end) = ids(&bytes);
            let expected: Vec<u64> =
                (1..=payloads.len() as u64).filter(|id| *id != victim as u64 + 1).collect();
            prop_assert_eq!(found, expected);
            prop_assert_eq!(damage, vec![range]);
            prop_assert_eq!(end, End { offset: bytes.len(), torn: None });
        }

        /// A cut anywhere leaves all records before it, and blank space behind is the end.
        #[test]
        fn a_cut_tail_is_the_end(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 1..8),
            cut: proptest::sample::Index,
        ) {
            let (bytes, mut offsets) = journal(&payloads);
            let cut = cut.index(bytes.len());
            offsets.push(bytes.len());
            // A record whose cut off end was blank anyway is whole.
            let blank = |end: usize| bytes[cut..end].iter().all(|byte| *byte == 0);
            let whole = offsets.iter().filter(|end| **end <= cut || blank(**end)).count() - 1;
            let mut torn = bytes[..cut].to_vec();
            torn.resize(cut + 500, 0);
            let (found, damage, end) = ids(&torn);
            prop_assert_eq!(found.len(), whole);
            prop_assert!(damage.is_empty());
            prop_assert_eq!(end.offset, offsets[whole]);
        }
    }
}

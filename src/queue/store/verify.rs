//! Verification: every checksum of the store is computed again, while the daemon runs or not.
//!
//! In pieces, so that it never keeps other readers waiting long. Nothing is changed; what is
//! damaged is put aside when it is needed or at the next start.

use std::ops::ControlFlow;

use queue_schema::frame::FRAME_HEADER;
use queue_schema::segment::SEGMENT_START;
use queue_schema::{Kind, QueueId, SegmentHeader};
use serde::{Deserialize, Serialize};

use super::StoreError;
use super::reader::Reader;
use super::scan::{self, Found};

/// Messages that are verified in one piece.
const PIECE: usize = 256;

/// Something that is damaged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The segment, or the message.
    pub place: String,
    /// What is wrong.
    pub problem: String,
}

impl Finding {
    fn new(place: impl ToString, problem: impl ToString) -> Finding {
        Finding {
            place: place.to_string(),
            problem: problem.to_string(),
        }
    }
}

impl Reader {
    /// Verifies the records of one segment: how many there are, and what is damaged.
    pub fn verify_segment(&self, number: u64) -> (u64, Vec<Finding>) {
        let name = format!("segment {number}");
        let used = self.used(number);
        let Some((segment, used)) = self.segment(number).zip(used) else {
            // Freed meanwhile.
            return (0, Vec::new());
        };
        let length = usize::try_from(used)
            .unwrap_or(usize::MAX)
            .max(SEGMENT_START);
        let mut bytes = vec![0; length];
        if let Err(error) = segment.file.read_exact_at(&mut bytes, 0) {
            return (0, vec![Finding::new(name, error)]);
        }
        let mut findings = Vec::new();
        if let Err(error) = SegmentHeader::decode(&bytes) {
            findings.push(Finding::new(&name, error));
        }
        let mut count = 0;
        let mut damaged = Vec::new();
        let end = scan::scan(&bytes, SEGMENT_START, segment.stamp, |found| match found {
            Found::Frame { offset, frame } if frame.kind == Kind::Group => {
                match scan::group(frame.payload, offset + FRAME_HEADER, segment.stamp) {
                    Some(frames) => count += frames.len() as u64,
                    None => damaged.push((offset, "a group of records is damaged".to_owned())),
                }
            }
            Found::Frame { .. } => count += 1,
            Found::Damage { range, reason } => damaged.push((range.start, reason.to_string())),
        });
        match end {
            Ok(end) if end.offset < length => {
                damaged.push((end.offset, "no record is where one was written".into()));
            }
            Ok(_) => {}
            Err(newer) => damaged.push((0, newer.to_string())),
        }
        let named = |(offset, problem)| Finding::new(format!("{name} at {offset}"), problem);
        findings.extend(damaged.into_iter().map(named));
        (count, findings)
    }

    /// Verifies some messages from `from` on: their values in the index, and that their bytes are
    /// where they should be and whole. Tells how many, what is damaged, and where to go on.
    pub fn verify_messages(
        &self,
        from: QueueId,
    ) -> Result<(u64, Vec<Finding>, Option<QueueId>), StoreError> {
        let mut messages = Vec::new();
        let mut next = None;
        self.scan(from, |message| {
            if messages.len() == PIECE {
                next = Some(message.id);
                return ControlFlow::Break(());
            }
            messages.push(message);
            ControlFlow::Continue(())
        })?;
        let mut findings = Vec::new();
        for message in &messages {
            if let Err(reason) = self.check(message.id, &message.location) {
                // It may have moved or ended since it was listed.
                let now = self.load(message.id)?;
                if let Some(now) = now
                    && let Err(reason) = self.check(now.id, &now.location)
                {
                    findings.push(Finding::new(now.id, reason));
                } else {
                    tracing::debug!(id = %message.id, reason, "it moved while it was verified");
                }
            }
        }
        Ok((messages.len() as u64, findings, next))
    }
}

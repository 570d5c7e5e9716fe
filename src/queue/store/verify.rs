//! Verification: every checksum of the store is computed again, while the daemon runs or not.
//!
//! In pieces, so that it never keeps other readers waiting long. Nothing is changed; what is
//! damaged is put aside when it is needed or at the next start.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use queue_schema::frame::FRAME_HEADER;
use queue_schema::segment::SEGMENT_START;
use queue_schema::{Kind, QueueId, SegmentHeader};
use serde::{Deserialize, Serialize};

use super::StoreError;
use super::reader::Reader;
use super::scan::{self, Found};
use super::shared::Usage;

/// How often what differs is looked at again.
const COUNTS: usize = 4;
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
    /// Compares what is counted of the segments with what the index and the changes since hold.
    /// Messages come and go meanwhile: what differs is counted again before it is called wrong.
    pub fn verify_counts(&self) -> Result<Vec<Finding>, StoreError> {
        let mut differing: Option<BTreeMap<u64, String>> = None;
        for _ in 0..COUNTS {
            let mut counted: BTreeMap<u64, Usage> = BTreeMap::new();
            let before = self.usage();
            self.scan(QueueId(0), |message| {
                let usage = counted.entry(message.location.segment).or_default();
                usage.add(&message);
                ControlFlow::Continue(())
            })?;
            let mut now = BTreeMap::new();
            let numbers: BTreeSet<u64> = before.keys().chain(counted.keys()).copied().collect();
            for number in numbers {
                let there = before.get(&number).copied().unwrap_or_default();
                let right = counted.get(&number).copied().unwrap_or_default();
                if (there.messages, there.live) != (right.messages, right.live) {
                    let text = format!(
                        "{} messages in {} bytes are counted, {} in {} are there",
                        there.messages, there.live, right.messages, right.live
                    );
                    now.insert(number, text);
                }
            }
            // Wrong is what differs in the same way each time.
            differing = Some(match differing {
                None => now,
                Some(known) => known
                    .into_iter()
                    .filter(|(number, text)| now.get(number) == Some(text))
                    .collect(),
            });
            if differing.as_ref().is_none_or(BTreeMap::is_empty) {
                return Ok(Vec::new());
            }
        }
        let wrong = differing.unwrap_or_default().into_iter();
        Ok(wrong
            .map(|(number, text)| Finding::new(format!("segment {number}"), text))
            .collect())
    }

    /// Compares the index with the journal: which messages its records say there are. Memory grows
    /// with them by about 16 bytes each.
    pub fn verify_journal(&self) -> Result<Vec<Finding>, StoreError> {
        let mut differing: Option<BTreeSet<(QueueId, bool)>> = None;
        for _ in 0..COUNTS {
            let journal = self.in_journal();
            let mut indexed = BTreeSet::new();
            self.scan(QueueId(0), |message| {
                indexed.insert(message.id);
                ControlFlow::Continue(())
            })?;
            let missing = journal.difference(&indexed).map(|id| (*id, true));
            let beyond = indexed.difference(&journal).map(|id| (*id, false));
            let now: BTreeSet<_> = missing.chain(beyond).collect();
            differing = Some(match differing {
                None => now,
                Some(known) => known.intersection(&now).copied().collect(),
            });
            if differing.as_ref().is_none_or(BTreeSet::is_empty) {
                return Ok(Vec::new());
            }
        }
        let wrong = differing.unwrap_or_default().into_iter();
        let text = |missing| match missing {
            true => "the journal has it and the index has not; run mta-queue rebuild",
            false => "the index has it and the journal has not; run mta-queue rebuild",
        };
        Ok(wrong
            .map(|(id, missing)| Finding::new(id, text(missing)))
            .collect())
    }

    /// The messages that live by the records of the journal alone.
    fn in_journal(&self) -> BTreeSet<QueueId> {
        let mut alive = BTreeSet::new();
        for (number, usage) in self.usage() {
            let Some(segment) = self.segment(number) else {
                continue;
            };
            let length = usize::try_from(usage.used).unwrap_or(usize::MAX);
            let mut bytes = vec![0; length.max(SEGMENT_START)];
            if segment.file.read_exact_at(&mut bytes, 0).is_err() {
                continue;
            }
            let mut each = |kind, id| match kind {
                Kind::Accepted => {
                    alive.insert(id);
                }
                Kind::Done => {
                    alive.remove(&id);
                }
                Kind::Progress | Kind::Control | Kind::Group => {}
            };
            // What is damaged is told by `verify_segment`.
            let _ = scan::scan(&bytes, SEGMENT_START, segment.stamp, |found| {
                let Found::Frame { offset, frame } = found else {
                    return;
                };
                if frame.kind == Kind::Group {
                    let inner = scan::group(frame.payload, offset + FRAME_HEADER, segment.stamp);
                    for (_, frame) in inner.unwrap_or_default() {
                        each(frame.kind, frame.id);
                    }
                } else if !frame.grouped || frame.kind == Kind::Accepted {
                    each(frame.kind, frame.id);
                }
            });
        }
        alive
    }

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
            // What was allocated and not used may come back when the power is cut after a segment
            // was closed: only where it is written to is it known to a byte what was written.
            Ok(end) if end.torn.is_some() || (end.offset < length && self.is_written(number)) => {
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

//! Replay: the journal's records, applied to the index once more.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use queue_schema::frame::FRAME_HEADER;
use queue_schema::index::Checkpoint;
use queue_schema::{Frame, FrameError, Kind, Message, QueueId, Record, record};

use super::OpenError;
use super::flusher::apply;
use super::index::Index;
use super::recover::{Damage, LoadError};
use super::scan::{self, Found};
use super::shared::{Changes, Entry, SegmentFile};

/// Replayed changes that are kept in memory before they go into the index.
const REPLAY_BATCH: usize = 20_000;

/// See the module.
pub struct Replay<'a> {
    index: &'a Index,
    dirty: Changes,
    /// Up to where was replayed.
    pub position: Checkpoint,
    /// What was damaged.
    pub damage: Vec<Damage>,
}

impl<'a> Replay<'a> {
    /// A replay into an index that is true up to `position`.
    pub fn new(index: &'a Index, position: Checkpoint) -> Replay<'a> {
        Replay {
            index,
            dirty: Changes::new(),
            position,
            damage: Vec::new(),
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one caller, and every one is needed once"
    )]
    pub fn segment(
        &mut self,
        path: &Path,
        number: u64,
        segment: &SegmentFile,
        bytes: &[u8],
        start: usize,
        last: bool,
        progress: &AtomicU64,
    ) -> Result<(u64, bool), LoadError> {
        let mut failed = None;
        let stamp = segment.stamp;
        self.position.segment = number;
        self.position.salt = stamp.salt;
        let end = scan::scan(bytes, start, stamp, |found| {
            progress.fetch_add(1, Ordering::Relaxed);
            if failed.is_some() {
                return;
            }
            let result = match found {
                Found::Damage { range, reason } => {
                    self.note(number, range, &reason);
                    Ok(())
                }
                Found::Frame { offset, frame } => {
                    let next = (offset + frame.len()) as u64;
                    self.frame(offset, &frame, segment)
                        .and_then(|()| self.advance(next))
                }
            };
            failed = result.err();
        });
        let end = end.map_err(|error: FrameError| {
            let path = path.to_path_buf();
            LoadError::Open(OpenError::Newer {
                path,
                reason: error.to_string(),
            })
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        let torn = end.torn.is_some();
        if let Some(range) = end.torn.filter(|_| !last) {
            self.note(number, range, &FrameError::Truncated);
        }
        self.position.offset = end.offset as u64;
        Ok((end.offset as u64, torn))
    }

    fn note(&mut self, segment: u64, range: Range<usize>, reason: &FrameError) {
        let range = range.start as u64..range.end as u64;
        self.damage.push(Damage {
            segment,
            range,
            reason: reason.to_string(),
        });
    }

    fn advance(&mut self, offset: u64) -> Result<(), LoadError> {
        self.position.offset = offset;
        if self.dirty.len() >= REPLAY_BATCH {
            self.flush()
        } else {
            Ok(())
        }
    }

    /// Moves what was replayed into the index.
    pub fn flush(&mut self) -> Result<(), LoadError> {
        if self.position.segment != 0 {
            apply(self.index, &self.dirty, &self.position)?;
        }
        self.dirty.clear();
        Ok(())
    }

    fn frame(
        &mut self,
        offset: usize,
        frame: &Frame<'_>,
        segment: &SegmentFile,
    ) -> Result<(), LoadError> {
        if frame.kind == Kind::Group {
            match scan::group(frame.payload, offset + FRAME_HEADER, segment.stamp) {
                Some(frames) => {
                    for (offset, frame) in frames {
                        self.record(offset, &frame, segment)?;
                    }
                }
                None => {
                    let range = offset..offset + frame.len();
                    self.note(segment.stamp.segment, range, &FrameError::Payload);
                }
            }
            return Ok(());
        }
        // The group around it is damaged. Its messages are wanted; a recipient's end may depend
        // on one of them that is lost.
        if frame.grouped && frame.kind != Kind::Accepted {
            return Ok(());
        }
        self.record(offset, frame, segment)
    }

    fn record(
        &mut self,
        offset: usize,
        frame: &Frame<'_>,
        segment: &SegmentFile,
    ) -> Result<(), LoadError> {
        let record = match record::decode(frame, segment.stamp) {
            Ok(record) => record,
            Err(error) => {
                let range = offset as u64..(offset + frame.len()) as u64;
                let segment = segment.stamp.segment;
                self.damage.push(Damage {
                    segment,
                    range,
                    reason: error.to_string(),
                });
                return Ok(());
            }
        };
        self.position.highest = self.position.highest.max(frame.id);
        match record {
            Record::Accepted(mut message) => {
                message.location.offset = offset as u64;
                self.set(frame.id, Some(Arc::new(*message)));
            }
            Record::Changed(id, change) => {
                // Unknown: it ended, and the record that began it is gone with its segment; or a
                // compacted copy follows that holds this change already.
                if let Some(message) = self.present(id)? {
                    let mut message = Message::clone(&message);
                    change.apply(&mut message);
                    self.set(id, Some(Arc::new(message)));
                }
            }
            Record::Done(id, _) => self.set(id, None),
        }
        Ok(())
    }

    fn set(&mut self, id: QueueId, message: Option<Arc<Message>>) {
        self.dirty.insert(
            id,
            Entry {
                message,
                born: false,
            },
        );
    }

    fn present(&self, id: QueueId) -> Result<Option<Arc<Message>>, LoadError> {
        match self.dirty.get(&id) {
            Some(entry) => Ok(entry.message.clone()),
            None => Ok(self.index.get(id)?.map(Arc::new)),
        }
    }
}

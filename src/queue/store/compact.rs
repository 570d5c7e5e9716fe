//! Compaction: what still lives in the oldest segment goes to the end of the journal, so that the
//! segment can be freed.
//!
//! Part of the flusher's turn; it asks the committer to write the copies and goes on: the answer is
//! picked up in a later turn, so that neither thread ever waits for the other. It walks by the
//! index, not by the records, so that damage stops nothing: a message that can not be read any more
//! goes to the quarantine and is named to the queue, which ends it. It reads only what it moves, a
//! piece at a time: however long a segment is, it costs about [`PIECE`] of memory. It never touches
//! a segment whose end is not yet in the index.

use std::sync::Arc;
use std::time::Duration;

use queue_schema::{Message, QueueId, frame, record};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::StoreError;
use super::disk::DiskFile;
use super::index::Index;
use super::reader::{Unread, read_range};
use super::request::{Relocation, Request};
use super::shared::{SegmentFile, Shared, Usage};

/// Messages that are moved with one request, so that new mail does not wait for many.
const RELOCATE: usize = 256;
/// Bytes after which a request goes although it has fewer.
const PIECE: usize = 1 << 20;
/// How long the oldest segment rests after its messages could not be moved.
const PAUSE: Duration = Duration::from_secs(600);
/// The same after what passes by itself, such as a full disk.
const SHORT_PAUSE: Duration = Duration::from_secs(5);
/// Dead bytes of the journal that are always tolerated.
const DEAD_BYTES: u64 = 1 << 30;

/// See the module.
pub struct Compactor {
    shared: Arc<Shared>,
    index: Index,
    requests: mpsc::WeakSender<Request>,
    after: Duration,
    /// The segment that is the oldest, and since when it could be compacted.
    candidate: Option<(u64, Instant)>,
    /// Nothing is moved before this.
    paused: Option<Instant>,
    walk: Option<Walk>,
}

/// How far the messages of a segment were gone through.
struct Walk {
    segment: u64,
    /// The next id to look at; `None` at the end.
    next: Option<QueueId>,
    /// The highest id that was ever in it.
    last: QueueId,
    moved: usize,
    lost: usize,
    /// The committer's answer to the last piece.
    asked: Option<oneshot::Receiver<Result<(), StoreError>>>,
}

/// Why a segment rests.
enum Rest {
    Long(String),
    Short(String),
}

impl Compactor {
    /// A compactor that leaves a segment alone for the time `after` it was ready: most of the
    /// messages in it are just being delivered.
    pub fn new(
        shared: Arc<Shared>,
        index: Index,
        requests: mpsc::WeakSender<Request>,
        after: Duration,
    ) -> Self {
        Compactor {
            shared,
            index,
            requests,
            after,
            candidate: None,
            paused: None,
            walk: None,
        }
    }

    /// Goes on with what is under way, or begins with the oldest segment, if little lives in it. The
    /// index is true up to a place in the segment `applied`.
    pub fn turn(&mut self, applied: u64) {
        let walk = match self.walk.take() {
            Some(walk) => Some(walk),
            None => self.begin(applied),
        };
        let Some(mut walk) = walk else { return };
        match self.go_on(&mut walk) {
            Ok(true) => self.walk = Some(walk),
            Ok(false) => {
                let (segment, moved, lost) = (walk.segment, walk.moved, walk.lost);
                tracing::debug!(segment, moved, lost, "compacted");
                self.shared.state().flush_now = true;
                if moved == 0 {
                    // Nothing was left, or nothing could be read.
                    self.paused = Some(Instant::now() + PAUSE);
                }
            }
            Err(rest) => {
                let (pause, reason) = match rest {
                    Rest::Long(reason) => (PAUSE, reason),
                    Rest::Short(reason) => (SHORT_PAUSE, reason),
                };
                self.paused = Some(Instant::now() + pause);
                tracing::warn!(
                    segment = walk.segment,
                    reason,
                    "a segment is not compacted now"
                );
            }
        }
    }

    fn begin(&mut self, applied: u64) -> Option<Walk> {
        if self.paused.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        self.paused = None;
        let Some((number, (low, last))) = self.wasteful(applied) else {
            self.candidate = None;
            return None;
        };
        let since = match self.candidate {
            Some((oldest, since)) if oldest == number => since,
            _ => Instant::now(),
        };
        self.candidate = Some((number, since));
        (since.elapsed() >= self.after).then_some(Walk {
            segment: number,
            next: Some(low),
            last,
            moved: 0,
            lost: 0,
            asked: None,
        })
    }

    /// The oldest segment, if it holds too little for its size, and the ids in it.
    fn wasteful(&self, applied: u64) -> Option<(u64, (QueueId, QueueId))> {
        let state = self.shared.state();
        let mut total = Usage::default();
        for usage in state.segments.values() {
            total.used += usage.used;
            total.live += usage.live;
        }
        let (number, usage) = state.segments.first_key_value()?;
        let mostly_dead = usage.live < usage.used / 4;
        let dead = total.used.saturating_sub(total.live);
        let wasteful = mostly_dead || dead > DEAD_BYTES.max(total.live);
        let wanted = *number < applied && usage.messages > 0 && wasteful;
        Some((*number, usage.ids?)).filter(|_| wanted)
    }

    /// Has the next piece moved, once the one before is durable. False at the end.
    fn go_on(&self, walk: &mut Walk) -> Result<bool, Rest> {
        if let Some(mut asked) = walk.asked.take() {
            match asked.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => {
                    walk.asked = Some(asked);
                    return Ok(true);
                }
                Ok(Ok(())) => {}
                Ok(Err(error)) if error.passes() => return Err(Rest::Short(error.to_string())),
                Ok(Err(error)) => return Err(Rest::Long(error.to_string())),
                Err(oneshot::error::TryRecvError::Closed) => {
                    return Err(Rest::Long("the store is closing".into()));
                }
            }
        }
        let Some(from) = walk.next else {
            return Ok(false);
        };
        let Some(segment) = self.shared.file(walk.segment) else {
            return Ok(false);
        };
        let (items, next) = self.piece(walk, &segment, from)?;
        if items.is_empty() {
            walk.next = next;
            return Ok(next.is_some());
        }
        let count = items.len();
        let (ack, asked) = oneshot::channel();
        let requests = self.requests.upgrade();
        let requests = requests.ok_or_else(|| Rest::Long("the store is closing".into()))?;
        // A full channel is no reason to wait: the same piece is asked for in the next turn.
        if requests.try_send(Request::Relocate { items, ack }).is_ok() {
            walk.asked = Some(asked);
            walk.next = next;
            walk.moved += count;
        }
        Ok(true)
    }

    /// Some messages of the segment from `from` on, with their bytes, and where to go on.
    fn piece(
        &self,
        walk: &mut Walk,
        segment: &SegmentFile,
        from: QueueId,
    ) -> Result<(Vec<Relocation>, Option<QueueId>), Rest> {
        let mut items = Vec::new();
        let mut bytes = 0;
        for message in self.index.within(from, walk.last) {
            let message = message.map_err(|error| {
                self.shared.index_trouble(&error);
                Rest::Short(error.to_string())
            })?;
            if items.len() == RELOCATE || bytes >= PIECE {
                return Ok((items, Some(message.id)));
            }
            if message.location.segment != walk.segment {
                continue;
            }
            // It may have ended or moved since the index heard of it.
            let known = self.shared.state().peek(message.id);
            let message = match known {
                Some(None) => continue,
                Some(Some(known)) => known,
                None => Arc::new(message),
            };
            if message.location.segment != walk.segment {
                continue;
            }
            match copy(&segment.file, segment, &message) {
                Ok(item) => {
                    bytes += item.head.len() + item.body.len();
                    items.push(item);
                }
                Err(Unread::Lost(reason)) => {
                    walk.lost += 1;
                    tracing::error!(id = %message.id, reason, "a message is damaged");
                    self.shared.lose(message.id, &message.location);
                }
                Err(Unread::Passing(reason)) => return Err(Rest::Short(reason)),
            }
        }
        Ok((items, None))
    }
}

/// The bytes of a message.
fn copy(file: &DiskFile, segment: &SegmentFile, message: &Message) -> Result<Relocation, Unread> {
    let place = &message.location;
    let bytes = read_range(file, place).map_err(|error| Unread::io(&error))?;
    let damaged = |reason: &dyn std::fmt::Display| Unread::Lost(reason.to_string());
    let frame = frame::read(&bytes, segment.stamp).map_err(|error| damaged(&error))?;
    if frame.id != message.id {
        return Err(damaged(&"another message is in its place"));
    }
    let (head, body) = record::content(&frame).map_err(|error| damaged(&error))?;
    Ok(Relocation {
        id: message.id,
        segment: place.segment,
        offset: place.offset,
        head: bytes.slice(head),
        body: bytes.slice(body),
    })
}

//! Compaction: what still lives in the oldest segment goes to the end of the journal, so that the
//! segment can be freed.
//!
//! Part of the flusher's turn; it asks the committer to write the copies. It steps from header to
//! header and reads only what it moves, a piece at a time: however long a segment is, it costs
//! about [`PIECE`] of memory. It never touches a segment whose end is not yet in the index.

use std::sync::Arc;
use std::time::Duration;

use queue_schema::frame::{self, FRAME_HEADER};
use queue_schema::segment::SEGMENT_START;
use queue_schema::{FrameError, Kind, Message, QueueId, Stamp, record};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::disk::DiskFile;
use super::index::Index;
use super::reader::read_range;
use super::request::{Relocation, Request};
use super::scan;
use super::shared::{Shared, Usage};

/// Messages that are moved with one request, so that new mail does not wait for many.
const RELOCATE: usize = 64;
/// Bytes after which a request goes although it has fewer.
const PIECE: usize = 1 << 20;
/// How long the oldest segment rests after its messages could not be moved.
const PAUSE: Duration = Duration::from_secs(600);
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
    pinned: Option<Instant>,
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
            pinned: None,
        }
    }

    /// Moves what lives in the oldest segment, if that is little. The index is true up to a place
    /// in the segment `applied`.
    pub fn turn(&mut self, applied: u64) {
        if self.pinned.is_some_and(|at| at.elapsed() < PAUSE) {
            return;
        }
        let Some(number) = self.wasteful(applied) else {
            self.candidate = None;
            return;
        };
        let since = match self.candidate {
            Some((oldest, since)) if oldest == number => since,
            _ => Instant::now(),
        };
        self.candidate = Some((number, since));
        if since.elapsed() < self.after {
            return;
        }
        match self.relocate(number) {
            Ok(moved) if moved > 0 => {
                tracing::debug!(segment = number, moved, "compacted");
                self.shared.state().flush_now = true;
            }
            // What could not be moved is damaged; the segment stays until those messages end.
            Ok(_) => self.pinned = Some(Instant::now()),
            Err(reason) => {
                self.pinned = Some(Instant::now());
                tracing::warn!(segment = number, reason, "a segment can not be compacted");
            }
        }
    }

    /// The oldest segment, if it holds too little for its size.
    fn wasteful(&self, applied: u64) -> Option<u64> {
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
        (*number < applied && usage.messages > 0 && wasteful).then_some(*number)
    }

    /// How many messages were moved out of the segment.
    fn relocate(&self, number: u64) -> Result<usize, String> {
        let segment = self.shared.file(number).ok_or("it is not open")?;
        let mut moved = 0;
        let mut bytes = 0;
        let mut items = Vec::new();
        let walked = walk(&segment.file, segment.stamp, |offset, id| {
            let present = Shared::present(&self.shared.state(), &self.index, id)
                .map_err(|error| error.to_string())?;
            let here = |message: &Arc<Message>| {
                message.location.segment == number && message.location.offset == offset
            };
            let item = present.filter(here);
            let item = item.and_then(|message| copy(&segment.file, segment.stamp, &message));
            if let Some(item) = item {
                bytes += item.head.len() + item.body.len();
                items.push(item);
            }
            if items.len() == RELOCATE || bytes >= PIECE {
                moved += items.len();
                bytes = 0;
                self.ask(std::mem::take(&mut items))?;
            }
            Ok(())
        });
        // What was found before an end that nobody expected is moved all the same.
        moved += items.len();
        self.ask(items)?;
        walked.map(|()| moved)
    }

    /// Has copies written; they are durable afterwards.
    fn ask(&self, items: Vec<Relocation>) -> Result<(), String> {
        if items.is_empty() {
            return Ok(());
        }
        let (ack, done) = oneshot::channel();
        let requests = self.requests.upgrade().ok_or("the store is closing")?;
        requests
            .blocking_send(Request::Relocate { items, ack })
            .map_err(|_| "the store is closing")?;
        drop(requests);
        match done.blocking_recv() {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(_) => Err("the store is closing".into()),
        }
    }
}

/// Calls `each` with the place and the id of every message that was accepted into a segment, up to
/// its end or the first damage.
fn walk(
    file: &DiskFile,
    stamp: Stamp,
    mut each: impl FnMut(u64, QueueId) -> Result<(), String>,
) -> Result<(), String> {
    let length = file.length().map_err(|error| error.to_string())?;
    let mut offset = SEGMENT_START as u64;
    while offset + FRAME_HEADER as u64 <= length {
        let mut head = [0; FRAME_HEADER];
        file.read_exact_at(&mut head, offset)
            .map_err(|error| error.to_string())?;
        let header = match frame::header(&head, stamp) {
            Ok(header) => header,
            Err(FrameError::Blank) => return Ok(()),
            Err(error) => return Err(format!("at {offset}: {error}")),
        };
        let start = offset + FRAME_HEADER as u64;
        let end = start + u64::from(header.length);
        if end > length {
            return Err(format!("at {offset}: {}", FrameError::Truncated));
        }
        match header.kind {
            Kind::Accepted => each(offset, header.id)?,
            Kind::Group => {
                let size = usize::try_from(header.length).map_err(|error| error.to_string())?;
                let mut payload = vec![0; size];
                file.read_exact_at(&mut payload, start)
                    .map_err(|error| error.to_string())?;
                let frames = scan::group(&payload, 0, stamp).unwrap_or_default();
                for (at, frame) in frames {
                    if frame.kind == Kind::Accepted {
                        each(start + at as u64, frame.id)?;
                    }
                }
            }
            Kind::Progress | Kind::Control | Kind::Done => {}
        }
        offset = end;
    }
    Ok(())
}

/// The bytes of a message; `None` if they are damaged.
fn copy(file: &DiskFile, stamp: Stamp, message: &Message) -> Option<Relocation> {
    let place = &message.location;
    let bytes = read_range(file, place).ok()?;
    let frame = frame::read(&bytes, stamp).ok()?;
    if frame.id != message.id {
        return None;
    }
    let (head, body) = record::content(&frame).ok()?;
    Some(Relocation {
        id: message.id,
        segment: place.segment,
        offset: place.offset,
        head: bytes.slice(head),
        body: bytes.slice(body),
    })
}

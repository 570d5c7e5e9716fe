//! The flusher: one thread that moves changes into the index and frees segments.
//!
//! Changes gather for half a second first: a message that came and went in that time never
//! touches the index. What is lost with the process is replayed from the journal.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use queue_schema::index::Checkpoint;
use queue_schema::segment::SEGMENT_START;
use queue_schema::{Kind, QueueId, record};
use tokio::sync::{mpsc, oneshot};

use super::index::{Batch, Index, IndexError};
use super::layout::sync_dir;
use super::request::{Relocation, Request};
use super::scan::{self, Found};
use super::shared::{Changes, Shared, Usage};
use super::{Options, failpoint};

/// Journal bytes after which the checkpoint moves although no change is left to apply.
const CHECKPOINT_BYTES: u64 = 32 << 20;
/// Messages that are moved with one request, so that new mail does not wait for many.
const RELOCATE: usize = 64;
/// How long the oldest segment rests after its messages could not be moved.
const COMPACTION_PAUSE: Duration = Duration::from_secs(600);
/// Dead bytes of the journal that are always tolerated.
const DEAD_BYTES: u64 = 1 << 30;

/// See the module.
pub struct Flusher {
    shared: Arc<Shared>,
    index: Index,
    requests: mpsc::WeakSender<Request>,
    options: Options,
    applied: Checkpoint,
    pinned: Option<Instant>,
}

impl Flusher {
    /// A flusher of an index that is true up to `applied`.
    pub fn new(
        shared: Arc<Shared>,
        index: Index,
        requests: mpsc::WeakSender<Request>,
        options: Options,
        applied: Checkpoint,
    ) -> Self {
        Flusher {
            shared,
            index,
            requests,
            options,
            applied,
            pinned: None,
        }
    }

    /// Runs until told to stop, then flushes a last time.
    pub fn run(mut self) {
        loop {
            let stopping = self.wait();
            if self.shared.failure().is_some() {
                if stopping {
                    return;
                }
                continue;
            }
            if let Err(error) = self.flush(stopping) {
                self.shared.fail_index(&error);
                continue;
            }
            self.remove_spool();
            if let Err(error) = self.free() {
                tracing::warn!(%error, "a segment that is not needed any more can not be removed");
            }
            if stopping {
                return;
            }
            self.compact();
        }
    }

    fn wait(&self) -> bool {
        let state = self.shared.state();
        let turn = &self.shared.turn;
        let waited = turn.wait_timeout_while(state, self.options.flush_every, |state| {
            !state.flush_now && !state.stopping
        });
        let mut state = match waited {
            Ok((state, _)) => state,
            Err(poisoned) => poisoned.into_inner().0,
        };
        state.flush_now = false;
        state.stopping
    }

    fn flush(&mut self, stopping: bool) -> Result<(), IndexError> {
        let (changes, position) = {
            let mut state = self.shared.state();
            let position = state.position;
            let moved = position.segment != self.applied.segment
                || position.offset > self.applied.offset + CHECKPOINT_BYTES
                || (stopping && position != self.applied);
            if state.dirty.is_empty() && !moved {
                return Ok(());
            }
            let changes = Arc::new(std::mem::take(&mut state.dirty));
            state.flushing = changes.clone();
            (changes, position)
        };
        apply(&self.index, &changes, &position)?;
        failpoint("index-applied");
        self.index.flush()?;
        failpoint("index-flushed");
        self.applied = position;
        self.shared.state().flushing = Arc::default();
        self.shared.turn.notify_all();
        Ok(())
    }

    /// Removes the files of messages whose end is on disk.
    fn remove_spool(&self) {
        let finished = std::mem::take(&mut self.shared.state().finished);
        for name in finished {
            match fs::remove_file(self.shared.layout.spool.join(&name)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(%error, name, "a spool file can not be removed"),
            }
        }
    }

    /// Removes segments strictly from the oldest: a younger one may hold the end of a message
    /// that began in an older one, and would bring it back if it went first.
    fn free(&self) -> io::Result<()> {
        loop {
            let oldest = self
                .shared
                .state()
                .segments
                .first_key_value()
                .map(|(n, u)| (*n, *u));
            let Some((number, Usage { messages: 0, .. })) = oldest else {
                return Ok(());
            };
            if number >= self.applied.segment {
                return Ok(());
            }
            match fs::remove_file(self.shared.layout.segment(number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => sync_dir(&self.shared.layout.journal)?,
            }
            self.shared.state().segments.remove(&number);
            self.shared.set_file(number, None);
        }
    }

    /// Moves what lives in the oldest segment to the end of the journal, if that is little.
    fn compact(&mut self) {
        if self
            .pinned
            .is_some_and(|at| at.elapsed() < COMPACTION_PAUSE)
        {
            return;
        }
        let (number, usage, total) = {
            let state = self.shared.state();
            let mut total = Usage::default();
            for usage in state.segments.values() {
                total.used += usage.used;
                total.live += usage.live;
            }
            match state.segments.first_key_value() {
                Some((number, usage)) if *number < self.applied.segment => (*number, *usage, total),
                _ => return,
            }
        };
        let mostly_dead = usage.live < usage.used / 4;
        let dead = total.used.saturating_sub(total.live);
        if usage.messages == 0 || !(mostly_dead || dead > DEAD_BYTES.max(total.live)) {
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

    fn relocate(&self, number: u64) -> Result<usize, String> {
        let segment = self.shared.file(number).ok_or("it is not open")?;
        let bytes = Bytes::from(read_segment(&segment.file).map_err(|error| error.to_string())?);
        let mut offsets = Vec::new();
        let mut note = |offset: usize, kind: Kind, id: QueueId| {
            if kind == Kind::Accepted {
                offsets.push((offset, id));
            }
        };
        scan::scan(&bytes, SEGMENT_START, segment.stamp, |found| {
            let Found::Frame { offset, frame } = found else {
                return;
            };
            if frame.kind == Kind::Group {
                let start = offset + queue_schema::frame::FRAME_HEADER;
                let group = scan::group(frame.payload, start, segment.stamp);
                for (offset, frame) in group.unwrap_or_default() {
                    note(offset, frame.kind, frame.id);
                }
            } else {
                note(offset, frame.kind, frame.id);
            }
        })
        .map_err(|error| error.to_string())?;

        let mut moved = 0;
        for chunk in offsets.chunks(RELOCATE) {
            let mut items = Vec::new();
            for (offset, id) in chunk {
                let present = Shared::present(&self.shared.state(), &self.index, *id)
                    .map_err(|error| error.to_string())?;
                let here = present.is_some_and(|message| {
                    message.location.segment == number && message.location.offset == *offset as u64
                });
                if here && let Some(item) = relocation(&bytes, number, *offset, *id, segment.stamp)
                {
                    items.push(item);
                }
            }
            if items.is_empty() {
                continue;
            }
            moved += items.len();
            let (ack, done) = oneshot::channel();
            let requests = self.requests.upgrade().ok_or("the store is closing")?;
            requests
                .blocking_send(Request::Relocate { items, ack })
                .map_err(|_| "the store is closing")?;
            drop(requests);
            match done.blocking_recv() {
                Ok(result) => result.map_err(|error| error.to_string())?,
                Err(_) => return Err("the store is closing".into()),
            }
        }
        Ok(moved)
    }
}

fn relocation(
    bytes: &Bytes,
    segment: u64,
    offset: usize,
    id: QueueId,
    stamp: queue_schema::Stamp,
) -> Option<Relocation> {
    let rest = bytes.get(offset..)?;
    let frame = queue_schema::frame::read(rest, stamp).ok()?;
    let (head, body) = record::content(&frame).ok()?;
    Some(Relocation {
        id,
        segment,
        offset: offset as u64,
        head: bytes.slice(offset + head.start..offset + head.end),
        body: bytes.slice(offset + body.start..offset + body.end),
    })
}

/// Puts changes and the place they lead up to into the index, all or nothing.
pub fn apply(index: &Index, changes: &Changes, position: &Checkpoint) -> Result<(), IndexError> {
    let mut batch = Batch::default();
    for (id, entry) in changes {
        match &entry.message {
            Some(message) => batch.put(message)?,
            None => batch.remove(*id),
        }
    }
    batch.checkpoint(position)?;
    index.apply(batch)
}

/// Bytes of a whole segment file. No segment is larger than this many.
pub const LARGEST_SEGMENT: u64 = 4 << 30;

/// Reads a segment into memory.
pub fn read_segment(file: &fs::File) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    if length > LARGEST_SEGMENT {
        return Err(io::Error::other("it is larger than any segment"));
    }
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

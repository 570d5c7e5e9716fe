//! The flusher: one thread that moves changes into the index and frees segments.
//!
//! Changes gather for half a second first: a message that came and went in that time never
//! touches the index. What is lost with the process is replayed from the journal.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use queue_schema::index::Checkpoint;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::compact::Compactor;
use super::index::{Batch, Index, IndexError};
use super::request::Request;
use super::shared::{Changes, Shared, Tenants, Usage};
use super::{Options, Store, failpoint, journal, look};

/// Journal bytes after which the checkpoint moves although no change is left to apply.
const CHECKPOINT_BYTES: u64 = 32 << 20;

/// Bytes that must be free for the index to be written.
pub const INDEX_ROOM: u64 = 4 << 20;
/// The same for each change.
const CHANGE_ROOM: u64 = 2 << 10;
/// How long an index stays in memory before it is tried to write it.
const AGAIN: Duration = Duration::from_secs(2);

/// See the module.
pub struct Flusher {
    shared: Arc<Shared>,
    index: Index,
    flush_every: Duration,
    applied: Checkpoint,
    compactor: Compactor,
    segment_size: u64,
    /// When it was tried last to bring an index in memory to the disk.
    tried: Option<Instant>,
}

impl Flusher {
    /// A flusher of an index that is true up to `applied`.
    pub fn new(
        shared: Arc<Shared>,
        index: Index,
        requests: mpsc::WeakSender<Request>,
        options: &Options,
        applied: Checkpoint,
    ) -> Self {
        Flusher {
            compactor: Compactor::new(
                shared.clone(),
                index.clone(),
                requests,
                options.compact_after,
            ),
            shared,
            index,
            flush_every: options.flush_every,
            applied,
            segment_size: options.segment_size,
            tried: None,
        }
    }

    /// Runs until told to stop, then flushes a last time.
    pub fn run(mut self) {
        loop {
            let stopping = self.wait();
            self.turn(stopping);
            if stopping {
                return;
            }
        }
    }

    /// Moves what has changed, frees what is not needed, and compacts a little. What fails for lack
    /// of room is tried again in the next turn.
    pub fn turn(&mut self, stopping: bool) {
        if self.shared.failure().is_some() {
            return;
        }
        if !stopping {
            self.keep_reserve();
            self.go_back_to_disk();
        }
        if self.shared.take_index_lost() && !self.index.is_in_memory() {
            self.index.leave();
            self.fall_back(&IndexError::Passing("can not be read".into()));
        }
        let room = self.has_room();
        self.shared.set_stalled(!room);
        if stopping && !room {
            self.index.leave();
        }
        if room && let Err(error) = self.flush(stopping) {
            if !error.passes() {
                return self.shared.fail_index(&error);
            }
            self.shared.set_stalled(true);
            self.fall_back(&error);
        }
        self.remove_spool();
        match self.free() {
            Ok(()) => {}
            Err(FreeError::Index(error)) => self.shared.index_trouble(&error),
            Err(error) => {
                tracing::warn!(%error, "a segment that is not needed any more can not be removed");
            }
        }
        if !stopping && room {
            self.compactor.turn(self.applied.segment);
        }
    }

    /// Makes the reserve for outcomes when there is none.
    fn keep_reserve(&self) {
        if self.shared.reserve() == 0
            && let Ok(bytes) = journal::make_reserve(&self.shared.layout, self.segment_size)
        {
            self.shared.set_reserve(bytes);
        }
    }

    /// Whether the disk has room for the changes in the index. sled can not go on after a write that
    /// found none, so it is asked first.
    fn has_room(&self) -> bool {
        if self.index.is_in_memory() {
            return true;
        }
        let changes = self.shared.state().dirty.len() as u64;
        let wanted = INDEX_ROOM + changes.saturating_mul(CHANGE_ROOM);
        self.free_bytes().is_none_or(|free| free >= wanted)
    }

    fn free_bytes(&self) -> Option<u64> {
        let layout = &self.shared.layout;
        layout.disk.free(&layout.root).ok().map(|free| free.bytes)
    }

    /// The index could not be written, for a reason that passes: what it held is made again from the
    /// journal, in memory, and goes on there. Nothing is known to be wrong with it; it is replaced
    /// when there is room.
    fn fall_back(&mut self, error: &IndexError) {
        tracing::error!(%error, "the index is held in memory until it can be written again");
        let memory = look::in_memory(&self.shared.layout, self.applied);
        match memory {
            Ok(memory) => {
                self.index.replace(&memory);
                let mut state = self.shared.state();
                state.take_back();
                // Where the journal is damaged the index knows other messages now.
                state.recount = true;
                drop(state);
                self.tried = Some(Instant::now());
            }
            Err(error) => self.shared.fail_index(&error),
        }
    }

    /// An index that is held in memory goes to the disk when it can.
    fn go_back_to_disk(&mut self) {
        let early = self.tried.is_some_and(|at| at.elapsed() < AGAIN);
        if early || !self.index.is_in_memory() {
            return;
        }
        let Some(bytes) = self.index.memory() else {
            return;
        };
        self.tried = Some(Instant::now());
        let wanted = INDEX_ROOM + bytes.saturating_mul(2);
        if self.free_bytes().is_some_and(|free| free < wanted) {
            return;
        }
        let layout = &self.shared.layout;
        let fresh = || {
            if layout.disk.exists(&layout.index) {
                let gone = layout.disk.remove_dir(&layout.index);
                gone.map_err(|error| IndexError::new(format!("can not be removed: {error}")))?;
            }
            let fresh = Index::open(&layout.disk, &layout.index)?;
            self.index.copy_to(&fresh)?;
            // It was made anew by this.
            let _ = layout.disk.remove_file(&layout.index_mark());
            Ok::<Index, IndexError>(fresh)
        };
        // sled may panic on what it does not expect; what is in memory is not touched by it.
        match catch_unwind(AssertUnwindSafe(fresh)) {
            Ok(Ok(fresh)) => {
                self.index.replace(&fresh);
                tracing::info!("the index is on the disk again");
            }
            Ok(Err(error)) => tracing::warn!(%error, "the index stays in memory"),
            Err(_) => tracing::warn!("the index stays in memory: it panicked on the disk"),
        }
    }

    fn wait(&self) -> bool {
        let state = self.shared.state();
        let turn = &self.shared.turn;
        let waited = turn.wait_timeout_while(state, self.flush_every, |state| {
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
        self.follow(stopping)?;
        if stopping {
            return Ok(());
        }
        // Also where nothing was to be written: reading takes memory as well.
        let layout = &self.shared.layout;
        self.index.open_again(&layout.disk, &layout.index)
    }

    /// Brings the index up to the end of the journal.
    fn follow(&mut self, stopping: bool) -> Result<(), IndexError> {
        let (changes, position) = {
            let mut state = self.shared.state();
            let position = state.position;
            let moved = position.segment != self.applied.segment
                || position.offset > self.applied.offset + CHECKPOINT_BYTES
                || (stopping && position != self.applied);
            if state.dirty.is_empty() && !moved {
                return Ok(());
            }
            (state.take(), position)
        };
        apply(&self.index, &changes, &position)?;
        failpoint("index-applied");
        self.index.flush()?;
        failpoint("index-flushed");
        self.applied = position;
        self.shared.state().flushing = Arc::default();
        self.shared.turn.notify_all();
        self.shared.flushed.notify_waiters();
        Ok(())
    }

    /// Removes the files of messages whose end is on disk.
    fn remove_spool(&self) {
        let finished = std::mem::take(&mut self.shared.state().finished);
        for name in finished {
            let layout = &self.shared.layout;
            match layout.disk.remove_file(&layout.spool.join(&name)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(%error, name, "a spool file can not be removed"),
            }
        }
    }

    /// Removes segments strictly from the oldest: a younger one may hold the end of a message
    /// that began in an older one, and would bring it back if it went first. The index has the last
    /// word on whether one is empty, not what was counted.
    fn free(&self) -> Result<(), FreeError> {
        if self.shared.state().recount {
            self.shared.recount(&self.index)?;
        }
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
            // Where there is no room for the index to follow, its place in the journal may go: the
            // next start then makes it anew.
            let ahead = self.shared.stalled();
            let (number_now, applied) =
                (self.shared.state().position.segment, self.applied.segment);
            if number >= if ahead { number_now } else { applied } {
                return Ok(());
            }
            match self.shared.tenants(&self.index, number)? {
                Tenants::Nobody => {}
                Tenants::Leaving if ahead => {}
                Tenants::Leaving => return Ok(()),
                Tenants::Live => {
                    tracing::error!(
                        segment = number,
                        "a fault of ours: a segment counts as empty and is not; segments are \
                         counted anew, please report it"
                    );
                    return Ok(self.shared.recount(&self.index)?);
                }
            }
            let layout = &self.shared.layout;
            match layout.disk.remove_file(&layout.segment(number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                _ => layout.disk.sync_dir(&layout.journal)?,
            }
            self.shared.state().segments.remove(&number);
            self.shared.set_file(number, None);
        }
    }
}

/// Why a segment can not be removed.
#[derive(Debug, thiserror::Error)]
enum FreeError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Index(#[from] IndexError),
}

impl Store {
    /// Waits until at most `most` changed messages wait for the index, or the store failed: who
    /// changes very many keeps the memory bounded that they take meanwhile.
    pub async fn calm(&self, most: usize) {
        let shared = &self.0.shared;
        while shared.failure().is_none() {
            let flushed = shared.flushed.notified();
            {
                let mut state = shared.state();
                if state.stopping || state.dirty.len() <= most {
                    return;
                }
                state.flush_now = true;
            }
            shared.turn.notify_all();
            flushed.await;
        }
    }
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

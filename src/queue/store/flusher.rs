//! The flusher: one thread that moves changes into the index and frees segments.
//!
//! Changes gather for half a second first: a message that came and went in that time never
//! touches the index. What is lost with the process is replayed from the journal.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use queue_schema::index::Checkpoint;
use tokio::sync::mpsc;

use super::compact::Compactor;
use super::index::{Batch, Index, IndexError};
use super::request::Request;
use super::shared::{Changes, Shared, Usage};
use super::{Options, failpoint};

/// Journal bytes after which the checkpoint moves although no change is left to apply.
const CHECKPOINT_BYTES: u64 = 32 << 20;

/// See the module.
pub struct Flusher {
    shared: Arc<Shared>,
    index: Index,
    flush_every: Duration,
    applied: Checkpoint,
    compactor: Compactor,
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

    /// Moves what has changed, frees what is not needed, and compacts a little.
    pub fn turn(&mut self, stopping: bool) {
        if self.shared.failure().is_some() {
            return;
        }
        if let Err(error) = self.flush(stopping) {
            return self.shared.fail_index(&error);
        }
        self.remove_spool();
        if let Err(error) = self.free() {
            tracing::warn!(%error, "a segment that is not needed any more can not be removed");
        }
        if !stopping {
            self.compactor.turn(self.applied.segment);
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
            let layout = &self.shared.layout;
            match layout.disk.remove_file(&layout.spool.join(&name)) {
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
            let layout = &self.shared.layout;
            match layout.disk.remove_file(&layout.segment(number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => layout.disk.sync_dir(&layout.journal)?,
            }
            self.shared.state().segments.remove(&number);
            self.shared.set_file(number, None);
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

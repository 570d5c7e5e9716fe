//! What the threads of the store share: changes the index does not hold yet, and where messages
//! live in the journal.
//!
//! The committer alone changes messages; the flusher moves changes into the index and frees
//! segments; readers look. One mutex guards it all and is never held during I/O, with one rare
//! exception that is explained at [`Shared::present`].

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use queue_schema::index::Checkpoint;
use queue_schema::{BodyPlace, Message, QueueId, Stamp};

use super::StoreError;
use super::disk::DiskFile;
use super::index::{Index, IndexError};
use super::layout::Layout;

/// An open segment file.
#[derive(Debug)]
pub struct SegmentFile {
    /// The file.
    pub file: DiskFile,
    /// What its frames are checked with.
    pub stamp: Stamp,
}

/// What lives in a segment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of records written to it.
    pub used: u64,
    /// Bytes of `Accepted` records whose messages live.
    pub live: u64,
    /// How many messages that are.
    pub messages: u64,
}

/// A change the index does not hold yet.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The message as it is now; `None` if it is gone.
    pub message: Option<Arc<Message>>,
    /// Whether the index never heard of it: then its end is no change at all.
    pub born: bool,
}

/// Changes by message, in the order of ids, so that a page of them can be taken.
pub type Changes = BTreeMap<QueueId, Entry>;

/// Guarded by the one mutex.
#[derive(Debug)]
pub struct State {
    /// Changes since the flusher last took them.
    pub dirty: Changes,
    /// Changes the flusher is moving into the index.
    pub flushing: Arc<Changes>,
    /// All segments.
    pub segments: BTreeMap<u64, Usage>,
    /// Up to where `dirty` follows the journal.
    pub position: Checkpoint,
    /// Spool files of messages that are done.
    pub finished: Vec<String>,
    /// The flusher shall not wait for its next turn.
    pub flush_now: bool,
    /// The flusher shall flush once more and end.
    pub stopping: bool,
}

/// See the module.
pub struct Shared {
    /// Where files are.
    pub layout: Layout,
    state: Mutex<State>,
    /// Wakes the flusher, and the committer when a flush has ended.
    pub turn: Condvar,
    files: RwLock<BTreeMap<u64, Arc<SegmentFile>>>,
    failed: OnceLock<String>,
    failed_index: OnceLock<String>,
}

impl Shared {
    /// The state after recovery.
    pub fn new(
        layout: Layout,
        segments: BTreeMap<u64, Usage>,
        files: BTreeMap<u64, Arc<SegmentFile>>,
        position: Checkpoint,
    ) -> Shared {
        Shared {
            layout,
            state: Mutex::new(State {
                dirty: Changes::new(),
                flushing: Arc::default(),
                segments,
                position,
                finished: Vec::new(),
                flush_now: false,
                stopping: false,
            }),
            turn: Condvar::new(),
            files: RwLock::new(files),
            failed: OnceLock::new(),
            failed_index: OnceLock::new(),
        }
    }

    /// The state. A thread that panicked while holding it ends the process anyway.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An open segment.
    pub fn file(&self, number: u64) -> Option<Arc<SegmentFile>> {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        files.get(&number).cloned()
    }

    /// Adds or removes a segment.
    pub fn set_file(&self, number: u64, file: Option<Arc<SegmentFile>>) {
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        match file {
            Some(file) => files.insert(number, file),
            None => files.remove(&number),
        };
    }

    /// From now on the store is read-only.
    pub fn fail(&self, reason: String) {
        if self.failed.set(reason.clone()).is_ok() {
            tracing::error!(
                reason,
                "the queue is read-only until a restart: mail is refused with 451"
            );
        }
    }

    /// The index failed. New mail is refused; outcomes of what is under way still go into the
    /// journal; the next start makes the index anew.
    pub fn fail_index(&self, error: &IndexError) {
        if self.failed_index.set(error.to_string()).is_err() {
            return;
        }
        tracing::error!(%error, "no mail is taken until a restart, which makes the index anew");
        if let Err(error) = self.layout.mark_index() {
            let path = self.layout.index_mark();
            tracing::error!(%error, path = %path.display(), "can not be written");
        }
    }

    /// Why nothing can be written any more.
    pub fn journal_failure(&self) -> Option<StoreError> {
        self.failed.get().cloned().map(StoreError::Failed)
    }

    /// Why the index can not be used any more.
    pub fn index_failure(&self) -> Option<StoreError> {
        self.failed_index.get().cloned().map(StoreError::Failed)
    }

    /// Why no new mail is taken.
    pub fn failure(&self) -> Option<StoreError> {
        self.journal_failure().or_else(|| self.index_failure())
    }

    /// A message as it is now: from the changes, else from the index.
    ///
    /// The committer calls this while it holds the state only for messages that were moved by a
    /// compaction while an attempt was under way, and for those being moved.
    pub fn present(
        state: &State,
        index: &Index,
        id: QueueId,
    ) -> Result<Option<Arc<Message>>, IndexError> {
        match state.peek(id) {
            Some(known) => Ok(known),
            None => Ok(index.get(id)?.map(Arc::new)),
        }
    }
}

impl State {
    /// What the changes say about a message; `None` if nothing, then the index knows.
    pub fn peek(&self, id: QueueId) -> Option<Option<Arc<Message>>> {
        let entry = self.dirty.get(&id).or_else(|| self.flushing.get(&id))?;
        Some(entry.message.clone())
    }

    /// A new message.
    pub fn accepted(&mut self, message: Arc<Message>) {
        self.add_usage(&message);
        self.position.highest = self.position.highest.max(message.id);
        let entry = Entry {
            message: Some(message.clone()),
            born: true,
        };
        self.dirty.insert(message.id, entry);
    }

    /// New states of a message whose location is right.
    pub fn changed(&mut self, message: Arc<Message>) {
        let born = self.dirty.get(&message.id).is_some_and(|entry| entry.born);
        let entry = Entry {
            message: Some(message.clone()),
            born,
        };
        self.dirty.insert(message.id, entry);
    }

    /// The bytes of `old` are now where `new` says.
    pub fn moved(&mut self, old: &Message, new: Arc<Message>) {
        self.remove_usage(old);
        self.add_usage(&new);
        self.changed(new);
    }

    /// The message is gone.
    pub fn done(&mut self, message: &Message) {
        self.remove_usage(message);
        if let BodyPlace::Spool(spool) = &message.location.body {
            self.finished.push(spool.name.clone());
        }
        if self.dirty.get(&message.id).is_some_and(|entry| entry.born) {
            self.dirty.remove(&message.id);
        } else {
            self.dirty.insert(
                message.id,
                Entry {
                    message: None,
                    born: false,
                },
            );
        }
    }

    fn add_usage(&mut self, message: &Message) {
        let usage = self.segments.entry(message.location.segment).or_default();
        usage.live += u64::from(message.location.length);
        usage.messages += 1;
    }

    fn remove_usage(&mut self, message: &Message) {
        if let Some(usage) = self.segments.get_mut(&message.location.segment) {
            usage.live = usage
                .live
                .saturating_sub(u64::from(message.location.length));
            usage.messages = usage.messages.saturating_sub(1);
        }
    }
}

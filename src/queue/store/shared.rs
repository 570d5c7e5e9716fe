//! What the threads of the store share: changes the index does not hold yet, and where messages
//! live in the journal.
//!
//! The committer alone changes messages; the flusher moves changes into the index and frees
//! segments; readers look. One mutex guards it all and is never held during I/O, with one rare
//! exception that is explained at [`Shared::recount`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use queue_schema::index::Checkpoint;
use queue_schema::{BodyPlace, Location, Message, QueueId, Stamp};
use tokio::sync::Notify;

use super::StoreError;
use super::disk::DiskFile;
use super::index::{Index, IndexError};
use super::layout::Layout;
use super::reader::read_range;

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
    /// The lowest and the highest id that was ever counted here.
    pub ids: Option<(QueueId, QueueId)>,
}

impl Usage {
    /// Counts a message.
    pub fn add(&mut self, message: &Message) {
        self.live += u64::from(message.location.length);
        self.messages += 1;
        let (low, high) = self.ids.unwrap_or((message.id, message.id));
        self.ids = Some((low.min(message.id), high.max(message.id)));
    }

    /// Counts it no more; false if it can not have been counted.
    fn remove(&mut self, message: &Message) -> bool {
        let live = self.live.checked_sub(u64::from(message.location.length));
        let messages = self.messages.checked_sub(1);
        self.live = live.unwrap_or_default();
        self.messages = messages.unwrap_or_default();
        live.is_some() && messages.is_some()
    }
}

/// Who is in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tenants {
    /// Nobody.
    Nobody,
    /// The index does not hold yet that they left.
    Leaving,
    /// Messages that live.
    Live,
}

/// A change the index does not hold yet.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The message as it is now; `None` if it is gone.
    pub message: Option<Arc<Message>>,
    /// Whether the index never heard of it: then its end is no change at all.
    pub born: bool,
}

/// Bytes that a message takes in memory besides its texts, and that each recipient takes.
const MESSAGE: usize = 512;

impl Entry {
    /// Bytes of memory it takes, about.
    fn weight(&self) -> usize {
        let texts = |message: &Arc<Message>| {
            let recipients = message.envelope.recipients.iter();
            let addresses = recipients.map(|to| to.address.len()).sum::<usize>();
            let replies = message.states.iter().map(|state| {
                let reply = state.last_reply.as_ref();
                MESSAGE / 2 + reply.map_or(0, |reply| reply.text.len())
            });
            let story = message.story.iter().map(|event| 128 + event.text.len());
            MESSAGE + addresses + replies.sum::<usize>() + story.sum::<usize>()
        };
        128 + self.message.as_ref().map_or(0, texts)
    }
}

/// Changes by message, in the order of ids, so that a page of them can be taken.
pub type Changes = BTreeMap<QueueId, Entry>;

/// Guarded by the one mutex.
#[derive(Debug)]
pub struct State {
    /// Changes since the flusher last took them.
    pub dirty: Changes,
    /// Bytes of memory that the messages in `dirty` take, about.
    pub weight: usize,
    /// Changes the flusher is moving into the index.
    pub flushing: Arc<Changes>,
    /// All segments.
    pub segments: BTreeMap<u64, Usage>,
    /// Up to where `dirty` follows the journal.
    pub position: Checkpoint,
    /// Spool files of messages that are done.
    pub finished: Vec<String>,
    /// What is counted of segments is known to be wrong.
    pub recount: bool,
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
    /// A flush has ended, or none will.
    pub flushed: tokio::sync::Notify,
    files: RwLock<BTreeMap<u64, Arc<SegmentFile>>>,
    failed: OnceLock<String>,
    failed_index: OnceLock<String>,
    /// Messages whose bytes are gone or damaged, which the queue has not heard of yet.
    lost: Mutex<BTreeSet<QueueId>>,
    /// Wakes the queue to hear of them.
    pub lost_news: Arc<Notify>,
    /// Why it is only read.
    only_read: OnceLock<String>,
    /// Bytes of the reserve; see `journal`.
    reserve: AtomicU64,
    /// Bytes that the present segment still has room for.
    rest: AtomicU64,
    /// There is no room for the index to follow: changes stay in memory.
    stalled: AtomicBool,
    /// The index could not be asked, for a reason that passes.
    index_lost: AtomicBool,
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
                weight: 0,
                flushing: Arc::default(),
                segments,
                position,
                finished: Vec::new(),
                recount: false,
                flush_now: false,
                stopping: false,
            }),
            turn: Condvar::new(),
            flushed: tokio::sync::Notify::new(),
            files: RwLock::new(files),
            failed: OnceLock::new(),
            failed_index: OnceLock::new(),
            lost: Mutex::default(),
            lost_news: Arc::default(),
            only_read: OnceLock::new(),
            reserve: AtomicU64::new(0),
            rest: AtomicU64::new(0),
            stalled: AtomicBool::new(false),
            index_lost: AtomicBool::new(false),
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
            self.flushed.notify_waiters();
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
        self.flushed.notify_waiters();
        tracing::error!(%error, "no mail is taken until a restart, which makes the index anew");
        if let Err(error) = self.layout.mark_index() {
            let path = self.layout.index_mark();
            tracing::error!(%error, path = %path.display(), "can not be written");
        }
    }

    /// The index could not be asked or told. What passes is mended by the flusher.
    pub fn index_trouble(&self, error: &IndexError) {
        if error.passes() {
            self.index_lost.store(true, Ordering::Release);
        } else {
            self.fail_index(error);
        }
    }

    /// Whether the index could not be asked, for a reason that passes, since this was asked last.
    pub fn take_index_lost(&self) -> bool {
        self.index_lost.swap(false, Ordering::AcqRel)
    }

    /// [`Shared::index_trouble`], and the answer to whoever asked.
    pub fn not_read(&self, error: &IndexError) -> StoreError {
        self.index_trouble(error);
        match error.passes() {
            true => StoreError::Unready(error.to_string()),
            false => StoreError::Failed(error.to_string()),
        }
    }

    /// The bytes of a message are gone or damaged: what is left of them is kept in the quarantine,
    /// and the queue hears of it.
    pub fn lose(&self, id: QueueId, location: &Location) {
        let layout = &self.layout;
        let bytes = self.file(location.segment);
        let bytes = bytes.and_then(|segment| read_range(&segment.file, location).ok());
        if let Some(bytes) = bytes
            && let Err(error) = layout.quarantine(&format!("{id}.record"), &bytes)
        {
            tracing::error!(%id, %error, "a message is damaged and can not be kept");
        }
        if let BodyPlace::Spool(spool) = &location.body {
            let from = layout.spool.join(&spool.name);
            let to = layout.quarantine.join(format!("{id}.body"));
            // A link, not a copy: it costs nothing and outlives the name in the spool directory.
            let _ = layout.disk.hard_link(&from, &to);
        }
        tracing::error!(%id, "a message is damaged; what is left of it is in the quarantine");
        self.lost_ones().insert(id);
        self.lost_news.notify_one();
    }

    fn lost_ones(&self) -> MutexGuard<'_, BTreeSet<QueueId>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Messages whose bytes were lost since this was asked last.
    pub fn take_lost(&self) -> BTreeSet<QueueId> {
        std::mem::take(&mut *self.lost_ones())
    }

    /// The store is read and nothing else.
    pub fn only_read(&self, why: String) {
        // Said once, before anybody else has it.
        let _ = self.only_read.set(why);
    }

    /// Bytes of the reserve for outcomes.
    pub fn reserve(&self) -> u64 {
        self.reserve.load(Ordering::Acquire)
    }

    /// It has so many bytes from now on.
    pub fn set_reserve(&self, bytes: u64) {
        self.reserve.store(bytes, Ordering::Release);
    }

    /// The present segment has room for so many bytes.
    pub fn set_rest(&self, bytes: u64) {
        self.rest.store(bytes, Ordering::Release);
    }

    /// Bytes of outcomes for which there is room, whatever the disk says. While there is a reserve
    /// new mail may take the rest of the segment; without one it is refused.
    pub fn room_for_outcomes(&self) -> u64 {
        match self.reserve() {
            0 => self.rest.load(Ordering::Acquire),
            reserve => reserve,
        }
    }

    /// Whether the index can not follow for lack of room.
    pub fn stalled(&self) -> bool {
        self.stalled.load(Ordering::Acquire)
    }

    /// It can not, or can again.
    pub fn set_stalled(&self, stalled: bool) {
        if self.stalled.swap(stalled, Ordering::AcqRel) != stalled {
            match stalled {
                true => tracing::error!(
                    "no room for the index: changes stay in memory, new mail gets 452; free some \
                     on the file system of data_dir"
                ),
                false => tracing::info!("there is room for the index again"),
            }
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
        let read = || self.only_read.get().cloned().map(StoreError::Failed);
        self.journal_failure()
            .or_else(|| self.index_failure())
            .or_else(read)
    }

    /// A message as it is now: from the changes, else from the index.
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

    /// Who is in a segment that counts as empty. Asked before it is removed: a wrong count must
    /// never cost a message.
    pub fn tenants(&self, index: &Index, number: u64) -> Result<Tenants, IndexError> {
        let (ids, changed) = {
            let state = self.state();
            let ids = state.segments.get(&number).and_then(|usage| usage.ids);
            let Some((low, high)) = ids else {
                return Ok(Tenants::Nobody);
            };
            let both = [&state.dirty, &*state.flushing];
            let mut changes = both.into_iter().flat_map(|map| map.range(low..=high));
            let here = |entry: &Entry| match &entry.message {
                Some(message) => message.location.segment == number,
                None => false,
            };
            ((low, high), changes.any(|(_, entry)| here(entry)))
        };
        if changed {
            return Ok(Tenants::Live);
        }
        for message in index.within(ids.0, ids.1) {
            let message = message?;
            if message.location.segment == number {
                return Ok(match self.state().peek(message.id) {
                    Some(_) => Tenants::Leaving,
                    None => Tenants::Live,
                });
            }
        }
        Ok(Tenants::Nobody)
    }

    /// Counts anew what is in the segments. The state is held while the index is read: this happens
    /// after a fault only, and what is counted meanwhile would be counted wrong again.
    pub fn recount(&self, index: &Index) -> Result<(), IndexError> {
        let mut state = self.state();
        let mut counted: BTreeMap<u64, Usage> = BTreeMap::new();
        let mut count = |message: &Message| {
            let usage = counted.entry(message.location.segment).or_default();
            usage.add(message);
        };
        for message in index.messages(QueueId(0)) {
            let message = message?;
            if state.peek(message.id).is_none() {
                count(&message);
            }
        }
        let flushing = state.flushing.iter();
        let older = flushing.filter(|(id, _)| !state.dirty.contains_key(id));
        for (_, entry) in older.chain(&state.dirty) {
            if let Some(message) = &entry.message {
                count(message);
            }
        }
        for (number, usage) in &mut state.segments {
            let counted = counted.remove(number).unwrap_or_default();
            *usage = Usage {
                used: usage.used,
                ..counted
            };
        }
        state.recount = false;
        Ok(())
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
        self.insert(message.id, entry);
    }

    /// New states of a message whose location is right.
    pub fn changed(&mut self, message: Arc<Message>) {
        let born = self.dirty.get(&message.id).is_some_and(|entry| entry.born);
        let entry = Entry {
            message: Some(message.clone()),
            born,
        };
        self.insert(message.id, entry);
    }

    /// The bytes of `old` are now where `new` says.
    pub fn moved(&mut self, old: &Message, new: Arc<Message>) {
        self.remove_usage(old);
        self.add_usage(&new);
        self.changed(new);
    }

    /// The message, which is there, is gone.
    pub fn done(&mut self, message: &Message) {
        self.remove_usage(message);
        if let BodyPlace::Spool(spool) = &message.location.body {
            self.finished.push(spool.name.clone());
        }
        if self.dirty.get(&message.id).is_some_and(|entry| entry.born) {
            if let Some(entry) = self.dirty.remove(&message.id) {
                self.weight = self.weight.saturating_sub(entry.weight());
            }
        } else {
            let entry = Entry {
                message: None,
                born: false,
            };
            self.insert(message.id, entry);
        }
    }

    fn insert(&mut self, id: QueueId, entry: Entry) {
        self.weight += entry.weight();
        if let Some(before) = self.dirty.insert(id, entry) {
            self.weight = self.weight.saturating_sub(before.weight());
        }
    }

    /// Gives the changes to the flusher.
    pub fn take(&mut self) -> Arc<Changes> {
        self.weight = 0;
        self.flushing = Arc::new(std::mem::take(&mut self.dirty));
        self.flushing.clone()
    }

    /// Takes back what the flusher could not move.
    pub fn take_back(&mut self) {
        let flushing = std::mem::take(&mut self.flushing);
        for (id, entry) in Arc::unwrap_or_clone(flushing) {
            if !self.dirty.contains_key(&id) {
                self.insert(id, entry);
            }
        }
    }

    fn add_usage(&mut self, message: &Message) {
        let segment = message.location.segment;
        self.segments.entry(segment).or_default().add(message);
    }

    fn remove_usage(&mut self, message: &Message) {
        let usage = self.segments.get_mut(&message.location.segment);
        let right = usage.is_some_and(|usage| usage.remove(message));
        if !right {
            // Where the index did not say where it was, that is known already.
            debug_assert!(
                self.recount,
                "{} was counted out of a segment twice",
                message.id
            );
            tracing::error!(
                id = %message.id,
                segment = message.location.segment,
                "a fault of ours: a message left a segment that it was not in; segments are \
                 counted anew, please report it"
            );
            self.recount = true;
        }
    }
}

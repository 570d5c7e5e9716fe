//! The index: sled, told what to hold and asked nothing it could lose.
//!
//! sled's `Db` can be sent but not shared, so whoever asks borrows a handle of it. All of them
//! follow [`Index::replace`]: while there is no room on the disk the index is held in memory, made
//! from the journal, and goes back to the disk when there is (see `flusher`).
//!
//! sled never gives back the memory of a leaf that it wrote, and pages out what it only read when
//! it flushes, which an index that is only read never does. So the index is closed and opened again
//! when enough was written or read ([`Index::open_again`]); else a million messages that wait would
//! take 300 bytes each for ever, from a start or a `list` on.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use queue_schema::index::{
    self, CHECKPOINT_KEY, Checkpoint, INDEX_VERSION, MESSAGE_PREFIX, VERSION_KEY,
};
use queue_schema::{Message, QueueId};

use super::disk::Disk;

/// Leaves of up to so many small values: one leaf is what a flush rewrites. sled's cache has 256
/// parts and keeps two leaves in each, however small it is to be: with 64 that is about 16 MiB.
const FANOUT: usize = 64;
/// Bytes of memory that sled may use for what was read.
const CACHE: usize = 4 << 20;
/// Milliseconds after which sled flushes by itself: a year. The flusher does, and with `None` every
/// handle and iterator would as well when it is dropped, on whatever thread and however full the
/// disk.
const NEVER: usize = 365 * 24 * 3600 * 1000;
/// Bytes of values that were written or read after which the index is opened again.
const HELD: u64 = 16 << 20;
/// Values that are read at once while all are gone through.
const PAGE: usize = 1024;
/// Errors of the system that say nothing about the index and pass: ENOSPC, EDQUOT, EMFILE, ENFILE,
/// ENOMEM, EIO, EINTR, EAGAIN. sled keeps only their text.
const PASSING: [i32; 8] = [28, 122, 24, 23, 12, 5, 4, 11];

/// The index. Clones of it are the same one.
#[derive(Clone)]
pub struct Index(Arc<RwLock<Home>>);

/// Where the index is. Whoever asks holds the lock to read; who replaces it or opens it again waits
/// until nobody asks.
struct Home {
    tree: Mutex<Tree>,
    /// Handles of the tree that nobody uses now.
    spare: Mutex<Vec<Tree>>,
    /// Bytes of keys and values that were written or read since it was opened.
    held: AtomicU64,
}

/// The database that holds it.
#[derive(Clone)]
enum Tree {
    Sled(Sled),
    Memory(Memory),
    /// It could not be opened again, and is about to be replaced.
    Closed,
    /// A map in memory that a simulation owns.
    #[cfg(any(test, feature = "simulation"))]
    Simulated(crate::sim::tree::SimTree),
}

/// sled, and whether it failed to write or may not any more. Then it must not be dropped: it would
/// wait for ever for the write that failed, or end the process over the next.
#[derive(Clone)]
struct Sled {
    db: Option<Box<sled::Db<FANOUT>>>,
    broken: Arc<AtomicBool>,
}

/// Keys and their values, in order.
type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// A tree that is lost with the process.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<BTreeMap<Vec<u8>, Vec<u8>>>>);

/// Why the index can not be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IndexError {
    /// It is put aside and made again from the journal.
    #[error("the index {0}")]
    Broken(String),
    /// Something is missing that says nothing about the index: room, file handles.
    #[error("the index {0}")]
    Passing(String),
}

impl IndexError {
    /// One that condemns the index.
    pub fn new(text: impl Into<String>) -> Self {
        IndexError::Broken(text.into())
    }

    fn io(error: io::Error) -> Self {
        let text = error.to_string();
        let kinds = [
            io::ErrorKind::StorageFull,
            io::ErrorKind::QuotaExceeded,
            io::ErrorKind::OutOfMemory,
            io::ErrorKind::ReadOnlyFilesystem,
        ];
        let named = |number: &i32| text.contains(&format!("(os error {number})"));
        if kinds.contains(&error.kind()) || PASSING.iter().any(named) {
            return IndexError::Passing(format!("reports: {text}"));
        }
        IndexError::Broken(format!("reports: {text}"))
    }

    fn closed() -> Self {
        IndexError::Passing("is closed for the moment".into())
    }

    /// Whether it says nothing about the index.
    pub fn passes(&self) -> bool {
        matches!(self, IndexError::Passing(_))
    }
}

/// Changes that become true together.
#[derive(Default)]
pub struct Batch(Vec<(Vec<u8>, Option<Vec<u8>>)>);

impl Batch {
    /// The message is so.
    pub fn put(&mut self, message: &Message) -> Result<(), IndexError> {
        let value = index::encode_message(message)
            .map_err(|error| IndexError::new(format!("can not hold {}: {error}", message.id)))?;
        let key = index::message_key(message.id).to_vec();
        self.0.push((key, Some(value)));
        Ok(())
    }

    /// The message is gone.
    pub fn remove(&mut self, id: QueueId) {
        self.0.push((index::message_key(id).to_vec(), None));
    }

    fn bytes(&self) -> u64 {
        let bytes = |(key, value): &(Vec<u8>, Option<Vec<u8>>)| {
            (key.len() + value.as_ref().map_or(0, Vec::len)) as u64
        };
        self.0.iter().map(bytes).sum()
    }

    /// The journal up to here is applied.
    pub fn checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<(), IndexError> {
        let value = index::encode_checkpoint(checkpoint)
            .map_err(|error| IndexError::new(format!("can not hold the checkpoint: {error}")))?;
        self.0.push((CHECKPOINT_KEY.to_vec(), Some(value)));
        let version = INDEX_VERSION.to_vec();
        self.0.push((VERSION_KEY.to_vec(), Some(version)));
        Ok(())
    }
}

impl Tree {
    fn open(disk: &Disk, path: &Path) -> Result<Tree, IndexError> {
        #[cfg(any(test, feature = "simulation"))]
        if let Some(disk) = disk.simulation() {
            let tree = crate::sim::tree::SimTree::open(disk, path);
            return tree.map(Tree::Simulated).map_err(IndexError::io);
        }
        #[cfg(not(any(test, feature = "simulation")))]
        let _ = disk;
        let db = sled::Config::new()
            .path(path)
            .flush_every_ms(Some(NEVER))
            .cache_capacity_bytes(CACHE)
            .zstd_compression_level(1)
            .open::<FANOUT>()
            .map_err(IndexError::io)?;
        Ok(Tree::Sled(Sled {
            db: Some(Box::new(db)),
            broken: Arc::default(),
        }))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        match self {
            Tree::Sled(sled) => {
                let value = sled.db()?.get(key).map_err(IndexError::io)?;
                Ok(value.map(|value| value.to_vec()))
            }
            Tree::Memory(memory) => Ok(memory.lock().get(key).cloned()),
            Tree::Closed => Err(IndexError::closed()),
            #[cfg(any(test, feature = "simulation"))]
            Tree::Simulated(tree) => tree.get(key).map_err(IndexError::io),
        }
    }

    fn is_empty(&self) -> Result<bool, IndexError> {
        match self {
            Tree::Sled(sled) => sled.db()?.is_empty().map_err(IndexError::io),
            Tree::Memory(memory) => Ok(memory.lock().is_empty()),
            Tree::Closed => Err(IndexError::closed()),
            #[cfg(any(test, feature = "simulation"))]
            Tree::Simulated(tree) => tree.is_empty().map_err(IndexError::io),
        }
    }

    /// Up to [`PAGE`] keys from `from` on, below `end`, with their values.
    fn page(&self, from: &[u8], end: &[u8]) -> Result<Pairs, IndexError> {
        if from >= end {
            return Ok(Vec::new());
        }
        match self {
            Tree::Sled(sled) => {
                let range = sled.db()?.range(from..end).take(PAGE);
                let both = range.map(|item| {
                    let (key, value) = item.map_err(IndexError::io)?;
                    Ok((key.to_vec(), value.to_vec()))
                });
                both.collect()
            }
            Tree::Memory(memory) => {
                let memory = memory.lock();
                let range = memory.range::<[u8], _>((
                    std::ops::Bound::Included(from),
                    std::ops::Bound::Excluded(end),
                ));
                let both = range.take(PAGE);
                Ok(both
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect())
            }
            Tree::Closed => Err(IndexError::closed()),
            #[cfg(any(test, feature = "simulation"))]
            Tree::Simulated(tree) => tree.range(from, end).map_err(IndexError::io),
        }
    }

    fn apply(&self, batch: Batch) -> Result<(), IndexError> {
        match self {
            Tree::Sled(sled) => {
                let mut changes = sled::Batch::default();
                for (key, value) in batch.0 {
                    match value {
                        Some(value) => changes.insert(key, value),
                        None => changes.remove(key),
                    }
                }
                sled.wrote(sled.db()?.apply_batch(changes))
            }
            Tree::Memory(memory) => {
                let mut memory = memory.lock();
                for (key, value) in batch.0 {
                    match value {
                        Some(value) => memory.insert(key, value),
                        None => memory.remove(&key),
                    };
                }
                Ok(())
            }
            Tree::Closed => Err(IndexError::closed()),
            #[cfg(any(test, feature = "simulation"))]
            Tree::Simulated(tree) => tree.apply(batch.0).map_err(IndexError::io),
        }
    }

    fn flush(&self) -> Result<(), IndexError> {
        match self {
            Tree::Sled(sled) => sled.wrote(sled.db()?.flush().map(|_| ())),
            Tree::Memory(_) => Ok(()),
            Tree::Closed => Err(IndexError::closed()),
            #[cfg(any(test, feature = "simulation"))]
            Tree::Simulated(tree) => tree.flush().map_err(IndexError::io),
        }
    }
}

impl Sled {
    fn db(&self) -> Result<&sled::Db<FANOUT>, IndexError> {
        let gone = || IndexError::new("is closed");
        self.db.as_deref().ok_or_else(gone)
    }

    fn wrote(&self, result: io::Result<()>) -> Result<(), IndexError> {
        result.map_err(|error| {
            self.broken.store(true, Ordering::Release);
            IndexError::io(error)
        })
    }
}

impl Drop for Sled {
    fn drop(&mut self) {
        if self.broken.load(Ordering::Acquire) || std::thread::panicking() {
            std::mem::forget(self.db.take());
        }
    }
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bytes(&self) -> u64 {
        let memory = self.lock();
        let bytes = |(key, value): (&Vec<u8>, &Vec<u8>)| (key.len() + value.len()) as u64;
        memory.iter().map(bytes).sum()
    }
}

impl Home {
    fn new(tree: Tree) -> Home {
        Home {
            tree: Mutex::new(tree),
            spare: Mutex::default(),
            held: AtomicU64::new(0),
        }
    }

    /// So many bytes of values were read.
    fn was_read(&self, bytes: usize) {
        self.held.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Tree>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A handle that nobody else uses.
    fn handle(&self) -> Tree {
        let spare = self.spare().pop();
        spare.unwrap_or_else(|| {
            let tree = self.tree.lock().unwrap_or_else(PoisonError::into_inner);
            tree.clone()
        })
    }
}

impl Index {
    fn new(tree: Tree) -> Index {
        Index(Arc::new(RwLock::new(Home::new(tree))))
    }

    /// Opens or begins the index in `path`. May panic or hang on damage: see `recover`.
    pub fn open(disk: &Disk, path: &Path) -> Result<Index, IndexError> {
        Ok(Index::new(Tree::open(disk, path)?))
    }

    /// One in memory that holds nothing yet.
    pub fn in_memory() -> Index {
        Index::new(Tree::Memory(Memory::default()))
    }

    /// It is not used any more and must not be flushed as it closes, for there is no room: sled
    /// would end the process.
    pub fn leave(&self) {
        self.with(|tree| {
            if let Tree::Sled(sled) = tree {
                sled.broken.store(true, Ordering::Release);
            }
        });
    }

    /// Whether it is in memory.
    pub fn is_in_memory(&self) -> bool {
        self.with(|tree| matches!(tree, Tree::Memory(_)))
    }

    /// Bytes it holds, if it is in memory.
    pub fn memory(&self) -> Option<u64> {
        self.with(|tree| match tree {
            Tree::Memory(memory) => Some(memory.bytes()),
            Tree::Sled(_) | Tree::Closed => None,
            #[cfg(any(test, feature = "simulation"))]
            Tree::Simulated(_) => None,
        })
    }

    /// All ask what `other` asks from now on.
    pub fn replace(&self, other: &Index) {
        let tree = other.with(Tree::clone);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Home::new(tree);
    }

    /// Closes it and opens it again, if so much was written or read that the memory is worth it: to
    /// be called when all is flushed. All who ask wait for some milliseconds. If it cannot be
    /// opened it is closed and is to be replaced.
    pub fn open_again(&self, disk: &Disk, path: &Path) -> Result<(), IndexError> {
        let mut home = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let tree = home.tree.get_mut().unwrap_or_else(PoisonError::into_inner);
        let at_most = match tree {
            Tree::Sled(sled) if sled.broken.load(Ordering::Acquire) => return Ok(()),
            Tree::Sled(_) => HELD,
            Tree::Memory(_) | Tree::Closed => return Ok(()),
            // So little that it happens.
            #[cfg(any(test, feature = "simulation"))]
            Tree::Simulated(_) => HELD >> 11,
        };
        if home.held.load(Ordering::Relaxed) < at_most {
            return Ok(());
        }
        // sled is closed when its last handle is dropped; it may panic at what it does not expect.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            *home = Home::new(Tree::Closed);
            Tree::open(disk, path)
        }));
        let opened = opened.unwrap_or_else(|_| Err(IndexError::new("panicked as it was opened")));
        *home = Home::new(opened?);
        Ok(())
    }

    /// Copies everything into an index that holds nothing yet, and makes it durable. Its version
    /// comes last: before that it is none.
    pub fn copy_to(&self, other: &Index) -> Result<(), IndexError> {
        let mut from = Vec::new();
        loop {
            let page = self.with(|tree| tree.page(&from, &[0xff]))?;
            let Some((last, _)) = page.last() else {
                return other.flush();
            };
            from = [&last[..], &[0]].concat();
            let batch = page.into_iter().map(|(key, value)| (key, Some(value)));
            other.apply(Batch(batch.collect()))?;
        }
    }

    fn with<T>(&self, ask: impl FnOnce(&Tree) -> T) -> T {
        self.within_home(|_, tree| ask(tree))
    }

    fn within_home<T>(&self, ask: impl FnOnce(&Home, &Tree) -> T) -> T {
        let home = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let handle = home.handle();
        let answer = ask(&home, &handle);
        home.spare().push(handle);
        answer
    }

    /// Up to where it is true; `None` for an index that holds nothing yet.
    pub fn checkpoint(&self) -> Result<Option<Checkpoint>, IndexError> {
        match self.with(|tree| tree.get(VERSION_KEY))? {
            None if self.with(Tree::is_empty)? => return Ok(None),
            Some(version) if version == INDEX_VERSION => {}
            _ => return Err(IndexError::new("is of another version")),
        }
        let value = self.with(|tree| tree.get(CHECKPOINT_KEY))?;
        let value = value.ok_or_else(|| IndexError::new("has no checkpoint"))?;
        let checkpoint = index::decode_checkpoint(&value)
            .map_err(|_| IndexError::new("has a damaged checkpoint"))?;
        Ok(Some(checkpoint))
    }

    /// A message.
    pub fn get(&self, id: QueueId) -> Result<Option<Message>, IndexError> {
        let value = self.within_home(|home, tree| {
            let value = tree.get(&index::message_key(id))?;
            home.was_read(value.iter().map(Vec::len).sum());
            Ok(value)
        })?;
        value.map(|value| decode(id, &value)).transpose()
    }

    /// All messages with an id of at least `from`, in the order of ids.
    pub fn messages(&self, from: QueueId) -> Messages<'_> {
        self.within(from, QueueId(u64::MAX))
    }

    /// The same up to the id `last`.
    pub fn within(&self, from: QueueId, last: QueueId) -> Messages<'_> {
        let end = last.0.checked_add(1).map(QueueId);
        let end = end.map(|end| index::message_key(end).to_vec());
        Messages {
            index: self,
            from: Some(from),
            end: end.unwrap_or_else(|| vec![MESSAGE_PREFIX[0] + 1]),
            page: VecDeque::new(),
        }
    }

    /// Makes a batch true in memory.
    pub fn apply(&self, batch: Batch) -> Result<(), IndexError> {
        self.within_home(|home, tree| {
            home.held.fetch_add(batch.bytes(), Ordering::Relaxed);
            tree.apply(batch)
        })
    }

    /// Makes everything applied so far durable.
    pub fn flush(&self) -> Result<(), IndexError> {
        self.with(Tree::flush)
    }
}

/// Goes through messages a page at a time.
pub struct Messages<'a> {
    index: &'a Index,
    from: Option<QueueId>,
    /// The first key that is not meant.
    end: Vec<u8>,
    page: VecDeque<(Vec<u8>, Vec<u8>)>,
}

impl Iterator for Messages<'_> {
    type Item = Result<Message, IndexError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.page.is_empty() {
            let from = index::message_key(self.from.take()?);
            let read = self.index.within_home(|home, tree| {
                let page = tree.page(&from, &self.end)?;
                home.was_read(page.iter().map(|(_, value)| value.len()).sum());
                Ok(page)
            });
            match read {
                Ok(page) => self.page = page.into(),
                Err(error) => return Some(Err(error)),
            }
            let last = self.page.back().and_then(|(key, _)| index::message_id(key));
            self.from = last.and_then(|id| id.0.checked_add(1)).map(QueueId);
        }
        let (key, value) = self.page.pop_front()?;
        let Some(id) = index::message_id(&key) else {
            return Some(Err(IndexError::new("has a damaged key")));
        };
        Some(decode(id, &value))
    }
}

fn decode(id: QueueId, value: &[u8]) -> Result<Message, IndexError> {
    match index::decode_message(value) {
        Ok(message) if message.id == id => Ok(message),
        _ => Err(IndexError::new(format!("has a damaged value for {id}"))),
    }
}

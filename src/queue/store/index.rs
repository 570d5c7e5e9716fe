//! The index: sled, told what to hold and asked nothing it could lose.
//!
//! One handle for each thread; sled's `Db` can be sent but not shared.

use std::path::Path;

use queue_schema::index::{
    self, CHECKPOINT_KEY, Checkpoint, INDEX_VERSION, MESSAGE_PREFIX, VERSION_KEY,
};
use queue_schema::{Message, QueueId};

/// Leaves of up to so many small values: one leaf is what a flush rewrites.
const FANOUT: usize = 128;
/// Memory sled may use for what was read.
const CACHE: usize = 32 << 20;

/// A handle of the index.
#[derive(Clone)]
pub struct Index {
    db: sled::Db<FANOUT>,
}

/// The index can not be used; it is put aside and made again from the journal.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the index {0}")]
pub struct IndexError(pub String);

impl IndexError {
    fn io(error: std::io::Error) -> Self {
        IndexError(format!("reports: {error}"))
    }
}

/// Changes that become true together.
#[derive(Default)]
pub struct Batch(sled::Batch);

impl Batch {
    /// The message is so.
    pub fn put(&mut self, message: &Message) -> Result<(), IndexError> {
        let value = index::encode_message(message)
            .map_err(|error| IndexError(format!("can not hold {}: {error}", message.id)))?;
        self.0.insert(index::message_key(message.id), value);
        Ok(())
    }

    /// The message is gone.
    pub fn remove(&mut self, id: QueueId) {
        self.0.remove(index::message_key(id));
    }

    /// The journal up to here is applied.
    pub fn checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<(), IndexError> {
        let value = index::encode_checkpoint(checkpoint)
            .map_err(|error| IndexError(format!("can not hold the checkpoint: {error}")))?;
        self.0.insert(CHECKPOINT_KEY, value);
        self.0.insert(VERSION_KEY, INDEX_VERSION);
        Ok(())
    }
}

impl Index {
    /// Opens or begins the index in `path`. May panic or hang on damage: see `recover`.
    pub fn open(path: &Path) -> Result<Index, IndexError> {
        let db = sled::Config::new()
            .path(path)
            .flush_every_ms(None)
            .cache_capacity_bytes(CACHE)
            .zstd_compression_level(1)
            .open::<FANOUT>()
            .map_err(IndexError::io)?;
        Ok(Index { db })
    }

    /// Up to where it is true; `None` for an index that holds nothing yet.
    pub fn checkpoint(&self) -> Result<Option<Checkpoint>, IndexError> {
        let version = self.db.get(VERSION_KEY).map_err(IndexError::io)?;
        match version {
            None if self.db.is_empty().map_err(IndexError::io)? => return Ok(None),
            Some(version) if version == INDEX_VERSION => {}
            _ => return Err(IndexError("is of another version".into())),
        }
        let value = self.db.get(CHECKPOINT_KEY).map_err(IndexError::io)?;
        let value = value.ok_or_else(|| IndexError("has no checkpoint".into()))?;
        let checkpoint = index::decode_checkpoint(&value)
            .map_err(|_| IndexError("has a damaged checkpoint".into()))?;
        Ok(Some(checkpoint))
    }

    /// A message.
    pub fn get(&self, id: QueueId) -> Result<Option<Message>, IndexError> {
        let value = self
            .db
            .get(index::message_key(id))
            .map_err(IndexError::io)?;
        value.map(|value| decode(id, &value)).transpose()
    }

    /// All messages with an id of at least `from`, in the order of ids.
    pub fn messages(&self, from: QueueId) -> impl Iterator<Item = Result<Message, IndexError>> {
        let end = [MESSAGE_PREFIX[0] + 1];
        let range = self.db.range(&index::message_key(from)[..]..&end[..]);
        range.map(|item| {
            let (key, value) = item.map_err(IndexError::io)?;
            let id =
                index::message_id(&key).ok_or_else(|| IndexError("has a damaged key".into()))?;
            decode(id, &value)
        })
    }

    /// Makes a batch true in memory.
    pub fn apply(&self, batch: Batch) -> Result<(), IndexError> {
        self.db.apply_batch(batch.0).map_err(IndexError::io)
    }

    /// Makes everything applied so far durable.
    pub fn flush(&self) -> Result<(), IndexError> {
        self.db.flush().map(|_| ()).map_err(IndexError::io)
    }
}

fn decode(id: QueueId, value: &[u8]) -> Result<Message, IndexError> {
    match index::decode_message(value) {
        Ok(message) if message.id == id => Ok(message),
        _ => Err(IndexError(format!("has a damaged value for {id}"))),
    }
}

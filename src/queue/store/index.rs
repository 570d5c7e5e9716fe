//! The index: sled, told what to hold and asked nothing it could lose.
//!
//! One handle for each thread; sled's `Db` can be sent but not shared.

use std::path::Path;

use queue_schema::index::{
    self, CHECKPOINT_KEY, Checkpoint, INDEX_VERSION, MESSAGE_PREFIX, VERSION_KEY,
};
use queue_schema::{Message, QueueId};

use super::disk::Disk;

/// Leaves of up to so many small values: one leaf is what a flush rewrites.
const FANOUT: usize = 128;
/// Memory sled may use for what was read.
const CACHE: usize = 32 << 20;

/// A handle of the index.
#[derive(Clone)]
pub struct Index(Tree);

/// The database that holds it.
#[derive(Clone)]
enum Tree {
    Sled(sled::Db<FANOUT>),
    /// A map in memory.
    #[cfg(test)]
    Simulated(crate::queue::sim::tree::SimTree),
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
pub struct Batch(Vec<(Vec<u8>, Option<Vec<u8>>)>);

impl Batch {
    /// The message is so.
    pub fn put(&mut self, message: &Message) -> Result<(), IndexError> {
        let value = index::encode_message(message)
            .map_err(|error| IndexError(format!("can not hold {}: {error}", message.id)))?;
        let key = index::message_key(message.id).to_vec();
        self.0.push((key, Some(value)));
        Ok(())
    }

    /// The message is gone.
    pub fn remove(&mut self, id: QueueId) {
        self.0.push((index::message_key(id).to_vec(), None));
    }

    /// The journal up to here is applied.
    pub fn checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<(), IndexError> {
        let value = index::encode_checkpoint(checkpoint)
            .map_err(|error| IndexError(format!("can not hold the checkpoint: {error}")))?;
        self.0.push((CHECKPOINT_KEY.to_vec(), Some(value)));
        let version = INDEX_VERSION.to_vec();
        self.0.push((VERSION_KEY.to_vec(), Some(version)));
        Ok(())
    }
}

impl Index {
    /// Opens or begins the index in `path`. May panic or hang on damage: see `recover`.
    pub fn open(disk: &Disk, path: &Path) -> Result<Index, IndexError> {
        #[cfg(test)]
        if let Some(disk) = disk.simulation() {
            let tree = crate::queue::sim::tree::SimTree::open(disk, path);
            return tree
                .map(|tree| Index(Tree::Simulated(tree)))
                .map_err(IndexError::io);
        }
        #[cfg(not(test))]
        let _ = disk;
        let db = sled::Config::new()
            .path(path)
            .flush_every_ms(None)
            .cache_capacity_bytes(CACHE)
            .zstd_compression_level(1)
            .open::<FANOUT>()
            .map_err(IndexError::io)?;
        Ok(Index(Tree::Sled(db)))
    }

    fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        match &self.0 {
            Tree::Sled(db) => {
                let value = db.get(key).map_err(IndexError::io)?;
                Ok(value.map(|value| value.to_vec()))
            }
            #[cfg(test)]
            Tree::Simulated(tree) => tree.get(key).map_err(IndexError::io),
        }
    }

    fn is_empty(&self) -> Result<bool, IndexError> {
        match &self.0 {
            Tree::Sled(db) => db.is_empty().map_err(IndexError::io),
            #[cfg(test)]
            Tree::Simulated(tree) => tree.is_empty().map_err(IndexError::io),
        }
    }

    /// Up to where it is true; `None` for an index that holds nothing yet.
    pub fn checkpoint(&self) -> Result<Option<Checkpoint>, IndexError> {
        match self.value(VERSION_KEY)? {
            None if self.is_empty()? => return Ok(None),
            Some(version) if version == INDEX_VERSION => {}
            _ => return Err(IndexError("is of another version".into())),
        }
        let value = self.value(CHECKPOINT_KEY)?;
        let value = value.ok_or_else(|| IndexError("has no checkpoint".into()))?;
        let checkpoint = index::decode_checkpoint(&value)
            .map_err(|_| IndexError("has a damaged checkpoint".into()))?;
        Ok(Some(checkpoint))
    }

    /// A message.
    pub fn get(&self, id: QueueId) -> Result<Option<Message>, IndexError> {
        let value = self.value(&index::message_key(id))?;
        value.map(|value| decode(id, &value)).transpose()
    }

    /// All messages with an id of at least `from`, in the order of ids.
    pub fn messages(
        &self,
        from: QueueId,
    ) -> Box<dyn Iterator<Item = Result<Message, IndexError>> + '_> {
        let end = [MESSAGE_PREFIX[0] + 1];
        let understood = |key: &[u8], value: &[u8]| {
            let id =
                index::message_id(key).ok_or_else(|| IndexError("has a damaged key".into()))?;
            decode(id, value)
        };
        match &self.0 {
            Tree::Sled(db) => {
                let range = db.range(&index::message_key(from)[..]..&end[..]);
                Box::new(range.map(move |item| {
                    let (key, value) = item.map_err(IndexError::io)?;
                    understood(&key, &value)
                }))
            }
            #[cfg(test)]
            Tree::Simulated(tree) => Box::new(tree.all(&index::message_key(from)[..], &end).map(
                move |item| {
                    let (key, value) = item.map_err(IndexError::io)?;
                    understood(&key, &value)
                },
            )),
        }
    }

    /// Makes a batch true in memory.
    pub fn apply(&self, batch: Batch) -> Result<(), IndexError> {
        match &self.0 {
            Tree::Sled(db) => {
                let mut changes = sled::Batch::default();
                for (key, value) in batch.0 {
                    match value {
                        Some(value) => changes.insert(key, value),
                        None => changes.remove(key),
                    }
                }
                db.apply_batch(changes).map_err(IndexError::io)
            }
            #[cfg(test)]
            Tree::Simulated(tree) => tree.apply(batch.0).map_err(IndexError::io),
        }
    }

    /// Makes everything applied so far durable.
    pub fn flush(&self) -> Result<(), IndexError> {
        match &self.0 {
            Tree::Sled(db) => db.flush().map(|_| ()).map_err(IndexError::io),
            #[cfg(test)]
            Tree::Simulated(tree) => tree.flush().map_err(IndexError::io),
        }
    }
}

fn decode(id: QueueId, value: &[u8]) -> Result<Message, IndexError> {
    match index::decode_message(value) {
        Ok(message) if message.id == id => Ok(message),
        _ => Err(IndexError(format!("has a damaged value for {id}"))),
    }
}

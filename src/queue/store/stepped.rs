//! A store whose threads are driven step by step, by one thread: for whoever wants to decide the
//! order of everything, as a simulation does.

use std::ops::ControlFlow;
use std::sync::Arc;

use queue_schema::{Message, QueueId};

use tokio::sync::mpsc;

use super::committer::Committer;
use super::flusher::Flusher;
use super::reader::{Reader, Readers, Task};
use super::request::Request;
use super::{OpenError, Options, Parts, Recovered, Store, StoreError, disk};

/// What a store would do on threads of its own.
pub struct Stepped {
    committer: Committer,
    requests: mpsc::Receiver<Request>,
    flusher: Flusher,
    reader: Reader,
    tasks: [async_channel::Receiver<Task>; 2],
    /// Held until it is dropped.
    _lock: disk::Lock,
}

impl Store {
    /// Opens the store as [`Store::open`] does, and starts no thread.
    pub fn open_stepped(options: &Options) -> Result<(Store, Recovered, Stepped), OpenError> {
        let (parts, lock) = Parts::open(options)?;
        let reader = Reader::new(&parts.shared, &parts.index);
        let (readers, tasks) = Readers::new();
        let (scanner, scans) = Readers::new();
        let (inner, running) = parts.join(readers, scanner);
        let stepped = Stepped {
            committer: running.committer,
            requests: running.receiver,
            flusher: running.flusher,
            reader,
            tasks: [tasks, scans],
            _lock: lock,
        };
        Ok((Store(Arc::new(inner)), running.recovered, stepped))
    }
}

impl Store {
    /// Bytes and messages that live in each segment.
    pub fn usage(&self) -> Vec<(u64, (u64, u64))> {
        let state = self.0.shared.state();
        let segments = state.segments.iter();
        segments
            .map(|(number, usage)| (*number, (usage.live, usage.messages)))
            .collect()
    }
}

impl Stepped {
    /// The committer takes what waits, writes, syncs and answers. False when nothing waited.
    pub fn commit(&mut self) -> bool {
        self.committer.step(&mut self.requests).is_some()
    }

    /// A turn of the flusher: the index follows, segments are freed, a little is compacted.
    pub fn flush(&mut self) {
        self.flusher.turn(false);
    }

    /// One task of a reader. False when none waited.
    pub fn read(&mut self) -> bool {
        let task = self.tasks.iter().find_map(|tasks| tasks.try_recv().ok());
        let some = task.is_some();
        if let Some(task) = task {
            self.reader.turn(task);
        }
        some
    }

    /// A message as it is now.
    pub fn load(&self, id: QueueId) -> Result<Option<Arc<Message>>, StoreError> {
        self.reader.load(id)
    }

    /// All messages as they are now.
    pub fn all(&self) -> Result<Vec<Arc<Message>>, StoreError> {
        let mut all = Vec::new();
        self.reader.scan(QueueId(0), |message| {
            all.push(message);
            ControlFlow::Continue(())
        })?;
        Ok(all)
    }

    /// What closing a store does after everybody was answered: the last flush.
    pub fn stop(mut self) {
        while self.commit() {}
        self.flusher.turn(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::message;

    #[tokio::test]
    async fn a_store_goes_on_only_when_it_is_driven() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::new(dir.path());
        let (store, _, mut stepped) = Store::open_stepped(&options).unwrap();
        let (one, content) = message(7);
        let accepting = tokio::spawn({
            let store = store.clone();
            async move { store.accept(one, content).await }
        });
        tokio::task::yield_now().await;
        assert!(stepped.commit() && !stepped.commit());
        assert_eq!(accepting.await.unwrap().unwrap().id, QueueId(7));
        let reading = tokio::spawn({
            let readers = store.readers();
            async move { readers.run(|reader| reader.load(QueueId(7))).await }
        });
        tokio::task::yield_now().await;
        assert!(stepped.read() && !stepped.read());
        assert!(reading.await.unwrap().unwrap().unwrap().is_some());
        stepped.flush();
        stepped.stop();
        drop(store);
        let (store, recovered, stepped) = Store::open_stepped(&options).unwrap();
        assert_eq!(recovered.waiting.len(), 1);
        assert_eq!(store.stats().messages, 1);
        stepped.stop();
    }
}

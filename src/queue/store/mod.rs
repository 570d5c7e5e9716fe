//! The store: what was accepted and what became of it, on disk.
//!
//! The journal is the truth, a sequence of checksummed records in segment files, written by one
//! thread (`committer`) that syncs once for all that waits. sled is its index: it answers
//! questions, is filled behind the journal (`flusher`), and is made again from the journal when
//! it is lost, damaged or of another version (`recover`). `reader` looks, `scan` finds records
//! even behind damage, `spool` holds bodies too large for the journal.
//!
//! The store is crash-only: it is opened the same way after a clean stop and after a power cut.
//! After a failed write or sync it is read-only until a restart; such an error is never taken
//! back by a later success. After a failure of the index it takes no new mail, and outcomes of
//! what is under way until the restart that makes the index anew. A panic in one of its threads
//! ends the process.

mod arrivals;
mod committer;
mod compact;
mod disk;
mod failpoint;
mod flusher;
mod index;
mod journal;
mod layout;
mod look;
mod options;
mod reader;
mod recover;
mod replay;
mod request;
mod scan;
mod shared;
mod space;
mod spool;
#[cfg(any(test, feature = "simulation"))]
mod stepped;
mod verify;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use queue_schema::{
    BodyPlace, Envelope, Location, Message, Millis, Origin, QueueId, RecipientState,
};
use tokio::sync::{mpsc, oneshot};

use crate::message::Content;

pub use arrivals::{Arrival, Arrivals};
pub use options::{
    COMPACT_AFTER, FLUSH_EVERY, INDEX_LIMIT, OpenError, Options, SEGMENT_SIZE, StoreError,
};
pub use reader::{Reader, Readers};
pub use recover::{Damage, Recovered};
pub use request::{Action, Apply, ApplyError, ChangeKind};
pub use spool::{Spool, SpoolWriter};
#[cfg(any(test, feature = "simulation"))]
pub use stepped::Stepped;
pub use verify::Finding;

pub use disk::{Disk, DiskFile};
pub use failpoint::failpoint;

use committer::Committer;
use flusher::Flusher;
use layout::Layout;
use request::{Applied, Request};
use shared::{Shared, Usage};

/// Requests that wait for the committer before whoever asks next has to wait too.
const REQUESTS: usize = 4096;
/// Threads that read messages for delivery.
const READERS: usize = 2;
/// Exit code when a thread of the store panicked (sysexits: internal software error).
const EX_SOFTWARE: i32 = 70;

/// Counts for metrics and benchmarks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Syncs of the journal since it was opened.
    pub syncs: u64,
    /// Segment files.
    pub segments: usize,
    /// Bytes of records in them.
    pub used: u64,
    /// Bytes of records whose messages live.
    pub live: u64,
    /// Messages that live.
    pub messages: u64,
}

/// An open store. Cloning shares it; [`close`](Store::close) ends it for all.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    arrivals: Arrivals,
    requests: mpsc::Sender<Request>,
    readers: Readers,
    scanner: Readers,
    shared: Arc<Shared>,
    syncs: Arc<AtomicU64>,
    threads: Mutex<Option<Threads>>,
}

struct Threads {
    /// None for a store that is only read.
    writers: Option<(JoinHandle<()>, JoinHandle<()>)>,
    readers: Vec<JoinHandle<()>>,
    lock: Option<disk::Lock>,
}

/// A store that was recovered, before anything runs.
struct Parts {
    shared: Arc<Shared>,
    index: index::Index,
    journal: journal::Journal,
    applied: queue_schema::index::Checkpoint,
    recovered: Recovered,
    options: Options,
}

/// What runs, each on a thread of its own, or step by step.
struct Running {
    committer: Committer,
    flusher: Flusher,
    receiver: mpsc::Receiver<Request>,
    recovered: Recovered,
}

impl Parts {
    fn open(options: &Options) -> Result<(Parts, disk::Lock), OpenError> {
        let root = &options.data_dir;
        let layout =
            Layout::create(root, &options.disk).map_err(|error| OpenError::io(root, error))?;
        let lock = layout.lock()?;
        let opened = recover::recover(&layout, options)?;
        let parts = Parts {
            shared: Arc::new(opened.shared),
            index: opened.index,
            journal: opened.journal,
            applied: opened.applied,
            recovered: opened.recovered,
            options: options.clone(),
        };
        Ok((parts, lock))
    }

    fn join(self, readers: Readers, scanner: Readers) -> (Inner, Running) {
        let Parts {
            shared,
            index,
            journal,
            applied,
            recovered,
            options,
        } = self;
        let (requests, receiver) = mpsc::channel(REQUESTS);
        let asks = requests.downgrade();
        let flusher = Flusher::new(shared.clone(), index.clone(), asks, &options, applied);
        let arrivals = Arrivals::default();
        let inner = Inner {
            requests,
            arrivals: arrivals.clone(),
            readers,
            scanner,
            shared: shared.clone(),
            syncs: journal.syncs(),
            threads: Mutex::new(None),
        };
        let committer = Committer::new(shared, index, journal, options, arrivals);
        let running = Running {
            committer,
            flusher,
            receiver,
            recovered,
        };
        (inner, running)
    }
}

impl Drop for Inner {
    /// A store that was not closed: the committer ends with its channel, the flusher is told.
    fn drop(&mut self) {
        self.shared.state().stopping = true;
        self.shared.turn.notify_all();
    }
}

impl Store {
    /// Opens the store, recovering whatever state it was left in. Blocks, for seconds if there are
    /// a million messages.
    pub fn open(options: &Options) -> Result<(Store, Recovered), OpenError> {
        let root = &options.data_dir;
        let thread = |error| OpenError::io(root, error);
        let (parts, lock) = Parts::open(options)?;
        let (readers, mut reading) =
            reader::start("queue-reader", READERS, &parts.shared, &parts.index).map_err(thread)?;
        let (scanner, scanning) =
            reader::start("queue-scanner", 1, &parts.shared, &parts.index).map_err(thread)?;
        reading.extend(scanning);
        let (inner, parts) = parts.join(readers, scanner);
        let Running {
            committer,
            flusher,
            receiver,
            recovered,
        } = parts;
        let committer =
            fatal("queue-committer", move || committer.run(receiver)).map_err(thread)?;
        let flusher = fatal("queue-flusher", move || flusher.run()).map_err(thread)?;
        let threads = Threads {
            writers: Some((committer, flusher)),
            readers: reading,
            lock: Some(lock),
        };
        let store = Store(Arc::new(inner));
        if let Ok(mut place) = store.0.threads.lock() {
            *place = Some(threads);
        }
        Ok((store, recovered))
    }

    /// Opens the store for reading alone, where it can not be written: nothing is changed, no lock
    /// is taken, and all it is asked to write fails. The index is made in memory.
    pub fn look(options: &Options, why: &OpenError) -> Result<(Store, Recovered), OpenError> {
        let root = &options.data_dir;
        let layout = Layout::new(root, &options.disk);
        let (loaded, segments) = look::look(&layout, options)?;
        let files = segments.into_iter().collect();
        let shared = Arc::new(Shared::new(layout, loaded.usage, files, loaded.applied));
        shared.only_read(format!("the queue can only be read: {why}"));
        let thread = |error| OpenError::io(root, error);
        let index = loaded.index;
        let (readers, mut reading) =
            reader::start("queue-reader", READERS, &shared, &index).map_err(thread)?;
        let (scanner, scanning) =
            reader::start("queue-scanner", 1, &shared, &index).map_err(thread)?;
        reading.extend(scanning);
        let (requests, _) = mpsc::channel(1);
        let threads = Threads {
            writers: None,
            readers: reading,
            lock: None,
        };
        let inner = Inner {
            requests,
            arrivals: Arrivals::default(),
            readers,
            scanner,
            shared,
            syncs: Arc::default(),
            threads: Mutex::new(Some(threads)),
        };
        let recovered = Recovered {
            waiting: loaded.waiting,
            ways: loaded.ways,
            clock: loaded.clock,
            behind: loaded.behind,
            highest: loaded.applied.highest,
            damage: loaded.damage,
            rebuilt: None,
        };
        Ok((Store(Arc::new(inner)), recovered))
    }

    /// Makes a message durable: when this returns `Ok` it survives a power cut.
    pub async fn accept(
        &self,
        message: Message,
        content: Content,
    ) -> Result<Arc<Message>, StoreError> {
        self.accept_with(message, content, None).await
    }

    /// The same; `with` is written with it and shares its sync, whatever becomes of the message.
    pub async fn accept_with(
        &self,
        message: Message,
        content: Content,
        with: Option<Apply>,
    ) -> Result<Arc<Message>, StoreError> {
        let (ack, answer) = oneshot::channel();
        let request = Request::Accept {
            message: Box::new(message),
            content,
            ack,
            with,
        };
        self.0
            .requests
            .send(request)
            .await
            .map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Makes changes durable. The answer names the messages that were accepted among them.
    pub async fn apply(&self, actions: Vec<Action>) -> Result<Vec<Arc<Message>>, ApplyError> {
        let (apply, answer) = Store::prepare(actions);
        let request = Request::Apply(apply);
        if let Err(mpsc::error::SendError(request)) = self.0.requests.send(request).await {
            request.refuse(StoreError::Closed);
        }
        answer.await
    }

    /// Changes to be given to [`Store::accept_with`], and the answer to them.
    pub fn prepare(actions: Vec<Action>) -> (Apply, impl Future<Output = Applied>) {
        let (ack, answer) = oneshot::channel();
        let answer = async { answer.await.map_err(|_| StoreError::Closed)? };
        (Apply { actions, ack }, answer)
    }

    /// Whether and why no new mail is taken.
    pub fn failure(&self) -> Option<StoreError> {
        self.0.shared.failure()
    }

    /// Why only a restart helps, and whether it is the journal that failed: else outcomes can be
    /// written until then.
    pub fn needs_restart(&self) -> Option<(StoreError, bool)> {
        let journal = self.0.shared.journal_failure().map(|error| (error, true));
        let index = || self.0.shared.index_failure().map(|error| (error, false));
        journal.or_else(index)
    }

    /// Bytes of outcomes that can be written although the disk may be full.
    pub fn room_for_outcomes(&self) -> u64 {
        self.0.shared.room_for_outcomes()
    }

    /// Wakes whoever asks for [`Store::take_lost`].
    pub fn lost_news(&self) -> Arc<tokio::sync::Notify> {
        self.0.shared.lost_news.clone()
    }

    /// Messages whose bytes were found to be gone or damaged since this was asked last.
    pub fn take_lost(&self) -> std::collections::BTreeSet<QueueId> {
        self.0.shared.take_lost()
    }

    /// Reads for delivery.
    pub fn readers(&self) -> Readers {
        self.0.readers.clone()
    }

    /// Long reads for operators, which do not keep deliveries waiting.
    pub fn scanner(&self) -> Readers {
        self.0.scanner.clone()
    }

    /// Numbers of the segments there are.
    pub fn segments(&self) -> Vec<u64> {
        self.0.shared.state().segments.keys().copied().collect()
    }

    /// The next start makes the index anew.
    pub fn suspect_index(&self) -> io::Result<()> {
        self.0.shared.layout.mark_index()
    }

    /// The way to its files.
    pub fn disk(&self) -> Disk {
        self.0.shared.layout.disk.clone()
    }

    /// Where sessions put large bodies.
    pub fn spool(&self) -> Spool {
        Spool::new(&self.0.shared.layout)
    }

    /// Where sessions say that a transaction begins.
    pub fn arrivals(&self) -> Arrivals {
        self.0.arrivals.clone()
    }

    /// Counts.
    pub fn stats(&self) -> Stats {
        let state = self.0.shared.state();
        let mut total = Usage::default();
        for usage in state.segments.values() {
            total.used += usage.used;
            total.live += usage.live;
            total.messages += usage.messages;
        }
        Stats {
            syncs: self.0.syncs.load(Ordering::Relaxed),
            segments: state.segments.len(),
            used: total.used,
            live: total.live,
            messages: total.messages,
        }
    }

    /// Makes durable what was asked before, refuses what comes after, and lets go of the
    /// directory. Blocks. Calling it again does nothing.
    pub fn close(&self) {
        let threads = self.0.threads.lock().map(|mut threads| threads.take());
        let Ok(Some(threads)) = threads else { return };
        let written = threads.writers.is_some();
        if let Some((committer, flusher)) = threads.writers {
            // It ends when it reads this; if it is gone already there is nothing to stop.
            let _ = self.0.requests.blocking_send(Request::Stop);
            let _ = committer.join();
            self.0.shared.state().stopping = true;
            self.0.shared.turn.notify_all();
            let _ = flusher.join();
        }
        self.0.readers.close();
        self.0.scanner.close();
        for reader in threads.readers {
            let _ = reader.join();
        }
        if written && let Err(error) = self.0.shared.layout.give_index() {
            tracing::warn!(%error, "the index can not be given to the owner of data_dir");
        }
        drop(threads.lock);
    }
}

/// A message as it is when it arrives: every recipient is due at once, or when the message is
/// released. The store sets its
/// size and location, Message-ID and subject.
pub fn new_message(id: QueueId, arrived: Millis, origin: Origin, envelope: Envelope) -> Message {
    let first_due = envelope.release_at.unwrap_or(arrived).max(arrived);
    let states = envelope
        .recipients
        .iter()
        .map(|_| RecipientState::new(first_due))
        .collect();
    Message {
        id,
        arrived,
        origin,
        envelope,
        size: 0,
        location: Location {
            segment: 0,
            offset: 0,
            length: 0,
            head: 0,
            body: BodyPlace::Inline,
        },
        states,
        story: Vec::new(),
        message_id: String::new(),
        subject: String::new(),
        top: String::new(),
    }
}

/// A thread whose panic ends the process: a store that lost a thread promises nothing.
fn fatal(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err() {
                tracing::error!("a thread of the queue panicked; the process ends to start afresh");
                std::process::exit(EX_SOFTWARE);
            }
        })
}

#[cfg(test)]
mod tests;

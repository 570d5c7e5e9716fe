//! Reading: messages by id, all messages, and the bytes of one.
//!
//! Readers run on a few threads of their own, because reading may wait for the disk. What they
//! see is never older than what was answered as durable before they were asked.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use queue_schema::{BodyPlace, FrameError, Location, Message, QueueId, Spooled, frame, record};
use tokio::sync::oneshot;

use super::StoreError;
use super::disk::DiskFile;
use super::index::{Index, IndexError};
use super::shared::Shared;
use crate::FetchError;
use crate::message::{Body, Content, SpoolFile};

/// Changes that are looked at together, so that the committer never waits long for a reader.
const CHANGES: usize = 512;

/// Tasks that wait for readers before whoever asks next has to wait too.
const TASKS: usize = 256;

/// What runs on a reader's thread.
pub type Task = Box<dyn FnOnce(&Reader) + Send>;

/// One thread's view of the store.
pub struct Reader {
    shared: Arc<Shared>,
    index: Index,
}

/// Hands tasks to reader threads.
#[derive(Clone)]
pub struct Readers(async_channel::Sender<Task>);

impl Readers {
    /// Runs `task` on a reader's thread; waits while too many tasks wait.
    pub async fn run<T: Send + 'static>(
        &self,
        task: impl FnOnce(&Reader) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let task: Task = Box::new(move |reader| drop(answer.send(task(reader))));
        self.0.send(task).await.map_err(|_| StoreError::Closed)?;
        answered.await.map_err(|_| StoreError::Closed)
    }

    /// The same for a thread that may block.
    pub fn run_blocking<T: Send + 'static>(
        &self,
        task: impl FnOnce(&Reader) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let task: Task = Box::new(move |reader| drop(answer.send(task(reader))));
        self.0.send_blocking(task).map_err(|_| StoreError::Closed)?;
        answered.blocking_recv().map_err(|_| StoreError::Closed)
    }

    /// Lets the threads end when they have done what waits.
    pub fn close(&self) {
        self.0.close();
    }
}

/// Starts `count` threads.
pub fn start(
    name: &str,
    count: usize,
    shared: &Arc<Shared>,
    index: &Index,
) -> std::io::Result<(Readers, Vec<std::thread::JoinHandle<()>>)> {
    let (readers, tasks) = Readers::new();
    let mut threads = Vec::new();
    for _ in 0..count {
        let reader = Reader::new(shared, index);
        let tasks = tasks.clone();
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                while let Ok(task) = tasks.recv_blocking() {
                    reader.turn(task);
                }
            })?;
        threads.push(thread);
    }
    Ok((readers, threads))
}

impl Readers {
    /// A way to readers, and what they are to do.
    pub(super) fn new() -> (Readers, async_channel::Receiver<Task>) {
        let (sender, tasks) = async_channel::bounded::<Task>(TASKS);
        (Readers(sender), tasks)
    }
}

impl Reader {
    pub(super) fn new(shared: &Arc<Shared>, index: &Index) -> Reader {
        Reader {
            shared: shared.clone(),
            index: index.clone(),
        }
    }

    /// Does one task.
    pub(super) fn turn(&self, task: Task) {
        // sled panics on some damage; nothing here is left half done by it.
        if catch_unwind(AssertUnwindSafe(|| task(self))).is_err() {
            self.shared
                .fail_index(&IndexError::new("made a reader panic"));
        }
    }
}

impl Reader {
    /// A message as it is now; `None` if there is none.
    pub fn load(&self, id: QueueId) -> Result<Option<Arc<Message>>, StoreError> {
        let known = self.shared.state().peek(id);
        match known {
            Some(known) => Ok(known),
            None => Ok(self.get(id)?.map(Arc::new)),
        }
    }

    fn get(&self, id: QueueId) -> Result<Option<Message>, StoreError> {
        let read = self.index.get(id);
        read.map_err(|error| self.shared.not_read(&error))
    }

    /// Calls `each` for all messages with an id of at least `from`, in the order of ids, until it
    /// breaks.
    pub fn scan(
        &self,
        from: QueueId,
        mut each: impl FnMut(Arc<Message>) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let mut from = from;
        loop {
            let (changes, last) = self.changes(from);
            if self.scan_page(from, last, changes, &mut each)?.is_break() {
                return Ok(());
            }
            match last.and_then(|last| last.0.checked_add(1)) {
                Some(next) => from = QueueId(next),
                None => return Ok(()),
            }
        }
    }

    /// Some of the changes from `from` on, and the last id up to which these are all.
    fn changes(&self, from: QueueId) -> (BTreeMap<QueueId, Option<Arc<Message>>>, Option<QueueId>) {
        let state = self.shared.state();
        let mut last = None;
        for map in [&state.dirty, &*state.flushing] {
            let end = map.range(from..).nth(CHANGES - 1).map(|(id, _)| *id);
            last = match (last, end) {
                (Some(a), Some(b)) => Some(std::cmp::min(a, b)),
                (a, b) => a.or(b),
            };
        }
        let end = last.unwrap_or(QueueId(u64::MAX));
        let both = state
            .flushing
            .range(from..=end)
            .chain(state.dirty.range(from..=end));
        (
            both.map(|(id, entry)| (*id, entry.message.clone()))
                .collect(),
            last,
        )
    }

    fn scan_page(
        &self,
        from: QueueId,
        last: Option<QueueId>,
        mut changes: BTreeMap<QueueId, Option<Arc<Message>>>,
        each: &mut impl FnMut(Arc<Message>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, StoreError> {
        for message in self.index.messages(from) {
            let message = message.map_err(|error| self.shared.not_read(&error))?;
            if last.is_some_and(|last| message.id > last) {
                break;
            }
            while let Some(entry) = changes.first_entry()
                && *entry.key() < message.id
            {
                if let Some(changed) = entry.remove()
                    && each(changed).is_break()
                {
                    return Ok(ControlFlow::Break(()));
                }
            }
            let present = match changes.remove(&message.id) {
                Some(changed) => changed,
                None => Some(Arc::new(message)),
            };
            if let Some(present) = present
                && each(present).is_break()
            {
                return Ok(ControlFlow::Break(()));
            }
        }
        for changed in changes.into_values().flatten() {
            if each(changed).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The bytes of a message. Its location may be an old one.
    pub fn fetch(&self, id: QueueId, location: &Location) -> Result<Content, FetchError> {
        let unread = match self.read(id, location) {
            Ok(content) => return Ok(content),
            Err(unread) => unread,
        };
        let passing = |reason: String| Unread::Passing(reason).about(id);
        let present = self.load(id).map_err(|error| passing(error.to_string()))?;
        let present = present.ok_or_else(|| passing("it is not in the queue".into()))?;
        let unread = match present.location == *location {
            true => unread,
            false => match self.read(id, &present.location) {
                Ok(content) => return Ok(content),
                Err(unread) => unread,
            },
        };
        if let Unread::Lost(_) = &unread {
            self.shared.lose(id, &present.location);
        }
        Err(unread.about(id))
    }

    /// Whether the bytes of a message are whole.
    pub(super) fn check(&self, id: QueueId, location: &Location) -> Result<(), String> {
        let read = self.read(id, location);
        read.map(drop).map_err(|unread| unread.reason())
    }

    /// An open segment.
    pub(super) fn segment(&self, number: u64) -> Option<Arc<super::shared::SegmentFile>> {
        self.shared.file(number)
    }

    /// What is counted of all segments.
    pub(super) fn usage(&self) -> BTreeMap<u64, super::shared::Usage> {
        self.shared.state().segments.clone()
    }

    /// Whether records go into a segment now.
    pub(super) fn is_written(&self, number: u64) -> bool {
        self.shared.state().position.segment == number
    }

    /// Bytes written to a segment.
    pub(super) fn used(&self, number: u64) -> Option<u64> {
        let state = self.shared.state();
        state.segments.get(&number).map(|usage| usage.used)
    }

    fn read(&self, id: QueueId, location: &Location) -> Result<Content, Unread> {
        let lost = |reason: &dyn std::fmt::Display| Unread::Lost(reason.to_string());
        let segment = self.shared.file(location.segment);
        let segment = segment.ok_or_else(|| lost(&"its segment is gone"))?;
        let bytes = read_range(&segment.file, location).map_err(|error| Unread::io(&error))?;
        let frame = frame::read(&bytes, segment.stamp).map_err(|error| match error {
            FrameError::Blank => lost(&"its record is blank"),
            other => lost(&other),
        })?;
        if frame.id != id {
            return Err(lost(&"another message is in its place"));
        }
        let (head, body) = record::content(&frame).map_err(|error| lost(&error))?;
        let body = match &location.body {
            BodyPlace::Inline => Body::Memory(bytes.slice(body)),
            BodyPlace::Spool(spool) => Body::Spool(self.spooled(spool)?),
        };
        Ok(Content {
            head: bytes.slice(head),
            body,
        })
    }

    fn spooled(&self, spool: &Spooled) -> Result<SpoolFile, Unread> {
        let layout = &self.shared.layout;
        let path = layout.spool.join(&spool.name);
        let file = layout
            .disk
            .open(&path)
            .map_err(|error| Unread::io(&error))?;
        let (mut crc, mut length) = (0, 0u64);
        let read = file.pieces(|bytes| {
            crc = crc32c::crc32c_append(crc, bytes);
            length += bytes.len() as u64;
        });
        read.map_err(|error| Unread::io(&error))?;
        if (crc, length) != (spool.crc, spool.length) {
            return Err(Unread::Lost(format!("{} is damaged", path.display())));
        }
        Ok(SpoolFile {
            path: Arc::new(path),
            len: length,
            crc,
        })
    }
}

/// Why the bytes of a message can not be read.
pub(super) enum Unread {
    /// They are damaged or gone, and stay so.
    Lost(String),
    /// The disk or the system does not give them now.
    Passing(String),
}

impl Unread {
    /// Only what is not there is lost: a disk that fails to read may succeed later.
    pub fn io(error: &std::io::Error) -> Unread {
        match error.kind() {
            std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::NotFound => {
                Unread::Lost(error.to_string())
            }
            _ => Unread::Passing(error.to_string()),
        }
    }

    fn reason(self) -> String {
        match self {
            Unread::Lost(reason) | Unread::Passing(reason) => reason,
        }
    }

    fn about(self, id: QueueId) -> FetchError {
        FetchError {
            id,
            lost: matches!(self, Unread::Lost(_)),
            reason: self.reason(),
        }
    }
}

/// The bytes of a record.
pub(super) fn read_range(file: &DiskFile, location: &Location) -> std::io::Result<Bytes> {
    let end = location.offset.saturating_add(u64::from(location.length));
    if end > file.length()? {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    let mut bytes = vec![0; usize::try_from(location.length).map_err(std::io::Error::other)?];
    file.read_exact_at(&mut bytes, location.offset)?;
    Ok(Bytes::from(bytes))
}

/// Bytes of a whole segment file. No segment is larger than this many.
const LARGEST_SEGMENT: u64 = 4 << 30;

/// Reads a segment into memory.
pub(super) fn read_segment(file: &DiskFile) -> std::io::Result<Vec<u8>> {
    let length = file.length()?;
    if length > LARGEST_SEGMENT {
        return Err(std::io::Error::other("it is larger than any segment"));
    }
    let mut bytes = vec![0; usize::try_from(length).map_err(std::io::Error::other)?];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

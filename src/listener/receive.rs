//! Message data from the wire into memory or, when it is long, into a spool file.
//!
//! One [`Receiver`] takes one message, whether it comes with DATA or in the chunks of BDAT. What it
//! keeps in memory is bounded by `limits.header` and twice `limits.memory_body`, whatever the
//! client sends or says it will send; what all keep together by `limits.memory_arrivals` and
//! [`LEAST`] for each.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use queue_schema::QueueId;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::Instant;

use super::arriving::{Held, LEAST};
use super::patience::Patience;
use crate::config::Limits;
use crate::message::collect::{Collector, Problem};
use crate::message::{Body, Content};
use crate::queue::store::{Spool, SpoolWriter};
use crate::smtp::data::{Decoder, LineEnds};
use crate::smtp::replies::{self, Reply};

/// Room made in the input buffer for each read, in bytes.
const BLOCK: usize = 16 * 1024;

/// What a body that is no small one grows by in memory, in bytes.
const STEP: usize = 64 * 1024;

/// Bytes beyond `limits.message` that are read and dropped in the hope of an end.
const MAX_EXCESS: u64 = 16 * 1024 * 1024;

/// Data that will not come to its end: the reply with which the connection is closed, if anybody
/// is there to read it.
#[derive(Debug, PartialEq, Eq)]
pub struct Broken(pub Option<Reply>);

/// A message that came whole.
pub struct Message {
    /// Its id.
    pub id: QueueId,
    /// Its bytes.
    pub content: Content,
    /// Whether one of them is over 127.
    pub eight_bit: bool,
    /// Bytes of its longest line without the line end.
    pub longest_line: usize,
    /// What it holds in memory, counted until it has gone where it goes.
    pub held: Option<Held>,
}

/// One message as it comes.
pub struct Receiver {
    id: QueueId,
    decoder: Decoder,
    ends: LineEnds,
    collector: Collector,
    sink: Sink,
    part: Vec<u8>,
    lines: Lines,
    eight_bit: bool,
    max_message: u64,
    max_memory: usize,
    spool: Spool,
    held: Held,
    /// There was no room for its header block: the rest is dropped, the client told at the end.
    crowded: bool,
}

/// Measures lines across parts.
#[derive(Default)]
struct Lines {
    current: usize,
    longest: usize,
}

/// Where a body goes.
enum Sink {
    Memory(Vec<u8>),
    Spool {
        writer: Box<SpoolWriter>,
        buffer: Vec<u8>,
    },
    /// The disk failed: the rest is dropped, the client told at the end (I7).
    Failed,
}

impl Receiver {
    /// For the message `id`; long bodies go to a file in `spool`, and what it has in memory is
    /// counted by `held`.
    pub fn new(limits: &Limits, spool: &Spool, id: QueueId, held: Held) -> Receiver {
        Receiver {
            id,
            decoder: Decoder::default(),
            ends: LineEnds::default(),
            collector: Collector::new(limits.header.bytes(), limits.message.0),
            sink: Sink::Memory(Vec::new()),
            part: Vec::new(),
            lines: Lines::default(),
            eight_bit: false,
            max_message: limits.message.0,
            max_memory: limits.memory_body.bytes(),
            spool: spool.clone(),
            held,
            crowded: false,
        }
    }

    /// Reads to the final dot. `input` may hold the first bytes and keeps those behind the end.
    pub async fn data<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        input: &mut BytesMut,
        patience: &Patience,
    ) -> Result<(), Broken> {
        let mut pace = Pace::new(patience);
        loop {
            let used = self.decoder.decode(input, &mut self.part);
            let _ = input.split_to(used);
            pace.count(used);
            self.take().await;
            if self.decoder.ended() {
                return Ok(());
            }
            if self.collector.total() > self.max_message.saturating_add(MAX_EXCESS) {
                return Err(Broken(Some(replies::DATA_TOO_LONG)));
            }
            pace.read(stream, input).await?;
        }
    }

    /// Reads the `size` octets of a chunk.
    pub async fn chunk<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        input: &mut BytesMut,
        size: u64,
        patience: &Patience,
    ) -> Result<(), Broken> {
        let mut pace = Pace::new(patience);
        let mut left = size;
        while left > 0 {
            let part = take_up_to(input, left);
            self.ends.watch(&part);
            self.part.extend_from_slice(&part);
            pace.count(part.len());
            left -= part.len() as u64;
            self.take().await;
            if left > 0 {
                pace.read(stream, input).await?;
            }
        }
        Ok(())
    }

    /// Hands what was decoded on.
    async fn take(&mut self) {
        self.eight_bit = self.eight_bit || !self.part.is_ascii();
        self.lines.measure(&self.part);
        self.collector.take(&mut self.part);
        if self.crowded {
            self.part.clear();
            return;
        }
        let room = self.held.set(self.holds() + self.part.len());
        let memory = match room {
            true => self.max_memory,
            false => self.max_memory.min(LEAST),
        };
        let sink = std::mem::replace(&mut self.sink, Sink::Failed);
        self.sink = sink
            .take(&mut self.part, memory, &self.spool, self.id)
            .await;
        if !self.held.set(self.holds()) && self.collector.held() > LEAST {
            // The body has gone to disk, a header block can not.
            self.crowded = true;
            self.sink = Sink::Failed;
            self.collector.give_up();
            self.held.set(0);
        }
        self.part.clear();
        if self.part.capacity() > 4 * BLOCK {
            self.part = Vec::new();
        }
    }

    /// Bytes in memory.
    fn holds(&self) -> usize {
        self.collector.held() + self.sink.held()
    }

    /// The message, or the reply that refuses it.
    pub async fn finish(mut self) -> Result<Message, Reply> {
        if self.ends.is_open() {
            // A last line without an end would get one at the next hop, behind our signature.
            self.part.extend_from_slice(b"\r\n");
            self.take().await;
        }
        let head = match self.collector.finish() {
            Err(Problem::HeaderTooBig) => return Err(replies::HEADER_TOO_BIG),
            Err(Problem::MessageTooBig) => return Err(replies::MESSAGE_TOO_BIG),
            Ok(_) if self.crowded => return Err(replies::CROWDED),
            Ok(_) if self.decoder.saw_bare_line_end() || self.ends.saw_bare() => {
                return Err(replies::BARE_LINE_END);
            }
            Ok(head) => head,
        };
        let body = self.sink.finish().await.ok_or(replies::QUEUE_FAILED)?;
        Ok(Message {
            id: self.id,
            content: Content {
                head: head.into(),
                body,
            },
            eight_bit: self.eight_bit,
            longest_line: self.lines.longest.max(self.lines.current),
            held: Some(self.held),
        })
    }
}

/// Removes the file of a body that is refused after all.
pub async fn forget(body: Body) {
    if let Body::Spool(file) = body {
        let removed = blocking(move || std::fs::remove_file(file.path.as_path())).await;
        if let Err(error) = removed {
            tracing::warn!(target: "session", %error, "the body of a refused message stays until the next start");
        }
    }
}

/// Reads `size` octets and drops them.
pub async fn discard<S: AsyncRead + Unpin>(
    stream: &mut S,
    input: &mut BytesMut,
    size: u64,
    patience: &Patience,
) -> Result<(), Broken> {
    let mut pace = Pace::new(patience);
    let mut left = size;
    loop {
        let part = take_up_to(input, left);
        pace.count(part.len());
        left -= part.len() as u64;
        if left == 0 {
            return Ok(());
        }
        drop(part);
        pace.read(stream, input).await?;
    }
}

fn take_up_to(input: &mut BytesMut, most: u64) -> BytesMut {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    input.split_to(input.len().min(most))
}

/// How fast data comes: no pause longer than `limits.data_timeout`, and once that time has passed,
/// not slower than `limits.data_rate` as a whole.
struct Pace<'a> {
    patience: &'a Patience,
    started: Instant,
    bytes: u64,
}

impl<'a> Pace<'a> {
    fn new(patience: &'a Patience) -> Pace<'a> {
        Pace {
            patience,
            started: Instant::now(),
            bytes: 0,
        }
    }

    fn count(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    async fn read<S: AsyncRead + Unpin>(
        &self,
        stream: &mut S,
        input: &mut BytesMut,
    ) -> Result<(), Broken> {
        let earned = Duration::from_secs(self.bytes / self.patience.data_rate.max(1));
        if self.started.elapsed() > self.patience.data.saturating_add(earned) {
            return Err(Broken(Some(replies::TOO_SLOW)));
        }
        input.reserve(BLOCK);
        let read = self
            .patience
            .wait(self.patience.data, stream.read_buf(input));
        match read.await {
            None => Err(Broken(Some(replies::IDLE))),
            Some(Ok(0)) | Some(Err(_)) => Err(Broken(None)),
            Some(Ok(_)) => Ok(()),
        }
    }
}

impl Lines {
    fn measure(&mut self, part: &[u8]) {
        let mut from = 0;
        for at in memchr::memchr_iter(b'\n', part) {
            // The CR before it is no part of the line; it may have come with the part before.
            let length = self.current + (at - from);
            self.longest = self.longest.max(length.saturating_sub(1));
            self.current = 0;
            from = at + 1;
        }
        self.current += part.len() - from;
    }
}

impl Sink {
    /// Bytes of memory.
    fn held(&self) -> usize {
        match self {
            Sink::Memory(buffer) | Sink::Spool { buffer, .. } => buffer.capacity(),
            Sink::Failed => 0,
        }
    }

    async fn take(self, part: &mut Vec<u8>, max_memory: usize, spool: &Spool, id: QueueId) -> Sink {
        match self {
            Sink::Memory(mut body) => {
                if body.capacity() >= BLOCK && body.capacity() - body.len() < part.len() {
                    // Doubling from here would copy what came so far two or three times.
                    body.reserve(STEP);
                }
                body.append(part);
                if body.len() <= max_memory {
                    return Sink::Memory(body);
                }
                let spool = spool.clone();
                let created = blocking(move || spool.begin(id)).await;
                match created {
                    Ok(writer) if body.len() < max_memory => Sink::Spool {
                        writer: Box::new(writer),
                        buffer: body,
                    },
                    Ok(writer) => write(Box::new(writer), body, max_memory).await,
                    Err(error) => failed(error),
                }
            }
            Sink::Spool { writer, mut buffer } => {
                buffer.append(part);
                if buffer.len() < max_memory {
                    return Sink::Spool { writer, buffer };
                }
                write(writer, buffer, max_memory).await
            }
            Sink::Failed => Sink::Failed,
        }
    }

    async fn finish(self) -> Option<Body> {
        match self {
            Sink::Memory(body) => {
                // It grew by doubling: up to half of what it holds would be held for nothing.
                Some(Body::Memory(Bytes::from(body.into_boxed_slice())))
            }
            Sink::Failed => None,
            Sink::Spool { writer, buffer } => {
                let Sink::Spool { writer, .. } = write(writer, buffer, 0).await else {
                    return None;
                };
                match blocking(move || writer.finish()).await {
                    Ok(file) => Some(Body::Spool(file)),
                    Err(error) => {
                        failed(error);
                        None
                    }
                }
            }
        }
    }
}

/// Writes what is in `buffer`; at most about `keep` bytes of room stay for what comes next.
async fn write(mut writer: Box<SpoolWriter>, mut buffer: Vec<u8>, keep: usize) -> Sink {
    let written = blocking(move || {
        writer.write(&buffer)?;
        buffer.clear();
        if buffer.capacity() > keep.saturating_mul(2) {
            buffer = Vec::new();
        }
        Ok((writer, buffer))
    });
    match written.await {
        Ok((writer, buffer)) => Sink::Spool { writer, buffer },
        Err(error) => failed(error),
    }
}

fn failed(error: io::Error) -> Sink {
    tracing::error!(target: "session", %error, "spool file can not be written");
    Sink::Failed
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}

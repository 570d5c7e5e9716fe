//! Message data from the wire into memory or, when it is long, into a spool file.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use queue_schema::QueueId;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::config::Limits;
use crate::message::collect::{Collector, Problem};
use crate::message::{Body, Content};
use crate::queue::store::{Spool, SpoolWriter};
use crate::smtp::data::Decoder;
use crate::smtp::replies::{self, Reply};

/// Room made in the input buffer for each read, in bytes.
const BLOCK: usize = 32 * 1024;

/// Bytes beyond `limits.message` that are read and dropped in the hope of an end.
const MAX_EXCESS: u64 = 16 * 1024 * 1024;

/// How the data ended.
pub enum Ended {
    /// With its dot: the message, or the reply that refuses it.
    Dot(Result<Message, Reply>),
    /// Without: the reply with which the connection is closed, if anybody is there to read it.
    Broken(Option<Reply>),
}

/// A message that came whole.
pub struct Message {
    /// Its bytes.
    pub content: Content,
    /// Whether one of them is over 127.
    pub eight_bit: bool,
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

/// Reads one message. `input` may hold its first bytes and keeps those behind its end.
pub async fn receive<S: AsyncRead + Unpin>(
    stream: &mut S,
    input: &mut BytesMut,
    limits: &Limits,
    spool: &Spool,
    id: QueueId,
) -> Ended {
    let mut decoder = Decoder::default();
    let mut collector = Collector::new(limits.header.bytes(), limits.message.0);
    let mut sink = Sink::Memory(Vec::new());
    let mut part = Vec::new();
    let mut eight_bit = false;
    loop {
        let used = decoder.decode(input, &mut part);
        let _ = input.split_to(used);
        eight_bit = eight_bit || !part.is_ascii();
        collector.take(&mut part);
        sink = sink
            .take(&mut part, limits.memory_body.bytes(), spool, id)
            .await;
        part.clear();
        if decoder.ended() {
            break;
        }
        if collector.total() > limits.message.0.saturating_add(MAX_EXCESS) {
            return Ended::Broken(Some(replies::DATA_TOO_LONG));
        }
        input.reserve(BLOCK);
        match read(stream, input, limits.data_timeout.0).await {
            Ok(0) => return Ended::Broken(None),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                return Ended::Broken(Some(replies::IDLE));
            }
            Err(_) => return Ended::Broken(None),
        }
    }
    let head = match collector.finish() {
        Err(Problem::HeaderTooBig) => return Ended::Dot(Err(replies::HEADER_TOO_BIG)),
        Err(Problem::MessageTooBig) => return Ended::Dot(Err(replies::MESSAGE_TOO_BIG)),
        Ok(_) if decoder.saw_bare_line_end() => return Ended::Dot(Err(replies::BARE_LINE_END)),
        Ok(head) => head,
    };
    match sink.finish().await {
        Some(body) => {
            let content = Content {
                head: head.into(),
                body,
            };
            Ended::Dot(Ok(Message { content, eight_bit }))
        }
        None => Ended::Dot(Err(replies::QUEUE_FAILED)),
    }
}

/// One read with a time limit.
pub async fn read<S: AsyncRead + Unpin>(
    stream: &mut S,
    input: &mut BytesMut,
    limit: Duration,
) -> io::Result<usize> {
    match tokio::time::timeout(limit, stream.read_buf(input)).await {
        Ok(result) => result,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

impl Sink {
    async fn take(self, part: &mut Vec<u8>, max_memory: usize, spool: &Spool, id: QueueId) -> Sink {
        match self {
            Sink::Memory(mut body) => {
                body.append(part);
                if body.len() <= max_memory {
                    return Sink::Memory(body);
                }
                let spool = spool.clone();
                let created = blocking(move || spool.begin(id)).await;
                match created {
                    Ok(writer) => Sink::Spool {
                        writer: Box::new(writer),
                        buffer: body,
                    },
                    Err(error) => failed(error),
                }
            }
            Sink::Spool { writer, mut buffer } => {
                buffer.append(part);
                if buffer.len() < max_memory {
                    return Sink::Spool { writer, buffer };
                }
                write(writer, buffer).await
            }
            Sink::Failed => Sink::Failed,
        }
    }

    async fn finish(self) -> Option<Body> {
        match self {
            Sink::Memory(body) => Some(Body::Memory(Bytes::from(body))),
            Sink::Failed => None,
            Sink::Spool { writer, buffer } => {
                let Sink::Spool { writer, .. } = write(writer, buffer).await else {
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

async fn write(mut writer: Box<SpoolWriter>, mut buffer: Vec<u8>) -> Sink {
    let written = blocking(move || {
        writer.write(&buffer)?;
        buffer.clear();
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

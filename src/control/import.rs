//! Taking a message of another queue: what it was is checked as if a stranger had written it,
//! because files can be edited.

use bytes::Bytes;
use queue_schema::{Event, EventKind, Hold, Message, Status};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::protocol::{Exported, Imported, Refusal};
use crate::message::{Body, Content};
use crate::queue::{Adopt, BY, Handle, Held, REASON, SpoolWriter, clean, clean_reply};
use crate::smtp::address::{Address, Charset};

/// Bytes of a description.
pub const MAX_ENVELOPE: u64 = 8 << 20;
/// Bytes of a message.
pub const MAX_MESSAGE: u64 = 1 << 30;
/// Bytes of a message that is kept in memory on its way; also the longest header block of a
/// larger one.
const MEMORY: u64 = 256 << 10;

/// Reads a description and a message from `reading` and makes the message durable.
pub async fn import(
    envelope: u64,
    size: u64,
    by: &str,
    queue: &Handle,
    mut reading: impl AsyncRead + Unpin,
) -> Result<Imported, Refusal> {
    if envelope > MAX_ENVELOPE || size > MAX_MESSAGE {
        return Err(Refusal::wrong(format!(
            "a message has at most {MAX_MESSAGE} bytes, its description {MAX_ENVELOPE}"
        )));
    }
    let mut text = Vec::new();
    let read = (&mut reading).take(envelope).read_to_end(&mut text).await;
    read.map_err(Refusal::unavailable)?;
    let exported: Exported = serde_json::from_slice(&text).map_err(Refusal::wrong)?;
    if exported.size != size {
        return Err(Refusal::wrong(format!(
            "the message has {size} bytes, its description says {}",
            exported.size
        )));
    }
    let was = exported.id.clone();
    let mut message = message(exported, by, queue)?;
    let content = content(size, &message, queue, reading).await?;
    message.size = size;
    let adopt = Adopt {
        message: Box::new(message),
        content,
    };
    let id = queue
        .addr
        .send(adopt)
        .await
        .map_err(Refusal::unavailable)?
        .map_err(Refusal::unavailable)?;
    Ok(Imported {
        was: clean(&was, 100),
        id: id.to_string(),
    })
}

/// The message, with everything in it checked.
fn message(exported: Exported, by: &str, queue: &Handle) -> Result<Message, Refusal> {
    let wrong = |what: &str| Refusal::wrong(format!("{}: {what}", clean(&exported.id, 100)));
    if exported.format != 1 {
        return Err(wrong(
            "its description has a format this chapar does not know",
        ));
    }
    let envelope = &exported.envelope;
    if envelope.recipients.is_empty() || envelope.recipients.len() != exported.states.len() {
        return Err(wrong("it needs recipients, and one state for each of them"));
    }
    let address = |text: &str| {
        Address::parse_in(text.as_bytes(), Charset::Utf8)
            .map(drop)
            .map_err(|error| wrong(&format!("'{}': {error}", clean(text, 320))))
    };
    if !envelope.reverse_path.is_empty() {
        address(&envelope.reverse_path)?;
    }
    for recipient in &envelope.recipients {
        address(&recipient.address)?;
        if let Some(alias) = &recipient.alias_of {
            address(alias)?;
        }
    }
    let words = [&envelope.envid];
    let words = words
        .into_iter()
        .chain(envelope.recipients.iter().map(|to| &to.orcpt));
    if words.flatten().any(|word| clean(word, 500) != *word) {
        return Err(wrong(
            "ENVID or ORCPT is too long or has control characters",
        ));
    }
    if exported
        .states
        .iter()
        .all(|state| state.status != Status::Waiting)
    {
        return Err(wrong("every recipient has ended"));
    }
    let now = crate::time::now();
    let mut new = crate::queue::store::new_message(
        queue.ids.issue(),
        exported.arrived.min(now),
        exported.origin,
        exported.envelope,
    );
    new.states = exported.states;
    let by = super::operator(by);
    let held = Held {
        by: by.clone(),
        reason: "held when it was imported".to_owned(),
        ..Held::default()
    };
    for state in &mut new.states {
        state.last_reply = state.last_reply.as_ref().map(clean_reply);
        state.warned |= exported.warned;
        // It was suspended there.
        state.suspended = None;
        for hold in std::mem::take(&mut state.holds) {
            state.hold(Hold {
                by: clean(&hold.by, BY),
                reason: clean(&hold.reason, REASON),
                ..hold
            });
        }
        if exported.held && state.status == Status::Waiting && !state.is_held(now) {
            state.hold(held.since(now));
        }
    }
    for event in &exported.story {
        new.tell(&Event {
            text: clean(&event.text, 300),
            remote: clean(&event.remote, 300),
            tls: clean(&event.tls, 100),
            by: clean(&event.by, 100),
            ..event.clone()
        });
    }
    new.tell(&Event {
        at: now,
        kind: EventKind::Imported,
        recipients: Vec::new(),
        text: format!("it was {}", clean(&exported.id, 100)),
        remote: String::new(),
        tls: String::new(),
        by,
    });
    Ok(new)
}

async fn content(
    size: u64,
    message: &Message,
    queue: &Handle,
    reading: impl AsyncRead + Unpin,
) -> Result<Content, Refusal> {
    let mut reading = reading.take(size);
    let mut first = Vec::new();
    let read = (&mut reading).take(MEMORY).read_to_end(&mut first).await;
    read.map_err(Refusal::unavailable)?;
    let short = || Refusal::wrong("the message ends before it should");
    if (first.len() as u64) < size.min(MEMORY) {
        return Err(short());
    }
    let end = memchr::memmem::find(&first, b"\r\n\r\n").map(|at| at + 4);
    if size <= MEMORY {
        let mut head = Bytes::from(first);
        let body = head.split_off(end.unwrap_or(head.len()).min(head.len()));
        return Ok(Content {
            head,
            body: Body::Memory(body),
        });
    }
    let end = end.ok_or_else(|| {
        Refusal::wrong(format!(
            "its header block does not end within {MEMORY} bytes"
        ))
    })?;
    let mut piece = first.split_off(end.min(first.len()));
    let (spool, id) = (queue.spool.clone(), message.id);
    let mut writer = blocking(move || spool.begin(id)).await?;
    let mut written = first.len() as u64;
    loop {
        written += piece.len() as u64;
        writer = blocking(move || {
            let mut writer: SpoolWriter = writer;
            writer.write(&piece)?;
            Ok(writer)
        })
        .await?;
        piece = Vec::new();
        let read = (&mut reading).take(MEMORY).read_to_end(&mut piece).await;
        if read.map_err(Refusal::unavailable)? == 0 {
            break;
        }
    }
    if written < size {
        return Err(short());
    }
    let file = blocking(move || writer.finish()).await?;
    Ok(Content {
        head: Bytes::from(first),
        body: Body::Spool(file),
    })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(Refusal::unavailable)?
        .map_err(Refusal::unavailable)
}

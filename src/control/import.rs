//! Taking a message of another queue: what it was is checked as if a stranger had written it,
//! because files can be edited. Each message is taken once, see [`crate::queue::Taken`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use queue_schema::{Event, EventKind, Hold, Message, QueueId, Status};
use ring::digest::{Context, Digest, SHA256};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::protocol::{Exported, Imported, Refusal};
use crate::message::{Body, Content};
use crate::queue::{
    AcceptError, Adopt, BY, Handle, Held, Ledger, REASON, SpoolWriter, TakenFrom, Unclaim,
    blocking, clean, clean_reply,
};
use crate::smtp::address::{Address, Charset};

/// Between two tries to note that a message was taken: at first, and at most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Bytes of a description.
pub const MAX_ENVELOPE: u64 = 8 << 20;
/// Bytes of a message.
pub const MAX_MESSAGE: u64 = 1 << 30;
/// Bytes of a message that is kept in memory on its way; also the longest header block of a
/// larger one.
const MEMORY: u64 = 256 << 10;

/// The queue a message comes from if that is not said.
const SOURCE: &str = "chapar";

/// The message as its line describes it.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    /// Bytes of the description.
    pub envelope: u64,
    /// Bytes of the message.
    pub size: u64,
    /// The operator.
    pub by: &'a str,
    /// What queue it comes from.
    pub source: &'a str,
    /// Take it even if it was taken before.
    pub again: bool,
}

/// Reads a description and a message from `reading` and makes the message durable, unless it was
/// taken before.
pub(super) async fn import(
    given: Given<'_>,
    queue: &Handle,
    taken: Arc<Mutex<Ledger>>,
    mut reading: impl AsyncRead + Unpin,
) -> Result<Imported, Refusal> {
    let Given {
        envelope,
        size,
        by,
        source,
        again,
    } = given;
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
    let (was, wanted) = (exported.id.clone(), exported.sha256.clone());
    let mut message = message(exported, by, queue)?;
    let (content, digest) = content(size, &message, queue, reading).await?;
    let damaged = wanted.is_some_and(|wanted| wanted != hex(&digest));
    if damaged {
        forget(content).await;
        return Err(Refusal::wrong(format!(
            "{}: its bytes are not those that were exported; export it again",
            clean(&was, 100)
        )));
    }
    message.size = size;
    let source = match source {
        "" => SOURCE,
        source => source,
    };
    let origin = TakenFrom::new(source, &was, &digest);
    let adopt = Adopt {
        message: Box::new(message),
        content,
        owner: super::export::owner(),
    };
    let queue = queue.clone();
    // A task of its own: what is begun is brought to its end, also when the client goes.
    let task = actix_rt::spawn(async move { adopted(adopt, origin, again, &queue, taken).await });
    let (id, before) = task.await.map_err(Refusal::unavailable)??;
    Ok(Imported {
        was: clean(&was, 100),
        id: id.map(|id| id.to_string()).unwrap_or_default(),
        before,
    })
}

/// Makes a message durable once: its id here, and whether an earlier import took it.
async fn adopted(
    adopt: Adopt,
    origin: TakenFrom,
    again: bool,
    queue: &Handle,
    taken: Arc<Mutex<Ledger>>,
) -> Result<(Option<QueueId>, bool), Refusal> {
    let _one = queue.taken.one.lock().await;
    let id = adopt.message.id;
    if lock(&taken).is_open(&origin) {
        forget(adopt.content).await;
        return Err(Refusal::unavailable(
            "an earlier import of it was broken off; chapar finds out within a minute, or when it is \
             restarted, how it ended. Then import it again",
        ));
    }
    let before = lock(&taken).taken(&origin);
    if let Some(known) = before.filter(|_| !again) {
        forget(adopt.content).await;
        return Ok((known, true));
    }
    let note = {
        let (taken, origin) = (taken.clone(), origin.clone());
        move || lock(&taken).begin(&origin, id)
    };
    blocked(note).await?;
    let owner = adopt.owner;
    let accepted = queue.addr.send(adopt).await;
    // After a failure of the store it may be there: the next start finds out.
    let surely_not = matches!(
        accepted,
        Ok(Err(AcceptError::DiskFull | AcceptError::Draining))
    );
    let accepted = accepted
        .map_err(Refusal::unavailable)
        .and_then(|accepted| accepted.map_err(Refusal::unavailable));
    let Ok(id) = accepted else {
        if surely_not {
            // Where this can not be noted, the next start finds it missing.
            let _ = blocked(move || lock(&taken).undone(&origin, id)).await;
        }
        return accepted.map(|id| (Some(id), false));
    };
    let note = Note { taken, origin, id };
    let let_go = Unclaim {
        owner,
        id: Some(id),
    };
    if let Err(refusal) = note.done().await {
        tracing::error!(%id, %refusal, "that a message was taken can not be noted; tried again");
        // It is in the queue, and the next start would note it; until then it is not delivered.
        let addr = queue.addr.clone();
        actix_rt::spawn(async move {
            let mut wait = AGAIN.0;
            loop {
                tokio::time::sleep(wait).await;
                if note.done().await.is_ok() || !addr.connected() {
                    break;
                }
                wait = (wait * 2).min(AGAIN.1);
            }
            addr.do_send(let_go);
        });
        return Ok((Some(id), false));
    }
    queue.addr.do_send(let_go);
    Ok((Some(id), false))
}

/// That a message was taken, to be noted.
struct Note {
    taken: Arc<Mutex<Ledger>>,
    origin: TakenFrom,
    id: QueueId,
}

impl Note {
    async fn done(&self) -> Result<(), Refusal> {
        let (taken, origin, id) = (self.taken.clone(), self.origin.clone(), self.id);
        blocked(move || lock(&taken).done(&origin, id)).await
    }
}

fn lock(taken: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A message that is not taken leaves nothing behind.
async fn forget(content: Content) {
    if let Body::Spool(file) = content.body {
        let _ = tokio::fs::remove_file(&*file.path).await;
    }
}

/// Hexadecimal digits of a digest.
fn hex(digest: &Digest) -> String {
    let mut text = String::new();
    for octet in digest.as_ref() {
        text.push_str(&format!("{octet:02x}"));
    }
    text
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
    // RFC 6710 section 2.1.
    new.envelope.priority = new.envelope.priority.clamp(-9, 9);
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
) -> Result<(Content, Digest), Refusal> {
    let mut digest = Context::new(&SHA256);
    let mut reading = reading.take(size);
    let mut first = Vec::new();
    let read = (&mut reading).take(MEMORY).read_to_end(&mut first).await;
    read.map_err(Refusal::unavailable)?;
    let short = || Refusal::wrong("the message ends before it should");
    if (first.len() as u64) < size.min(MEMORY) {
        return Err(short());
    }
    digest.update(&first);
    let end = memchr::memmem::find(&first, b"\r\n\r\n").map(|at| at + 4);
    if size <= MEMORY {
        let mut head = Bytes::from(first);
        let body = head.split_off(end.unwrap_or(head.len()).min(head.len()));
        let content = Content {
            head,
            body: Body::Memory(body),
        };
        return Ok((content, digest.finish()));
    }
    let end = end.ok_or_else(|| {
        Refusal::wrong(format!(
            "its header block does not end within {MEMORY} bytes"
        ))
    })?;
    let mut piece = first.split_off(end.min(first.len()));
    let (spool, id) = (queue.spool.clone(), message.id);
    let mut writer = blocked(move || spool.begin(id)).await?;
    let mut written = first.len() as u64;
    loop {
        written += piece.len() as u64;
        writer = blocked(move || {
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
        digest.update(&piece);
    }
    if written < size {
        return Err(short());
    }
    let file = blocked(move || writer.finish()).await?;
    let content = Content {
        head: Bytes::from(first),
        body: Body::Spool(file),
    };
    Ok((content, digest.finish()))
}

pub(super) async fn blocked<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, Refusal> {
    let done = blocking(work).await;
    done.map_err(Refusal::unavailable)?
        .map_err(Refusal::unavailable)
}

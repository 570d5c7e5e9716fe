//! Answering an operator: the same code for the daemon's socket and for `mta-queue` on a store
//! that no daemon uses.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use queue_schema::QueueId;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use super::protocol::{Answer, Item, Refusal, Request};
use super::summary::Summary;
use crate::message::Body;
use crate::queue::{Handle, Matcher, Selector, Steer, Verb};

/// Bytes of a message in one answer.
const PIECE: usize = 48 << 10;

/// Answers `request` into `out`; stops when nobody listens any more.
pub async fn answer(request: Request, queue: &Handle, out: mpsc::Sender<Answer>) {
    let done = match request {
        Request::List { selector } => list(&selector, queue, &out).await,
        Request::Summary { selector } => summarize(&selector, queue, &out).await,
        Request::Cat { id } => cat(&id, queue, &out).await,
        Request::Steer {
            verb,
            selector,
            dry_run,
            by,
        } => steer(verb, &selector, dry_run, &by, queue, &out).await,
    };
    let last = match done {
        Ok(count) => Answer::End(count),
        Err(refusal) => Answer::Error(refusal),
    };
    let _ = out.send(last).await;
}

fn compile(selector: &Selector) -> Result<Arc<Matcher>, Refusal> {
    selector
        .compile(crate::time::now())
        .map(Arc::new)
        .map_err(Refusal::wrong)
}

async fn list(
    selector: &Selector,
    queue: &Handle,
    out: &mpsc::Sender<Answer>,
) -> Result<u64, Refusal> {
    let matcher = compile(selector)?;
    let mut count = 0;
    let mut from = Some(QueueId(0));
    while let Some(start) = from {
        let page = queue
            .view
            .page(start, matcher.clone())
            .await
            .map_err(Refusal::unavailable)?;
        for (message, recipients) in &page.found {
            for item in recipients
                .iter()
                .filter_map(|position| Item::new(message, *position))
            {
                count += 1;
                if out.send(Answer::Item(Box::new(item))).await.is_err() {
                    return Ok(count);
                }
            }
        }
        from = page.next;
    }
    match matcher.id {
        Some(id) if count == 0 && *selector == only(selector) => Err(Refusal::unknown(id)),
        _ => Ok(count),
    }
}

async fn summarize(
    selector: &Selector,
    queue: &Handle,
    out: &mpsc::Sender<Answer>,
) -> Result<u64, Refusal> {
    let matcher = compile(selector)?;
    let now = crate::time::now();
    let mut summary = Summary::default();
    let mut from = Some(QueueId(0));
    while let Some(start) = from
        && !out.is_closed()
    {
        let page = queue
            .view
            .page(start, matcher.clone())
            .await
            .map_err(Refusal::unavailable)?;
        for (message, recipients) in &page.found {
            summary.add(message, recipients, now);
        }
        from = page.next;
    }
    let rows = summary.rows();
    let count = rows.len() as u64;
    for row in rows {
        if out.send(Answer::Row(Box::new(row))).await.is_err() {
            break;
        }
    }
    Ok(count)
}

/// The selector with nothing but its id.
fn only(selector: &Selector) -> Selector {
    Selector {
        id: selector.id.clone(),
        ..Selector::default()
    }
}

async fn cat(id: &str, queue: &Handle, out: &mpsc::Sender<Answer>) -> Result<u64, Refusal> {
    let id = id.parse::<QueueId>().map_err(Refusal::wrong)?;
    let message = queue.view.message(id).await.map_err(Refusal::unavailable)?;
    let message = message.ok_or_else(|| Refusal::unknown(id))?;
    let content = queue
        .view
        .content(message)
        .await
        .map_err(Refusal::unavailable)?;
    let send = async |bytes: &[u8]| {
        for piece in bytes.chunks(PIECE) {
            if out
                .send(Answer::Bytes(STANDARD.encode(piece)))
                .await
                .is_err()
            {
                return;
            }
        }
    };
    send(&content.head).await;
    match &content.body {
        Body::Memory(bytes) => send(bytes).await,
        Body::Spool(file) => {
            let mut open = tokio::fs::File::open(&*file.path)
                .await
                .map_err(Refusal::unavailable)?;
            let mut piece = vec![0; PIECE];
            loop {
                let read = open.read(&mut piece).await.map_err(Refusal::unavailable)?;
                if read == 0 || out.is_closed() {
                    break;
                }
                send(piece.get(..read).unwrap_or_default()).await;
            }
        }
    }
    Ok(content.len())
}

async fn steer(
    verb: Verb,
    selector: &Selector,
    dry_run: bool,
    by: &str,
    queue: &Handle,
    out: &mpsc::Sender<Answer>,
) -> Result<u64, Refusal> {
    let matcher = compile(selector)?;
    // First, or what is replayed would be sent back to wait for the end of the pause.
    if verb == Verb::Replay
        && !dry_run
        && let Some(resume) = &queue.resume
    {
        let _ = resume.send(crate::delivery::Resume).await;
    }
    let mut touched = 0;
    let mut found = false;
    let mut from = Some(QueueId(0));
    while let Some(start) = from {
        let page = queue
            .view
            .page(start, matcher.clone())
            .await
            .map_err(Refusal::unavailable)?;
        found |= !page.found.is_empty();
        let mut targets = Vec::new();
        for (message, recipients) in page.found {
            // A message is held as a whole.
            let recipients = match verb {
                Verb::Hold | Verb::Release => (0..).take(message.states.len()).collect(),
                Verb::Replay | Verb::Remove => recipients,
            };
            let waiting: Vec<u32> = recipients
                .into_iter()
                .filter(|position| {
                    let item = Item::new(&message, *position);
                    item.is_some_and(|item| applies(verb, &item.state))
                })
                .collect();
            for item in waiting
                .iter()
                .filter_map(|position| Item::new(&message, *position))
            {
                if out.send(Answer::Item(Box::new(item))).await.is_err() {
                    return Ok(touched);
                }
            }
            if !waiting.is_empty() {
                targets.push((message.id, waiting));
            }
        }
        if dry_run {
            touched += targets
                .iter()
                .map(|(_, recipients)| recipients.len() as u64)
                .sum::<u64>();
        } else if !targets.is_empty() {
            let by = super::operator(by);
            let steer = queue.addr.send(Steer { verb, targets, by }).await;
            touched += steer
                .map_err(Refusal::unavailable)?
                .map_err(Refusal::unavailable)?;
        }
        from = page.next;
    }
    match matcher.id {
        Some(id) if !found && *selector == only(selector) => Err(Refusal::unknown(id)),
        _ => Ok(touched),
    }
}

/// Whether a verb changes a recipient in this state.
fn applies(verb: Verb, state: &str) -> bool {
    match verb {
        Verb::Replay => state == "deferred",
        Verb::Remove => matches!(state, "queued" | "deferred" | "held"),
        Verb::Hold => matches!(state, "queued" | "deferred"),
        Verb::Release => state == "held",
    }
}

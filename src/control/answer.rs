//! Answering an operator: the same code for the daemon's socket and for `mta-queue` on a store
//! that no daemon uses.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use queue_schema::{Message, QueueId, RecipientState, Status};
use tokio::io::AsyncReadExt;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

use super::orders::{Asked, end, order, orders};
use super::protocol::{Answer, Exported, Item, Numbers, Refusal, Request};
use super::steer::{Order, resume, steer, suspend, suspensions};
use super::summary::Summary;
use crate::message::{Body, Content};
use crate::queue::{Handle, Happened, Matcher, Selector};

/// Bytes of a message in one answer.
const PIECE: usize = 48 << 10;
/// Rows of a list that is sorted.
const ROWS: usize = 100_000;
/// How often a client that watches is told that nothing happened: it notices a daemon that is
/// gone, and the daemon notices one that is.
pub(super) const ALIVE: Duration = Duration::from_secs(5);

/// Answers `request` into `out`; stops when nobody listens any more.
pub async fn answer(request: Request, queue: &Handle, out: mpsc::Sender<Answer>) {
    let done = match request {
        Request::List { selector, limit } => list(&selector, limit, queue, &out).await,
        Request::Show { id } => show(&id, queue, &out).await,
        Request::Summary { selector } => summarize(&selector, queue, &out).await,
        Request::Cat { id } => cat(&id, queue, &out).await,
        Request::Export { selector } => export(&selector, queue, &out).await,
        Request::Watch { selector } => watch(&selector, queue, &out).await,
        Request::Counts {} => counts(queue, &out).await,
        Request::Failures {} => failures(queue, &out).await,
        Request::Wire { about } => super::live::wire(&about, queue, &out).await,
        Request::Verify {} => verify(queue, &out).await,
        Request::Rebuild { by } => rebuild(&by, queue).await,
        Request::Suspensions {} => suspensions(queue, &out).await,
        Request::Suspend {
            destination,
            span,
            reason,
            dry_run,
            by,
        } => {
            let what = (&*destination, span.as_deref(), &*reason);
            suspend(what, dry_run, &by, queue, &out).await
        }
        Request::Resume {
            destination,
            spread,
            dry_run,
            by,
        } => resume(&destination, spread.as_deref(), dry_run, &by, queue, &out).await,
        Request::Steer {
            verb,
            selector,
            dry_run,
            by,
            spread,
            address,
            reason,
            span,
            kind,
            who,
        } => {
            let order = Order {
                verb,
                dry_run,
                by,
                spread,
                address,
                reason,
                span,
                kind,
                who,
            };
            steer(order, &selector, queue, &out).await
        }
        Request::Order {
            does,
            whose,
            span,
            reason,
            tells,
            dry_run,
            by,
        } => {
            let asked = Asked {
                does,
                whose,
                span,
                reason,
                tells,
                dry_run,
                by,
            };
            order(asked, queue, &out).await
        }
        Request::Orders { ended } => orders(ended, queue, &out).await,
        Request::EndOrder { id, dry_run, by } => end(&id, dry_run, &by, queue, &out).await,
        Request::Import { .. } | Request::Submit { .. } => {
            Err(Refusal::wrong("a message must follow its line"))
        }
    };
    let last = match done {
        Ok(count) => Answer::End(count),
        Err(refusal) => Answer::Error(refusal),
    };
    let _ = out.send(last).await;
}

pub(super) fn compile(selector: &Selector) -> Result<Arc<Matcher>, Refusal> {
    selector
        .compile(crate::time::now())
        .map(Arc::new)
        .map_err(Refusal::wrong)
}

/// Calls `each` with every message that is meant, and the positions of its recipients that are;
/// ends early when `each` says so.
pub(super) async fn pages(
    matcher: &Arc<Matcher>,
    queue: &Handle,
    mut each: impl AsyncFnMut(Arc<Message>, Vec<u32>) -> bool,
) -> Result<(), Refusal> {
    let mut from = Some(QueueId(0));
    while let Some(start) = from {
        let page = queue
            .view
            .page(start, matcher.clone())
            .await
            .map_err(Refusal::unavailable)?;
        for (message, recipients) in page.found {
            if !each(message, recipients).await {
                return Ok(());
            }
        }
        from = page.next;
    }
    Ok(())
}

async fn list(
    selector: &Selector,
    limit: Option<usize>,
    queue: &Handle,
    out: &mpsc::Sender<Answer>,
) -> Result<u64, Refusal> {
    let matcher = compile(selector)?;
    let mut count = 0;
    let limit = limit.map(|limit| limit.min(ROWS));
    // The newest trouble: what was tried last, then what came last.
    let mut newest = BinaryHeap::new();
    pages(&matcher, queue, async |message, recipients| {
        for position in recipients {
            count += 1;
            let Some(limit) = limit else {
                let item = Item::new(&message, position, matcher.now);
                if let Some(item) = item
                    && out.send(Answer::Item(Box::new(item))).await.is_err()
                {
                    return false;
                }
                continue;
            };
            let state = usize::try_from(position)
                .ok()
                .and_then(|at| message.states.get(at));
            let Some(tried) = state.map(|state| state.last_attempt) else {
                continue;
            };
            let key = (tried, message.arrived, message.id, Reverse(position));
            if newest.len() < limit {
                newest.push(Reverse(Row(key, message.clone())));
            } else if let Some(mut least) = newest.peek_mut()
                && least.0.0 < key
            {
                *least = Reverse(Row(key, message.clone()));
            }
        }
        true
    })
    .await?;
    let mut rows = newest.into_vec();
    rows.sort_unstable();
    for Reverse(Row((.., Reverse(position)), message)) in rows {
        if let Some(item) = Item::new(&message, position, matcher.now)
            && out.send(Answer::Item(Box::new(item))).await.is_err()
        {
            break;
        }
    }
    match matcher.id {
        Some(id) if count == 0 && *selector == only(selector) => Err(Refusal::unknown(id)),
        _ => Ok(count),
    }
}

type Key = (u64, u64, QueueId, Reverse<u32>);

/// A row of a sorted list: its message does not count for the order.
struct Row(Key, Arc<Message>);

impl PartialEq for Row {
    fn eq(&self, other: &Row) -> bool {
        self.0 == other.0
    }
}

impl Eq for Row {}

impl PartialOrd for Row {
    fn partial_cmp(&self, other: &Row) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Row {
    fn cmp(&self, other: &Row) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

async fn show(id: &str, queue: &Handle, out: &mpsc::Sender<Answer>) -> Result<u64, Refusal> {
    let id = id.parse::<QueueId>().map_err(Refusal::wrong)?;
    let message = queue.view.message(id).await.map_err(Refusal::unavailable)?;
    let message = message.ok_or_else(|| Refusal::unknown(id))?;
    // A message whose bytes are damaged has a story all the same.
    let content = queue.view.content(message.clone()).await.ok();
    let signed = content
        .map(|content| signatures(&content.head))
        .unwrap_or_default();
    let mut count = 0;
    let now = crate::time::now();
    for position in (0..).take(message.states.len()) {
        if let Some(item) = Item::new(&message, position, now) {
            count += 1;
            let item = item.told(&message, position, signed.clone());
            if out.send(Answer::Item(Box::new(item))).await.is_err() {
                break;
            }
        }
    }
    Ok(count)
}

/// The DKIM keys that signed a message here: their headers stand between our trace header, which
/// is the first, and everything that came from elsewhere.
pub(super) fn signatures(head: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(head);
    let unfolded = text.replace("\r\n ", " ").replace("\r\n\t", " ");
    let mut traces = 0;
    let mut found = Vec::new();
    for line in unfolded.split("\r\n").take_while(|line| !line.is_empty()) {
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "received" if traces == 0 => traces = 1,
            "dkim-signature" => {
                let tag = |wanted: &str| {
                    value.split(';').find_map(|part| {
                        let (tag, value) = part.split_once('=')?;
                        (tag.trim() == wanted).then(|| value.trim().to_owned())
                    })
                };
                if let (Some(domain), Some(selector)) = (tag("d"), tag("s")) {
                    found.push(format!("{domain}/{selector}"));
                }
            }
            _ => break,
        }
    }
    found
}

async fn summarize(
    selector: &Selector,
    queue: &Handle,
    out: &mpsc::Sender<Answer>,
) -> Result<u64, Refusal> {
    let matcher = compile(selector)?;
    let now = crate::time::now();
    let mut summary = Summary::default();
    pages(&matcher, queue, async |message, recipients| {
        summary.add(&message, &recipients, now);
        !out.is_closed()
    })
    .await?;
    let rows = summary.rows();
    let count = rows.len() as u64;
    for row in rows {
        if out.send(Answer::Row(Box::new(row))).await.is_err() {
            break;
        }
    }
    // What holds explains much of what waits.
    suspensions(queue, out).await?;
    Ok(count)
}

/// The selector with nothing but its id.
pub(super) fn only(selector: &Selector) -> Selector {
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
    bytes(&content, out).await?;
    Ok(content.len())
}

/// Sends the bytes of a message.
async fn bytes(content: &Content, out: &mpsc::Sender<Answer>) -> Result<(), Refusal> {
    let send = async |bytes: &[u8]| {
        for piece in bytes.chunks(PIECE) {
            let piece = Answer::Bytes(STANDARD.encode(piece));
            if out.send(piece).await.is_err() {
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
    Ok(())
}

async fn export(
    selector: &Selector,
    queue: &Handle,
    out: &mpsc::Sender<Answer>,
) -> Result<u64, Refusal> {
    let matcher = compile(selector)?;
    let mut count = 0;
    let mut failed = None;
    let now = matcher.now;
    pages(&matcher, queue, async |message, _| {
        let content = match queue.view.content(message.clone()).await {
            Ok(content) => content,
            Err(error) => {
                // The others can be moved; whoever asked is told at the end.
                failed.get_or_insert(error);
                return true;
            }
        };
        let exported = Exported {
            format: 1,
            id: message.id.to_string(),
            size: content.len(),
            arrived: message.arrived,
            origin: message.origin.clone(),
            envelope: message.envelope.clone(),
            states: message.states.clone(),
            warned: waiting(&message, |state| state.warned),
            held: waiting(&message, |state| state.is_held(now)),
            story: message.story.clone(),
        };
        if out.send(Answer::Message(Box::new(exported))).await.is_err() {
            return false;
        }
        if let Err(error) = bytes(&content, out).await {
            tracing::warn!(id = %message.id, %error, "a message could not be exported");
            return false;
        }
        count += 1;
        true
    })
    .await?;
    match failed {
        Some(error) => Err(Refusal::unavailable(error)),
        None => Ok(count),
    }
}

/// Whether something is true of every recipient that waits.
fn waiting(message: &Message, is: impl Fn(&RecipientState) -> bool) -> bool {
    let mut states = message.states.iter();
    states.all(|state| state.status != Status::Waiting || is(state))
}

async fn watch(
    selector: &Selector,
    queue: &Handle,
    out: &mpsc::Sender<Answer>,
) -> Result<u64, Refusal> {
    // Its `state` names events, which are more than states.
    let mut checked = selector.clone();
    checked.state = None;
    let matcher = compile(&checked)?;
    let mut feed = queue.feed.watch();
    // Whoever waits for what it does next knows now that it will be told.
    let _ = out.send(Answer::Alive).await;
    loop {
        let answer = match tokio::time::timeout(ALIVE, feed.recv()).await {
            Ok(Ok(event)) if concerns(&event, selector, &matcher) => {
                Answer::Event(Box::new(Happened::clone(&event)))
            }
            Ok(Ok(_)) => continue,
            Ok(Err(RecvError::Lagged(missed))) => Answer::Missed(missed),
            Ok(Err(RecvError::Closed)) => return Ok(0),
            Err(_) if !queue.addr.connected() => return Ok(0),
            Err(_) => Answer::Alive,
        };
        if out.send(answer).await.is_err() {
            return Ok(0);
        }
    }
}

fn concerns(event: &Happened, selector: &Selector, matcher: &Matcher) -> bool {
    selector
        .state
        .as_ref()
        .is_none_or(|word| *word == event.event)
        && matcher.happened(&event.id, &event.from, &event.to, &event.text)
}

async fn failures(queue: &Handle, out: &mpsc::Sender<Answer>) -> Result<u64, Refusal> {
    let failures = queue.feed.failures();
    let count = failures.len() as u64;
    for event in failures {
        let _ = out
            .send(Answer::Event(Box::new(Happened::clone(&event))))
            .await;
    }
    Ok(count)
}

async fn counts(queue: &Handle, out: &mpsc::Sender<Answer>) -> Result<u64, Refusal> {
    let stats = queue.view.stats();
    let numbers = Numbers {
        counts: queue.feed.counts(),
        messages: stats.messages,
        used: stats.used,
        live: stats.live,
        segments: stats.segments as u64,
        syncs: stats.syncs,
        writable: queue.view.failure().is_none(),
    };
    let _ = out.send(Answer::Counts(Box::new(numbers))).await;
    Ok(1)
}

async fn verify(queue: &Handle, out: &mpsc::Sender<Answer>) -> Result<u64, Refusal> {
    let mut whole = 0;
    let send = async |findings: Vec<crate::queue::store::Finding>| {
        for finding in findings {
            let _ = out.send(Answer::Finding(finding)).await;
        }
    };
    for segment in queue.view.segments() {
        let (count, findings) = queue
            .view
            .verify_segment(segment)
            .await
            .map_err(Refusal::unavailable)?;
        whole += count;
        send(findings).await;
    }
    let mut from = Some(QueueId(0));
    while let Some(start) = from
        && !out.is_closed()
    {
        let (count, findings, next) = queue
            .view
            .verify_messages(start)
            .await
            .map_err(Refusal::unavailable)?;
        whole += count.saturating_sub(findings.len() as u64);
        send(findings).await;
        from = next;
    }
    Ok(whole)
}

async fn rebuild(by: &str, queue: &Handle) -> Result<u64, Refusal> {
    tracing::info!(verb = "rebuild", by = super::operator(by), "steered");
    queue
        .view
        .suspect_index()
        .await
        .map_err(Refusal::unavailable)?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_signatures_are_named() {
        let head = b"Received: by mx.example.org\r\n\tid 1\r\nDKIM-Signature: v=1; a=rsa-sha256;\r\n d=example.org; s=2024a; b=xx\r\nDKIM-Signature: v=1; d=example.org;\r\n\ts=2024e; b=yy\r\nFrom: a@example.org\r\nDKIM-Signature: d=elsewhere.example; s=x\r\n\r\n";
        assert_eq!(signatures(head), ["example.org/2024a", "example.org/2024e"]);
        assert!(signatures(b"no header").is_empty());
        assert!(
            signatures(b"Received: a\r\nReceived: b\r\nDKIM-Signature: d=a; s=b\r\n\r\n")
                .is_empty()
        );
    }
}

//! Answering an operator: the same code for the daemon's socket and for `mta-queue` on a store
//! that no daemon uses.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use queue_schema::{Message, QueueId};
use tokio::io::AsyncReadExt;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

use super::export::export;
use super::list::{Wanted, list};
use super::orders::{Asked, end, order, orders};
use super::protocol::{Answer, By, Item, Numbers, Refusal, Request};
use super::steer::{Order, resume, steer, suspend, suspensions};
use super::summary::Summary;
use crate::config::routes::Routes;
use crate::message::{Body, Content};
use crate::queue::{Facts, Handle, Happened, Hops, Look, Matcher, Selector};

/// Bytes of a message in one answer.
const PIECE: usize = 48 << 10;
/// How often a client that watches is told that nothing happened: it notices a daemon that is
/// gone, and the daemon notices one that is.
pub(super) const ALIVE: Duration = Duration::from_secs(5);

/// Answers `request` into `out`; stops when nobody listens any more.
pub async fn answer(request: Request, queue: &Handle, out: mpsc::Sender<Answer>) {
    let done = match request {
        Request::List {
            selector,
            limit,
            sort,
            reverse,
            count,
        } => {
            let wanted = Wanted {
                limit,
                sort,
                reverse,
                count,
            };
            list(&selector, wanted, queue, &out).await
        }
        Request::Show { id } => show(&id, queue, &out).await,
        Request::Summary { selector, by } => summarize(&selector, by, queue, &out).await,
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
            rate,
            reset_attempts,
            address,
            reason,
            span,
            kind,
            who,
            quiet,
        } => {
            let order = Order {
                verb,
                dry_run,
                quiet: quiet && !dry_run,
                by,
                spread,
                rate,
                reset_attempts,
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
        // See `Session`, which answers them.
        Request::Ids { .. } | Request::Claim { .. } | Request::HandOver { .. } => {
            Err(Refusal::wrong("that is for a client that stays"))
        }
    };
    let last = match done {
        Ok(count) => Answer::End(count),
        Err(refusal) => Answer::Error(refusal),
    };
    let _ = out.send(last).await;
}

/// Understands a selector, and finds out what it has to know besides messages.
pub(super) async fn compile(selector: &Selector, queue: &Handle) -> Result<Arc<Matcher>, Refusal> {
    let matcher = selector
        .compile(crate::time::now())
        .map_err(Refusal::wrong)?;
    Ok(Arc::new(matcher.with(facts(queue).await?)))
}

/// What is known besides messages.
async fn facts(queue: &Handle) -> Result<Arc<Facts>, Refusal> {
    let asked = queue.addr.send(Look).await;
    let (facts, config) = asked.map_err(Refusal::unavailable)?;
    // The configuration was checked when it was loaded.
    let routes = Routes::new(&config.routes).unwrap_or_default();
    let hops: Hops =
        Arc::new(move |envelope, to| routes.next_host(envelope.mail_from(), &to.address));
    Ok(Arc::new(facts.with_hops(hops)))
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

async fn show(id: &str, queue: &Handle, out: &mpsc::Sender<Answer>) -> Result<u64, Refusal> {
    let id = id.parse::<QueueId>().map_err(Refusal::wrong)?;
    let message = queue.view.message(id).await.map_err(Refusal::unavailable)?;
    let message = message.ok_or_else(|| Refusal::unknown(id))?;
    // A message whose bytes are damaged has a story all the same.
    let content = queue.view.content(message.clone()).await.ok();
    let signed = content
        .map(|content| signatures(&content.head))
        .unwrap_or_default();
    let facts = facts(queue).await?;
    let now = crate::time::now();
    let mut count = 0;
    for position in (0..).take(message.states.len()) {
        if let Some(item) = Item::new(&message, position, &facts, now) {
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
    by: By,
    queue: &Handle,
    out: &mpsc::Sender<Answer>,
) -> Result<u64, Refusal> {
    let matcher = compile(selector, queue).await?;
    let now = crate::time::now();
    let facts = matcher.facts().clone();
    let mut summary = Summary::new(by);
    pages(&matcher, queue, async |message, recipients| {
        summary.add(&message, &recipients, &facts, now);
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
pub(super) async fn bytes(content: &Content, out: &mpsc::Sender<Answer>) -> Result<(), Refusal> {
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

async fn watch(
    selector: &Selector,
    queue: &Handle,
    out: &mpsc::Sender<Answer>,
) -> Result<u64, Refusal> {
    let matcher = selector.watch(crate::time::now()).map_err(Refusal::wrong)?;
    let mut feed = queue.feed.watch();
    // Whoever waits for what it does next knows now that it will be told.
    let _ = out.send(Answer::Alive).await;
    loop {
        let answer = match tokio::time::timeout(ALIVE, feed.recv()).await {
            Ok(Ok(event)) if matcher.happened(&event) => {
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
    send(
        queue
            .view
            .verify_counts()
            .await
            .map_err(Refusal::unavailable)?,
    )
    .await;
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

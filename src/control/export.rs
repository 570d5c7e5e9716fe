//! Giving messages out: copies of them, or the messages themselves to somebody who moves them to
//! another queue. What a client has claimed and not handed over when it goes waits here again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix::Addr;
use queue_schema::{Message, QueueId, RecipientState, Status};
use tokio::sync::mpsc;

use super::answer::{bytes, compile, pages};
use super::protocol::{Answer, Exported, Refusal, Skipped, Stays};
use crate::queue::{Claim, Claimed, HandOver, Handle, Queue, Selector, Unclaim};

/// Messages that one client has claimed at the same time: they are in memory.
pub const MOST: usize = 256;
/// How long a claim waits for the end of what is under way.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Ids in one answer.
const IDS: usize = 1000;

/// What one client has claimed.
pub(super) struct Claims {
    queue: Addr<Queue>,
    owner: u64,
    made: usize,
}

impl Claims {
    pub(super) fn new(queue: &Handle) -> Claims {
        Claims {
            queue: queue.addr.clone(),
            owner: owner(),
            made: 0,
        }
    }
}

impl Drop for Claims {
    fn drop(&mut self) {
        // One message for each client that goes; it must not be lost to a full mailbox.
        self.queue.do_send(Unclaim {
            owner: self.owner,
            id: None,
        });
    }
}

/// Somebody who claims messages, and nobody else.
pub(super) fn owner() -> u64 {
    // The queue itself is 0.
    static OWNERS: AtomicU64 = AtomicU64::new(1);
    OWNERS.fetch_add(1, Ordering::Relaxed)
}

fn exported(message: &Message, size: u64) -> Exported {
    let now = crate::time::now();
    Exported {
        format: 1,
        id: message.id.to_string(),
        size,
        arrived: message.arrived,
        origin: message.origin.clone(),
        envelope: message.envelope.clone(),
        states: message.states.clone(),
        warned: waiting(message, |state| state.warned),
        held: waiting(message, |state| state.is_held(now)),
        story: message.story.clone(),
        sha256: None,
    }
}

/// Whether something is true of every recipient that waits.
fn waiting(message: &Message, is: impl Fn(&RecipientState) -> bool) -> bool {
    let mut states = message.states.iter();
    states.all(|state| state.status != Status::Waiting || is(state))
}

/// What became of giving out one message.
enum Given {
    Whole,
    /// It can not be read.
    Unreadable(String),
    /// Nobody listens any more.
    Unheard,
}

async fn give(
    message: std::sync::Arc<Message>,
    queue: &Handle,
    out: &mpsc::Sender<Answer>,
) -> Result<Given, Refusal> {
    let content = match queue.view.content(message.clone()).await {
        Ok(content) => content,
        Err(error) => return Ok(Given::Unreadable(error.to_string())),
    };
    let described = exported(&message, content.len());
    let first = out.send(Answer::Message(Box::new(described))).await;
    if first.is_err() {
        return Ok(Given::Unheard);
    }
    // Half of it is with the client, who must not take that for the whole.
    bytes(&content, out).await?;
    Ok(match out.is_closed() {
        true => Given::Unheard,
        false => Given::Whole,
    })
}

fn skipped(id: QueueId, stays: Stays, text: impl std::fmt::Display) -> Answer {
    Answer::Skipped(Skipped {
        id: id.to_string(),
        stays,
        text: text.to_string(),
    })
}

/// Copies of all that is meant; what can not be read is told and left out.
pub(super) async fn export(
    selector: &Selector,
    queue: &Handle,
    out: &mpsc::Sender<Answer>,
) -> Result<u64, Refusal> {
    let matcher = compile(selector, queue).await?;
    let mut count = 0;
    let mut failed = None;
    pages(&matcher, queue, async |message, _| {
        let id = message.id;
        match give(message, queue, out).await {
            Ok(Given::Whole) => {
                count += 1;
                true
            }
            // The others can be moved.
            Ok(Given::Unreadable(why)) => {
                let stays = skipped(id, Stays::Unreadable, why);
                out.send(stays).await.is_ok()
            }
            Ok(Given::Unheard) => false,
            Err(refusal) => {
                failed = Some(refusal);
                false
            }
        }
    })
    .await?;
    failed.map_or(Ok(count), Err)
}

/// Ids of all messages that are meant.
pub(super) async fn ids(
    selector: &Selector,
    queue: &Handle,
    out: &mpsc::Sender<Answer>,
) -> Result<u64, Refusal> {
    let matcher = compile(selector, queue).await?;
    let (mut count, mut some) = (0, Vec::new());
    pages(&matcher, queue, async |message, _| {
        count += 1;
        some.push(message.id.to_string());
        if some.len() < IDS {
            return true;
        }
        out.send(Answer::Ids(std::mem::take(&mut some)))
            .await
            .is_ok()
    })
    .await?;
    if !some.is_empty() {
        let _ = out.send(Answer::Ids(some)).await;
    }
    Ok(count)
}

fn id(text: &str) -> Result<QueueId, Refusal> {
    text.parse().map_err(Refusal::wrong)
}

/// Claims a message and gives it out; told where that can not be.
pub(super) async fn claim(
    text: &str,
    wait: bool,
    claims: &mut Claims,
    queue: &Handle,
    out: &mpsc::Sender<Answer>,
) -> Result<u64, Refusal> {
    let id = id(text)?;
    if claims.made >= MOST {
        return Err(Refusal::wrong(format!(
            "{MOST} messages are claimed; hand them over before more are claimed"
        )));
    }
    let owner = claims.owner;
    let asked = queue.addr.send(Claim { id, owner, wait });
    let claimed = match tokio::time::timeout(LONGEST_WAIT, asked).await {
        Ok(claimed) => claimed
            .map_err(Refusal::unavailable)?
            .map_err(Refusal::unavailable)?,
        Err(_) => {
            unclaim(id, owner, queue).await?;
            Claimed::Busy
        }
    };
    let stays = match claimed {
        Claimed::Given(message) => match give(message, queue, out).await {
            Ok(Given::Whole) => {
                claims.made += 1;
                return Ok(1);
            }
            Ok(Given::Unheard) => return Ok(0),
            Ok(Given::Unreadable(why)) => {
                unclaim(id, owner, queue).await?;
                skipped(id, Stays::Unreadable, why)
            }
            Err(refusal) => {
                unclaim(id, owner, queue).await?;
                return Err(refusal);
            }
        },
        Claimed::Busy => skipped(id, Stays::Busy, "it is being delivered"),
        Claimed::Elsewhere => skipped(id, Stays::Busy, "somebody else is exporting it"),
        Claimed::Ended => skipped(id, Stays::Ended, "it has ended meanwhile"),
        Claimed::Gone => {
            let there = queue.view.message(id).await;
            match there.map_err(Refusal::unavailable)? {
                Some(_) => skipped(id, Stays::Unreadable, "it can not be read now"),
                None => skipped(id, Stays::Ended, "it has ended meanwhile"),
            }
        }
    };
    let _ = out.send(stays).await;
    Ok(0)
}

async fn unclaim(id: QueueId, owner: u64, queue: &Handle) -> Result<(), Refusal> {
    let id = Some(id);
    let sent = queue.addr.send(Unclaim { owner, id }).await;
    sent.map_err(Refusal::unavailable)
}

/// Ends messages that the client has made safe; those that changed since they were given out are
/// told.
pub(super) async fn hand_over(
    texts: &[String],
    by: &str,
    claims: &mut Claims,
    queue: &Handle,
    out: &mpsc::Sender<Answer>,
) -> Result<u64, Refusal> {
    let ids: Result<Vec<QueueId>, Refusal> = texts.iter().map(|text| id(text)).collect();
    let ids = ids?;
    claims.made = claims.made.saturating_sub(ids.len());
    let hand = HandOver {
        ids: ids.clone(),
        owner: claims.owner,
        by: super::operator(by),
    };
    let sent = queue.addr.send(hand).await;
    let gone = sent
        .map_err(Refusal::unavailable)?
        .map_err(Refusal::unavailable)?;
    for id in ids.iter().filter(|id| !gone.contains(id)) {
        let why = "it was changed while it was exported";
        let _ = out.send(skipped(*id, Stays::Changed, why)).await;
    }
    Ok(gone.len() as u64)
}

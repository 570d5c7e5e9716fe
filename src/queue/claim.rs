//! Messages that go over to another queue: given out, and taken away as they were given.
//!
//! Who exports a message claims it first. From then on it is not tried; it is given out once
//! nothing is being done with it any more, and it ends here when the exporter says that it is safe
//! elsewhere, unless an operator changed it in between: then it stays, and the exporter is told.
//! A claim is no hold and is written nowhere: after a restart, and when the exporter goes away,
//! the message waits as it did before.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use actix::prelude::*;
use queue_schema::{Change, Event, EventKind, Message, QueueId, Status};
use tokio::sync::oneshot;

use super::actor::{Purpose, Queue};
use super::commit::Waiter;
use super::messages::{Claim, Claimed, HandOver, Unclaim};
use super::own_reply;
use super::slot::Slot;
use super::store::StoreError;

/// What is said of a recipient that went to another queue.
const EXPORTED: &str = "exported to another queue";

/// Claims that were made.
#[derive(Default)]
pub(super) struct Claims {
    made: HashMap<QueueId, Made>,
    /// Those that wait for their message.
    waiting: VecDeque<Waiting>,
}

/// One claim.
struct Made {
    owner: u64,
    /// It counts in the slot.
    counted: bool,
    /// The message as it was given out.
    given: Option<Arc<Message>>,
}

struct Waiting {
    id: QueueId,
    /// For the end of what is under way, too.
    patient: bool,
    answer: oneshot::Sender<Result<Claimed, StoreError>>,
}

impl Claims {
    /// Whether a message is not to be tried.
    pub fn has(&self, id: QueueId) -> bool {
        self.made.contains_key(&id)
    }

    /// A message that is brought, which is not in memory yet, or may not be.
    pub fn bring(&mut self, id: QueueId, owner: u64) {
        let made = Made {
            owner,
            counted: false,
            given: None,
        };
        self.made.insert(id, made);
    }

    /// Whether a message that came was brought; it is in memory from now on.
    pub fn came(&mut self, id: QueueId) -> bool {
        let made = self.made.get_mut(&id);
        made.is_some_and(|made| !std::mem::replace(&mut made.counted, true))
    }
}

impl Handler<Claim> for Queue {
    type Result = ResponseFuture<Result<Claimed, StoreError>>;

    fn handle(&mut self, claim: Claim, ctx: &mut Self::Context) -> Self::Result {
        let Claim { id, owner, wait } = claim;
        if let Some(failure) = self.store.failure() {
            return Box::pin(async move { Err(failure) });
        }
        if self.claims.has(id) {
            return Box::pin(async { Ok(Claimed::Elsewhere) });
        }
        let known = self.slots.contains_key(&id);
        self.slots.entry(id).or_default().claims += 1;
        if !known {
            self.load(vec![id], Purpose::Steer);
        }
        self.claims.made.insert(
            id,
            Made {
                owner,
                counted: true,
                given: None,
            },
        );
        let (answer, answered) = oneshot::channel();
        self.claims.waiting.push_back(Waiting {
            id,
            patient: wait,
            answer,
        });
        self.pump(ctx);
        Box::pin(async move { answered.await.unwrap_or(Err(StoreError::Closed)) })
    }
}

impl Queue {
    /// Gives out what can be given by now.
    pub(super) fn claim_step(&mut self) {
        for _ in 0..self.claims.waiting.len() {
            let Some(waiting) = self.claims.waiting.pop_front() else {
                return;
            };
            let slot = self.slots.get(&waiting.id);
            let claimed = match slot {
                // It was read and is not there.
                None => Claimed::Gone,
                Some(slot) if slot.ended => Claimed::Ended,
                Some(slot) => match &slot.message {
                    Some(message) if !slot.is_busy() => Claimed::Given(message.clone()),
                    Some(_) if !waiting.patient => Claimed::Busy,
                    _ if waiting.answer.is_closed() => Claimed::Busy,
                    _ => {
                        self.claims.waiting.push_back(waiting);
                        continue;
                    }
                },
            };
            if let Claimed::Given(message) = &claimed
                && let Some(made) = self.claims.made.get_mut(&waiting.id)
            {
                made.given = Some(message.clone());
            }
            let given = matches!(claimed, Claimed::Given(_));
            let heard = waiting.answer.send(Ok(claimed)).is_ok();
            if !given || !heard {
                self.end_claim(waiting.id);
            }
        }
    }

    /// Ends a claim; the message waits as it did before, if it has not ended.
    fn end_claim(&mut self, id: QueueId) {
        self.claims.waiting.retain(|waiting| waiting.id != id);
        let Some(made) = self.claims.made.remove(&id) else {
            return;
        };
        if let Some(slot) = self.slots.get_mut(&id).filter(|_| made.counted) {
            slot.claims = slot.claims.saturating_sub(1);
        }
        self.release(id);
    }

    /// The end of a message that is as it was given out; `None` if it is not.
    fn handed_over(&self, id: QueueId, hand: &HandOver, now: u64) -> Option<Change> {
        let made = self.claims.made.get(&id)?;
        let given = made.given.as_ref().filter(|_| made.owner == hand.owner)?;
        let slot: &Slot = self.slots.get(&id)?;
        // A change makes a copy of a message that somebody holds.
        let same = slot
            .message
            .as_ref()
            .is_some_and(|message| Arc::ptr_eq(message, given));
        if !same || slot.ended || slot.is_busy() {
            return None;
        }
        let mut change = Change {
            by: hand.by.clone(),
            ..Change::default()
        };
        for (position, state) in (0..).zip(&given.states) {
            if state.status == Status::Waiting {
                let mut state = state.clone();
                state.status = Status::Removed;
                state.next_due = 0;
                let text = format!("{EXPORTED} by {}", hand.by);
                state.last_reply = Some(own_reply(250, "2.0.0", &text));
                change.recipients.push((position, state));
            }
        }
        change.story.push(Event {
            at: now,
            kind: EventKind::Removed,
            recipients: change.recipients.iter().map(|(at, _)| *at).collect(),
            text: EXPORTED.to_owned(),
            remote: String::new(),
            tls: String::new(),
            by: hand.by.clone(),
        });
        Some(change)
    }
}

impl Handler<HandOver> for Queue {
    type Result = ResponseFuture<Result<Vec<QueueId>, StoreError>>;

    fn handle(&mut self, hand: HandOver, ctx: &mut Self::Context) -> Self::Result {
        if let Some(failure) = self.store.failure() {
            return Box::pin(async move { Err(failure) });
        }
        let now = crate::time::now();
        let (mut gone, mut durable) = (Vec::new(), Vec::new());
        for id in &hand.ids {
            if let Some(change) = self.handed_over(*id, &hand, now) {
                tracing::info!(%id, by = hand.by, "exported");
                if let Some(message) = self.slots.get(id).and_then(|slot| slot.message.clone()) {
                    for event in &change.story {
                        self.feed.event(&message, event);
                    }
                }
                let (waiter, waited) = Waiter::new();
                durable.push(waited);
                gone.push(*id);
                self.change(*id, change, Vec::new(), Some(waiter));
            }
            if self.owns(*id, hand.owner) {
                self.end_claim(*id);
            }
        }
        self.pump(ctx);
        Box::pin(async move {
            for waited in durable {
                waited.await.unwrap_or(Err(StoreError::Closed))?;
            }
            Ok(gone)
        })
    }
}

impl Queue {
    fn owns(&self, id: QueueId, owner: u64) -> bool {
        let made = self.claims.made.get(&id);
        made.is_some_and(|made| made.owner == owner)
    }
}

impl Handler<Unclaim> for Queue {
    type Result = ();

    fn handle(&mut self, unclaim: Unclaim, ctx: &mut Self::Context) {
        let made = self.claims.made.iter();
        let mut mine: Vec<QueueId> = made
            .filter(|(id, made)| {
                made.owner == unclaim.owner && unclaim.id.is_none_or(|wanted| wanted == **id)
            })
            .map(|(id, _)| *id)
            .collect();
        mine.sort_unstable();
        for id in mine {
            self.end_claim(id);
        }
        self.pump(ctx);
    }
}

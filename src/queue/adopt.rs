//! Taking over a message of another queue: its attempts and due times go on, as far as they make
//! sense here.
//!
//! It counts as claimed by whoever brings it until it is noted that it was taken ([`Taken`]).
//! Were it delivered before, and the process killed, nothing would tell it from one that never
//! came, and the next import would bring it again.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use queue_schema::{Message, QueueId};

use super::actor::{Event, Queue, not_accepted};
use super::ledger::{Taken, Unsettled};
use super::messages::{AcceptError, Adopt, Unclaim};
use super::{blocking, schedule};

impl Handler<Adopt> for Queue {
    type Result = ResponseFuture<Result<QueueId, AcceptError>>;

    fn handle(&mut self, adopt: Adopt, ctx: &mut Self::Context) -> Self::Result {
        if self.is_stopping() {
            return Box::pin(async { Err(AcceptError::Draining) });
        }
        let (store, inbox) = (self.store.clone(), self.inbox.clone());
        let (id, owner) = (adopt.message.id, adopt.owner);
        self.claims.bring(id, owner);
        let addr = ctx.address();
        let now = crate::time::now();
        let retry = self.config.retry.clone();
        let most = self.config.limits.future_release;
        Box::pin(async move {
            let Adopt {
                mut message,
                content,
                owner: _,
            } = adopt;
            schedule::adopt(&retry, most.0, &mut message, now);
            match store.accept(*message, content.clone()).await {
                Ok(message) => {
                    let from = &message.envelope.reverse_path;
                    tracing::info!(%id, from, size = message.size, "imported");
                    inbox.push(Event::Adopted(message));
                    Ok(id)
                }
                Err(error) => {
                    addr.do_send(Unclaim {
                        owner,
                        id: Some(id),
                    });
                    Err(not_accepted(error, content).await)
                }
            }
        })
    }
}

/// Who has claimed what opening the queue found to be here and could not note as taken.
const SETTLING: u64 = 0;
/// Between two tries to note it: at first, and at most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

impl Queue {
    /// A message of another queue is durable.
    pub(super) fn adopted(&mut self, message: Arc<Message>) {
        self.feed.accepted(&message);
        let id = message.id;
        // An operator may have been quicker than this event, and knows better.
        let known = self.slots.contains_key(&id);
        if self.claims.came(id) {
            let slot = self.slots.entry(id).or_default();
            slot.claims += 1;
            slot.message.get_or_insert_with(|| message.clone());
        }
        if self.is_ordered(&message, crate::time::now()) {
            self.ordered_at_once(message);
        } else if !known && !self.slots.contains_key(&id) {
            self.place(&message);
        }
    }

    /// Notes what opening left over, until that succeeds.
    pub(super) fn settle_imports(&mut self, taken: Taken, left: Vec<Unsettled>, addr: Addr<Queue>) {
        for one in &left {
            self.claims.bring(one.id, SETTLING);
        }
        if left.is_empty() {
            return;
        }
        actix_rt::spawn(async move {
            let mut wait = AGAIN.0;
            loop {
                tokio::time::sleep(wait).await;
                let (list, some) = (taken.clone(), left.clone());
                match blocking(move || list.settled(&some)).await {
                    Ok(Ok(())) => break,
                    Ok(Err(error)) => {
                        tracing::error!(%error, "how an import ended can not be noted; tried again");
                    }
                    Err(error) => tracing::error!(%error, "noting how an import ended panicked"),
                }
                wait = (wait * 2).min(AGAIN.1);
            }
            addr.do_send(Unclaim {
                owner: SETTLING,
                id: None,
            });
        });
    }
}

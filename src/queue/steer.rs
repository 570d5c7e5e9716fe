//! What operators do to messages: replay, remove, hold, release.
//!
//! Messages that are named are brought into memory first, so that a change is always made to the
//! present state, whatever delivery is doing with them.

use std::collections::VecDeque;

use actix::prelude::*;
use queue_schema::{Change, Status};
use tokio::sync::oneshot;

use super::actor::{Purpose, Queue, Slot};
use super::messages::{Steer, Verb};
use super::own_reply;
use super::store::StoreError;

/// A request of an operator on its way.
pub(super) struct Steering {
    steer: Steer,
    answer: oneshot::Sender<Result<u64, StoreError>>,
    claimed: bool,
}

impl Handler<Steer> for Queue {
    type Result = ResponseFuture<Result<u64, StoreError>>;

    fn handle(&mut self, steer: Steer, ctx: &mut Self::Context) -> Self::Result {
        let (answer, answered) = oneshot::channel();
        self.steering.push_back(Steering {
            steer,
            answer,
            claimed: false,
        });
        self.pump(ctx);
        Box::pin(async move { answered.await.unwrap_or(Err(StoreError::Closed)) })
    }
}

impl Queue {
    /// Goes on with the first request as far as possible.
    pub(super) fn steer_step(&mut self) {
        while let Some(mut steering) = self.steering.pop_front() {
            if let Some(failure) = self.store.failure() {
                let _ = steering.answer.send(Err(failure));
                continue;
            }
            if !steering.claimed {
                steering.claimed = true;
                self.claim(&steering.steer);
            }
            let reading = |slot: &Slot| slot.message.is_none();
            let targets = steering.steer.targets.iter();
            if targets
                .clone()
                .any(|(id, _)| self.slots.get(id).is_some_and(reading))
            {
                self.steering.push_front(steering);
                return;
            }
            self.steer(steering);
        }
    }

    fn claim(&mut self, steer: &Steer) {
        let mut wanted = Vec::new();
        for (id, _) in &steer.targets {
            let slot = self.slots.entry(*id).or_insert_with(|| {
                wanted.push(*id);
                Slot::default()
            });
            slot.claims += 1;
        }
        if !wanted.is_empty() {
            self.load(wanted, Purpose::Steer);
        }
    }

    fn steer(&mut self, steering: Steering) {
        let Steering { steer, answer, .. } = steering;
        let now = crate::time::now();
        let mut touched = 0;
        let mut changes = VecDeque::new();
        for (id, recipients) in &steer.targets {
            let Some(slot) = self.slots.get_mut(id) else {
                continue;
            };
            slot.claims = slot.claims.saturating_sub(1);
            if let Some((change, count)) = wanted(slot, recipients, &steer, now) {
                touched += count;
                changes.push_back((*id, change));
            }
        }
        let mut answer = Some(answer);
        let mut durable = None;
        while let Some((id, change)) = changes.pop_front() {
            // The last one of the batch answers for all: batches are durable in order.
            let waiter = changes.is_empty().then(|| {
                let (waiter, waited) = oneshot::channel();
                durable = Some(waited);
                waiter
            });
            if steer.verb == Verb::Remove
                && let Some(slot) = self.slots.get_mut(&id)
            {
                let gone = |p: &u32| change.recipients.iter().any(|(position, _)| position == p);
                slot.handed.retain(|position| !gone(position));
            }
            tracing::info!(%id, verb = ?steer.verb, by = steer.by, "steered");
            self.change(id, change, None, waiter);
        }
        for (id, _) in &steer.targets {
            self.release(*id);
        }
        let Some(answer) = answer.take() else { return };
        match durable {
            None => drop(answer.send(Ok(touched))),
            Some(durable) => {
                actix_rt::spawn(async move {
                    let result = durable.await.unwrap_or(Err(StoreError::Closed));
                    let _ = answer.send(result.map(|()| touched));
                });
            }
        }
    }
}

/// The change a verb makes to a message, and how many recipients it touches.
fn wanted(slot: &Slot, recipients: &[u32], steer: &Steer, now: u64) -> Option<(Change, u64)> {
    let message = slot.message.as_ref().filter(|_| !slot.ended)?;
    let mut change = Change {
        by: steer.by.clone(),
        ..Change::default()
    };
    let waiting = recipients.iter().filter_map(|position| {
        let state = message.states.get(usize::try_from(*position).ok()?)?;
        (state.status == Status::Waiting).then(|| (*position, state.clone()))
    });
    let mut count = 0;
    match steer.verb {
        Verb::Replay => {
            for (position, mut state) in waiting {
                // One that is being tried now can not be tried any sooner.
                if !slot.busy.contains(&position) && state.next_due > now {
                    state.next_due = now;
                    change.recipients.push((position, state));
                    count += 1;
                }
            }
            if change.recipients.is_empty() {
                return None;
            }
        }
        Verb::Remove => {
            for (position, mut state) in waiting {
                state.status = Status::Removed;
                state.next_due = 0;
                let text = format!("removed from the queue by {}", steer.by);
                state.last_reply = Some(own_reply(550, "5.7.0", &text));
                change.recipients.push((position, state));
                count += 1;
            }
            if change.recipients.is_empty() {
                return None;
            }
        }
        Verb::Hold | Verb::Release => {
            let held = steer.verb == Verb::Hold;
            if message.held == held {
                return None;
            }
            change.held = Some(held);
            count = waiting.count() as u64;
        }
    }
    Some((change, count))
}

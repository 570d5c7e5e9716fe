//! What operators do: replay, remove, hold, release, bounce, redirect messages; suspend and
//! resume destinations.
//!
//! Messages that are named are brought into memory first, so that a change is always made to the
//! present state, whatever delivery is doing with them.

use std::collections::VecDeque;

use actix::prelude::*;
use queue_schema::{Change, Event, EventKind, Message, Recipient, RecipientState, Status};
use tokio::sync::oneshot;

use super::actor::{Purpose, Queue, Slot};
use super::clock::Clock;
use super::dsn::Report;
use super::kept;
use super::messages::{Steer, Suspend, Suspended, Unsuspend, Verb};
use super::settle::Order;
use super::store::StoreError;
use super::suspend::{self, Suspension};
use super::{blocking, own_reply};

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
        let mut returns = Vec::new();
        for (id, recipients) in &steer.targets {
            let Some(slot) = self.slots.get_mut(id) else {
                continue;
            };
            slot.claims = slot.claims.saturating_sub(1);
            if steer.verb == Verb::Bounce {
                let reports = returned(slot, recipients, &steer, now);
                if !reports.is_empty() {
                    touched += reports.len() as u64;
                    returns.push((*id, reports));
                }
                continue;
            }
            if let Some((change, count)) = wanted(slot, recipients, &steer, &self.clock, now) {
                touched += count;
                changes.push_back((*id, change));
            }
        }
        let mut durable = Vec::new();
        for (id, reports) in returns {
            tracing::info!(%id, verb = ?steer.verb, by = steer.by, "steered");
            let (waiter, waited) = oneshot::channel();
            durable.push(waited);
            let order = Order {
                by: steer.by.clone(),
                waiter: Some(waiter),
            };
            self.give_back(id, reports, order);
        }
        while let Some((id, change)) = changes.pop_front() {
            // The last one of the batch answers for all: batches are durable in order.
            let waiter = changes.is_empty().then(|| {
                let (waiter, waited) = oneshot::channel();
                durable.push(waited);
                waiter
            });
            if steer.verb == Verb::Remove
                && let Some(slot) = self.slots.get_mut(&id)
            {
                let gone = |p: &u32| change.recipients.iter().any(|(position, _)| position == p);
                slot.handed.retain(|position| !gone(position));
            }
            tracing::info!(%id, verb = ?steer.verb, by = steer.by, "steered");
            if let Some(message) = self.slots.get(&id).and_then(|slot| slot.message.clone()) {
                for event in &change.story {
                    self.feed.event(&message, event);
                }
            }
            self.change(id, change, None, waiter);
        }
        for (id, _) in &steer.targets {
            self.release(*id);
        }
        if durable.is_empty() {
            let _ = answer.send(Ok(touched));
            return;
        }
        actix_rt::spawn(async move {
            let mut result = Ok(touched);
            for durable in durable {
                let one = durable.await.unwrap_or(Err(StoreError::Closed));
                result = one.and(result);
            }
            let _ = answer.send(result);
        });
    }
}

/// The change a verb makes to a message, and how many recipients it touches.
fn wanted(
    slot: &Slot,
    recipients: &[u32],
    steer: &Steer,
    clock: &Clock,
    now: u64,
) -> Option<(Change, u64)> {
    let message = slot.message.as_ref().filter(|_| !slot.ended)?;
    let mut change = Change {
        by: steer.by.clone(),
        ..Change::default()
    };
    let waiting = waiting(message, recipients);
    let mut count = 0;
    let mut text = String::new();
    match steer.verb {
        Verb::Replay => {
            for (position, mut state) in waiting {
                // One that is being tried now can not be tried any sooner.
                let due = clock.due(message, &state, now);
                if !slot.busy.contains(&position) && due > now {
                    let spread = crate::time::millis(steer.manner.spread);
                    // A random moment of the spread, so that it is no herd.
                    let later = if spread == 0 {
                        0
                    } else {
                        fastrand::u64(0..spread)
                    };
                    // Written as if before the clock was set, for it is read like that.
                    let shift = clock.shift(message, &state, now);
                    let wanted = now.saturating_add(later).min(due);
                    state.next_due = wanted.saturating_sub_signed(shift);
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
            count = waiting.len() as u64;
        }
        Verb::Redirect => {
            let address = &steer.manner.address;
            let mut taken = message
                .envelope
                .recipients
                .iter()
                .zip(&message.states)
                .any(|(to, state)| to.address == *address && state.status == Status::Waiting);
            for (position, mut state) in waiting {
                let old = usize::try_from(position)
                    .ok()
                    .and_then(|at| message.envelope.recipients.get(at))?;
                // One that is being tried now may be delivered where it was to go.
                if slot.busy.contains(&position) || old.address == *address {
                    continue;
                }
                if taken {
                    state.status = Status::Removed;
                    state.next_due = 0;
                    let text = format!("redirected to {address}, which gets the message already");
                    state.last_reply = Some(own_reply(250, "2.1.5", &text));
                } else {
                    taken = true;
                    state = RecipientState::new(now);
                    let shift = clock.shift(message, &state, now);
                    state.next_due = now.saturating_sub_signed(shift);
                    let new = Recipient {
                        address: address.clone(),
                        alias_of: Some(old.alias_of.clone().unwrap_or_else(|| old.address.clone())),
                        ..old.clone()
                    };
                    change.redirected.push((position, new));
                }
                change.recipients.push((position, state));
                count += 1;
            }
            if change.recipients.is_empty() {
                return None;
            }
            text = format!("to {address}");
        }
        // See `returned`.
        Verb::Bounce => return None,
    }
    let kind = match steer.verb {
        Verb::Replay => EventKind::Replayed,
        Verb::Remove => EventKind::Removed,
        Verb::Hold => EventKind::Held,
        Verb::Release => EventKind::Released,
        Verb::Redirect => EventKind::Redirected,
        Verb::Bounce => EventKind::Returned,
    };
    change.story.push(Event {
        at: now,
        kind,
        recipients: change
            .recipients
            .iter()
            .map(|(position, _)| *position)
            .collect(),
        text,
        remote: String::new(),
        tls: String::new(),
        by: steer.by.clone(),
    });
    Some((change, count))
}

/// Those of the recipients that wait.
fn waiting(message: &Message, recipients: &[u32]) -> Vec<(u32, RecipientState)> {
    let waiting = recipients.iter().filter_map(|position| {
        let state = message.states.get(usize::try_from(*position).ok()?)?;
        (state.status == Status::Waiting).then(|| (*position, state.clone()))
    });
    waiting.collect()
}

/// The ends of recipients that are returned to the sender.
fn returned(slot: &Slot, recipients: &[u32], steer: &Steer, now: u64) -> Vec<Report> {
    let Some(message) = slot.message.as_ref().filter(|_| !slot.ended) else {
        return Vec::new();
    };
    let reason = match steer.manner.reason.as_str() {
        "" => "the operator of the mail server returned it",
        reason => reason,
    };
    let end = |(recipient, state): (u32, RecipientState)| Report {
        recipient,
        state: RecipientState {
            status: Status::Bounced,
            next_due: 0,
            last_attempt: now,
            last_reply: Some(own_reply(550, "5.7.0", reason)),
            ..state
        },
        tls: String::new(),
    };
    waiting(message, recipients).into_iter().map(end).collect()
}

impl Handler<Suspend> for Queue {
    type Result = ResponseFuture<Result<(), String>>;

    fn handle(&mut self, Suspend(new): Suspend, _ctx: &mut Self::Context) -> Self::Result {
        let by = new.by.clone();
        let (feed, what, text) = (self.feed.clone(), new.destination.clone(), new.text());
        tracing::info!(verb = "suspend", destination = what, by, text, "steered");
        let changed = self.change_suspensions(move |list, now| {
            let same =
                |old: &Suspension| old.destination == new.destination && old.rule == new.rule;
            // A rule that raises an alarm may stop the destination as well.
            let same =
                |old: &Suspension| same(old) && (new.rule.is_empty() || old.effect == new.effect);
            list.retain(|old| old.until > now && !same(old));
            if list.len() >= suspend::MOST {
                return Err(format!("{} destinations are suspended already", list.len()));
            }
            list.push(new);
            Ok(())
        });
        Box::pin(async move {
            changed.await?;
            feed.destination("suspended", &what, &text, &by);
            Ok(())
        })
    }
}

impl Handler<Unsuspend> for Queue {
    type Result = ResponseFuture<Result<Vec<Suspension>, String>>;

    fn handle(&mut self, end: Unsuspend, _ctx: &mut Self::Context) -> Self::Result {
        let Unsuspend { destination, by } = end;
        tracing::info!(verb = "resume", destination, by, "steered");
        let feed = self.feed.clone();
        let changed = self.change_suspensions(move |list, now| {
            list.retain(|old| old.until > now);
            let (ended, rest) = std::mem::take(list)
                .into_iter()
                .partition(|old| destination.is_empty() || old.destination == destination);
            *list = rest;
            Ok::<Vec<Suspension>, String>(ended)
        });
        Box::pin(async move {
            let ended = changed.await?;
            for suspension in &ended {
                feed.destination("resumed", &suspension.destination, "", &by);
            }
            Ok(ended)
        })
    }
}

impl Handler<Suspended> for Queue {
    type Result = MessageResult<Suspended>;

    fn handle(&mut self, _: Suspended, _ctx: &mut Self::Context) -> Self::Result {
        let now = crate::time::now();
        let all = self.suspensions.borrow();
        let holds = all.iter().filter(|one| one.until > now);
        MessageResult(holds.cloned().collect())
    }
}

impl Queue {
    /// Changes the list on disk, then here. One change after the other.
    fn change_suspensions<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Vec<Suspension>, u64) -> Result<T, String> + Send + 'static,
    ) -> impl Future<Output = Result<T, String>> + 'static {
        let saved = self.saving.clone();
        let (holding, data_dir) = (self.suspensions.clone(), self.config.data_dir.clone());
        let disk = self.store.disk();
        async move {
            let mut saved = saved.lock_owned().await;
            let mut list = saved.clone();
            let result = change(&mut list, crate::time::now())?;
            let written = list.clone();
            let save = move || kept::save(&disk, &data_dir, suspend::FILE, &written);
            let done = blocking(save).await;
            done.map_err(|error| error.to_string())
                .and_then(|done| done.map_err(|error| format!("it can not be written: {error}")))?;
            saved.clone_from(&list);
            // Before the answer: whoever hears it and asks hears the new list.
            *holding.borrow_mut() = list;
            Ok(result)
        }
    }
}

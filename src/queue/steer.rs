//! What operators do: replay, remove, hold, release, bounce, redirect messages; suspend and
//! resume destinations.
//!
//! Messages that are named are brought into memory first, so that a change is always made to the
//! present state, whatever delivery is doing with them.

use actix::prelude::*;
use queue_schema::{Change, Event, EventKind, Hold, Message, QueueId, RecipientState, Status};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::actor::{Purpose, Queue};
use super::anew;
use super::clock::Clock;
use super::commit::Waiter;
use super::dsn::Report;
use super::facts::Facts;
use super::messages::{Look, Pace, Steer, Suspend, Suspended, Unsuspend, Verb};
use super::orders::RETURNED;
use super::settle::Order;
use super::slot::Slot;
use super::store::StoreError;
use super::suspend::{self, Suspension};
use super::{own_reply, schedule};
use crate::config::Retry;

/// Targets of an order beyond which it counts as one on very many: it is not logged for each of
/// them, and what is due is read less often meanwhile.
const MANY: usize = 16;

/// A request of an operator on its way.
pub(super) struct Steering {
    steer: Steer,
    answer: oneshot::Sender<Result<u64, StoreError>>,
    /// So many of its targets are in memory, or gone.
    read: usize,
}

impl Handler<Steer> for Queue {
    type Result = ResponseFuture<Result<u64, StoreError>>;

    fn handle(&mut self, steer: Steer, ctx: &mut Self::Context) -> Self::Result {
        let (answer, answered) = oneshot::channel();
        // At once, so that what waits behind another order is read meanwhile.
        self.claim(&steer);
        self.steering.push_back(Steering {
            steer,
            answer,
            read: 0,
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
                self.unclaim(&steering.steer);
                let _ = steering.answer.send(Err(failure));
                continue;
            }
            let reading = |slot: &Slot| slot.message.is_none() && slot.unread.is_none();
            let targets = &steering.steer.targets;
            while let Some((id, _)) = targets.get(steering.read) {
                if self.slots.get(id).is_some_and(reading) {
                    self.steering.push_front(steering);
                    return;
                }
                steering.read += 1;
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

    /// An order is not carried out: its targets need not stay in memory for it.
    fn unclaim(&mut self, steer: &Steer) {
        for (id, _) in &steer.targets {
            if let Some(slot) = self.slots.get_mut(id) {
                slot.claims = slot.claims.saturating_sub(1);
            }
            self.release(*id);
        }
    }

    fn steer(&mut self, steering: Steering) {
        if steering.steer.targets.len() > MANY {
            self.steered = Some(Instant::now());
        }
        let Steering { steer, answer, .. } = steering;
        let now = crate::time::now();
        let mut replay = Replay {
            retry: self.config.retry.clone(),
            spread: crate::time::millis(steer.manner.spread),
            pace: steer.manner.pace,
            reset: steer.manner.reset,
        };
        let mut answers = Vec::new();
        let mut waiter = || {
            let (waiter, waited) = Waiter::new();
            answers.push(waited);
            waiter
        };
        for (id, recipients) in &steer.targets {
            let Some(slot) = self.slots.get_mut(id) else {
                continue;
            };
            slot.claims = slot.claims.saturating_sub(1);
            if let Some(error) = slot.unread.take() {
                waiter().answer(Err(error));
                self.unreadable(*id);
                continue;
            }
            if steer.verb == Verb::Obey {
                self.obey(*id, now, || Some(waiter()));
                continue;
            }
            let ends = match steer.verb {
                Verb::Bounce => recipients.clone(),
                Verb::Requeue => anew::lost(steer.manner.anew.get(id), &slot.busy()),
                _ => Vec::new(),
            };
            let reports = returned(slot, &ends, &steer, now);
            let change = {
                let orders = self.orders.now.borrow();
                let context = (&self.clock, &orders[..]);
                wanted(slot, recipients, &steer, &mut replay, context, now)
            };
            if reports.is_empty() && change.is_none() {
                continue;
            }
            log(*id, &steer);
            if !reports.is_empty() {
                let order = Order {
                    by: steer.by.clone(),
                    waiter: Some(waiter()),
                    standing: false,
                };
                self.give_back(*id, reports, order);
            }
            if let Some(change) = change {
                let message = self.slots.get(id).and_then(|slot| slot.message.clone());
                if let Some(message) = message {
                    for event in &change.story {
                        self.feed.event(&message, event);
                    }
                }
                self.change(*id, change, Vec::new(), Some(waiter()));
            }
        }
        for (id, _) in &steer.targets {
            self.release(*id);
        }
        actix_rt::spawn(async move {
            let mut touched = 0;
            let mut failed = None;
            for waited in answers {
                match waited.await.unwrap_or(Err(StoreError::Closed)) {
                    Ok(count) => touched += count,
                    Err(error) => failed = Some(error),
                }
            }
            let _ = answer.send(failed.map_or(Ok(touched), Err));
        });
    }
}

/// Says what is done to one message; of an order for very many one line says it at its end, and the
/// story of each message.
fn log(id: QueueId, steer: &Steer) {
    let by = &steer.by;
    match steer.targets.len() > MANY {
        true => tracing::debug!(%id, verb = ?steer.verb, by, "steered"),
        false => tracing::info!(%id, verb = ?steer.verb, by, "steered"),
    }
}

/// How recipients are replayed.
struct Replay {
    retry: Retry,
    /// Milliseconds.
    spread: u64,
    pace: Option<Pace>,
    reset: bool,
}

impl Replay {
    /// The new state of a recipient; none if nothing is to be changed.
    fn due(
        &mut self,
        message: &Message,
        mut state: RecipientState,
        clock: &Clock,
        now: u64,
    ) -> Option<RecipientState> {
        let due = clock.due(message, &state, now)?;
        if due <= now && !(self.reset && state.attempts > 0) {
            return None;
        }
        // Written as if before the clock was set, for it is read like that.
        let shift = clock.shift(message, &state, now);
        let wanted = match &mut self.pace {
            _ if due <= now => due,
            // At its turn, be that sooner or later than it would have been; never too late.
            Some(pace) => {
                let deadline = schedule::deadline(&self.retry, message);
                let moved = clock.deadline_shift(message, now);
                pace.turn()
                    .max(now)
                    .min(deadline.saturating_add_signed(moved))
            }
            None if self.spread == 0 => now,
            // A random moment of the spread, so that it is no herd.
            None => now.saturating_add(fastrand::u64(0..self.spread)).min(due),
        };
        state.next_due = wanted.saturating_sub_signed(shift);
        state.suspended = None;
        if self.reset {
            state.attempts = 0;
        }
        Some(state)
    }
}

/// The change a verb makes to a message.
fn wanted(
    slot: &Slot,
    recipients: &[u32],
    steer: &Steer,
    replay: &mut Replay,
    (clock, orders): (&Clock, &[super::order::Order]),
    now: u64,
) -> Option<Change> {
    let message = slot.message.as_ref().filter(|_| !slot.ended)?;
    let mut change = Change {
        by: steer.by.clone(),
        ..Change::default()
    };
    let waiting = slot.waiting(recipients);
    let manner = &steer.manner;
    let (kind, text) = match steer.verb {
        Verb::Replay => {
            for (position, state) in waiting {
                // One that is being tried now can not be tried any sooner.
                if !slot.is_busy_with(position)
                    && let Some(state) = replay.due(message, state, clock, now)
                {
                    change.recipients.push((position, state));
                }
            }
            (EventKind::Replayed, String::new())
        }
        Verb::Remove => {
            change.recipients = waiting.into_iter().map(removed).collect();
            (EventKind::Removed, String::new())
        }
        Verb::Hold => {
            let hold = manner.hold.since(now);
            let new = |(_, state): &(u32, RecipientState)| !manner.hold.is_among(&state.holds);
            let held = |(position, mut state): (u32, RecipientState)| {
                state.hold(hold.clone());
                (position, state)
            };
            change.recipients = waiting.into_iter().filter(new).map(held).collect();
            (EventKind::Held, hold_text(&hold))
        }
        Verb::Release => {
            let released = |(position, mut state): (u32, RecipientState)| {
                let any = manner.release.apply(&mut state, orders, now);
                any.then_some((position, state))
            };
            change.recipients = waiting.into_iter().filter_map(released).collect();
            (EventKind::Released, manner.release.to_string())
        }
        Verb::Redirect | Verb::Requeue => {
            let anew = manner.anew.get(&message.id)?;
            let shift = |state: &RecipientState| clock.shift(message, state, now);
            let moved = anew::moved(message, anew, steer.verb, &slot.busy(), now, shift);
            change.recipients = moved.recipients;
            change.redirected = moved.redirected;
            change.added = moved.added;
            change.forwarded_as.clone_from(&anew.forwarded_as);
            // A seal that is there already stays.
            change.top = anew.top.clone().filter(|_| message.top.is_empty());
            let kind = match steer.verb {
                Verb::Requeue => EventKind::Requeued,
                _ => EventKind::Redirected,
            };
            (kind, moved.text)
        }
        // See `returned` and `Queue::obey`.
        Verb::Bounce | Verb::Obey => return None,
    };
    if change.recipients.is_empty() {
        return None;
    }
    let touched = change.recipients.iter().map(|(position, _)| *position);
    change.story.push(Event {
        at: now,
        kind,
        recipients: touched.collect(),
        text,
        remote: String::new(),
        tls: String::new(),
        by: steer.by.clone(),
    });
    Some(change)
}

/// Whoever reads of it, an operator's name is not for senders.
fn removed((position, state): (u32, RecipientState)) -> (u32, RecipientState) {
    let ended = RecipientState {
        status: Status::Removed,
        next_due: 0,
        last_reply: Some(own_reply(550, "5.7.0", "removed from the queue")),
        suspended: None,
        ..state
    };
    (position, ended)
}

/// What a story tells of a hold.
fn hold_text(hold: &Hold) -> String {
    let until = hold.until.map(crate::time::text);
    match (hold.reason.as_str(), until) {
        ("", None) => String::new(),
        ("", Some(until)) => format!("until {until}"),
        (reason, None) => reason.to_owned(),
        (reason, Some(until)) => format!("until {until}: {reason}"),
    }
}

/// The ends of recipients that are returned to the sender.
fn returned(slot: &Slot, recipients: &[u32], steer: &Steer, now: u64) -> Vec<Report> {
    let (enhanced, reason) = match (steer.verb, steer.manner.reason.as_str()) {
        (Verb::Requeue, _) => ("5.1.1", "the address leads to nobody any more"),
        (_, "") => ("5.7.0", RETURNED),
        (_, reason) => ("5.7.0", reason),
    };
    let end = |(recipient, state): (u32, RecipientState)| Report {
        recipient,
        state: RecipientState {
            status: Status::Bounced,
            next_due: 0,
            last_reply: Some(own_reply(550, enhanced, reason)),
            suspended: None,
            ..state
        },
        tls: String::new(),
        at: now,
    };
    slot.waiting(recipients).into_iter().map(end).collect()
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

impl Handler<Look> for Queue {
    type Result = MessageResult<Look>;

    fn handle(&mut self, _: Look, _ctx: &mut Self::Context) -> Self::Result {
        let facts = Facts::new(self.clock.clone(), self.config.retry.clone());
        MessageResult((facts, self.config.clone()))
    }
}

impl Handler<Suspended> for Queue {
    type Result = MessageResult<Suspended>;

    fn handle(&mut self, _: Suspended, _ctx: &mut Self::Context) -> Self::Result {
        let now = crate::time::now();
        let all = self.suspensions.now.borrow();
        let holds = all.iter().filter(|one| one.until > now);
        MessageResult(holds.cloned().collect())
    }
}

impl Queue {
    /// Changes the list on disk, then here.
    fn change_suspensions<T: 'static>(
        &self,
        change: impl FnOnce(&mut Vec<Suspension>, u64) -> Result<T, String> + 'static,
    ) -> impl Future<Output = Result<T, String>> + 'static {
        let place = (self.store.disk(), self.config.data_dir.as_path());
        self.suspensions.change(place, change, |_, _| {})
    }
}

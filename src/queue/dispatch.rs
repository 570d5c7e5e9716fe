//! Waking what is due: from the due index to jobs for the dispatcher, and back when nothing more
//! is to be done with a message now.

use std::sync::Arc;
use std::time::Duration;

use queue_schema::{Change, Message, Millis, QueueId, Status};
use tokio::time::Instant;

use super::actor::{Event, Loaded, Purpose, Queue};
use super::due::Lane;
use super::messages::{Attempt, Job, Outcome, Record};
use super::slot::Slot;
use crate::delivery::Wake;

/// Jobs in one message to the dispatcher.
const BATCH: usize = 256;
/// Messages that are read with one request.
const LOAD: usize = 128;
/// Bytes of the journal that are kept free for the outcome of each recipient that is handed out.
const OUTCOME_ROOM: u64 = 1 << 10;
/// How long nothing is sent after the dispatcher could not be reached.
const PAUSE: Duration = Duration::from_secs(1);
/// When a message is tried again that could not be read from the index.
const UNREADABLE: Millis = 60_000;
/// Handed recipients are looked after when nothing was heard for this long.
const LOST_AFTER: Duration = Duration::from_secs(60);

impl Queue {
    /// Whether more messages may be on their way.
    fn has_room(&self) -> bool {
        let coming = self.active + self.backlog.len() + self.loading;
        coming < self.config.delivery.active
    }

    /// Whether there is room for what becomes of one recipient more: nothing is handed out whose
    /// outcome could not be written down, or it would be delivered again after a restart.
    fn can_be_recorded(&self) -> bool {
        let outcomes = (self.handed + self.commits.undurable() + 1) as u64;
        !self.commits.is_behind()
            && outcomes.saturating_mul(OUTCOME_ROOM) <= self.store.room_for_outcomes()
    }

    /// Whether messages that are due can be read now.
    pub(super) fn can_load(&self) -> bool {
        self.loading == 0 && self.backlog.len() < BATCH && self.has_room()
    }

    /// Reads messages that are due into memory.
    pub(super) fn load_due(&mut self, now: Millis) {
        if !self.can_load() {
            return;
        }
        let limit = self.config.delivery.active;
        self.due.unpark(|lane| self.shares.admits(lane, limit));
        let mut wanted = Vec::new();
        while self.loading < LOAD
            && self.backlog.len() < BATCH
            && self.has_room()
            && let Some((id, lane)) = self.due.take(now, |lane| self.shares.admits(lane, limit))
        {
            match self.slots.get_mut(&id) {
                // In memory already: some of its recipients are under way, others are due.
                Some(slot) if !slot.queued && slot.message.is_some() => {
                    slot.queued = true;
                    if slot.lane.is_none() {
                        self.shares.enter(&mut slot.lane, lane);
                    }
                    self.backlog.push_back(id);
                }
                Some(_) => {}
                None => {
                    let mut slot = Slot::default();
                    self.shares.enter(&mut slot.lane, lane);
                    self.slots.insert(id, slot);
                    self.loading += 1;
                    wanted.push(id);
                }
            }
        }
        if !wanted.is_empty() {
            self.load(wanted, Purpose::Due);
        }
    }

    /// Reads messages; the answer is an event.
    pub(super) fn load(&self, wanted: Vec<QueueId>, purpose: Purpose) {
        let (readers, inbox) = (self.readers.clone(), self.inbox.clone());
        actix_rt::spawn(async move {
            let ids = wanted.clone();
            let read = readers.run(move |reader| {
                wanted
                    .into_iter()
                    .map(|id| (id, reader.load(id)))
                    .collect::<Vec<_>>()
            });
            let messages = match read.await {
                Ok(messages) => messages,
                Err(error) => ids.into_iter().map(|id| (id, Err(error.clone()))).collect(),
            };
            inbox.push(Event::Loaded(messages, purpose));
        });
    }

    pub(super) fn loaded(&mut self, messages: Loaded, purpose: Purpose) {
        if purpose == Purpose::Due {
            self.loading = 0;
        }
        for (id, message) in messages {
            let Some(slot) = self.slots.get_mut(&id) else {
                continue;
            };
            // Who came first knows better: it may have been changed since this was read.
            let message = match slot.message.clone() {
                Some(known) => Ok(Some(known)),
                None => message,
            };
            match message {
                Ok(Some(message)) => {
                    slot.message = Some(message);
                    if purpose == Purpose::Due && !slot.queued {
                        slot.queued = true;
                        self.backlog.push_back(id);
                    } else if slot.claims == 0 {
                        // Whoever wanted it has gone.
                        self.release(id);
                    }
                    if purpose == Purpose::Lost {
                        self.lose(id);
                    }
                }
                Ok(None) => {
                    if purpose == Purpose::Due {
                        tracing::error!(%id, "a message that was due is not in the queue");
                    }
                    self.forget(id);
                }
                Err(error) => {
                    tracing::error!(%id, %error, "a message can not be read; tried again");
                    match slot.claims {
                        0 => self.unreadable(id),
                        _ => slot.unread = Some(error),
                    }
                }
            }
        }
    }

    /// Ends messages whose bytes were found to be lost.
    pub(super) fn take_lost(&mut self) {
        let mut wanted = Vec::new();
        for id in self.store.take_lost() {
            match self.slots.get(&id).map(|slot| slot.message.is_some()) {
                Some(true) => self.lose(id),
                // It is being read for another purpose; what is lost is found again.
                Some(false) => {}
                None => {
                    self.slots.insert(id, Slot::default());
                    wanted.push(id);
                }
            }
        }
        if !wanted.is_empty() {
            self.load(wanted, Purpose::Lost);
        }
    }

    /// It can not be read now, and is tried again later.
    pub(super) fn unreadable(&mut self, id: QueueId) {
        self.forget(id);
        let again = crate::time::now().saturating_add(UNREADABLE);
        self.due.set(id, again, Lane::default());
    }

    /// Sends jobs to the dispatcher, one batch at a time, new mail and backlog in turns.
    pub(super) fn wake(&mut self) {
        if self
            .paused_until
            .is_some_and(|until| until > Instant::now())
            || self.sending
        {
            return;
        }
        self.paused_until = None;
        let Some(dispatcher) = self.dispatcher.clone() else {
            return;
        };
        let now = crate::time::now();
        let limit = self.config.delivery.active;
        let mut jobs = Vec::new();
        while jobs.len() < BATCH
            && self.active < self.config.delivery.active
            && self.can_be_recorded()
        {
            let backlog = self.backlog_next || self.fresh.is_empty();
            self.backlog_next = !self.backlog_next;
            let next = if backlog && let Some(id) = self.backlog.pop_front() {
                Some((id, None))
            } else {
                let next = self.fresh.pop(|lane| self.shares.admits(lane, limit));
                next.map(|((id, content), lane)| {
                    if let Some(slot) = self.slots.get_mut(&id) {
                        self.shares.enter(&mut slot.lane, lane);
                    }
                    (id, Some(content))
                })
            };
            match next {
                Some((id, content)) => jobs.extend(self.job(id, content, now)),
                None if self.backlog.is_empty() => break,
                None => {}
            }
        }
        if jobs.is_empty() {
            return;
        }
        let named: Vec<_> = jobs
            .iter()
            .map(|job| (job.message.id, job.recipients.clone()))
            .collect();
        self.sending = true;
        let inbox = self.inbox.clone();
        actix_rt::spawn(async move {
            let taken = dispatcher.send(Wake(jobs)).await.is_ok();
            inbox.push(Event::Sent(named, taken));
        });
    }

    fn job(
        &mut self,
        id: QueueId,
        content: Option<crate::message::Content>,
        now: Millis,
    ) -> Option<Job> {
        let slot = self.slots.get_mut(&id)?;
        slot.queued = false;
        if self.claims.has(id) {
            // Whoever has claimed it gives it back, or ends it.
            self.shares.leave(&mut slot.lane);
            return None;
        }
        self.obey(id, now, || None);
        let slot = self.slots.get(&id)?;
        let message = slot.message.clone()?;
        let mut recipients = Vec::new();
        if !slot.ended {
            for (position, state) in (0..).zip(&message.states) {
                let due = self.clock.due(&message, state, now);
                let due = due.is_some_and(|due| due <= now);
                if due && !slot.is_busy_with(position) {
                    recipients.push(position);
                }
            }
        }
        let id = message.id;
        recipients = self.without_suspended(&message, recipients, now);
        let slot = self.slots.get(&id)?;
        if recipients.is_empty() {
            let waits = message
                .states
                .iter()
                .any(|state| state.status == Status::Waiting);
            if !waits && !slot.ended {
                // Its end was lost with a damaged record; nothing is left to be done.
                self.change(id, Change::default(), Vec::new(), None);
            }
            self.release(id);
            return None;
        }
        self.under_way(id, |slot| {
            slot.handed.extend_from_slice(&recipients);
            slot.handed_at = now;
            slot.handed_since = Some(Instant::now());
            slot.jobs.push(Arc::downgrade(&message));
        });
        Some(Job {
            message,
            recipients,
            content,
        })
    }

    /// Recipients that may be tried; those at suspended destinations are deferred.
    fn without_suspended(
        &mut self,
        message: &Arc<Message>,
        recipients: Vec<u32>,
        now: Millis,
    ) -> Vec<u32> {
        let suspensions = self.suspensions.clone();
        let suspensions = suspensions.now.borrow();
        if suspensions.is_empty() {
            return recipients;
        }
        let mut attempts = Vec::new();
        let mut free = Vec::new();
        for recipient in recipients {
            let place = usize::try_from(recipient).unwrap_or(usize::MAX);
            let address = message.envelope.recipients.get(place);
            let domain = address
                .and_then(|recipient| recipient.address.rsplit_once('@'))
                .map_or("", |(_, domain)| domain);
            match suspensions.iter().find(|one| one.stops(domain, now)) {
                None => free.push(recipient),
                Some(suspension) => attempts.push(Attempt {
                    recipient,
                    at: now,
                    outcome: Outcome::Suspended {
                        what: Box::new(suspension.into()),
                        wait: suspension.wait(now, fastrand::f64()),
                    },
                    reply: super::own_reply(450, "4.3.2", &suspension.text()),
                    tls: String::new(),
                    notifies: false,
                }),
            }
        }
        if !attempts.is_empty() {
            let positions: Vec<u32> = attempts.iter().map(|attempt| attempt.recipient).collect();
            self.under_way(message.id, |slot| {
                slot.handed.extend_from_slice(&positions);
                slot.handed_at = now;
            });
            self.record(&Record {
                message: message.clone(),
                attempts,
                synced: false,
            });
        }
        free
    }

    pub(super) fn sent(&mut self, jobs: Vec<(QueueId, Vec<u32>)>, taken: bool) {
        self.sending = false;
        if taken {
            return;
        }
        tracing::error!("the dispatcher can not be reached; its jobs are tried again");
        self.paused_until = Some(Instant::now() + PAUSE);
        for (id, recipients) in jobs {
            self.under_way(id, |slot| slot.handed.retain(|at| !recipients.contains(at)));
            self.release(id);
        }
    }

    /// Lets go of a message as far as nothing is being done with it: what waits is due later.
    pub(super) fn release(&mut self, id: QueueId) {
        let Some(slot) = self.slots.get(&id) else {
            return;
        };
        let Some(message) = &slot.message else { return };
        if slot.queued || slot.uncommitted > 0 || slot.claims > 0 {
            return;
        }
        let now = crate::time::now();
        let next = (0..)
            .zip(&message.states)
            .filter(|(position, _)| !slot.is_busy_with(*position) && !slot.ended)
            .filter_map(|(_, state)| self.clock.due(message, state, now))
            .min();
        match next {
            Some(due) => self.due.set(id, due, Lane::of(message)),
            None => self.due.remove(id),
        }
        if !slot.is_busy() {
            self.forget(id);
        }
    }

    /// Nothing is done with a message any more.
    fn forget(&mut self, id: QueueId) {
        if let Some(mut slot) = self.slots.remove(&id) {
            self.shares.leave(&mut slot.lane);
        }
    }

    /// Finds jobs that nobody holds any more although recipients were not reported on: whoever
    /// had them panicked. They are tried again.
    pub(super) fn sweep(&mut self) {
        let lost: Vec<_> = self
            .slots
            .iter()
            .filter(|(_, slot)| {
                let own = slot.message.as_ref().map(Arc::as_ptr);
                let held = |job: &std::sync::Weak<Message>| {
                    job.strong_count() > usize::from(own == Some(job.as_ptr()))
                };
                !slot.handed.is_empty()
                    && slot
                        .handed_since
                        .is_some_and(|at| at.elapsed() > LOST_AFTER)
                    && !slot.jobs.iter().any(held)
            })
            .filter_map(|(id, slot)| Some((*id, slot.message.clone()?, slot.handed.clone())))
            .collect();
        for (id, message, recipients) in lost {
            tracing::error!(%id, "delivery lost a message; it is tried again");
            let attempt = |recipient| Attempt {
                recipient,
                at: crate::time::now(),
                outcome: Outcome::Deferred {
                    retry_after: Some(LOST_AFTER),
                    counts: false,
                },
                reply: super::own_reply(
                    451,
                    "4.3.0",
                    "the attempt was broken off by a fault of ours",
                ),
                tls: String::new(),
                notifies: false,
            };
            let attempts = recipients.into_iter().map(attempt).collect();
            self.record(&Record {
                message,
                attempts,
                synced: false,
            });
        }
    }
}

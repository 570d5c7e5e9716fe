//! Waking what is due: from the due index to jobs for the dispatcher, and back when nothing more
//! is to be done with a message now.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use queue_schema::{Change, Message, Millis, QueueId, Recipient, Status};
use tokio::time::Instant;

use super::actor::{Event, Loaded, Purpose, Queue};
use super::lanes::Way;
use super::messages::{Attempt, Job, Outcome, Record};
use super::slot::Slot;
use super::ways;
use crate::Wake;

/// Jobs in one message to the dispatcher.
const BATCH: usize = 256;
/// Messages that are read with one request.
const LOAD: usize = 128;
/// Bytes of the journal that are kept free for the outcome of each recipient that is handed out.
const OUTCOME_ROOM: u64 = 1 << 10;
/// How long nothing is sent after the dispatcher could not be reached.
const PAUSE: Duration = Duration::from_secs(1);
/// While orders of operators are carried out, messages that are due are read no more often than
/// this: what was just made due does not keep the rest of its order waiting.
pub(super) const BREATH: Duration = Duration::from_millis(20);
/// When a message is tried again that could not be read from the index.
const UNREADABLE: Millis = 60_000;
/// Messages in memory for which room is always kept.
const SLOTS: usize = 4096;
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
        let now = Instant::now();
        let breathes = self.steered.is_some_and(|at| now < at + BREATH)
            && self.loaded_at.is_some_and(|at| now < at + BREATH);
        self.loading == 0 && self.backlog.len() < BATCH && self.has_room() && !breathes
    }

    /// Reads messages that are due into memory.
    pub(super) fn load_due(&mut self, now: Millis) {
        if !self.can_load() {
            return;
        }
        let limit = self.config.delivery.active;
        self.lanes.unpark(limit);
        let mut wanted = Vec::new();
        while self.loading < LOAD
            && self.backlog.len() < BATCH
            && self.has_room()
            && let Some((id, way)) = self.lanes.take(now, limit)
        {
            match self.slots.get_mut(&id) {
                // In memory already: others of its recipients are under way.
                Some(slot) if slot.message.is_some() => {
                    slot.queue(way);
                    self.backlog.push_back((id, way));
                }
                // It is being read because it is due by another way as well.
                Some(slot) if !slot.backlog.is_empty() => slot.queue(way),
                // It is being read for an operator, after whom it is placed again.
                Some(_) => continue,
                None => {
                    let mut slot = Slot::default();
                    slot.queue(way);
                    self.slots.insert(id, slot);
                    self.loading += 1;
                    wanted.push(id);
                }
            }
            self.count(id, way);
        }
        if !wanted.is_empty() {
            self.loaded_at = Some(Instant::now());
            self.load(wanted, Purpose::Due);
        }
    }

    /// Counts a message among what is under way by this way.
    fn count(&mut self, id: QueueId, way: Way) {
        if let Some(slot) = self.slots.get_mut(&id)
            && !slot.counted.contains(&way)
        {
            slot.counted.push(way);
            self.lanes.enter(way);
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
                    // It may have become due while it was read for another purpose.
                    let ways = slot.backlog.iter();
                    match purpose {
                        Purpose::Due => self.backlog.extend(ways.map(|way| (id, *way))),
                        Purpose::Lost => self.lose(id),
                        // Whoever wanted it has gone.
                        Purpose::Steer if slot.claims == 0 => self.release(id),
                        Purpose::Steer => {}
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
        let slot = self.slots.get(&id);
        let mut ways = slot.map(|slot| slot.backlog.clone()).unwrap_or_default();
        self.forget(id);
        let again = crate::time::now().saturating_add(UNREADABLE);
        if ways.is_empty() {
            // Where it goes is not known; it is looked at, and waits where it should.
            ways.push(self.lanes.way(""));
        }
        for way in ways {
            self.lanes.set(id, way, again);
        }
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
        self.lanes.unpark(limit);
        let mut jobs = Vec::new();
        while jobs.len() < BATCH
            && self.active < self.config.delivery.active
            && self.can_be_recorded()
        {
            let backlog = self.backlog_next || self.lanes.fresh() == 0;
            self.backlog_next = !self.backlog_next;
            let next = match backlog {
                true => self.backlog.pop_front(),
                false => None,
            };
            match next.or_else(|| self.lanes.pop(limit)) {
                Some((id, way)) => jobs.extend(self.job(id, way, now)),
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

    /// A job for the recipients of a message who are due by this way, and for others who are due
    /// and whose lanes may have one more: they share what it costs.
    fn job(&mut self, id: QueueId, way: Way, now: Millis) -> Option<Job> {
        let slot = self.slots.get_mut(&id)?;
        slot.unqueue(way);
        if self.claims.has(id) {
            // Whoever has claimed it gives it back, or ends it.
            self.recount(id);
            return None;
        }
        self.obey(id, now, || None);
        let slot = self.slots.get_mut(&id)?;
        let message = slot.message.clone()?;
        self.count(id, way);
        let recipients = self.ready(&message, way, now);
        let recipients = self.without_suspended(&message, recipients, now);
        let slot = self.slots.get_mut(&id)?;
        let content = match slot.fresh.is_empty() {
            true => slot.content.take(),
            false => slot.content.clone(),
        };
        if recipients.is_empty() {
            let waits = message
                .states
                .iter()
                .any(|state| state.status == Status::Waiting);
            if !waits && !slot.ended {
                // Its end was lost with a damaged record; nothing is left to be done.
                self.change(id, Change::default(), Vec::new(), None);
            }
            self.recount(id);
            self.release(id);
            return None;
        }
        self.under_way(id, |slot| {
            slot.handed.extend_from_slice(&recipients);
            slot.handed_at = now;
            slot.handed_since = Some(Instant::now());
            slot.jobs.push(Arc::downgrade(&message));
        });
        if recipients.len() < message.states.len() {
            // The others wait while these are under way.
            self.place(&message);
        }
        Some(Job {
            message,
            recipients,
            content,
        })
    }

    /// The recipients of a message who can be tried now.
    fn ready(&mut self, message: &Arc<Message>, way: Way, now: Millis) -> Vec<u32> {
        let (id, limit) = (message.id, self.config.delivery.active);
        let Some(slot) = self.slots.get(&id).filter(|slot| !slot.ended) else {
            return Vec::new();
        };
        let busy = slot.busy();
        let mut ready = Vec::new();
        let mut last: Option<(Cow<'_, str>, bool)> = None;
        let recipients = message.envelope.recipients.iter().zip(&message.states);
        for (position, (recipient, state)) in (0..).zip(recipients) {
            let due = self.clock.due(message, state, now);
            if due.is_none_or(|due| due > now) || busy.contains(&position) {
                continue;
            }
            let name = self.naming.of(message, recipient);
            let goes = match &last {
                Some((known, goes)) if *known == name => *goes,
                _ => {
                    let own = self.lanes.way(&name);
                    let counted = |slot: &Slot| slot.counted.contains(&own);
                    let goes = own == way
                        || self.slots.get(&id).is_some_and(counted)
                        || self.lanes.admits(own, limit);
                    if goes {
                        self.count(id, own);
                        self.lanes.remove(id, own);
                    }
                    goes
                }
            };
            last = Some((name, goes));
            if goes {
                ready.push(position);
            }
        }
        ready
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

    /// A message counts where recipients of it are under way or about to be, and nowhere else.
    pub(super) fn recount(&mut self, id: QueueId) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        let mut counts = slot.backlog.clone();
        if let Some(message) = &slot.message {
            let mut last: Option<Cow<'_, str>> = None;
            for position in slot.busy() {
                let at = usize::try_from(position).ok();
                let recipient = at.and_then(|at| message.envelope.recipients.get(at));
                let Some(recipient) = recipient else { continue };
                let name = self.naming.of(message, recipient);
                if last.as_ref() != Some(&name) {
                    let way = self.lanes.way(&name);
                    if !counts.contains(&way) {
                        counts.push(way);
                    }
                    last = Some(name);
                }
            }
        }
        for way in counts.iter().filter(|way| !slot.counted.contains(way)) {
            self.lanes.enter(*way);
        }
        for way in slot.counted.iter().filter(|way| !counts.contains(way)) {
            self.lanes.leave(*way);
        }
        slot.counted = counts;
    }

    /// Lets go of a message as far as nothing is being done with it: what waits is due later.
    pub(super) fn release(&mut self, id: QueueId) {
        let Some(slot) = self.slots.get(&id) else {
            return;
        };
        let Some(message) = &slot.message else { return };
        if slot.uncommitted > 0 || slot.claims > 0 {
            return;
        }
        let message = message.clone();
        self.place(&message);
        if let Some(slot) = self.slots.get(&id)
            && !slot.is_busy()
            && slot.fresh.is_empty()
            && slot.backlog.is_empty()
        {
            self.forget(id);
        }
    }

    /// Sets when a message is due by each of its ways, but for what is under way.
    pub(super) fn place(&mut self, message: &Message) {
        let (id, now) = (message.id, crate::time::now());
        let slot = self.slots.get(&id);
        let ended = slot.is_some_and(|slot| slot.ended);
        let busy = |position| slot.is_some_and(|slot| slot.is_busy_with(position));
        for (name, due) in ways::waits(self.naming, &self.clock, message, busy, now) {
            let way = self.lanes.way(&name);
            let queued = |slot: &Slot| slot.fresh.contains(&way) || slot.backlog.contains(&way);
            match due.filter(|_| !ended && !slot.is_some_and(queued)) {
                Some(due) => self.lanes.set(id, way, due),
                None => self.lanes.remove(id, way),
            }
        }
        if let Some(remaking) = &mut self.remaking {
            remaking.insert(id);
        }
    }

    /// Recipients get other addresses: the message does not wait for the old ones.
    pub(super) fn displace(&mut self, message: &Message, positions: &[(u32, Recipient)]) {
        for (position, _) in positions {
            let at = usize::try_from(*position).ok();
            if let Some(old) = at.and_then(|at| message.envelope.recipients.get(at)) {
                let way = self.lanes.way(&self.naming.of(message, old));
                self.lanes.remove(message.id, way);
            }
        }
    }

    /// Nothing is done with a message any more.
    fn forget(&mut self, id: QueueId) {
        if let Some(slot) = self.slots.remove(&id) {
            for way in slot.counted {
                self.lanes.leave(way);
            }
        }
    }

    /// Finds jobs that nobody holds any more although recipients were not reported on: whoever
    /// had them panicked. They are tried again.
    pub(super) fn sweep(&mut self) {
        // What a burst needed is given back.
        if self.slots.capacity() > SLOTS.max(4 * self.slots.len()) {
            self.slots.shrink_to(2 * self.slots.len());
        }
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

//! Outcomes: each attempt's is logged and decided on; where the sender has to be told, the
//! notification is written and signed first and made durable together with the recipient's end.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use queue_schema::{
    BodyKind, Change, Envelope, EventKind, Message, Notify, Origin, QueueId, Recipient,
    RecipientState, Status,
};
use tokio::sync::oneshot;

use super::actor::{Event, Queue};
use super::commit::Waiter;
use super::dsn::{self, Built, Notice, Report};
use super::messages::{Attempt, Record};
use super::outcome::{clean, decide, is_late};
use super::{own_reply, schedule, store};
use crate::message::Content;
use crate::signing::Sign;

/// Resolves when a change is on disk, or with why it can not be put there.
type Written = oneshot::Receiver<Result<(), store::StoreError>>;

/// Bytes of a reply that a message's story keeps.
const REMEMBERED: usize = 200;

/// A notification that is ready to be stored, or why there is none.
pub(super) struct Settled {
    about: QueueId,
    reports: Vec<Report>,
    order: Order,
    /// `Ok(None)`: nobody is to be told.
    notice: Result<Option<(Box<Message>, Content)>, String>,
}

/// Who ordered an end, and who waits for it; nobody for what delivery brought.
#[derive(Default)]
pub(super) struct Order {
    /// The operator.
    pub by: String,
    /// Hears when it is durable.
    pub waiter: Option<Waiter>,
    /// A standing order did it: if the sender cannot be told yet, it is tried again.
    pub standing: bool,
}

impl Queue {
    /// Takes over what delivery reports. What it gives resolves when that is on disk, if the record
    /// asks for it.
    pub(super) fn record(&mut self, record: &Record) -> Vec<Written> {
        let id = record.message.id;
        let mut written = Vec::new();
        let mut order = || {
            let (waiter, wait) = oneshot::channel();
            written.push(wait);
            Order {
                waiter: record.synced.then_some(waiter),
                ..Order::default()
            }
        };
        let mut sure = Vec::new();
        let mut failed = Vec::new();
        let mut late = Vec::new();
        let mut done = Vec::new();
        for attempt in &record.attempts {
            let Some(slot) = self.slots.get_mut(&id) else {
                tracing::error!(%id, "an outcome of a message that is not in delivery is ignored");
                return Vec::new();
            };
            let Some(place) = slot.handed.iter().position(|p| *p == attempt.recipient) else {
                tracing::warn!(%id, attempt.recipient, "a second outcome, or one of a recipient \
                    that was removed meanwhile, is ignored");
                continue;
            };
            slot.handed.swap_remove(place);
            let handed_at = slot.handed_at;
            let Some(message) = slot.message.clone() else {
                continue;
            };
            let Some((recipient, before)) = recipient(&message, attempt.recipient) else {
                continue;
            };
            let chance = fastrand::f64();
            let shift = self.clock.deadline_shift(&message, attempt.at);
            let retry = &self.config.retry;
            let mut decision = decide(retry, &message, before, attempt, shift, chance);
            if decision.state.suspended.is_some() {
                // It is read as written at the last attempt, or when the message came.
                let shift = self.clock.shift(&message, before, attempt.at);
                let due = &mut decision.state.next_due;
                *due = due.saturating_sub_signed(shift);
            }
            log(&message, recipient, attempt, &decision, handed_at);
            let (told, notify) = (self.told(&message), recipient.notify);
            let report = Report {
                recipient: attempt.recipient,
                state: decision.state,
                tls: clean(&attempt.tls, 100),
                at: attempt.at,
            };
            let retry = &self.config.retry;
            match report.state.status {
                Status::Bounced | Status::Expired
                    if told.is_some_and(|told| told.always || notify.failure) =>
                {
                    failed.push(report);
                }
                Status::Waiting
                    if told.is_some_and(|told| !told.always)
                        && notify.delay
                        && is_late(
                            retry,
                            &message,
                            before,
                            attempt.at.saturating_sub_signed(shift),
                        ) =>
                {
                    late.push(report);
                }
                Status::Delivered
                    if told.is_some_and(|told| !told.always)
                        && notify.success
                        && !attempt.notifies =>
                {
                    done.push(report);
                }
                status => {
                    if matches!(status, Status::Bounced | Status::Expired) {
                        tracing::warn!(%id, to = recipient.address, "it failed and nobody is told");
                    }
                    sure.push(report);
                }
            }
        }
        // A failure is news enough; lateness of the others is told the next time.
        if !failed.is_empty() {
            sure.append(&mut late);
        }
        if !sure.is_empty() {
            self.decided(id, sure, None, order());
            self.release(id);
        }
        for reports in [failed, late, done] {
            if !reports.is_empty() {
                self.settle(id, reports, order());
            }
        }
        written
    }

    /// Whom the failure of a message is told, if anybody: its sender where it deserves it (I11),
    /// the postmaster where a notice of ours failed, unless that was to the postmaster already.
    fn told(&self, message: &Message) -> Option<Told> {
        let envelope = &message.envelope;
        if let Origin::Dsn { .. } = message.origin {
            let postmaster = &self.config.postmaster;
            let already = envelope.recipients.iter().any(|recipient| {
                recipient.address.eq_ignore_ascii_case(postmaster)
                    || recipient
                        .alias_of
                        .as_ref()
                        .is_some_and(|alias| alias.eq_ignore_ascii_case(postmaster))
            });
            return (!postmaster.is_empty() && !already).then_some(Told { always: true });
        }
        let deserves = !envelope.reverse_path.is_empty() && message.origin.deserves_bounce();
        deserves.then_some(Told { always: false })
    }

    /// Makes the new states of recipients so, with what is to be remembered of them.
    fn decided(
        &mut self,
        id: QueueId,
        reports: Vec<Report>,
        notice: Option<(Box<Message>, Content)>,
        order: Order,
    ) {
        let message = self.slots.get(&id).and_then(|slot| slot.message.clone());
        let before = |report: &Report| {
            let (_, state) = recipient(message.as_deref()?, report.recipient)?;
            state.suspended.as_ref()
        };
        // That the same suspension goes on is no news.
        let news = |report: &&Report| {
            report.state.status != Status::Waiting
                || report.state.suspended.is_none()
                || before(report) != report.state.suspended.as_ref()
        };
        let mut story = events(reports.iter().filter(news), &order.by);
        if let (Some((told, _)), Some(first)) = (&notice, reports.first()) {
            let to = told.envelope.recipients.first();
            story.push(queue_schema::Event {
                at: told.arrived.max(first.at),
                kind: EventKind::Told,
                recipients: reports.iter().map(|report| report.recipient).collect(),
                text: format!(
                    "notice {} to {}",
                    told.id,
                    to.map_or("", |recipient| recipient.address.as_str())
                ),
                remote: String::new(),
                tls: String::new(),
                by: String::new(),
            });
        }
        if let Some(message) = message {
            for event in &story {
                self.feed.event(&message, event);
            }
        }
        let change = Change {
            recipients: reports
                .into_iter()
                .map(|report| (report.recipient, report.state))
                .collect(),
            by: order.by,
            story,
            ..Change::default()
        };
        self.change(id, change, notice, order.waiter);
    }

    /// An operator ends recipients: they are tried no more, and the sender is told.
    pub(super) fn give_back(&mut self, id: QueueId, reports: Vec<Report>, order: Order) {
        let Some(message) = self.slots.get(&id).and_then(|slot| slot.message.clone()) else {
            return;
        };
        let told = self.told(&message);
        let tells = |report: &Report| {
            let notify = recipient(&message, report.recipient).map(|(to, _)| to.notify);
            told.is_some_and(|told| told.always || notify.is_some_and(|notify| notify.failure))
        };
        let (telling, silent): (Vec<Report>, Vec<Report>) = reports.into_iter().partition(tells);
        if let Some(slot) = self.slots.get_mut(&id) {
            let ended = |p: &u32| telling.iter().chain(&silent).any(|r| r.recipient == *p);
            slot.handed.retain(|position| !ended(position));
            if slot.busy.is_empty() && !telling.is_empty() {
                self.active += 1;
            }
            for report in &telling {
                if !slot.busy.contains(&report.recipient) {
                    slot.busy.push(report.recipient);
                }
            }
        }
        let Order {
            by,
            mut waiter,
            standing,
        } = order;
        if !silent.is_empty() {
            let waiter = if telling.is_empty() {
                waiter.take()
            } else {
                None
            };
            let order = Order {
                by: by.clone(),
                waiter,
                standing,
            };
            self.decided(id, silent, None, order);
        }
        if !telling.is_empty() {
            let order = Order {
                by,
                waiter,
                standing,
            };
            self.settle(id, telling, order);
        }
    }

    /// Writes and signs a notification on a task of its own.
    fn settle(&mut self, about: QueueId, reports: Vec<Report>, order: Order) {
        let Some(message) = self.slots.get(&about).and_then(|slot| slot.message.clone()) else {
            return;
        };
        let to = match message.origin {
            Origin::Dsn { .. } => self.config.postmaster.clone(),
            _ => message.envelope.reverse_path.clone(),
        };
        self.settling += 1;
        let shift = self.clock.deadline_shift(&message, crate::time::now());
        let work = Work {
            id: self.ids.issue(),
            to,
            message,
            reports,
            leads: self.leads.clone(),
            readers: self.readers.clone(),
            signer: self.signer.clone(),
            hostname: self.config.hostname.clone(),
            retry: self.config.retry.clone(),
            shift,
        };
        let (settlers, inbox) = (self.settlers.clone(), self.inbox.clone());
        actix_rt::spawn(async move {
            // The semaphore is never closed; without a permit it would only be less bounded.
            let _permit = settlers.acquire().await.ok();
            // A message that makes the writing of its notice panic must not end the process, or it
            // would do so again after each start.
            let notice = AssertUnwindSafe(work.notice()).catch_unwind().await;
            let notice = notice.unwrap_or_else(|_| Err("writing the notice panicked".into()));
            let settled = Settled {
                about,
                reports: work.reports,
                order,
                notice,
            };
            inbox.push(Event::Settled(Box::new(settled)));
        });
    }

    pub(super) fn settled(&mut self, settled: Settled) {
        self.settling -= 1;
        let id = settled.about;
        let Some(message) = self.slots.get(&id).and_then(|slot| slot.message.clone()) else {
            return;
        };
        let ordered = !settled.order.by.is_empty() && !settled.order.standing;
        let mut reports = Vec::new();
        let mut given_up = Vec::new();
        for mut report in settled.reports {
            // An operator may have removed it meanwhile.
            let Some((_, before)) = recipient(&message, report.recipient) else {
                continue;
            };
            if before.status != Status::Waiting {
                continue;
            }
            // Or held.
            report.state.holds.clone_from(&before.holds);
            match (&settled.notice, report.state.status) {
                (Ok(_), Status::Waiting) => report.state.warned = true,
                // It was delivered, whether that can be told or not.
                (Ok(_), _) | (Err(_), Status::Waiting | Status::Delivered) => {}
                (Err(_), _) if ordered => {
                    given_up.push(report.recipient);
                    continue;
                }
                (Err(_), _) => report.state = self.postponed(report.state),
            }
            reports.push(report);
        }
        let mut order = settled.order;
        let notice = match settled.notice {
            Ok(notice) => notice,
            Err(reason) => {
                tracing::error!(%id, reason, "the sender can not be told; it is tried again");
                if ordered && let Some(waiter) = order.waiter.take() {
                    let _ = waiter.send(Err(store::StoreError::Refused(format!(
                        "the sender of {id} can not be told, so nothing was changed: {reason}"
                    ))));
                }
                None
            }
        };
        if let Some((notice, _)) = &notice {
            let to = notice
                .envelope
                .recipients
                .first()
                .map(|r| r.address.as_str());
            tracing::info!(%id, notice = %notice.id, to, "the sender is told");
        }
        self.unbusy(id, &given_up);
        if !reports.is_empty() {
            self.decided(id, reports, notice, order);
        } else if let Some(waiter) = order.waiter {
            let _ = waiter.send(Ok(()));
        }
        self.release(id);
    }

    /// The end of a recipient whose sender could not be told: it comes again later.
    fn postponed(&self, state: RecipientState) -> RecipientState {
        let attempts = state.attempts.saturating_sub(1);
        let delay = schedule::delay(&self.config.retry, attempts, fastrand::f64());
        let said = state
            .last_reply
            .map(|reply| reply.to_string())
            .unwrap_or_default();
        let text = format!("its failure could not be told to the sender yet; it was: {said}");
        RecipientState {
            status: Status::Waiting,
            next_due: crate::time::now().saturating_add(crate::time::millis(delay)),
            last_reply: Some(own_reply(451, "4.3.0", &text)),
            ..state
        }
    }
}

/// Somebody is told.
#[derive(Clone, Copy)]
struct Told {
    /// Whatever the envelope asks for.
    always: bool,
}

/// What is remembered of attempts that ended alike.
fn events<'a>(reports: impl Iterator<Item = &'a Report>, by: &str) -> Vec<queue_schema::Event> {
    let mut events: Vec<queue_schema::Event> = Vec::new();
    for report in reports {
        let kind = match report.state.status {
            Status::Waiting if report.state.suspended.is_some() => EventKind::Suspended,
            Status::Waiting => EventKind::Deferred,
            Status::Delivered => EventKind::Delivered,
            Status::Bounced if !by.is_empty() => EventKind::Returned,
            Status::Bounced => EventKind::Bounced,
            Status::Expired => EventKind::Expired,
            Status::Removed => EventKind::Removed,
        };
        let reply = report.state.last_reply.as_ref();
        let reply = reply.filter(|_| kind != EventKind::Suspended);
        let suspended = report.state.suspended.as_ref().map(ToString::to_string);
        let event = queue_schema::Event {
            at: report.at,
            kind,
            recipients: vec![report.recipient],
            text: reply
                .map(ToString::to_string)
                .or(suspended)
                .map(|text| clean(&text, REMEMBERED))
                .unwrap_or_default(),
            remote: reply.map(|reply| reply.remote.clone()).unwrap_or_default(),
            tls: report.tls.clone(),
            by: by.to_owned(),
        };
        let alike = events.iter_mut().find(|known| {
            let recipients = known.recipients.clone();
            **known
                == queue_schema::Event {
                    recipients,
                    ..event.clone()
                }
        });
        match alike {
            Some(known) => known.recipients.push(report.recipient),
            None => events.push(event),
        }
    }
    events
}

struct Work {
    id: QueueId,
    /// Who is told.
    to: String,
    message: Arc<Message>,
    reports: Vec<Report>,
    leads: super::Leads,
    readers: store::Readers,
    signer: actix::Recipient<Sign>,
    hostname: String,
    retry: crate::config::Retry,
    /// See [`super::clock`].
    shift: i64,
}

impl Work {
    async fn notice(&self) -> Result<Option<(Box<Message>, Content)>, String> {
        let sender = &self.to;
        let to = (self.leads)(sender);
        if to.is_empty() {
            tracing::warn!(id = %self.message.id, sender, "the sender's address leads nowhere");
            return Ok(None);
        }
        let (id, location) = (self.message.id, self.message.location.clone());
        let original = self
            .readers
            .run(move |reader| reader.fetch(id, &location))
            .await;
        let original = match original {
            Ok(Ok(content)) => Some(content),
            Ok(Err(error)) => {
                tracing::error!(%error, "the notice returns nothing of the message");
                None
            }
            Err(error) => return Err(error.to_string()),
        };
        let now = crate::time::now();
        let built = dsn::build(&Notice {
            id: self.id,
            now,
            message: &self.message,
            reports: &self.reports,
            deadline: schedule::deadline(&self.retry, &self.message)
                .saturating_add_signed(self.shift),
            hostname: &self.hostname,
            original: original.as_ref(),
            to: sender,
        });
        let Built {
            domain,
            content,
            body,
            smtputf8,
        } = built;
        let signatures = self
            .signer
            .send(Sign {
                domain,
                content: content.clone(),
            })
            .await
            .map_err(|error| format!("the signer does not answer: {error}"))?
            .map_err(|error| error.to_string())?;
        let head = [&signatures[..], &content.head[..]].concat();
        let content = Content {
            head: head.into(),
            body: content.body,
        };
        let message = self.envelope(to, now, body, smtputf8);
        Ok(Some((Box::new(message), content)))
    }

    fn envelope(&self, to: Vec<String>, now: u64, body: BodyKind, smtputf8: bool) -> Message {
        let sender = &self.to;
        let recipient = |address: String| Recipient {
            alias_of: (address != *sender).then(|| sender.clone()),
            notify: Notify {
                success: false,
                failure: false,
                delay: false,
            },
            ..Recipient::new(address)
        };
        let envelope = Envelope {
            body,
            smtputf8,
            require_tls: self.message.envelope.require_tls,
            ..Envelope::new("", to.into_iter().map(recipient).collect())
        };
        let origin = Origin::Dsn {
            about: self.message.id,
            since: self.message.arrived,
        };
        store::new_message(self.id, now, origin, envelope)
    }
}

fn recipient(message: &Message, position: u32) -> Option<(&Recipient, &RecipientState)> {
    let position = usize::try_from(position).ok()?;
    Some((
        message.envelope.recipients.get(position)?,
        message.states.get(position)?,
    ))
}

/// The one line of an attempt.
fn log(
    message: &Message,
    recipient: &Recipient,
    attempt: &Attempt,
    decision: &super::outcome::Decision,
    handed_at: u64,
) {
    if !tracing::enabled!(tracing::Level::INFO) {
        return;
    }
    let seconds = |from: u64, to: u64| to.saturating_sub(from) as f64 / 1000.0;
    let waits = decision.state.suspended.as_ref();
    let reply = decision.state.last_reply.as_ref();
    let reply = reply.filter(|_| waits.is_none());
    let dsn = reply
        .map(|reply| reply.enhanced.as_str())
        .unwrap_or_default();
    let relay = reply.map(|reply| reply.remote.as_str()).unwrap_or_default();
    let before = seconds(message.arrived, handed_at);
    let during = seconds(handed_at, attempt.at);
    tracing::info!(
        target: "delivery",
        id = %message.id,
        from = message.envelope.reverse_path,
        to = clean(&recipient.address, 320),
        orig_to = recipient.alias_of.as_deref().map(|alias| clean(alias, 320)),
        relay,
        delay = format!("{:.2}", seconds(message.arrived, attempt.at)),
        delays = format!("{before:.2}/{during:.2}"),
        attempts = decision.state.attempts,
        tls = clean(&attempt.tls, 100),
        dsn,
        status = decision.word,
        reply = reply.map(ToString::to_string).or(waits.map(ToString::to_string)),
        "attempt"
    );
}

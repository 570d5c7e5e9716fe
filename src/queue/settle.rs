//! Outcomes: each attempt's is logged and decided on; where the sender has to be told, the
//! notification is written and signed first and made durable together with the recipient's end.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use queue_schema::{
    Change, EventKind, Message, Origin, QueueId, Recipient, RecipientState, Status,
};

use super::actor::{Event, Queue};
use super::clean;
use super::commit::{Notice as Ready, Waited, Waiter};
use super::dsn::Report;
use super::messages::{Attempt, Outcome, Record};
use super::notice::Work;
use super::outcome::{decide, is_late};
use super::{own_reply, schedule, store};

/// Bytes of a reply that a message's story keeps.
const REMEMBERED: usize = 200;

/// How the reply of a recipient begins whose failure its sender could not be told.
pub(super) const UNTOLD: &str = "its failure could not be told to the sender yet";

/// A notification that is ready to be stored, or why there is none.
pub(super) struct Settled {
    about: QueueId,
    reports: Vec<Report>,
    order: Order,
    /// None where an address leads to nobody.
    notices: Result<Vec<Ready>, String>,
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
    pub(super) fn record(&mut self, record: &Record) -> Vec<Waited> {
        // What is decided is decided by the clock as it is.
        self.check_clock();
        let id = record.message.id;
        let mut written = Vec::new();
        let mut order = || {
            let (waiter, wait) = Waiter::new();
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
        let mut lost = Vec::new();
        for attempt in &record.attempts {
            let Some(slot) = self.slots.get(&id) else {
                tracing::error!(%id, "an outcome of a message that is not in delivery is ignored");
                return Vec::new();
            };
            if !slot.handed.contains(&attempt.recipient) {
                tracing::warn!(%id, attempt.recipient, "a second outcome is ignored");
                continue;
            }
            let handed_at = slot.handed_at;
            let message = slot.message.clone();
            self.under_way(id, |slot| slot.handed.retain(|at| *at != attempt.recipient));
            let Some(message) = message else { continue };
            let Some((recipient, before)) = recipient(&message, attempt.recipient) else {
                continue;
            };
            if before.status != Status::Waiting {
                tracing::warn!(%id, to = recipient.address, "the outcome of a recipient that was \
                    ended by an operator meanwhile is ignored");
                continue;
            }
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
                _ if attempt.outcome == Outcome::Lost => lost.push(report),
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
            self.decided(id, sure, Vec::new(), order());
        }
        for reports in [failed, late, done] {
            if !reports.is_empty() {
                self.settle(id, reports, order());
            }
        }
        if !lost.is_empty() {
            self.settle_lost(id, lost);
        }
        self.release(id);
        written
    }

    /// Whom the failure of a message is told, if anybody: its sender where it deserves it (I11),
    /// the postmaster where a notice of ours failed, unless that was to the postmaster already.
    pub(super) fn told(&self, message: &Message) -> Option<Told> {
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
    pub(super) fn decided(
        &mut self,
        id: QueueId,
        reports: Vec<Report>,
        notices: Vec<Ready>,
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
        for (told, _) in &notices {
            let Some(first) = reports.first() else { break };
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
        self.change(id, change, notices, order.waiter);
    }

    /// An operator ends recipients: they are tried no more, and the sender is told.
    pub(super) fn give_back(&mut self, id: QueueId, reports: Vec<Report>, order: Order) {
        let Order {
            by,
            mut waiter,
            standing,
        } = order;
        let Some(message) = self.slots.get(&id).and_then(|slot| slot.message.clone()) else {
            if let Some(waiter) = waiter {
                waiter.nothing();
            }
            return;
        };
        let told = self.told(&message);
        let tells = |report: &Report| {
            let notify = recipient(&message, report.recipient).map(|(to, _)| to.notify);
            told.is_some_and(|told| told.always || notify.is_some_and(|notify| notify.failure))
        };
        let (telling, silent): (Vec<Report>, Vec<Report>) = reports.into_iter().partition(tells);
        if !silent.is_empty() {
            // Who waits for both hears of both when the notice is durable too.
            let both = !telling.is_empty();
            let waits = match (&mut waiter, both) {
                (Some(waiter), true) => {
                    waiter.count += silent.len() as u64;
                    None
                }
                (waiter, _) => waiter.take(),
            };
            let order = Order {
                by: by.clone(),
                waiter: waits,
                standing,
            };
            self.decided(id, silent, Vec::new(), order);
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

    /// Writes and signs a notice on a task of its own.
    fn settle(&mut self, about: QueueId, reports: Vec<Report>, order: Order) {
        let message = self.slots.get(&about).and_then(|slot| slot.message.clone());
        let to = message.map(|message| match message.origin {
            Origin::Dsn { .. } => self.config.postmaster.clone(),
            _ => message.envelope.reverse_path.clone(),
        });
        let tells = to.map(|to| (to, reports.iter().map(|report| report.recipient).collect()));
        self.settle_with(about, reports, order, tells.into_iter().collect());
    }

    /// Writes and signs a notice to each of these, about these recipients, on a task of its own.
    pub(super) fn settle_with(
        &mut self,
        about: QueueId,
        reports: Vec<Report>,
        order: Order,
        tells: Vec<(String, Vec<u32>)>,
    ) {
        let Some(message) = self.slots.get(&about).and_then(|slot| slot.message.clone()) else {
            if let Some(waiter) = order.waiter {
                waiter.nothing();
            }
            return;
        };
        let about_whom = reports.iter().map(told_of).collect::<Vec<_>>();
        self.under_way(about, |slot| slot.telling.extend(about_whom));
        self.settling += 1;
        let shift = self.clock.deadline_shift(&message, crate::time::now());
        let work = Work {
            ids: self.ids.clone(),
            tells,
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
            let notices = AssertUnwindSafe(work.notices()).catch_unwind().await;
            let notices = notices.unwrap_or_else(|_| Err("writing the notice panicked".into()));
            let settled = Settled {
                about,
                reports: work.reports,
                order,
                notices,
            };
            inbox.push(Event::Settled(Box::new(settled)));
        });
    }

    pub(super) fn settled(&mut self, settled: Settled) {
        self.settling -= 1;
        let Settled {
            about: id,
            reports,
            mut order,
            notices,
        } = settled;
        self.under_way(id, |slot| {
            for told in reports.iter().map(told_of) {
                if let Some(place) = slot.telling.iter().position(|known| *known == told) {
                    slot.telling.swap_remove(place);
                }
            }
        });
        let notices = match notices {
            Ok(notices) => Ok(notices),
            Err(reason) => {
                tracing::error!(%id, reason, "the sender can not be told; it is tried again");
                if let Some(waiter) = order.waiter.take() {
                    waiter.answer(Err(store::StoreError::Refused(format!(
                        "the sender of {id} can not be told, so nothing was changed: {reason}"
                    ))));
                }
                Err(())
            }
        };
        let ordered = !order.by.is_empty() && !order.standing;
        let mut kept = Vec::new();
        for mut report in reports {
            // Another may have ended it meanwhile: that was its end, and this one is none.
            let slot = self.slots.get(&id);
            let waiting = slot.map(|slot| slot.waiting(&[report.recipient]));
            let Some((_, before)) = waiting.and_then(|waiting| waiting.into_iter().next()) else {
                continue;
            };
            // Or held it.
            report.state.holds = before.holds;
            match (&notices, report.state.status) {
                (Ok(_), Status::Waiting) => report.state.warned = true,
                // It was delivered, whether that can be told or not.
                (Ok(_), _) | (Err(()), Status::Waiting | Status::Delivered) => {}
                // Nothing happens; it is tried again when it is due.
                (Err(()), _) if ordered => continue,
                (Err(()), _) => report.state = self.postponed(report.state),
            }
            kept.push(report);
        }
        if kept.is_empty() {
            if let Some(waiter) = order.waiter {
                waiter.nothing();
            }
        } else {
            let notices = notices.unwrap_or_default();
            for (notice, _) in &notices {
                let to = notice.envelope.recipients.first();
                let to = to.map(|to| to.address.as_str());
                tracing::info!(%id, notice = %notice.id, to, "the sender is told");
            }
            self.decided(id, kept, notices, order);
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
        let text = format!("{UNTOLD}; it was: {said}");
        let now = crate::time::now();
        RecipientState {
            status: Status::Waiting,
            // What it waits for is counted from here, also where nobody tried to deliver it.
            last_attempt: now,
            next_due: now.saturating_add(crate::time::millis(delay)),
            last_reply: Some(own_reply(451, "4.3.0", &text)),
            ..state
        }
    }
}

/// Somebody is told.
#[derive(Clone, Copy)]
pub(super) struct Told {
    /// Whatever the envelope asks for.
    pub always: bool,
}

/// How a notice about a recipient is kept in mind while it is written.
fn told_of(report: &Report) -> (u32, bool) {
    (report.recipient, report.state.status != Status::Waiting)
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

pub(super) fn recipient(message: &Message, position: u32) -> Option<(&Recipient, &RecipientState)> {
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

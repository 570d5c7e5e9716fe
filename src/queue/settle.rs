//! Outcomes: each attempt's is logged and decided on; where the sender has to be told, the
//! notification is written and signed first and made durable together with the recipient's end.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use queue_schema::{
    BodyKind, Change, Envelope, Message, Notify, Origin, QueueId, Recipient, RecipientState, Status,
};

use super::actor::{Event, Queue};
use super::dsn::{self, Built, Notice, Report};
use super::messages::{Attempt, Record};
use super::outcome::{clean, decide, is_late};
use super::{own_reply, schedule, store};
use crate::message::Content;
use crate::signing::Sign;

/// A notification that is ready to be stored, or why there is none.
pub(super) struct Settled {
    about: QueueId,
    reports: Vec<Report>,
    /// `Ok(None)`: nobody is to be told.
    notice: Result<Option<(Box<Message>, Content)>, String>,
}

impl Queue {
    /// Takes over what delivery reports.
    pub(super) fn record(&mut self, record: &Record) {
        let id = record.message.id;
        let mut sure = Vec::new();
        let mut failed = Vec::new();
        let mut late = Vec::new();
        for attempt in &record.attempts {
            let Some(slot) = self.slots.get_mut(&id) else {
                tracing::error!(%id, "an outcome of a message that is not in delivery is ignored");
                return;
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
            let decision = decide(&self.config.retry, &message, before, attempt, chance);
            log(&message, recipient, attempt, &decision, handed_at);
            let deserves = deserves(&message);
            let report = Report {
                recipient: attempt.recipient,
                state: decision.state,
            };
            match report.state.status {
                Status::Bounced | Status::Expired if deserves && recipient.notify.failure => {
                    failed.push(report);
                }
                Status::Waiting
                    if deserves
                        && recipient.notify.delay
                        && is_late(&self.config.retry, &message, attempt.at) =>
                {
                    late.push(report);
                }
                status => {
                    if matches!(status, Status::Bounced | Status::Expired) {
                        tracing::warn!(%id, to = recipient.address, "it failed and nobody is told");
                    }
                    sure.push((report.recipient, report.state));
                }
            }
        }
        // A failure is news enough; lateness of the others is told the next time.
        if !failed.is_empty() {
            sure.extend(
                late.drain(..)
                    .map(|report| (report.recipient, report.state)),
            );
        }
        if !sure.is_empty() {
            self.change(
                id,
                Change {
                    recipients: sure,
                    ..Change::default()
                },
                None,
                None,
            );
            self.release(id);
        }
        for reports in [failed, late] {
            if !reports.is_empty() {
                self.settle(id, reports);
            }
        }
    }

    /// Writes and signs a notification on a task of its own.
    fn settle(&mut self, about: QueueId, reports: Vec<Report>) {
        let Some(message) = self.slots.get(&about).and_then(|slot| slot.message.clone()) else {
            return;
        };
        self.settling += 1;
        let work = Work {
            id: self.ids.issue(),
            message,
            reports,
            leads: self.leads.clone(),
            readers: self.readers.clone(),
            signer: self.signer.clone(),
            hostname: self.config.hostname.clone(),
            retry: self.config.retry.clone(),
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
        let mut recipients = Vec::new();
        let mut warned = None;
        for report in settled.reports {
            // An operator may have removed it meanwhile.
            let Some((_, before)) = recipient(&message, report.recipient) else {
                continue;
            };
            if before.status != Status::Waiting {
                continue;
            }
            let mut state = report.state;
            match (&settled.notice, state.status) {
                (Ok(_), Status::Waiting) => warned = Some(true),
                (Ok(_), _) | (Err(_), Status::Waiting) => {}
                (Err(_), _) => state = self.postponed(state),
            }
            recipients.push((report.recipient, state));
        }
        let notice = match settled.notice {
            Ok(notice) => notice,
            Err(reason) => {
                tracing::error!(%id, reason, "the sender can not be told; it is tried again");
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
        if !recipients.is_empty() {
            self.change(
                id,
                Change {
                    recipients,
                    warned,
                    ..Change::default()
                },
                notice,
                None,
            );
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

struct Work {
    id: QueueId,
    message: Arc<Message>,
    reports: Vec<Report>,
    leads: super::Leads,
    readers: store::Readers,
    signer: actix::Recipient<Sign>,
    hostname: String,
    retry: crate::config::Retry,
}

impl Work {
    async fn notice(&self) -> Result<Option<(Box<Message>, Content)>, String> {
        let sender = &self.message.envelope.reverse_path;
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
            deadline: schedule::deadline(&self.retry, &self.message),
            hostname: &self.hostname,
            original: original.as_ref(),
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
        let sender = &self.message.envelope.reverse_path;
        let recipient = |address: String| Recipient {
            alias_of: (address != *sender).then(|| sender.clone()),
            address,
            notify: Notify {
                success: false,
                failure: false,
                delay: false,
            },
            orcpt: None,
        };
        let envelope = Envelope {
            forwarded_as: None,
            reverse_path: String::new(),
            recipients: to.into_iter().map(recipient).collect(),
            body,
            smtputf8,
            require_tls: self.message.envelope.require_tls,
            ret: None,
            envid: None,
            release_at: None,
            deliver_by: None,
            priority: 0,
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

/// Invariant I11: never to a null sender, never to one that may be forged.
fn deserves(message: &Message) -> bool {
    !message.envelope.reverse_path.is_empty() && message.origin.deserves_bounce()
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
    let reply = decision.state.last_reply.as_ref();
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
        reply = reply.map(|reply| reply.to_string()),
        "attempt"
    );
}

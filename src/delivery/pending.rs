//! Recipients on their way, and the promise that each of them is reported.
//!
//! A [`Pending`] holds recipients of one message that the queue waits to hear of. It goes by value
//! from the dispatcher to a worker to a connection; wherever it is dropped, by a panic, a full
//! queue or an actor that ended, it reports what is left in it as deferred. So no recipient is
//! forgotten, and none is reported twice, because reporting takes it out.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use actix::Recipient;
use queue_schema::{Message, Reply};
use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::promise::Promise;
use super::verdict::Verdict;
use crate::message::Content;
use crate::queue::suspend::Suspension;
use crate::queue::ways;
use crate::queue::{Attempt, Job, Record};
use crate::smtp::client::To;
use crate::time;

/// Tells the queue what became of recipients. Clones are the same one.
#[derive(Clone)]
pub(super) struct Reporter(Arc<Inner>);

struct Inner {
    record: Recipient<Record>,
    /// How long recipients wait whose attempt was cut off by a failure of our own.
    cut_off_wait: Duration,
    /// Pending parts that exist and records without an answer.
    outstanding: AtomicUsize,
    /// Notified when that becomes 0.
    settled: Notify,
}

/// One of the things a drain waits for.
struct Outstanding(Reporter);

impl Outstanding {
    fn new(reporter: &Reporter) -> Outstanding {
        reporter.0.outstanding.fetch_add(1, Ordering::AcqRel);
        Outstanding(reporter.clone())
    }
}

impl Drop for Outstanding {
    fn drop(&mut self) {
        if self.0.0.outstanding.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.0.settled.notify_waiters();
        }
    }
}

impl Reporter {
    pub(super) fn new(record: Recipient<Record>, cut_off_wait: Duration) -> Reporter {
        Reporter(Arc::new(Inner {
            record,
            cut_off_wait,
            outstanding: AtomicUsize::new(0),
            settled: Notify::new(),
        }))
    }

    /// Waits until nothing is pending and every record was answered.
    pub(super) async fn settled(&self) {
        loop {
            let notified = self.0.settled.notified();
            if self.0.outstanding.load(Ordering::Acquire) == 0 {
                return;
            }
            notified.await;
        }
    }

    /// Sends one record without waiting for the answer; `permit` is held until it comes.
    pub(super) fn send(&self, record: Record, permit: Option<OwnedSemaphorePermit>) {
        let outstanding = Outstanding::new(self);
        let answer = self.0.record.send(record);
        actix_rt::spawn(async move {
            if answer.await.is_err() {
                tracing::error!("the queue is gone; outcomes of deliveries are lost");
            }
            drop((permit, outstanding));
        });
    }

    /// Sends one record and waits until it is on disk; false if it can not be put there.
    pub(super) async fn send_synced(&self, record: Record) -> bool {
        let outstanding = Outstanding::new(self);
        let record = Record {
            synced: true,
            ..record
        };
        let synced = self.0.record.send(record).await;
        drop(outstanding);
        synced.unwrap_or_else(|_| {
            tracing::error!("the queue is gone; outcomes of deliveries are lost");
            false
        })
    }

    /// Reports the same verdict on every recipient of a part.
    pub(super) fn send_one(&self, mut part: Pending, verdict: &Verdict, remote: &str) {
        let record = part.settle_all(verdict, remote, "");
        self.send(record, None);
    }

    /// Reports the same verdict on every recipient of many parts, one record after the other.
    pub(super) fn send_all(&self, parts: Vec<Pending>, verdict: &Verdict) {
        let verdict = verdict.clone();
        self.send_each(parts, move || verdict.clone());
    }

    /// Sends parts back whose destination is suspended; each waits a little longer than it is, by
    /// chance, so that not all come at once.
    pub(super) fn send_suspended(&self, parts: Vec<Pending>, suspension: &Suspension) {
        let suspension = suspension.clone();
        self.send_each(parts, move || {
            let wait = suspension.wait(time::now(), fastrand::f64());
            Verdict::suspended(&(&suspension).into(), wait)
        });
    }

    /// Reports a verdict on every recipient of each part, one record after the other.
    pub(super) fn send_each(&self, parts: Vec<Pending>, verdict: impl Fn() -> Verdict + 'static) {
        if parts.is_empty() {
            return;
        }
        let reporter = self.clone();
        actix_rt::spawn(async move {
            for mut part in parts {
                let record = part.settle_all(&verdict(), "", "");
                if reporter.0.record.send(record).await.is_err() {
                    tracing::error!("the queue is gone; outcomes of deliveries are lost");
                }
            }
        });
    }
}

/// Recipients of one message that go the same way and were not reported yet.
pub(super) struct Pending {
    pub(super) message: Arc<Message>,
    pub(super) content: Option<Content>,
    /// What is to hold for the connection that carries it.
    pub(super) promise: Arc<Promise>,
    recipients: Vec<u32>,
    outstanding: Outstanding,
}

impl Pending {
    pub(super) fn new(job: Job, reporter: &Reporter) -> Pending {
        Pending {
            message: job.message,
            content: job.content,
            promise: Arc::default(),
            recipients: job.recipients,
            outstanding: Outstanding::new(reporter),
        }
    }

    pub(super) fn reporter(&self) -> &Reporter {
        &self.outstanding.0
    }

    /// Positions of its recipients in the envelope.
    pub(super) fn recipients(&self) -> &[u32] {
        &self.recipients
    }

    /// The address of a recipient; empty for a position that is not in the envelope.
    pub(super) fn address(&self, recipient: u32) -> &str {
        self.recipient(recipient)
            .map_or("", |recipient| recipient.address.as_str())
    }

    /// Whether an alias led this recipient to a target on this machine, or over LMTP: then its
    /// address is that target.
    pub(super) fn leads_here(&self, recipient: u32) -> bool {
        self.recipient(recipient).is_some_and(ways::leads_here)
    }

    /// A recipient as it stands in the envelope.
    pub(super) fn recipient(&self, recipient: u32) -> Option<&queue_schema::Recipient> {
        let at = usize::try_from(recipient).ok()?;
        self.message.envelope.recipients.get(at)
    }

    /// What RCPT says about a recipient.
    pub(super) fn to(&self, recipient: u32) -> To<'_> {
        match self.recipient(recipient) {
            Some(found) => To {
                address: match &found.alias_of {
                    Some(alias) if self.leads_here(recipient) => alias,
                    _ => &found.address,
                },
                notify: found.notify,
                orcpt: found.orcpt.as_deref(),
            },
            None => To::from(""),
        }
    }

    /// Takes some recipients out into a part of their own.
    pub(super) fn split(&mut self, recipients: Vec<u32>) -> Pending {
        self.recipients.retain(|own| !recipients.contains(own));
        Pending {
            message: Arc::clone(&self.message),
            content: self.content.clone(),
            promise: Arc::clone(&self.promise),
            recipients,
            outstanding: Outstanding::new(self.reporter()),
        }
    }

    /// Parts of one message that go the same way, as one; `None` where there are none.
    pub(super) fn join(parts: Vec<Pending>) -> Option<Pending> {
        parts.into_iter().reduce(|mut all, mut part| {
            all.recipients.append(&mut part.recipients);
            all
        })
    }

    /// Takes all recipients out, each with its own verdict, in order.
    pub(super) fn settle(
        &mut self,
        verdicts: impl Iterator<Item = Verdict>,
        remote: &str,
        tls: &str,
    ) -> Record {
        let at = time::now();
        let recipients = std::mem::take(&mut self.recipients);
        let missing = || Verdict::deferred(451, "4.3.0", "no outcome was recorded");
        let verdicts = verdicts.chain(std::iter::repeat_with(missing));
        let attempts = recipients
            .into_iter()
            .zip(verdicts)
            .map(|(recipient, verdict)| Attempt {
                recipient,
                at,
                outcome: verdict.outcome,
                reply: Reply {
                    code: verdict.reply.code,
                    enhanced: verdict.reply.enhanced,
                    text: verdict.reply.text,
                    remote: remote.to_owned(),
                },
                tls: tls.to_owned(),
                notifies: false,
            });
        Record {
            attempts: attempts.collect(),
            message: Arc::clone(&self.message),
            synced: false,
        }
    }

    /// Takes all recipients out with the same verdict.
    pub(super) fn settle_all(&mut self, verdict: &Verdict, remote: &str, tls: &str) -> Record {
        self.settle(std::iter::repeat_with(|| verdict.clone()), remote, tls)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.recipients.is_empty() {
            return;
        }
        let reply = crate::smtp::reply::Reply::new(
            451,
            "4.3.0",
            "the attempt was cut off by a failure of our own; see the log",
        );
        let verdict = Verdict::postponed(self.reporter().0.cut_off_wait, reply);
        let record = self.settle_all(&verdict, "", "");
        // Nothing can be awaited here, and this must not fail: so it may exceed the bound of the
        // queue's mailbox. It happens after a panic or an overflow only.
        self.reporter().0.record.do_send(record);
    }
}

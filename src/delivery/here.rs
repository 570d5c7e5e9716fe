//! A part that ends on this machine: one recipient after the other.
//!
//! What a target has taken is reported at once, so that a daemon that is killed, or that stops
//! between two recipients, repeats nothing that can be avoided. A program can not tell that it ran
//! before: the next one starts only when that the last one took the message is on disk. A Maildir
//! finds its own file again, and waits for no disk of ours. What was refused or put off would only be
//! refused again: it is reported at the end, so that a sender hears of all failures in one notice.

use super::HERE;
use super::connection::Connection;
use super::pending::Pending;
use super::targets;
use super::verdict::Verdict;
use super::worker::Grade;
use crate::config::routes::Via;
use crate::confined::Hidden;
use crate::message::Content;
use crate::queue::Outcome;

impl Connection {
    /// Delivers a part to its target; each of its recipients is reported.
    pub(super) async fn deliver_here(&self, mut part: Pending) -> Grade {
        let reporter = part.reporter().clone();
        let top = part.message.top.clone();
        let content = self.content(&mut part).await;
        let content = content.map(|content| content.under(&top));
        let mut grade = Grade::Neutral;
        let mut refused = Vec::new();
        let mut interrupted = false;
        for at in part.recipients().to_vec() {
            interrupted = *self.stop.borrow() || self.standing.borrow().stop.is_some();
            if interrupted {
                break;
            }
            let verdict = match &content {
                Err(verdict) => verdict.clone(),
                Ok(content) => self.deliver_one(&part, at, content).await,
            };
            let mut one = part.split(vec![at]);
            if verdict.outcome != Outcome::Delivered {
                refused.push((one, verdict));
                continue;
            }
            grade = Grade::Delivered;
            let record = one.settle_all(&verdict, HERE, "");
            match self.destination.local {
                Some(Via::Pipe(_)) => interrupted = !reporter.send_synced(record).await,
                _ => reporter.send(record, self.permit().await),
            }
            if interrupted {
                break;
            }
        }
        if !refused.is_empty() {
            let (parts, verdicts): (Vec<Pending>, Vec<Verdict>) = refused.into_iter().unzip();
            if let Some(mut all) = Pending::join(parts) {
                let record = all.settle(verdicts.into_iter(), HERE, "");
                reporter.send(record, self.permit().await);
            }
        }
        if interrupted && !part.recipients().is_empty() {
            let suspension = self.standing.borrow().stop.clone();
            match suspension.filter(|_| !*self.stop.borrow()) {
                Some(suspension) => reporter.send_suspended(vec![part], &suspension),
                None => reporter.send_one(part, &super::draining(), ""),
            }
        }
        grade
    }

    async fn deliver_one(&self, part: &Pending, at: u32, content: &Content) -> Verdict {
        let config = &self.common.config;
        let (Some(recipient), Some(via)) = (part.recipient(at), &self.destination.local) else {
            return Verdict::deferred(451, "4.3.0", "no such recipient");
        };
        let errand = targets::Errand {
            message: &part.message,
            at,
            recipient,
            content,
            hostname: &config.hostname,
            patience: config.timeouts.pipe.0,
            hidden: Hidden::of(config),
            repeated: part.message.arrived < self.common.since,
        };
        targets::deliver(via, &errand).await
    }
}

//! Notices about one message: written and signed, ready to be stored together with the end that
//! they tell of.

use std::sync::Arc;

use queue_schema::{BodyKind, Envelope, Message, Notify, Origin, QueueId, Recipient};

use super::commit::Notice as Ready;
use super::dsn::{self, Built, Notice, Report};
use super::store::{Readers, new_message};
use super::{IdSource, Leads, schedule};
use crate::config::Retry;
use crate::message::Content;
use crate::signing::Sign;

/// What it takes to write notices about one message.
pub(super) struct Work {
    pub ids: IdSource,
    /// Who is told, and of which recipients.
    pub tells: Vec<(String, Vec<u32>)>,
    pub message: Arc<Message>,
    pub reports: Vec<Report>,
    pub leads: Leads,
    pub readers: Readers,
    pub signer: actix::Recipient<Sign>,
    pub hostname: String,
    pub retry: Retry,
    /// See [`super::clock`].
    pub shift: i64,
}

impl Work {
    /// One to each address, in this order; an address that leads to nobody gets none.
    pub async fn notices(&self) -> Result<Vec<Ready>, String> {
        let mut notices = Vec::new();
        for (sender, positions) in &self.tells {
            let to = (self.leads)(sender);
            if to.is_empty() {
                let id = self.message.id;
                tracing::warn!(%id, sender, "the sender's address leads nowhere");
                continue;
            }
            notices.push(self.notice(sender, to, positions).await?);
        }
        Ok(notices)
    }

    async fn notice(
        &self,
        sender: &str,
        to: Vec<String>,
        positions: &[u32],
    ) -> Result<Ready, String> {
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
        let reports = self.reports.iter();
        let reports = reports.filter(|report| positions.contains(&report.recipient));
        let reports: Vec<Report> = reports.cloned().collect();
        let new = self.ids.issue();
        let built = dsn::build(&Notice {
            id: new,
            now,
            message: &self.message,
            reports: &reports,
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
        let message = self.envelope(new, sender, to, now, body, smtputf8);
        Ok((Box::new(message), content))
    }

    fn envelope(
        &self,
        id: QueueId,
        sender: &str,
        to: Vec<String>,
        now: u64,
        body: BodyKind,
        smtputf8: bool,
    ) -> Message {
        let recipient = |address: String| Recipient {
            alias_of: (address != *sender).then(|| sender.to_owned()),
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
        new_message(id, now, origin, envelope)
    }
}

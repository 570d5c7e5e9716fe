//! The journey of a message from its last byte to durability: the only place where it becomes
//! `250`, after the queue's `Ok` (I1).

use bytes::Bytes;
use queue_schema::{Origin, QueueId};

use super::convert::{self, NotConverted};
use super::receive::{self, Message, Receiver};
use super::session::Session;
use crate::intake::{self, Client};
use crate::message::Content;
use crate::message::reencode::Rule;
use crate::message::trace::{self, Trace};
use crate::queue::{Accept, AcceptError};
use crate::signing::Sign;
use crate::smtp::replies::{self, Reply};

impl Session {
    /// The one reply to a message that came.
    pub(super) async fn accept(&mut self, receiver: Receiver) -> Reply {
        match self.store(receiver).await {
            Ok(id) => replies::queued(id),
            Err(reply) => reply,
        }
    }

    async fn store(&mut self, receiver: Receiver) -> Result<QueueId, Reply> {
        let message = receiver.finish().await?;
        let body = message.content.body.clone();
        let accept = match self.prepare(message).await {
            Ok(accept) => accept,
            Err(reply) => {
                receive::forget(body).await;
                return Err(reply);
            }
        };
        match self.shared.queue.send(accept).await {
            Ok(Ok(id)) => Ok(id),
            Ok(Err(AcceptError::DiskFull)) => Err(replies::DISK_FULL),
            Ok(Err(AcceptError::Draining)) => Err(replies::SHUTTING_DOWN),
            Ok(Err(AcceptError::Store(_))) | Err(_) => Err(replies::QUEUE_FAILED),
        }
    }

    /// What the queue is to make durable, or the reply that refuses it.
    async fn prepare(&mut self, message: Message) -> Result<Accept, Reply> {
        let shared = self.shared.clone();
        let config = &shared.config;
        let at = crate::time::now();
        let id = message.id;
        let Content { head, body } = message.content;
        let transaction = self.server.transaction().ok_or(replies::MAIL_FIRST)?;
        let header = intake::header(
            &shared.identity,
            self.client(),
            head.into(),
            &intake::Received {
                limits: &config.limits,
                hostname: &config.hostname,
                recipients: &transaction.recipients,
                id,
                at,
            },
        )?;
        let mut content = Content {
            head: header.head.into(),
            body,
        };
        let mut eight_bit = message.eight_bit;
        if matches!(self.client(), Client::User(_)) {
            let rule = Rule {
                line: config.limits.line,
                seven_bit: config.smtp.seven_bit,
            };
            let too_long = message.longest_line > rule.line;
            if too_long || (rule.seven_bit && eight_bit) {
                let spool = (&shared.spool, config.limits.memory_body.bytes(), id);
                match convert::convert(content.clone(), rule, spool).await {
                    Ok((converted, ascii)) => {
                        content = converted;
                        eight_bit = !ascii;
                    }
                    Err(NotConverted::Failed) => return Err(replies::QUEUE_FAILED),
                    Err(NotConverted::Unencodable) if too_long => {
                        return Err(replies::MESSAGE_LINE_TOO_LONG);
                    }
                    // The next hop will most likely take it as it is.
                    Err(NotConverted::Unencodable) => {}
                }
            }
        }
        let transaction = self.server.transaction().ok_or(replies::MAIL_FIRST)?;
        let eight_bit = eight_bit || !content.head.is_ascii();
        let envelope = intake::envelope(transaction, &self.targets, &content.head, eight_bit, at);
        self.spend(envelope.recipients.len()).await?;
        let (origin, name) = tokio::join!(self.origin(), self.client_name());
        let trace = self.trace(id, at, envelope.smtputf8, name.as_deref());
        let signature = match header.sign_for {
            Some(domain) => self.sign(domain, &content).await?,
            None => Bytes::new(),
        };
        content.head = [trace.as_bytes(), &signature, &content.head]
            .concat()
            .into();
        Ok(Accept {
            id,
            arrived: at,
            origin,
            envelope,
            content,
        })
    }

    /// The name of a client whose address the trace tells.
    async fn client_name(&self) -> Option<String> {
        match self.client() {
            Client::User(_) => None,
            _ => {
                let client = self.peer.ip().to_canonical();
                intake::verify::host_name(&self.shared.resolver, client).await
            }
        }
    }

    fn trace(&self, id: QueueId, at: u64, utf8: bool, client_name: Option<&str>) -> String {
        let config = &self.shared.config;
        let hello = self.server.hello();
        let user = self.server.user().is_some();
        let recipients = self
            .server
            .transaction()
            .map(|open| open.recipients.as_slice());
        trace::received(&Trace {
            hello: hello.map(|hello| hello.name.as_str()).unwrap_or_default(),
            extended: hello.is_some_and(|hello| hello.extended),
            client: (!user || config.smtp.show_client).then_some(self.peer.ip().to_canonical()),
            client_name,
            hostname: &config.hostname,
            id,
            tls: self.tls.as_deref(),
            authenticated: user,
            utf8,
            recipient: match recipients {
                Some([only]) => Some(only.to.as_str()),
                _ => None,
            },
            at,
        })
    }

    async fn origin(&self) -> Origin {
        let client = self.peer.ip().to_canonical();
        let transaction = self.server.transaction();
        let sender = transaction.and_then(|open| open.mail.from.as_ref());
        match (self.client(), sender) {
            (Client::User(user), _) => Origin::User {
                user: user.to_owned(),
                client,
            },
            (Client::Network, _) => Origin::Network { client },
            (Client::Outside, None) => Origin::Outside {
                client,
                verified: false,
            },
            (Client::Outside, Some(from)) => {
                let hello = self
                    .server
                    .hello()
                    .map(|hello| hello.name.as_str())
                    .unwrap_or_default();
                let hostname = &self.shared.config.hostname;
                let resolver = &self.shared.resolver;
                let verified =
                    intake::verify::spf_passes(resolver, client, hello, hostname, from).await;
                Origin::Outside { client, verified }
            }
        }
    }

    async fn sign(&self, domain: String, content: &Content) -> Result<Bytes, Reply> {
        let request = Sign {
            domain,
            content: content.clone(),
        };
        match self.shared.signer.send(request).await {
            Ok(Ok(signature)) => Ok(signature),
            Ok(Err(error)) => {
                tracing::error!(target: "session", %error, "message refused");
                Err(replies::SIGNING_FAILED)
            }
            Err(_) => Err(replies::SIGNING_FAILED),
        }
    }
}

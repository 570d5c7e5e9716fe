//! The journey of a message from its last byte to durability: the only place where it becomes
//! `250`, after the queue's `Ok` (I1).

use bytes::Bytes;
use queue_schema::{Envelope, Origin, QueueId};

use super::convert::{self, NotConverted};
use super::receive::{self, Message, Receiver};
use super::session::{Session, Shared};
use crate::config::MissingFrom;
use crate::intake::hooks::Filters;
use crate::intake::outside::Arrival;
use crate::intake::{self, Client};
use crate::message::fold;
use crate::message::reencode::Rule;
use crate::message::trace::{self, Trace};
use crate::message::{Body, Content};
use crate::queue::{Accept, AcceptError, Held};
use crate::signing::{Seal, Sign};
use crate::smtp::address::Address;
use crate::smtp::replies::{self, Reply};

/// A message that may go on.
struct Judged {
    envelope: Envelope,
    origin: Origin,
    content: Content,
    /// What is to be put above our trace.
    above: String,
    /// Signature or seal: what is to be put below it.
    top: Bytes,
    held: Vec<Held>,
}

impl Session {
    /// The one reply to a message that came.
    pub(super) async fn accept(&mut self, receiver: Receiver) -> Reply {
        match self.store(receiver).await {
            Ok(id) => replies::queued(id),
            Err(reply) => reply,
        }
    }

    async fn store(&mut self, receiver: Receiver) -> Result<QueueId, Reply> {
        let mut message = receiver.finish().await?;
        let body = message.content.body.clone();
        // Held until the queue has it, or it is refused.
        let _held = message.held.take();
        let accept = match self.prepare(message).await {
            Ok(accept) => accept,
            Err(reply) => {
                receive::forget(body).await;
                return Err(reply);
            }
        };
        if accept.envelope.recipients.is_empty() {
            // Every recipient leads to !discard.
            receive::forget(accept.content.body).await;
            tracing::info!(target: "session", id = %accept.id, "discarded");
            return Ok(accept.id);
        }
        match self.shared.queue.send(accept).await {
            Ok(Ok(id)) => Ok(id),
            Ok(Err(AcceptError::DiskFull)) => Err(replies::DISK_FULL),
            Ok(Err(AcceptError::Draining)) => Err(replies::SHUTTING_DOWN),
            Ok(Err(AcceptError::Store(_))) | Err(_) => Err(replies::QUEUE_FAILED),
        }
    }

    /// What the queue is to make durable, or the reply that refuses it.
    async fn prepare(&mut self, message: Message) -> Result<Accept, Reply> {
        let at = crate::time::now();
        let id = message.id;
        let filters = self.filters.take();
        let (work, name) = (
            Box::pin(self.judged(message, filters, at)),
            self.client_name(),
        );
        let (judged, name) = tokio::join!(work, name);
        let Judged {
            envelope,
            origin,
            mut content,
            above,
            top,
            held,
        } = judged?;
        let trace = self.trace(id, at, envelope.smtputf8, name.as_deref());
        content.head = [above.as_bytes(), trace.as_bytes(), &top, &content.head]
            .concat()
            .into();
        Ok(Accept {
            id,
            arrived: at,
            origin,
            envelope,
            content,
            held,
        })
    }

    async fn judged(
        &self,
        message: Message,
        filters: Option<Box<Filters>>,
        at: u64,
    ) -> Result<Judged, Reply> {
        match self.client() {
            Client::Outside => self.outside(message, filters, at).await,
            _ => self.inside(message, filters, at).await,
        }
    }

    /// Mail of users and trusted networks: checked, completed, signed.
    async fn inside(
        &self,
        message: Message,
        filters: Option<Box<Filters>>,
        at: u64,
    ) -> Result<Judged, Reply> {
        let config = &self.shared.config;
        let place = place(&message);
        let Content { head, body } = message.content;
        let transaction = self.server.transaction().ok_or(replies::MAIL_FIRST)?;
        let from = transaction.mail.from.as_ref();
        let reverse_path = from.map(Address::as_str).unwrap_or_default();
        let header = intake::header(
            &self.shared.identity,
            self.client(),
            head.into(),
            &intake::Received {
                limits: &config.limits,
                hostname: &config.hostname,
                recipients: &transaction.recipients,
                author: match config.smtp.missing_from {
                    MissingFrom::Add => Some(reverse_path),
                    MissingFrom::Reject => None,
                },
                id: message.id,
                at,
            },
        )?;
        let content = Content {
            head: header.head.into(),
            body,
        };
        let came_in_memory = matches!(content.body, Body::Memory(_));
        let checked = self.hooks(content, filters, message.id).await?;
        let mut eight_bit = match &checked.new_body {
            Some(body) => !body.is_ascii(),
            None => message.eight_bit,
        };
        let mut content = self
            .with_body(checked.content, checked.new_body, place)
            .await?;
        if matches!(self.client(), Client::User(_)) {
            let rule = Rule {
                line: config.limits.line,
                seven_bit: config.smtp.seven_bit,
            };
            let too_long = message.longest_line > rule.line;
            if too_long {
                content.head = fold::fold(&content.head, rule.line).into();
            }
            if too_long || (rule.seven_bit && eight_bit) {
                let memory = config.limits.memory_body.bytes();
                let spool = (&self.shared.spool, memory, message.id);
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
        let eight_bit = eight_bit || !content.head.is_ascii();
        let mut envelope =
            intake::envelope(transaction, &self.targets, &content.head, eight_bit, at);
        if checked.discarded {
            envelope.recipients.clear();
        }
        let allowed = match (self.spend(envelope.recipients.len()).await, header.sign_for) {
            (Ok(()), Some(domain)) => self.sign(domain, &content).await,
            (Ok(()), None) => Ok(Bytes::new()),
            (Err(reply), _) => Err(reply),
        };
        let signature = match allowed {
            Ok(signature) => signature,
            Err(reply) => {
                // A file that the encoding began; the one that came is the caller's to forget.
                if came_in_memory {
                    receive::forget(content.body).await;
                }
                return Err(reply);
            }
        };
        let client = self.peer.ip().to_canonical();
        let origin = match self.client() {
            Client::User(user) => Origin::User {
                user: user.to_owned(),
                client,
            },
            _ => Origin::Network { client },
        };
        Ok(Judged {
            envelope,
            origin,
            content,
            above: String::new(),
            top: signature,
            held: checked.held,
        })
    }

    /// Mail of strangers: judged, marked, sealed where it goes on.
    async fn outside(
        &self,
        message: Message,
        filters: Option<Box<Filters>>,
        at: u64,
    ) -> Result<Judged, Reply> {
        let Shared {
            config,
            identity,
            resolver,
            outside,
            ..
        } = &*self.shared;
        let client = self.peer.ip().to_canonical();
        let hello = self.server.hello();
        let place = place(&message);
        let mut tally = None;
        let arrival = Arrival {
            tally: &mut tally,
            client,
            hello: hello.map(|hello| hello.name.as_str()).unwrap_or_default(),
            transaction: self.server.transaction().ok_or(replies::MAIL_FIRST)?,
            targets: &self.targets,
            content: message.content,
            filters,
            tls: self.tls.is_some(),
            standing: self.standing.as_ref().map(|(_, standing)| standing),
            eight_bit: message.eight_bit,
            id: message.id,
            at,
        };
        let passed = outside
            .receive(config, identity, &resolver.hickory(), arrival)
            .await;
        if let Some(tally) = tally {
            // Without the reporter mail goes on.
            let _ = self.shared.reporter.send(tally).await;
        }
        let passed = passed?;
        let seal = match passed.seal {
            Some(seal) => self.seal(seal).await,
            None => Bytes::new(),
        };
        let origin = Origin::Outside {
            client,
            verified: passed.verified,
        };
        let content = self
            .with_body(passed.content, passed.new_body, place)
            .await?;
        Ok(Judged {
            envelope: passed.envelope,
            origin,
            content,
            above: passed.above,
            top: seal,
            held: passed.held,
        })
    }

    /// A seal helps, but mail without one is better than none.
    async fn seal(&self, seal: Seal) -> Bytes {
        let failed: String = match self.shared.signer.send(seal).await {
            Ok(Ok(set)) => return set,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::error!(target: "session", error = failed, "forwarded without a seal");
        Bytes::new()
    }

    /// The name of a client whose address the trace tells.
    async fn client_name(&self) -> Option<String> {
        match self.client() {
            Client::User(_) => None,
            _ => {
                let client = self.peer.ip().to_canonical();
                crate::verify::host_name(&self.shared.resolver.hickory(), client).await
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

/// The id of a message, and whether it has a file of its own.
fn place(message: &Message) -> (QueueId, bool) {
    let in_file = matches!(message.content.body, Body::Spool(_));
    (message.id, in_file)
}

//! A session's transactions: whether sender and recipients are taken, and the message as it comes.
//!
//! Asks [`crate::intake`], the milters and the lists, and hands what came whole to
//! [`super::accept`].

use crate::auth::Spend;
use crate::intake::{self, Client};
use crate::smtp::address::Address;
use crate::smtp::params::Rcpt;
use crate::smtp::replies::{self, Reply};

use super::receive::Receiver;
use super::session::{Gone, Session, Shared, Stream};

impl Session {
    pub(super) fn client(&self) -> Client<'_> {
        match self.server.user() {
            Some(user) => Client::User(user),
            None if self.server.is_trusted() => Client::Network,
            None => Client::Outside,
        }
    }

    /// After the stop no new transaction begins.
    pub(super) async fn sender(&mut self, from: Option<&Address>) -> Result<(), Gone> {
        if *self.stop.borrow() {
            self.server.close(replies::SHUTTING_DOWN, &mut self.out);
            return Err(Gone::Closing);
        }
        self.targets.clear();
        self.who = None;
        // From here to the end of the transaction one version of all files holds.
        self.shared = self.newest.borrow().clone();
        let mut verdict = self.is_still_known();
        if verdict.is_ok() {
            verdict = intake::sender(&self.shared.identity, self.client(), from);
        }
        if verdict.is_ok() {
            verdict = self.spend(0).await;
        }
        if verdict.is_ok() {
            verdict = self.begin_filters(from).await;
        }
        if let Err(reply) = &verdict {
            self.log_refusal("MAIL", reply, from.map(Address::as_str).unwrap_or_default());
        }
        self.server.sender(verdict, &mut self.out);
        Ok(())
    }

    /// Counts a message against what its user may send.
    pub(super) async fn spend(&self, recipients: usize) -> Result<(), Reply> {
        let Some(user) = self.server.user().map(str::to_owned) else {
            return Ok(());
        };
        match self.shared.auth.send(Spend { user, recipients }).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(replies::USER_LIMIT),
            Err(_) => Err(replies::AUTH_UNAVAILABLE),
        }
    }

    pub(super) async fn recipient(&mut self, rcpt: Rcpt) {
        let Shared {
            config, identity, ..
        } = &*self.shared;
        let now = crate::time::now();
        let from = self.server.transaction();
        let from = from.and_then(|open| open.mail.from.as_ref());
        let outside = &self.shared.outside;
        let bounce = outside.bounce(config, identity, from, &rcpt.to, now);
        let returns = matches!(bounce, Some(Ok(_)));
        let mut targets = match self.mailbox_of_dovecot(&rcpt.to).await {
            Ok(Some(mailbox)) => Ok(vec![mailbox]),
            Ok(None) => match intake::postmaster(identity, &config.hostname, &rcpt.to) {
                Some(postmaster) => postmaster,
                None => intake::recipient(identity, self.client(), &rcpt.to, bounce),
            },
            Err(reply) => Err(reply),
        };
        if targets.is_ok()
            && !returns
            && let Err(reply) = Box::pin(self.is_welcome(&rcpt.to)).await
        {
            targets = Err(reply);
        }
        if targets.is_ok()
            && let Some(filters) = &mut self.filters
            && let Err(reply) = filters
                .recipient(&self.shared.config, rcpt.to.as_str())
                .await
        {
            targets = Err(reply);
        }
        let verdict = match targets {
            Ok(targets) => {
                self.targets.push(targets);
                Ok(())
            }
            Err(reply) => {
                self.log_refusal("RCPT", &reply, rcpt.to.as_str());
                Err(reply)
            }
        };
        self.server.recipient(rcpt, verdict, &mut self.out);
    }

    fn log_refusal(&self, command: &str, reply: &Reply, address: &str) {
        let client = self.peer.ip();
        tracing::info!(target: "session", %client, command, address, code = reply.code, text = %reply.text, "refused");
    }

    fn receiver(&self) -> Receiver {
        let shared = &self.shared;
        let limits = &shared.config.limits;
        let held = shared
            .arriving
            .held(self.peer.ip(), limits.memory_arrivals.0);
        Receiver::new(limits, &shared.spool, shared.ids.issue(), held)
    }

    pub(super) async fn data(&mut self, stream: &mut Stream) -> Result<(), Gone> {
        let mut receiver = Box::new(self.receiver());
        let came = Box::pin(receiver.data(stream, &mut self.input, &self.patience)).await;
        self.came(came)?;
        self.finish(receiver).await;
        Ok(())
    }

    pub(super) async fn chunk(
        &mut self,
        stream: &mut Stream,
        size: u64,
        last: bool,
    ) -> Result<(), Gone> {
        let mut receiver = match self.receiver.take() {
            Some(receiver) => receiver,
            None => Box::new(self.receiver()),
        };
        let came = Box::pin(receiver.chunk(stream, &mut self.input, size, &self.patience)).await;
        self.came(came)?;
        if last {
            self.finish(receiver).await;
        } else {
            self.receiver = Some(receiver);
            self.server.chunk_done(Ok(()), &mut self.out);
        }
        Ok(())
    }

    async fn finish(&mut self, receiver: Box<Receiver>) {
        let reply = Box::pin(self.accept(*receiver)).await;
        if reply.is_error() {
            self.log_refusal("DATA", &reply, "");
        }
        self.server.message_done(reply, &mut self.out);
        self.targets = Vec::new();
    }
}

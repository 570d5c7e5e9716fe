//! MAIL, RCPT and DATA (RFC 5321 sections 4.1.1.2 to 4.1.1.4), each with the parameters of the
//! extensions that are on.

use bytes::BytesMut;

use super::{Server, Step, Transaction};
use crate::extension::Extension;
use crate::params::{Hold, Mail, Rcpt};
use crate::replies::{self, Reply};

impl Server {
    pub(super) fn mail(&mut self, mail: Mail, out: &mut Vec<u8>) -> Option<Step> {
        let stranger = self.options.submission && !self.is_known();
        let limits = &self.options.limits;
        let refusal = if self.hello.is_none() {
            replies::HELLO_FIRST
        } else if stranger && !self.tls {
            replies::TLS_REQUIRED
        } else if stranger {
            replies::AUTH_REQUIRED
        } else if let Some(open) = &self.transaction {
            match open.chunks {
                Some(_) => replies::CHUNKS_UNDER_WAY,
                None => replies::NESTED_MAIL,
            }
        } else if self.counts.transactions >= limits.transactions {
            return self.closed(replies::TOO_MANY_TRANSACTIONS, out);
        } else if let Some(refusal) = self.unfit(&mail) {
            refusal
        } else {
            let from = mail.from.clone();
            self.pending = Some(mail);
            return Some(Step::Sender(from));
        };
        self.refused(refusal, out)
    }

    /// Why the parameters of `mail` can not be had.
    fn unfit(&self, mail: &Mail) -> Option<Reply> {
        use Extension::*;
        let limits = &self.options.limits;
        let used = [
            (mail.size.is_some(), Size),
            (mail.body.is_some(), EightBitMime),
            (mail.smtputf8, SmtpUtf8),
            (mail.ret.is_some() || mail.envid.is_some(), Dsn),
            (mail.require_tls, RequireTls),
            (mail.by.is_some(), DeliverBy),
            (mail.hold.is_some(), FutureRelease),
            (mail.priority.is_some(), MtPriority),
        ];
        let for_users = mail.by.is_some() || mail.hold.is_some() || mail.priority.is_some();
        let off = used
            .iter()
            .any(|(used, extension)| *used && !self.has(*extension));
        if off || (mail.require_tls && !self.tls) || (for_users && !self.is_known()) {
            return Some(replies::UNKNOWN_PARAMETER);
        }
        if mail.size.is_some_and(|size| size > limits.message) {
            return Some(replies::MESSAGE_TOO_BIG);
        }
        let last = self
            .now
            .saturating_add(limits.future_release.saturating_mul(1000));
        let bad_hold = mail.hold.is_some_and(|hold| match hold {
            Hold::For(seconds) => seconds > limits.future_release,
            Hold::Until(at) => at <= self.now || at > last,
        });
        bad_hold.then_some(replies::BAD_RELEASE)
    }

    /// The session's judgement of the sender.
    pub fn sender(&mut self, verdict: Result<(), Reply>, out: &mut Vec<u8>) {
        let Some(mail) = self.pending.take() else {
            return;
        };
        match verdict {
            Ok(()) => {
                self.counts.transactions += 1;
                self.say(&replies::SENDER_OK, out);
                self.transaction = Some(Transaction {
                    mail,
                    recipients: Vec::new(),
                    chunks: None,
                });
            }
            Err(reply) => self.refuse(reply, out),
        }
    }

    pub(super) fn rcpt(&mut self, rcpt: Rcpt, out: &mut Vec<u8>) -> Option<Step> {
        let dsn = rcpt.notify.is_some() || rcpt.orcpt.is_some();
        let refusal = match &self.transaction {
            None => replies::MAIL_FIRST,
            Some(open) if open.chunks.is_some() => replies::CHUNKS_UNDER_WAY,
            Some(_) if dsn && !self.has(Extension::Dsn) => replies::UNKNOWN_PARAMETER,
            Some(open) if open.recipients.len() >= self.options.limits.recipients => {
                replies::TOO_MANY_RECIPIENTS
            }
            Some(_) => return Some(Step::Recipient(rcpt)),
        };
        self.refused(refusal, out)
    }

    /// The session's judgement of a recipient.
    pub fn recipient(&mut self, rcpt: Rcpt, verdict: Result<(), Reply>, out: &mut Vec<u8>) {
        match (verdict, &mut self.transaction) {
            (Ok(()), Some(transaction)) => {
                transaction.recipients.push(rcpt);
                self.say(&replies::RECIPIENT_OK, out);
            }
            (Ok(()), None) => self.refuse(replies::MAIL_FIRST, out),
            (Err(reply), _) => self.refuse(reply, out),
        }
    }

    pub(super) fn data(&mut self, input: &BytesMut, out: &mut Vec<u8>) -> Option<Step> {
        let refusal = match &self.transaction {
            None => replies::MAIL_FIRST,
            Some(open) if open.chunks.is_some() => {
                // RFC 3030 section 2: only RSET, or what does the same, helps now.
                self.transaction = None;
                replies::CHUNKS_UNDER_WAY
            }
            Some(open) if open.recipients.is_empty() => replies::NO_RECIPIENTS,
            // A message that did not wait for 354 may be another protocol's request.
            Some(_) if !input.is_empty() => {
                return self.closed(replies::UNAUTHORISED_PIPELINING, out);
            }
            Some(_) => {
                self.say(&replies::SEND_DATA, out);
                return Some(Step::Data);
            }
        };
        self.refused(refusal, out)
    }

    /// What became of the message: the one reply to its final dot or last chunk. Whatever it is,
    /// the transaction is over.
    pub fn message_done(&mut self, reply: Reply, out: &mut Vec<u8>) {
        self.transaction = None;
        if reply.code == 421 {
            self.close(reply, out);
        } else if reply.is_error() {
            self.refuse(reply, out);
        } else {
            self.counts.idle_commands = 0;
            self.say(&reply, out);
        }
    }
}

//! AUTH (RFC 4954).

use super::{Server, Step};
use crate::extension::Extension;
use crate::replies::{self, Reply};
use crate::sasl::{self, Offer, Proven};
use crate::scram::Verifier;

impl Server {
    pub(super) fn offer(&self) -> Offer {
        Offer {
            scram: self.has(Extension::Scram),
            exporter: self.exporter,
        }
    }

    pub(super) fn auth(
        &mut self,
        mechanism: &str,
        initial: Option<&str>,
        out: &mut Vec<u8>,
    ) -> Option<Step> {
        let refusal = if !self.options.submission || !self.has(Extension::Auth) {
            replies::AUTH_NOT_HERE
        } else if !self.tls {
            replies::AUTH_NEEDS_TLS
        } else if self.hello.is_none() {
            replies::HELLO_FIRST
        } else if self.user.is_some() {
            replies::ALREADY_AUTHENTICATED
        } else if self.transaction.is_some() {
            replies::AUTH_IN_TRANSACTION
        } else {
            return self.sasl(sasl::begin(mechanism, initial, &self.offer()), out);
        };
        self.refused(refusal, out)
    }

    pub(super) fn sasl(&mut self, progress: sasl::Progress, out: &mut Vec<u8>) -> Option<Step> {
        match progress {
            sasl::Progress::Challenge(exchange, reply) => {
                self.exchange = Some(exchange);
                self.say(&reply, out);
                None
            }
            sasl::Progress::Verify(credentials) => Some(Step::Authenticate(credentials)),
            sasl::Progress::Lookup(first) => {
                let user = first.user.clone();
                self.first = Some(first);
                Some(Step::Verifier(user))
            }
            sasl::Progress::Proved { user, proof } => Some(Step::Proved { user, proof }),
            sasl::Progress::GivenUp { user, reply } => {
                self.given_up = Some(reply);
                let proof = Proven::Nothing;
                Some(Step::Proved { user, proof })
            }
            sasl::Progress::Refused(reply) => self.refused(reply, out),
        }
    }

    /// The answer to [`Step::Verifier`]: the verifier and a random, printable nonce.
    pub fn verifier(&mut self, found: Result<(Verifier, String), Reply>, out: &mut Vec<u8>) {
        let Some(first) = self.first.take() else {
            return;
        };
        match found {
            Ok((verifier, nonce)) => {
                let _ = self.sasl(sasl::challenge(*first, verifier, &nonce), out);
            }
            Err(reply) => self.login_refused(reply, out),
        }
    }

    /// The outcome of [`Step::Authenticate`] or [`Step::Proved`]: the user's address, or the reply
    /// that refuses.
    pub fn authenticated(&mut self, outcome: Result<String, Reply>, out: &mut Vec<u8>) {
        match (self.given_up.take(), outcome) {
            (Some(reply), _) => self.login_refused(reply, out),
            (None, Ok(user)) => {
                self.user = Some(user);
                self.say(&replies::AUTHENTICATED, out);
            }
            (None, Err(reply)) => self.login_refused(reply, out),
        }
    }

    /// Whose salt the client has got, if it has proved nothing since; asked at the end of a
    /// connection.
    pub fn left_open(&self) -> Option<&str> {
        self.exchange.as_ref().and_then(sasl::Exchange::asked_about)
    }

    fn login_refused(&mut self, reply: Reply, out: &mut Vec<u8>) {
        self.counts.failed_logins += 1;
        if self.counts.failed_logins > self.options.limits.auth_attempts {
            self.close(replies::TOO_MANY_LOGINS, out);
        } else {
            self.refuse(reply, out);
        }
    }
}

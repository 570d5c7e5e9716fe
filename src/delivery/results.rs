//! What a session, or the try to open one, means for a report to the domain (RFC 8460).

use std::net::IpAddr;

use super::connection::Common;
use super::promise::{Promise, Proof};
use super::reach::Target;
use super::session::{Failure, Security, Session, Unopened};
use super::tally::Tally;
use super::tally::{self, Under};
use super::verdict::Verdict;
use crate::tls::client::Problem;
use crate::tls::sts::{Mode, Policy};

/// Counts for one host.
pub(super) struct Results<'a> {
    pub(super) common: &'a Common,
    pub(super) target: &'a Target,
    pub(super) promise: &'a Promise,
}

impl Results<'_> {
    /// The host may not have the mail, as planned.
    pub(super) fn refused(&self, verdict: &Verdict) {
        let mismatch = self
            .promise
            .enforced()
            .filter(|p| !p.allows(&self.target.host));
        let (under, kind) = match mismatch {
            Some(policy) => (sts(policy), "validation-failure"),
            None => (tlsa(&[]), "dnssec-invalid"),
        };
        let problem = Problem::new(kind, verdict.reply.text.clone());
        self.count(under, Some(problem), None);
    }

    /// There is a session. `broken`: the handshake failed, so it is in clear.
    pub(super) fn opened(&self, security: &Security, session: &Session, broken: Option<String>) {
        let host = &self.target.host;
        let unnamed = self
            .promise
            .tested()
            .is_some_and(|policy| !policy.allows(host));
        let problem = match (session.proof, broken) {
            (_, Some(text)) => Some(Problem::new("validation-failure", text)),
            (Proof::Clear, None) => {
                let text = "the server offers no STARTTLS";
                Some(Problem::new("starttls-not-supported", text))
            }
            _ if unnamed => {
                let text = "the host is not among those of the policy";
                Some(Problem::new("validation-failure", text))
            }
            _ => session.flaw.clone(),
        };
        self.count(self.under(security), problem, session.local);
    }

    /// There is none. What is not about TLS is not reported.
    pub(super) fn unopened(&self, security: &Security, unopened: &Unopened, reason: &str) {
        let problem = match &unopened.failure {
            Failure::Untrusted(problem) => problem.clone(),
            Failure::Handshake => Problem::new("validation-failure", reason),
            Failure::Other => return,
        };
        self.count(self.under(security), Some(problem), unopened.local);
    }

    fn under(&self, security: &Security) -> Under {
        if !security.tlsa.is_empty() {
            return tlsa(&security.tlsa);
        }
        let policy = self.promise.sts.as_deref();
        match policy.filter(|policy| policy.mode != Mode::None) {
            Some(policy) => sts(policy),
            None => Under {
                kind: "no-policy-found".to_owned(),
                strings: Vec::new(),
                mx: Vec::new(),
            },
        }
    }

    /// `local`: the address that was tried from.
    fn count(&self, under: Under, problem: Option<Problem>, local: Option<IpAddr>) {
        let Some(tally) = self.common.tally.get() else {
            return;
        };
        // What the operator decided, or a route, is no business of the domain.
        if self.target.hop.is_some() || self.promise.rule.is_some() {
            return;
        }
        let failure = |problem: Problem| tally::Failure {
            result: problem.kind.to_owned(),
            host: self.target.host.clone(),
            address: self.target.address.ip().to_string(),
            local: local.map(|local| local.to_string()).unwrap_or_default(),
            reason: problem.text,
        };
        let send = |under: Under, failure: Option<tally::Failure>| {
            // A report that counts too little is better than mail that waits for it.
            let _ = tally.try_send(Tally {
                domain: self.promise.domain.clone(),
                under,
                failure,
            });
        };
        if let (Some(error), None) = (&self.promise.problem, &self.promise.sts) {
            let under = Under {
                kind: "sts".to_owned(),
                strings: Vec::new(),
                mx: Vec::new(),
            };
            let problem = Problem::new(error.result_type(), error.to_string());
            let failure = tally::Failure {
                address: String::new(),
                local: String::new(),
                ..failure(problem)
            };
            send(under, Some(failure));
        }
        send(under, problem.map(failure));
    }
}

fn tlsa(records: &[String]) -> Under {
    Under {
        kind: "tlsa".to_owned(),
        strings: records.to_vec(),
        mx: Vec::new(),
    }
}

fn sts(policy: &Policy) -> Under {
    Under {
        kind: "sts".to_owned(),
        strings: policy.lines(),
        mx: policy.mx.clone(),
    }
}

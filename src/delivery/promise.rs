//! What is to hold for the connections that carry mail of one domain.
//!
//! A destination is shared by all domains with the same MX hosts, but each domain makes its own
//! promise about TLS: by configuration (`tls.domains`), by DNSSEC and TLSA records (DANE, RFC 7672),
//! or by an MTA-STS policy (RFC 8461), in this order. Pure.

use std::sync::Arc;

use super::verdict::Verdict;
use crate::config::{TlsRule, TlsRules};
use crate::tls::sts::{FetchError, Mode, Policy};

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Promise {
    /// The domain of the recipients; empty for what a route without a rule leads to.
    pub(super) domain: String,
    /// The operator's rule, which replaces all below.
    pub(super) rule: Option<TlsRule>,
    /// That is the rule of the route, and not one of `tls.domains`.
    pub(super) of_route: bool,
    /// Whether DNSSEC proves the MX records, so that TLSA records of the hosts count.
    pub(super) dnssec: bool,
    /// The MTA-STS policy that holds.
    pub(super) sts: Option<Arc<Policy>>,
    /// Why a newer policy could not be had.
    pub(super) problem: Option<FetchError>,
}

impl Promise {
    /// What holds for a domain whose way the configuration names. Its own `tls`, or what
    /// `tls.domains` says: what the domain publishes is about its MX hosts, which get nothing.
    pub(super) fn of_route(domain: &str, tls: Option<TlsRule>, rules: &TlsRules) -> Promise {
        let Some(rule) = tls.or_else(|| rules.find(domain)) else {
            return Promise::default();
        };
        Promise {
            domain: domain.to_owned(),
            rule: Some(rule),
            of_route: tls.is_some(),
            // No MX record leads there that anyone could have forged.
            dnssec: true,
            ..Promise::default()
        }
    }

    /// The policy that is to be obeyed.
    pub(super) fn enforced(&self) -> Option<&Policy> {
        let enforced = |policy: &&Policy| policy.mode == Mode::Enforce && self.rule.is_none();
        self.sts.as_deref().filter(enforced)
    }

    /// The policy whose failures are to be reported, while mail goes all the same.
    pub(super) fn tested(&self) -> Option<&Policy> {
        let tested = |policy: &&Policy| policy.mode == Mode::Testing && self.rule.is_none();
        self.sts.as_deref().filter(tested)
    }

    /// Whether mail under the one may share a transaction with mail under the other.
    pub(super) fn is_like(&self, other: &Promise) -> bool {
        (self.rule, self.of_route, self.dnssec, &self.sts)
            == (other.rule, other.of_route, other.dnssec, &other.sts)
    }

    /// Whether the domain may demand something that a sender can waive.
    pub(super) fn may_demand(&self) -> bool {
        self.rule.is_none() && (self.dnssec || self.enforced().is_some())
    }

    /// The same for mail whose sender wants it delivered whatever the domain demands.
    pub(super) fn waived(&self) -> Promise {
        Promise {
            domain: self.domain.clone(),
            rule: Some(TlsRule::May),
            ..Promise::default()
        }
    }

    /// Whether the names of the mail hosts are beyond doubt (RFC 8689 section 4.2.1).
    pub(super) fn proves_hosts(&self) -> bool {
        self.dnssec || self.enforced().is_some()
    }
}

/// What a session proved about the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Proof {
    /// In clear.
    Clear,
    /// TLS, whoever is at the other end.
    Unverified,
    /// A certificate that is valid for its name.
    Pkix,
    /// The same, because an MTA-STS policy wants it.
    Sts,
    /// A certificate that TLSA records name.
    Dane,
}

impl Proof {
    /// As it stands behind version and cipher in the log and in the queue.
    pub(super) fn name(self) -> &'static str {
        match self {
            Proof::Clear => "clear",
            Proof::Unverified => "unverified",
            Proof::Pkix => "pkix",
            Proof::Sts => "mta-sts",
            Proof::Dane => "dane",
        }
    }

    pub(super) fn is_verified(self) -> bool {
        self >= Proof::Pkix
    }
}

/// Under which promise a session was opened, and what it proved.
#[derive(Debug, Clone)]
pub(super) struct Terms {
    /// The host, for policies that name hosts.
    pub(super) host: String,
    pub(super) rule: Option<TlsRule>,
    /// Whether TLSA records of the host were looked for, and obeyed if there are any.
    pub(super) dane: bool,
    pub(super) proof: Proof,
}

impl Terms {
    /// Whether mail under this promise may go over that session.
    pub(super) fn keep(&self, promise: &Promise) -> bool {
        if self.rule != promise.rule {
            return false;
        }
        match promise.rule {
            // Whose MX records anyone could have forged has no part in what a host proved.
            Some(TlsRule::Dane) => return promise.dnssec && self.proof == Proof::Dane,
            Some(_) => return true,
            None => {}
        }
        if promise.dnssec && !self.dane {
            return false;
        }
        match promise.enforced() {
            // TLSA records go before the policy (RFC 8461 section 2).
            _ if self.proof == Proof::Dane && promise.dnssec => true,
            Some(policy) => self.proof.is_verified() && policy.allows(&self.host),
            None => true,
        }
    }
}

/// Whether a header says `TLS-Required: No`: the mail matters more than the TLS policy of its
/// domain (RFC 8689 section 5), as a report that this policy fails does (RFC 8460 section 3).
pub(super) fn waives(head: &[u8]) -> bool {
    const NAME: &[u8] = b"tls-required:";
    let value = |line: &'_ [u8]| -> Option<bool> {
        let (start, value) = line.split_at_checked(NAME.len())?;
        let no = value.trim_ascii().eq_ignore_ascii_case(b"no");
        start.eq_ignore_ascii_case(NAME).then_some(no)
    };
    // Said twice it is not to be understood.
    let mut found = head.split(|byte| *byte == b'\n').filter_map(value);
    matches!((found.next(), found.next()), (Some(true), None))
}

/// None of the hosts may get the mail: the policy names others.
pub(super) fn not_named(host: &str, domain: &str) -> Verdict {
    let text =
        format!("{host} is not among the hosts of the MTA-STS policy of {domain}: mx mismatch");
    Verdict::deferred(451, "4.7.5", &text)
}

/// Where the operator's rule stands.
pub(super) fn said_by(promise: &Promise, rule: TlsRule) -> String {
    let (rule, domain) = (rule.name(), &promise.domain);
    match promise.of_route {
        true => format!("tls of the route says {rule} for {domain}"),
        false => format!("tls.domains says {rule} for {domain}"),
    }
}

/// Who demands what a host did not do, for people.
pub(super) fn demanded_by(promise: &Promise, dane: bool) -> String {
    let domain = &promise.domain;
    match promise.rule {
        Some(rule) => said_by(promise, rule),
        None if dane => "its TLSA records (DANE) demand it".to_owned(),
        None => format!("the MTA-STS policy of {domain} demands it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sts(mode: Mode, mx: &str) -> Promise {
        let policy = Policy {
            mode,
            mx: vec![mx.to_owned()],
            max_age: 1,
        };
        Promise {
            domain: "example.com".to_owned(),
            sts: Some(Arc::new(policy)),
            ..Promise::default()
        }
    }

    fn terms(proof: Proof, dane: bool) -> Terms {
        Terms {
            host: "mx.example.com".to_owned(),
            rule: None,
            dane,
            proof,
        }
    }

    #[test]
    fn a_sender_may_waive_what_the_domain_demands() {
        for (head, waived) in [
            ("TLS-Required: No\r\n\r\n", true),
            ("From: a@b.example\r\ntls-required:no\r\n\r\n", true),
            ("TLS-Required: Yes\r\n\r\n", false),
            ("TLS-Required: No, really\r\n\r\n", false),
            ("TLS-Required: No\r\nTLS-Required: No\r\n\r\n", false),
            (
                "X-TLS-Required: No\r\nSubject: x\r\n TLS-Required: No\r\n\r\n",
                false,
            ),
            ("", false),
        ] {
            assert_eq!(waives(head.as_bytes()), waived, "{head}");
        }
        let enforced = sts(Mode::Enforce, "mx.example.com");
        assert!(enforced.may_demand());
        let waived = enforced.waived();
        assert!(!waived.may_demand() && waived.enforced().is_none());
        assert_eq!(waived.domain, "example.com");
        // An operator's rule is not the domain's.
        let ruled = Promise {
            rule: Some(TlsRule::Verify),
            ..enforced
        };
        assert!(!ruled.may_demand());
    }

    #[test]
    fn which_session_may_carry_what() {
        let none = Promise::default();
        let enforced = sts(Mode::Enforce, "*.example.com");
        let elsewhere = sts(Mode::Enforce, "*.example.net");
        let testing = sts(Mode::Testing, "*.example.net");
        let secure = Promise {
            dnssec: true,
            ..Promise::default()
        };
        let both = Promise {
            dnssec: true,
            ..sts(Mode::Enforce, "*.example.net")
        };
        let ruled = Promise {
            rule: Some(TlsRule::May),
            ..sts(Mode::Enforce, "*.example.net")
        };
        use Proof::{Clear, Dane, Pkix, Sts, Unverified};
        for (promise, proof, dane, kept) in [
            (&none, Clear, false, true),
            (&none, Dane, true, true),
            (&enforced, Clear, false, false),
            (&enforced, Unverified, true, false),
            (&enforced, Pkix, false, true),
            (&enforced, Sts, false, true),
            (&elsewhere, Sts, false, false),
            (&testing, Clear, false, true),
            (&secure, Sts, false, false),
            (&secure, Unverified, true, true),
            (&secure, Dane, true, true),
            (&both, Dane, true, true),
            (&both, Sts, true, false),
            (&ruled, Dane, true, false),
        ] {
            let terms = terms(proof, dane);
            assert_eq!(terms.keep(promise), kept, "{promise:?} {terms:?}");
        }
        let own = Terms {
            rule: Some(TlsRule::May),
            ..terms(Clear, false)
        };
        assert!(own.keep(&ruled));
        assert!(
            !own.keep(&none),
            "it may be in clear though TLS is to be had"
        );
    }
}

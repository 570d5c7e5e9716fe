//! How a host is to be spoken to: what the message, its domain and the way there demand.

use super::connection::Common;
use super::promise::{self, Promise, Proof};
use super::reach::Target;
use super::session::Security;
use super::verdict::Verdict;
use crate::config::routes::Protocol;
use tokio_rustls::TlsConnector;

use crate::config::{Config, TlsRule};
use crate::dns::TlsaRecord as Record;
use crate::dns::{Resolver, Tlsa};
use crate::tls::client::{self, Judge};
use crate::tls::dane;

/// Who demands TLS without proof where neither rule nor domain does.
pub(super) const BY_PROVIDER: &str =
    "its provider takes mail over TLS only (require_tls in providers.toml)";

/// What a plan is made with.
#[derive(Clone, Copy)]
pub(super) struct Means<'a> {
    pub(super) config: &'a Config,
    pub(super) resolver: &'a Resolver,
    /// TLS that asks for no proof.
    pub(super) tls: Option<&'a TlsConnector>,
    /// TLS that does; `None` where this machine trusts no certificate.
    pub(super) verified: Option<&'a TlsConnector>,
    /// Judges certificates that nobody demands to be good.
    pub(super) judge: Option<&'a Judge>,
}

impl<'a> From<&'a Common> for Means<'a> {
    fn from(common: &'a Common) -> Self {
        Means {
            config: &common.config,
            resolver: &common.resolver,
            tls: common.tls.as_ref(),
            verified: common.verified.as_ref(),
            judge: common.judge.as_ref(),
        }
    }
}

/// Decides for one host; an error is why it may not have this mail.
pub(super) async fn plan(
    means: Means<'_>,
    target: &Target,
    strict: bool,
    promise: &Promise,
    may_use_tls: bool,
) -> Result<Security, Verdict> {
    let hop = target.hop.as_ref();
    // A password, and a door that is TLS from the first byte, are for who proves to be it.
    let proof = hop.is_some_and(|hop| hop.user.is_some() || hop.protocol == Protocol::Smtps);
    // What goes through a socket of this machine is on no wire.
    let rule = promise.rule.filter(|_| target.socket().is_none());
    if rule == Some(TlsRule::Never) && !strict && !proof {
        return Ok(Security::clear());
    }
    let mut demand = match rule {
        None if target.encrypt => Proof::Unverified,
        Some(TlsRule::Never | TlsRule::May) | None => Proof::Clear,
        Some(TlsRule::Encrypt) => Proof::Unverified,
        Some(TlsRule::Verify | TlsRule::Dane) => Proof::Pkix,
    };
    let tlsa = match hop {
        // Hosts that the configuration names are asked for TLSA records if it says so.
        Some(_) if rule != Some(TlsRule::Dane) => None,
        None | Some(_) => tlsa(means, target, promise).await?,
    };
    let mut texts = Vec::new();
    if let Some((base, all)) = tlsa {
        let records = dane::usable(&all);
        if !records.is_empty() {
            return named(means, target, strict, promise, base, records);
        }
        if rule == Some(TlsRule::Dane) {
            return Err(no_dane(
                target,
                promise,
                "none of its TLSA records can be used",
            ));
        }
        texts = all.iter().map(Record::text).collect();
        // Nobody can be authenticated, but whoever publishes them has TLS (RFC 7672 section 2.2).
        tracing::debug!(host = target.host, "no TLSA record can be used");
        demand = demand.max(Proof::Unverified);
    }
    // TLSA records that can be used go before a policy (RFC 8461 section 2).
    if let Some(policy) = promise.enforced() {
        if !policy.allows(&target.host) {
            return Err(promise::not_named(&target.host, &promise.domain));
        }
        demand = Proof::Sts;
    }
    let need = match strict || proof {
        true => demand.max(Proof::Pkix),
        false => demand,
    };
    let connector = if need.is_verified() {
        let Some(connector) = means.verified else {
            let who = match (strict, proof) {
                (true, _) => "the sender (REQUIRETLS)".to_owned(),
                (false, true) => "the route".to_owned(),
                (false, false) => format!("{}'s rule or policy", promise.domain),
            };
            return Err(no_roots(&who));
        };
        Some(connector.clone())
    } else {
        let wanted = need > Proof::Clear || may_use_tls;
        means
            .tls
            .cloned()
            .filter(|_| wanted && target.socket().is_none())
    };
    let why = match need == Proof::Unverified && promise.rule.is_none() {
        true if texts.is_empty() => BY_PROVIDER.to_owned(),
        dane => promise::demanded_by(promise, dane),
    };
    Ok(Security {
        connector,
        need,
        strict,
        name: None,
        tlsa: texts,
        // A policy that is tested demands nothing, but is to be told what would have failed.
        judge: promise.tested().and(means.judge).cloned(),
        why,
    })
}

/// What is demanded, equal for equal demands; none if nothing.
pub(super) fn demand(security: &Security) -> Option<String> {
    let Security {
        need,
        strict,
        name,
        tlsa,
        ..
    } = security;
    (!security.is_optional()).then(|| format!("{need:?} {strict} {name:?} {tlsa:?}"))
}

/// The TLSA records of a host, where they count, with their base domain.
async fn tlsa(
    means: Means<'_>,
    target: &Target,
    promise: &Promise,
) -> Result<Option<(String, Vec<Record>)>, Verdict> {
    let only = promise.rule == Some(TlsRule::Dane);
    let host = &target.host;
    let wanted = only || (promise.rule.is_none() && means.config.tls.dane);
    let defer = |text: String| Verdict::deferred(451, "4.7.5", &text);
    if !wanted {
        return Ok(None);
    }
    let none = |why: &str| match only {
        true => Err(no_dane(target, promise, why)),
        false => Ok(None),
    };
    if !promise.dnssec {
        return none("the MX records are not proven by DNSSEC");
    }
    match means.resolver.tlsa(host, target.address.port()).await {
        Tlsa::Found { base, records } => Ok(Some((base, records))),
        Tlsa::None(why) => none(why),
        // Who could make the question fail could otherwise turn TLS off (RFC 7672 section 2.1).
        Tlsa::Failed(reason) => Err(defer(format!(
            "{host}: whether it has TLSA records (DANE) can not be found out: {reason}"
        ))),
    }
}

/// The operator wants DANE for a domain that has none.
fn no_dane(target: &Target, promise: &Promise, why: &str) -> Verdict {
    let (host, who) = (&target.host, promise::said_by(promise, TlsRule::Dane));
    let text = format!("{host}: no DANE, {why}; {who}");
    Verdict::deferred(451, "4.7.5", &text)
}

/// TLS that records prove.
fn named(
    means: Means<'_>,
    target: &Target,
    strict: bool,
    promise: &Promise,
    base: String,
    records: Vec<Record>,
) -> Result<Security, Verdict> {
    // RFC 7672 section 3.2.2: the host, and the domain that it stands for; the host of a route
    // stands for itself.
    let names = [base.as_str(), promise.domain.as_str()];
    let names = match &target.hop {
        None => names.as_slice(),
        Some(_) => names.get(..1).unwrap_or_default(),
    };
    let tlsa = records.iter().map(Record::text).collect();
    let connector = client::dane(means.config.tls.min_version, records, names);
    let connector = connector.map_err(|error| {
        Verdict::deferred(451, "4.3.5", &format!("TLS can not be set up: {error}"))
    })?;
    Ok(Security {
        connector: Some(connector),
        need: Proof::Dane,
        strict,
        name: Some(base),
        tlsa,
        judge: None,
        why: promise::demanded_by(promise, true),
    })
}

fn no_roots(who: &str) -> Verdict {
    let text = format!(
        "verified TLS is required by {who}, and this machine trusts no certificate; install \
         ca-certificates"
    );
    Verdict::deferred(451, "4.7.30", &text)
}

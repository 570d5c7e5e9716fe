//! How a host is to be spoken to: what the message, its domain and the way there demand.

use super::connection::Common;
use super::promise::{self, Promise, Proof};
use super::reach::Target;
use super::routes::Protocol;
use super::session::Security;
use super::verdict::Verdict;
use crate::config::TlsRule;
use crate::dns::Tlsa;
use crate::tls::client;
use crate::tls::dane::{self, Record};

/// Decides for one host; an error is why it may not have this mail.
pub(super) async fn plan(
    common: &Common,
    target: &Target,
    strict: bool,
    promise: &Promise,
    may_use_tls: bool,
) -> Result<Security, Verdict> {
    let hop = target.hop.as_ref();
    if promise.rule == Some(TlsRule::Never) && !strict {
        return Ok(Security::clear());
    }
    let mut demand = match promise.rule {
        Some(TlsRule::Never | TlsRule::May) | None => Proof::Clear,
        Some(TlsRule::Encrypt) => Proof::Unverified,
        Some(TlsRule::Verify | TlsRule::Dane) => Proof::Pkix,
    };
    let tlsa = match hop {
        None => tlsa(common, target, promise).await?,
        Some(_) => None,
    };
    if let Some((base, records)) = tlsa {
        let records = dane::usable(&records);
        if !records.is_empty() {
            return named(common, strict, promise, base, records);
        }
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
    // A password, and a door that is TLS from the first byte, are for who proves to be it.
    let proof = hop.is_some_and(|hop| hop.user.is_some() || hop.protocol == Protocol::Smtps);
    let need = match strict || proof {
        true => demand.max(Proof::Pkix),
        false => demand,
    };
    let connector = if need.is_verified() {
        let Some(connector) = &common.verified else {
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
        common
            .tls
            .clone()
            .filter(|_| wanted && target.socket().is_none())
    };
    Ok(Security {
        connector,
        need,
        strict,
        name: None,
        why: promise::demanded_by(promise, need == Proof::Unverified && promise.rule.is_none()),
    })
}

/// The TLSA records of a host, where they count, with their base domain.
async fn tlsa(
    common: &Common,
    target: &Target,
    promise: &Promise,
) -> Result<Option<(String, Vec<Record>)>, Verdict> {
    let only = promise.rule == Some(TlsRule::Dane);
    let host = &target.host;
    let wanted = only || (promise.rule.is_none() && common.config.tls.dane);
    let defer = |text: String| Verdict::deferred(451, "4.7.5", &text);
    if !wanted {
        return Ok(None);
    }
    let none = |why: &str| match only {
        true => Err(defer(format!(
            "{host}: no DANE, {why}; tls.domains says dane for {}",
            promise.domain
        ))),
        false => Ok(None),
    };
    if !promise.dnssec {
        return none("the MX records are not proven by DNSSEC");
    }
    match common.resolver.tlsa(host, target.address.port()).await {
        Tlsa::Found { base, records } => Ok(Some((base, records))),
        Tlsa::None(why) => none(why),
        // Who could make the question fail could otherwise turn TLS off (RFC 7672 section 2.1).
        Tlsa::Failed(reason) => Err(defer(format!(
            "{host}: whether it has TLSA records (DANE) can not be found out: {reason}"
        ))),
    }
}

/// TLS that records prove.
fn named(
    common: &Common,
    strict: bool,
    promise: &Promise,
    base: String,
    records: Vec<Record>,
) -> Result<Security, Verdict> {
    // RFC 7672 section 3.2.2: the host, and the domain that it stands for.
    let names = [base.as_str(), promise.domain.as_str()];
    let connector = client::dane(common.config.tls.min_version, records, &names);
    let connector = connector.map_err(|error| {
        Verdict::deferred(451, "4.3.5", &format!("TLS can not be set up: {error}"))
    })?;
    Ok(Security {
        connector: Some(connector),
        need: Proof::Dane,
        strict,
        name: Some(base),
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

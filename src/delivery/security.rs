//! How a host is to be spoken to: what the message, its domain and the way there demand.

use super::connection::Common;
use super::promise::{self, Promise, Proof};
use super::reach::Target;
use super::routes::Protocol;
use super::session::Security;
use super::verdict::Verdict;
use crate::config::TlsRule;

/// Decides for one host; an error is why it may not have this mail.
pub(super) fn plan(
    common: &Common,
    target: &Target,
    strict: bool,
    promise: &Promise,
    may_use_tls: bool,
) -> Result<Security, Verdict> {
    let hop = target.hop.as_ref();
    // A password, and a door that is TLS from the first byte, are for who proves to be it.
    let proof = hop.is_some_and(|hop| hop.user.is_some() || hop.protocol == Protocol::Smtps);
    let demand = match promise.rule {
        Some(TlsRule::Never) if !strict => return Ok(Security::clear()),
        Some(TlsRule::Never | TlsRule::May) | None => None,
        Some(TlsRule::Encrypt) => Some(Proof::Unverified),
        Some(TlsRule::Verify | TlsRule::Dane) => Some(Proof::Pkix),
    };
    let demand = match promise.enforced() {
        Some(policy) if !policy.allows(&target.host) => {
            return Err(promise::not_named(&target.host, &promise.domain));
        }
        Some(_) => Some(Proof::Sts),
        None => demand,
    };
    let need = match (strict || proof, demand) {
        (true, demand) => demand.unwrap_or(Proof::Pkix).max(Proof::Pkix),
        (false, demand) => demand.unwrap_or(Proof::Clear),
    };
    let connector = if need.is_verified() {
        let Some(connector) = &common.verified else {
            let who = match (strict, proof) {
                (true, _) => "the sender (REQUIRETLS)".to_owned(),
                (false, true) => "the route".to_owned(),
                (false, false) => promise::demanded_by(promise, false),
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
    })
}

fn no_roots(who: &str) -> Verdict {
    let text = format!(
        "verified TLS is required by {who}, and this machine trusts no certificate; install \
         ca-certificates"
    );
    Verdict::deferred(451, "4.7.30", &text)
}

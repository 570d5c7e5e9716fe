//! What the DNS says about mail from outside.

use std::net::IpAddr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::RData;
use mail_auth::spf::verify::SpfParameters;
use mail_auth::{MessageAuthenticator, SpfResult};

use crate::smtp::address::{self, Address};

/// How long the DNS may take for one message; RFC 7208 section 4.6.4 asks for at least 20 s.
pub const MAX_TIME: Duration = Duration::from_secs(20);

/// How long the DNS may take to name a client: it is for readers of the trace only.
pub const MAX_NAME_TIME: Duration = Duration::from_secs(5);
/// Names of one address that are looked at.
const MAX_NAMES: usize = 3;

/// The name of `client` that leads back to it (RFC 8601 section 2.7.3, iprev), in lower case.
pub async fn host_name(resolver: &TokioResolver, client: IpAddr) -> Option<String> {
    let search = async {
        let found = resolver.reverse_lookup(client).await.ok()?;
        let names = found
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                RData::PTR(name) => Some(name.0.to_utf8()),
                _ => None,
            });
        for name in names.take(MAX_NAMES) {
            let plain = name.trim_end_matches('.').to_ascii_lowercase();
            if !address::valid_domain(plain.as_bytes()) {
                continue;
            }
            let Ok(addresses) = resolver.lookup_ip(name).await else {
                continue;
            };
            if addresses.iter().any(|address| address == client) {
                return Some(plain);
            }
        }
        None
    };
    tokio::time::timeout(MAX_NAME_TIME, search).await.ok()?
}

/// Whether SPF passes for the reverse-path (RFC 7208). Anything else, trouble included, means that
/// a bounce might go to somebody who sent nothing (I11).
pub async fn spf_passes(
    resolver: &TokioResolver,
    client: IpAddr,
    hello: &str,
    hostname: &str,
    from: &Address,
) -> bool {
    let authenticator = MessageAuthenticator(resolver.clone());
    let question =
        SpfParameters::verify_mail_from(client.to_canonical(), hello, hostname, from.as_str());
    match tokio::time::timeout(MAX_TIME, authenticator.verify_spf(question)).await {
        Ok(output) => output.result() == SpfResult::Pass,
        Err(_) => false,
    }
}

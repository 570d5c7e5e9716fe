//! What the DNS says about mail from outside.

use std::net::IpAddr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use mail_auth::spf::verify::SpfParameters;
use mail_auth::{MessageAuthenticator, SpfResult};

use crate::smtp::address::Address;

/// How long the DNS may take for one message; RFC 7208 section 4.6.4 asks for at least 20 s.
pub const MAX_TIME: Duration = Duration::from_secs(20);

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

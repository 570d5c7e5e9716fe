//! What is answered to a request: host and path in, status and text out. Pure.

use crate::config::{Config, MtaSts};
use crate::identity::{Identity, Mode};

/// A page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// HTTP status.
    pub status: u16,
    /// Content-Type.
    pub kind: &'static str,
    /// The body.
    pub text: String,
}

impl Page {
    fn text(text: String) -> Page {
        Page {
            status: 200,
            kind: "text/plain; charset=utf-8",
            text,
        }
    }

    /// Where nothing is.
    pub fn nothing(status: u16, why: &str) -> Page {
        Page {
            status,
            ..Page::text(format!("{why}\n"))
        }
    }
}

/// The token in the path of a question of the CA (RFC 8555 section 8.3).
pub fn token(path: &str) -> Option<&str> {
    path.strip_prefix("/.well-known/acme-challenge/")
}

/// What `path` is at `host`, over https.
pub fn secure(config: &Config, identity: &Identity, host: &str, path: &str) -> Page {
    let host = host.to_ascii_lowercase();
    if path == "/.well-known/mta-sts.txt"
        && let Some(domain) = host.strip_prefix("mta-sts.")
        && let Some(policy) = policy(config, identity, domain)
    {
        return Page::text(policy);
    }
    Page::nothing(404, "There is nothing here: this host is for mail.")
}

/// The MTA-STS policy of `domain` (RFC 8461 section 3.2): this host takes its mail. `None` where
/// no policy is wanted or mail to it does not come here.
pub fn policy(config: &Config, identity: &Identity, domain: &str) -> Option<String> {
    let ours = identity.domain(domain)?;
    if config.web.mta_sts == MtaSts::None || ours.mode == Mode::SendOnly {
        return None;
    }
    Some(format!(
        "version: STSv1\r\nmode: {}\r\nmx: {}\r\nmax_age: {}\r\n",
        config.web.mta_sts.name(),
        config.hostname,
        config.web.mta_sts_age.0.as_secs()
    ))
}

/// The id that changes whenever the policy does (RFC 8461 section 3.1).
pub fn policy_id(policy: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, policy.as_bytes());
    let short = digest.as_ref().iter().take(8);
    short.map(|byte| format!("{byte:02x}")).collect()
}

//! What TLS reports tell of one session with a host (RFC 8460): delivery sends it to whoever counts.

use actix::Message;
use serde::{Deserialize, Serialize};

/// What became of a session with a host.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Tally {
    /// The domain of the recipients.
    pub domain: String,
    /// The policy that held.
    pub under: Under,
    /// `None`: TLS as the policy wants it.
    pub failure: Option<Failure>,
}

/// The policy under which a session was opened.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Under {
    /// tlsa, sts or no-policy-found.
    pub kind: String,
    /// TLSA records, or lines of an MTA-STS policy.
    pub strings: Vec<String>,
    /// Hosts that an MTA-STS policy names.
    pub mx: Vec<String>,
}

/// A failure (RFC 8460 section 4.3).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Failure {
    /// Its result type.
    pub result: String,
    /// The MX host.
    pub host: String,
    /// Its address; empty: none was reached.
    pub address: String,
    /// Ours; empty: no connection was made.
    #[serde(default)]
    pub local: String,
    /// In words.
    pub reason: String,
}

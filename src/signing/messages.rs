//! What the signer is asked.

use actix::Message as ActorMessage;
use bytes::Bytes;

use super::arc::ChainState;
use crate::message::Content;

/// Sign for `domain` with every key it has.
///
/// The answer is the DKIM-Signature header fields to put on top, each ended by CR LF; empty if the
/// domain has no key. On an error the message must not be sent unsigned: answer 451 or wait.
#[derive(ActorMessage)]
#[rtype(result = "Result<Bytes, SignError>")]
pub struct Sign {
    /// The domain of the From header (or of the DSN's), in lower case A-labels.
    pub domain: String,
    /// The message as it goes out, without the signature.
    pub content: Content,
}

/// Seal forwarded mail with the RSA key of `domain` (RFC 8617).
///
/// The answer is the three fields of our set, to put on top; empty if the domain has no RSA key, or
/// the chain must not grow.
#[derive(Debug, ActorMessage)]
#[rtype(result = "Result<Bytes, SignError>")]
pub struct Seal {
    /// Whose key, in lower case A-labels.
    pub domain: String,
    /// The message as it goes out, without the set.
    pub content: Content,
    /// The header block with the set whose place it takes. Unless that set was made with a key of
    /// `domain` the answer is empty: nobody gets words of his own sealed.
    pub replaces: Option<Bytes>,
    /// The state of the chain as it was found.
    pub state: ChainState,
    /// Our authserv-id and what was found out.
    pub results: String,
    /// Seconds since 1970.
    pub now: u64,
}

/// Signing failed although the domain has a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("message can not be signed for {domain}: {reason}")]
pub struct SignError {
    /// Whose key.
    pub domain: String,
    /// What went wrong and what to do.
    pub reason: String,
}

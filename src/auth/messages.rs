//! What the authenticator is asked and told, and what it says instead of an answer.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use actix::Message;

use super::bans::Ban;
use crate::config::Config;
use crate::identity::Identity;
use crate::smtp::sasl::{Credentials, Proven};
use crate::smtp::scram::Verifier;

/// Why nobody was authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Unknown user or wrong password.
    #[error("user name or password is wrong")]
    Wrong,
    /// The client guessed too often.
    #[error("the client's address is banned for now")]
    Banned,
    /// [`super::MAX_WAITING`] logins wait already, or `MAX_WAITING_OF_ONE` of this client.
    #[error("too many logins are waiting")]
    Busy,
}

/// Is this user who it claims to be? The answer is the user's address as we know it.
#[derive(Message)]
#[rtype(result = "Result<String, AuthError>")]
pub struct Authenticate {
    /// What the client sent.
    pub credentials: Credentials,
    /// Who guesses, if it does.
    pub client: IpAddr,
}

/// What SCRAM needs of this user, who need not exist, and a fresh nonce.
#[derive(Message)]
#[rtype(result = "Result<(Verifier, String), AuthError>")]
pub struct FindVerifier {
    /// As the client gave it.
    pub user: String,
    /// Who asks.
    pub client: IpAddr,
}

/// How a SCRAM exchange ended whose client has got a salt.
#[derive(Message)]
#[rtype(result = "Result<String, AuthError>")]
pub struct Proved {
    /// As the client gave it.
    pub user: String,
    /// What it proved.
    pub proof: Proven,
    /// Who guesses, if it does.
    pub client: IpAddr,
}

/// May this user send one more message to so many recipients? It is counted if it may; with 0
/// recipients the answer is only whether another message is allowed.
#[derive(Message)]
#[rtype(result = "bool")]
pub struct Spend {
    /// The user.
    pub user: String,
    /// Recipients of the message.
    pub recipients: usize,
}

/// Users or limits may have changed.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Reload(pub Arc<Config>, pub Arc<Identity>);

/// The bans as they are on disk now.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Bans(pub(super) Vec<Ban>);

/// A login failed: how long the reply waits.
#[derive(Message)]
#[rtype(result = "Duration")]
pub(super) struct Failed {
    pub(super) user: String,
    pub(super) client: IpAddr,
    pub(super) fingerprint: u64,
    pub(super) method: &'static str,
}

/// A login succeeded.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Succeeded {
    pub(super) user: String,
    pub(super) client: IpAddr,
    pub(super) method: &'static str,
}

//! What the dispatcher is told.

use std::sync::Arc;

use actix::{Message as ActorMessage, Recipient};

use super::DispatcherError;
use crate::config::Config;

/// Who keeps what rules did, beside the suspensions of operators. Until this comes nobody does.
#[derive(ActorMessage)]
#[rtype(result = "()")]
pub struct Keeper {
    /// Takes a new one.
    pub suspend: Recipient<crate::queue::Suspend>,
    /// Tells all of them.
    pub suspended: Recipient<crate::queue::Suspended>,
}

/// Start no new attempt, let those under way end, then answer: the daemon is stopping.
#[derive(ActorMessage)]
#[rtype(result = "()")]
pub struct Drain;

/// Use this configuration for every attempt that begins from now on. After an error the old one
/// stays in use. DNS servers are not changed by it.
#[derive(ActorMessage)]
#[rtype(result = "Result<(), DispatcherError>")]
pub struct Reload(pub Arc<Config>);

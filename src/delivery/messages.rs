//! What the dispatcher is told.

use std::collections::HashSet;
use std::sync::Arc;

use actix::{Message as ActorMessage, Recipient};

use super::DispatcherError;
use crate::config::Config;
use crate::queue::Job;

/// These jobs are due. The answer comes when the dispatcher has taken them over; every recipient
/// of each is reported to the queue with [`crate::queue::Record`], whatever happens.
#[derive(ActorMessage)]
#[rtype(result = "()")]
pub struct Wake(pub Vec<Job>);

/// An operator replays mail: destinations that pause may be tried at once.
#[derive(ActorMessage, Debug, Clone, Default)]
#[rtype(result = "()")]
pub struct Resume {
    /// Only those that serve one of these recipient domains or next hops, in lower case; `*`
    /// stands for anything. `None`: all.
    pub only: Option<HashSet<String>>,
}

/// Nothing is tried at the hosts these name. Replaces what was said before.
#[derive(ActorMessage)]
#[rtype(result = "()")]
pub struct Suspensions(pub Vec<crate::queue::suspend::Suspension>);

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

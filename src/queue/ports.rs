//! What the queue says to whoever delivers: it knows the messages and not who hears them.

use std::collections::HashSet;

use actix::Message as ActorMessage;

use super::Job;
use super::suspend::Suspension;

/// The remote of a reply that no other host gave: the recipient is on this machine.
pub const HERE: &str = "local";

/// These jobs are due. The answer comes when the dispatcher has taken them over; every recipient
/// of each is reported to the queue with [`crate::Record`], whatever happens.
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
pub struct Suspensions(pub Vec<Suspension>);

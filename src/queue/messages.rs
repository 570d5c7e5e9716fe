//! What the queue actor is told and asked: the only words other actors have for it.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use actix::{Message as ActorMessage, Recipient};
use queue_schema::{
    Envelope, Hold, HoldKind, Location, Message, Millis, Origin, QueueId, RecipientState, Reply,
    Suspended as Wait,
};

use super::clean;
use super::order::Order;
use super::store::StoreError;
use super::suspend::Suspension;
use super::{Facts, Leads};
use crate::Wake;
use crate::config::Config;
use crate::message::Content;

/// Make this message durable. Only its `Ok` becomes `250` (invariant I1).
#[derive(ActorMessage)]
#[rtype(result = "Result<QueueId, AcceptError>")]
pub struct Accept {
    /// The id its trace header already names, from [`super::IdSource`].
    pub id: QueueId,
    /// When the last byte of it came.
    pub arrived: Millis,
    /// How it came.
    pub origin: Origin,
    /// The envelope with aliases expanded; at least one recipient.
    pub envelope: Envelope,
    /// The bytes, as they go out.
    pub content: Content,
    /// Why it waits for a release; nothing if it does not.
    pub held: Vec<Held>,
}

/// Why a message is held from the moment it comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Whose decision it was.
    pub kind: HoldKind,
    /// Who: a filter, an operator, an order.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When it ends by itself.
    pub until: Option<Millis>,
}

impl Default for Held {
    fn default() -> Held {
        Held {
            kind: HoldKind::Operator,
            by: String::new(),
            reason: String::new(),
            until: None,
        }
    }
}

impl Held {
    /// A filter keeps it back. Both texts may come from outside.
    pub fn quarantine(by: &str, reason: &str) -> Held {
        Held {
            kind: HoldKind::Quarantine,
            by: clean(by, BY),
            reason: clean(reason, REASON),
            until: None,
        }
    }

    /// Whether one of the holds is this already.
    pub fn is_among(&self, holds: &[Hold]) -> bool {
        holds.iter().any(|hold| self.since(hold.since) == *hold)
    }

    /// The hold of a recipient.
    pub fn since(&self, since: Millis) -> Hold {
        Hold {
            kind: self.kind,
            by: self.by.clone(),
            reason: self.reason.clone(),
            since,
            until: self.until,
        }
    }
}

/// Bytes of the name of whoever holds a message.
pub const BY: usize = 100;
/// Bytes of a reason.
pub const REASON: usize = 300;

/// Why a message was not accepted; none of them is the sender's fault, so all are 4xx (I7).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AcceptError {
    /// Free space is below `limits.free_space`: 452 4.3.1.
    #[error("free space is below limits.free_space; free some on the file system of data_dir")]
    DiskFull,
    /// The store failed to write or sync and is read-only until a restart: 451 4.3.0.
    #[error("the queue could not be written: {0}")]
    Store(String),
    /// The daemon is stopping: 421 4.3.2.
    #[error("the daemon is stopping")]
    Draining,
}

/// One message to be attempted for some of its recipients.
#[derive(Debug, Clone)]
pub struct Job {
    /// Its envelope and states as they were when the job was made.
    pub message: Arc<Message>,
    /// Which of its recipients to try: positions in `envelope.recipients`.
    pub recipients: Vec<u32>,
    /// Its bytes when they are still in memory; otherwise [`Fetch`] them.
    pub content: Option<Content>,
}

/// Read the bytes of a message back from the store.
#[derive(ActorMessage)]
#[rtype(result = "Result<Content, FetchError>")]
pub struct Fetch {
    /// The message.
    pub id: QueueId,
    /// Where its bytes are.
    pub location: Location,
}

/// Why bytes could not be read: the record is damaged and was put aside, or reading failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("message {id} can not be read back: {reason}")]
pub struct FetchError {
    /// The message.
    pub id: QueueId,
    /// The bytes are gone or damaged and stay so; otherwise they may be read later.
    pub lost: bool,
    /// What is wrong with its record or file.
    pub reason: String,
}

/// What became of recipients of one job. A job's recipients may be told of in several of these;
/// each recipient of a job is told of exactly once.
///
/// The answer comes when the queue has taken it over, or when it is on disk where that is asked for;
/// it is false where it can not be put there. The queue forgets no recipient before its end is on
/// disk (I2).
#[derive(ActorMessage)]
#[rtype(result = "bool")]
pub struct Record {
    /// The job's message.
    pub message: Arc<Message>,
    /// One for each recipient that was tried.
    pub attempts: Vec<Attempt>,
    /// Whether the answer is to wait for the disk.
    pub synced: bool,
}

/// One recipient's part of a delivery attempt.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Position in `envelope.recipients`.
    pub recipient: u32,
    /// When the attempt ended.
    pub at: Millis,
    /// What became of it.
    pub outcome: Outcome,
    /// What was said, by the next hop or by ourselves.
    pub reply: Reply,
    /// For the log: protocol version and cipher, empty without TLS.
    pub tls: String,
    /// The next hop knows DSNs (RFC 3461): who asked to hear of success hears it from there.
    pub notifies: bool,
}

/// What a sender is told of a message whose bytes were lost. What is wrong with our disk is not for
/// the sender to know.
pub const LOST: &str = "the message was damaged before it could be delivered; please send it again";

/// The ends of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The next hop answered 2xx: it is theirs now.
    Delivered,
    /// Try again later.
    Deferred {
        /// A wait the next hop named, or the rest of the destination's pause.
        retry_after: Option<Duration>,
        /// False when the destination, not the message, was the trouble (nothing was said about
        /// this recipient): the wait is then no step of the backoff.
        counts: bool,
    },
    /// Never try again; tell the sender.
    Failed,
    /// The message's own bytes can not be read any more: tell the sender, and the postmaster, whose
    /// disk it was.
    Lost,
    /// It was not tried, because its destination is suspended or slowed: what the next hop said
    /// last stays its last reply.
    Suspended {
        /// What holds for the destination.
        what: Box<Wait>,
        /// For how long it waits.
        wait: Duration,
    },
}

/// Jobs go to this dispatcher from now on; before the first one nothing is delivered.
#[derive(ActorMessage)]
#[rtype(result = "()")]
pub struct Connect(pub Recipient<Wake>);

/// From now on these hold.
#[derive(ActorMessage)]
#[rtype(result = "()")]
pub struct Reload {
    /// The configuration.
    pub config: Arc<Config>,
    /// Where addresses lead.
    pub leads: Leads,
}

/// Accept nothing more, start no job, make durable what was reported, close the store, then
/// answer. Send it after delivery has drained.
#[derive(ActorMessage)]
#[rtype(result = "()")]
pub struct Stop;

/// Answer, to show that you can, whether mail can be taken or delivered.
#[derive(ActorMessage)]
#[rtype(result = "bool")]
pub struct Ping;

/// Do this to these recipients. The answer, when it is durable, is how many it touched.
#[derive(ActorMessage, Debug, Clone)]
#[rtype(result = "Result<u64, StoreError>")]
pub struct Steer {
    /// What.
    pub verb: Verb,
    /// Messages, and positions in their `envelope.recipients`.
    pub targets: Vec<(QueueId, Vec<u32>)>,
    /// The operator, for the log and the journal.
    pub by: String,
    /// What the verb needs to know besides.
    pub manner: Manner,
}

/// How a verb is to be done; what it does not need is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manner {
    /// Replay: due at a random moment from now to then.
    pub spread: Duration,
    /// Replay: due one after the other.
    pub pace: Option<Pace>,
    /// Replay: attempts are counted from 0 again, so that the waits are short again.
    pub reset: bool,
    /// Redirect, requeue: where each message goes from now on.
    pub anew: HashMap<QueueId, Anew>,
    /// Bounce: what the sender is told.
    pub reason: String,
    /// Hold: who, why, until when.
    pub hold: Held,
    /// Release: which holds end.
    pub release: Release,
}

/// Where recipients of a message go from now on, and how it leaves us.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Anew {
    /// Positions of recipients and the addresses they lead to now; none if to nobody.
    pub places: Vec<(u32, Vec<String>)>,
    /// The new `forwarded_as` of the envelope, if it changes.
    pub forwarded_as: Option<Option<String>>,
    /// What goes above the header, if it was made.
    pub top: Option<String>,
}

/// Which holds end; what is not said does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Release {
    /// Whose decision it was.
    pub kind: Option<HoldKind>,
    /// Who, or the name of a filter or an order; `*` stands for anything.
    pub by: Option<String>,
    /// Why; `*` stands for anything.
    pub reason: Option<String>,
}

impl Release {
    /// Ends holds of a recipient; whether there were any. The hold of an order that stands is not
    /// taken away but over, so that the order is not applied to the recipient again.
    pub fn apply(&self, state: &mut RecipientState, orders: &[Order], now: Millis) -> bool {
        let stands = |hold: &Hold| {
            let mut standing = orders.iter().filter(|order| order.stands(now));
            hold.kind == HoldKind::Order && standing.any(|order| order.name() == hold.by)
        };
        let mut found = false;
        for mut hold in std::mem::take(&mut state.holds) {
            let means = self.means(&hold, now);
            found |= means;
            if means && stands(&hold) {
                hold.until = Some(now);
            } else if means {
                continue;
            }
            state.holds.push(hold);
        }
        found
    }

    /// Whether it ends this hold.
    pub fn means(&self, hold: &Hold, now: Millis) -> bool {
        let like = |wanted: &Option<String>, text: &str| {
            let wanted = wanted.as_ref().map(|wanted| wanted.to_ascii_lowercase());
            wanted.is_none_or(|wanted| super::like(&wanted, text))
        };
        hold.until.is_none_or(|until| until > now)
            && self.kind.is_none_or(|kind| kind == hold.kind)
            && like(&self.by, &hold.by)
            && like(&self.reason, &hold.reason)
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [
            self.kind.map(|kind| format!("kind {}", kind_word(kind))),
            self.by.as_ref().map(|by| format!("held by {by}")),
            self.reason.as_ref().map(|reason| format!("for {reason}")),
        ];
        let words: Vec<String> = words.into_iter().flatten().collect();
        f.write_str(&words.join(", "))
    }
}

/// The word for whose decision a hold was.
pub fn kind_word(kind: HoldKind) -> &'static str {
    match kind {
        HoldKind::Operator => "operator",
        HoldKind::Quarantine => "quarantine",
        HoldKind::Order => "order",
    }
}

/// Recipients that are due one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// When the first is.
    pub begun: Millis,
    /// From one to the next.
    pub interval: Duration,
    /// So many have their time already.
    pub placed: u64,
}

impl Pace {
    /// When the next one is due.
    pub fn turn(&mut self) -> Millis {
        let after = self.interval.as_millis().saturating_mul(self.placed.into());
        self.placed = self.placed.saturating_add(1);
        let after = Millis::try_from(after).unwrap_or(Millis::MAX);
        self.begun.saturating_add(after)
    }
}

/// A message that was in a queue before: its attempts and due times go on.
#[derive(ActorMessage)]
#[rtype(result = "Result<QueueId, AcceptError>")]
pub struct Adopt {
    /// The message with its states, and an id of [`super::IdSource`].
    pub message: Box<Message>,
    /// The bytes, as they go out.
    pub content: Content,
    /// Who brings it. It is not tried before they [`Unclaim`] it, which is when they have noted
    /// that it was taken.
    pub owner: u64,
}

/// Give this message out to somebody who moves it to another queue: it is not tried from now on.
#[derive(ActorMessage, Debug, Clone, Copy)]
#[rtype(result = "Result<Claimed, StoreError>")]
pub struct Claim {
    /// The message.
    pub id: QueueId,
    /// Who claims it.
    pub owner: u64,
    /// Whether to wait for the end of what is under way.
    pub wait: bool,
}

/// What became of a claim; only `Given` holds.
#[derive(Debug, Clone)]
pub enum Claimed {
    /// The message as it is now.
    Given(Arc<Message>),
    /// It is being delivered, or its sender is being told.
    Busy,
    /// It has ended.
    Ended,
    /// It is not there, or can not be read.
    Gone,
    /// Somebody else has claimed it.
    Elsewhere,
}

/// Messages that were claimed are safe elsewhere: they end here, and nobody is told. The answer,
/// when that is durable, names those that did; the others were changed since they were given out,
/// and stay. None of them is claimed any more.
#[derive(ActorMessage, Debug, Clone)]
#[rtype(result = "Result<Vec<QueueId>, StoreError>")]
pub struct HandOver {
    /// The messages.
    pub ids: Vec<QueueId>,
    /// Who claimed them.
    pub owner: u64,
    /// The operator, for the log and the journal.
    pub by: String,
}

/// Claims end, and their messages wait as before.
#[derive(ActorMessage, Debug, Clone, Copy)]
#[rtype(result = "()")]
pub struct Unclaim {
    /// Whose.
    pub owner: u64,
    /// Only this one.
    pub id: Option<QueueId>,
}

/// Try nothing at a destination until a time. The answer comes when it is durable.
#[derive(ActorMessage)]
#[rtype(result = "Result<(), String>")]
pub struct Suspend(pub Suspension);

/// End the suspensions of this destination; an empty name ends all. The answer names them.
#[derive(ActorMessage)]
#[rtype(result = "Result<Vec<Suspension>, String>")]
pub struct Unsuspend {
    /// As it was suspended.
    pub destination: String,
    /// The operator.
    pub by: String,
}

/// What is known besides the messages, and the configuration it comes from.
#[derive(ActorMessage)]
#[rtype(result = "(Facts, Arc<Config>)")]
pub struct Look;

/// The suspensions that hold.
#[derive(ActorMessage)]
#[rtype(result = "Vec<Suspension>")]
pub struct Suspended;

/// From now on this order stands, under a number of its own. The answer, when it is durable, is
/// the order with its number.
#[derive(ActorMessage)]
#[rtype(result = "Result<Order, String>")]
pub struct Stand(pub Order);

/// End a standing order, or all of them for 0. The answer, when it is durable, is what ended.
#[derive(ActorMessage)]
#[rtype(result = "Result<Vec<Order>, String>")]
pub struct EndOrder {
    /// Its number.
    pub id: u64,
    /// The operator.
    pub by: String,
}

/// The orders that stand, and the last that have ended.
#[derive(ActorMessage)]
#[rtype(result = "Vec<Order>")]
pub struct Orders;

/// What an operator can do to messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// Deferred recipients are due now.
    Replay,
    /// Recipients end here, and nobody is told.
    Remove,
    /// The message is not tried, and no deadline ends it.
    Hold,
    /// The opposite.
    Release,
    /// Recipients end here, and the sender is told.
    Bounce,
    /// The recipients' place is taken by another address, which is tried at once.
    Redirect,
    /// Addresses, routes and the reverse-path are resolved again, as if the message came now.
    Requeue,
    /// Whatever standing orders want is done.
    #[serde(skip)]
    Obey,
}

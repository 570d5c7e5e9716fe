//! What is said on the control socket: one JSON object a line, a request and then its answers.

use queue_schema::{HoldKind, Millis, QueueId, RecipientState};
use serde::{Deserialize, Serialize};

pub use super::item::{HeldBy, Item, Told};
pub use super::measures::{StandingOrder, Suspended};
pub use super::rows::{AGES, By, Row, Sort};
use crate::queue::order::{Does, Whose};
use crate::queue::store::Finding;
use crate::queue::{Counts, Happened, Selector, Verb};
pub use crate::telemetry::wire::Wire;
pub use crate::time::text as time;

/// Bytes of a request with its line end.
pub const MAX_REQUEST: usize = 64 << 10;

/// What an operator asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// Every recipient that is meant: [`Answer::Item`], in the order of ids.
    List {
        /// Which.
        selector: Selector,
        /// Only so many, those with the newest trouble first unless `sort` says otherwise; 0 for
        /// all. The answer ends with the number of all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<usize>,
        /// Their order; without it and without a limit that of ids.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sort: Option<Sort>,
        /// The other way round.
        #[serde(default, skip_serializing_if = "is_false")]
        reverse: bool,
        /// Only count: no [`Answer::Item`].
        #[serde(default, skip_serializing_if = "is_false")]
        count: bool,
    },
    /// The recipients of one message with its story: [`Answer::Item`].
    Show {
        /// Its id.
        id: String,
    },
    /// One message with its bytes: [`Answer::Bytes`].
    Cat {
        /// Its id.
        id: String,
    },
    /// Recipients counted by age and domain, or what else is asked for: [`Answer::Row`], the
    /// largest first; then what holds for destinations: [`Answer::Suspended`].
    Summary {
        /// Which.
        selector: Selector,
        /// What has a row.
        #[serde(default, skip_serializing_if = "By::is_domain")]
        by: By,
    },
    /// Do something to every recipient that is meant.
    Steer {
        /// What.
        verb: Verb,
        /// To which.
        selector: Selector,
        /// Only say which they are.
        dry_run: bool,
        /// The operator, for the log.
        by: String,
        /// Replay: spread over this span.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        spread: Option<String>,
        /// Replay: so many in a time, such as `10/m`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rate: Option<String>,
        /// Replay: attempts are counted from 0 again.
        #[serde(default, skip_serializing_if = "is_false")]
        reset_attempts: bool,
        /// Redirect: who takes their place.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address: Option<String>,
        /// Bounce: what the sender is told. Hold: why. Release: of the holds with this reason.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// Hold: for how long; until it is released.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        span: Option<String>,
        /// Release: of the holds of this kind.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kind: Option<HoldKind>,
        /// Release: of the holds by this operator, filter or order; `*` stands for anything.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        who: Option<String>,
        /// Do not answer with each recipient that was meant, only with their number.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        quiet: bool,
    },
    /// Try nothing at a destination for a while. Answered with the number of recipients that wait
    /// for it, and [`Answer::Suspended`].
    Suspend {
        /// A recipient domain or the name of a next hop; `*` stands for anything.
        destination: String,
        /// For how long; without it until it is resumed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        span: Option<String>,
        /// Why.
        reason: String,
        /// Only count.
        dry_run: bool,
        /// The operator, for the log.
        by: String,
    },
    /// End suspensions; what waits for them is due. Answered with [`Answer::Suspended`] and the
    /// number of recipients that are due.
    Resume {
        /// As it was suspended; empty for all.
        destination: String,
        /// Spread over this span.
        spread: Option<String>,
        /// Only count.
        dry_run: bool,
        /// The operator, for the log.
        by: String,
    },
    /// The suspensions that hold: [`Answer::Suspended`].
    Suspensions {},
    /// From now on, do this with the mail that is meant, in the queue and to come. Answered with
    /// [`Answer::Order`] and the number of recipients in the queue that it concerned.
    Order {
        /// What.
        does: Does,
        /// With whose mail.
        whose: Whose,
        /// For how long; without it until it is ended.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        span: Option<String>,
        /// Why.
        reason: String,
        /// Bounce: what the sender is told.
        #[serde(default)]
        tells: String,
        /// Only count.
        dry_run: bool,
        /// The operator, for the log.
        by: String,
    },
    /// The orders that stand: [`Answer::Order`].
    Orders {
        /// Also the last that have ended.
        #[serde(default)]
        ended: bool,
    },
    /// End an order; what it held goes on. Answered with [`Answer::Order`] and the number of
    /// recipients it held.
    EndOrder {
        /// Its number; `all` for every one.
        id: String,
        /// Only count.
        dry_run: bool,
        /// The operator, for the log.
        by: String,
    },
    /// Events from now on: [`Answer::Event`], without end.
    Watch {
        /// Only those of addresses that this means; `state` is the event's word.
        selector: Selector,
    },
    /// Numbers: [`Answer::Counts`].
    Counts {},
    /// The last recipients that were deferred, failed or ran out of time, the oldest first:
    /// [`Answer::Event`].
    Failures {},
    /// Lines of connections from now on: [`Answer::Wire`], without end.
    Wire {
        /// Only those whose other side has one of these in its name or address; none: all.
        about: Vec<String>,
    },
    /// Computes every checksum again: [`Answer::Finding`] for what is damaged. Answered with the
    /// number of records and messages that are whole.
    Verify {},
    /// Make the index anew at the next start.
    Rebuild {
        /// The operator, for the log.
        by: String,
    },
    /// Every message that is meant with its bytes: [`Answer::Message`], then [`Answer::Bytes`].
    Export {
        /// Which.
        selector: Selector,
    },
    /// Ids of every message that is meant: [`Answer::Ids`]. Answered with their number.
    Ids {
        /// Which.
        selector: Selector,
    },
    /// Give one message out to be moved: [`Answer::Message`], then [`Answer::Bytes`], and 1 at the
    /// end; or [`Answer::Skipped`] and 0. It is not tried until it is handed over or this client
    /// goes.
    Claim {
        /// The message.
        id: String,
        /// Wait a while for the end of what is under way.
        #[serde(default)]
        wait: bool,
    },
    /// Messages that were claimed are safe elsewhere, and end here: answered with the number of
    /// those that did, and [`Answer::Skipped`] for those that were changed meanwhile and stay.
    HandOver {
        /// The messages.
        ids: Vec<String>,
        /// The operator, for the log.
        by: String,
    },
    /// Take a message of another queue: [`Answer::Imported`]. Behind the line come an
    /// [`Exported`] of `envelope` bytes and a message of `size` bytes.
    Import {
        /// Bytes of the description.
        envelope: u64,
        /// Bytes of the message.
        size: u64,
        /// The operator, for the log.
        by: String,
        /// What queue it comes from: one message of it is taken once. `chapar` if it is not said.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        source: String,
        /// Take it even if it was taken before.
        #[serde(default, skip_serializing_if = "is_false")]
        again: bool,
    },
    /// Sign a message of ours and take it into the queue: [`Answer::Submitted`]. Behind the line
    /// come `size` bytes, a whole message.
    Submit {
        /// The reverse-path, an address of ours.
        from: String,
        /// Where it goes; aliases are resolved.
        to: Vec<String>,
        /// Bytes of the message.
        size: u64,
        /// It waits for an operator's release.
        #[serde(default)]
        held: bool,
        /// The operator, for the log.
        by: String,
    },
}

/// What is answered; the last one is `End` or `Error`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// One recipient.
    Item(Box<Item>),
    /// One domain.
    Row(Box<Row>),
    /// A piece of a message, in base64.
    Bytes(String),
    /// One event.
    Event(Box<Happened>),
    /// So many events were missed: this client was too slow.
    Missed(u64),
    /// Nothing happened for a while.
    Alive,
    /// A suspended destination.
    Suspended(Box<Suspended>),
    /// A standing order.
    Order(Box<StandingOrder>),
    /// Numbers.
    Counts(Box<Numbers>),
    /// Something is damaged.
    Finding(Finding),
    /// A message; its bytes follow.
    Message(Box<Exported>),
    /// Ids of messages.
    Ids(Vec<String>),
    /// A message that was not given out, or stays.
    Skipped(Skipped),
    /// A message was taken.
    Imported(Imported),
    /// A message of ours was taken.
    Submitted(Submitted),
    /// A line of a connection.
    Wire(Box<Wire>),
    /// That was all; for `Steer` how many recipients were touched.
    End(u64),
    /// It can not be done.
    Error(Refusal),
}

/// Why it can not be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// Which kind.
    pub kind: RefusalKind,
    /// What is wrong and what to do.
    pub text: String,
}

/// Kinds of refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RefusalKind {
    /// The request makes no sense.
    Wrong,
    /// There is no such message.
    Unknown,
    /// The queue can not do it now.
    Unavailable,
}

/// Numbers of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbers {
    /// Since the start.
    pub counts: Counts,
    /// Messages that wait.
    pub messages: u64,
    /// Bytes of records in the journal.
    pub used: u64,
    /// Bytes of records whose messages live.
    pub live: u64,
    /// Segment files.
    pub segments: u64,
    /// Syncs of the journal.
    pub syncs: u64,
    /// Whether mail is taken.
    pub writable: bool,
}

/// A message between two queues: all but its bytes, as `mta-queue export` writes it to a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exported {
    /// Version of this description: 1.
    pub format: u32,
    /// Its id where it came from.
    pub id: String,
    /// Bytes of the message.
    pub size: u64,
    /// When it was accepted, in milliseconds since 1970, as all times here.
    pub arrived: Millis,
    /// How it came.
    pub origin: queue_schema::Origin,
    /// The envelope.
    pub envelope: queue_schema::Envelope,
    /// One state for each recipient, in the same order.
    pub states: Vec<RecipientState>,
    /// Whether its sender was told of every recipient that waits that it is late. Each state says
    /// it for its own recipient; this is for versions before that.
    #[serde(default)]
    pub warned: bool,
    /// Whether every recipient that waits is held. The holds are in the states; recipients that
    /// have none are held by whoever imports it.
    #[serde(default)]
    pub held: bool,
    /// What happened to it.
    #[serde(default)]
    pub story: Vec<queue_schema::Event>,
    /// SHA-256 of the message's bytes in hexadecimal digits; in a stream alone, which nobody edits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// A message that an export leaves where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// The message.
    pub id: String,
    /// Which kind.
    pub stays: Stays,
    /// Why, in words.
    pub text: String,
}

/// Why a message is not given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stays {
    /// It is being delivered, or exported by somebody else: later it may go.
    Busy,
    /// It is not in the queue any more.
    Ended,
    /// Somebody changed it after it was given out.
    Changed,
    /// It can not be read.
    Unreadable,
}

/// A message that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// Its id there.
    pub was: String,
    /// Its id here; empty if only an older version knew it.
    pub id: String,
    /// It was taken before, and nothing was done now.
    #[serde(default)]
    pub before: bool,
}

/// A message of ours that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submitted {
    /// Its id.
    pub id: String,
    /// DKIM keys that signed it, as `domain/selector`.
    pub signed_by: Vec<String>,
}

fn is_false(is: &bool) -> bool {
    !is
}

impl Request {
    /// A verb that needs nothing besides, done by `by`, of which only the number is answered.
    pub fn steer(verb: Verb, selector: Selector, by: String) -> Request {
        Request::Steer {
            verb,
            selector,
            dry_run: false,
            by,
            spread: None,
            rate: None,
            reset_attempts: false,
            address: None,
            reason: None,
            span: None,
            kind: None,
            who: None,
            quiet: true,
        }
    }
}

impl Refusal {
    /// A request that makes no sense.
    pub fn wrong(text: impl std::fmt::Display) -> Refusal {
        Refusal {
            kind: RefusalKind::Wrong,
            text: text.to_string(),
        }
    }

    /// A message that is not there.
    pub fn unknown(id: QueueId) -> Refusal {
        let text = format!("there is no message {id} in the queue; its end is in the log");
        Refusal {
            kind: RefusalKind::Unknown,
            text,
        }
    }

    /// The queue can not do it now.
    pub fn unavailable(text: impl std::fmt::Display) -> Refusal {
        Refusal {
            kind: RefusalKind::Unavailable,
            text: text.to_string(),
        }
    }
}

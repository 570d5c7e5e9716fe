//! What is said on the control socket: one JSON object a line, a request and then its answers.

use queue_schema::{Hold, HoldKind, Message, Millis, QueueId, RecipientState, Status};
use serde::{Deserialize, Serialize};

pub use super::measures::{StandingOrder, Suspended};
use crate::queue::order::{Does, Whose};
use crate::queue::store::Finding;
use crate::queue::suspend::UNTIL_RESUMED;
use crate::queue::{Counts, Happened, Selector, Verb, kind_word, state_word};
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
        /// Only so many, those with the newest trouble first; the answer ends with the number of
        /// all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<usize>,
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
    /// Recipients counted by domain and age: [`Answer::Row`], the largest first; then what holds for
    /// destinations: [`Answer::Suspended`].
    Summary {
        /// Which.
        selector: Selector,
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
    /// Take a message of another queue: [`Answer::Imported`]. Behind the line come an
    /// [`Exported`] of `envelope` bytes and a message of `size` bytes.
    Import {
        /// Bytes of the description.
        envelope: u64,
        /// Bytes of the message.
        size: u64,
        /// The operator, for the log.
        by: String,
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

/// One recipient of one message, as `--json` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// The message.
    pub id: String,
    /// Its reverse-path; empty for a notice.
    pub from: String,
    /// The recipient.
    pub to: String,
    /// The address it came from, where an alias led here.
    pub alias_of: Option<String>,
    /// The state word.
    pub state: String,
    /// Attempts that counted.
    pub attempts: u32,
    /// When the next attempt is due (RFC 3339); null if none is.
    pub next_due: Option<String>,
    /// What the last attempt brought; null if there was none.
    pub last_reply: Option<String>,
    /// Who said it; null if we did.
    pub remote: Option<String>,
    /// When it was last tried (RFC 3339).
    pub last_attempt: Option<String>,
    /// When the message arrived (RFC 3339).
    pub arrived: String,
    /// Bytes of the message.
    pub size: u64,
    /// How it came.
    pub origin: String,
    /// Why it is held; empty if it is not.
    #[serde(default)]
    pub held: Vec<HeldBy>,
    /// What keeps it from being tried although its time has come; null if nothing does.
    #[serde(default)]
    pub suspended: Option<String>,
    /// When the suspension ends by itself (RFC 3339); null for one that is resumed.
    #[serde(default)]
    pub suspended_until: Option<String>,
    /// `show` alone: DKIM keys that signed it here, as `domain/selector`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed_by: Option<Vec<String>>,
    /// `show` alone: what happened to this recipient, in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<Vec<Told>>,
}

/// One reason why a recipient is held, as `--json` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldBy {
    /// The operator, the filter, or the id of the standing order.
    pub who: String,
    /// Why; empty if nobody said.
    pub why: String,
    /// `operator`, `quarantine` or `order`.
    pub kind: String,
    /// Since when (RFC 3339).
    pub since: String,
    /// When it ends by itself (RFC 3339); null until it is released.
    pub until: Option<String>,
}

impl From<&Hold> for HeldBy {
    fn from(hold: &Hold) -> HeldBy {
        HeldBy {
            who: hold.by.clone(),
            why: hold.reason.clone(),
            kind: kind_word(hold.kind).to_owned(),
            since: time(hold.since),
            until: hold.until.map(time),
        }
    }
}

/// One event of a message's story, as `mta-queue show --json` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// When (RFC 3339).
    pub at: String,
    /// The word for it.
    pub event: String,
    /// What was said, or why.
    pub text: String,
    /// `host[address]:port` of who said it; empty if we did.
    pub remote: String,
    /// Protocol version and cipher; empty without TLS.
    pub tls: String,
    /// The operator; empty for delivery.
    pub by: String,
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
}

/// A message that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// Its id there.
    pub was: String,
    /// Its id here.
    pub id: String,
}

/// A message of ours that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submitted {
    /// Its id.
    pub id: String,
    /// DKIM keys that signed it, as `domain/selector`.
    pub signed_by: Vec<String>,
}

/// Upper ends of the columns of a summary, in minutes; the last column has none.
pub const AGES: [u64; 9] = [5, 10, 20, 40, 80, 160, 320, 640, 1280];

/// One recipient domain of a summary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The domain.
    pub domain: String,
    /// Recipients that wait.
    pub total: u64,
    /// The same by age of the message, see [`AGES`].
    pub ages: [u64; 10],
    /// Those never tried.
    pub queued: u64,
    /// Those held.
    pub held: u64,
    /// The commonest last reply, or the suspension that most wait for.
    pub reply: Option<String>,
}

impl Request {
    /// A verb that needs nothing besides, done by `by`.
    pub fn steer(verb: Verb, selector: Selector, by: String) -> Request {
        Request::Steer {
            verb,
            selector,
            dry_run: false,
            by,
            spread: None,
            address: None,
            reason: None,
            span: None,
            kind: None,
            who: None,
        }
    }
}

impl Item {
    /// The recipient at `position` of a message.
    pub fn new(message: &Message, position: u32, now: Millis) -> Option<Item> {
        let at = usize::try_from(position).ok()?;
        let recipient = message.envelope.recipients.get(at)?;
        let state: &RecipientState = message.states.get(at)?;
        let reply = state.last_reply.as_ref();
        let waits = state.status == Status::Waiting;
        let due = state.released_at().filter(|_| waits);
        let goes_on = |hold: &&Hold| waits && hold.until.is_none_or(|until| until > now);
        let suspended = state.suspended.as_ref().filter(|_| waits);
        let suspended = suspended.filter(|one| one.until > now);
        Some(Item {
            id: message.id.to_string(),
            from: message.envelope.reverse_path.clone(),
            to: recipient.address.clone(),
            alias_of: recipient.alias_of.clone(),
            state: state_word(state, now).to_owned(),
            attempts: state.attempts,
            next_due: due.map(|released| time(state.next_due.max(released))),
            last_reply: reply.map(|reply| reply.to_string()),
            remote: reply
                .map(|reply| reply.remote.clone())
                .filter(|remote| !remote.is_empty()),
            last_attempt: (state.last_attempt != 0).then(|| time(state.last_attempt)),
            arrived: time(message.arrived),
            size: message.size,
            origin: origin(message),
            held: state
                .holds
                .iter()
                .filter(goes_on)
                .map(HeldBy::from)
                .collect(),
            suspended: suspended.map(ToString::to_string),
            suspended_until: suspended
                .map(|one| one.until)
                .filter(|until| *until != UNTIL_RESUMED)
                .map(time),
            signed_by: None,
            events: None,
        })
    }

    /// The same with its story.
    pub fn told(self, message: &Message, position: u32, signed_by: Vec<String>) -> Item {
        let concerns = |event: &&queue_schema::Event| {
            event.recipients.is_empty() || event.recipients.contains(&position)
        };
        let told = |event: &queue_schema::Event| Told {
            at: time(event.at),
            event: crate::queue::word(event.kind).to_owned(),
            text: event.text.clone(),
            remote: event.remote.clone(),
            tls: event.tls.clone(),
            by: event.by.clone(),
        };
        Item {
            signed_by: Some(signed_by),
            events: Some(message.story.iter().filter(concerns).map(told).collect()),
            ..self
        }
    }
}

fn origin(message: &Message) -> String {
    use queue_schema::Origin;
    match &message.origin {
        Origin::User { user, client } => format!("user {user} at {client}"),
        Origin::Network { client } => format!("relay client {client}"),
        Origin::Outside {
            client,
            verified: true,
        } => format!("outside {client}, verified"),
        Origin::Outside {
            client,
            verified: false,
        } => format!("outside {client}, not verified"),
        Origin::Dsn { about, .. } => format!("notice about {about}"),
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

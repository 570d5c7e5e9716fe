//! What is said on the control socket: one JSON object a line, a request and then its answers.

use queue_schema::{Message, Millis, QueueId, RecipientState, Status};
use serde::{Deserialize, Serialize};

use crate::queue::{Selector, Verb, state_word};

/// Bytes of a request with its line end.
pub const MAX_REQUEST: usize = 64 << 10;

/// What an operator asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// Every recipient that is meant: [`Answer::Item`].
    List {
        /// Which.
        selector: Selector,
    },
    /// One message with its bytes: [`Answer::Bytes`].
    Cat {
        /// Its id.
        id: String,
    },
    /// Recipients counted by domain and age: [`Answer::Row`], the largest first.
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
    /// The commonest last reply.
    pub reply: Option<String>,
}

/// A time as RFC 3339 writes it, in UTC to the second.
pub fn time(at: Millis) -> String {
    i64::try_from(at / 1000)
        .ok()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
        .map_or_else(|| "never".to_owned(), |time| time.to_string())
}

impl Item {
    /// The recipient at `position` of a message.
    pub fn new(message: &Message, position: u32) -> Option<Item> {
        let at = usize::try_from(position).ok()?;
        let recipient = message.envelope.recipients.get(at)?;
        let state: &RecipientState = message.states.get(at)?;
        let reply = state.last_reply.as_ref();
        let waits = state.status == Status::Waiting && !message.held;
        Some(Item {
            id: message.id.to_string(),
            from: message.envelope.reverse_path.clone(),
            to: recipient.address.clone(),
            alias_of: recipient.alias_of.clone(),
            state: state_word(message, state).to_owned(),
            attempts: state.attempts,
            next_due: waits.then(|| time(state.next_due)),
            last_reply: reply.map(|reply| reply.to_string()),
            remote: reply
                .map(|reply| reply.remote.clone())
                .filter(|remote| !remote.is_empty()),
            last_attempt: (state.last_attempt != 0).then(|| time(state.last_attempt)),
            arrived: time(message.arrived),
            size: message.size,
            origin: origin(message),
        })
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

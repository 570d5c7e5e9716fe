//! One recipient of one message, for people and programs.

use queue_schema::{Hold, Message, Millis, RecipientState, Status};
use serde::{Deserialize, Serialize};

use crate::queue::suspend::UNTIL_RESUMED;
use crate::queue::{Facts, client, kind_word, state_word};
use crate::time::text as time;

/// One recipient of one message, as `--json` prints it. Fields are only ever added.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
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
    /// When it is given up (RFC 3339); null if it has ended, or never is.
    pub expires: Option<String>,
    /// Code of the last reply.
    pub code: Option<u16>,
    /// Its enhanced code (RFC 3463).
    pub enhanced: Option<String>,
    /// The user who sent it; null if none logged in.
    pub user: Option<String>,
    /// Address of the client it came from; null if we wrote it.
    pub client: Option<String>,
    /// Where it goes next, as far as that is known without asking the DNS: the host of a route,
    /// else the host that spoke last, else its domain.
    pub next_hop: String,
    /// Of what its sender wants to hear (RFC 3461): `success`, `failure`, `delay`; none: never.
    pub notify: Vec<String>,
    /// The sender's own name for the envelope (RFC 3461).
    pub envid: Option<String>,
    /// Its Message-ID; null if it has none, or came before that was kept.
    pub message_id: Option<String>,
    /// Its subject, decoded; null if it has none, or came before that was kept.
    pub subject: Option<String>,
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

impl Item {
    /// The recipient at `position` of a message.
    pub fn new(message: &Message, position: u32, facts: &Facts, now: Millis) -> Option<Item> {
        let at = usize::try_from(position).ok()?;
        let recipient = message.envelope.recipients.get(at)?;
        let state: &RecipientState = message.states.get(at)?;
        let reply = state.last_reply.as_ref();
        let waits = state.status == Status::Waiting;
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
            next_due: facts.due(message, state, now).map(time),
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
            expires: facts.expires(message, state, now).map(time),
            code: reply.map(|reply| reply.code),
            enhanced: reply
                .map(|reply| reply.enhanced.clone())
                .filter(|enhanced| !enhanced.is_empty()),
            user: match &message.origin {
                queue_schema::Origin::User { user, .. } => Some(user.clone()),
                _ => None,
            },
            client: client(&message.origin).map(|client| client.to_string()),
            next_hop: facts.next_hop(message, recipient, state),
            notify: notify(&recipient.notify),
            envid: message.envelope.envid.clone(),
            message_id: some(&message.message_id),
            subject: some(&message.subject),
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

/// Nothing for an empty text.
fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// The words of RFC 3461 in lower case.
fn notify(notify: &queue_schema::Notify) -> Vec<String> {
    let words = [
        ("success", notify.success),
        ("failure", notify.failure),
        ("delay", notify.delay),
    ];
    let asked = words.into_iter().filter(|(_, asked)| *asked);
    asked.map(|(word, _)| word.to_owned()).collect()
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

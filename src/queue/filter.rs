//! The filters of a selector, one by one: how each is written, and what it means. Pure.

use queue_schema::{Message, Millis, Origin, QueueId, Recipient, RecipientState};
use regex_lite::Regex;

use super::facts::Facts;
use super::like;
use super::pattern::{Bound, Code, Due};
use super::selector::{STATES, state_word};
use crate::config::{Network, Span};

/// Bytes of a regular expression.
const MAX_REGEX: usize = 1000;

/// The name of a filter that only [`super::Selector::watch`] has: what it calls `state`.
pub(super) const EVENT: &str = "event:";
/// Names of the filters, as options and before the `=` of `--not`.
const NAMES: [&str; 17] = [
    "id",
    "to",
    "from",
    "domain",
    "state",
    "older",
    "newer",
    "reply",
    "code",
    "size",
    "attempts",
    "due",
    "user",
    "client",
    "next-hop",
    "message-id",
    "subject",
];

/// One value of one filter.
#[derive(Debug, Clone)]
pub(super) enum Filter {
    Id(QueueId),
    To(String),
    From(String),
    Domain(String),
    State(String),
    /// It arrived before then.
    Older(Millis),
    /// It arrived then or later.
    Newer(Millis),
    Reply(Regex),
    Code(Code),
    Size(Bound),
    Attempts(Bound),
    Due(Due),
    User(String),
    Client(Network),
    NextHop(String),
    MessageId(String),
    Subject(String),
    /// As it was suspended.
    Suspended(String),
    /// The word of an event, for those who watch.
    Event(String),
}

/// A recipient of a message, and what is known besides.
#[derive(Clone, Copy)]
pub(super) struct Seen<'a> {
    pub message: &'a Message,
    pub to: &'a Recipient,
    pub state: &'a RecipientState,
    pub facts: &'a Facts,
    pub now: Millis,
}

/// Something that happened, as far as filters ask.
#[derive(Clone, Copy, Default)]
pub(super) struct Event<'a> {
    pub event: &'a str,
    pub id: &'a str,
    pub from: &'a str,
    pub to: &'a [String],
    pub text: &'a str,
}

impl Filter {
    /// Reads a value of the filter `name`; `now` is what spans are counted from.
    pub fn parse(name: &str, value: &str, now: Millis) -> Result<Filter, String> {
        let lower = || value.to_lowercase();
        let ago = || {
            let span = value.parse::<Span>()?;
            Ok::<u64, String>(now.saturating_sub(crate::time::millis(span.0)))
        };
        Ok(match name {
            "id" => Filter::Id(value.parse().map_err(|e| format!("'{value}': {e}"))?),
            "to" => Filter::To(lower()),
            "from" if value == "<>" => Filter::From(String::new()),
            "from" => Filter::From(lower()),
            "domain" => Filter::Domain(lower()),
            "state" if STATES.contains(&value) => Filter::State(value.to_owned()),
            "state" => {
                let known = STATES.join(", ");
                return Err(format!("'{value}' is no state; write one of {known}"));
            }
            EVENT => Filter::Event(value.to_owned()),
            "older" => Filter::Older(ago()?),
            "newer" => Filter::Newer(ago()?),
            "reply" if value.len() > MAX_REGEX => {
                return Err(format!(
                    "a regular expression has at most {MAX_REGEX} bytes"
                ));
            }
            "reply" => Filter::Reply(Regex::new(value).map_err(|e| format!("'{value}': {e}"))?),
            "code" => Filter::Code(Code::parse(value)?),
            "size" => Filter::Size(Bound::size(value)?),
            "attempts" => Filter::Attempts(Bound::count(value)?),
            "due" => Filter::Due(Due::parse(value)?),
            "user" => Filter::User(lower()),
            "client" => Filter::Client(value.parse()?),
            "next-hop" | "next_hop" => Filter::NextHop(lower()),
            "message-id" | "message_id" => Filter::MessageId(bare(&lower()).to_owned()),
            "subject" => Filter::Subject(lower()),
            "suspended" => Filter::Suspended(value.to_owned()),
            _ => {
                let known = NAMES.join(", ");
                return Err(format!("'{name}' is no filter; write one of {known}"));
            }
        })
    }

    /// Whether it means the whole message or nothing of it; `None` if that differs by recipient.
    pub fn message(&self, message: &Message) -> Option<bool> {
        Some(match self {
            Filter::Id(id) => *id == message.id,
            Filter::From(from) => like(from, &message.envelope.reverse_path),
            Filter::Older(before) => message.arrived < *before,
            Filter::Newer(since) => message.arrived >= *since,
            Filter::Size(bound) => bound.holds(message.size),
            Filter::User(user) => match &message.origin {
                Origin::User { user: is, .. } => like(user, is),
                _ => false,
            },
            Filter::Client(network) => {
                client(&message.origin).is_some_and(|client| network.contains(client))
            }
            Filter::MessageId(id) => like(id, bare(&message.message_id)),
            Filter::Subject(subject) => like(subject, &message.subject),
            Filter::To(_)
            | Filter::Domain(_)
            | Filter::State(_)
            | Filter::Reply(_)
            | Filter::Code(_)
            | Filter::Attempts(_)
            | Filter::Due(_)
            | Filter::NextHop(_)
            | Filter::Suspended(_)
            | Filter::Event(_) => return None,
        })
    }

    /// Whether it means this recipient.
    pub fn recipient(&self, seen: Seen<'_>) -> bool {
        let reply = seen.state.last_reply.as_ref();
        match self {
            Filter::To(to) => {
                like(to, &seen.to.address)
                    || seen
                        .to
                        .alias_of
                        .as_ref()
                        .is_some_and(|alias| like(to, alias))
            }
            Filter::Domain(domain) => like(domain, domain_of(&seen.to.address)),
            Filter::State(word) => word == state_word(seen.state, seen.now),
            Filter::Reply(regex) => reply.is_some_and(|said| regex.is_match(&said.to_string())),
            Filter::Code(code) => reply.is_some_and(|said| code.holds(said.code, &said.enhanced)),
            Filter::Attempts(bound) => bound.holds(seen.state.attempts.into()),
            Filter::Due(due) => seen
                .facts
                .due(seen.message, seen.state, seen.now)
                .is_some_and(|at| due.holds(at, seen.now)),
            Filter::NextHop(name) => like(
                name,
                &seen.facts.next_hop(seen.message, seen.to, seen.state),
            ),
            Filter::Suspended(destination) => seen
                .state
                .suspended
                .as_ref()
                .is_some_and(|one| one.destination == *destination),
            Filter::Event(_) => false,
            other => other.message(seen.message).unwrap_or(false),
        }
    }

    /// Whether it means something that happened; `None` if that can not be told of events.
    pub fn event(&self, event: Event<'_>) -> Option<bool> {
        let one = |wanted: &dyn Fn(&str) -> bool| event.to.iter().any(|to| wanted(to));
        // What happened to no address in particular is for everybody.
        let nobody = event.to.is_empty();
        Some(match self {
            Filter::Id(id) => id.to_string() == event.id,
            Filter::From(from) => like(from, event.from),
            Filter::To(to) => nobody || one(&|is| like(to, is)),
            Filter::Domain(domain) => nobody || one(&|is| like(domain, domain_or_all(is))),
            Filter::Reply(regex) => regex.is_match(event.text),
            Filter::Event(word) => word == event.event,
            _ => return None,
        })
    }

    /// The message it names.
    pub fn id(&self) -> Option<QueueId> {
        match self {
            Filter::Id(id) => Some(*id),
            _ => None,
        }
    }

    /// Whether [`Filter::message`] knows.
    pub fn is_of_messages(&self) -> bool {
        matches!(
            self,
            Filter::Id(_)
                | Filter::From(_)
                | Filter::Older(_)
                | Filter::Newer(_)
                | Filter::Size(_)
                | Filter::User(_)
                | Filter::Client(_)
                | Filter::MessageId(_)
                | Filter::Subject(_)
        )
    }
}

/// A Message-ID without its angle brackets.
fn bare(id: &str) -> &str {
    let id = id.trim();
    id.strip_prefix('<')
        .and_then(|id| id.strip_suffix('>'))
        .unwrap_or(id)
}

/// The address of the client a message came from; none for our own.
pub fn client(origin: &Origin) -> Option<std::net::IpAddr> {
    match origin {
        Origin::User { client, .. }
        | Origin::Network { client }
        | Origin::Outside { client, .. } => Some(*client),
        Origin::Dsn { .. } => None,
    }
}

/// The domain of an address; empty without one.
pub fn domain_of(address: &str) -> &str {
    address.rsplit_once('@').map_or("", |(_, domain)| domain)
}

/// The same, or the whole name of a destination.
fn domain_or_all(name: &str) -> &str {
    name.rsplit_once('@').map_or(name, |(_, domain)| domain)
}

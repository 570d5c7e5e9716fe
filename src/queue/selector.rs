//! Which recipients an operator means: the filter language of `mta-queue`. Pure.
//!
//! Values of one filter are alternatives, different filters add up, and what a `not` means is
//! left out. [`super::filter`] says what each filter means.

use std::sync::Arc;

use queue_schema::{Message, Millis, QueueId, RecipientState, Status};
use serde::{Deserialize, Serialize};

use super::facts::Facts;
use super::filter::{self, Event, Filter, Seen};
use super::order::Whose;
use super::pattern::AnyOf;

/// Filters that add up; none at all means everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Selector {
    /// Messages.
    pub id: AnyOf,
    /// The recipient's address, or the alias it came from; `*` stands for anything.
    pub to: AnyOf,
    /// The reverse-path; `<>` for the null one; `*` stands for anything.
    pub from: AnyOf,
    /// The recipient's domain; `*` stands for anything.
    pub domain: AnyOf,
    /// A state word; for [`Selector::watch`] the word of an event.
    pub state: AnyOf,
    /// Messages that arrived longer ago than this.
    pub older: AnyOf,
    /// A regular expression over the last reply.
    pub reply: AnyOf,
    /// Messages that arrived since then.
    #[serde(skip_serializing_if = "AnyOf::is_empty")]
    pub newer: AnyOf,
    /// The last reply's code; see `pattern::Code`.
    #[serde(skip_serializing_if = "AnyOf::is_empty")]
    pub code: AnyOf,
    /// Bytes of the message, such as `+1M`.
    #[serde(skip_serializing_if = "AnyOf::is_empty")]
    pub size: AnyOf,
    /// Attempts that counted, such as `+3`.
    #[serde(skip_serializing_if = "AnyOf::is_empty")]
    pub attempts: AnyOf,
    /// When the next attempt is due; see `pattern::Due`.
    #[serde(skip_serializing_if = "AnyOf::is_empty")]
    pub due: AnyOf,
    /// The user who sent it; `*` stands for anything.
    #[serde(skip_serializing_if = "AnyOf::is_empty")]
    pub user: AnyOf,
    /// The client it came from: an address or a network.
    #[serde(skip_serializing_if = "AnyOf::is_empty")]
    pub client: AnyOf,
    /// Where it goes next, see [`Facts::next_hop`]; `*` stands for anything.
    #[serde(skip_serializing_if = "AnyOf::is_empty")]
    pub next_hop: AnyOf,
    /// The destination whose suspension kept it from being tried; as it was suspended.
    #[serde(skip_serializing_if = "AnyOf::is_empty")]
    pub suspended: AnyOf,
    /// Whose mail a standing order means.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub whose: Option<Whose>,
    /// The Message-ID, with or without angle brackets; `*` stands for anything.
    #[serde(skip_serializing_if = "AnyOf::is_empty")]
    pub message_id: AnyOf,
    /// The subject; `*` stands for anything.
    #[serde(skip_serializing_if = "AnyOf::is_empty")]
    pub subject: AnyOf,
    /// What is left out: each `NAME=VALUE`, a filter and one value of it.
    #[serde(skip_serializing_if = "AnyOf::is_empty")]
    pub not: AnyOf,
}

/// A selector that can not be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(String);

/// State words, as `mta-queue` prints them.
pub const STATES: [&str; 8] = [
    "queued",
    "deferred",
    "suspended",
    "held",
    "delivered",
    "bounced",
    "expired",
    "removed",
];

/// The state word of a recipient.
pub fn state_word(state: &RecipientState, now: Millis) -> &'static str {
    match state.status {
        Status::Waiting if state.is_held(now) => "held",
        Status::Waiting if state.is_suspended(now) => "suspended",
        Status::Waiting if state.last_attempt == 0 => "queued",
        Status::Waiting => "deferred",
        Status::Delivered => "delivered",
        Status::Bounced => "bounced",
        Status::Expired => "expired",
        Status::Removed => "removed",
    }
}

/// A selector that was understood.
#[derive(Debug, Clone)]
pub struct Matcher {
    /// The one message it can match.
    pub id: Option<QueueId>,
    /// Messages it can match, in order; empty for any.
    ids: Vec<QueueId>,
    /// For each filter its alternatives: first those that mean a message or nothing of it.
    of_messages: Vec<Vec<Filter>>,
    of_recipients: Vec<Vec<Filter>>,
    not: Vec<Filter>,
    /// Recipients that have ended are meant as well.
    ended: bool,
    whose: Option<Whose>,
    /// When it was compiled.
    pub now: Millis,
    facts: Arc<Facts>,
}

impl Selector {
    /// Whether it names everything.
    pub fn is_everything(&self) -> bool {
        *self == Selector::default()
    }

    /// Everything but its ids.
    fn filters(&self) -> [(&'static str, &AnyOf); 17] {
        [
            ("to", &self.to),
            ("from", &self.from),
            ("domain", &self.domain),
            ("state", &self.state),
            ("older", &self.older),
            ("reply", &self.reply),
            ("newer", &self.newer),
            ("code", &self.code),
            ("size", &self.size),
            ("attempts", &self.attempts),
            ("due", &self.due),
            ("user", &self.user),
            ("client", &self.client),
            ("next-hop", &self.next_hop),
            ("message-id", &self.message_id),
            ("subject", &self.subject),
            ("suspended", &self.suspended),
        ]
    }

    /// Understands it; `now` is what spans are counted from.
    pub fn compile(&self, now: Millis) -> Result<Matcher, SelectorError> {
        self.read(now, "state")
    }

    /// Understands it for events: `state` names them.
    pub fn watch(&self, now: Millis) -> Result<Matcher, SelectorError> {
        let matcher = self.read(now, filter::EVENT)?;
        let nothing = Event::default();
        let groups = matcher.of_messages.iter().chain(&matcher.of_recipients);
        for filter in groups.flatten().chain(&matcher.not) {
            if filter.event(nothing).is_none() {
                return Err(SelectorError(
                    "events have no such filter; write an id, --to, --from, --domain, --reply, \
                     or --state with the word of an event"
                        .into(),
                ));
            }
        }
        Ok(matcher)
    }

    /// `state` is the filter that this word names.
    fn read(&self, now: Millis, state: &str) -> Result<Matcher, SelectorError> {
        let parse = |name: &str, value: &str| {
            let name = if name == "state" { state } else { name };
            Filter::parse(name, value, now).map_err(SelectorError)
        };
        let group = |name: &str, values: &AnyOf| {
            let read: Result<Vec<Filter>, SelectorError> =
                values.iter().map(|value| parse(name, value)).collect();
            read
        };
        let ids = group("id", &self.id)?;
        let mut known: Vec<QueueId> = ids.iter().filter_map(Filter::id).collect();
        known.sort_unstable();
        known.dedup();
        let mut matcher = Matcher {
            id: match known[..] {
                [one] => Some(one),
                _ => None,
            },
            ended: !known.is_empty(),
            ids: known,
            of_messages: Vec::new(),
            of_recipients: Vec::new(),
            not: Vec::new(),
            whose: self.whose.clone().map(Whose::lower),
            now,
            facts: Arc::default(),
        };
        if !ids.is_empty() {
            matcher.of_messages.push(ids);
        }
        for (name, values) in self.filters() {
            let group = group(name, values)?;
            let Some(first) = group.first() else {
                continue;
            };
            // The state words of a filter say themselves whether the past is meant.
            matcher.ended |= name == "state";
            match first.is_of_messages() {
                true => matcher.of_messages.push(group),
                false => matcher.of_recipients.push(group),
            }
        }
        for text in self.not.iter() {
            let (name, value) = text.split_once('=').ok_or_else(|| {
                SelectorError(format!(
                    "'{text}' is no filter; write its name and value, such as domain=gmail.com"
                ))
            })?;
            let name = name.trim_start_matches("--");
            matcher.not.push(parse(name, value)?);
        }
        Ok(matcher)
    }
}

impl Matcher {
    /// The same with what is known besides the messages.
    pub fn with(self, facts: Arc<Facts>) -> Matcher {
        Matcher { facts, ..self }
    }

    /// What is known besides the messages.
    pub fn facts(&self) -> &Arc<Facts> {
        &self.facts
    }

    /// Messages it can match, in the order of their ids; empty for any.
    pub fn ids(&self) -> &[QueueId] {
        &self.ids
    }

    /// Positions of the recipients it means; none if it does not mean the message.
    pub fn recipients(&self, message: &Message) -> Vec<u32> {
        let whole = |filter: &Filter| filter.message(message) == Some(true);
        let meant = |group: &Vec<Filter>| group.iter().any(whole);
        let theirs = self.whose.as_ref().is_none_or(|whose| whose.means(message));
        if !theirs || !self.of_messages.iter().all(meant) || self.not.iter().any(whole) {
            return Vec::new();
        }
        (0..)
            .zip(message.envelope.recipients.iter().zip(&message.states))
            .filter(|(_, (to, state))| {
                let seen = Seen {
                    message,
                    to,
                    state,
                    facts: &self.facts,
                    now: self.now,
                };
                // One that ended is history, which only its id or its state word asks for.
                let meant = |filter: &Filter| filter.recipient(seen);
                let whose = self.whose.as_ref();
                (self.ended || state.status == Status::Waiting)
                    && whose.is_none_or(|whose| whose.means_recipient(&to.address))
                    && self
                        .of_recipients
                        .iter()
                        .all(|group| group.iter().any(meant))
                    && !self.not.iter().any(meant)
            })
            .map(|(position, _)| position)
            .collect()
    }

    /// Whether it means something that happened; see [`Selector::watch`].
    pub fn happened(&self, happened: &super::Happened) -> bool {
        let event = Event {
            event: &happened.event,
            id: &happened.id,
            from: &happened.from,
            to: &happened.to,
            text: &happened.text,
        };
        let meant = |filter: &Filter| filter.event(event) == Some(true);
        let mut groups = self.of_messages.iter().chain(&self.of_recipients);
        groups.all(|group| group.iter().any(meant)) && !self.not.iter().any(meant)
    }
}

#[cfg(test)]
#[path = "selector_tests.rs"]
mod tests;

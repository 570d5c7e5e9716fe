//! Records and values of versions 1 and 2, and what they mean today.
//!
//! Then a message was held as a whole, its sender was told once for all recipients that it is
//! late, and a suspension took the place of the remote server's last reply.

use serde::Deserialize;

use crate::record::Description;
use crate::{
    Change, Envelope, Event, EventKind, Hold, HoldKind, Location, Message, Millis, Origin, QueueId,
    Recipient, RecipientState, Reply, Spooled, Status, Suspended,
};

/// What a change said of the whole message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Older {
    /// The new `warned` of the message, if it changed.
    pub warned: Option<bool>,
    /// The new `held` of the message, if it changed.
    pub held: Option<bool>,
}

impl Older {
    pub(crate) fn apply(&self, message: &mut Message, by: &str) {
        if let Some(warned) = self.warned {
            for state in &mut message.states {
                state.warned = warned;
            }
        }
        match self.held {
            Some(true) => hold(message, by),
            Some(false) => {
                for state in &mut message.states {
                    state.holds.clear();
                }
            }
            None => {}
        }
    }
}

/// Holds every recipient that waits, as `held` did. Who and since when is in the story if an
/// operator did it; else a filter did, when the message came.
fn hold(message: &mut Message, by: &str) {
    let told = message
        .story
        .iter()
        .rfind(|event| event.kind == EventKind::Held);
    let by = match (by, told) {
        ("", Some(event)) => event.by.clone(),
        (by, _) => by.to_owned(),
    };
    let hold = Hold {
        kind: match told.is_some() || !by.is_empty() {
            true => HoldKind::Operator,
            false => HoldKind::Quarantine,
        },
        by,
        reason: String::new(),
        since: told.map_or(message.arrived, |event| event.at),
        until: None,
    };
    for state in &mut message.states {
        if state.status == Status::Waiting && state.holds.is_empty() {
            state.holds.push(hold.clone());
        }
    }
}

/// A recipient as versions 1 and 2 wrote it.
#[derive(Deserialize)]
struct RecipientState1 {
    status: Status,
    attempts: u32,
    next_due: Millis,
    last_attempt: Millis,
    last_reply: Option<Reply>,
}

impl From<RecipientState1> for RecipientState {
    fn from(old: RecipientState1) -> RecipientState {
        let waits = old.status == Status::Waiting;
        let suspended = old.last_reply.as_ref().filter(|_| waits);
        let suspended = suspended.and_then(|reply| suspended_in(reply, old.next_due));
        RecipientState {
            attempts: old.attempts,
            next_due: old.next_due,
            last_attempt: old.last_attempt,
            // The words of a suspension are for operators alone.
            last_reply: old.last_reply.filter(|_| suspended.is_none()),
            suspended,
            status: old.status,
            ..RecipientState::new(0)
        }
    }
}

/// The suspension that a reply of ours told of: `gmail.com is suspended by root: they are busy`.
fn suspended_in(reply: &Reply, due: Millis) -> Option<Suspended> {
    if !reply.remote.is_empty() || (reply.code, reply.enhanced.as_str()) != (450, "4.3.2") {
        return None;
    }
    let (destination, rest, slowed_to) = match reply.text.split_once(" is suspended by ") {
        Some((destination, rest)) => (destination, rest, ""),
        None => {
            let (destination, rest) = reply.text.split_once(" is slowed to ")?;
            let (slowed_to, rest) = rest.split_once(" by ")?;
            (destination, rest, slowed_to)
        }
    };
    let (by, reason) = rest.split_once(": ").unwrap_or((rest, ""));
    Some(Suspended {
        destination: destination.to_owned(),
        by: by.to_owned(),
        reason: reason.to_owned(),
        until: due,
        slowed_to: slowed_to.to_owned(),
    })
}

fn states(old: Vec<RecipientState1>, warned: bool) -> Vec<RecipientState> {
    let state = |old| RecipientState {
        warned,
        ..RecipientState::from(old)
    };
    old.into_iter().map(state).collect()
}

/// A message as version 1 wrote it into the index.
#[derive(Deserialize)]
pub(crate) struct Message1 {
    id: QueueId,
    arrived: Millis,
    origin: Origin,
    envelope: Envelope,
    size: u64,
    location: Location,
    states: Vec<RecipientState1>,
    warned: bool,
    held: bool,
}

/// A message as version 2 wrote it into the index. Postcard writes a struct as its fields.
#[derive(Deserialize)]
pub(crate) struct Message2 {
    first: Message1,
    story: Vec<Event>,
}

impl From<Message1> for Message {
    fn from(first: Message1) -> Message {
        let story = Vec::new();
        Message2 { first, story }.into()
    }
}

impl From<Message2> for Message {
    fn from(Message2 { first: old, story }: Message2) -> Message {
        let mut message = Message {
            id: old.id,
            arrived: old.arrived,
            origin: old.origin,
            envelope: old.envelope,
            size: old.size,
            location: old.location,
            states: states(old.states, old.warned),
            story,
            message_id: String::new(),
            subject: String::new(),
            top: String::new(),
        };
        if old.held {
            hold(&mut message, "");
        }
        message
    }
}

#[derive(Deserialize)]
struct Description1 {
    arrived: Millis,
    origin: Origin,
    envelope: Envelope,
    size: u64,
    states: Vec<RecipientState1>,
    warned: bool,
    held: bool,
    spool: Option<Spooled>,
}

#[derive(Deserialize)]
struct Description2 {
    first: Description1,
    story: Vec<Event>,
}

/// A description and the bytes behind it.
pub(crate) type Described<'a> = postcard::Result<(Description, &'a [u8])>;

pub(crate) fn description1(bytes: &[u8]) -> Described<'_> {
    let (first, rest) = postcard::take_from_bytes(bytes)?;
    let story = Vec::new();
    Ok((described(Description2 { first, story }), rest))
}

pub(crate) fn description2(bytes: &[u8]) -> Described<'_> {
    let (old, rest) = postcard::take_from_bytes(bytes)?;
    Ok((described(old), rest))
}

fn described(Description2 { first: old, story }: Description2) -> Description {
    let message = Message2 {
        first: Message1 {
            id: QueueId(0),
            arrived: old.arrived,
            origin: old.origin,
            envelope: old.envelope,
            size: old.size,
            location: Location {
                segment: 0,
                offset: 0,
                length: 0,
                head: 0,
                body: crate::BodyPlace::Inline,
            },
            states: old.states,
            warned: old.warned,
            held: old.held,
        },
        story,
    };
    let message = Message::from(message);
    Description {
        arrived: message.arrived,
        origin: message.origin,
        envelope: message.envelope,
        size: message.size,
        states: message.states,
        spool: old.spool,
        story: message.story,
        message_id: message.message_id,
        subject: message.subject,
        top: message.top,
    }
}

#[derive(Deserialize)]
struct Change1 {
    recipients: Vec<(u32, RecipientState1)>,
    warned: Option<bool>,
    held: Option<bool>,
    by: String,
}

#[derive(Deserialize)]
struct Change2 {
    first: Change1,
    redirected: Vec<(u32, Recipient)>,
    story: Vec<Event>,
}

pub(crate) fn change1(bytes: &[u8]) -> postcard::Result<(Change, &[u8])> {
    let (first, rest) = postcard::take_from_bytes(bytes)?;
    let old = Change2 {
        first,
        redirected: Vec::new(),
        story: Vec::new(),
    };
    Ok((old.into(), rest))
}

pub(crate) fn change2(bytes: &[u8]) -> postcard::Result<(Change, &[u8])> {
    let (old, rest) = postcard::take_from_bytes::<Change2>(bytes)?;
    Ok((old.into(), rest))
}

impl From<Change2> for Change {
    fn from(old: Change2) -> Change {
        let Change2 {
            first,
            redirected,
            story,
        } = old;
        let state = |(position, old)| (position, RecipientState::from(old));
        Change {
            recipients: first.recipients.into_iter().map(state).collect(),
            by: first.by,
            redirected,
            story,
            older: Some(Older {
                warned: first.warned,
                held: first.held,
            }),
            ..Change::default()
        }
    }
}

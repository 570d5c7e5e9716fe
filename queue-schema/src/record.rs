//! Records: the payloads of frames.
//!
//! An `Accepted` payload is three parts behind one another:
//!
//! ```text
//! u32  length of the description (little-endian)
//! u32  length of the header block
//!      description, a postcard struct
//!      header block
//!      body, unless the description names a spool file
//! ```
//!
//! `Progress`, `Control` and `Done` payloads are one postcard [`Change`]. A `Group` payload is
//! frames behind one another, each with the group flag.

use serde::{Deserialize, Serialize};

use crate::frame::{self, FRAME_HEADER, Frame, Kind, Stamp};
use crate::older::{self, Older};
use crate::{
    BodyPlace, Envelope, Event, Location, Message, Millis, Origin, QueueId, Recipient,
    RecipientState, Spooled,
};

/// New states of a message, whole and not as differences: applying one twice changes nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Position of a recipient and its new state.
    pub recipients: Vec<(u32, RecipientState)>,
    /// The operator who did it; empty for delivery.
    pub by: String,
    /// Position of a recipient and who takes its place. Since version 2.
    pub redirected: Vec<(u32, Recipient)>,
    /// What is added to the story. Since version 2.
    pub story: Vec<Event>,
    /// Recipients behind those there are, each with its state: what an alias leads to when it is
    /// resolved again. They begin at the given number of recipients, so that applying it twice
    /// changes nothing. Since version 3.
    pub added: Option<(u32, Vec<(Recipient, RecipientState)>)>,
    /// The reverse-path under which the message leaves us from now on; `Some(None)` for its own.
    /// Since version 3.
    pub forwarded_as: Option<Option<String>>,
    /// What goes above the header from now on. Since version 3.
    pub top: Option<String>,
    /// What a version before 3 said of the whole message.
    #[serde(skip)]
    pub older: Option<Older>,
}

impl Change {
    /// Makes it so. Positions that do not exist are ignored.
    pub fn apply(&self, message: &mut Message) {
        for (position, state) in &self.recipients {
            let place = usize::try_from(*position)
                .ok()
                .and_then(|at| message.states.get_mut(at));
            match (place, &self.older) {
                (Some(place), None) => place.clone_from(state),
                // What it does not know of a recipient stays as it is.
                (Some(place), Some(_)) => {
                    *place = RecipientState {
                        warned: place.warned,
                        holds: std::mem::take(&mut place.holds),
                        ..state.clone()
                    };
                }
                (None, _) => {}
            }
        }
        for (position, recipient) in &self.redirected {
            let place = usize::try_from(*position)
                .ok()
                .and_then(|at| message.envelope.recipients.get_mut(at));
            if let Some(place) = place {
                place.clone_from(recipient);
            }
        }
        for event in &self.story {
            message.tell(event);
        }
        if let Some((first, added)) = &self.added
            && usize::try_from(*first).is_ok_and(|first| first == message.states.len())
        {
            for (recipient, state) in added {
                message.envelope.recipients.push(recipient.clone());
                message.states.push(state.clone());
            }
        }
        if let Some(path) = &self.forwarded_as {
            message.envelope.forwarded_as.clone_from(path);
        }
        if let Some(top) = &self.top {
            message.top.clone_from(top);
        }
        if let Some(older) = &self.older {
            older.apply(message, &self.by);
        }
    }
}

/// A decoded record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A message as it was when the record was written. Its location is that of the frame within
    /// the bytes given to [`decode`]: offset 0, segment of the stamp.
    Accepted(Box<Message>),
    /// The message goes on.
    Changed(QueueId, Change),
    /// The message is gone.
    Done(QueueId, Change),
}

/// A payload that passed its checksum and still is no record: a fault of the writer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the record can not be understood: {0}")]
pub struct RecordError(String);

impl RecordError {
    fn new(what: impl std::fmt::Display) -> Self {
        RecordError(what.to_string())
    }
}

#[derive(Serialize)]
struct DescriptionRef<'a> {
    arrived: Millis,
    origin: &'a Origin,
    envelope: &'a Envelope,
    size: u64,
    states: &'a [RecipientState],
    spool: Option<&'a Spooled>,
    story: &'a [Event],
    message_id: &'a str,
    subject: &'a str,
    top: &'a str,
}

/// What an `Accepted` record says of its message besides the bytes.
#[derive(Deserialize)]
pub(crate) struct Description {
    pub arrived: Millis,
    pub origin: Origin,
    pub envelope: Envelope,
    pub size: u64,
    pub states: Vec<RecipientState>,
    pub spool: Option<Spooled>,
    pub story: Vec<Event>,
    pub message_id: String,
    pub subject: String,
    pub top: String,
}

/// Appends postcard's bytes to a vector in slices, not byte by byte.
struct Append<'a>(&'a mut Vec<u8>);

impl postcard::ser_flavors::Flavor for Append<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

pub(crate) fn append<T: Serialize>(out: &mut Vec<u8>, value: &T) -> Result<(), RecordError> {
    postcard::serialize_with_flavor(value, Append(out)).map_err(RecordError::new)
}

/// Appends the `Accepted` frame of `message`, whose bytes are `head` and `body`; `body` is ignored
/// if the message's location names a spool file.
pub fn encode_accepted(
    out: &mut Vec<u8>,
    message: &Message,
    head: &[u8],
    body: &[u8],
    grouped: bool,
    stamp: Stamp,
) -> Result<(), RecordError> {
    let start = frame::begin(out);
    let lengths = out.len();
    out.extend_from_slice(&[0; 8]);
    let spool = match &message.location.body {
        BodyPlace::Spool(spool) => Some(spool),
        BodyPlace::Inline => None,
    };
    let description = DescriptionRef {
        arrived: message.arrived,
        origin: &message.origin,
        envelope: &message.envelope,
        size: message.size,
        states: &message.states,
        spool,
        story: &message.story,
        message_id: &message.message_id,
        subject: &message.subject,
        top: &message.top,
    };
    let encoded = append(out, &description).and_then(|()| {
        let described = u32::try_from(out.len() - lengths - 8).map_err(RecordError::new)?;
        let headed = u32::try_from(head.len()).map_err(RecordError::new)?;
        out[lengths..lengths + 4].copy_from_slice(&described.to_le_bytes());
        out[lengths + 4..lengths + 8].copy_from_slice(&headed.to_le_bytes());
        out.extend_from_slice(head);
        if spool.is_none() {
            out.extend_from_slice(body);
        }
        if frame::finish(out, start, Kind::Accepted, message.id, grouped, stamp) {
            Ok(())
        } else {
            Err(RecordError::new("it is longer than 4 GiB"))
        }
    });
    if encoded.is_err() {
        out.truncate(start);
    }
    encoded
}

/// Appends the frame of a change; `kind` is `Progress`, `Control` or `Done`.
pub fn encode_change(
    out: &mut Vec<u8>,
    kind: Kind,
    id: QueueId,
    change: &Change,
    grouped: bool,
    stamp: Stamp,
) -> Result<(), RecordError> {
    let start = frame::begin(out);
    let encoded = append(out, change).and_then(|()| {
        if frame::finish(out, start, kind, id, grouped, stamp) {
            Ok(())
        } else {
            Err(RecordError::new("it is longer than 4 GiB"))
        }
    });
    if encoded.is_err() {
        out.truncate(start);
    }
    encoded
}

/// Understands a frame that is no group.
pub fn decode(frame: &Frame<'_>, stamp: Stamp) -> Result<Record, RecordError> {
    match frame.kind {
        Kind::Accepted => {
            let parts = split(frame.payload)?;
            let (described, rest): (Description, &[u8]) = match frame.version {
                1 => older::description1(parts.description),
                2 => older::description2(parts.description),
                _ => postcard::take_from_bytes(parts.description),
            }
            .map_err(RecordError::new)?;
            if !rest.is_empty() || described.states.len() != described.envelope.recipients.len() {
                return Err(RecordError::new("its parts do not fit together"));
            }
            let body = match described.spool {
                Some(spool) => BodyPlace::Spool(spool),
                None => BodyPlace::Inline,
            };
            Ok(Record::Accepted(Box::new(Message {
                id: frame.id,
                arrived: described.arrived,
                origin: described.origin,
                envelope: described.envelope,
                size: described.size,
                location: Location {
                    segment: stamp.segment,
                    offset: 0,
                    length: u32::try_from(frame.len()).map_err(RecordError::new)?,
                    head: u32::try_from(parts.head.len()).map_err(RecordError::new)?,
                    body,
                },
                states: described.states,
                story: described.story,
                message_id: described.message_id,
                subject: described.subject,
                top: described.top,
            })))
        }
        Kind::Progress | Kind::Control => Ok(Record::Changed(frame.id, change(frame)?)),
        Kind::Done => Ok(Record::Done(frame.id, change(frame)?)),
        Kind::Group => Err(RecordError::new("a group within a group")),
    }
}

fn change(frame: &Frame<'_>) -> Result<Change, RecordError> {
    let (change, rest) = match frame.version {
        1 => older::change1(frame.payload),
        2 => older::change2(frame.payload),
        _ => postcard::take_from_bytes(frame.payload),
    }
    .map_err(RecordError::new)?;
    if rest.is_empty() {
        Ok(change)
    } else {
        Err(RecordError::new("bytes are left over"))
    }
}

struct Parts<'a> {
    description: &'a [u8],
    head: &'a [u8],
    body: &'a [u8],
}

fn split(payload: &[u8]) -> Result<Parts<'_>, RecordError> {
    let short = || RecordError::new("its parts are longer than it is");
    let (lengths, rest) = payload.split_first_chunk::<8>().ok_or_else(short)?;
    let length = |at: usize| {
        let word = [
            lengths[at],
            lengths[at + 1],
            lengths[at + 2],
            lengths[at + 3],
        ];
        usize::try_from(u32::from_le_bytes(word)).unwrap_or(usize::MAX)
    };
    let (description, rest) = rest.split_at_checked(length(0)).ok_or_else(short)?;
    let (head, body) = rest.split_at_checked(length(4)).ok_or_else(short)?;
    Ok(Parts {
        description,
        head,
        body,
    })
}

/// Where the header block and the inline body are in an `Accepted` frame, as offsets from the
/// frame's first byte.
pub fn content(
    frame: &Frame<'_>,
) -> Result<(std::ops::Range<usize>, std::ops::Range<usize>), RecordError> {
    if frame.kind != Kind::Accepted {
        return Err(RecordError::new("it holds no message"));
    }
    let parts = split(frame.payload)?;
    let head = FRAME_HEADER + 8 + parts.description.len();
    let body = head + parts.head.len();
    Ok((head..body, body..body + parts.body.len()))
}

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
use crate::{
    BodyPlace, Envelope, Event, Location, Message, Millis, Origin, QueueId, Recipient,
    RecipientState, Spooled,
};

/// New states of a message, whole and not as differences: applying one twice changes nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Position of a recipient and its new state.
    pub recipients: Vec<(u32, RecipientState)>,
    /// The new `warned`, if it changes.
    pub warned: Option<bool>,
    /// The new `held`, if it changes.
    pub held: Option<bool>,
    /// The operator who did it; empty for delivery.
    pub by: String,
    /// Position of a recipient and who takes its place. Since version 2.
    pub redirected: Vec<(u32, Recipient)>,
    /// What is added to the story. Since version 2.
    pub story: Vec<Event>,
}

/// A change as version 1 wrote it.
#[derive(Deserialize)]
struct Change1 {
    recipients: Vec<(u32, RecipientState)>,
    warned: Option<bool>,
    held: Option<bool>,
    by: String,
}

impl Change {
    /// Makes it so. Positions that do not exist are ignored.
    pub fn apply(&self, message: &mut Message) {
        for (position, state) in &self.recipients {
            let place = usize::try_from(*position)
                .ok()
                .and_then(|at| message.states.get_mut(at));
            if let Some(place) = place {
                place.clone_from(state);
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
        message.warned = self.warned.unwrap_or(message.warned);
        message.held = self.held.unwrap_or(message.held);
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
    warned: bool,
    held: bool,
    spool: Option<&'a Spooled>,
    // Since version 2.
    story: &'a [Event],
}

#[derive(Deserialize)]
struct Description {
    arrived: Millis,
    origin: Origin,
    envelope: Envelope,
    size: u64,
    states: Vec<RecipientState>,
    warned: bool,
    held: bool,
    spool: Option<Spooled>,
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
        warned: message.warned,
        held: message.held,
        spool,
        story: &message.story,
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
            let (described, rest) = postcard::take_from_bytes::<Description>(parts.description)
                .map_err(RecordError::new)?;
            let (story, rest) = match frame.version {
                1 => (Vec::new(), rest),
                _ => postcard::take_from_bytes(rest).map_err(RecordError::new)?,
            };
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
                warned: described.warned,
                held: described.held,
                story,
            })))
        }
        Kind::Progress | Kind::Control => Ok(Record::Changed(frame.id, change(frame)?)),
        Kind::Done => Ok(Record::Done(frame.id, change(frame)?)),
        Kind::Group => Err(RecordError::new("a group within a group")),
    }
}

fn change(frame: &Frame<'_>) -> Result<Change, RecordError> {
    let (change, rest) = match frame.version {
        1 => postcard::take_from_bytes::<Change1>(frame.payload)
            .map(|(old, rest)| (Change::from(old), rest)),
        _ => postcard::take_from_bytes(frame.payload),
    }
    .map_err(RecordError::new)?;
    if rest.is_empty() {
        Ok(change)
    } else {
        Err(RecordError::new("bytes are left over"))
    }
}

impl From<Change1> for Change {
    fn from(old: Change1) -> Change {
        Change {
            recipients: old.recipients,
            warned: old.warned,
            held: old.held,
            by: old.by,
            ..Change::default()
        }
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

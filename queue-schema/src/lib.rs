//! Every record and key of chapar's queue as it lies on disk.
//!
//! The daemon thinks in the types of this crate and the store writes them; nothing else decides
//! what a byte on disk means. Record bodies are [postcard](https://docs.rs/postcard) encodings of
//! these types inside a frame with a version, a kind, an id and a CRC32C. A type that is part of
//! a version never changes: a new field is a new version beside the old one. This code writes
//! version 3 and reads versions 1 and 2 for ever. Version 2 added a message's story and
//! redirections; version 3 holds, suspensions and delay notices of each recipient, Message-ID and
//! subject.
//!
//! This crate does no I/O and reads no clock.
#![forbid(unsafe_code)]

mod envelope;
pub mod frame;
mod id;
pub mod index;
mod message;
mod older;
pub mod record;
pub mod segment;

pub use envelope::{BodyKind, DeliverBy, Envelope, Notify, Origin, Recipient, Ret};
pub use frame::{Frame, FrameError, Kind, Stamp};
pub use id::{ParseIdError, QueueId};
pub use message::{
    BodyPlace, Event, EventKind, HOLDS, Hold, HoldKind, Location, MESSAGE_ID, Message, Millis,
    RecipientState, Reply, STORY, STORY_START, SUBJECT, Spooled, Status, Suspended,
};
pub use older::Older;
pub use record::{Change, Record, RecordError};
pub use segment::{SegmentError, SegmentHeader};

//! A message as the queue knows it: envelope, place of its bytes, and the state of each recipient.

use serde::{Deserialize, Serialize};

use crate::{Envelope, Origin, QueueId};

/// Milliseconds since 1970-01-01T00:00:00Z.
pub type Millis = u64;

/// Everything about one queued message except its bytes: the value of the index, and what a
/// delivery works from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Its name.
    pub id: QueueId,
    /// When it was accepted.
    pub arrived: Millis,
    /// Where it came from.
    pub origin: Origin,
    /// The envelope.
    pub envelope: Envelope,
    /// Bytes of header block and body together.
    pub size: u64,
    /// Where the bytes are.
    pub location: Location,
    /// One state for each of `envelope.recipients`, in the same order.
    pub states: Vec<RecipientState>,
    /// What happened to it, in order; at most [`STORY`] entries. Since version 2.
    pub story: Vec<Event>,
    /// Its Message-ID (RFC 5322 section 3.6.4) without control characters, at most
    /// [`MESSAGE_ID`] bytes; empty if it has none or came before version 3.
    pub message_id: String,
    /// Its subject, decoded, without control characters, at most [`SUBJECT`] bytes; empty if it
    /// has none or came before version 3.
    pub subject: String,
    /// Header fields that go above its own since it was sent elsewhere after it was accepted: an
    /// ARC set (RFC 8617). Since version 3.
    pub top: String,
}

/// Bytes of a Message-ID that are kept.
pub const MESSAGE_ID: usize = 255;
/// Bytes of a subject that are kept.
pub const SUBJECT: usize = 200;

/// Entries of a message's story; beyond it those after the first [`STORY_START`] are forgotten,
/// the oldest first.
pub const STORY: usize = 32;
/// The beginning of a story that is always kept.
pub const STORY_START: usize = 4;

impl Message {
    /// Adds to the story. What is there already is not added again.
    pub fn tell(&mut self, event: &Event) {
        if self.story.contains(event) {
            return;
        }
        if self.story.len() >= STORY {
            self.story.remove(STORY_START);
        }
        self.story.push(event.clone());
    }
}

/// Something that happened to a message: an attempt, or what an operator did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub at: Millis,
    /// What.
    pub kind: EventKind,
    /// Positions of the recipients it is about; empty for the whole message.
    pub recipients: Vec<u32>,
    /// What was said, or why.
    pub text: String,
    /// `host[address]:port` of who said it; empty if we did.
    pub remote: String,
    /// Protocol version and cipher of the connection; empty without TLS.
    pub tls: String,
    /// The operator; empty for delivery.
    pub by: String,
}

/// Kinds of events. Only added to, at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// An attempt: the next hop took it.
    Delivered,
    /// An attempt: later again.
    Deferred,
    /// An attempt: refused for good.
    Bounced,
    /// Its time ran out.
    Expired,
    /// An operator ended it.
    Removed,
    /// An operator holds it.
    Held,
    /// An operator released it.
    Released,
    /// An operator made it due.
    Replayed,
    /// An operator sent it elsewhere.
    Redirected,
    /// An operator returned it to its sender.
    Returned,
    /// The sender was told that it is late or failed.
    Told,
    /// It came from another queue.
    Imported,
    /// Its destination is suspended: it was not tried. Since version 3.
    Suspended,
    /// An operator had its addresses resolved again. Since version 3.
    Requeued,
}

/// Where the bytes of a message lie: its `Accepted` record in the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    /// Number of the segment file.
    pub segment: u64,
    /// Offset of the record's first byte in it.
    pub offset: u64,
    /// Length of the whole record in bytes.
    pub length: u32,
    /// Length of the header block in bytes; it is always in the record.
    pub head: u32,
    /// Where what follows the header block is.
    pub body: BodyPlace,
}

/// Where the body lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BodyPlace {
    /// In the record, behind the header block.
    Inline,
    /// In a file of its own in the spool directory.
    Spool(Spooled),
}

/// A body in a file of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spooled {
    /// The file's name in the spool directory.
    pub name: String,
    /// Its length in bytes.
    pub length: u64,
    /// CRC32C of its bytes.
    pub crc: u32,
}

/// How far one recipient has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipientState {
    /// Waiting, or how it ended.
    pub status: Status,
    /// Attempts that reached an answer or a failure of this recipient.
    pub attempts: u32,
    /// When the next attempt is due; of no meaning once it ended.
    pub next_due: Millis,
    /// When it was last tried; 0 for never.
    pub last_attempt: Millis,
    /// What the last attempt brought.
    pub last_reply: Option<Reply>,
    /// Whether the sender was told that it is late. Since version 3, as all that follows.
    #[serde(default)]
    pub warned: bool,
    /// Why no attempt is made and no deadline ends it; it waits for the end of every one of them.
    #[serde(default)]
    pub holds: Vec<Hold>,
    /// What kept it from being tried when its time had come last; nothing once it was tried.
    #[serde(default)]
    pub suspended: Option<Suspended>,
}

/// One reason why a recipient is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Whose decision it was.
    pub kind: HoldKind,
    /// The operator, the filter, or the name of the standing order.
    pub by: String,
    /// Why; empty if nobody said.
    pub reason: String,
    /// Since when.
    pub since: Millis,
    /// When it ends by itself; `None` when it is released.
    pub until: Option<Millis>,
}

/// Kinds of holds. Only added to, at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HoldKind {
    /// An operator held it.
    Operator,
    /// A filter or a list put it into the quarantine when it came.
    Quarantine,
    /// A standing order of an operator means it.
    Order,
}

/// A suspension that kept a recipient from being tried.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspended {
    /// The destination as it was suspended: a domain, a host, or a provider of a rule.
    pub destination: String,
    /// The operator or the rule.
    pub by: String,
    /// Why, in the operator's words or as the rule says it. Never shown to senders.
    pub reason: String,
    /// When it ends by itself; [`Millis::MAX`] when it is resumed.
    pub until: Millis,
    /// What the destination is slowed to; empty if nothing is tried at all.
    pub slowed_to: String,
}

impl std::fmt::Display for Suspended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.slowed_to.as_str() {
            "" => write!(f, "{} is suspended by {}", self.destination, self.by)?,
            to => write!(f, "{} is slowed to {to} by {}", self.destination, self.by)?,
        }
        match self.reason.as_str() {
            "" => Ok(()),
            reason => write!(f, ": {reason}"),
        }
    }
}

impl RecipientState {
    /// A recipient that was just accepted and is due at once.
    pub fn new(now: Millis) -> Self {
        RecipientState {
            status: Status::Waiting,
            attempts: 0,
            next_due: now,
            last_attempt: 0,
            last_reply: None,
            warned: false,
            holds: Vec::new(),
            suspended: None,
        }
    }

    /// When its holds are over: 0 if there is none, `None` if one of them has no end of its own.
    pub fn released_at(&self) -> Option<Millis> {
        let mut ends = self.holds.iter().map(|hold| hold.until);
        ends.try_fold(0, |latest: Millis, end| Some(latest.max(end?)))
    }

    /// Whether a hold keeps it from being tried and from expiring now.
    pub fn is_held(&self, now: Millis) -> bool {
        self.released_at().is_none_or(|at| at > now)
    }

    /// Whether a suspension keeps it from being tried now.
    pub fn is_suspended(&self, now: Millis) -> bool {
        self.suspended
            .as_ref()
            .is_some_and(|one| one.slowed_to.is_empty() && one.until > now)
    }

    /// Adds a hold; one of the same kind, author and reason is replaced.
    pub fn hold(&mut self, hold: Hold) {
        let same =
            |old: &Hold| old.kind == hold.kind && old.by == hold.by && old.reason == hold.reason;
        self.holds.retain(|old| !same(old));
        if self.holds.len() >= HOLDS {
            // The one that would end first: what is left keeps it as long.
            let end = |hold: &Hold| hold.until.unwrap_or(Millis::MAX);
            if let Some(first) = self.holds.iter().map(end).min()
                && let Some(at) = self.holds.iter().position(|hold| end(hold) == first)
            {
                self.holds.remove(at);
            }
        }
        self.holds.push(hold);
    }
}

/// Holds of one recipient; beyond it the one that ends first is forgotten.
pub const HOLDS: usize = 16;

/// The states of a recipient (invariant I2: it ends in exactly one of the others).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Status {
    /// Never tried, or deferred: see `attempts`.
    Waiting,
    /// The next hop took responsibility for it.
    Delivered,
    /// A next hop refused it for good; its sender was told if that was deserved.
    Bounced,
    /// Its time ran out; its sender was told if that was deserved.
    Expired,
    /// An operator removed it.
    Removed,
}

/// The last word about a recipient, from a remote server or from ourselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// SMTP reply code, 200 to 599; ours where no server spoke.
    pub code: u16,
    /// Enhanced status code (RFC 3463) such as `4.2.1`; empty if none was given.
    pub enhanced: String,
    /// The text, lines joined by a space, without control characters, at most 512 bytes.
    pub text: String,
    /// `host[address]:port` of who said it; empty if we did.
    pub remote: String,
}

impl std::fmt::Display for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.code)?;
        if !self.enhanced.is_empty() {
            write!(f, " {}", self.enhanced)?;
        }
        write!(f, " {}", self.text)
    }
}

//! What the committer is asked.

use std::sync::Arc;

use bytes::Bytes;
use queue_schema::{Change, Message, QueueId};
use tokio::sync::{mpsc, oneshot};

use super::StoreError;
use crate::message::{Body, Content};

/// Which record a change becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// New states from delivery.
    Progress,
    /// New states from an operator.
    Control,
    /// Every recipient has ended.
    Done,
}

/// One thing to make durable.
#[derive(Debug)]
pub enum Action {
    /// A new message. Its `location` is set by the committer.
    Accept(Box<Message>, Content),
    /// A message changes; `message` is how it is afterwards.
    Change {
        /// Which record.
        kind: ChangeKind,
        /// The message as it is now.
        message: Arc<Message>,
        /// What changed.
        change: Change,
    },
    /// All of it or nothing survives a crash.
    Group(Vec<Action>),
}

/// Actions that were not made durable.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct ApplyError {
    /// Why.
    pub error: StoreError,
    /// The actions; without them nobody knows what was to be made durable.
    pub actions: Vec<Action>,
}

impl From<StoreError> for ApplyError {
    fn from(error: StoreError) -> Self {
        ApplyError {
            error,
            actions: Vec::new(),
        }
    }
}

/// A message whose bytes leave a segment that is to be freed.
#[derive(Debug)]
pub struct Relocation {
    /// Which.
    pub id: QueueId,
    /// Where it was found; if it is elsewhere by now, nothing happens.
    pub segment: u64,
    /// See `segment`.
    pub offset: u64,
    /// Header block.
    pub head: Bytes,
    /// Inline body.
    pub body: Bytes,
}

/// Actions on their way to the committer.
pub struct Apply {
    /// In this order.
    pub actions: Vec<Action>,
    /// Answered when all are durable, with the messages that were accepted among them.
    pub ack: oneshot::Sender<Applied>,
}

/// The answer to [`Apply`].
pub type Applied = Result<Vec<Arc<Message>>, ApplyError>;

impl Apply {
    /// Answers without doing it.
    pub fn refuse(self, error: StoreError) {
        let actions = self.actions;
        // Whoever asked may be gone.
        let _ = self.ack.send(Err(ApplyError { error, actions }));
    }

    fn bytes(&self) -> u64 {
        self.actions.iter().map(Action::bytes).sum()
    }
}

/// What the committer is asked.
pub enum Request {
    /// Make a new message durable.
    Accept {
        /// The message.
        message: Box<Message>,
        /// Its bytes.
        content: Content,
        /// Answered when it is durable.
        ack: oneshot::Sender<Result<Arc<Message>, StoreError>>,
        /// What shares its sync, whatever becomes of the message itself.
        with: Option<Apply>,
    },
    /// Make these durable together with whatever else waits.
    Apply(Apply),
    /// Copy messages to the end of the journal.
    Relocate {
        /// Which.
        items: Vec<Relocation>,
        /// Answered when the copies are durable.
        ack: oneshot::Sender<Result<(), StoreError>>,
    },
    /// Write what came before this, then end.
    Stop,
}

impl Request {
    /// Bytes it will take in the journal, roughly.
    pub fn bytes(&self) -> u64 {
        match self {
            Request::Accept { content, with, .. } => {
                content_bytes(content) + with.as_ref().map_or(0, Apply::bytes)
            }
            Request::Apply(apply) => apply.bytes(),
            Request::Relocate { items, .. } => items
                .iter()
                .map(|item| (item.head.len() + item.body.len() + 512) as u64)
                .sum(),
            Request::Stop => 0,
        }
    }

    /// Answers without doing it.
    pub fn refuse(self, error: StoreError) {
        match self {
            Request::Accept { ack, with, .. } => {
                if let Some(apply) = with {
                    apply.refuse(error.clone());
                }
                drop(ack.send(Err(error)));
            }
            Request::Apply(apply) => apply.refuse(error),
            Request::Relocate { ack, .. } => drop(ack.send(Err(error))),
            Request::Stop => {}
        }
    }
}

impl Action {
    /// Bytes it will take in the journal, roughly.
    pub fn bytes(&self) -> u64 {
        match self {
            Action::Accept(_, content) => content_bytes(content),
            Action::Change { change, .. } => {
                let parts = change.recipients.len() + change.story.len();
                128 + 512 * parts as u64
            }
            Action::Group(actions) => actions.iter().map(Action::bytes).sum(),
        }
    }
}

fn content_bytes(content: &Content) -> u64 {
    let body = match &content.body {
        Body::Memory(bytes) => bytes.len() as u64,
        Body::Spool(_) => 0,
    };
    512 + content.head.len() as u64 + body
}

/// Answers what comes after the end.
pub fn refuse_rest(requests: &mut mpsc::Receiver<Request>) {
    requests.close();
    while let Ok(request) = requests.try_recv() {
        request.refuse(StoreError::Closed);
    }
}

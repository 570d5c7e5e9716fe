//! A message that is in memory because something is being done with it, and what that is.
//!
//! A recipient is *handed* while delivery has it, and *told of* while a notice about it is being
//! written. An end is decided before its notice is ready: from then on nothing else may end the
//! recipient, whoever comes first ([`Slot::is_ending`]).

use std::sync::{Arc, Weak};

use queue_schema::{Message, Millis, QueueId, RecipientState, Status};
use tokio::time::Instant;

use super::actor::Queue;
use super::lanes::Way;
use super::store::StoreError;
use crate::message::Content;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Slot {
    /// The message with all changes that were decided; `None` while it is read.
    pub message: Option<Arc<Message>>,
    /// Why it could not be read for an operator, who hears it.
    pub unread: Option<StoreError>,
    /// Its bytes, while it waits for its first attempts.
    pub content: Option<Content>,
    /// Ways by which it waits as new mail.
    pub fresh: Vec<Way>,
    /// Ways by which it was due and waits in `backlog`, or for being read.
    pub backlog: Vec<Way>,
    /// Ways by which it counts as under way.
    pub counted: Vec<Way>,
    /// Operators who need it to stay in memory.
    pub claims: u32,
    /// Recipients that are with delivery and not reported on yet.
    pub handed: Vec<u32>,
    /// Recipients of whom a notice is being written, and whether it tells of their end. One may be
    /// here twice: late, and ended meanwhile.
    pub telling: Vec<(u32, bool)>,
    /// Changes that are decided and not durable.
    pub uncommitted: u32,
    /// Every recipient has ended.
    pub ended: bool,
    /// When recipients were handed to delivery last.
    pub handed_at: Millis,
    /// The same, for measuring.
    pub handed_since: Option<Instant>,
    /// What jobs under way hold.
    pub jobs: Vec<Weak<Message>>,
}

impl Slot {
    /// It waits in `backlog` for this way.
    pub fn queue(&mut self, way: Way) {
        if !self.backlog.contains(&way) {
            self.backlog.push(way);
        }
    }

    /// It does not wait in memory for this way any more.
    pub fn unqueue(&mut self, way: Way) {
        self.backlog.retain(|own| *own != way);
        self.fresh.retain(|own| *own != way);
    }

    /// Whether delivery or a notice is at work on any recipient.
    pub fn is_busy(&self) -> bool {
        !self.handed.is_empty() || !self.telling.is_empty()
    }

    /// Recipients that can not be tried now.
    pub fn busy(&self) -> Vec<u32> {
        let told = self.telling.iter().map(|(position, _)| *position);
        self.handed.iter().copied().chain(told).collect()
    }

    /// Whether this recipient can not be tried now.
    pub fn is_busy_with(&self, position: u32) -> bool {
        self.handed.contains(&position) || self.telling.iter().any(|(at, _)| *at == position)
    }

    /// Whether the end of this recipient is decided and only its notice is missing.
    pub fn is_ending(&self, position: u32) -> bool {
        self.telling.contains(&(position, true))
    }

    /// Those of the recipients that wait and whose end is not decided, each once.
    pub fn waiting(&self, recipients: &[u32]) -> Vec<(u32, RecipientState)> {
        let mut waiting: Vec<(u32, RecipientState)> = Vec::new();
        let Some(message) = self.message.as_ref().filter(|_| !self.ended) else {
            return waiting;
        };
        for position in recipients {
            let place = usize::try_from(*position).ok();
            let state = place.and_then(|place| message.states.get(place));
            let Some(state) = state.filter(|state| state.status == Status::Waiting) else {
                continue;
            };
            let known = waiting.iter().any(|(at, _)| at == position);
            if !known && !self.is_ending(*position) {
                waiting.push((*position, state.clone()));
            }
        }
        waiting
    }
}

impl Queue {
    /// Changes what is under way with a message, and what is counted of it.
    pub(super) fn under_way(&mut self, id: QueueId, change: impl FnOnce(&mut Slot)) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        let (before, handed) = (slot.is_busy(), slot.handed.len());
        change(slot);
        self.handed = (self.handed + slot.handed.len()).saturating_sub(handed);
        match (before, slot.is_busy()) {
            (false, true) => self.active += 1,
            (true, false) => {
                slot.jobs.clear();
                self.active = self.active.saturating_sub(1);
            }
            _ => {}
        }
        self.recount(id);
    }
}
